"""The simulation of routes: the real Route over real Clients, each joined to a server's protocol half by octets.

The octets and what befalls them are those of `tests.simulation.wire`. Every relay has a mailbox of its own, which is
the truth; time is that of an event loop whose clock jumps. ``python -m tests.routes.simulation`` runs all of it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Final, Literal

import anyio
import anyio.abc
import anyio.lowlevel
import attrs

from smtplite import Client, ConnectionLost, Delivery, Receipt, SMTPError, SMTPTimeout
from smtplite.routes import Route
from smtplite.testing import Mailbox, Script, ScriptedReply, ServerConfig, ServerConnection
from tests.client.fault_stream import run
from tests.exhaustive import part
from tests.simulation.wire import Cut, End, Side, Wire

from .relays import octets_of, take

__all__ = ["KINDS", "Case", "cases", "judged", "tried"]

Way = Literal["send", "send_many", "send_many, chunking"]
WAYS: Final[tuple[Way, ...]] = ("send", "send_many", "send_many, chunking")
#: What any reply may be recoded to.
CODES: Final = (220, 250, 251, 334, 354, 421, 432, 450, 452, 535, 550, 571, 999)
ENDS: Final = (End.EOF, End.RST, End.SILENCE)

#: How many runs were judged, by their kind.
tried: Counter[str] = Counter()


@attrs.frozen
class Recode:
    """The reply of this number on its connection is another one, and the server acts accordingly."""

    at: int
    code: int


@attrs.frozen
class Life:
    """How a relay lives.

    Attributes:
        befalls: what befalls its connections, one after another: a cut, a recoded reply, "refused", or nothing.
        then: what becomes of all later ones.
    """

    befalls: tuple[Cut | Recode | Literal["refused"] | None, ...] = ()
    then: Cut | Recode | Literal["refused"] | None = None


WELL: Final = Life()
DEAD: Final = Life(then="refused")


@attrs.frozen
class Case:
    """One run.

    Attributes:
        way: how messages are sent.
        lives: how each relay lives.
        failures: so many open a breaker.
        comes_back: whether the first relay works from its second connection on, and the second one is cut meanwhile.
    """

    way: Way
    lives: tuple[Life, ...]
    failures: int = 3
    comes_back: bool = False

    @property
    def has_well_relay(self) -> bool:
        """True if one relay works all the time."""
        return WELL in self.lives


class _Script(Script):
    """Recodes one reply of a connection."""

    def __init__(self, recode: Recode | None) -> None:
        super().__init__(())
        self._recode = recode
        self.asked = 0

    def take(
        self,
        verb: str,
        *,
        sender: str | None = None,
        recipients: Collection[str] = (),
        in_tls: bool = False,
        content_bytes: int = 0,
    ) -> ScriptedReply | None:
        if verb == "CONTENT":
            return None
        self.asked += 1
        if self._recode is None or self._recode.at != self.asked - 1 or not verb.isidentifier():
            return None
        return ScriptedReply(verb, f"{self._recode.code} recoded")


class _Stream(anyio.abc.ByteStream):
    """The client's end of a wire."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._is_closed = False

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        await anyio.lowlevel.checkpoint()
        if self._is_closed:
            raise anyio.ClosedResourceError
        try:
            octets = self._wire.read()
        except ConnectionLost as error:
            raise anyio.BrokenResourceError from error
        except SMTPTimeout:
            await anyio.sleep_forever()
            raise
        if not octets:
            raise anyio.EndOfStream
        return octets

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        if self._is_closed:
            raise anyio.ClosedResourceError
        try:
            self._wire.push(item)
        except ConnectionLost as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        raise NotImplementedError

    def is_readable(self) -> bool:
        wire = self._wire
        return wire.heard < len(wire.said) if wire._read_limit is None else wire.heard < wire._read_limit

    def abort(self) -> None:
        self._is_closed = True

    async def aclose(self) -> None:
        self._is_closed = True
        await anyio.lowlevel.checkpoint()


