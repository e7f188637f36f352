"""SyncClient is Client without await: its arguments, methods and errors, from any thread."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
import trio

import smtplite
from smtplite import Client, Content, RawSession, SyncClient, SyncDeliveries, SyncSession
from smtplite.protocol import Ehlo, Mail, Rcpt, Vrfy
from smtplite.testing import SMTPServer, ThreadedServer
from smtplite.trace import MessageFinished, TraceEvent

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
THREADS = 32
EACH = 15


def numbered(name: object) -> bytes:
    return b"From: me@example.org\r\nTo: you@example.org\r\nMessage-ID: <%s@x>\r\n\r\nbody\r\n" % str(name).encode()


def arrived(server: ThreadedServer) -> list[str]:
    return [str(message.as_email()["Message-ID"]) for message in server.messages]


# The same as Client


@pytest.mark.parametrize("name", ["__init__", "from_url", "send", "send_many", "session", "check"])
def test_every_argument_is_that_of_client(name: str) -> None:
    ours, theirs = inspect.signature(getattr(SyncClient, name)), inspect.signature(getattr(Client, name))
    assert ours.parameters == theirs.parameters


def test_every_method_of_client_is_there() -> None:
    def public(cls: type) -> set[str]:
        return {name for name in vars(cls) if not name.startswith("_")}

    assert {name.replace("aclose", "close") for name in public(Client)} == public(SyncClient)
    assert public(RawSession) == public(SyncSession)
    assert public(SyncDeliveries) == {"rest", "close"}


def test_it_is_exported_and_named_by_its_server(server: ThreadedServer) -> None:
    assert smtplite.SyncClient is SyncClient
    assert repr(SyncClient("mail.example", 25, tls="none")) == "SyncClient('mail.example:25')"


def test_a_wrong_option_is_told_when_it_is_made() -> None:
    with pytest.raises(smtplite.ConfigurationError, match="no server"):
        SyncClient()
    with pytest.raises(smtplite.ConfigurationError, match="max_connections"):
        SyncClient("mail.example", max_connections=0)
    with pytest.raises(smtplite.ConfigurationError):
        SyncClient.from_url("http://mail.example")


def test_a_receipt_says_who_was_taken_and_who_was_refused(server: ThreadedServer, client: SyncClient) -> None:
    server.reply("RCPT", "550 5.1.1 no such user", to="nobody@example.net")
    receipt = client.send(RAW, sender="me@example.org", recipients=["you@example.org", "nobody@example.net"])
    assert receipt.accepted == ("you@example.org",)
    assert list(receipt.refused) == ["nobody@example.net"]
    with pytest.raises(smtplite.RecipientsRefused, match="no such user"):
        client.send(RAW, recipients="nobody@example.net")
    with pytest.raises(smtplite.RecipientsRefused):
        client.send(RAW, recipients=["you@example.org", "nobody@example.net"], require_all=True)
    with pytest.raises(smtplite.MessageError):
        client.send(b"no header")
    envelope = smtplite.Envelope("other@example.org", ["her@example.org"])
    assert client.send(RAW, envelope=envelope).accepted == ("her@example.org",)
    assert [message.sender for message in server.messages] == ["me@example.org", "other@example.org"]
    assert len(server.connections) == 1


def test_a_timeout_says_what_became_of_the_message(server: ThreadedServer, client: SyncClient) -> None:
    held = server.hold("END_OF_DATA")
    with pytest.raises(smtplite.DeliveryUnknown):
        client.send(RAW, timeout=2)  # long enough to hand it over
    held.release()
    held = server.hold("MAIL")
    with pytest.raises(smtplite.SMTPTimeout) as caught:
        client.send(RAW, timeout=0.2)
    held.release()
    assert caught.value.not_sent == ("you@example.org",)
    assert len(server.messages) == 1


def test_a_url_check_and_a_large_message(server: ThreadedServer) -> None:
    with SyncClient.from_url(server.url, local_hostname="me.example.org") as client:
        assert client.check().extensions.pipelining
        assert client.send(RAW + b"line\r\n" * 200_000).complete
        content = Content.from_bytes(RAW)
        assert client.send(content, sender="me@example.org", recipients="you@example.org").complete
    assert len(server.connections) == 1
    assert b"EHLO me.example.org\r\n" in server.connections[0].received


def test_the_end_of_the_block_ends_the_connection_and_nothing_can_be_sent_any_more(server: ThreadedServer) -> None:
    with SyncClient(server.host, server.port, tls="none") as client:
        client.send(RAW)
    assert server.connections[0].received.endswith(b"QUIT\r\n")
    client.close()
    for use in (
        lambda: client.send(RAW),
        lambda: list(client.send_many([RAW])),
        client.check,
        lambda: client.session().__enter__(),
    ):
        with pytest.raises(smtplite.LocalProtocolError, match="client is closed"):
            use()
    unused = SyncClient(server.host, server.port, tls="none")
    unused.close()
    with pytest.raises(smtplite.LocalProtocolError, match="client is closed"):
        unused.send(RAW)
    assert len(server.connections) == 1


def test_a_session_says_what_the_caller_says(server: ThreadedServer, client: SyncClient) -> None:
    with client.session() as session:
        assert session.command(Vrfy("you@example.org")).code == 252
        assert session.extensions.pipelining
        assert session.info.server.startswith("127.0.0.1:")
        assert any("VRFY" in line for line in session.transcript)
    assert server.connections[0].received.endswith(b"QUIT\r\n")
    with pytest.raises(smtplite.LocalProtocolError):
        session.command(Vrfy("you@example.org"))
    with pytest.raises(ZeroDivisionError), client.session() as session:
        session.command(Vrfy("you@example.org"))
        raise ZeroDivisionError
    assert not server.connections[1].received.endswith(b"QUIT\r\n")


def test_a_session_step_by_step() -> None:
    with SMTPServer(tls="starttls", users={"me": "secret"}).in_thread() as server:
        with SyncClient(server.host, server.port, tls="none") as client:
            with client.session(greeting_only=True) as session:
                session.timeouts = smtplite.Timeouts(command=20)
                assert session.timeouts.command == 20
                session.command(Ehlo(session.local_domain))
                assert session.start_tls(server.ca_context()).code == 220
                session.command(Ehlo(session.local_domain))
                assert session.authenticate(smtplite.sasl.Plain("me", "secret")).code == 235
                session.command(Mail("me@example.org"))
                session.command(Rcpt("you@example.org"))
                assert session.data(RAW).is_positive
                assert session.send(RAW).complete
                assert session.is_open
                session.close()
                assert not session.is_open
    assert len(server.messages) == 2
    assert not server.connections[0].received.endswith(b"QUIT\r\n")


# Where it may be used


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_in_an_event_loop_it_says_what_to_use(server: ThreadedServer, backend: str) -> None:
    client = SyncClient(server.host, server.port, tls="none")

    async def main() -> None:
        for use in (
            lambda: client.send(RAW),
            lambda: next(client.send_many([RAW])),
            lambda: client.send_many([RAW]).__enter__(),
            client.check,
            lambda: client.session().__enter__(),
        ):
            with pytest.raises(smtplite.LocalProtocolError, match=r"use smtplite\.Client with await"):
                use()
        client.close()  # harmless: nothing was opened

    anyio.run(main, backend=backend)
    assert server.connections == []


def test_a_thread_of_an_event_loops_may_use_it(server: ThreadedServer, client: SyncClient) -> None:
    async def main() -> None:
        await anyio.to_thread.run_sync(client.send, RAW)

    anyio.run(main)
    trio.run(main)
    assert len(server.messages) == 2


def test_a_callback_must_not_wait_for_its_own_loop(server: ThreadedServer) -> None:
    errors: list[BaseException] = []

    def trace(_: TraceEvent) -> None:
        if not errors:
            try:
                client.send(numbered("within"))
            except smtplite.LocalProtocolError as error:
                errors.append(error)

    with SyncClient(server.host, server.port, tls="none", trace=trace) as client:
        client.send(numbered("outside"))
    assert len(errors) == 1
    assert arrived(server) == ["<outside@x>"]


def test_callbacks_run_in_the_thread_of_the_loop_with_the_callers_context(server: ThreadedServer) -> None:
    import contextvars

    seen: set[tuple[str, str]] = set()
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")

    def trace(_: TraceEvent) -> None:
        seen.add((threading.current_thread().name, request.get()))

    def call() -> None:
        request.set("mine")
        with SyncClient(server.host, server.port, tls="none", trace=trace) as client:
            client.send(RAW)

    contextvars.copy_context().run(call)
    assert seen == {("smtplite", "mine")}


@pytest.mark.parametrize(
    "error", [KeyError("mine"), SystemExit(3), KeyboardInterrupt()], ids=lambda e: type(e).__name__
)
def test_what_a_callback_raises_is_the_callers_and_the_loop_goes_on(
    server: ThreadedServer, client: SyncClient, error: BaseException
) -> None:
    async def connect() -> Any:
        raise error

    with SyncClient("mail.example", tls="none", connect=connect) as broken:
        with pytest.raises(type(error)):
            broken.send(RAW)
        with pytest.raises((type(error), BaseExceptionGroup)):  # what is no Exception breaks Client's stream as a whole
            list(broken.send_many([RAW, RAW]))
    assert client.send(RAW).complete


# Threads


def test_32_threads_at_once_share_a_bounded_number_of_connections(server: ThreadedServer) -> None:
    start = threading.Barrier(THREADS)
    with SyncClient(server.host, server.port, tls="none", max_connections=4) as client:

        def request(number: int) -> bool:
            start.wait()
            return all(client.send(numbered(f"{number}.{again}")).complete for again in range(EACH))

        with ThreadPoolExecutor(THREADS) as pool:
            assert all(pool.map(request, range(THREADS)))
    assert sorted(arrived(server)) == sorted(f"<{n}.{again}@x>" for n in range(THREADS) for again in range(EACH))
    assert 1 <= len(server.connections) <= 4


def test_all_clients_share_one_thread_that_the_interpreter_does_not_wait_for(server: ThreadedServer) -> None:
    with ThreadPoolExecutor(8) as pool:

        def request(number: int) -> None:
            with SyncClient(server.host, server.port, tls="none") as client:
                client.send(numbered(number))

        list(pool.map(request, range(16)))
    [thread] = [thread for thread in threading.enumerate() if thread.name == "smtplite"]
    assert thread.daemon
    assert len(server.messages) == 16


# Interruption


class TimeLimit(Exception):
    """What a task queue raises out of a signal's handler."""


