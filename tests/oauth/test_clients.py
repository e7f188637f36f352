"""Token sources in the hands of Client and SyncClient: a server that rejects, many connections, a slow provider."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import cast

import anyio
import anyio.lowlevel
import pytest

import smtplite
from smtplite import Client, SMTPTimeout, SyncClient, TokenError, oauth, sasl
from smtplite.testing import SMTPServer
from smtplite.trace import TraceEvent
from tests.oauth.authorization import CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN, USER, Answer, AuthorizationServer
from tests.oauth.conftest import Guard
from tests.oauth.test_sources import client_credentials, refresh_token, until

pytestmark = pytest.mark.anyio

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"


def mail_server(server: AuthorizationServer) -> SMTPServer:
    """Return a server that takes the token that was issued last, and none before it."""
    mail = SMTPServer(tls="starttls", require_auth=True, tokens={USER: "none.yet"})
    server.mailboxes = cast("MutableMapping[str, str]", mail.config.tokens)
    return mail


@pytest.fixture
def events(guard: Guard) -> Iterator[list[TraceEvent]]:
    traced: list[TraceEvent] = []
    yield traced
    guard(*traced)


def client_of(mail: SMTPServer, source: oauth.TokenSource, events: list[TraceEvent], **options: object) -> Client:
    kind = options.pop("kind", sasl.XOAuth2)
    auth = kind(USER, source)  # type: ignore[operator]  # one of the two
    return Client(
        mail.host,
        mail.port,
        auth=auth,
        tls_context=mail.ca_context(),
        trace=events.append,
        **options,  # type: ignore[arg-type]  # mixed
    )


@pytest.mark.parametrize("kind", [sasl.XOAuth2, sasl.OAuthBearer])
async def test_a_token_that_the_mail_server_rejects_is_fetched_anew_once(
    kind: type[sasl.TokenMechanism], server: AuthorizationServer, events: list[TraceEvent], guard: Guard
) -> None:
    async with mail_server(server) as mail:
        source = client_credentials(server)
        async with client_of(mail, source, events, kind=kind, max_messages_per_connection=1) as client:
            assert (await client.send(RAW)).complete
            assert len(server.forms) == 1
            server.mailboxes[USER] = "another"  # an administrator ended it
            assert (await client.send(RAW)).complete
            assert len(server.forms) == 2
            assert (await client.send(RAW)).complete
        assert len(server.forms) == 2
        assert {message.authenticated_as for message in mail.messages} == {USER}
        guard(client, source)


async def test_a_token_that_is_always_rejected_is_the_servers_refusal(
    server: AuthorizationServer, events: list[TraceEvent], guard: Guard
) -> None:
    """As where the administrator has not let the application into the mailbox: its tokens are good, and of no use."""
    async with mail_server(server) as mail:
        server.mailboxes = {}
        async with client_of(mail, client_credentials(server), events) as client:
            with pytest.raises(smtplite.AuthenticationError) as caught:
                await client.send(RAW)
    assert not isinstance(caught.value, TokenError)
    assert caught.value.reply is not None
    assert caught.value.reply.code == 535
    assert caught.value.not_sent == ("you@example.org",)
    assert len(server.forms) == 2
    guard(caught.value)


async def test_twenty_connections_at_once_fetch_one_token(
    server: AuthorizationServer, events: list[TraceEvent]
) -> None:
    server.hold()
    async with mail_server(server) as mail:
        async with client_of(mail, client_credentials(server), events, max_connections=20) as client:
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(client.send, RAW)
                await until(lambda: len(mail.connections) == 20 and server.forms)
                server.release()
        assert len(mail.messages) == 20
    assert len(server.forms) == 1


async def test_the_deadline_of_a_call_holds_while_the_provider_is_slow(
    server: AuthorizationServer, events: list[TraceEvent], guard: Guard
) -> None:
    """And what it had asked for is there for the next call."""
    server.hold()
    async with mail_server(server) as mail:
        async with client_of(mail, client_credentials(server), events) as client:
            timeout = 0.3
            while not server.forms:  # on a machine that is busy it ended before it came so far
                with pytest.raises(SMTPTimeout) as caught:
                    await client.send(RAW, timeout=timeout)
                assert caught.value.not_sent == ("you@example.org",)
                guard(caught.value)
                timeout *= 2
            server.release()
            assert (await client.send(RAW)).complete
    assert len(server.forms) == 1


async def test_the_first_connection_is_given_up_and_the_others_get_the_token(
    server: AuthorizationServer, events: list[TraceEvent]
) -> None:
    server.hold()
    first = anyio.CancelScope()
    async with mail_server(server) as mail:
        async with client_of(mail, client_credentials(server), events) as client:

            async def give_up() -> None:
                with first:
                    await client.send(RAW)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(give_up)
                await until(lambda: server.forms)
                for _ in range(3):
                    tasks.start_soon(client.send, RAW)
                await until(lambda: len(mail.connections) == 4)
                first.cancel()
                await anyio.lowlevel.checkpoint()
                server.release()
        assert len(mail.messages) == 3
    assert len(server.forms) == 1


async def test_what_the_provider_says_is_what_the_call_raises(
    server: AuthorizationServer, events: list[TraceEvent], guard: Guard
) -> None:
    async with mail_server(server) as mail:
        source = refresh_token(server, refresh_token="r3voked")
        async with client_of(mail, source, events) as client:
            with pytest.raises(TokenError, match="invalid_grant") as caught:
                await client.send(RAW)
            assert caught.value.not_sent == ("you@example.org",)
            assert caught.value.error_data is not None
            assert caught.value.error_data["error"] == "invalid_grant"
            assert not caught.value.retryable
            guard(caught.value)

            async def send_many() -> None:
                async with client.send_many([RAW, RAW]) as deliveries:
                    async for _delivery in deliveries:
                        pass

            with pytest.raises(TokenError, match="invalid_grant") as caught:  # as with a wrong password
                await send_many()
            guard(caught.value)
    assert mail.messages == []


async def test_a_provider_that_recovers(server: AuthorizationServer, events: list[TraceEvent]) -> None:
    server.answer = lambda _form: Answer(b"", status=503)
    async with mail_server(server) as mail:
        async with client_of(mail, client_credentials(server), events) as client:
            with pytest.raises(TokenError) as caught:
                await client.send(RAW)
            assert caught.value.retryable
            server.answer = None
            assert (await client.send(RAW)).complete


async def test_a_refresh_token_is_stored_before_its_access_token_is_shown(
    server: AuthorizationServer, events: list[TraceEvent]
) -> None:
    server.rotates = True
    async with mail_server(server) as mail:

        async def store(_token: str) -> None:
            assert b"AUTH" not in mail.connections[0].received.replace(b"250-AUTH", b"")
            stored.append(_token)

        stored: list[str] = []
        async with client_of(mail, refresh_token(server, on_rotated=store), events) as client:
            assert (await client.send(RAW)).complete
    assert stored == [token for token in server.refresh_tokens if token in stored]
    assert len(stored) == 1


def test_a_client_without_await(server: AuthorizationServer) -> None:
    """Its event loop is one for the whole process, and not the one of the program."""
    source = oauth.RefreshToken(
        token_endpoint=server.token_endpoint,
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        refresh_token=REFRESH_TOKEN,
    )
    with mail_server(server).in_thread() as mail:
        with SyncClient(
            mail.host, mail.port, auth=sasl.XOAuth2(USER, source), tls_context=mail.server.ca_context()
        ) as client:
            assert client.send(RAW).complete
    assert len(server.forms) == 1
