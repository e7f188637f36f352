"""The mail backend for Django: its settings and its silences are Django's, its connections are shared."""

from __future__ import annotations

import asyncio
import logging
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from email import message_from_bytes
from email.policy import SMTP
from typing import Any, ClassVar

import django  # type: ignore[import-untyped]
import pytest
from django.core import mail  # type: ignore[import-untyped]
from django.core.exceptions import ImproperlyConfigured  # type: ignore[import-untyped]
from django.core.mail import EmailMessage  # type: ignore[import-untyped]
from django.test.utils import override_settings  # type: ignore[import-untyped]

import smtplite
from smtplite.contrib import django as contrib
from smtplite.contrib.django import EmailBackend, close_connections
from smtplite.testing import ServerExtensions, SMTPServer, ThreadedServer
from smtplite.trace import MessageFinished

BACKEND = "smtplite.contrib.django.EmailBackend"
PATIENCE_SECONDS = 60
HAS_MAILERS = django.VERSION >= (6, 1)

#: From 6.1 on, Django warns of every setting but MAILERS.
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
needs_mailers = pytest.mark.skipif(not HAS_MAILERS, reason="this Django has no MAILERS")


@pytest.fixture(autouse=True)
def no_connection_is_left() -> Iterator[None]:
    yield
    close_connections()


@pytest.fixture
def server() -> Iterator[ThreadedServer]:
    with SMTPServer().in_thread() as server:
        yield server
        assert server.violations == []


def message(subject: str = "hello", to: str | list[str] = "bob@example.org", **options: Any) -> Any:
    recipients = to if isinstance(to, list) else [to]
    return EmailMessage(subject, "hi\n", "ann@example.org", recipients, **options)


def backend_of(server: ThreadedServer, **options: Any) -> Any:
    return EmailBackend(**{"host": server.host, "port": server.port, **options})


def subjects(server: ThreadedServer) -> list[str]:
    return [str(received.as_email()["Subject"]) for received in server.messages]


# Settings


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_send_mail_finds_the_server_in_the_settings(server: ThreadedServer) -> None:
    with override_settings(EMAIL_BACKEND=BACKEND, EMAIL_HOST=server.host, EMAIL_PORT=server.port):
        assert mail.send_mail("hello", "hi\n", "ann@example.org", ["bob@example.org"]) == 1
    [received] = server.messages
    assert (received.sender, received.recipients) == ("ann@example.org", ("bob@example.org",))


def test_every_setting_is_read_and_an_argument_wins() -> None:
    given = {
        "EMAIL_HOST": "mail.example",
        "EMAIL_PORT": 2525,
        "EMAIL_HOST_USER": "me",
        "EMAIL_HOST_PASSWORD": "secret",
        "EMAIL_USE_TLS": True,
        "EMAIL_USE_SSL": False,
        "EMAIL_TIMEOUT": 7,
        "EMAIL_SSL_CERTFILE": "cert.pem",
        "EMAIL_SSL_KEYFILE": "key.pem",
    }
    names = ("host", "port", "username", "password", "use_tls", "use_ssl", "timeout", "ssl_certfile", "ssl_keyfile")
    with override_settings(**given):
        backend = EmailBackend()
        assert [getattr(backend, name) for name in names] == list(given.values())
        other: tuple[Any, ...] = ("other.example", 26, "", "", False, True, 8, "", "")
        backend = EmailBackend(**dict(zip(names, other, strict=True)))
        assert tuple(getattr(backend, name) for name in names) == other


def test_both_kinds_of_tls_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="cannot be combined") as caught:
        EmailBackend(host="mail.example", use_tls=True, use_ssl=True)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, smtplite.ConfigurationError)


def test_a_password_in_clear_is_refused_also_silently() -> None:
    with pytest.raises(ImproperlyConfigured, match="unencrypted") as caught:
        EmailBackend(host="mail.example", username="me", password="secret", fail_silently=True)
    assert "secret" not in str(caught.value)


