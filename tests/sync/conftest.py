"""A server in a thread of its own; and programs in processes of their own, which end as a user's do."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO

import pytest

from smtplite import SyncClient
from smtplite.testing import SMTPServer, ThreadedServer

PATIENCE_SECONDS = 60

#: What every program begins with.
PREFACE = """
import atexit, os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)

def say(*words):
    print(*words, flush=True)
"""
USING = """
import smtplite
from smtplite import SyncClient

RAW = b"From: me@example.org\\r\\nTo: you@example.org\\r\\nMessage-ID: <%s@x>\\r\\n\\r\\nbody\\r\\n"
client = SyncClient("127.0.0.1", int(sys.argv[1]), tls="none")
"""


#: From Python 3.12 on os.fork warns where there are threads; what follows from that is what is tested.
WARNINGS = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]


class Program:
    """A program in a process of its own."""

    def __init__(self, source: str, server: ThreadedServer) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-W",
                "ignore:This process:DeprecationWarning",
                "-c",
                source,
                str(server.port),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def stdin(self) -> IO[str]:
        assert self.process.stdin is not None
        return self.process.stdin

    def line(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; return exit code, and what is left of stdout and stderr."""
        stdout, stderr = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, stdout, stderr


@pytest.fixture
def server() -> Iterator[ThreadedServer]:
    with SMTPServer().in_thread() as server:
        yield server
        assert server.violations == []


@pytest.fixture
def client(server: ThreadedServer) -> Iterator[SyncClient]:
    with SyncClient(server.host, server.port, tls="none") as client:
        yield client


@pytest.fixture
def program(server: ThreadedServer) -> Iterator[Callable[..., Program]]:
    """Start a program: ``program(source)``; `before` runs before smtplite is imported."""
    started: list[Program] = []

    def start(source: str, *, before: str = "") -> Program:
        started.append(Program(PREFACE + before + USING + source, server))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()
