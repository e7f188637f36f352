"""What stands above a session, naively: messages, connections, and when a message is sent again."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from unittest import mock

import attrs

from smtplite.errors import SMTPTimeout
from smtplite.protocol.outcomes import Outcome
from smtplite.protocol.window import ServerTraits
from smtplite.testing.message import Mailbox
from smtplite.testing.protocol import ServerConnection
from smtplite.testing.script import Script, ScriptedReply

from .client import Client, HandshakeFailed, Hang, Message, MessageSpec
from .conversations import Conversation
from .wire import Cut, Edit, Wire

__all__ = ["EditMaker", "Plan", "Recode", "UserAgent", "simulating"]


#: Makes the edit of one run, which may remember what it saw.
EditMaker = Callable[[], Edit]


@contextmanager
def simulating() -> Iterator[None]:
    """Make small what is named so that messages of some dozen octets are large; compute each key of SCRAM but once."""
    with (
        mock.patch.multiple("smtplite.protocol.window", MAX_ONE_CHUNK_BYTES=64, MAX_UNACKNOWLEDGED_BYTES=160),
        mock.patch("hashlib.pbkdf2_hmac", cache(hashlib.pbkdf2_hmac)),
    ):
        yield


@attrs.frozen
class Recode:
    """A reply that the server gives in place of one of its own, and acts accordingly.

    Attributes:
        at: the number of the reply on its connection, as its script is asked.
        code: of the reply.
        text: behind the code.
        closes: whether the server closes behind it; None: behind a 421.
    """

    at: int
    code: int
    text: str = "recoded"
    closes: bool | None = None

    def __str__(self) -> str:
        """For the message of a test that failed."""
        closes = "" if self.closes is None else ", closes" if self.closes else ", does not close"
        return f"reply {self.at} recoded to {self.code} {self.text}{closes}"


@attrs.frozen
class Plan:
    """What befalls the first connection, or each of them.

    Attributes:
        cut: where it ends.
        edit: what becomes of its replies on their way.
        recode: what its server says.
        splits: where reads of the replies end.
        step: how long such reads are at most; 0: as long as may be.
        is_late: whether replies come only to a client that waits.
        stall: where a write waits, once.
        befalls_all: whether it befalls all connections.
        stops: whether nothing is sent any more, or again, once the first connection ended.
        name: for people, if not what follows from the others.
    """

    cut: Cut | None = None
    edit: EditMaker | None = None
    recode: Recode | None = None
    splits: tuple[int, ...] = ()
    step: int = 0
    is_late: bool = False
    stall: int | None = None
    befalls_all: bool = False
    stops: bool = False
    name: str = ""

    @property
    def keeps_all(self) -> bool:
        """True if it changes nothing but when octets come."""
        return self.cut is None and self.edit is None and self.recode is None

    def __str__(self) -> str:
        """For the message of a test that failed."""
        if self.name:
            return self.name
        parts = [str(part) for part in (self.cut, self.recode) if part is not None]
        if self.splits:
            parts.append(f"replies split at octets {self.splits}")
        if self.step:
            parts.append(f"replies read {self.step} octets at a time")
        if self.is_late:
            parts.append("replies come late")
        if self.stall is not None:
            parts.append(f"a write waits at octet {self.stall}")
        return ", ".join(parts) + (", on each connection" if self.befalls_all else "")


class _Script(Script):
    """Counts the replies, and recodes one of them."""

    def __init__(self, replies: Collection[ScriptedReply], recode: Recode | None) -> None:
        super().__init__(replies)
        self._recode = recode
        #: The verb of each reply that it was asked for, and whether anybody was a recipient then.
        self.asked: list[tuple[str, bool]] = []

    def take(
        self,
        verb: str,
        *,
        sender: str | None = None,
        recipients: Collection[str] = (),
        in_tls: bool = False,
        content_bytes: int = 0,
    ) -> ScriptedReply | None:
        reply = super().take(verb, sender=sender, recipients=recipients, in_tls=in_tls, content_bytes=content_bytes)
        if verb == "CONTENT":
            return reply
        self.asked.append((verb, bool(recipients)))
        recode = self._recode
        if recode is None or recode.at != len(self.asked) - 1 or not verb.isidentifier():
            return reply
        # The one reply to LMTP's end of data that a client must take for an answer to all: Dovecot's.
        is_for_all = verb == "END_OF_DATA" and (500 <= recode.code <= 509 or recode.code == 530)
        return ScriptedReply(verb, f"{recode.code} {recode.text}", close=recode.closes, for_all=is_for_all)


class UserAgent:
    """Sends the messages of a conversation, and one more where the last connection is still good.

    Args:
        conversation: what is said.
        plan: what befalls it.
    """

    def __init__(self, conversation: Conversation, plan: Plan | None = None) -> None:
        self.conversation = conversation
        self.plan = plan or Plan()
        self.mailbox = Mailbox()
        self.traits = ServerTraits()
        self.clients: list[Client] = []
        self.scripts: list[_Script] = []
        self.messages = [Message(number, spec) for number, spec in enumerate(conversation.messages, 1)]
        #: Messages that were sent behind all others, over each connection that still seemed good.
        self.last_messages: list[Message] = []
        #: How much was said, written and asked of the script on the first connection before it.
        self.said = self.taken = self.asked = 0
        self._queue: deque[Message] = deque()
        self._again: deque[Message] = deque()

    def run(self) -> UserAgent:
        """Send all messages."""
        if self.conversation.is_stream:
            self._submit(self.messages)
        else:
            for message in self.messages:
                self._submit([message])
                if self._is_over:
                    break
        wire = self.clients[0].wire
        self.said, self.taken, self.asked = len(wire.said), wire.taken, len(self.scripts[0].asked)
        for client in [client for client in self.clients if client.is_reusable]:
            message = Message(len(self.messages) + 1, MessageSpec(sender="last"))
            self.last_messages.append(message)
            self.messages.append(message)
            self._submit([message], client)
        return self

    def _submit(self, messages: list[Message], idle: Client | None = None) -> None:
        self._queue.extend(messages)
        idle = idle or (self.clients[-1] if self.clients else None)
        while self._queue:
            client, idle = self._client(idle), None
            if client is None:
                self._queue.clear()  # no connection: they stay as they are, not sent
                return
            begun = client.window.begun
            client.run(self)
            if client.window.begun == begun and not client.is_closed:
                raise Hang("nothing is sent, and the connection stays open")
            self._queue.extendleft(reversed(self._again))
            self._again.clear()
            if self._is_over:
                return

    @property
    def _is_over(self) -> bool:
        return self.plan.stops and self.clients[0].is_closed

    def _client(self, idle: Client | None) -> Client | None:
        """Return a connection, the idle one if it is still good, greeted; None: that cannot be had."""
        if idle is not None and not idle.is_stale:
            idle.is_reused = True
            return idle
        if len(self.clients) > 2 * len(self.messages):  # each message is sent again at most once
            raise Hang("connection after connection, and no end")
        client = self._connect()
        try:
            client.greet()
        except HandshakeFailed:
            return None
        return client

    def _connect(self) -> Client:
        plan = self.plan if self.plan.befalls_all or not self.clients else Plan()
        config = self.conversation.config
        script = _Script(config.replies, plan.recode)
        wire = Wire(
            ServerConnection(config, self.mailbox, script=script),
            cut=plan.cut,
            edit=None if plan.edit is None else plan.edit(),
            splits=plan.splits,
            step=plan.step,
            is_late=plan.is_late,
            stall=plan.stall,
        )
        client = Client(wire, self.conversation.options, self.traits)
        self.clients.append(client)
        self.scripts.append(script)
        return client

    # For a client

    def take(self) -> Message | None:
        """Return the message that comes next."""
        if not self._queue:
            return None
        message = self._queue.popleft()
        message.address()
        return message

    def put_back(self, message: Message) -> None:
        """Take it back."""
        self._queue.appendleft(message)

    def finished(self, message: Message, client: Client) -> None:
        """Decide whether the message goes on here, is sent again elsewhere, or is done (rule R11)."""
        if not message.is_done:
            self._queue.appendleft(message)
        elif self._may_be_resent(message, client):
            message.times_resent += 1
            message.reopen()
            self._again.append(message)

    def _may_be_resent(self, message: Message, client: Client) -> bool:
        transaction = message.transaction
        if message.times_resent or not message.is_repeatable or self.plan.stops:
            return False
        if transaction.refuses_chunks:
            return all(outcome.outcome in (Outcome.NOT_SENT, Outcome.REFUSED) for outcome in transaction.outcomes)
        if isinstance(client.error, SMTPTimeout):
            return False  # the time of the whole call is up
        if self.conversation.is_stream:
            return transaction.was_cut
        return client.is_reused and message.transactions == 1 and transaction.died_idle