def test_a_password_in_clear_goes_where_it_is_allowed() -> None:
    with SMTPServer(users={"me": "secret"}, auth_in_clear=True, require_auth=True).in_thread() as server:

        class Backend(EmailBackend):
            client_options: ClassVar = {"allow_insecure_auth": True}

        by_argument = backend_of(server, username="me", password="secret", allow_insecure_auth=True)
        by_class = Backend(host=server.host, port=server.port, username="me", password="secret")
        assert by_argument.send_messages([message()]) == by_class.send_messages([message()]) == 1
        assert [received.authenticated_as for received in server.messages] == ["me", "me"]


def test_a_user_without_a_password_is_not_authenticated(server: ThreadedServer) -> None:
    assert backend_of(server, username="me", password="").send_messages([message()]) == 1


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"timeout": 0}, "connect|timeout|pool"),
        ({"use_tls": True, "ssl_certfile": "/nowhere/cert.pem"}, "cannot be read"),
        ({"use_tls": True, "ssl_keyfile": "/nowhere/key.pem"}, "needs ssl_certfile"),
        ({"max_connections": 0}, "max_connections"),
    ],
    ids=["timeout", "certificate", "key", "option"],
)
def test_what_is_wrong_with_the_configuration_is_never_silent(
    server: ThreadedServer, options: dict[str, Any], fault: str
) -> None:
    with pytest.raises((ImproperlyConfigured, ValueError), match=fault):
        backend_of(server, fail_silently=True, **options).send_messages([message()])
    assert server.connections == []


# MAILERS


@needs_mailers
def test_a_mailer_is_configured_by_its_options(server: ThreadedServer) -> None:
    options = {"host": server.host, "port": server.port, "max_connections": 2}
    with override_settings(MAILERS={"default": {"BACKEND": BACKEND, "OPTIONS": options}}):
        assert message().send() == 1
        assert mail.send_mail("again", "hi\n", "ann@example.org", ["bob@example.org"]) == 1
        assert mail.mailers["default"].alias == "default"
    assert subjects(server) == ["hello", "again"]
    assert len(server.connections) == 1


@needs_mailers
@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "must define 'host'"),
        ({"host": "mail.example", "use_tls": True, "use_ssl": True}, "cannot be combined"),
        ({"host": "mail.example", "username": "me", "password": "secret"}, "unencrypted"),
        ({"host": "mail.example", "colour": "blue"}, "colour"),
    ],
)
def test_a_mailer_that_is_wrong_is_named(options: dict[str, Any], fault: str) -> None:
    with override_settings(MAILERS={"news": {"BACKEND": BACKEND, "OPTIONS": options}}):
        with pytest.raises(mail.InvalidMailer, match=fault) as caught:
            mail.mailers["news"]
    assert "MAILERS['news']" in str(caught.value)


@needs_mailers
@pytest.mark.parametrize(("options", "port"), [({}, 25), ({"use_tls": True}, 587), ({"use_ssl": True}, 465)])
def test_the_port_of_a_mailer_follows_from_its_tls(options: dict[str, Any], port: int) -> None:
    with override_settings(MAILERS={"default": {"BACKEND": BACKEND, "OPTIONS": {"host": "mail.example", **options}}}):
        assert mail.mailers.default.port == port


# TLS


@pytest.mark.parametrize(("tls", "option"), [("starttls", "use_tls"), ("implicit", "use_ssl")])
def test_tls_is_what_the_settings_say_and_the_password_goes_inside(tls: Any, option: str) -> None:
    with SMTPServer(tls=tls, users={"me": "secret"}, require_auth=True).in_thread() as server:
        options = {option: True, "tls_context": server.ca_context(), "username": "me", "password": "secret"}
        assert backend_of(server, **options).send_messages([message()]) == 1
        [received] = server.messages
        assert (received.authenticated_as, bool(received.tls)) == ("me", True)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_certificate_that_nobody_vouches_for_is_refused(tls: Any) -> None:
    with SMTPServer(tls=tls).in_thread() as server:
        backend = backend_of(server, use_tls=tls == "starttls", use_ssl=tls == "implicit")
        with pytest.raises(smtplite.TLSError):
            backend.send_messages([message()])
        assert server.messages == []


