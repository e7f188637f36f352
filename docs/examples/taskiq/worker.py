"""Sends mail from a queue in Redis: a worker for taskiq that is meant to be copied and changed.

The application calls `enqueue`. ``python worker.py`` runs a worker; run as many as you need. It needs Redis 6.2.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import time
from collections.abc import Iterable
from email.message import EmailMessage
from email.utils import localtime, make_msgid
from typing import Literal

from redis.asyncio import Redis
from redis.exceptions import RedisError
from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq.receiver import Receiver
from taskiq_redis import RedisStreamBroker

from smtplite import Client, DeliveryUnknown, SMTPError
from smtplite.message import wire_bytes

WhenUnknown = Literal["send-again", "record"]
"""
What to do when nobody can know whether a message arrived. "send-again": better twice than never; every copy has the
same Message-ID. "record": better never than twice; somebody looks into it.
"""

REDIS = os.environ.get("REDIS_URL", "redis://localhost")
SERVER = os.environ.get("MAIL_URL", "smtp://localhost:1025?tls=none")
CONNECTIONS = int(os.environ.get("MAIL_CONNECTIONS", "4"))
JOBS_IN_FLIGHT = int(os.environ.get("MAIL_JOBS_IN_FLIGHT", "8"))
ATTEMPTS = int(os.environ.get("MAIL_ATTEMPTS", "12"))
FIRST_RETRY_SECONDS = float(os.environ.get("MAIL_FIRST_RETRY_SECONDS", "60"))
LONGEST_RETRY_SECONDS = float(os.environ.get("MAIL_LONGEST_RETRY_SECONDS", "14400"))
SEND_SECONDS = float(os.environ.get("MAIL_SEND_SECONDS", "660"))
DEAD_AFTER_SECONDS = float(os.environ.get("MAIL_DEAD_AFTER_SECONDS", str(2 * SEND_SECONDS + 30)))
TICK_SECONDS = float(os.environ.get("MAIL_TICK_SECONDS", "5"))
REMEMBER_SECONDS = 7 * 86_400

QUEUE = "mail"
LATER = "mail:later"  # sorted set: jobs that wait for their next try, by the time when it is due
OUTCOMES = "mail:outcomes"  # hash: "message-id recipient" -> what became of a job that was given up, as JSON
BEGUN = "mail:begun:"  # a key for each job of which nothing may be sent twice

MOVE_IF_STILL_THERE = """
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then
    redis.call('XADD', KEYS[2], '*', 'data', ARGV[1])
