"""The habits of real servers that the testing server can have: each is a switch, each is what one was seen to do."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from smtplite.testing import (
    ReceivedMessage,
    ScriptedReply,
    ServerConfig,
    ServerConnection,
    ServerExtensions,
    ServerQuirks,
)

EHLO = b"EHLO client.example\r\n"
LHLO = b"LHLO client.example\r\n"
MAIL = b"MAIL FROM:<ann@example.org>\r\n"
ZOE = b"MAIL FROM:<zoe@example.org>\r\n"
BOB = b"RCPT TO:<bob@example.org>\r\n"
EVE = b"RCPT TO:<eve@example.org>\r\n"
CONTENT = b"Subject: hello\r\n\r\nhi\r\n"
NOBODY = ScriptedReply("RCPT", "550 5.1.1 no such user", times=1)


@attrs.frozen
class Outcome:
    sent: bytes
    messages: list[ReceivedMessage]
    violations: Sequence[str]
    executed: list[bytes]
    closing: bool

    @property
    def codes(self) -> list[int]:
        """The code of each reply behind that to EHLO."""
        lines = self.sent.split(b"\r\n")[:-1]
        return [int(line[:3]) for line in lines if line[3:4] != b"-"][2:]

    @property
    def envelopes(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(message.sender, message.recipients) for message in self.messages]


def talk(
    *pieces: bytes,
    replies: Sequence[ScriptedReply] = (),
    lmtp: bool = False,
    extensions: ServerExtensions | None = None,
    require_tls: bool = False,
    **quirks: object,
) -> Outcome:
    """Say EHLO, then each of `pieces` in a write of its own."""
    server = ServerConnection(
        ServerConfig(
            quirks=ServerQuirks(**quirks),  # type: ignore[arg-type]
            extensions=extensions or ServerExtensions(),
            replies=tuple(replies),
            lmtp=lmtp,
            require_tls=require_tls,
        )
    )
    sent = server.greeting()
    for piece in (LHLO if lmtp else EHLO, *pieces):
        sent += server.feed(piece)
    return Outcome(sent, server.mailbox.messages, server.violations, server.executed_content, server.closing)


def chunk(content: bytes, *, last: bool = True) -> bytes:
    return b"BDAT %d%s\r\n" % (len(content), b" LAST" if last else b"") + content


def in_pieces(octets: bytes, size: int) -> list[bytes]:
    return [octets[start : start + size] for start in range(0, len(octets), size)]


# --- a: what is in a refused chunk runs as commands

SMUGGLED = b"RSET\r\n" + ZOE + EVE + b"DATA\r\nSubject: smuggled\r\n\r\n.\r\n"


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_refused_chunk_is_swallowed_without_the_quirk(size: int) -> None:
    """RFC 3030 section 2."""
    octets = MAIL + BOB + chunk(SMUGGLED) + b"RSET\r\n" + MAIL + EVE + chunk(CONTENT)
    outcome = talk(*in_pieces(octets, size), replies=[NOBODY])
    assert outcome.codes == [250, 550, 503, 250, 250, 250, 250]
    assert outcome.executed == []
    assert outcome.envelopes == [("ann@example.org", ("eve@example.org",))]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_go_smtp_runs_a_refused_chunk_as_commands_however_it_is_cut(size: int) -> None:
    octets = MAIL + BOB + chunk(SMUGGLED) + b"RSET\r\n"
    outcome = talk(*in_pieces(octets, size), replies=[NOBODY], executes_refused_chunks=True)
    assert outcome.codes == [250, 550, 503, 250, 250, 250, 354, 250, 250]
    assert outcome.executed == [b"RSET", ZOE[:-2], EVE[:-2], b"DATA"]
    assert outcome.envelopes == [("zoe@example.org", ("eve@example.org",))]
    assert outcome.violations == []


def test_the_record_ends_where_the_chunk_does() -> None:
    """A line that begins in the chunk and ends behind it counts as content; the next one does not."""
    outcome = talk(
        MAIL + BOB + chunk(b"NOOP\r\nxy") + b"NOOP\r\nNOOP\r\n", replies=[NOBODY], executes_refused_chunks=True
    )
    assert outcome.executed == [b"NOOP", b"xyNOOP"]
    assert outcome.codes == [250, 550, 503, 250, 500, 250]
    outcome = talk(MAIL + BOB + chunk(b"") + b"NOOP\r\n", replies=[NOBODY], executes_refused_chunks=True)
    assert outcome.executed == []


def test_what_stands_in_a_refused_chunk_is_no_violation_and_what_follows_it_is() -> None:
    outcome = talk(
        MAIL + BOB + chunk(CONTENT + b"NOOP\r\n") + b"BAD\r\n", replies=[NOBODY], executes_refused_chunks=True
    )
    assert outcome.codes == [250, 550, 503, 500, 500, 500, 250, 500]
    assert outcome.executed == [b"Subject: hello", b"", b"hi", b"NOOP"]
    assert outcome.violations == ["unknown command: 'BAD'"]


def test_a_bdat_within_a_refused_chunk_is_part_of_it() -> None:
    inner = b"BDAT 4\r\nab"
    outcome = talk(MAIL + BOB + chunk(inner) + b"c\r\nNOOP\r\n", replies=[NOBODY], executes_refused_chunks=True)
    # The inner one goes on behind the end of the outer one: "abc" and CRLF, of which the LF is behind it
    assert outcome.executed == [b"BDAT 4", b"abc"]
    assert outcome.codes == [250, 550, 503, 503, 500, 250]


def test_the_probe_of_a_careful_client_is_run_by_go_smtp_and_by_nobody_else() -> None:
    """`design.md` section 4: MAIL, BDAT without a recipient, RSET."""
    probe = MAIL + b"BDAT 8 LAST\r\nXPROBE\r\nRSET\r\n"
    outcome = talk(probe, executes_refused_chunks=True)
    assert (outcome.codes, outcome.executed) == ([250, 503, 500, 250], [b"XPROBE"])
    for codes in (False, {552}, {530}):
        outcome = talk(probe, executes_refused_chunks=codes)
        assert (outcome.codes, outcome.executed) == ([250, 503, 250], [])


def test_postfix_and_dovecot_run_what_they_answer_530() -> None:
    outcome = talk(
        MAIL + BOB + chunk(b"NOOP\r\n") + b"QUIT\r\n", require_tls=True, executes_refused_chunks=frozenset({530})
    )
    assert outcome.codes == [530, 530, 530, 250, 221]
    assert outcome.executed == [b"NOOP"]


def test_exim_runs_a_chunk_that_goes_over_its_limit() -> None:
    extensions = ServerExtensions(size=30)
    over = SMUGGLED
    outcome = talk(MAIL + BOB + chunk(over), extensions=extensions, executes_refused_chunks={552})
    assert outcome.codes[:3] == [250, 250, 552]
    assert outcome.envelopes == [("zoe@example.org", ("eve@example.org",))]
    # Of two chunks the second goes over
    octets = MAIL + BOB + chunk(b"x" * 20, last=False) + chunk(b"NOOP\r\nNOOP\r\n")
    outcome = talk(octets, extensions=extensions, executes_refused_chunks={552})
    assert outcome.codes == [250, 250, 250, 552, 250, 250]
    assert outcome.executed == [b"NOOP", b"NOOP"]
    # Within the limit nothing is different
    outcome = talk(MAIL + BOB + chunk(CONTENT), extensions=extensions, executes_refused_chunks={552})
    assert (outcome.codes, outcome.executed, len(outcome.messages)) == ([250, 250, 250], [], 1)


def test_a_scripted_refusal_runs_the_chunk_too() -> None:
    replies = [ScriptedReply("BDAT", "452 4.3.1 full", times=1)]
    outcome = talk(MAIL + BOB + chunk(b"NOOP\r\n"), replies=replies, executes_refused_chunks=True)
    assert (outcome.codes, outcome.executed) == ([250, 250, 452, 250], [b"NOOP"])
    for reply in ("250 2.0.0 fine", b"", None):
        replies = [ScriptedReply("BDAT", reply, times=1)]
        outcome = talk(MAIL + BOB + chunk(CONTENT) + b"RSET\r\n", replies=replies, executes_refused_chunks=True)
        assert outcome.codes == ([250, 250, 250] if reply == b"" else [250, 250, 250, 250])
        assert outcome.executed == []


def test_a_mail_without_rset_behind_it_is_taken_and_written_down() -> None:
    """R23: who sends it risks that two messages become one; a server that runs chunks does not insist on RSET."""
    outcome = talk(
        MAIL + BOB + chunk(b"NOOP\r\n") + ZOE + EVE + chunk(CONTENT), replies=[NOBODY], executes_refused_chunks=True
    )
    assert outcome.codes == [250, 550, 503, 250, 250, 250, 250]
    assert outcome.violations == ["MAIL without RSET after a refused BDAT"]


def test_content_of_a_bdat_that_is_not_offered_is_recorded_as_run() -> None:
    outcome = talk(MAIL + BOB + chunk(b"NOOP\r\nfoo\r\n") + b"NOOP\r\n", extensions=ServerExtensions(chunking=False))
    assert outcome.codes == [250, 250, 500, 250, 500, 250]
    assert outcome.executed == [b"NOOP", b"foo"]
    assert outcome.violations == ["BDAT, which is not offered"]


def test_the_record_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtplite.testing.protocol.MAX_EXECUTED_LINES", 2)
    outcome = talk(MAIL + BOB + chunk(b"NOOP\r\n" * 3), replies=[NOBODY], executes_refused_chunks=True)
    assert outcome.executed == [b"NOOP", b"NOOP"]


# --- b: what comes together with the dot, and behind it


@pytest.mark.parametrize("order", ["after", "before"])
def test_haraka_answers_503_to_every_command_that_came_with_the_dot(order: str) -> None:
    octets = b".\r\n" + ZOE + EVE + b"DATA\r\n"
    outcome = talk(MAIL + BOB + b"DATA\r\n", CONTENT, octets, ZOE, refuses_after_dot=order)
    verdicts = [250, 503, 503, 503] if order == "after" else [503, 503, 503, 250]
    assert outcome.codes == [250, 250, 354, *verdicts, 250]
    assert outcome.envelopes == [("ann@example.org", ("bob@example.org",))]
    assert outcome.violations == []


@pytest.mark.parametrize("order", ["after", "before"])
def test_haraka_does_not_even_quit_and_performs_what_was_not_complete(order: str) -> None:
    outcome = talk(MAIL + BOB + b"DATA\r\n", b".\r\nQUIT\r\n", b"NOOP\r\n", refuses_after_dot=order)
    assert sorted(outcome.codes[3:5]) == [250, 503]
    assert outcome.codes[5:] == [250]
    assert not outcome.closing
    outcome = talk(MAIL + BOB + b"DATA\r\n", b".\r\nQUI", b"T\r\n", refuses_after_dot=order)
    assert outcome.codes[3:] == [250, 221]
    assert outcome.closing


def test_haraka_performs_what_comes_with_a_later_write() -> None:
    pieces = [MAIL + BOB + b"DATA\r\n", CONTENT + b".\r\n", ZOE + EVE + b"DATA\r\n", CONTENT + b".\r\n", b"QUIT\r\n"]
    outcome = talk(*pieces, refuses_after_dot="after")
    assert outcome.codes == [250, 250, 354, 250, 250, 250, 354, 250, 221]


def test_the_numbers_of_refused_commands_are_their_own() -> None:
    config = ServerConfig(numbered=True, quirks=ServerQuirks(refuses_after_dot="before"))
    server = ServerConnection(config)
    server.feed(EHLO + MAIL + BOB + b"DATA\r\n")
    sent = server.feed(b".\r\nNOOP\r\nQUIT\r\n")
    assert [line.rpartition(b"#")[2] for line in sent.split(b"\r\n")[:-1]] == [b"6", b"7", b"5"]


# --- c: so many messages, and no more


def test_421_in_place_of_the_reply_to_the_next_mail() -> None:
    message = [MAIL, BOB, chunk(CONTENT)]
    outcome = talk(*message, MAIL, b"RSET\r\n", *message, MAIL + BOB, max_messages=2)
    assert outcome.codes == [250, 250, 250, 250, 250, 250, 250, 250, 421]
    assert outcome.closing
    assert len(outcome.messages) == 2
    assert outcome.violations == []


def test_421_unasked_behind_the_last_verdict() -> None:
    """What is written behind it in the same group is not read any more."""
    by_bdat = MAIL + BOB + chunk(CONTENT)
    outcome = talk(by_bdat + by_bdat + by_bdat, max_messages=2, closes_unasked=True)
    assert outcome.codes == [250, 250, 250, 250, 250, 250, 421]
    assert outcome.sent.endswith(b"421 4.7.0 too many messages in this connection, closing\r\n")
    assert outcome.closing
    assert len(outcome.messages) == 2
    outcome = talk(MAIL + BOB + b"DATA\r\n", CONTENT + b".\r\n" + MAIL, max_messages=1, closes_unasked=True)
    assert outcome.codes == [250, 250, 354, 250, 421]
    assert len(outcome.messages) == 1


def test_only_messages_that_were_taken_count() -> None:
    refused = ScriptedReply("END_OF_DATA", "554 5.6.0 no", times=1)
    message = [b"RSET\r\n", MAIL, BOB, chunk(CONTENT)]
    outcome = talk(*message, *message, *message, replies=[refused], max_messages=1)
    assert outcome.codes == [250, 250, 250, 554, 250, 250, 250, 250, 250, 421]


# --- d: two messages that become one


def test_exim_lets_a_message_without_rset_join_the_old_transaction() -> None:
    """Message 2 goes out under message 1's sender, to message 1's recipients too."""
    lost = ScriptedReply("END_OF_DATA", "451 4.3.0 try later", times=1)
    octets = MAIL + BOB + chunk(b"1\r\n") + ZOE + EVE + chunk(b"2\r\n")
    outcome = talk(octets, replies=[lost], merges_messages=True)
    assert outcome.codes == [250, 250, 451, 503, 250, 250]
    assert outcome.envelopes == [("ann@example.org", ("bob@example.org", "eve@example.org"))]
    assert outcome.messages[0].content == b"2\r\n"
    assert outcome.violations == ["MAIL without RSET after a refused BDAT"]


def test_so_it_does_where_nobody_was_accepted() -> None:
    octets = MAIL + BOB + chunk(b"1\r\n") + ZOE + EVE + b"DATA\r\n"
    outcome = talk(octets, b"2\r\n.\r\n", replies=[NOBODY], merges_messages=True)
    assert outcome.codes == [250, 550, 503, 503, 250, 354, 250]
    assert outcome.envelopes == [("ann@example.org", ("eve@example.org",))]


@pytest.mark.parametrize("quirk", [True, False])
def test_rset_keeps_messages_apart(quirk: bool) -> None:
    """R23."""
    octets = MAIL + BOB + chunk(b"1\r\n") + b"RSET\r\n" + ZOE + EVE + chunk(b"2\r\n")
    outcome = talk(octets, replies=[NOBODY], merges_messages=quirk)
    assert outcome.codes == [250, 550, 503, 250, 250, 250, 250]
    assert outcome.envelopes == [("zoe@example.org", ("eve@example.org",))]
    assert outcome.violations == []


def test_without_mail_nothing_joins_and_a_chunk_that_was_not_the_last_leaves_nothing() -> None:
    outcome = talk(MAIL + BOB + chunk(b"1\r\n") + EVE + chunk(b"2\r\n"), replies=[NOBODY], merges_messages=True)
    assert outcome.codes == [250, 550, 503, 503, 503]
    refused = ScriptedReply("BDAT", "452 4.3.1 full", times=1)
    outcome = talk(MAIL + BOB + chunk(b"1", last=False) + ZOE + EVE, replies=[refused], merges_messages=True)
    assert outcome.codes == [250, 250, 452, 503, 503]


# --- e: LMTP, and envelopes without anybody


TWO = MAIL + BOB + EVE


@pytest.mark.parametrize(("quirk", "codes"), [(True, [552]), (False, [552, 552])])
def test_dovecot_answers_a_failed_bdat_once(quirk: bool, codes: list[int]) -> None:
    """RFC 2033 section 4.2 wants one reply for each recipient."""
    extensions = ServerExtensions(size=3)
    outcome = talk(TWO + chunk(b"12345"), lmtp=True, extensions=extensions, lmtp_fails_once=quirk)
    assert outcome.codes == [250, 250, 250, *codes]
    # A success has its replies, and so has DATA
    outcome = talk(TWO + chunk(b"x\r\n"), lmtp=True, lmtp_fails_once=quirk)
    assert outcome.codes == [250, 250, 250, 250, 250]
    outcome = talk(TWO + b"DATA\r\n", b"12345\r\n.\r\n", lmtp=True, extensions=extensions, lmtp_fails_once=quirk)
    assert outcome.codes == [250, 250, 250, 354, 552, 552]


def test_lmtp_answers_once_where_nobody_was_accepted() -> None:
    """RFC 2033 section 4.2: 503 to DATA; Dovecot says it to BDAT LAST."""
    refused = [NOBODY, NOBODY]
    assert talk(TWO + chunk(b"x\r\n"), lmtp=True, replies=refused).codes == [250, 550, 550, 503]
    assert talk(TWO + b"DATA\r\n", lmtp=True, replies=refused).codes == [250, 550, 550, 503]


@pytest.mark.parametrize("lmtp", [True, False])
def test_a_server_that_takes_a_message_for_nobody(lmtp: bool) -> None:
    octets = [MAIL + BOB + b"DATA\r\n", b".\r\n", ZOE]
    outcome = talk(*octets, lmtp=lmtp, replies=[NOBODY], takes_empty_envelopes=True)
    assert outcome.codes == [250, 550, 354, 250, 250]
    assert outcome.messages == []


# --- f: replies that fill a socket


@pytest.mark.parametrize("octets", [1, 512, 4096, 70_000])
def test_replies_to_rcpt_are_as_long_as_asked(octets: int) -> None:
    server = ServerConnection(ServerConfig(quirks=ServerQuirks(rcpt_reply_bytes=octets), numbered=True))
    server.feed(EHLO + MAIL)
    refusal = ScriptedReply("RCPT", "550 5.1.1 no", to="eve@example.org")
    server.script.add(refusal)
    reply = server.feed(BOB)
    assert octets < len(reply) < octets + 2 * 512
    lines = reply.splitlines(keepends=True)
    assert lines[0] == b"250-2.1.5 recipient ok #3\r\n"
    assert all(line.startswith(b"250-2.1.5 ") for line in lines[:-1])
    assert lines[-1].startswith(b"250 2.1.5 ")
    assert max(map(len, lines)) <= 512
    assert server.feed(EVE) == b"550 5.1.1 no #4\r\n"


# --- g: no answer at all


def test_exchange_never_answers_bdat() -> None:
    outcome = talk(MAIL + BOB, chunk(CONTENT), b"RSET\r\n", b"QUIT\r\n", hangs_on_bdat=True)
    assert outcome.codes == [250, 250]
    assert outcome.messages == []
    assert outcome.violations == []
    assert not outcome.closing


def test_a_connection_that_hangs_is_not_idle_and_ends_with_the_clients_end() -> None:
    server = ServerConnection(ServerConfig(quirks=ServerQuirks(hangs_on_bdat=True)))
    server.feed(EHLO + MAIL + BOB + chunk(b""))
    assert not server.is_idle
    assert server.feed(b"") == b""
    assert server.closing


# --- all of them


def test_without_a_switch_there_is_no_quirk() -> None:
    for field in attrs.fields(ServerQuirks):
        assert not getattr(ServerQuirks(), field.name), field.name
