"""What is asked of the operating system: memory, priority, the end of a parent process, sockets.

Depends on no other package. Begin with ``low_priority``; each module stands alone.
"""
