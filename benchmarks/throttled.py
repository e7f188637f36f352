"""How near real workers come to the rate of a relay that throttles, without a rule: a line of docs/howto/shaping.md.

::

    python -m benchmarks.throttled                        # both kinds of relay, 40 messages a second; four minutes
    python -m benchmarks.throttled --kind bucket --rate 100 --seconds 80

Worker processes take jobs from JetStream, with an empty ``[shaping]``; the relay is the built-in server, which refuses
with 451 4.7.1 what is too much. The first minute is theirs to find the rate; what is printed of it counts apart.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.common import ROOT
from smtplite.testing import ReceivedMessage, SMTPServer
from smtplite.worker import jobs_for
from tests.worker.engines import NatsServer

KINDS: Final = ("bucket", "second")
FIRST_SECONDS: Final = 60.0
RAW: Final = b"From: shop@example.org\r\nTo: a@example.net\r\n\r\nHello\r\n"


class Relay:
    """Decides about each message, and remembers when and how.

    Args:
        kind: "bucket": what was not used of the last second may be used at once; "second": so many in each second.
        rate: messages a second.
    """

    def __init__(self, kind: str, rate: float) -> None:
        self._is_bucket = kind == "bucket"
        self._rate = rate
        self._left = 1.0
        self._at = time.monotonic()
        self.decided: list[tuple[float, bool]] = []

    def __call__(self, _: ReceivedMessage) -> str | None:
        """Return the refusal, or None."""
        now = time.monotonic()
        if self._is_bucket:
            self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        elif int(now) != int(self._at):
            self._left = self._rate
        self._at = now
        is_accepted = self._left >= 1
        self._left -= is_accepted
        self.decided.append((now, is_accepted))
        return None if is_accepted else "451 4.7.1 too many messages"

    def shares(self, begin: float, end: float) -> tuple[float, float]:
        """Return what part of the rate was used between these times, and what part of the messages was refused."""
        decided = [accepted for at, accepted in self.decided if begin <= at < end]
        return sum(decided) / ((end - begin) * self._rate), decided.count(False) / max(1, len(decided))


async def queue(url: str, count: int) -> None:
    """Put so many jobs into JetStream."""
    import nats

    from smtplite.worker.jetstream import enqueue

    connection = await nats.connect(url)
    for _ in range(count):
        await enqueue(connection, jobs_for(RAW, lane="bulk"))
    await connection.close()


def measure(kind: str, rate: float, seconds: float, workers: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the shares of the first minute, and of all that comes after it."""
    relay = Relay(kind, rate)
    server = SMTPServer(on_message=relay, keep=False)
    with NatsServer() as engine, server.in_thread(), tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "worker.toml")
        config.write_text(
            f'[relay]\nurl = "smtp://{server.host}:{server.port}?tls=none"\n'
            f'[source]\nengine = "jetstream"\nurl = "{engine.url}"\n[shaping]\n',
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "smtplite", "worker"]
        subprocess.run([*command, "install", str(config)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        asyncio.run(queue(engine.url, int(rate * seconds * 1.3)))
        running = [
            subprocess.Popen([*command, "run", str(config)], cwd=ROOT, stderr=subprocess.DEVNULL)
            for _ in range(workers)
        ]
        try:
            time.sleep(seconds)  # what is measured is time
            end = time.monotonic()
        finally:
            for worker in running:
                worker.send_signal(signal.SIGTERM)
            for worker in running:
                worker.wait(60)
    begin = relay.decided[0][0]
    return relay.shares(begin, begin + FIRST_SECONDS), relay.shares(begin + FIRST_SECONDS, end)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throttled", description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS, help="how the relay counts")
    parser.add_argument("--rate", type=float, default=40.0, help="messages a second that it accepts")
    parser.add_argument("--workers", type=int, default=3, help="processes")
    parser.add_argument("--seconds", type=float, default=110.0, help="how long each runs: more than a minute")
    options = parser.parse_args(arguments)
    if options.seconds <= FIRST_SECONDS + 10:
        parser.error("--seconds must be more than 70: what comes after the first minute counts")
    if lacking := NatsServer.missing():
        print(f"not measured: {lacking}", file=sys.stderr)
        return 1
    for kind in options.kind:
        for name, (used, refused) in zip(
            ("first minute", "then"), measure(kind, options.rate, options.seconds, options.workers), strict=True
        ):
            print(f"{kind}, {name}: {used:.2f} of {options.rate:g} a second, {refused:.1%} refused", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
