"""The compiled programs, `sink.c` and `line.c`: built at first use, started, asked, ended."""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import attrs

from benchmarks.common import cache_folder

FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")
COMPILE_SECONDS: Final = 120.0
ANSWER_SECONDS: Final = 60.0

#: What a common server offers; the size is more than any benchmark sends.
KEYWORDS: Final = ("PIPELINING", "CHUNKING", "8BITMIME", "SIZE 268435456", "ENHANCEDSTATUSCODES")


class CannotBuild(Exception):
    """This machine cannot build or run the compiled programs; the text says why."""


def build(name: str) -> Path:
    """Return the program made of `name`.c, which is compiled if that was not done before.

    Raises:
        CannotBuild: no Linux, no compiler, or the compiler says no.
    """
    if not sys.platform.startswith("linux"):
        raise CannotBuild(f"{name}.c needs Linux (epoll)")
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise CannotBuild("no C compiler: install one, or name it in CC")
    source = Path(__file__).with_name(f"{name}.c")
    key = hashlib.sha256(repr((compiler, FLAGS)).encode() + source.read_bytes()).hexdigest()[:16]
    program = cache_folder() / f"{name}-{key}"
    if not program.exists():
        handle, unfinished = tempfile.mkstemp(dir=program.parent, prefix=f"{name}-")
        os.close(handle)
        command = [compiler, *FLAGS, "-o", unfinished, os.fspath(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
        if done.returncode:
            Path(unfinished).unlink()
            raise CannotBuild(f"{name}.c does not compile:\n{done.stderr}")
        Path(unfinished).replace(program)  # whole or not at all, also for somebody who builds it at the same time
    return program


def read_line(process: subprocess.Popen[bytes], seconds: float, buffer: bytearray) -> bytes:
    """Return the next line that the process prints.

    Raises:
        TimeoutError: it printed none in time.
        EOFError: it has ended.
    """
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    deadline = time.monotonic() + seconds
    while b"\n" not in buffer:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            raise TimeoutError(f"no answer within {seconds:g} s")
        data = os.read(descriptor, 65_536)
        if not data:
            raise EOFError("it has ended")
        buffer += data
    line, _, rest = bytes(buffer).partition(b"\n")
    buffer[:] = rest
    return line


def end(process: subprocess.Popen[bytes], seconds: float = 5.0) -> None:
    """End a process of ours that ends with its stdin."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.close()
    except BrokenPipeError:  # it ended before it read what we wrote
        pass
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


class _Program:
    """A compiled program that listens on a port and ends with its stdin."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._buffer = bytearray()
        try:
            self.port = int(self._read())
        except BaseException:
            end(self._process)
            raise

    def _read(self) -> bytes:
        return read_line(self._process, ANSWER_SECONDS, self._buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        end(self._process)


@attrs.frozen(kw_only=True)
class Counts:
    """What a sink counted; see `sink.c`."""

    messages: int
    recipients: int
    octets: int
    flights: int
    session_flights: int
    connections: int
    most_connections: int
    commands: int
    resets: int
    refused_bdat: int
    violations: int
    violation: str

    @property
    def round_trips(self) -> float:
        """Round trips a message, without those of the session; if the sink settles."""
        return (self.flights - self.session_flights) / max(self.messages, 1)


class Sink(_Program):
    """A running `sink.c`.

    Args:
        keywords: what it offers.
        settle_ms: hold replies until the client was silent for so long, so that a flight is a round trip.
        refuse: recipients whose local part begins so are refused.
    """

    def __init__(self, *keywords: str, settle_ms: int = 0, refuse: str | None = None) -> None:
        options = ["--settle", str(settle_ms)] if settle_ms else []
        options += ["--refuse", refuse] if refuse else []
        super().__init__(os.fspath(build("sink")), *options, *keywords)

    def counts(self, *, reset: bool = False) -> Counts:
        """Return the counts since the last reset."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"reset\n" if reset else b"counts\n")
        self._process.stdin.flush()
        return Counts(**json.loads(self._read()))

    def terminate(self) -> Counts:
        """End it by SIGTERM; return what it printed."""
        self._process.terminate()
        return Counts(**json.loads(self._read()))


class Line(_Program):
    """A running `line.c`.

    Args:
        port: of the server behind it.
        round_trip_seconds: what it adds.
        max_in_flight: octets that are on their way at most, for each connection and direction; None: its default.
    """

    def __init__(self, port: int, round_trip_seconds: float, *, max_in_flight: int | None = None) -> None:
        options = [] if max_in_flight is None else [str(max_in_flight)]
        super().__init__(os.fspath(build("line")), str(port), str(round(round_trip_seconds * 1e6)), *options)
