"""Live updates: each browser is told what changed, once and in order, and a stream ends with the server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from smtplite.cli.store import Store
from smtplite.cli.web import events as module
from smtplite.cli.web.app import Site, summary
from smtplite.cli.web.events import Events

from .conftest import received

pytestmark = pytest.mark.asyncio


async def next_of(stream: AsyncIterator[str]) -> tuple[str, Any]:
    lines = (await anext(stream)).splitlines()
    return lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))


async def test_what_changed_since_the_last_event_comes_in_one(store: Store) -> None:
    events = Events(store, summary)
    stream = events.stream()
    store.add(received())
    assert await next_of(stream) == ("hello", {"revision": 1, "messages": 1})
    for _ in range(3):
        store.add(received())
    store.remove([1, 3])
    name, change = await next_of(stream)
    assert name == "change"
    assert (change["revision"], change["removed"]) == (5, [1, 3])
    assert [each["number"] for each in change["added"]] == [2, 4]
    store.add(received())
    assert [each["number"] for each in (await next_of(stream))[1]["added"]] == [5]
    events.end()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_change_is_told_at_once(store: Store) -> None:
    """Nothing waits for a timer: when nobody has anything left to do but to wait, the change has been told."""
    told: list[str] = []

    async def hear() -> None:
        stream = Events(store, summary).stream()
        while True:
            told.append((await next_of(stream))[0])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hear)
        for number in range(3):
            await anyio.wait_all_tasks_blocked()
            assert told == ["hello"] + ["change"] * number
            store.add(received())
        await anyio.wait_all_tasks_blocked()
        assert told == ["hello"] + ["change"] * 3
        tasks.cancel_scope.cancel()


async def test_every_browser_is_told(store: Store) -> None:
    events = Events(store, summary)
    streams = [events.stream() for _ in range(3)]
    for stream in streams:
        await next_of(stream)
    assert len(events) == 3
    store.add(received())
    for stream in streams:
        assert (await next_of(stream))[1]["added"][0]["number"] == 1
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]  # a generator's
    assert len(events) == 0


async def test_a_browser_that_is_far_behind_reads_the_list_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BEHIND", 3)
    events = Events(store, summary)
    stream = events.stream()
    await next_of(stream)
    for _ in range(5):
        store.add(received())
    assert await next_of(stream) == ("reload", {"revision": 5})
    store.add(received())
    assert (await next_of(stream))[0] == "change"


async def test_a_silent_stream_says_that_it_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0)
    stream = Events(store, summary).stream()
    await next_of(stream)
    assert (await anext(stream)).startswith(": ")


async def test_a_stream_ends_when_the_server_does(store: Store) -> None:
    """Else a server would wait for its browsers, and they for it."""
    site = Site(store)
    sent: list[Any] = []
    said_hello = anyio.Event()
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/events",
        "raw_path": b"/api/v1/events",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
    }

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body"):
            said_hello.set()

    async def serve() -> None:
        await site.app(scope, receive, send)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await said_hello.wait()
        site.events.end()
    assert (b"content-type", b"text/event-stream; charset=utf-8") in sent[0]["headers"]
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    stream = site.events.stream()  # one that comes later ends at once
    await next_of(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
