"""What the testing server remembers of a session from one message to the next: mistakes, refusals, the dialogue."""

from __future__ import annotations

from typing import Literal

import attrs

from smtplite.testing.message import Dialogue, Refusal, Violation
from smtplite.testing.rules import rule_of

__all__ = ["Record"]

#: Of one message's dialogue, what is kept before it is cut.
MAX_DIALOGUE_LINES = 1_000
#: Written down of one connection, and of one message.
MAX_VIOLATIONS = 1_000
MAX_REFUSALS = 1_000


@attrs.define(eq=False)
class Record:
    """What was said and found since the last message, with what opened the session."""

    #: The client's mistakes on the connection, in the order in which they came.
    violations: list[Violation] = attrs.field(factory=list)
    #: Where the session is: a verb, ``GREETING``, ``CONTENT`` or ``TLS``; and the number of the command.
    at: str = "GREETING"
    number: int = 0
    #: Of the replies of this turn, how many are noted.
    noted: int = 0
    #: Whether what was refused has been reported already.
    is_reported: bool = False
    #: Whether a MAIL was said: what was said before it opened the session.
    has_mail: bool = False
    #: The reverse-path and the forward-path that were read last.
    sender: str | None = None
    recipient: str | None = None
    _opening: list[tuple[Literal["C", "S"], bytes]] = attrs.field(factory=list)
    _dialogue: list[tuple[Literal["C", "S"], bytes]] = attrs.field(factory=list)
    _recent: list[Violation] = attrs.field(factory=list)
    _refusals: list[Refusal] = attrs.field(factory=list)

    def begin_anew(self) -> None:
        """Forget what belongs to the message that was reported; what opened the session stays."""
        self._dialogue.clear()
        self._recent.clear()
        self._refusals.clear()
        self.is_reported = False
        self.sender = self.recipient = None

    def heard(self, data: bytes) -> None:
        """Note what the client said; it holds no credential and no content."""
        self._add("C", data)

    def said(self, data: bytes) -> None:
        """Note a reply."""
        self._add("S", data)

    def _add(self, by: Literal["C", "S"], data: bytes) -> None:
        lines = self._dialogue if self.has_mail else self._opening
        if len(lines) < MAX_DIALOGUE_LINES:
            lines.append((by, data))

    def violate(self, what: str, *, at: str | None = None) -> None:
        """Write a mistake of the client down."""
        violation = Violation(what, at=self.at if at is None else at, number=self.number, rfc=rule_of(what))
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(violation)
        if len(self._recent) < MAX_VIOLATIONS:
            self._recent.append(violation)

    def refuse(self, reply: bytes, *, recipient: str | None = None, at: str | None = None) -> None:
        """Note what was refused, and with which reply; empty: the connection ended in its place."""
        if len(self._refusals) < MAX_REFUSALS:
            text = reply.decode("utf-8", "replace").rstrip("\r\n")
            self._refusals.append(Refusal(at=self.at if at is None else at, reply=text, recipient=recipient))

    @property
    def recent(self) -> tuple[Violation, ...]:
        """The mistakes since the last message."""
        return tuple(self._recent)

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What was refused since the last message."""
        return tuple(self._refusals)

    @property
    def dialogue(self) -> Dialogue:
        """What opened the session, and what was said since the last message."""
        return (*self._opening, *self._dialogue)
