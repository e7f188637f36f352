"""A token endpoint: where tokens are requested, and the checks of its answers.

What a provider says in its errors is passed on in its own words, without what was sent to it.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

import attrs

from smtplite.errors import ConfigurationError, TokenError

if TYPE_CHECKING:
    import httpx2

__all__ = ["MAX_RESPONSE_BYTES", "SEE_DATA", "Endpoint", "checked", "lifetime", "one_line"]

#: A token endpoint that answers with more is broken, or none. Tokens have a few thousand bytes.
MAX_RESPONSE_BYTES: Final = 65_536
#: What the provider says in its own words is cut here; `error_data` has all of it.
_MAX_WORDS: Final = 500
#: A shorter secret is not looked for in a text, where it would be told by its gaps: the text is left out.
_MIN_SOUGHT: Final = 6

# RFC 6750 2.1 allows fewer; what matters is that nothing ends the SASL field or the word
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_SECONDS: Final = re.compile(r"[0-9]{1,12}")
#: Fields of a request's form that nobody may read elsewhere.
_SECRET_FIELDS: Final = frozenset({"client_secret", "refresh_token", "assertion"})
#: What an answer that is an error may say about it (RFC 6749 5.2, and Microsoft's); the rest is dropped.
_ERROR_FIELDS: Final = (
    "error",
    "error_description",
    "error_uri",
    "error_subtype",
    "suberror",
    "error_codes",
    "timestamp",
    "trace_id",
    "correlation_id",
)
#: Errors that may be gone the next time.
_TRANSIENT_ERRORS: Final = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
_TRANSIENT_STATUS: Final = frozenset({408, 425, 429})

_REMEDIES: Final = {
    "invalid_client": "check client_id= and client_secret=, which may have expired",
    "unauthorized_client": "have the administrator give this client the right to use the scope",
    "access_denied": "have the administrator give this client the right to use the scope",
    "invalid_scope": "check scope=",
}
SEE_DATA: Final = "error_data has all that it said"


def checked(argument: str, value: object) -> str:
    """Return an argument that is a text, and not empty.

    Raises:
        ConfigurationError: it is not one; the error does not show it, because it may be a secret.
    """
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{argument} must be a non-empty str, not {_shown(value)}")
    if not value.isprintable():
        raise ConfigurationError(f"{argument} holds a line ending or another control character: take it out")
    return value


def _shown(value: object) -> str:
    """Name what was given without showing it."""
    return "an empty one" if value == "" else type(value).__name__


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@attrs.frozen
class Endpoint:
    """Where tokens are asked for, and within which limits."""

    url: str
    host: str
    is_loopback: bool
    timeout: float
    context: ssl.SSLContext | None = attrs.field(repr=False)
    remedy: str

    @classmethod
    def of(cls, url: str, timeout: float, context: ssl.SSLContext | None, remedy: str) -> Endpoint:
        """Check what the caller passed.

        Args:
            url: the caller's token_endpoint.
            timeout: the caller's.
            context: the caller's tls_context.
            remedy: what to do about an invalid_grant.

        Raises:
            ConfigurationError: a secret would be sent unencrypted, or could not be sent at all.
        """
        checked("token_endpoint", url)
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            host = ""
        if not host or parts.scheme not in ("https", "http"):
            raise ConfigurationError("token_endpoint is not a URL: pass the one that the provider names, with https://")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise ConfigurationError("token_endpoint holds a user, a password or a fragment: leave it out")
        is_loopback = _is_loopback(host)
        if parts.scheme == "http" and not is_loopback:
            raise ConfigurationError(
                "token_endpoint is http://, which would show the secret to everybody on the way: pass https://"
            )
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
            raise ConfigurationError("timeout must be a positive number of seconds, and not infinite")
        if context is not None and not isinstance(context, ssl.SSLContext):
            raise ConfigurationError(f"tls_context must be an ssl.SSLContext, not {type(context).__name__}")
        if context is None and parts.scheme == "http":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # for nothing; to make the default one takes 20 ms
        return cls(url, host, is_loopback, timeout, context, remedy)

    def options(self, context: ssl.SSLContext, take: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Return the options for a client of authlib's that asks here.

        Args:
            context: what the endpoint's certificate is verified with.
            take: is given the answer, if it brings a token.
        """

        async def read(response: httpx2.Response) -> None:
            take(await self.read(response))

        return {
            "verify": context,
            "trust_env": not self.is_loopback,  # a proxy from the environment would get what http:// shows
            "follow_redirects": False,
            "timeout": None,  # one for the whole fetch, around it: each of httpx's begins anew with every byte
            # Not compressed: so the limit holds for what is read, too.
            "headers": {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "smtplite"},
            "event_hooks": {"response": [read]},
        }

    async def read(self, response: httpx2.Response) -> dict[str, Any]:
        """Return an answer that brings a token, checked.

        Raises:
            TokenError: it brings none.
        """
        status = response.status_code
        if 300 <= status < 400:
            self.fault(f"answered {status}, a redirect, which is not followed")
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
            self.fault("answered with compressed content, which was not asked for")
        response.stream = _bounded(response.stream, self)
        try:
            answer = json.loads(await response.aread())
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict) and isinstance(answer.get("error"), str) and answer["error"]:
            self._refuse(answer, status, _secrets_in(response.request))
        if status != 200:
            is_transient = status >= 500 or status in _TRANSIENT_STATUS
            self.fault(f"answered {status} without an error that can be read", is_transient=is_transient)
        if not isinstance(answer, dict):
            self.fault("did not answer with a JSON object")
        token = answer.get("access_token")
        if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
            self.fault("answered without an access_token that can be used")
        kind = answer.get("token_type", "bearer")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            self.fault("answered with a token whose token_type is not Bearer")
        if lifetime(answer) is None:
            self.fault("answered with an expires_in that is not a number of seconds")
        rotated = answer.get("refresh_token")
        if rotated is not None and (not isinstance(rotated, str) or not rotated.isprintable() or not rotated):
            self.fault("answered with a refresh_token that cannot be one")
        return answer

    def fault(self, what: str, *, is_transient: bool = False) -> NoReturn:
        """Raise what is wrong with an answer."""
        remedy = "try again later" if is_transient else "check token_endpoint="
        raise TokenError(f"token endpoint {self.host} {what}: {remedy}", phase="auth", is_transient=is_transient)

    def _refuse(self, answer: dict[str, Any], status: int, secrets: list[str]) -> NoReturn:
        data: dict[str, Any] = {name: answer[name] for name in _ERROR_FIELDS if name in answer}
        data = {name: _without(secrets, value) for name, value in data.items() if isinstance(value, (str, int, list))}
        words = one_line(data["error"])
        if isinstance(description := data.get("error_description"), str) and description:
            words += f": {one_line(description)}"
        remedy = self.remedy if answer["error"] == "invalid_grant" else _REMEDIES.get(answer["error"], SEE_DATA)
        error = TokenError(
            f"token endpoint {self.host} refused to give a token: {words}: {remedy}",
            phase="auth",
            is_transient=answer["error"] in _TRANSIENT_ERRORS or status >= 500 or status in _TRANSIENT_STATUS,
        )
        error.error_data = data
        raise error


