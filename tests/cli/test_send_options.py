"""`smtplite send`: the server as an argument, a rate, a dry run, and JSON for programs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from smtplite.cli.pace import Pace, rate
from smtplite.testing.threaded import ThreadedServer

Run = Callable[..., Any]
Start = Callable[..., ThreadedServer]

CLEAR = {"auth_in_clear": True, "users": {"ada": "s3cret"}, "require_auth": True}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two messages, one that says neither sender nor recipient, and one for a recipient who is refused."""
    folder = tmp_path / "outbox"
    folder.mkdir()
    for name, to in (("1", "grace"), ("2", "bob")):
        text = f"From: ada@example.org\r\nTo: {to}@example.net\r\nSubject: hi\r\n\r\nHello.\r\n"
        (folder / f"{name}.eml").write_bytes(text.encode())
    (folder / "3.eml").write_bytes(b"Subject: to nobody\r\n\r\n")
    return folder


@pytest.fixture
def server(start: Start) -> ThreadedServer:
    server = start()
    server.reply("RCPT", "550 5.1.1 no such user", to="bob@example.net")
    return server


# --- the server


@pytest.mark.parametrize("way", ["argument", "option", "environment"])
@pytest.mark.parametrize("command", ["check", "send"])
def test_the_server_is_given_in_the_same_way(
    command: str, way: str, server: ThreadedServer, run: Run, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: list[str | Path] = []
    if way == "environment":
        monkeypatch.setenv("SMTPLITE_URL", server.url)
    else:
        arguments = [server.url] if way == "argument" else ["--server", server.url]
    ran = run(command, *arguments, *([files / "1.eml"] if command == "send" else []))
    assert (ran.code, ran.err) == (0, "")
    assert len(server.messages) == (command == "send")


@pytest.mark.parametrize("command", ["check", "send"])
def test_one_server_is_enough(command: str, run: Run) -> None:
    ran = run(command, "smtp://a.example", "--server", "smtp://b.example", *([__file__] if command == "send" else []))
    assert ran.code == 2
    assert "two servers: smtp://a.example and --server smtp://b.example" in ran.err


def test_a_server_alone_is_no_message(run: Run) -> None:
    ran = run("send", "smtp://a.example")
    assert (ran.code, ran.err) == (2, "smtplite send: no message: name a file, a folder, or - for stdin\n")


def test_who_must_authenticate_is_told_how(start: Start, run: Run, files: Path) -> None:
    server = start(**CLEAR)
    for ran in (run("send", server.url, files / "1.eml"), run("check", server.url, "--from", "ada@example.org")):
        assert "530 5.7.0 authentication required (authenticate: --user NAME, or smtp://NAME@... in the URL)" in ran.err


def test_who_must_begin_tls_is_not_told_to_authenticate(start: Start, run: Run, files: Path) -> None:
    ran = run("send", f"{start(tls='starttls', require_tls=True).url}?tls=none", files / "1.eml")
    assert "530 5.7.0 must issue a STARTTLS command first" in ran.err
    assert "--user" not in ran.err


# --- a rate


@pytest.mark.parametrize(
    ("text", "per_second"), [("10/s", 10), ("600/min", 10), ("3600/h", 1), ("0.5/sec", 0.5), ("86400/day", 1)]
)
def test_a_rate_is_so_many_in_a_time(text: str, per_second: float) -> None:
    assert rate(text) == per_second


@pytest.mark.parametrize("text", ["10", "/s", "0/s", "-1/s", "10/x", "1e3/s", "10/ms", "٣/s", "10/s "])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 10/s, 600/min or 1000/h"):
        rate(text)


@pytest.mark.asyncio
async def test_turns_have_the_same_distance_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[float] = []

    async def sleep_until(moment: float) -> None:
        turns.append(moment)

    monkeypatch.setattr(anyio, "current_time", lambda: 100.0)
    monkeypatch.setattr(anyio, "sleep_until", sleep_until)
    pace = Pace(4)
    for _ in range(3):
        async with pace:
            pass
    monkeypatch.setattr(anyio, "current_time", lambda: 200.0)
    async with pace:
        pass
    assert turns == [100.0, 100.25, 100.5, 200.0]


def test_a_rate_is_kept(server: ThreadedServer, run: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    async def enter(self: Pace) -> None:
        asked.append(self._seconds)

    monkeypatch.setattr(Pace, "__aenter__", enter)
    assert run("send", server.url, "--rate", "600/min", files / "1.eml", files / "2.eml").code == 3
    assert asked == [0.1, 0.1]


# --- a dry run


def test_a_dry_run_says_what_would_be_sent_and_connects_to_nobody(
    server: ThreadedServer, run: Run, files: Path
) -> None:
    ran = run("send", server.url, "--dry-run", files)
    assert ran.code == 3
    assert ran.out.splitlines() == [
        f"{files}/1.eml: ada@example.org -> grace@example.net, 69 bytes",
        f"{files}/2.eml: ada@example.org -> bob@example.net, 67 bytes",
        f"{files}/3.eml: cannot be sent: message has no From: use --from",
        "3 messages, 2 recipients, 1 message cannot be sent; nothing was sent",
    ]
    assert not server.connections
    assert run("send", "--dry-run", files / "1.eml").code == 0  # it needs no server


def test_a_dry_run_leaves_out_what_an_earlier_run_has_sent(server: ThreadedServer, run: Run, files: Path) -> None:
    log = files.parent / "log"
    run("send", server.url, "--results", log, files / "1.eml")
    before = log.read_bytes()
    ran = run("send", "--dry-run", "--json", "--resume", log, files / "1.eml", files / "2.eml")
    found, summary = map(json.loads, ran.out.splitlines())
    assert found == {
        "file": f"{files}/2.eml",
        "sender": "ada@example.org",
        "recipients": ["bob@example.net"],
        "bytes": 67,
        "error": None,
    }
    assert summary == {"messages": 1, "recipients": 1, "problems": 0, "dry_run": True}
    assert log.read_bytes() == before


# --- JSON


def test_json_is_a_line_for_each_recipient_and_a_summary(server: ThreadedServer, run: Run, files: Path) -> None:
    ran = run("send", server.url, "--json", "--connections", "1", files)
    *results, summary = map(json.loads, ran.out.splitlines())
    assert {(Path(one["file"]).name, one["recipient"], one["outcome"]) for one in results} == {
        ("1.eml", "grace@example.net", "accepted"),
        ("2.eml", "bob@example.net", "refused"),
        ("3.eml", None, "not_sent"),
    }
    assert summary.pop("seconds") >= 0
    assert summary == {
        "messages": 3,
        "recipients": 2,
        "accepted": 1,
        "refused": 1,
        "unknown": 0,
        "not_sent": 0,
        "without_recipients": 1,
        "not_begun": 0,
        "error": None,
        "exit_code": ran.code,
    }
    assert ran.code == 3


def test_a_message_that_names_nobody_is_no_recipient(server: ThreadedServer, run: Run, files: Path) -> None:
    ran = run("send", server.url, files / "3.eml")
    assert ran.code == 3
    assert ran.out.startswith("1 message, 0 recipients: accepted 0, refused 0, unknown 0, 1 message cannot be sent; ")


def test_json_says_what_stopped_it(run: Run, files: Path) -> None:
    ran = run("send", "smtp://127.0.0.1:1?tls=none", "--json", files / "1.eml")
    summary = json.loads(ran.out.splitlines()[-1])
    assert (ran.code, summary["exit_code"]) == (1, 1)
    assert "cannot connect" in summary["error"]
