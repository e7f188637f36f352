"""The testing server's sans-IO half, octets in and octets out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.testing import (
    Mailbox,
    ReceivedMessage,
    Script,
    ScriptedReply,
    ServerConfig,
    ServerConnection,
    ServerExtensions,
)

EHLO = b"EHLO client.example\r\n"
LHLO = b"LHLO client.example\r\n"
MAIL = b"MAIL FROM:<ann@example.org>\r\n"
BOB = b"RCPT TO:<bob@example.org>\r\n"
EVE = b"RCPT TO:<eve@example.org>\r\n"
CONTENT = b"Subject: hello\r\n\r\nhi\r\n"


@attrs.frozen
class Outcome:
    sent: bytes
    messages: list[ReceivedMessage]
    violations: Sequence[str]
    closing: bool

    @property
    def codes(self) -> list[int]:
        """The code of each reply, the greeting's and the first EHLO's left out."""
        return codes(self.sent)[2:]


def codes(sent: bytes) -> list[int]:
    return [int(line[:3]) for line in sent.split(b"\r\n")[:-1] if line[3:4] != b"-"]


def drive(
    pieces: Iterable[bytes], config: ServerConfig | None = None, replies: Sequence[ScriptedReply] = ()
) -> Outcome:
    config = attrs.evolve(config or ServerConfig(), replies=tuple(replies))
    server = ServerConnection(config)
    sent = server.greeting()
    for piece in pieces:
        sent += server.feed(piece)
    return Outcome(sent, server.mailbox.messages, server.violations, server.closing)


def talk(*lines: bytes, config: ServerConfig | None = None, replies: Sequence[ScriptedReply] = ()) -> Outcome:
    """Say EHLO, then each of `lines` in a write of its own."""
    hello = LHLO if config is not None and config.lmtp else EHLO
    return drive([hello, *lines], config, replies)


def offering(**extensions: object) -> ServerConfig:
    return ServerConfig(extensions=ServerExtensions(**extensions))  # type: ignore[arg-type]


LMTP = ServerConfig(lmtp=True)
BARE = ServerConfig(extensions=ServerExtensions.none())


# --- the same octets, however they are cut


@attrs.frozen
class Dialogue:
    octets: bytes
    config: ServerConfig = attrs.field(factory=ServerConfig)
    replies: tuple[ScriptedReply, ...] = ()


DIALOGUES = {
    "data": Dialogue(EHLO + MAIL + BOB + b"DATA\r\n" + CONTENT + b".\r\nQUIT\r\n"),
    "dots": Dialogue(EHLO + MAIL + BOB + b"DATA\r\n..\r\n...\r\n..a\r\n\r\n..\r\n.\r\n" + MAIL),
    "empty content": Dialogue(EHLO + MAIL + BOB + b"DATA\r\n.\r\nNOOP\r\n"),
    "dot games": Dialogue(
        EHLO + MAIL + BOB + b"DATA\r\n\n.\na\r.\rb\r\n.\nc\r\n.\r.\r\nd\r\n.\r\r\n\r\r\n.e\r\n\0.\r\n\r\n.\r\n" + MAIL
    ),
    "long lines": Dialogue(EHLO + MAIL + BOB + b"DATA\r\n" + b"x" * 998 + b"\r\n" + b"y" * 999 + b"\r\n.\r\n"),
    "8-bit": Dialogue(EHLO + MAIL + BOB + b"DATA\r\n\xe4\r\n.\r\n"),
    "messages in a row": Dialogue(
        EHLO
        + MAIL
        + BOB
        + b"DATA\r\n"
        + CONTENT
        + b".\r\n"
        + MAIL
        + EVE
        + b"DATA\r\n"
        + b"..\r\n.\r\n"
        + MAIL
        + BOB
        + b"DATA\r\nx\r\n.\r\nQUIT\r\nNOOP\r\n"
    ),
    "chunks": Dialogue(
        EHLO
        + MAIL
        + BOB
        + b"BDAT 3\r\na\r\nBDAT 0\r\nBDAT 4 LAST\r\n.\r\n\r"
        + b"RSET\r\n"
        + MAIL
        + BOB
        + b"BDAT 0 LAST\r\n"
    ),
    "a window of chunks": Dialogue(
        EHLO
        + b"".join(
            b"RSET\r\nMAIL FROM:<%d@example.org>\r\nRCPT TO:<bob@example.org>\r\nBDAT 8 LAST\r\nRSET\r\n\r\n" % number
            for number in range(5)
        ),
        replies=(
            ScriptedReply("MAIL", "451 4.3.0 later", sender="1@example.org"),
            ScriptedReply("RCPT", "550 5.1.1 no", sender="2@example.org"),
            ScriptedReply("END_OF_DATA", "554 5.6.0 no", sender="3@example.org"),
        ),
    ),
    "chunks not offered": Dialogue(EHLO + MAIL + BOB + b"BDAT 6 LAST\r\nNOOP\r\n" + MAIL, offering(chunking=False)),
    "broken lines": Dialogue(
        EHLO + b"NOOP\nNOOP\r\nNOOP\rNOOP\r\nNOOP\r\r\n\r\n\0\r\nNOOP \t\r\n\xff\r\n" + b"x" * 3000 + b"\r\nNOOP\r\n"
    ),
    "line limits": Dialogue(
        EHLO + b"".join(b"NOOP " + b"x" * (length - 7) + b"\r\n" for length in (511, 512, 513, 1000, 1200, 1201, 1202))
    ),
    "lmtp": Dialogue(
        LHLO + MAIL + BOB + EVE + b"DATA\r\n" + CONTENT + b".\r\n" + MAIL + BOB + b"BDAT 3 LAST\r\na\r\nQUIT\r\n",
        LMTP,
        (ScriptedReply("END_OF_DATA", "452 4.2.2 full", to="eve@example.org"),),
    ),
    "too big": Dialogue(
        EHLO
        + MAIL
        + BOB
        + b"DATA\r\n"
        + CONTENT * 3
        + b".\r\n"
        + MAIL
        + BOB
        + b"BDAT 40\r\n"
        + CONTENT * 2
        + b"NOOP\r\n",
        offering(size=30),
    ),
    "numbered": Dialogue(EHLO + MAIL + BOB + b"DATA\r\n" + CONTENT + b".\r\nHELP\r\n", ServerConfig(numbered=True)),
    "421": Dialogue(EHLO + MAIL + BOB + BOB, replies=(ScriptedReply("RCPT", "421 4.3.2 stopping"),)),
    "cut in content": Dialogue(EHLO + MAIL + BOB + b"DATA\r\n" + CONTENT),
    "utf-8": Dialogue("MAIL FROM:<ä@ö.example> SMTPUTF8\r\n".encode().join([EHLO, BOB + b"DATA\r\n\xff\r\n.\r\n"])),
}

anyhow = pytest.mark.parametrize("dialogue", DIALOGUES.values(), ids=DIALOGUES)


def without_timing(outcome: Outcome) -> Outcome:
    """Leave out what shows only in octets that arrive together."""
    kept = [violation for violation in outcome.violations if not violation.startswith(("bytes after", "pipelining"))]
    return attrs.evolve(outcome, violations=kept)


def whole(dialogue: Dialogue) -> Outcome:
    return without_timing(drive([dialogue.octets], dialogue.config, dialogue.replies))


@anyhow
def test_octet_by_octet(dialogue: Dialogue) -> None:
    octets = dialogue.octets
    pieces = [octets[index : index + 1] for index in range(len(octets))]
    assert without_timing(drive(pieces, dialogue.config, dialogue.replies)) == whole(dialogue)


@pytest.mark.exhaustive(keep=2)
@anyhow
def test_every_single_split(dialogue: Dialogue) -> None:
    expected = whole(dialogue)
    for index in range(1, len(dialogue.octets)):
        pieces = [dialogue.octets[:index], dialogue.octets[index:]]
        assert without_timing(drive(pieces, dialogue.config, dialogue.replies)) == expected, index


@given(st.sampled_from(sorted(DIALOGUES)), st.data())
def test_any_splits(name: str, data: st.DataObject) -> None:
    dialogue = DIALOGUES[name]
    octets = dialogue.octets
    cuts = sorted(data.draw(st.sets(st.integers(1, len(octets) - 1), max_size=20)))
    pieces = [octets[start:end] for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    assert without_timing(drive(pieces, dialogue.config, dialogue.replies)) == whole(dialogue)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"\r\n.", b"\r\n."])).map(b"".join), st.data())
def test_content_of_any_shape_is_read_as_the_rfc_says(stuffed: bytes, data: st.DataObject) -> None:
    """RFC 5321 section 4.5.2, told in lines: up to the lone dot, one dot dropped from each line that begins with it."""
    server = ServerConnection()
    server.greeting()
    for line in (EHLO, MAIL, BOB, b"DATA\r\n"):
        server.feed(line)
    server.script.add(ScriptedReply("END_OF_DATA", "250 2.0.0 ok"))
    lines = (stuffed + b"\r\n.\r\n").split(b"\r\n")
    end = lines.index(b".")
    expected = b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[:end])
    octets = b"".join(line + b"\r\n" for line in lines[: end + 1])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(octets)), max_size=5)))
    sent = b"".join(
        server.feed(octets[start:end])
        for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True)
        if octets[start:end]
    )
    assert sent == b"250 2.0.0 ok\r\n"
    assert [message.content for message in server.mailbox.messages] == [expected]
    assert ("a line of content that begins with a dot, not doubled" in server.violations) == any(
        line.startswith(b".") and line[1:2] != b"." for line in lines[:end]
    )
    bare = [b"".join(lines[:end]).count(octet) for octet in (b"\r", b"\n")]
    assert ("bare CR in content" in server.violations) == (bare[0] > 0)
    assert ("bare LF in content" in server.violations) == (bare[1] > 0)


@given(st.binary(max_size=300))
def test_noise_is_always_answered_or_awaited(noise: bytes) -> None:
    server = ServerConnection()
    server.greeting()
    for reply in server.feed(EHLO + noise).split(b"\r\n")[:-1]:
        assert reply[:3].isdigit()


# --- the dialogue


def test_greeting_and_the_reply_to_ehlo() -> None:
    server = ServerConnection(ServerConfig(name="mx.example"))
    assert server.greeting() == b"220 mx.example ESMTP ready\r\n"
    assert server.feed(EHLO) == (
        b"250-mx.example greets client.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
        b"250-SIZE 134217728\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n250 HELP\r\n"
    )


def test_helo_offers_nothing() -> None:
    outcome = drive([b"HELO client.example\r\n", b"MAIL FROM:<ann@example.org> SIZE=1\r\n", MAIL, BOB, b"BDAT 0\r\n"])
    assert codes(outcome.sent) == [220, 250, 555, 250, 250, 500]
    assert outcome.violations == ["parameter SIZE of MAIL, which is not offered", "BDAT, which is not offered"]


def test_a_message_by_data() -> None:
    outcome = talk(b"MAIL FROM:<ann@example.org> BODY=8BITMIME SIZE=22\r\n", BOB, EVE, b"DATA\r\n", CONTENT, b".\r\n")
    assert outcome.codes == [250, 250, 250, 354, 250]
    assert outcome.sent.endswith(b"\r\n250 2.0.0 ok: queued as Q1\r\n")
    assert outcome.messages == [
        ReceivedMessage(
            sender="ann@example.org",
            recipients=("bob@example.org", "eve@example.org"),
            parameters={"BODY": "8BITMIME", "SIZE": "22"},
            recipient_parameters=({}, {}),
            content=CONTENT,
            via="DATA",
            helo="client.example",
            queue_id="Q1",
        )
    ]
    assert outcome.violations == []


def test_messages_are_committed_before_the_reply_is_returned() -> None:
    committed: list[ReceivedMessage] = []
    server = ServerConnection(mailbox=Mailbox(committed.append))
    server.greeting()
    for line in (EHLO, MAIL, BOB, b"DATA\r\n", CONTENT):
        server.feed(line)
    assert not committed
    assert server.feed(b".\r\n").startswith(b"250 ")
    assert committed == server.mailbox.messages
    assert committed[0].content == CONTENT


def test_the_null_reverse_path_and_postmaster() -> None:
    outcome = talk(b"mail from:<>\r\n", b"rcpt to:<Postmaster>\r\n", b"data\r\n", b".\r\n")
    assert outcome.codes == [250, 250, 354, 250]
    assert (outcome.messages[0].sender, outcome.messages[0].recipients) == ("", ("Postmaster",))


@pytest.mark.parametrize(
    "path",
    [
        '"a b"@example.org',
        r'"a\"b"@example.org',
        '">"@example.org',
        "a+b=c@[192.0.2.1]",
        "a@[IPv6:2001:db8::1]",
        "a@[x-tag:content]",
        "a.b@xn--bcher-kva.example",
        "a@localhost",
        "a@web_app.local_net",
    ],
)
def test_paths_that_are_some(path: str) -> None:
    outcome = talk(f"MAIL FROM:<{path}>\r\n".encode(), f"RCPT TO:<{path}>\r\n".encode(), b"BDAT 0 LAST\r\n")
    assert outcome.codes == [250, 250, 250]
    assert (outcome.messages[0].sender, outcome.messages[0].recipients) == (path, (path,))


@pytest.mark.parametrize(
    ("argument", "violation"),
    [
        ("FROM: <a@example.org>", "a space after the colon"),
        ("FROM:a@example.org", "a path without angle brackets"),
        ("FROM <a@example.org>", "MAIL without FROM:"),
        ("TO:<a@example.org>", "MAIL without FROM:"),
        ("FROM:<@relay.example:a@example.org>", "a source route"),
        ("FROM:<a>", "a path without a domain"),
        ("FROM:<postmaster>", "a path without a domain"),
        ("FROM:<a@example.org", "a path without its closing bracket"),
        ("FROM:<a@>", "a path whose domain is none"),
        ("FROM:<a@-example.org>", "a path whose domain is none"),
        ("FROM:<a@_-.example.org>", "a path whose domain is none"),
        ("FROM:<a@example..org>", "a path whose domain is none"),
        ("FROM:<a@[300.1.1.1]>", "a path whose domain is none"),
        ("FROM:<a@[tag:]>", "a path whose domain is none"),
        ("FROM:<.a@example.org>", "not a local part"),
        ("FROM:<a..b@example.org>", "not a local part"),
        ("FROM:<@>", "a source route"),
        ('FROM:<"a@example.org>', "a quoted local part without its end"),
        ("FROM:<a b@example.org>", "a path without a domain"),
        ("FROM:<a@example.org>SIZE=1", "bytes directly after the path"),
        ("FROM:<a@example.org>  SIZE=1", "a parameter without a keyword"),
        ("FROM:<a@example.org> =1", "a parameter without a keyword"),
        ("FROM:<a@example.org> SIZE=", "a parameter whose value is none"),
        ("FROM:<a@example.org> SIZE=1=2", "a parameter whose value is none"),
        ("FROM:<a@example.org> SIZE=1 size=2", "parameter SIZE twice"),
        ("FROM:<a@example.org> SIZE=x", "bad parameter of MAIL: 'SIZE=x'"),
        ("FROM:<a@example.org> SIZE", "bad parameter of MAIL: 'SIZE'"),
        ("FROM:<a@example.org> BODY=9BIT", "bad parameter of MAIL: 'BODY=9BIT'"),
        ("FROM:<a@example.org> SMTPUTF8=1", "bad parameter of MAIL: 'SMTPUTF8=1'"),
        ("FROM:<a@example.org> RET=ALL", "bad parameter of MAIL: 'RET=ALL'"),
        ("FROM:<a@example.org> SMTPUTF8 ENVID=ä", "bad parameter of MAIL: 'ENVID=ä'"),
        ("FROM:<a@example.org> ENVID=a+2b", "bad parameter of MAIL: 'ENVID=a+2b'"),
        ("FROM:<a@example.org> ENVID=" + "x" * 101, "bad parameter of MAIL: 'ENVID=" + "x" * 74 + "'"),
    ],
)
def test_a_misspelt_mail(argument: str, violation: str) -> None:
    outcome = talk(f"MAIL {argument}\r\n".encode(), BOB)
    assert outcome.codes == [501, 503]
    assert len(outcome.violations) == 1
    assert outcome.violations[0].startswith(violation)


@pytest.mark.parametrize(
    "argument",
    [
        "TO:<>",
        "TO:<a@example.org> NOTIFY",
        "TO:<a@example.org> NOTIFY=NEVER,DELAY",
        "TO:<a@example.org> NOTIFY=DELAY,DELAY",
        "TO:<a@example.org> NOTIFY=SOMETIMES",
        "TO:<a@example.org> ORCPT=a@example.org",
        "TO:<a@example.org> ORCPT=rfc822;a=b",
        "TO:<a@example.org> ORCPT=rfc822;+",
        "TO:<a@example.org> ORCPT=rfc822;" + "x" * 494,
    ],
)
def test_a_misspelt_rcpt(argument: str) -> None:
    outcome = talk(MAIL, f"RCPT {argument}\r\n".encode(), b"DATA\r\n")
    assert outcome.codes == [250, 501, 554]
    assert len(outcome.violations) == 1


@pytest.mark.parametrize("keyword", ["FOO", "FOO=1", "BY=120;R", "NOTIFY=NEVER"])
def test_a_parameter_that_is_not_offered_is_answered_555(keyword: str) -> None:
    outcome = talk(f"MAIL FROM:<ann@example.org> {keyword}\r\n".encode())
    assert outcome.codes == [555]
    assert outcome.violations == [f"parameter {keyword.partition('=')[0]} of MAIL, which is not offered"]


def test_extra_keywords_and_parameters() -> None:
    config = offering(extra_keywords=("AUTH=PLAIN LOGIN", "DELIVERBY"), extra_parameters=["by"])
    outcome = talk(b"MAIL FROM:<ann@example.org> BY=120;R\r\n", BOB, b"BDAT 0 LAST\r\n", config=config)
    assert b"\r\n250-AUTH=PLAIN LOGIN\r\n250 DELIVERBY\r\n" in outcome.sent
    assert outcome.messages[0].parameters == {"BY": "120;R"}
    assert outcome.violations == []


@pytest.mark.parametrize(
    ("lines", "expected", "violations"),
    [
        ([MAIL, MAIL], [250, 503], ["MAIL within a mail transaction"]),
        ([BOB], [503], ["RCPT without MAIL"]),
        ([b"DATA\r\n"], [503], ["DATA without MAIL"]),
        ([MAIL, b"DATA\r\n"], [250, 554], ["DATA without RCPT"]),
        ([MAIL, BOB, b"RSET\r\n", BOB], [250, 250, 250, 503], ["RCPT without MAIL"]),
        ([MAIL, BOB, EHLO, BOB], [250, 250, 250, 503], ["RCPT without MAIL"]),
        ([MAIL, BOB, b"DATA\r\n", b".\r\n", BOB], [250, 250, 354, 250, 503], ["RCPT without MAIL"]),
        ([MAIL, BOB, b"BDAT 0\r\n", EVE], [250, 250, 250, 503], ["RCPT after BDAT"]),
        ([MAIL, BOB, b"BDAT 0\r\n", b"DATA\r\n"], [250, 250, 250, 503], ["DATA after BDAT"]),
        ([MAIL, BOB, b"BDAT 0 LAST\r\n", b"BDAT 0 LAST\r\n"], [250, 250, 250, 503], ["BDAT without MAIL"]),
        ([b"RSET\r\n", b"NOOP\r\n", b"NOOP x\r\n", b"HELP\r\n", b"HELP x\r\n"], [250, 250, 250, 214, 214], []),
        ([b"VRFY x\r\n", b"EXPN x\r\n", b"VRFY ann SMTPUTF8\r\n"], [252, 252, 252], []),
        ([b"VRFY\r\n"], [501], ["VRFY without an argument"]),
        ([b"RSET x\r\n"], [501], ["RSET with an argument: 'x'"]),
        ([b"QUIT x\r\n"], [501], ["QUIT with an argument: 'x'"]),
        ([MAIL, BOB, b"DATA x\r\n"], [250, 250, 501], ["DATA with an argument: 'x'"]),
        ([b"BDAT\r\n"], [501], ["BDAT without a chunk size: ''"]),
        ([b"BDAT -1\r\n"], [501], ["BDAT without a chunk size: '-1'"]),
        ([b"BDAT 1 FIRST\r\n"], [501], ["BDAT without a chunk size: '1 FIRST'"]),
        ([b"EHLO\r\n"], [501], ["EHLO without a domain: ''"]),
        ([b"EHLO a b\r\n"], [501], ["EHLO without a domain: 'a b'"]),
        ([b"EHLO [192.0.2.1]\r\n"], [250], []),
        ([b"XFOO bar\r\n"], [500], ["unknown command: 'XFOO bar'"]),
        ([b"LHLO client.example\r\n"], [500], ["unknown command: 'LHLO client.example'"]),
        ([b"\r\n"], [500], ["unknown command: ''"]),
        ([b"NOOP \r\n"], [250], ["space at the end of b'NOOP '"]),
        ([b"NO\tOP\r\n"], [501], [r"control character in b'NO\tOP'"]),
        ([b"NOOP \xff\r\n"], [501], [r"command that is not UTF-8: b'NOOP \xff'"]),
        ([b"NOOP \xc3\xa4\r\n"], [501], ["8-bit command: 'NOOP ä'"]),
        ([b"NOOP\nQUIT\r\n"], [500], [r"bare LF in a command: b'NOOP\nQUIT'"]),
        ([b"NOOP\rQUIT\r\n"], [500], [r"bare CR in a command: b'NOOP\rQUIT'"]),
        ([b"NO\0OP\r\n"], [500], [r"NUL in a command: b'NO\x00OP'"]),
    ],
)
def test_sequence_and_syntax(lines: list[bytes], expected: list[int], violations: list[str]) -> None:
    outcome = talk(*lines)
    assert outcome.codes == expected
    assert outcome.violations == violations


@pytest.mark.parametrize("line", [MAIL, BOB, b"DATA\r\n"])
def test_ehlo_comes_first(line: bytes) -> None:
    outcome = drive([line])
    assert codes(outcome.sent) == [220, 503]
    assert len(outcome.violations) == 1


@pytest.mark.parametrize("line", [b"NOOP\r\n", b"RSET\r\n", b"VRFY x\r\n", b"EXPN x\r\n", b"HELP\r\n", b"QUIT\r\n"])
def test_what_may_come_before_ehlo(line: bytes) -> None:
    outcome = drive([line])
    assert codes(outcome.sent)[1] // 100 == 2
    assert outcome.violations == []


def test_quit_closes_and_what_follows_is_not_read() -> None:
    outcome = talk(b"QUIT\r\nNOOP\r\n")
    assert outcome.codes == [221]
    assert outcome.closing
    assert outcome.violations == ["bytes after QUIT, which ends its group"]


def test_the_end_of_the_client_is_not_the_end_of_a_line_or_of_content() -> None:
    for octets in (b"QUIT", MAIL + BOB + b"DATA\r\nx\r\n.", MAIL + BOB + b"BDAT 3 LAST\r\nxy"):
        outcome = talk(octets, b"")
        assert outcome.closing
        assert outcome.messages == []
        assert not outcome.sent.endswith(b"queued as Q1\r\n")


def test_line_limits_grow_with_the_extensions() -> None:
    long_envid = b"MAIL FROM:<" + b"a" * 480 + b"@b.example> SIZE=1 ENVID=" + b"x" * 90 + b"\r\n"
    assert talk(long_envid).codes == [250]
    outcome = talk(long_envid, config=offering(dsn=False))
    assert outcome.codes == [500]
    assert outcome.violations[0].startswith("command line too long: b'MAIL FROM:<aaa")
    assert talk(b"NOOP " + b"x" * 505 + b"\r\n", b"NOOP " + b"x" * 506 + b"\r\n").codes == [250, 500]


def test_a_line_without_end_is_not_kept() -> None:
    server = ServerConnection()
    server.greeting()
    for _ in range(100):
        assert server.feed(b"x" * 65_536) == b""
    assert len(server._line) < 2000
    assert codes(server.feed(b"\r\nNOOP\r\n")) == [500, 250]


# --- transparency and content


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a\nb\r\n", "bare LF in content"),
        (b"a\rb\r\n", "bare CR in content"),
        (b"a\r\r\n", "bare CR in content"),
        (b"\n\r\n", "bare LF in content"),
        (b"a\0b\r\n", "NUL in content"),
        (b"\r\n\x80\r\n", "8-bit content without 8BITMIME or SMTPUTF8"),
        (b"x" * 999 + b"\r\n", "line over 998 bytes"),
        (b"x\r\n" * 1000 + b"x" * 999 + b"\r\nx\r\n", "line over 998 bytes"),
    ],
)
def test_content_that_must_not_be_sent_is_refused(content: bytes, fault: str) -> None:
    """RFC 5321 sections 2.3.7, 2.3.8 and 4.5.3.1.6, RFC 6152 section 3."""
    by_data = talk(MAIL, BOB, b"DATA\r\n", content + b".\r\n", MAIL)
    by_bdat = talk(MAIL, BOB, b"BDAT %d LAST\r\n" % len(content) + content, b"RSET\r\n")
    assert by_data.codes == [250, 250, 354, 554, 250]
    assert by_bdat.codes == [250, 250, 554, 250]
    assert by_data.violations == by_bdat.violations == [fault]
    assert by_data.messages == by_bdat.messages == []


@pytest.mark.parametrize("content", [b"a\r", b"x" * 999])
def test_content_that_only_a_chunk_can_end_in(content: bytes) -> None:
    outcome = talk(MAIL, BOB, b"BDAT %d LAST\r\n" % len(content) + content)
    assert outcome.codes == [250, 250, 554]


@pytest.mark.parametrize("parameter", [b"BODY=8BITMIME", b"body=8bitmime", b"SMTPUTF8"])
def test_8bit_content_that_was_announced(parameter: bytes) -> None:
    outcome = talk(b"MAIL FROM:<ann@example.org> " + parameter + b"\r\n", BOB, b"DATA\r\n", b"\r\n\xc3\xa4\r\n.\r\n")
    assert outcome.codes == [250, 250, 354, 250]
    assert outcome.violations == []


def test_a_full_line_with_its_doubled_dot_is_not_too_long() -> None:
    outcome = talk(MAIL, BOB, b"DATA\r\n", b".." + b"x" * 997 + b"\r\n.\r\n")
    assert outcome.violations == []
    assert outcome.messages[0].content == b"." + b"x" * 997 + b"\r\n"


def test_a_dot_that_was_not_doubled() -> None:
    outcome = talk(MAIL, BOB, b"DATA\r\n", b".a\r\n.\r\n")
    assert outcome.messages[0].content == b"a\r\n"
    assert outcome.violations == ["a line of content that begins with a dot, not doubled"]


def test_smuggled_ends_of_data_end_nothing() -> None:
    """VU#302671: only CRLF . CRLF is the end."""
    for end in (b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\r\r\n.\rx"):
        outcome = talk(MAIL, BOB, b"DATA\r\n", b"a" + end + b"QUIT\r\n")
        assert outcome.codes == [250, 250, 354]
        assert not outcome.closing


# --- CHUNKING


def test_chunks_are_one_message() -> None:
    outcome = talk(MAIL, BOB, b"BDAT 4\r\n.a\r\n", b"BDAT 0\r\n", b"BDAT 3 LAST\r\n.\r\n")
    assert outcome.codes == [250, 250, 250, 250, 250]
    assert outcome.messages[0].content == b".a\r\n.\r\n"
    assert outcome.messages[0].via == "BDAT"


def test_messages_by_bdat_in_one_write() -> None:
    group = b"".join(b"RSET\r\n" + MAIL + BOB + b"BDAT 7 LAST\r\nQUIT\r\n%d" % number for number in range(5))
    outcome = talk(group)
    assert outcome.codes == [250] * 20
    assert [message.content for message in outcome.messages] == [b"QUIT\r\n%d" % number for number in range(5)]
    assert outcome.violations == []


def test_a_refused_bdat_is_swallowed_and_ends_in_rset() -> None:
    """RFC 3030 section 2: the octets are discarded, also those of the chunks on their way."""
    refused = ScriptedReply("RCPT", "550 5.1.1 no", times=1)
    group = MAIL + BOB + b"BDAT 6\r\nQUIT\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\n"
    outcome = talk(group, MAIL, BOB, b"DATA\r\n", b"RSET\r\n", group, replies=[refused])
    assert outcome.codes == [250, 550, 503, 503, 503, 503, 503, 503, 250, 250, 250, 250, 250, 250]
    assert outcome.violations == ["MAIL without RSET after a refused BDAT"]
    assert len(outcome.messages) == 1


@pytest.mark.parametrize("verb", ["BDAT", "END_OF_DATA"])
def test_a_refused_last_chunk_needs_rset_too(verb: str) -> None:
    refused = ScriptedReply(verb, "452 4.3.1 full", times=1)
    outcome = talk(MAIL + BOB + b"BDAT 0 LAST\r\n", MAIL, b"RSET\r\n", MAIL, replies=[refused])
    assert outcome.codes == [250, 250, 452, 503, 250, 250]
    assert outcome.messages == []


def test_the_proof_that_chunks_are_swallowed() -> None:
    """What the client with `chunking=True` sends first: no violation, and nothing of it runs."""
    outcome = talk(MAIL + b"BDAT 8 LAST\r\nXPROBE\r\nRSET\r\n" + MAIL + BOB, b"BDAT 3 LAST\r\na\r\n")
    assert outcome.codes == [250, 503, 250, 250, 250, 250]
    assert outcome.violations == []
    assert [message.content for message in outcome.messages] == [b"a\r\n"]


def test_bdat_where_it_is_not_offered_runs_as_commands() -> None:
    outcome = talk(MAIL, BOB, b"BDAT 8 LAST\r\nXPROBE\r\nRSET\r\n", config=offering(chunking=False))
    assert outcome.codes == [250, 250, 500, 500, 250]
    assert outcome.violations[0] == "BDAT, which is not offered"


def test_rset_between_chunks_aborts() -> None:
    outcome = talk(MAIL, BOB, b"BDAT 3\r\na\r\n", b"RSET\r\n", MAIL, BOB, b"BDAT 3 LAST\r\nb\r\n")
    assert outcome.codes == [250] * 7
    assert [message.content for message in outcome.messages] == [b"b\r\n"]


# --- groups


@pytest.mark.parametrize("verb", [b"NOOP", b"VRFY x", b"EXPN x", EHLO.strip(), b"DATA", b"QUIT", b"XAUTH"])
def test_what_must_end_its_group(verb: bytes) -> None:
    """RFC 2920 section 3.1."""
    alone = talk(MAIL, BOB, verb + b"\r\n")
    grouped = talk(MAIL, BOB, verb + b"\r\nR")
    name = verb.split()[0].decode()
    assert grouped.violations == [*alone.violations, f"bytes after {name}, which ends its group"]


def test_content_then_the_next_envelope_in_one_write() -> None:
    """RFC 2920 section 3.1: the end of data may come first in a group."""
    outcome = talk(
        MAIL + BOB + b"DATA\r\n",
        CONTENT + b".\r\n" + MAIL + EVE + b"DATA\r\n",
        b"b\r\n.\r\n" + MAIL + BOB + b"BDAT 3 LAST\r\nc\r\nRSET\r\n" + MAIL + BOB + b"DATA\r\n",
        b".\r\nQUIT\r\n",
    )
    assert outcome.codes == [250, 250, 354, 250, 250, 250, 354, 250, 250, 250, 250, 250, 250, 250, 354, 250, 221]
    assert [message.content for message in outcome.messages] == [CONTENT, b"b\r\n", b"c\r\n", b""]
    assert outcome.violations == []


@pytest.mark.parametrize(
    "group", [MAIL + BOB, MAIL + b"RSET\r\n", b"HELP\r\nNOOP\r\n", MAIL + BOB + b"DATA\r\n"], ids=["1", "2", "3", "4"]
)
def test_pipelining_that_is_not_offered_is_written_down(group: bytes) -> None:
    assert talk(group).violations == []
    outcome = talk(group, config=offering(pipelining=False))
    assert outcome.violations[0] == "pipelining, which is not offered"
    assert talk(group).sent.replace(b"250-PIPELINING\r\n", b"") == outcome.sent


def test_a_group_behind_end_of_data_needs_pipelining_too() -> None:
    config = offering(pipelining=False)
    outcome = talk(MAIL, BOB, b"DATA\r\n", b".\r\nQUIT\r\n", config=config)
    assert outcome.violations == ["pipelining, which is not offered"]
    outcome = talk(MAIL, BOB, b"BDAT 1 LAST\r\naQUIT\r\n", config=config)
    assert outcome.violations == ["pipelining, which is not offered"]
    assert talk(MAIL, BOB, b"BDAT 1 LAST\r\na", config=config).violations == []


def test_what_was_sent_before_the_replies_were_taken() -> None:
    server = ServerConnection(offering(pipelining=False))
    server.greeting()
    server.feed(EHLO, unread=True)
    assert server.violations == ["bytes before the greeting was read"]
    server.feed(MAIL, unread=True)
    assert server.violations[1:] == ["bytes after EHLO, which ends its group"]
    server.feed(BOB)
    server.feed(EVE, unread=True)
    server.feed(b"DATA\r\n")
    server.feed(b"x", unread=True)
    server.feed(b"y", unread=True)
    assert server.violations[2:] == ["pipelining, which is not offered", "bytes after DATA, which ends its group"]


# --- extensions


def test_without_extensions_the_reply_to_ehlo_is_one_line() -> None:
    assert drive([EHLO], BARE).sent.endswith(b"\r\n250 mail.example.com greets client.example\r\n")


@pytest.mark.parametrize(
    ("name", "keyword"),
    [
        ("pipelining", b"PIPELINING"),
        ("chunking", b"CHUNKING"),
        ("eight_bit_mime", b"8BITMIME"),
        ("smtputf8", b"SMTPUTF8"),
        ("dsn", b"DSN"),
        ("enhanced_status_codes", b"ENHANCEDSTATUSCODES"),
        ("help", b"HELP"),
    ],
)
def test_each_extension_is_offered_or_not(name: str, keyword: bytes) -> None:
    assert keyword in drive([EHLO]).sent
    without = drive([EHLO], offering(**{name: False})).sent
    assert keyword not in without
    extensions = attrs.asdict(ServerExtensions.none()) | {name: True}
    only = drive([EHLO], offering(**extensions)).sent
    assert only.endswith(b"client.example\r\n250 " + keyword + b"\r\n")


@pytest.mark.parametrize(
    ("without", "command"),
    [
        ({"size": None}, b"MAIL FROM:<a@example.org> SIZE=1\r\n"),
        ({"eight_bit_mime": False}, b"MAIL FROM:<a@example.org> BODY=8BITMIME\r\n"),
        ({"smtputf8": False}, b"MAIL FROM:<a@example.org> SMTPUTF8\r\n"),
        ({"dsn": False}, b"MAIL FROM:<a@example.org> RET=HDRS\r\n"),
        ({"dsn": False}, b"MAIL FROM:<a@example.org> ENVID=x\r\n"),
        ({"dsn": False}, b"RCPT TO:<a@example.org> NOTIFY=NEVER\r\n"),
        ({"dsn": False}, b"RCPT TO:<a@example.org> ORCPT=rfc822;a\r\n"),
    ],
)
def test_parameters_are_known_where_their_extension_is_offered(without: dict[str, object], command: bytes) -> None:
    lines = [MAIL, command] if command.startswith(b"RCPT") else [command]
    assert talk(*lines).codes[-1] == 250
    assert talk(*lines).violations == []
    outcome = talk(*lines, config=offering(**without))
    assert outcome.codes[-1] == 555
    assert outcome.violations[0].endswith("which is not offered")


def test_help_that_is_not_offered() -> None:
    assert talk(b"HELP\r\n", config=offering(help=False)).codes == [502]


def test_size() -> None:
    """RFC 1870 section 6: announced sizes are judged at MAIL, real ones at the end."""
    config = offering(size=30)
    assert b"250-SIZE 30\r\n" in drive([EHLO], config).sent
    assert b"250-SIZE\r\n" in drive([EHLO], offering(size=0)).sent
    assert talk(b"MAIL FROM:<a@example.org> SIZE=30\r\n", config=config).codes == [250]
    assert talk(b"MAIL FROM:<a@example.org> SIZE=31\r\n", BOB, config=config).codes == [552, 503]
    assert talk(MAIL, BOB, b"DATA\r\n", b"x" * 28 + b"\r\n.\r\n", config=config).codes[-1] == 250
    outcome = talk(MAIL, BOB, b"DATA\r\n", b"x" * 29 + b"\r\n.\r\n", MAIL, config=config)
    assert outcome.codes == [250, 250, 354, 552, 250]
    assert outcome.messages == []
    outcome = talk(MAIL, BOB, b"BDAT 30\r\n" + b"x" * 30, b"BDAT 1\r\nx", b"BDAT 0 LAST\r\n", config=config)
    assert outcome.codes == [250, 250, 250, 552, 503]
    assert outcome.messages == []


def test_content_over_the_limit_is_not_kept_even_if_the_script_takes_it() -> None:
    replies = [ScriptedReply("END_OF_DATA", "250 2.0.0 ok")]
    outcome = talk(MAIL, BOB, b"BDAT 31 LAST\r\n" + b"x" * 31, config=offering(size=30), replies=replies)
    assert outcome.codes == [250, 250, 250]
    assert outcome.messages == []


def test_more_content_than_declared() -> None:
    mail = b"MAIL FROM:<a@example.org> SIZE=3\r\n"
    assert talk(mail, BOB, b"DATA\r\n", b"..\r\n.\r\n").violations == []
    outcome = talk(mail, BOB, b"DATA\r\n", b"ab\r\n.\r\n")
    assert outcome.codes[-1] == 250
    assert outcome.violations == ["4 bytes of content, SIZE=3 declared"]


def test_smtputf8() -> None:
    mail = "MAIL FROM:<ä@ö.example> SMTPUTF8\r\n".encode()
    rcpt = "RCPT TO:<jürgen@example.org>\r\n".encode()
    outcome = talk(mail, rcpt, b"BDAT 0 LAST\r\n", "VRFY jürgen SMTPUTF8\r\n".encode())
    assert outcome.codes == [250, 250, 250, 252]
    assert (outcome.messages[0].sender, outcome.messages[0].recipients) == ("ä@ö.example", ("jürgen@example.org",))
    assert outcome.violations == []


@pytest.mark.parametrize(
    ("lines", "config"),
    [
        (["MAIL FROM:<ä@example.org>"], None),
        (["MAIL FROM:<ä@example.org> SMTPUTF8"], offering(smtputf8=False)),
        (["MAIL FROM:<a@example.org>", "RCPT TO:<ä@example.org>"], None),
        (["VRFY ä"], None),
    ],
)
def test_non_ascii_that_was_not_announced(lines: list[str], config: ServerConfig | None) -> None:
    outcome = talk(*(f"{line}\r\n".encode() for line in lines), config=config)
    assert outcome.codes[-1] == 553
    assert len(outcome.violations) == 1


def test_dsn() -> None:
    outcome = talk(
        b"MAIL FROM:<ann@example.org> RET=hdrs ENVID=a+2Bb\r\n",
        b"RCPT TO:<bob@example.org> NOTIFY=SUCCESS,delay ORCPT=RFC822;b+3Db@example.org\r\n",
        b"RCPT TO:<eve@example.org> ORCPT=utf-8;j\\x{FC}rgen@example.org\r\n",
        BOB,
        b"BDAT 0 LAST\r\n",
    )
    [message] = outcome.messages
    assert (message.ret, message.envid) == ("HDRS", "a+b")
    assert message.parameters == {"RET": "hdrs", "ENVID": "a+2Bb"}
    assert message.notify_of("bob@example.org") == ("SUCCESS", "DELAY")
    assert message.orcpt_of("bob@example.org") == ("rfc822", "b=b@example.org")
    assert message.notify_of("eve@example.org") == ()
    assert message.orcpt_of("eve@example.org") == ("utf-8", "j\\x{FC}rgen@example.org")
    assert message.recipient_parameters[2] == {}
    with pytest.raises(KeyError):
        message.parameters_of("nobody@example.org")


def test_dsn_parameters_that_are_absent() -> None:
    [message] = talk(MAIL, BOB, b"BDAT 0 LAST\r\n").messages
    assert (message.ret, message.envid, message.orcpt_of("bob@example.org")) == (None, None, None)


def test_enhanced_status_codes_stand_in_all_replies_but_those_to_greeting_and_ehlo() -> None:
    """RFC 2034 section 4."""
    lines = [
        MAIL,
        BOB,
        b"DATA\r\n",
        b".\r\n",
        b"NOOP\r\n",
        b"RSET\r\n",
        b"VRFY x\r\n",
        b"HELP\r\n",
        b"FOO\r\n",
        b"QUIT\r\n",
    ]
    sent = talk(*lines).sent.split(b"\r\n")[:-1]
    assert sent.pop(0) == b"220 mail.example.com ESMTP ready"
    for line in [line for line in sent[9:] if not line.startswith(b"354")]:
        assert line[4:9] == b"%s." % line[:1] + line[6:9]
        assert line[6:9].replace(b".", b"").isdigit()
    without = talk(*lines, config=offering(enhanced_status_codes=False)).sent
    assert b" 2." not in without
    assert b" 5." not in without


def test_limits() -> None:
    """RFC 9422."""
    config = offering(mailmax=2, rcptmax=2)
    message = [MAIL, BOB, b"BDAT 0 LAST\r\n"]
    outcome = talk(*message, *message, MAIL, config=config)
    assert b"LIMITS MAILMAX=2 RCPTMAX=2\r\n" in outcome.sent
    assert outcome.codes == [250, 250, 250, 250, 250, 250, 421]
    assert outcome.closing
    assert outcome.violations == ["MAIL beyond MAILMAX"]
    refused = ScriptedReply("RCPT", "550 5.1.1 no", times=1)
    outcome = talk(MAIL, BOB, EVE, BOB, b"BDAT 0 LAST\r\n", config=config, replies=[refused])
    assert outcome.codes == [250, 550, 250, 452, 250]
    assert outcome.violations == ["RCPT beyond RCPTMAX"]
    assert outcome.messages[0].recipients == ("eve@example.org",)


def test_recipients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtplite.testing.protocol.MAX_RECIPIENTS", 2)
    outcome = talk(MAIL, BOB, BOB, BOB)
    assert outcome.codes == [250, 250, 250, 452]
    assert outcome.violations == []


def test_violations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtplite.testing.record.MAX_VIOLATIONS", 2)
    assert len(talk(b"A\r\n", b"B\r\n", b"C\r\n").violations) == 2


# --- LMTP


@pytest.mark.parametrize("via", [b"DATA", b"BDAT"])
def test_lmtp_answers_once_per_accepted_recipient(via: bytes) -> None:
    """RFC 2033 section 4.2."""
    replies = [
        ScriptedReply("RCPT", "550 5.1.1 no", to="mallory@example.org"),
        ScriptedReply("END_OF_DATA", "452 4.2.2 full", to="bob@example.org"),
    ]
    content = [b"DATA\r\n", CONTENT + b".\r\n"] if via == b"DATA" else [b"BDAT %d LAST\r\n" % len(CONTENT) + CONTENT]
    mallory = b"RCPT TO:<mallory@example.org>\r\n"
    outcome = talk(MAIL, EVE, mallory, BOB, EVE, *content, MAIL, config=LMTP, replies=replies)
    assert outcome.codes == [250, 250, 550, 250, 250, *([354] if via == b"DATA" else []), 250, 452, 250, 250]
    assert [message.recipients for message in outcome.messages] == [("eve@example.org", "eve@example.org")]
    assert outcome.violations == []


def test_lmtp_has_lhlo_only() -> None:
    assert drive([LHLO], LMTP).sent.startswith(b"220 mail.example.com LMTP ready\r\n250-")
    outcome = drive([EHLO, b"HELO client.example\r\n"], LMTP)
    assert codes(outcome.sent) == [220, 500, 500]


def test_lmtp_with_no_recipient_accepted() -> None:
    refused = [ScriptedReply("RCPT", "550 5.1.1 no")]
    outcome = talk(MAIL, BOB, b"DATA\r\n", b"BDAT 3 LAST\r\nx\r\n", config=LMTP, replies=refused)
    assert outcome.codes == [250, 550, 503, 503]
    assert outcome.violations == []


def test_lmtp_with_every_recipient_refused_at_the_end_stores_nothing() -> None:
    replies = [ScriptedReply("END_OF_DATA", "550 5.7.1 no")]
    outcome = talk(MAIL, BOB, EVE, b"DATA\r\n", b".\r\n", MAIL, config=LMTP, replies=replies)
    assert outcome.codes == [250, 250, 250, 354, 550, 550, 250]
    assert outcome.messages == []


@pytest.mark.parametrize(
    "reply", [ScriptedReply("END_OF_DATA", "503 5.5.1 no", for_all=True), ScriptedReply("BDAT", "503 5.5.1 no")]
)
def test_lmtp_server_that_answers_a_failed_bdat_once(reply: ScriptedReply) -> None:
    outcome = talk(MAIL, BOB, EVE, b"BDAT 0 LAST\r\n", b"RSET\r\n", config=LMTP, replies=[reply])
    assert outcome.codes == [250, 250, 250, 503, 250]
    assert outcome.messages == []


def test_lmtp_one_positive_reply_for_all() -> None:
    reply = ScriptedReply("END_OF_DATA", "250 2.0.0 all of them", for_all=True)
    outcome = talk(MAIL, BOB, EVE, b"DATA\r\n", b".\r\n", config=LMTP, replies=[reply])
    assert outcome.codes == [250, 250, 250, 354, 250]
    assert outcome.messages[0].recipients == ("bob@example.org", "eve@example.org")


def test_lmtp_421_ends_the_replies_and_the_recipients_behind_it() -> None:
    reply = ScriptedReply("END_OF_DATA", "421 4.3.2 stopping", to="eve@example.org")
    outcome = talk(MAIL, BOB, EVE, BOB, b"DATA\r\n", b".\r\n", config=LMTP, replies=[reply])
    assert outcome.codes == [250, 250, 250, 250, 354, 250, 421]
    assert outcome.closing
    assert outcome.messages[0].recipients == ("bob@example.org",)


# --- scripted replies


@pytest.mark.parametrize(
    ("verb", "lines"),
    [
        ("EHLO", []),
        ("HELO", [b"HELO client.example\r\n"]),
        ("MAIL", [MAIL]),
        ("RCPT", [MAIL, BOB]),
        ("DATA", [MAIL, BOB, b"DATA\r\n"]),
        ("END_OF_DATA", [MAIL, BOB, b"DATA\r\n", b".\r\n"]),
        ("END_OF_DATA", [MAIL, BOB, b"BDAT 0 LAST\r\n"]),
        ("BDAT", [MAIL, BOB, b"BDAT 0 LAST\r\n"]),
        ("BDAT", [MAIL, BOB, b"BDAT 0\r\n"]),
        ("RSET", [b"RSET\r\n"]),
        ("NOOP", [b"NOOP\r\n"]),
        ("VRFY", [b"VRFY x\r\n"]),
        ("EXPN", [b"EXPN x\r\n"]),
        ("HELP", [b"HELP\r\n"]),
        ("QUIT", [b"QUIT\r\n"]),
        ("XFOO", [b"XFOO\r\n"]),
        ("STARTTLS", [b"STARTTLS\r\n"]),
    ],
)
def test_every_command_can_be_scripted(verb: str, lines: list[bytes]) -> None:
    for reply, is_closed in (("455 4.0.0 no", False), ("421 4.3.2 no", True), ("599 said", False)):
        outcome = talk(*lines, replies=[ScriptedReply(verb, reply)])
        assert outcome.sent.endswith(f"\r\n{reply}\r\n".encode())
        assert outcome.closing is is_closed
        assert outcome.messages == []
        assert outcome.violations == []


def test_a_scripted_greeting() -> None:
    """RFC 5321 section 3.1: behind a 554 only QUIT is of use."""
    outcome = drive([EHLO, b"QUIT\r\n"], replies=[ScriptedReply("greeting", "554 no mail here")])
    assert outcome.sent.startswith(b"554 no mail here\r\n503 5.5.1 no service here\r\n221 ")
    assert outcome.violations == ["EHLO after a negative greeting"]
    outcome = drive([EHLO], replies=[ScriptedReply("GREETING", "421 4.3.2 busy")])
    assert outcome.sent == b"421 4.3.2 busy\r\n"
    assert outcome.closing
    outcome = drive([EHLO], replies=[ScriptedReply("GREETING", "220 one\ntwo")])
    assert outcome.sent.startswith(b"220-one\r\n220 two\r\n250-mail.example.com ")


def test_a_negative_reply_means_not_performed() -> None:
    outcome = talk(MAIL, BOB, replies=[ScriptedReply("MAIL", "451 4.3.0 later")])
    assert outcome.codes == [451, 503]
    outcome = talk(MAIL, BOB, EVE, b"BDAT 0 LAST\r\n", replies=[ScriptedReply("RCPT", "550 no", to="bob@EXAMPLE.org")])
    assert outcome.messages[0].recipients == ("eve@example.org",)
    outcome = talk(MAIL, BOB, b"DATA\r\n", b"NOOP\r\n", replies=[ScriptedReply("DATA", "250 what")])
    assert outcome.codes == [250, 250, 250, 250]
    outcome = talk(MAIL, b"RSET\r\n", MAIL, replies=[ScriptedReply("RSET", "500 no")])
    assert outcome.codes == [250, 500, 503]
    outcome = talk(b"QUIT\r\n", b"NOOP\r\n", replies=[ScriptedReply("QUIT", "500 no")])
    assert outcome.codes == [500, 250]
    outcome = drive([EHLO, MAIL], replies=[ScriptedReply("EHLO", "500 no")])
    assert codes(outcome.sent) == [220, 500, 503]


def test_a_positive_reply_means_performed() -> None:
    replies = [ScriptedReply(verb, "299 9.9.9 fine") for verb in ("MAIL", "RCPT", "END_OF_DATA")]
    outcome = talk(MAIL, BOB, b"DATA\r\n", b"bare\nLF\r\n.\r\n", replies=[*replies, ScriptedReply("DATA", "399 go")])
    assert outcome.codes == [299, 299, 399, 299]
    assert outcome.messages[0].content == b"bare\nLF\r\n"
    assert outcome.violations == ["bare LF in content"]


def test_a_positive_reply_cannot_perform_the_impossible() -> None:
    """A server that lies: MAIL refused, all the rest taken, and nothing committed."""
    replies = [
        ScriptedReply("MAIL", "451 4.3.0 later"),
        ScriptedReply("RCPT", "250 2.1.5 ok"),
        ScriptedReply("DATA", "354 go on"),
        ScriptedReply("END_OF_DATA", "250 2.0.0 ok"),
    ]
    outcome = talk(MAIL, BOB, b"DATA\r\n", CONTENT + b".\r\n", b"NOOP\r\n", replies=replies)
    assert outcome.codes == [451, 250, 354, 250, 250]
    assert outcome.messages == []


def test_354_though_nobody_was_accepted() -> None:
    replies = [ScriptedReply("RCPT", "550 5.1.1 no"), ScriptedReply("DATA", "354 go on")]
    outcome = talk(MAIL + BOB + b"DATA\r\n", b".\r\n", MAIL, replies=replies)
    assert outcome.codes == [250, 550, 354, 554, 250]
    assert outcome.messages == []
    assert outcome.violations == []


def test_a_reply_used_up() -> None:
    replies = [ScriptedReply("NOOP", "450 one", times=2), ScriptedReply("NOOP", "451 two", times=1)]
    outcome = talk(*[b"NOOP\r\n"] * 4, replies=[*replies, ScriptedReply("NOOP", "452 never", times=0)])
    assert outcome.codes == [450, 450, 451, 250]


def test_the_first_match_wins_and_a_script_is_shared() -> None:
    script = Script([ScriptedReply("NOOP", "450 one", times=1)])
    script.add(ScriptedReply("NOOP", "451 two"))
    script.add(ScriptedReply("NOOP", "452 three"))
    servers = [ServerConnection(script=script) for _ in range(2)]
    assert [server.feed(b"NOOP\r\n")[:3] for server in servers] == [b"450", b"451"]
    script.clear()
    assert servers[0].feed(b"NOOP\r\n")[:3] == b"250"


def test_rules_for_a_sender() -> None:
    replies = [
        ScriptedReply("MAIL", "550 5.7.1 no", sender=""),
        ScriptedReply("END_OF_DATA", "550 5.7.1 no", sender="ann@example.org"),
        ScriptedReply("DATA", "450 4.0.0 no", sender="zoe@example.org", to="eve@example.org"),
        ScriptedReply("VRFY", "550 5.1.1 no", to="x"),
    ]
    assert talk(b"MAIL FROM:<>\r\n", replies=replies).codes == [550]
    assert talk(MAIL, BOB, b"BDAT 0 LAST\r\n", replies=replies).codes == [250, 250, 550]
    zoe = b"MAIL FROM:<zoe@example.org>\r\n"
    assert talk(zoe, BOB, b"DATA\r\n", replies=replies).codes == [250, 250, 354]
    assert talk(zoe, BOB, EVE, b"DATA\r\n", replies=replies).codes == [250, 250, 250, 450]
    assert talk(b"VRFY x\r\n", b"VRFY y\r\n", replies=replies).codes == [550, 252]


@pytest.mark.parametrize(
    ("reply", "octets"),
    [
        ("250", b"250\r\n"),
        ("250 ", b"250\r\n"),
        ("250 one\ntwo\nthree", b"250-one\r\n250-two\r\n250 three\r\n"),
        ("550 5.1.1 one\ntwo", b"550-5.1.1 one\r\n550 5.1.1 two\r\n"),
        ("550 ä", "550 ä\r\n".encode()),
        (b"25", b"25"),
        (b"250-a\r\n999 b\n", b"250-a\r\n999 b\n"),
        (b"", b""),
    ],
)
def test_what_a_scripted_reply_sends(reply: str | bytes, octets: bytes) -> None:
    server = ServerConnection(script=Script([ScriptedReply("NOOP", reply)]))
    assert server.feed(b"NOOP\r\n") == octets


def test_taken_and_the_reply_lost() -> None:
    lost = ScriptedReply("END_OF_DATA", b"", performs=True, close=True)
    outcome = talk(MAIL, BOB, b"DATA\r\n", CONTENT + b".\r\n", replies=[lost])
    assert outcome.codes == [250, 250, 354]
    assert outcome.closing
    assert len(outcome.messages) == 1


def test_said_to_be_taken_and_thrown_away() -> None:
    outcome = talk(MAIL, BOB, b"BDAT 0 LAST\r\n", replies=[ScriptedReply("END_OF_DATA", "250 ok", performs=False)])
    assert outcome.codes == [250, 250, 250]
    assert outcome.messages == []


def test_a_421_that_does_not_close() -> None:
    outcome = talk(b"NOOP\r\n", b"RSET\r\n", replies=[ScriptedReply("NOOP", "421 4.3.2 soon", close=False)])
    assert outcome.codes == [421, 250]


@pytest.mark.parametrize(
    ("verb", "reply"),
    [("NO OP", "250 ok"), ("", "250 ok"), ("NOOP", "ok"), ("NOOP", ""), ("NOOP", "250-ok"), ("NOOP", "2500")],
)
def test_rules_that_make_no_sense(verb: str, reply: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        ScriptedReply(verb, reply)


# --- numbers


def test_replies_carry_the_number_of_their_command() -> None:
    config = ServerConfig(numbered=True)
    replies = [
        ScriptedReply("NOOP", "250 one\ntwo"),
        ScriptedReply("RSET", b"250 exactly\r\n"),
        ScriptedReply("VRFY", "252"),
    ]
    lines = [MAIL + BOB + b"DATA\r\n", b".\r\nNOOP\r\n", b"RSET\r\n", b"BAD\r\n", b"VRFY x\r\n"]
    sent = talk(*lines, config=config, replies=replies).sent
    assert sent.startswith(
        b"220 mail.example.com ESMTP ready #0\r\n250-mail.example.com greets client.example #1\r\n250-PIPE"
    )
    assert sent.endswith(
        b"250 HELP\r\n250 2.1.0 sender ok #2\r\n250 2.1.5 recipient ok #3\r\n354 end data with <CRLF>.<CRLF> #4\r\n"
        b"250 2.0.0 ok: queued as Q1 #5\r\n250-one #6\r\n250 two\r\n250 exactly\r\n"
        b"500 5.5.1 command not recognized: 'BAD' #8\r\n252 #9\r\n"
    )


def test_a_chunk_has_the_number_of_its_bdat_and_lmtp_replies_share_one() -> None:
    config = ServerConfig(numbered=True, lmtp=True)
    outcome = talk(MAIL, BOB, EVE, b"BDAT 6 LAST\r\nNOOP\r\n", b"NOOP\r\n", config=config)
    assert [line.rpartition(b"#")[2] for line in outcome.sent.split(b"\r\n")[-4:-1]] == [b"5", b"5", b"6"]


# --- values


def test_a_message_as_email() -> None:
    octets = "Subject: grüß\r\n\r\nhi\r\n".encode()
    message = ReceivedMessage(sender="", recipients=(), content=octets, parameters={"SMTPUTF8": None})
    assert message.as_email()["Subject"] == "grüß"
    assert message.as_email().as_bytes() == octets
    plain = ReceivedMessage(sender="", recipients=(), content=b"Subject: =?utf-8?q?gr=C3=BC=C3=9F?=\r\n\r\nhi\r\n")
    assert plain.as_email()["Subject"] == "grüß"
    assert plain.as_email().get_content() == "hi\r\n"


def test_the_repr_of_a_message_is_short_and_shows_envelope_and_subject() -> None:
    message = ReceivedMessage(
        sender="a@b", recipients=("c@d", "e@f"), content=b"To: x\r\nSUBJECT:  hi \r\n\r\nSubject: no\r\n", queue_id="Q7"
    )
    assert repr(message) == "<Q7: <a@b> to c@d, e@f, 'hi', 37 bytes>"
    assert repr(ReceivedMessage(sender="", recipients=())) == "<ReceivedMessage: <> to , no subject, 0 bytes>"
    huge = attrs.evolve(
        message,
        sender="a" * 1000,
        recipients=tuple(f"{number}@example.org" for number in range(5000)),
        content=b"Subject: " + b"x" * 1000 + b"\r\n\r\n" + b"y" * 100_000,
    )
    assert "2@example.org and 4997 more" in repr(huge)
    assert "101013 bytes" in repr(huge)
    assert len(repr(huge)) < 300


def test_the_differences_of_two_messages() -> None:
    one = ReceivedMessage(sender="a@b", recipients=("c@d",), content=b"Subject: x\r\n\r\none\r\n")
    assert one.differences(one) == []
    other = attrs.evolve(one, sender="a@B", content=b"Subject: x\r\n\r\none\r\ntwo\r\n")
    assert one.differences(other) == [
        "sender: 'a@b' != 'a@B'",
        "content: 19 and 24 bytes; line 4 is the first to differ:",
        "  None",
        "  b'two\\r\\n'",
    ]
    assert other.differences(attrs.evolve(other, content=b"Subject: y\r\n"))[-2:] == [
        "  b'Subject: x\\r\\n'",
        "  b'Subject: y\\r\\n'",
    ]


def test_the_protocol_half_needs_neither_the_client_nor_an_io_library() -> None:
    """It is the oracle of the client's core, so it shares no code with it."""
    # socket is not asked for: email.utils imports it
    code = (
        "import sys; from smtplite.testing import ServerConnection; ServerConnection().feed(b'QUIT\\r\\n');"
        "print(*sorted(name for name in sys.modules if name.split('.')[0] in"
        " {'anyio', 'asyncio', 'ssl', 'trio'} or name.startswith('smtplite.protocol')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
