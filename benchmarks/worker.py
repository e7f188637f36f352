"""A client in a process of its own, which does what it is asked to and says how long that took.

``python -m benchmarks.worker NAME`` is how the command starts one; NAME is a key of PEERS, with an option behind a
colon. It reads one JSON object a line. Each is a `Work`, or whatever the peer understands. The answers, a line each:

1. ``{"ready": true}``: the connection is warm, the large message is made, the clock stands. The command resets the
   server's counts and the memory's high-water mark, and writes a line.
2. ``{"seconds": ..., "cpu_seconds": ...}`` and what else the peer measured.

In place of either: ``{"unavailable": "why"}`` or ``{"error": "traceback"}``.

A client that is not written in Python speaks the same: see `peers/nodemailer.mjs`.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
import traceback
from typing import Any, Final, Protocol

#: Name -> its module below `benchmarks`.
PEERS: Final = {
    "smtplite": "peers.by_smtplite",
    "untraceable": "peers.by_untraceable",
    "aiosmtplib": "peers.by_aiosmtplib",
    "smtpproto": "peers.by_smtpproto",
    "sync": "peers.by_sync",
    "smtplib": "peers.by_smtplib",
    "raw": "peers.by_raw_bytes",
    "handshake": "handshake",
    "kernels": "kernels",
}


class NotAvailable(Exception):
    """The peer cannot do this; the text says why."""


class Turn:
    """One measurement: the peer calls `begin` when all is prepared, and `end` when the work is done."""

    def __init__(self) -> None:
        self.result: dict[str, Any] = {}

    def begin(self) -> None:
        gc.collect()
        _say({"ready": True})
        sys.stdin.readline()
        self._cpu = time.process_time()
        self._start = time.perf_counter()

    def end(self) -> None:
        self.result["seconds"] = time.perf_counter() - self._start
        self.result["cpu_seconds"] = time.process_time() - self._cpu


class Peer(Protocol):
    """What a module in PEERS offers."""

    def run(self, request: dict[str, Any], turn: Turn, option: str) -> None:
        """Do what is asked; `begin` and `end` the turn, and put what else was measured into its result.

        Raises:
            NotAvailable: this peer cannot do that.
        """

    def versions(self) -> dict[str, str]:
        """Return what runs here: name -> version."""


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    name, _, option = sys.argv[1].partition(":")
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a peer opens a connection for each message
    try:
        peer: Peer = importlib.import_module(f"benchmarks.{PEERS[name]}")
    except ImportError as error:
        for _ in sys.stdin:
            _say({"unavailable": f"cannot be imported: {error}"})
        return
    for line in sys.stdin:
        turn = Turn()
        request = json.loads(line)
        if request == "versions":
            _say(peer.versions())
            continue
        try:
            peer.run(request, turn, option)
        except NotAvailable as reason:
            _say({"unavailable": str(reason)})
        except Exception:  # noqa: BLE001 (whatever it is, the command shows it)
            _say({"error": traceback.format_exc()})
        else:
            _say(turn.result)


if __name__ == "__main__":
    from benchmarks import worker  # the peers know this module by its name: its classes must be the same

    worker.main()
