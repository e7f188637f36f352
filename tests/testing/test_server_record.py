"""What the testing server says of each message besides its content: mistakes, refusals, the dialogue."""

from __future__ import annotations

import copy
import pickle

import attrs
import pytest

from smtplite.testing import (
    Mailbox,
    Refusal,
    RefusedMessage,
    ScriptedReply,
    ServerConfig,
    ServerConnection,
    SMTPServer,
    Violation,
)

EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<ann@example.org>\r\n"
BOB = b"RCPT TO:<bob@example.org>\r\n"
EVE = b"RCPT TO:<eve@example.org>\r\n"
CONTENT = b"Subject: hello\r\n\r\nhi\r\n"
MESSAGE = (MAIL, BOB, b"DATA\r\n", CONTENT + b".\r\n")
NO_BOB = ScriptedReply("RCPT", "550 5.1.1 no such user", to="bob@example.org")


def talk(*lines: bytes, replies: tuple[ScriptedReply, ...] = (), config: ServerConfig | None = None) -> Mailbox:
    """Say the lines, each in a write of its own."""
    mailbox = Mailbox()
    server = ServerConnection(config or ServerConfig(replies=replies), mailbox)
    server.greeting()
    for line in lines:
        server.feed(line)
    return mailbox


def only_refused(mailbox: Mailbox) -> RefusedMessage:
    [message] = mailbox.refused
    return message


def only(mailbox: Mailbox) -> RefusedMessage:
    assert not mailbox.messages
    return only_refused(mailbox)


# --- violations


def test_a_violation_says_where_and_which_rule() -> None:
    mailbox = talk(EHLO, MAIL, BOB + b"\r\n", b"DATA\r\n", b".x\r\n.\r\n")
    [message] = mailbox.messages
    unknown, dot = message.violations
    assert (unknown, unknown.at, unknown.number, unknown.rfc) == (
        "unknown command: ''",
        "COMMAND",
        4,
        "RFC 5321 section 2.2.1",
    )
    assert (dot.at, dot.rfc) == ("CONTENT", "RFC 5321 section 4.5.2")


def test_a_violation_belongs_to_the_message_that_it_came_with() -> None:
    mailbox = talk(EHLO, b"FOO\r\n", *MESSAGE, *MESSAGE)
    assert [message.violations for message in mailbox.messages] == [("unknown command: 'FOO'",), ()]


def test_a_violation_survives_pickle_and_copy() -> None:
    violation = Violation("bare LF in content", at="CONTENT", number=4, rfc="RFC 5321 section 2.3.8")
    for again in (pickle.loads(pickle.dumps(violation)), copy.deepcopy(violation)):
        assert (again, again.at, again.number, again.rfc) == (violation, "CONTENT", 4, "RFC 5321 section 2.3.8")


# --- the dialogue


def test_each_message_has_the_dialogue_that_brought_it_and_what_opened_the_session() -> None:
    mailbox = talk(EHLO, *MESSAGE, *MESSAGE)
    for number, message in enumerate(mailbox.messages, 1):
        said = [data for by, data in message.dialogue if by == "C"]
        assert said == [EHLO, MAIL, BOB, b"DATA\r\n", b"(22 bytes of content)\r\n"]
        assert message.dialogue[0] == ("S", b"220 mail.example.com ESMTP ready\r\n")
        assert message.dialogue[-1] == ("S", b"250 2.0.0 ok: queued as Q%d\r\n" % number)


def test_no_credential_is_in_a_dialogue() -> None:
    secret, user = b"AGFubgBzZWNyZXQ=", {"ann": "secret"}
    config = ServerConfig(users=user, auth_in_clear=True)
    mailbox = talk(EHLO, b"AUTH PLAIN\r\n", secret + b"\r\n", *MESSAGE, config=config)
    again = talk(EHLO, b"AUTH PLAIN " + secret + b"\r\n", secret + b"\r\n", *MESSAGE, config=config)
    for message in (*mailbox.messages, *again.messages):
        assert secret not in b"".join(data for _, data in message.dialogue)
    assert [message.authenticated_as for message in mailbox.messages] == ["ann"]


