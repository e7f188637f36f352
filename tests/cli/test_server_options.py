"""Which server, and who we are there: no password on a command line, and errors in words of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtplite.cli.server_options import _ADVICE
from smtplite.testing.threaded import ThreadedServer

Start = Callable[..., ThreadedServer]
Run = Callable[..., Any]
Spawn = Callable[..., "subprocess.Popen[str]"]

PATIENCE_SECONDS = 60.0

LIBRARY = Path(__file__).parents[2] / "smtplite"


@pytest.fixture
def server(start: Start) -> ThreadedServer:
    return start(tls="starttls", users={"me": "s3cret"}, mechanisms=["PLAIN"])


@pytest.fixture
def message(tmp_path: Path) -> Path:
    path = tmp_path / "message.eml"
    path.write_bytes(b"From: ada@example.org\r\nTo: grace@example.net\r\n\r\nHello.\r\n")
    return path


def who(server: ThreadedServer) -> str | None:
    return server.connections[-1].authenticated_as


@pytest.mark.parametrize("url", ["smtp://me:s3cret@localhost", "me:s3cret@localhost", "smtps://me:@localhost"])
@pytest.mark.parametrize("command", ["check", "send"])
def test_a_url_with_a_password_as_an_argument_is_refused(command: str, url: str, run: Run, message: Path) -> None:
    ran = run(*(["check", url] if command == "check" else ["send", "--server", url, message]))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"smtplite {command}: the URL holds a password, and every user of this machine")
    assert "SMTPLITE_URL" in ran.err
    assert "s3cret" not in ran.err


def test_a_url_with_a_password_may_stand_in_the_environment(
    server: ThreadedServer, run: Run, ca_file: Path, message: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTPLITE_URL", f"smtp://me:s3cret@localhost:{server.port}")
    assert run("check", "--ca", ca_file).code == 0
    assert who(server) == "me"
    assert run("send", "--ca", ca_file, message).code == 0
    assert server.messages[0].authenticated_as == "me"


@pytest.mark.parametrize("text", ["s3cret\n", "s3cret\r\n", "s3cret", "s3cret\nand more\n"])
def test_the_first_line_of_a_password_file(
    text: str, server: ThreadedServer, run: Run, ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTPLITE_PASSWORD", "wrong")  # the option is closer
    file = tmp_path / "password"
    file.write_bytes(text.encode())
    ran = run("check", f"localhost:{server.port}", "--user", "me", "--password-file", file, "--ca", ca_file)
    assert (ran.code, ran.err) == (0, "")
    assert who(server) == "me"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read {file}: No such file or directory"),
        (b"", "{file} has no password in its first line"),
        (b"\ns3cret\n", "{file} has no password in its first line"),
        (b"s3\xffcret\n", "{file} is not UTF-8"),
    ],
)
def test_a_password_file_without_a_password(content: bytes | None, problem: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    ran = run("check", "smtp://me@localhost", "--password-file", file)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"smtplite check: {problem.format(file=file)}\n"


def test_whoever_has_a_terminal_is_asked(
    server: ThreadedServer, run: Run, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "s3cret"

    monkeypatch.setattr("getpass.getpass", ask)
    assert run("check", f"smtp://me@localhost:{server.port}", "--ca", ca_file).code == 0
    assert asked == ["Password of me: "]
    assert who(server) == "me"


@pytest.mark.needs("pseudo-terminals")
def test_the_password_is_asked_for_on_a_real_terminal_and_not_shown(
    server: ThreadedServer, spawn: Spawn, ca_file: Path
) -> None:
    ours, theirs = os.openpty()
    try:
        # In a session of its own, whose controlling terminal is the first that it opens: as in a terminal window.
        start_in_terminal = (
            "import os, sys; os.setsid(); os.close(os.open(sys.argv[1], os.O_RDWR)); "
            "os.execv(sys.executable, [sys.executable, '-m', 'smtplite', *sys.argv[2:]])"
        )
        program = subprocess.Popen(
            [
                *(sys.executable, "-c", start_in_terminal, os.ttyname(theirs)),
                *("check", f"smtp://me@localhost:{server.port}", "--ca", str(ca_file)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        shown = b""
        while b"Password of me: " not in shown:
            shown += os.read(ours, 1024)
        os.write(ours, b"s3cret\n")
        out, err = program.communicate(timeout=PATIENCE_SECONDS)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (program.returncode, err) == (0, b"")
    assert who(server) == "me"
    assert b"s3cret" not in shown + out


def test_without_a_terminal_nobody_is_asked_and_stdin_is_left_alone(server: ThreadedServer, spawn: Spawn) -> None:
    """stdin may be the message."""
    program = spawn(
        "send", "--server", f"smtp://me@localhost:{server.port}", "-", stdin=subprocess.PIPE, start_new_session=True
    )
    out, err = program.communicate("s3cret\n", timeout=PATIENCE_SECONDS)
    assert (program.returncode, out) == (2, "")
    assert err.startswith("smtplite send: no password for me, and no terminal to ask on: set SMTPLITE_PASSWORD")
    assert err.count("\n") == 1
    assert server.connections == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "no server: say which"),
        (["ftp://localhost"], "URL begins with none of smtp://"),
        (["smtp://localhost?colour=red"], "URL option 'colour' is not one of"),
        (["smtp://localhost?max_connections=0"], "max_connections must be a whole number"),
        (["smtp://localhost", "--password-file", "x"], "whose password? Name the user"),
        (["smtp://localhost", "--mechanism", "plain"], "whose password? Name the user"),
        (["smtp://localhost", "--ca", "/nowhere/ca.pem"], "cannot read /nowhere/ca.pem: No such file or directory"),
        (["smtp://localhost", "--ca", __file__], "holds no certificate in PEM"),
        (["smtp://localhost?tls=none", "--ca", "CA"], 'tls_context is given and tls is "none"'),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], problem: str, run: Run, ca_file: Path) -> None:
    ran = run("check", *(str(ca_file) if argument == "CA" else argument for argument in arguments))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("smtplite check: ")
    assert problem in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--timeout", "0"], ["--timeout", "nan"], ["--timeout", "soon"], ["--mechanism", "magic"]]
)
def test_an_option_with_a_value_that_is_none(arguments: list[str], run: Run) -> None:
    ran = run("check", "smtp://localhost", *arguments)
    assert ran.code == 2
    assert f"error: argument {arguments[0]}: " in ran.err


@pytest.mark.parametrize("variable", ["s3\x07cret", "", "s\u0627\u0031"])
def test_a_password_that_cannot_be_one_is_not_shown(variable: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTPLITE_PASSWORD", variable)
    for more in ([], ["--mechanism", "scram-sha-256"]):
        ran = run("check", "smtp://me@localhost", *more)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("smtplite check: password ")
        assert not variable or variable not in ran.err


def test_advice_is_in_words_of_the_command_line(start: Start, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTPLITE_PASSWORD", "s3cret")
    server = start(users={"me": "s3cret"}, auth_in_clear=True)
    url = f"smtp://me@localhost:{server.port}?tls=none"
    ran = run("check", url)
    assert ran.code == 14
    assert "add allow_insecure_auth=yes there" in ran.err
    assert b"AUTH" not in server.connections[0].received
    assert run("check", f"{url}&allow_insecure_auth=yes").code == 0


@pytest.mark.parametrize("said", [said for said in _ADVICE if not said.isupper()])
def test_every_advice_that_is_translated_is_one_that_the_library_gives(said: str) -> None:
    sources = [path.read_text(encoding="utf-8") for path in LIBRARY.rglob("*.py")]
    assert any(said in source for source in sources)
