"""What the tests run against what: the servers, their services, the ways to send; and the comparison of what we say.

A test is parametrized with `each_service` or `each_server`, has a Client made by `Server.client`, notes what came of
every message in a `Ledger`, and lets that compare all of it with the server's mailboxes at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
import pytest

from smtplite import Client, Outgoing, Receipt, Reply, SMTPError
from smtplite.protocol.extensions import Extensions
from smtplite.trace import FlightSent, ReplyReceived, TraceEvent

from .launcher import A_LABEL_DOMAIN, IDN_DOMAIN, Postfix, Server, Service
from .others import Aiosmtpd, DovecotLMTP, DovecotSubmission, OpenSMTPD, Sendmail
from .secure import Exim, Haraka, SecurePostfix, SecureServer, SmtpServer

SECURE_SERVERS: tuple[type[SecureServer], ...] = (
    SecurePostfix,
    DovecotSubmission,
    Exim,
    Haraka,
    SmtpServer,
    Aiosmtpd,
)
SERVERS: tuple[type[Server], ...] = (Postfix, *SECURE_SERVERS, DovecotLMTP, OpenSMTPD, Sendmail)

MODES: Mapping[str, Mapping[str, bool]] = {"data": {}, "lockstep": {"pipelining": False}, "bdat": {"chunking": True}}
"""How a message travels -> the arguments of Client that make it so."""

WAYS = ("send", "send_many")

each_mode = pytest.mark.parametrize("mode", MODES)
each_way = pytest.mark.parametrize("way", WAYS)


def usual(service: Service) -> bool:
    """Tell whether mail can be sent to a service without a thought of limits."""
    return service.takes_everything


def each_service(
    where: Callable[[Service], bool] = usual, *, servers: Iterable[type[Server]] = SERVERS
) -> pytest.MarkDecorator:
    """Run a test for each service, as its arguments `server` and `service`."""
    return pytest.mark.parametrize(
        ("server", "service"),
        [
            pytest.param(server, name, id=f"{server.__name__}-{name}")
            for server in servers
            for name, service in server.services.items()
            if where(service)
        ],
        indirect=["server"],
    )


def first_service(server: type[Server]) -> str:
    """Return the first service of a server by which mail can be sent."""
    return next(name for name, service in server.services.items() if usual(service))


def each_server(
    where: Callable[[type[Server]], bool] = lambda _: True, *, servers: Iterable[type[Server]] = SERVERS
) -> pytest.MarkDecorator:
    """Run a test for each server, by its first service, as its arguments `server` and `service`."""
    return pytest.mark.parametrize(
        ("server", "service"),
        [
            pytest.param(server, first_service(server), id=f"{server.__name__}-{first_service(server)}")
            for server in servers
            if where(server)
        ],
        indirect=["server"],
    )


class Dialogue:
    """What was said, from the events of a trace."""

    def __init__(self) -> None:
        self.events: list[TraceEvent] = []

    def __call__(self, event: TraceEvent) -> None:
        self.events.append(event)

    def __str__(self) -> str:
        return "\n".join(map(str, self.events))

    @property
    def flights(self) -> list[tuple[str, ...]]:
        """The verbs of the commands that shared each write; of AUTH and BDAT alone, not what follows them."""
        return [
            tuple(command.partition(" ")[0] for command in event.commands)
            for event in self.events
            if isinstance(event, FlightSent)
        ]

    @property
    def commands(self) -> list[str]:
        """Every command that was sent."""
        return [command for event in self.events if isinstance(event, FlightSent) for command in event.commands]

    @property
    def verbs(self) -> set[str]:
        """The first word of every command that was sent."""
        return {command.partition(" ")[0] for command in self.commands}

    @property
    def codes(self) -> list[int]:
        """The code of every reply."""
        return [event.reply.code for event in self.events if isinstance(event, ReplyReceived)]

    @property
    def content_bytes(self) -> int:
        """How many octets of content were sent."""
        return sum(event.content_bytes for event in self.events if isinstance(event, FlightSent))

    @property
    def connections(self) -> int:
        """How many connections there were."""
        return len({event.connection for event in self.events if isinstance(event, FlightSent)})


def takes_chunks(extensions: Extensions) -> bool:
    """Tell whether messages go to a server in chunks, if asked to. Dovecot's submission server offers BURL."""
    return extensions.chunking and extensions.pipelining and "BURL" not in extensions


def check_travelled(dialogue: Dialogue, extensions: Extensions, mode: str) -> None:
    """Assert that messages travelled as the mode says and the server allows."""
    if mode == "bdat" and takes_chunks(extensions):
        assert "BDAT" in dialogue.verbs
    else:
        assert "BDAT" not in dialogue.verbs
        assert "DATA" in dialogue.verbs
    if mode == "lockstep" or not extensions.pipelining:
        assert all(len(flight) <= 1 for flight in dialogue.flights), str(dialogue)
    elif mode == "data":
        assert any(flight[-1:] == ("DATA",) and "RCPT" in flight for flight in dialogue.flights), str(dialogue)


