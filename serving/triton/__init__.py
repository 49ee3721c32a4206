"""Messages and memory that the gateway and Triton share.

Depends on ``serving.core``. Begin with ``wire``, which names everything that is sent.
"""
