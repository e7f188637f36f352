"""Client.session(greeting_only=True): TLS, authentication and content step by step, on a connection of the caller's."""

from __future__ import annotations

from base64 import b64decode

import anyio
import pytest

import smtplite
from smtplite import Client, Timeouts, sasl
from smtplite.protocol import Auth, AuthResponse, Ehlo, Mail, Noop, Rcpt, Rset
from smtplite.testing import SMTPServer

pytestmark = pytest.mark.anyio

RAW = b"From: me@example.org\r\nTo: you@example.org\r\n\r\nbody\r\n"
USERS = {"me": "secret"}


def client_of(server: SMTPServer, **options: object) -> Client:
    return Client(server.host, server.port, tls="none", **options)  # type: ignore[arg-type]


async def begun(session: smtplite.RawSession) -> None:
    assert (await session.command(Ehlo(session.local_domain))).is_positive


async def transaction(session: smtplite.RawSession) -> None:
    assert (await session.command(Mail("me@example.org"))).is_positive
    assert (await session.command(Rcpt("you@example.org"))).is_positive


async def test_from_the_greeting_to_the_message_each_step_is_the_callers() -> None:
    async with SMTPServer(tls="starttls", users=USERS) as server, client_of(server) as client:
        async with client.session(greeting_only=True) as session:
            assert not session.extensions
            assert session.is_open
            await begun(session)
            assert (await session.start_tls(server.ca_context())).code == 220
            assert not session.extensions
            assert session.is_open  # whatever tickets of TLS have come
            await begun(session)
            assert session.info.tls is not None
            assert (await session.authenticate(sasl.Plain("me", "secret"))).code == 235
            await transaction(session)
            assert (await session.data(b"Subject: x\n\n.dot\n")).is_positive
            receipt = await session.send(RAW)
            assert receipt.accepted == ("you@example.org",)
        assert [message.content for message in server.messages] == [b"Subject: x\r\n\r\n.dot\r\n", RAW]
        assert len(server.connections) == 1
        assert not server.connections[0].violations


async def test_by_default_it_is_greeted_and_authenticated_and_sends_messages() -> None:
    async with SMTPServer() as server, client_of(server) as client, client.session() as session:
        await session.command(Mail("somebody@example.org"))  # given up
        assert (await session.send(RAW)).complete
        assert (await session.send(RAW, recipients=["a@example.org", "b@example.org"])).complete
        server.reply("RCPT", "550 5.1.1 no", times=1)
        with pytest.raises(smtplite.RecipientsRefused):
            await session.send(RAW)
        assert (await session.send(RAW)).complete
        assert [message.recipients[0] for message in server.messages] == [
            "you@example.org",
            "a@example.org",
            "you@example.org",
        ]
        assert len(server.connections) == 1


async def test_a_message_goes_over_no_other_connection() -> None:
    """What Client.send would send again on a fresh connection is not sent here, and the error says so."""
    async with SMTPServer() as server, client_of(server) as client, client.session() as session:
        await session.send(RAW)
        server.reply("MAIL", b"", close=True, times=1)
        with pytest.raises(smtplite.ConnectionLost) as caught:
            await session.send(RAW)
        assert caught.value.not_sent == ("you@example.org",)
        assert not session.is_open
        assert len(server.connections) == 1


async def test_a_refused_password_leaves_the_connection_for_another_try() -> None:
    async with SMTPServer(users=USERS, auth_in_clear=True) as server:
        async with client_of(server, allow_insecure_auth=True) as client:
            async with client.session(greeting_only=True) as session:
                await begun(session)
                with pytest.raises(smtplite.AuthenticationError) as caught:
                    await session.authenticate(sasl.Plain("me", "wrong"))
                assert caught.value.reply is not None
                assert (await session.authenticate(sasl.Login("me", "secret"))).code == 235


async def test_a_server_that_does_not_know_the_password_is_left_at_once() -> None:
    async with SMTPServer(tls="implicit", users=USERS, scram_faults={"wrong-signature"}) as server:
        client = Client(server.host, server.port, tls="implicit", tls_context=server.ca_context())
        async with client, client.session(greeting_only=True) as session:
            await begun(session)
            with pytest.raises(smtplite.AuthenticationError):
                await session.authenticate(sasl.ScramSha256("me", "secret"))
            assert not session.is_open


async def test_nothing_of_a_password_goes_in_clear_by_whatever_method() -> None:
    async with SMTPServer(users=USERS, auth_in_clear=True) as server, client_of(server) as client:
        async with client.session(greeting_only=True) as session:
            await begun(session)
            for call in (
                session.authenticate(sasl.Plain("me", "secret")),
                session.command(Auth("PLAIN", b"\0me\0secret")),
                session.command(Auth("LOGIN")),
            ):
                with pytest.raises(smtplite.AuthenticationError, match="unencrypted"):
                    await call
            assert (await session.command(Noop())).is_positive
        assert b"AUTH" not in server.connections[0].received


async def test_an_exchange_by_hand_shows_no_secret() -> None:
    async with SMTPServer(users=USERS, auth_in_clear=True) as server:
        async with client_of(server, allow_insecure_auth=True) as client, client.session() as session:
            reply = await session.command(Auth("LOGIN"))
            assert b64decode(reply.text) == b"Username:"
            assert (await session.command(AuthResponse(b"me"))).code == 334
            assert (await session.command(AuthResponse(b"secret"))).code == 235
            assert "c2VjcmV0" not in "".join(session.transcript)