@pytest.fixture
def interrupt() -> Any:
    """Have TimeLimit raised in the main thread by a signal."""

    def handler(_: int, __: object) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGUSR1, handler)
    yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(("verb", "unknown"), [("MAIL", ()), ("END_OF_DATA", ("you@example.org",))])
@pytest.mark.needs("signals for other processes")
def test_what_a_signals_handler_raises_cancels_the_send(
    server: ThreadedServer,
    interrupt: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    verb: str,
    unknown: tuple[str, ...],
) -> None:
    finished: list[MessageFinished] = []

    def trace(event: TraceEvent) -> None:
        if isinstance(event, MessageFinished):
            finished.append(event)

    held = server.hold(verb)

    def interrupt_then() -> None:
        held.wait()
        interrupt()

    with SyncClient(server.host, server.port, tls="none", trace=trace) as client:
        waiting = threading.Thread(target=interrupt_then)
        waiting.start()
        with caplog.at_level(logging.WARNING), pytest.raises(TimeLimit):
            client.send(RAW)
        waiting.join()
        [event] = finished  # before the exception is raised, not at some time after
        assert event.unknown == unknown
        assert ("delivery unknown for you@example.org" in caplog.text) is bool(unknown)
        held.release()
        assert client.send(RAW).complete
    assert len(server.messages) == 1 + len(unknown)