def test_what_ends_an_attempt_is_in_its_dialogue_and_not_in_the_next_one() -> None:
    mailbox = talk(EHLO, MAIL, BOB, b"RSET\r\n", *MESSAGE, replies=(attrs.evolve(NO_BOB, times=1),))
    assert only_refused(mailbox).dialogue[-2:] == (("C", b"RSET\r\n"), ("S", b"250 2.0.0 ok\r\n"))
    assert mailbox.messages[0].dialogue[3:5] == (("C", MAIL), ("S", b"250 2.1.0 sender ok\r\n"))


# --- refused messages


@pytest.mark.parametrize("end", [b"RSET\r\n", b"QUIT\r\n", EHLO, b""])
def test_a_message_refused_for_all_its_recipients(end: bytes) -> None:
    message = only(talk(EHLO, MAIL, BOB, *((end, b"") if end else (end,)), replies=(NO_BOB,)))
    assert message.sender == "ann@example.org"
    assert message.refusals == (Refusal(at="RCPT", reply="550 5.1.1 no such user", recipient="bob@example.org"),)
    assert message.refused_recipients == {"bob@example.org": "550 5.1.1 no such user"}


def test_a_refused_data_is_told_at_once() -> None:
    message = only(talk(EHLO, MAIL, BOB, b"DATA\r\n", replies=(NO_BOB,)))
    assert [refusal.at for refusal in message.refusals] == ["RCPT", "DATA"]
    assert str(message.decisive) == "550 5.1.1 no such user (at RCPT: bob@example.org)"


@pytest.mark.parametrize("pieces", [(MAIL, BOB, b"DATA\r\n"), (MAIL + BOB + b"DATA\r\n",)])
def test_a_refused_mail_is_told_once(pieces: tuple[bytes, ...]) -> None:
    refuses = ScriptedReply("MAIL", "530 5.7.0 authentication required")
    message = only(talk(EHLO, *pieces, b"RSET\r\n", b"QUIT\r\n", b"", replies=(refuses,)))
    assert message.sender == "ann@example.org"
    assert message.decisive == Refusal(at="MAIL", reply="530 5.7.0 authentication required")


@pytest.mark.parametrize("path", [b"<ann@example.org>", b" ann@example.org"])
def test_who_had_to_authenticate_is_named(path: bytes) -> None:
    config = ServerConfig(users={"ann": "secret"}, require_auth=True)
    message = only(talk(EHLO, b"MAIL FROM:" + path + b"\r\n" + BOB + b"DATA\r\n", b"QUIT\r\n", config=config))
    assert message.sender == "ann@example.org"
    assert message.decisive == Refusal(at="MAIL", reply="530 5.7.0 authentication required")
    assert list(message.refused_recipients) == ["bob@example.org"]


def test_a_refused_mail_is_told_at_once() -> None:
    assert only(talk(EHLO, MAIL, replies=(ScriptedReply("MAIL", "451 4.3.0 later"),))).decisive.at == "MAIL"


def test_each_of_several_refused_messages_is_told() -> None:
    refuses = ScriptedReply("END_OF_DATA", "451 4.3.0 later")
    mailbox = talk(EHLO, MAIL, BOB, b"RSET\r\n", *MESSAGE, b"QUIT\r\n", b"", replies=(NO_BOB,))
    assert [message.decisive.at for message in mailbox.refused] == ["RCPT", "RCPT"]
    mailbox = talk(EHLO, *MESSAGE, *MESSAGE, b"QUIT\r\n", b"", replies=(refuses,))
    assert [message.decisive.at for message in mailbox.refused] == ["END_OF_DATA", "END_OF_DATA"]


