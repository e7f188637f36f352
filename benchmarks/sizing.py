"""How many messages a second so many workers send over so many connections: the table of docs/howto/sizing.md.

::

    python -m benchmarks.sizing                                    # JetStream and PostgreSQL; a few minutes
    python -m benchmarks.sizing --engine jetstream --workers 1 2 --connections 4 8 16 32 --rounds 3

Set up as `benchmarks.queued`: all on this machine, the relay 20 ms away, content by DATA, at least once. Beside the
rate stands what Little's law allows: so many connections, each with one message a round trip.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.queued import ROUND_TRIP_SECONDS, jetstream, postgres
from tests.worker.engines import NatsServer, PostgresServer

#: Name -> what is missing, and how to measure it.
ENGINES: Final[dict[str, tuple[Callable[[], str | None], Callable[..., float]]]] = {
    "jetstream": (NatsServer.missing, jetstream),
    "postgres": (PostgresServer.missing, postgres),
}
#: In a stream the content of a message, and MAIL, RCPT and DATA of the next one, are one write.
ROUND_TRIPS: Final = 1
#: Messages for each worker: with less than its batch, the others would have nothing to do.
FEWEST: Final = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--connections", nargs="+", type=int, default=[2, 4, 8, 16, 32], help="of all workers together")
    parser.add_argument("--seconds", type=float, default=4.0, help="what a measurement takes, about")
    parser.add_argument("--rounds", type=int, default=1, help="each so often, in turn; the median counts")
    options = parser.parse_args(arguments)
    cells = [
        (engine, workers, connections)
        for engine in options.engine
        for workers in options.workers
        for connections in options.connections
        if connections % workers == 0
    ]
    found: dict[tuple[str, int, int], list[float]] = {cell: [] for cell in cells}
    for _ in range(options.rounds):
        for cell in cells:
            engine, workers, connections = cell
            missing, measure = ENGINES[engine]
            if lacking := missing():
                print(f"left out: {engine}: {lacking}", file=sys.stderr)
                continue
            messages = max(FEWEST * workers, int(options.seconds * min(1_000.0, _most(connections))))
            found[cell].append(measure(messages, "retry", workers=workers, connections=connections))
            load = os.getloadavg()[0]
            print(f"{cell}: {found[cell][-1]:.0f} a second, load {load:.1f}", file=sys.stderr, flush=True)
    print("| Engine | Workers | Connections in all | Messages a second | Of what round trips allow |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for cell, rates in found.items():
        if rates:
            engine, workers, connections = cell
            rate = statistics.median(rates)
            print(f"| {engine} | {workers} | {connections} | {rate:,.0f} | {rate / _most(connections):.0%} |")
    return 0


def _most(connections: int) -> float:
    """Return the messages a second that the round trips allow."""
    return connections / (ROUND_TRIPS * ROUND_TRIP_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