@pytest.mark.needs("signals for other processes")
def test_an_interrupt_that_comes_when_all_is_done_says_in_the_log_what_nobody_gets(
    server: ThreadedServer, caplog: pytest.LogCaptureFixture
) -> None:
    finished = threading.Event()

    def trace(event: TraceEvent) -> None:
        if isinstance(event, MessageFinished):
            finished.set()

    def handler(_: int, __: object) -> None:
        held.release()
        finished.wait()
        raise TimeLimit

    def interrupt() -> None:
        held.wait()
        os.kill(os.getpid(), signal.SIGUSR1)

    held = server.hold("END_OF_DATA")
    before = signal.signal(signal.SIGUSR1, handler)
    with SyncClient(server.host, server.port, tls="none", trace=trace) as client:
        waiting = threading.Thread(target=interrupt)
        waiting.start()
        with caplog.at_level(logging.WARNING), pytest.raises(TimeLimit):
            client.send(RAW)
        waiting.join()
    signal.signal(signal.SIGUSR1, before)
    assert "TimeLimit came after the call was done: nobody gets Receipt(" in caplog.text


@pytest.mark.needs("signals for other processes")
def test_an_interrupted_stream_is_given_up_and_says_what_became_of_all(
    server: ThreadedServer, interrupt: Callable[[], None]
) -> None:
    held = server.hold("END_OF_DATA")

    def interrupt_then() -> None:
        held.wait()
        interrupt()

    with SyncClient(server.host, server.port, tls="none") as client:
        waiting = threading.Thread(target=interrupt_then)
        waiting.start()
        stream = client.send_many((numbered(n) for n in range(1000)), connections=1)
        with pytest.raises(TimeLimit):
            list(stream)
        waiting.join()
        held.release()
        kinds = [type(delivery.error) for delivery in stream.rest]
        assert kinds.count(smtplite.DeliveryUnknown) == 1
        assert set(kinds) == {smtplite.DeliveryUnknown, smtplite.ConnectionLost}
        assert client.send(RAW).complete


def test_nothing_is_left_over_from_a_server_that_is_gone() -> None:
    with SMTPServer().in_thread() as server:
        client = SyncClient(server.host, server.port, tls="none")
        client.send(RAW)
    with pytest.raises(smtplite.ConnectError):
        client.send(RAW)
    client.close()
