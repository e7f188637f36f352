"""The example worker against a real PostgreSQL: three processes, one of them killed again and again, lose nothing."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import importlib.util
import os
import pwd
import re
import shutil
import signal
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

import psycopg
import pytest
import pytest_asyncio

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
"""A machine that is busy may keep a worker from its heartbeat for longer than the usual three seconds."""


# --- a PostgreSQL of our own ----------------------------------------------------------------------------------------


def postgresql(name: str) -> str:
    """Return the path of a program of PostgreSQL; Debian's newest, else the one on the PATH."""

    def version(path: str) -> int:
        return int(re.sub(r"\D", "", Path(path).parts[4]) or 0)

    installed = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=version)
    found = installed[-1] if installed else shutil.which(name)
    if found is None:
        pytest.fail(f"PostgreSQL has no {name} here: run docs/examples/install.sh as root")
    return found


def as_postgres() -> dict[str, Any]:
    """Return the options of `subprocess` for a user that PostgreSQL runs as: root it refuses."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A PostgreSQL on a Unix socket in a folder of its own; what to connect to."""
    user = as_postgres()
    folder = tempfile.mkdtemp(prefix="smtplite-postgres-")
    server: subprocess.Popen[bytes] | None = None
    try:
        if user:
            os.chown(folder, user["user"], user["group"])
        subprocess.run(
            [postgresql("initdb"), "--auth=trust", "--username=mail", "--encoding=UTF8", "--no-sync", "-D", "data"],
            cwd=folder,
            check=True,
            capture_output=True,
            **user,
        )
        with Path(folder, "log").open("wb") as log:
            server = subprocess.Popen(
                [postgresql("postgres"), "-D", "data", "-k", folder, "-c", "listen_addresses="],
                cwd=folder,
                stdout=log,
                stderr=log,
                **user,
            )
        info = f"host={folder} user=mail dbname=postgres"
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                psycopg.connect(info).close()
                break
            except psycopg.OperationalError:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"PostgreSQL does not start: {Path(folder, 'log').read_text()}")
                time.sleep(0.05)  # it says nowhere that it is ready
        yield info
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # "fast": whoever is connected is sent away
            server.wait(DEADLINE_SECONDS)
        shutil.rmtree(folder)


