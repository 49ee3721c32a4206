"""The gateway's image, run as its pod is: ``python -m tests.k8s.pod [IMAGE]``.

As root, with Debian's podman, runc and catatonit. ``podman kube play`` gets the Deployment and the
ConfigMap of the overlay ``cpu``, as kubectl renders them. What the kubelet does and podman does not
is done here: the probes, as the manifest has them. A port of this machine leads to the pod. Left
out are ``preStop``, which only waits, and what is about nodes. It says what it saw, and ends with 1
if that is not as it must be.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from loadtest.servers.free_ports import free_port
from tests.docs.examples import ROOT, examples
from tests.e2e.attacks import ATTACKS, photograph, send
from tests.e2e.process import eventually
from tests.k8s.manifests import Manifest, container, find, render

DEFAULT_IMAGE = "localhost/punctual-gateway:0.1.0"
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
MODEL = "everyday"
ATTACK_S = 5.0
CGROUPS = Path("/sys/fs/cgroup")
PEAKS = ("memory.peak", "memory/memory.max_usage_in_bytes")
"""Where the most memory is that a control group has had, in version 2 and in version 1."""
MIB = 2.0**20


class Pod:
    """A pod with the gateway, for as long as the context lasts."""

    def __init__(self, image: str, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        manifests = render("cpu")
        self.settings = find(manifests, "ConfigMap", "punctual-settings")
        self.deployment = find(manifests, "Deployment")
        self.spec: Manifest = self.deployment["spec"]["template"]["spec"]
        self.gateway = container(self.spec, "gateway")
        self.probes = {name: self.gateway.pop(name) for name in PROBES}
        self.gateway["image"] = image
        self.gateway["ports"][0]["hostPort"] = self.port
        self.deployment["spec"]["replicas"] = 1
        self.name = f"{self.deployment['metadata']['name']}-pod-0-gateway"
        self._file = folder / "pod.yaml"

    def __enter__(self) -> Pod:
        # Root here may not have the right to raise limits, as podman would.
        hard = os.sysconf("SC_OPEN_MAX")
        conf = self._folder / "containers.conf"
        conf.write_text(
            f'[containers]\ndefault_ulimits = ["nofile={hard}:{hard}", "nproc=8192:8192"]\n'
            '[engine]\nruntime = "runc"\n'
        )
        os.environ["CONTAINERS_CONF"] = str(conf)
        self._file.write_text(yaml.safe_dump_all([self.settings, self.deployment]))
        self.podman("kube", "play", str(self._file))
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(
            ["podman", "kube", "down", str(self._file)], capture_output=True, check=False
        )

    def podman(self, *arguments: str) -> str:
        """Return what podman says."""
        return subprocess.check_output(["podman", *arguments], text=True)

    def python(self, code: str) -> bool:
        """Whether Python code runs inside without an error."""
        command = ["podman", "exec", self.name, "python", "-c", code]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def state(self) -> Any:
        """What podman knows of the container."""
        return json.loads(self.podman("inspect", self.name))[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def probe(self, name: str) -> bool:
        """Probe once, as the kubelet does."""
        wanted = self.probes[name]
        try:
            reply = httpx.get(
                self.url + wanted["httpGet"]["path"], timeout=wanted["timeoutSeconds"]
            )
        except httpx.TransportError:
            return False
        return reply.is_success

    def wait_started(self) -> float:
        """Probe until it has started; return the seconds that took."""
        started_s, wanted = time.monotonic(), self.probes["startupProbe"]
        for _ in range(wanted["failureThreshold"]):
            if self.probe("startupProbe"):
                return time.monotonic() - started_s
            if self.state()["RestartCount"]:
                break
            time.sleep(wanted["periodSeconds"])
        raise AssertionError(f"it did not start:\n{self.podman('logs', self.name)}")

    @contextlib.contextmanager
    def probed(self) -> Iterator[Counter[str]]:
        """Probe meanwhile; yields how often each probe failed often enough to matter."""
        over, failed = threading.Event(), Counter[str]()

        def go_on(name: str) -> None:
            wanted, in_a_row = self.probes[name], 0
            while not over.wait(wanted["periodSeconds"]):
                in_a_row = 0 if self.probe(name) else in_a_row + 1
                failed[name] += in_a_row == wanted["failureThreshold"]

        threads = [threading.Thread(target=go_on, args=(name,)) for name in PROBES[1:]]
        for thread in threads:
            thread.start()
        try:
            yield failed
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def peak_bytes(self, pid: int) -> int:
        """The most memory that the container has had."""
        groups = dict(
            line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        )
        version_2, version_1 = PEAKS
        file = CGROUPS / groups.get("", "/").lstrip("/") / version_2
        if "memory" in groups:
            folder, _, name = version_1.partition("/")
            file = CGROUPS / folder / groups["memory"].lstrip("/") / name
        return int(file.read_text())


def is_confined(pod: Pod, pid: int) -> dict[str, bool]:
    """What its process may not do, by the kernel's own account."""
    status = dict(
        re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    )
    limit = int(pod.state()["HostConfig"]["Memory"])
    return {
        "user 1000": set(status["Uid"].split()) == {"1000"},
        "no capabilities": {int(status[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd")} == {0},
        "no new privileges": status["NoNewPrivs"] == "1",
        "system calls are filtered": status["Seccomp"] == "2",
        "its root is read-only": not pod.python("open('/opt/x', 'w')"),
        "its /tmp is not": pod.python("open('/tmp/x', 'w')"),
        "memory is limited": limit == 2 * 2**30
        and pod.gateway["resources"]["limits"]["memory"] == "2Gi",
    }


def answers_the_readme(pod: Pod) -> bool:
    """Whether the README's curl finds the cup."""
    (example,) = (each for each in examples(ROOT / "README.md") if "curl" in each.command)
    command = example.command.replace("http://127.0.0.1:8000", pod.url)
    found = []

    def is_there() -> bool:  # a busy machine may refuse some
        output = subprocess.check_output(["bash", "-c", command], cwd=ROOT, text=True)
        found.append(json.loads(output))
        return "detections" in found[-1]

    eventually(is_there)
    return "cup" in {each["label"] for each in found[-1]["detections"]}


def drains(pod: Pod) -> dict[str, bool]:
    """What happens from SIGTERM on."""
    settings, body = pod.settings["data"], photograph()
    grace_s = int(pod.spec["terminationGracePeriodSeconds"])
    began = httpx.Client(base_url=pod.url, timeout=grace_s)

    def slowly() -> Iterator[bytes]:
        yield body[:100]
        eventually(lambda: not pod.probe("readinessProbe"))
        yield body[100:]

    started_s = time.monotonic()
    stopping = threading.Timer(0.5, pod.podman, ("stop", "--time", str(grace_s), pod.name))
    stopping.start()
    headers = {"Content-Type": "image/jpeg", "X-Deadline-Ms": "10000"}
    reply = began.post("/v1/detect", content=slowly(), headers=headers)
    alive = pod.probe("livenessProbe")
    newcomer = httpx.post(f"{pod.url}/v1/detect", content=body, headers=headers, timeout=grace_s)
    stopping.join()
    took_s = time.monotonic() - started_s
    state = pod.state()["State"]
    print(f"ended with {state['ExitCode']}, {took_s:.1f} s after it was told to")
    return {
        "whoever was sending is answered": reply.status_code == 200,
        "so is who comes while it drains": newcomer.status_code == 200,
        "it is alive meanwhile": alive,
        "it ends with 0": state["ExitCode"] == 0 and not state["OOMKilled"],
        "in its time": took_s < grace_s
        and took_s > float(settings["PUNCTUAL_DRAIN_DELAY_MS"]) / 1e3,
    }


def attacked(pod: Pod) -> dict[str, bool]:
    """What each attack leaves of it."""
    found = {}
    for name, attack in ATTACKS.items():
        if attack.rate_hz and attack.model == MODEL:
            address = ("127.0.0.1", pod.port)
            asyncio.run(send(address, attack.message(), attack.rate_hz, ATTACK_S, None))
            found[f"it survives {name}"] = answers_the_readme(pod)
    return found


def main() -> int:
    image = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_IMAGE
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder, Pod(image, Path(folder)) as pod:
        print(f"started in {pod.wait_started():.1f} s")
        pid = int(pod.state()["State"]["Pid"])
        seen = is_confined(pod, pid)
        seen["it answers the README's curl"] = answers_the_readme(pod)
        with pod.probed() as failed:
            print(f"{pod.peak_bytes(pid) / MIB:.0f} MiB of memory at most before the attacks")
            seen |= attacked(pod)
            print(f"{pod.peak_bytes(pid) / MIB:.0f} MiB after them")
        print(f"probes that failed as often as matters: {dict(failed)}")
        seen["it is never taken for dead"] = failed["livenessProbe"] == 0
        seen["nor started anew"] = int(pod.state()["State"]["Pid"]) == pid
        seen |= drains(pod)
    for what, is_so in seen.items():
        print(f"{'yes' if is_so else 'NO ':3} {what}")
    return 0 if all(seen.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