def test_use_tls_never_sends_to_a_server_without_starttls(server: ThreadedServer) -> None:
    with pytest.raises(smtplite.TLSError):
        backend_of(server, use_tls=True).send_messages([message()])
    assert backend_of(server, use_tls=True, fail_silently=True).send_messages([message()]) == 0
    assert server.messages == []


def test_a_wrong_password_is_an_error_that_can_be_silent() -> None:
    with SMTPServer(tls="starttls", users={"me": "secret"}).in_thread() as server:
        options = {"use_tls": True, "tls_context": server.ca_context(), "username": "me", "password": "wrong"}
        with pytest.raises(smtplite.AuthenticationError):
            backend_of(server, **options).send_messages([message()])
        silent = backend_of(server, fail_silently=True, **options)
        assert silent.open() is None
        assert silent.send_messages([message()]) == 0
        assert server.messages == []


# open, close, and what survives


def test_open_says_whether_the_server_was_asked(server: ThreadedServer) -> None:
    backend = backend_of(server)
    assert backend.open() is True
    assert backend.open() is False
    backend.close()
    assert backend.open() is True
    with backend_of(server) as entered:
        assert entered.send_messages([message(), message()]) == 2
    assert len(server.connections) == 1


def test_close_is_harmless_without_a_connection(unused_port: Callable[[], int]) -> None:
    backend = EmailBackend(host="127.0.0.1", port=unused_port())
    backend.close()


def test_a_server_that_is_down_is_an_oserror_that_can_be_silent(unused_port: Callable[[], int]) -> None:
    port = unused_port()
    backend = EmailBackend(host="127.0.0.1", port=port)
    with pytest.raises(OSError, match="127"):
        backend.open()
    with pytest.raises(smtplite.ConnectError), backend:
        pytest.fail("the block was entered")
    with pytest.raises(smtplite.ConnectError):
        backend.send_messages([message()])
    silent = EmailBackend(host="127.0.0.1", port=port, fail_silently=True)
    assert silent.open() is None
    assert silent.send_messages([message(), message()]) == 0
    silent.close()


def test_the_connection_survives_requests_and_threads(server: ThreadedServer) -> None:
    for number in range(3):
        thread = threading.Thread(target=lambda number=number: backend_of(server).send_messages([message(f"{number}")]))
        thread.start()
        thread.join(PATIENCE_SECONDS)
    with backend_of(server) as backend:
        backend.send_messages([message("3")])
    assert subjects(server) == ["0", "1", "2", "3"]
    assert len(server.connections) == 1


def test_threads_share_a_bounded_number_of_connections(server: ThreadedServer) -> None:
    shared = backend_of(server, max_connections=3)

    def request(number: int) -> int:
        backend = shared if number % 2 else backend_of(server, max_connections=3)
        return int(backend.send_messages([message(f"{number}"), message(f"{number} again")]))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(request, range(16))) == 32
    assert len(set(subjects(server))) == 32
    assert 1 <= len(server.connections) <= 3


def test_a_connection_that_the_server_ended_is_replaced(server: ThreadedServer) -> None:
    backend = backend_of(server)
    assert backend.send_messages([message("one")]) == 1
    assert server.close_idle() == 1
    assert backend.send_messages([message("two")]) == 1
    assert subjects(server) == ["one", "two"]


