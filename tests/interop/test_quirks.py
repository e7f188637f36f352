"""What a server does that no other does, or that no standard asks for, and that smtplite is right all the same.

The mark `quirk` says it in words: server, what it does, what smtplite does. docs/reference/servers.md lists those whose
tests pass. Quirks that tests of other files meet carry the mark there.
"""

from __future__ import annotations

from typing import Any

import pytest

import smtplite
from smtplite import Envelope, Outgoing, Recipient, Timeouts

from .launcher import Server
from .matrix import MODES, SECURE_SERVERS, Dialogue, Ledger, claim, claims, each_mode
from .messages import SENDER, as_stored, nasty_message, new_message_id, raw_message
from .others import Aiosmtpd, DovecotSubmission, OpenSMTPD, Sendmail
from .secure import Exim, Haraka, SecurePostfix, SecureServer, SmtpServer

pytestmark = pytest.mark.interop

ANYONE = "anyone@example.test"


def with_commands(message_id: str, injected: str) -> bytes:
    """Return a message whose body is a whole mail transaction, for a server that takes it for commands."""
    inner = raw_message(injected, b"this was never sent\r\n").replace(b"\r\n.", b"\r\n..")
    commands = b"MAIL FROM:<a@client.test>\r\nRCPT TO:<injected@example.test>\r\nDATA\r\n" + inner + b"\r\n.\r\n"
    return raw_message(message_id, commands + b"RSET\r\n" + commands + b"QUIT\r\n")


# TLS that is offered and fails


@pytest.mark.quirk(
    "OpenSMTPD",
    "offers TLS, but every handshake fails, because version 6.8 cannot use OpenSSL 3",
    "raises `TLSError`; nothing is sent unencrypted",
)
@pytest.mark.parametrize("server", [OpenSMTPD], indirect=True)
@pytest.mark.parametrize("service", ["starttls", "implicit"])
@pytest.mark.asyncio
async def test_tls_that_fails_is_an_error_and_no_reason_to_send_in_clear(server: Server, service: str) -> None:
    message_id = new_message_id()
    dialogue = Dialogue()
    async with server.client(service, trace=dialogue) as client:
        said = await claim(client, nasty_message(message_id), sender=SENDER, recipients=[ANYONE])
        with pytest.raises(smtplite.TLSError):
            await client.check()
    assert isinstance(said.error, smtplite.TLSError)
    assert said.not_sent == (ANYONE,)
    assert dialogue.verbs <= {"EHLO", "STARTTLS"}
    assert server.stored(message_id) == []


# Pipelining


@pytest.mark.quirk(
    "OpenSMTPD",
    'does not offer PIPELINING, and closes the connection if a client pipelines ("500 5.5.1 Invalid command: '
    'Pipelining not supported")',
    "sends one command at a time, as with every server that does not offer PIPELINING",
)
@pytest.mark.quirk("aiosmtpd", "does not offer PIPELINING", "sends one command at a time")
@pytest.mark.parametrize("server", [OpenSMTPD, Aiosmtpd], indirect=True)
@pytest.mark.parametrize("way", ["send", "send_many"])
@pytest.mark.asyncio
async def test_without_pipelining_each_command_waits_for_the_reply_to_the_one_before(server: Server, way: str) -> None:
    ids = [new_message_id() for _ in range(3)]
    recipients = [ANYONE, "reject550@example.test", "other@example.test"]
    dialogue = Dialogue()
    async with server.client("plain", trace=dialogue, max_connections=1) as client:
        said = await claims(client, way, [Outgoing(nasty_message(each), SENDER, recipients=recipients) for each in ids])
    assert all(what.accepted == (ANYONE, "other@example.test") for what in said)
    assert all(len(flight) <= 1 for flight in dialogue.flights), dialogue
    assert dialogue.connections == 1


