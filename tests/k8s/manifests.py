"""The manifests as ``kubectl kustomize`` renders them, and what tests look for in them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("cpu", "gpu")
COMPONENTS = ("route", "keda", "hpa", "keys", "search")
Manifest = dict[str, Any]


@cache
def render(overlay: str, *components: str) -> tuple[Manifest, ...]:
    """What would be applied of an overlay with ``components``."""
    with tempfile.TemporaryDirectory() as folder:
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(K8S / "overlays" / overlay, folder)],
            "components": [
                os.path.relpath(K8S / "components" / component, folder) for component in components
            ],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return render_folder(Path(folder))


def render_folder(folder: Path) -> tuple[Manifest, ...]:
    """What would be applied of a folder with a kustomization."""
    done = subprocess.run(
        [Path(sys.executable).parent / "kubectl", "kustomize", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    # Warnings too: a deprecated field still renders.
    assert (done.returncode, done.stderr) == (0, "")
    return tuple(yaml.safe_load_all(done.stdout))


def find(manifests: tuple[Manifest, ...], kind: str, prefix: str = "") -> Manifest:
    """The only one of this kind whose name begins so."""
    (found,) = (
        manifest
        for manifest in manifests
        if manifest["kind"] == kind and manifest["metadata"]["name"].startswith(prefix)
    )
    return found


def pod_templates(manifest: Manifest) -> dict[str, Manifest]:
    """Of what makes pods, by kind; of a RayJob by kind and role. Nothing of anything else."""
    kind = manifest["kind"]
    if kind in ("Deployment", "Job"):
        return {kind: manifest["spec"]["template"]}
    if kind != "RayJob":
        return {}
    cluster = manifest["spec"]["rayClusterSpec"]
    return {
        "RayJob submitter": manifest["spec"]["submitterPodTemplate"],
        "RayJob head": cluster["headGroupSpec"]["template"],
        **{f"RayJob {g['groupName']}": g["template"] for g in cluster["workerGroupSpecs"]},
    }


def pod_specs(manifests: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """Of everything that makes pods, by kind, as ``pod_templates`` has them."""
    return {
        name: template["spec"]
        for manifest in manifests
        for name, template in pod_templates(manifest).items()
    }


def containers(pod: Manifest) -> Iterator[Manifest]:
    """All of a pod, initial ones and sidecars included."""
    yield from pod.get("initContainers", ())
    yield from pod["containers"]


def container(pod: Manifest, name: str) -> Manifest:
    """The one of this name."""
    return next(container for container in containers(pod) if container["name"] == name)


def option(container: Manifest, name: str) -> str:
    """What the option ``--name=...`` of a container's arguments says."""
    (value,) = (arg.partition("=")[2] for arg in container["args"] if arg.startswith(f"--{name}="))
    return value
