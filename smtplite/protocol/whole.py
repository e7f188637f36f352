"""Whole: a message whose envelope and content were written in one group, as long as nobody asks for its commands.

When this way is entered and left, and what it holds, is described in `usual`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Final

from smtplite.protocol.commands import BdatLast, Command, Mail, Rcpt, Rset
from smtplite.protocol.envelope import EnvelopeCommands
from smtplite.protocol.usual import MAX_GROUP_COMMANDS, Group, group_of_kinds, usual_codes

__all__ = ["Owed", "Whole", "octets_of", "shape_of"]

_RESET: Final = Rset().to_bytes()


@lru_cache(maxsize=64)
def shape_of(recipients: int, *, resets: bool) -> tuple[Group, Sequence[int]] | None:
    """Return what holds for the group of a message, and the codes of its usual replies; None: there is no such group.

    Args:
        recipients: how many RCPT commands it has.
        resets: whether it begins with RSET.
    """
    if recipients + 2 + resets > MAX_GROUP_COMMANDS:
        return None
    kinds: tuple[type[Command], ...] = (*((Rset,) if resets else ()), Mail, *(Rcpt,) * recipients, BdatLast)
    group, codes = group_of_kinds(kinds), usual_codes(kinds)
    return None if group is None or codes is None else (group, codes)


def octets_of(envelope: EnvelopeCommands, content: bytes, *, resets: bool) -> bytes:
    """Return what is written of a message: each command as it writes itself, then the chunk."""
    octets = [_RESET] if resets else []
    octets.append(Mail.line(envelope.sender.wire, envelope.parameters.wire))
    for path in envelope.recipients:
        octets.append(Rcpt.line(path.wire, b""))  # noqa: PERF401 (of one path, which nearly all have, it is the fastest)
    octets.append(BdatLast.line(len(content)))
    octets.append(content)
    return b"".join(octets)


class Whole:
    """What was written of one message, and is owed its replies.

    Iterate over it for its commands, oldest first. They are made when that is first done, and stay the same.

    Args:
        envelope: what its MAIL and RCPT commands say.
        size: of its content, in bytes.
        codes: of the usual replies, one for each command.
        content_end: where its last byte lies among all that the connection has sent.
    """

    __slots__ = "_commands", "_end", "codes", "content_end", "envelope", "size"

    def __init__(self, envelope: EnvelopeCommands, size: int, codes: Sequence[int], content_end: int) -> None:
        self.envelope = envelope
        self.size = size
        self.codes = codes
        self.content_end = content_end
        self._commands: tuple[Command, ...] = ()
        self._end: BdatLast | None = None

    @property
    def end(self) -> BdatLast:
        """The command whose reply is the verdict."""
        if self._end is None:
            self._end = BdatLast(self.size)
        return self._end

    @property
    def commands(self) -> tuple[Command, ...]:
        """RSET where there was one, MAIL, the RCPTs, and BDAT LAST."""
        if not self._commands:
            mail, rcpts = self.envelope.commands
            resets = (Rset(),) if len(self.codes) > len(rcpts) + 2 else ()
            self._commands = (*resets, mail, *rcpts, self.end)
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
    def newest_kind(self) -> type[Command] | None:
        """The class of the command whose reply comes last."""
        if self.wholes:
            return BdatLast
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
