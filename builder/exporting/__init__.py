"""A trained detector into the model repository: segments, their other forms, Triton's files."""
