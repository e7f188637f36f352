"""The clients in processes of their own: workers in Python, nodemailer in Node.js, Postfix's smtp-source."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import attrs

from benchmarks import native
from benchmarks.common import HOST, LOCAL_HOSTNAME, ROOT, cache_folder
from benchmarks.work import Work, letters, write_letters

READY_SECONDS: Final = 60.0
INSTALL_SECONDS: Final = 120.0
NODEMAILER: Final = "nodemailer@10.6.0"
SMTP_SOURCE: Final = ("smtp-source", "/usr/sbin/smtp-source", "/usr/libexec/postfix/smtp-source")

Request = Work | dict[str, Any]
Sample = dict[str, Any]


class Unavailable(Exception):
    """It is not there, or cannot do this; the text says why."""


class Failed(Exception):
    """It went wrong; the text says how."""


class Runner(Protocol):
    """Something that does a `Work` when told to."""

    def prepare(self, request: Request) -> None:
        """Get all ready: the next word is `go`."""

    def go(self) -> None:
        """Begin; does not wait."""

    def result(self, seconds: float) -> Sample:
        """Return what came of it, waiting so long."""

    def versions(self) -> dict[str, str]:
        """Return what runs: name -> version."""

    def close(self) -> None:
        """End it."""

    @property
    def memory(self) -> Memory | None:
        """Its memory, where it can be looked at between `prepare` and `go`."""


class Memory:
    """The memory of another process, as Linux counts it."""

    def __init__(self, pid: int) -> None:
        self._folder = Path("/proc") / str(pid)

    def reset_peak(self) -> int:
        """Forget the high-water mark; return the bytes resident now."""
        (self._folder / "clear_refs").write_text("5")
        return self._read("VmRSS")

    def peak(self) -> int:
        """Return the high-water mark in bytes."""
        return self._read("VmHWM")

    def _read(self, name: str) -> int:
        match = re.search(rf"^{name}:\s+(\d+) kB$", (self._folder / "status").read_text(), re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024


class Worker:
    """A process that speaks as `benchmarks.worker` does."""

    def __init__(self, command: list[str], **additions: str) -> None:
        self._additions = additions
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        self._buffer = bytearray()

    @classmethod
    def of_python(cls, name: str) -> Worker:
        peer, _, interpreter = name.partition("@")
        return cls([interpreter or sys.executable, "-m", "benchmarks.worker", peer])

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode("utf-8") + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Failed("its process has ended") from error

    def _answer(self, seconds: float) -> Sample:
        try:
            answer: Sample = json.loads(native.read_line(self._process, seconds, self._buffer))
        except (TimeoutError, EOFError) as error:
            self._process.kill()
            raise Failed(str(error)) from error
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def prepare(self, request: Request) -> None:
        fields = attrs.asdict(request) | self._additions if isinstance(request, Work) else request
        self._tell(json.dumps(fields))
        assert self._answer(READY_SECONDS) == {"ready": True}

    def go(self) -> None:
        self._tell("go")

    def result(self, seconds: float) -> Sample:
        return self._answer(seconds)

    def versions(self) -> dict[str, str]:
        self._tell(json.dumps("versions"))
        return self._answer(READY_SECONDS)

    def close(self) -> None:
        native.end(self._process)

    @property
    def memory(self) -> Memory | None:
        return Memory(self._process.pid) if sys.platform.startswith("linux") else None


# nodemailer


def nodemailer_folder() -> Path:
    """Return the folder with nodemailer's packages, installed there by npm if they are not.

    Raises:
        Unavailable: there is no Node.js or npm, or npm cannot install it.
    """
    if shutil.which("node") is None:
        raise Unavailable("there is no Node.js")
    folder = cache_folder() / NODEMAILER.replace("@", "-")
    if folder.exists():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("nodemailer is not installed, and there is no npm to install it")
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        Path(unfinished, "package.json").write_text('{ "private": true }\n')
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error", NODEMAILER]
        try:
            done = subprocess.run(
                command, cwd=unfinished, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable("npm did not end in time") from error
        if done.returncode:
            raise Unavailable(f"npm cannot install {NODEMAILER}: {done.stderr.strip()[-200:]}")
        shutil.copytree(unfinished, folder, symlinks=True, dirs_exist_ok=True)
    return folder


class Nodemailer(Worker):
    """nodemailer, as a worker in Node.js."""

    def __init__(self, scratch: Path) -> None:
        folder = nodemailer_folder()
        self._scratch = scratch
        script = Path(__file__).with_name("peers") / "nodemailer.mjs"
        super().__init__(["node", "--expose-gc", os.fspath(script), os.fspath(folder)])

    def prepare(self, request: Request) -> None:
        assert isinstance(request, Work)
        path = self._scratch / f"letters-{request.recipients}.json"
        if not path.exists():
            write_letters(path, request.recipients)
        self._additions = {"letters": os.fspath(path)}
        super().prepare(request)


# smtp-source


def smtp_source_program() -> str:
    """Return the path of Postfix's smtp-source.

    Raises:
        Unavailable: it is not installed.
    """
    for candidate in SMTP_SOURCE:
        program = shutil.which(candidate)
        if program is not None:
            return program
    raise Unavailable("smtp-source is not installed (it comes with Postfix)")


class SmtpSource:
    """Postfix's smtp-source: a C program that sends one message again and again. It connects within the time."""

    memory = None

    def __init__(self, scratch: Path) -> None:
        self._program = smtp_source_program()
        self._scratch = scratch
        self._command: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._start = 0.0

    def prepare(self, request: Request) -> None:
        assert isinstance(request, Work)
        if request.chunking:
            raise Unavailable("smtp-source has no BDAT")
        if request.form != "octets" or request.watch or request.way == "large-path":
            raise Unavailable("not measured")
        octets = request.large() if request.way == "large" else letters(request.recipients)[0].octets
        path = self._scratch / f"smtp-source-{len(octets)}"
        # It ends every line, doubles dots, and adds an empty line: so two octets less make the message of the others.
        path.write_bytes(octets[:-4].replace(b"\r\n", b"\n"))
        self._command = [self._program, "-d", "-M", LOCAL_HOSTNAME, "-f", "sender@example.org"]
        self._command += ["-t", "recipient@example.com", "-m", str(request.count), "-r", str(request.recipients)]
        self._command += ["-s", str(request.connections), "-F", os.fspath(path), f"inet:{HOST}:{request.port}"]

    def go(self) -> None:
        self._start = time.perf_counter()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def result(self, seconds: float) -> Sample:
        assert self._process is not None
        process, self._process = self._process, None
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.communicate()
            raise Failed(f"no end within {seconds:g} s") from error
        elapsed = time.perf_counter() - self._start
        if process.returncode:
            raise Failed(output.decode("utf-8", "replace")[-500:])
        return {"seconds": elapsed}

    def versions(self) -> dict[str, str]:
        postconf = shutil.which("postconf") or "/usr/sbin/postconf"
        try:
            done = subprocess.run(
                [postconf, "-dh", "mail_version"], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return {"Postfix": "of unknown version"}
        return {"Postfix": done.stdout.strip()}

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def start(name: str, scratch: Path) -> Runner:
    """Return the runner of a peer; behind an "@" the path of the Python that it runs on.

    Raises:
        Unavailable: it is not there.
    """
    if name == "nodemailer":
        return Nodemailer(scratch)
    if name == "smtp-source":
        return SmtpSource(scratch)
    return Worker.of_python(name)


def python_of(interpreter: str) -> str:
    """Return what another Python is, as in "CPython 3.11.7".

    Raises:
        Unavailable: it does not run.
    """
    code = "import platform as p; print(p.python_implementation(), p.python_version())"
    try:
        done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{interpreter} does not run: {error}") from error
    return done.stdout.strip()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder for what is written meanwhile."""
    with tempfile.TemporaryDirectory(prefix="smtplite-bench-") as folder:
        yield Path(folder)
