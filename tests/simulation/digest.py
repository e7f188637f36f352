"""A digest of what a run did: two commits that do the same have the same, however their code differs.

``python -m tests.simulation --digest`` prints one for each kind of fault. It holds every octet that a client wrote, and
for each message the outcome of each recipient, the replies that decided them, and the error; and what it says of each
connection: whether it may be used again, and why not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from smtplite.errors import SMTPError
from smtplite.protocol import RecipientOutcome

from .client import Client, Message
from .conversations import Conversation
from .judge import Taken
from .plans import Case
from .user_agent import UserAgent

__all__ = ["Digest"]


class Digest:
    """Of some runs, in their order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.runs = 0
        #: How many octets the clients wrote, and how many outcomes there were.
        self.octets = self.outcomes = 0
        #: How many transactions there were, and how they were taken (no part of the digest).
        self.taken = Taken()

    def add(self, conversation: Conversation, case: Case) -> None:
        """Make a run, and add what it did."""
        agent = UserAgent(conversation, case.plan)
        said = ""
        try:
            agent.run()
        except Exception as error:  # noqa: BLE001 (what it raised is part of what it did)
            said = f"{type(error).__name__}: {error}"
        self.runs += 1
        self.octets += sum(len(client.wire.written) for client in agent.clients)
        self.outcomes += sum(len(message.outcomes) for message in agent.messages)
        self.taken.add(agent)
        for text in (str(conversation), said, *_connections(agent.clients), *_messages(agent.messages)):
            self._hash.update(text.encode() + b"\0")

    def include(self, other: Digest) -> None:
        """Add what others did."""
        self._hash.update(other._hash.digest())
        self.runs += other.runs
        self.octets += other.octets
        self.outcomes += other.outcomes
        self.taken.include(other.taken)

    def __str__(self) -> str:
        """The digest, short enough to be compared by eye."""
        return self._hash.hexdigest()[:16]


def _connections(clients: list[Client]) -> Iterator[str]:
    for client in clients:
        window = client.window
        yield repr(bytes(client.wire.written))
        yield repr((client.wire.taken, client.wire.heard, client.wire.unsent, client.is_closed, client.is_reusable))
        yield repr((window.begun, window.must_close, window.reason, window.is_proved, window.is_spent, len(window)))
        yield _error(client.error)


def _messages(messages: list[Message]) -> Iterator[str]:
    for message in messages:
        yield repr((message.number, message.is_done, message.transactions, message.times_resent))
        for concluded in message.history:
            yield repr((concluded.recipients, concluded.was_handed_over, concluded.mails_before))
            yield from map(_outcome, concluded.outcomes)
        yield from map(_outcome, message.outcomes)
        yield _error(message.error)


def _outcome(outcome: RecipientOutcome) -> str:
    return f"{outcome.outcome.name} {outcome.reply!r}"


def _error(error: BaseException | None) -> str:
    if not isinstance(error, SMTPError):
        return repr(error)
    parts = (type(error).__name__, str(error), error.phase, getattr(error, "command", None), error.reply)
    return f"{parts!r} from {_error(error.__cause__)}"
