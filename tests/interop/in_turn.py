"""Two real relays as one route, each killed and restarted in turn while messages go: what we say is true, of each one.

``python -m tests.interop.in_turn --messages 20000`` as root; the interop tests do the same with fewer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final, Literal

import anyio
import anyio.to_thread
import attrs

from smtplite import Client, Outgoing, Receipt, SMTPError
from smtplite.routes import Route

from .launcher import HOST, Postfix, Server, free_ports, running
from .messages import SENDER, new_message_id, raw_message
from .secure import Exim

__all__ = ["Found", "Way", "killed_in_turn", "messages_to_nobody"]

Way = Literal["send", "send_many"]

RECIPIENT: Final = "anyone@example.test"
NOBODY: Final = "discard@example.test"
#: How many messages `send` has under way at the same time.
_AT_ONCE: Final = 8
#: Each relay is killed so many times.
_ROUNDS: Final = 2
_PAUSE_SECONDS: Final = 0.3


@attrs.define
class Found:
    """What came of the messages.

    Attributes:
        said: Message-ID -> what was said of it.
        kills: how many times a relay was killed.
        moved: how many messages went over more than one relay.
        wrong: what was said and is not true.
        wanted: `has_come` is set once so many outcomes are known.
        has_come: see `wanted`.
    """

    said: dict[str, Receipt | SMTPError] = attrs.field(factory=dict)
    kills: int = 0
    moved: int = 0
    wrong: list[str] = attrs.field(factory=list)
    wanted: int = 0
    has_come: anyio.Event = attrs.field(factory=anyio.Event)

    @property
    def outcomes(self) -> Counter[str]:
        """How many messages have each outcome."""
        return Counter(_outcome(said) for said in self.said.values())

    @property
    def servers(self) -> set[str]:
        """The servers that took messages, as they call themselves."""
        return {said.server for said in self.said.values() if isinstance(said, Receipt)}

    def note(self, message_id: str, said: Receipt | SMTPError) -> None:
        """Note what was said of a message: once."""
        if message_id in self.said:
            self.wrong.append(f"{message_id} has two outcomes")
        self.said[message_id] = said
        self.moved += len(said.hops) > 1
        if len(self.said) >= self.wanted:
            self.has_come.set()


def _outcome(said: Receipt | SMTPError) -> str:
    return next(name for name in ("accepted", "unknown", "refused", "not_sent") if getattr(said, name))


def _items(count: int, recipient: str = RECIPIENT) -> dict[str, Outgoing]:
    made = {}
    for number in range(count):
        message_id = new_message_id()
        message = raw_message(message_id, f"number {number}\r\n".encode())
        made[message_id] = Outgoing(message, SENDER, recipients=recipient, tag=message_id)
    return made


async def killed_in_turn(servers: Sequence[tuple[Server, str]], count: int, way: Way) -> Found:
    """Send so many messages over these relays, each killed and restarted in turn; say what came of it.

    Args:
        servers: each with the service that is used.
        count: of the messages.
        way: how they are sent.
    """
    found = Found()
    items = _items(count)
    clients = [server.client(service) for server, service in servers]
    async with Route(clients, pause=_PAUSE_SECONDS, max_pause=_PAUSE_SECONDS) as route:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_kill_in_turn, [server for server, _ in servers], found, count)
            if way == "send":
                left = iter(items.values())
                async with anyio.create_task_group() as senders:
                    for _ in range(_AT_ONCE):
                        senders.start_soon(_send, route, left, found)
            else:
                async with route.send_many(items.values()) as deliveries:
                    async for delivery in deliveries:
                        assert isinstance(delivery.item, Outgoing)
                        said = delivery.receipt or delivery.error
                        assert said is not None
                        found.note(delivery.item.tag, said)
    await anyio.to_thread.run_sync(_judge, [server for server, _ in servers], items, found)
    return found


async def _send(route: Route, left: Iterator[Outgoing], found: Found) -> None:
    for item in left:
        try:
            said: Receipt | SMTPError = await route.send(item.message, sender=item.sender, recipients=item.recipients)
        except SMTPError as error:
            said = error
        found.note(item.tag, said)


async def _kill_in_turn(servers: Sequence[Server], found: Found, count: int) -> None:
    """Kill each relay in turn, and start it again before the next: one of them always works."""
    steps = 2 * len(servers) * _ROUNDS + 1
    for step in range(1, steps):
        found.wanted, found.has_come = int(count * step / steps), anyio.Event()
        if len(found.said) < found.wanted:
            await found.has_come.wait()
        server = servers[(step - 1) // 2 % len(servers)]
        if step % 2:
            found.kills += 1
            await anyio.to_thread.run_sync(server.kill)
        else:
            await anyio.to_thread.run_sync(server.resume)
            # The route has to notice before the other one dies, or there is none.
            await anyio.sleep(2 * _PAUSE_SECONDS)


def _judge(servers: Sequence[Server], items: dict[str, Outgoing], found: Found) -> None:
    stored = [server.stored_of(items) for server in servers]
    for message_id in items:
        said = found.said.get(message_id)
        # A server that was killed between storing and noting it may store once more: not a second transaction.
        copies = [len({copy.transaction for copy in of_server[message_id]}) for of_server in stored]
        if said is None:
            found.wrong.append(f"{message_id} has no outcome; copies: {copies}")
            continue
        outcome = _outcome(said)
        allowed = {"accepted": (1,), "unknown": (0, 1)}.get(outcome, (0,))
        if sum(copies) not in allowed:
            hops = "; ".join(map(str, said.hops))
            found.wrong.append(f"{message_id} is {outcome}, copies: {copies}, hops: {hops}")


def messages_to_nobody(count: int) -> list[Outgoing]:
    """Return so many messages that a server takes and does not store."""
    return list(_items(count, NOBODY).values())


async def throughput(server: Server, service: str, count: int, rounds: int) -> list[float]:
    """Return, for each round, how fast a route is whose first relay is dead, against the second one alone."""
    ratios = []
    for number in range(rounds):
        rates = {}
        for kind in ("alone", "route") if number % 2 else ("route", "alone"):
            items = _items(count, NOBODY)
            begun = time.perf_counter()
            if kind == "alone":
                async with server.client(service) as client:
                    await _stream(client, items)
            else:
                async with Route([_dead(), server.client(service)]) as route:
                    await _stream(route, items)
            rates[kind] = count / (time.perf_counter() - begun)
        ratios.append(rates["route"] / rates["alone"])
    return ratios


def _dead() -> Client:
    [port] = free_ports(1)
    return Client(HOST, port, tls="none")


async def _stream(sender: Any, items: dict[str, Outgoing]) -> None:
    async with sender.send_many(items.values()) as deliveries:
        async for delivery in deliveries:
            delivery.result()


def main() -> int:
    """Run all of it; return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.in_turn", description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000, help="for each way to send (default: %(default)s)")
    arguments = parser.parse_args()
    is_wrong = False
    with ExitStack() as stack:
        servers: list[tuple[Server, str]] = [
            (stack.enter_context(running(Postfix)), "smtp"),
            (stack.enter_context(running(Exim)), "plain"),
        ]
        for way in ("send", "send_many"):
            begun = time.perf_counter()
            found = anyio.run(killed_in_turn, servers, arguments.messages, way)
            seconds = time.perf_counter() - begun
            print(
                f"{way}: {dict(found.outcomes)} of {arguments.messages:,} in {seconds:.0f} s, {found.kills} kills, "
                f"{found.moved} went over more than one relay, {len(found.wrong)} wrong"
            )
            print("\n".join(found.wrong[:10]))
            is_wrong |= bool(found.wrong) or found.outcomes["not_sent"] > 0
        for server, service in servers:
            ratios = anyio.run(throughput, server, service, 3000, 9)  # fewer would show the start alone
            median = statistics.median(ratios)
            print(f"one relay dead, {server.name} alone = 1: {median:.2f} ({', '.join(f'{r:.2f}' for r in ratios)})")
            is_wrong |= median < 0.9
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main())
