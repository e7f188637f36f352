"""`smtplite send`: files as they are, what became of each written down at once, and a clean end by Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from smtplite.cli import files, progress, send
from smtplite.cli.files import FileError
from smtplite.cli.progress import Lines, Tally, show_progress
from smtplite.cli.results import Result
from smtplite.testing.threaded import ThreadedServer

Start = Callable[..., ThreadedServer]
Run = Callable[..., Any]
Spawn = Callable[..., "subprocess.Popen[str]"]
Finish = Callable[["subprocess.Popen[str]"], Any]
Write = Callable[..., Path]

PATIENCE_SECONDS = 60.0


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    path = tmp_path / "outbox"
    path.mkdir()
    return path


@pytest.fixture
def write(outbox: Path) -> Write:
    """Give a function that writes a message for r{number}@example.net into the outbox."""

    def call(number: int, recipients: Iterable[str] = (), text: str = "Hello.\r\n") -> Path:
        path = outbox / f"{number:04}.eml"
        to = ", ".join(recipients) or f"r{number}@example.net"
        path.write_bytes(f"From: ada@example.org\r\nTo: {to}\r\nSubject: {number}\r\n\r\n{text}".encode())
        return path

    return call


def written(path: Path) -> list[dict[str, Any]]:
    """Return the outcomes in a results file; every line has the documented form."""
    lines = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    for line in lines:
        if line["outcome"] == "begun":
            assert list(line) == ["file", "recipient", "outcome"]
        else:
            assert list(line) == ["file", "recipient", "outcome", "reply", "error", "more"]
            assert line["outcome"] in ("accepted", "refused", "unknown", "not_sent")
            assert isinstance(line["more"], int)
        assert isinstance(line["file"], str)
        for key in ("recipient", "reply", "error"):
            assert line.get(key) is None or isinstance(line[key], str)
    return [line for line in lines if line["outcome"] != "begun"]


def outcomes(path: Path) -> dict[tuple[str, str | None], str]:
    """Return (name of the file, recipient) -> outcome; each recipient has one line."""
    lines = written(path)
    found = {(Path(line["file"]).name, line["recipient"]): line["outcome"] for line in lines}
    assert len(found) == len(lines)
    return found


# What is sent


def test_the_octets_of_a_file_arrive_as_they_are(start: Start, run: Run, tmp_path: Path) -> None:
    server = start()
    octets = (
        b"From: ada@example.org\r\nTo: grace@example.net\r\nX-Odd:  two  spaces \r\n\r\n"
        b".\r\n..\r\nText \xe9\xff 8-bit \r\n" + b"x" * 998 + b"\r\n"
    )
    file = tmp_path / "message.eml"
    file.write_bytes(octets)
    ran = run("send", "--server", server.url, file)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("1 message, 1 recipient: accepted 1, refused 0, unknown 0; ")
    [arrived] = server.messages
    assert arrived.content == octets
    assert (arrived.sender, arrived.recipients) == ("ada@example.org", ("grace@example.net",))
    assert server.violations == []


def test_long_lines_are_sent_only_where_that_is_asked_for(start: Start, run: Run, tmp_path: Path) -> None:
    server = start()
    octets = b"From: ada@example.org\r\nTo: grace@example.net\r\n\r\n" + b"x" * 5000 + b"\r\n"
    file = tmp_path / "long.eml"
    file.write_bytes(octets)
    ran = run("send", "--server", server.url, file)
    assert ran.code == 3
    assert "line of more than 998 bytes: line 4, 5000 bytes, in part text/plain" in ran.err
    assert server.connections == []
    sent = "server refused the message: 554 5.6.0 line over 998 bytes"  # a server may
    ran = run("send", "--server", server.url, "--long-lines", "send", file)
    assert f"refused for grace@example.net: {sent}" in ran.err
    ran = run("send", "--server", server.url, "--long-lines", "send", "--to", "x@example.net", file)
    assert f"refused for x@example.net: {sent}" in ran.err
    file.write_bytes(octets.replace(b"To:", b"X:"))
    assert "names nobody in To, Cc and Bcc" in run("send", "--server", server.url, "--long-lines", "send", file).err


def test_from_and_to_say_the_envelope_of_all(start: Start, run: Run, write: Write) -> None:
    server = start()
    arguments = ["--from", "bounces@example.org", "--to", "a@example.net", "--to", "b@example.net"]
    assert run("send", "--server", server.url, *arguments, write(1), write(2)).code == 0
    envelopes = {(message.sender, message.recipients) for message in server.messages}
    assert envelopes == {("bounces@example.org", ("a@example.net", "b@example.net"))}
    assert len(server.messages) == 2


def test_an_empty_from_is_the_null_reverse_path(start: Start, run: Run, write: Write) -> None:
    server = start()
    assert run("send", "--server", server.url, "--from", "", write(1)).code == 0
    assert server.messages[0].sender == ""


def test_a_folder_is_every_eml_below_it_and_nothing_else(
    start: Start, run: Run, write: Write, outbox: Path, tmp_path: Path
) -> None:
    server = start()
    for number in (3, 1, 2):
        write(number)
    (outbox / "below" / "further").mkdir(parents=True)
    write(4).rename(outbox / "below" / "further" / "4.eml")
    (outbox / "notes.txt").write_text("no message")
    log = tmp_path / "log"
    # Once, also where the command line names it twice.
    assert run("send", "--server", server.url, "--results", log, outbox, outbox / "0001.eml").code == 0
    assert sorted(message.recipients for message in server.messages) == [(f"r{n}@example.net",) for n in (1, 2, 3, 4)]
    assert {line["file"] for line in written(log)} == {
        *(str(outbox / f"000{n}.eml") for n in (1, 2, 3)),
        str(outbox / "below" / "further" / "4.eml"),
    }


def test_a_dash_is_stdin(start: Start, spawn: Spawn, write: Write, tmp_path: Path) -> None:
    server = start()
    log = tmp_path / "log"
    with write(1).open("rb") as message:
        program = spawn("send", "--server", server.url, "--results", log, "-", stdin=message)
        out, err = program.communicate(timeout=PATIENCE_SECONDS)
    assert (program.returncode, err) == (0, "")
    assert out.startswith("1 message, 1 recipient: accepted 1")
    assert outcomes(log) == {("-", "r1@example.net"): "accepted"}
    assert server.messages[0].content == write(1).read_bytes()


def test_hundreds_go_over_a_few_connections(start: Start, run: Run, write: Write, outbox: Path, tmp_path: Path) -> None:
    server = start()
    files = [write(number) for number in range(300)]
    log = tmp_path / "log"
    ran = run("send", "--server", server.url, "--connections", "2", "--results", log, outbox)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("300 messages, 300 recipients: accepted 300, refused 0, unknown 0; ")
    assert outcomes(log) == {(file.name, f"r{n}@example.net"): "accepted" for n, file in enumerate(files)}
    assert sorted(message.recipients[0] for message in server.messages) == sorted(
        f"r{n}@example.net" for n in range(300)
    )
    assert len(server.connections) <= 2
    assert server.violations == []


@pytest.mark.parametrize(("query", "arguments"), [("&max_connections=1", []), ("&max_connections=9", [1])])
def test_the_url_may_say_how_many_connections_and_the_option_goes_before_it(
    query: str, arguments: list[int], start: Start, run: Run, write: Write, outbox: Path
) -> None:
    server = start()
    for number in range(40):
        write(number)
    more = ["--connections", *arguments] if arguments else []
    assert run("send", "--server", server.url + query, *more, outbox).code == 0
    assert len(server.connections) == 1


@pytest.mark.parametrize("query", ["max_connections=0", "max_age=-1"])
def test_an_option_of_the_url_that_is_wrong(query: str, run: Run, write: Write) -> None:
    ran = run("send", "--server", f"smtp://localhost?{query}", write(1))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"smtplite send: {query.partition('=')[0]} must be a ")


def test_chunking_is_an_option(start: Start, run: Run, write: Write, outbox: Path) -> None:
    server = start()
    for number in range(20):
        write(number)
    assert run("send", "--server", server.url, "--connections", "1", "--in-flight", "8", "--chunking", outbox).code == 0
    assert {message.via for message in server.messages} == {"BDAT"}
    assert len(server.messages) == 20
    assert server.violations == []


# What became of it


def test_refused_recipients_are_exit_code_3(start: Start, run: Run, write: Write, tmp_path: Path) -> None:
    server = start()
    server.reply("RCPT", "550 5.1.1 no such user", to="bob@example.net")
    log = tmp_path / "log"
    both = write(1, ["ada@example.net", "bob@example.net"])
    alone = write(2, ["bob@example.net"])
    ran = run("send", "--server", server.url, "--results", log, both, alone)
    assert ran.code == 3
    assert ran.out.startswith("2 messages, 3 recipients: accepted 1, refused 2, unknown 0; ")
    assert f"smtplite send: {both}: refused for bob@example.net: 550 5.1.1 no such user\n" in ran.err
    assert outcomes(log) == {
        ("0001.eml", "ada@example.net"): "accepted",
        ("0001.eml", "bob@example.net"): "refused",
        ("0002.eml", "bob@example.net"): "refused",
    }
    replies = {line["recipient"]: line["reply"] for line in written(log)}
    assert replies["bob@example.net"] == "550 5.1.1 no such user"
    assert replies["ada@example.net"].startswith("250 2.0.0 ok")


def test_a_refused_message_is_exit_code_3(start: Start, run: Run, write: Write, tmp_path: Path) -> None:
    server = start()
    server.reply("END_OF_DATA", "554 5.7.1 spam", to="r2@example.net")
    log = tmp_path / "log"
    ran = run("send", "--server", server.url, "--results", log, write(1), write(2))
    assert ran.code == 3
    assert outcomes(log)["0001.eml", "r1@example.net"] == "accepted"
    [line] = [line for line in written(log) if line["file"].endswith("0002.eml")]
    assert line["reply"] == "554 5.7.1 spam"
    assert "554 5.7.1 spam" in line["error"]


def test_an_unknown_outcome_is_exit_code_4(start: Start, run: Run, write: Write, tmp_path: Path) -> None:
    server = start()
    server.reply("END_OF_DATA", b"", performs=True, close=True, to="r2@example.net")
    server.reply("RCPT", "550 5.1.1 no such user", to="r3@example.net")
    log = tmp_path / "log"
    ran = run("send", "--server", server.url, "--connections", "1", "--results", log, write(1), write(2), write(3))
    assert ran.code == 4
    assert ran.out.startswith("3 messages, 3 recipients: accepted 1, refused 1, unknown 1; ")
    assert f"{Path('outbox') / '0002.eml'}: unknown for r2@example.net: " in ran.err
    assert outcomes(log) == {
        ("0001.eml", "r1@example.net"): "accepted",
        ("0002.eml", "r2@example.net"): "unknown",
        ("0003.eml", "r3@example.net"): "refused",
    }


@pytest.mark.needs("symbolic links")
def test_a_message_that_cannot_be_sent_is_told_and_the_others_go(
    start: Start, run: Run, write: Write, outbox: Path, tmp_path: Path
) -> None:
    server = start()
    write(1)
    (outbox / "0002.eml").write_bytes(b"Subject: from and to nobody\r\n\r\n")
    (outbox / "0003.eml").symlink_to("nowhere")
    write(4, text="\x00\r\n")
    write(5)
    log = tmp_path / "log"
    ran = run("send", "--server", server.url, "--results", log, outbox)
    assert ran.code == 3
    assert ran.out.startswith("5 messages, 2 recipients: accepted 2, refused 0, unknown 0, 3 messages cannot be sent;")
    assert {key: outcome for key, outcome in outcomes(log).items() if outcome != "accepted"} == {
        ("0002.eml", None): "not_sent",
        ("0003.eml", None): "not_sent",
        ("0004.eml", None): "not_sent",
    }
    errors = {Path(line["file"]).name: line["error"] for line in written(log) if line["error"]}
    assert errors["0002.eml"] == "message has no From: use --from"
    assert errors["0003.eml"] == "cannot be read: No such file or directory"
    assert "NUL" in errors["0004.eml"]


def test_a_server_that_is_not_there_is_exit_code_1(run: Run, write: Write, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        port = unused.getsockname()[1]
        ran = run("send", "--server", f"smtp://127.0.0.1:{port}?tls=none", "--results", log, write(1), write(2))
    assert ran.code == 1
    assert f"smtplite send: cannot connect to 127.0.0.1:{port}: Connection refused\n" in ran.err
    assert set(outcomes(log).values()) <= {"not_sent"}


@pytest.mark.parametrize("fault", ["tls", "auth"])
def test_no_tls_and_no_way_in_are_exit_code_1(
    fault: str, start: Start, run: Run, write: Write, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTPLITE_PASSWORD", "wrong")
    server = start(tls="starttls", users={"me": "right"})
    trusted = ["--ca", ca_file] if fault == "auth" else []
    ran = run("send", "--server", f"smtp://me@localhost:{server.port}", *trusted, write(1))
    assert ran.code == 1
    assert ("an issuer that is not trusted" if fault == "tls" else "535") in ran.err
    assert "wrong" not in ran.out + ran.err
    assert server.messages == []


def test_only_the_first_problems_are_shown(start: Start, run: Run, write: Write, outbox: Path) -> None:
    server = start()
    server.reply("RCPT", "550 5.1.1 no such user")
    for number in range(30):
        write(number)
    ran = run("send", "--server", server.url, outbox)
    assert ran.code == 3
    assert ran.err.count("no such user") == 20
    assert ran.err.count("further ones are only counted") == 1


def test_what_a_server_says_cannot_steer_the_terminal(start: Start, run: Run, write: Write) -> None:
    server = start()
    server.reply("RCPT", b"550 \x1b[2Jhi\r\n")
    assert "\x1b" not in run("send", "--server", server.url, write(1)).err


def test_the_time_for_each_message_is_an_option(start: Start, run: Run, write: Write, tmp_path: Path) -> None:
    server = start()
    held = server.hold("END_OF_DATA")
    log = tmp_path / "log"
    ran = run("send", "--server", server.url, "--timeout", "1.5", "--results", log, write(1))
    held.release()
    assert ran.code == 4
    assert outcomes(log) == {("0001.eml", "r1@example.net"): "unknown"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere.eml"], "cannot read nowhere.eml: no such file or folder"),
        (["."], "there is no *.eml in ."),
        (["--resume", "nowhere", "."], "cannot read nowhere: No such file or directory"),
        (["--results", ".", "message.eml"], "cannot write .: it is a folder, not a regular file"),
        (["--resume", ".", "message.eml"], "cannot read .: it is a folder, not a regular file"),
        (["/dev/null"], "cannot read /dev/null: it is a device, not a regular file (- is stdin)"),
        (["--resend-unknown", "message.eml"], "--resend-unknown needs --resume FILE, which says what is unknown"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_sent(
    arguments: list[str], problem: str, start: Start, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    monkeypatch.chdir(tmp_path)
    if "message.eml" in arguments:
        (tmp_path / "message.eml").write_text("From: a@b.example\nTo: c@d.example\n\nHi\n")
    ran = run("send", "--server", server.url, *arguments)
    assert (ran.code, ran.out, ran.err) == (2, "", f"smtplite send: {problem}\n")
    assert server.connections == []


# Once more


def test_resume_sends_to_those_who_have_certainly_nothing(
    start: Start, run: Run, write: Write, outbox: Path, tmp_path: Path
) -> None:
    """Not to those who have it, may have it, or will never be accepted."""
    server = start()
    server.reply("RCPT", "550 5.1.1 no such user", to="never@example.net")
    server.reply("RCPT", "451 4.3.0 later", to="later@example.net", times=1)
    server.reply("END_OF_DATA", b"", performs=True, close=True, to="r3@example.net")
    log = tmp_path / "log"
    write(1)
    write(2, ["r2@example.net", "never@example.net", "later@example.net"])
    write(3)
    assert run("send", "--server", server.url, "--connections", "1", "--results", log, outbox).code == 4
    before = len(server.messages)
    write(4)
    ran = run("send", "--server", server.url, "--resume", log, outbox)
    assert (ran.code, ran.err) == (4, "")
    left = "1 message may have arrived: not sent again, unless you pass --resend-unknown\n"
    assert ran.out.startswith(f"{left}2 messages, 2 recipients: accepted 2")
    assert sorted(message.recipients for message in server.messages[before:]) == [
        ("later@example.net",),
        ("r4@example.net",),
    ]
    assert [line["outcome"] for line in written(log)][-2:] == ["accepted", "accepted"]  # added to the same file
    ran = run("send", "--server", server.url, "--resume", log, outbox)
    assert (ran.code, ran.out) == (4, f"{left}nothing is left to send\n")


def test_resume_with_results_writes_to_another_file(start: Start, run: Run, write: Write, tmp_path: Path) -> None:
    server = start()
    old, new = tmp_path / "old", tmp_path / "new"
    assert run("send", "--server", server.url, "--results", old, write(1)).code == 0
    assert run("send", "--server", server.url, "--resume", old, "--results", new, write(1), write(2)).code == 0
    assert outcomes(old) == {("0001.eml", "r1@example.net"): "accepted"}
    assert outcomes(new) == {("0002.eml", "r2@example.net"): "accepted"}


# Ctrl-C


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.needs("signals for other processes")
def test_a_signal_ends_it_when_what_is_under_way_is_known(
    number: signal.Signals,
    code: int,
    start: Start,
    spawn: Spawn,
    finish: Finish,
    write: Write,
    outbox: Path,
    tmp_path: Path,
) -> None:
    server = start()
    files = [write(n) for n in range(50)]
    held = server.hold("END_OF_DATA", to="r10@example.net")
    log = tmp_path / "log"
    program = spawn("send", "--server", server.url, "--connections", "1", "--results", log, outbox)
    held.wait(timeout=PATIENCE_SECONDS)  # the server has the message, and keeps its verdict back
    program.send_signal(number)
    assert program.stderr is not None
    assert program.stderr.readline().startswith("smtplite send: stopping: waiting for what is under way")
    held.release()
    ran = finish(program)
    assert ran.code == code
    assert ran.err == ""
    assert "not begun" in ran.out
    found = outcomes(log)
    assert found[files[10].name, "r10@example.net"] == "accepted"
    assert set(found.values()) == {"accepted"}
    assert 11 <= len(found) < 50
    assert {recipient for _, recipient in found} == {message.recipients[0] for message in server.messages}
    assert server.violations == []


@pytest.mark.needs("signals for other processes")
def test_a_second_ctrl_c_ends_it_at_once_and_the_rest_is_written_down(
    start: Start, spawn: Spawn, finish: Finish, write: Write, outbox: Path, tmp_path: Path
) -> None:
    server = start()
    for n in range(50):
        write(n)
    held = server.hold("END_OF_DATA", to="r10@example.net")
    log = tmp_path / "log"
    program = spawn("send", "--server", server.url, "--connections", "1", "--results", log, outbox)
    held.wait(timeout=PATIENCE_SECONDS)
    program.send_signal(signal.SIGINT)
    assert program.stderr is not None
    assert "stopping" in program.stderr.readline()
    program.send_signal(signal.SIGINT)
    ran = finish(program)
    held.release()
    assert ran.code == 130
    assert "Traceback" not in ran.err
    assert "unknown 1" in ran.out
    found = outcomes(log)
    assert found["0010.eml", "r10@example.net"] == "unknown"
    assert [found[f"{n:04}.eml", f"r{n}@example.net"] for n in range(10)] == ["accepted"] * 10
    assert set(found.values()) <= {"accepted", "unknown", "not_sent"}
    # And on from there: nobody gets it twice.
    assert run_on(server, spawn, log, outbox) == 4
    assert sorted(message.recipients[0] for message in server.messages) == sorted(
        f"r{n}@example.net" for n in range(50)
    )


@pytest.mark.needs("signals for other processes")
def test_after_ctrl_c_nobody_is_waited_for_without_end(
    start: Start, run: Run, write: Write, outbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "_DRAIN_SECONDS", 0.1)
    server = start()
    for n in range(20):
        write(n)
    held = server.hold("END_OF_DATA", to="r10@example.net")

    def interrupt() -> None:
        held.wait(timeout=PATIENCE_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)

    log = tmp_path / "log"
    with ThreadPoolExecutor(1) as thread:
        interrupted = thread.submit(interrupt)
        ran = run("send", "--server", server.url, "--connections", "1", "--results", log, outbox)
        interrupted.result(PATIENCE_SECONDS)
    held.release()
    assert ran.code == 130
    assert ran.err.count("stopping: waiting for what is under way") == 1
    assert "unknown for r10@example.net" in ran.err
    assert outcomes(log)["0010.eml", "r10@example.net"] == "unknown"


def run_on(server: ThreadedServer, spawn: Spawn, log: Path, outbox: Path) -> int:
    program = spawn("send", "--server", server.url, "--resume", log, outbox)
    program.communicate(timeout=PATIENCE_SECONDS)
    return int(program.returncode)


def test_what_is_known_is_in_the_file_even_if_it_is_killed(
    start: Start, spawn: Spawn, write: Write, outbox: Path, tmp_path: Path
) -> None:
    """Each line is written when its outcome is handed out, not at the end; `send_many` lets 64 of them lie at most."""
    server = start()
    for n in range(220):
        write(n)
    held = server.hold("END_OF_DATA", to="r200@example.net")
    log = tmp_path / "log"
    program = spawn("send", "--server", server.url, "--connections", "1", "--results", log, outbox)
    held.wait(timeout=PATIENCE_SECONDS)
    program.kill()
    program.wait(PATIENCE_SECONDS)
    held.release()
    found = outcomes(log)
    assert [found.get((f"{n:04}.eml", f"r{n}@example.net")) for n in range(130)] == ["accepted"] * 130


# What is named


@pytest.mark.needs("named pipes")
def test_what_is_no_regular_file_is_named_and_nobody_waits_for_it(
    start: Start, run: Run, write: Write, outbox: Path, tmp_path: Path
) -> None:
    """R33: In a folder it costs that message alone; a link is what it leads to."""
    server = start()
    write(1).rename(tmp_path / "elsewhere")
    (outbox / "0001.eml").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(outbox / "0002.eml")
    (outbox / "0003.eml").symlink_to("/dev/zero")
    with (outbox / "0004.eml").open("wb") as sparse:
        sparse.truncate(1 << 40)
    log = tmp_path / "log"
    ran = run("send", "--server", server.url, "--results", log, outbox)
    assert ran.code == 3
    assert {Path(line["file"]).name: line["error"] for line in written(log)} == {
        "0001.eml": None,
        "0002.eml": "cannot be read: it is a FIFO, not a regular file",
        "0003.eml": "cannot be read: it is a device, not a regular file",
        "0004.eml": "cannot be read: it has more than 268,435,456 bytes",
    }
    ran = run("send", "--server", server.url, outbox / "0002.eml")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.endswith("0002.eml: it is a FIFO, not a regular file (- is stdin)\n")


@pytest.mark.parametrize("option", ["--password-file", "--ca"])
@pytest.mark.needs("named pipes")
def test_other_files_are_regular_ones_too(option: str, run: Run, write: Write, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    ran = run("send", "--server", "smtp://me@localhost", option, tmp_path / "pipe", write(1))
    if option == "--ca":
        assert "no password for me" in ran.err  # looked for first
        ran = run("send", "--server", "smtp://localhost", option, tmp_path / "pipe", write(1))
    assert (ran.code, ran.err) == (
        2,
        f"smtplite send: cannot read {tmp_path / 'pipe'}: it is a FIFO, not a regular file\n",
    )


def test_a_file_that_grows_while_it_is_read_is_read_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"x" * 100)
    assert files.read_file(path, 100) == b"x" * 100
    checked = files._check

    def check(path: Path, found: os.stat_result, max_bytes: int) -> None:
        checked(path, found, max_bytes)
        path.write_bytes(b"x" * 101)

    monkeypatch.setattr(files, "_check", check)
    with pytest.raises(FileError, match="it has more than 100 bytes"):
        files.read_file(path, 100)


# Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def a_result(outcome: str) -> Result:
    return Result(file="a.eml", recipient="x@y.example", outcome=outcome)


def test_a_line_now_and_then_says_how_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    tally = Tally(1000, clock)
    lines = Lines(tally)
    for _ in range(100):
        tally.add([a_result("accepted")])
        lines.update()
    tally.add([a_result("refused"), a_result("unknown")])
    assert capsys.readouterr().err == ""
    clock.now += progress.LINE_SECONDS
    lines.update()
    lines.update()
    expected = "101 of 1,000 messages: 20/s, accepted 100, refused 1, unknown 1, 0:45 left"
    assert capsys.readouterr().err == f"smtplite send: {expected}\n"
    clock.now += progress.LINE_SECONDS
    tally.add([a_result("not_sent")])
    lines.update()
    assert "not sent 1, 1:28 left\n" in capsys.readouterr().err
    assert tally.summary() == (
        "102 messages, 103 recipients: accepted 100, refused 1, unknown 1, not sent 1; 10.0 s (10 messages/s)"
    )


@pytest.mark.needs("pseudo-terminals")
@pytest.mark.parametrize("has_rich", [True, False], ids=["rich", "without-rich"])
def test_a_bar_on_a_terminal_if_rich_is_there(
    has_rich: bool, start: Start, write: Write, outbox: Path, tmp_path: Path
) -> None:
    if has_rich:
        pytest.importorskip("rich")
    server = start()
    server.reply("RCPT", "550 5.1.1 no [bold]such[/bold] user", to="r3@example.net")
    for n in range(20):
        write(n)
    program = "import sys\n"
    if not has_rich:
        program += "sys.modules['rich'] = None\n"
    program += "from smtplite.cli import main\nsys.exit(main())"
    ours, theirs = os.openpty()
    try:
        sender = subprocess.Popen(
            [sys.executable, "-c", program, "send", "--server", server.url, str(outbox)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(theirs)
        shown = b""
        while piece := _read(ours):
            shown += piece
        out, _ = sender.communicate(timeout=PATIENCE_SECONDS)
    finally:
        os.close(ours)
    assert sender.returncode == 3
    assert out.startswith(b"20 messages, 20 recipients: accepted 19, refused 1, unknown 0; ")
    assert b"550 5.1.1 no [bold]such[/bold] user" in shown
    if has_rich:
        assert b"20/20 " in shown
        assert b"accepted 19, refused 1, unknown 0" in shown
        assert b"left" in shown
    else:
        assert b"\x1b" not in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO, on Linux: the other side has closed
        return b""


def test_lines_where_stderr_is_no_terminal() -> None:
    assert isinstance(show_progress(Tally(1)), Lines)
