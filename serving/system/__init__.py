"""What is asked of the operating system: memory, priority, and the end of a parent process.

Depends on no other package. Begin with ``low_priority``; each module stands alone.
"""
