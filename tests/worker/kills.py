"""Three workers, killed by SIGKILL again and again: nothing is lost, and what must not arrive twice does not.

``python -m tests.worker.kills --engine postgres --kills 1000``. Each worker is ``smtplite worker run``, a process of
its own. Half of the jobs are "retry", half "record"; the relay refuses some for now, and loses some verdicts.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from smtplite.testing import SMTPServer, ThreadedServer
from smtplite.worker import Identity, Job, Outcome
from smtplite.worker.config import Config, Installable
from tests.worker.engines import NatsServer, PostgresServer
from tests.worker.kit import letter

WORKERS: Final = 3
CONNECTIONS: Final = 4
BATCH: Final = 20
LEASE_SECONDS: Final = 2.0
#: A worker is killed after the relay took so many more messages, at most.
MESSAGES_PER_KILL: Final = 50
PATIENCE_SECONDS: Final = 120.0
#: How often it is asked whether there is still something to send: the engine has to count all of it.
LOOK_SECONDS: Final = 1.0


@attrs.frozen
class Report:
    """What came of it.

    Attributes:
        kills: how many workers were killed while there was something to send.
        jobs: how many jobs there were.
        lost_verdicts: how often the relay took a message, and its reply was lost.
        copies: identity -> how often it arrived.
        outcomes: identity -> what was written down.
        message_ids: identity -> the Message-IDs that its copies had.
        at_most_once: those that must not arrive twice.
    """

    kills: int
    jobs: int
    lost_verdicts: int
    copies: Counter[str]
    outcomes: dict[Identity, Outcome]
    message_ids: dict[str, set[bytes]]
    at_most_once: set[str]

    def check(self) -> None:
        """Raise AssertionError if a promise was broken."""
        assert len(self.outcomes) == self.jobs, "a job has no outcome"
        for identity, outcome in self.outcomes.items():
            copies = self.copies[identity.recipient]
            if identity.recipient in self.at_most_once:
                assert copies <= 1, f"{identity} arrived {copies} times"
                assert outcome.status in ("accepted", "unknown")
                assert outcome.status == "unknown" or copies == 1
            else:
                assert outcome.status == "accepted", f"{identity} is {outcome}"
                assert copies >= 1, f"{identity} is lost"
        assert all(len(ids) == 1 for ids in self.message_ids.values())
        assert self.duplicates <= self.kills * BATCH + self.lost_verdicts
        assert self.unknown <= self.kills * BATCH + self.lost_verdicts

    @property
    def duplicates(self) -> int:
        return sum(copies - 1 for copies in self.copies.values())

    @property
    def unknown(self) -> int:
        return sum(outcome.status == "unknown" for outcome in self.outcomes.values())

    def __str__(self) -> str:
        return (
            f"{self.jobs} jobs, {WORKERS} workers, {self.kills} x SIGKILL, {self.lost_verdicts} lost verdicts:"
            f" {self.duplicates} duplicates, {self.unknown} unknown, {self.jobs - len(self.outcomes)} lost"
        )


def make_jobs(count: int) -> list[Job]:
    return [job for number in range(count) for job in letter(number, when_unknown=("retry", "record")[number % 2])]


class Fleet:
    """Worker processes over one configuration."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._log = config.with_suffix(".log")
        self._processes = [self._started() for _ in range(WORKERS)]

    def _started(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "smtplite", "worker", "run", str(self._config)], stdout=log, stderr=log
            )

    def kill_one(self) -> None:
        """Kill any of them, and start another."""
        index = random.randrange(WORKERS)
        self._processes[index].kill()
        self._processes[index].wait()
        self._processes[index] = self._started()

    def terminate(self) -> list[int]:
        """Tell all to stop, and return their exit codes."""
        for process in self._processes:
            process.terminate()
        return [process.wait(PATIENCE_SECONDS) for process in self._processes]

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


@asynccontextmanager
async def fleet(source: dict[str, Any], relay: ThreadedServer) -> AsyncIterator[tuple[Fleet, Installable]]:
    """Install the engine, and give workers over it, and a source to look with."""
    with tempfile.TemporaryDirectory(prefix="smtplite-workers-") as folder:
        config = Path(folder, "worker.toml")
        lines = [
            f'[relay]\nurl = "{relay.url}"\n[source]\nlease_seconds = {LEASE_SECONDS}',
            *(f'{key} = "{value}"' for key, value in source.items()),
            f"[worker]\nbatch = {BATCH}\n[worker.lanes]\nbulk = {CONNECTIONS}",
            "[worker.backoff]\nfirst = 0.1\nlongest = 0.2\n",
        ]
        config.write_text("\n".join(lines))  # noqa: ASYNC240 (a test)
        async with Config.read(config).open_source() as looking:
            await looking.install()
            workers = Fleet(config)
            try:
                yield workers, looking
            except BaseException:
                print(workers.log(), file=sys.stderr)
                raise
            finally:
                workers.kill()


