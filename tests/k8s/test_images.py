"""What the images are made of: Dockerfiles, what is copied into them, and what is pinned."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.k8s.manifests import K8S, ROOT

IMAGES = K8S / "images"
DOCKERFILES = sorted(IMAGES.glob("*.Dockerfile"))
TRITON = IMAGES / "triton.Dockerfile"
every_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)


def copied(dockerfile):
    """What comes from the repository."""
    lines = re.findall(r"^COPY ((?!--from).*) \S+$", dockerfile.read_text(), re.MULTILINE)
    return {name for line in lines for name in line.split()}


def pins(lock):
    return dict(re.findall(r"^(\S+)==(\S+) ", (IMAGES / lock).read_text(), re.MULTILINE))


def test_there_are_all() -> None:
    assert [path.stem for path in DOCKERFILES] == ["gateway", "search", "triton"]
    stages = re.findall(r"^FROM \S+ AS (\w+)$", TRITON.read_text(), re.MULTILINE)
    assert stages == ["triton", "builder"]


@every_dockerfile
def test_linter_has_nothing_to_say(path):
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@every_dockerfile
def test_only_what_is_copied_is_sent(path):
    lines = path.with_name(f"{path.name}.dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied(path)
    assert all((ROOT / name).exists() for name in copied(path))
    assert "**/__pycache__" in lines


@every_dockerfile
def test_base_images_have_a_tag_and_may_have_a_digest(path):
    """A digest is for whoever can ask the registry: ``docker build --build-arg``."""
    text = path.read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        if base in re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE):
            continue  # a stage
        name = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], base)
        assert re.fullmatch(r"[a-z0-9./-]+:(?!latest)[\w.-]+(@sha256:[0-9a-f]{64})?", name), name


def test_the_image_says_what_it_is():
    text = (IMAGES / "gateway.Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (version,) = re.findall(r"^ARG VERSION=(\S+)$", text, re.MULTILINE)
    assert version == project["version"]
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', text))
    assert labels["licenses"] == project["license"]
    assert labels["description"] == project["description"]
    assert (labels["version"], labels["base.name"]) == ("${VERSION}", "${BASE}")


def test_without_a_registry_the_same_dockerfile_is_built():
    script = (IMAGES / "without-registry.sh").read_text()
    assert "--file k8s/images/gateway.Dockerfile" in script
    assert "--ignorefile k8s/images/gateway.Dockerfile.dockerignore" in script
    assert "pip install" not in script


@every_dockerfile
def test_images_end_as_an_unprivileged_user(path):
    users = re.findall(r"^USER (.*)$", path.read_text(), re.MULTILINE)
    assert users[-1] == "1000:1000"


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("gateway.lock", ("otel", "triton")), ("search.lock", ("builder", "ray"))],
)
def test_images_have_what_the_project_asks_for(lock, extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(each for extra in extras for each in optional[extra])]
    pinned = pins(lock)
    for requirement in map(Requirement, wanted):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_the_gateway_has_no_torch_and_searches_no_cuda():
    pinned = pins("gateway.lock")
    assert not {"torch", "onnx", "tensorrt", "setuptools"} & set(pinned)
    searches = pins("search.lock")
    assert searches["torch"].endswith("+cpu")
    assert not [name for name in searches if name.startswith(("nvidia-", "cuda-"))]


def test_plans_are_built_by_the_tensorrt_that_serves():
    (tensorrt,) = re.findall(r"^ARG TENSORRT=(.*)$", TRITON.read_text(), re.MULTILINE)
    served, built = pins("triton.lock"), pins("builder.lock")
    assert served["tensorrt-cu13-bindings"] == tensorrt
    assert not served.keys() & built.keys()  # the builder is added to what serves
    assert "onnx" in built


@pytest.mark.parametrize("lock", ["gateway.lock", "search.lock", "triton.lock", "builder.lock"])
def test_everything_is_pinned_with_hashes(lock):
    text = (IMAGES / lock).read_text()
    requirements = re.split(r"\n(?=\S)", text.strip())
    assert len(requirements) == len(pins(lock)) > 0
    assert all("--hash=sha256:" in requirement for requirement in requirements)


@pytest.fixture
def shim(monkeypatch):
    """``tensorrt`` as in the images, over bindings that say they are 10.13.3.9."""
    bindings = types.ModuleType("tensorrt_bindings")
    vars(bindings)["__version__"] = "10.13.3.9"
    monkeypatch.setitem(sys.modules, "tensorrt_bindings", bindings)
    monkeypatch.syspath_prepend(str(IMAGES))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    yield bindings
    sys.modules.pop("tensorrt", None)


def run_shim(monkeypatch, library_version, wanted):
    library = types.SimpleNamespace(getInferLibVersion=lambda: library_version)
    monkeypatch.setattr("ctypes.CDLL", {"libnvinfer.so.10": library}.__getitem__)
    monkeypatch.setattr(sys, "argv", ["tensorrt", wanted])
    spec = importlib.util.spec_from_file_location("__main__", IMAGES / "tensorrt.py")
    assert spec is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_tensorrt_is_its_bindings(shim):
    assert importlib.import_module("tensorrt") is shim


def test_bindings_over_another_library_fail_the_build(shim, monkeypatch):
    run_shim(monkeypatch, 101303, "10.13.3.9")
    for number, wanted in ((101400, "10.13.3.9"), (101303, "10.13.3.8")):
        with pytest.raises(SystemExit, match=r"is wanted; bindings: 10\.13\.3\.9, library: 10\.1"):
            run_shim(monkeypatch, number, wanted)
