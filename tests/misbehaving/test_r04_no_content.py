"""R4: content goes only to somebody; and a command is answered by a reply of its class, or by none that counts."""

from __future__ import annotations

import pytest

from smtplite import (
    MessageRefused,
    RecipientsRefused,
    RemoteProtocolError,
    SenderRefused,
    ServiceUnavailable,
    SMTPError,
    Timeouts,
)

from .dialogue import ASYNCIO_AND_TRIO, FIRST, SECOND, assert_next_arrives, client_at, failure_of, skips_time, up_to
from .server import Honest, Peer, Server

pytestmark = pytest.mark.anyio

EVENT_LOOPS = ASYNCIO_AND_TRIO

GO = b"354 go\r\n"


@pytest.mark.parametrize(
    ("group", "lmtp", "expected"),
    [
        pytest.param(b"550 no\r\n503 no\r\n" + GO, False, SenderRefused, id="R4-MAIL_and_RCPT_refused"),
        pytest.param(b"550 no\r\n250 yes\r\n" + GO, False, SenderRefused, id="R4-MAIL_refused_RCPT_taken"),
        pytest.param(b"550 no\r\n503 no\r\n" + GO, True, SenderRefused, id="R4-LMTP_MAIL_refused"),
        pytest.param(b"250 yes\r\n550 no\r\n" + GO, True, RecipientsRefused, id="R4-LMTP_nobody_taken"),
    ],
)
async def test_a_354_for_nobody_is_left_without_a_dot(group: bytes, lmtp: bool, expected: type[SMTPError]) -> None:
    """R4: it might end a message that we know nothing of."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "mail", "PIPELINING")
        await peer.write(group)
        assert await peer.read_to_the_end() == b""

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server, lmtp=lmtp) as client:
        error = await failure_of(client)
        assert type(error) is expected
        assert error.refused["you@example.org"].code == 550
        await assert_next_arrives(client, server, honest)


LONE_DOT = {
    "250": (b"250 taken\r\n", True),
    "554": (b"554 no recipients\r\n", True),
    "451": (b"451 no\r\n", True),
    "421": (b"421 closing\r\n", False),
    "junk": (b"junk\r\n", False),
    "354": (GO, False),
    "close": (None, False),
}


@pytest.mark.parametrize(("said", "goes_on"), LONE_DOT.values(), ids=[f"R4-{name}" for name in LONE_DOT])
async def test_the_answer_to_a_lone_dot_means_nothing(said: bytes | None, goes_on: bool) -> None:
    """R4: neither a 250 nor the end makes another error of it than the refusal of the recipients."""
    honest = Honest()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "mail", "PIPELINING")
        await peer.write(b"250 sender\r\n550 5.1.1 no\r\n" + GO)
        assert await peer.read_exactly(3) == b".\r\n"
        if said is None:
            return
        await peer.write(said)
        await honest.go_on(peer)

    async with Server(misbehave, honest) as server:
        async with client_at(server, timeouts=Timeouts(quit=0.05)) as client:
            error = await failure_of(client)
            assert type(error) is RecipientsRefused
            assert error.refused["you@example.org"].code == 550
            assert not error.retryable
            assert (await client.send(SECOND)).complete
        assert len(server.peers) == (1 if goes_on else 2)
        assert [message.content for message in honest.messages] == [SECOND]


@skips_time
async def test_a_lone_dot_that_is_never_answered() -> None:
    """R4, R7: the error is the refusal, not the time that was up."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "mail", "PIPELINING")
        await peer.write(b"250 sender\r\n550 5.1.1 no\r\n" + GO)
        await peer.read_to_the_end()

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server) as client:
        assert type(await failure_of(client)) is RecipientsRefused
        await assert_next_arrives(client, server, honest)


@pytest.mark.parametrize("code", [b"450", b"451", b"500", b"503", b"554"])
@pytest.mark.parametrize("keywords", [("PIPELINING",), ()], ids=["R4-pipelined", "R4-lockstep"])
async def test_where_data_is_refused_not_one_octet_of_content_is_sent(code: bytes, keywords: tuple[str, ...]) -> None:
    """R4: the next message goes behind a RSET on the same connection."""
    honest = Honest(*keywords)

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "data", *keywords)
        await peer.write(code + b" no\r\n")
        await honest.go_on(peer)

    async with Server(misbehave) as server, client_at(server) as client:
        error = await failure_of(client)
        assert type(error) is MessageRefused
        assert error.refused["you@example.org"].code == int(code)
        assert honest.commands == []
        assert (await client.send(SECOND)).complete
        assert len(server.peers) == 1
    assert honest.commands[0] == b"RSET"
    assert [message.content for message in honest.messages] == [SECOND]


@pytest.mark.parametrize("refusal", [b"550 no\r\n", b"452 later\r\n"])
async def test_with_require_all_one_refusal_is_enough_to_send_nothing(refusal: bytes) -> None:
    """R4: DATA waits for every RCPT (MailKit #1459: an empty message was delivered to those accepted)."""
    honest = Honest(says={"RCPT": [b"250 a\r\n", refusal, b"250 c\r\n"]})
    recipients = [f"{name}@example.org" for name in "abc"]
    async with Server(honest) as server, client_at(server) as client:
        error = await failure_of(client, recipients=recipients, require_all=True)
        assert type(error) is RecipientsRefused
        assert list(error.refused) == ["b@example.org"]
        assert error.not_sent == ("a@example.org", "c@example.org")
        assert b"DATA" not in honest.commands
        assert (await client.send(SECOND, require_all=True)).complete
    assert [message.content for message in honest.messages] == [SECOND]


WRONG = {
    "mail": (b"354", b"220", b"221", b"235", b"334", b"399"),
    "rcpt": (b"354", b"220", b"221", b"235", b"334", b"399"),
    "data": (b"250", b"220", b"221", b"235", b"334", b"200"),
}


@pytest.mark.parametrize(
    ("phase", "code"),
    [(phase, code) for phase, codes in WRONG.items() for code in codes],
    ids=[f"R4-{code.decode()}_to_{phase}" for phase, codes in WRONG.items() for code in codes],
)
@pytest.mark.parametrize("keywords", [("PIPELINING",), ()], ids=["pipelined", "lockstep"])
async def test_a_reply_of_another_class_breaks_the_protocol(phase: str, code: bytes, keywords: tuple[str, ...]) -> None:
    """R4: a code that belongs to another command shows that the count is off; nothing more is written."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, phase, *keywords)
        await peer.write(code + b" what\r\n")
        assert await peer.read_to_the_end() == b""

    honest = Honest(*keywords)
    async with Server(misbehave, honest) as server, client_at(server) as client:
        error = await failure_of(client)
        assert type(error) is RemoteProtocolError
        assert error.not_sent == ("you@example.org",)
        await assert_next_arrives(client, server, honest)


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data"])
async def test_a_421_ends_the_group_whatever_follows_it(phase: str) -> None:
    """R4, R8: a 354 behind it lets no content out."""
    behind = {"mail": b"250 b\r\n" + GO, "rcpt": GO, "data": GO}[phase]

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, phase, "PIPELINING")
        await peer.write(b"421 closing\r\n" + behind)
        assert await peer.read_to_the_end() == b""

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server) as client:
        error = await failure_of(client, FIRST)
        assert type(error) is ServiceUnavailable
        assert error.retryable
        await assert_next_arrives(client, server, honest)
