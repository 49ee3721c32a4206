"""Plans in a store: built once for each GPU, TensorRT and model, and found by who may use them."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from builder.exporting.repository import write_entry
from serving.__main__ import main
from serving.artifacts.cuda import GpuError
from serving.artifacts.model_folders import version_folder
from serving.artifacts.tensorrt_plans import PlansError
from serving.core.model_entry import ModelEntry
from tests.cuda import VERSIONS, fake_cuda
from tests.exported import exported_detector

KEY = "Imaginary-GPU-sm90-trt10.13.3.9-"
MODEL = "toy"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with an untrained model, which no test changes."""
    folder = tmp_path_factory.mktemp("repository")
    exported = exported_detector(version_folder(folder, MODEL), num_stacks=2)
    write_entry(ModelEntry((replace(exported.catalog, name=MODEL),)), exported.folder)
    return folder


@pytest.fixture(scope="module")
def built(repository, tmp_path_factory):
    """A store with the plans of one GPU, which no test changes."""
    store = tmp_path_factory.mktemp("built")
    with fake_cuda():
        assert build(store, repository) == 0
    return store


@pytest.fixture
def store(built, tmp_path):
    return shutil.copytree(built, tmp_path / "store")


@pytest.fixture
def device():
    with fake_cuda() as device:
        yield device


def build(store, repository, *further):
    where = ["--store", str(store), "--model-repository", str(repository), "--model", MODEL]
    return main(["build", "--target", "tensorrt", *where, *further])


def contents(folder):
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def link(store, repository, path, wait_s=0.0, sleep=lambda _: None):
    said: list[str] = []
    now = SimpleNamespace(s=0.0)

    def slept(seconds):
        now.s += seconds
        sleep(seconds)

    found = importlib.import_module("serving.triton_backend.plans").link_plans(
        store,
        repository,
        None,
        path,
        wait_s=wait_s,
        clock=lambda: now.s,
        sleep=slept,
        say=said.append,
    )
    return found, said


def test_the_store_gets_a_whole_repository(built, repository):
    (target,) = built.iterdir()
    assert target.name.startswith(KEY)
    assert (version_folder(target, MODEL) / "tensorrt/plans.json").exists()
    for depth in (1, 2):
        assert (target / f"toy_d{depth}/1/model.plan").exists()
        assert (target / f"toy_d{depth}/config.pbtxt").exists()
    assert not list(repository.rglob("*.plan"))  # that stays as it was
    assert not list(repository.rglob("config.pbtxt"))


def test_once_more_is_nothing_to_do(store, repository, device, capsys):
    before = contents(store)
    assert build(store, repository) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert contents(store) == before


def test_each_gpu_and_tensorrt_has_its_own(store, repository):
    with fake_cuda() as device:
        device.gpu.name = b"Other GPU"
        assert build(store, repository) == 0
    with fake_cuda(VERSIONS[2]):
        assert build(store, repository) == 0
    names = {path.name.rsplit("-", 1)[0] for path in store.iterdir()}
    assert names == {
        "Imaginary-GPU-sm90-trt10.13.3.9",
        "Other-GPU-sm90-trt10.13.3.9",
        f"Imaginary-GPU-sm90-trt{VERSIONS[2]}",
    }


def test_what_an_interrupted_build_left_is_removed(built, repository, tmp_path, device):
    (built_there,) = built.iterdir()
    leftover = tmp_path / f".partial-{built_there.name}/toy_anytime"
    leftover.mkdir(parents=True)
    (leftover / "half").touch()
    assert build(tmp_path, repository) == 0
    assert [path.name for path in tmp_path.iterdir()] == [built_there.name]
    assert not list(tmp_path.rglob("half"))


def test_a_build_that_fails_leaves_nothing(repository, tmp_path, device, monkeypatch, capsys):
    builder = importlib.import_module("builder.exporting.tensorrt_plans")

    def refuse(*_, **__):
        raise builder.PlanBuildError("no")

    monkeypatch.setattr(builder, "build_plans", refuse)
    assert build(tmp_path, repository) == 1
    assert capsys.readouterr().err == "punctual: no\n"
    assert not list(tmp_path.iterdir())