async def run(source: dict[str, Any], enqueue: Any, kills: int, jobs: list[Job]) -> Report:
    """Queue jobs, kill workers while they are sent, and say what came of it."""
    lost = max(5, len(jobs) // 200)
    relay = SMTPServer()
    relay.reply("RCPT", "451 4.7.1 later", times=len(jobs) // 50)
    relay.reply("END_OF_DATA", b"", performs=True, close=True, times=lost)
    with relay.in_thread() as mail:
        async with fleet(source, mail) as (workers, looking):
            await enqueue(jobs)
            arrived = killed = 0
            while killed < kills:
                arrived += random.randrange(MESSAGES_PER_KILL)
                if not await _until(lambda wanted=arrived: len(mail.messages) >= wanted, looking):
                    break
                arrived = max(arrived, len(mail.messages))
                await asyncio.to_thread(workers.kill_one)
                killed += 1
            outcomes = await _all_outcomes(looking, [job.identity for job in jobs])
            # The last one may not have come so far as to hear the signal.
            assert set(await asyncio.to_thread(workers.terminate)) <= {0, -signal.SIGTERM}
            assert not await _left(looking)
        copies: Counter[str] = Counter()
        message_ids: dict[str, set[bytes]] = {}
        for message in mail.messages:
            [recipient] = message.recipients
            copies[recipient] += 1
            message_ids.setdefault(recipient, set()).add(_message_id(message.content))
        once = {job.identity.recipient for job in jobs if job.when_unknown == "record"}
        return Report(killed, len(jobs), lost, copies, outcomes, message_ids, once)


def _message_id(content: bytes) -> bytes:
    return content.partition(b"Message-ID: ")[2].partition(b"\r\n")[0]


async def _until(condition: Any, looking: Installable) -> bool:
    """Wait for so many messages; return False if nothing is left to be sent."""
    began = looked = time.monotonic()
    while not condition():
        if time.monotonic() > looked + LOOK_SECONDS:
            if not await _left(looking):
                return False
            looked = time.monotonic()
            assert looked < began + PATIENCE_SECONDS, "the workers do not send"
        await asyncio.sleep(0.02)
    return True


async def _all_outcomes(looking: Installable, identities: list[Identity]) -> dict[Identity, Outcome]:
    """Wait for the outcome of each, as long as they become more."""
    outcomes: dict[Identity, Outcome] = {}
    least, until = len(identities) + 1, 0.0
    while len(outcomes) < len(identities):
        left = await _left(looking)
        if left < least:
            least, until = left, time.monotonic() + PATIENCE_SECONDS
        elif time.monotonic() > until:
            raise AssertionError(f"{len(identities) - len(outcomes)} jobs have no outcome; in the queue are {left}")
        if not left:
            outcomes |= await looking.store.find(identities)
        await asyncio.sleep(0.2)
    return outcomes


async def _left(looking: Installable) -> int:
    return sum(lane.waiting + lane.leased + lane.later for lane in await looking.status())


async def over_postgres(info: str, kills: int, jobs: list[Job]) -> Report:
    """Run over a database."""
    import psycopg

    from smtplite.worker.postgres import enqueue

    async def queue(given: Iterable[Job]) -> None:
        async with await psycopg.AsyncConnection.connect(info) as connection:
            await enqueue(connection, given)

    return await run({"engine": "postgres", "url": info}, queue, kills, jobs)


async def over_jetstream(url: str, kills: int, jobs: list[Job], *, stream: str = "SMTPLITE") -> Report:
    """Run over a server."""
    import nats

    from smtplite.worker.jetstream import enqueue

    async def queue(given: Iterable[Job]) -> None:
        connection = await nats.connect(url)
        await enqueue(connection, given, stream=stream)
        await connection.close()

    return await run({"engine": "jetstream", "url": url, "stream": stream}, queue, kills, jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["postgres", "jetstream"], default="postgres")
    parser.add_argument("--kills", type=int, default=1000)
    options = parser.parse_args()
    jobs = make_jobs(options.kills * MESSAGES_PER_KILL)
    began = time.monotonic()
    if options.engine == "postgres":
        with PostgresServer() as database:
            report = asyncio.run(over_postgres(database.info, options.kills, jobs))
    else:
        with NatsServer() as server:
            report = asyncio.run(over_jetstream(server.url, options.kills, jobs))
    print(f"{options.engine}: {report}; {time.monotonic() - began:.0f} s")
    report.check()
    print("all promises were kept")


if __name__ == "__main__":
    main()