class Relay:
    """One relay: its mailbox, and how it lives."""

    def __init__(self, life: Life, name: str) -> None:
        self._life = life
        self._config = ServerConfig(name=name)
        self._connects = 0
        self.mailbox = Mailbox()
        self.wires: list[Wire] = []
        self.scripts: list[_Script] = []

    async def connect(self) -> _Stream:
        await anyio.lowlevel.checkpoint()
        life, number = self._life, self._connects
        self._connects += 1
        befalls = life.befalls[number] if number < len(life.befalls) else life.then
        if befalls == "refused":
            raise ConnectionRefusedError("refused")
        script = _Script(befalls if isinstance(befalls, Recode) else None)
        server = ServerConnection(self._config, self.mailbox, script=script)
        wire = Wire(server, cut=befalls if isinstance(befalls, Cut) else None)
        self.wires.append(wire)
        self.scripts.append(script)
        return _Stream(wire)


MESSAGES: Final = 2


def _message(number: int) -> bytes:
    return (
        f"From: a{number}@sender.example\r\nTo: x{number}@one.example, y{number}@two.example\r\n"
        f"Message-ID: <{number}@sender.example>\r\n\r\nNumber {number}.\r\n"
    ).encode()


def _claims(result: Receipt | SMTPError) -> Iterator[tuple[str, str]]:
    """Yield each recipient with the initial of its outcome."""
    for name in ("accepted", "refused", "unknown", "not_sent"):
        for address in getattr(result, name):
            yield address, name[0].upper()


async def _send(case: Case, relays: Sequence[Relay], claims: list[tuple[str, str]]) -> None:
    clients = [
        Client(connect=relay.connect, tls="none", max_connections=1, chunking="chunking" in case.way)
        for relay in relays
    ]
    messages = [_message(number) for number in range(MESSAGES)]
    async with Route(clients, clock=anyio.current_time, failures=case.failures) as route:
        if case.way == "send":
            for message in messages:
                try:
                    claims += _claims(await route.send(message))
                except SMTPError as error:
                    claims += _claims(error)
            return
        results: list[Delivery] = []
        with contextlib.suppress(SMTPError):  # no relay works: said once
            await take(route.send_many(iter(messages)), results)
        taken = octets_of(results)
        assert len(taken) == len(set(taken)), "an item has two outcomes"
        for delivery in results:
            said = delivery.receipt or delivery.error
            assert said is not None
            claims += _claims(said)


async def _run(case: Case) -> tuple[list[Relay], list[str]]:
    relays = [Relay(life, f"relay{number}.example") for number, life in enumerate(case.lives)]
    claims: list[tuple[str, str]] = []
    await _send(case, relays, claims)
    return relays, list(_wrong(case, relays, claims))


def _wrong(case: Case, relays: Sequence[Relay], claims: list[tuple[str, str]]) -> Iterator[str]:
    numbers = range(MESSAGES)
    everybody = {address for n in numbers for address in (f"x{n}@one.example", f"y{n}@two.example")}
    taken: Counter[str] = Counter(commitment.recipient for relay in relays for commitment in relay.mailbox.committed)
    told = Counter(address for address, _ in claims)
    if any(count > 1 for count in told.values()):
        yield f"told twice: {told}"
    if case.has_well_relay and set(told) != everybody:
        yield f"nothing is told of {everybody - set(told)}"
    for address, count in taken.items():
        if count > 1:
            yield f"{address} was taken {count} times"
    is_recoded = any(isinstance(each, Recode) for life in case.lives for each in (*life.befalls, life.then))
    for address, outcome in claims:
        if outcome == "A" and not taken[address]:
            yield f"{address} is lost: accepted, and nobody has it"
        if outcome in "RN" and taken[address]:
            yield f"{address} is {outcome}, and was taken"
        if outcome == "N" and case.comes_back and any(b"MAIL" in wire.written for wire in relays[1].wires):
            yield f"{address} was not sent, though the first relay was back when the second one died"
        if outcome == "N" and case.has_well_relay:
            yield f"{address} was not sent, while a relay works"
        if outcome == "R" and not is_recoded:
            yield f"{address} was refused by nobody"


def judged(kind: str, several: Sequence[Case]) -> list[str]:
    """Make these runs, and return what is wrong with them."""
    wrong: list[str] = []

    async def main() -> None:
        for case in several:
            tried[kind] += 1
            try:
                with anyio.fail_after(1e6):
                    _, found = await _run(case)
            except Exception as error:  # noqa: BLE001 (whatever it is, which run it was must be said)
                found = [f"{type(error).__name__}: {error}"]
            wrong.extend(f"{case}: {what}" for what in found)

    logger = logging.getLogger("smtplite.routes")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        run("asyncio", main)
    finally:
        logger.setLevel(level)
    return wrong


# What befalls them


