"""Who may ask the page for something: every request passes here first.

Every web site that the user opens can reach a page that only this machine can reach: by a name that is made to point
here (DNS rebinding), by a form, by a picture. So the name is checked, and the origin of every request that changes
something.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response

from smtplite.cli.web.address import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard", "Token"]

#: Of our own pages. What shows a message has a stricter one.
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types fragment"
)
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-DNS-Prefetch-Control": "off",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
_READING: Final = {"GET", "HEAD"}
#: Needed to log in.
_OPEN: Final = ("/static/", "/session")


class Token:
    """What a browser or program on another machine must show.

    Args:
        secret: the token.
        port: of the page. Cookies do not tell ports apart, so the name of ours does.

    Attributes:
        secret: the token.
        cookie_name: of the cookie that stands for it.
        cookie: its value: not the token, but derived from it.
    """

    def __init__(self, secret: str, port: int) -> None:
        self.secret = secret
        self._secret = secret.encode("utf-8", "surrogateescape")
        self.cookie_name = f"smtplite_{port}"
        self.cookie = hmac.new(self._secret, b"smtplite serve --web: cookie", hashlib.sha256).hexdigest()

    def is_right(self, text: str) -> bool:
        """Say whether this is the token."""
        return hmac.compare_digest(text.encode("utf-8", "replace"), self._secret)

    def is_shown(self, headers: Headers) -> bool:
        """Say whether a request shows the token, or the cookie that stands for it."""
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_right(value.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.cookie_name)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode("utf-8", "replace"), self.cookie.encode())


class Guard:
    """Refuses requests that are not allowed, before the application sees them, and sets the headers of every response.

    Args:
        app: the application.
        hosts: names besides those of loopback.
        token: asked for, unless it is None.
        login: the page that asks a person for the token.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], token: Token | None, login: str) -> None:
        self._app = app
        self._hosts = {host.lower().strip("[]") for host in hosts}
        self._token = token
        self._login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", PAGE_POLICY)
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope["method"], scope["path"], headers)
        await (self._app if refusal is None else refusal)(scope, receive, send_with_headers)

    def _refusal(self, method: str, path: str, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return _refused(403, "this name is not served here: name it with --web-host")
        if method not in _READING:
            if headers.get("origin", "").lower() not in {f"http://{host.lower()}", f"https://{host.lower()}"}:
                return _refused(403, f"a request that changes something needs the header Origin: http://{host}")
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                return _refused(415, "a request that changes something needs the header Content-Type: application/json")
        elif headers.get("sec-fetch-site") in {"cross-site", "same-site"} and (
            headers.get("sec-fetch-mode") != "navigate" or headers.get("sec-fetch-dest") not in {"document", None}
        ):
            return _refused(403, "another site's page may not load this")
        if self._token is None or path.startswith(_OPEN) or self._token.is_shown(headers):
            return None
        if path.startswith("/api/") or path == "/openapi.json" or method not in _READING:
            return _refused(401, "this needs the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        return Response(self._login, 401, media_type="text/html")

    def _is_ours(self, host: str) -> bool:
        name = host.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        return is_loopback(name) or name in self._hosts


def _refused(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)
