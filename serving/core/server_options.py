"""What options of commands say of a server: its URL, and the file with the key to it."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

MAX_KEY_FILE_BYTES = 4096
"""Most bytes of a file that holds a key which are looked at."""


def server_url_parts(url: str) -> SplitResult | None:
    """Return the parts of a URL at which something could be asked over HTTP, plain or encrypted.

    They have a host, and a port other than 0 or none. None for anything else.
    """
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname)
        return parts if is_complete and parts.port != 0 and url.isprintable() else None
    except ValueError:  # of a bracket, a port or a label that is none
        return None


def other_server(url: str, path: str, answer: str) -> str:
    """Return what to say of a server that answers as none of Punctual's does."""
    return f"{url} is no server of Punctual: {path} answered {answer}"


def no_key(key_file: object) -> str:
    """Return what to say of a file that holds something else than a key."""
    return f"--key-file: {key_file} holds no key, or more than one"


def key_hint(key_file: object | None) -> str:
    """Return what to say behind a refusal for want of a key, or of another one."""
    if key_file is None:
        return "; --key-file FILE shows the key in a file"
    return f"; the key is that of --key-file {key_file}"
