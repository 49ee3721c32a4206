"""Studies of servers on this machine and of simulated fleets, one folder each.

Each has a module ``study``, or one for each of its parts, and mostly a ``report``. Depends on no
other package by itself. Begin with ``decisions``, the smallest.
"""
