"""R11: what is sent again, and that it is sent again once at most. R12: what was never set up is never used."""

from __future__ import annotations

import anyio
import pytest

from smtplite import (
    AuthenticationError,
    ConnectError,
    ConnectionLost,
    DeliveryUnknown,
    RemoteProtocolError,
    SenderRefused,
    ServiceUnavailable,
    SMTPError,
    TLSError,
)

from .dialogue import FIRST, SECOND, Fault, client_at, close, nothing_follows, reset, say, tls_contexts, up_to
from .server import Honest, Peer, Script, Server, ehlo_reply

pytestmark = pytest.mark.anyio

KEYWORDS = ("PIPELINING", "ENHANCEDSTATUSCODES")


def dying(fault: Fault, *, at: str = "mail") -> Script:
    """Return a script that serves one message well, and then dies with the second at the given phase."""

    async def script(peer: Peer) -> None:
        await up_to(peer, "end of data", *KEYWORDS)
        await peer.write(b"250 2.0.0 taken\r\n")
        await peer.read_until(b"DATA\r\n")
        await peer.write({"mail": b"", "rcpt": b"250 ok\r\n", "data": b"250 ok\r\n250 ok\r\n"}.get(at, b""))
        if at == "end of data":
            await peer.write(b"250 ok\r\n250 ok\r\n354 go\r\n")
            await peer.read_content()
        await fault(peer)

    return script


def say_and_close(said: bytes) -> Fault:
    async def fault(peer: Peer) -> None:
        await peer.write(said)

    return fault


DEAD = {
    "closed": close,
    "reset": reset,
    "421": say(b"421 4.4.2 idle for too long\r\n"),
    "421 and closed": say_and_close(b"421 4.4.2 idle for too long\r\n"),
    "451 4.4.2": say(b"451 4.4.2 idle for too long\r\n503 5.5.1 no\r\n503 5.5.1 no\r\n"),
}


@pytest.mark.parametrize("fault", DEAD.values(), ids=[f"R11-{name}".replace(" ", "_") for name in DEAD])
async def test_a_connection_that_died_while_it_was_idle_is_replaced(fault: Fault) -> None:
    """R11: MAIL was not answered, or by what idle connections say; the caller hears nothing of it."""
    honest = Honest(*KEYWORDS)
    async with Server(dying(fault), honest) as server, client_at(server, max_connections=1) as client:
        assert (await client.send(FIRST)).complete
        receipt = await client.send(SECOND)
        assert receipt.complete
        assert len(server.peers) == 2
    assert [message.content for message in honest.messages] == [SECOND]


ALIVE = [
    pytest.param("mail", say(b"451 4.3.0 no\r\n503 no\r\n503 no\r\n"), SenderRefused, id="R11-another_451"),
    pytest.param("mail", say(b"550 5.7.1 no\r\n503 no\r\n503 no\r\n"), SenderRefused, id="R11-550"),
    pytest.param("mail", say(b"junk\r\n"), RemoteProtocolError, id="R11-junk"),
    pytest.param("rcpt", close, ConnectionLost, id="R11-lost_behind_MAIL"),
    pytest.param("rcpt", say(b"421 4.3.2 closing\r\n"), ServiceUnavailable, id="R11-421_behind_MAIL"),
    pytest.param("data", reset, ConnectionLost, id="R11-lost_behind_RCPT"),
    pytest.param("end of data", close, DeliveryUnknown, id="R11-lost_behind_the_dot"),
    pytest.param("end of data", reset, DeliveryUnknown, id="R11-reset_behind_the_dot"),
    pytest.param("end of data", say(b"junk\r\n"), DeliveryUnknown, id="R11-junk_behind_the_dot"),
]


@pytest.mark.parametrize(("at", "fault", "expected"), ALIVE)
async def test_nothing_else_is_sent_again(at: str, fault: Fault, expected: type[SMTPError]) -> None:
    """R11, R1: what the server judged, and what may have arrived, is the caller's to decide."""
    honest = Honest(*KEYWORDS)
    async with Server(dying(fault, at=at), honest) as server, client_at(server) as client:
        assert (await client.send(FIRST)).complete
        with pytest.raises(expected):
            await client.send(SECOND)
        assert len(server.peers) == 1
        assert honest.messages == []


