"""The command line as such, `demo`, and the article's program, `job`."""

from __future__ import annotations

import importlib
import os
import shlex
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import anyio.from_thread
import pytest

from smtplite import __version__
from smtplite.cli import main, terminal
from smtplite.testing import SMTPServer

#: The article's job file; only line 1 names the server of the test.
MAIL_TXT = """\
{server}
skyrunner.home
xxx@wanadoo.fr
{recipients}
From: "xxx" <xxx@wanadoo.fr>
To: "yyy" <yyy@hotmail.com>
Subject: Test smtp

Bonjour,
Test pour le programme C.
"""

#: What the article's program prints.
ARTICLE_OUTPUT = """\
220 mwinf1912.orange.fr ESMTP ABO *****
250-mwinf1912.orange.fr
250 Ok
250 Ok
354 End data with <CR><LF>.<CR><LF>
250 Ok: queued as 2A78A1C000CF
221 Bye
"""

ARTICLE_EHLO = (
    b"250-mwinf1912.orange.fr\r\n250-PIPELINING\r\n250-SIZE 10485760\r\n"
    b"250-AUTH PLAIN LOGIN\r\n250-AUTH=PLAIN LOGIN\r\n250 8BITMIME\r\n"
)


@contextmanager
def article_server() -> Iterator[SMTPServer]:
    server = SMTPServer()
    server.reply("GREETING", "220 mwinf1912.orange.fr ESMTP ABO *****")
    server.reply("EHLO", ARTICLE_EHLO)
    server.reply("RCPT", "550 Recipient unknown", to="nobody@hotmail.com")
    for verb, reply in [
        ("MAIL", "250 Ok"),
        ("RCPT", "250 Ok"),
        ("DATA", "354 End data with <CR><LF>.<CR><LF>"),
        ("END_OF_DATA", "250 Ok: queued as 2A78A1C000CF"),
        ("QUIT", "221 Bye"),
    ]:
        server.reply(verb, reply)
    with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(server):
        yield server


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., list[str]]:
    def write(server: SMTPServer, recipients: str = "yyy@hotmail.com", text: str = MAIL_TXT) -> list[str]:
        path = tmp_path / "mail.txt"
        path.write_text(text.format(server=server.host, recipients=recipients), encoding="utf-8")
        return ["job", str(path), "--port", str(server.port)]

    return write


def test_the_articles_program_prints_what_the_article_shows(
    job: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with article_server() as server:
        assert main(job(server)) == 0
        (arrived,) = server.messages
    assert capsys.readouterr() == (ARTICLE_OUTPUT, "")
    assert arrived.helo == "skyrunner.home"
    assert arrived.sender == "xxx@wanadoo.fr"
    assert arrived.recipients == ("yyy@hotmail.com",)
    assert arrived.content == MAIL_TXT.split("\n", 4)[4].replace("\n", "\r\n").encode()
    assert server.violations == []


def test_one_line_is_printed_for_every_recipient(
    job: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The article's program reads one reply for all of them."""
    with article_server() as server:
        assert main(job(server, "a@hotmail.com,b@hotmail.com,c@hotmail.com")) == 0
    assert capsys.readouterr().out.splitlines()[2:6] == ["250 Ok"] * 4


def test_a_lone_dot_in_the_text_does_not_end_it(job: Callable[..., list[str]]) -> None:
    """The article's program never doubles a dot; nor may a long line be cut."""
    with article_server() as server:
        assert main(job(server, text=MAIL_TXT + ".\n..\n" + "x" * 998 + "\nend\n")) == 0
        assert server.messages[0].content.endswith(b"\r\n.\r\n..\r\n" + b"x" * 998 + b"\r\nend\r\n")


def test_a_refused_recipient_is_one_line_on_stderr(
    job: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with article_server() as server:
        assert main(job(server, "yyy@hotmail.com,nobody@hotmail.com")) == 1
        assert server.messages[0].recipients == ("yyy@hotmail.com",)
        output, errors = capsys.readouterr()
        assert "550 Recipient unknown" in output
        assert errors == "smtplite job: the message was not accepted for nobody@hotmail.com: 550 Recipient unknown\n"
        assert main(job(server, "nobody@hotmail.com")) == 1
        assert capsys.readouterr().err == "smtplite job: server refused the recipient: 550 Recipient unknown\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it has no server"),
        ("h\n", "it has no domain for EHLO"),
        ("h\nd", "it has no reverse-path"),
        ("h\nd\n", "it has no reverse-path"),
        ("h\nd\na@b.c\n", "it has no forward-paths"),
        ("h\nd\na@b.c\nd@e.f", "it has no message"),
        ("h\nd\na@b.c\nd@e.f\n", "it has no message"),
        ("h\nd\na@b.c\nd@e.f\n\n\n", "it has no message"),
        ("\nd\na@b.c\nd@e.f\nS: x\n", "line 1 (server) is empty"),
        ("h\na b\na@b.c\nd@e.f\nS: x\n", "line 2: "),
        ("h\nd\na b\nd@e.f\nS: x\n", "line 3: "),
        ("h\nd\na@b.c\nd@e.f, g@h.i\nS: x\n", "line 4: "),
        ("h\nd\na@b.c\n\nS: x\n", "line 4: "),
        ("h\nd\udcff\na@b.c\nd@e.f\nS: x\n", "line 2 (domain for EHLO) is not UTF-8"),
    ],
)
def test_a_file_that_is_no_job_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    path = tmp_path / "mail.txt"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["job", str(path)]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert problem in errors
    assert errors.count("\n") == 1


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["job", str(tmp_path / "none.txt")]) == 1
    assert capsys.readouterr().err == f"smtplite job: cannot read {tmp_path / 'none.txt'}: No such file or directory\n"


