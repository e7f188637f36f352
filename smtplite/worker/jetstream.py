"""Jobs in NATS JetStream: a stream of jobs with a consumer for each lane, and a stream of outcomes beside it.

The application::

    await enqueue(connection, jobs_for(message))

The worker::

    async with JetStreamSource("nats://localhost:4222") as source:
        await Worker(source, client).run()

JetStream leases by `ack_wait`, and does not check who acknowledges. A late negative acknowledgement makes one more copy
of a message that another worker has; a late termination loses it. So a delivery is left alone once its `ack_wait` is
nearly over, by a clock that only goes forward. The one exception is the acknowledgement after "accepted" was stored:
that is final for every worker. A retry is not a delayed negative acknowledgement either, because each of those uses up
a place of `max_ack_pending`. It is published again with a schedule, under an id that makes the server drop a second
copy. Then the old delivery is acknowledged.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

import attrs

from smtplite.errors import ConfigurationError, MessageError
from smtplite.worker.jobs import Identity, Job, Lease, Outcome
from smtplite.worker.source import LaneStatus

try:
    from nats.aio.client import Client as Connection
    from nats.js.api import (
        AckPolicy,
        ConsumerConfig,
        DiscardPolicy,
        Header,
        RetentionPolicy,
        StorageType,
        StreamConfig,
    )
    from nats.js.errors import APIError, NotFoundError

    from smtplite.worker.shaping.jetstream import JetStreamBoards
except ModuleNotFoundError as error:
    raise ImportError("NATS JetStream as a source needs an extra: pip install 'smtplite[worker-nats]'") from error

__all__ = ["JetStreamSource", "JetStreamStore", "enqueue"]

#: The first server version with schedules.
OLDEST_SERVER: Final = (2, 12, 0)

DEFAULT_STREAM: Final = "SMTPLITE"
#: How long a job that is published again, with the same key and recipient, is dropped.
DUPLICATE_SECONDS: Final = 600.0

_HEADER: Final = "Smtplite-Job"
#: A delivery is left alone in the last part of its `ack_wait`: this part.
_MARGIN: Final = 0.15
#: High, so that the server never stops giving out jobs because many are leased.
_MAX_ACK_PENDING: Final = 100_000
_OPEN_SECONDS: Final = 30.0
_REQUEST_SECONDS: Final = 5.0
#: Requests at the same time, and subjects in one batched get (the server's limit is 1024).
_AT_A_TIME: Final = 500
_CLOCK_SECONDS: Final = 60.0
_WRONG_LAST_SEQUENCE: Final = 10071


@attrs.frozen
class _Names:
    """Streams and subjects."""

    stream: str

    @property
    def outcomes(self) -> str:
        return f"{self.stream}_OUTCOMES"

    @property
    def prefix(self) -> str:
        return self.stream.lower()

    def due(self, lane: str) -> str:
        return f"{self.prefix}.job.{lane}"

    def later(self, lane: str, identity: Identity) -> str:
        return f"{self.prefix}.later.{lane}.{_hash(identity)}"

    def outcome(self, identity: Identity) -> str:
        return f"{self.prefix}.outcome.{_hash(identity)}"


def _hash(identity: Identity) -> str:
    return hashlib.sha256(f"{identity.key}\0{identity.recipient}".encode()).hexdigest()[:40]


async def enqueue(connection: Connection, jobs: Iterable[Job], *, stream: str = DEFAULT_STREAM) -> int:
    """Publish jobs. A job with a key and recipient that were published in the last ten minutes is skipped.

    Args:
        connection: a connection of nats-py.
        jobs: the jobs, as `jobs_for` makes them.
        stream: the name of the stream.

    Returns:
        How many were queued. All of them are stored when this returns.

    Raises:
        MessageError: a message is larger than the server accepts; none was queued.
    """
    names = _Names(stream)
    given = list(jobs)
    for job in given:
        if len(job.content or b"") + len(job.to_header()) + 1024 > connection.max_payload:
            raise MessageError(
                f"the message is larger than the NATS server accepts ({connection.max_payload} bytes):"
                " store it elsewhere, and queue a job with reference="
            )
    acks = await _all(
        _publish(connection, names.due(job.lane), job.content or b"", {_HEADER: job.to_header(), **_id(job)})
        for job in given
    )
    return sum("duplicate" not in ack for ack in acks)


def _id(job: Job) -> dict[str, str]:
    return {Header.MSG_ID.value: _hash(job.identity)}


async def _publish(connection: Connection, subject: str, content: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """Publish, wait until it is stored, and return what the server says."""
    reply = await connection.request(subject, content, timeout=_REQUEST_SECONDS, headers=dict(headers))
    answer: dict[str, Any] = json.loads(reply.data)
    if "error" in answer:
        raise APIError.from_error(answer["error"])
    return answer


async def _all(calls: Iterable[Any]) -> list[Any]:
    """Await all of these calls, a number of them at a time."""
    results: list[Any] = []
    waiting = list(calls)
    for start in range(0, len(waiting), _AT_A_TIME):
        results += await asyncio.gather(*waiting[start : start + _AT_A_TIME])
    return results


async def _messages(
    connection: Connection, subject: str, request: Mapping[str, Any], most: int, seconds: float
) -> AsyncIterator[Any]:
    """Ask for messages, and yield them until the server says that there are no more, or the time is over."""
    inbox = connection.new_inbox()
    subscription = await connection.subscribe(inbox)
    try:
        await connection.publish(subject, json.dumps(request).encode(), reply=inbox)
        until = time.monotonic() + seconds
        while most > 0:
            message = await subscription.next_msg(timeout=max(0.001, until - time.monotonic()))
            status = (message.headers or {}).get("Status")
            if status == "503":
                raise ConfigurationError("JetStream does not answer: enable it, or create the stream by install()")
            if status is not None:
                return
            yield message
            most -= 1
    finally:
        await subscription.unsubscribe()


class _Wire:
    """The connection, once there is one."""

    def __init__(self) -> None:
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        if self._connection is None:
            raise ConfigurationError("this source is not connected: use it in an async with block")
        return self._connection

    @connection.setter
    def connection(self, connection: Connection) -> None:
        self._connection = connection

    async def ask(self, subject: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call JetStream's API."""
        data = b"" if request is None else json.dumps(request).encode()
        reply = await self.connection.request(f"$JS.API.{subject}", data, timeout=_REQUEST_SECONDS)
        answer: dict[str, Any] = json.loads(reply.data)
        if "error" in answer:
            raise APIError.from_error(answer["error"])
        return answer


