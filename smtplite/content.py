"""The content of a message on its way out: octets in wire form, whole or piece by piece.

What the caller gives as octets is checked and brought into wire form here (RFC 5321 2.3.8, 4.5.3.1.6): every line
ending is CRLF, no line is over 998 octets, no NUL, no Bcc field, no bare CR where it could hide something. Nothing is
added to it, and nothing of any size is ever held or worked on in one go.
"""

from __future__ import annotations

import inspect
import os
import re
import stat
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeVar, TypeVarTuple

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs

from smtplite.errors import MessageError, SMTPError
from smtplite.protocol.transparency import Normalizer, normalize

__all__ = [
    "MAX_HEADER_SECTION_BYTES",
    "MAX_TEXT_LINE_BYTES",
    "PIECE_BYTES",
    "WHOLE_BYTES",
    "Body",
    "Content",
    "ContentBody",
    "ContentChecker",
    "ContentReader",
    "OctetBody",
    "check_header_section",
    "check_text",
    "eight_bit_field",
    "ends_within",
    "header_section",
    "in_thread",
    "wire_form",
]

#: A line of the content, without its CRLF (RFC 5321 4.5.3.1.6, RFC 5322 2.1.1).
MAX_TEXT_LINE_BYTES: Final = 998
#: The header section of content that comes as octets: it is read, and held, before anything is sent.
MAX_HEADER_SECTION_BYTES: Final = 1_048_576

#: Content up to this size goes in one write with its end of data.
WHOLE_BYTES: Final = 65_536
#: Larger content goes in pieces of this size: what the CPU's caches hold, and what one encoding step may take.
PIECE_BYTES: Final = 131_072

#: What one look into a file brings.
_READ_BYTES: Final = 1_048_576
#: Work on octets at hand for so long, then let others run: about a millisecond.
_TURN_BYTES: Final = 1_048_576
#: Small chunks of a stream are gathered up to WHOLE_BYTES, but not for longer than this.
_GATHER_SECONDS: Final = 1.0
#: Worker threads of one event loop. Our own, because those of anyio may all be waiting for us to send.
_THREADS: Final = 8

_END_OF_HEADER: Final = re.compile(rb"(?:\A|\n)\r?\n")
_BARE_CR: Final = re.compile(rb"\r(?!\n)")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_BCC_FIELD: Final = re.compile(rb"^(?:resent-)?bcc[ \t]*:", re.IGNORECASE | re.MULTILINE)
_DKIM_FIELD: Final = re.compile(rb"^dkim-signature[ \t]*:", re.IGNORECASE | re.MULTILINE)

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
Octets = bytes | bytearray | memoryview

_limiters: Final = anyio.lowlevel.RunVar[anyio.CapacityLimiter]("smtplite threads")


async def in_thread(function: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
    """Call a function in a worker thread. It is not cancelled: what it does should take a moment only."""
    try:
        limiter = _limiters.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_THREADS)
        _limiters.set(limiter)
    return await anyio.to_thread.run_sync(function, *arguments, limiter=limiter)


# What a session sends


