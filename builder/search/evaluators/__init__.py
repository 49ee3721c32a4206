"""What tells how accurate the exits of a detector with some pyramid are, each in its own way.

Depends on ``builder.config``, ``builder.modeling``, ``builder.training`` and ``serving.core``.
Begin with ``base``, then ``training``.
"""
