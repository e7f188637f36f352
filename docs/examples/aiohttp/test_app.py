"""The example over HTTP, from its start to its end, and the messages landing in a real SMTP server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from smtplite.testing import SMTPServer, ThreadedServer

from .app import create_app

GRACE = "grace@example.net"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedServer]:
    with SMTPServer().in_thread() as server:
        monkeypatch.setenv("SMTP_URL", server.url)
        yield server
        assert not server.violations


@asynccontextmanager
async def running() -> AsyncIterator[TestClient[Any, Any]]:
    async with asyncio.timeout(60), TestClient(TestServer(create_app())) as http:
        yield http


@pytest.mark.asyncio
async def test_accepted_is_200_over_one_connection_that_ends_with_the_application(server: ThreadedServer) -> None:
    async with running() as http:
        bodies = []
        for _ in range(3):
            response = await http.post("/invitations", json={"address": GRACE})
            assert response.status == 200
            bodies.append(await response.json())
    assert [message.recipients for message in server.messages] == [(GRACE,)] * 3
    ids = [message.as_email()["Message-ID"] for message in server.messages]
    assert ids == [body["message_id"] for body in bodies]
    [connection] = server.connections
    assert connection.received.endswith(b"QUIT\r\n")


@pytest.mark.parametrize(
    ("verb", "reply", "status", "outcome"),
    [
        ("RCPT", "550 5.1.1 no such user", 422, "refused: 550 5.1.1 no such user"),
        ("RCPT", "450 4.2.1 mailbox busy", 503, "refused: 450 4.2.1 mailbox busy"),
        ("MAIL", "550 5.7.1 not you", 502, "refused: 550 5.7.1 not you"),
        ("END_OF_DATA", b"", 504, "unknown"),
        ("RCPT", b"", 503, "not sent"),
    ],
)
@pytest.mark.asyncio
async def test_each_outcome_has_its_status(
    server: ThreadedServer, verb: str, reply: str | bytes, status: int, outcome: str
) -> None:
    server.reply(verb, reply, close=reply == b"")
    async with running() as http:
        response = await http.post("/invitations", json={"address": GRACE})
        body = await response.json()
    assert response.status == status
    assert body["outcome"] == outcome
    assert ("Retry-After" in response.headers) is (status == 503)
    assert server.messages == []


@pytest.mark.parametrize("body", ['{"address": "grace@example.net, alan@example.net"}', '{"address": 1}', "[]", "{"])
@pytest.mark.asyncio
async def test_what_is_no_address_is_refused_before_anything_is_opened(server: ThreadedServer, body: str) -> None:
    async with running() as http:
        response = await http.post("/invitations", data=body, headers={"Content-Type": "application/json"})
    assert response.status == 422
    assert server.connections == []


@pytest.mark.asyncio
async def test_it_starts_while_the_mail_server_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_URL", "smtp+unix:///nowhere/at/all")
    async with running() as http:
        response = await http.post("/invitations", json={"address": GRACE})
        body = await response.json()
    assert (response.status, body["outcome"]) == (503, "not sent")
