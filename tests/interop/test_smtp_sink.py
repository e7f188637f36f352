"""smtplite against smtp-sink(1), which comes with Postfix, and each fault that it can be told to have.

What it took stands in its dump files: so an outcome is compared with what really happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from email.message import EmailMessage
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from smtplite import (
    AuthenticationError,
    Client,
    ConnectError,
    ConnectionLost,
    Delivery,
    DeliveryUnknown,
    Envelope,
    ExtensionRequired,
    MessageRefused,
    RecipientsRefused,
    RemoteProtocolError,
    SenderRefused,
    ServiceUnavailable,
    SMTPError,
    SMTPTimeout,
    Timeouts,
    TLSError,
)

from .launcher import HOST, Daemon, Postfix, Service, ensure_available

pytestmark = [pytest.mark.interop, pytest.mark.asyncio]

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\n.body\r\n"
#: More than the buffers of both ends hold.
LARGE = RAW + (b"x" * 70 + b"\r\n") * 110_000
SOON = 0.2


class Sink(Daemon):
    """smtp-sink with some options.

    Args:
        options: as on its command line.
    """

    name = "smtp-sink"
    services: ClassVar[Mapping[str, Service]] = {"sink": Service()}

    def __init__(self, *options: str) -> None:
        super().__init__()
        self._options = options

    @classmethod
    def missing(cls) -> str | None:
        """Say what this machine lacks to run it."""
        if sys.platform != "linux":
            return "the launcher knows Linux alone: run the tests in a container"
        if cls.program() is None:
            return f"smtp-sink is not installed: {Postfix.INSTALL}"
        return None

    @staticmethod
    def program() -> str | None:
        # Where administrators have their programs, which is in the path of few others.
        return shutil.which("smtp-sink") or shutil.which("smtp-sink", path="/usr/sbin:/usr/local/sbin")

    def configure(self) -> list[str]:
        """Return its command line."""
        program = self.program()
        assert program is not None
        dump = self.folder / "dump"
        dump.mkdir()
        dump.chmod(0o777)
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        return [program, *user, "-d", f"{dump}/message.", *self._options, f"{HOST}:{self.port}", "16"]

    def greets(self, service: str) -> bool:
        """Tell whether it listens: a greeting is not what each of them gives."""
        try:
            self.connect(service).close()
        except OSError:
            return False
        return True

    @property
    def port(self) -> int:
        return self.ports["sink"]

    def taken(self) -> list[bytes]:
        """Return the messages whose end of data it read, with their envelopes, in any order."""
        # A file stands there from MAIL on; it ends with an empty line once its message has ended.
        dumps = [path.read_bytes() for path in Path(self.folder, "dump").iterdir()]
        return [dump for dump in dumps if dump.endswith(b"\n\n")]


@contextlib.contextmanager
def sink(*options: str) -> Iterator[Sink]:
    ensure_available(Sink)
    server = Sink(*options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def client_at(server: Sink, **options: Any) -> Client:
    options.setdefault("tls", "none")
    return Client(HOST, server.port, **options)


async def failure_of(client: Client, content: Any = RAW, **options: Any) -> SMTPError:
    with pytest.raises(SMTPError) as caught:
        await client.send(content, **options)
    return caught.value


@attrs.frozen
class Expected:
    """What must come of a message.

    Attributes:
        error: what is raised; None: delivered.
        code: of the reply that decided.
        outcome: in which set the recipient is.
        retryable: whether the error says so.
    """

    error: type[SMTPError] | None
    code: int | None = None
    outcome: str = "not_sent"
    retryable: bool = False


DELIVERED = Expected(None, outcome="accepted")
LOST = Expected(ConnectionLost, retryable=True)
UNKNOWN = Expected(DeliveryUnknown, outcome="unknown")
CLOSING = Expected(ServiceUnavailable, 421, retryable=True)


def soft(error: type[SMTPError], outcome: str = "refused") -> Expected:
    return Expected(error, 450, outcome, retryable=True)


def hard(error: type[SMTPError], outcome: str = "refused") -> Expected:
    return Expected(error, 500, outcome)


FAULTS: dict[tuple[str, ...], Expected] = {
    (): DELIVERED,
    # Disconnects without a reply.
    ("-q", "CONNECT"): LOST,
    ("-q", "EHLO"): LOST,
    ("-q", "MAIL"): LOST,
    ("-q", "RCPT"): LOST,
    ("-q", "DATA"): LOST,
    ("-q", "."): UNKNOWN,
    ("-q", "QUIT"): DELIVERED,
    ("-p", "-q", "MAIL"): LOST,
    ("-p", "-q", "RCPT"): LOST,
    ("-p", "-q", "DATA"): LOST,
    ("-p", "-q", "."): UNKNOWN,
    # Says 421 and disconnects.
    ("-Q", "CONNECT"): CLOSING,
    ("-Q", "EHLO"): CLOSING,
    ("-Q", "MAIL"): CLOSING,
    ("-Q", "RCPT"): CLOSING,
    ("-Q", "DATA"): CLOSING,
    ("-Q", "."): Expected(MessageRefused, 421, "refused", retryable=True),
    ("-Q", "QUIT"): DELIVERED,
    ("-p", "-Q", "RCPT"): CLOSING,
    # Refuses for now.
    ("-r", "CONNECT"): soft(ServiceUnavailable, "not_sent"),
    ("-r", "EHLO"): soft(ServiceUnavailable, "not_sent"),
    ("-r", "MAIL"): soft(SenderRefused),
    ("-r", "RCPT"): soft(RecipientsRefused),
    ("-r", "DATA"): soft(MessageRefused),
    ("-r", "."): soft(MessageRefused),
    ("-r", "QUIT"): DELIVERED,
    ("-b", "432 4.7.12 change it", "-r", "MAIL"): Expected(SenderRefused, 432, "refused", retryable=True),
    # Refuses for ever.
    ("-f", "CONNECT"): hard(ServiceUnavailable, "not_sent"),
    ("-f", "EHLO"): DELIVERED,  # by HELO
    ("-f", "EHLO,HELO"): hard(ServiceUnavailable, "not_sent"),
    ("-f", "MAIL"): hard(SenderRefused),
    ("-f", "RCPT"): hard(RecipientsRefused),
    ("-f", "DATA"): hard(MessageRefused),
    ("-f", "."): hard(MessageRefused),
    ("-f", "QUIT"): DELIVERED,
    ("-B", "571 5.7.1 not from here", "-f", "RCPT"): Expected(RecipientsRefused, 571, "refused"),
    # Offers less.
    ("-p",): DELIVERED,
    ("-8",): DELIVERED,
    ("-e",): DELIVERED,
    ("-E",): DELIVERED,
    ("-N",): DELIVERED,
    ("-a",): DELIVERED,
    ("-P",): DELIVERED,
    ("-C", "-F"): DELIVERED,
    # Its window.
    ("-T", "1024"): DELIVERED,
    # LMTP.
    ("-L",): DELIVERED,
    ("-L", "-p"): DELIVERED,
    ("-L", "-q", "LHLO"): LOST,
    ("-L", "-q", "RCPT"): LOST,
    ("-L", "-q", "."): UNKNOWN,
    ("-L", "-Q", "RCPT"): CLOSING,
    ("-L", "-Q", "."): Expected(MessageRefused, 421, "refused", retryable=True),
    ("-L", "-r", "LHLO"): soft(ServiceUnavailable, "not_sent"),
    ("-L", "-r", "RCPT"): soft(RecipientsRefused),
    ("-L", "-f", "RCPT"): hard(RecipientsRefused),
    ("-L", "-r", "."): soft(MessageRefused),
    ("-L", "-f", "."): hard(MessageRefused),
}


@pytest.mark.parametrize(
    ("options", "expected"), FAULTS.items(), ids=[" ".join(options) or "none" for options in FAULTS]
)
async def test_each_fault_has_its_outcome(options: tuple[str, ...], expected: Expected) -> None:
    """Twice with one client: what the first message met, the second one meets, and nothing else."""
    with sink(*options) as server:
        # A QUIT that is not answered is not waited for; a 421 to it neither.
        async with client_at(server, lmtp="-L" in options, timeouts=Timeouts(quit=SOON)) as client:
            for _ in range(2):
                if expected.error is None:
                    assert (await client.send(RAW)).accepted == ("you@example.org",)
                    continue
                error = await failure_of(client)
                assert type(error) is expected.error
                assert (error.reply and error.reply.code) == expected.code
                assert list(getattr(error, expected.outcome)) == ["you@example.org"]
                assert error.retryable is expected.retryable
        taken = server.taken()
        if expected.error is None:
            assert len(taken) == 2
            assert all(dump.endswith(b"\nSubject: hi\n\n.body\n\n") for dump in taken)
            assert all(b"X-Mail-Args: <me@example.org>" in dump for dump in taken)
            assert all(b"X-Rcpt-Args: <you@example.org>" in dump for dump in taken)
        elif expected.outcome == "not_sent":
            assert taken == []


async def test_rset_that_disconnects_costs_nothing() -> None:
    """It stands in front of the message behind a refusal; that one goes on a new connection (rule R11)."""
    with sink("-f", "RCPT", "-q", "RSET") as server:
        async with client_at(server) as client:
            for _ in range(3):
                assert type(await failure_of(client)) is RecipientsRefused


# Content that is cut off


@pytest.mark.parametrize("options", [("-A", "0"), ("-A", "0", "-p"), ("-A", "0", "-T", "1024")], ids=" ".join)
async def test_a_refusal_before_the_dot_is_read_though_nobody_reads_the_content(options: tuple[str, ...]) -> None:
    """Rules R3, R24: smtp-sink says 550 behind its 354, reads no more, and disconnects."""
    with sink(*options) as server:
        async with client_at(server) as client:
            for _ in range(3):
                error = await failure_of(client, LARGE)
                assert type(error) is MessageRefused
                assert error.reply is not None
                assert error.reply.code == 550
                assert list(error.refused) == ["you@example.org"]
        assert server.taken() == []


async def test_the_same_with_content_that_fits_into_one_write() -> None:
    """Rule R24: content and dot may have been written before the 550 is read; it is the refusal all the same."""
    with sink("-A", "0") as server:
        async with client_at(server) as client:
            for _ in range(20):
                error = await failure_of(client)
                assert type(error) is MessageRefused
                assert error.reply is not None
                assert error.reply.code == 550


async def test_content_that_is_not_read_for_a_while_arrives() -> None:
    """It waits for a second behind DATA, with a small window: we wait, too."""
    with sink("-H", "1", "-T", "1024") as server:
        async with client_at(server) as client:
            assert (await client.send(LARGE)).complete
        (dump,) = server.taken()
        assert dump.count(b"x" * 70) == 110_000


async def test_content_that_is_not_read_in_time_is_certainly_not_sent() -> None:
    """Rule R7."""
    with sink("-H", "30", "-T", "1024") as server:
        async with client_at(server, timeouts=Timeouts(data_block=SOON)) as client:
            error = await failure_of(client, LARGE)
        assert type(error) is SMTPTimeout
        assert error.not_sent == ("you@example.org",)
        assert server.taken() == []


# Replies that come late


@pytest.mark.parametrize(
    ("options", "timeouts", "expected"),
    [
        (("-p", "-w", "30"), Timeouts(data_init=SOON), SMTPTimeout),
        (("-p", "-W", "DATA:30"), Timeouts(data_init=SOON), SMTPTimeout),
        (("-W", ".:30"), Timeouts(end_of_data=SOON), DeliveryUnknown),
        (("-L", "-W", ".:30"), Timeouts(end_of_data=SOON), DeliveryUnknown),
        (("-W", "CONNECT:30"), Timeouts(greeting=SOON), SMTPTimeout),
        (("-W", "EHLO:30"), Timeouts(command=SOON), SMTPTimeout),
        (("-p", "-W", "MAIL:30"), Timeouts(command=SOON), SMTPTimeout),
        (("-p", "-W", "RCPT:30"), Timeouts(command=SOON), SMTPTimeout),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_a_reply_that_comes_too_late(
    options: tuple[str, ...], timeouts: Timeouts, expected: type[SMTPError]
) -> None:
    """Rules R1, R7: unknown behind the dot, certainly not sent before it.

    In lockstep: in a pipelined group, smtp-sink gives the reply that it delays behind those to the next commands.
    """
    with sink(*options) as server:
        async with client_at(server, lmtp="-L" in options, timeouts=timeouts) as client:
            error = await failure_of(client)
        assert type(error) is expected
        if expected is DeliveryUnknown:
            assert type(error.__cause__) is SMTPTimeout
            assert error.unknown == ("you@example.org",)
        else:
            assert error.not_sent == ("you@example.org",)
            assert error.retryable
            assert server.taken() == []


async def test_a_quit_that_is_answered_late_is_not_waited_for() -> None:
    """Rule R2."""
    with sink("-W", "QUIT:30") as server:
        async with asyncio.timeout(20):
            async with client_at(server, timeouts=Timeouts(quit=SOON)) as client:
                assert (await client.send(RAW)).complete
        assert len(server.taken()) == 1


async def test_a_reply_that_comes_in_time_is_waited_for() -> None:
    with sink("-W", ".:1") as server:
        async with client_at(server) as client:
            assert (await client.send(RAW)).complete


# What is not offered


async def test_without_8bitmime_a_message_object_is_encoded_anew_and_octets_are_refused() -> None:
    message = EmailMessage()
    message["From"], message["To"] = "me@example.org", "you@example.org"
    message.set_content("größer\n", cte="8bit")
    with sink("-8") as server:
        async with client_at(server) as client:
            assert (await client.send(message)).complete
            error = await failure_of(client, RAW + "größer\r\n".encode())
        assert isinstance(error, ExtensionRequired)
        assert error.keyword == "8BITMIME"
        (dump,) = server.taken()
        assert dump.isascii()


async def test_without_dsn_an_envelope_that_needs_it_is_refused_before_mail() -> None:
    envelope = Envelope("me@example.org", "you@example.org", envid="x")
    with sink("-N") as server:
        async with client_at(server) as client:
            error = await failure_of(client, envelope=envelope)
        assert isinstance(error, ExtensionRequired)
        assert error.keyword == "DSN"
    with sink() as server:
        async with client_at(server) as client:
            assert (await client.send(RAW, envelope=envelope)).complete
        (dump,) = server.taken()
        assert b"X-Mail-Args: <me@example.org> ENVID=x" in dump


@pytest.mark.parametrize("option", ["-a", "-e", "-P"])
async def test_without_auth_nothing_is_sent_unauthenticated(option: str) -> None:
    """Rule R15."""
    with sink(option) as server:
        async with client_at(server, username="me", password="secret", allow_insecure_auth=True) as client:
            assert type(await failure_of(client)) is AuthenticationError
        assert server.taken() == []


async def test_a_250_to_auth_is_no_success() -> None:
    """Rule R16: smtp-sink offers AUTH, and says 250 in place of 235."""
    with sink() as server:
        async with client_at(server, username="me", password="secret", allow_insecure_auth=True) as client:
            assert type(await failure_of(client)) is RemoteProtocolError
        assert server.taken() == []


@pytest.mark.parametrize(
    "options", [(), ("-e",), ("-P",), ("-f", "EHLO")], ids=lambda options: " ".join(options) or "-"
)
async def test_without_starttls_nothing_is_sent(options: tuple[str, ...]) -> None:
    """Rule R14: smtp-sink knows no TLS."""
    with sink(*options) as server:
        async with client_at(server, tls="starttls") as client:
            assert type(await failure_of(client)) is TLSError
        assert server.taken() == []


async def test_the_name_that_it_gives_itself_is_in_the_receipt() -> None:
    with sink("-h", "mx.example.org") as server:
        async with client_at(server) as client:
            assert (await client.send(RAW)).server == "mx.example.org"


# Many


@pytest.mark.parametrize("options", [(), ("-p",), ("-L",)], ids=["pipelined", "lockstep", "LMTP"])
async def test_a_thousand_messages_arrive_once_each(options: tuple[str, ...]) -> None:
    messages = [RAW.replace(b"hi", b"number %d" % number) for number in range(1000)]
    with sink(*options) as server:
        async with client_at(server, lmtp="-L" in options) as client:
            async with client.send_many(messages) as deliveries:
                accepted = [delivery.result().accepted async for delivery in deliveries]
        assert accepted == [("you@example.org",)] * 1000
        subjects = sorted(dump.partition(b"Subject: ")[2].split(b"\n")[0] for dump in server.taken())
        assert subjects == sorted(b"number %d" % number for number in range(1000))


async def test_a_server_that_is_gone_after_so_many() -> None:
    """It ends behind the tenth message: what was taken is accepted, and what was not is said to be not sent."""
    messages = [RAW.replace(b"hi", b"number %d" % number) for number in range(30)]
    accepted: set[bytes] = set()
    others: dict[bytes, SMTPError] = {}

    def sort(delivery: Delivery) -> None:
        assert isinstance(delivery.item, bytes)
        subject = delivery.item.partition(b"Subject: ")[2].split(b"\r\n")[0]
        assert subject not in accepted
        assert subject not in others
        if delivery.error is None:
            accepted.add(subject)
        else:
            others[subject] = delivery.error

    with sink("-M", "10") as server:
        async with client_at(server) as client:
            with contextlib.suppress(ConnectError, ConnectionLost):  # nobody there any more; or not for us
                async with client.send_many(messages, connections=1, reconnect=0.2) as deliveries:
                    async for delivery in deliveries:
                        sort(delivery)
            for delivery in deliveries.rest:
                sort(delivery)
        taken = {dump.partition(b"Subject: ")[2].split(b"\n")[0] for dump in server.taken()}
    assert len(accepted) >= 9  # the tenth verdict may be lost with the server
    assert accepted <= taken
    for subject, error in others.items():
        assert error.unknown or subject not in taken
