"""Connections that end, and servers that go away: nothing is lost, nothing is doubled, and what we say stays true."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator

import anyio
import attrs
import pytest

import smtplite
from smtplite import Client, Delivery, Outgoing
from smtplite.trace import FlightSent, MessageFinished, TraceEvent

from .launcher import Postfix, Server
from .matrix import (
    MODES,
    SERVERS,
    WAYS,
    Claim,
    Dialogue,
    Ledger,
    claim,
    claims,
    each_mode,
    each_server,
    each_way,
    first_service,
)
from .messages import SENDER, as_stored, new_message_id, raw_message
from .others import Aiosmtpd, OpenSMTPD
from .secure import LimitedExim

pytestmark = pytest.mark.interop

ANYONE = "anyone@example.test"
REFUSED = "reject550@example.test"


each_server_with_each_way_to_travel = pytest.mark.parametrize(
    ("server", "service", "mode"),
    [
        pytest.param(server, first_service(server), mode, id=f"{server.__name__}-{mode}")
        for server in SERVERS
        for mode in (("data", "bdat") if server.offers_chunking else ("data",))
    ],
    indirect=["server"],
)


ACCEPTED = Claim(accepted=(ANYONE,), refused={}, unknown=(), not_sent=())


def messages(count: int, *recipients: str) -> dict[str, Outgoing]:
    """Return Message-ID -> message; small ones, each with a text of its own."""
    made = {}
    for number in range(count):
        message_id = new_message_id()
        text = f"number {number}\r\n.and a dot\r\n".encode()
        message = raw_message(message_id, text)
        made[message_id] = Outgoing(message, SENDER, recipients=recipients or (ANYONE,), tag=message_id)
    return made


def at_a_message_limit(
    server: Server, said: dict[str, Claim], *, connections: int, is_handed_over: bool = False
) -> list[Claim]:
    """Return what was said of messages, but for those that met a limit and are to be retried by whoever sends them.

    OpenSMTPD says "452 4.5.3 Too many messages sent" to MAIL: that refuses this message. Exim says 421; if the content
    was in the same write, it was handed over, and by rule R11 it does not go again by itself. One at most on each
    connection: the next message goes over another.
    """
    limited = [
        what
        for what in said.values()
        if (isinstance(server, OpenSMTPD) and isinstance(what.error, smtplite.SenderRefused))
        or (is_handed_over and isinstance(what.error, smtplite.ServiceUnavailable))
    ]
    assert len(limited) <= connections
    assert limited or not (is_handed_over or isinstance(server, OpenSMTPD))  # the limit was met
    for what in limited:
        assert set(what.codes.values()) <= {452}
        assert not what.unknown
        assert what.error is not None
        assert what.error.retryable
    return [what for what in said.values() if what not in limited]


def note(delivery: Delivery, said: dict[str, Claim]) -> None:
    """Note what was said of one of `messages`; nothing was said of it before."""
    assert isinstance(delivery.item, Outgoing)
    assert delivery.item.tag not in said
    outcome = delivery.receipt or delivery.error
    assert outcome is not None
    said[delivery.item.tag] = Claim.of(outcome)


def noted(server: Server, items: dict[str, Outgoing], said: dict[str, Claim]) -> Ledger:
    """Return a ledger of what was said of these messages."""
    ledger = Ledger(server)
    for message_id, what in said.items():
        message = items[message_id].message
        assert isinstance(message, bytes)
        ledger.note(message_id, what, as_stored(message))
    return ledger


# Idle


@attrs.frozen(eq=False)
class Pair:
    """A client that sends two messages, one before and one after something happens to its connection."""

    client: Client
    way: str
    dialogue: Dialogue
    items: dict[str, Outgoing]

    async def send(self, number: int) -> None:
        """Send one of the two; somebody must be accepted."""
        [said] = await claims(self.client, self.way, [list(self.items.values())[number]])
        assert said.accepted == (ANYONE,), f"{self.way}: {said}\n{self.dialogue}"


@contextlib.asynccontextmanager
async def pairs(server: Server, service: str) -> AsyncIterator[list[Pair]]:
    """Give a pair for each way to send and each way to travel; in the end each message must be stored, once."""
    made = []
    async with contextlib.AsyncExitStack() as stack:
        for way, mode in itertools.product(WAYS, MODES):
            dialogue = Dialogue()
            client = server.client(service, trace=dialogue, max_connections=1, **MODES[mode])
            made.append(Pair(await stack.enter_async_context(client), way, dialogue, messages(2)))
        yield made
    for pair in made:
        assert pair.dialogue.connections == 2, pair.dialogue
        ledger = Ledger(server)
        for message_id, item in pair.items.items():
            assert isinstance(item.message, bytes)
            ledger.note(message_id, ACCEPTED, as_stored(item.message))
        ledger.check()


@pytest.mark.parametrize(
    ("server", "service"),
    [
        pytest.param(server, name, id=f"{server.__name__}-{name}")
        for server in SERVERS
        for name, service in server.services.items()
        if service.idle_seconds is not None
    ],
    indirect=["server"],
)
@pytest.mark.asyncio
async def test_an_idle_connection_that_the_server_closed_costs_no_message(server: Server, service: str) -> None:
    """Whether it closes with a 421 (Postfix, Exim, Haraka) or without a word (smtp-server, aiosmtpd)."""
    async with pairs(server, service) as made:
        for pair in made:
            await pair.send(0)
        server.wait_until_idle_connections_end(service)
        for pair in made:
            await pair.send(1)


@each_server()
@pytest.mark.asyncio
async def test_a_server_restarted_between_two_messages_costs_none(server: Server, service: str) -> None:
    """While it is gone there is a ConnectError, and the message may be sent later."""
    items = messages(1)
    [(message_id, item)] = items.items()
    async with server.client(service) as other:
        async with pairs(server, service) as made:
            for pair in made:
                await pair.send(0)
            server.halt()
            try:
                [gone] = await claims(other, "send", [item])
            finally:
                server.resume()
            for pair in made:
                await pair.send(1)
        [back] = await claims(other, "send", [item])
    assert isinstance(gone.error, smtplite.ConnectError)
    assert gone.not_sent == (ANYONE,)
    assert gone.error.retryable
    assert back.accepted == (ANYONE,)
    noted(server, items, {message_id: back}).check()


# Killed in the middle


class Killer:
    """A trace that kills the server, once.

    Args:
        server: the one to kill.
        verb: when a write is about to begin whose last command this is.
        outcomes: when the outcomes of so many messages are known.
    """

    def __init__(self, server: Server, *, verb: str | None = None, outcomes: int | None = None) -> None:
        self._server = server
        self._verb = verb
        self._outcomes = outcomes
        self._finished = 0
        self.has_struck = False

    def __call__(self, event: TraceEvent) -> None:
        if self.has_struck:
            return
        if isinstance(event, MessageFinished):
            self._finished += 1
        is_before = isinstance(event, FlightSent) and [each.partition(" ")[0] for each in event.commands[-1:]] == [
            self._verb
        ]
        if is_before or self._finished == self._outcomes:
            self.has_struck = True
            self._server.kill()


@each_server()
@pytest.mark.parametrize("verb", ["RCPT", "DATA", "."])
@pytest.mark.asyncio
async def test_a_server_killed_before_the_end_of_data_reaches_it_has_not_got_the_message(
    server: Server, service: str, verb: str
) -> None:
    """Lockstep, so that each of the commands is a write of its own. What was never read was never taken."""
    items = messages(1)
    [(message_id, item)] = items.items()
    killer = Killer(server, verb=verb)
    try:
        async with server.client(service, trace=killer, pipelining=False) as client:
            [said] = await claims(client, "send", [item])
    finally:
        server.resume()
    assert killer.has_struck
    assert said.accepted == ()
    assert said.error is not None
    if verb == ".":  # it was handed over, as far as we can know
        assert isinstance(said.error, smtplite.DeliveryUnknown)
    else:
        assert said.not_sent == (ANYONE,)
        assert said.error.retryable
    assert server.stored(message_id) == []


@each_server_with_each_way_to_travel
@pytest.mark.asyncio
async def test_a_server_killed_among_many_messages_has_what_we_say_it_has(
    server: Server, service: str, mode: str
) -> None:
    """What is not known to have arrived is unknown, or sent again when the server is back: none is lost or doubled."""
    items = messages(200, ANYONE, REFUSED)
    said: dict[str, Claim] = {}
    killer = Killer(server, outcomes=30)
    try:
        async with server.client(service, trace=killer, **MODES[mode]) as client:
            async with client.send_many(items.values(), connections=3, reconnect=0) as deliveries:
                with contextlib.suppress(smtplite.TransportError):  # that no connection can be opened is said once
                    async for delivery in deliveries:
                        note(delivery, said)
            for delivery in deliveries.rest:
                note(delivery, said)
    finally:
        server.resume()
    assert killer.has_struck
    assert 30 <= sum(ANYONE in what.accepted for what in said.values()) < 200
    noted(server, items, said).check()
    # Sent again: what was certainly not, and what was never taken from the iterable.
    again = {key: item for key, item in items.items() if key not in said or ANYONE in said[key].not_sent}
    async with server.client(service, max_messages_per_connection=50, **MODES[mode]) as client:
        said.update(zip(again, await claims(client, "send", list(again.values())), strict=True))
    noted(server, items, said).check()
    assert said.keys() == items.keys()
    assert all(ANYONE in what.accepted or ANYONE in what.unknown for what in said.values())


# Limits of the server


@pytest.mark.quirk(
    "Exim",
    "answers 421 to each MAIL beyond its limit for a connection, but does not close it",
    "sends the rest over further connections, none of which goes beyond that limit",
)
@pytest.mark.quirk(
    "aiosmtpd",
    "answers 421 to the first MAIL beyond its limit for a connection",
    "sends the rest over further connections, none of which goes beyond that limit",
)
@pytest.mark.quirk(
    "OpenSMTPD",
    "answers 452 4.5.3 to each MAIL beyond the hundredth on a connection",
    "reports that one message as refused for now, and sends the rest over further connections",
)
@pytest.mark.parametrize(
    ("server", "service", "count"),
    [
        pytest.param(LimitedExim, "plain", 12, id="Exim"),  # "421 too many messages in this connection"
        pytest.param(Aiosmtpd, "limited", 12, id="Aiosmtpd"),  # "421 4.7.0 MAIL sent too many times"
        pytest.param(OpenSMTPD, "plain", 102, id="OpenSMTPD"),  # "452 4.5.3 ... Too many messages sent"
    ],
    indirect=["server"],
)
@each_mode
@each_way
@pytest.mark.asyncio
async def test_a_limit_of_messages_for_each_connection_costs_none(
    server: Server, service: str, count: int, mode: str, way: str
) -> None:
    items = messages(count)
    dialogue = Dialogue()
    async with server.client(service, trace=dialogue, max_connections=1, **MODES[mode]) as client:
        said = dict(zip(items, await claims(client, way, list(items.values())), strict=True))
    noted(server, items, said).check()
    is_handed_over = isinstance(server, LimitedExim) and (way, mode) == ("send", "bdat")
    for what in at_a_message_limit(server, said, connections=1, is_handed_over=is_handed_over):
        assert what.accepted == (ANYONE,), what


@pytest.mark.parametrize(("server", "service"), [pytest.param(Postfix, "rationed", id="Postfix")], indirect=["server"])
@each_mode
@each_way
@pytest.mark.asyncio
async def test_a_rate_that_is_exceeded_refuses_the_rest_for_now(
    server: Server, service: str, mode: str, way: str
) -> None:
    """Postfix says "450 4.7.1 Error: too much mail" to MAIL: that is a refusal, and not to be tried again at once."""
    items = messages(8)
    async with server.client(service, max_connections=1, **MODES[mode]) as client:
        said = dict(zip(items, await claims(client, way, list(items.values())), strict=True))
    noted(server, items, said).check()
    refused = [what for what in said.values() if what.codes == {ANYONE: 450}]
    assert len(refused) >= 3  # an earlier test may have used the ration up
    assert all(isinstance(what.error, smtplite.SenderRefused) and what.error.retryable for what in refused)
    assert len(refused) + sum(what.accepted == (ANYONE,) for what in said.values()) == 8


# Many at once


@pytest.mark.quirk(
    "Dovecot submission",
    "crashes when something follows the end of a message before its reply; loses count after a refused BDAT and RSET; "
    "runs a chunk as commands before authentication",
    "sends nothing after the end of a message before its reply, and no chunks; it recognizes the server by its BURL",
)
@each_server_with_each_way_to_travel
@pytest.mark.asyncio
async def test_of_1000_messages_none_is_lost_and_none_doubled(server: Server, service: str, mode: str) -> None:
    """Over four connections; every tenth has a recipient who is refused, too."""
    items = {**messages(900), **messages(100, ANYONE, REFUSED)}
    said: dict[str, Claim] = {}
    async with server.client(service, **MODES[mode]) as client:
        async with client.send_many(items.values(), connections=4) as deliveries:
            async for delivery in deliveries:
                note(delivery, said)
                is_limit = isinstance(server, OpenSMTPD) and isinstance(delivery.error, smtplite.SenderRefused)
                assert delivery.receipt is not None or is_limit, f"message {len(said)}: {delivery.error}"
    assert deliveries.rest == []
    noted(server, items, said).check()
    assert said.keys() == items.keys()
    taken = at_a_message_limit(server, said, connections=4)
    assert all(what.accepted == (ANYONE,) for what in taken)
    assert 100 - 4 <= sum(what.codes == {REFUSED: 550} for what in taken) <= 100


@each_server()
@each_mode
@pytest.mark.asyncio
async def test_of_100_tasks_that_send_at_the_same_time_each_gets_its_own_outcome(
    server: Server, service: str, mode: str
) -> None:
    kinds: tuple[tuple[str, ...], ...] = ((ANYONE,), (REFUSED,), (ANYONE, REFUSED))
    made = {kind: messages(count, *kind) for kind, count in zip(kinds, (60, 20, 20), strict=True)}
    items = {message_id: item for each in made.values() for message_id, item in each.items()}
    said: dict[str, Claim] = {}

    async def send(message_id: str, item: Outgoing) -> None:
        said[message_id] = await claim(client, item.message, sender=item.sender, recipients=item.recipients)

    async with server.client(service, max_connections=5, **MODES[mode]) as client:
        async with anyio.create_task_group() as tasks:
            for message_id, item in items.items():
                tasks.start_soon(send, message_id, item)
    noted(server, items, said).check()
    for kind, each in made.items():
        for message_id in each:
            assert said[message_id].accepted == ((ANYONE,) if ANYONE in kind else ()), (
                said[message_id],
                getattr(said[message_id].error, "transcript", None),
                repr(getattr(said[message_id].error, "__cause__", None)),
            )
            assert said[message_id].codes == ({REFUSED: 550} if REFUSED in kind else {})