@pytest.mark.parametrize("fault", DEAD.values(), ids=[f"R11-{name}".replace(" ", "_") for name in DEAD])
async def test_on_a_new_connection_it_is_an_error(fault: Fault) -> None:
    """R11: that was not idle."""

    async def script(peer: Peer) -> None:
        await up_to(peer, "mail", *KEYWORDS)
        await fault(peer)

    honest = Honest(*KEYWORDS)
    async with Server(script, honest) as server, client_at(server) as client:
        with pytest.raises((ConnectionLost, ServiceUnavailable, SenderRefused)) as caught:
            await client.send(SECOND)
        assert caught.value.retryable
        assert len(server.peers) == 1
        assert honest.messages == []


@pytest.mark.parametrize("fault", [close, reset, say(b"421 4.3.2 closing\r\n")], ids=["closed", "reset", "421"])
async def test_the_second_try_is_the_last(fault: Fault) -> None:
    """R11: at most once, and its error is the one that is raised."""

    async def script(peer: Peer) -> None:
        await up_to(peer, "mail", *KEYWORDS)
        await fault(peer)

    honest = Honest(*KEYWORDS)
    async with Server(dying(fault), script, honest) as server, client_at(server) as client:
        assert (await client.send(FIRST)).complete
        with pytest.raises(SMTPError) as caught:
            await client.send(SECOND)
        assert caught.value.not_sent == ("them@example.org",)
        assert caught.value.retryable
        assert len(server.peers) == 2
        assert honest.messages == []


async def test_many_connections_that_died_cost_one_try_all_the_same() -> None:
    """R11: the second try goes on a connection that was never idle."""
    together = 4
    arrived = 0
    all_here = anyio.Event()
    honest = Honest(*KEYWORDS)

    async def script(peer: Peer) -> None:
        nonlocal arrived
        await up_to(peer, "end of data", *KEYWORDS)
        arrived += 1
        if arrived == together:
            all_here.set()
        await all_here.wait()
        await peer.write(b"250 2.0.0 taken\r\n")
        if await peer.read_line() == b"QUIT":
            await peer.write(b"221 bye\r\n")

    async with Server(*[script] * together, honest) as server, client_at(server, max_connections=together) as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(together):
                tasks.start_soon(client.send, FIRST)
        assert (await client.send(SECOND)).complete
        assert len(server.peers) == together + 1
    assert [message.content for message in honest.messages] == [SECOND]


async def test_a_server_that_is_gone_for_good() -> None:
    """R11: the second try finds nobody."""
    async with Server(dying(close)) as server, client_at(server) as client:
        assert (await client.send(FIRST)).complete
        server.stop_listening()
        with pytest.raises(ConnectError) as caught:
            await client.send(SECOND)
        assert caught.value.not_sent == ("them@example.org",)


EARLY = {"421": b"421 4.7.0 too many connections\r\n", "250": b"250 sender\r\n", "junk": b"junk\r\n"}


@pytest.mark.parametrize("how", ["send", "send_many"])
@pytest.mark.parametrize("said", EARLY.values(), ids=[f"R11-{name}" for name in EARLY])
async def test_a_server_that_always_speaks_before_mail_is_not_asked_for_ever(said: bytes, how: str) -> None:
    """R11, R8: a new connection that ends before MAIL is no idle one: an error, not one connection after another."""

    async def script(peer: Peer) -> None:
        assert peer.number < 4, "one connection after another"
        await up_to(peer, "hello")
        await peer.write(ehlo_reply(*KEYWORDS) + said)
        await nothing_follows(peer)

    async with Server(script) as server, client_at(server) as client:
        error: Exception | None
        if how == "send":
            with pytest.raises(SMTPError) as caught:
                await client.send(FIRST)
            error = caught.value
            assert len(server.peers) == 1
        else:
            async with client.send_many([FIRST]) as deliveries:
                outcomes = [delivery async for delivery in deliveries]
            (outcome,) = outcomes
            error = outcome.error
            assert len(server.peers) <= 4  # a connection that ends before MAIL was written is no try, up to three times
        assert isinstance(error, SMTPError)
        assert isinstance(error, (ServiceUnavailable, RemoteProtocolError, ConnectionLost))
        assert error.not_sent == ("you@example.org",)