@attrs.frozen
class _Record:
    """What the store has about a job.

    Attributes:
        sequence: its place in the stream, which changes when it is replaced.
        begun: the name of the lease under which it was begun; None: there is an outcome.
        outcome: the outcome; None: it is only begun.
    """

    sequence: int
    begun: str | None
    outcome: Outcome | None


class JetStreamStore:
    """Outcomes and marks in a stream that keeps one message for each subject; see `smtplite.worker.Store`."""

    def __init__(self, wire: _Wire, names: _Names) -> None:
        self._wire = wire
        self._names = names

    async def begin(self, jobs: Sequence[Job]) -> Mapping[Identity, Outcome | None]:
        """Mark jobs as begun; see `Store.begin`."""
        refused = [job for job in await _all(self._mark(job) for job in jobs) if job is not None]
        others: dict[Identity, Outcome | None] = {}
        for job, record in zip(refused, await _all(self._last(job.identity) for job in refused), strict=True):
            if record is None or record.begun != job.lease.name:  # None: removed meanwhile, and it was another's
                others[job.identity] = None if record is None else record.outcome
        return others

    async def _mark(self, job: Job) -> Job | None:
        """Create the mark; return the job if there is already a record."""
        content = json.dumps({"begun": job.lease.name, "identity": job.identity}).encode()
        return None if await self._put(job.identity, content, 0) else job

    async def _put(self, identity: Identity, content: bytes, last: int | None) -> bool:
        """Write a record if the last one has this sequence; return whether it had."""
        headers = {} if last is None else {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(last)}
        try:
            await _publish(self._wire.connection, self._names.outcome(identity), content, headers)
        except APIError as error:
            if error.err_code != _WRONG_LAST_SEQUENCE:
                raise
            return False
        return True

    async def _last(self, identity: Identity) -> _Record | None:
        """Return the record as the stream's leader has it."""
        try:
            answer = await self._wire.ask(
                f"STREAM.MSG.GET.{self._names.outcomes}", {"last_by_subj": self._names.outcome(identity)}
            )
        except NotFoundError:
            return None
        message = answer["message"]
        return _record(message["seq"], base64.b64decode(message.get("data", "")))

    async def _records(self, identities: Iterable[Identity]) -> dict[Identity, _Record]:
        wanted = {self._names.outcome(identity): identity for identity in identities}
        subjects = list(wanted)
        records: dict[Identity, _Record] = {}
        for start in range(0, len(subjects), _AT_A_TIME):
            batch = subjects[start : start + _AT_A_TIME]
            async for message in _messages(
                self._wire.connection,
                f"$JS.API.DIRECT.GET.{self._names.outcomes}",
                {"multi_last": batch, "batch": len(batch)},
                len(batch) + 1,
                _REQUEST_SECONDS,
            ):
                headers = message.headers
                records[wanted[headers["Nats-Subject"]]] = _record(int(headers["Nats-Sequence"]), message.data)
        return records

    async def forget(self, jobs: Iterable[Job]) -> None:
        """Remove the marks of jobs; see `Store.forget`."""
        names = {job.identity: job.lease.name for job in jobs}
        records = await _all(self._last(identity) for identity in names)
        await _all(
            self._delete(record.sequence)
            for record, name in zip(records, names.values(), strict=True)
            if record is not None and record.begun == name
        )

    async def _delete(self, sequence: int) -> None:
        # By its sequence: a record that replaced it meanwhile has another sequence.
        with contextlib.suppress(NotFoundError):
            await self._wire.ask(f"STREAM.MSG.DELETE.{self._names.outcomes}", {"seq": sequence, "no_erase": True})

    async def find(self, identities: Iterable[Identity]) -> Mapping[Identity, Outcome]:
        """Return the outcomes of the jobs that have one."""
        return {
            identity: record.outcome
            for identity, record in (await self._records(identities)).items()
            if record.outcome is not None
        }

    async def save(self, settled: Sequence[tuple[Job, Outcome]]) -> None:
        """Record outcomes; see `Store.save`."""
        await _all(self._save(job.identity, outcome) for job, outcome in settled)

    async def _save(self, identity: Identity, outcome: Outcome) -> None:
        content = json.dumps({"identity": identity, **attrs.asdict(outcome)}).encode()
        if outcome.status == "accepted":  # replaces any record
            await self._put(identity, content, None)
            return
        while True:
            record = await self._last(identity)
            if record is not None and record.outcome is not None:
                return  # the first outcome stays
            if await self._put(identity, content, 0 if record is None else record.sequence):
                return


