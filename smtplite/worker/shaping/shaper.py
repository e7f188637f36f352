"""Shaping: the Shaper of a worker. It asks the board for the worker's share, and makes messages wait for it."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import anyio

from smtplite.errors import ConfigurationError, SMTPError
from smtplite.protocol.reply import Reply
from smtplite.results import Delivery
from smtplite.worker.events import LimitsShared, Measure, WorkerEvent
from smtplite.worker.jobs import Identity, Job
from smtplite.worker.shaping.board import RELAY, Effect
from smtplite.worker.shaping.boards import Boards
from smtplite.worker.shaping.rules import Rules
from smtplite.worker.shaping.share import Share
from smtplite.worker.shaping.units import spoken

__all__ = ["Resizable", "Shaping"]

logger = logging.getLogger("smtplite.worker")

#: How long the store may take to answer. After that it counts as away, and each worker uses an equal part.
_STORE_SECONDS: Final = 2.0
#: How long a leased job waits for its turn; then it is given back, for any worker.
_PATIENCE_SECONDS: Final = 10.0
#: How long a client may take to close connections, before we check again how many it may have.
_RESIZE_SECONDS: Final = 1.0
#: If the board answered within this time, it is not asked again for only a few recipients.
_FRESH_SECONDS: Final = 0.2
#: A lane leases at most as many jobs as it may send within this time.
_AHEAD_SECONDS: Final = 2.0


class Resizable(Protocol):
    """A sender whose number of connections can be limited: a Client."""

    @property
    def max_connections(self) -> int:
        """How many connections it may have."""

    async def resize(self, connections: int) -> None:
        """Use at most this many connections from now on; see `Client.resize`."""


class Shaping:
    """Holds messages back, so that all workers together send only as fast as the rules allow and the relay accepts.

    ::

        rules = Rules.read(Path("shaping.toml"))
        shaping = Shaping(rules, "smtp.example.com", source.boards, client)
        await Worker(source, client, shaper=shaping).run()

    Args:
        rules: what is allowed.
        relay: the relay's host, with its port if there are several: ``"smtp.example.com:587"``. Workers that give the
            same name share its limits.
        boards: where the limits are shared, such as ``source.boards``.
        client: the client whose connections are limited; needed if the rules limit connections.

    Raises:
        ConfigurationError: the rules limit connections, and no client was given.
    """

    def __init__(
        self,
        rules: Rules,
        relay: str,
        boards: Boards,
        client: Resizable | None = None,
    ) -> None:
        self._relay = relay
        self._boards = boards
        self._client = client
        self._most = 0 if client is None else client.max_connections
        self._share = Share(uuid.uuid4().hex, rules, relay.partition(":")[0])
        if client is None and self._share.rule.connection_limit is not None:
            raise ConfigurationError(
                f"the rules limit the connections to {relay}, but Shaping was given no client: pass client="
            )
        self._lanes: list[str] = []  # whose turn comes first
        self._tell: Callable[[WorkerEvent], None] | None = None
        self._waiting: dict[str, int] = {}
        self._effects: tuple[Effect, ...] = ()
        self._is_away = False
        self._changed = anyio.Event()
        self._asks_now = anyio.Event()
        self._asking = anyio.Lock()
        if self._share.connections is None:
            self._share.held = self._most

    @property
    def effects(self) -> tuple[Effect, ...]:
        """What applies for a while, as far as this worker knows; times are the store's."""
        return self._effects

    @property
    def rate(self) -> float:
        """Messages a second to the relay, of all workers together, as far as this worker knows."""
        return self._share.rate

    # For the worker

    async def run(self, lanes: Sequence[str], tell: Callable[[WorkerEvent], None] | None = None) -> None:
        """Ask for a share again and again, until cancelled."""
        self._lanes, self._tell = list(lanes), tell
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_size)
                while True:
                    await self._ask()
                    self._change()
                    await self._wait_to_ask()
        finally:
            with anyio.move_on_after(_STORE_SECONDS, shield=True):
                await self._leave()

    async def room(self, lane: str, most: int) -> int:  # noqa: ARG002 (here all lanes have the same)
        """Return how many jobs to lease, at most; wait while the whole relay is suspended."""
        while self._share.suspended_for(time.monotonic()) > 0:
            await self._wait(self._share.suspended_for(time.monotonic()))
        return max(1, min(most, math.floor(self._share.rate / self._share.workers * _AHEAD_SECONDS)))

    async def hold(self, jobs: Sequence[Job]) -> Mapping[Identity, float]:
        """Return the jobs whose recipients have to wait, with the seconds until they may be asked about again."""
        now = time.monotonic()
        waits: dict[Identity, float] = {}
        limits: dict[Identity, list[str]] = {}
        for job in jobs:
            address = job.identity.recipient
            suspended = self._share.suspended_for(now, address)
            if suspended > 0:
                waits[job.identity] = suspended
            elif names := self._share.limits_of(address):
                limits[job.identity] = names
        if limits:
            lacking = self._share.lacking(name for names in limits.values() for name in names)
            if lacking and now - self._share.asked_at > _FRESH_SECONDS:
                await self._ask()
            for identity, names in limits.items():
                wait = self._share.recipient_wait(names, time.monotonic())
                if wait > 0:
                    waits[identity] = wait
        return waits

    async def turn(self, lane: str) -> bool:
        """Wait until a message may be sent, and count it; False: it would have to wait too long."""
        self._waiting[lane] = self._waiting.get(lane, 0) + 1
        try:
            until = time.monotonic() + _PATIENCE_SECONDS
            while (now := time.monotonic()) < until:
                if self._share.suspended_for(now) > 0:
                    return False
                wait = self._share.relay_wait(now)
                if wait == math.inf:
                    self._asks_now.set()  # maybe it should be asked earlier
                if self._comes_first(lane) and self._share.connections != 0:
                    if wait <= 0:
                        self._share.take(now)
                        return True
                else:
                    wait = math.inf
                await self._wait(min(wait, until - now))
            return False
        finally:
            self._waiting[lane] -= 1
            if not self._waiting[lane]:
                del self._waiting[lane]
            self._change()

    def observe(self, job: Job, delivery: Delivery) -> None:
        """Learn what became of a try."""
        error, address = delivery.error, job.identity.recipient
        self._observe(delivery.result().reply if error is None else error.refused.get(address) or error.reply, address)

    def trouble(self, error: SMTPError) -> None:
        """Learn why no connection could be opened."""
        self._observe(error.reply, None)

    def _observe(self, reply: Reply | None, address: str | None) -> None:
        now = time.monotonic()
        self._share.observe(reply, address, now)
        if self._share.ask_at <= now:
            self._asks_now.set()

    # Turns

    def _comes_first(self, lane: str) -> bool:
        """Return True if no lane that comes before this one is waiting."""
        for other in self._lanes:
            if other == lane:
                return True
            if self._waiting.get(other):
                return False
        return True

    async def _wait(self, seconds: float) -> None:
        """Wait until something changes, at most this long."""
        with anyio.move_on_after(max(seconds, 0.0)):
            await self._changed.wait()

    def _change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    # The board

    async def _wait_to_ask(self) -> None:
        while (seconds := self._share.ask_at - time.monotonic()) > 0:
            self._asks_now = anyio.Event()
            with anyio.move_on_after(seconds):
                await self._asks_now.wait()

    async def _ask(self) -> None:
        """Ask the board; if it does not answer, use this worker's part."""
        async with self._asking:
            ask = self._share.ask(time.monotonic())
            try:
                with anyio.fail_after(_STORE_SECONDS):
                    grant = await self._boards.change(self._relay, lambda board, now: board.exchange(ask, now))
            except Exception:
                if not self._is_away:
                    logger.exception("limits cannot be shared: this worker uses 1/%d of each", self._share.workers)
                self._is_away = True
                self._share.missed(time.monotonic())
                return
            if self._is_away:
                logger.info("limits are shared again, by %d workers", grant.workers)
            self._is_away = False
            self._share.granted(ask, grant, time.monotonic())
            self._say(grant.effects, grant.now)

    def _say(self, effects: tuple[Effect, ...], now: float) -> None:
        for effect in effects:
            if effect not in self._effects:
                logger.warning(
                    "%s: %s for %s, by %s: %s",
                    self._relay if effect.what == RELAY else effect.what,
                    effect.action,
                    spoken(effect.until - now),
                    effect.by,
                    effect.reason,
                )
        self._effects = effects
        if self._tell is not None:
            self._tell(
                LimitsShared(
                    relay=self._relay,
                    rate=self._share.rate if math.isfinite(self._share.rate) else None,
                    measures=tuple(
                        Measure(
                            action=effect.action.setting,
                            rule=effect.by,
                            recipients=None if effect.what == RELAY else effect.what,
                            until=effect.until,
                        )
                        for effect in effects
                    ),
                )
            )

    async def _leave(self) -> None:
        """Give back what this worker has."""
        ask = self._share.ask(time.monotonic(), is_leaving=True)
        try:
            await self._boards.change(self._relay, lambda board, now: board.exchange(ask, now))
        except Exception as error:  # noqa: BLE001 (others get its share a little later)
            logger.info("the board of %s could not be told that this worker stops: %r", self._relay, error)

    async def _keep_size(self) -> None:
        """Make the client use as many connections as this worker may have."""
        size = self._most
        while self._client is not None:
            wanted = self._most if self._share.connections is None else min(self._share.connections, self._most)
            if wanted == size:
                await self._changed.wait()
                continue
            # With a limit in time: busy connections close only after their message, and the number may change again.
            with anyio.move_on_after(_RESIZE_SECONDS):
                await self._client.resize(wanted)
                size = self._share.held = wanted
                self._change()