@pytest.mark.parametrize("content", [(b"DATA\r\n", CONTENT + b".\r\n"), (b"BDAT 22 LAST\r\n" + CONTENT,)])
def test_a_message_whose_verdict_is_lost_was_not_refused(content: tuple[bytes, ...]) -> None:
    lost = ScriptedReply("END_OF_DATA", b"", performs=True, close=True)
    mailbox = talk(EHLO, MAIL, BOB, *content, b"", replies=(lost,))
    assert len(mailbox.messages) == 1
    assert not mailbox.refused


def test_a_message_refused_after_its_content_has_it() -> None:
    refuses = ScriptedReply("END_OF_DATA", "451 4.3.0 try again later")
    message = only(talk(EHLO, *MESSAGE, b"QUIT\r\n", b"", replies=(refuses,)))
    assert (message.content, message.recipients) == (CONTENT, ("bob@example.org",))
    assert message.decisive == Refusal(at="END_OF_DATA", reply="451 4.3.0 try again later")
    assert message.dialogue[-1] == ("S", b"451 4.3.0 try again later\r\n")


def test_what_on_message_refuses_is_a_refused_message() -> None:
    mailbox = Mailbox(on_message=lambda message: "452 4.3.1 disk full")
    server = ServerConnection(mailbox=mailbox)
    server.greeting()
    for line in (EHLO, *MESSAGE):
        server.feed(line)
    assert only(mailbox).decisive.reply == "452 4.3.1 disk full"


def test_a_message_for_some_tells_who_was_refused() -> None:
    mailbox = talk(EHLO, MAIL, BOB, EVE, b"DATA\r\n", CONTENT + b".\r\n", b"QUIT\r\n", b"", replies=(NO_BOB,))
    assert not mailbox.refused
    [message] = mailbox.messages
    assert [refusal.recipient for refusal in message.refusals] == ["bob@example.org"]


def test_content_that_was_cut_off_is_told() -> None:
    message = only(talk(EHLO, MAIL, BOB, b"DATA\r\n", CONTENT, b""))
    assert message.decisive == Refusal(at="CONTENT")
    assert message.content == CONTENT


def test_a_session_that_came_to_no_message_is_told_if_something_was_refused() -> None:
    message = only(talk(b"GET / HTTP/1.1\r\n", b""))
    assert (message.sender, message.decisive.at) == (None, "COMMAND")
    assert not talk(EHLO, b"NOOP\r\n", b"QUIT\r\n", b"").refused
    assert not talk(EHLO, MAIL, BOB, b"RSET\r\n", b"QUIT\r\n", b"").refused


def test_a_chunk_that_is_refused_is_told_once() -> None:
    message = only(talk(EHLO, MAIL, BOB, b"BDAT 3 LAST\r\nabc", b"RSET\r\n", b"QUIT\r\n", b"", replies=(NO_BOB,)))
    assert [refusal.at for refusal in message.refusals] == ["RCPT", "BDAT"]


def test_lmtp_tells_who_was_refused_after_the_content() -> None:
    config = ServerConfig(lmtp=True, replies=(ScriptedReply("END_OF_DATA", "452 4.2.2 full", to="bob@example.org"),))
    [message] = talk(b"LHLO me.example\r\n", MAIL, BOB, EVE, b"DATA\r\n", CONTENT + b".\r\n", config=config).messages
    assert message.recipients == ("eve@example.org",)
    assert message.refusals == (Refusal(at="END_OF_DATA", reply="452 4.2.2 full", recipient="bob@example.org"),)


@pytest.mark.asyncio
async def test_a_listener_is_told_what_is_refused() -> None:
    told: list[RefusedMessage] = []
    server = SMTPServer(on_refusal=told.append)
    server.reply("RCPT", "550 5.1.1 no such user", to="bob@example.org")
    async with server.client() as client:
        receipt = await client.send(
            CONTENT, sender="ann@example.org", recipients=["bob@example.org", "eve@example.org"]
        )
        assert list(receipt.refused) == ["bob@example.org"]
        with pytest.raises(Exception, match="no such user"):
            await client.send(CONTENT, sender="ann@example.org", recipients=["bob@example.org"])
    assert told == server.refused
    assert [message.decisive.recipient for message in told] == ["bob@example.org"]
