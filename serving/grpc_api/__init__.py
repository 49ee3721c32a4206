"""The gateway's service over gRPC: KServe's ``GRPCInferenceService``, as Triton has it."""
