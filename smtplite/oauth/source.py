"""What the sources share: a token is kept, and one task renews it for all who ask."""

from __future__ import annotations

import asyncio
import copy
import math
import os
import socket
import ssl
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, NoReturn

import anyio
import anyio.lowlevel
import attrs

from smtplite.errors import ConfigurationError, TokenError
from smtplite.oauth.endpoint import Endpoint, lifetime, one_line

__all__ = ["Token", "TokenSource"]

#: So long before its end a token is used no more; of a short life, a quarter.
_MARGIN_SECONDS: Final = 60.0


@attrs.frozen
class Token:
    """An access token, and how long it is used.

    Two clocks are used, because each is sometimes wrong: the monotonic one stands still while a machine sleeps, and the
    other one can be set. The token is too old as soon as one of them says so.
    """

    value: str = attrs.field(repr=False)
    until_monotonic: float
    until_wall: float
    refresh_token: str | None = attrs.field(repr=False)

    @classmethod
    def of(cls, answer: Mapping[str, Any], asked_monotonic: float, asked_wall: float) -> Token:
        """Take it from an answer; its life is counted from the moment in which it was asked for."""
        life = lifetime(answer) or 0.0
        used = life - min(_MARGIN_SECONDS, life / 4) if life != math.inf else life
        return cls(answer["access_token"], asked_monotonic + used, asked_wall + used, answer.get("refresh_token"))

    @property
    def is_fresh(self) -> bool:
        """True as long as it is used."""
        return time.monotonic() < self.until_monotonic and time.time() < self.until_wall


#: asyncio itself holds its tasks by weak references.
_DETACHED: Final[set[asyncio.Task[None]]] = set()


def _detach(run: Callable[[], Awaitable[None]]) -> None:
    """Run something in a task that is not ended with whoever asked for it."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        trio.lowlevel.spawn_system_task(run)
        return

    async def running() -> None:
        await run()

    task = asyncio.get_running_loop().create_task(running())
    _DETACHED.add(task)
    task.add_done_callback(_DETACHED.discard)


class _Fetch:
    """One renewal, for which any number of tasks wait.

    It has a task of its own, bounded in time: a caller that is cancelled takes the token away from nobody, and an
    answer that brings a new refresh token is not lost. Each who waits gets an error of its own.
    """

    def __init__(self) -> None:
        self._loop = anyio.lowlevel.current_token()
        self._done = anyio.Event()
        self._token: Token | None = None
        self._error: TokenError | None = None
        self._cause: BaseException | None = None

    @property
    def is_here(self) -> bool:
        """False on another event loop than the one on which it began: that one may have ended."""
        return self._loop == anyio.lowlevel.current_token()

    async def run(self, source: TokenSource) -> None:
        """Renew the token of a source; raise nothing."""
        try:
            self._token = source._kept = await source._renew()
        except TokenError as error:
            self._error, self._cause = error, error.__cause__
        except Exception as error:  # noqa: BLE001 (told to everybody who waits; a system task of trio must not fail)
            self._error = TokenError(
                f"token could not be fetched: {type(error).__name__} in authlib or httpx2: report it", phase="auth"
            )
        finally:
            if source._fetch is self:
                source._fetch = None
            self._done.set()

    async def result(self) -> str:
        """Wait for the end of it.

        Raises:
            TokenError: there is no token.
        """
        await self._done.wait()
        if self._token is not None:
            return self._token.value
        error = copy.copy(self._error) or TokenError(
            "token was not fetched, because the event loop is ending: ask again", phase="auth", is_transient=True
        )
        raise error from self._cause


def _library() -> Any:
    """Load what the extra brings; return authlib's clients.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import httpx2  # noqa: F401 (first: authlib would take the older httpx in its place, and warn)
        from authlib.integrations import httpx_client
    except ImportError as error:
        raise ConfigurationError(
            f"smtplite.oauth needs {error.name}: install it with pip install 'smtplite[oauth]'"
        ) from error
    return httpx_client


