"""Authentication at a server that keeps the rules: each mechanism, the choice, tokens; no secret anywhere.

What a server does wrong, and what happens without TLS, stands in `tests/misbehaving/test_auth.py`.
"""

from __future__ import annotations

import base64
import copy
import logging
import pickle
from collections.abc import Iterator

import anyio
import pytest

import smtplite
from smtplite import Client, sasl
from smtplite.sending.handshake import Opener
from smtplite.testing import SMTPServer
from smtplite.trace import TraceEvent

pytestmark = pytest.mark.anyio

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
USER = "me@example.org"
PASSWORD = "s3cret p\u00e4ss"
TOKEN = "ya29.t0ken"

#: In any of these forms a secret would be one that leaked.
SECRETS = [
    secret
    for text in (PASSWORD, TOKEN, "stale.t0ken")
    for secret in (
        text,
        base64.b64encode(text.encode()).decode().rstrip("=")[:-1],
        base64.b64encode(f"\0{USER}\0{text}".encode()).decode().rstrip("=")[:-1],
        base64.b64encode(f"user={USER}\x01auth=Bearer {text}\x01\x01".encode()).decode().rstrip("=")[:-1],
        repr(text)[1:-1],
    )
]


class Watch:
    """Listens wherever a secret could leak: the trace hook, the logger, and every error that is handed to it."""

    def __init__(self) -> None:
        self.events: list[TraceEvent] = []
        self.heard: list[str] = []

    def __call__(self, event: TraceEvent) -> None:
        self.events.append(event)
        self.heard.append(repr(event))

    def error(self, error: BaseException | None) -> None:
        while error is not None:
            self.heard += [str(error), repr(error), repr(error.args), repr(vars(error))]
            error = error.__cause__ or error.__context__


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> Iterator[Watch]:
    watching = Watch()
    with caplog.at_level(logging.DEBUG, logger="smtplite"):
        yield watching
    assert watching.events  # it was listening
    heard = "\n".join([*watching.heard, caplog.text])
    for secret in SECRETS:
        assert secret not in heard


def server_with(mechanisms: object = None, **options: object) -> SMTPServer:
    options.setdefault("users", {USER: PASSWORD})
    options.setdefault("tokens", {USER: TOKEN})
    options.setdefault("tls", "starttls")
    return SMTPServer(mechanisms=mechanisms, **options)  # type: ignore[arg-type]


def client_of(server: SMTPServer, watch: Watch, **options: object) -> Client:
    if server.config.extensions.starttls:
        options.setdefault("tls_context", server.ca_context())
    else:
        options.setdefault("tls", "none")
    client = Client(server.host, server.port, trace=watch, **options)  # type: ignore[arg-type]
    watch.heard += [repr(client), repr(client._options), repr(Opener(client._options, client._tracer).handshake)]
    return client


async def refusal(client: Client, watch: Watch) -> smtplite.AuthenticationError:
    with pytest.raises(smtplite.AuthenticationError) as caught:
        await client.send(RAW)
    watch.error(caught.value)
    assert caught.value.not_sent == ("you@example.org",)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    assert copy.copy(caught.value).reply == caught.value.reply
    return caught.value


def verbs(server: SMTPServer, connection: int = 0) -> list[bytes]:
    lines = server.connections[connection].received.split(b"\r\n")
    return [b" ".join(line.split(b" ")[:2]) for line in lines if line.startswith(b"AUTH")]


# It works

MECHANISMS = {
    "PLAIN": sasl.Plain(USER, PASSWORD),
    "LOGIN": sasl.Login(USER, PASSWORD),
    "CRAM-MD5": sasl.CramMd5(USER, PASSWORD),
    "SCRAM-SHA-1": sasl.ScramSha1(USER, PASSWORD),
    "SCRAM-SHA-256": sasl.ScramSha256(USER, PASSWORD),
    "XOAUTH2": sasl.XOAuth2(USER, TOKEN),
    "OAUTHBEARER": sasl.OAuthBearer(USER, TOKEN),
}


