"""A worker process that is told to stop in the middle: once, and again and again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from smtplite.testing import SMTPServer
from smtplite.worker import Job, Source
from smtplite.worker.config import Config
from tests.worker import lanes
from tests.worker.kit import PATIENCE_SECONDS, letter, until

_JOBS: Final = 40
_CONNECTIONS: Final = 4


async def stop_in_the_middle(
    source: dict[str, str], enqueue: Callable[[Iterable[Job]], Awaitable[None]], *, patiently: bool
) -> None:
    """Run a worker, have the relay keep all verdicts back, send SIGTERM, and look at what the engine has then.

    Args:
        source: the table of the configuration.
        enqueue: queues as an application does.
        patiently: whether the relay gives its verdicts after the first signal; else more signals are sent.
    """
    jobs = [job for number in range(_JOBS) for job in letter(number, when_unknown=("retry", "record")[number % 2])]
    with SMTPServer().in_thread() as mail:
        held = mail.hold("END_OF_DATA")
        async with (
            lanes.worker(source, mail.url) as start,
            Config.of({"relay": {"url": mail.url}, "source": source}, "here").open_source() as looking,
        ):
            await enqueue(jobs)
            process = start()
            await asyncio.to_thread(held.wait, _CONNECTIONS, timeout=PATIENCE_SECONDS)
            process.terminate()
            if patiently:
                held.release()
            async with asyncio.timeout(PATIENCE_SECONDS):  # it would wait for the verdicts for an hour
                while process.poll() is None:
                    await asyncio.sleep(0.1)
                    if not patiently:
                        process.terminate()  # signals that come together are one, so perhaps one more
            held.release()
            # One signal more may find it when it hears none any more: all is written down by then.
            assert process.returncode in ([0] if patiently else [0, -signal.SIGTERM])
            await until(lambda: _is_leased(looking, 0))  # an acknowledgement may be on its way
            [lane] = await looking.status()
            outcomes = await looking.store.find([job.identity for job in jobs])
        taken = [path for message in mail.messages for path in message.recipients]
        assert len(taken) == len(set(taken)), "nothing was sent twice"
        under_way = {job.identity: job.when_unknown for job in jobs if job.identity.recipient in taken}
        if patiently:
            assert dict.fromkeys(under_way, "accepted") == {
                identity: outcome.status for identity, outcome in outcomes.items()
            }
            assert (lane.waiting, lane.later) == (_JOBS - len(taken), 0)
        else:
            once = [identity for identity, when_unknown in under_way.items() if when_unknown == "record"]
            assert dict.fromkeys(once, "unknown") == {
                identity: outcome.status for identity, outcome in outcomes.items()
            }
            # What was begun and not handed over was a try, too.
            assert lane.waiting + lane.later == _JOBS - len(once)
            assert lane.later >= len(taken) - len(once)


async def _is_leased(looking: Source, count: int) -> bool:
    return sum(lane.leased for lane in await looking.status()) == count
