"""The faults that a testing server can be told to have, and the truth that it keeps beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.testing import (
    Hold,
    Mailbox,
    ReceivedMessage,
    Script,
    ScriptedReply,
    ServerConfig,
    ServerConnection,
    ServerExtensions,
    ServerQuirks,
)

EHLO = b"EHLO client.example\r\n"
LHLO = b"LHLO client.example\r\n"
MAIL = b"MAIL FROM:<ann@example.org>\r\n"
BOB = b"RCPT TO:<bob@example.org>\r\n"
EVE = b"RCPT TO:<eve@example.org>\r\n"
CONTENT = b"Subject: hello\r\n\r\nhi\r\n"
DATA = MAIL + BOB + b"DATA\r\n"


def server(
    *replies: ScriptedReply,
    lmtp: bool = False,
    quirks: ServerQuirks | None = None,
    mailbox: Mailbox | None = None,
    **options: object,
) -> ServerConnection:
    config = ServerConfig(lmtp=lmtp, quirks=quirks or ServerQuirks(), replies=replies, **options)  # type: ignore[arg-type]
    connection = ServerConnection(config, mailbox)
    connection.greeting()
    connection.feed(LHLO if lmtp else EHLO)
    return connection


def codes(sent: bytes) -> list[int]:
    return [int(line[:3]) for line in sent.split(b"\r\n")[:-1] if line[3:4] != b"-"]


# --- the oracle: what the server answers for


def test_every_recipient_of_every_message_is_committed_and_nobody_else() -> None:
    connection = server()
    connection.feed(
        MAIL + BOB + EVE + b"BDAT 3 LAST\r\na\r\n" + MAIL + b"RCPT TO:<zoe@x.example>\r\nBDAT 3 LAST\r\nb\r\n"
    )
    connection.feed(MAIL + BOB + b"RSET\r\n" + MAIL + BOB + b"BDAT 3\r\nc\r\n")
    assert [(entry.queue_id, entry.content, entry.recipient) for entry in connection.committed] == [
        ("Q1", b"a\r\n", "bob@example.org"),
        ("Q1", b"a\r\n", "eve@example.org"),
        ("Q2", b"b\r\n", "zoe@x.example"),
    ]


@pytest.mark.parametrize("lmtp", [True, False])
@pytest.mark.parametrize("by_data", [True, False])
def test_it_is_committed_before_the_answer_exists(lmtp: bool, by_data: bool) -> None:
    """I1 of the fault plan: a reply that says "delivered" comes behind the commitment."""
    committed_then: list[int] = []

    def look(reply: bytes) -> bytes:
        committed_then.append(len(connection.committed))
        return reply

    connection = server(ScriptedReply("END_OF_DATA", look), lmtp=lmtp)
    sent = connection.feed(MAIL + BOB + EVE + (b"DATA\r\n" if by_data else b"BDAT 3 LAST\r\na\r\n"))
    if by_data:
        sent += connection.feed(CONTENT + b".\r\n")
    assert committed_then == ([2, 2] if lmtp else [2])
    assert sent.endswith(b"250 2.0.0 ok: queued as Q1\r\n" * (2 if lmtp else 1))


def test_a_verdict_that_nobody_hears_is_a_commitment_and_one_that_was_taken_back_is_none() -> None:
    for performs, count in ((True, 1), (False, 0)):
        connection = server(ScriptedReply("END_OF_DATA", b"", performs=performs, close=True))
        assert connection.feed(MAIL + BOB + b"BDAT 3 LAST\r\na\r\n").count(b"\r\n") == 2
        assert len(connection.committed) == count
        assert connection.closing


def test_content_cut_off_is_not_committed() -> None:
    for octets in (b"DATA\r\n" + CONTENT, b"DATA\r\n" + CONTENT + b".\r", b"BDAT 9 LAST\r\n12345678"):
        connection = server()
        connection.feed(MAIL + BOB + octets)
        connection.feed(b"")
        assert connection.committed == []


def test_the_same_octets_have_the_same_answers() -> None:
    """No clock and no chance: the simulation can be run again."""
    lines = [
        MAIL + BOB + EVE + b"DATA\r\n",
        CONTENT + b".\r\n",
        b"AUTH CRAM-MD5\r\n",
        b"AAAA\r\n",
        b"AUTH SCRAM-SHA-256 biwsbj1tZSxyPXg=\r\n",
    ]
    runs = []
    for _ in range(2):
        connection = server(numbered=True, users={"me": "secret"}, auth_nonce="nonce", name="mx.example")
        runs.append([connection.feed(line) for line in lines] + [repr(connection.committed).encode()])
    assert runs[0] == runs[1]
    assert runs[0][2].startswith(b"334 ")
    assert runs[0][4].startswith(b"334 ")


# --- who may refuse what arrives


def test_on_message_is_asked_before_the_message_is_taken_and_may_refuse_it() -> None:
    seen: list[tuple[bytes, int]] = []

    def on_message(message: ReceivedMessage) -> str | None:
        seen.append((message.content, mailbox.count))
        return "452 4.3.1 disk full" if len(seen) == 1 else None

    mailbox = Mailbox(on_message=on_message)
    connection = server(mailbox=mailbox, numbered=True)
    message = MAIL + BOB + b"BDAT 3 LAST\r\na\r\n"
    sent = connection.feed(message + b"RSET\r\n" + message)
    assert codes(sent) == [250, 250, 452, 250, 250, 250, 250]
    assert b"\r\n452 4.3.1 disk full #4\r\n" in sent
    assert seen == [(b"a\r\n", 0), (b"a\r\n", 0)]
    assert [entry.queue_id for entry in connection.committed] == ["Q2"]


def test_a_refusal_of_on_message_is_for_every_recipient_and_leaves_scripted_replies_alone() -> None:
    mailbox = Mailbox(on_message=lambda message: "554 5.7.1 no")
    connection = server(
        ScriptedReply("END_OF_DATA", "550 5.1.1 not he", to="eve@example.org"), lmtp=True, mailbox=mailbox
    )
    assert codes(connection.feed(MAIL + BOB + EVE + BOB + b"BDAT 3 LAST\r\na\r\n")) == [250] * 4 + [554, 550, 554]
    lost = server(ScriptedReply("END_OF_DATA", b"", performs=True), mailbox=mailbox)
    assert codes(lost.feed(MAIL + BOB + b"BDAT 3 LAST\r\na\r\n")) == [250, 250]
    assert mailbox.messages == []


def test_on_message_is_not_asked_about_what_is_not_taken() -> None:
    asked: list[ReceivedMessage] = []
    mailbox = Mailbox(on_message=asked.append)
    connection = server(mailbox=mailbox, extensions=ServerExtensions(size=2))
    connection.feed(MAIL + BOB + b"BDAT 3 LAST\r\na\r\n")
    assert asked == []


def test_on_message_returns_a_reply_or_nothing() -> None:
    mailbox = Mailbox(on_message=lambda message: True)  # type: ignore[arg-type, return-value]  # what is tested
    with pytest.raises(TypeError, match="on_message returns a reply or None, not True"):
        server(mailbox=mailbox).feed(MAIL + BOB + b"BDAT 3 LAST\r\na\r\n")


def test_a_mailbox_that_keeps_nothing_counts() -> None:
    delivered: list[ReceivedMessage] = []
    mailbox = Mailbox(delivered.append, keeps=False)
    server(mailbox=mailbox).feed(MAIL + BOB + b"BDAT 3 LAST\r\na\r\n")
    assert (mailbox.messages, mailbox.committed, mailbox.count, len(delivered)) == ([], [], 1, 1)
    mailbox.clear()
    assert mailbox.count == 0


# --- the server's own reply, with something done to it


def test_a_reply_of_our_own_may_be_altered() -> None:
    connection = server(ScriptedReply("MAIL", lambda octets: octets.replace(b"250 ", b"25 0"), times=1))
    assert connection.feed(MAIL + BOB) == b"25 02.1.0 sender ok\r\n250 2.1.5 recipient ok\r\n"
    assert connection.feed(b"RSET\r\n" + MAIL).endswith(b"250 2.1.0 sender ok\r\n")


def test_a_multi_line_reply_is_altered_as_a_whole() -> None:
    connection = ServerConnection(
        ServerConfig(replies=(ScriptedReply("EHLO", lambda octets: octets[:40], close=True),))
    )
    assert connection.feed(EHLO) == b"250-mail.example.com greets client.examp"
    assert connection.closing


def test_our_own_reply_may_close_the_connection_or_not_be_performed() -> None:
    connection = server(ScriptedReply("END_OF_DATA", close=True))
    assert codes(connection.feed(MAIL + BOB + b"BDAT 3 LAST\r\na\r\nNOOP\r\n")) == [250, 250, 250]
    assert connection.closing
    assert len(connection.committed) == 1

    connection = server(
        ScriptedReply("RCPT", performs=False, to="eve@example.org"), ScriptedReply("END_OF_DATA", performs=False)
    )
    assert codes(connection.feed(MAIL + BOB + EVE + b"BDAT 3 LAST\r\na\r\n")) == [250, 250, 250, 250]
    assert connection.committed == []

    connection = server(ScriptedReply("MAIL", close=False), extensions=ServerExtensions(mailmax=0))
    assert codes(connection.feed(MAIL + b"NOOP\r\n")) == [421, 250]
    assert not connection.closing


def test_our_own_reply_to_auth_may_be_altered_or_lie() -> None:
    plain = b"AUTH PLAIN AG1lAHNlY3JldA==\r\n"
    options: dict[str, Any] = {"users": {"me": "secret"}, "auth_in_clear": True}
    connection = server(ScriptedReply("END_OF_AUTH", lambda octets: octets.lower(), close=True), **options)
    assert connection.feed(plain) == b"235 2.7.0 authentication successful\r\n"
    assert (connection.authenticated_as, connection.closing) == ("me", True)
    connection = server(ScriptedReply("AUTH", performs=False), **options)
    assert codes(connection.feed(plain)) == [235]
    assert connection.authenticated_as is None
    connection = server(ScriptedReply("AUTH", lambda octets: octets[:4] + b"!\r\n"), **options)
    assert connection.feed(b"AUTH LOGIN\r\n") == b"334 !\r\n"
    assert codes(connection.feed(b"bWU=\r\n")) == [334]


def test_our_own_reply_to_what_is_no_command_is_not_altered() -> None:
    connection = server(ScriptedReply("BAD", lambda octets: b""), ScriptedReply("MAIL", lambda octets: b""))
    assert codes(connection.feed(b"BAD\r\nMAIL\r\n")) == [500, 501]


# --- in the middle of the content


def pieces_of(octets: bytes, size: int) -> list[bytes]:
    return [octets[start : start + size] for start in range(0, len(octets), size)]


@pytest.mark.parametrize("size", [1, 10, 10_000])
@pytest.mark.parametrize("by_data", [True, False])
def test_a_refusal_in_the_middle_of_content_that_closes(size: int, by_data: bool) -> None:
    """R24: what was said before the close is there to be read."""
    connection = server(ScriptedReply("CONTENT", "552 5.3.4 too big", after_bytes=1000, close=True))
    content = b"x" * 70 + b"\r\n"
    octets = (
        MAIL
        + BOB
        + (b"DATA\r\n" if by_data else b"BDAT 7200 LAST\r\n")
        + content * 100
        + (b".\r\n" if by_data else b"")
    )
    sent = b"".join(connection.feed(piece) for piece in pieces_of(octets, size))
    assert codes(sent) == [250, 250, *([354] if by_data else []), 552]
    assert connection.closing
    assert connection.committed == []


def test_it_comes_as_soon_as_one_octet_more_has_arrived() -> None:
    connection = server(ScriptedReply("CONTENT", "421 4.3.2 shutting down", after_bytes=5))
    assert codes(connection.feed(DATA)) == [250, 250, 354]
    assert connection.feed(b"12345") == b""
    assert connection.feed(b"6") == b"421 4.3.2 shutting down\r\n"
    assert connection.closing


def test_a_reply_in_the_middle_that_does_not_close_is_one_more() -> None:
    connection = server(ScriptedReply("CONTENT", "452 4.3.1 full", times=1))
    assert codes(connection.feed(DATA)) == [250, 250, 354]
    assert codes(connection.feed(CONTENT)) == [452]
    assert codes(connection.feed(b"more\r\n.\r\nNOOP\r\n")) == [250, 250]
    assert len(connection.committed) == 1


def test_content_without_an_octet_has_no_middle() -> None:
    connection = server(ScriptedReply("CONTENT", "452 4.3.1 full"))
    connection.feed(DATA)
    assert codes(connection.feed(b".\r\n" + MAIL + BOB + b"BDAT 0 LAST\r\n")) == [250, 250, 250, 250]


# --- replies that are held


def test_a_held_reply_waits_for_its_release_and_what_it_answers_does_not() -> None:
    hold = Hold()
    connection = server(ScriptedReply("END_OF_DATA", hold=hold))
    connection.feed(DATA)
    assert connection.feed(CONTENT + b".\r\n" + MAIL) == b""
    assert (connection.is_held, connection.held_by, hold.count) == (True, hold, 1)
    assert not connection.is_idle
    assert len(connection.committed) == 1
    assert connection.feed(BOB) == b""
    assert connection.waiting_bytes == len(MAIL + BOB)
    assert connection.resume() == b""
    hold.release()
    assert connection.resume() == b"250 2.0.0 ok: queued as Q1\r\n250 2.1.0 sender ok\r\n250 2.1.5 recipient ok\r\n"
    assert not connection.is_held
    assert connection.resume() == b""
    assert connection.violations == []
    # Released once, it holds nothing more
    assert codes(connection.feed(b"BDAT 0 LAST\r\n")) == [250]
    assert hold.count == 1


def test_what_stands_before_a_held_reply_is_sent() -> None:
    hold = Hold()
    connection = server(ScriptedReply("RCPT", "250 2.1.5 late", to="eve@example.org", hold=hold))
    assert codes(connection.feed(MAIL + BOB + EVE + BOB + b"DATA\r\n")) == [250, 250]
    hold.release()
    assert connection.resume().startswith(b"250 2.1.5 late\r\n250 ")


def test_a_held_reply_that_closes_does_so_when_it_is_said() -> None:
    hold = Hold()
    connection = server(ScriptedReply("MAIL", "421 4.3.2 later", hold=hold))
    assert connection.feed(MAIL + BOB) == b""
    assert not connection.closing
    hold.release()
    assert connection.resume() == b"421 4.3.2 later\r\n"
    assert connection.closing


def test_a_held_greeting_and_a_held_starttls() -> None:
    hold = Hold()
    config = ServerConfig(
        extensions=ServerExtensions(starttls=True),
        replies=(ScriptedReply("GREETING", hold=hold), ScriptedReply("STARTTLS", hold=hold)),
    )
    connection = ServerConnection(config)
    assert connection.greeting() == b""
    hold.release()
    assert codes(connection.resume()) == [220]
    again = Hold()
    connection.script.clear()
    connection.script.add(ScriptedReply("STARTTLS", hold=again))
    connection.feed(EHLO)
    assert connection.feed(b"STARTTLS\r\n") == b""
    assert not connection.begins_tls
    again.release()
    assert codes(connection.resume()) == [220]
    assert connection.begins_tls


def test_in_lmtp_each_recipients_reply_may_be_held() -> None:
    first, second = Hold(), Hold()
    connection = server(
        ScriptedReply("END_OF_DATA", to="bob@example.org", hold=first),
        ScriptedReply("END_OF_DATA", "452 4.2.2 full", to="eve@example.org", hold=second),
        lmtp=True,
    )
    connection.feed(MAIL + b"RCPT TO:<zoe@x.example>\r\n" + BOB + EVE)
    assert codes(connection.feed(b"BDAT 3 LAST\r\na\r\nNOOP\r\n")) == [250]
    assert [entry.recipient for entry in connection.committed] == ["zoe@x.example", "bob@example.org"]
    second.release()
    assert connection.resume() == b""
    first.release()
    assert codes(connection.resume()) == [250, 452, 250]


def test_the_clients_end_forgets_what_is_held() -> None:
    hold = Hold()
    connection = server(ScriptedReply("MAIL", hold=hold))
    connection.feed(MAIL + BOB)
    assert connection.feed(b"") == b""
    assert (connection.closing, connection.is_held) == (True, False)
    hold.release()
    assert connection.resume() == b""


def test_what_was_written_before_a_held_reply_that_ends_its_group_was_too_early() -> None:
    hold = Hold()
    connection = server(ScriptedReply("DATA", hold=hold))
    connection.feed(DATA)
    connection.feed(CONTENT)
    hold.release()
    connection.resume()
    assert connection.violations == ["bytes after DATA, which ends its group"]


def test_haraka_refuses_what_came_while_the_verdict_was_held() -> None:
    hold = Hold()
    connection = server(
        ScriptedReply("END_OF_DATA", hold=hold, times=1), quirks=ServerQuirks(refuses_after_dot="after")
    )
    connection.feed(DATA)
    connection.feed(CONTENT + b".\r\n" + MAIL)
    connection.feed(BOB)
    hold.release()
    assert codes(connection.resume()) == [250, 503, 503]
    assert codes(connection.feed(MAIL)) == [250]
    # Nothing came meanwhile: nothing is refused
    hold = Hold()
    connection.script.add(ScriptedReply("END_OF_DATA", hold=hold, times=1))
    connection.feed(BOB + b"DATA\r\n")
    connection.feed(b".\r\n")
    hold.release()
    assert codes(connection.resume()) == [250]
    assert codes(connection.feed(MAIL)) == [250]


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("by_data", [True, False])
def test_a_server_that_stops_reading_in_the_middle_of_content(size: int, by_data: bool) -> None:
    hold = Hold()
    connection = server(ScriptedReply("CONTENT", b"", hold=hold, times=1))
    connection.feed(MAIL + BOB)
    octets = b"DATA\r\n" + CONTENT + b".\r\nNOOP\r\n" if by_data else b"BDAT 22 LAST\r\n" + CONTENT + b"NOOP\r\n"
    sent = b"".join(connection.feed(piece) for piece in pieces_of(octets, size))
    assert codes(sent) == ([354] if by_data else [])
    assert connection.is_held
    assert connection.committed == []
    hold.release()
    assert codes(connection.resume()) == [250, 250]
    assert len(connection.committed) == 1


def test_a_listener_of_a_hold_that_was_released_is_called_at_once() -> None:
    calls: list[str] = []
    hold = Hold()
    hold.on_release(lambda: calls.append("before"))
    assert calls == []
    hold.release()
    hold.release()
    hold.on_release(lambda: calls.append("behind"))
    assert calls == ["before", "behind"]


# --- however the octets are cut


@attrs.frozen
class Faulty:
    octets: bytes
    make_replies: Callable[[], Sequence[ScriptedReply]]
    quirks: ServerQuirks = attrs.field(factory=ServerQuirks)


FAULTY = {
    "altered": Faulty(DATA + CONTENT + b".\r\n" + MAIL, lambda: [ScriptedReply("RCPT", lambda octets: octets * 2)]),
    "held": Faulty(
        MAIL + BOB + b"BDAT 22 LAST\r\n" + CONTENT + b"RSET\r\n" + MAIL + BOB,
        lambda: [ScriptedReply("END_OF_DATA", hold=Hold()), ScriptedReply("RSET", "250 ok", hold=Hold())],
    ),
    "held in the middle": Faulty(
        MAIL + BOB + b"BDAT 22 LAST\r\n" + CONTENT + MAIL + EVE, lambda: [ScriptedReply("CONTENT", b"", hold=Hold())]
    ),
    "interrupted": Faulty(
        DATA + CONTENT * 9 + b".\r\nNOOP\r\n",
        lambda: [ScriptedReply("CONTENT", "452 4.3.1 full", after_bytes=50, times=1)],
    ),
    "chunks that run": Faulty(
        MAIL + b"BDAT 33 LAST\r\nNOOP\r\nBDAT 7\r\nRSET\r\nNOOP\r\nfoo\r\nx" + b"yz\r\nNOOP\r\n",
        list,
        ServerQuirks(executes_refused_chunks=True),
    ),
    "messages that merge": Faulty(
        MAIL + BOB + b"BDAT 3 LAST\r\na\r\n" + MAIL + EVE + b"BDAT 3 LAST\r\nb\r\n",
        lambda: [ScriptedReply("END_OF_DATA", "451 4.3.0 no", times=1)],
        ServerQuirks(merges_messages=True),
    ),
}


def run(faulty: Faulty, pieces: Sequence[bytes]) -> tuple[bytes, list[str], Sequence[str], list[bytes]]:
    connection = server(*faulty.make_replies(), quirks=faulty.quirks)
    sent = b""
    for piece in pieces:
        sent += connection.feed(piece)
    while connection.held_by is not None:
        connection.held_by.release()
        sent += connection.resume()
    return sent, [repr(entry) for entry in connection.committed], connection.violations, connection.executed_content


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("name", FAULTY)
@given(data=st.data())
def test_the_octets_may_be_cut_anywhere(name: str, data: st.DataObject) -> None:
    faulty = FAULTY[name]
    whole = run(faulty, [faulty.octets])
    cuts = sorted(data.draw(st.sets(st.integers(1, len(faulty.octets) - 1), max_size=12)))
    pieces = [faulty.octets[start:end] for start, end in zip([0, *cuts], [*cuts, len(faulty.octets)], strict=True)]
    cut = run(faulty, pieces)
    # What was written too early can be seen only where it arrives together
    assert (cut[0], cut[1], cut[3]) == (whole[0], whole[1], whole[3])


@pytest.mark.parametrize("name", FAULTY)
def test_the_octets_may_come_one_by_one(name: str) -> None:
    faulty = FAULTY[name]
    one_by_one = run(faulty, pieces_of(faulty.octets, 1))
    whole = run(faulty, [faulty.octets])
    assert (one_by_one[0], one_by_one[1], one_by_one[3]) == (whole[0], whole[1], whole[3])


# --- rules


def test_options_of_a_rule() -> None:
    script = Script([ScriptedReply("CONTENT", "452 full", after_bytes=9), ScriptedReply("CONTENT", "552 big", times=1)])
    for size, reply in ((1, "552 big"), (9, None), (10, "452 full"), (11, "452 full")):
        taken = script.take("CONTENT", content_bytes=size)
        assert (taken.reply if taken else None) == reply
    assert ScriptedReply("MAIL", b"2x0").code is None
    assert ScriptedReply("MAIL", "451 no").code == 451
    assert ScriptedReply("MAIL").to_bytes() == b""
    assert not ScriptedReply("MAIL").is_positive