end
"""

broker = RedisStreamBroker(
    REDIS,
    queue_name=QUEUE,
    consumer_group_name=QUEUE,
    consumer_id="0",  # by default what was queued before the first worker ever started would be skipped
    xread_count=JOBS_IN_FLIGHT,
    xread_block=1000,
    # A job is fetched while others are still in flight, so it may wait for as long as a send takes, and then be sent
    # for as long. Were this less, two workers could have it at the same time.
    idle_timeout=int(DEAD_AFTER_SECONDS * 1000),
    unacknowledged_batch_size=JOBS_IN_FLIGHT,
    unacknowledged_lock_timeout=60,
    max_connection_pool_size=JOBS_IN_FLIGHT + 8,
)

logger = logging.getLogger("mail")


# --- in the application: between broker.startup() and broker.shutdown() ----------------------------------------------


async def enqueue(message: EmailMessage, recipients: Iterable[str], *, when_unknown: WhenUnknown = "send-again") -> str:
    """Queue a message.

    One job for each recipient, so that each has an outcome of its own, and a retry concerns nobody else. The Message-ID
    is fixed here, once: whatever happens later, every copy carries it.

    Returns:
        The Message-ID.
    """
    if message["Message-ID"] is None:
        message["Message-ID"] = make_msgid(domain=(message["From"] or "").rpartition("@")[2].strip("> ") or None)
    if message["Date"] is None:
        message["Date"] = localtime()
    message_id = str(message["Message-ID"])
    text = wire_bytes(message, seven_bit=True).decode("ascii")  # JSON has no octets; Bcc is left out already
    for recipient in recipients:
        await deliver.kiq(message=text, message_id=message_id, recipient=recipient, when_unknown=when_unknown)
    return message_id


# --- in the worker --------------------------------------------------------------------------------------------------


def seconds_to_next_try(error: Exception, attempt: int, when_unknown: WhenUnknown) -> float | None:
    """Return how long to wait before the job runs again; None: it does not."""
    if isinstance(error, DeliveryUnknown):
        if when_unknown == "record":
            return None
    elif not (isinstance(error, SMTPError) and error.retryable):
        return None
    if attempt >= ATTEMPTS:
        return None
    longest = min(FIRST_RETRY_SECONDS * 2 ** min(attempt - 1, 30), LONGEST_RETRY_SECONDS)
    return random.uniform(longest / 2, longest)  # jitter: those refused together come back apart


# Acknowledged by itself alone: taskiq's other ways acknowledge a task that was cancelled, too, and it would be lost.
@broker.task(task_name="mail.deliver", ack_type="manual")
async def deliver(
    message: str,
    message_id: str,
    recipient: str,
    when_unknown: WhenUnknown,
    attempt: int = 1,
    context: Context = TaskiqDepends(),  # noqa: B008 (this is how taskiq wants it)
) -> None:
    """Send one message to one recipient. What was given up is in mail:outcomes.

    If this ends before its ack, by SIGKILL or because Redis is away, a worker gets the job again after
    DEAD_AFTER_SECONDS. It may have been handed over: that is one more "unknown".
    """
    client: Client = context.state.client
    begun = f"{BEGUN}{message_id} {recipient}"
    async with Redis(connection_pool=broker.connection_pool) as redis:
        if when_unknown == "record" and not await redis.set(begun, "begun", nx=True, ex=REMEMBER_SECONDS):
            if await redis.get(begun) != b"done":
                await record(redis, message_id, recipient, DeliveryUnknown("the worker died while it had the job"))
            await context.ack()
            return
        try:
            await client.send(message.encode("ascii"), recipients=[recipient])
        except Exception as error:  # noqa: BLE001 (whatever it is, it is recorded, or the job would come back for ever)
            seconds = seconds_to_next_try(error, attempt, when_unknown)
            if seconds is None:
                await record(redis, message_id, recipient, error)
            else:
                arguments = {**context.message.kwargs, "attempt": attempt + 1}
                again = context.message.model_copy(update={"kwargs": arguments})
                async with redis.pipeline(transaction=True) as pipeline:
                    pipeline.zadd(LATER, {broker.formatter.dumps(again).message: time.time() + seconds})
                    pipeline.delete(begun)
                    await pipeline.execute()
                await context.ack()
                return
        if when_unknown == "record":
            await redis.set(begun, "done", ex=REMEMBER_SECONDS)
        await context.ack()


async def record(redis: Redis, message_id: str, recipient: str, error: Exception) -> None:
    """Write down why a job was given up, with the server's reply."""
    outcome, reply = "failed", None
    if isinstance(error, DeliveryUnknown):
        outcome = "unknown"
    elif isinstance(error, SMTPError):
        reply = error.refused.get(recipient) or error.reply
        outcome = "refused" if reply is not None else "failed"
    entry = {
        "outcome": outcome,
        "reply": None if reply is None else str(reply),
        "error": f"{type(error).__name__}: {error}",
        "at": time.time(),
    }
    await redis.hset(OUTCOMES, f"{message_id} {recipient}", json.dumps(entry))


@broker.task(task_name="mail.wake")
async def wake() -> None:
    """Do nothing: see `tick`."""


async def tick(redis: Redis) -> None:
    """Do what the broker does not: every worker does, and it does not matter how many."""
    for job in await redis.zrange(LATER, 0, time.time(), byscore=True, offset=0, num=1000):
        await redis.eval(MOVE_IF_STILL_THERE, 2, LATER, QUEUE, job)
    # The broker looks for the jobs of dead workers behind each batch that it reads, so in a quiet hour never.
    milliseconds = int(DEAD_AFTER_SECONDS * 1000)
    if await redis.xpending_range(QUEUE, QUEUE, min="-", max="+", count=1, idle=milliseconds):
        await wake.kiq()
    # What is acknowledged stays in the stream until it is trimmed. A maxlen= would trim what was not sent yet, too.
    (group,) = await redis.xinfo_groups(QUEUE)  # before `pending`: what is delivered in between is behind it
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
    """Run jobs until SIGTERM or SIGINT: then take nothing more, and finish what is in flight."""
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
