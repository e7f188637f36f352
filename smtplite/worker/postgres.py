"""Jobs in PostgreSQL, in the tables of PgQueuer, with outcomes in a table beside them.

The application queues in its own transaction. The mail is sent only if the transaction commits::

    async with connection.transaction():
        await connection.execute("INSERT INTO orders ...")
        await enqueue(connection, jobs_for(message))

The worker::

    async with PostgresSource("dbname=shop") as source:
        await Worker(source, client).run()

PgQueuer's dequeue leases in batches, and leases a job again if its lease ended. But to settle, queue again or extend,
it uses only the job's id, and does not check who has the job by then. So here each batch that is leased has its own
`queue_manager_id`, and every statement touches only rows that still carry it.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

import anyio
import attrs

from smtplite.errors import ConfigurationError, MessageError
from smtplite.worker.jobs import Identity, Job, Lease, Outcome
from smtplite.worker.shaping.postgres import PostgresBoards, table_of
from smtplite.worker.source import LaneStatus

try:
    from pgqueuer.domain.settings import DBSettings
    from pgqueuer.domain.types import QueueEntrypoint, QueueManagerId
    from pgqueuer.ports.repository import EntrypointExecutionParameter
    from pgqueuer.queries import Queries, SyncQueries
    from psycopg import AsyncConnection, AsyncRawCursor, Connection, Error, OperationalError, RawCursor
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool, PoolTimeout
except ModuleNotFoundError as error:
    raise ImportError("PostgreSQL as a source needs an extra: pip install 'smtplite[worker-postgres]'") from error

__all__ = ["PostgresSource", "PostgresStore", "enqueue", "enqueue_sync"]

#: The entrypoint of a job is this, and then the lane's name: the same tables may hold other jobs.
_ENTRYPOINT: Final = "smtplite."
#: The key of a job's header among PgQueuer's headers.
_HEADER: Final = "smtplite"
#: How often an empty lane is checked again.
_POLL_SECONDS: Final = 0.2
_OPEN_SECONDS: Final = 30.0
#: While the database is away: how long a statement waits for a connection, and how often one is tried.
_CONNECTION_SECONDS: Final = 5.0
_TRY_SECONDS: Final = 1.0
#: For libpq: without these, a statement waits for 15 minutes if the database's machine stops answering.
_KEEPALIVE: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_WHEN_SILENT: Final[Mapping[str, Any]] = {"connect_timeout": 10, "tcp_user_timeout": 30_000, **_KEEPALIVE}


class _Driver:
    """What PgQueuer's queries need from a connection; its own driver refuses one that is in a transaction."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        cursor = AsyncRawCursor(self._connection, row_factory=dict_row)
        await cursor.execute(query, arguments or None)
        rows: list[dict[str, Any]] = await cursor.fetchall()
        return rows

    async def execute(self, query: str, *arguments: object) -> str:
        cursor = AsyncRawCursor(self._connection)
        await cursor.execute(query, arguments or None)
        return cursor.statusmessage or ""


class _SyncDriver:
    """The same for a synchronous connection."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection

    def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        cursor = RawCursor(self._connection, row_factory=dict_row)
        cursor.execute(query, arguments or None)
        rows: list[dict[str, Any]] = cursor.fetchall()
        return rows


def _queries(driver: _Driver) -> Queries:
    enough: Any = driver  # of PgQueuer's Driver they call only fetch and execute
    return Queries(enough)


def _columns(jobs: Sequence[Job]) -> tuple[Any, ...]:
    """Return the arguments of `Queries.enqueue`, a list for each."""
    return (
        [_ENTRYPOINT + job.lane for job in jobs],
        [job.content or b"" for job in jobs],
        [0 for _ in jobs],
        [None for _ in jobs],
        [_dedupe_key(job.identity) for job in jobs],
        [{_HEADER: job.to_header()} for job in jobs],
    )


def _dedupe_key(identity: Identity) -> str:
    # Hashed, because an index does not accept a key of several thousand bytes.
    return _ENTRYPOINT + hashlib.sha256(f"{identity.key}\0{identity.recipient}".encode()).hexdigest()


async def enqueue(connection: AsyncConnection[Any], jobs: Iterable[Job]) -> int:
    """Queue jobs within the transaction that the connection is in.

    They are sent only if it commits. A job with a key and recipient that are already in the queue is skipped.

    Args:
        connection: a connection of psycopg.
        jobs: the jobs, as `jobs_for` makes them.

    Returns:
        How many were queued.
    """
    given = list(jobs)
    if not given:
        return 0
    ids = await _queries(_Driver(connection)).enqueue(*_columns(given), on_conflict="skip")
    return sum(number is not None for number in ids)


def enqueue_sync(connection: Connection[Any], jobs: Iterable[Job]) -> int:
    """Queue jobs, as `enqueue` does, over a synchronous connection, such as Django's."""
    given = list(jobs)
    if not given:
        return 0
    ids = SyncQueries(_SyncDriver(connection)).enqueue(*_columns(given), on_conflict="skip")
    return sum(number is not None for number in ids)


