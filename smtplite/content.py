"""The content of a message on its way out: octets in wire form, whole or piece by piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, Protocol

import attrs

__all__ = ["PIECE_BYTES", "WHOLE_BYTES", "Body", "OctetBody"]

#: Content up to this size goes in one write with its end of data.
WHOLE_BYTES: Final = 65_536
#: Larger content goes in pieces of this size: what the CPU's caches hold, and what one encoding step may take.
PIECE_BYTES: Final = 131_072


class Body(Protocol):
    """The content of one transaction, checked: line endings CRLF, dots not yet doubled."""

    @property
    def size(self) -> int | None:
        """Its octets on the wire before dots are doubled, or None if that is not known before it was read."""

    @property
    def whole(self) -> bytes | None:
        """All of it, if it is at hand and no more than WHOLE_BYTES."""

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Return it from its beginning, in pieces of at most PIECE_BYTES, none of them empty.

        Raises:
            MessageError: (the iterator) what was read cannot be sent.
        """


@attrs.frozen(eq=False)
class OctetBody:
    """Content that is at hand as octets."""

    octets: bytes = attrs.field(repr=False)

    @property
    def size(self) -> int:
        """Its octets."""
        return len(self.octets)

    @property
    def whole(self) -> bytes | None:
        """All of it, if it fits one write."""
        return self.octets if len(self.octets) <= WHOLE_BYTES else None

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Return it in pieces; no copy of the whole is made."""
        view = memoryview(self.octets)
        for begun in range(0, len(view), PIECE_BYTES):
            yield bytes(view[begun : begun + PIECE_BYTES])
