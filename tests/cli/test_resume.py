"""`smtplite send` is killed, runs out of room or is stopped: what its results file says is true (rule R31).

The judge is the server's own record. Whoever was accepted by it has at least a "begun" line, whatever is not in the
file was never named to it, and after `--resume` nobody has a message twice.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from smtplite.cli import send
from smtplite.cli.results import Results
from smtplite.testing.threaded import ThreadedServer

if sys.platform != "win32":
    import resource

pytestmark = pytest.mark.needs("signals for other processes")

Start = Callable[..., ThreadedServer]
Run = Callable[..., Any]
Spawn = Callable[..., "subprocess.Popen[str]"]
Finish = Callable[["subprocess.Popen[str]"], Any]

PATIENCE_SECONDS: Final = 60.0
_ADDRESS: Final = re.compile(rb"TO:<(r[0-9]+[a-c]@example\.net)>")


def until(condition: Callable[[], bool], program: subprocess.Popen[str] | None = None) -> None:
    """Wait for something that tells nobody when it happens."""
    pause = threading.Event()
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        if program is not None and program.poll() is not None:
            return
        pause.wait(0.001)


@attrs.define
class Case:
    """An outbox with a results file, and the server."""

    outbox: Path
    log: Path
    server: ThreadedServer
    spawn: Spawn
    run: Run

    def fill(self, count: int) -> None:
        """Write messages for one to three recipients each."""
        self.outbox.mkdir()
        for n in range(count):
            to = ", ".join(f"r{n}{letter}@example.net" for letter in "abc"[: n % 3 + 1])
            octets = f"From: ada@example.org\r\nTo: {to}\r\nSubject: {n}\r\n\r\nHello.\r\n".encode()
            (self.outbox / f"{n:04}.eml").write_bytes(octets)

    def send(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return self.spawn("send", "--server", self.server.url, *arguments, self.outbox, **options)

    def resume(self, *arguments: str) -> Any:
        return self.run("send", "--server", self.server.url, "--resume", self.log, *arguments, self.outbox)

    @property
    def recipients(self) -> set[str]:
        """Everybody."""
        return {
            f"r{int(path.stem)}{letter}@example.net"
            for path in self.outbox.iterdir()
            for letter in "abc"[: int(path.stem) % 3 + 1]
        }

    @property
    def accepted(self) -> Counter[str]:
        """What the server answers for."""
        until(lambda: not any(connection.is_open for connection in self.server.connections))
        return Counter(recipient for message in self.server.messages for recipient in message.recipients)

    @property
    def named(self) -> set[str]:
        """Whom the server was asked about."""
        return {
            address.decode()
            for connection in self.server.connections
            for address in _ADDRESS.findall(b"".join(data for who, data in connection.transcript if who == "C"))
        }

    def judge(self) -> set[str]:
        """Compare what the file says with what the server has; return whose outcome is unknown."""
        with Results(self.log, read_only=True) as results:
            known = results.known
        accepted = self.accepted
        unknown, told, silent = set(), set(), set()
        for recipient in self.recipients:
            n = int(recipient[1 : recipient.index("@") - 1])
            record = known.get(str(self.outbox / f"{n:04}.eml"))
            found = None if record is None else record.results.get(recipient) or record.results.get(None)
            if found is None:
                silent.add(recipient)
            elif found.outcome == "unknown":
                unknown.add(recipient)
            elif found.outcome == "accepted":
                told.add(recipient)
            else:
                assert found.outcome == "not_sent"
                assert recipient not in accepted
        assert not silent & self.named, "the server was asked about a message that is not in the file"
        assert told <= set(accepted), "the file says accepted, and the server does not have it"
        assert set(accepted) <= told | unknown, "the server has it, and the file does not say that it may"
        assert self.server.violations == []
        return unknown

    def judge_resumed(self) -> None:
        """Resume, twice: what is unknown is left alone, then sent."""
        unknown = self.judge()
        before = self.accepted
        ran = self.resume()
        messages = {recipient[: recipient.index("@") - 1] for recipient in unknown}
        assert ran.code == (4 if unknown else 0)
        if unknown:
            noun = "message" if len(messages) == 1 else "messages"
            assert ran.out.startswith(f"{len(messages)} {noun} may have arrived: not sent again, unless you pass --r")
        assert self.judge() == unknown
        accepted = self.accepted
        assert {recipient: accepted[recipient] for recipient in unknown} == {
            recipient: before[recipient] for recipient in unknown
        }
        assert all(accepted[recipient] == 1 for recipient in self.recipients - unknown)
        assert self.resume("--resend-unknown").code == 0
        assert self.judge() == set()
        accepted = self.accepted
        assert set(accepted) == self.recipients
        assert {recipient for recipient, times in accepted.items() if times != 1} <= unknown
        assert self.resume().out == "nothing is left to send\n"


@pytest.fixture
def case(start: Start, spawn: Spawn, run: Run, tmp_path: Path) -> Case:
    return Case(tmp_path / "outbox", tmp_path / "log", start(), spawn, run)


# kill -9


@pytest.mark.parametrize("options", [[], ["--chunking", "--in-flight", "4"]], ids=["DATA", "chunks"])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "END_OF_DATA", "RSET"])
@pytest.mark.exhaustive(keep=2)
def test_a_kill_at_a_chosen_moment_leaves_the_truth(verb: str, options: list[str], case: Case) -> None:
    """R31."""
    case.fill(24)
    target: dict[str, Any] = {} if verb in ("DATA", "RSET") else {"to": "r13a@example.net"}
    if verb == "MAIL":
        target = {"times": 1}
    if (verb == "DATA" and options) or (verb == "RSET" and not options):
        verb, target = "END_OF_DATA", {"to": "r7b@example.net"}
    held = case.server.hold(verb, **target)
    program = case.send("--connections", "2", "--results", str(case.log), *options)
    held.wait(timeout=PATIENCE_SECONDS)
    program.kill()
    program.wait(PATIENCE_SECONDS)
    held.release()
    case.judge_resumed()


@pytest.mark.parametrize("seed", range(100))
@pytest.mark.exhaustive(keep=2)
def test_a_kill_at_any_moment_leaves_the_truth(seed: int, case: Case) -> None:
    """R31: The moment is when the file has so many bytes, or the server so many messages."""
    choose = random.Random(seed)
    case.fill(60)
    options = choose.choice([[], ["--chunking"], ["--connections", "1"], ["--chunking", "--in-flight", "3"]])
    size, count = choose.randrange(1, 25_000), choose.randrange(1, 60)
    program = case.send("--results", str(case.log), *options)
    if seed % 2:
        until(lambda: case.log.exists() and case.log.stat().st_size >= size, program)
    else:
        until(lambda: len(case.server.messages) >= count, program)
    program.kill()
    assert program.wait(PATIENCE_SECONDS) in (0, -signal.SIGKILL), "it ended by itself"
    case.judge_resumed()


# A full disk


def limit_files(octets: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (octets, resource.RLIM_INFINITY))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.exhaustive(keep=1)
def test_a_full_disk_ends_it_and_leaves_the_truth(seed: int, case: Case, finish: Finish) -> None:
    """R31."""
    choose = random.Random(seed)
    case.fill(40)
    options = choose.choice([[], ["--chunking"], ["--connections", "1"]])
    room = choose.randrange(0, 12_000)
    program = case.send("--results", str(case.log), *options, preexec_fn=limit_files(room))
    ran = finish(program)
    assert ran.code in (1, 4)  # 4: a connection was given up while something was under way
    assert ran.err.count(f"smtplite send: cannot write {case.log}: File too large\n") == 1
    assert "Traceback" not in ran.err
    assert case.log.stat().st_size <= room
    content = case.log.read_bytes()
    assert not content or content.endswith(b"}\n")
    case.judge_resumed()


def test_what_was_accepted_while_the_disk_was_full_is_still_shown(case: Case, finish: Finish) -> None:
    """The terminal says what the file cannot."""
    case.fill(1)
    room = len(b'{"file": "", "recipient": null, "outcome": "begun"}\n') + len(str(case.outbox / "0000.eml"))
    ran = finish(case.send("--results", str(case.log), preexec_fn=limit_files(room)))
    assert ran.code == 1
    assert ran.out.startswith("1 message, 1 recipient: accepted 1, refused 0, unknown 0; ")
    assert case.judge() == {"r0a@example.net"}


# Two at a time


@pytest.mark.parametrize("option", ["--results", "--resume"])
def test_a_second_process_on_the_same_file_is_refused(option: str, case: Case, finish: Finish) -> None:
    """R31."""
    case.fill(5)
    held = case.server.hold("END_OF_DATA", to="r2a@example.net")
    program = case.send("--connections", "1", "--results", str(case.log))
    held.wait(timeout=PATIENCE_SECONDS)
    ran = case.run("send", "--server", case.server.url, option, case.log, case.outbox)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        f"smtplite send: {case.log} is in use by another smtplite send: wait for its end, or use another file\n"
    )
    other = case.log.with_name("other")
    ran = case.run("send", "--server", case.server.url, "--resume", case.log, "--results", other, case.outbox)
    assert ran.code == 2
    held.release()
    assert finish(program).code == 0
    assert set(case.accepted.values()) == {1}
    assert case.resume().out == "nothing is left to send\n"


def test_what_two_files_say_is_known_together(case: Case) -> None:
    """--resume OLD --results NEW, ended and begun again: NEW counts as well."""
    case.fill(9)
    held = case.server.hold("END_OF_DATA", to="r4a@example.net")
    program = case.send("--connections", "1", "--results", str(case.log))
    held.wait(timeout=PATIENCE_SECONDS)
    program.kill()
    program.wait(PATIENCE_SECONDS)
    held.release()
    unknown = case.judge()
    before = case.log.read_bytes()
    new = case.log.with_name("new")
    for _ in range(2):
        ran = case.run("send", "--server", case.server.url, "--resume", case.log, "--results", new, case.outbox)
        assert ran.code == 4
        assert set(case.accepted.values()) == {1}
        assert set(case.accepted) | unknown == case.recipients
    assert "nothing is left to send" in ran.out
    assert unknown
    assert case.log.read_bytes() == before


# Ctrl-C


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_although_a_message_is_still_being_read(
    number: signal.Signals, case: Case, finish: Finish
) -> None:
    """R27: What is read in a thread cannot be stopped: here it takes for ever, and holds nobody up."""
    case.fill(3)
    (case.outbox / "0001.eml").write_bytes(
        b"From: ada@example.org\r\nTo: r1a@example.net, r1b@example.net\r\n" + b"X: y\r\n" * 2000 + b"\r\nHi\r\n"
    )
    program = f"""
