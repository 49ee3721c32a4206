"""Keys of principals: how one is made, and the file that says who holds which.

    [[principal]]
    name = "camera-7"
    sha256 = "9f86d0..."      one digest, or several while a key is being replaced
    share = 2.0
    rate = 20.0
    max_requests = 8
    min_budget_ms = 40
    admin = false

The same as JSON is ``{"principal": [{"name": ..., ...}]}``. The file has digests alone: who reads
it cannot ask for anything. A key is 256 random bits, so that its plain SHA-256 cannot be inverted.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from serving.core.command_errors import CommandError, InvalidArgument
from serving.core.principals import Principal

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
"""What names of principals look like."""
MAX_FILE_BYTES = 2**20
MAX_LINE_BYTES = 512
"""Length of a line of TOML: names of names, with dots, take a time that grows as its square."""
MAX_PRINCIPALS = 1000
"""Number of principals in one file, each of which has series of its own among the metrics."""
MAX_KEYS = 4
"""Number of keys of one principal: two while one is replaced, and some to spare."""
MAX_KEY_BYTES = 512
"""Length of what is looked at as a key."""
KEY_PREFIX = "punctual_"
"""Beginning of keys that are made here, for people and for tools that look for lost secrets."""
_KEY_BYTES = 32
_BLIND_BYTES = 32
_OF_NOTHING = hashlib.sha256(b"").hexdigest()
_SHOWN = 200
"""Most characters that are said of a file that cannot be used."""


def new_key() -> str:
    """Return a new key."""
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def digest_of(key: bytes) -> str:
    """Return what a key file has of a key: its SHA-256, in hexadecimal digits."""
    return hashlib.sha256(key).hexdigest()


def new_entry(name: str) -> tuple[str, str]:
    """Return a new key for the principal called ``name``, and its entry for a key file (TOML).

    Raises InvalidArgument for what cannot be a name.
    """
    if not re.fullmatch(NAME, name):
        raise InvalidArgument(
            f"{name!r} cannot be a name: it takes 1 to 63 letters, digits, dots, dashes and "
            "underscores, the first of them a letter or a digit"
        )
    key = new_key()
    return key, f'[[principal]]\nname = "{name}"\nsha256 = "{digest_of(key.encode())}"'


class KeyFileError(CommandError):
    """Error of a key file that cannot be used; the message is a sentence that names it."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def _listed(given: object) -> object:
    return [given] if isinstance(given, str) else given


_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Entry(_Strict):
    """One principal, as its file has it."""

    name: str = Field(pattern=rf"^{NAME}$")
    sha256: Annotated[
        list[_Digest], BeforeValidator(_listed), Field(min_length=1, max_length=MAX_KEYS)
    ]
    share: float = Field(1.0, ge=0.001, le=1000)
    rate: float | None = Field(None, gt=0, le=1e6)
    max_requests: int | None = Field(None, ge=1, le=1_000_000)
    min_budget_ms: float = Field(0.0, ge=0, le=600_000)
    admin: bool = False

    def principal(self) -> Principal:
        return Principal(
            self.name,
            self.name,
            self.share,
            self.rate,
            self.max_requests,
            self.min_budget_ms / 1e3,
            self.admin,
        )


class _File(_Strict):
    principal: list[_Entry] = Field(min_length=1, max_length=MAX_PRINCIPALS)


class Keyring:
    """The principals of one key file, by what they show.

    Neither how long a search takes nor where it ends tells anything of a key: what is compared are
    digests under a secret of this process, which nobody outside can aim at.
    """

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        """Make a keyring of principals by the SHA-256 of their keys, in hexadecimal digits."""
        self._blind = secrets.token_bytes(_BLIND_BYTES)
        self._principals = {
            self._blinded(bytes.fromhex(digest)): principal
            for digest, principal in principals.items()
        }
        self.principals = tuple({p.name: p for p in principals.values()}.values())

    def find(self, key: bytes) -> Principal | None:
        """Return who holds ``key``; None if nobody does."""
        if len(key) > MAX_KEY_BYTES:
            return None
        return self._principals.get(self._blinded(hashlib.sha256(key).digest()))

    def _blinded(self, digest: bytes) -> bytes:
        return hmac.digest(self._blind, digest, "sha256")


def read_keys(path: Path) -> Keyring:
    """Return the keyring in a file. Raises KeyFileError, whose sentence has no digest in it."""
    content = _content(path)
    is_json = path.suffix == ".json"
    if not is_json and any(len(line) > MAX_LINE_BYTES for line in content.split(b"\n")):
        raise KeyFileError(f"the key file {path} has a line of more than {MAX_LINE_BYTES} bytes")
    try:
        parse = json.loads if is_json else tomllib.loads
        entries = _File.model_validate(parse(content.decode("utf-8"))).principal
    except ValidationError as error:
        raise KeyFileError(f"the key file {path}: {_sentence(error)}") from None
    except (ValueError, RecursionError) as error:
        why = str(error)[:_SHOWN]
        raise KeyFileError(f"the key file {path} cannot be parsed: {why}") from None
    return Keyring(_by_digest(path, entries))


def _content(path: Path) -> bytes:
    """Return what is in a file. Raises KeyFileError for what is none, or too large."""
    try:
        # A pipe would be waited for until somebody writes.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise KeyFileError(f"the key file {path} is no file")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise KeyFileError(f"the key file {path} has more than {MAX_FILE_BYTES} bytes")
    return content


def _by_digest(path: Path, entries: list[_Entry]) -> dict[str, Principal]:
    """Return the principals by digest. Raises KeyFileError where a name or a key is there twice."""
    names: set[str] = set()
    found: dict[str, Principal] = {}
    for entry in entries:
        if entry.name in names:
            raise KeyFileError(f"the key file {path} has two principals called {entry.name}")
        names.add(entry.name)
        for digest in entry.sha256:
            if digest == _OF_NOTHING:
                raise KeyFileError(
                    f"the key file {path} has the SHA-256 of no byte at all for {entry.name}, as "
                    "of a variable that was not set: anybody could show that"
                )
            if digest in found:
                raise KeyFileError(
                    f"the key file {path} has one key twice, of {found[digest].name} and "
                    f"{entry.name}"
                )
            found[digest] = entry.principal()
    return found


def _sentence(error: ValidationError) -> str:
    """Return the first thing that is wrong, and where."""
    problem: Any = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(_place, problem["loc"]))
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])


def _place(part: int | str) -> str:
    """Return a step on the way to what is wrong; what could be anything is quoted."""
    text = str(part)
    is_plain = len(text) <= _SHOWN and re.fullmatch(r"\w+", text, re.ASCII)
    return text if is_plain else repr(text[:_SHOWN])