class _Database:
    """The pool, and the names of the tables, for both the source and the store."""

    def __init__(self, conninfo: str, connections: int) -> None:
        self._conninfo = conninfo
        self._connections = connections
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] | None = None
        settings = DBSettings()  # reads PGQUEUER_PREFIX and similar variables, as PgQueuer itself does
        self.queue = settings.qualified.queue_table
        self.log = settings.qualified.queue_table_log
        self.status_type = settings.qualified.queue_status_type
        self.outcomes = settings.qualify("smtplite_outcome")
        self.boards = settings.qualify("smtplite_board")

    async def open(self) -> None:
        """Connect; a ConfigurationError says why that failed."""
        until = time.monotonic() + _OPEN_SECONDS
        while True:
            try:
                options = {**_WHEN_SILENT, **conninfo_to_dict(self._conninfo)}
                await (await AsyncConnection.connect(**options)).close()
                break
            except Error as error:
                if not isinstance(error, OperationalError) or time.monotonic() > until:
                    raise ConfigurationError(f"cannot use the database: {error}") from error
                await anyio.sleep(_TRY_SECONDS)
        self._pool = AsyncConnectionPool(
            kwargs={**options, "autocommit": True},
            min_size=1,
            max_size=self._connections,
            open=False,
            name="smtplite",
            # Not at all: the pool's own pauses between two tries double, up to minutes; `connection` tries steadily.
            reconnect_timeout=0.0,
        )
        await self._pool.open()

    async def close(self) -> None:
        """Close the connections."""
        if self._pool:
            await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Yield a connection of the pool. PoolTimeout means that there is none; the log of psycopg.pool says why."""
        if (pool := self._pool) is None:
            raise ConfigurationError("this source is not connected: use it in an async with block")
        until = time.monotonic() + _CONNECTION_SECONDS
        connection: AsyncConnection[Any] | None = None
        while connection is None:
            try:
                connection = await pool.getconn(_TRY_SECONDS)  # makes the pool try once, if it has too few
            except PoolTimeout:
                if time.monotonic() > until:
                    raise PoolTimeout(f"no connection to the database for {_CONNECTION_SECONDS:g} s") from None
        try:
            yield connection
        finally:
            with anyio.CancelScope(shield=True):  # otherwise the pool would have one less forever
                is_lost = connection.closed
                await pool.putconn(connection)
                if is_lost:
                    await pool.check()  # after a restart, the others are lost as well

    def outcomes_table(self) -> str:
        """Return the statement that creates the table of outcomes."""
        return (
            f"CREATE TABLE IF NOT EXISTS {self.outcomes} ("
            "key text, recipient text, status text NOT NULL, lease text, reply text, error text, message_id text,"
            " attempt integer, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (key, recipient))"
        )

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """Run a statement in its own transaction, and return its rows."""
        async with self.connection() as connection:
            return await _Driver(connection).fetch(query, *arguments)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[_Driver]:
        """Yield a driver whose statements are one transaction."""
        async with self.connection() as connection, connection.transaction():
            yield _Driver(connection)


class PostgresStore:
    """Outcomes and marks in the table `smtplite_outcome`; see `smtplite.worker.Store`.

    A `PostgresSource` has one. For another source, or for `send_job`, make one and use it with ``async with``.

    Args:
        conninfo: how to connect, in psycopg's form: a URL, or ``"host=... dbname=..."``.
        connections: how many connections to the database to open, at most.

    Raises:
        ConfigurationError: (from ``async with``) the database cannot be reached.
    """

    def __init__(self, conninfo: str, *, connections: int = 4) -> None:
        self._database = _Database(conninfo, connections)

    @classmethod
    def _over(cls, database: _Database) -> Self:
        store = cls.__new__(cls)
        store._database = database
        return store

    async def __aenter__(self) -> Self:
        await self._database.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._database.close()

    async def install(self) -> None:
        """Create the tables for outcomes and for shaping, if they do not exist."""
        async with self._database.transaction() as driver:
            await driver.execute(self._database.outcomes_table())
            await driver.execute(table_of(self._database.boards))

    async def begin(self, jobs: Sequence[Job]) -> Mapping[Identity, Outcome | None]:
        """Mark jobs as begun; see `Store.begin`."""
        table = self._database.outcomes
        names = {job.identity: job.lease.name for job in jobs}
        made = await self._database.fetch(
            f"INSERT INTO {table} (key, recipient, status, lease)"  # noqa: S608 (our table's name; values are bound)
            " SELECT key, recipient, 'begun', lease FROM unnest($1::text[], $2::text[], $3::text[])"
            " AS given (key, recipient, lease) ORDER BY key, recipient"
            " ON CONFLICT DO NOTHING RETURNING key, recipient",
            [identity.key for identity in names],
            [identity.recipient for identity in names],
            list(names.values()),
        )
        rest = names.keys() - {Identity(row["key"], row["recipient"]) for row in made}
        others: dict[Identity, Outcome | None] = {}
        for row in await self._rows(rest):
            identity = Identity(row["key"], row["recipient"])
            if row["status"] != "begun":
                others[identity] = _outcome(row)
            elif row["lease"] != names[identity]:
                others[identity] = None
            rest.discard(identity)
        for identity in rest:  # the mark was removed meanwhile by the worker that had made it; we made none
            others[identity] = None
        return others

    async def forget(self, jobs: Iterable[Job]) -> None:
        """Remove the marks of jobs; see `Store.forget`."""
        given = [(*job.identity, job.lease.name) for job in jobs]
        await self._database.fetch(
            f"DELETE FROM {self._database.outcomes} AS record"  # noqa: S608 (our table's name; values are bound)
            " USING unnest($1::text[], $2::text[], $3::text[]) AS given (key, recipient, lease)"
            " WHERE record.key = given.key AND record.recipient = given.recipient"
            " AND record.status = 'begun' AND record.lease = given.lease RETURNING 1",
            *(list(column) for column in zip(*given, strict=True)),
        )

    async def find(self, identities: Iterable[Identity]) -> Mapping[Identity, Outcome]:
        """Return the outcomes of the jobs that have one."""
        return {
            Identity(row["key"], row["recipient"]): _outcome(row)
            for row in await self._rows(identities)
            if row["status"] != "begun"
        }

    async def _rows(self, identities: Iterable[Identity]) -> list[dict[str, Any]]:
        wanted = list(identities)
        if not wanted:
            return []
        return await self._database.fetch(
            "SELECT record.*, extract(epoch FROM record.at)::float AS seconds"  # noqa: S608 (as above)
            f" FROM {self._database.outcomes} AS record"
            " JOIN unnest($1::text[], $2::text[]) AS given (key, recipient) USING (key, recipient)",
            [identity.key for identity in wanted],
            [identity.recipient for identity in wanted],
        )

    async def save(self, settled: Sequence[tuple[Job, Outcome]]) -> None:
        """Record outcomes; see `Store.save`."""
        await self._database.fetch(
            f"INSERT INTO {self._database.outcomes} AS record {_OUTCOME_COLUMNS}"  # noqa: S608 (as above)
            f" SELECT {_OUTCOME_VALUES} FROM {_GIVEN} ORDER BY key, recipient {_ON_CONFLICT} RETURNING 1",
            *_given(settled),
        )


_OUTCOME_COLUMNS: Final = "(key, recipient, status, reply, error, message_id, attempt, at)"
_OUTCOME_VALUES: Final = "key, recipient, status, reply, error, message_id, attempt, to_timestamp(at)"
_GIVEN: Final = (
    "unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],"
    " $9::integer[], $10::float[])"
    " AS given (id, lease, key, recipient, status, reply, error, message_id, attempt, at)"
)
_AGAIN: Final = (
    "unnest($1::bigint[], $2::uuid[], $3::float[], $4::integer[], $5::text[])"
    " AS given (id, lease, seconds, attempt, header)"
)
_ON_CONFLICT: Final = (
    "ON CONFLICT (key, recipient) DO UPDATE SET status = excluded.status, reply = excluded.reply,"
    " error = excluded.error, message_id = excluded.message_id, attempt = excluded.attempt, at = excluded.at,"
    " lease = NULL WHERE record.status = 'begun' OR (excluded.status = 'accepted' AND record.status <> 'accepted')"
)


def _given(settled: Sequence[tuple[Job, Outcome]]) -> list[list[Any]]:
    """Return a list for each column of _GIVEN; each identity once: a statement cannot touch a row twice."""
    rows = {
        job.identity: (
            *_row_and_lease(job),
            *job.identity,
            outcome.status,
            _text(outcome.reply),
            _text(outcome.error),
            _text(outcome.message_id),
            outcome.attempt,
            outcome.at,
        )
        for job, outcome in settled
    }
    return [list(column) for column in zip(*rows.values(), strict=True)]


def _text(value: str | None) -> str | None:
    """Return a text that PostgreSQL accepts: without NUL or lone surrogates."""
    return None if value is None else value.replace("\0", "?").encode(errors="replace").decode()


def _row_and_lease(job: Job) -> tuple[int | None, uuid.UUID | None]:
    """Return the row and the lease of a job; a job of another source has neither."""
    handle = job.lease.handle
    return (handle, uuid.UUID(job.lease.name)) if isinstance(handle, int) else (None, None)


def _outcome(row: Mapping[str, Any]) -> Outcome:
    return Outcome(
        status=row["status"],
        reply=row["reply"],
        error=row["error"] or "",
        message_id=row["message_id"],
        attempt=row["attempt"],
        at=row["seconds"],
    )


class PostgresSource:
    """A queue in PostgreSQL; see `smtplite.worker.Source`. Use it with ``async with``.

    Args:
        conninfo: how to connect, in psycopg's form: a URL, or ``"host=... dbname=..."``.
        lease_seconds: how long a lease lasts. It must be the same for all workers: each one uses its own value.
        connections: how many connections to the database to open, at most.

    Raises:
        ConfigurationError: (from ``async with``) the database cannot be reached, or refuses the connection.
    """

    def __init__(self, conninfo: str, *, lease_seconds: float = 60.0, connections: int = 4) -> None:
        self._database = _Database(conninfo, connections)
        self._lease_seconds = lease_seconds
        self._store = PostgresStore._over(self._database)
        #: Where `smtplite.worker.shaping` keeps what workers share.
        self.boards = PostgresBoards(self._database.boards, self._database.transaction)
        self._offset = time.time() - time.monotonic()

    @property
    def store(self) -> PostgresStore:
        """Where outcomes are: in the same database."""
        return self._store

    @property
    def lease_seconds(self) -> float:
        """How long a lease lasts."""
        return self._lease_seconds

    async def __aenter__(self) -> Self:
        await self._database.open()
        await self._set_clock()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._database.close()

    async def install(self) -> None:
        """Create the tables that do not exist: PgQueuer's, and those for outcomes and for shaping."""
        async with self._database.transaction() as driver:
            queries = _queries(driver)
            if not await queries.schema_is_installed():
                await queries.install()
            await driver.execute(self._database.outcomes_table())
            await driver.execute(table_of(self._database.boards))

    async def _set_clock(self) -> None:
        [row] = await self._database.fetch("SELECT extract(epoch FROM clock_timestamp())::float AS now")
        self._offset = row["now"] - time.monotonic()

    def now(self) -> float:
        """Return the database's time, in seconds since 1970."""
        return time.monotonic() + self._offset

    async def lease(self, lane: str, most: int, wait: float) -> list[Job]:
        """Lease jobs of a lane that are due; see `Source.lease`."""
        until = time.monotonic() + wait
        # PgQueuer has notifications as well, but they need a connection of their own, which could be lost unnoticed.
        while not (jobs := await self._lease(lane, most)) and time.monotonic() < until:  # noqa: ASYNC110 (as said)
            await anyio.sleep(min(_POLL_SECONDS, max(0.0, until - time.monotonic())))
        return jobs

    async def _lease(self, lane: str, most: int) -> list[Job]:
        name = uuid.uuid4()
        until = time.monotonic() + self._lease_seconds
        async with self._database.transaction() as driver:
            rows = await _queries(driver).dequeue(
                most,
                {QueueEntrypoint(_ENTRYPOINT + lane): EntrypointExecutionParameter(0)},
                QueueManagerId(name),
                None,
                timedelta(seconds=self._lease_seconds),
            )
            if not rows:
                return []
            # Each pick follows a queueing. If there were more picks, a worker picked it and died.
            counts = await driver.fetch(
                "SELECT job_id, count(*) FILTER (WHERE status = 'picked')"  # noqa: S608 (PgQueuer's own name)
                "     - count(*) FILTER (WHERE status = 'queued') AS lost"
                f" FROM {self._database.log} WHERE job_id = ANY($1::bigint[]) GROUP BY job_id",
                [row.id for row in rows],
            )
        self._offset = rows[0].updated.timestamp() - time.monotonic()
        lost = {count["job_id"] for count in counts if count["lost"] > 0}
        jobs: list[Job] = []
        broken: list[int] = []
        for row in rows:
            token = Lease(str(name), until, row.id)
            try:
                header = (row.headers or {}).get(_HEADER)
                job = Job.from_header(header if isinstance(header, str) else "", row.payload or b"", token)
            except MessageError:
                broken.append(row.id)
                continue
            jobs.append(job if row.id not in lost else attrs.evolve(job, is_uncertain=True))
        if broken:
            await self._set_aside(broken, name)
        return jobs

    async def _set_aside(self, numbers: Sequence[int], lease: uuid.UUID) -> None:
        """Mark as failed what is not one of our jobs: PgQueuer's own commands show it."""
        query = (
            f"UPDATE {self._database.queue} SET status = 'failed', queue_manager_id = NULL"  # noqa: S608 (as above)
            " WHERE id = ANY($1::bigint[]) AND queue_manager_id = $2::uuid RETURNING 1"
        )
        await self._database.fetch(query, numbers, lease)

    async def extend(self, jobs: Sequence[Job]) -> None:
        """Extend the leases of these jobs; see `Source.extend`."""
        until = time.monotonic() + self._lease_seconds
        queue, given = self._database.queue, "unnest($1::bigint[], $2::uuid[]) AS given (id, lease)"
        query = f"WITH mine AS ({_locked(queue, given)}) UPDATE {queue} AS queue SET heartbeat = now()"  # noqa: S608
        rows = await self._database.fetch(
            f"{query} FROM mine WHERE queue.id = mine.id RETURNING queue.id", *_leases(jobs)
        )
        extended = {row["id"] for row in rows}
        for job in jobs:
            if job.lease.handle in extended:
                job.lease.until = until

    async def settle(self, settled: Sequence[tuple[Job, Outcome]]) -> None:
        """Record outcomes and delete the jobs in one transaction; see `Source.settle`."""
        database = self._database
        await database.fetch(
            f"WITH given AS (SELECT * FROM {_GIVEN}), mine AS ({_locked(database.queue, 'given')}),"  # noqa: S608
            f" gone AS (DELETE FROM {database.queue} AS queue USING mine WHERE queue.id = mine.id"
            " RETURNING queue.id, queue.entrypoint, queue.priority), logged AS ("
            f" INSERT INTO {database.log} (job_id, status, entrypoint, priority) SELECT gone.id,"
            f" (CASE given.status WHEN 'accepted' THEN 'successful' ELSE 'exception' END)::{database.status_type},"
            " gone.entrypoint, gone.priority FROM gone JOIN given USING (id))"
            f" INSERT INTO {database.outcomes} AS record {_OUTCOME_COLUMNS} SELECT {_OUTCOME_VALUES} FROM given"
            " WHERE given.status = 'accepted' OR given.id IN (SELECT id FROM gone)"
            f" ORDER BY key, recipient {_ON_CONFLICT} RETURNING 1",
            *_given(settled),
        )

    async def retry(self, retries: Sequence[tuple[Job, float]]) -> None:
        """Queue jobs again; see `Source.retry`."""
        database = self._database
        jobs = [job for job, _ in retries]
        await database.fetch(
            f"WITH given AS (SELECT * FROM {_AGAIN}), mine AS ({_locked(database.queue, 'given')}), again AS ("  # noqa: S608
            f" UPDATE {database.queue} AS queue SET status = 'queued', updated = now(),"
            " execute_after = now() + given.seconds * interval '1 second', queue_manager_id = NULL,"
            " attempts = given.attempt - 1, headers = jsonb_set(coalesce(queue.headers, '{}'::jsonb),"
            f" '{{{_HEADER}}}', to_jsonb(given.header)) FROM given JOIN mine USING (id) WHERE queue.id = given.id"
            " RETURNING queue.id, queue.entrypoint, queue.priority)"
            f" INSERT INTO {database.log} (job_id, status, entrypoint, priority)"
            " SELECT id, 'queued', entrypoint, priority FROM again RETURNING 1",
            *_leases(jobs),
            [max(seconds, 0.0) for _, seconds in retries],
            [job.attempt for job in jobs],
            [job.to_header() for job in jobs],
        )

    async def release(self, jobs: Sequence[Job]) -> None:
        """Give jobs back; see `Source.release`."""
        await self.retry([(job, 0.0) for job in jobs])

    async def status(self) -> Sequence[LaneStatus]:
        """Return how many jobs there are, by lane."""
        rows = await self._database.fetch(
            "SELECT entrypoint, count(*) FILTER (WHERE status = 'queued' AND execute_after <= now()) AS waiting,"  # noqa: S608
            " count(*) FILTER (WHERE status = 'picked') AS leased,"
            " count(*) FILTER (WHERE status = 'queued' AND execute_after > now()) AS later,"
            " extract(epoch FROM now() - min(created))::float AS oldest,"
            " extract(epoch FROM now() - min(greatest(created, execute_after))"
            " FILTER (WHERE status = 'queued' AND execute_after <= now()))::float AS due"
            f" FROM {self._database.queue} WHERE starts_with(entrypoint, $1) AND status IN ('queued', 'picked')"
            " GROUP BY entrypoint ORDER BY entrypoint",
            _ENTRYPOINT,
        )
        return [
            LaneStatus(
                lane=row["entrypoint"].removeprefix(_ENTRYPOINT),
                waiting=row["waiting"],
                leased=row["leased"],
                later=row["later"],
                oldest_seconds=row["oldest"],
                due_seconds=row["due"] or 0.0,
            )
            for row in rows
        ]


def _locked(queue: str, given: str) -> str:
    """Return the query for the rows that still carry their lease; ordered, so that two workers cannot deadlock."""
    return (
        f"SELECT queue.id FROM {queue} AS queue JOIN {given}"  # noqa: S608 (our own names)
        " ON queue.id = given.id AND queue.queue_manager_id = given.lease ORDER BY queue.id FOR UPDATE OF queue"
    )


def _leases(jobs: Sequence[Job]) -> tuple[list[int | None], list[uuid.UUID | None]]:
    pairs = [_row_and_lease(job) for job in jobs]
    return [number for number, _ in pairs], [lease for _, lease in pairs]