class Body(Protocol):
    """The content of one transaction, checked: line endings CRLF, dots not yet doubled."""

    @property
    def size(self) -> int | None:
        """Its octets on the wire before dots are doubled, or None if that is not known before it was read."""

    @property
    def whole(self) -> bytes | None:
        """All of it, if it is at hand and no more than WHOLE_BYTES."""

    @property
    def is_binary(self) -> bool:
        """True if it must go octet for octet: with BDAT, never with DATA (RFC 3030 3)."""

    @property
    def is_repeatable(self) -> bool:
        """False if `pieces` can be called but once."""

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Return it from its beginning, in pieces of at most PIECE_BYTES, none of them empty.

        A piece does not end between CR and LF. Close the generator when no more is wanted (`contextlib.aclosing`).

        Raises:
            SMTPError: (the generator) what was read cannot be sent: MessageError, or ExtensionRequired. Or whatever
                the caller's own stream raises. What was sent so far must be left without its end.
        """


@attrs.frozen(eq=False)
class OctetBody:
    """Content that is at hand as octets, checked and in wire form."""

    octets: bytes = attrs.field(repr=False)
    is_binary: bool = attrs.field(default=False, kw_only=True)
    is_repeatable = True

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
        for piece in _cut(self.octets):
            yield piece


def _cut(octets: Octets) -> Iterator[bytes]:
    """Yield the octets in pieces, none of which ends between CR and LF."""
    if isinstance(octets, bytes) and len(octets) <= PIECE_BYTES:
        if octets:
            yield octets
        return
    view = memoryview(octets)
    begun = 0
    while begun < len(view):
        end = begun + PIECE_BYTES
        if end < len(view) and view[end - 1] == 0x0D:
            end -= 1
        yield bytes(view[begun:end])
        begun = end


# What is checked


def header_section(octets: Octets) -> bytes:
    """Return the header section of a message, the empty line behind it included.

    Raises:
        MessageError: it does not end within MAX_HEADER_SECTION_BYTES.
    """
    size = _usual_end(octets) if type(octets) is bytes else -1
    if size < 0:
        end = _END_OF_HEADER.search(octets, 0, MAX_HEADER_SECTION_BYTES + 1)
        size = len(octets) if end is None else end.end()
    if size > MAX_HEADER_SECTION_BYTES:
        raise _header_too_long()
    return bytes(octets[:size])


def _usual_end(octets: bytes) -> int:
    """Return where the header section ends, if that is with CRLF CRLF; -1: who knows. Faster than the pattern."""
    end = octets.find(b"\r\n\r\n", 0, MAX_HEADER_SECTION_BYTES)
    if end < 0 or octets.startswith((b"\n", b"\r\n")):
        return -1
    is_first = octets.find(b"\n\n", 0, end) < 0 and octets.find(b"\n\r\n", 0, end + 2) < 0
    return end + 4 if is_first else -1


def ends_within(octets: Octets, size: int) -> bool:
    """Return True if the header section of a message ends within so many octets."""
    return len(octets) <= size or _END_OF_HEADER.search(octets, 0, size) is not None


def _header_too_long() -> MessageError:
    return MessageError(
        f"message has a header section of more than {MAX_HEADER_SECTION_BYTES} octets: does an empty line end it?"
    )


def check_header_section(header: bytes, *, is_binary: bool = False) -> bool:
    """Check the header section of content that is sent as it is; return True if it has a DKIM-Signature.

    Args:
        header: up to the empty line and with it.
        is_binary: it is sent octet for octet.

    Raises:
        MessageError: it has a bare CR, or a Bcc field; if `is_binary`, also for what would be mended elsewhere.
    """
    if header.count(b"\r") != header.count(b"\r\n"):
        raise MessageError("message has a bare CR in its header section: it could hide a header from some servers")
    lowered = header.lower()  # the patterns take several times as long as looking for their words
    if b"bcc" in lowered and _BCC_FIELD.search(header):
        raise MessageError("message has a Bcc field: remove it, and name its recipients in recipients=")
    if is_binary:
        if _BARE_LF.search(header):
            raise MessageError("message has a bare LF in its header section, which BINARYMIME leaves there: use CRLF")
        check_text(header)
    return b"dkim-signature" in lowered and _DKIM_FIELD.search(header) is not None


def wire_form(content: bytes, *, is_signed: bool) -> bytes:
    """Return all of a message with each of its line endings as CRLF.

    Raises:
        MessageError: it `is_signed`, and has a bare CR, which cannot be sent unchanged.
    """
    if is_signed and _BARE_CR.search(content):
        raise _signed_with_bare_cr()
    return normalize(content)


def check_text(content: bytes) -> bool:
    """Refuse what no server may get as text, whatever it offers; return True if all of it is ASCII.

    Args:
        content: all of it, line endings CRLF.

    Raises:
        MessageError: it holds a NUL, or a line of more than MAX_TEXT_LINE_BYTES.
    """
    lines = _LineLengths()
    if len(content) <= PIECE_BYTES:
        lines.check(content)
        return _check_octets(content)
    is_ascii = True
    for piece in _cut(content):
        is_ascii = _check_octets(piece) and is_ascii
        lines.check(piece)
    return is_ascii


def _check_octets(piece: bytes) -> bool:
    if b"\0" in piece:
        raise MessageError("message holds a NUL octet")
    return piece.isascii()


class _LineLengths:
    """Refuses a line that is too long, wherever the text is cut; but not between CR and LF."""

    def __init__(self) -> None:
        self._unfinished = 0  # octets of the line that has not ended yet

    def check(self, text: bytes) -> None:
        start = -self._unfinished
        length = len(text)
        while length - start > MAX_TEXT_LINE_BYTES:
            # Every line that ends inside this window is short enough: one look for each thousand octets.
            end = text.rfind(b"\n", max(start, 0), start + MAX_TEXT_LINE_BYTES + 2)
            if end < 0:
                raise MessageError(f"message has a line of more than {MAX_TEXT_LINE_BYTES} octets: encode it")
            start = end + 1
        last = text.rfind(b"\n", max(start, 0))
        self._unfinished = length - start if last < 0 else length - last - 1


def eight_bit_field(header: bytes) -> str | None:
    """Return which field of a header section needs SMTPUTF8, for people; None: none does."""
    if header.isascii():
        return None
    name = b""
    for line in header.split(b"\n"):
        if not line.startswith((b" ", b"\t")):
            name = line.partition(b":")[0]
        if not line.isascii():
            break
    return f"header {name.decode('utf-8', 'replace')[:80]}"


class ContentChecker:
    """Octets of a message in, their wire form out, checked as they pass: the same however they are cut into chunks.

    Nothing comes out before the header section is complete.

    Args:
        is_binary: octet for octet; the header section alone is checked.
        size: what the wire form must come to; None: anything.
        size_error: what to say where it does not.
    """

    def __init__(self, *, is_binary: bool = False, size: int | None = None, size_error: str = "") -> None:
        self._is_binary = is_binary
        self._wanted = size
        self._size_error = size_error
        self._normalizer = Normalizer()
        self._lines = _LineLengths()
        self._begun = bytearray()  # of the header section
        self._is_signed = False
        self._ends_with_cr = False
        self._eight_bit_error: Callable[[], SMTPError] | None = None
        self._limit: tuple[int, Callable[[], SMTPError]] | None = None
        #: The header section, with its empty line, as it was read; None until it is complete.
        self.header: bytes | None = None
        #: Octets that came out.
        self.size = 0
        #: True if none of them was above 127.
        self.is_ascii = True
        #: True if they came out as they went in.
        self.is_clean = True
        #: True if what came out is empty, or ends with a line end.
        self.ends_line = True

    def forbid_eight_bit(self, error: Callable[[], SMTPError]) -> None:
        """Raise this error at the first octet above 127; at once, if there was one."""
        self._eight_bit_error = error
        if not self.is_ascii:
            raise error()

    def forbid_more(self, limit: int, error: Callable[[], SMTPError]) -> None:
        """Raise this error where more than so many octets would come out; at once, if they have."""
        self._limit = limit, error
        if self.size > limit:
            raise error()

    def encode(self, chunk: bytes) -> bytes:
        """Return the wire form of a chunk, so far as it is complete.

        Raises:
            MessageError: it cannot be sent.
        """
        if self.header is None:
            scanned = len(self._begun)
            self._begun += chunk
            end = _END_OF_HEADER.search(self._begun, max(0, scanned - 2))
            if (len(self._begun) if end is None else end.end()) > MAX_HEADER_SECTION_BYTES:
                raise _header_too_long()
            if end is None:
                return b""
            chunk = self._end_header(end.end())
        return self._pass(chunk)

    def finish(self) -> bytes:
        """Return what is left, once there is no more.

        Raises:
            MessageError: what there was cannot be sent.
        """
        data = b"" if self.header is not None else self._pass(self._end_header(len(self._begun)))
        if self._ends_with_cr and self._is_signed:
            raise _signed_with_bare_cr()
        if self._wanted is not None and self.size != self._wanted:
            raise self._wrong_size()
        return data

    def _end_header(self, size: int) -> bytes:
        octets = bytes(self._begun)
        self._begun = bytearray()
        self.header = octets[:size]
        self._is_signed = check_header_section(self.header, is_binary=self._is_binary) and not self._is_binary
        return octets

    def _pass(self, chunk: bytes) -> bytes:
        data = chunk
        if not self._is_binary:
            if self._is_signed:
                self._check_signed(chunk)
            data = self._normalizer.encode(chunk)
            self.is_clean = self.is_clean and data is chunk
        if not data:
            return data
        if not self._is_binary:
            if not _check_octets(data):
                self.is_ascii = False
                if self._eight_bit_error is not None:
                    raise self._eight_bit_error()
            self._lines.check(data)
            self.ends_line = data[-1] == 0x0A
        self.size += len(data)
        if self._wanted is not None and self.size > self._wanted:
            raise self._wrong_size()
        if self._limit is not None and self.size > self._limit[0]:
            raise self._limit[1]()
        return data

    def _check_signed(self, chunk: bytes) -> None:
        if chunk:
            is_bare = self._ends_with_cr and chunk[0] != 0x0A
            self._ends_with_cr = chunk[-1] == 0x0D
            if is_bare or (b"\r" in chunk and _BARE_CR.search(chunk, 0, len(chunk) - self._ends_with_cr)):
                raise _signed_with_bare_cr()

    def _wrong_size(self) -> MessageError:
        more = "more than " if self.size > (self._wanted or 0) else ""
        return MessageError(f"{self._size_error}: it has {more}{min(self.size, self._wanted or 0)} octets")


def _signed_with_bare_cr() -> MessageError:
    return MessageError("message is signed (DKIM-Signature) and has a bare CR, which cannot be sent unchanged")


# Where content comes from


class _Source(Protocol):
    @property
    def is_repeatable(self) -> bool: ...

    @property
    def size(self) -> int | None: ...

    @property
    def unchanging(self) -> bytes | None: ...

    def chunks(self) -> AsyncGenerator[Octets, None]: ...


def _flat(octets: Octets) -> Octets:
    """Return the same octets as something that is indexed by octets."""
    if isinstance(octets, (bytes, bytearray)):
        return octets
    return octets.cast("B") if octets.c_contiguous else octets.tobytes()


@attrs.frozen
class _Octets:
    octets: Octets = attrs.field(repr=False)
    is_repeatable = True
    size = None

    @property
    def unchanging(self) -> bytes | None:
        return self.octets if isinstance(self.octets, bytes) else None

    async def chunks(self) -> AsyncGenerator[Octets, None]:
        yield _flat(self.octets)


def _open_without_waiting(path: str, flags: int) -> int:
    # A pipe that nobody writes into would keep the thread for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@attrs.frozen
class _Path:
    path: Path
    is_repeatable = True
    size = None
    unchanging = None

    async def chunks(self) -> AsyncGenerator[Octets, None]:
        file = await in_thread(self._open)
        try:
            while chunk := await in_thread(self._read, file):
                yield chunk
        finally:
            file.close()

    def _open(self) -> BinaryIO:
        try:
            file = open(self.path, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115 (closed by `chunks`)
        except (OSError, ValueError) as error:
            raise MessageError(f"content cannot be read: {error}") from error
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise MessageError(f"content {str(self.path)!r} is not a regular file: open it, and pass it to from_file")
        return file

    def _read(self, file: BinaryIO) -> bytes:
        try:
            return file.read(_READ_BYTES)
        except OSError as error:
            raise MessageError(f"content of {str(self.path)!r} cannot be read: {error}") from error


@attrs.frozen(eq=False)
class _File:
    file: Any
    start: int | None  # None: it cannot be read again
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)
    size = None
    unchanging = None
    _taken: list[bool] = attrs.field(factory=list, init=False, repr=False)

    @property
    def is_repeatable(self) -> bool:
        return self.start is not None

    async def chunks(self) -> AsyncGenerator[Octets, None]:
        if self.start is None:
            _take(self._taken)
        position = self.start
        while chunk := await in_thread(self._read, position):
            if position is not None:
                position += len(chunk)
            yield chunk

    def _read(self, position: int | None) -> bytes:
        try:
            with self._lock:  # others may be sending the same file: each reads where it was
                if position is not None:
                    self.file.seek(position)
                chunk = self.file.read(_READ_BYTES)
        except (OSError, ValueError) as error:
            raise MessageError(f"content cannot be read: {error}") from error
        if inspect.iscoroutine(chunk):
            chunk.close()
            raise _async_file()
        if isinstance(chunk, str):
            raise MessageError("the file gives text: open it in binary mode, as with open(path, 'rb')")
        if not isinstance(chunk, bytes):
            raise MessageError(f"the file gives no octets, but {type(chunk).__name__}")
        return chunk


@attrs.frozen(eq=False)
class _Stream:
    stream: AsyncIterable[Octets] = attrs.field(repr=False)
    size: int | None
    is_repeatable = False
    unchanging = None
    _taken: list[bool] = attrs.field(factory=list, init=False, repr=False)

    async def chunks(self) -> AsyncGenerator[Octets, None]:
        _take(self._taken)
        iterator = aiter(self.stream)
        gathered: list[bytes] = []
        gathered_bytes = 0
        since = 0.0
        try:
            async for chunk in iterator:
                if not isinstance(chunk, (bytes, bytearray, memoryview)):
                    raise MessageError(f"a chunk of the stream is bytes, not {type(chunk).__name__}")
                large = _flat(chunk)
                if len(large) < WHOLE_BYTES:
                    if not gathered:
                        since = anyio.current_time()
                    gathered.append(bytes(large))
                    gathered_bytes += len(large)
                    large = b""
                    if gathered_bytes < WHOLE_BYTES and anyio.current_time() - since < _GATHER_SECONDS:
                        continue
                if gathered:
                    yield b"".join(gathered)
                    gathered.clear()
                    gathered_bytes = 0
                if large:
                    yield large
            if gathered:
                yield b"".join(gathered)
        finally:
            if inspect.isasyncgen(iterator):
                await iterator.aclose()


def _async_file() -> MessageError:
    return MessageError("the file's read() is async: pass an async iterable of its octets to from_stream")


def _take(taken: list[bool]) -> None:
    if taken:
        raise MessageError("content can be read only once, and was: make a new Content for each message")
    taken.append(True)


def _check_source(_: object, __: object, source: _Source) -> None:
    if not isinstance(source, (_Octets, _Path, _File, _Stream)):
        raise MessageError("make a Content with from_bytes, from_path, from_file or from_stream")


@attrs.frozen
class Content:
    """The octets of a message, header section and all, to send in place of a message object.

    They are sent as they are, but for their line endings: nothing is added, no header is read for addresses, so that
    sender and recipients must be given. They are never held in memory as a whole, nor copied. Make one with
    `from_bytes`, `from_path`, `from_file` or `from_stream`.
    """

    _source: _Source = attrs.field(validator=_check_source)

    @classmethod
    def from_bytes(cls, data: Octets) -> Content:
        """Return content that is at hand; it must not change until it was sent.

        Raises:
            MessageError: it is not bytes, bytearray or memoryview.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            hint = ": encode it" if isinstance(data, str) else ""
            raise MessageError(f"content is bytes, not {type(data).__name__}{hint}")
        return cls(_Octets(data))

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> Content:
        """Return the content of a file. It is read twice: checked before anything is sent, then sent.

        Raises:
            MessageError: it is no path. What is wrong with the file, sending says.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise MessageError(f"a path is a str or a pathlib.Path, not {type(path).__name__}")
        return cls(_Path(Path(path)))

    @classmethod
    def from_file(cls, file: BinaryIO) -> Content:
        """Return the content of an open binary file, from where it stands; leave it alone until it was sent.

        It is read in a worker thread, and twice if it can be: checked before anything is sent, then sent. It is not
        closed.

        Raises:
            MessageError: it cannot be read from.
        """
        if not callable(getattr(file, "read", None)):
            raise MessageError(f"a file has a method read(), which {type(file).__name__} has not")
        if inspect.iscoroutinefunction(file.read):
            raise _async_file()
        seekable = getattr(file, "seekable", None)
        try:
            start = file.tell() if seekable is not None and seekable() else None
        except (OSError, ValueError) as error:
            raise MessageError(f"content cannot be read: {error}") from error
        return cls(_File(file, start))

    @classmethod
    def from_stream(cls, stream: AsyncIterable[Octets], size: int | None = None) -> Content:
        """Return content that comes in chunks of any size. It can be sent once.

        What is wrong with it may be known only in the middle of sending: then nobody gets it.

        Args:
            stream: an async iterable of bytes. An exception that it raises is raised by what sends it.
            size: octets on the wire: what the stream comes to if its line endings are CRLF already. Lets the server
                refuse what is too large before it is sent; if it turns out wrong, nobody gets the message.

        Raises:
            MessageError: it is no async iterable, or the size is no number of octets.
        """
        if not isinstance(stream, AsyncIterable):
            raise MessageError(
                f"a stream is an async iterable of bytes, not {type(stream).__name__}: see from_bytes and from_file"
            )
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
            raise MessageError(f"size is a number of octets, not {size!r}")
        return cls(_Stream(stream, size))

    @property
    def is_repeatable(self) -> bool:
        """True if it can be read again: for a further transaction, or on another connection."""
        return self._source.is_repeatable

    def reader(self, *, is_binary: bool = False) -> ContentReader:
        """Return what reads it for one message."""
        return ContentReader(self._source, is_binary=is_binary)


class ContentReader:
    """Reads content for one message: `check` it first, then take a `body` for each transaction; `aclose` it at the end.

    What can be read again is read through by `check`, so that all that is wrong with it is known before anything is
    sent, and so are its size and whether it is 8-bit. Of what can be read only once, that goes for the header section.

    Args:
        source: where it comes from.
        is_binary: it is sent octet for octet.
    """

    def __init__(self, source: _Source, *, is_binary: bool = False) -> None:
        self._source = source
        self._is_binary = is_binary
        self._octets: bytes | None = None  # in wire form
        self._begun: tuple[ContentChecker, AsyncGenerator[bytes, None]] | None = None
        self._first = b""
        self.is_checked = False
        self.is_repeatable = source.is_repeatable
        #: Octets on the wire; None: not known.
        self.size = source.size
        #: None: not known.
        self.is_eight_bit: bool | None = None
        #: False if DATA will add a CRLF.
        self.ends_line = True
        #: The header section, with its empty line.
        self.header = b""

    async def check(self) -> None:
        """Read what can be read before anything is sent, and check it. Called again, it does nothing.

        Raises:
            MessageError: it cannot be sent. Or what the caller's own stream raises.
        """
        if self.is_checked:
            return
        if self.is_repeatable:
            await self._check_all()
        else:
            await self._check_header()
        self.is_checked = True

    async def _check_all(self) -> None:
        checker = ContentChecker(is_binary=self._is_binary)
        kept: list[bytes] | None = []
        turn = 0
        async with aclosing(self._read(checker)) as encoded:
            async for data in encoded:
                if kept is not None:
                    kept.append(data)
                    if checker.size > WHOLE_BYTES:
                        kept = None
                turn += len(data)
                if turn >= _TURN_BYTES:
                    turn = 0
                    await anyio.lowlevel.checkpoint()
        assert checker.header is not None
        self.header = checker.header
        self.size = checker.size
        self.is_eight_bit = not checker.is_ascii
        self.ends_line = checker.ends_line
        if checker.is_clean and self._source.unchanging is not None:
            self._octets = self._source.unchanging
        elif kept is not None:
            self._octets = b"".join(kept)

    async def _check_header(self) -> None:
        if self._is_binary and self.size is None:
            raise MessageError("content of unknown size cannot go in chunks, as BINARYMIME does: pass size=")
        checker = ContentChecker(
            is_binary=self._is_binary, size=self.size, size_error=f"content is not of the size= given, {self.size}"
        )
        encoded = self._read(checker)
        self._begun = checker, encoded
        self._first = await anext(encoded, b"")
        assert checker.header is not None
        self.header = checker.header
        if not checker.is_ascii:
            self.is_eight_bit = True

    def body(
        self,
        *,
        eight_bit_error: Callable[[], SMTPError] | None = None,
        limit: tuple[int, Callable[[], SMTPError]] | None = None,
    ) -> Body:
        """Return the body for one transaction.

        Args:
            eight_bit_error: what to raise at an octet above 127, if the transaction is one for 7-bit content.
            limit: how many octets the server takes, and what to raise where they are more.
        """
        assert self.is_checked
        if self._octets is not None:
            return OctetBody(self._octets, is_binary=self._is_binary)
        return ContentBody(self, eight_bit_error, limit, is_binary=self._is_binary)

    async def aclose(self) -> None:
        """Close a stream that was begun and is no longer wanted."""
        begun, self._begun = self._begun, None
        if begun is not None:
            await begun[1].aclose()

    async def encoded(
        self,
        eight_bit_error: Callable[[], SMTPError] | None,
        limit: tuple[int, Callable[[], SMTPError]] | None,
    ) -> AsyncGenerator[bytes, None]:
        """Read it, for one transaction; see `body`."""
        first = b""
        if self.is_repeatable:
            # Nothing of it is believed because it was checked before: files change.
            checker = ContentChecker(
                is_binary=self._is_binary, size=self.size, size_error="content changed since it was checked"
            )
            encoded = self._read(checker)
            if not self.is_eight_bit and not self._is_binary:
                eight_bit_error = _changed
        else:
            if self._begun is None:
                raise MessageError("content can be read only once, and was")
            (checker, encoded), self._begun = self._begun, None
            first, self._first = self._first, b""
        async with aclosing(encoded):
            if eight_bit_error is not None:
                checker.forbid_eight_bit(eight_bit_error)
            if limit is not None:
                checker.forbid_more(*limit)
            if first:
                yield first
            is_header_seen = not self.is_repeatable
            async for data in encoded:
                if not is_header_seen:
                    is_header_seen = True
                    if checker.header != self.header:
                        raise _changed()
                yield data

    async def _read(self, checker: ContentChecker) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._source.chunks()) as chunks:
            async for chunk in chunks:
                for piece in _cut(chunk):
                    if data := checker.encode(piece):
                        yield data
        if data := checker.finish():
            yield data


def _changed() -> MessageError:
    return MessageError("content changed since it was checked")


@attrs.frozen(eq=False)
class ContentBody:
    """Content that is read, checked and brought into wire form as it is sent."""

    _reader: ContentReader = attrs.field(repr=False)
    _eight_bit_error: Callable[[], SMTPError] | None
    _limit: tuple[int, Callable[[], SMTPError]] | None
    is_binary: bool = attrs.field(default=False, kw_only=True)
    whole = None

    @property
    def size(self) -> int | None:
        """Its octets on the wire, if they are known."""
        return self._reader.size

    @property
    def is_repeatable(self) -> bool:
        """False if it comes from a stream."""
        return self._reader.is_repeatable

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Return it in pieces."""
        async with aclosing(self._reader.encoded(self._eight_bit_error, self._limit)) as encoded:
            async for data in encoded:
                for piece in _cut(data):
                    yield piece
