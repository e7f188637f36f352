"""Envelopes: who is accepted, who is refused, when and how; and what that leaves behind for the next message."""

from __future__ import annotations

import pytest

import smtplite
from smtplite import Envelope, Outgoing, Recipient

from .launcher import IDN_DOMAIN, Postfix, Server
from .matrix import (
    MODES,
    SERVERS,
    Claim,
    Dialogue,
    Ledger,
    as_named,
    claim,
    claims,
    each_mode,
    each_server,
    each_way,
    first_service,
)
from .messages import SENDER, as_stored, nasty_message, new_message_id, raw_message
from .others import DovecotLMTP, Sendmail
from .secure import Exim, SmtpServer

pytestmark = pytest.mark.interop

ANYONE = "anyone@example.test"
MANY = 1500

each_server_and_lmtp = pytest.mark.parametrize(
    ("server", "service"),
    [
        *(pytest.param(server, first_service(server), id=f"{server.__name__}") for server in SERVERS),
        pytest.param(SmtpServer, "lmtp", id="SmtpServer-lmtp"),
    ],
    indirect=["server"],
)


def message_for(*recipients: str | Recipient, sender: str = SENDER) -> tuple[str, Outgoing]:
    """Return a Message-ID that nobody else has, and its message."""
    message_id = new_message_id()
    return message_id, Outgoing(nasty_message(message_id), sender, recipients=recipients)


def check(server: Server, *said: tuple[str, Claim]) -> None:
    """Compare what was said of messages of `message_for` with the mailboxes."""
    ledger = Ledger(server)
    for message_id, what in said:
        ledger.note(message_id, what, as_stored(nasty_message(message_id)))
    ledger.check()


# Refused at RCPT


@each_server_and_lmtp
@each_way
@pytest.mark.asyncio
async def test_each_refusal_stands_beside_its_recipient(server: Server, service: str, way: str) -> None:
    """Every code that the server can be made to say, between recipients who are accepted."""
    recipients = ["first@example.test"]
    for code in server.refusals:
        recipients += [f"reject{code}@example.test", f"after{code}@example.test"]
    message_id, item = message_for(*recipients)
    async with server.client(service) as client:
        [said] = await claims(client, way, [item])
    assert said.codes == {f"reject{code}@example.test": code for code in server.refusals}
    assert said.accepted == ("first@example.test", *(f"after{code}@example.test" for code in server.refusals))
    check(server, (message_id, said))


@each_server_and_lmtp
@each_mode
@each_way
@pytest.mark.asyncio
async def test_after_a_message_for_nobody_the_connection_goes_on(
    server: Server, service: str, mode: str, way: str
) -> None:
    before, refused, after = (
        message_for(ANYONE),
        message_for("reject550@example.test", "defer@example.test"),
        message_for(ANYONE),
    )
    dialogue = Dialogue()
    async with server.client(service, trace=dialogue, max_connections=1, **MODES[mode]) as client:
        said = await claims(client, way, [before[1], refused[1], after[1]])
    assert isinstance(said[1].error, smtplite.RecipientsRefused)
    assert said[1].codes == {"reject550@example.test": 550, "defer@example.test": 451}
    assert said[1].error.retryable
    assert said[0].accepted == said[2].accepted == (ANYONE,)
    assert dialogue.connections == 1
    check(server, (before[0], said[0]), (refused[0], said[1]), (after[0], said[2]))


@each_server_and_lmtp
@pytest.mark.asyncio
async def test_a_refusal_for_good_is_not_to_be_retried_and_one_for_now_is(server: Server, service: str) -> None:
    for_good, for_now = message_for("reject550@example.test"), message_for("defer@example.test")
    async with server.client(service) as client:
        said = await claims(client, "send", [for_good[1], for_now[1]])
    assert said[0].error is not None
    assert said[1].error is not None
    assert (said[0].error.retryable, said[1].error.retryable) == (False, True)
    check(server, (for_good[0], said[0]), (for_now[0], said[1]))


