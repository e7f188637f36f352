"""The names of aiosmtplib, their arguments and their bases; the table of them; and what is said by warnings."""

from __future__ import annotations

import inspect
import pickle
import socket
import ssl
import subprocess
import sys
import warnings
from typing import Any

import aiosmtplib
import pytest

import smtplite
import smtplite.compat.aiosmtplib as compat
from smtplite.compat.aiosmtplib import CompatWarning, connecting, exceptions
from smtplite.compat.aiosmtplib.parts import as_message, command_of, parse_esmtp_extensions
from smtplite.protocol import AuthCancel, AuthResponse, Command, Reply
from smtplite.testing import SMTPServer
from tests.compat.differences import DIFFERENCES, FURTHER, NAMES

RAW = "From: ada@example.org\r\nTo: grace@example.net\r\n\r\nHello.\r\n"
#: What aiosmtplib has beside its connection, and the page says is not there.
NOT_THERE = {"transport", "protocol", "loop"}


def public(of: type) -> set[str]:
    return {name for cls in of.__mro__[:-1] for name in vars(cls) if not name.startswith("_")}


# Names


def test_every_public_name_is_there() -> None:
    assert set(aiosmtplib.__all__) <= set(compat.__all__)
    for module in ("api", "errors", "response", "typing", "email", "esmtp", "smtp", "status"):
        theirs, ours = getattr(aiosmtplib, module, None), getattr(compat, module)
        if theirs is not None:
            missing = set(theirs.__all__) - set(ours.__all__) - {"_default"}
            assert not missing, (module, missing)
    assert compat.api.DEFAULT_TIMEOUT == aiosmtplib.api.DEFAULT_TIMEOUT  # type: ignore[attr-defined]  # no name of __all__


def test_every_method_takes_the_same_arguments() -> None:
    for name in sorted(public(aiosmtplib.SMTP) | {"__init__"}):
        theirs, ours = getattr(aiosmtplib.SMTP, name), getattr(compat.SMTP, name)
        if callable(theirs):
            same = [(p.name, p.kind) for p in inspect.signature(theirs).parameters.values()]
            assert [(p.name, p.kind) for p in inspect.signature(ours).parameters.values()] == same, name
            assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs), name
    theirs, ours = inspect.signature(aiosmtplib.send), inspect.signature(compat.send)
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]


def test_every_attribute_is_there() -> None:
    theirs, ours = vars(aiosmtplib.SMTP()), compat.SMTP()
    for name, value in theirs.items():
        if not name.startswith("_") and name not in NOT_THERE:
            assert getattr(ours, name) == value, name
    for name in NOT_THERE:
        assert not hasattr(ours, name)


def test_every_exception_has_the_same_bases() -> None:
    for name in aiosmtplib.errors.__all__:
        theirs, ours = getattr(aiosmtplib, name), getattr(compat, name)
        assert [cls.__name__ for cls in ours.__mro__] == [cls.__name__ for cls in theirs.__mro__]


def test_the_table_has_every_name_and_no_other() -> None:
    ours = public(compat.SMTP) - {"ALLOW_INSECURE_AUTH", "auth_scramsha1", "auth_scramsha256"}
    assert ours == public(aiosmtplib.SMTP)
    assert set(NAMES) == set(aiosmtplib.__all__) | {f"SMTP.{name}" for name in ours}
    assert len({row[0] for row in FURTHER}) == len(FURTHER)
    assert all(len(row) == 4 for row in DIFFERENCES.values())


