"""The authorization server, and a guard that listens wherever a secret could leak."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import pytest

from tests.oauth.authorization import CLIENT_SECRET, REFRESH_TOKEN, AuthorizationServer, private_key

#: The server runs in this process, and logs what it issues. It is not what is tested.
SERVERS_LOGGERS = ("authlib.oauth2", "authlib.common")


@pytest.fixture
def server() -> Iterator[AuthorizationServer]:
    with AuthorizationServer() as serving:
        yield serving


class Guard:
    """Is given whatever a user could see, and looks for secrets in it."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.heard: list[str] = []

    def __call__(self, *things: object) -> None:
        for thing in things:
            self.heard += [str(thing), repr(thing)]
            if isinstance(thing, BaseException):
                self._error(thing)

    def _error(self, error: BaseException) -> None:
        self.heard.append(repr(pickle.dumps(error)))
        chain: BaseException | None = error
        while chain is not None:
            self.heard += [repr(chain.args), repr(vars(chain))]
            shown = traceback.TracebackException.from_exception(chain, capture_locals=True)
            # The frames of tests, whose own secrets they are, are left out.
            shown.stack = traceback.StackSummary.from_list([f for f in shown.stack if "/tests/" not in f.filename])
            self.heard += list(shown.format(chain=False))
            chain = chain.__cause__ or chain.__context__

    def check(self, *servers: AuthorizationServer) -> None:
        """Look for all that was ever secret."""
        secrets = [CLIENT_SECRET, REFRESH_TOKEN, private_key().as_pem(private=True).decode()[60:120]]
        for server in servers:
            secrets += [*server.issued, *server.refresh_tokens]
            secrets += [form["assertion"] for form in server.forms if "assertion" in form]
        heard = "\n".join([*self.heard, self._caplog.text])
        for secret in secrets:
            for form in (secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]):
                assert form not in heard


@pytest.fixture
def guard(server: AuthorizationServer, caplog: pytest.LogCaptureFixture) -> Iterator[Guard]:
    for name in SERVERS_LOGGERS:
        caplog.set_level(logging.CRITICAL, logger=name)
    caplog.set_level(logging.DEBUG)
    guarding = Guard(caplog)
    yield guarding
    guarding.check(server)
