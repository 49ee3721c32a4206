"""Generated configurations, read by Triton's own schema and held against what they describe."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from builder.exporting import triton_config
from builder.exporting.triton_config import repository_files
from serving.artifacts import tensorrt_plans as plans
from serving.artifacts.model_folders import read_catalog, version_folder
from serving.core import segment as segments
from serving.core.model_entry import ModelEntry
from serving.runners import onnxruntime
from serving.runners.openvino import runner as openvino
from serving.triton import wire

REPOSITORY = Path(__file__).parents[3] / "model_repo"
FOLDER = version_folder(REPOSITORY, "bccd")
CATALOG = read_catalog(FOLDER)
FILES = repository_files(ModelEntry((CATALOG,)), "openvino")
CONFIGS = sorted(name for name in FILES if name.endswith(".pbtxt"))
DEPTHS = range(1, CATALOG.num_exits + 1)

# ONNX element types as Triton names them.
DATA_TYPES = {
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.INT32: "TYPE_INT32",
}


def parse(name: str) -> ModelConfig:
    return text_format.Parse(FILES[name], ModelConfig())


def ports(tensors) -> dict[str, tuple[str, list[int]]]:
    """Name -> data type and the shape that the backend sees, without the batch."""
    type_name = ModelConfig.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    return {
        tensor.name: (
            type_name[tensor.data_type].name,
            list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims),
        )
        for tensor in tensors
    }


def onnx_ports(values) -> dict[str, tuple[str, list[int]]]:
    return {
        value.name: (
            DATA_TYPES[value.type.tensor_type.elem_type],
            [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]],
        )
        for value in values
    }


def test_what_is_in_version_control_is_what_would_be_generated():
    committed = {
        str(path.relative_to(REPOSITORY)): path.read_text()
        for pattern in ("*.pbtxt", "model.py")
        for path in REPOSITORY.glob(f"{CATALOG.name}_*/**/{pattern}")
    }
    assert committed == FILES, "run: punctual build --model bccd"


@pytest.mark.parametrize("name", CONFIGS)
def test_triton_can_read_it(name):
    config = parse(name)
    model, *_ = Path(name).parts
    assert config.name == model
    (group,) = config.instance_group
    on_cpu = name.endswith("cpu.pbtxt")
    assert group.kind == (ModelInstanceGroup.KIND_CPU if on_cpu else ModelInstanceGroup.KIND_GPU)
    assert group.count == 1
    assert list(group.gpus) == ([] if on_cpu else [0])


def test_the_schema_would_notice_a_misspelt_field():
    text = FILES["bccd_d1/config.pbtxt"].replace("max_batch_size", "max_batchsize")
    with pytest.raises(text_format.ParseError, match="max_batchsize"):
        text_format.Parse(text, ModelConfig())


@pytest.mark.parametrize("model", sorted({Path(name).parts[0] for name in FILES}))
def test_both_variants_look_alike_from_outside(model):
    gpu, cpu = parse(f"{model}/config.pbtxt"), parse(f"{model}/configs/cpu.pbtxt")
    assert gpu.input == cpu.input
    assert gpu.output == cpu.output
    assert gpu.model_transaction_policy == cpu.model_transaction_policy


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_exit_has_the_ports_of_its_segments(depth):
    config = parse(f"bccd_d{depth}/config.pbtxt")
    stem = onnx.load(FOLDER / CATALOG.segments[segments.STEM.name].file).graph
    head = onnx.load(FOLDER / CATALOG.segments[segments.head(depth).name].file).graph
    assert ports(config.input) == onnx_ports(stem.input)
    assert ports(config.output) == onnx_ports(head.output)


def test_the_executor_says_what_the_wire_says():
    config = parse("bccd_anytime/config.pbtxt")
    assert [port.name for port in config.input] == [wire.IMAGE]
    assert [port.name for port in config.output] == [
        wire.BOXES,
        wire.SCORES,
        wire.LABELS,
        wire.EXIT_DEPTH,
        wire.OPERATING_POINT,
        wire.TIMES,
        wire.STATUS,
    ]
    assert config.input[0].optional
    assert list(config.input[0].dims) == [CATALOG.input_height, CATALOG.input_width, 3]
    assert config.model_transaction_policy.decoupled
    assert config.max_batch_size == 0
    assert config.WhichOneof("scheduling_choice") is None
    assert config.parameters["runtime"].string_value == "tensorrt"


def test_an_exit_says_what_the_wire_says():
    config = parse("bccd_d1/config.pbtxt")
    assert [port.name for port in config.input] == [wire.IMAGES]
    outputs = (wire.BOXES, wire.SCORES, wire.LABELS, wire.COUNTS)
    assert [port.name for port in config.output] == list(outputs)
    assert list(config.output[-1].dims) == [1]


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_cpu_exit_says_which_segment_and_runtime(depth):
    config = parse(f"bccd_d{depth}/configs/cpu.pbtxt")
    assert config.backend == "python"
    assert config.parameters["depth"].string_value == str(depth)
    assert config.parameters["runtime"].string_value == "openvino"
    assert config.max_batch_size == openvino.BATCH_SIZES[-1] == onnxruntime.BATCH_SIZES[-1]


def test_the_cpu_runtime_is_a_choice():
    files = repository_files(ModelEntry((CATALOG,)), "onnxruntime")
    changed = {name for name, text in files.items() if text != FILES[name]}
    assert changed == {name for name in CONFIGS if name.endswith("cpu.pbtxt")}
    assert all('"onnxruntime"' in files[name] for name in changed)


@pytest.mark.parametrize("name", [name for name in CONFIGS if "_d" in name])
def test_triton_batches_without_any_policy(name):
    config = parse(name)
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.dynamic_batching == type(config.dynamic_batching)()


def test_every_batch_of_a_plan_has_one_profile_and_one_graph():
    config = parse("bccd_d1/config.pbtxt")
    assert config.platform == "tensorrt_plan"
    assert config.default_model_filename == "model.plan"
    profiles = {str(plans.profile_of(batch)) for batch in range(1, config.max_batch_size + 1)}
    assert set(config.instance_group[0].profile) == profiles
    assert config.optimization.cuda.graphs
    image = [CATALOG.input_height, CATALOG.input_width, 3]
    batches = []
    for graph in config.optimization.cuda.graph_spec:
        bound = graph.graph_lower_bound if graph.HasField("graph_lower_bound") else graph
        for shapes in (graph.input, bound.input):
            assert {key: list(shape.dim) for key, shape in shapes.items()} == {"images": image}
        batches.append(range(bound.batch_size, graph.batch_size + 1))
    assert list(chain(*batches)) == list(range(1, config.max_batch_size + 1))
    assert tuple(batch[-1] for batch in batches) == plans.BATCH_SIZES
    assert all(len(set(map(plans.profile_of, batch))) == 1 for batch in batches)


def test_what_is_quoted_arrives_as_it_was():
    strange = replace(CATALOG, name='a "b"\\c')
    text = repository_files(ModelEntry((strange,)), 'x"\n')[
        f"{strange.name}_anytime/configs/cpu.pbtxt"
    ]
    config = text_format.Parse(text, ModelConfig())
    assert config.name == f"{strange.name}_anytime"
    assert config.parameters["runtime"].string_value == 'x"\n'


def test_long_messages_are_broken_and_still_the_same():
    text = FILES["bccd_d1/config.pbtxt"]
    assert max(map(len, text.splitlines())) <= triton_config.LINE
    joined = " ".join(line for line in text.splitlines() if not line.startswith("#"))
    assert text_format.Parse(joined, ModelConfig()) == parse("bccd_d1/config.pbtxt")


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("model.py")])
def test_adapters_name_the_class_and_nothing_else(name):
    kind = "anytime" if "_anytime/" in name else "depth"
    tree = compile(FILES[name], name, "exec")
    assert "TritonPythonModel" in tree.co_names
    assert f"serving.triton_backend.{kind}" in tree.co_names


def test_each_input_size_has_its_depth_models_and_all_have_one_executor() -> None:
    small = replace(CATALOG, exits=CATALOG.exits[:1], input_width=256, input_height=192)
    large = replace(small, input_width=512, input_height=384)
    files = repository_files(ModelEntry((small, large)), "openvino")
    folders = {name.partition("/")[0] for name in files}
    assert folders == {"bccd_anytime", "bccd_256x192_d1", "bccd_512x384_d1"}
    for size, dims in (("256x192", [192, 256, 3]), ("512x384", [384, 512, 3])):
        for config in (triton_config.CONFIG, triton_config.CPU_CONFIG):
            depth = text_format.Parse(files[f"bccd_{size}_d1/{config}"], ModelConfig())
            assert depth.name == f"bccd_{size}_d1"
            assert list(depth.input[0].dims) == dims
        assert depth.parameters["size"].string_value == size
    anytime = text_format.Parse(files["bccd_anytime/config.pbtxt"], ModelConfig())
    assert list(anytime.input[0].dims) == [384, 512, 3]
    assert "size" not in parse("bccd_d1/configs/cpu.pbtxt").parameters