def test_another_password_is_another_connection() -> None:
    with SMTPServer(users={"me": "secret", "you": "hidden"}, auth_in_clear=True).in_thread() as server:
        for username, password in (("me", "secret"), ("you", "hidden"), ("me", "secret")):
            backend = backend_of(server, username=username, password=password, allow_insecure_auth=True)
            backend.send_messages([message()])
        assert [received.authenticated_as for received in server.messages] == ["me", "you", "me"]
        assert len(server.connections) == 2


def test_configurations_that_are_used_least_recently_are_let_go(
    server: ThreadedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrib, "MAX_CONFIGURATIONS", 2)
    first = backend_of(server, max_connections=1)
    for backend in (first, *(backend_of(server, max_connections=number) for number in (2, 3)), first):
        assert backend.send_messages([message()]) == 1
    assert len(server.connections) == 4


# Messages


def test_the_body_is_djangos_octet_for_octet_and_the_header_says_the_same(server: ThreadedServer) -> None:
    sent = message(
        "Grüße an alle, und eine lange Betreffzeile, die in keine Zeile passt, die jemand noch lesen möchte",
        cc=["Zoë <zoe@example.org>"],
        bcc=["secret@example.org"],
        headers={"X-Kind": "test", "Message-ID": "<1@example.org>", "Date": "Mon, 23 Nov 2026 10:00:00 +0000"},
    )
    sent.attach("data.bin", b"\x00\x01\r\n\n" * 20, "application/octet-stream")
    sent.body = "From here\n.\nüber\n"
    frozen = sent.message()
    frozen.set_boundary("=-=")
    sent.message = lambda **_: frozen
    assert backend_of(server).send_messages([sent]) == 1
    [received] = server.messages
    octets = frozen.as_bytes(linesep="\r\n") if django.VERSION < (6, 0) else frozen.as_bytes(policy=SMTP)
    assert received.content.partition(b"\r\n\r\n")[2].rstrip() == octets.partition(b"\r\n\r\n")[2].rstrip()
    written = message_from_bytes(octets, policy=SMTP)
    # Django folds before the first word of a long field: a reader may see a space in front of it.
    read, made = ([(name, str(value).lstrip()) for name, value in m.items()] for m in (received.as_email(), written))
    assert read == made
    assert received.recipients == ("bob@example.org", "zoe@example.org", "secret@example.org")
    assert b"secret@" not in received.content


def test_names_stay_out_of_the_envelope_and_domains_become_ascii(server: ThreadedServer) -> None:
    sent = EmailMessage("hello", "hi\n", "Änn <ann@bücher.example>", ['"Bob, the" <bob@Ünï.example>'])
    assert backend_of(server).send_messages([sent]) == 1
    [received] = server.messages
    assert received.sender == "ann@xn--bcher-kva.example"
    assert received.recipients[0].startswith("bob@xn--")


def test_a_local_part_that_is_not_ascii_is_kept_or_refused() -> None:
    extensions = ServerExtensions(smtputf8=False)
    with SMTPServer(extensions=extensions).in_thread() as server:
        sent = message(to="jürgen@example.org")
        sent.message = message().message
        with pytest.raises(smtplite.ExtensionRequired):
            backend_of(server).send_messages([sent])
        assert server.messages == []
    with SMTPServer().in_thread() as server:
        assert backend_of(server).send_messages([sent]) == 1
        assert server.messages[0].recipients == ("jürgen@example.org",)


