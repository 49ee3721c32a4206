"""Study of what Triton costs a request, and what it serves."""