# Content by hand


@pytest.mark.parametrize(("verb", "reply"), [("DATA", "554 5.3.0 no"), ("END_OF_DATA", "552 5.3.4 too big")])
async def test_a_refused_content_is_a_reply(verb: str, reply: str) -> None:
    async with SMTPServer() as server, client_of(server) as client, client.session() as session:
        server.reply(verb, reply)
        await transaction(session)
        assert str(await session.data(b"x: y\r\n\r\n")) == reply
        assert session.is_open
        assert server.messages == []


async def test_the_recipients_of_an_earlier_transaction_are_not_those_of_this_one() -> None:
    async with SMTPServer() as server, client_of(server) as client, client.session() as session:
        await transaction(session)
        await session.data(RAW)
        await session.command(Mail("me@example.org"))
        await session.command(Rcpt("given.up@example.org"))
        await session.command(Rset())
        server.reply("END_OF_DATA", b"", close=True)
        server.reply("RCPT", "550 5.1.1 no", to="nobody@example.org")
        await session.command(Mail("me@example.org"))
        await session.command(Rcpt("third@example.org"))
        await session.command(Rcpt("nobody@example.org"))
        with pytest.raises(smtplite.DeliveryUnknown) as caught:
            await session.data(RAW)
        assert caught.value.unknown == ("third@example.org",)


async def test_a_connection_that_ends_within_the_content_is_certainly_not_delivered() -> None:
    """What the kernel never took did not leave: the dot was at its end."""
    async with SMTPServer() as server, client_of(server) as client, client.session() as session:
        server.reply("CONTENT", b"", after_bytes=100, close=True)
        await transaction(session)
        with pytest.raises(smtplite.ConnectionLost) as caught:
            await session.data(b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 500_000)
        assert caught.value.not_sent == ("you@example.org",)
        assert server.messages == []


async def test_content_needs_a_recipient() -> None:
    async with SMTPServer() as server, client_of(server) as client, client.session() as session:
        with pytest.raises(smtplite.LocalProtocolError):
            await session.data(b"x")
        assert session.is_open


async def test_a_connection_that_ends_behind_the_dot_leaves_the_delivery_unknown() -> None:
    async with SMTPServer() as server, client_of(server) as client, client.session() as session:
        server.reply("END_OF_DATA", b"", performs=True, close=True)
        await transaction(session)
        with pytest.raises(smtplite.DeliveryUnknown) as caught:
            await session.data(b"x: y\r\n\r\n")
        assert isinstance(caught.value.__cause__, smtplite.ConnectionLost)
        assert (caught.value.unknown, caught.value.delivered) == (("you@example.org",), None)
        assert len(server.messages) == 1


async def test_a_connection_that_ends_before_the_content_is_certainly_not_delivered() -> None:
    async with SMTPServer() as server, client_of(server) as client, client.session() as session:
        server.reply("DATA", b"", close=True)
        await transaction(session)
        with pytest.raises(smtplite.ConnectionLost) as caught:
            await session.data(b"x: y\r\n\r\n")
        assert (caught.value.not_sent, caught.value.unknown) == (("you@example.org",), ())


@pytest.mark.parametrize(("verb", "error"), [("DATA", smtplite.SMTPTimeout), ("END_OF_DATA", smtplite.DeliveryUnknown)])
async def test_silence_is_a_timeout_before_the_dot_and_unknown_after_it(
    verb: str, error: type[smtplite.SMTPError]
) -> None:
    async with SMTPServer() as server, client_of(server) as client, client.session() as session:
        server.hold(verb)
        await transaction(session)
        session.timeouts = Timeouts(data_init=0.05, end_of_data=0.05)
        with pytest.raises(error) as caught:
            await session.data(b"x: y\r\n\r\n")
        assert caught.value.delivered is (None if verb == "END_OF_DATA" else False)
        assert not session.is_open


# Its end


async def test_it_may_be_opened_and_closed_in_different_tasks() -> None:
    async with SMTPServer() as server, client_of(server, max_connections=1) as client:
        context = client.session(greeting_only=True)
        opened: list[smtplite.RawSession] = []

        async def open_it() -> None:
            opened.append(await context.__aenter__())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(open_it)
        await begun(opened[0])
        with pytest.raises(smtplite.LocalProtocolError, match="open already"):
            await context.__aenter__()
        await context.__aexit__(None, None, None)
        assert server.connections[0].received.endswith(b"QUIT\r\n")
        assert (await client.send(RAW)).complete  # its place is free again


async def test_close_is_at_once_and_without_a_word() -> None:
    async with SMTPServer() as server, client_of(server) as client:
        async with client.session() as session:
            assert not session.is_closed
            session.close()
            session.close()
            assert session.is_closed
            assert not session.is_open
            for call in (session.command(Noop()), session.send(RAW), session.data(b"")):
                with pytest.raises(smtplite.LocalProtocolError, match="closed"):
                    await call
        assert b"QUIT" not in server.connections[0].received


async def test_a_connection_that_the_server_closed_is_not_open() -> None:
    async with SMTPServer() as server, client_of(server) as client, client.session() as session:
        assert session.is_open
        await server.close_idle(b"")
        with anyio.fail_after(30):
            while session.is_open:
                await anyio.lowlevel.checkpoint()
        with pytest.raises(smtplite.ConnectionLost):
            await session.command(Noop())
