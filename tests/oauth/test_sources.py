"""Token sources against a real authorization server: how long a token is kept, who fetches it, what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import copy
import gzip
import json
import pickle
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, quote_plus

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from smtplite import ConfigurationError, TokenError, oauth
from tests.exhaustive import examples
from tests.oauth.authorization import (
    CLIENT_ID,
    CLIENT_SECRET,
    KEY_ID,
    PUBLIC_CLIENT_ID,
    REFRESH_TOKEN,
    SCOPE,
    SERVICE_ACCOUNT,
    USER,
    Answer,
    AuthorizationServer,
    google_key,
    private_key,
)
from tests.oauth.conftest import Guard

pytestmark = pytest.mark.anyio
PATIENCE_SECONDS = 20.0


def client_credentials(server: AuthorizationServer, **options: object) -> oauth.ClientCredentials:
    options = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "scope": SCOPE, **options}
    return oauth.ClientCredentials(token_endpoint=server.token_endpoint, **options)  # type: ignore[arg-type]  # mixed


def refresh_token(server: AuthorizationServer, **options: object) -> oauth.RefreshToken:
    options = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "refresh_token": REFRESH_TOKEN,
        "on_rotated": None,
        **options,
    }
    return oauth.RefreshToken(token_endpoint=server.token_endpoint, **options)  # type: ignore[arg-type]  # mixed


def service_account(server: AuthorizationServer, **options: object) -> oauth.ServiceAccount:
    options = {"subject": USER, **options}
    return oauth.ServiceAccount.from_info(google_key(server.token_endpoint), **options)  # type: ignore[arg-type]  # mixed


SOURCES = [client_credentials, refresh_token, service_account]
each_source = pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)


class Clock:
    """Both clocks of the sources, each set by itself."""

    def __init__(self) -> None:
        self.monotonic_now = 1_000.0
        self.wall_now = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.monotonic_now

    def time(self) -> float:
        return self.wall_now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    standing = Clock()
    monkeypatch.setattr("smtplite.oauth.source.time", standing)
    return standing


async def until(is_true: Callable[[], object]) -> None:
    """Wait for another thread."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while not is_true():
            await anyio.lowlevel.checkpoint()


# A token, and how long it is kept


@each_source
async def test_each_source_gives_the_token_that_was_issued_and_keeps_it(
    make: Callable[..., oauth.TokenSource], server: AuthorizationServer, guard: Guard
) -> None:
    source = make(server)
    token = await source(False)
    assert list(server.issued) == [token]
    assert await source(False) == token
    assert len(server.forms) == 1
    guard(source)


async def test_a_client_without_a_secret(server: AuthorizationServer) -> None:
    source = refresh_token(
        server, client_id=PUBLIC_CLIENT_ID, client_secret=None, refresh_token=f"public {REFRESH_TOKEN}"
    )
    assert await source(False) in server.issued
    assert "client_secret" not in server.forms[0]


async def test_what_is_asked_for(server: AuthorizationServer) -> None:
    await client_credentials(server)(False)
    await refresh_token(server, scope=SCOPE)(False)
    await service_account(server)(False)
    assert [form.get("scope") for form in server.forms] == [SCOPE, SCOPE, None]
    assert [form["grant_type"] for form in server.forms] == [
        "client_credentials",
        "refresh_token",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
    ]


@pytest.mark.parametrize(
    ("life", "used"),
    [(3600, 3540.0), (120, 90.0), (40, 30.0), (None, float("inf"))],
    ids=["hour", "120", "40", "unsaid"],
)
@pytest.mark.parametrize("by", ["monotonic_now", "wall_now"])
async def test_a_token_is_used_until_shortly_before_its_end_by_whichever_clock_says_so_first(
    life: int | None, used: float, by: str, server: AuthorizationServer, clock: Clock
) -> None:
    """The monotonic clock stands still while a machine sleeps; the other one is set."""
    server.expires_in = life
    source = client_credentials(server)
    first = await source(False)
    begin = getattr(clock, by)
    setattr(clock, by, begin + min(used, 1e9) - 1)
    assert await source(False) == first
    if used == float("inf"):
        return  # a server that rejects it says so
    setattr(clock, by, begin + used)
    assert await source(False) != first
    assert len(server.forms) == 2


