"""Worker: leases jobs, sends them by `send_many`, records what became of each, and settles it, again and again.

Each lane has its own run (`_Run`), with its own stream and connections, so that no lane waits for another.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import anyio
import anyio.abc
import anyio.lowlevel
import attrs

from smtplite.callbacks import check_function
from smtplite.errors import ConfigurationError, SMTPError
from smtplite.message.envelope import Outgoing
from smtplite.options import check_number
from smtplite.results import Delivery
from smtplite.system.signals import open_stop_signals
from smtplite.worker import events
from smtplite.worker.jobs import Identity, Job, Outcome, has_identity_fields
from smtplite.worker.plan import Held, Plan
from smtplite.worker.retrying import Backoff, Later, decide, expired, given_up
from smtplite.worker.source import Sender, Sending, Shaper, Source, Store
from smtplite.worker.watching import keep_counting, relay_of

__all__ = ["Worker"]

logger = logging.getLogger("smtplite.worker")

#: Transactional mail, such as a password reset, has its own connection; bulk has the others.
DEFAULT_LANES: Final[Mapping[str, int | None]] = {"transactional": 1, "bulk": None}

#: How long one call of `lease` waits for a job.
_WAIT_SECONDS: Final = 0.5
#: How long a call of `lease` may take in all.
_LEASE_SECONDS: Final = 10.0
#: The pauses while the engine or the relay is away: the first, and the longest.
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 60.0
_LONGEST_ENGINE_PAUSE_SECONDS: Final = 2.0
#: A lease is extended when this part of it is over.
_EXTEND_AFTER: Final = 1 / 3
#: In this last part of a lease, a worker does not begin the job: a delay of its own must not matter.
_MARGIN: Final = 0.2
#: With a shaper, how many jobs ahead a lane gives the stream if its number of connections is not set.
_AHEAD: Final = 4
#: How long outcomes are still recorded after everything else was cancelled.
_LAST_SECONDS: Final = 5.0


class _LeaseEndedError(Exception):
    """A lease ended before its job was begun: nothing of the write is sent, and the stream ends.

    It is not one of smtplite's own errors, because a sender may try again by itself after those.
    """


class Worker:
    """Sends what is queued, until it is told to stop.

    By default a job is sent at least once: if a worker dies, its jobs are sent again, and every copy has the same
    Message-ID. A job with ``when_unknown="record"`` is sent at most once: it is marked in the store before it is sent,
    and no worker sends a job that another one has begun.

    Args:
        source: gives out jobs.
        sender: a `Client`, or a `Route` over several of them.
        store: where marks and outcomes are; None: the source's own store, which records and settles in one step if the
            engine can.
        shaper: decides which jobs have to wait; None: no job waits.
        lanes: the number of connections for each lane; None instead of a number: one fewer than the client may have. By
            default there is one connection for "transactional", and "bulk" has the others.
        batch: how many jobs a lane has, at most. If the worker dies, up to this many in each lane may be sent again, or
            are unknown.
        in_flight: with a client that has ``chunking=True``, how many messages may be outstanding on a connection.
        backoff: how long to wait before a job is tried again.
        timeout: seconds for each message, from its first byte to its verdict; None: the client's.
        drain: how many seconds `stop` waits for what is under way.
        load: ``async (reference) -> bytes``, for jobs that have a reference instead of content.
        trace: a function that is told what happens, as events of `smtplite.worker.events`; `smtplite.worker.metrics`
            makes metrics from them. It is called in the event loop. If it raises, that is only logged.
        count_every: with `trace`, how often the engine is asked how many jobs there are, in seconds.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(
        self,
        source: Source,
        sender: Sender,
        *,
        store: Store | None = None,
        shaper: Shaper | None = None,
        lanes: Mapping[str, int | None] | None = None,
        batch: int = 200,
        in_flight: int = 32,
        backoff: Backoff | None = None,
        timeout: float | None = None,
        drain: float = 30.0,
        load: Callable[[str], Awaitable[bytes]] | None = None,
        trace: events.WorkerTrace | None = None,
        count_every: float = 15.0,
    ) -> None:
        check_number("batch", batch, 1, math.inf, whole=True)
        check_number("drain", drain, 0, math.inf)
        check_number("count_every", count_every, 1, math.inf)
        if trace is not None:
            check_function("trace", trace, "a function of an event", 1, is_async=False)
        lanes = DEFAULT_LANES if lanes is None else lanes
        if not lanes:
            raise ConfigurationError("a worker needs at least one lane: pass lanes={'bulk': None}, for example")
        plan = Plan(
            source=source,
            sender=sender,
            store=source.store if store is None else store,
            shaper=shaper,
            load=load,
            backoff=backoff or Backoff(),
            batch=batch,
            in_flight=in_flight,
            timeout=timeout,
            drain=drain,
            trace=trace,
        )
        self._shaper = shaper
        self._lanes = list(lanes)
        self._plan, self._count_every = plan, count_every
        self._runs = [_Run(plan, lane, connections) for lane, connections in lanes.items()]
        self._scope: anyio.CancelScope | None = None

    def stop(self) -> None:
        """Lease no more jobs, finish what is under way, and give the rest back; then `run` returns."""
        for run in self._runs:
            run.stop()

    def cancel(self) -> None:
        """Stop at once: what is under way is cut off, and what was handed over is unknown. Then `run` returns."""
        self.stop()
        if self._scope is not None:
            self._scope.cancel()

    async def run(self, *, handle_signals: bool = False) -> None:
        """Send until `stop`. If the engine or the relay fails, that is logged, and the worker tries again.

        Args:
            handle_signals: the first SIGTERM or SIGINT calls `stop`, the next one `cancel`.
        """
        try:
            async with anyio.create_task_group() as tasks:
                if handle_signals:  # until everything is recorded: a further signal must not interrupt that
                    await tasks.start(self._hear_signals)
                if self._shaper is not None:
                    tasks.start_soon(self._shaper.run, self._lanes, self._plan.tell)
                if self._plan.trace is not None:
                    tasks.start_soon(keep_counting, self._plan.source, self._plan.trace, self._count_every)
                with anyio.CancelScope() as self._scope:
                    async with anyio.create_task_group() as runs:
                        for run in self._runs:
                            runs.start_soon(run.run)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _hear_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with open_stop_signals() as signals:
            task_status.started()
            is_stopping = False
            async for _ in signals:
                if is_stopping:
                    self.cancel()
                self.stop()
                is_stopping = True


