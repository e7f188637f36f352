"""Client(chunking=True): what is used when, and what becomes of a message where a server cannot be trusted with it."""

from __future__ import annotations

import pytest

import smtplite
from smtplite import Client, Content, Envelope, Outgoing
from smtplite.testing import ServerExtensions, ServerQuirks, SMTPServer

pytestmark = pytest.mark.anyio

HEADER = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\n"
RAW = HEADER + b"QUIT\r\nRSET\r\nMAIL FROM:<evil@example.org>\r\n.\r\nbody\r\n"
LARGE = RAW + (b"y" * 70 + b"\r\n") * 6000


def client_of(server: SMTPServer, **options: object) -> Client:
    return Client(server.host, server.port, tls="none", chunking=True, **options)  # type: ignore[arg-type]


def verbs(server: SMTPServer) -> bytes:
    return b"".join(connection.received for connection in server.connections)


async def test_bdat_is_never_used_unless_it_is_asked_for() -> None:
    async with SMTPServer() as server:
        async with Client(server.host, server.port, tls="none") as client:
            await client.send(RAW)
        assert b"BDAT" not in verbs(server)


@pytest.mark.parametrize("raw", [RAW, RAW[:-2], LARGE], ids=["small", "no line end", "large"])
async def test_content_arrives_octet_for_octet(raw: bytes) -> None:
    async with SMTPServer() as server:
        async with client_of(server) as client:
            for _ in range(3):
                assert (await client.send(raw)).complete
        assert [message.content for message in server.messages] == [raw] * 3
        assert server.violations == []
        assert b"\nDATA\r\n" not in verbs(server)
        assert len(server.connections) == 1


async def test_one_round_trip_a_message_once_it_is_proved() -> None:
    async with SMTPServer() as server:
        async with client_of(server) as client:
            await client.send(RAW)
            before = server.connections[0].flights
            for _ in range(5):
                await client.send(RAW, recipients=[f"r{n}@example.org" for n in range(50)])
            assert server.connections[0].flights == before + 5


@pytest.mark.parametrize(
    "quirks",
    [ServerQuirks(executes_refused_chunks=True), ServerQuirks(executes_refused_chunks={503})],
    ids=["always", "503"],
)
async def test_a_server_that_does_not_swallow_a_refused_chunk_never_runs_a_line_of_content(
    quirks: ServerQuirks,
) -> None:
    """R23; go-smtp."""
    async with SMTPServer(quirks=quirks) as server:
        async with client_of(server) as client:
            for _ in range(3):
                receipt = await client.send(RAW)
                assert receipt.complete
            async with client.send_many([RAW] * 5, connections=1) as deliveries:
                assert [delivery.error async for delivery in deliveries] == [None] * 5
        assert [message.content for message in server.messages] == [RAW] * 8
        executed = [line for connection in server.connections for line in connection.protocol.executed_content]
        assert executed == [b"XPROBE"]  # once: then the server is known
        assert len(server.connections) == 2


async def test_a_server_that_hangs_on_bdat_fails_certainly_and_is_remembered() -> None:
    """Exchange."""
    async with SMTPServer(quirks=ServerQuirks(hangs_on_bdat=True)) as server, client_of(server) as client:
        with pytest.raises(smtplite.SMTPTimeout) as caught:
            await client.send(RAW, timeout=2)  # long enough to come so far
        assert caught.value.not_sent == ("you@example.org",)
        assert (await client.send(RAW)).complete
        assert len(server.messages) == 1


@pytest.mark.parametrize("code", [500, 502, 521, 530])
async def test_bdat_refused_as_a_command_goes_again_with_data_on_another_connection(code: int) -> None:
    async with SMTPServer() as server, client_of(server) as client:
        await client.send(RAW)
        server.reply("BDAT", f"{code} 5.5.1 not here")
        assert (await client.send(RAW)).complete
        assert (await client.send(RAW)).complete
        assert len(server.messages) == 3
        assert len(server.connections) == 2


async def test_a_refused_chunk_is_a_refusal_and_the_connection_goes_on() -> None:
    async with SMTPServer() as server, client_of(server) as client:
        await client.send(RAW)
        server.reply("BDAT", "552 5.3.4 too much", times=1)
        with pytest.raises(smtplite.MessageRefused) as caught:
            await client.send(RAW)
        assert caught.value.refused["you@example.org"].code == 552
        assert (await client.send(RAW)).complete
        assert len(server.connections) == 1
        assert server.violations == []


async def test_exim_never_delivers_under_the_wrong_sender() -> None:
    """R23: RSET in front of each MAIL."""
    async with SMTPServer(quirks=ServerQuirks(merges_messages=True)) as server:
        items = [Outgoing(RAW, sender=f"s{n}@example.org", recipients=f"r{n}@example.org") for n in range(40)]
        server.reply("BDAT", "452 4.3.1 not now", sender="s7@example.org")
        async with client_of(server) as client, client.send_many(items, connections=1) as deliveries:
            outcomes = [delivery async for delivery in deliveries]
        assert sum(outcome.error is not None for outcome in outcomes) == 1
        assert all(message.sender[1:] == message.recipients[0][1:] for message in server.messages)
        assert len(server.messages) == 39


async def test_in_lmtp_each_recipient_has_a_verdict() -> None:
    async with SMTPServer(lmtp=True) as server:
        server.reply("END_OF_DATA", "452 4.2.2 full", to="full@example.org")
        async with client_of(server, lmtp=True) as client:
            for _ in range(2):
                receipt = await client.send(RAW, recipients=["a@example.org", "full@example.org", "b@example.org"])
                assert receipt.accepted == ("a@example.org", "b@example.org")
                assert receipt.refused["full@example.org"].code == 452


async def test_binarymime_goes_in_chunks_alone_octet_for_octet() -> None:
    raw = b"From: me@example.org\r\nContent-Transfer-Encoding: binary\r\n\r\n\x00\r\n.\n\rlone\xff" + b"x" * 3000
    envelope = Envelope("me@example.org", ["you@example.org"], body="BINARYMIME")
    async with SMTPServer(extensions=ServerExtensions(binarymime=True)) as server:
        async with client_of(server) as client:
            for content in (raw, Content.from_bytes(raw), raw + b"\n" * 300_000):
                assert (await client.send(content, envelope=envelope)).complete
        assert [message.content for message in server.messages] == [raw, raw, raw + b"\n" * 300_000]
        async with Client(server.host, server.port, tls="none") as client:
            with pytest.raises(smtplite.ExtensionRequired):
                await client.send(raw, envelope=envelope)
    quirks = ServerQuirks(executes_refused_chunks=True)
    async with SMTPServer(extensions=ServerExtensions(binarymime=True), quirks=quirks) as server:
        async with client_of(server) as client:
            with pytest.raises(smtplite.ExtensionRequired):  # it did not prove that it can be trusted
                await client.send(raw, envelope=envelope)
        assert server.messages == []


async def test_a_stream_of_unknown_size_goes_with_data() -> None:
    async def pieces() -> object:
        yield RAW

    async with SMTPServer() as server, client_of(server) as client:
        await client.send(RAW)
        content = Content.from_stream(pieces())  # type: ignore[arg-type]
        assert (await client.send(content, sender="a@example.org", recipients="b@example.org")).complete
        assert b"\r\nDATA\r\n" in verbs(server)
