"""Detectors that others exported as ONNX, made into models of a repository; without torch."""
