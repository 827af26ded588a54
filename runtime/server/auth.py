"""API keys: asked for on every route but the two that say whether the server lives.

Keys are compared as digests and in constant time, each of them always, so that the time of an
answer tells neither which key nor how much of it was right. Beside ``Authorization: Bearer KEY``,
which clients send, ``Basic`` with the key as password is taken, which browsers can ask their user
for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

from .http_errors import ApiError
from .watch import App, Receive, Scope, Send, record_of

OPEN_PATHS = frozenset(("/health", "/ready"))
# Browsers ask their user for a key if this is the first scheme of its header; others do not look.
_CHALLENGE = 'Basic realm="graphopt", charset="UTF-8"'


class Auth:
    """An ASGI layer that lets through who knows a key, and puts its digest into the scope.

    Args:
        app: the app inside.
        keys: any of them opens it; none leaves it open.
    """

    def __init__(self, app: App, keys: Iterable[str]) -> None:
        self._app = app
        self._digests = tuple(_digest(key.encode()) for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it with 401."""
        if scope["type"] == "http" and self._digests and scope["path"] not in OPEN_PATHS:
            known = self._known(scope)
            if known is None:
                error = ApiError(
                    401,
                    "the request shows no API key that is valid: send Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"www-authenticate": _CHALLENGE},
                )
                record_of(scope).refused(401, "no valid API key")
                await error.response()(scope, receive, send)
                return
            scope.setdefault("state", {})["key"] = known
        await self._app(scope, receive, send)

    def _known(self, scope: Scope) -> bytes | None:
        """The digest of the key that the request shows, if that is one of the keys."""
        given = _digest(_credential(scope))
        found = None
        for digest in self._digests:  # all of them, whatever was found
            if hmac.compare_digest(digest, given):
                found = digest
        return found


def key_of(scope: Scope) -> bytes:
    """The digest of the key that the request came with; empty if keys are not asked for."""
    key = scope.get("state", {}).get("key", b"")
    return key if isinstance(key, bytes) else b""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _credential(scope: Scope) -> bytes:
    """What the Authorization header holds; empty if there is none, or more than one."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        return b""
    scheme, _, rest = bytes(values[0]).partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""
