"""The example worker against a real Redis: three processes, one of them killed again and again, lose nothing."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from smtplite.testing import SMTPServer, ThreadedServer

FOLDER = Path(__file__).parent
MESSAGES = 3000
KILL_EVERY = 200
SIZES = [
    (1, 1, 1, 60),
    (1, 1, 2, 60),
    (1, 4, 4, 200),
    (1, 4, 8, 200),
    (1, 16, 32, 400),
    (3, 4, 8, 400),
    (3, 16, 32, 400),
]
"""Workers, connections of each, jobs in flight of each, messages."""
DEADLINE_SECONDS = 240.0
"""Of each wait: it ends the test, it is not what the test takes."""
NOBODY_DIES = {"MAIL_DEAD_AFTER_SECONDS": "60"}
"""A machine that is busy may keep a worker waiting for longer than the usual three seconds: it is not dead."""


# --- a Redis of our own, for each test ------------------------------------------------------------------------------


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A Redis on a Unix socket in a folder of its own, which keeps nothing; what to connect to."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("redis-server is not here: run docs/examples/install.sh as root")
    folder = tempfile.mkdtemp(prefix="smtplite-redis-")
    server: subprocess.Popen[bytes] | None = None
    try:
        socket = Path(folder, "socket")
        options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
        with Path(folder, "log").open("wb") as log:
            server = subprocess.Popen([program, *options], cwd=folder, stdout=log, stderr=log)
        yield f"unix://{socket}"
    finally:
        if server is not None:
            server.terminate()
            server.wait(DEADLINE_SECONDS)
        shutil.rmtree(folder)


# --- the example, and its processes ---------------------------------------------------------------------------------


class Site:
    """What one test has: a Redis, the mail server, the module as the application imports it, and worker processes."""

    def __init__(self, url: str, redis: Redis, mail: ThreadedServer, worker: ModuleType) -> None:
        self.url = url
        self.redis = redis
        self.mail = mail
        self.worker = worker
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, **settings: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "REDIS_URL": self.url,
            "MAIL_URL": self.mail.url,
            "MAIL_FIRST_RETRY_SECONDS": "0.5",
            "MAIL_DEAD_AFTER_SECONDS": "3",
            "MAIL_TICK_SECONDS": "0.25",
            **settings,
        }
        process = subprocess.Popen([sys.executable, FOLDER / "worker.py"], env=environment)
        self.processes.append(process)
        return process

    async def enqueue(self, to: str, **options: Any) -> str:
        message = EmailMessage()
        message["From"] = "Shop <shop@example.org>"
        message["To"] = to
        message["Subject"] = "Your order"
        message.set_content("Thank you.\n")
        message_id: str = await self.worker.enqueue(message, [to], **options)
        return message_id

    async def left(self) -> dict[str, int]:
        """Return how many jobs nobody has yet, how many a worker has or had, and how many wait for their next try.

        In one transaction: a job goes round through all three, and would be missed by whoever looks one after another.
        """
        async with self.redis.pipeline(transaction=True) as at_once:
            at_once.xinfo_groups("mail")
            at_once.xrange("mail")
            at_once.xpending("mail", "mail")
            at_once.zcard("mail:later")
            (group,), entries, pending, later = await at_once.execute()
        delivered = _position(group["last-delivered-id"])
        return {
            "queued": sum(_position(name) > delivered for name, _ in entries),
            "pending": pending["pending"],
            "later": later,
        }

    async def until_nothing_is_left(self) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while any((left := await self.left()).values()):
            assert time.monotonic() < deadline, f"still there: {left}"
            await asyncio.sleep(0.05)  # an acknowledgement is announced to nobody

    async def outcomes(self) -> dict[str, tuple[str, str | None, str]]:
        """Return recipient -> (status, reply, error) of all that was not accepted."""
        outcomes = {}
        for key in await self.redis.keys("mail:record:*"):
            record = await self.redis.get(key)
            assert not record.startswith(b"begun "), "a mark was left"
            entry = json.loads(record)
            if entry["status"] != "accepted":
                _, recipient = json.loads(key.removeprefix(b"mail:record:"))
                outcomes[recipient] = (entry["status"], entry["reply"], entry["error"])
        return outcomes


def _position(entry: bytes) -> tuple[int, ...]:
    """Return where an entry of a stream stands, from its name: milliseconds and a number."""
    return tuple(map(int, entry.split(b"-")))


def killed(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(DEADLINE_SECONDS)


def load(url: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the example anew: its broker belongs to one Redis and one event loop."""
    monkeypatch.setenv("REDIS_URL", url)
    spec = importlib.util.spec_from_file_location("taskiq_example_worker", FOLDER / "worker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest_asyncio.fixture
async def site(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    worker = load(redis_url, monkeypatch)
    async with Redis.from_url(redis_url) as redis:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                await redis.ping()
                break
            except RedisConnectionError:
                assert time.monotonic() < deadline, "Redis does not start"
                await asyncio.sleep(0.02)  # there is no socket yet
        await worker.broker.startup()
        try:
            with SMTPServer().in_thread() as mail:
                site = Site(redis_url, redis, mail, worker)
                try:
                    yield site
                finally:
                    for process in site.processes:
                        killed(process)
                assert not mail.violations
        finally:
            await worker.broker.shutdown()


def message_id_of(content: bytes) -> str:
    found = re.search(rb"^Message-ID: (.*?)\r$", content, re.MULTILINE | re.IGNORECASE)
    assert found is not None
    return found[1].decode()


# --- what holds -----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_each_outcome_is_retried_or_recorded_as_the_policy_says(site: Site) -> None:
    site.mail.reply("RCPT", "451 4.3.0 try again later", to="later@example.net", times=2)
    site.mail.reply("RCPT", "451 4.3.0 never today", to="never@example.net")
    site.mail.reply("RCPT", "550 5.1.1 no such user", to="nobody@example.net")
    for name in ("twice", "once"):  # accepted, and the final reply is lost
        site.mail.reply("END_OF_DATA", b"", performs=True, close=True, to=f"{name}@example.net", times=1)
    ids = {
        name: await site.enqueue(f"{name}@example.net", when_unknown="record" if name == "once" else "retry")
        for name in ("later", "nobody", "twice", "once")
    }
    site.start(MAIL_FIRST_RETRY_SECONDS="2", MAIL_LONGEST_RETRY_SECONDS="3", **NOBODY_DIES)
    # Its time begins when somebody sends: the start of a worker may take as long on a machine that is busy.
    await site.mail.wait_for_messages_async(1, timeout=DEADLINE_SECONDS)
    await site.enqueue("never@example.net", not_after=timedelta(seconds=15))
    await site.mail.wait_for_messages_async(4, timeout=DEADLINE_SECONDS)
    await site.until_nothing_is_left()
    outcomes = await site.outcomes()
    status, _, error = outcomes.pop("never@example.net")
    assert (status, "451 4.3.0 never today" in error) == ("expired", True)
    assert {to: (outcome, reply) for to, (outcome, reply, _) in outcomes.items()} == {
        "nobody@example.net": ("refused", "550 5.1.1 no such user"),
        "once@example.net": ("unknown", None),
    }
    assert outcomes["once@example.net"][2].startswith("DeliveryUnknown: ")
    arrived = Counter((message_id_of(m.content), m.recipients[0]) for m in site.mail.messages)
    assert arrived == {
        (ids["later"], "later@example.net"): 1,
        (ids["twice"], "twice@example.net"): 2,
        (ids["once"], "once@example.net"): 1,
    }


@pytest.mark.asyncio
async def test_a_temporary_refusal_of_what_must_not_arrive_twice_is_retried_too(site: Site) -> None:
    site.mail.reply("RCPT", "451 4.3.0 try again later", times=2)
    await site.enqueue("once@example.net", when_unknown="record")
    site.start(MAIL_FIRST_RETRY_SECONDS="0.1", **NOBODY_DIES)
    await site.mail.wait_for_messages_async(1, timeout=DEADLINE_SECONDS)
    await site.until_nothing_is_left()
    assert await site.outcomes() == {}
    assert len(site.mail.messages) == 1


@pytest.mark.asyncio
async def test_a_job_of_a_dead_worker_that_must_not_arrive_twice_is_recorded_as_unknown(site: Site) -> None:
    """And nothing else needs to be queued for it: a quiet queue is looked through as well."""
    held = site.mail.hold("END_OF_DATA")
    await site.enqueue("once@example.net", when_unknown="record")
    await site.enqueue("twice@example.net")
    process = site.start(**NOBODY_DIES)
    await asyncio.to_thread(held.wait, 2, timeout=DEADLINE_SECONDS)
    killed(process)
    held.release()
    site.start()
    await site.until_nothing_is_left()
    [(recipient, (status, reply, error))] = (await site.outcomes()).items()
    assert (recipient, status, reply) == ("once@example.net", "unknown", None)
    assert "it died" in error
    assert Counter(m.recipients[0] for m in site.mail.messages) == {"once@example.net": 1, "twice@example.net": 2}


@pytest.mark.asyncio
async def test_a_worker_that_is_told_to_stop_finishes_what_is_in_flight_and_another_gets_the_rest(site: Site) -> None:
    held = site.mail.hold("END_OF_DATA")
    for number in range(10):
        await site.enqueue(f"{number}@example.net")
    process = site.start(MAIL_JOBS_IN_FLIGHT="4", MAIL_CONNECTIONS="4", **NOBODY_DIES)
    await asyncio.to_thread(held.wait, 4, timeout=DEADLINE_SECONDS)
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        await asyncio.to_thread(process.wait, 1.0)  # it waits for the verdicts
    held.release()
    assert await asyncio.to_thread(process.wait, DEADLINE_SECONDS) == 0
    sent = len(site.mail.messages)
    assert 4 <= sent < 10
    left = await site.left()
    assert left["queued"] + left["pending"] == 10 - sent
    site.start()
    await site.mail.wait_for_messages_async(10, timeout=DEADLINE_SECONDS)
    await site.until_nothing_is_left()
    assert len(site.mail.messages) == 10  # nothing twice


@pytest.mark.asyncio
async def test_three_workers_of_which_one_is_killed_again_and_again_lose_no_message(site: Site) -> None:
    site.mail.reply("RCPT", "451 4.3.0 busy", times=60)
    site.mail.reply("END_OF_DATA", b"", performs=True, close=True, times=20)
    queued = {}
    for number in range(MESSAGES):
        to = f"{number}@example.net"
        queued[to] = await site.enqueue(to)

    began = time.monotonic()
    steady = [site.start() for _ in range(2)]
    victim = site.start()
    kills = 0
    for count in range(KILL_EVERY, MESSAGES, KILL_EVERY):
        await site.mail.wait_for_messages_async(count, timeout=DEADLINE_SECONDS)
        killed(victim)
        kills += 1
        victim = site.start()
    await site.until_nothing_is_left()
    seconds = time.monotonic() - began

    assert [process.poll() for process in steady] == [None, None]
    arrived: dict[str, list[str]] = {}
    for message in site.mail.messages:
        (to,) = message.recipients
        arrived.setdefault(to, []).append(message_id_of(message.content))
    assert arrived.keys() == queued.keys(), "a message was lost"
    assert {to: set(ids) for to, ids in arrived.items()} == {to: {message_id} for to, message_id in queued.items()}
    assert await site.outcomes() == {}
    assert await site.redis.xlen("mail") < MESSAGES  # what is done is trimmed
    print(
        f"\ntaskiq: {MESSAGES} messages, 3 workers, {kills} x SIGKILL, 60 x 451, 20 lost verdicts: "
        f"{len(site.mail.messages) - MESSAGES} duplicates, 0 lost, {seconds:.1f} s"
    )


@contextlib.asynccontextmanager
async def far_away(mail: ThreadedServer, seconds: float) -> AsyncIterator[str]:
    """A way to the server that takes `seconds` for a round trip; what to connect to."""
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while octets := await reader.read(65536):
                loop.call_later(seconds / 2, writer.write, octets)
        except ConnectionError:
            pass  # a worker went away
        finally:
            loop.call_later(seconds / 2, writer.close)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(mail.host, mail.port)
        writers.extend([writer, back])
        tasks.extend([loop.create_task(relay(reader, back)), loop.create_task(relay(there, writer))])

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}?tls=none"
        await asyncio.gather(*tasks)
        for writer in writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.mark.asyncio
async def test_sizing(site: Site) -> None:
    """Prints what the page shows: a server 20 ms away, and messages a second by workers, connections and jobs."""
    table = []
    async with far_away(site.mail, 0.02) as url:
        for workers, connections, jobs, messages in SIZES:
            site.mail.reset()
            for number in range(messages):
                await site.enqueue(f"{number}@example.net")
            processes = [
                site.start(
                    MAIL_URL=url, MAIL_CONNECTIONS=str(connections), MAIL_JOBS_IN_FLIGHT=str(jobs), **NOBODY_DIES
                )
                for _ in range(workers)
            ]
            await site.mail.wait_for_messages_async(1, timeout=DEADLINE_SECONDS)
            began = time.monotonic()
            await site.mail.wait_for_messages_async(messages, timeout=DEADLINE_SECONDS)
            seconds = time.monotonic() - began
            await site.until_nothing_is_left()
            assert len(site.mail.messages) == messages
            for process in processes:
                killed(process)
            table.append(f"| {workers} | {connections} | {jobs} | {(messages - 1) / seconds:.0f} |")
    print("\n| workers | connections each | jobs in flight each | messages a second |\n| ---: | ---: | ---: | ---: |")
    print(*table, sep="\n")
