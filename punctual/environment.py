"""What the environment says of the way to a server: proxies and certificates, as curl heeds them.

``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` name proxies; ``SSL_CERT_FILE`` and
``SSL_CERT_DIR`` the authorities that certificates are checked by.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_CERTIFICATES = "SSL_CERT_FILE, SSL_CERT_DIR"


@contextmanager
def usable_environment() -> Iterator[None]:
    """Turn what a client cannot use of the environment into a ValueError that says of what."""
    try:
        yield
    except ImportError as error:  # of a proxy of another kind than HTTP
        raise ValueError(f"the proxy that the environment names cannot be used: {error}") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise ValueError(f"certificates cannot be read ({_CERTIFICATES}): {why}") from error


def url_and_proxy(url: str) -> str:
    """Return ``url``, and, if there is one, the proxy it is reached through, without a password."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme, proxies.get("all"))
    if not proxy or proxy_bypass(parts.hostname or ""):
        return url
    return f"{url} (through {proxy.rpartition('@')[2]}, as HTTP_PROXY and the like say)"
