"""Files beside the catalogue: TensorRT plans, torch programs, int8 segments, ONNX composition."""