class TokenSource(ABC):
    """What the three sources share: a token is kept until shortly before it expires, and fetched once for all who ask.

    A source is the async function that `sasl.XOAuth2` and `sasl.OAuthBearer` accept as their token. It belongs to one
    event loop at a time, opens a connection only to fetch a token, and does not have to be closed.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._context = endpoint.context
        self._clients = _library()
        self._kept: Token | None = None
        self._fetch: _Fetch | None = None

    async def __call__(self, refresh: bool = False) -> str:
        """Return an access token.

        Args:
            refresh: the last one was rejected: fetch a new one.

        Raises:
            TokenError: there is none; nothing has changed, and the next call tries again.
        """
        kept = self._kept
        if not refresh and kept is not None and kept.is_fresh:
            return kept.value
        fetch = self._fetch
        if fetch is None or not fetch.is_here:
            fetch = self._fetch = _Fetch()
            _detach(lambda: fetch.run(self))
        # One that is under way brings a token that is newer than any that was rejected.
        return await fetch.result()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name()!r}, {self._endpoint.host!r})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a secret and is not pickled or copied: make one in each process")

    @abstractmethod
    def _name(self) -> str:
        """Return who asks, which is no secret."""

    @abstractmethod
    async def _ask(self, options: dict[str, Any]) -> None:
        """Ask the endpoint, by a client of authlib's with these options."""

    async def _renew(self) -> Token:
        return await self._fetch_token()

    async def _fetch_token(self) -> Token:
        asked_monotonic, asked_wall = time.monotonic(), time.time()
        answers: list[dict[str, Any]] = []
        failure: Exception | None = None
        if self._context is None:  # at first use, once, as the Client does
            self._context = ssl.create_default_context()
            self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            with anyio.fail_after(self._endpoint.timeout):
                await self._ask(self._endpoint.options(self._context, answers.append))
        except Exception as error:  # noqa: BLE001 (told apart below, outside: a traceback from here would hold the form)
            failure = error
        if failure is not None:
            raise self._told(failure)
        return Token.of(answers[-1], asked_monotonic, asked_wall)

    def _told(self, failure: Exception) -> TokenError:
        """Return an error of ours, which holds nothing of the request, for one of the library's."""
        import httpx2

        host = self._endpoint.host
        if isinstance(failure, TokenError):
            return copy.copy(failure)
        if isinstance(failure, TimeoutError):
            return TokenError(
                f"token endpoint {host} did not answer within {self._endpoint.timeout:g} s: try again later, or pass "
                "a longer timeout=",
                phase="auth",
                is_transient=True,
            )
        if isinstance(failure, (httpx2.HTTPError, OSError)):
            if any(isinstance(error, ssl.SSLCertVerificationError) for error in _chain(failure)):
                return TokenError(
                    f"token endpoint {host} has a certificate that is not trusted: {one_line(str(failure))}: check "
                    "token_endpoint=, or pass a tls_context= that trusts it",
                    phase="auth",
                )
            reason = _reason(failure)
            return TokenError(
                f"token endpoint {host} cannot be reached: {reason}: check token_endpoint= and the network",
                phase="auth",
                is_transient=True,
            )
        return TokenError(
            f"token endpoint {host} answered with fields that authlib cannot read ({type(failure).__name__}): check "
            "token_endpoint=",
            phase="auth",
        )


def _reason(failure: Exception) -> str:
    """Return the system's own words, where there are any: "All connection attempts failed" says nothing."""
    reason = str(failure)
    for error in _chain(failure):
        if isinstance(error, (socket.gaierror, ssl.SSLError)):
            reason = error.strerror or str(error)
        elif isinstance(error, OSError) and error.errno:
            reason = os.strerror(error.errno)
    return one_line(reason) or type(failure).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error.__context__
