"""Files of a model repository: the catalogue's place, and what may lie beside it.

    model_folders     where each model lies, and the catalogue that describes it
    tensorrt_plans, torch_programs, int8_segments, cuda   other forms of its segments
    onnx_composition  fused segments, made of unit ones
    serving_tools     what offline commands borrow of the server

Depends on ``serving.core``. Begin with ``model_folders``.
"""
