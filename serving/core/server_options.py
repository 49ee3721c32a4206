"""What options of commands say of a server: its URL, and the file with the key to it."""

from __future__ import annotations

from urllib.parse import urlsplit

MAX_KEY_FILE_BYTES = 4096
"""Most bytes of a file that holds a key which are looked at."""


def is_server_url(url: str) -> bool:
    """Return whether something could be asked over HTTP at ``url``, plain or encrypted."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname)
        return is_complete and parts.port != 0 and url.isprintable()
    except ValueError:  # of a bracket, a port or a label that is none
        return False


def no_key(key_file: object) -> str:
    """Return what to say of a file that holds something else than a key."""
    return f"--key-file: {key_file} holds no key, or more than one"


def key_hint(key_file: object | None) -> str:
    """Return what to say behind a refusal for want of a key, or of another one."""
    if key_file is None:
        return "; --key-file FILE shows the key in a file"
    return f"; the key is that of --key-file {key_file}"
