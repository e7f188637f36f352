"""The testing server in a thread of its own, for tests that are not asynchronous, or run on another event loop."""

from __future__ import annotations

import os
import ssl
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import anyio.to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from smtplite.testing.connection import DEFAULT_WAIT_SECONDS, HeldReply, ServedConnection
from smtplite.testing.message import Commitment, ReceivedMessage, RefusedMessage, Violation
from smtplite.testing.script import ReplyOptions, ScriptedText
from smtplite.testing.server import SMTPServer

__all__ = ["ThreadedHeldReply", "ThreadedServer"]


class ThreadedHeldReply:
    """A reply that the server holds back until `release`, as `ThreadedServer.hold` returns it; for any thread."""

    def __init__(self, held: HeldReply, portal: BlockingPortal) -> None:
        self._held = held
        self._portal = portal

    @property
    def count(self) -> int:
        """Replies that were held so far."""
        return self._held.count

    def release(self) -> None:
        """Let the replies go, and hold no more."""
        self._portal.call(self._held.release)

    def wait(self, count: int = 1, *, timeout: float | None = DEFAULT_WAIT_SECONDS) -> None:
        """Wait until the server has reached the reply; the thread is blocked meanwhile.

        Args:
            count: how often, over all connections.
            timeout: in seconds; None: wait without limit.

        Raises:
            TimeoutError: it has not, within `timeout`.
        """
        self._portal.call(lambda: self._held.wait(count, timeout=timeout))


class ThreadedServer:
    """An `SMTPServer` that runs in a thread of its own: ``with SMTPServer().in_thread() as server:``.

    Everything here may be used from any thread. Methods that wait block their thread: an asynchronous test uses
    `wait_for_messages_async`, because the loop in which the code under test runs would otherwise stand still.

    Args:
        server: it must not be entered elsewhere.
        portal: of the thread to run in; None: one is started with the block, and ends with it.
    """

    def __init__(self, server: SMTPServer, portal: BlockingPortal | None = None) -> None:
        #: What runs in the thread. Its own methods are only for that thread.
        self.server = server
        self._given_portal = portal
        self._portal: BlockingPortal | None = None
        self._stack: ExitStack | None = None

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise RuntimeError("the server listens already")
        with ExitStack() as stack:
            portal = self._given_portal or stack.enter_context(start_blocking_portal())
            stack.enter_context(portal.wrap_async_context_manager(self.server))
            self._portal = portal
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._stack, self._portal = self._stack, None, None
        if stack is not None:
            # Without the block's own exception: it is not the server's
            stack.close()

    def __repr__(self) -> str:
        where = self.url if self._portal is not None else "not listening"
        return f"<ThreadedServer {where}: {self.messages!r}>"

    def _in_thread(self) -> BlockingPortal:
        if self._portal is None:
            raise RuntimeError("the server does not run; enter it with `with`")
        return self._portal

    @property
    def host(self) -> str:
        """The address that the server listens on."""
        return self.server.host

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self.server.port

    @property
    def url(self) -> str:
        """Where the server listens, for `smtplite.Client.from_url` (`SMTPServer.url`)."""
        return self.server.url

    @property
    def messages(self) -> list[ReceivedMessage]:
        """What was accepted so far, in the order in which it was committed. A new list each time."""
        return list(self.server.messages)

    @property
    def connections(self) -> list[ServedConnection]:
        """Every connection so far, including those that ended. A new list each time."""
        return list(self.server.connections)

    @property
    def violations(self) -> list[Violation]:
        """The mistakes of all clients so far. A new list each time."""
        return [violation for connection in self.connections for violation in list(connection.violations)]

    @property
    def refused(self) -> list[RefusedMessage]:
        """What was refused so far, and why (`SMTPServer.refused`). A new list each time."""
        return list(self.server.refused)

    @property
    def committed(self) -> list[Commitment]:
        """What the server answers for so far (`Mailbox.committed`). A new list each time."""
        return list(self.server.committed)

    @property
    def executed_content(self) -> list[bytes]:
        """The lines of content that ran as commands so far (`ServerConnection.executed_content`)."""
        return [line for connection in self.connections for line in list(connection.executed_content)]

    def ca_context(self, *, certificate: str | None = None) -> ssl.SSLContext:
        """Return a new context for a client, which trusts the authority of the default certificate and no other."""
        return self.server.ca_context(certificate=certificate)

    def write_ca(self, path: str | os.PathLike[str]) -> Path:
        """Write the authority of the default certificate to a file, and return its path (`SMTPServer.write_ca`)."""
        return self.server.write_ca(path)

    def reply(self, verb: str, reply: ScriptedText = None, **options: Unpack[ReplyOptions]) -> None:
        """Say `reply` to `verb` from now on; the arguments are those of `SMTPServer.reply`."""
        self._in_thread().call(lambda: self.server.reply(verb, reply, **options))

    def hold(self, verb: str, reply: ScriptedText = None, **options: Unpack[ReplyOptions]) -> ThreadedHeldReply:
        """Hold back the reply to `verb` until what this returns is released (`SMTPServer.hold`)."""
        portal = self._in_thread()
        return ThreadedHeldReply(portal.call(lambda: self.server.hold(verb, reply, **options)), portal)

    def close_idle(self) -> int:
        """Close every connection on which nothing is under way (`SMTPServer.close_idle`)."""
        return self._in_thread().call(self.server.close_idle)

    def restart(self, *, pause: float = 0.0) -> None:
        """Stop, and start again at the same address (`SMTPServer.restart`); the thread is blocked meanwhile."""
        self._in_thread().call(lambda: self.server.restart(pause=pause))

    def reset(self) -> None:
        """Forget messages, violations and script (`SMTPServer.reset`)."""
        self._in_thread().call(self.server.reset)

    def wait_for_messages(self, count: int = 1, timeout: float | None = DEFAULT_WAIT_SECONDS) -> list[ReceivedMessage]:
        """Wait until at least `count` messages were accepted; the thread is blocked meanwhile.

        Args:
            count: how many, since the server began or `reset`.
            timeout: in seconds; None: wait without limit.

        Returns:
            `messages`.

        Raises:
            TimeoutError: fewer were accepted within `timeout`.
        """
        self._in_thread().call(lambda: self.server.wait_for_messages(count, timeout=timeout))
        return self.messages

    async def wait_for_messages_async(
        self, count: int = 1, timeout: float | None = DEFAULT_WAIT_SECONDS
    ) -> list[ReceivedMessage]:
        """Wait as `wait_for_messages` does, in a task of any event loop, which keeps running meanwhile."""
        future: Future[list[ReceivedMessage]] = self._in_thread().start_task_soon(
            lambda: self.server.wait_for_messages(count, timeout=timeout)
        )
        try:
            await anyio.to_thread.run_sync(future.result, abandon_on_cancel=True)
        finally:
            future.cancel()
        return self.messages
