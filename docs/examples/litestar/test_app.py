"""The example over HTTP, with its lifespan, and the messages landing in a real SMTP server."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager

from smtplite.testing import SMTPServer, ThreadedServer

from .app import app

GRACE = "grace@example.net"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedServer]:
    with SMTPServer().in_thread() as server:
        monkeypatch.setenv("SMTP_URL", server.url)
        yield server
        assert not server.violations


@asynccontextmanager
async def running() -> AsyncIterator[httpx.AsyncClient]:
    application: Any = app  # Litestar has types of its own for ASGI
    async with asyncio.timeout(60), LifespanManager(application) as manager:
        transport = httpx.ASGITransport(app=manager.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            yield http


@pytest.mark.asyncio
async def test_accepted_is_200_over_one_connection_that_ends_with_the_application(server: ThreadedServer) -> None:
    async with running() as http:
        responses = [await http.post("/invitations", json={"address": GRACE}) for _ in range(3)]
    assert [response.status_code for response in responses] == [200, 200, 200]
    assert [message.recipients for message in server.messages] == [(GRACE,)] * 3
    ids = [message.as_email()["Message-ID"] for message in server.messages]
    assert ids == [response.json()["message_id"] for response in responses]
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
    assert response.status_code == status
    assert response.json()["outcome"] == outcome
    assert ("Retry-After" in response.headers) is (status == 503)
    assert server.messages == []


@pytest.mark.parametrize("body", ['{"address": "grace@example.net, alan@example.net"}', '{"address": 1}', "[]", "{"])
@pytest.mark.asyncio
async def test_what_is_no_address_is_refused_before_anything_is_opened(server: ThreadedServer, body: str) -> None:
    async with running() as http:
        response = await http.post("/invitations", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == (422 if "alan" in body else 400)
    if "alan" in body:
        assert response.json()["outcome"].startswith("not sent: address 'grace@example.net, alan@example.net' has")
    assert server.connections == []


@pytest.mark.asyncio
async def test_it_boots_while_the_mail_server_is_down_and_sends_when_it_is_up(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path_factory.mktemp("smtp") / "s"
    monkeypatch.setenv("SMTP_URL", f"smtp+unix://{path}")
    async with running() as http:
        down = await http.post("/invitations", json={"address": GRACE})
        async with SMTPServer(socket_path=path):
            up = await http.post("/invitations", json={"address": GRACE})
    assert (down.status_code, down.json()["outcome"]) == (503, "not sent")
    assert up.status_code == 200


@pytest.mark.asyncio
async def test_a_background_message_is_202_and_sent(server: ThreadedServer) -> None:
    async with running() as http:
        response = await http.post("/sign-ups", json={"address": GRACE})
        [message] = await server.wait_for_messages_async(1)
    assert response.status_code == 202
    assert message.recipients == (GRACE,)


@pytest.mark.parametrize(
    ("reply", "performs", "said"),
    [("554 5.7.1 spam", False, "was not delivered"), (b"", True, "may have arrived, or not")],
    ids=["refused", "unknown"],
)
@pytest.mark.asyncio
async def test_a_background_failure_is_202_and_logged(
    server: ThreadedServer, caplog: pytest.LogCaptureFixture, reply: str | bytes, performs: bool, said: str
) -> None:
    server.reply("END_OF_DATA", reply, performs=performs, close=True)
    with caplog.at_level(logging.ERROR, "mail"):
        async with running() as http:
            response = await http.post("/sign-ups", json={"address": GRACE})
    assert response.status_code == 202
    [record] = [record for record in caplog.records if record.name == "mail"]
    assert said in record.getMessage()
    assert len(server.messages) == performs
