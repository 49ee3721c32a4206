from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.core.errors import BackendError
from serving.triton.rpc import add_images, arrays, infer_request, orphans
from serving.triton.shared_memory import SharedImages

IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
EXPECTED = {"boxes": ("FP32", 2), "depth": ("INT32", 1), "counts": ("INT32", None)}


def output(
    name: str, array: np.ndarray, datatype: str | None = None
) -> tuple[str, str, list, bytes]:
    datatype = datatype or {"float32": "FP32", "int32": "INT32"}[str(array.dtype)]
    return name, datatype, list(array.shape), array.tobytes()


GOOD = (
    output("boxes", np.ones((3, 4), np.float32)),
    output("depth", np.array([2], np.int32)),
    output("counts", np.array([[1]], np.int32)),
)


def response(*outputs) -> pb.ModelInferResponse:
    message = pb.ModelInferResponse()
    for name, datatype, shape, content in outputs:
        message.outputs.add(name=name, datatype=datatype, shape=shape)
        message.raw_output_contents.append(content)
    return message


def test_parameters_keep_their_types():
    request = infer_request("m", "7", {"yes": True, "number": 5, "text": "t"})
    kinds = {
        name: value.WhichOneof("parameter_choice") for name, value in request.parameters.items()
    }
    assert kinds == {"yes": "bool_param", "number": "int64_param", "text": "string_param"}
    assert (request.model_name, request.id) == ("m", "7")


def test_images_by_value():
    request = infer_request("m", "", {})
    assert add_images(request, "images", (2, *IMAGE.shape), [IMAGE, IMAGE], None) is None
    assert request.raw_input_contents[0] == IMAGE.tobytes() * 2
    assert list(request.inputs[0].shape) == [2, 2, 4, 3]


def test_images_by_reference_while_there_is_a_slot(tmp_path):
    shared = SharedImages(IMAGE.nbytes, 1, tmp_path)
    request = infer_request("m", "", {})
    slot = add_images(request, "image", IMAGE.shape, [IMAGE], shared)
    assert not request.raw_input_contents
    assert request.inputs[0].parameters["shared_memory_region"].string_param == shared.name
    assert request.inputs[0].parameters["shared_memory_byte_size"].int64_param == slot.size
    second = infer_request("m", "", {})
    assert add_images(second, "image", IMAGE.shape, [IMAGE], shared) is None
    assert second.raw_input_contents[0] == IMAGE.tobytes()
    shared.close()


def test_arrays_by_name_in_any_order():
    found = arrays(response(*reversed(GOOD), output("more", np.zeros(2, np.float32))), EXPECTED)
    assert found["boxes"].shape == (3, 4)
    assert found["depth"].tolist() == [2]
    assert found.keys() == EXPECTED.keys()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((), "lacks boxes"),
        (output("boxes", np.ones(4, np.float32)), "of 2 dimensions"),
        (output("boxes", np.ones((3, 4), np.float32), "INT32"), "is INT32"),
        (("boxes", "FP32", [3, 4], b"12"), "has 2 bytes"),
        (("boxes", "FP32", [3, 4], b""), "has 0 bytes"),
        (("boxes", "BF16", [3, 4], b"1" * 24), "is BF16"),
    ],
    ids=["missing", "rank", "type", "short", "empty", "unknown type"],
)
def test_malformed_outputs_are_engine_errors(wrong, message):
    outputs = [wrong] if wrong else []
    with pytest.raises(BackendError, match=message):
        arrays(response(*outputs, *GOOD[1:]), EXPECTED)


def test_regions_of_gateways_that_are_gone():
    regions = ["punctual-1-aa", "punctual-2-bb", "punctual-3-cc", "of-somebody-else"]
    assert orphans(regions, own="punctual-1-aa", alive=["punctual-2-bb"]) == ["punctual-3-cc"]
