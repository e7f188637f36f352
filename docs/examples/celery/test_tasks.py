"""The example's task in a real Celery worker with forked processes, and a Redis of its own."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from smtplite.testing import SMTPServer, ThreadedServer

FOLDER = Path(__file__).parent
DEADLINE_SECONDS = 240
MESSAGES = 60
PROCESSES = 3

#: A module that sends before Celery forks: the loop's thread is then the parent's alone.
PRELOADED = """
from tasks import app, mail

mail.send(b"From: me@example.org\\r\\nTo: parent@example.net\\r\\n\\r\\nhello\\r\\n")
"""


@pytest.fixture
def server() -> Iterator[ThreadedServer]:
    with SMTPServer().in_thread() as server:
        yield server
        assert not server.violations


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A Redis on a Unix socket."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("redis-server is not installed: run docs/examples/install.sh, as root on Debian")
    folder = tempfile.mkdtemp()  # pytest's folders have names too long for a socket
    server = None
    try:
        with Path(folder, "log").open("wb") as log:
            options = ["--port", "0", "--unixsocket", f"{folder}/redis", "--save", "", "--appendonly", "no"]
            server = subprocess.Popen([program, *options], cwd=folder, stdout=log, stderr=log)
        deadline = time.monotonic() + DEADLINE_SECONDS
        with socket.socket(socket.AF_UNIX) as connection:
            while connection.connect_ex(f"{folder}/redis"):
                assert time.monotonic() < deadline, "Redis does not start"
                time.sleep(0.02)  # there is no socket yet
        yield f"redis+socket://{folder}/redis"
    finally:
        if server is not None:
            server.terminate()
            server.wait(DEADLINE_SECONDS)
        shutil.rmtree(folder)


@pytest.fixture
def tasks(redis_url: str, server: ThreadedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example, as the application imports it."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("SMTP_URL", server.url)
    spec = importlib.util.spec_from_file_location("tasks", FOLDER / "tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tasks", module)
    spec.loader.exec_module(module)
    yield module
    module.app.close()


class Worker:
    """A worker: a parent, and the processes that it forks."""

    def __init__(self, module: str, folder: Path) -> None:
        self.log = folder / "log"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), str(FOLDER), os.environ.get("PYTHONPATH", "")]),
            "MAIL_FIRST_RETRY_SECONDS": "0.5",
        }
        command = [sys.executable, "-m", "celery", "--app", module, "worker", "--pool", "prefork", "--without-gossip"]
        command += ["--concurrency", str(PROCESSES), "--without-mingle", "--loglevel", "INFO"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    def end(self) -> str:
        """End it as a service would, and return its log."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE_SECONDS) == 0, self.log.read_text()
        return self.log.read_text()

    def wait_until_said(self, words: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while words not in self.log.read_text():
            assert time.monotonic() < deadline, f"it never said {words!r}: {self.log.read_text()}"
            time.sleep(0.05)  # a line in a file is announced to nobody


@pytest.fixture
def start(tasks: ModuleType, tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    workers: list[Worker] = []

    def start(module: str) -> Worker:
        workers.append(Worker(module, tmp_path))
        return workers[-1]

    yield start
    for worker in workers:
        worker.process.kill()
        worker.process.wait(DEADLINE_SECONDS)


def ids(server: ThreadedServer) -> list[str]:
    return [str(message.as_email()["Message-ID"]) for message in server.messages]


@pytest.mark.parametrize("module", ["tasks", "preloaded"])
def test_forked_processes_send_each_over_a_connection_of_its_own(
    server: ThreadedServer, tasks: ModuleType, start: Callable[[str], Worker], module: str
) -> None:
    held = server.hold("END_OF_DATA", sender="team@example.org")  # so that no process is done before another began
    expected = [tasks.enqueue(f"guest-{number}@example.net", "Hello", "Hello.\n") for number in range(MESSAGES)]
    worker = start(module)
    preloaded = module == "preloaded"
    held.wait(2, timeout=DEADLINE_SECONDS)
    held.release()
    server.wait_for_messages(MESSAGES + preloaded, timeout=DEADLINE_SECONDS)
    said = worker.end()
    assert sorted(set(ids(server)) - {"None"}) == sorted(expected)
    assert len(server.messages) == MESSAGES + preloaded
    assert 2 <= len(server.connections) - preloaded <= PROCESSES
    assert "Traceback" not in said, said


def test_what_is_refused_for_now_is_sent_again_and_what_is_unknown_is_not(
    server: ThreadedServer, tasks: ModuleType, start: Callable[[str], Worker]
) -> None:
    server.reply("RCPT", "451 4.2.1 later", to="later@example.net", times=2)
    server.reply("RCPT", "550 5.1.1 no such user", to="nobody@example.net")
    server.reply("END_OF_DATA", b"", to="lost@example.net", performs=True, close=True)
    sent = {
        name: tasks.enqueue(f"{name}@example.net", "Hello", "Hello.\n") for name in ("later", "nobody", "lost", "grace")
    }
    worker = start("tasks")
    server.wait_for_messages(3, timeout=DEADLINE_SECONDS)
    worker.wait_until_said(f"{sent['lost']}: nobody can know")
    worker.wait_until_said(f"{sent['nobody']}: not delivered: ")
    said = worker.end()
    assert said.count(f"{sent['later']}: not delivered for now") == 2
    assert sorted(ids(server)) == sorted([sent["later"], sent["lost"], sent["grace"]])


def test_a_soft_time_limit_ends_the_wait_for_a_server_that_says_nothing(
    server: ThreadedServer, tasks: ModuleType, start: Callable[[str], Worker]
) -> None:
    held = server.hold("MAIL", sender="team@example.org")
    message_id = "<slow@example.org>"
    tasks.send.apply_async(("slow@example.net", "Hello", "Hello.\n", message_id), soft_time_limit=6)
    worker = start("tasks")
    held.wait(timeout=DEADLINE_SECONDS)
    worker.wait_until_said(f"{message_id}: given up after its time limit")
    held.release()
    other = tasks.enqueue("grace@example.net", "Hello", "Hello.\n")
    server.wait_for_messages(1, timeout=DEADLINE_SECONDS)
    worker.end()
    assert ids(server) == [other]