def _extent(way: Way) -> tuple[int, int, int]:
    """Return how many octets the first relay says and hears, and how many replies that is, if nothing goes wrong."""
    found: list[tuple[int, int, int]] = []

    async def main() -> None:
        relays, wrong = await _run(Case(way, (WELL, WELL)))
        assert not wrong, wrong
        wire = relays[0].wires[0]
        assert len(relays[0].wires) == 1
        found.append((len(wire.said), wire.taken, relays[0].scripts[0].asked))

    run("asyncio", main)
    return found[0]


#: Whether each octet is cut by each end: for what takes minutes.
is_whole = False

_extents: dict[Way, tuple[int, int, int]] = {}


def _cuts(way: Way, ends: Sequence[End] = ENDS) -> Iterator[Cut]:
    """Yield a cut at each octet by each of the ends; or, where not everything is run, by one of them in turn.

    In a stream that is at each second octet then, and at each third one with chunks.
    """
    said, heard, _ = _extents.setdefault(way, _extents.get(way) or _extent(way))
    sides: tuple[tuple[Side, int], ...] = (("replies", said), ("commands", heard))
    for side, octets in sides:
        step = 1 if is_whole else 1 + WAYS.index(way)
        for number, offset in enumerate(range(0, octets + 1, step)):
            for end in ends if is_whole else [ends[number % len(ends)]]:
                yield Cut(side, offset, end)


def _recodes(way: Way) -> Iterator[Recode]:
    *_, asked = _extents.setdefault(way, _extents.get(way) or _extent(way))
    for at in range(asked):
        for code in CODES:
            yield Recode(at, code)


def _cut_and_back(way: Way) -> Iterator[Case]:
    for cut in _cuts(way):
        yield Case(way, (Life((cut,)), WELL))


def _cut_and_dead(way: Way) -> Iterator[Case]:
    for cut in _cuts(way):
        yield Case(way, (Life((cut,), "refused"), WELL))


def _recoded(way: Way) -> Iterator[Case]:
    for recode in _recodes(way):
        yield Case(way, (Life((recode,)), WELL))
        yield Case(way, (Life((), recode), WELL))


def _one_of(number: int, several: Sequence[Case]) -> Sequence[Case]:
    """Return all of them where everything is run; else one in turn."""
    return several if is_whole else [several[number % len(several)]]


def _in_turn(way: Way) -> Iterator[Case]:
    """The first is dead and comes back; the second is cut meanwhile, and dies."""
    for number, cut in enumerate(_cuts(way, (End.EOF, End.RST))):
        back = [
            Case(way, (Life(("refused",)), Life((cut,), "refused")), failures, comes_back=True) for failures in (1, 3)
        ]
        yield from _one_of(number // 2, [*back, Case(way, (Life((cut,), "refused"), Life((cut,))))])


def _three(way: Way) -> Iterator[Case]:
    """Two of three fail in different ways, one after the other."""
    cuts = list(_cuts(way, (End.RST,)))
    recodes = list(_recodes(way))
    for number, cut in enumerate(cuts):
        recode = recodes[number * 7 % len(recodes)]
        several = [
            Case(way, (Life((cut,), "refused"), Life((), recode), WELL)),
            Case(way, (Life((), recode), Life((cut,), "refused"), WELL)),
            Case(way, (DEAD, Life((cut,), cuts[-number]), WELL)),
        ]
        yield from _one_of(number, several)


KINDS: Final = {
    "the first is cut, and comes back": _cut_and_back,
    "the first is cut, and stays dead": _cut_and_dead,
    "the first says something else": _recoded,
    "both die and come back in turn": _in_turn,
    "two of three fail": _three,
}


def cases(kind: str, way: Way, *, keep: int | None = None) -> Sequence[Case]:
    """Return the cases of a kind; a part of them, where not everything is run."""
    every = list(KINDS[kind](way))
    return every if keep is None else part(every, keep=keep)


def main() -> int:
    """Run all of it, and say how many runs there were; return 1 if any failed."""
    global is_whole
    is_whole = True
    failed = 0
    begun = time.perf_counter()
    for kind in KINDS:
        for way in WAYS:
            wrong = judged(kind, cases(kind, way))
            failed += len(wrong)
            for line in wrong[:5]:
                print(f"{kind}: {line}")
            print(f"{kind}, {way}: {tried[kind]:,} runs so far", flush=True)
    print(f"routes: {tried.total():,} runs in {time.perf_counter() - begun:.0f} s, {failed:,} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