import sys, threading
from smtplite.sending import stream
prepared = stream._prepared
def hostile(item, *others):
    if item.tag.file.endswith("0001.eml"):
        print("reading", flush=True)
        threading.Event().wait()
    return prepared(item, *others)
stream._prepared = hostile
sys.argv[1:] = ["send", "--server", {case.server.url!r}, "--results", {str(case.log)!r}, {str(case.outbox)!r}]
from smtplite.cli import program
program()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "reading\n"
        until(lambda: len(case.server.messages) == 2)
        began = time.monotonic()
        child.send_signal(number)
        ran = finish(child)
        assert time.monotonic() - began < send._DRAIN_SECONDS  # for what is under way it would be waited so long
    assert ran.code == 128 + number
    assert "Traceback" not in ran.err
    assert "0001.eml: not sent: not sent: the command was stopped before its turn came" in ran.err
    assert case.judge() == set()
    case.judge_resumed()


def test_ctrl_c_ends_it_while_it_waits_for_stdin(case: Case, finish: Finish) -> None:
    program = """
import sys
from smtplite.cli import outbox, program
read = outbox._read_stdin
def reading():
    print("reading", flush=True)
    return read()
outbox._read_stdin = reading
sys.argv[1:] = ["send", "--server", "localhost", "-"]
program()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "reading\n"
        child.send_signal(signal.SIGINT)
        ran = finish(child)
    assert (ran.code, ran.err) == (130, "smtplite: interrupted\n")
