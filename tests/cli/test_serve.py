"""`smtplite serve`: what arrives is printed or stored, with TLS, authentication and faults by option."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import attrs
import pytest
import trustme

from smtplite import Client, DeliveryUnknown, MessageRefused, Receipt, RecipientsRefused, SMTPError
from smtplite.cli import main
from smtplite.cli.showing import show_message
from smtplite.cli.terminal import Output, Paint
from smtplite.testing import ReceivedMessage

pytestmark = pytest.mark.needs("signals for other processes")

Spawn = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., Any]

PATIENCE_SECONDS = 60.0

MESSAGE = b"From: Ada <ada@example.org>\r\nTo: grace@example.net\r\nSubject: =?utf-8?q?H=C3=A9?=\r\n\r\nHello.\r\n.\r\n"
ENVELOPE: dict[str, Any] = {"sender": "ada@example.org", "recipients": ["grace@example.net"]}


@attrs.frozen
class Catcher:
    """A server that runs as a program."""

    program: subprocess.Popen[str]
    url: str
    ca_file: str | None
    finish: Callable[[subprocess.Popen[str]], Any]

    @property
    def port(self) -> int:
        match = re.search(r":(\d+)", self.url)
        assert match is not None
        return int(match[1])

    def line(self) -> str:
        """Return the next line that it prints."""
        assert self.program.stdout is not None
        return self.program.stdout.readline().rstrip("\n")

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        """Return its exit code, and what else it printed."""
        self.program.send_signal(number)
        ran = self.finish(self.program)
        return ran.code, ran.out, ran.err

    def send(self, content: bytes = MESSAGE, *, url: str | None = None, **envelope: Any) -> Receipt:
        """Send a message to it, on a connection of its own."""
        return send_by(url or self.url, self.ca_file, content, **(envelope or ENVELOPE))


def send_by(url: str, ca_file: str | None, content: bytes = MESSAGE, **envelope: Any) -> Receipt:
    context = None if ca_file is None else ssl.create_default_context(cafile=ca_file)

    async def send() -> Receipt:
        async with Client.from_url(url, tls_context=context) as client:
            return await client.send(content, **(envelope or ENVELOPE))

    return asyncio.run(send())


@pytest.fixture
def catch(spawn: Spawn, finish: Callable[[subprocess.Popen[str]], Any]) -> Callable[..., Catcher]:
    """Give a function that starts `smtplite serve` on a free port."""

    def call(*arguments: str | Path, **options: Any) -> Catcher:
        program = spawn("serve", "--port", "0", *arguments, **options)
        assert program.stdout is not None
        first = program.stdout.readline()
        match = re.fullmatch(r"listening: (\S+) \(stop it with Ctrl-C\)\n", first)
        assert match is not None, (first, finish(program))
        ca_file = None
        if "--tls" in arguments and "--cert" not in arguments:
            second = program.stdout.readline()
            assert second.startswith("clients must trust this CA: ")
            ca_file = second.partition(": ")[2].strip()
        return Catcher(program, match[1], ca_file, finish)

    return call


Catch = Callable[..., Catcher]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_arrives_is_printed_until_ctrl_c(number: signal.Signals, catch: Catch) -> None:
    catcher = catch()
    assert catcher.url == f"smtp://127.0.0.1:{catcher.port}?tls=none"
    assert catcher.send().complete
    summary = catcher.line()
    assert re.fullmatch(r'\d\d:\d\d:\d\d #1  ada@example\.org -> grace@example\.net  "Hé"  95 bytes', summary), summary
    assert [catcher.line() for _ in range(7)] == [
        "  | From: Ada <ada@example.org>",
        "  | To: grace@example.net",
        "  | Subject: Hé",
        "  |",
        "  | Hello.",
        "  | .",
        "",
    ]
    assert catcher.stop(number) == (0, "1 message accepted\n", "")


def test_a_message_as_it_arrived(catch: Catch) -> None:
    catcher = catch("--print", "raw")
    catcher.send()
    lines = catcher.stop()[1].splitlines()[1:-1]
    assert lines == [f"  | {line}".rstrip() for line in MESSAGE.decode().rstrip("\r\n").split("\r\n")]


def test_a_message_in_a_line(catch: Catch) -> None:
    catcher = catch("--print", "summary")
    catcher.send()
    assert len(catcher.stop()[1].splitlines()) == 2


HOSTILE = b"Subject: \x1b[2J\r\n\r\n\x1b[2J\r\n"
EIGHT_BIT = "From: ada@example.org\r\n\r\nGrüße\r\n".encode()
BARE_LF = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\na\nb\r\n.\r\nQUIT\r\n"


def say(catcher: Catcher, commands: bytes) -> bytes:
    """Say it in one write, and return what the server said until it closed."""
    with socket.create_connection(("127.0.0.1", catcher.port), timeout=PATIENCE_SECONDS) as client:
        client.sendall(b"HELO me.example\r\n" + commands)
        return client.makefile("rb").read()


def test_what_breaks_the_protocol_is_taken_and_said_and_what_is_refused_has_its_reason(catch: Catch) -> None:
    catcher = catch("--refuse", "bob@example.net", "--bare-lf", "--print", "summary")
    with smtplib.SMTP("127.0.0.1", catcher.port, timeout=PATIENCE_SECONDS) as client:
        client.sendmail("ada@example.org", ["grace@example.net"], EIGHT_BIT)
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("ada@example.org", ["bob@example.net"], MESSAGE)
    assert b"\r\n250 2.0.0 ok" in say(catcher, BARE_LF)
    first, eight_bit, refused, reason, *others, last = catcher.stop()[1].splitlines()
    assert "#1" in first
    assert eight_bit == "  ! 8-bit content without 8BITMIME or SMTPUTF8 (RFC 6152 section 3)"
    assert re.fullmatch(r"\d\d:\d\d:\d\d refused  ada@example\.org -> bob@example\.net", refused)
    assert reason == "  x 550 5.1.1 no such user here (at RCPT: bob@example.net)"
    assert "  ! bare LF in content (RFC 5321 section 2.3.8)" in others
    assert last == "2 messages accepted, 1 refused"


def test_a_strict_catcher_refuses_it_and_says_what_to_do(catch: Catch) -> None:
    catcher = catch("--strict", "--print", "summary")
    with smtplib.SMTP("127.0.0.1", catcher.port, timeout=PATIENCE_SECONDS) as client:
        with pytest.raises(smtplib.SMTPDataError, match="8-bit content"):
            client.sendmail("ada@example.org", ["grace@example.net"], EIGHT_BIT)
    assert b"\r\n554 5.6.0 bare LF" in say(catcher, BARE_LF)
    out = catcher.stop()[1]
    assert "  ! 8-bit content without 8BITMIME or SMTPUTF8 (RFC 6152 section 3)\n" in out
    assert "    without --strict it may be accepted\n" in out
    assert "    with --bare-lf it is accepted\n" in out
    assert out.endswith("0 messages accepted, 2 refused\n")


def test_colours_are_for_terminals_and_never_hide_what_a_message_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    message = ReceivedMessage(
        sender="a@b.example", recipients=("c@d.example",), content=b"Subject: \x1b[2J\r\n\r\n\x1b[2J\r\n"
    )
    lines = list(show_message(message, 1, paint=Paint()))
    assert "\x1b[32m#1\x1b[0m" in lines[0]
    assert "\x1b[2J" not in "".join(lines)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in "".join(show_message(message, 1, paint=Paint()))


def test_only_this_machine_reaches_it(catch: Catch) -> None:
    catcher = catch()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", catcher.port), timeout=5):
        pass


def test_a_summary_is_short_whatever_arrives(catch: Catch) -> None:
    catcher = catch("--print", "summary")
    recipients = [f"r{n}@example.net" for n in range(5)]
    catcher.send(b"Subject: \x1b[2Jboo\r\n\r\n\r\n", sender="", recipients=recipients)
    line = catcher.line()
    assert "<> -> r0@example.net, r1@example.net, r2@example.net and 2 more" in line
    assert "\x1b" not in line
    assert "boo" in line
    catcher.send(b"\r\nno header section at all\r\n", **ENVELOPE)
    assert '""' in catcher.line()
    assert catcher.stop()[0] == 0


def test_messages_cannot_steer_the_terminal(catch: Catch) -> None:
    catcher = catch()
    catcher.send(b"Subject: x\r\n\r\nclear \x1b[2J \x07 \x9b\r\n", **ENVELOPE)
    _, out, _ = catcher.stop()
    assert "  | clear \ufffd[2J \ufffd \ufffd\n" in out


def test_messages_are_stored_octet_for_octet_with_their_envelopes(catch: Catch, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "mail"
    catcher = catch("--store", folder)
    catcher.send()
    assert catcher.line().endswith(f"  {folder / '000001.eml'}")
    catcher.send(b"To: \xff\r\n\r\n", sender="", recipients=["a@b.example", "c@d.example"])
    assert catcher.stop()[0] == 0
    again = catch("--store", folder)  # and goes on where the last one ended
    again.send()
    assert again.stop()[0] == 0
    assert (folder / "000001.eml").read_bytes() == MESSAGE
    assert (folder / "000002.eml").read_bytes() == b"To: \xff\r\n\r\n"
    assert (folder / "000003.eml").read_bytes() == MESSAGE
    envelopes = [json.loads(line) for line in (folder / "envelopes.jsonl").read_text().splitlines()]
    assert [(one["file"], one["sender"], one["recipients"]) for one in envelopes] == [
        ("000001.eml", "ada@example.org", ["grace@example.net"]),
        ("000002.eml", "", ["a@b.example", "c@d.example"]),
        ("000003.eml", "ada@example.org", ["grace@example.net"]),
    ]
    told = {"file", "time", "sender", "recipients", "helo", "tls", "user"}
    assert set(envelopes[0]) == told | {"parameters", "dialogue"}


def test_a_message_is_stored_before_it_is_answered_for(catch: Catch, tmp_path: Path) -> None:
    catcher = catch("--store", tmp_path / "mail")
    catcher.send()
    assert (tmp_path / "mail" / "000001.eml").read_bytes() == MESSAGE


def test_a_message_that_cannot_be_stored_is_refused(catch: Catch, tmp_path: Path) -> None:
    folder = tmp_path / "mail"
    catcher = catch("--store", folder)
    folder.rmdir()
    with pytest.raises(MessageRefused, match="message cannot be stored"):
        catcher.send()
    code, out, err = catcher.stop()
    assert code == 0
    assert "  x 452 4.3.1 message cannot be stored (after the content)\n" in out
    assert out.endswith("0 messages accepted, 1 refused\n")
    assert err.startswith("smtplite serve: cannot store a message: ")


# TLS and authentication


@pytest.mark.parametrize(("mode", "scheme"), [("starttls", "smtp"), ("implicit", "smtps")])
def test_tls_by_a_throw_away_ca(mode: str, scheme: str, catch: Catch) -> None:
    catcher = catch("--tls", mode, "--print", "summary")
    assert catcher.url == f"{scheme}://127.0.0.1:{catcher.port}"
    assert catcher.ca_file is not None
    assert catcher.send(url=f"{scheme}://localhost:{catcher.port}").complete
    assert "  TLSv1.3" in catcher.line()
    with pytest.raises(SMTPError):  # nobody else trusts it
        attrs.evolve(catcher, ca_file=None).send()
    code, out, _ = catcher.stop()
    assert code == 0
    assert "TLS failed: " in out
    assert re.search("the client does not trust the certificate: give it the CA file|maybe it does not trust", out)
    assert not Path(catcher.ca_file).parent.exists()


def test_starttls_is_required(catch: Catch) -> None:
    catcher = catch("--tls", "starttls")
    with pytest.raises(SMTPError, match="530"):
        attrs.evolve(catcher, ca_file=None).send(url=f"{catcher.url}?tls=none")
    code, out, _ = catcher.stop()
    assert code == 0
    assert "    the client did not begin TLS, and --tls starttls requires it\n" in out


def test_the_ca_where_it_is_wanted(catch: Catch, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    catcher = catch("--tls", "implicit", "--ca-file", file)
    assert catcher.ca_file == str(file)
    assert catcher.send().complete
    assert catcher.stop()[0] == 0


def test_a_certificate_of_ones_own(catch: Catch, tmp_path: Path) -> None:
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    catcher = catch("--tls", "implicit", "--cert", tmp_path / "cert.pem", "--key", tmp_path / "key.pem")
    assert attrs.evolve(catcher, ca_file=str(tmp_path / "ca.pem")).send().complete
    assert catcher.stop()[0] == 0


@pytest.mark.parametrize("tls", ["none", "starttls"])
def test_mail_from_one_user_alone(tls: str, catch: Catch) -> None:
    more = [] if tls == "none" else ["--tls", tls]
    catcher = catch("--auth", "me", "--print", "summary", *more, env={"SMTPLITE_PASSWORD": "s3cret"})
    query = "?tls=none&allow_insecure_auth=yes" if tls == "none" else ""
    assert catcher.send(url=f"smtp://me:s3cret@127.0.0.1:{catcher.port}{query}").complete
    assert "  user me" in catcher.line()
    with pytest.raises(SMTPError, match="535"):
        catcher.send(url=f"smtp://me:wrong@127.0.0.1:{catcher.port}{query}")
    with pytest.raises(SMTPError, match="530"):
        catcher.send()
    code, out, err = catcher.stop()
    assert code == 0
    assert "    the client's user or password is not that of --auth\n" in out
    assert "    the client sent no credentials, and --auth requires them\n" in out
    assert out.endswith("1 message accepted, 2 refused\n")
    assert "s3cret" not in out + err


def test_without_a_password_there_is_no_server(spawn: Spawn) -> None:
    program = spawn("serve", "--port", "0", "--auth", "me", start_new_session=True)
    out, err = program.communicate(timeout=PATIENCE_SECONDS)
    assert (program.returncode, out) == (2, "")
    assert err == "smtplite serve: no password for me, and no terminal to ask on: set SMTPLITE_PASSWORD\n"


# Faults


def test_recipients_are_refused(catch: Catch) -> None:
    catcher = catch(
        *("--refuse", "bob@example.net", "--refuse", "a=b@example.net"),
        *("--refuse", "eve@example.net=452 4.2.2 mailbox full"),
    )
    recipients = ["grace@example.net", "bob@example.net", "eve@example.net", "a=b@example.net"]
    receipt = catcher.send(MESSAGE, sender="ada@example.org", recipients=recipients)
    assert receipt.accepted == ("grace@example.net",)
    assert {address: str(reply) for address, reply in receipt.refused.items()} == {
        "bob@example.net": "550 5.1.1 no such user here",
        "eve@example.net": "452 4.2.2 mailbox full",
        "a=b@example.net": "550 5.1.1 no such user here",
    }


def test_everybody_is_refused_so_often(catch: Catch) -> None:
    catcher = catch("--refuse", "*=451 4.3.0 later", "--times", "2", "--print", "summary")
    for _ in range(2):
        with pytest.raises(RecipientsRefused, match="later"):
            catcher.send()
    assert catcher.send().complete


@pytest.mark.parametrize(
    ("arguments", "reply"), [([], "451 4.3.0 try again later"), (["554 5.7.1 spam"], "554 5.7.1 spam")]
)
def test_a_message_is_refused_behind_the_dot(arguments: list[str], reply: str, catch: Catch) -> None:
    catcher = catch("--fail-after-dot", *arguments)
    with pytest.raises(MessageRefused, match=reply):
        catcher.send()
    out = catcher.stop()[1]
    assert f"  x {reply} (after the content)\n" in out
    assert out.endswith("0 messages accepted, 1 refused\n")


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("where", ["greeting", "hello", "mail", "rcpt", "data"])
def test_a_connection_that_is_dropped_before_the_content(where: str, catch: Catch) -> None:
    catcher = catch("--drop", where)
    with pytest.raises(SMTPError) as caught:
        catcher.send()
    assert not isinstance(caught.value, DeliveryUnknown)
    out = catcher.stop()[1]
    assert "  x the connection ended (" in out
    assert "\n0 messages accepted, " in out


def test_a_connection_that_is_dropped_behind_the_dot_took_the_message(catch: Catch) -> None:
    catcher = catch("--drop", "dot", "--times", "1", "--print", "summary")
    with pytest.raises(DeliveryUnknown):
        catcher.send()
    assert " #1 " in catcher.line()
    assert catcher.send().complete
    assert catcher.stop()[1].endswith("2 messages accepted\n")


def test_lmtp(catch: Catch) -> None:
    catcher = catch("--lmtp", "--print", "summary")
    assert catcher.url.startswith("lmtp://")
    assert catcher.send().complete
    assert catcher.stop()[0] == 0


def test_mistakes_of_the_client_are_said(catch: Catch) -> None:
    catcher = catch("--print", "summary")
    with socket.create_connection(("127.0.0.1", catcher.port), timeout=PATIENCE_SECONDS) as client:
        client.sendall(b"EHLO me.example\r\nNONSENSE\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        replies = client.makefile("rb")
        while not replies.readline().startswith(b"354"):
            pass
        client.sendall(b"Subject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n")
        assert replies.readline().startswith(b"250")
    assert "  ! unknown command: 'NONSENSE' (RFC 5321 section 2.2.1)\n" in catcher.stop()[1]


def test_it_serves_other_clients_too(catch: Catch) -> None:
    catcher = catch("--print", "summary")
    with smtplib.SMTP("127.0.0.1", catcher.port, timeout=PATIENCE_SECONDS) as client:
        client.sendmail("ada@example.org", ["grace@example.net"], MESSAGE)
    assert " #1 " in catcher.line()


# Wrong usage, and other ends


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--tls", "implicit", "--cert", "x"], "--cert and --key go together"),
        (["--cert", "x", "--key", "y"], "--cert and --ca-file are for --tls"),
        (["--ca-file", "x"], "--cert and --ca-file are for --tls"),
        (["--tls", "implicit", "--cert", "/nowhere", "--key", "/nowhere"], "cannot read /nowhere: No such file"),
        (
            ["--tls", "implicit", "--cert", "/dev/null", "--key", "/x"],
            "cannot read /dev/null: it is a device, not a reg",
        ),
        (["--tls", "implicit", "--cert", __file__, "--key", __file__], "are not a certificate and its key, in PEM"),
        (["--tls", "implicit", "--ca-file", "/nowhere/ca.pem"], "cannot write /nowhere/ca.pem: "),
        (["--fail-after-dot", "250 ok"], "--fail-after-dot takes a reply such as 451"),
        (["--refuse", ""], "--refuse takes an address"),
        (["--store", __file__], f"cannot use {__file__}: "),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], problem: str, run: Run) -> None:
    ran = run("serve", "--port", "0", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("smtplite serve: ")
    assert problem in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--port", "65536"], ["--port", "x"], ["--tls", "on"], ["--drop", "late"], ["--times", "0"]]
)
def test_an_option_with_a_value_that_is_none(arguments: list[str], run: Run) -> None:
    ran = run("serve", *arguments)
    assert ran.code == 2
    assert f"error: argument {arguments[0]}: " in ran.err


def test_a_port_that_is_taken_is_exit_code_1(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = run("serve", "--port", taken.getsockname()[1])
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("smtplite serve: cannot listen on 127.0.0.1: ")
    assert ran.err.count("\n") == 1


def test_without_trustme_tls_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trustme", None)
    ran = run("serve", "--port", "0", "--tls", "starttls")
    assert ran.code == 2
    assert "trustme, which is not installed: install smtplite[testing]" in ran.err


def test_it_ends_when_nobody_reads_what_it_prints(spawn: Spawn) -> None:
    reading, writing = os.pipe()
    program = spawn("serve", "--port", "0", "--print", "summary", stdout=writing)
    os.close(writing)
    with open(reading, encoding="utf-8") as out:
        first = out.readline()
    assert send_by(first.split()[1], None).complete
    _, err = program.communicate(timeout=PATIENCE_SECONDS)
    assert (program.returncode, err) == (141, "")


# In this process


@contextmanager
def _client_in_a_thread(client: Callable[[], None]) -> Iterator[None]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            client()
        except BaseException as error:  # noqa: BLE001 (the test fails with it, below)
            failures.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(PATIENCE_SECONDS)
    assert not failures, failures


def test_main_serves_until_ctrl_c(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines: SimpleQueue[str] = SimpleQueue()
    monkeypatch.setattr(Output, "print", lambda _, line: lines.put(line))

    def client() -> None:
        url = lines.get(timeout=PATIENCE_SECONDS).split()[1]
        ca_file = lines.get(timeout=PATIENCE_SECONDS).rpartition(" ")[2]
        context = ssl.create_default_context(cafile=ca_file)
        host, _, port = url.removeprefix("smtps://").partition(":")
        with smtplib.SMTP_SSL(host, int(port), context=context, timeout=PATIENCE_SECONDS) as connection:
            connection.sendmail("ada@example.org", ["grace@example.net"], MESSAGE)

    with _client_in_a_thread(client):
        assert main(["serve", "--port", "0", "--tls", "implicit", "--store", str(tmp_path), "--print", "text"]) == 0
    assert (tmp_path / "000001.eml").read_bytes() == MESSAGE
    shown = [lines.get_nowait() for _ in range(9)]
    assert shown[0].endswith(str(tmp_path / "000001.eml"))
    assert shown[-1] == "1 message accepted"