@pytest.mark.quirk(
    "Haraka",
    "ignores commands that follow the end of a message before its reply, and answers 503 to each "
    '("pipelined after end of DATA")',
    "reads those replies, resets, and sends the next message separately; it remembers this for the server",
)
@pytest.mark.parametrize("server", [Haraka], indirect=True)
@pytest.mark.asyncio
async def test_a_server_that_ignores_what_is_behind_the_dot_is_asked_once(server: Server) -> None:
    ids = [new_message_id() for _ in range(6)]
    dialogue = Dialogue()
    async with server.client("plain", trace=dialogue, max_connections=1) as client:
        said = await claims(
            client, "send_many", [Outgoing(nasty_message(each), SENDER, recipients=[ANYONE]) for each in ids]
        )
    ledger = Ledger(server)
    for message_id, what in zip(ids, said, strict=True):
        assert what.accepted == (ANYONE,)
        ledger.note(message_id, what, as_stored(nasty_message(message_id)))
    ledger.check()
    assert dialogue.codes.count(503) == 3  # MAIL, RCPT and DATA of the second message
    assert dialogue.connections == 1


# Replies


@pytest.mark.quirk(
    "OpenSMTPD",
    "refuses `NOTIFY=NEVER` for a recipient that follows one with another NOTIFY (553)",
    "reports that recipient as refused, and sends to the other",
)
@pytest.mark.parametrize("server", [OpenSMTPD], indirect=True)
@pytest.mark.asyncio
async def test_a_recipient_that_is_refused_for_the_parameters_of_another_is_refused(server: Server) -> None:
    message_id = new_message_id()
    recipients = [Recipient(ANYONE, notify="FAILURE"), Recipient("quiet@example.test", notify="NEVER")]
    async with server.client("plain") as client:
        said = await claim(client, nasty_message(message_id), envelope=Envelope(SENDER, recipients))
    assert said.accepted == (ANYONE,)
    assert said.codes == {"quiet@example.test": 553}
    assert [copy.recipient for copy in server.stored(message_id)] == [ANYONE]


@pytest.mark.quirk(
    "Sendmail",
    "says 421 to a recipient but does not close the connection, and accepts the other commands of the group",
    "believes the 421: it sends no content, and closes the connection",
)
@pytest.mark.parametrize("server", [Sendmail], indirect=True)
@each_mode
@pytest.mark.asyncio
async def test_a_421_that_closes_nothing_ends_the_message_all_the_same(server: Server, mode: str) -> None:
    message_id = new_message_id()
    recipients = ["a@example.test", "disc421@example.test", "b@example.test"]
    dialogue = Dialogue()
    async with server.client("plain", trace=dialogue, **MODES[mode]) as client:
        said = await claim(client, nasty_message(message_id), sender=SENDER, recipients=recipients)
    assert isinstance(said.error, smtplite.ServiceUnavailable)
    assert said.accepted == said.unknown == ()
    assert "." not in dialogue.verbs
    assert server.stored(message_id) == []


@pytest.mark.quirk(
    "Exim",
    "refuses a recipient with 550 and closes the connection at once (`drop`)",
    "reports the refusal, and the other recipients as not sent; the error is retryable",
)
@pytest.mark.parametrize("server", [Exim], indirect=True)
@each_mode
@pytest.mark.asyncio
async def test_a_refusal_with_which_the_connection_ends_is_a_refusal(server: Server, mode: str) -> None:
    message_id = new_message_id()
    recipients = ["a@example.test", "disc421@example.test", "b@example.test"]
    async with server.client("plain", **MODES[mode]) as client:
        said = await claim(client, nasty_message(message_id), sender=SENDER, recipients=recipients)
    assert said.codes == {"disc421@example.test": 550}
    assert said.not_sent == ("a@example.test", "b@example.test")
    assert server.stored(message_id) == []


