"""What the simulation finds in the naive twin of a session must hold in the session itself."""

from __future__ import annotations

from collections import deque

import anyio
import pytest

from smtplite.message.content import OctetBody
from smtplite.message.prepared import prepare
from smtplite.net import Meanwhile
from smtplite.protocol import Ehlo, Mail, Outcome, Rcpt
from smtplite.sending.deadline import Deadline
from smtplite.sending.outbound import Outbound
from smtplite.sending.session import Session
from smtplite.testing.config import ServerConfig
from smtplite.testing.protocol import ServerConnection
from smtplite.trace import Tracer


class BlockingStream:
    """A stream to a server that reads no further than the end of data of the first message."""

    def __init__(self, server: ServerConnection) -> None:
        self._server = server
        self._said = server.greeting()
        self.unsent = 0
        #: Set once a write waits, and all that the server said was read meanwhile.
        self.is_blocked = anyio.Event()

    async def send(self, data: bytes, meanwhile: Meanwhile | None = None) -> None:
        content, dot, rest = data.partition(b"\r\n.\r\n")
        self._said += self._server.feed(content + dot)
        self.unsent = len(rest)
        if rest:
            assert meanwhile is not None
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(meanwhile, tasks.cancel_scope)
                await anyio.sleep_forever()

    async def receive(self) -> bytes:
        if not self._said:
            self.is_blocked.set()
            await anyio.sleep_forever()
        said, self._said = self._said, b""
        return said

    async def look(self) -> bytes | None:
        return await self.receive() if self._said else None

    def watch(self) -> None:
        pass

    def rest(self) -> None:
        pass

    def is_stale(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    @property
    def local_address(self) -> str | None:
        return None


class Messages:
    """A queue of messages to one recipient each."""

    def __init__(self, count: int) -> None:
        self.done: list[Outbound] = []
        self._waiting: deque[Outbound] = deque()
        for number in range(count):
            raw = b"Subject: %d\r\n\r\n" % number
            outbound = Outbound(prepare(raw, sender="me@x.example", recipients="you@x.example"), Tracer())
            outbound.fitted_body = OctetBody(raw)
            outbound.fit(Mail("me@x.example"), [Rcpt("you@x.example")], None)
            self._waiting.append(outbound)

    def take(self) -> Outbound | None:
        return self._waiting.popleft() if self._waiting else None

    def put_back(self, outbound: Outbound) -> None:
        self._waiting.appendleft(outbound)

    def begins(self, outbounds: list[Outbound]) -> None:
        pass

    def finished(self, outbound: Outbound) -> None:
        self.done.append(outbound)


@pytest.mark.parametrize("ends_by", ["timeout", "cancellation"])
def test_a_verdict_that_was_read_while_a_write_was_blocked_decides(ends_by: str) -> None:
    """R2: content, dot and the next envelope are one write; the 250 to the dot comes while the envelope waits."""
    server = ServerConnection(ServerConfig())
    messages = Messages(2)

    async def send() -> None:
        stream = BlockingStream(server)
        session = Session(stream, server="x")
        deadline = Deadline()
        await session.next_event(deadline)
        await session.ask(Ehlo("client.example"), deadline)
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                with deadline.scope:
                    await session.run(messages, deadline)

            tasks.start_soon(run)
            await stream.is_blocked.wait()
            (deadline.scope if ends_by == "timeout" else tasks.cancel_scope).cancel()

    anyio.run(send)
    assert len(server.mailbox.messages) == 1
    first, second = messages.done
    assert [outcome.outcome for outcome in second.outcomes] == [Outcome.NOT_SENT]
    assert [outcome.outcome for outcome in first.outcomes] == [Outcome.ACCEPTED]
