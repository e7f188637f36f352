"""The content of a message on its way out: bytes in wire form, whole or piece by piece.

What the caller passes as bytes is checked and brought into wire form here (RFC 5321 2.3.8, 4.5.3.1.6): every line
ending is CRLF, no line is over 998 bytes, no NUL, no Bcc field, no bare CR where it could hide something. Nothing is
added to it, and nothing large is ever held in memory, or worked on, all at once.
"""

from __future__ import annotations

import inspect
import os
import stat
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import anyio
import anyio.lowlevel
import attrs

from smtplite.errors import LocalProtocolError, MessageError, SMTPError
from smtplite.message.threads import in_thread
from smtplite.message.wire import ContentChecker, Octets, cut
from smtplite.system.files import AT_ONCE

__all__ = ["WHOLE_BYTES", "Body", "Content", "ContentBody", "ContentReader", "OctetBody"]


#: Content up to this size goes in one write with its end of data.
WHOLE_BYTES: Final = 65_536

#: How much is read from a file at once.
_READ_BYTES: Final = 1_048_576
#: Work on so many bytes that are at hand, then let others run: about a millisecond.
_TURN_BYTES: Final = 1_048_576
#: Small chunks of a stream are gathered up to WHOLE_BYTES, but not for longer than this.
_GATHER_SECONDS: Final = 1.0


# What a session sends


class Body(Protocol):
    """The content of one transaction, checked: line endings CRLF, dots not yet doubled."""

    @property
    def size(self) -> int | None:
        """Its bytes on the wire before dots are doubled; None if that is not known before it is read."""

    @property
    def whole(self) -> bytes | None:
        """All of it, if it is at hand and no more than WHOLE_BYTES."""

    @property
    def is_binary(self) -> bool:
        """True if it must be sent byte for byte: with BDAT, never with DATA (RFC 3030 3)."""

    @property
    def is_repeatable(self) -> bool:
        """False if `pieces` can be called only once."""

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Return it from its beginning, in pieces of at most PIECE_BYTES, none of them empty.

        A piece does not end between CR and LF. Close the generator when no more is wanted (`contextlib.aclosing`).

        Raises:
            SMTPError: (the generator) what was read cannot be sent: MessageError, or ExtensionRequired. Or whatever
                the caller's own stream raises. The end of data must then not be sent.
        """


@attrs.define(eq=False)
class OctetBody:
    """Content that is at hand as bytes, checked and in wire form."""

    octets: bytes = attrs.field(repr=False)
    is_binary: bool = attrs.field(default=False, kw_only=True)
    is_repeatable = True

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.octets)

    @property
    def whole(self) -> bytes | None:
        """All of it, if it fits one write."""
        return self.octets if len(self.octets) <= WHOLE_BYTES else None

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Return it in pieces; no copy of the whole is made."""
        for piece in cut(self.octets):
            yield piece


# What is checked


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
    """Return the same bytes as something that is indexed by bytes."""
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
    # A pipe that nobody writes to would keep the thread for ever.
    return os.open(path, flags | AT_ONCE)


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
            raise MessageError(f"the file must give bytes, not {type(chunk).__name__}")
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
                    raise MessageError(f"a chunk of the stream must be bytes, not {type(chunk).__name__}")
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
    return MessageError("the file's read() is async: pass an async iterable of its bytes to from_stream")


def _take(taken: list[bool]) -> None:
    if taken:
        raise MessageError("content can be read only once, and was: make a new Content for each message")
    taken.append(True)


def _check_source(_: object, __: object, source: _Source) -> None:
    if not isinstance(source, (_Octets, _Path, _File, _Stream)):
        raise MessageError("make a Content with from_bytes, from_path, from_file or from_stream")


