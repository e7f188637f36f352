"""The octets between a client and a server, and what may befall them on their way."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Literal

import attrs

from smtplite.errors import ConnectionLost, SMTPTimeout
from smtplite.testing.protocol import ServerConnection

__all__ = ["Cut", "Edit", "End", "Side", "Wire", "as_replies"]

#: Of the octets between client and server: what the server says, and what the client writes.
Side = Literal["replies", "commands"]

_REPLY = re.compile(rb"(?:[0-9]{3}-[^\n]*\n)*[0-9]{3}(?:[ \r][^\n]*)?\n")

#: Takes the number of a reply on this connection, from 0, and its octets; returns what the client reads in its place.
Edit = Callable[[int, bytes], bytes]


class End(Enum):
    """How a connection ends, as the client meets it."""

    EOF = "EOF"
    RST = "RST"
    SILENCE = "silence"


@attrs.frozen
class Cut:
    """Where a connection ends, and how.

    Attributes:
        side: "replies": the client reads `offset` octets, and then the end; the server may see more than that.
            "commands": the server sees `offset` octets, the client reads all that it answers to them, then the end.
        offset: in octets, from the beginning of the connection.
        end: what the client meets then.
        is_taken: whether the client's system takes octets that are written in vain, or written once the client has
            read all it will ever read; if not, they are unsent, and a write may fail.
        is_visible: whether EOF can be seen by a look, as soon as all before it was read; if not, by waiting only.
    """

    side: Side
    offset: int
    end: End
    is_taken: bool = True
    is_visible: bool = False

    def __str__(self) -> str:
        """For the message of a test that failed."""
        taken = "taken" if self.is_taken else "unsent"
        visible = ", seen at once" if self.is_visible else ""
        return f"{self.side} cut at octet {self.offset} by {self.end.value} (what is written then is {taken}{visible})"


def as_replies(octets: bytes) -> list[bytes]:
    """Return what a server said, reply by reply."""
    replies = _REPLY.findall(octets)
    assert b"".join(replies) == octets, octets
    return replies


class Wire:
    """One connection to a server.

    What the client writes reaches the server at once, and what that answers can be read at once, but for these:

    Args:
        server: has not yet said anything.
        cut: where the connection ends.
        edit: changes replies on their way.
        splits: offsets of the reply stream at which a read ends; what is behind one comes only to a client that waits.
        step: reads are of so many octets at most; 0: of as many as there are. What is behind comes as with `splits`.
        is_late: whatever the server says comes only to a client that waits.
        stall: offset of the command stream at which a write waits, once, until the client read what there is to read.
    """

    def __init__(
        self,
        server: ServerConnection,
        *,
        cut: Cut | None = None,
        edit: Edit | None = None,
        splits: tuple[int, ...] = (),
        step: int = 0,
        is_late: bool = False,
        stall: int | None = None,
    ) -> None:
        self.server = server
        self._cut = cut
        self._edit = edit
        self._splits = splits
        self._step = step
        self._is_slow = is_late or bool(splits) or step > 0
        self._stall = stall
        self._read_limit = cut.offset if cut is not None and cut.side == "replies" else None
        self._seen_limit = cut.offset if cut is not None and cut.side == "commands" else None
        #: All that the server said, edited, and how much of it the client read.
        self.said = bytearray()
        self.heard = 0
        self._horizon = 0  # may be read without waiting
        #: True once a reply was changed.
        self.is_edited = False
        self._replies = 0  # before they were edited
        #: Octets that the client's system took, and how many of them the server saw.
        self.taken = 0
        self.seen = 0
        #: All that the client wrote, and its system took.
        self.written = bytearray()
        #: Octets of the last write that its system did not take.
        self.unsent = 0
        self.is_aborted = False
        #: True once the client waited for what could never come, though nothing was cut.
        self.is_starved = False
        self._say(server.greeting())

    def _say(self, octets: bytes) -> None:
        if self._edit is None:
            self.said += octets
            return
        for reply in as_replies(octets):
            edited = self._edit(self._replies, reply)
            self.said += edited
            self.is_edited |= edited != reply
            self._replies += 1

    # What the client does

    def push(self, octets: bytes) -> int:
        """Write; return how many octets were taken, which may be none.

        Raises:
            ConnectionLost: nothing can be written any more.
        """
        assert not self.is_aborted, "written after the end"
        cut = self._cut
        room = len(octets)
        if cut is not None and not cut.is_taken:
            if self._seen_limit is not None:
                room = min(room, self._seen_limit - self.taken)
                if room <= 0 and cut.end is End.RST:
                    raise ConnectionLost("connection reset")
            elif self.is_cut:
                if cut.end is End.RST:
                    raise ConnectionLost("connection reset")
                room = 0
        if self._stall is not None and self.taken < self._stall:
            room = min(room, self._stall - self.taken)
        piece = octets[:room]
        self.written += piece
        self.taken += room
        if self._seen_limit is not None:
            piece = piece[: max(0, self._seen_limit - self.seen)]
        self.seen += len(piece)
        if piece and not self.server.closing:
            self._say(self.server.feed(piece))
        return room

    @property
    def is_cut(self) -> bool:
        """True once the client read, or wrote, all that it could."""
        if self._read_limit is not None:
            return self.heard >= self._read_limit
        return self._seen_limit is not None and self.seen >= self._seen_limit

    @property
    def is_stalled(self) -> bool:
        """True if the write that was not taken would be, a moment later."""
        return self._cut is None

    def look(self) -> bytes | None:
        """Return what can be read without waiting; b"": the end; None: nothing."""
        assert not self.is_aborted, "read after the end"
        end = len(self.said) if self._read_limit is None else min(len(self.said), self._read_limit)
        if self._is_slow:
            end = min(end, self._horizon)
        if self.heard < end:
            octets = bytes(self.said[self.heard : end])
            self.heard = end
            return octets
        if self._has_ended and self._cut is not None:
            return b"" if self._cut.is_visible and self._cut.end is End.EOF else None
        return b"" if self.server.closing and self.heard == len(self.said) else None

    def read(self) -> bytes:
        """Wait until there is something to read, and return it; b"": the end.

        Raises:
            ConnectionLost: the connection was reset.
            SMTPTimeout: nothing will ever come.
        """
        octets = self.look()
        if octets is None and self._is_slow:
            self._move_horizon()
            octets = self.look()
        if octets is not None:
            return octets
        if not self._has_ended:
            self.is_starved = True
            raise SMTPTimeout("time was up")
        assert self._cut is not None
        if self._cut.end is End.RST:
            raise ConnectionLost("connection reset")
        if self._cut.end is End.SILENCE:
            raise SMTPTimeout("time was up")
        return b""

    def _move_horizon(self) -> None:
        if self._step:
            self._horizon = min(self.heard + self._step, len(self.said))
        else:
            self._horizon = next((split for split in self._splits if split > self.heard), len(self.said))

    @property
    def _has_ended(self) -> bool:
        if self._read_limit is not None:
            return self.heard >= self._read_limit
        return self._seen_limit is not None and self.seen >= self._seen_limit and self.heard == len(self.said)

    def begin_tls(self) -> None:
        """Do as if there had been a handshake on both sides."""
        assert self.server.begins_tls
        self.server.tls_established()

    def abort(self) -> None:
        """Read and write no more."""
        self.is_aborted = True
