"""Building plans, on a stand-in for TensorRT that says no where the real one does."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil

import onnx
import pytest

from serving.artifacts.cuda import GpuError
from serving.artifacts.int8_segments import TENSORRT_FOLDER as INT8
from serving.artifacts.tensorrt_plans import PROFILES, Plans, read_plans
from serving.core import segment as segments
from serving.core.command_errors import InvalidArgument
from tests.cuda import VERSIONS, fake_cuda
from tests.exported import exported_detector

PRECISIONS = ("fp16", "int8")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    exported = exported_detector(tmp_path_factory.mktemp("segments"))
    exported.quantize()
    return exported


@pytest.fixture
def folder(exported, tmp_path):
    shutil.copytree(exported.folder, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def device():
    with fake_cuda() as device:
        yield device


@pytest.fixture
def builder(device):
    return importlib.import_module("builder.exporting.tensorrt_plans")


def header(path):
    return json.loads(path.read_bytes().partition(b"\0")[0])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_segment_gets_a_plan(exported, folder, version, precision):
    with fake_cuda(version):
        builder = importlib.import_module("builder.exporting.tensorrt_plans")
        depths = lambda depth: folder / f"toy_d{depth}" / "1"  # noqa: E731
        plans = builder.build_plans(folder, exported.catalog, depths, precision, level=1)
    assert read_plans(folder) == plans == Plans.from_json(json.loads(json.dumps(plans.to_json())))
    assert (plans.tensorrt, plans.gpu.name, plans.gpu.compute_capability) == (
        version,
        "Imaginary GPU",
        "9.0",
    )
    assert (plans.model_digest, plans.precision, plans.level) == (
        exported.catalog.digest,
        precision,
        1,
    )
    every = segments.every_segment(exported.catalog.num_exits)
    assert set(plans.plans) == set(segments.names(every))
    for segment in every:
        plan = plans.plans[segment.name]
        data = (folder / "tensorrt" / plan.file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == plan.sha256
        if segment in segments.fused_segments(exported.catalog.num_exits):
            assert (folder / f"toy_d{segment.stop}" / "1" / "model.plan").read_bytes() == data
            assert plan.inputs == ("images",)
            assert plan.outputs == ("boxes", "scores", "labels", "counts")
        built = header(folder / "tensorrt" / plan.file)
        assert [port["name"] for port in built["inputs"]] == list(plan.inputs)
        assert [port["name"] for port in built["outputs"]] == list(plan.outputs)
        assert built["level"] == 1
    assert not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_features_cross_boundaries_in_the_format_of_tensor_cores(
    exported, folder, version, precision
):
    with fake_cuda(version):
        builder = importlib.import_module("builder.exporting.tensorrt_plans")
        plans = builder.build_plans(folder, exported.catalog, None, precision)
    for name in plans.plans:
        built = header(folder / "tensorrt" / f"{name}.plan")
        ports = [*built["inputs"], *built["outputs"]]
        features = [p for p in ports if len(p["shape"]) == 4 and p["dtype"] != "UINT8"]
        assert {(p["dtype"], p["format"]) for p in features} <= {("HALF", "HWC8")}
        assert len(features) == {"stem": 5, "head": 5, "stack": 10, "exit": 0}[name.split("_")[0]]
        assert {p["format"] for p in ports if p not in features} <= {"LINEAR"}
        for port, sizes in built["profiles"][0].items():
            assert [shape[0] for shape in sizes] == list(PROFILES[0]), port
        for port, sizes in built["profiles"][1].items():
            assert [shape[0] for shape in sizes] == list(PROFILES[1]), port


@pytest.mark.parametrize("precision", PRECISIONS)
def test_without_strong_typing_tails_are_constrained_to_float32(exported, folder, precision):
    with fake_cuda("8.6.1"):
        builder = importlib.import_module("builder.exporting.tensorrt_plans")
        builder.build_plans(folder, exported.catalog, None, precision)
    for name in ("head_2", "exit_2"):
        path = folder / "tensorrt" / f"{name}.plan"
        model = onnx.load_from_string(path.read_bytes().partition(b"\0")[2])
        kinds = {node.name: node.op_type for node in model.graph.node}
        constrained = header(path)["float32"]
        found = [kinds[layer] for layer in constrained]
        assert {"TopK", "Exp", "Sigmoid", "ReduceMax", "Greater", "Min"} <= set(found)
        assert not {"Conv", "MaxPool", "Resize", "Cast", "QuantizeLinear"} & set(found)
        every = [node.name for node in model.graph.node if node.op_type in ("TopK", "Exp", "Min")]
        assert set(every) <= set(constrained)
    for name in ("stem", "stack_1"):
        assert header(folder / "tensorrt" / f"{name}.plan")["float32"] == []


def test_reformatting_layers_are_counted(builder, exported, folder, capsys):
    plans = builder.build_plans(folder, exported.catalog)
    assert {name for name, plan in plans.plans.items() if plan.reformats} == {
        "stem",
        "stack_1",
        "stack_2",
        "stack_3",
    }
    assert plans.plans["stem"].layers > 50
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(plans.plans)
    assert "1 of them only reformat" in lines[0]


@pytest.mark.parametrize(
    ("layer", "reformats"),
    [
        ("Reformatting CopyNode for Input Tensor 0 to conv", True),
        ({"Name": "Reformatting CopyNode", "LayerType": "Reformat"}, True),
        ({"Name": "a", "LayerType": "Reformat"}, True),
        ({"Name": "conv + relu", "LayerType": "CaskConvolution"}, False),
        ("conv + relu", False),
    ],
)
def test_inspector_entries_of_either_kind_are_understood(builder, layer, reformats):
    assert builder._reformats(layer) == reformats


def test_an_inspector_that_says_nothing_costs_no_plan(builder, exported, folder, monkeypatch):
    inspector = builder.trt.EngineInspector
    monkeypatch.setattr(inspector, "get_engine_information", lambda self, form: "?")
    plans = builder.build_plans(folder, exported.catalog)
    assert {(plan.layers, plan.reformats) for plan in plans.plans.values()} == {(None, None)}


def test_one_timing_cache_is_kept_and_extended(builder, exported, folder, tmp_path):
    cache = tmp_path / "shared.cache"
    sizes = []
    for _ in range(2):
        builder.build_plans(folder, exported.catalog, timing_cache=cache)
        sizes.append(cache.read_bytes().count(b"timed"))
    num_plans = len(segments.every_segment(exported.catalog.num_exits))
    assert sizes == [num_plans, 2 * num_plans]
    assert not (folder / "tensorrt" / "timing.cache").exists()


@pytest.mark.parametrize("known", [b"timings 8.6.0 Another GPU\ntimed\n", b"Another GPU"])
def test_a_timing_cache_of_another_gpu_is_started_anew(builder, exported, folder, capsys, known):
    cache = folder / "tensorrt" / "timing.cache"
    cache.write_bytes(known)
    builder.build_plans(folder, exported.catalog)
    assert capsys.readouterr().out.count("is of another GPU or TensorRT: started anew") == 1
    assert b"Another GPU" not in cache.read_bytes()
    assert b"Imaginary GPU" in cache.read_bytes()


# -- errors --------------------------------------------------------------------------------------


def test_a_precision_that_is_not_there_is_refused(builder, exported, folder):
    with pytest.raises(builder.PlanBuildError, match="no precision 'fp8': there are fp16, int8"):
        builder.build_plans(folder, exported.catalog, None, "fp8")


def test_a_machine_without_a_gpu_is_told_so(device, builder, exported, folder):
    device.gpu = None
    with pytest.raises(GpuError, match="no usable NVIDIA GPU"):
        builder.build_plans(folder, exported.catalog)


def test_a_builder_that_does_not_start_is_an_error(device, builder, exported, folder, monkeypatch):
    """TensorRT 8.6 raises TypeError when the driver is too old for it."""

    def fail(*_: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(builder.trt.Builder, "__init__", fail)
    with pytest.raises(builder.PlanBuildError, match=r"does not start .* gives no reason"):
        builder.build_plans(folder, exported.catalog)


@pytest.mark.parametrize("problem", ["missing", "stale"])
def test_int8_without_calibration_is_refused(builder, exported, folder, problem):
    if problem == "missing":
        shutil.rmtree(folder / INT8)
    else:
        path = folder / INT8 / "quantized.json"
        path.write_text(path.read_text().replace(exported.catalog.digest, "0123"))
    with pytest.raises(InvalidArgument, match="calibrate"):
        builder.build_plans(folder, exported.catalog, None, "int8")


def test_what_the_parser_says_is_in_the_error(exported, folder, monkeypatch):
    with fake_cuda("8.6.1"):
        builder = importlib.import_module("builder.exporting.tensorrt_plans")
        monkeypatch.setattr(builder, "to_float", lambda model: model)  # images transposed first
        with pytest.raises(builder.PlanBuildError, match=r"cannot read stem: .*uint8 can only be"):
            builder.build_plans(folder, exported.catalog)


def test_what_the_builder_logs_is_in_the_error(exported, folder, monkeypatch):
    with fake_cuda("8.6.1"):
        builder = importlib.import_module("builder.exporting.tensorrt_plans")
        builder.build_plans(folder, exported.catalog)
        monkeypatch.setattr(builder, "PROFILES", ())
        with pytest.raises(builder.PlanBuildError, match=r"cannot build stem: .*profile"):
            builder.build_plans(folder, exported.catalog)
    assert not (folder / "tensorrt" / "plans.json").exists()