@attrs.frozen
class Content:
    """The bytes of a message, header section included, to send instead of a message object.

    They are sent as they are, except for their line endings. Nothing is added, and no header is read for addresses, so
    you must pass sender and recipients. The bytes are never copied or held in memory as a whole. Make one with
    `from_bytes`, `from_path`, `from_file` or `from_stream`.
    """

    _source: _Source = attrs.field(validator=_check_source)

    @classmethod
    def from_bytes(cls, data: Octets) -> Content:
        """Return content that is at hand; it must not change until it has been sent.

        Raises:
            MessageError: it is not bytes, bytearray or memoryview.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            hint = ": encode it" if isinstance(data, str) else ""
            raise MessageError(f"content must be bytes, not {type(data).__name__}{hint}")
        return cls(_Octets(data))

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> Content:
        """Return the content of a file. It is read twice: checked before anything is sent, then sent.

        Raises:
            MessageError: it is not a path. What is wrong with the file is reported when it is sent.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise MessageError(f"a path must be a str or a pathlib.Path, not {type(path).__name__}")
        return cls(_Path(Path(path)))

    @classmethod
    def from_file(cls, file: BinaryIO) -> Content:
        """Return the content of an open binary file, from its position; do not use the file until it has been sent.

        It is read in a worker thread, and twice if it can be: checked before anything is sent, then sent. It is not
        closed.

        Raises:
            MessageError: it cannot be read from.
        """
        if not callable(getattr(file, "read", None)):
            raise MessageError(f"a file must have a read() method, and {type(file).__name__} has none")
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
            stream: an async iterable of bytes. If it raises an exception, `send` raises it too.
            size: bytes on the wire: the length of the stream, if its line endings are already CRLF. With it, the server
                can refuse what is too large before it is sent. If it turns out to be wrong, nobody gets the message.

        Raises:
            MessageError: it is not an async iterable, or the size is not a number of bytes.
        """
        if not isinstance(stream, AsyncIterable):
            raise MessageError(
                f"a stream must be an async iterable of bytes, not {type(stream).__name__}: see from_bytes and "
                "from_file"
            )
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
            raise MessageError(f"size must be a number of bytes, not {size!r}")
        return cls(_Stream(stream, size))

    @property
    def is_repeatable(self) -> bool:
        """True if it can be read again: for a further transaction, or on another connection."""
        return self._source.is_repeatable

    def reader(self, *, is_binary: bool = False, allows_long_lines: bool = False) -> ContentReader:
        """Return a reader of it, for one message."""
        return ContentReader(self._source, is_binary=is_binary, allows_long_lines=allows_long_lines)


class ContentReader:
    """Reads content for one message: `check` it first, then take a `body` for each transaction; `aclose` it at the end.

    `check` reads all of what can be read again. So everything that is wrong with it, its size, and whether it is 8-bit,
    is known before anything is sent. Of what can be read only once, `check` reads the header section.

    Args:
        source: where it comes from.
        is_binary: it is sent byte for byte.
        allows_long_lines: a line of it may be of any length.
    """

    def __init__(self, source: _Source, *, is_binary: bool = False, allows_long_lines: bool = False) -> None:
        self._source = source
        self._is_binary = is_binary
        self._allows_long_lines = allows_long_lines
        self._octets: bytes | None = None  # in wire form
        self._begun: tuple[ContentChecker, AsyncGenerator[bytes, None]] | None = None
        self._first = b""
        self.is_checked = False
        self.is_repeatable = source.is_repeatable
        #: Bytes on the wire; None: not known.
        self.size = source.size
        #: None: not known.
        self.is_eight_bit: bool | None = None
        #: False if DATA will add a CRLF.
        self.ends_line = True
        #: The header section, with its empty line.
        self.header = b""

    @property
    def is_whole(self) -> bool:
        """False once a part of it has been read to be sent, and it cannot be read again."""
        return self.is_repeatable or self._begun is not None or not self.is_checked

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

    def _checker(self, *, size: int | None = None, size_error: str = "") -> ContentChecker:
        return ContentChecker(
            is_binary=self._is_binary,
            allows_long_lines=self._allows_long_lines,
            size=size,
            size_error=size_error,
        )

    async def _check_all(self) -> None:
        checker = self._checker()
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
            raise MessageError("content of unknown size cannot be sent in chunks, as BINARYMIME needs: pass size=")
        checker = self._checker(
            size=self.size, size_error=f"content does not have the size= that was given, {self.size}"
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
            eight_bit_error: what to raise at a byte above 127, if the transaction is one for 7-bit content.
            limit: how many bytes the server accepts, and what to raise if there are more.
        """
        if not self.is_checked:
            raise LocalProtocolError("content must be checked before it is sent: await check()")
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
            # That it was checked before proves nothing: files change.
            checker = self._checker(size=self.size, size_error="content changed since it was checked")
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
                for piece in cut(chunk):
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
        """Its bytes on the wire, if they are known."""
        return self._reader.size

    @property
    def is_repeatable(self) -> bool:
        """False if it comes from a stream."""
        return self._reader.is_repeatable

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Return it in pieces."""
        async with aclosing(self._reader.encoded(self._eight_bit_error, self._limit)) as encoded:
            async for data in encoded:
                for piece in cut(data):
                    yield piece
