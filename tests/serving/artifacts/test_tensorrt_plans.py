"""The list of plans, and what CUDA's calls return."""

from __future__ import annotations

import enum
import json
from types import SimpleNamespace

import pytest

from serving.artifacts.cuda import CudaError, Gpu, checked
from serving.artifacts.tensorrt_plans import (
    BATCH_SIZES,
    FOLDER,
    MANIFEST,
    PROFILES,
    Plan,
    Plans,
    PlansError,
    profile_of,
    read_plans,
)

H200 = Gpu("NVIDIA H200", "9.0")
PLANS = Plans(
    tensorrt="10.13.3.9",
    gpu=H200,
    model_digest="abc",
    precision="fp16",
    level=3,
    profiles=PROFILES,
    date="2026-11-23",
    plans={"stem": Plan("stem.plan", "0" * 64, ("images",), ("p3_out",), 40, None)},
)


class Error(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815 - as CUDA calls it
    cudaErrorNoDevice = 100  # noqa: N815


def test_plans_survive_their_file():
    assert Plans.from_json(json.loads(json.dumps(PLANS.to_json()))) == PLANS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, this version reads 1"),
        ({"gpu": {"name": "x"}}, "malformed"),
        ({"gpu": None}, "malformed"),
        ({"profiles": [[1, 2]]}, "malformed"),
        ({"plans": {"stem": {}}}, "lacks 'file'"),
        ({"plans": []}, "malformed"),
    ],
)
def test_lists_that_cannot_be_used_say_why(change, message):
    with pytest.raises(PlansError, match=message):
        Plans.from_json({**PLANS.to_json(), **change})


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"7", b"{}"])
def test_files_that_are_no_list_of_plans(content, tmp_path):
    path = tmp_path / FOLDER / MANIFEST
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(PlansError, match=r"cannot be used|no JSON object|format None"):
        read_plans(tmp_path)


def test_plans_are_for_one_gpu_version_and_model():
    PLANS.check("10.13.3.9", H200, "abc")
    for facts in (
        ("10.14.1.48", H200, "abc"),
        ("10.13.3.9", Gpu("NVIDIA H100", "9.0"), "abc"),
        ("10.13.3.9", Gpu("NVIDIA H200", "10.0"), "abc"),
        ("10.13.3.9", H200, "def"),
    ):
        with pytest.raises(PlansError, match="compiled for something else") as raised:
            PLANS.check(*facts)
        for fact in ("10.13.3.9", str(H200), "abc", *map(str, facts)):
            assert fact in str(raised.value)


def test_a_segment_without_a_plan_is_named():
    assert PLANS.plan("stem").file == "stem.plan"
    with pytest.raises(PlansError, match="no TensorRT plan of stack_1"):
        PLANS.plan("stack_1")


def test_every_batch_size_has_a_profile():
    assert [profile_of(size) for size in BATCH_SIZES] == [0, 1, 1]
    assert profile_of(2) == 1
    with pytest.raises(ValueError, match="batch of 9"):
        profile_of(BATCH_SIZES[-1] + 1)


def test_calls_that_succeed_give_their_values():
    assert checked((Error.cudaSuccess,)) is None
    assert checked((Error.cudaSuccess, 0)) == 0
    assert checked((Error.cudaSuccess, 1, 2)) == (1, 2)


def test_calls_that_fail_are_errors_by_name():
    with pytest.raises(CudaError, match=r"cudaErrorNoDevice \(100\)"):
        checked((Error.cudaErrorNoDevice, None))


def test_the_gpu_is_what_the_driver_says():
    properties = SimpleNamespace(name=b"NVIDIA H200\0\0", major=9, minor=0)
    runtime = SimpleNamespace(
        cudaGetDevice=lambda: (Error.cudaSuccess, 0),
        cudaGetDeviceProperties=lambda device: (Error.cudaSuccess, properties),
    )
    assert Gpu.current(runtime) == H200


def test_no_driver_is_one_error_whatever_the_bindings_raise():
    def fail():
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    for current in (fail, lambda: (Error.cudaErrorNoDevice, None)):
        runtime = SimpleNamespace(cudaGetDevice=current, cudaGetDeviceProperties=fail)
        with pytest.raises(CudaError, match="no usable NVIDIA GPU here"):
            Gpu.current(runtime)
