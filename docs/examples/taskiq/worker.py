"""Sends mail from a queue in Redis: a worker for taskiq that is meant to be copied and changed.

The application calls `enqueue`. ``python worker.py`` runs a worker; run as many as you need. It needs Redis 6.2.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from email.message import EmailMessage
from typing import Literal

from redis.asyncio import Redis
from redis.exceptions import RedisError
from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq.receiver import Receiver
from taskiq_redis import RedisStreamBroker

from smtplite import Client
from smtplite.worker import Backoff, Identity, Job, Later, Lease, Outcome, jobs_for, send_job

REDIS = os.environ.get("REDIS_URL", "redis://localhost")
SERVER = os.environ.get("MAIL_URL", "smtp://localhost:1025?tls=none")
CONNECTIONS = int(os.environ.get("MAIL_CONNECTIONS", "4"))
JOBS_IN_FLIGHT = int(os.environ.get("MAIL_JOBS_IN_FLIGHT", "8"))
BACKOFF = Backoff(
    first=float(os.environ.get("MAIL_FIRST_RETRY_SECONDS", "60")),
    longest=float(os.environ.get("MAIL_LONGEST_RETRY_SECONDS", "14400")),
)
SEND_SECONDS = float(os.environ.get("MAIL_SEND_SECONDS", "660"))
DEAD_AFTER_SECONDS = float(os.environ.get("MAIL_DEAD_AFTER_SECONDS", str(2 * SEND_SECONDS + 30)))
TICK_SECONDS = float(os.environ.get("MAIL_TICK_SECONDS", "5"))
REMEMBER_SECONDS = 30 * 86_400

QUEUE = "mail"
LATER = "mail:later"  # sorted set: jobs that wait for their next try, by the time of that try
RECORD = "mail:record:"  # a key for each job that was begun or has an outcome

MOVE_IF_STILL_THERE = """
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then
    redis.call('XADD', KEYS[2], '*', 'data', ARGV[1])
end
"""

FORGET_IF_MINE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('DEL', KEYS[1])
end
"""

SAVE_IF_FIRST = """
local record = redis.call('GET', KEYS[1])
if not record or string.sub(record, 1, 6) == 'begun ' or ARGV[2] == 'accepted' then
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
end
"""

broker = RedisStreamBroker(
    REDIS,
    queue_name=QUEUE,
    consumer_group_name=QUEUE,
    consumer_id="0",  # by default, jobs that were queued before the first worker started would be skipped
    xread_count=JOBS_IN_FLIGHT,
    xread_block=1000,
    # A job is fetched while others are still in flight. It may wait as long as a send takes, and then take as long
    # itself. With a shorter time, two workers could have it at the same time.
    idle_timeout=int(DEAD_AFTER_SECONDS * 1000),
    unacknowledged_batch_size=JOBS_IN_FLIGHT,
    unacknowledged_lock_timeout=60,
    max_connection_pool_size=JOBS_IN_FLIGHT + 8,
)

logger = logging.getLogger("mail")


# --- in the application: between broker.startup() and broker.shutdown() ----------------------------------------------


async def enqueue(
    message: EmailMessage,
    recipients: Iterable[str],
    *,
    when_unknown: Literal["retry", "record"] = "retry",
    not_after: timedelta | None = None,
) -> str:
    """Queue a message.

    There is one job for each recipient, so each has its own outcome, and a retry affects no other recipient.

    Args:
        message: the message to send.
        recipients: their addresses.
        when_unknown: what to do if nobody can know whether it arrived: "retry" (better twice than never), or "record"
            (better never than twice).
        not_after: how long to keep trying.

    Returns:
        The Message-ID, which every copy has.
    """
    jobs = jobs_for(message, list(recipients), when_unknown=when_unknown, not_after=not_after)
    for job in jobs:
        # JSON has no bytes, but the message is ASCII
        await deliver.kiq(message=(job.content or b"").decode("ascii"), job=job.to_header())
    return jobs[0].key


# --- in the worker --------------------------------------------------------------------------------------------------