# --- the example, and its processes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mailqueue() -> ModuleType:
    """The module, as the application imports it."""
    spec = importlib.util.spec_from_file_location("procrastinate_example_mailqueue", FOLDER / "mailqueue.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Site:
    """What one test has: a database with the schema, the mail server, and worker processes."""

    def __init__(self, database: str, mail: ThreadedServer, connection: psycopg.AsyncConnection[Any]) -> None:
        self.database = database
        self.mail = mail
        self.connection = connection
        """The application's."""
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "DATABASE_URL": self.database,
            "MAIL_URL": self.mail.url,
            "MAIL_FIRST_RETRY_SECONDS": "0.5",
            "MAIL_HEARTBEAT_SECONDS": "0.5",
            "MAIL_DEAD_AFTER_SECONDS": "3",
            "MAIL_RESCUE_CRON": "* * * * * *",
            "MAIL_POLL_SECONDS": "0.25",
            **settings,
        }
        process = subprocess.Popen([sys.executable, FOLDER / "worker.py", *arguments], env=environment)
        self.processes.append(process)
        return process

    async def rows(self, query: str, **arguments: Any) -> list[Any]:
        cursor = await self.connection.execute(query, arguments)
        rows = await cursor.fetchall()
        await self.connection.commit()
        return rows

    async def jobs(self) -> dict[str, int]:
        """Return how many jobs of `deliver` have which status."""
        query = "SELECT status::text, count(*) FROM procrastinate_jobs WHERE task_name = 'mail.deliver' GROUP BY 1"
        return dict(await self.rows(query))

    async def until_jobs_are(self, **expected: int) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (now := await self.jobs()) != expected:
            assert time.monotonic() < deadline, f"jobs are {now}, not {expected}"
            await asyncio.sleep(0.05)  # the database tells only those who LISTEN, and not of what is done

    async def outcomes(self) -> dict[str, tuple[str, str | None, str]]:
        """Return recipient -> (status, reply, error)."""
        rows = await self.rows("SELECT recipient, status, reply, error FROM smtplite_outcome WHERE status <> 'begun'")
        return {recipient: (status, reply, error) for recipient, status, reply, error in rows}

    async def until_outcomes_are(self, **expected: int) -> dict[str, tuple[str, str | None, str]]:
        """Wait until so many jobs have each outcome, and none is queued any more."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            outcomes = await self.outcomes()
            now = dict(Counter(status for status, _, _ in outcomes.values()))
            jobs = await self.jobs()
            if now == expected and jobs.keys() == {"succeeded"}:
                return outcomes
            assert time.monotonic() < deadline, f"outcomes are {now}, not {expected}; jobs are {jobs}"
            await asyncio.sleep(0.05)  # as above


def killed(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(DEADLINE_SECONDS)


@pytest_asyncio.fixture
async def site(postgres: str) -> AsyncIterator[Site]:
    name = f"test_{time.monotonic_ns()}"
    async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as connection:
        await connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]  # a name cannot be quoted in
    database = postgres.replace("dbname=postgres", f"dbname={name}")
    with SMTPServer().in_thread() as mail:
        async with await psycopg.AsyncConnection.connect(database) as connection:
            site = Site(database, mail, connection)
            assert site.start("schema").wait(DEADLINE_SECONDS) == 0
            try:
                yield site
            finally:
                for process in site.processes:
                    killed(process)
        assert not mail.violations


def letter(to: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Shop <shop@example.org>"
    message["To"] = to
    message["Subject"] = "Your order"
    message.set_content("Thank you.\n")
    return message


def message_id_of(content: bytes) -> str:
    found = re.search(rb"^Message-ID: (.*?)\r$", content, re.MULTILINE | re.IGNORECASE)
    assert found is not None
    return found[1].decode()


# --- what holds -----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_message_is_sent_if_the_applications_transaction_commits_and_only_then(
    site: Site, mailqueue: ModuleType
) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with site.connection.transaction():
            await mailqueue.enqueue(site.connection, letter("no@example.net"), ["no@example.net"])
            raise ZeroDivisionError  # the order could not be booked
    await site.connection.commit()
    assert await site.jobs() == {}
    async with site.connection.transaction():
        message_id = await mailqueue.enqueue(
            site.connection, letter("yes@example.net"), ["yes@example.net", "hidden@example.net"]
        )
    await site.connection.commit()
    site.start(**NOBODY_DIES)
    await site.until_jobs_are(succeeded=2)
    assert sorted(m.recipients for m in site.mail.messages) == [("hidden@example.net",), ("yes@example.net",)]
    assert {message_id_of(m.content) for m in site.mail.messages} == {message_id}


@pytest.mark.asyncio
async def test_each_outcome_is_retried_or_recorded_as_the_policy_says(site: Site, mailqueue: ModuleType) -> None:
    site.mail.reply("RCPT", "451 4.3.0 try again later", to="later@example.net", times=2)
    site.mail.reply("RCPT", "451 4.3.0 never today", to="never@example.net")
    site.mail.reply("RCPT", "550 5.1.1 no such user", to="nobody@example.net")
    for name in ("twice", "once"):  # accepted, and the final reply is lost
        site.mail.reply("END_OF_DATA", b"", performs=True, close=True, to=f"{name}@example.net", times=1)
    ids = {
        name: await mailqueue.enqueue(
            site.connection,
            letter(f"{name}@example.net"),
            [f"{name}@example.net"],
            when_unknown="record" if name == "once" else "retry",
        )
        for name in ("later", "nobody", "twice", "once")
    }
    await site.connection.commit()
    site.start(MAIL_FIRST_RETRY_SECONDS="2", MAIL_LONGEST_RETRY_SECONDS="3", MAIL_POLL_SECONDS="0.2", **NOBODY_DIES)
    # Its time begins when somebody sends: the start of a worker may take as long on a machine that is busy.
    await site.mail.wait_for_messages_async(1, timeout=DEADLINE_SECONDS)
    never = "never@example.net"
    await mailqueue.enqueue(site.connection, letter(never), [never], not_after=timedelta(seconds=15))
    await site.connection.commit()
    outcomes = await site.until_outcomes_are(accepted=2, expired=1, refused=1, unknown=1)
    assert {
        to: (outcome, reply) for to, (outcome, reply, _) in outcomes.items() if outcome in ("refused", "unknown")
    } == {
        "nobody@example.net": ("refused", "550 5.1.1 no such user"),
        "once@example.net": ("unknown", None),
    }
    assert "451 4.3.0 never today" in outcomes["never@example.net"][2]
    assert outcomes["once@example.net"][2].startswith("DeliveryUnknown: ")
    arrived = Counter((message_id_of(m.content), m.recipients[0]) for m in site.mail.messages)
    assert arrived == {
        (ids["later"], "later@example.net"): 1,
        (ids["twice"], "twice@example.net"): 2,
        (ids["once"], "once@example.net"): 1,
    }


@pytest.mark.asyncio
async def test_a_job_of_a_dead_worker_that_must_not_arrive_twice_is_recorded_as_unknown(
    site: Site, mailqueue: ModuleType
) -> None:
    held = site.mail.hold("END_OF_DATA")
    await mailqueue.enqueue(site.connection, letter("once@example.net"), ["once@example.net"], when_unknown="record")
    await mailqueue.enqueue(site.connection, letter("twice@example.net"), ["twice@example.net"])
    await site.connection.commit()
    process = site.start(**NOBODY_DIES)
    await asyncio.to_thread(held.wait, 2, timeout=DEADLINE_SECONDS)
    killed(process)
    held.release()
    site.start()
    outcomes = await site.until_outcomes_are(accepted=1, unknown=1)
    assert outcomes["once@example.net"][0] == "unknown"
    assert "it died" in outcomes["once@example.net"][2]
    assert Counter(m.recipients[0] for m in site.mail.messages) == {"once@example.net": 1, "twice@example.net": 2}


@pytest.mark.asyncio
async def test_a_worker_that_is_told_to_stop_finishes_what_is_in_flight_and_takes_nothing_more(
    site: Site, mailqueue: ModuleType
) -> None:
    held = site.mail.hold("END_OF_DATA")
    for number in range(10):
        await mailqueue.enqueue(site.connection, letter(f"{number}@example.net"), [f"{number}@example.net"])
    await site.connection.commit()
    process = site.start(MAIL_JOBS_IN_FLIGHT="4", MAIL_CONNECTIONS="4", **NOBODY_DIES)
    await asyncio.to_thread(held.wait, 4, timeout=DEADLINE_SECONDS)
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        await asyncio.to_thread(process.wait, 1.0)  # it waits for the verdicts
    held.release()
    assert await asyncio.to_thread(process.wait, DEADLINE_SECONDS) == 0
    assert await site.jobs() == {"succeeded": 4, "todo": 6}
    assert len(site.mail.messages) == 4


@pytest.mark.asyncio
async def test_three_workers_of_which_one_is_killed_again_and_again_lose_no_message(
    site: Site, mailqueue: ModuleType
) -> None:
    site.mail.reply("RCPT", "451 4.3.0 busy", times=60)
    site.mail.reply("END_OF_DATA", b"", performs=True, close=True, times=20)
    queued = {}
    for number in range(MESSAGES):
        to = f"{number}@example.net"
        queued[to] = await mailqueue.enqueue(site.connection, letter(to), [to])
    await site.connection.commit()

    began = time.monotonic()
    steady = [site.start() for _ in range(2)]
    victim = site.start()
    kills = 0
    for count in range(KILL_EVERY, MESSAGES, KILL_EVERY):
        await site.mail.wait_for_messages_async(count, timeout=DEADLINE_SECONDS)
        killed(victim)
        kills += 1
        victim = site.start()
    outcomes = await site.until_outcomes_are(accepted=MESSAGES)
    seconds = time.monotonic() - began

    assert [process.poll() for process in steady] == [None, None]
    arrived: dict[str, list[str]] = {}
    for message in site.mail.messages:
        (to,) = message.recipients
        arrived.setdefault(to, []).append(message_id_of(message.content))
    assert arrived.keys() == queued.keys(), "a message was lost"
    assert {to: set(ids) for to, ids in arrived.items()} == {to: {message_id} for to, message_id in queued.items()}
    assert outcomes.keys() == queued.keys()
    print(
        f"\nprocrastinate: {MESSAGES} messages, 3 workers, {kills} x SIGKILL, 60 x 451, 20 lost verdicts: "
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
async def test_sizing(site: Site, mailqueue: ModuleType) -> None:
    """Prints what the page shows: a server 20 ms away, and messages a second by workers, connections and jobs."""
    table = []
    total = 0
    async with far_away(site.mail, 0.02) as url:
        for workers, connections, jobs, messages in SIZES:
            site.mail.reset()
            for number in range(messages):
                to = f"{number}@example.net"
                await mailqueue.enqueue(site.connection, letter(to), [to])
            await site.connection.commit()
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
            total += messages
            await site.until_jobs_are(succeeded=total)
            assert len(site.mail.messages) == messages
            for process in processes:
                killed(process)
            table.append(f"| {workers} | {connections} | {jobs} | {(messages - 1) / seconds:.0f} |")
    print("\n| workers | connections each | jobs in flight each | messages a second |\n| ---: | ---: | ---: | ---: |")
    print(*table, sep="\n")
