"""The command line is run in this process by `main`, and as a program of its own where signals and pipes matter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest

from smtplite.cli import main
from smtplite.testing import SMTPServer
from smtplite.testing.threaded import ThreadedServer
from smtplite.testing.tls import authority

#: Longer than any program of these tests should take.
PATIENCE_SECONDS = 60.0

Start = Callable[..., ThreadedServer]
Spawn = Callable[..., "subprocess.Popen[str]"]


@attrs.frozen
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]
Finish = Callable[["subprocess.Popen[str]"], Ran]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SMTPLITE_URL", "SMTPLITE_PASSWORD", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A shell that starts pytest in the background has it ignore SIGINT, and every program that it starts as well."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which is not inherited: a program has the default
    yield
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture
def start() -> Iterator[Start]:
    """Give a function that starts a server in a thread; the arguments are SMTPServer's."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(SMTPServer(**options).in_thread())


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(path)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs a command in this process."""

    def call(*arguments: str | Path) -> Ran:
        code: object
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse's
            code = error.code
        assert isinstance(code, int)
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Give a function that starts a command as a program; it is ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def call(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = {**os.environ, **options.pop("env", {})}
        program = subprocess.Popen(
            [sys.executable, "-m", "smtplite", *map(str, arguments)],
            text=True,
            encoding="utf-8",
            env=environment,
            **{**pipes, **options},
        )
        running.append(program)
        return program

    yield call
    for program in running:
        if program.poll() is None:
            program.kill()
        program.communicate(timeout=PATIENCE_SECONDS)


@pytest.fixture
def finish() -> Finish:
    """Give a function that waits for the end of a program, of which lines were read before.

    `communicate` would lose what was read ahead with them.
    """

    def call(program: subprocess.Popen[str]) -> Ran:
        assert program.stdout is not None
        assert program.stderr is not None
        out, err = program.stdout.read(), program.stderr.read()
        return Ran(program.wait(PATIENCE_SECONDS), out, err)

    return call