def _first(error: BaseException) -> BaseException:
    """Return the first error that was raised, without the groups around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Run:
    """One lane of a worker.

    Args:
        plan: what all lanes share.
        lane: its name.
        connections: how many to use, at most.
    """

    def __init__(self, plan: Plan, lane: str, connections: int | None) -> None:
        self._plan = plan
        self._lane = lane
        self._connections = connections
        self._margin = plan.source.lease_seconds * _MARGIN
        self._held: dict[Identity, Held] = {}
        self._outcomes: list[tuple[Job, Outcome]] = []  # decided, but not recorded yet
        self._laters: list[Later] = []
        self._given: set[Identity] = set()  # given to the stream, but not begun; only with a shaper
        self._trouble: SMTPError | None = None  # why jobs had to be given back
        self._pause = 0.0
        self._has_objected = False  # the stream ends, because a lease did
        self._is_stopping = False
        self._changed = anyio.Event()

    def stop(self) -> None:
        """Lease nothing more."""
        self._is_stopping = True
        self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def run(self) -> None:
        """Send until `stop`, and record what became of everything that was leased."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_leases)
            tasks.start_soon(self._keep_settling)
            seconds = _LAST_SECONDS
            try:
                while not self._is_stopping:
                    await self._stream()
                    await self._rest_after_trouble()
                seconds = max(seconds, self._plan.drain)
            finally:
                with anyio.move_on_after(seconds, shield=True):
                    while self._held:
                        await self._settle_next()
                if self._held:
                    logger.error("lane %s: %d jobs are not recorded, leases will end", self._lane, len(self._held))
            tasks.cancel_scope.cancel()

    # Sending

    async def _stream(self) -> None:
        """Send over one stream, until `stop`, or until no connection can be opened."""
        plan = self._plan
        self._has_objected = False
        feed = self._feed()
        deliveries: Sending | None = None
        try:
            async with plan.sender.send_many(
                feed,
                connections=self._connections,
                in_flight=plan.in_flight,
                timeout=plan.timeout,
                drain=plan.drain,
                on_begin=self._begin,
            ) as deliveries:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._take, deliveries, tasks.cancel_scope)
                    while not self._is_stopping:
                        await self._changed.wait()
                    tasks.cancel_scope.cancel()  # on leaving the block, what is under way is finished
        finally:
            for delivery in deliveries.rest if deliveries is not None else ():
                self._decide(delivery)
            for held in [held for held in self._held.values() if not held.is_decided]:
                self._give_back(held)  # leased, but never given to the stream
            self._given.clear()
            self._change()
            await feed.aclose()

    async def _take(self, deliveries: Sending, scope: anyio.CancelScope) -> None:
        try:
            async for delivery in deliveries:
                self._pause = 0.0
                self._decide(delivery)
        except _LeaseEndedError as error:
            logger.warning("lane %s: %s", self._lane, error)
        except SMTPError as error:  # no connection could be opened
            self._trouble = error
            if self._plan.shaper is not None:
                self._plan.shaper.trouble(error)
        scope.cancel()

    async def _rest_after_trouble(self) -> None:
        """Pause after no connection could be opened, longer each time."""
        trouble, self._trouble = self._trouble, None
        if trouble is None or self._has_objected or self._is_stopping:
            return
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        logger.error(
            "lane %s: no connection, next try in %g s: %s: %s", self._lane, self._pause, type(trouble).__name__, trouble
        )
        relay = getattr(self._plan.sender, "server", None)
        self._plan.tell(events.RelayFailed(lane=self._lane, relay=relay, error=trouble, pause=self._pause))
        with anyio.move_on_after(self._pause):
            while not self._is_stopping:
                await self._changed.wait()

    def _begin(self, items: list[Any]) -> None:
        """Check the leases once more, just before the write."""
        now = time.monotonic()
        for item in items:
            job: Job = item.tag
            if job.lease.until - self._margin <= now:
                self._has_objected = True
                raise _LeaseEndedError(f"not sent: the lease of job {job.key!r:.80} ended before it was begun")
        for item in items:
            held = self._held[item.tag.identity]
            held.is_begun, held.began = True, now
        self._forget_given(item.tag.identity for item in items)
        jobs = tuple(item.tag for item in items)
        self._plan.tell(events.JobsBegun(lane=self._lane, jobs=jobs, at=self._plan.source.now()))

    async def _feed(self) -> AsyncGenerator[Outgoing, None]:
        """Yield the jobs to send, as long as there is room for more."""
        while not (self._is_stopping or self._has_objected):
            await anyio.lowlevel.checkpoint_if_cancelled()  # leasing is shielded
            room = self._plan.batch - len(self._held)
            if room < max(1, self._plan.batch // 4):
                await self._changed.wait()
                continue
            try:
                if self._plan.shaper is not None:
                    room = await self._plan.shaper.room(self._lane, room)
                jobs = await self._lease(room)
            except Exception as error:
                logger.exception("lane %s: jobs cannot be leased; next try in %g s", self._lane, _FIRST_PAUSE_SECONDS)
                self._plan.tell(events.EngineFailed(lane=self._lane, operation="lease", error=error))
                await anyio.sleep(_FIRST_PAUSE_SECONDS)
                continue
            for number, job in enumerate(jobs):
                if self._plan.shaper is not None and not await self._has_turn(self._plan.shaper):
                    for other in jobs[number:]:
                        self._give_back(self._held[other.identity])
                    break
                if self._is_stopping:
                    return
                if job.lease.until - self._margin <= time.monotonic():
                    self._give_back(self._held[job.identity])
                    continue
                if self._plan.shaper is not None:
                    self._given.add(job.identity)
                yield Outgoing(job.content or b"", envelope=job.envelope, tag=job)

    async def _has_turn(self, shaper: Shaper) -> bool:
        """Wait until one more job may be sent. The stream gets few ahead: what counts as sent must be sent soon."""
        while len(self._given) > (self._connections or _AHEAD):
            await self._changed.wait()
        return await shaper.turn(self._lane)

    def _forget_given(self, identities: Iterable[Identity]) -> None:
        if self._given:
            self._given.difference_update(identities)
            self._change()

    # Leasing

    async def _lease(self, room: int) -> list[Job]:
        """Lease jobs, and return those to send now; it is decided what happens to the others."""
        plan = self._plan
        leased: list[Job] = []
        found: list[Job] = []
        # Shielded: nobody would have the jobs that the engine gave to a cancelled call, until their leases end.
        with anyio.move_on_after(_LEASE_SECONDS, shield=True):
            found = await plan.source.lease(self._lane, room, _WAIT_SECONDS)
        for job in found:
            held = self._held.get(job.identity)
            if held is None:
                leased.append(job)
                self._held[job.identity] = Held(job)
            else:
                held.copy = job
        if not leased:
            return []
        plan.tell(events.JobsLeased(lane=self._lane, jobs=tuple(leased)))
        try:
            outcomes = await plan.store.find([job.identity for job in leased])
            jobs = [job for job in leased if not self._was_settled(job, outcomes.get(job.identity))]
            loaded = [await self._loaded(job) for job in jobs if self._is_in_time(job)]
            jobs = [job for job in loaded if job is not None and self._is_sendable(job)]
            if plan.shaper is not None:
                jobs = self._shaped(jobs, await plan.shaper.hold(jobs))
            return await self._marked(jobs)
        except BaseException:
            for job in leased:
                mine = self._held.get(job.identity)
                if mine is not None and not mine.is_decided:
                    self._give_back(mine)
            raise

    def _was_settled(self, job: Job, outcome: Outcome | None) -> bool:
        if outcome is not None:
            self._settle(self._held[job.identity], outcome, is_repeated=True)
        return outcome is not None

    async def _loaded(self, job: Job) -> Job | None:
        """Return the job with its content; None: it cannot be loaded now."""
        if job.content is not None or job.reference is None:
            return job
        try:
            if self._plan.load is None:
                raise ConfigurationError(f"job {job.key!r:.80} has a reference, not content: pass load= to the worker")
            return attrs.evolve(job, content=await self._plan.load(job.reference), reference=None)
        except Exception as error:
            logger.exception("lane %s: the content of job %.80r cannot be loaded", self._lane, job.key)
            last = f"its content could not be loaded: {type(error).__name__}"  # only this: its text is the caller's
        again = attrs.evolve(job, attempt=job.attempt + 1, last=last)
        later = Later(again, self._plan.backoff.seconds(job.attempt))
        self._try_again(self._held[job.identity], later, None)
        return None

    def _is_in_time(self, job: Job) -> bool:
        now = self._plan.source.now()
        if now > job.not_after:
            self._settle(self._held[job.identity], expired(job, now))
        return now <= job.not_after

    def _is_sendable(self, job: Job) -> bool:
        if not self._is_in_time(job):  # loading may have taken long
            return False
        if not has_identity_fields(job.content or b""):
            error = "not sent: the message has no Message-ID or no Date, and each copy would be another message"
            self._settle(self._held[job.identity], given_up(job, self._plan.source.now(), "failed", error))
            return False
        return True

    def _shaped(self, jobs: list[Job], waits: Mapping[Identity, float]) -> list[Job]:
        for job in jobs:
            if job.identity in waits:
                held, pause = self._held[job.identity], waits[job.identity]
                self._later(held, Later(held.job, pause))
                self._plan.tell(events.JobHeldBack(lane=self._lane, job=held.job, pause=pause))
        return [job for job in jobs if job.identity not in waits]

    async def _marked(self, jobs: list[Job]) -> list[Job]:
        """Mark the jobs that must not be sent twice; a job that another worker marked is not sent."""
        to_mark = [job for job in jobs if job.when_unknown == "record"]
        if not to_mark:
            return jobs
        for job in to_mark:
            self._held[job.identity].is_marked = True
        others = await self._plan.store.begin(to_mark)
        now = self._plan.source.now()
        for job in to_mark:
            if job.identity in others:
                held, outcome = self._held[job.identity], others[job.identity]
                held.is_marked = False  # the mark is another worker's
                error = "a worker began it and did not say what became of it: it died, or lost its lease"
                found = outcome or given_up(job, now, "unknown", error)
                self._settle(held, found, is_repeated=outcome is not None)
        return [job for job in jobs if job.identity not in others]

    async def _keep_leases(self) -> None:
        """Extend the leases of all jobs that this lane has, as long as it runs."""
        source = self._plan.source
        while True:
            await anyio.sleep(source.lease_seconds * _EXTEND_AFTER)
            jobs = [held.job for held in self._held.values()]
            try:
                if jobs:
                    await source.extend(jobs)
            except Exception as error:
                logger.exception("lane %s: leases cannot be extended", self._lane)
                self._plan.tell(events.EngineFailed(lane=self._lane, operation="extend", error=error))

    # Deciding

    def _decide(self, delivery: Delivery) -> None:
        job: Job = delivery.item.tag  # type: ignore[union-attr]  # `_feed` gives nothing but Outgoing
        held = self._held.get(job.identity)
        self._forget_given([job.identity])
        if held is None or held.is_decided:
            return
        if self._plan.shaper is not None and held.is_begun:
            self._plan.shaper.observe(job, delivery)
        decision = decide(job, delivery, self._plan.source.now(), self._plan.backoff, is_begun=held.is_begun)
        about: dict[str, Any] = {
            "relay": relay_of(delivery, self._plan.sender),
            "seconds": time.monotonic() - held.began if held.is_begun else None,
        }
        if isinstance(decision, Outcome):
            self._settle(held, decision, delivery=delivery, **about)
        elif decision.seconds is None:
            if not self._is_stopping:
                self._trouble = self._trouble or delivery.error
            self._give_back(held)
        else:
            again = attrs.evolve(decision.job, content=held.job.content, reference=held.job.reference)
            self._try_again(held, Later(again, decision.seconds), delivery.error, **about)

    def _try_again(self, held: Held, later: Later, error: SMTPError | None, **about: Any) -> None:
        self._later(held, later)
        pause = later.seconds or 0.0
        self._plan.tell(events.JobRetried(lane=self._lane, job=held.job, pause=pause, error=error, **about))

    def _settle(self, held: Held, outcome: Outcome, **about: Any) -> None:
        held.is_decided = True
        self._outcomes.append((held.job, outcome))
        self._plan.tell(events.JobFinished(lane=self._lane, job=held.job, outcome=outcome, **about))
        self._change()

    def _later(self, held: Held, later: Later) -> None:
        held.is_decided = True
        self._laters.append(later)
        self._change()

    def _give_back(self, held: Held) -> None:
        self._later(held, Later(held.job, None))
        self._plan.tell(events.JobReleased(lane=self._lane, job=held.job, is_begun=held.is_begun))

    # Recording

    async def _keep_settling(self) -> None:
        while True:
            await self._settle_next()

    async def _settle_next(self) -> None:
        """Record everything that is decided by now, or wait for a change."""
        if self._outcomes or self._laters:
            await self._write_down()
        else:
            await self._changed.wait()

    async def _write_down(self) -> None:
        """Record what was decided so far; try again while the engine is away."""
        outcomes, self._outcomes = self._outcomes, []
        laters, self._laters = self._laters, []
        pause = _FIRST_PAUSE_SECONDS
        try:
            while outcomes or laters:
                try:
                    if outcomes:
                        await self._save(outcomes)
                        self._drop(job for job, _ in outcomes)
                        outcomes = []
                    if laters:
                        await self._queue_again(laters)
                        self._drop(later.job for later in laters)
                        laters = []
                except Exception as error:
                    self._plan.tell(events.EngineFailed(lane=self._lane, operation="settle", error=error))
                    logger.exception("lane %s: outcomes cannot be recorded; next try in %g s", self._lane, pause)
                    await anyio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_ENGINE_PAUSE_SECONDS)
        except anyio.get_cancelled_exc_class():
            self._outcomes[:0] = outcomes
            self._laters[:0] = laters
            self._change()
            raise
        self._change()

    async def _save(self, outcomes: list[tuple[Job, Outcome]]) -> None:
        if self._plan.store is not self._plan.source.store:
            await self._plan.store.save(outcomes)
        await self._plan.source.settle(outcomes)

    async def _queue_again(self, laters: list[Later]) -> None:
        # First the marks: the worker that gets the job next must not find one.
        marked = [later.job for later in laters if self._held[later.job.identity].is_marked]
        if marked:
            await self._plan.store.forget(marked)
        retries = [(later.job, later.seconds) for later in laters if later.seconds is not None]
        if retries:
            await self._plan.source.retry(retries)
        released = [later.job for later in laters if later.seconds is None]
        if released:
            await self._plan.source.release(released)

    def _drop(self, jobs: Iterable[Job]) -> None:
        gone: list[Job] = []
        for job in jobs:
            held = self._held.pop(job.identity, None)
            if held is None:
                continue
            gone.append(held.job)
            if held.copy is not None:
                self._held[job.identity] = copy = Held(held.copy)
                self._plan.tell(events.JobsLeased(lane=self._lane, jobs=(copy.job,)))
                self._give_back(copy)
        self._plan.tell(events.JobsWritten(lane=self._lane, jobs=tuple(gone)))
