"""The places where the gateway sends its images: embedded, triton, triton-depth."""
