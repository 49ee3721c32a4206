"""Every way a command of ``punctual`` can end without having done what it was asked for.

    CommandError            a mistake of whoever typed it: an option, a setting, or a file, model or
    |                       program it names is not there or cannot be used
    |- InvalidArgument      a text or a number that no command could use
    |- MissingExtra         a package that the command needs is not installed
    |- CommandFailed        what was asked for is right, and could not be done
    '- CommandStopped       it was told to end before its end, or nobody reads its output any longer

An error class of this project that is to end a command derives from one of these, nothing else
does; whatever else is raised is a defect and ends in a traceback. ``serving.__main__`` alone says
them and exits with their code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

MISTAKE, FAILURE = 2, 1
"""Exit codes; the first is also that of options which argparse refuses."""
STOPPED, UNREAD, TERMINATED = 130, 141, 143
"""Exit codes after Ctrl-C, a pipe that nobody reads and SIGTERM: as a shell has them, 128 and the
signal's number."""

EXIT_CODES = {
    0: "done",
    FAILURE: "failed: what was asked for could not be done, or a measurement did not pass",
    MISTAKE: "used wrongly: a wrong option, setting or file, or a missing extra",
    STOPPED: "stopped by Ctrl-C; build, train and ablate also by SIGTERM",
    UNREAD: "stopped because the program that read its output ended, as head does",
    TERMINATED: "stopped by SIGTERM",
}
"""Exit code -> what it says of a command."""


class CommandError(Exception):
    """A command was asked for something wrong; the message is one sentence for who asked."""

    exit_code = MISTAKE

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, a sentence each."""
        return (str(self),)


class InvalidArgument(CommandError, ValueError):
    """A value that a user gave cannot be used."""


class MissingExtra(CommandError):
    """A package is not installed; the message says what installs it."""


class CommandFailed(CommandError):
    """What was asked for could not be done; the message is one sentence for who asked."""

    exit_code = FAILURE


class CommandStopped(CommandError):
    """A command was stopped; the message says how it goes on, if it does."""

    def __init__(self, message: str, exit_code: int = STOPPED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. What a command has started ends as it does at Ctrl-C."""


class OutputUnread(CommandStopped):
    """What read the standard output has ended, which is nothing to tell anybody."""

    problems = ()

    def __init__(self) -> None:
        super().__init__("nobody reads the output", UNREAD)


WRONG_PATHS = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
"""What the operating system says of a path that should have been another."""


@contextmanager
def invalid_arguments() -> Iterator[None]:
    """Turn a ValueError into an InvalidArgument.

    It is for calls that check nothing but what a user gave.
    """
    try:
        yield
    except CommandError:
        raise
    except ValueError as error:
        raise InvalidArgument(str(error)) from error


@contextmanager
def stoppable(how: str = "the same command goes on") -> Iterator[None]:
    """Turn Ctrl-C into a CommandStopped that says how the command goes on, or that it does not."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        raise CommandStopped(f"stopped; {how}") from stopped


def error_text(error: Exception) -> str:
    """Return what an error says; of one of the operating system, after the name of its file."""
    if not isinstance(error, OSError):
        return str(error)
    if error.filename is None or error.strerror is None:
        return error.strerror or str(error)
    return f"{error.filename}: {error.strerror}"


@contextmanager
def files_of_the_user() -> Iterator[None]:
    """Turn an OSError into a CommandError, or into a CommandFailed.

    The first where the path is wrong, the second where the machine is (a full disk). It is for the
    part of a command that reads and writes what its user named. A pipe that nobody reads is left
    for ``serving.__main__``.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except WRONG_PATHS as error:
        raise CommandError(error_text(error)) from error
    except OSError as error:
        raise CommandFailed(error_text(error)) from error