@attrs.frozen(kw_only=True)
class Claim:
    """What smtplite says of one message: the four sets, from a receipt or an error."""

    accepted: tuple[str, ...]
    refused: Mapping[str, Reply]
    unknown: tuple[str, ...]
    not_sent: tuple[str, ...]
    error: SMTPError | None = None

    @classmethod
    def of(cls, said: Receipt | SMTPError) -> Claim:
        """Take it from a receipt or an error."""
        return cls(
            accepted=said.accepted,
            refused=said.refused,
            unknown=said.unknown,
            not_sent=said.not_sent,
            error=said if isinstance(said, SMTPError) else None,
        )

    @property
    def codes(self) -> dict[str, int]:
        """Refused recipient -> code."""
        return {address: reply.code for address, reply in self.refused.items()}


async def claim(client: Client, message: Any, **options: Any) -> Claim:
    """Send a message with `Client.send` and return what smtplite says of it."""
    try:
        return Claim.of(await client.send(message, **options))
    except SMTPError as error:
        return Claim.of(error)


async def claims(client: Client, way: str, items: Sequence[Outgoing], *, require_all: bool = False) -> list[Claim]:
    """Send messages over one connection, in one of `WAYS`; return what smtplite says of each, in their order."""
    if way == "send":
        return [
            await claim(
                client,
                item.message,
                sender=item.sender,
                recipients=item.recipients,
                envelope=item.envelope,
                require_all=require_all,
            )
            for item in items
        ]
    said: dict[int, Claim] = {}
    async with client.send_many(items, connections=1, require_all=require_all) as deliveries:
        async for delivery in deliveries:
            outcome = delivery.receipt or delivery.error
            assert outcome is not None
            assert id(delivery.item) not in said
            said[id(delivery.item)] = Claim.of(outcome)
    assert deliveries.rest == []
    return [said[id(item)] for item in items]


def as_named(recipient: str) -> str:
    """Return a recipient as servers name it: its domain lower case, beyond ASCII as A-labels."""
    local_part, _, domain = recipient.rpartition("@")
    return f"{local_part}@{domain.lower().replace(IDN_DOMAIN, A_LABEL_DOMAIN)}"


@attrs.define
class _Entry:
    claim: Claim
    content: bytes | None


class Ledger:
    """What smtplite said of each message, for the comparison with the mailboxes.

    Args:
        server: whose mailboxes they are.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._entries: dict[str, _Entry] = {}

    def note(self, message_id: str, claim: Claim, content: bytes | None = None) -> None:
        """Note what was said of a message.

        Args:
            message_id: no other message has it.
            claim: what was said.
            content: what must be stored, line endings LF; None: whatever it is.
        """
        assert message_id not in self._entries
        self._entries[message_id] = _Entry(claim, content)

    def check(self) -> None:
        """Compare all that was said with the mailboxes. Close the client first.

        Each recipient who was accepted has exactly one copy, as it was sent; one refused or not sent has none; one
        unknown has one or none; and nobody else has any.
        """
        for message_id, copies in self._server.stored_of(self._entries).items():
            entry = self._entries[message_id]
            said = entry.claim
            # A server that was killed between storing and noting it may store once more: not a second transaction.
            found = Counter(
                recipient for recipient, _ in {(as_named(copy.recipient), copy.transaction) for copy in copies}
            )
            expected = Counter({as_named(recipient) for recipient in said.accepted if not is_discarded(recipient)})
            for recipient in {as_named(recipient) for recipient in said.unknown} - set(expected):
                if found[recipient] == 1:
                    expected[recipient] = 1
            assert found == expected, f"{said}\nstored: {found}"
            if entry.content is not None:
                contents = {copy.content for copy in copies}
                assert contents <= {entry.content}, show_difference(entry.content, *contents)


def is_discarded(recipient: str) -> bool:
    """Tell whether a server says 250 to a recipient and stores nothing."""
    return recipient.startswith("discard")


def show_difference(wanted: bytes, *found: bytes) -> str:
    """Return where two contents differ, at a readable length."""
    lines = []
    for each in found:
        if each != wanted:
            differing = (i for i, (a, b) in enumerate(zip(wanted, each, strict=False)) if a != b)
            start = next(differing, min(len(wanted), len(each)))
            near = slice(max(0, start - 60), start + 60)
            lines.append(f"octet {start} of {len(wanted)}, {len(each)}: {wanted[near]!r} is stored as {each[near]!r}")
    return "\n".join(lines)