async def test_a_wall_clock_that_is_set_back_keeps_no_token_longer(server: AuthorizationServer, clock: Clock) -> None:
    source = client_credentials(server)
    first = await source(False)
    clock.wall_now -= 100_000
    clock.monotonic_now += 3_600
    assert await source(False) != first


async def test_a_life_is_counted_from_the_question(server: AuthorizationServer, clock: Clock) -> None:
    def slowly(_form: dict[str, str]) -> None:
        clock.monotonic_now += 3_600

    server.answer = slowly
    source = client_credentials(server)
    first = await source(False)
    server.answer = None
    assert await source(False) != first


async def test_a_token_without_a_life_goes_to_those_who_asked_and_is_not_kept(server: AuthorizationServer) -> None:
    tokens = iter(("first", "second"))
    server.answer = lambda _form: said(access_token=next(tokens), expires_in=0)
    source = client_credentials(server)
    assert [await source(False), await source(False)] == ["first", "second"]


async def test_a_rejected_token_is_fetched_anew(server: AuthorizationServer) -> None:
    source = client_credentials(server)
    first = await source(False)
    second = await source(True)
    assert second != first
    assert await source(False) == second
    assert len(server.forms) == 2


# One fetch for all who ask


async def test_many_tasks_share_one_fetch(server: AuthorizationServer) -> None:
    server.hold()
    source = client_credentials(server)
    tokens: list[str] = []

    async def ask(refresh: bool) -> None:
        tokens.append(await source(refresh))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(ask, number % 2 == 1)
        await until(lambda: server.forms)
        server.release()
    assert len(tokens) == 20
    assert len(set(tokens)) == len(server.forms) == 1


async def test_the_first_who_asked_is_cancelled_and_the_others_get_the_same_token(server: AuthorizationServer) -> None:
    server.hold()
    source = client_credentials(server)
    tokens: list[str] = []
    first = anyio.CancelScope()

    async def ask_first() -> None:
        with first:
            await source(False)
        assert first.cancelled_caught

    async def ask() -> None:
        tokens.append(await source(False))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask_first)
        await until(lambda: server.forms)
        for _ in range(5):
            tasks.start_soon(ask)
        await anyio.lowlevel.checkpoint()
        first.cancel()
        await anyio.lowlevel.checkpoint()
        server.release()
    assert len(tokens) == 5
    assert len(set(tokens)) == len(server.forms) == 1


async def test_all_who_asked_are_cancelled_and_the_next_gets_the_token(server: AuthorizationServer) -> None:
    server.hold()
    source = client_credentials(server)
    with anyio.move_on_after(0.02):
        await source(False)
    server.release()
    assert await source(False) in server.issued
    assert len(server.forms) == 1


async def test_each_who_waits_gets_an_error_of_its_own(server: AuthorizationServer, guard: Guard) -> None:
    server.answer = lambda _form: Answer(b'{"error": "invalid_client"}', status=401)
    server.hold()
    source = client_credentials(server)
    errors: list[TokenError] = []

    async def ask() -> None:
        with pytest.raises(TokenError) as caught:
            await source(False)
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(ask)
        await until(lambda: server.forms)
        server.release()
    assert len({id(error) for error in errors}) == 3
    assert len({str(error) for error in errors}) == len(server.forms) == 1
    guard(*errors)


def test_a_fetch_that_ended_with_its_event_loop_is_begun_anew_on_the_next(server: AuthorizationServer) -> None:
    server.hold()
    source = client_credentials(server)

    async def leave() -> None:
        with anyio.move_on_after(0):
            await source(False)
        await until(lambda: server.forms)

    anyio.run(leave)
    server.release()
    assert anyio.run(source, False) in server.issued
    assert anyio.run(source, True, backend="trio") in server.issued


def test_a_loop_that_was_closed_over_a_fetch_leaves_nobody_waiting(server: AuthorizationServer) -> None:
    """As a program does that closes its loop and makes another one."""
    server.hold()
    source = client_credentials(server)

    async def leave() -> None:
        with anyio.move_on_after(0):
            await source(False)
        await until(lambda: server.forms)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    server.release()
    try:
        assert anyio.run(source, False) in server.issued
    finally:
        loop.run_until_complete(asyncio.wait(asyncio.all_tasks(loop)))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


