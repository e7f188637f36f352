"""What `smtplite serve` caught: the newest messages, in memory or in a folder that survives a restart."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from smtplite.cli.parts import fields_of
from smtplite.cli.terminal import UserError
from smtplite.testing import Refusal, RefusedMessage, Violation

if TYPE_CHECKING:
    from smtplite.testing import ReceivedMessage

__all__ = ["DEFAULT_KEEP", "Caught", "Change", "Line", "Store"]

#: How many messages are kept by default.
DEFAULT_KEEP: Final = 5000
#: Of the content of messages that are only in memory. The newest is kept, however large it is.
MAX_MEMORY_BYTES: Final = 256 * 1024 * 1024
#: Of a subject, or of who is in From or To.
MAX_SHOWN_CHARS: Final = 300
#: Of a dialogue, and of violations and refusals: a session may have as many as it likes.
MAX_DIALOGUE_CHARS: Final = 50_000
MAX_NOTES: Final = 200

_ENVELOPES: Final = "envelopes.jsonl"
_START_BYTES: Final = 64 * 1024
#: The file of envelopes is written anew when it has so many more lines than there are messages.
_SPARE_LINES: Final = 1000

#: One line of a dialogue: whose ("C": the client's), and what was said.
Line = tuple[Literal["C", "S"], str]


@attrs.frozen(kw_only=True)
class Caught:
    """One message that was caught, without its content.

    Attributes:
        number: of the message, never used again in this store.
        time: when it came.
        sender: the reverse-path; empty: the null reverse-path; None: there was no MAIL.
        recipients: the forward-paths that were accepted.
        parameters: of MAIL.
        recipient_parameters: of each RCPT, in the order of `recipients`.
        subject: decoded and cut, as are `author` and `addressees`.
        author: the From field.
        addressees: the To field.
        size: of the content, in bytes.
        helo: what the client called itself.
        tls: its version; None: unencrypted.
        user: who authenticated; None: nobody.
        via: "DATA" or "BDAT".
        refusal: why it was refused as a whole; empty: it was accepted.
        refusals: everything that was refused on its way, such as a recipient.
        violations: where the client broke the protocol.
        dialogue: what was said, without the content.
    """

    number: int
    time: datetime
    sender: str | None
    recipients: tuple[str, ...]
    parameters: Mapping[str, str | None] = attrs.field(factory=dict)
    recipient_parameters: tuple[Mapping[str, str | None], ...] = ()
    subject: str = ""
    author: str = ""
    addressees: str = ""
    size: int = 0
    helo: str = ""
    tls: str | None = None
    user: str | None = None
    via: str = "DATA"
    refusal: str = ""
    refusals: tuple[Refusal, ...] = ()
    violations: tuple[Violation, ...] = ()
    dialogue: tuple[Line, ...] = ()


@attrs.frozen(kw_only=True)
class Change:
    """What was added to a store, and what was removed.

    Attributes:
        revision: of the store after it; each is one above the last.
        added: messages that came.
        removed: numbers of those that went.
    """

    revision: int
    added: tuple[Caught, ...] = ()
    removed: tuple[int, ...] = ()


class Store:
    """The newest messages, the oldest first.

    Args:
        keep: how many; None: 5,000, and the folder also keeps the others.
        folder: each message is a file there, byte for byte, and each envelope a line of JSON; None: in memory.

    Attributes:
        revision: counts the changes.
        folder: where the messages are; None: in memory.

    Raises:
        UserError: the folder cannot be used.
    """

    def __init__(self, *, keep: int | None = None, folder: Path | None = None) -> None:
        self.revision = 0
        self.folder = folder
        self._keep = DEFAULT_KEEP if keep is None else keep
        self._prunes = keep is not None
        self._caught: dict[int, Caught] = {}
        self._contents: dict[int, bytes] = {}
        self._bytes = 0
        self._lines = 0
        self._listeners: list[Callable[[Change], None]] = []
        self._number = 0
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._restore(folder)
            except OSError as error:
                raise UserError(f"cannot use {folder}: {error.strerror or error}") from None

    def __len__(self) -> int:
        return len(self._caught)

    def __iter__(self) -> Iterator[Caught]:
        return iter(tuple(self._caught.values()))

    def get(self, number: int) -> Caught | None:
        """Return a message without its content; None: it is not here, or not any more."""
        return self._caught.get(number)

    def content(self, number: int) -> bytes | None:
        """Return the bytes of a message; None: it is not here, or not any more. It may read a file."""
        caught = self._caught.get(number)
        if caught is None:
            return None
        if self.folder is None:
            return self._contents.get(number)
        try:
            return self._path(self.folder, caught).read_bytes()
        except OSError:  # somebody else removed it
            return None

    def path(self, caught: Caught) -> Path | None:
        """Return where a message is; None: in memory."""
        return None if self.folder is None else self._path(self.folder, caught)

    def listen(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Have a function called after each change; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def add(self, message: ReceivedMessage | RefusedMessage) -> Caught:
        """Keep a message, and forget the oldest if there are too many.

        Raises:
            OSError: it cannot be written; then it is not kept.
        """
        refused = message if isinstance(message, RefusedMessage) else None
        accepted = None if isinstance(message, RefusedMessage) else message
        caught = Caught(
            number=self._number + 1,
            time=datetime.now().astimezone(),
            sender=message.sender,
            recipients=tuple(message.recipients),
            parameters=dict(message.parameters),
            recipient_parameters=() if accepted is None else tuple(map(dict, accepted.recipient_parameters)),
            size=len(message.content),
            helo=message.helo,
            tls=message.tls,
            user=message.authenticated_as,
            via="DATA" if accepted is None else accepted.via,
            refusal="" if refused is None else str(refused.decisive),
            refusals=tuple(message.refusals[:MAX_NOTES]),
            violations=tuple(message.violations[:MAX_NOTES]),
            dialogue=tuple(_lines(message.dialogue)),
            **_shown(message.content),
        )
        self._number += 1
        if self.folder is None:
            self._contents[caught.number] = message.content
        else:
            self._write(self.folder, caught, message.content)
        self._caught[caught.number] = caught
        self._bytes += caught.size
        self._changed((caught,), self._forget_oldest())
        return caught

    def remove(self, numbers: Iterable[int]) -> tuple[int, ...]:
        """Delete messages and their files; return which were here.

        Raises:
            OSError: a file cannot be deleted; then the others may be gone.
        """
        removed = tuple(number for number in dict.fromkeys(numbers) if number in self._caught)
        gone: list[int] = []
        try:
            for number in removed:
                self._drop(number, deletes=True)
                gone.append(number)
        finally:
            if gone:
                self._changed((), tuple(gone))
        return removed

    # How it is bounded

    def _forget_oldest(self) -> tuple[int, ...]:
        removed = []
        while len(self._caught) > self._keep or (
            self.folder is None and self._bytes > MAX_MEMORY_BYTES and len(self._caught) > 1
        ):
            oldest = next(iter(self._caught))
            try:
                self._drop(oldest, deletes=self._prunes)
            except OSError:  # its file stays; the message that came is stored all the same, and must not be refused
                self._drop(oldest, deletes=False)
            removed.append(oldest)
        return tuple(removed)

    def _drop(self, number: int, *, deletes: bool) -> None:
        caught = self._caught[number]
        if self.folder is not None and deletes:
            self._path(self.folder, caught).unlink(missing_ok=True)
        del self._caught[number]
        self._contents.pop(number, None)
        self._bytes -= caught.size

    def _changed(self, added: tuple[Caught, ...], removed: tuple[int, ...]) -> None:
        self.revision += 1
        if self.folder is not None and self._prunes and self._lines > len(self._caught) + _SPARE_LINES:
            try:
                self._write_envelopes(self.folder)
            except OSError:  # a long file is no reason to refuse a message that is stored: tried again with the next
                pass
        change = Change(revision=self.revision, added=added, removed=removed)
        for listener in tuple(self._listeners):
            listener(change)

    # The folder

    def _path(self, folder: Path, caught: Caught) -> Path:
        """Return where a message is. One that was refused has a name that ``*[0-9].eml`` does not find."""
        return folder / f"{caught.number:06}{'.refused' if caught.refusal else ''}.eml"

    def _write(self, folder: Path, caught: Caught, content: bytes) -> None:
        path = self._path(folder, caught)
        try:
            with path.open("xb") as file:
                file.write(content)
            with (folder / _ENVELOPES).open("a", encoding="ascii") as file:
                file.write(json.dumps(self._envelope(folder, caught)) + "\n")
        except FileExistsError:
            raise
        except OSError:
            path.unlink(missing_ok=True)  # a message that was refused must not be found by the next run
            raise
        self._lines += 1

    def _envelope(self, folder: Path, caught: Caught) -> dict[str, Any]:
        more = {
            "parameters": caught.parameters,
            "recipient_parameters": caught.recipient_parameters if any(caught.recipient_parameters) else (),
            "via": "" if caught.via == "DATA" else caught.via,
            "refusal": caught.refusal,
            "refusals": [attrs.asdict(each) for each in caught.refusals],
            "violations": [
                {"text": str(each), "at": each.at, "number": each.number, "rfc": each.rfc} for each in caught.violations
            ],
            "dialogue": caught.dialogue,
        }
        return {
            "file": self._path(folder, caught).name,
            "time": caught.time.isoformat(timespec="seconds"),
            "sender": caught.sender,
            "recipients": list(caught.recipients),
            "helo": caught.helo,
            "tls": caught.tls,
            "user": caught.user,
            **{name: value for name, value in more.items() if value},
        }

    def _write_envelopes(self, folder: Path) -> None:
        """Write the file anew: a line for each message that is still here."""
        new = folder / f"{_ENVELOPES}.new"
        with new.open("w", encoding="ascii") as file:
            file.writelines(json.dumps(self._envelope(folder, each)) + "\n" for each in self._caught.values())
            if self._number not in self._caught:  # it is not given again, after a restart either
                file.write(json.dumps({"file": f"{self._number:06}.eml"}) + "\n")
        os.replace(new, folder / _ENVELOPES)
        self._lines = len(self._caught)

    def _restore(self, folder: Path) -> None:
        found: dict[int, Path] = {}
        for path in folder.glob("*.eml"):
            stem = path.name.removesuffix(".eml").removesuffix(".refused")
            if stem.isdecimal() and stem.isascii():
                found[int(stem)] = path
        envelopes = self._read_envelopes(folder)
        self._number = max([*found, *envelopes], default=0)
        numbers = sorted(found)
        for number in numbers[-self._keep :]:
            caught = _restored(number, found[number], envelopes.get(number, {}))
            self._caught[number] = caught
            self._bytes += caught.size
        if self._prunes:
            for number in numbers[: -self._keep]:
                found[number].unlink(missing_ok=True)

    def _read_envelopes(self, folder: Path) -> dict[int, dict[str, Any]]:
        envelopes: dict[int, dict[str, Any]] = {}
        try:
            with (folder / _ENVELOPES).open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    self._lines += 1
                    try:
                        envelope = json.loads(line)
                        number = int(envelope["file"].partition(".")[0])
                    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                        continue  # a line that was cut when the power failed: its message is listed all the same
                    envelopes[number] = envelope
        except FileNotFoundError:
            pass
        return envelopes


def _shown(content: bytes) -> dict[str, str]:
    """Return what is read of the header section only."""
    names = {"subject": "subject", "from": "author", "to": "addressees"}
    shown: dict[str, str] = {}
    for name, value in fields_of(content[:_START_BYTES]):
        attribute = names.get(name.lower())
        if attribute is not None:
            shown.setdefault(attribute, value[:MAX_SHOWN_CHARS])
    return shown


def _lines(dialogue: Sequence[tuple[Literal["C", "S"], bytes]]) -> Iterator[Line]:
    """Yield a dialogue as text, without its middle if it is long."""
    lines = [
        (who, said.rstrip(b"\r\n").replace(b"\r\n", b"\n").decode("utf-8", "backslashreplace"))
        for who, said in dialogue
    ]
    left = MAX_DIALOGUE_CHARS
    for index, (who, said) in enumerate(lines):
        left -= len(said) + 1
        if left < 0 and index < len(lines) - 1:
            yield "S", f"... {len(lines) - 1 - index:,} lines are left out ..."
            yield lines[-1]
            return
        yield who, said


def _restored(number: int, path: Path, envelope: Mapping[str, Any]) -> Caught:
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
        status = os.fstat(file.fileno())
    try:
        time = datetime.fromisoformat(envelope["time"]).astimezone()
    except (KeyError, TypeError, ValueError):  # no line, or not ours
        time = datetime.fromtimestamp(status.st_mtime).astimezone()
    return Caught(
        number=number,
        time=time,
        sender=_maybe(envelope, "sender"),
        recipients=tuple(map(str, _list(envelope, "recipients"))),
        parameters=_parameters(envelope.get("parameters")),
        recipient_parameters=tuple(map(_parameters, _list(envelope, "recipient_parameters"))),
        size=status.st_size,
        helo=_text(envelope, "helo"),
        tls=_maybe(envelope, "tls"),
        user=_maybe(envelope, "user"),
        via=_text(envelope, "via") or "DATA",
        refusal=_text(envelope, "refusal") or ("refused" if path.name.endswith(".refused.eml") else ""),
        refusals=tuple(
            Refusal(at=_text(each, "at"), reply=_text(each, "reply"), recipient=_maybe(each, "recipient"))
            for each in _list(envelope, "refusals")
            if isinstance(each, dict)
        ),
        violations=tuple(
            Violation(_text(each, "text"), at=_text(each, "at"), number=_number(each, "number"), rfc=_text(each, "rfc"))
            for each in _list(envelope, "violations")
            if isinstance(each, dict)
        ),
        dialogue=tuple(
            ("C" if line[0] == "C" else "S", str(line[1]))
            for line in _list(envelope, "dialogue")
            if isinstance(line, list) and len(line) == 2
        ),
        **_shown(start),
    )


def _maybe(envelope: Mapping[str, Any], name: str) -> str | None:
    value = envelope.get(name)
    return value if isinstance(value, str) else None


def _text(envelope: Mapping[str, Any], name: str) -> str:
    return _maybe(envelope, name) or ""


def _number(envelope: Mapping[str, Any], name: str) -> int:
    value = envelope.get(name)
    return value if isinstance(value, int) else 0


def _list(envelope: Mapping[str, Any], name: str) -> list[Any]:
    value = envelope.get(name)
    return value if isinstance(value, list) else []


def _parameters(value: object) -> dict[str, str | None]:
    if not isinstance(value, dict):
        return {}
    return {str(key): None if each is None else str(each) for key, each in value.items()}
