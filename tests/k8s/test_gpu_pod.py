"""The pod for GPUs, as far as it can be had without one: a real Triton with the manifest's options,
and a gateway with its settings."""

from __future__ import annotations

import subprocess

import httpx
import pytest

from loadtest.servers.free_ports import free_port
from loadtest.servers.tritonserver import (
    assemble,
    default_folder,
    remove_shared_memory,
    server_environment,
)
from tests.e2e.backends import MODEL, noise
from tests.e2e.process import AMPLE_MS, PATIENCE_S, Server, eventually
from tests.k8s.manifests import container, find, option, pod_specs, render

PREFIX = "test-of-punctual-pod-"
MINE = ("model-repository", "load-model", "grpc-port", "http-port", "metrics-port")


@pytest.fixture
def triton(small_repository, tritonserver, tmp_path):
    """The sidecar, with ports, model and folder of this test, and on a CPU."""
    folder = assemble(default_folder())
    sidecar = container(pod_specs(render("gpu"))["Deployment"], "triton")
    ports = {name: free_port() for name in ("grpc", "http", "metrics")}
    model = option(sidecar, "load-model")
    assert model.endswith("_anytime")
    mine = {
        "model-repository": small_repository,
        "load-model": f"{MODEL}_anytime",
        **{f"{name}-port": port for name, port in ports.items()},
        "model-config-name": "cpu",
        "backend-directory": folder / "backends",
        "backend-config": f"python,shm-region-prefix-name={PREFIX}",
    }
    theirs = [arg for arg in sidecar["args"] if arg.lstrip("-").partition("=")[0] not in mine]
    assert len(theirs) == len(sidecar["args"]) - len(MINE)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [folder / "bin/tritonserver", *theirs, *(f"--{k}={v}" for k, v in mine.items())],
            env={**server_environment(folder), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    # As the kubelet does, on a new connection each time: Triton waits for those that are kept.
    def get(path):
        return httpx.get(f"http://127.0.0.1:{ports['http']}{path}", timeout=PATIENCE_S)

    def started():
        assert process.poll() is None, (tmp_path / "log").read_text(errors="replace")[-4000:]
        try:
            return get(sidecar["startupProbe"]["httpGet"]["path"]).status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(started)
        yield process, get, ports, sidecar
    finally:
        process.kill()
        process.wait()
        remove_shared_memory(PREFIX)


def test_gateway_and_triton_serve_and_end_together(triton, small_repository):
    process, get, ports, sidecar = triton
    assert get(sidecar["livenessProbe"]["httpGet"]["path"]).status_code == 200
    assert get(f"/v2/models/{MODEL}_anytime/ready").status_code == 200
    assert get(f"/v2/models/{MODEL}_d1/ready").status_code != 200  # they share the GPU with it
    metrics = httpx.get(f"http://127.0.0.1:{ports['metrics']}/metrics", timeout=PATIENCE_S).text
    assert "nv_inference_request_success" in metrics

    settings = find(render("gpu"), "ConfigMap", "punctual-settings")["data"]
    mine = {
        "PUNCTUAL_HOST": "127.0.0.1",
        "PUNCTUAL_PORT": free_port(),
        "PUNCTUAL_MODEL_REPOSITORY": small_repository,
        "PUNCTUAL_MODEL": MODEL,
        "PUNCTUAL_TRITON_URL": f"127.0.0.1:{ports['grpc']}",
        "PUNCTUAL_DRAIN_DELAY_MS": 0,
    }
    with Server("serving", "serve", **{**settings, **mine}) as gateway:
        eventually(lambda: gateway.metric("punctual_ready") == 1)
        headers = {"Content-Type": "image/png", "X-Deadline-Ms": str(AMPLE_MS)}
        reply = gateway.detect(noise(), headers=headers)
        assert reply.status_code == 200
        # As the kubelet does: the sidecar is told when the gateway has ended.
        gateway.terminate()
        assert gateway.ended() == 0
    process.terminate()
    assert process.wait(timeout=int(option(sidecar, "exit-timeout-secs")) + 5) == 0
