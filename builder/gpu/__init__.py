"""What an NVIDIA GPU makes of the models: measuring it, and the report."""