# R12


async def fail_at_ehlo(peer: Peer) -> None:
    await up_to(peer, "hello")
    await peer.write(b"550 5.7.1 go away\r\n")
    await nothing_follows(peer)


async def fail_at_starttls(peer: Peer) -> None:
    await up_to(peer, "starttls", "PIPELINING")
    await peer.write(b"454 4.7.0 not now\r\n")
    await nothing_follows(peer)


async def fail_at_handshake(peer: Peer) -> None:
    await up_to(peer, "starttls", "PIPELINING")
    await peer.write(b"220 go\r\n")
    await peer.read_some()
    await peer.write(b"\x15\x03\x03\x00\x02\x02\x28")  # alert: handshake_failure
    await peer.read_to_the_end()


async def fail_at_auth(peer: Peer) -> None:
    await up_to(peer, "auth", "PIPELINING")
    await peer.write(b"535 5.7.8 no\r\n")
    await nothing_follows(peer)


async def fail_at_second_ehlo(peer: Peer) -> None:
    theirs, _ = tls_contexts()
    await up_to(peer, "starttls", "PIPELINING")
    await peer.write(b"220 go\r\n")
    await peer.begin_tls(theirs)
    await peer.read_line()
    await peer.write(b"554 5.7.1 no\r\n")
    await nothing_follows(peer)


STARTTLS = {"tls": "starttls"}
SETUPS = [
    pytest.param(fail_at_ehlo, {}, ServiceUnavailable, id="R12-EHLO"),
    pytest.param(fail_at_starttls, STARTTLS, TLSError, id="R12-STARTTLS"),
    pytest.param(fail_at_handshake, STARTTLS, TLSError, id="R12-TLS_handshake"),
    pytest.param(fail_at_second_ehlo, STARTTLS, ServiceUnavailable, id="R12-EHLO_inside_TLS"),
    pytest.param(
        fail_at_auth,
        {"username": "me", "password": "secret", "allow_insecure_auth": True},
        AuthenticationError,
        id="R12-AUTH",
    ),
]


@pytest.mark.parametrize(("script", "options", "expected"), SETUPS)
async def test_a_connection_whose_set_up_failed_is_never_used(
    script: Script, options: dict[str, object], expected: type[SMTPError]
) -> None:
    """R12 (CVE-2026-7666): not by the next message, not by `check`, not by `session`; each begins anew, in full."""
    theirs, ours = tls_contexts()
    options = dict(options)
    honest = Honest("PIPELINING", "AUTH PLAIN", tls=theirs)
    if "tls" in options:
        options["tls_context"] = ours
    async with Server(script, script, script, honest) as server:
        async with client_at(server, max_connections=1, **options) as client:
            for _ in range(2):
                with pytest.raises(expected):
                    await client.send(FIRST)
            with pytest.raises(expected):
                await client.check()
            assert (await client.send(SECOND)).complete
        assert len(server.peers) == 4
        for peer in server.peers[:3]:
            assert b"MAIL" not in peer.received
        verbs = [command.split(b" ")[0] for command in honest.commands]
        if "tls" in options:
            assert verbs[:4] == [b"EHLO", b"STARTTLS", b"EHLO", b"MAIL"]
            assert b"MAIL" in server.peers[3].received_in_tls
        elif "username" in options:
            assert verbs[:3] == [b"EHLO", b"AUTH", b"MAIL"]
    assert [message.content for message in honest.messages] == [SECOND]


async def test_a_server_that_knows_helo_only_and_refuses_it() -> None:
    """R12: HELO is the last word."""

    async def script(peer: Peer) -> None:
        await up_to(peer, "hello")
        await peer.write(b"502 5.5.1 what\r\n")
        assert (await peer.read_line()).startswith(b"HELO ")
        await peer.write(b"550 no\r\n")
        await nothing_follows(peer)

    honest = Honest()
    async with Server(script, honest) as server, client_at(server) as client:
        with pytest.raises(ServiceUnavailable):
            await client.send(FIRST)
        assert (await client.send(SECOND)).complete
        assert len(server.peers) == 2
