"""Search: words in the readable parts of a message, and in its envelope."""

from __future__ import annotations

import re
from typing import Final

import anyio
import anyio.to_thread
import attrs

from smtplite.cli.parts import read, text_of_markup
from smtplite.cli.store import Caught, Change, Store

__all__ = ["Index"]

#: Of each message's text.
MAX_INDEXED_CHARS: Final = 20_000
MAX_MARKUP_CHARS: Final = 500_000
MAX_QUERY_CHARS: Final = 500

_TERM: Final = re.compile(r'(?:(from|to|subject|is):|(?=\S))(?:"([^"]*)"|(\S*))', re.IGNORECASE)


@attrs.frozen
class _Term:
    field: str
    text: str

    def matches(self, caught: Caught, body: str) -> bool:
        if self.field == "from":
            return self.text in f"{caught.sender or ''}\n{caught.author}".casefold()
        if self.field == "to":
            return self.text in "\n".join((*caught.recipients, caught.addressees)).casefold()
        if self.field == "subject":
            return self.text in caught.subject.casefold()
        if self.field == "is":
            claims = {"refused": bool(caught.refusal), "violation": bool(caught.violations)}
            return not self.text or claims.get(self.text.removesuffix("s"), False)
        return self.text in body


class Index:
    """What can be found in the messages of a store.

    Args:
        store: what is searched.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._texts: dict[int, str] = {}
        self._wake = anyio.Event()
        self._limiter = anyio.CapacityLimiter(1)
        store.listen(self._changed)

    def __len__(self) -> int:
        """Return how many messages were read."""
        return len(self._texts)

    def _changed(self, change: Change) -> None:
        for number in change.removed:
            self._texts.pop(number, None)
        self._wake.set()

    async def run(self) -> None:
        """Read each message that comes, so that no search has to; until it is cancelled."""
        while True:
            self._wake = anyio.Event()
            for caught in reversed(tuple(self._store)):
                if caught.number not in self._texts and self._store.get(caught.number) is not None:
                    await anyio.to_thread.run_sync(self._text, caught, limiter=self._limiter, abandon_on_cancel=True)
            await self._wake.wait()

    async def find(self, query: str) -> list[Caught]:
        """Return the messages that hold all words of a query, the newest first.

        Args:
            query: words; "several of them"; from:, to:, subject: with a word; is:refused, is:violation.
        """
        terms = [
            _Term((match[1] or "").lower(), (match[2] if match[2] is not None else match[3]).casefold())
            for match in _TERM.finditer(query[:MAX_QUERY_CHARS])
        ]
        if not terms:
            return list(reversed(tuple(self._store)))
        return await anyio.to_thread.run_sync(self._find, terms, limiter=self._limiter, abandon_on_cancel=True)

    def _find(self, terms: list[_Term]) -> list[Caught]:
        return [
            caught
            for caught in reversed(tuple(self._store))
            if all(term.matches(caught, "" if term.field else self._text(caught)) for term in terms)
        ]

    def _text(self, caught: Caught) -> str:
        text = self._texts.get(caught.number)
        if text is not None:
            return text
        reading = read(self._store.content(caught.number) or b"")
        body = reading.text or text_of_markup((reading.markup or "")[:MAX_MARKUP_CHARS])
        shown = (
            caught.subject,
            caught.author,
            caught.addressees,
            caught.sender or "",
            *caught.recipients,
            *(each.name for each in reading.attachments),
            body,
        )
        text = "\n".join(shown)[:MAX_INDEXED_CHARS].casefold()
        if self._store.get(caught.number) is not None:  # it may have gone meanwhile
            self._texts[caught.number] = text
        return text