@pytest.mark.parametrize("name", MECHANISMS)
async def test_each_mechanism(name: str, watch: Watch) -> None:
    async with server_with([name]) as server:
        async with client_of(server, watch, auth=MECHANISMS[name]) as client:
            for _ in range(2):
                assert (await client.send(RAW)).complete
        assert verbs(server) == [b"AUTH " + name.encode()]  # once, and what went in clear inside TLS went nowhere else
        assert {m.authenticated_as for m in server.messages} == {USER}
    assert server.violations == []


async def test_external(watch: Watch) -> None:
    async with server_with(["EXTERNAL"], external_identity=USER) as server:
        async with client_of(server, watch, auth=sasl.External()) as client:
            assert (await client.send(RAW)).complete


async def test_the_final_message_of_scram_may_stand_in_the_success(watch: Watch) -> None:
    async with server_with(["SCRAM-SHA-256"], scram_final_in_success=True) as server:
        async with client_of(server, watch, username=USER, password=PASSWORD) as client:
            assert (await client.send(RAW)).complete


async def test_a_costly_scram_is_computed_beside_the_event_loop(watch: Watch) -> None:
    async with server_with(["SCRAM-SHA-256"], scram_iterations=30_000) as server:
        async with client_of(server, watch, username=USER, password=PASSWORD) as client:
            assert (await client.send(RAW)).complete


async def test_the_older_form_of_the_keyword_is_understood(watch: Watch) -> None:
    async with server_with(["PLAIN"], auth_legacy_form=True) as server:
        async with client_of(server, watch, username=USER, password=PASSWORD) as client:
            assert (await client.send(RAW)).complete


async def test_a_line_over_512_octets_goes_in_two_steps(watch: Watch) -> None:
    token = TOKEN + "x" * 600
    async with server_with(["XOAUTH2"], tokens={USER: token}) as server:
        async with client_of(server, watch, auth=sasl.XOAuth2(USER, token)) as client:
            assert (await client.send(RAW)).complete
        assert b"AUTH XOAUTH2\r\n" in server.connections[0].received
    assert server.violations == []


# The choice


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"], b"AUTH SCRAM-SHA-256"),
        (["LOGIN", "CRAM-MD5", "PLAIN", "SCRAM-SHA-1"], b"AUTH SCRAM-SHA-1"),
        (["CRAM-MD5", "LOGIN", "PLAIN"], b"AUTH PLAIN"),
        (["CRAM-MD5", "LOGIN"], b"AUTH LOGIN"),
        (["CRAM-MD5"], b"AUTH CRAM-MD5"),
    ],
)
async def test_the_order_is_the_clients(offered: list[str], chosen: bytes, watch: Watch) -> None:
    async with server_with(offered) as server:
        async with client_of(server, watch, username=USER, password=PASSWORD) as client:
            await client.check()
        assert verbs(server) == [chosen]


# Refusals


async def test_a_wrong_password_stops_at_once(watch: Watch) -> None:
    """R15: no other mechanism is tried with the same credentials: accounts are locked that way."""
    async with server_with(["SCRAM-SHA-256", "PLAIN", "LOGIN"], users={USER: "other"}) as server:
        async with client_of(server, watch, username=USER, password=PASSWORD) as client:
            error = await refusal(client, watch)
        assert error.reply is not None
        assert error.reply.code == 535
        assert error.command == "AUTH SCRAM-SHA-256"
        assert error.phase == "auth"
        assert not error.retryable
        assert verbs(server) == [b"AUTH SCRAM-SHA-256"]


async def test_a_server_that_offers_plain_and_takes_login(watch: Watch) -> None:
    """QQ Mail answers "502 Command not implemented" to AUTH PLAIN."""
    async with server_with(["PLAIN", "LOGIN"]) as server:
        server.reply("AUTH", "502 Command not implemented", times=1)
        async with client_of(server, watch, username=USER, password=PASSWORD) as client:
            assert (await client.send(RAW)).complete
        assert verbs(server) == [b"AUTH PLAIN", b"AUTH LOGIN"]


