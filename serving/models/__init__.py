"""Models on disk, read, checked and opened: from a model repository to runners.

    source          versions of the model that a server has, and how each is opened
    trial           a version run in a process of its own before it may serve
    engine_process  runners that stay in a process of their own
    precision       which precision to open a model in, where none is asked for
    opening         runners of the runtime that is asked for
    repository      what the folders say, and whether their files are those that were built

Depends on ``serving.artifacts``, ``serving.core``, ``serving.imaging``, ``serving.runners`` and
``serving.system``. Begin with ``opening``.
"""
