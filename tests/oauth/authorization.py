"""An authorization server on loopback: authlib's server side (RFC 6749, 7523, 7662), and what a broken one says.

It runs in threads of its own, so that clients on any event loop can talk to it::

    with AuthorizationServer() as server:
        source = ClientCredentials(token_endpoint=server.token_endpoint, client_id=CLIENT_ID, ...)

The clients, the users and the service account are fixed: see the constants. `GOOGLE_KEY` is what the file of a key of
Google's holds.
"""

from __future__ import annotations

import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, MutableMapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qsl

import attrs
from authlib.oauth2 import AuthorizationServer as _Authlib
from authlib.oauth2.rfc6749 import ClientMixin, OAuth2Request, TokenMixin
from authlib.oauth2.rfc6749.errors import InvalidScopeError
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant, RefreshTokenGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7523 import JWTBearerGrant
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from joserfc.jwk import RSAKey

USER: Final = "me@example.org"
CLIENT_ID: Final = "the-client"
#: With all that a form, a URL or Basic would have to encode.
CLIENT_SECRET: Final = "cl1ent+s3cret/=&%~ \u00e4"
PUBLIC_CLIENT_ID: Final = "the-public-client"
#: May ask about tokens.
RESOURCE_SERVER: Final = ("the-mail-server", "its-secret")
REFRESH_TOKEN: Final = "r3fresh+t0ken/="
SERVICE_ACCOUNT: Final = "mailer@project.iam.gserviceaccount.com"
KEY_ID: Final = "the-key"
SCOPE: Final = "https://mail.google.com/"
PATIENCE_SECONDS: Final = 20.0


@cache
def private_key() -> RSAKey:
    """Make the service account's key."""
    return RSAKey.generate_key(2048, {"kid": KEY_ID, "use": "sig"})


def google_key(token_endpoint: str) -> dict[str, str]:
    """Return what is in the JSON file of a service account's key."""
    return {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": KEY_ID,
        "private_key": private_key().as_pem(private=True).decode(),
        "client_email": SERVICE_ACCOUNT,
        "client_id": "1234",
        "token_uri": token_endpoint,
    }


@attrs.frozen
class _Client(ClientMixin):  # type: ignore[misc]  # authlib has no types
    client_id: str
    secret: str | None

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or ""

    def check_client_secret(self, client_secret: str) -> bool:
        return self.secret is not None and secrets.compare_digest(self.secret.encode(), client_secret.encode())

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        return (method == "none") == (self.secret is None)

    def check_grant_type(self, _grant_type: str) -> bool:
        return True


@attrs.define(eq=False)
class _Issued(TokenMixin):  # type: ignore[misc]  # likewise
    access_token: str
    refresh_token: str | None
    client_id: str
    user: str
    scope: str
    expires_at: float
    revoked: bool = False

    def check_client(self, client: _Client) -> bool:
        return self.client_id == client.client_id

    def get_scope(self) -> str:
        return self.scope

    def is_expired(self) -> bool:
        return time.time() >= self.expires_at

    def is_revoked(self) -> bool:
        return self.revoked


class _ClientCredentials(ClientCredentialsGrant):  # type: ignore[misc]  # likewise
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_post",)


class _RefreshToken(RefreshTokenGrant):  # type: ignore[misc]  # likewise
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_post", "none")

    @property
    def INCLUDE_NEW_REFRESH_TOKEN(self) -> bool:  # noqa: N802 (authlib's name)
        return bool(self.server.owner.rotates)

    def authenticate_refresh_token(self, refresh_token: str) -> _Issued | None:
        return self.server.owner.refresh_tokens.get(refresh_token)  # type: ignore[no-any-return]  # likewise

    def authenticate_user(self, refresh_token: _Issued) -> str:
        return refresh_token.user

    def revoke_old_credential(self, refresh_token: _Issued) -> None:
        if self.server.owner.rotates:
            del self.server.owner.refresh_tokens[refresh_token.refresh_token]


class _JWTBearer(JWTBearerGrant):  # type: ignore[misc]  # likewise
    def resolve_issuer_client(self, issuer: str) -> _Client | None:
        return _Client(issuer, None) if issuer == SERVICE_ACCOUNT else None

    def resolve_client_public_key(self, _client: _Client) -> RSAKey:
        return private_key()

    def get_audiences(self) -> list[str]:
        return [self.server.owner.token_endpoint]

    def process_assertion_claims(self, assertion: str) -> Any:
        claims = super().process_assertion_claims(assertion)
        if claims["exp"] - claims["iat"] > 3600 or claims.get("scope") != SCOPE:  # as Google does it
            raise InvalidScopeError
        return claims

    def authenticate_user(self, subject: str) -> str | None:
        return subject if subject == self.server.owner.user else None

    def has_granted_permission(self, _client: _Client, _user: str) -> bool:
        return True


class _Introspection(IntrospectionEndpoint):  # type: ignore[misc]  # likewise
    CLIENT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

    def check_permission(self, _token: _Issued, client: _Client, _request: object) -> bool:
        return client.client_id == RESOURCE_SERVER[0]

    def query_token(self, token: str, _hint: str | None) -> _Issued | None:
        return self.server.owner.issued.get(token)  # type: ignore[no-any-return]  # likewise

    def introspect_token(self, token: _Issued) -> dict[str, object]:
        return {
            "active": True,
            "username": token.user,
            "scope": token.scope,
            "client_id": token.client_id,
            "token_type": "Bearer",
            "exp": int(token.expires_at),
        }


