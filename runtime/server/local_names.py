"""A server that only this machine reaches, and that asks for no key, answers to local names alone.

Pages of the web that a browser on this machine shows can have their own name lead to 127.0.0.1, and
would then be served like the page at ``/``. Their name is in the Host header, though, and is one
that the public DNS knows: it has a dot, and is no address.
"""

from __future__ import annotations

import ipaddress

from .http_errors import ApiError
from .watch import App, Receive, Scope, Send, record_of

# Top-level names that no one can register.
_LOCAL = ("localhost", "local", "internal", "test", "home.arpa", "localdomain")


class LocalNames:
    """An ASGI layer that refuses requests under names of the public DNS, with 421.

    Args:
        app: the app inside.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "http" and not all(map(is_local, _hosts(scope))):
            error = ApiError(
                421,
                "the server has no key and answers to local names alone, and the Host header has "
                "another: start it with a key, or let the proxy before it send Host: localhost",
                code="not_a_local_name",
            )
            record_of(scope).refused(421, "not a local name")
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _hosts(scope: Scope) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]


def is_local(host: str) -> bool:
    """Whether a Host header names no machine of the public DNS."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    name = name.rstrip(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(tuple(f".{one}" for one in _LOCAL))
    return True
