"""The example in its own process, and in those of a real gunicorn, which loads it before it forks."""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from smtplite.testing import SMTPServer, ThreadedServer

FOLDER = Path(__file__).parent
GRACE = "grace@example.net"
DEADLINE_SECONDS = 60
WORKERS = 3
REQUESTS = 60

#: What an application does that sends before the fork: the loop's thread is then the master's alone.
CONFIGURATION = """
control_socket_disable = True  # of no use here, and where it would be is no affair of a test's


def when_ready(server):
    import app
    app.mail.send(app.invitation("master@example.net"))
"""


@pytest.fixture
def server() -> Iterator[ThreadedServer]:
    with SMTPServer().in_thread() as server:
        yield server
        assert not server.violations


@pytest.fixture
def app(server: ThreadedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example, as one process imports it."""
    monkeypatch.setenv("SMTP_URL", server.url)
    spec = importlib.util.spec_from_file_location("flask_example_app", FOLDER / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    module.mail.close()


def test_accepted_is_200_over_one_connection(server: ThreadedServer, app: ModuleType) -> None:
    http = app.app.test_client()
    responses = [http.post("/invitations", json={"address": GRACE}) for _ in range(3)]
    assert [response.status_code for response in responses] == [200, 200, 200]
    ids = [message.as_email()["Message-ID"] for message in server.messages]
    assert ids == [response.get_json()["message_id"] for response in responses]
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("verb", "reply", "status", "outcome"),
    [
        ("RCPT", "550 5.1.1 no such user", 422, "refused: 550 5.1.1 no such user"),
        ("RCPT", "450 4.2.1 mailbox busy", 503, "refused: 450 4.2.1 mailbox busy"),
        ("MAIL", "550 5.7.1 not you", 502, "refused: 550 5.7.1 not you"),
        ("END_OF_DATA", b"", 504, "unknown"),
        ("RCPT", b"", 503, "not sent"),
    ],
)
def test_each_outcome_has_its_status(
    server: ThreadedServer, app: ModuleType, verb: str, reply: str | bytes, status: int, outcome: str
) -> None:
    server.reply(verb, reply, close=reply == b"")
    response = app.app.test_client().post("/invitations", json={"address": GRACE})
    assert (response.status_code, response.get_json()["outcome"]) == (status, outcome)
    assert ("Retry-After" in response.headers) is (status == 503)
    assert server.messages == []


@pytest.mark.parametrize("body", ['{"address": "grace@example.net, alan@example.net"}', '{"address": 1}', "[]", "{"])
def test_what_is_no_address_is_refused_before_anything_is_opened(
    server: ThreadedServer, app: ModuleType, body: str
) -> None:
    response = app.app.test_client().post("/invitations", data=body, content_type="application/json")
    assert response.status_code == 422
    assert server.connections == []


@contextlib.contextmanager
def gunicorn(server: ThreadedServer) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Run the example by a gunicorn that loads it before it forks, on a Unix socket."""
    folder = Path(tempfile.mkdtemp())  # pytest's folders have names too long for a socket
    (folder / "gunicorn.conf.py").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS), "--threads", "4"]
    command += ["--bind", f"unix:{folder}/http", "--config", str(folder / "gunicorn.conf.py")]
    command += ["--graceful-timeout", "20", "--worker-tmp-dir", str(folder)]
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            [*command, "app:app"],
            cwd=FOLDER,
            env={**os.environ, "SMTP_URL": server.url},
            stdout=output,
            stderr=output,
        )
    try:
        server.wait_for_messages(1, timeout=DEADLINE_SECONDS)  # the master's, which listens by then
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (folder / "log").read_text().count("Booting worker") < WORKERS:
            assert time.monotonic() < deadline, "the workers do not start"
            time.sleep(0.02)  # a line in a file is announced to nobody
        yield process, folder
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(DEADLINE_SECONDS)
        shutil.rmtree(folder)


def test_gunicorn_with_preload_and_fork_sends_from_every_worker(server: ThreadedServer) -> None:
    with gunicorn(server) as (process, folder):

        def invite(number: int) -> int:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(folder / "http")), timeout=60) as own:
                response = own.post("http://test/invitations", json={"address": f"guest-{number}@example.net"})
            assert response.status_code == 200, response.text
            return int(response.json()["process"])

        with ThreadPoolExecutor(12) as pool:
            processes = set(pool.map(invite, range(REQUESTS)))
        assert 2 <= len(processes) <= WORKERS
        assert process.pid not in processes
        # New workers, forked by a master that has sent and whose loop's thread runs.
        process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while invite(REQUESTS) in processes:
            assert time.monotonic() < deadline, "the old workers go on"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0, (folder / "log").read_text()
        said = (folder / "log").read_text()
    assert "Traceback" not in said, said
    assert "WORKER TIMEOUT" not in said, said
    recipients = [message.recipients[0] for message in server.messages]
    assert recipients.count("master@example.net") == 1
    assert {f"guest-{number}@example.net" for number in range(REQUESTS)} <= set(recipients)
    assert all(recipients.count(f"guest-{number}@example.net") == 1 for number in range(REQUESTS))
    # Each worker, old and new, and the master said goodbye when they ended.
    assert all(connection.received.endswith(b"QUIT\r\n") for connection in server.connections)
