"""Whole: a message whose commands were written in one group, as long as nobody asks for them.

When this way is entered and left, and what it holds, is described in `usual`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Final

from smtplite.protocol.commands import BdatLast, Command, Data, EndOfData, Mail, Rcpt, Rset
from smtplite.protocol.envelope import EnvelopeCommands
from smtplite.protocol.reply import Reply
from smtplite.protocol.usual import MAX_GROUP_COMMANDS, Group, group_of_kinds, usual_codes

__all__ = ["Owed", "Whole", "octets_of", "shape_of"]

_RESET: Final = Rset().to_bytes()
_DATA: Final = Data().to_bytes()


@lru_cache(maxsize=64)
def shape_of(recipients: int, *, has_chunk: bool, resets: bool) -> tuple[Group, Sequence[int]] | None:
    """Return what holds for the group of a message, and the codes of its usual replies; None: there is no such group.

    Args:
        recipients: how many RCPT commands it has.
        has_chunk: whether it ends with BDAT LAST; else with DATA.
        resets: whether it begins with RSET.
    """
    if recipients + 2 + resets > MAX_GROUP_COMMANDS:
        return None
    kinds: tuple[type[Command], ...] = (
        *((Rset,) if resets else ()),
        Mail,
        *(Rcpt,) * recipients,
        BdatLast if has_chunk else Data,
    )
    group, codes = group_of_kinds(kinds), usual_codes(kinds)
    return None if group is None or codes is None else (group, codes)


def octets_of(envelope: EnvelopeCommands, content: bytes | None, *, resets: bool) -> bytes:
    """Return what is written of a message: each command as it writes itself, then the chunk; or DATA in its place."""
    octets = [_RESET] if resets else []
    octets.append(Mail.line(envelope.sender.wire, envelope.parameters.wire))
    for path in envelope.recipients:
        octets.append(Rcpt.line(path.wire, b""))  # noqa: PERF401 (of one path, which nearly all have, it is the fastest)
    if content is None:
        octets.append(_DATA)
    else:
        octets.append(BdatLast.line(len(content)))
        octets.append(content)
    return b"".join(octets)


class Whole:
    """What was written of one message, and is owed its replies.

    Iterate over it for its commands, oldest first. They are made when that is first done, and stay the same.

    Args:
        envelope: what its MAIL and RCPT commands say.
        codes: of the usual replies, one for each command.
        size: of the chunk behind BDAT LAST, in bytes; None: its last command is DATA.
        content_end: where its last byte lies among all that the connection has sent; None: it was not sent yet.
    """

    __slots__ = "_commands", "_last", "codes", "content_end", "end_of_data", "envelope", "replies", "size"

    def __init__(
        self, envelope: EnvelopeCommands, codes: Sequence[int], *, size: int | None, content_end: int | None
    ) -> None:
        self.envelope = envelope
        self.codes = codes
        self.size = size
        self.content_end = content_end
        #: With DATA: the replies to the envelope, once all of them were read.
        self.replies: Sequence[Reply] | None = None
        self._commands: tuple[Command, ...] = ()
        self._last: BdatLast | Data | None = None
        #: Behind the content; None: it was not sent yet, or it went behind BDAT LAST.
        self.end_of_data: EndOfData | None = None

    @property
    def wants_content(self) -> bool:
        """True behind the 354 to DATA, until the content is sent."""
        return self.replies is not None and self.content_end is None

    def hand_over(self, end: EndOfData, content_end: int) -> None:
        """Say that all of the content was given away behind the 354, with this end."""
        self.end_of_data = end
        self.content_end = content_end

    @property
    def last_kind(self) -> type[Command]:
        """The class of its last command."""
        return Data if self.size is None else BdatLast

    @property
    def first_kind(self) -> type[Command]:
        """The class of its first command."""
        return Rset if self._resets else Mail

    @property
    def _resets(self) -> bool:
        return len(self.codes) > len(self.envelope.recipients) + 2

    @property
    def last(self) -> BdatLast | Data:
        """Its last command."""
        if self._last is None:
            self._last = Data() if self.size is None else BdatLast(self.size)
        return self._last

    @property
    def commands(self) -> tuple[Command, ...]:
        """RSET where there was one, MAIL, the RCPTs, and BDAT LAST or DATA."""
        if not self._commands:
            mail, rcpts = self.envelope.commands
            self._commands = (*((Rset(),) if self._resets else ()), mail, *rcpts, self.last)
        return self._commands

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[Command]:
        return iter(self.commands)


class Owed(deque[Command]):
    """The commands that are owed a reply, oldest first; and, in `wholes`, messages that stand behind all of them."""

    def __init__(self, commands: Iterable[Command] = ()) -> None:
        super().__init__(commands)
        self.wholes: deque[Whole] = deque()

    @property
    def everything(self) -> tuple[Command, ...]:
        """All of the commands."""
        return (*self, *chain.from_iterable(self.wholes))

    @property
    def total(self) -> int:
        """How many they are."""
        return len(self) + sum(map(len, self.wholes))

    @property
    def oldest(self) -> Command | None:
        """The command whose reply comes next."""
        if self:
            return self[0]
        return self.wholes[0].commands[0] if self.wholes else None

    @property
    def oldest_kind(self) -> type[Command] | None:
        """The class of the command whose reply comes next; that command need not be made for it."""
        if self:
            return type(self[0])
        return self.wholes[0].first_kind if self.wholes else None

    @property
    def newest_kind(self) -> type[Command] | None:
        """The class of the command whose reply comes last."""
        if self.wholes:
            return self.wholes[-1].last_kind
        return type(self[-1]) if self else None

    def unfold(self) -> None:
        """Make single commands of everything."""
        while self.wholes:
            self.extend(self.wholes.popleft())

    def unfold_oldest(self) -> None:
        """Make single commands of what comes next, if it is a message."""
        if not self and self.wholes:
            self.extend(self.wholes.popleft())

    def forget(self) -> None:
        """Forget them all: there will be no reply."""
        self.clear()
        self.wholes.clear()