class RedisStore:
    """What `smtplite.worker.Store` asks for, in Redis: a record for each job, "begun NAME" or its outcome as JSON."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def begin(self, jobs: Sequence[Job]) -> Mapping[Identity, Outcome | None]:
        """Mark these jobs as begun, unless they have a record; return the records that others wrote."""
        others: dict[Identity, Outcome | None] = {}
        for job in jobs:
            mark = _mark(job)
            if not await self._redis.set(_key(job.identity), mark, nx=True, ex=REMEMBER_SECONDS):
                record = await self._redis.get(_key(job.identity))
                if record != mark:
                    others[job.identity] = _outcome(record)
        return others

    async def forget(self, jobs: Iterable[Job]) -> None:
        """Remove the marks of these jobs, unless another lease set them."""
        for job in jobs:
            await self._redis.eval(FORGET_IF_MINE, 1, _key(job.identity), _mark(job))

    async def find(self, identities: Iterable[Identity]) -> Mapping[Identity, Outcome]:
        """Return the outcomes of the jobs that have one."""
        wanted = list(identities)
        records = await self._redis.mget([_key(identity) for identity in wanted])
        found = {identity: _outcome(record) for identity, record in zip(wanted, records, strict=True)}
        return {identity: outcome for identity, outcome in found.items() if outcome is not None}

    async def save(self, settled: Sequence[tuple[Job, Outcome]]) -> None:
        """Record outcomes. The first outcome of a job stays, but "accepted" replaces any other."""
        for job, outcome in settled:
            arguments = (outcome.to_json(), outcome.status, REMEMBER_SECONDS)
            await self._redis.eval(SAVE_IF_FIRST, 1, _key(job.identity), *arguments)


def _key(identity: Identity) -> str:
    return RECORD + json.dumps(identity)


def _mark(job: Job) -> bytes:
    return f"begun {job.lease.name}".encode()


def _outcome(record: bytes | None) -> Outcome | None:
    return None if record is None or record.startswith(b"begun ") else Outcome.from_json(record)


# The task acknowledges itself. taskiq's other ways also acknowledge a cancelled task, and its message would be lost.
@broker.task(task_name="mail.deliver", ack_type="manual")
async def deliver(
    message: str,
    job: str,
    context: Context = TaskiqDepends(),  # noqa: B008 (taskiq requires this)
) -> None:
    """Send one message to one recipient. Its outcome is in the job's record.

    If this task ends before it acknowledges, by SIGKILL or because Redis is down, a worker gets the job again after
    DEAD_AFTER_SECONDS. The message may have been handed over: that is one more "unknown".
    """
    client: Client = context.state.client
    queued = Job.from_header(job, message.encode("ascii"), Lease(uuid.uuid4().hex, 0.0))
    async with Redis(connection_pool=broker.connection_pool) as redis:
        decision = await send_job(queued, client, RedisStore(redis), backoff=BACKOFF)
        if isinstance(decision, Later):
            arguments = {**context.message.kwargs, "job": decision.job.to_header()}
            again = context.message.model_copy(update={"kwargs": arguments})
            await redis.zadd(LATER, {broker.formatter.dumps(again).message: time.time() + (decision.seconds or 0)})
        await context.ack()


@broker.task(task_name="mail.wake")
async def wake() -> None:
    """Do nothing: see `tick`."""


async def tick(redis: Redis) -> None:
    """Do what the broker does not do. Every worker calls this, and it does not matter how many do."""
    for job in await redis.zrange(LATER, 0, time.time(), byscore=True, offset=0, num=1000):
        await redis.eval(MOVE_IF_STILL_THERE, 2, LATER, QUEUE, job)
    # The broker looks for jobs of dead workers only after a batch that it reads: in a quiet hour, never.
    milliseconds = int(DEAD_AFTER_SECONDS * 1000)
    if await redis.xpending_range(QUEUE, QUEUE, min="-", max="+", count=1, idle=milliseconds):
        await wake.kiq()
    # Acknowledged jobs stay in the stream until they are trimmed. maxlen= would also trim jobs that were not sent.
    (group,) = await redis.xinfo_groups(QUEUE)  # before `pending`: jobs delivered in between come after it
    pending = await redis.xpending(QUEUE, QUEUE)
    await redis.xtrim(QUEUE, minid=pending["min"] or group["last-delivered-id"], approximate=False)


async def keep_ticking() -> None:
    """Run `tick` for as long as the worker runs, whatever Redis does."""
    while True:
        await asyncio.sleep(TICK_SECONDS)
        try:
            async with Redis(connection_pool=broker.connection_pool) as redis:
                await tick(redis)
        except RedisError:
            logger.exception("Redis does not do what it should; next try in %g s", TICK_SECONDS)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def start(state: TaskiqState) -> None:
    """Make the one client of this process; it connects with the first message."""
    state.client = Client.from_url(SERVER, max_connections=CONNECTIONS, timeout=SEND_SECONDS)
    state.ticking = asyncio.create_task(keep_ticking())


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def stop(state: TaskiqState) -> None:
    """End what `start` began."""
    state.ticking.cancel()
    await asyncio.wait([state.ticking])
    await state.client.aclose()


async def run() -> None:
    """Run jobs until SIGTERM or SIGINT; then take no more jobs, and finish those in flight."""
    told_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    broker.is_worker_process = True
    receiver = Receiver(broker, max_async_tasks=JOBS_IN_FLIGHT, wait_tasks_timeout=SEND_SECONDS + 10)
    try:
        await receiver.listen(told_to_stop)
    finally:
        await broker.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(run())