# Rotated refresh tokens


class Store:
    """Keeps a refresh token, as a program's database does."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.failure: Exception | None = None

    async def __call__(self, token: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.stored.append(token)
        if self.failure is not None:
            raise self.failure


async def test_a_new_refresh_token_is_stored_and_used(server: AuthorizationServer, guard: Guard) -> None:
    server.rotates = True
    store = Store()
    source = refresh_token(server, on_rotated=store)
    await source(False)
    await source(True)
    assert len(store.stored) == 2
    assert [form["refresh_token"] for form in server.forms] == [REFRESH_TOKEN, store.stored[0]]
    # After a restart what was stored is good, and what was there at first is not.
    assert await refresh_token(server, refresh_token=store.stored[-1], on_rotated=store)(False)
    with pytest.raises(TokenError, match=r"invalid_grant.*have the user consent again") as caught:
        await refresh_token(server)(False)
    assert not caught.value.retryable
    guard(source, caught.value)


async def test_a_token_is_used_only_after_its_refresh_token_was_stored(server: AuthorizationServer) -> None:
    server.rotates = True
    is_stored = anyio.Event()
    began = anyio.Event()
    order: list[str] = []

    async def store(_token: str) -> None:
        began.set()
        await is_stored.wait()
        order.append("stored")

    async def use() -> None:
        await source(False)
        order.append("used")

    source = refresh_token(server, on_rotated=store)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(use)
        tasks.start_soon(use)
        await began.wait()
        await anyio.wait_all_tasks_blocked()
        assert order == []
        is_stored.set()
    assert order == ["stored", "used", "used"]


async def test_a_refresh_token_that_could_not_be_stored_is_stored_with_the_next_call(
    server: AuthorizationServer, guard: Guard
) -> None:
    server.rotates = True
    store = Store()
    store.failure = ConnectionError("the database is down")
    source = refresh_token(server, on_rotated=store)
    for _ in range(2):
        with pytest.raises(TokenError, match="on_rotated failed with ConnectionError") as caught:
            await source(False)
        assert caught.value.__cause__ is store.failure
        assert caught.value.retryable
    guard(caught.value)
    store.failure = None
    token = await source(False)
    assert len(server.forms) == 1  # what was fetched is the token that is used
    assert list(server.issued) == [token]
    assert len(set(store.stored)) == 1
    assert len(store.stored) == 3


async def test_a_token_that_grew_old_before_it_could_be_stored_is_not_used(
    server: AuthorizationServer, clock: Clock
) -> None:
    server.rotates = True
    store = Store()
    store.failure = ConnectionError("the database is down")
    source = refresh_token(server, on_rotated=store)
    with pytest.raises(TokenError):
        await source(False)
    store.failure = None
    clock.monotonic_now += 4_000
    assert await source(False) == list(server.issued)[-1]
    assert len(server.forms) == 2
    assert len(set(store.stored)) == 2


async def test_storing_has_its_time(server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def soon(seconds: float) -> AbstractContextManager[anyio.CancelScope]:
        given.append(seconds)
        return anyio.fail_after(0.01)

    monkeypatch.setattr("smtplite.oauth.grants.anyio", SimpleNamespace(fail_after=soon))
    server.rotates = True
    source = refresh_token(server, on_rotated=lambda _token: anyio.sleep_forever(), timeout=17)
    with pytest.raises(TokenError, match="on_rotated failed with TimeoutError"):
        await source(False)
    assert given == [17]


async def test_a_new_refresh_token_is_not_lost_with_whoever_asked(server: AuthorizationServer) -> None:
    """The provider has ended the old one when its answer is on the way."""
    server.rotates = True
    server.hold()
    store = Store()
    source = refresh_token(server, on_rotated=store)
    with anyio.move_on_after(0.02):
        await source(False)
    await until(lambda: server.forms)
    server.release()
    await until(lambda: store.stored)
    assert store.stored[0] in server.refresh_tokens


async def test_nobody_stores_a_new_refresh_token(
    server: AuthorizationServer, guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    server.rotates = True
    source = refresh_token(server)
    assert await source(False) != await source(True)
    assert "pass on_rotated=" in caplog.text
    guard(source)


# What a provider refuses


async def test_the_providers_words_are_on_the_error(server: AuthorizationServer, guard: Guard) -> None:
    said = {
        "error": "invalid_client",
        "error_description": "AADSTS7000215: Invalid client secret.\r\nTrace ID: 1\x00",
        "error_codes": [7000215],
        "trace_id": "1",
        "access_token": "acc3ss.never",
        "expires_in": {"a": 1},
    }
    server.answer = lambda _form: Answer(json.dumps(said).encode(), status=401)
    with pytest.raises(TokenError) as caught:
        await client_credentials(server)(False)
    assert str(caught.value) == (
        "token endpoint 127.0.0.1 refused to give a token: invalid_client: AADSTS7000215: Invalid client secret. "
        "Trace ID: 1: check client_id= and client_secret=, which may have expired"
    )
    assert caught.value.error_data == {
        name: said[name] for name in ("error", "error_description", "error_codes", "trace_id")
    }
    assert caught.value.phase == "auth"
    assert not caught.value.retryable
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.error_data, again.retryable) == (str(caught.value), caught.value.error_data, False)
    guard(caught.value)


async def test_long_words_are_cut_and_whole_on_the_error(server: AuthorizationServer) -> None:
    server.answer = lambda _form: Answer(
        json.dumps({"error": "x", "error_description": "long " * 1000}).encode(), status=400
    )
    with pytest.raises(TokenError) as caught:
        await client_credentials(server)(False)
    assert len(str(caught.value)) < 700
    assert caught.value.error_data is not None
    assert len(caught.value.error_data["error_description"]) == 5000


async def test_a_delegation_that_was_not_given(server: AuthorizationServer, guard: Guard) -> None:
    with pytest.raises(TokenError, match=r"invalid_grant: Invalid 'sub' value.*the administrator delegated") as caught:
        await service_account(server, subject="other@example.org")(False)
    guard(caught.value)
    with pytest.raises(TokenError, match="invalid_scope"):
        await service_account(server, scope="https://www.googleapis.com/auth/drive")(False)


@each_source
async def test_a_provider_that_repeats_what_it_was_sent(
    make: Callable[..., oauth.TokenSource], server: AuthorizationServer, guard: Guard
) -> None:
    def echo(form: dict[str, str]) -> Answer:
        words = " | ".join(
            f"{value} {quote(value, safe='')} {quote_plus(value)}"
            for name, value in form.items()
            if name != "client_id"
        )
        return Answer(
            json.dumps({"error": "invalid_grant", "error_description": words, "error_codes": [words, 1]}).encode(),
            status=400,
        )

    server.answer = echo
    source = make(server)
    with pytest.raises(TokenError, match=r"\[redacted\]") as caught:
        await source(False)
    guard(caught.value, source)


async def test_a_short_secret_is_not_told_by_a_gap(server: AuthorizationServer) -> None:
    server.answer = lambda _form: Answer(b'{"error": "invalid_client", "error_description": "abc is bad"}', status=400)
    with pytest.raises(TokenError, match=r"invalid_client: \[redacted\]: "):
        await client_credentials(server, client_secret="abc")(False)


# Broken providers


def said(**fields: object) -> Answer:
    answer = {"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600, **fields}
    return Answer(json.dumps({name: value for name, value in answer.items() if value != "missing"}).encode())


HTML = {"Content-Type": "text/html"}
BROKEN = {
    "500": (Answer(b"<html>oops</html>", status=500, headers=HTML), "answered 500 without an error", True),
    "502-json": (Answer(b"{}", status=502), "answered 502", True),
    "429": (Answer(b"", status=429), "answered 429", True),
    "503-error": (Answer(b'{"error": "temporarily_unavailable"}', status=503), "temporarily_unavailable", True),
    "200-error": (Answer(b'{"error": "server_error"}'), "refused to give a token: server_error", True),
    "400": (Answer(b"{}", status=400), "answered 400 without an error", False),
    "error-object": (Answer(b'{"error": {"code": 400, "message": "no"}}', status=400), "answered 400", False),
    "error-empty": (Answer(b'{"error": ""}', status=400), "answered 400", False),
    "201": (Answer(b'{"access_token": "t0ken"}', status=201), "answered 201", False),
    "html": (Answer(b"<html>sign in</html>", headers=HTML), "did not answer with a JSON object", False),
    "empty": (Answer(b""), "did not answer with a JSON object", False),
    "not-utf8": (Answer(b'{"access_token": "\xff"}'), "did not answer with a JSON object", False),
    "list": (Answer(b"[1]"), "did not answer with a JSON object", False),
    "deep": (Answer(b"[" * 60_000), "did not answer with a JSON object", False),
    "long-number": (Answer(b'{"expires_in": ' + b"9" * 6000 + b"}"), "did not answer with a JSON object", False),
    "no-token": (said(access_token="missing"), "without an access_token", False),
    "token-null": (said(access_token=None), "without an access_token", False),
    "token-number": (said(access_token=5), "without an access_token", False),
    "token-empty": (said(access_token=""), "without an access_token", False),
    "token-line": (said(access_token="t0ken\r\nRSET"), "without an access_token", False),
    "token-field": (said(access_token="t0ken\x01auth=x"), "without an access_token", False),
    "type-mac": (said(token_type="mac"), "token_type is not Bearer", False),
    "type-number": (said(token_type=1), "token_type is not Bearer", False),
    "life-word": (said(expires_in="soon"), "expires_in that is not a number", False),
    "life-negative": (said(expires_in=-1), "expires_in that is not a number", False),
    "life-true": (said(expires_in=True), "expires_in that is not a number", False),
    "life-nan": (said(expires_in=float("nan")), "expires_in that is not a number", False),
    "life-infinite": (said(expires_in=float("inf")), "expires_in that is not a number", False),
    "life-list": (said(expires_in=[3600]), "expires_in that is not a number", False),
    "refresh-number": (said(refresh_token=5), "refresh_token that cannot be one", False),
    "end-list": (said(expires_at=[1]), "fields that authlib cannot read", False),
    "huge": (Answer(b" " * 1_000_000), "more than 65536 bytes", False),
    "compressed": (
        Answer(gzip.compress(b" " * 1_000_000), headers={"Content-Encoding": "gzip"}),
        "compressed content, which was not asked for",
        False,
    ),
    "redirect": (Answer(status=302, headers={"Location": "/token"}), "answered 302, a redirect", False),
    "redirect-307": (Answer(status=307, headers={"Location": "/token"}), "answered 307, a redirect", False),
    "closes": (Answer(status=None), "cannot be reached", True),
    "closes-within": (Answer(b'{"access_token": "t0ken"}', cut=5), "cannot be reached", True),
}


@pytest.mark.exhaustive(keep=14)
@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_broken_provider_is_a_token_error_and_the_next_call_tries_again(
    case: str, server: AuthorizationServer, guard: Guard
) -> None:
    answer, match, is_transient = BROKEN[case]
    source = client_credentials(server)
    server.answer = lambda _form: answer
    with pytest.raises(TokenError, match=match) as caught:
        await source(False)
    assert caught.value.retryable is is_transient
    assert caught.value.__context__ is None
    assert len(server.forms) == 1  # no redirect was followed, and nothing tried twice
    server.answer = None
    assert await source(False) in server.issued
    guard(caught.value)


@pytest.mark.exhaustive(keep=3)
@pytest.mark.parametrize("life", ["3600", 3600.0, None, "missing"])
@pytest.mark.parametrize("kind", ["bearer", "missing"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_odd_and_can_be_used(life: object, kind: str, server: AuthorizationServer) -> None:
    server.answer = lambda _form: said(expires_in=life, token_type=kind, refresh_token=None)
    source = client_credentials(server)
    assert [await source(False), await source(False)] == ["t0ken", "t0ken"]
    assert len(server.forms) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
FIELDS = ["access_token", "token_type", "expires_in", "refresh_token", "error", "error_description", "expires_at"]


@examples(60)
@given(
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON | st.sampled_from(["Bearer", "t0ken", 3600])),
    status=st.sampled_from([200, 400, 500]),
)
def test_whatever_json_comes_is_a_token_or_a_token_error(fields: dict[str, object], status: int) -> None:
    server = shared_server()
    server.answer = lambda _form: Answer(json.dumps(fields).encode(), status=status)

    async def ask() -> None:
        source = refresh_token(server)
        try:
            token = await source(False)
        except TokenError:
            return
        assert token == fields["access_token"]
        assert status == 200

    anyio.run(ask)


_SHARED: list[AuthorizationServer] = []


def shared_server() -> AuthorizationServer:
    """One server for all examples; its threads end with the process."""
    if not _SHARED:
        _SHARED.append(AuthorizationServer().__enter__())
    return _SHARED[0]


async def test_a_provider_that_says_nothing_has_its_time(server: AuthorizationServer, guard: Guard) -> None:
    server.hold()
    source = client_credentials(server, timeout=0.05)
    with pytest.raises(TokenError, match=r"did not answer within 0\.05 s") as caught:
        await source(False)
    assert caught.value.retryable
    server.release()
    guard(caught.value)


async def test_a_provider_that_drips_has_no_more_time(raw_server: Callable[..., int]) -> None:
    """Each byte begins httpx's own timeouts anew."""
    is_over = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not is_over.wait(0.01):
            connection.sendall(b"X-A: b\r\n")

    port = raw_server(drip)
    source = oauth.ClientCredentials(
        token_endpoint=f"http://127.0.0.1:{port}/", client_id="a", client_secret="b", timeout=0.1
    )
    try:
        with pytest.raises(TokenError, match="did not answer"):
            await source(False)
    finally:
        is_over.set()


