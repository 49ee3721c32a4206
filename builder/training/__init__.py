"""The training loop and its parts: batches, losses, optimization, log, processes."""