def test_a_damaged_plan_is_not_taken_for_one(store, repository, device, tmp_path, capsys):
    next(store.rglob("stem.plan")).write_bytes(b"damaged")
    assert build(store, repository) == 2
    assert "stem.plan is not the plan that was built; remove" in capsys.readouterr().err
    with pytest.raises(PlansError, match=r"stem\.plan is not the plan that was built"):
        link(store, repository, tmp_path / "link", wait_s=100)


def test_another_precision_needs_another_store(store, repository, device, capsys):
    assert build(store, repository, "--precision", "int8") == 2
    assert "has plans in fp16: int8 needs a store of its own" in capsys.readouterr().err


def test_without_a_gpu_nothing_is_built_or_found(store, repository, device, tmp_path, capsys):
    device.gpu = None
    assert build(store, repository) == 2
    with pytest.raises(GpuError, match="cudaErrorNoDevice"):
        link(store, repository, tmp_path / "link")
    assert "cudaErrorNoDevice" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--checkpoint", __file__],
        ["--config", "bccd"],
        ["--target", "openvino"],
        ["--calibration-images", __file__],
    ],
)
def test_a_store_has_plans_of_segments_that_are_there(repository, tmp_path, wrong, capsys):
    assert build(tmp_path, repository, *wrong) == 2
    assert "--store: only with" in capsys.readouterr().err


def test_triton_is_given_the_plans_of_its_gpu(store, repository, device, tmp_path):
    path = tmp_path / "link"
    path.symlink_to(tmp_path)  # that of an earlier start
    found, said = link(store, repository, path)
    assert path.resolve() == found
    assert (path / "toy_anytime/1/tensorrt/plans.json").exists()
    assert not said


def test_a_gpu_without_plans_is_told_what_there_is(store, repository, device, tmp_path):
    device.gpu.name = b"Other GPU"
    with pytest.raises(PlansError) as raised:
        link(store, repository, tmp_path / "link")
    assert "Other GPU (compute capability 9.0), TensorRT 10.13.3.9" in str(raised.value)
    assert f"there is {KEY}" in str(raised.value)
    assert not (tmp_path / "link").is_symlink()


def test_plans_that_lie_where_those_of_another_gpu_should_are_refused(
    store, repository, device, tmp_path
):
    (target,) = store.iterdir()
    target.rename(store / target.name.replace("Imaginary", "Other"))
    device.gpu.name = b"Other GPU"
    with pytest.raises(PlansError, match="compiled for something else"):
        link(store, repository, tmp_path / "link", wait_s=100)


def test_triton_waits_until_they_are_built(built, repository, tmp_path, device):
    (there,) = built.iterdir()
    naps: list[float] = []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            shutil.copytree(there, tmp_path / "store" / there.name)

    (tmp_path / "store").mkdir()
    found, said = link(tmp_path / "store", repository, tmp_path / "link", 100, sleep)
    assert found == tmp_path / "store" / there.name
    assert len(naps) == 3
    assert ["there is nothing" in sentence for sentence in said] == [True]  # said once


def test_triton_does_not_wait_for_ever(repository, tmp_path, device):
    naps: list[float] = []
    with pytest.raises(PlansError, match="must be built on such a GPU"):
        link(tmp_path, repository, tmp_path / "link", 20, naps.append)
    assert sum(naps) == 20


def test_the_command_of_a_pod(store, repository, device, tmp_path, capsys):
    where = ["--store", str(store), "--model-repository", str(repository)]
    assert main(["plans", *where, "--link", str(tmp_path / "link")]) == 0
    assert f"link is {store}" in capsys.readouterr().out
    device.gpu.name = b"Other GPU"
    assert main(["plans", *where, "--link", str(tmp_path / "link")]) == 2
    assert "has no TensorRT plans for Other GPU" in capsys.readouterr().err
