"""Who sends a request, and what they may have: keys, addresses, and files that name them.

Depends on ``serving.core``. Begin with ``identity``, which says whose a request is.
"""
