"""Our TensorRT modules against the real bindings of every version they are for: each attribute,
each number of arguments, found by mypy in stubs made of the bindings themselves."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys

import pytest

from tests.bindings import (
    CACHE,
    CUDA,
    ROOT,
    TENSORRT,
    UnavailableError,
    interpreter_of,
    stubs_of,
)
from tests.cuda import VERSIONS, CudaRuntime, fake_cuda

pytestmark = pytest.mark.slow  # bindings are downloaded, and mypy reads all of them

MODULES = (
    "builder/exporting/tensorrt_plans.py",
    "builder/exporting/plan_store.py",
    "serving/runners/tensorrt/engines.py",
    "serving/runners/tensorrt/memory.py",
    "serving/runners/tensorrt/runner.py",
    "serving/triton_backend/plans.py",
)

CONFIG = """\
check_untyped_defs = true
disable_error_code = var-annotated
follow_imports = silent
[mypy-numpy.*,onnx.*]
follow_imports = skip
ignore_missing_imports = true
"""


def stubs(bindings):
    try:
        return stubs_of(bindings)
    except UnavailableError as error:
        pytest.skip(str(error))


def audit(tmp_path, version, cuda, files, since_10=None):
    """What mypy finds in ``files`` with the bindings of these versions."""
    since_10 = int(version.split(".")[0]) >= 10 if since_10 is None else since_10
    config = tmp_path / "mypy.ini"
    paths = (stubs(TENSORRT[version])[0], stubs(CUDA[cuda])[0])
    config.write_text(f"[mypy]\nmypy_path = {':'.join(map(str, (*paths, ROOT)))}\n{CONFIG}")
    command = [sys.executable, "-m", "mypy", "--config-file", config, "--hide-error-context"]
    command += ["--always-true" if since_10 else "--always-false", "SINCE_10"]
    command += ["--cache-dir", CACHE / f"mypy-{version}-{cuda}-{since_10}", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


AUDITED = [("8.6.1", "12.6"), ("10.13.3.9", "12.6"), ("11.4.0.106", "13.0")]
if os.environ.get("CI") and interpreter_of(TENSORRT["8.6.0"]):
    AUDITED.append(("8.6.0", "12.6"))  # 819 MB to download, more than every contributor should


@pytest.mark.parametrize(("version", "cuda"), AUDITED)
def test_every_name_exists(tmp_path, version, cuda):
    assert audit(tmp_path, version, cuda, MODULES) == []


def test_made_up_names_are_found(tmp_path):
    """Otherwise the test above could not fail. Of objects as well as of modules, through what
    methods return, and with too many arguments."""
    changes = {
        "network.num_layers": "network.num_layerz",
        "trt.TensorFormat.HWC8": "trt.TensorFormat.HWC9",
        "parser.num_errors": "parser.num_mistakes",
        "self._builder.create_builder_config()": "self._builder.create_builder_config(1)",
        "cudart)": "cudart.cudaGetGpu)",
    }
    source = (ROOT / MODULES[0]).read_text()
    for real, made_up in changes.items():
        assert real in source
        source = source.replace(real, made_up)
    path = tmp_path / "made_up.py"
    path.write_text(source)
    found = "\n".join(audit(tmp_path, "10.13.3.9", "12.6", [path]))
    for name in ("num_layerz", "HWC9", "num_mistakes", "cudaGetGpu", "create_builder_config"):
        assert name in found


@pytest.mark.parametrize(("version", "since_10"), [("8.6.1", True), ("11.4.0.106", False)])
def test_each_branch_is_for_its_versions_only(tmp_path, version, since_10):
    assert audit(tmp_path, version, "12.6", MODULES, since_10)


@pytest.mark.parametrize("version", VERSIONS)
def test_names_in_tables_exist(version):
    _, names = stubs(TENSORRT[version])
    with fake_cuda(version):
        from builder.exporting.tensorrt_plans import TACTIC_SOURCES
    assert set(TACTIC_SOURCES) <= set(names["TacticSource"])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fake_offers_nothing_that_is_not_real(version):
    _, names = stubs(TENSORRT[version])
    with fake_cuda(version):
        import tensorrt as trt
    classes = {name: kind for name, kind in vars(trt).items() if isinstance(kind, type)}
    assert len(classes) > 20
    for name, kind in classes.items():
        own = getattr(kind, "__members__", None)
        if own is None:
            own = {member for member in vars(kind) if member[0] != "_"}
            own |= set(re.findall(r"self\.([a-z]\w*)\b.* = ", inspect.getsource(kind)))
        assert set(own) <= set(names[name]), name


@pytest.mark.parametrize("version", sorted(CUDA))
def test_the_fake_runtime_offers_nothing_that_is_not_real(version):
    _, names = stubs(CUDA[version])
    own = {name for name in vars(CudaRuntime) if name.startswith("cuda")}
    assert own <= set(names[""])
    for kind in (CudaRuntime.cudaError_t, CudaRuntime.cudaMemcpyKind):
        assert set(kind.__members__) <= set(names[kind.__name__])
