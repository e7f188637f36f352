"""The testing server in a thread of its own: for blocking code, and beside any event loop."""

from __future__ import annotations

import errno
import smtplib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from email.message import EmailMessage

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from smtplite import Client
from smtplite.testing import ReceivedMessage, ScriptedReply, SMTPServer, ThreadedServer

PATIENCE_SECONDS = 20


def message(subject: str = "hello") -> EmailMessage:
    result = EmailMessage()
    result["From"] = "ann@example.org"
    result["To"] = "bob@example.org"
    result["Subject"] = subject
    result.set_content("hi\n")
    return result


def send(server: ThreadedServer, subject: str = "hello") -> None:
    """Send with the standard library, which blocks."""
    with smtplib.SMTP(server.host, server.port, local_hostname="client.example", timeout=PATIENCE_SECONDS) as client:
        client.send_message(message(subject))


@pytest.fixture
def in_background() -> Iterator[Callable[..., Future[None]]]:
    with ThreadPoolExecutor() as pool:
        yield pool.submit


def test_a_blocking_client_is_served() -> None:
    with SMTPServer().in_thread() as server:
        assert server.url == f"smtp://127.0.0.1:{server.port}?tls=none"
        send(server)
        [received] = server.messages
        assert received.as_email()["Subject"] == "hello"
        assert len(server.connections) == 1
        assert (server.violations, server.executed_content) == ([], [])
        assert [entry.recipient for entry in server.committed] == ["bob@example.org"]
    assert "not listening" in repr(server)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_client_on_another_loop_is_served(backend: str) -> None:
    async def deliver() -> bool:
        async with Client.from_url(server.url) as client:
            receipt = await client.send(message())
            [received] = await server.wait_for_messages_async(1, PATIENCE_SECONDS)
            assert received.helo
            return receipt.complete

    with SMTPServer().in_thread() as server:
        assert anyio.run(deliver, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_waiting_in_a_task_lets_its_loop_go_on_and_can_be_cancelled(backend: str) -> None:
    async def wait() -> list[ReceivedMessage]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.wait_for_messages_async, 1_000, None)
            async with Client.from_url(server.url) as client:
                tasks.start_soon(client.send, message())
                messages = await server.wait_for_messages_async(1, PATIENCE_SECONDS)
            tasks.cancel_scope.cancel()
        return messages

    with SMTPServer().in_thread() as server:
        assert len(anyio.run(wait, backend=backend)) == 1


def test_waiting_for_messages(in_background: Callable[..., Future[None]]) -> None:
    with SMTPServer().in_thread() as server:
        futures = [in_background(send, server, str(number)) for number in range(5)]
        messages = server.wait_for_messages(5, timeout=PATIENCE_SECONDS)
        assert sorted(str(received.as_email()["Subject"]) for received in messages) == ["0", "1", "2", "3", "4"]
        for future in futures:
            future.result(PATIENCE_SECONDS)


def test_waiting_for_messages_in_vain() -> None:
    with SMTPServer().in_thread() as server:
        with pytest.raises(TimeoutError, match="accepted 0 of 3 messages within 0 seconds"):
            server.wait_for_messages(3, timeout=0)
        with pytest.raises(TimeoutError, match="accepted 0 of 2 messages within 0 seconds"):
            anyio.run(server.wait_for_messages_async, 2, 0)


def test_messages_are_a_snapshot() -> None:
    with SMTPServer().in_thread() as server:
        before = server.messages
        send(server)
        assert before == []
        server.messages.clear()
        assert len(server.messages) == 1


def test_many_threads_send_while_others_look() -> None:
    with SMTPServer().in_thread() as server, ThreadPoolExecutor(8) as pool:
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                assert all(received.recipients for received in server.messages)
                server.reply("EXPN", "502 5.5.1 no", times=1)
                assert server.violations == []

        lookers = [pool.submit(look) for _ in range(2)]
        senders = [pool.submit(send, server, str(number)) for number in range(30)]
        for future in senders:
            future.result(PATIENCE_SECONDS)
        stop.set()
        for future in lookers:
            future.result(PATIENCE_SECONDS)
        assert len(server.messages) == 30


def test_faults_and_reset() -> None:
    server = SMTPServer(replies=[ScriptedReply("RCPT", "550 5.1.1 nobody", to="nobody@example.org")]).in_thread()
    with server:
        server.reply("MAIL", "451 4.3.0 later")
        with pytest.raises(smtplib.SMTPSenderRefused):
            send(server)
        server.reset()
        send(server)
        assert len(server.messages) == 1
        server.reset()
        assert server.messages == []
        assert server.wait_for_messages(0) == []


def test_a_reply_that_is_held(in_background: Callable[..., Future[None]]) -> None:
    with SMTPServer().in_thread() as server:
        held = server.hold("END_OF_DATA")
        with pytest.raises(TimeoutError, match="held 0 of 1"):
            held.wait(timeout=0)
        future = in_background(send, server)
        held.wait(timeout=PATIENCE_SECONDS)
        assert held.count == 1
        assert len(server.messages) == 1
        assert not future.done()
        held.release()
        future.result(PATIENCE_SECONDS)


def test_idle_connections_are_closed() -> None:
    with SMTPServer().in_thread() as server:
        client = smtplib.SMTP(server.host, server.port, local_hostname="client.example", timeout=PATIENCE_SECONDS)
        with client:
            client.noop()
            assert server.close_idle() == 1
            assert client.getreply() == (421, b"4.4.2 idle for too long, closing")
            client.close()


def test_tls() -> None:
    with SMTPServer(tls="implicit", users={"me": "secret"}).in_thread() as server:
        client = smtplib.SMTP_SSL("localhost", server.port, context=server.ca_context(), timeout=PATIENCE_SECONDS)
        with client:
            client.login("me", "secret")
            client.send_message(message())
        assert server.messages[0].authenticated_as == "me"


def test_it_runs_only_within_its_block_and_once() -> None:
    server = SMTPServer().in_thread()
    for use in (server.reset, lambda: server.url, lambda: server.hold("NOOP"), lambda: server.reply("NOOP", "250")):
        with pytest.raises(RuntimeError, match=r"does not (run|listen)"):
            use()
    with server, pytest.raises(RuntimeError, match="listens already"), server:
        pass
    with server:
        send(server)


def test_a_port_that_is_taken_is_reported_and_the_thread_ends() -> None:
    before = set(threading.enumerate())
    with SMTPServer().in_thread() as server:
        with pytest.raises(OSError) as caught, SMTPServer(port=server.port).in_thread():  # noqa: PT011 (its errno)
            pass
        assert caught.value.errno == errno.EADDRINUSE
    assert set(threading.enumerate()) <= before  # one of an earlier test may have ended meanwhile


def test_several_servers_may_share_a_thread() -> None:
    with start_blocking_portal() as portal:
        first, second = (ThreadedServer(SMTPServer(), portal) for _ in range(2))
        with first, second:
            send(first)
            assert (len(first.messages), len(second.messages)) == (1, 0)


def test_an_exception_of_the_block_leaves_as_itself() -> None:
    with pytest.raises(ZeroDivisionError), SMTPServer().in_thread():
        raise ZeroDivisionError


def test_an_exception_of_on_message_leaves_with_the_block() -> None:
    def fail(received: ReceivedMessage) -> None:
        raise KeyError(received.sender)

    server = SMTPServer(on_message=fail).in_thread()
    with pytest.raises(ExceptionGroup) as caught, server:
        with pytest.raises(smtplib.SMTPServerDisconnected):
            send(server)
    assert caught.group_contains(KeyError)