@each_server_and_lmtp
@pytest.mark.parametrize("mode", MODES)
@each_way
@pytest.mark.asyncio
async def test_a_421_in_the_middle_leaves_nobody_with_the_message(
    server: Server, service: str, mode: str, way: str
) -> None:
    if server.disc421_code is None:
        pytest.skip(f"{server.name} cannot be made to close the connection at RCPT")
    cut, after = message_for("a@example.test", "disc421@example.test", "b@example.test"), message_for(ANYONE)
    async with server.client(service, max_connections=1, **MODES[mode]) as client:
        said = await claims(client, way, [cut[1], after[1]])
    assert said[0].accepted == said[0].unknown == ()
    assert said[0].error is not None
    assert said[0].error.delivered is False
    if isinstance(server, Exim):  # it says 550, and closes
        assert said[0].codes == {"disc421@example.test": 550}
    else:
        assert isinstance(said[0].error, smtplite.ServiceUnavailable)
        assert said[0].error.retryable
    assert said[1].accepted == (ANYONE,)
    check(server, (cut[0], said[0]), (after[0], said[1]))


@each_server_and_lmtp
@each_mode
@each_way
@pytest.mark.asyncio
async def test_require_all_sends_to_all_or_to_nobody(server: Server, service: str, mode: str, way: str) -> None:
    some, all_ = (
        message_for("a@example.test", "reject550@example.test", "b@example.test"),
        message_for("a@example.test", "b@example.test"),
    )
    dialogue = Dialogue()
    async with server.client(service, trace=dialogue, max_connections=1, **MODES[mode]) as client:
        said = await claims(client, way, [some[1], all_[1]], require_all=True)
    assert isinstance(said[0].error, smtplite.RecipientsRefused)
    assert said[0].codes == {"reject550@example.test": 550}
    assert said[0].not_sent == ("a@example.test", "b@example.test")
    assert said[1].accepted == ("a@example.test", "b@example.test")
    check(server, (some[0], said[0]), (all_[0], said[1]))


# Refused at the end of data


@pytest.mark.quirk(
    "Postfix",
    "leaves the transaction open when a policy refuses the message at its end (smtpd_end_of_data_restrictions)",
    "resets the transaction before the next message",
)
@each_server(lambda server: server.knows_end)
@each_mode
@each_way
@pytest.mark.parametrize("code", [451, 550])
@pytest.mark.asyncio
async def test_a_message_refused_at_the_end_of_data_is_refused_for_all(
    server: Server, service: str, mode: str, way: str, code: int
) -> None:
    recipients = ("a@example.test", "reject550@example.test", "b@example.test")
    refused, after = message_for(*recipients, sender=f"end{code}@client.test"), message_for(ANYONE)
    dialogue = Dialogue()
    async with server.client(service, trace=dialogue, max_connections=1, **MODES[mode]) as client:
        said = await claims(client, way, [refused[1], after[1]])
    assert isinstance(said[0].error, smtplite.MessageRefused)
    assert said[0].codes == {"a@example.test": code, "reject550@example.test": 550, "b@example.test": code}
    assert said[0].error.retryable == (code == 451)
    assert said[1].accepted == (ANYONE,)
    check(server, (refused[0], said[0]), (after[0], said[1]))


@each_server(servers=[Postfix])
@each_mode
@each_way
@pytest.mark.asyncio
async def test_a_421_at_the_end_of_data_refuses_the_message(server: Server, service: str, mode: str, way: str) -> None:
    refused, after = message_for(ANYONE, sender="end421@client.test"), message_for(ANYONE)
    async with server.client(service, max_connections=1, **MODES[mode]) as client:
        said = await claims(client, way, [refused[1], after[1]])
    assert isinstance(said[0].error, smtplite.MessageRefused)
    assert said[0].codes == {ANYONE: 421}
    assert said[1].accepted == (ANYONE,)
    check(server, (refused[0], said[0]), (after[0], said[1]))