async def test_a_provider_that_is_not_there(guard: Guard) -> None:
    with AuthorizationServer() as gone:
        source = client_credentials(gone)
    with pytest.raises(
        TokenError, match=r"token endpoint 127\.0\.0\.1 cannot be reached: Connection refused: check"
    ) as caught:
        await source(False)
    assert caught.value.retryable
    guard(caught.value)


async def test_a_fault_within_the_libraries_is_told_to_all_who_wait(
    server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On trio it would otherwise end the program."""
    source = client_credentials(server)

    async def fail() -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(source, "_renew", fail)
    with pytest.raises(TokenError, match="KeyError in authlib or httpx2"):
        await source(False)


# TLS, and where the secret goes


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_the_certificate_is_verified(
    tls_context: ssl.SSLContext, authority: trustme.CA, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AuthorizationServer(tls_context=tls_context) as server:
        with pytest.raises(TokenError, match=r"certificate that is not trusted.*tls_context=") as caught:
            await client_credentials(server)(False)
        assert not caught.value.retryable
        assert server.forms == []
        guard(caught.value)

        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        assert await client_credentials(server, tls_context=trusting)(False) in server.issued

        for_another_host = client_credentials(server, tls_context=trusting)
        monkeypatch.setattr(
            for_another_host,
            "_endpoint",
            type(for_another_host._endpoint).of(f"https://localhost:{server.port}/token", 5, trusting, ""),
        )
        with pytest.raises(TokenError, match="certificate that is not trusted"):
            await for_another_host(False)
        guard.check(server)


async def test_no_proxy_of_the_environment_sees_what_goes_over_loopback(
    server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AuthorizationServer() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert await client_credentials(server)(False) in server.issued
        assert proxy.forms == []


async def test_a_proxy_of_the_environment_sees_who_is_asked_and_no_more(
    raw_server: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes through it is TLS, which ends at the provider."""
    seen: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        seen.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{raw_server(proxy)}")
    source = oauth.ClientCredentials(
        token_endpoint="https://login.example.com/token", client_id="a", client_secret="s3cret"
    )
    with pytest.raises(TokenError, match=r"token endpoint login\.example\.com cannot be reached: 403"):
        await source(False)
    (request,) = seen
    assert request.startswith(b"CONNECT login.example.com:443 ")
    assert b"s3cret" not in request
    assert b"token" not in request


# What is wrong when a source is made


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"token_endpoint": "http://login.example.com/token"}, "http://, which would show the secret"),
        ({"token_endpoint": "http://127.0.0.1.example.com/token"}, "http://, which would show the secret"),
        ({"token_endpoint": "login.example.com/token"}, "is not a URL"),
        ({"token_endpoint": "ftp://login.example.com/token"}, "is not a URL"),
        ({"token_endpoint": "https:///token"}, "is not a URL"),
        ({"token_endpoint": "https://login.example.com:99999/token"}, "is not a URL"),
        ({"token_endpoint": "https://me:s3cret@login.example.com/token"}, "a user, a password or a fragment"),
        ({"token_endpoint": "https://login.example.com/token#a"}, "a user, a password or a fragment"),
        ({"token_endpoint": None}, "token_endpoint must be a non-empty str, not NoneType"),
        ({"client_id": ""}, "client_id must be a non-empty str, not an empty one"),
        ({"client_secret": b"s3cret"}, "client_secret must be a non-empty str, not bytes"),
        ({"client_secret": "s3cret\n"}, "client_secret holds a line ending"),
        ({"scope": 5}, "scope must be a non-empty str"),
        ({"timeout": 0}, "timeout must be a positive number"),
        ({"timeout": float("inf")}, "timeout must be a positive number"),
        ({"timeout": "30"}, "timeout must be a positive number"),
        ({"tls_context": True}, r"tls_context must be an ssl\.SSLContext, not bool"),
    ],
)
def test_an_argument_that_cannot_be_used(options: dict[str, object], match: str) -> None:
    given = {"token_endpoint": "https://login.example.com/token", "client_id": "a", "client_secret": "b", **options}
    with pytest.raises(ConfigurationError, match=match) as caught:
        oauth.ClientCredentials(**given)  # type: ignore[arg-type]  # wrong on purpose
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "127.1.2.3", "[::1]:8080"])
def test_on_loopback_nobody_can_listen(host: str) -> None:
    oauth.ClientCredentials(token_endpoint=f"http://{host}/token", client_id="a", client_secret="b")


