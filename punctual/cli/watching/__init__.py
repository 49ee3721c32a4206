"""Frames of one source in real time over a stream: what ``punctual watch`` is made of."""