@pytest.mark.quirk(
    "Dovecot submission",
    'does not know the code 571 of the server that it relays to, and closes the connection ("421 4.4.0 ... Lost '
    'connection to relay server (bad reply)")',
    "reports what it reads: `ServiceUnavailable`; nothing was sent, and the error is retryable",
)
@pytest.mark.parametrize("server", [DovecotSubmission], indirect=True)
@pytest.mark.asyncio
async def test_a_code_that_a_relay_does_not_know_is_a_421(server: Server) -> None:
    message_id = new_message_id()
    recipients = ["a@example.test", "reject571@example.test", "b@example.test"]
    async with server.client("starttls") as client:
        said = await claim(client, nasty_message(message_id), sender=SENDER, recipients=recipients)
    assert isinstance(said.error, smtplite.ServiceUnavailable)
    assert said.not_sent == tuple(recipients)
    assert server.stored(message_id) == []


@pytest.mark.quirk(
    "smtp-server",
    "treats two LMTP recipients that differ only in upper and lower case as one: it says 250 to both, and sends one "
    "final reply",
    "waits for the second reply as long as `Timeouts.end_of_data` allows, then reports that recipient as unknown",
)
@pytest.mark.parametrize("server", [SmtpServer], indirect=True)
@pytest.mark.asyncio
async def test_a_verdict_that_is_missing_leaves_its_recipient_unknown(server: Server) -> None:
    """A local part is never compared but by the server whose it is (RFC 5321 2.4)."""
    message_id = new_message_id()
    async with server.client("lmtp", timeouts=Timeouts(end_of_data=5)) as client:
        said = await claim(
            client, nasty_message(message_id), sender=SENDER, recipients=["Reader@example.test", "reader@example.test"]
        )
    assert said.accepted == ("Reader@example.test",)
    assert said.unknown == ("reader@example.test",)
    assert len(server.stored(message_id)) == 1


# Chunks where nobody may send


@pytest.mark.quirk(
    "Postfix",
    "answers 530 to MAIL and BDAT before TLS or authentication, and runs the chunk as commands",
    "sends eight harmless bytes first, and the message only after the server has read them as content",
)
@pytest.mark.parametrize(
    ("server", "service", "options"),
    [
        pytest.param(SecurePostfix, "submission", {"tls": "none", "tls_context": None}, id="Postfix-before-TLS"),
        pytest.param(SecurePostfix, "submission", {}, id="Postfix-before-AUTH"),
        pytest.param(DovecotSubmission, "starttls", {}, id="DovecotSubmission-before-AUTH"),
        pytest.param(Exim, "starttls", {}, id="Exim-before-AUTH"),
    ],
    indirect=["server"],
)
@pytest.mark.parametrize("way", ["send", "send_many"])
@pytest.mark.asyncio
async def test_a_message_full_of_commands_that_nobody_may_send_is_refused_and_nothing_of_it_runs(
    server: SecureServer, service: str, options: dict[str, Any], way: str
) -> None:
    ids, injected = [new_message_id() for _ in range(3)], new_message_id()
    items = [Outgoing(with_commands(each, injected), SENDER, recipients=[ANYONE]) for each in ids]
    dialogue = Dialogue()
    options = {"auth": None, "chunking": True, "max_connections": 1, "trace": dialogue, **options}
    async with server.client(service, **options) as client:
        said = await claims(client, way, items)
    for message_id, what in zip(ids, said, strict=True):
        assert isinstance(what.error, (smtplite.SenderRefused, smtplite.RecipientsRefused))
        assert server.stored(message_id) == []
    assert server.stored(injected) == []


@pytest.mark.parametrize("server", SECURE_SERVERS, indirect=True)
@each_mode
@pytest.mark.asyncio
async def test_a_message_full_of_commands_is_a_message(server: SecureServer, mode: str) -> None:
    message_id, injected = new_message_id(), new_message_id()
    message = with_commands(message_id, injected)
    async with server.client("starttls", **MODES[mode]) as client:
        said = [
            await claim(client, message, sender=SENDER, recipients=[recipient])
            for recipient in ("reject550@example.test", ANYONE)
        ]
    assert said[0].codes == {"reject550@example.test": 550}
    assert said[1].accepted == (ANYONE,)
    assert [copy.content for copy in server.stored(message_id)] == [as_stored(message)]
    assert server.stored(injected) == []
