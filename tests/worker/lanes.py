"""Transactional mail while a lot of bulk mail waits, half of which the relay refuses for now: how long does it take?

``python -m tests.worker.lanes --engine postgres --jobs 100000`` starts an engine and a worker, and prints latencies.
The conformance suite does the same in one process, with fewer jobs and over every source.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from smtplite.testing import ReceivedMessage, SMTPServer
from smtplite.worker import Job
from smtplite.worker.config import Config
from tests.worker.engines import NatsServer, PostgresServer
from tests.worker.kit import letter

#: What is promised.
MOST_SECONDS: Final = 2.0
TRANSACTIONAL: Final = 24
PATIENCE_SECONDS: Final = 600.0

_URGENT: Final = "@urgent.example"


@attrs.define
class Relay:
    """What a relay saw; it refuses every other bulk message for now.

    Attributes:
        tries: how many bulk messages came, over and over again.
        arrived: transactional address -> when it came, and how many bulk messages had come by then.
    """

    tries: int = 0
    arrived: dict[str, tuple[float, int]] = attrs.field(factory=dict)

    def take(self, message: ReceivedMessage) -> str | None:
        """Answer a message: None accepts it."""
        [recipient] = message.recipients
        if recipient.endswith(_URGENT):
            self.arrived.setdefault(recipient, (time.monotonic(), self.tries))
            return None
        self.tries += 1
        return None if int(recipient.partition("@")[0]) % 2 else "451 4.7.1 later"


@attrs.frozen
class Report:
    """What came of it.

    Attributes:
        jobs: how many bulk jobs waited at first.
        tries: how many of them had been tried at the end.
        seconds: how long each transactional job took, from before it was queued to its arrival.
        overtaken_by: how many bulk messages the relay saw meanwhile, for each.
    """

    jobs: int
    tries: int
    seconds: list[float]
    overtaken_by: list[int]

    def check(self) -> None:
        """Raise AssertionError if one was late."""
        assert max(self.seconds) < MOST_SECONDS, str(self)

    def __str__(self) -> str:
        return (
            f"{len(self.seconds)} transactional jobs while {self.jobs} bulk jobs waited, of which {self.tries} were"
            f" tried meanwhile, half of them refused for now: median {statistics.median(self.seconds):.3f} s, worst"
            f" {max(self.seconds):.3f} s; bulk messages meanwhile: {max(self.overtaken_by)} at most"
        )


def bulk(count: int) -> Iterable[Job]:
    """Return so many jobs."""
    [job] = letter()
    for number in range(count):
        envelope = attrs.evolve(job.envelope, recipients=[f"{number}@example.net"])
        yield attrs.evolve(job, key=str(number), envelope=envelope)


async def measure(relay: Relay, enqueue: Callable[[Iterable[Job]], Awaitable[Any]], jobs: int, count: int) -> Report:
    """Queue transactional jobs, one after the other, spread over the time in which half of the bulk jobs are tried.

    Args:
        relay: of a worker that runs, and has these bulk jobs.
        enqueue: queues as an application does.
        jobs: how many bulk jobs there are.
        count: how many transactional jobs to queue.
    """
    seconds: list[float] = []
    overtaken_by: list[int] = []
    for number in range(count):
        await _until(lambda wanted=number * jobs // count // 2 + 1: relay.tries >= wanted)
        to = f"{number}{_URGENT}"
        queued, tries = time.monotonic(), relay.tries
        await enqueue(letter(number, to=to, key=to, lane="transactional"))
        await _until(lambda to=to: to in relay.arrived)
        arrived, tries_then = relay.arrived[to]
        seconds.append(arrived - queued)
        overtaken_by.append(tries_then - tries)
    return Report(jobs, relay.tries, seconds, overtaken_by)


async def _until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 (the relay may be in a thread of its own)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def worker(source: dict[str, str], url: str) -> AsyncIterator[Callable[[], subprocess.Popen[bytes]]]:
    """Install the engine, and give a function that starts a worker process, which ends with the block."""
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="smtplite-lanes-") as folder:
        config = Path(folder, "worker.toml")
        lines = [f'[relay]\nurl = "{url}"\n[source]', *(f'{key} = "{value}"' for key, value in source.items())]
        lines += ["[worker]", "drain = 3600", "[worker.lanes]", "transactional = 1", "bulk = 4\n"]
        config.write_text("\n".join(lines))  # noqa: ASYNC240 (a test)
        async with Config.read(config).open_source() as looking:
            await looking.install()

        def start() -> subprocess.Popen[bytes]:
            processes.append(subprocess.Popen([sys.executable, "-m", "smtplite", "worker", "run", str(config)]))
            return processes[-1]

        try:
            yield start
        finally:
            for process in processes:
                process.kill()
                process.wait()


async def over(source: dict[str, str], connect: Any, enqueue: Any, jobs: int, count: int) -> Report:
    """Run over an engine: a worker in a process of its own."""
    seen = Relay()
    relay = SMTPServer(on_message=seen.take, keep=False)
    with relay.in_thread() as mail:
        async with worker(source, mail.url) as start, connect() as connection:
            given = list(bulk(jobs))
            for first in range(0, jobs, 5000):
                await enqueue(connection, given[first : first + 5000])
            start()
            return await measure(seen, lambda urgent: enqueue(connection, urgent), jobs, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["postgres", "jetstream"], default="postgres")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--transactional", type=int, default=TRANSACTIONAL)
    options = parser.parse_args()
    if options.engine == "postgres":
        import psycopg

        from smtplite.worker import postgres

        @asynccontextmanager
        async def connect() -> AsyncIterator[Any]:
            async with await psycopg.AsyncConnection.connect(database.info, autocommit=True) as connection:
                yield connection

        with PostgresServer() as database:
            source = {"engine": "postgres", "url": database.info}
            report = asyncio.run(over(source, connect, postgres.enqueue, options.jobs, options.transactional))
    else:
        import nats

        from smtplite.worker import jetstream

        @asynccontextmanager
        async def connect() -> AsyncIterator[Any]:
            connection = await nats.connect(server.url)
            yield connection
            await connection.close()

        with NatsServer() as server:
            source = {"engine": "jetstream", "url": server.url}
            report = asyncio.run(over(source, connect, jetstream.enqueue, options.jobs, options.transactional))
    print(f"{options.engine}: {report}")
    report.check()


if __name__ == "__main__":
    main()
