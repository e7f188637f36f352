"""Workers that share a relay, in simulated time: the board and the shares are the real ones, everything else is not."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

import attrs

from smtplite.protocol.reply import EnhancedStatusCode, Reply
from smtplite.worker.shaping import Rules
from smtplite.worker.shaping.board import Board
from smtplite.worker.shaping.share import Share

ACCEPTED = Reply(250, (b"ok",))
THROTTLED = Reply(451, (b"4.7.1 too many messages",), EnhancedStatusCode(4, 7, 1))


class Relay(Protocol):
    """How a relay decides."""

    rate: float

    def takes(self, now: float) -> bool:
        """Say whether it takes one more message now."""


@attrs.define
class BucketRelay:
    """Takes `rate` a second, and at once what it did not use of the last `burst` seconds."""

    rate: float
    burst: float = 1.0
    level: float = 1.0
    at: float = 0.0

    def takes(self, now: float) -> bool:
        self.level = min(max(1.0, self.rate * self.burst), self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


@attrs.define
class WindowRelay:
    """Takes so many within each second of its clock, or each `window`; its clock is `ahead`."""

    rate: float
    window: float = 1.0
    ahead: float = 0.0
    number: int = -1
    count: int = 0

    def takes(self, now: float) -> bool:
        number = int((now + self.ahead) / self.window)
        if number != self.number:
            self.number, self.count = number, 0
        if self.count >= self.rate * self.window:
            return False
        self.count += 1
        return True


@attrs.define
class SlidingRelay:
    """Takes so many within any second, or any `window`."""

    rate: float
    window: float = 1.0
    taken: deque[float] = attrs.field(factory=deque)

    def takes(self, now: float) -> bool:
        while self.taken and self.taken[0] <= now - self.window:
            self.taken.popleft()
        if len(self.taken) >= self.rate * self.window:
            return False
        self.taken.append(now)
        return True


@attrs.define(eq=False)
class SimulatedWorker:
    """A worker with endless mail.

    Attributes:
        share: the real one.
        clock: what is added to the simulated time to give its own.
        open: connections in use.
        is_alive: whether it still does something.
        has_mail: whether it has something to send.
    """

    share: Share
    clock: float
    open: int = 0
    is_alive: bool = True
    has_mail: bool = True


@attrs.define(eq=False)
class Simulation:
    """What happened: `sent` has (time, worker, whether it was taken).

    Attributes:
        relay: decides; None: takes all.
        rules: of all workers.
        seconds: what a message takes.
        random: if given, a message takes up to 30 % more or less than that, and workers begin within half a second.
        store: whether the store can be reached, at a time.
    """

    relay: Relay | None
    rules: Rules
    seconds: float = 0.02
    random: random.Random | None = None
    store: Callable[[float], bool] = lambda now: True
    store_clock: Callable[[float], float] = lambda now: now + 1e9
    connections: int = 10
    now: float = 0.0
    board: bytes | None = None
    asks: int = 0
    sent: list[tuple[float, int, bool]] = attrs.field(factory=list)
    most_open: int = 0
    workers: list[SimulatedWorker] = attrs.field(factory=list)
    _events: list[tuple[float, int, Callable[[], None]]] = attrs.field(factory=list)
    _numbers: Iterable[int] = attrs.field(factory=itertools.count)

    def add(self, *, clock: float = 0.0) -> SimulatedWorker:
        """Add a worker whose clock is off by so much."""
        number = len(self.workers)
        name = f"w{number}" if self.random is None else f"w{self.random.random()}"
        worker = SimulatedWorker(Share(name, self.rules, "smtp.example.com"), clock)
        self.workers.append(worker)
        begins = number * 0.013 if self.random is None else self.random.uniform(0, 0.5)
        self.at(self.now + begins, lambda: self._send(worker))
        return worker

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something at that time."""
        heapq.heappush(self._events, (time, next(iter(self._numbers)), action))

    def run(self, until: float) -> None:
        """Go on until that time."""
        while self._events and self._events[0][0] <= until:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = until

    def rate(self, start: float, end: float, worker: int | None = None) -> float:
        """Return the messages a second that were taken."""
        taken = sum(ok and start <= at < end and worker in (None, by) for at, by, ok in self.sent)
        return taken / (end - start)

    def refused(self, start: float, end: float) -> float:
        """Return the part of the messages that was refused."""
        oks = [ok for at, _, ok in self.sent if start <= at < end]
        return oks.count(False) / max(1, len(oks))

    def _ask(self, worker: SimulatedWorker, now: float) -> None:
        share = worker.share
        if share.connections is not None and worker.open <= share.connections:
            share.held = share.connections
        ask = share.ask(now)
        if not self.store(self.now):
            share.missed(now)
            return
        self.asks += 1
        board = Board.from_json(self.board)
        grant = board.exchange(ask, self.store_clock(self.now))
        self.board = board.to_json()
        share.granted(ask, grant, now)

    def _send(self, worker: SimulatedWorker) -> None:
        """Send one message if that may be, and come back when another may."""
        if not worker.is_alive:
            return
        share, now = worker.share, self.now + worker.clock
        wait = share.relay_wait(now) if worker.has_mail else float("inf")
        if share.ask_at <= now:
            self._ask(worker, now)
            wait = share.relay_wait(now) if worker.has_mail else float("inf")
        most = self.connections if share.connections is None else share.connections
        if wait <= 0 and worker.open < most:
            share.take(now)
            worker.open += 1
            self.most_open = max(self.most_open, sum(each.open for each in self.workers if each.is_alive))
            taken = self.relay is None or self.relay.takes(self.now)
            self.sent.append((self.now, self.workers.index(worker), taken))
            seconds = self.seconds * (1.0 if self.random is None else self.random.uniform(0.7, 1.3))
            self.at(self.now + seconds, lambda: self._sent(worker, ok=taken))
            wait = share.relay_wait(now)
        if worker.open >= most:
            wait = max(wait, self.seconds / 10)
        pause = min(wait, share.ask_at - now)
        self.at(self.now + min(max(pause, 0.0002), 1.0), lambda: self._send(worker))

    def _sent(self, worker: SimulatedWorker, *, ok: bool) -> None:
        worker.open -= 1
        if worker.is_alive:
            worker.share.observe(ACCEPTED if ok else THROTTLED, "ada@example.net", self.now + worker.clock)
            if worker.share.ask_at <= self.now + worker.clock:
                self._ask(worker, self.now + worker.clock)