def test_a_long_line_is_sent_as_the_articles_program_does(job: Callable[..., list[str]]) -> None:
    with article_server() as server:
        assert main(job(server, text=MAIL_TXT + "x" * 5000 + "\n")) == 0
        assert b"\r\n" + b"x" * 5000 + b"\r\n" in server.messages[0].content


@pytest.mark.needs("devices")
def test_a_job_file_is_a_regular_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["job", "/dev/zero"]) == 1
    assert capsys.readouterr().err == "smtplite job: cannot read /dev/zero: it is a device, not a regular file\n"


def test_a_message_that_cannot_be_sent(job: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    with article_server() as server:
        assert main(job(server, text=MAIL_TXT + "x\0\n")) == 1
        assert server.connections == []
    assert capsys.readouterr().err.startswith("smtplite job: message holds a NUL byte")


def test_no_server_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], unused_port: Callable[[], int]) -> None:
    path = tmp_path / "mail.txt"
    path.write_text(MAIL_TXT.format(server="127.0.0.1", recipients="a@b.c"))
    port = unused_port()
    assert main(["job", str(path), "--port", str(port)]) == 1
    assert capsys.readouterr().err.startswith(f"smtplite job: cannot connect to 127.0.0.1:{port}: ")


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_job_with_tls_and_a_user_prints_the_same_lines(
    tls: Literal["starttls", "implicit"],
    job: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """EHLO is the one inside TLS; STARTTLS and AUTH are not printed."""
    server = SMTPServer(tls=tls, users={"xxx": "s3cret"}, mechanisms=["PLAIN", "LOGIN"])
    monkeypatch.setenv("SMTPLITE_PASSWORD", "s3cret")
    monkeypatch.setattr(ssl, "create_default_context", server.ca_context)
    with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(server):
        assert main([*job(server), "--tls", tls, "--user", "xxx"]) == 0
        assert server.messages[0].authenticated_as == "xxx"
        output, errors = capsys.readouterr()
        assert [line[:4] for line in output.splitlines()] == ["220 ", "250-", "250 ", "250 ", "354 ", "250 ", "221 "]
        assert errors == ""
        monkeypatch.delenv("SMTPLITE_PASSWORD")
        monkeypatch.setattr("getpass.getpass", lambda prompt: "wrong")
        assert main([*job(server), "--tls", tls, "--user", "xxx"]) == 1
        output, errors = capsys.readouterr()
        assert errors.startswith("smtplite job: server refused AUTH PLAIN: 535")
        assert "s3cret" not in output + errors


def test_job_sends_no_password_in_clear(
    job: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTPLITE_PASSWORD", "s3cret")
    with article_server() as server:
        assert main([*job(server), "--user", "xxx"]) == 1
        assert server.connections == []
        assert "--user needs --tls" in capsys.readouterr().err
        monkeypatch.setenv("SMTPLITE_PASSWORD", "s3\x07cret")
        assert main([*job(server), "--user", "xxx", "--tls", "starttls"]) == 1
        assert capsys.readouterr().err.startswith("smtplite job: password ")


def test_what_a_server_says_cannot_steer_the_terminal(
    job: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with article_server() as server:
        server.script.clear()
        server.reply("GREETING", b"220 \x1b[2Jhi\x07\r\n")
        assert main(job(server)) == 0
    assert capsys.readouterr().out.startswith("220 \ufffd[2Jhi\ufffd\n")


def test_the_demo_shows_writes_receipt_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    output = capsys.readouterr().out
    assert output.count("=> C: ") == 4  # EHLO; the envelope; content and dot; QUIT
    assert "  => C: MAIL FROM:<ada@example.org> SIZE=" in output
    assert "     C: DATA\n" in output
    assert "  accepted    grace@example.org\n" in output
    assert "  refused     nobody@example.org: 550 5.1.1 no such user here\n" in output
    assert "  | .\n  | Bye.\n" in output
    assert "  smtplite serve\n" in output.partition("What to try next\n")[2]


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["job", "--help"], ["demo", "--help"]])
def test_help_and_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert __version__ in output or "usage: smtplite" in output
    assert len(output.splitlines()) <= 24


@pytest.mark.parametrize("command", ["check", "send", "serve", "job", "demo", "completion"])
def test_the_help_of_a_command_fits_a_screen_and_has_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= (48 if command == "serve" else 40)  # a large screen, for 24 options
    assert max(map(len, lines)) <= 80
    example = " ".join(lines[next(i for i, line in enumerate(lines) if line.startswith("example")) :])
    assert f"smtplite {command}" in example
    assert "password=" not in example


@pytest.mark.parametrize("command", ["check", "send", "serve"])
def test_the_example_of_a_help_is_a_command_line_that_is_understood(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    example = capsys.readouterr().out.rpartition(f"smtplite {command} ")[2]
    monkeypatch.setattr(importlib.import_module(f"smtplite.cli.{command}"), "_run", lambda options: 77)
    assert main([command, *shlex.split(example)]) == 77


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["check", "--help"], ["send", "--help"], ["serve", "--help"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from smtplite.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as end: assert end.code == 0\n"
        "loaded = {'rich', 'trustme', 'cryptography', 'anyio', 'asyncio'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("arguments", [["demo"], ["--help"], ["send", "--help"]])
def test_nobody_reads_the_output_any_more(arguments: list[str]) -> None:
    """As with `smtplite demo | true`: no traceback, and no complaint of the interpreter at its end."""
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [sys.executable, "-m", "smtplite", *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # argparse would not even notice
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert (run.returncode, run.stderr) == (141, "")


@pytest.mark.parametrize("command", ["demo", "job", "check"])
def test_nobody_reads_the_output_to_its_end(
    command: str,
    job: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with `smtplite demo | head -n 3`: what is met within a trace hook is neither logged nor forgotten."""
    left = 3

    def print_three(line: str, **options: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise BrokenPipeError

    monkeypatch.setattr(terminal, "print", print_three, raising=False)
    with article_server() as server:
        arguments = {"demo": ["demo"], "job": job(server), "check": ["check", f"{server.host}:{server.port}?tls=none"]}
        assert main(arguments[command]) == 141
    assert left == -1
    assert capsys.readouterr().err == ""
    assert caplog.records == []


def test_a_terminal_that_cannot_show_a_character_is_no_traceback(tmp_path: Path) -> None:
    server = article_server()
    with server as running:
        running.script.clear()
        running.reply("GREETING", "220 grüezi")
        path = tmp_path / "mail.txt"
        path.write_text(MAIL_TXT.format(server=running.host, recipients="a@b.example"))
        run = subprocess.run(
            [sys.executable, "-m", "smtplite", "job", str(path), "--port", str(running.port)],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("220 gr\\xfcezi\n")


@pytest.mark.parametrize("arguments", [[], ["jobs"], ["job"], ["job", "f", "--port", "x"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: smtplite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "usage", "problem"),
    [
        (["send", "--chunkin", "f", "--nonsense"], "smtplite send [options] [URL] FILE", "arguments: --nonsense\n"),
        (["send", "f", "--dryrun"], "smtplite send [options]", "--dryrun (did you mean --dry-run?)\n"),
        (["serve", "--web-cam"], "smtplite serve [options]", "unrecognized arguments: --web-cam"),
        (["check", "a", "b"], "smtplite check [options] [URL]", "unrecognized arguments: b\n"),
        (["job"], "smtplite job [options] FILE", "the following arguments are required: FILE\n"),
    ],
)
def test_wrong_usage_shows_the_usage_of_the_command(
    arguments: list[str], usage: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"usage: {usage}")
    assert f"smtplite {arguments[0]}: error: " in err
    assert problem in err


def test_no_help_speaks_of_what_a_user_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("check", "send", "serve", "demo", "job", "completion"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
    assert "article" not in capsys.readouterr().out


def test_python_dash_m() -> None:
    run = subprocess.run([sys.executable, "-m", "smtplite", "--version"], capture_output=True, text=True, timeout=60)
    assert run.stdout == f"smtplite {__version__}\n"
    assert run.returncode == 0
