"""Description of the messages of the Open Inference Protocol that are read, for OpenAPI."""

from __future__ import annotations

from typing import Any

from serving.triton import wire

_BYTE = {"type": "integer", "minimum": 0, "maximum": 255}
_TEXT = {"type": ["string", "null"]}
_SIDE = {"type": "integer", "minimum": 1}
_TENSOR: dict[str, Any] = {
    "type": "object",
    "required": ["name", "datatype", "shape", "data"],
    "additionalProperties": False,
    "properties": {
        "name": {"const": wire.IMAGE},
        "datatype": {"const": "UINT8"},
        "shape": {
            "type": "array",
            "description": "Height, width and 3.",
            "prefixItems": [_SIDE, _SIDE, {"const": 3}],
            "minItems": 3,
            "maxItems": 3,
        },
        "data": {
            "type": "array",
            "description": "As many numbers as the shape says: red, green and blue of each pixel, "
            "row by row.",
            "items": _BYTE,
            "minItems": 3,
        },
    },
}
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "additionalProperties": False,
    "properties": {
        "id": _TEXT,
        "model_name": _TEXT,
        "model_version": _TEXT,
        "parameters": {
            "type": "object",
            "description": "Those of `/v1/detect`, and `timeout` in microseconds.",
            "properties": {"timeout": {"type": "integer", "minimum": 1}},
        },
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"enum": [wire.BOXES, wire.SCORES, wire.LABELS]}},
            },
        },
    },
}
_SMALLEST = {
    "inputs": [{"name": wire.IMAGE, "datatype": "UINT8", "shape": [1, 1, 3], "data": [0, 0, 0]}]
}

DESCRIBED_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _MESSAGE, "example": _SMALLEST},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
"""What an operation's description says of its request, besides what the framework knows."""
