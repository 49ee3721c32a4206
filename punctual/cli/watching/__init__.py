"""Frames of one source in real time over a stream: what ``punctual watch`` is made of.

    sources -> newest -> watcher -> ledger -> screen, records

Depends on ``serving.core``, and on the client. Begin with ``watcher``.
"""