@pytest.mark.parametrize(
    ("server", "service", "late"),
    [
        pytest.param(DovecotLMTP, "lmtp", {"full@example.test": 552}, id="DovecotLMTP"),
        pytest.param(SmtpServer, "lmtp", {"late452@example.test": 452, "late550@example.test": 550}, id="SmtpServer"),
    ],
    indirect=["server"],
)
@each_mode
@each_way
@pytest.mark.asyncio
async def test_in_lmtp_each_recipient_has_a_verdict_of_its_own(
    server: Server, service: str, late: dict[str, int], mode: str, way: str
) -> None:
    mixed = message_for("a@example.test", "reject550@example.test", *late, "b@example.test")
    nobody, after = message_for(*late), message_for(ANYONE)
    dialogue = Dialogue()
    async with server.client(service, trace=dialogue, max_connections=1, **MODES[mode]) as client:
        said = await claims(client, way, [mixed[1], nobody[1], after[1]])
    assert said[0].accepted == ("a@example.test", "b@example.test")
    assert said[0].codes == {"reject550@example.test": 550, **late}
    assert isinstance(said[1].error, smtplite.MessageRefused)
    assert said[1].codes == late
    assert said[2].accepted == (ANYONE,)
    assert dialogue.connections == 1
    check(server, *((each[0], what) for each, what in zip((mixed, nobody, after), said, strict=True)))


@each_server(lambda server: server.knows_discard)
@pytest.mark.asyncio
async def test_who_is_discarded_was_accepted(server: Server, service: str) -> None:
    """What a server does with a message after it said 250 is its affair, and not in our claim."""
    message_id, item = message_for("discard@example.test", ANYONE)
    async with server.client(service) as client:
        [said] = await claims(client, "send", [item])
    assert said.accepted == ("discard@example.test", ANYONE)
    check(server, (message_id, said))
    assert [copy.recipient for copy in server.stored(message_id)] == [ANYONE]


# Many recipients