def test_a_server_without_8bitmime_gets_seven_bits() -> None:
    with SMTPServer(extensions=ServerExtensions(eight_bit_mime=False, smtputf8=False)).in_thread() as server:
        sent = message()
        sent.body = "über\n"
        assert backend_of(server).send_messages([sent]) == 1
        [received] = server.messages
        assert received.content.isascii()
        assert received.as_email().get_content().strip() == "über"


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "hello\nBcc: victim@example.org"},
        {"from_email": "ann@example.org\r\nRCPT TO:<victim@example.org>"},
        {"to": ["bob@example.org\nvictim@example.org"]},
        {"bcc": ["bob@example.org>\r\nDATA"]},
        {"bcc": ["bob@example.org, victim@example.org"]},
        {"bcc": ["no address"]},
        {"extra_headers": {"X-Kind": "a\r\nBcc: victim@example.org"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_cannot_be_sent_as_it_is_is_refused_also_silently(server: ThreadedServer, changes: dict[str, Any]) -> None:
    sent = message()
    for name, value in changes.items():
        setattr(sent, name, value)
    with pytest.raises(ValueError, match=r"(?i)address|header|newline|line end|invalid"):
        backend_of(server, fail_silently=True).send_messages([sent])
    assert server.messages == []


def test_nothing_is_opened_for_nobody(server: ThreadedServer) -> None:
    backend = backend_of(server)
    assert backend.send_messages([]) == 0
    assert backend.send_messages([message(to=[])]) == 0
    assert server.connections == []
    assert backend.send_messages([message(to=[]), message(to=[], bcc=["bob@example.org"])]) == 1


# What the server says


def test_one_refused_message_of_several(server: ThreadedServer) -> None:
    server.reply("RCPT", "550 5.1.1 no such user", to="nobody@example.net")
    messages = [message("one"), message("two", to="nobody@example.net"), message("three")]
    with pytest.raises(smtplite.RecipientsRefused, match="no such user"):
        backend_of(server).send_messages(messages)
    assert subjects(server) == ["one"]
    assert backend_of(server, fail_silently=True).send_messages(messages) == 2
    assert subjects(server) == ["one", "one", "three"]
    assert len(server.connections) == 1


def test_who_was_refused_beside_others_is_in_the_receipt_and_in_the_log(
    server: ThreadedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.reply("RCPT", "550 5.1.1 no such user", to="nobody@example.net")
    sent = message(to=["bob@example.org", "nobody@example.net"])
    with caplog.at_level(logging.WARNING, contrib.__name__):
        assert backend_of(server).send_messages([sent]) == 1
    assert sent.smtplite_receipt.accepted == ("bob@example.org",)
    assert list(sent.smtplite_receipt.refused) == ["nobody@example.net"]
    [record] = caplog.records
    assert record.getMessage().endswith("was not accepted for everybody: nobody@example.net: 550 5.1.1 no such user")


def test_an_outcome_that_nobody_knows_is_no_success_and_is_not_tried_again(server: ThreadedServer) -> None:
    server.reply("END_OF_DATA", b"", performs=True, close=True)
    with pytest.raises(smtplite.DeliveryUnknown):
        backend_of(server).send_messages([message()])
    assert backend_of(server, fail_silently=True).send_messages([message()]) == 0
    assert len(server.messages) == 2


@pytest.mark.parametrize("verb", ["GREETING", "MAIL"])
def test_a_server_that_says_nothing_is_left_after_the_timeout(server: ThreadedServer, verb: str) -> None:
    held = server.hold(verb)
    with pytest.raises(TimeoutError):
        backend_of(server, timeout=0.2).send_messages([message()])
    assert backend_of(server, timeout=0.2, fail_silently=True).send_messages([message(), message()]) == 0
    held.release()
    assert backend_of(server).send_messages([message()]) == 1
    assert len(server.messages) == 1


def test_a_callback_of_the_client_may_not_wait_for_the_client(server: ThreadedServer) -> None:
    errors: list[Exception] = []

    def trace(_: object) -> None:
        if not errors:
            try:
                backend_of(server).send_messages([message("from within")])
            except smtplite.LocalProtocolError as error:
                errors.append(error)

    assert backend_of(server, trace=trace).send_messages([message()]) == 1
    assert len(errors) == 1
    assert subjects(server) == ["hello"]


# Asynchronous views


@pytest.mark.asyncio
async def test_an_asynchronous_view_sends_while_its_loop_goes_on(server: ThreadedServer) -> None:
    held = server.hold("MAIL")
    async with backend_of(server) as backend:
        assert await backend.aopen() is False
        sending = asyncio.create_task(backend.asend_messages([message(), message(to=[])]))
        await asyncio.to_thread(held.wait)
        assert not sending.done()
        await asyncio.to_thread(held.release)
        assert await sending == 1
    assert len(server.connections) == 1


@pytest.mark.asyncio
async def test_errors_and_silence_are_the_same_in_an_asynchronous_view(
    server: ThreadedServer, unused_port: Callable[[], int]
) -> None:
    server.reply("RCPT", "550 5.1.1 no such user", to="nobody@example.net")
    messages = [message(to="nobody@example.net"), message()]
    with pytest.raises(smtplite.RecipientsRefused):
        await backend_of(server).asend_messages(messages)
    assert await backend_of(server, fail_silently=True).asend_messages(messages) == 1
    down = EmailBackend(host="127.0.0.1", port=unused_port(), fail_silently=True)
    assert await down.aopen() is None
    assert await down.asend_messages(messages) == 0


@pytest.mark.asyncio
async def test_a_cancelled_view_gives_its_message_up(server: ThreadedServer) -> None:
    given_up: Future[MessageFinished] = Future()

    def trace(event: object) -> None:
        if isinstance(event, MessageFinished):
            given_up.set_result(event)

    held = server.hold("RCPT")
    backend = backend_of(server, trace=trace)
    sending = asyncio.create_task(backend.asend_messages([message("cancelled")]))
    await asyncio.to_thread(held.wait)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    # The view is told at once, the loop in which the message is sent a moment later.
    event = await asyncio.to_thread(given_up.result, PATIENCE_SECONDS)
    assert event.not_sent == ("bob@example.org",)
    await asyncio.to_thread(held.release)
    assert await backend_of(server).asend_messages([message("next")]) == 1
    assert subjects(server) == ["next"]


@pytest.mark.asyncio
async def test_a_synchronous_call_in_the_thread_of_an_event_loop_does_not_lock_up(server: ThreadedServer) -> None:
    assert backend_of(server).send_messages([message()]) == 1
    assert await backend_of(server).asend_messages([message()]) == 1
    assert len(server.connections) == 1


# Processes


PROGRAM = """
import os, sys, warnings
warnings.simplefilter("ignore")
from django.conf import settings
settings.configure()
from django.core.mail import EmailMessage  # type: ignore[import-untyped]
from smtplite.contrib.django import EmailBackend

def send(subject):
    backend = EmailBackend(host="127.0.0.1", port=int(sys.argv[1]))
    assert backend.send_messages([EmailMessage(subject, "hi", "ann@example.org", ["bob@example.org"])]) == 1
"""


def run(program: str, server: ThreadedServer) -> None:
    command = [sys.executable, "-c", PROGRAM + program, str(server.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_end_of_the_interpreter_ends_the_connections(server: ThreadedServer) -> None:
    run("send('hello')", server)
    [connection] = server.connections
    assert any(octets.startswith(b"QUIT") for side, octets in connection.transcript if side == "C")


@pytest.mark.needs("fork")
def test_a_forked_process_has_a_loop_and_connections_of_its_own(server: ThreadedServer) -> None:
    run(
        """
send("parent")
child = os.fork()
if not child:
    send("child")
    sys.exit()
_, status = os.waitpid(child, 0)
assert status == 0, status
send("parent again")
""",
        server,
    )
    assert subjects(server) == ["parent", "child", "parent again"]
    assert len(server.connections) == 2


def test_smtplite_does_without_django() -> None:
    program = "import sys, smtplite, smtplite.client, smtplite.contrib; assert 'django' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_SECONDS)


def test_a_client_certificate_is_shown(tmp_path: Any) -> None:
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("client.example.org")
    file = tmp_path / "client.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(file)
    context = EmailBackend(host="mail.example", use_tls=True, ssl_certfile=str(file))._client_certificate()
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