def _bounded(stream: Any, endpoint: Endpoint) -> httpx2.AsyncByteStream:
    """Return a response's content, up to MAX_RESPONSE_BYTES."""
    from httpx2 import AsyncByteStream

    class Bounded(AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            count = 0
            async for piece in stream:
                count += len(piece)
                if count > MAX_RESPONSE_BYTES:
                    endpoint.fault(f"answered with more than {MAX_RESPONSE_BYTES} bytes")
                yield piece

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


def lifetime(answer: Mapping[str, Any]) -> float | None:
    """Return for how many seconds a token is good; infinity: the provider does not say; None: it says nonsense."""
    seconds = answer.get("expires_in")
    if seconds is None:
        return math.inf
    if isinstance(seconds, str) and _SECONDS.fullmatch(seconds):  # some send it so
        return float(seconds)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e12:
        return None
    return float(seconds)


def _secrets_in(request: httpx2.Request) -> list[str]:
    """Return the secrets of a request, in the forms in which an answer may repeat them."""
    fields = parse_qsl(request.content.decode("ascii", "replace"))
    secrets = [value for name, value in fields if name in _SECRET_FIELDS]
    return [form for secret in secrets for form in {secret, quote(secret, safe=""), quote_plus(secret)}]


def _without(secrets: list[str], value: Any) -> Any:
    """Return what the provider said without what we had sent, should it repeat it."""
    if isinstance(value, list):
        return [_without(secrets, item) for item in value if isinstance(item, (str, int))]
    if isinstance(value, str):
        for secret in secrets:
            if secret in value:
                value = "[redacted]" if len(secret) < _MIN_SOUGHT else value.replace(secret, "[redacted]")
    return value


def one_line(words: str) -> str:
    """Return the provider's words on one line, cut."""
    line = " ".join("".join(character if character.isprintable() else " " for character in words).split())
    return line if len(line) <= _MAX_WORDS else f"{line[:_MAX_WORDS]}..."