async def test_behind_a_challenge_not_implemented_is_a_refusal(watch: Watch) -> None:
    """R15: whoever was asked for the password is not asked for it again by another mechanism."""
    async with server_with(["LOGIN", "CRAM-MD5"]) as server:
        server.reply("END_OF_AUTH", "502 5.5.1 no")
        async with client_of(server, watch, username=USER, password=PASSWORD) as client:
            error = await refusal(client, watch)
        assert error.command == "AUTH LOGIN"
        assert verbs(server) == [b"AUTH LOGIN"]


async def test_the_last_mechanism_that_cannot_be_used_is_the_error(watch: Watch) -> None:
    async with server_with(["PLAIN", "LOGIN"]) as server:
        server.reply("AUTH", "504 5.5.4 unknown")
        async with client_of(server, watch, username=USER, password=PASSWORD) as client:
            error = await refusal(client, watch)
        assert error.command == "AUTH LOGIN"


# OAuth


class Tokens:
    """Gives a stale token until it is asked for a new one."""

    def __init__(self, *, renewed: str = TOKEN) -> None:
        self.asked: list[bool] = []
        self.renewed = renewed
        self.may_answer = anyio.Event()
        self.may_answer.set()

    async def __call__(self, refresh: bool) -> str:
        self.asked.append(refresh)
        if refresh:
            await self.may_answer.wait()
        return self.renewed if refresh else "stale.t0ken"


@pytest.mark.parametrize("kind", [sasl.XOAuth2, sasl.OAuthBearer])
async def test_a_rejected_token_is_renewed_once(kind: type[sasl.TokenMechanism], watch: Watch) -> None:
    tokens = Tokens()
    async with server_with([kind.name]) as server:
        async with client_of(server, watch, auth=kind(USER, tokens)) as client:
            assert (await client.send(RAW)).complete
        assert len(server.connections) == 1
    assert tokens.asked == [False, True]


@pytest.mark.parametrize("kind", [sasl.XOAuth2, sasl.OAuthBearer])
async def test_what_the_server_says_about_a_token_is_on_the_error(
    kind: type[sasl.TokenMechanism], watch: Watch
) -> None:
    tokens = Tokens(renewed="stale.t0ken")
    async with server_with([kind.name]) as server:
        async with client_of(server, watch, auth=kind(USER, tokens)) as client:
            error = await refusal(client, watch)
            assert error.reply is not None
            assert error.reply.code == 535
            assert error.error_data is not None
            assert "status" in error.error_data
    assert tokens.asked == [False, True]


async def test_several_connections_that_renew_at_once_ask_once(watch: Watch) -> None:
    tokens = Tokens()
    tokens.may_answer = anyio.Event()
    async with server_with(["XOAUTH2"]) as server:
        async with client_of(server, watch, auth=sasl.XOAuth2(USER, tokens), max_connections=4) as client:
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(client.send, RAW)
                with anyio.fail_after(20):
                    while tokens.asked.count(False) < 4 or True not in tokens.asked:
                        await anyio.lowlevel.checkpoint()
                await anyio.wait_all_tasks_blocked()
                tokens.may_answer.set()
        assert len(server.messages) == 4
    assert tokens.asked.count(True) == 1


async def test_a_renewal_that_fails_is_tried_by_the_next_one_who_needs_it(watch: Watch) -> None:
    class Broken(Tokens):
        async def __call__(self, refresh: bool) -> str:
            token = await super().__call__(refresh)
            if refresh and self.asked.count(True) == 1:
                raise ConnectionError("the identity provider is down")
            return token

    tokens = Broken()
    async with server_with(["XOAUTH2"]) as server:
        async with client_of(server, watch, auth=sasl.XOAuth2(USER, tokens)) as client:
            with pytest.raises(ConnectionError, match="identity provider"):
                await client.send(RAW)
            assert (await client.send(RAW)).complete
    assert tokens.asked == [False, True, False, True]


async def test_a_callback_that_gives_no_token(watch: Watch) -> None:
    async def token(refresh: bool) -> str:
        return "t0ken with space"

    async with server_with(["XOAUTH2"]) as server:
        async with client_of(server, watch, auth=sasl.XOAuth2(USER, token)) as client:
            error = await refusal(client, watch)
            assert "t0ken" not in str(error)