def _record(sequence: int, content: bytes) -> _Record:
    fields = json.loads(content)
    fields.pop("identity")
    if "begun" in fields:
        return _Record(sequence, fields["begun"], None)
    return _Record(sequence, None, Outcome(**fields))


@attrs.frozen
class _Delivery:
    """The handle of a lease: the subject to acknowledge on, and the message's place in the stream."""

    reply: str
    sequence: int


class JetStreamSource:
    """A queue in NATS JetStream; see `smtplite.worker.Source`. Use it with ``async with``.

    Args:
        url: one server, or several, separated by commas.
        stream: the stream of jobs; _OUTCOMES and _BOARDS are added for that of outcomes and for what shaping shares.
        lease_seconds: how long a lease lasts. It is the consumer's `ack_wait`, so it must be the same for all workers.
        replicas: how many replicas the streams have that `install` creates.

    Raises:
        ConfigurationError: (from ``async with``) the server cannot be reached, or is older than 2.12.
    """

    def __init__(
        self, url: str, *, stream: str = DEFAULT_STREAM, lease_seconds: float = 60.0, replicas: int = 1
    ) -> None:
        self._servers = [server.strip() for server in url.split(",")]
        self._names = _Names(stream)
        self._lease_seconds = lease_seconds
        self._replicas = replicas
        self._wire = _Wire()
        self._store = JetStreamStore(self._wire, self._names)
        #: Where `smtplite.worker.shaping` keeps what workers share.
        self.boards = JetStreamBoards(f"{stream}_BOARDS", lambda: self._wire.connection.jetstream(), self._wire.ask)
        self._lanes: set[str] = set()
        self._offset = time.time() - time.monotonic()
        self._clock_at = 0.0

    @property
    def store(self) -> JetStreamStore:
        """Where outcomes are: in a stream of the same server."""
        return self._store

    @property
    def lease_seconds(self) -> float:
        """How long a lease lasts."""
        return self._lease_seconds

    async def __aenter__(self) -> Self:
        connection = await self._connected()
        self._wire.connection = connection
        version = connection.connected_server_version
        if (version.major, version.minor, version.patch) < OLDEST_SERVER:
            await connection.close()
            raise ConfigurationError(
                f"the NATS server has version {version.major}.{version.minor}.{version.patch}: jobs are tried again by"
                " schedules, which need 2.12 or later"
            )
        return self

    async def _connected(self) -> Connection:
        connection = Connection()
        try:
            # After a first connection it reconnects forever; the first one is awaited, and so has a limit.
            options: dict[str, Any] = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.5, "error_cb": _ignore}
            await asyncio.wait_for(connection.connect(self._servers, **options), _OPEN_SECONDS)
        except Exception as error:
            await connection.close()
            raise ConfigurationError(f"cannot connect to NATS: {connection.last_error or error!r}") from error
        return connection

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._wire.connection.close()

    async def install(self) -> None:
        """Create the two streams, and the bucket of boards, if they do not exist."""
        prefix = self._names.prefix
        jetstream = self._wire.connection.jetstream()
        for config in (
            StreamConfig(
                name=self._names.stream,
                subjects=[f"{prefix}.job.*", f"{prefix}.later.*.*"],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                num_replicas=self._replicas,
                duplicate_window=DUPLICATE_SECONDS,
                allow_msg_schedules=True,
                allow_direct=True,
            ),
            StreamConfig(
                name=self._names.outcomes,
                subjects=[f"{prefix}.outcome.*"],
                retention=RetentionPolicy.LIMITS,
                storage=StorageType.FILE,
                num_replicas=self._replicas,
                max_msgs_per_subject=1,
                discard=DiscardPolicy.OLD,
                allow_direct=True,
            ),
        ):
            try:
                await jetstream.stream_info(config.name or "")
            except NotFoundError:
                await jetstream.add_stream(config)
        await self.boards.install(self._replicas)

    def now(self) -> float:
        """Return the server's time, in seconds since 1970."""
        return time.monotonic() + self._offset

    async def _set_clock(self) -> None:
        info = await self._wire.ask(f"STREAM.INFO.{self._names.stream}")
        self._clock_at = time.monotonic()
        self._offset = datetime.fromisoformat(info["ts"]).timestamp() - self._clock_at

    async def _prepare(self, lane: str) -> None:
        """Create the lane's consumer, once; set the clock now and then."""
        if time.monotonic() - self._clock_at > _CLOCK_SECONDS:
            await self._set_clock()
        if lane not in self._lanes:
            await self._wire.connection.jetstream().add_consumer(
                self._names.stream,
                ConsumerConfig(
                    durable_name=lane,
                    filter_subject=self._names.due(lane),
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=self._lease_seconds,
                    max_deliver=-1,
                    max_ack_pending=_MAX_ACK_PENDING,
                ),
            )
            self._lanes.add(lane)

    async def lease(self, lane: str, most: int, wait: float) -> list[Job]:
        """Lease jobs of a lane that are due; see `Source.lease`."""
        await self._prepare(lane)
        jobs = await self._pull(lane, {"batch": most, "no_wait": True}, most, _REQUEST_SECONDS)
        if not jobs and wait > 0:
            request = {"batch": 1, "expires": int(wait * 1e9)}
            jobs = await self._pull(lane, request, 1, wait + _REQUEST_SECONDS)
            if jobs and most > 1:
                jobs += await self._pull(lane, {"batch": most - 1, "no_wait": True}, most - 1, _REQUEST_SECONDS)
        return jobs

    async def _pull(self, lane: str, request: Mapping[str, Any], most: int, seconds: float) -> list[Job]:
        until = time.monotonic() + self._lease_seconds * (1 - _MARGIN)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._names.stream}.{lane}"
        jobs: list[Job] = []
        broken: list[str] = []
        async for message in _messages(self._wire.connection, subject, request, most, seconds):
            metadata = message.metadata
            delivery = _Delivery(message.reply, metadata.sequence.stream)
            name = f"{delivery.sequence}.{metadata.num_delivered}"
            try:
                job = Job.from_header(
                    (message.headers or {}).get(_HEADER, ""), message.data, Lease(name, until, delivery)
                )
            except MessageError:
                broken.append(message.reply)
                continue
            # Delivered before, and never given back: the message may have been handed over.
            jobs.append(attrs.evolve(job, is_uncertain=True) if metadata.num_delivered > 1 else job)
        for reply in broken:  # no other worker could read it either
            await self._wire.connection.publish(reply, b"+TERM")
        return jobs

    def _is_ours(self, job: Job) -> bool:
        return isinstance(job.lease.handle, _Delivery) and time.monotonic() < job.lease.until

    async def extend(self, jobs: Sequence[Job]) -> None:
        """Extend the leases of these jobs; see `Source.extend`."""
        ours = [job for job in jobs if self._is_ours(job)]
        until = time.monotonic() + self._lease_seconds * (1 - _MARGIN)
        # As requests, with an answer: one that did not reach the server extended nothing.
        request = self._wire.connection.request
        await _all(request(job.lease.handle.reply, b"+WPI", timeout=_REQUEST_SECONDS) for job in ours)
        for job in ours:
            job.lease.until = until

    async def settle(self, settled: Sequence[tuple[Job, Outcome]]) -> None:
        """Record outcomes, and then acknowledge; see `Source.settle`."""
        to_save = [(job, outcome) for job, outcome in settled if outcome.status == "accepted" or self._is_ours(job)]
        await self._store.save(to_save)
        await self._acknowledge(job for job, outcome in to_save if outcome.status == "accepted" or self._is_ours(job))

    async def _acknowledge(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            if isinstance(job.lease.handle, _Delivery):
                await self._wire.connection.publish(job.lease.handle.reply, b"+ACK")

    async def retry(self, retries: Sequence[tuple[Job, float]]) -> None:
        """Publish jobs again with a schedule, and then acknowledge; see `Source.retry`."""
        ours = [(job, seconds) for job, seconds in retries if self._is_ours(job)]
        await _all(self._again(job, seconds) for job, seconds in ours)
        # If the lease ended meanwhile, the next delivery of this message is not ours to acknowledge.
        await self._acknowledge(job for job, _ in ours if self._is_ours(job))

    async def _again(self, job: Job, seconds: float) -> None:
        # The sequence is in the id: giving back this delivery twice makes one copy; the next delivery has its own id.
        message_id = f"{_hash(job.identity)}.{job.attempt}.{job.lease.handle.sequence}"
        headers = {_HEADER: job.to_header(), Header.MSG_ID.value: message_id}
        subject = due = self._names.due(job.lane)
        if seconds > 0:
            subject = self._names.later(job.lane, job.identity)
            at = datetime.fromtimestamp(self.now() + seconds, UTC).isoformat(timespec="milliseconds")
            headers |= {
                Header.SCHEDULE.value: f"@at {at.replace('+00:00', 'Z')}",
                Header.SCHEDULE_TARGET.value: due,
            }
        await _publish(self._wire.connection, subject, job.content or b"", headers)

    async def release(self, jobs: Sequence[Job]) -> None:
        """Publish jobs again, and then acknowledge; see `Source.release`."""
        await self.retry([(job, 0.0) for job in jobs])

    async def status(self) -> Sequence[LaneStatus]:
        """Return how many jobs there are, by lane."""
        subjects = await self._subjects()
        prefix = self._names.prefix
        due = {name.rpartition(".")[2]: count for name, count in subjects.items() if name.startswith(f"{prefix}.job.")}
        later: dict[str, int] = {}
        for name, count in subjects.items():
            if name.startswith(f"{prefix}.later."):
                lane = name.split(".")[2]
                later[lane] = later.get(lane, 0) + count
        statuses: list[LaneStatus] = []
        for lane in sorted(due.keys() | later.keys()):
            leased = await self._leased(lane) if lane in due else 0
            statuses.append(
                LaneStatus(
                    lane=lane,
                    waiting=(waiting := max(0, due.get(lane, 0) - leased)),
                    leased=leased,
                    later=later.get(lane, 0),
                    oldest_seconds=(oldest := await self._oldest(lane) if lane in due else 0.0),
                    due_seconds=oldest if waiting else 0.0,  # includes leased jobs, whose messages are still there
                )
            )
        return statuses

    async def _subjects(self) -> dict[str, int]:
        found: dict[str, int] = {}
        while True:
            info = await self._wire.ask(
                f"STREAM.INFO.{self._names.stream}", {"subjects_filter": ">", "offset": len(found)}
            )
            page = info["state"].get("subjects") or {}
            found |= page
            if not page or len(found) >= info.get("total", 0):
                return found

    async def _leased(self, lane: str) -> int:
        try:
            info = await self._wire.ask(f"CONSUMER.INFO.{self._names.stream}.{lane}")
        except NotFoundError:  # no worker has leased from it yet
            return 0
        return int(info["num_ack_pending"])

    async def _oldest(self, lane: str) -> float:
        try:
            answer = await self._wire.ask(
                f"STREAM.MSG.GET.{self._names.stream}", {"seq": 1, "next_by_subj": self._names.due(lane)}
            )
        except NotFoundError:
            return 0.0
        return max(0.0, self.now() - datetime.fromisoformat(answer["message"]["time"]).timestamp())


async def _ignore(_error: Exception) -> None:
    """Do nothing: calls that fail are logged, and tried again."""