def test_under_the_name_of_aiosmtplib_its_modules_are_the_same() -> None:
    """As a library that imports aiosmtplib sees it: one set of classes, whatever way they are imported."""
    code = (
        "import sys, smtplite.compat.aiosmtplib as compat; sys.modules['aiosmtplib'] = compat\n"
        "import aiosmtplib, aiosmtplib.errors\n"
        "from aiosmtplib.api import DEFAULT_TIMEOUT, send\n"
        "from aiosmtplib.errors import SMTPException\n"
        "from aiosmtplib import SMTP, smtp\n"
        "from aiosmtplib.smtp import SMTP as again\n"
        "assert SMTPException is compat.SMTPException and SMTP is again and send is compat.send\n"
        "print(aiosmtplib.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("smtplite.compat.aiosmtplib\n", "")


# Warnings


@pytest.fixture(autouse=True)
def _nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_said", set())


async def said_by(server: SMTPServer, times: int = 2, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            await compat.send(
                RAW,
                sender="a@example.org",
                recipients="b@example.net",
                hostname=server.host,
                port=server.port,
                **options,
            )
    assert all(warning.category is CompatWarning and warning.filename == __file__ for warning in caught)
    return [str(warning.message).partition(":")[0] for warning in caught]


@pytest.mark.asyncio
async def test_mail_in_clear_is_said_once_and_not_where_it_was_asked_for() -> None:
    async with SMTPServer() as server:
        assert await said_by(server) == ["start_tls=None"]
        assert await said_by(server) == []
        assert await said_by(server, start_tls=False) == []


@pytest.mark.asyncio
async def test_tls_without_verification_is_said_once() -> None:
    async with SMTPServer(tls="starttls") as server:
        assert await said_by(server, validate_certs=False) == ["validate_certs=False"]
        assert await said_by(server, tls_context=server.ca_context()) == []


# Time


@pytest.mark.parametrize(
    ("timeout", "step", "verdict"), [(60, 60, 600), (30, 30, 30), (900, 900, 900), (None, float("inf"), float("inf"))]
)
def test_the_verdict_has_longer_by_default(timeout: float | None, step: float, verdict: float) -> None:
    timeouts = connecting._timeouts(timeout)
    assert (timeouts.command, timeouts.connect, timeouts.end_of_data) == (step, step, verdict)


# What an error says


@pytest.mark.parametrize(
    ("cause", "cls"),
    [
        (smtplite.SMTPTimeout("late"), compat.SMTPReadTimeoutError),
        (smtplite.ConnectionLost("gone"), compat.SMTPServerDisconnected),
        (smtplite.RemoteProtocolError("nonsense"), compat.SMTPServerDisconnected),
    ],
)
def test_unknown_is_said_by_three_classes_and_survives_pickle(
    cause: Exception, cls: type[compat.SMTPException]
) -> None:
    native = smtplite.DeliveryUnknown("who knows", unknown=["a@example.net"], transcript=["C: ."])
    native.__cause__ = cause
    native.message_id = "<1@example.org>"
    made = exceptions.translated(native)
    for error in (made, pickle.loads(pickle.dumps(made))):
        assert isinstance(error, cls)
        assert isinstance(error, smtplite.DeliveryUnknown)
        assert isinstance(error, OSError)
        assert (str(error), error.message, error.unknown) == ("who knows", "who knows", ("a@example.net",))
        assert (error.retryable, error.delivered, error.message_id) == (False, None, "<1@example.org>")
    assert made.__cause__ is native


def test_an_error_of_tls_is_caught_either_way() -> None:
    native = smtplite.TLSError("certificate is not trusted")
    native.__cause__ = ssl.SSLCertVerificationError("x")
    made = exceptions.translated(native)
    assert isinstance(made, compat.SMTPConnectError)
    assert isinstance(made, ssl.SSLCertVerificationError)
    assert str(made) == "certificate is not trusted"


def test_a_421_to_a_recipient_beside_one_that_was_refused() -> None:
    native = smtplite.ServiceUnavailable(
        "x", reply=Reply(421, (b"4.3.2 closing",)), phase="rcpt", command="RCPT", refused={"a": Reply(550, (b"no",))}
    )
    made = exceptions.translated(native)
    assert isinstance(made, compat.SMTPRecipientsRefused)
    assert [(one.code, one.recipient) for one in made.recipients] == [(550, "a")]


@pytest.mark.asyncio
async def test_no_error_shows_a_password() -> None:
    async with SMTPServer(tls="implicit", users={"me": "right-one"}) as server:
        server.reply("END_OF_AUTH", lambda reply: b"535 5.7.8 AHRlc3Q= wrong-one is wrong\r\n")
        context = server.ca_context()
        async with compat.SMTP(hostname=server.host, port=server.port, use_tls=True, tls_context=context) as smtp:
            with pytest.raises(compat.SMTPAuthenticationError) as caught:
                await smtp.auth_plain("me", "wrong-one")
            assert "wrong-one" not in repr(caught.value)
            assert "wrong-one" not in repr(caught.value.__cause__)


@pytest.mark.asyncio
async def test_a_password_in_clear_is_refused_by_an_error_that_names_the_settings() -> None:
    async with SMTPServer(users={"me": "secret"}, auth_in_clear=True) as server:
        at: dict[str, Any] = {"hostname": server.host, "port": server.port}
        with pytest.raises(
            compat.SMTPException, match=r"^server offers no STARTTLS.* use_tls=True .*ALLOW_INSECURE_AUTH"
        ):
            await compat.SMTP(**at, username="me", password="secret").connect()
        async with compat.SMTP(**at, start_tls=False) as smtp:
            await smtp.ehlo()
            for call in (
                smtp.login("me", "secret"),
                smtp.auth_login("me", "secret"),
                smtp.execute_command(b"AUTH LOGIN"),
            ):
                with pytest.raises(
                    compat.SMTPException, match=r"^a password is not sent unencrypted: .*ALLOW_INSECURE_AUTH"
                ):
                    await call
            assert smtp.is_connected


def test_an_error_names_the_settings_of_aiosmtplib() -> None:
    native = smtplite.TLSError('server does not offer STARTTLS: pass tls="none" to send unencrypted')
    expected = "server does not offer STARTTLS: pass start_tls=False to send unencrypted"
    assert str(exceptions.translated(native)) == expected


@pytest.mark.asyncio
async def test_a_socket_of_the_programs_own_is_closed_with_the_connection() -> None:
    async with SMTPServer() as server:
        sock = socket.create_connection((server.host, server.port))
        smtp = compat.SMTP(hostname=None, sock=sock, start_tls=False)
        await smtp.connect()
        assert smtp.is_connected
        smtp.close()
        assert sock.fileno() == -1


# Parts


@pytest.mark.parametrize(
    ("octets", "message"),
    [
        (b"", b""),
        (b"Hello", b"\r\nHello"),
        (b"Subject: x\nHello", b"Subject: x\n\r\nHello"),
        (b"Subject: x\r\n\r\nBcc: y\r\n", b"Subject: x\r\n\r\nBcc: y\r\n"),
        (b"A: x\r\nBcc: y,\r\n z\r\nB: x\r\n\r\nb", b"A: x\r\nB: x\r\n\r\nb"),
        (b"A: x\nresent-bcc : y\n\n", b"A: x\n\n"),
        (b"A: x\nBcc: y", b"A: x\n"),
        (b"A: x\rB: y\r\rbody\r", b"A: x\nB: y\n\nbody\n"),
        (b"From ada Mon Nov 30\nA: x\n\nb", b"A: x\n\nb"),
        (b"\xef\xbb\xbfA: x\n\nb", b"A: x\n\nb"),
        (b"DKIM-Signature: x\r\nBcc: y\r\n\r\nb\rc", b"DKIM-Signature: x\r\nBcc: y\r\n\r\nb\rc"),
        (b"\r\nbody", b"\r\nbody"),
    ],
)
def test_octets_become_a_message(octets: bytes, message: bytes) -> None:
    assert as_message(octets) == message


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ([b"ehlo me.example"], b"EHLO me.example\r\n"),
        ([b"MAIL", b"FROM:<>"], b"MAIL FROM:<>\r\n"),
        ([b"mail from:<a@b.example> SIZE=12 BODY=8BITMIME"], b"MAIL FROM:<a@b.example> SIZE=12 BODY=8BITMIME\r\n"),
        ([b"RCPT TO: a@b.example NOTIFY=NEVER"], b"RCPT TO:<a@b.example> NOTIFY=NEVER\r\n"),
        ([b"AUTH", b"PLAIN", b"AG1lAHg="], b"AUTH PLAIN AG1lAHg=\r\n"),
        ([b"AUTH LOGIN"], b"AUTH LOGIN\r\n"),
        ([b"AUTH EXTERNAL ="], b"AUTH EXTERNAL =\r\n"),
        ([b"NOOP"], b"NOOP\r\n"),
        ([b"VRFY", b"me"], b"VRFY me\r\n"),
        ([b"HELP"], b"HELP\r\n"),
        ([b"XFOO", b"a", b"b"], b"XFOO a b\r\n"),
    ],
)
def test_a_line_becomes_a_command(parts: list[bytes], line: bytes) -> None:
    assert command_of(parts, in_exchange=False).to_bytes() == line


@pytest.mark.parametrize(
    "parts", [[b"NOOP\r\nRSET"], [b"NOOP\0"], [b""], [b"MAIL", b"a@b.example"], [b"AUTH PLAIN ***"], [b"TURN"]]
)
def test_what_is_no_line_of_one_command_is_refused(parts: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r"."):
        command_of(parts, in_exchange=False)


@pytest.mark.parametrize(("line", "kind"), [(b"", AuthResponse), (b"c2VjcmV0", AuthResponse), (b"*", AuthCancel)])
def test_within_an_exchange_a_line_is_a_response(line: bytes, kind: type[Command]) -> None:
    assert isinstance(command_of([line], in_exchange=True), kind)


def test_a_reply_to_ehlo_is_read_as_aiosmtplib_reads_it() -> None:
    text = "mx.example\nPIPELINING\nSIZE 1000\nAUTH=LOGIN\nAUTH PLAIN LOGIN\nX-foo  a b\n\n"
    theirs = __import__("aiosmtplib.esmtp").esmtp.parse_esmtp_extensions(text)
    assert parse_esmtp_extensions(text) == theirs