class _Server(_Authlib):  # type: ignore[misc]  # likewise
    """The authorization server as authlib wants it described."""

    def __init__(self, owner: AuthorizationServer) -> None:
        super().__init__()
        self.owner = owner
        self.register_token_generator(
            "default",
            BearerTokenGenerator(
                lambda *_, **__: f"acc3ss.{secrets.token_urlsafe(24)}",
                lambda *_, **__: f"r3fresh.{secrets.token_urlsafe(24)}",
                lambda *_: owner.expires_in,
            ),
        )
        for grant in (_ClientCredentials, _RefreshToken, _JWTBearer):
            self.register_grant(grant)
        self.register_endpoint(_Introspection)

    def query_client(self, client_id: str) -> _Client | None:
        known = {CLIENT_ID: CLIENT_SECRET, PUBLIC_CLIENT_ID: None, RESOURCE_SERVER[0]: RESOURCE_SERVER[1]}
        return _Client(client_id, known[client_id]) if client_id in known else None

    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        self.owner.note(token, request.client.client_id, request.user or self.owner.user)

    def create_oauth2_request(self, request: OAuth2Request) -> OAuth2Request:
        return request

    def handle_response(self, status: int, payload: object, headers: list[tuple[str, str]]) -> Answer:
        body = payload if isinstance(payload, str) else json.dumps(payload)
        return Answer(body.encode(), status=status, headers=dict(headers))

    def send_signal(self, *_: object, **__: object) -> None:
        pass


class _Request(OAuth2Request):  # type: ignore[misc]  # likewise
    @property
    def form(self) -> dict[str, str]:
        return self.payload.data  # type: ignore[no-any-return]  # likewise


@attrs.frozen
class Answer:
    """An HTTP response; None as its status: the connection is closed without one."""

    body: bytes = b""
    status: int | None = attrs.field(default=200, kw_only=True)
    headers: dict[str, str] = attrs.field(factory=lambda: {"Content-Type": "application/json"}, kw_only=True)
    #: Close after so many bytes of the body, though more were announced.
    cut: int | None = attrs.field(default=None, kw_only=True)


class AuthorizationServer:
    """Issues tokens, and tells a mail server about them.

    Args:
        tls_context: serve https with it.
        mailboxes: is told of each token that is issued: user name -> access token.
        user: whose tokens they are.

    Attributes:
        forms: what each request to the token endpoint held, in order.
        expires_in: the life of a token, in seconds; None: it is not said.
        rotates: whether each use of a refresh token brings a new one, and ends the old.
        answer: in place of the true answers: None, or a function of the form, which may return None for the true one.
    """

    def __init__(
        self,
        *,
        tls_context: ssl.SSLContext | None = None,
        mailboxes: MutableMapping[str, str] | None = None,
        user: str = USER,
    ) -> None:
        self.user = user
        self.forms: list[dict[str, str]] = []
        self.introspected: list[str] = []
        self.expires_in: int | None = 3600
        self.rotates = False
        self.answer: Callable[[dict[str, str]], Answer | None] | None = None
        self.mailboxes = {} if mailboxes is None else mailboxes
        self.issued: dict[str, _Issued] = {}
        self.refresh_tokens = {
            REFRESH_TOKEN: _Issued("", REFRESH_TOKEN, CLIENT_ID, user, SCOPE, 0.0),
            f"public {REFRESH_TOKEN}": _Issued("", f"public {REFRESH_TOKEN}", PUBLIC_CLIENT_ID, user, SCOPE, 0.0),
        }
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._authlib = _Server(self)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._scheme = "http"
        if tls_context is not None:
            self._scheme = "https"
            self._http.socket = tls_context.wrap_socket(
                self._http.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=lambda: self._http.serve_forever(0.01), daemon=True)

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def token_endpoint(self) -> str:
        return f"{self.url}/token"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(PATIENCE_SECONDS)

    def hold(self) -> None:
        """Answer no request until `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def revoke(self, token: str) -> None:
        """End a token, as an administrator does."""
        self.issued[token].revoked = True

    def note(self, token: dict[str, Any], client_id: str, user: str) -> None:
        """Remember a token that is issued."""
        expires_at = time.time() + (3600 if self.expires_in is None else self.expires_in)
        if self.expires_in is None:
            token.pop("expires_in", None)
        issued = _Issued(token["access_token"], token.get("refresh_token"), client_id, user, SCOPE, expires_at)
        self.issued[issued.access_token] = issued
        if issued.refresh_token is not None:
            self.refresh_tokens[issued.refresh_token] = issued
        self.mailboxes[user] = issued.access_token

    def respond(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Answer a request."""
        form = dict(parse_qsl(body.decode()))
        request = _Request(method, f"https://127.0.0.1{path}", headers=headers)  # it insists on https
        request.payload = BasicOAuth2Payload(form)
        if path == "/introspect":
            with self._lock:
                self.introspected.append(form.get("token", ""))
                return self._authlib.create_endpoint_response("introspection", request)  # type: ignore[no-any-return]  # likewise
        with self._lock:
            self.forms.append(form)
        if not self._open.wait(PATIENCE_SECONDS):
            return Answer(status=None)
        if self.answer is not None and (answer := self.answer(form)) is not None:
            return answer
        with self._lock:
            return self._authlib.create_token_response(request)  # type: ignore[no-any-return]  # likewise

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            timeout = PATIENCE_SECONDS

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.reply(owner.respond("POST", self.path, dict(self.headers), body))

            def reply(self, answer: Answer) -> None:
                self.close_connection = True
                if answer.status is None:
                    return
                try:
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(answer.body)))
                    self.end_headers()
                    self.wfile.write(answer.body[: answer.cut])
                except OSError:
                    pass  # the client may leave when it likes

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's name)
                pass

        return Handler