def test_on_rotated_takes_one_argument(server: AuthorizationServer) -> None:
    with pytest.raises(ConfigurationError, match="on_rotated must be an async function of one argument"):
        refresh_token(server, on_rotated=lambda: None)


async def test_on_rotated_that_cannot_be_awaited(server: AuthorizationServer) -> None:
    server.rotates = True
    with pytest.raises(TokenError, match="on_rotated failed with ConfigurationError") as caught:
        await refresh_token(server, on_rotated=lambda _token: None)(False)
    assert "async function" in str(caught.value.__cause__)


def test_a_key_in_googles_file(tmp_path: Path, server: AuthorizationServer) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(google_key(server.token_endpoint)))
    source = oauth.ServiceAccount.from_file(path, subject=USER)
    assert anyio.run(source, False) in server.issued
    assert repr(source) == f"ServiceAccount('{SERVICE_ACCOUNT}', '127.0.0.1')"
    header = server.forms[0]["assertion"].partition(".")[0]
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == {"alg": "RS256", "typ": "JWT", "kid": KEY_ID}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "key file cannot be read: No such file"),
        (b"\xff", "key file is not a service account's"),
        (b"[]", "key file is not a service account's"),
        (b'{"type": "authorized_user"}', "key file is not a service account's"),
        (b'{"type": "service_account"}', "client_email must be a non-empty str"),
        (
            b'{"type": "service_account", "client_email": "a", "private_key": "s3cret", "token_uri": "https://a"}',
            "private_key is not an RSA private key in PEM",
        ),
        (
            b'{"type": "service_account", "client_email": "a", "token_uri": "https://a", "private_key": '
            b'"-----BEGIN PRIVATE KEY-----\\ns3cret\\n-----END PRIVATE KEY-----\\n"}',
            "private_key is not an RSA private key in PEM",
        ),
    ],
)
def test_a_file_that_is_no_key(content: bytes | None, match: str, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=match) as caught:
        oauth.ServiceAccount.from_file(path, subject=USER)
    assert "s3cret" not in str(caught.value)


def test_a_public_key_is_none_to_sign_with(server: AuthorizationServer) -> None:
    info = {**google_key(server.token_endpoint), "private_key": private_key().as_pem(private=False).decode()}
    with pytest.raises(ConfigurationError, match="private_key is not an RSA private key"):
        oauth.ServiceAccount.from_info(info, subject=USER)


@pytest.mark.parametrize("library", ["authlib", "httpx2"])
def test_without_the_extra_the_error_names_it(
    library: str, server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigurationError, match=r"smtplite\.oauth needs .*pip install 'smtplite\[oauth\]'"):
        client_credentials(server)


@each_source
def test_a_source_is_not_pickled_or_copied(make: Callable[..., oauth.TokenSource], server: AuthorizationServer) -> None:
    """It holds a secret, and two copies of a refresh token would end each other."""
    source = make(server)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="holds a secret"):
            attempt(source)
