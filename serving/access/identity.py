"""Who sends a request, by the head of it: the holder of a key, an address, or anybody."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from serving.access.addresses import parse_address, site_of
from serving.access.keys import Keyring
from serving.core.errors import Unauthenticated
from serving.core.principals import NOBODY, Principal

BEARER = b"bearer "
KEY_PROTOCOL = b"punctual.key."
"""Beginning of the subprotocol that shows a key, which follows in base64url without padding.

Browsers let a page set nothing else of a WebSocket's handshake."""
KEY_HEADERS = (b"authorization", b"x-api-key")
_NUM_ADDRESSES = 4096
_MAX_NAME = 64

ADDRESS_LABEL = "address"
"""Label that all addresses are counted under."""

Identify = Callable[[Mapping[str, Any]], Principal]
"""Function from the scope of an HTTP request to its principal. Raises Unauthenticated."""


def by_nobody(_: Mapping[str, Any]) -> Principal:
    """Return one principal, the same for all."""
    return NOBODY


def by_address(scope: Mapping[str, Any]) -> Principal:
    """Return the principal of the client's address, as the HTTP server has it.

    Behind a proxy that it trusts, that is the address in ``X-Forwarded-For``.
    """
    client = scope.get("client")
    return _of_address(client[0] if client else "")


def by_key(keyring: Callable[[], Keyring]) -> Identify:
    """Return a function to the holder of the key in a request, by the keyring of the moment."""

    def identify(scope: Mapping[str, Any]) -> Principal:
        key = _key(scope["headers"])
        principal = keyring().find(key)
        if principal is None:
            raise Unauthenticated("The key is not one that is known here.")
        return principal

    return identify


@lru_cache(_NUM_ADDRESSES)
def _of_address(host: str) -> Principal:
    address = parse_address(host)
    # Without one: a socket of another kind, or what a proxy makes up.
    name = host[:_MAX_NAME] if address is None else site_of(address)
    return Principal(f"address {name}", ADDRESS_LABEL)


def _key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the key in a request's headers.

    Raises Unauthenticated if there is none, or more than one.
    """
    keys = set()
    for name, value in headers:
        if name == b"x-api-key":
            keys.add(value.strip())
        elif name == b"authorization":
            if value[: len(BEARER)].lower() != BEARER:
                raise Unauthenticated("The header Authorization must be: Bearer, a space, the key.")
            keys.add(value[len(BEARER) :].strip())
        elif name == b"sec-websocket-protocol":
            keys.update(_keys_of_page(value))
    if not keys:
        raise Unauthenticated(
            "This server asks for a key: Authorization: Bearer KEY, or X-API-Key: KEY."
        )
    if len(keys) > 1:
        raise Unauthenticated("There is more than one key in the request.")
    return keys.pop()


def _keys_of_page(protocols: bytes) -> Iterator[bytes]:
    """Yield the keys among the subprotocols that a handshake offers."""
    for protocol in protocols.split(b","):
        name = protocol.strip()
        if name.startswith(KEY_PROTOCOL):
            written = name[len(KEY_PROTOCOL) :]
            try:
                yield base64.b64decode(written + b"=" * (-len(written) % 4), b"-_", validate=True)
            except binascii.Error as error:
                raise Unauthenticated(
                    "The key in Sec-WebSocket-Protocol is no base64url."
                ) from error
