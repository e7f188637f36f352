"""`smtplite serve --web` as its user starts it: options, what it prints, a real socket, and its end."""

from __future__ import annotations

import http.client
import importlib
import re
import signal
import smtplib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from smtplite.cli import main

pytestmark = pytest.mark.needs("signals for other processes")

PATIENCE_SECONDS = 60.0
CONTENT = b"From: ada@example.org\r\nSubject: Hello\r\n\r\nHello.\r\n"


@attrs.frozen
class Serving:
    program: subprocess.Popen[str]
    port: int
    page: str

    @property
    def web_port(self) -> int:
        match = re.search(r":(\d+)/", self.page)
        assert match is not None
        return int(match[1])

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.web_port, timeout=PATIENCE_SECONDS)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        result = response.status, response.read()
        connection.close()
        return result

    def send(self, content: bytes = CONTENT) -> None:
        with smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE_SECONDS) as client:
            client.sendmail("ada@example.org", ["grace@example.net"], content)

    def stop(self) -> tuple[int, str, str]:
        self.program.send_signal(signal.SIGINT)
        out, err = self.program.communicate(timeout=PATIENCE_SECONDS)
        return self.program.returncode, out, err


Serve = Callable[..., Serving]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Give a function that starts `smtplite serve --web` on free ports."""
    monkeypatch.delenv("SMTPLITE_WEB_TOKEN", raising=False)
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a program does not inherit, unlike SIG_IGN
    running: list[subprocess.Popen[str]] = []

    def call(*arguments: str | Path) -> Serving:
        program = subprocess.Popen(
            [sys.executable, "-m", "smtplite", "serve", "--port", "0", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(program)
        assert program.stdout is not None
        first, second = program.stdout.readline(), program.stdout.readline()
        match = re.search(r":(\d+)", first)
        assert match is not None, (first, second)
        return Serving(program, int(match[1]), second.strip().removeprefix("see your mail: "))

    yield call
    for program in running:
        if program.poll() is None:
            program.kill()
        program.communicate(timeout=PATIENCE_SECONDS)
    signal.signal(signal.SIGINT, before)


def test_what_is_sent_is_on_the_page_and_back_after_a_restart(serve: Serve, tmp_path: Path) -> None:
    arguments = ["--web", "0", "--store", tmp_path / "mail"]
    first = serve(*arguments)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", first.page)
    first.send()
    assert b'"subject":"Hello"' in first.get("/api/v1/messages")[1]
    stream = http.client.HTTPConnection("127.0.0.1", first.web_port, timeout=PATIENCE_SECONDS)
    stream.request("GET", "/api/v1/events")
    events = stream.getresponse()
    assert events.readline() == b"event: hello\n"
    code, out, err = first.stop()  # with a browser that listens
    events.read()
    stream.close()
    assert (code, err) == (0, "")
    assert out.endswith("1 message accepted\n")
    again = serve(*arguments)
    assert b'"subject":"Hello"' in again.get("/api/v1/messages")[1]
    assert again.get("/api/v1/messages/1/source")[1] == CONTENT
    assert again.stop()[0] == 0


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("own", [None, "correct horse battery"])
def test_other_machines_need_the_token_that_is_printed_unless_it_is_the_users_own(
    own: str | None, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own is not None:
        monkeypatch.setenv("SMTPLITE_WEB_TOKEN", own)
    serving = serve("--web", "127.0.0.1:0", "--web-host", "mail.example", "--web-token")
    match = re.fullmatch(r"http://mail\.example:\d+/(?:#token=(\S{32}))?", serving.page)
    assert match is not None, serving.page
    assert (match[1] is None) == (own is not None)
    assert serving.get("/api/v1/messages")[0] == 401
    token = f"Bearer {own or match[1]}"
    assert serving.get("/api/v1/messages", Authorization=token, Host="mail.example")[0] == 200
    assert serving.stop()[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--web", "x"], "--web takes a port, or an address and a port, such as 127.0.0.1:8025"),
        (["--web", "127.0.0.1:99999"], "--web takes a port, or"),
        (["--web", "0.0.0.0:0"], "with 0.0.0.0 other machines could read the mail: add --web-token"),
        (["--web", "0", "--web-host", "mail.example"], "with mail.example other machines could read"),
        (["--web-token"], "--web-token is for --web"),
        (["--web-host", "x"], "--web-host is for --web"),
        (["--release-to", "smtp://x"], "--release-to is for --web"),
        (["--keep", "5"], "--keep is for --web and --store"),
        (["--keep", "0", "--web"], "0 is not at least 1"),
        (["--web", "0", "--release-to", "ftp://x"], "--release-to: URL begins with none of smtp://"),
        (["--web", "0", "--release-to", "smtp://u:p@x"], "--release-to: the URL holds a password"),
        (["--web", "192.0.2.1:0", "--web-token"], "cannot listen on 192.0.2.1 port 0 for the page: "),
    ],
)
def test_what_cannot_be_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["serve", "--port", "0", *arguments])
    except SystemExit as error:
        code = int(str(error.code))
    assert code in {1, 2}
    assert said in capsys.readouterr().err


def test_a_token_that_can_be_guessed_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMTPLITE_WEB_TOKEN", "secret")
    assert main(["serve", "--port", "0", "--web", "0", "--web-token"]) == 2
    assert "the token in SMTPLITE_WEB_TOKEN is too short" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["starlette", "uvicorn", "jinja2"])
def test_without_the_extra_its_name_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["serve", "--port", "0", "--web", "0"]) == 2
    assert capsys.readouterr().err == f"smtplite serve: --web needs {name}: pip install 'smtplite[web]'\n"


def test_nothing_of_the_extra_is_loaded_without_the_page() -> None:
    program = "import sys, smtplite.cli.serve; print({'starlette', 'uvicorn', 'jinja2'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "set()\n"


def test_the_templates_are_where_the_wheel_has_them(request: Any) -> None:
    folder = Path(importlib.import_module("smtplite.cli.web").__file__ or "").parent
    assert {path.name for path in (folder / "templates").iterdir()} == {"page.html", "message.html", "login.html"}
    assert {path.name for path in (folder / "static").iterdir()} == {"page.css", "page.js", "icon.svg"}