@pytest.mark.quirk(
    "Postfix",
    "accepts 1,000 recipients of a message, and answers 452 4.5.3 to each further one",
    "sends the message to the others in a further transaction, unless `require_all` is given",
)
@pytest.mark.quirk(
    "OpenSMTPD",
    "accepts 1,000 recipients of a message, and answers 451 4.5.3 to each further one",
    "sends the message to the others in a further transaction, unless `require_all` is given",
)
@each_server_and_lmtp
@pytest.mark.asyncio
async def test_1500_recipients_have_one_copy_each(server: Server, service: str) -> None:
    """Beyond a server's limit, which it says with 452 or 451 and 4.5.3, the rest goes into a further transaction."""
    recipients = [f"reader{number:04}@example.test" for number in range(MANY)]
    message_id, item = message_for(*recipients)
    dialogue = Dialogue()
    async with server.client(service, trace=dialogue) as client:
        [said] = await claims(client, "send", [item])
    assert said.accepted == tuple(recipients), dialogue.codes
    transactions = 1 if server.max_recipients is None else -(-MANY // server.max_recipients)
    assert sum(command.startswith("MAIL") for command in dialogue.commands) == transactions
    check(server, (message_id, said))


@each_server(servers=[Postfix])
@each_mode
@each_way
@pytest.mark.asyncio
async def test_a_message_that_is_split_is_refused_and_accepted_piece_by_piece(
    server: Server, service: str, mode: str, way: str
) -> None:
    recipients = [f"reader{number:04}@example.test" for number in range(MANY)]
    recipients[7] = "reject550@example.test"
    recipients[1400] = "reject571@example.test"
    split, after = message_for(*recipients), message_for(ANYONE)
    async with server.client(service, max_connections=1, **MODES[mode]) as client:
        said = await claims(client, way, [split[1], after[1]])
    assert said[0].codes == {"reject550@example.test": 550, "reject571@example.test": 571}
    assert set(said[0].accepted) == set(recipients) - set(said[0].codes)
    assert said[1].accepted == (ANYONE,)
    check(server, (split[0], said[0]), (after[0], said[1]))


@each_server(servers=[Postfix])
@each_mode
@pytest.mark.asyncio
async def test_with_require_all_a_message_is_never_split(server: Server, service: str, mode: str) -> None:
    recipients = [f"reader{number:04}@example.test" for number in range(MANY)]
    message_id, item = message_for(*recipients)
    async with server.client(service, **MODES[mode]) as client:
        [said] = await claims(client, "send", [item], require_all=True)
    assert isinstance(said.error, smtplite.RecipientsRefused)
    assert set(said.codes.values()) == {452}
    assert len(said.refused) + len(said.not_sent) == MANY
    check(server, (message_id, said))


# Addresses


@each_server_and_lmtp
@pytest.mark.asyncio
async def test_a_recipient_beyond_ascii_needs_smtputf8(server: Server, service: str) -> None:
    recipients = ["grüße@example.test", "用户@example.test", ANYONE]
    message_id, item = message_for(*recipients)
    async with server.client(service) as client:
        [said] = await claims(client, "send", [item])
        has_utf8 = "SMTPUTF8" in (await client.check()).extensions
    if has_utf8:
        assert said.accepted == tuple(recipients)
    else:
        assert isinstance(said.error, smtplite.ExtensionRequired)
        assert said.error.keyword == "SMTPUTF8"
        assert said.not_sent == tuple(recipients)
    check(server, (message_id, said))


@each_server(lambda server: server is not DovecotLMTP)  # it has no list of domains
@pytest.mark.asyncio
async def test_a_domain_beyond_ascii_travels_as_a_labels_and_needs_nothing(server: Server, service: str) -> None:
    recipient = f"anyone@{IDN_DOMAIN}"
    message_id, item = message_for(recipient)
    dialogue = Dialogue()
    async with server.client(service, trace=dialogue) as client:
        [said] = await claims(client, "send", [item])
    assert said.accepted == (recipient,)
    assert "RCPT TO:<anyone@xn--bcher-kva.test>" in dialogue.commands
    assert not any("SMTPUTF8" in command for command in dialogue.commands)
    check(server, (message_id, said))


@each_server_and_lmtp
@pytest.mark.asyncio
async def test_the_null_reverse_path_is_taken(server: Server, service: str) -> None:
    message_id, item = message_for(ANYONE, sender="")
    async with server.client(service) as client:
        [said] = await claims(client, "send", [item])
    assert said.accepted == (ANYONE,)
    check(server, (message_id, said))


@each_server_and_lmtp
@pytest.mark.asyncio
async def test_the_same_recipient_twice_is_one_copy_and_reported_for_each(server: Server, service: str) -> None:
    recipients = (ANYONE, "anyone@EXAMPLE.test", "other@example.test", ANYONE)
    message_id, item = message_for(*recipients)
    async with server.client(service) as client:
        [said] = await claims(client, "send", [item])
    assert said.accepted == recipients
    check(server, (message_id, said))
    assert [copy.recipient for copy in server.stored(message_id)] == [ANYONE, "other@example.test"]


ODD_LOCAL_PARTS = ("o'brien", "a.b.c", "UPPER", "x" * 64, "!#$%&*+-/=?^_`{|}~", '"a b"', r'"a\"b"', '"a@b"', '""')


@each_server_and_lmtp
@pytest.mark.asyncio
async def test_an_odd_address_is_taken_or_refused_and_never_another(server: Server, service: str) -> None:
    """Each goes alone: a server that answers 5yz to one must not have given it to somebody else."""
    recipients = [f"{local_part}@example.test" for local_part in ODD_LOCAL_PARTS]
    dialogue = Dialogue()
    said = {}
    async with server.client(service, trace=dialogue) as client:
        for recipient in recipients:
            message_id, item = message_for(recipient)
            [said[message_id]] = await claims(client, "send", [item])
    for (message_id, what), recipient in zip(said.items(), recipients, strict=True):
        assert len(what.accepted) + len(what.refused) == 1, what
        copies = [as_written(copy.recipient) for copy in server.stored(message_id)]
        assert copies == [as_written(as_named(each)) for each in what.accepted], recipient
        assert f"RCPT TO:<{recipient}>" in dialogue.commands


def as_written(address: str) -> str:
    """Return an address with its local part unquoted: whether a server quotes what it stores is its affair."""
    local_part, _, domain = address.rpartition("@")
    if local_part.startswith('"'):
        local_part = local_part[1:-1].replace("\\", "")
    return f"{local_part}@{domain}"


# Delivery status notifications


@pytest.mark.parametrize(
    ("server", "service"),
    [pytest.param(server, first_service(server), id=server.__name__) for server in (Postfix, Exim, Sendmail)],
    indirect=["server"],
)
@pytest.mark.asyncio
async def test_dsn_parameters_come_back_in_a_notification(server: Server, service: str) -> None:
    """The server itself says what it understood of RET, ENVID, NOTIFY and ORCPT (RFC 3461)."""
    message_id = new_message_id()
    envid = f"QQ-{message_id[1:9]}"
    envelope = Envelope(
        "author@example.test",
        [
            Recipient(ANYONE, notify=["SUCCESS", "FAILURE"], orcpt="first=person@elsewhere.test"),
            Recipient("quiet@example.test", notify="NEVER"),
        ],
        ret="HDRS",
        envid=envid,
    )
    async with server.client(service) as client:
        said = await claim(client, nasty_message(message_id), envelope=envelope)
    assert said.accepted == (ANYONE, "quiet@example.test")
    check(server, (message_id, said))
    notifications = server.stored_with(envid.encode())
    assert [copy.recipient for copy in notifications] == ["author@example.test"]
    [content] = {copy.content for copy in notifications}
    assert b"first=person@elsewhere.test" in content.replace(b"+3D", b"=")
    assert b"quiet@example.test" not in content.partition(b"message/delivery-status")[2].partition(b"\nFrom:")[0]
    assert b"begins with a dot" not in content  # HDRS: the body does not come back


@each_server_and_lmtp
@pytest.mark.asyncio
async def test_dsn_is_required_or_dropped_where_it_is_not_offered(server: Server, service: str) -> None:
    required, dropped = new_message_id(), new_message_id()
    recipient = Recipient(ANYONE, notify="FAILURE")
    dialogue = Dialogue()
    async with server.client(service, trace=dialogue) as client:
        said = await claim(client, nasty_message(required), envelope=Envelope(SENDER, recipient, ret="FULL"))
        has_dsn = "DSN" in (await client.check()).extensions
        said_dropped = await claim(
            client, nasty_message(dropped), envelope=Envelope(SENDER, recipient, ret="FULL", dsn="drop")
        )
    if has_dsn:
        assert said.accepted == (ANYONE,)
    else:
        assert isinstance(said.error, smtplite.ExtensionRequired)
        assert said.error.keyword == "DSN"
    assert said_dropped.accepted == (ANYONE,)
    assert any("NOTIFY" in command for command in dialogue.commands) == has_dsn
    check(server, (required, said), (dropped, said_dropped))


@each_server_and_lmtp
@pytest.mark.asyncio
async def test_a_bcc_field_in_octets_never_leaves(server: Server, service: str) -> None:
    message_id = new_message_id()
    message = b"Bcc: secret@example.test\r\n" + raw_message(message_id, b"text\r\n")
    async with server.client(service) as client:
        with pytest.raises(smtplite.MessageError, match="Bcc"):
            await client.send(message, sender=SENDER, recipients=[ANYONE])
    assert server.stored(message_id) == []
