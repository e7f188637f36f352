"""R27: no input costs more than linear time, and one that is slow to read costs nobody else.

The texts, what reads them, and how it is measured are in `linear`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from email.message import Message

import anyio
import anyio.to_thread
import pytest

from smtplite import Client, Content, MessageError
from smtplite.message import threads as threads_module
from smtplite.message.prepared import is_large, prepare
from smtplite.testing import SMTPServer
from tests.exhaustive import part

from .linear import SUBJECTS, TEXTS, Subject, assert_linear

PATIENCE_SECONDS = 20.0


@pytest.mark.parametrize("name", SUBJECTS)
def test_four_times_the_text_takes_no_more_than_linear_time(name: str) -> None:
    """R27: A part of the texts, another one for each subject; all of them with --exhaustive."""
    own = sum(map(ord, name)) % len(TEXTS)
    texts = [*list(TEXTS)[own:], *list(TEXTS)[:own]]
    for text in part(texts, keep=8):
        assert_linear(SUBJECTS[name], TEXTS[text])


def test_what_is_quadratic_is_found() -> None:
    """R27."""

    def read(text: str) -> int:
        return sum(text.count("b", at) for at in range(0, len(text), 8))

    with pytest.raises(AssertionError, match=r"quadratic: .* characters take"):
        assert_linear(Subject("quadratic", str, read), lambda size: "a" * size)


def test_a_line_that_is_too_long_is_found_before_any_field_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """R27: A parser that never sees a line of more than 998 bytes cannot take long over it."""

    def never(*arguments: object) -> None:
        raise AssertionError("a field was read")

    monkeypatch.setattr("smtplite.message.prepared._fields", never)
    monkeypatch.setattr("smtplite.message.prepared.envelope_fields", never)
    octets = b"From: " + b'"' * 100_000 + b"\r\nTo: c@d.example\r\n\r\nHi\r\n"
    with pytest.raises(MessageError, match=r"line of more than 998 bytes: line 1, 100006"):
        prepare(octets)


# Nobody waits for it


class Slow(Message):
    """A message object that takes for ever to read, in whatever thread reads it, until it is let go."""

    def __init__(self, released: threading.Event) -> None:
        super().__init__()
        self["From"], self["To"] = "slow@example.org", "x@example.net"
        self.set_payload("x" * 600_000)
        self.released = released
        self.is_being_read = threading.Event()

    def raw_items(self) -> Iterator[tuple[str, str]]:
        self.is_being_read.set()
        assert self.released.wait(PATIENCE_SECONDS * 3)
        return iter(super().raw_items())


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def large_message(sender: str) -> Message:
    message = Message()
    message["From"], message["To"] = sender, "y@example.net"
    message.set_payload("Hello.\n" * 80_000)
    assert is_large(message)
    return message


@pytest.mark.parametrize("count", [8, 20])
@pytest.mark.anyio
async def test_messages_that_are_slow_to_read_make_no_other_wait(count: int, released: threading.Event) -> None:
    """R27: Large ones as well, which are read in threads: what takes long there does not count among those in use."""
    slow = [Slow(released) for _ in range(count)]
    assert count >= threads_module._THREADS
    async with SMTPServer() as server, Client(server.host, server.port, tls="none") as client:
        async with anyio.create_task_group() as tasks:
            for message in slow:
                tasks.start_soon(client.send, message)
            for message in slow[: threads_module._THREADS]:
                assert await anyio.to_thread.run_sync(message.is_being_read.wait, PATIENCE_SECONDS)
            with anyio.fail_after(PATIENCE_SECONDS):
                await client.send(large_message("large@example.org"))
                await client.send(b"From: octets@example.org\r\nTo: y@example.net\r\n\r\nHi\r\n")
                await client.send(
                    Content.from_bytes(b"A: b\r\n\r\nHi\r\n"), sender="content@example.org", recipients="y@example.net"
                )
            assert [message.sender for message in server.messages] == [
                "large@example.org",
                "octets@example.org",
                "content@example.org",
            ]
            released.set()
    assert len(server.messages) == count + 3
