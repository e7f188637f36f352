"""`smtplite check`: each step with its time and round trips, an exit code for the one that fails, and no message."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtplite.cli.server_options import tls_context
from smtplite.cli.terminal import Paint
from smtplite.cli.timeline import Timeline, WatchedContext
from smtplite.testing import ServerExtensions, server_context
from smtplite.testing.threaded import ThreadedServer

Start = Callable[..., ThreadedServer]
Run = Callable[..., Any]

PATIENCE_SECONDS = 60.0

REPLY = {"code": int, "enhanced": (str, None), "text": str}
STEP = {
    "step": str,
    "subject": (str, None),
    "ok": bool,
    "seconds": float,
    "round_trips": int,
    "reply": (REPLY, None),
    "detail": (str, None),
}
ANSWER = {"address": str, "ok": bool, "reply": (REPLY, None)}
CERTIFICATE = {
    "subject": (str, None),
    "issuer": (str, None),
    "names": [str],
    "not_before": str,
    "not_after": str,
    "days_left": int,
}
#: What --json prints, schema 1. A tuple: any of these. A list: any number of such.
SCHEMA = {
    "schema": int,
    "server": (str, None),
    "ok": bool,
    "exit_code": int,
    "failed": (str, None),
    "error": (str, None),
    "seconds": float,
    "round_trips": int,
    "steps": [STEP],
    "greeting": (str, None),
    "tls": ({"version": str, "cipher": str, "certificate": CERTIFICATE}, None),
    "extensions": (dict, None),
    "mechanisms": ([str], None),
    "limits": (dict.fromkeys(("size", "mailmax", "rcptmax", "rcptdomainmax"), (int, None)), None),
    "authentication": ({"mechanism": (str, None), "ok": bool}, None),
    "sender": (ANSWER, None),
    "recipients": [ANSWER],
}


def fits(value: object, schema: Any) -> bool:
    if isinstance(schema, tuple):
        return any(fits(value, choice) for choice in schema)
    if isinstance(schema, list):
        return isinstance(value, list) and all(fits(item, schema[0]) for item in value)
    if isinstance(schema, dict):
        return (
            isinstance(value, dict)
            and value.keys() == schema.keys()
            and all(fits(value[key], schema[key]) for key in schema)
        )
    return value is None if schema is None else type(value) is schema


def checked(run: Run, *arguments: object) -> Any:
    """Run `check --json` and return what it printed, of the right form."""
    ran = run("check", "--json", *arguments)
    assert ran.err == ""
    found = json.loads(ran.out)
    for key, schema in SCHEMA.items():
        assert fits(found[key], schema), f"{key}: {found[key]!r}"
    assert found.keys() == SCHEMA.keys()
    assert found["schema"] == 1
    assert found["exit_code"] == ran.code
    assert found["ok"] == (ran.code == 0) == (found["failed"] is None) == (found["error"] is None)
    assert found["round_trips"] == sum(step["round_trips"] for step in found["steps"])
    assert all(step["seconds"] >= 0 for step in found["steps"])  # how long they took is the machine's affair
    return found


def names(found: Any) -> list[str]:
    return [step["step"] for step in found["steps"] if step["step"] != "QUIT"]


def commands(server: ThreadedServer) -> list[str]:
    """Return the verbs that the server read on its first connection."""
    return [line.split(b" ")[0].decode() for line in server.connections[0].received.splitlines()]


def test_each_step_is_shown_with_its_round_trip_and_what_the_server_offers(start: Start, run: Run) -> None:
    server = start(extensions=ServerExtensions(size=1000, mailmax=5, rcptmax=7))
    ran = run("check", server.url)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].split() == ["step", "time", "trips"]
    shown = [line.split() for line in lines[1 : lines.index("")]]
    assert [(name, unit, trips) for name, _, unit, trips, *_ in shown if name != "QUIT"] == [
        ("connect", "ms", "1"),
        ("greeting", "ms", "1"),
        ("EHLO", "ms", "1"),
        ("NOOP", "ms", "1"),
    ]
    assert "extensions   PIPELINING, CHUNKING, 8BITMIME" in ran.out
    assert "mechanisms   none\n" in ran.out
    assert "limits       SIZE 1,000, MAILMAX 5, RCPTMAX 7\n" in ran.out
    assert lines[-1].startswith("ok: ")
    assert server.violations == []


def test_everything_at_once_as_json(start: Start, run: Run, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start(tls="starttls", users={"ada@example.org": "s3cret"}, mechanisms=["PLAIN"], require_auth=True)
    monkeypatch.setenv("SMTPLITE_PASSWORD", "s3cret")
    url = f"smtp://ada%40example.org@localhost:{server.port}"
    found = checked(run, url, "--ca", ca_file, "--rcpt", "grace@example.net", "--rcpt", "alan@example.net")
    assert names(found) == [
        *("connect", "greeting", "EHLO", "STARTTLS", "TLS", "EHLO", "AUTH"),
        *("NOOP", "MAIL", "RCPT", "RCPT", "RSET"),
    ]
    assert found["exit_code"] == 0
    assert found["server"] == f"localhost:{server.port}"
    assert found["tls"]["version"] == "TLSv1.3"
    certificate = found["tls"]["certificate"]
    assert {"localhost", "127.0.0.1", "::1"} <= set(certificate["names"])
    assert "trustme" in certificate["issuer"]
    assert certificate["days_left"] > 0
    assert found["extensions"]["SIZE"] == [str(found["limits"]["size"])]
    assert found["mechanisms"] == ["PLAIN"]
    assert found["authentication"] == {"mechanism": "PLAIN", "ok": True}
    assert found["sender"]["address"] == "ada@example.org"  # the user's own: many servers take no other
    assert [(one["address"], one["ok"], one["reply"]["code"]) for one in found["recipients"]] == [
        ("grace@example.net", True, 250),
        ("alan@example.net", True, 250),
    ]
    assert "s3cret" not in json.dumps(found)


def test_no_message_is_ever_sent_and_the_end_is_rset(start: Start, run: Run) -> None:
    server = start()
    assert checked(run, server.url, "--from", "a@b.example", "--rcpt", "c@d.example")["ok"]
    seen = commands(server)
    assert seen[:5] == ["EHLO", "NOOP", "MAIL", "RCPT", "RSET"]
    assert seen[5:] in ([], ["QUIT"])
    assert server.messages == []
    assert server.violations == []


def test_round_trips_are_those_that_the_server_counts(start: Start, run: Run, ca_file: Path) -> None:
    """Three trips of SCRAM are three."""
    server = start(tls="implicit", users={"me": "pw"}, mechanisms=["SCRAM-SHA-256"])
    password = ca_file.with_name("password")
    password.write_text("pw\n")
    found = checked(
        run,
        f"smtps://me@localhost:{server.port}",
        "--ca",
        ca_file,
        "--password-file",
        password,
        "--rcpt",
        "x@y.example",
    )
    trips = {step["step"]: step["round_trips"] for step in found["steps"]}
    assert trips["AUTH"] == 3
    [connection] = server.connections
    without_commands = trips["connect"] + trips["TLS"] + trips["greeting"]
    assert without_commands == 3
    assert found["round_trips"] - without_commands == connection.flights


@pytest.mark.parametrize(
    ("version", "trips"), [(ssl.TLSVersion.TLSv1_3, 1), (ssl.TLSVersion.TLSv1_2, 2)], ids=["1.3", "1.2"]
)
def test_the_handshake_of_tls_1_2_takes_a_round_trip_more(
    start: Start, run: Run, ca_file: Path, version: ssl.TLSVersion, trips: int
) -> None:
    server = start(tls="implicit", ssl_context=server_context(only_version=version))
    found = checked(run, f"smtps://localhost:{server.port}", "--ca", ca_file)
    [step] = [step for step in found["steps"] if step["step"] == "TLS"]
    assert step["round_trips"] == trips
    assert found["tls"]["version"] == version.name.replace("_", ".", 1).replace("TLSv1_", "TLSv1.")


@pytest.mark.parametrize(
    ("version", "trips"), [(ssl.TLSVersion.TLSv1_3, 1), (ssl.TLSVersion.TLSv1_2, 2)], ids=["1.3", "1.2"]
)
def test_a_flight_that_arrives_in_pieces_is_one_round_trip(version: ssl.TLSVersion, trips: int, ca_file: Path) -> None:
    timeline = Timeline(lambda step: None)
    context = tls_context(ca_file, WatchedContext)
    context.timeline = timeline
    ours, theirs, to_server, from_server = (ssl.MemoryBIO() for _ in range(4))
    client = context.wrap_bio(ours, theirs, server_hostname="localhost")
    server = server_context(only_version=version).wrap_bio(to_server, from_server, server_side=True)
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            to_server.write(theirs.read())
        if not from_server.pending:
            with contextlib.suppress(ssl.SSLWantReadError):
                server.do_handshake()
        ours.write(from_server.read(1))
    [step] = timeline.steps
    assert (step.name, step.ok, step.round_trips) == ("TLS", True, trips)


def test_the_days_that_the_certificate_is_still_good_for(start: Start, run: Run, ca_file: Path) -> None:
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=10, hours=1)
    server = start(tls="implicit", ssl_context=server_context(not_after=end))
    url = f"smtps://localhost:{server.port}"
    assert checked(run, url, "--ca", ca_file)["tls"]["certificate"]["days_left"] == 10
    assert f"until {end:%Y-%m-%d} (10 days left)" in run("check", url, "--ca", ca_file).out


# What fails, and where


def clear(server: ThreadedServer) -> str:
    return f"smtp://127.0.0.1:{server.port}?tls=none"


def secure(server: ThreadedServer) -> str:
    return f"smtp://localhost:{server.port}"


def authenticated(server: ThreadedServer) -> str:
    return f"smtp://me@localhost:{server.port}"


def implicit(server: ThreadedServer) -> str:
    return f"smtps://localhost:{server.port}"


USERS = {"tls": "starttls", "users": {"me": "right"}, "mechanisms": ["PLAIN"]}


@pytest.mark.parametrize(
    ("options", "replies", "url", "code", "step", "error"),
    [
        ({}, [], secure, 11, "STARTTLS", "does not offer STARTTLS: add ?tls=none to the URL"),
        ({"tls": "starttls"}, [("STARTTLS", "454 4.7.0 not now")], secure, 11, "STARTTLS", "454 4.7.0 not now"),
        ({}, [], implicit, 11, "TLS", "220 mail.example.com ESMTP ready': write smtp:// instead of smtps://"),
        ({}, [("GREETING", "554 5.3.2 no mail here")], clear, 12, "greeting", "554 5.3.2 no mail here"),
        ({}, [("GREETING", b"")], clear, 12, "greeting", "server closed the connection"),
        ({}, [("EHLO", "550 5.7.1 not you")], clear, 13, "EHLO", "server refused EHLO: 550 5.7.1 not you"),
        ({}, [("EHLO", b"")], clear, 13, "EHLO", "without a reply to EHLO"),
        ({}, [("EHLO", "502 what?"), ("HELO", "550 no")], clear, 13, "HELO", "server refused HELO: 550 no"),
        (USERS, [], authenticated, 14, "AUTH", "server refused AUTH PLAIN: 535"),
        ({"tls": "starttls"}, [], authenticated, 14, "AUTH", "server offers no authentication"),
        (USERS, [("AUTH", "421 4.3.2 busy")], authenticated, 14, "AUTH", "421 4.3.2 busy"),
        ({}, [("MAIL", "550 5.7.1 not from you")], clear, 15, "MAIL", "refused the sender <>: 550 5.7.1 not from you"),
        ({}, [("RCPT", "550 5.1.1 who?")], clear, 16, "RCPT", "server refused 1 of 1 recipient"),
        ({}, [("RCPT", b"")], clear, 16, "RCPT", "without a reply to RCPT"),
        ({}, [("NOOP", "500 what?")], clear, 17, "NOOP", "server refused NOOP: 500 what?"),
        ({}, [("NOOP", "421 4.3.2 bye")], clear, 17, "NOOP", "421 4.3.2 bye"),
        ({}, [("RSET", "500 what?")], clear, 17, "RSET", "500 what?"),
        ({}, [("NOOP", b"rubbish\r\n")], clear, 17, "NOOP", "rubbish"),
    ],
)
def test_the_exit_code_tells_which_step_failed(
    options: dict[str, Any],
    replies: list[tuple[str, str | bytes]],
    url: Callable[[ThreadedServer], str],
    code: int,
    step: str,
    error: str,
    start: Start,
    run: Run,
    ca_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMTPLITE_PASSWORD", "n0t-right")
    server = start(**options)
    for verb, reply in replies:
        server.reply(verb, reply, close=True if reply == b"" else None)
    trusted = [] if url is clear else ["--ca", ca_file]
    arguments = [url(server), *trusted, "--rcpt", "x@y.example"]
    found = checked(run, *arguments)
    assert (found["exit_code"], found["failed"]) == (code, step)
    assert error in found["error"]
    assert [one["ok"] for one in found["steps"] if one["step"] == step][-1] is False
    ran = run("check", *arguments)  # and the same for people
    assert ran.code == code
    assert [line for line in ran.out.splitlines() if "FAILED" in line][-1].startswith(step)
    assert f"failed at {step}: " in ran.out
    assert ran.err.startswith("smtplite check: ")
    assert error in ran.err
    assert ran.err.count("\n") == 1
    assert "n0t-right" not in ran.out + ran.err
    assert server.messages == []


def test_a_port_for_tls_from_the_start_is_told_in_words_of_the_command_line(run: Run, start: Start) -> None:
    found = checked(run, secure(start(tls="implicit")), "--timeout", "1.5")
    assert (found["exit_code"], found["failed"]) == (12, "greeting")
    assert "no greeting within 1.5 s; if this port is for TLS from the start, write smtps://" in found["error"]


def test_nobody_listens(run: Run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        found = checked(run, f"smtp://127.0.0.1:{unused.getsockname()[1]}")
    assert (found["exit_code"], found["failed"], names(found)) == (10, "connect", ["connect"])
    assert "Connection refused" in found["error"]


@pytest.mark.parametrize(
    ("hosts", "certificate", "error"),
    [
        (["elsewhere.example"], {}, "Hostname mismatch, certificate is not valid for 'localhost'"),
        (
            [],
            {"is_self_signed": True},
            "self-signed certificate; if it should be trusted, name the file of its CA with --ca",
        ),
        ([], {"not_after": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)}, "certificate has expired"),
    ],
    ids=["wrong-host", "self-signed", "expired"],
)
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
def test_a_wrong_certificate_is_exit_code_11_and_no_password_follows(
    hosts: list[str],
    certificate: dict[str, Any],
    error: str,
    mode: str,
    start: Start,
    run: Run,
    ca_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMTPLITE_PASSWORD", "s3cret")
    context = server_context(*hosts, **certificate)
    server = start(tls=mode, ssl_context=context, users={"me": "s3cret"})
    scheme = "smtps" if mode == "implicit" else "smtp"
    found = checked(run, f"{scheme}://me@localhost:{server.port}", "--ca", ca_file)
    assert (found["exit_code"], found["failed"]) == (11, "TLS")
    assert error in found["error"]
    assert found["tls"] is None
    assert b"AUTH" not in server.connections[0].received


def test_without_ca_only_the_systems_cas_are_trusted(start: Start, run: Run) -> None:
    server = start(tls="implicit")
    assert checked(run, f"smtps://localhost:{server.port}")["exit_code"] == 11


def test_a_server_that_says_nothing_is_given_up_in_time(start: Start, run: Run) -> None:
    server = start()
    held = server.hold("GREETING")
    found = checked(run, clear(server), "--timeout", "1.5")
    assert (found["exit_code"], found["failed"]) == (12, "greeting")
    assert "no greeting within 1.5 s" in found["error"]
    held.release()


@pytest.mark.needs("signals for other processes")
def test_ctrl_c_is_no_traceback(start: Start, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    server = start()
    held = server.hold("NOOP")
    program = spawn("check", clear(server))
    held.wait(timeout=PATIENCE_SECONDS)
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=PATIENCE_SECONDS)
    held.release()
    assert (program.returncode, err) == (130, "smtplite: interrupted\n")
    assert [line.split()[0] for line in out.splitlines()] == ["step", "connect", "greeting", "EHLO"]


def test_every_recipient_is_asked_and_the_refused_ones_are_told(start: Start, run: Run) -> None:
    server = start()
    server.reply("RCPT", "550 5.1.1 no such user", to="bob@example.net")
    arguments = [clear(server), "--rcpt", "ada@example.net", "--rcpt", "bob@example.net", "--rcpt", "eve@example.net"]
    found = checked(run, *arguments)
    assert [one["ok"] for one in found["recipients"]] == [True, False, True]
    assert found["recipients"][1]["reply"] == {"code": 550, "enhanced": "5.1.1", "text": "5.1.1 no such user"}
    ran = run("check", *arguments)
    assert ran.code == 16
    assert "FAILED  <bob@example.net>: 550 5.1.1 no such user\n" in ran.out
    assert ran.err == "smtplite check: server refused 1 of 3 recipients\n"


def test_no_recipient_is_asked_for_behind_a_refused_sender(start: Start, run: Run) -> None:
    server = start()
    server.reply("MAIL", "550 5.7.1 no", sender="a@b.example")
    found = checked(run, clear(server), "--from", "a@b.example", "--rcpt", "c@d.example")
    assert names(found)[-2:] == ["MAIL", "RSET"]
    assert found["sender"] == {
        "address": "a@b.example",
        "ok": False,
        "reply": {"code": 550, "enhanced": "5.7.1", "text": "5.7.1 no"},
    }
    assert found["recipients"] == []
    assert server.violations == []


def test_a_server_that_knows_only_helo_is_fine(start: Start, run: Run) -> None:
    server = start()
    server.reply("EHLO", "502 what?")
    found = checked(run, clear(server))
    assert [(step["step"], step["ok"]) for step in found["steps"]][2:4] == [("EHLO", False), ("HELO", True)]
    assert found["ok"]
    assert found["extensions"] is None


def test_a_mechanism_that_another_makes_good_is_no_failure(
    start: Start, run: Run, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTPLITE_PASSWORD", "pw")
    server = start(tls="starttls", users={"me": "pw"}, mechanisms=["PLAIN", "LOGIN"])
    server.reply("AUTH", "504 5.5.4 not today", times=1)
    found = checked(run, authenticated(server), "--ca", ca_file)
    tried = [(step["subject"], step["ok"]) for step in found["steps"] if step["step"] == "AUTH"]
    assert tried == [("PLAIN", False), ("LOGIN", True)]
    assert found["authentication"] == {"mechanism": "LOGIN", "ok": True}
    assert found["exit_code"] == 0


@pytest.mark.parametrize("mechanism", ["plain", "login", "cram-md5", "scram-sha-1", "scram-sha-256"])
def test_one_mechanism_alone(
    mechanism: str, start: Start, run: Run, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTPLITE_PASSWORD", "pw")
    server = start(tls="starttls", users={"me": "pw"})
    found = checked(run, secure(server), "--ca", ca_file, "--user", "me", "--mechanism", mechanism)
    assert found["authentication"] == {"mechanism": mechanism.upper(), "ok": True}


@pytest.mark.parametrize("mechanism", ["xoauth2", "oauthbearer"])
def test_a_token_stands_where_a_password_stands(
    mechanism: str, start: Start, run: Run, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTPLITE_PASSWORD", "t0ken")
    server = start(tls="starttls", tokens={"me@example.org": "t0ken"})
    found = checked(
        run,
        secure(server),
        "--ca",
        ca_file,
        "--user",
        "me@example.org",
        "--mechanism",
        mechanism,
        "--rcpt",
        "x@y.example",
    )
    assert found["authentication"] == {"mechanism": mechanism.upper(), "ok": True}
    assert found["sender"]["address"] == "me@example.org"


def test_an_address_beyond_ascii_asks_for_smtputf8(start: Start, run: Run) -> None:
    server = start()
    found = checked(run, clear(server), "--rcpt", "jürgen@example.net")
    assert found["ok"]
    assert found["recipients"][0]["address"] == "jürgen@example.net"
    assert b"MAIL FROM:<> SMTPUTF8\r\n" in server.connections[0].received
    server = start(extensions=ServerExtensions(smtputf8=False))
    found = checked(run, clear(server), "--rcpt", "jürgen@example.net")
    assert (found["exit_code"], found["failed"]) == (15, "MAIL")
    assert "SMTPUTF8" in found["error"]


@pytest.mark.needs("Unix sockets")
def test_lmtp_over_a_unix_socket(start: Start, run: Run, tmp_path: Path) -> None:
    server = start(lmtp=True, socket_path=tmp_path / "s")
    found = checked(run, f"lmtp+unix://{tmp_path / 's'}", "--rcpt", "x@y.example")
    assert names(found) == ["connect", "greeting", "LHLO", "NOOP", "MAIL", "RCPT", "RSET"]
    assert found["ok"]
    assert server.violations == []


@pytest.mark.parametrize("option", ["--rcpt", "--from"])
def test_an_address_that_is_none_is_wrong_usage(option: str, start: Start, run: Run) -> None:
    server = start()
    ran = run("check", clear(server), option, "Ada <ada@example.org>")
    assert (ran.code, ran.out) == (2, "")
    assert "Ada <ada@example.org>" in ran.err
    assert server.connections == []


def test_what_a_server_says_cannot_steer_the_terminal(start: Start, run: Run) -> None:
    server = start()
    server.reply("GREETING", b"220 \x1b[2Jhi\x07\r\n")
    ran = run("check", clear(server))
    assert ran.code == 0
    assert "\x1b" not in ran.out
    assert "220 \ufffd[2Jhi\ufffd\n" in ran.out


# Colours


@pytest.mark.parametrize("forced", [False, True])
def test_what_failed_is_red_where_there_are_colours(
    forced: bool, start: Start, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    server.reply("RCPT", "550 5.1.1 no such user\x1b[2J", to="bob@example.net")
    if forced:
        monkeypatch.setenv("FORCE_COLOR", "1")
    ran = run("check", server.url, "--rcpt", "bob@example.net")
    assert ("\x1b[31mFAILED\x1b[0m" in ran.out) == forced
    assert ("\x1b[32mNOOP      \x1b[0m" in ran.out) == forced
    assert "\x1b[2J" not in ran.out
    assert forced == ("\x1b" in ran.out)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"TERM": "dumb"}, False),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_a_terminal_has_colours_unless_it_is_told_otherwise(
    settings: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TERM": "xterm", **settings}.items():
        monkeypatch.setenv(name, value)
    assert Paint(Terminal()).is_on == expected
    assert not Paint(io.StringIO()).is_on
