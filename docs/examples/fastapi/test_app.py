"""The example as its users see it: over HTTP, with the messages landing in a real SMTP server."""

import asyncio
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from asgi_lifespan import LifespanManager

from smtplite import ConfigurationError
from smtplite.testing import ServerExtensions, SMTPServer, ThreadedServer

from . import app as example
from .app import app, mail_client

HERE = Path(__file__).parent
GRACE, ALAN, NOBODY = "grace@example.net", "alan@example.net", "nobody@example.net"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedServer]:
    with SMTPServer().in_thread() as server:
        monkeypatch.setenv("SMTP_URL", server.url)
        yield server
        assert not server.violations


@asynccontextmanager
async def running() -> AsyncIterator[httpx.AsyncClient]:
    """Run the application in this process, its lifespan too, and give a way to call it."""
    async with asyncio.timeout(60), LifespanManager(app) as manager:
        transport = httpx.ASGITransport(app=manager.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            yield http


async def invite(http: httpx.AsyncClient, *to: str, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await http.post("/invitations", json={"to": to, "event": "Tea"}, headers=headers)


def outcomes(response: httpx.Response) -> dict[str, str]:
    return {address: result["outcome"] for address, result in response.json()["recipients"].items()}


@pytest.mark.asyncio
async def test_the_schema_names_what_each_status_says() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        schema = (await http.get("/openapi.json")).json()
    assert {"200", "422", "502", "503", "504"} <= set(schema["paths"]["/invitations"]["post"]["responses"])


# Sent in the request


@pytest.mark.asyncio
async def test_accepted_is_200_and_the_message_is_at_the_server(server: ThreadedServer) -> None:
    async with running() as http:
        response = await invite(http, GRACE, ALAN)
    assert response.status_code == 200
    assert outcomes(response) == {GRACE: "accepted", ALAN: "accepted"}
    [message] = server.messages
    assert message.sender == "team@example.org"
    assert message.recipients == (GRACE, ALAN)
    assert message.as_email()["Subject"] == "Invitation: Tea"
    assert message.as_email()["Message-ID"] == response.json()["message_id"]


@pytest.mark.asyncio
async def test_accepted_for_some_is_200_and_each_refusal_has_its_reply(server: ThreadedServer) -> None:
    server.reply("RCPT", "550 5.1.1 no such user", to=NOBODY)
    async with running() as http:
        response = await invite(http, GRACE, NOBODY)
    assert response.status_code == 200
    assert response.json()["recipients"] == {
        GRACE: {"outcome": "accepted", "reply": None},
        NOBODY: {"outcome": "refused", "reply": "550 5.1.1 no such user"},
    }
    assert server.messages[0].recipients == (GRACE,)


@pytest.mark.parametrize(
    ("verb", "reply", "status", "outcome", "again"),
    [
        ("RCPT", "550 5.1.1 no such user", 422, "refused", False),
        ("RCPT", "450 4.2.1 mailbox busy", 503, "refused", True),
        ("END_OF_DATA", "554 5.7.1 spam", 422, "refused", False),
        ("END_OF_DATA", "451 4.3.0 try again later", 503, "refused", True),
        ("MAIL", "550 5.7.1 not you", 502, "refused", False),
        ("MAIL", "451 4.3.0 try again later", 503, "refused", True),
        ("GREETING", "554 5.3.2 no service here", 502, "not sent", False),
        ("GREETING", "421 4.3.2 shutting down", 503, "not sent", True),
    ],
)
@pytest.mark.asyncio
async def test_a_refusal_says_whose_turn_it_is(
    server: ThreadedServer, verb: str, reply: str, status: int, outcome: str, again: bool
) -> None:
    server.reply(verb, reply)
    async with running() as http:
        response = await invite(http, GRACE)
    assert response.status_code == status
    assert outcomes(response) == {GRACE: outcome}
    assert response.json()["recipients"][GRACE]["reply"] == (reply if outcome == "refused" else None)
    assert response.json()["again"] is again
    assert ("Retry-After" in response.headers) is again
    assert server.messages == []


@pytest.mark.asyncio
async def test_a_lost_verdict_is_504_and_the_same_key_gives_the_same_message_id(server: ThreadedServer) -> None:
    server.reply("END_OF_DATA", b"", performs=True, close=True, times=1)
    async with running() as http:
        unknown = await invite(http, GRACE, key="order 17")
        again = await invite(http, GRACE, key="order 17")
        other = await invite(http, GRACE, key="order 18")
    assert unknown.status_code == 504
    assert outcomes(unknown) == {GRACE: "unknown"}
    assert unknown.json()["again"] is False
    assert (again.status_code, other.status_code) == (200, 200)
    ids = [message.as_email()["Message-ID"] for message in server.messages]
    assert ids[0] == ids[1] == unknown.json()["message_id"] == again.json()["message_id"]
    assert ids[2] not in ids[:2]


@pytest.mark.parametrize(
    "body",
    [
        {"to": ["grace@example.net, alan@example.net"], "event": "Tea"},
        {"to": ["grace@example.net\r\nRCPT TO:<alan@example.net>"], "event": "Tea"},
        {"to": ["Grace <grace@example.net>"], "event": "Tea"},
        {"to": ["grace"], "event": "Tea"},
        {"to": [], "event": "Tea"},
        {"to": [GRACE] * 21, "event": "Tea"},
        {"to": [GRACE], "event": "Tea\r\nBcc: alan@example.net"},
        {"to": [GRACE], "event": ""},
    ],
)
@pytest.mark.asyncio
async def test_what_cannot_be_sent_is_422_before_anything_is_opened(
    server: ThreadedServer, body: dict[str, object]
) -> None:
    async with running() as http:
        response = await http.post("/invitations", json=body)
    assert response.status_code == 422
    [fault] = response.json()["detail"]
    assert fault["loc"][:2] in (["body", "to"], ["body", "event"])
    assert server.connections == []


@pytest.mark.asyncio
async def test_what_the_server_cannot_take_is_422(monkeypatch: pytest.MonkeyPatch) -> None:
    with SMTPServer(extensions=ServerExtensions(smtputf8=False)).in_thread() as server:
        monkeypatch.setenv("SMTP_URL", server.url)
        async with running() as http:
            response = await invite(http, "grâce@example.net")
    assert response.status_code == 422
    assert outcomes(response) == {"grâce@example.net": "not sent"}
    assert "SMTPUTF8" in response.json()["reason"]


@pytest.mark.asyncio
async def test_requests_share_the_connections_of_one_client(
    server: ThreadedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_URL", f"{server.url}&max_connections=3")
    async with running() as http:
        responses = await asyncio.gather(*(invite(http, f"{number}@example.net") for number in range(30)))
    assert {response.status_code for response in responses} == {200}
    assert sorted(message.recipients[0] for message in server.messages) == sorted(f"{n}@example.net" for n in range(30))
    assert 1 <= len(server.connections) <= 3
    # Closed in good order, with the application
    assert all(connection.received.endswith(b"QUIT\r\n") for connection in server.connections)


# The mail server is down


@pytest.mark.asyncio
async def test_it_boots_while_the_mail_server_is_down_and_sends_when_it_is_up(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path_factory.mktemp("smtp") / "s"
    monkeypatch.setenv("SMTP_URL", f"smtp+unix://{path}")
    async with running() as http:
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/health/mail")).status_code == 503
        down = await invite(http, GRACE)
        assert down.status_code == 503
        assert outcomes(down) == {GRACE: "not sent"}
        assert down.json()["again"] is True
        assert down.headers["Retry-After"] == "60"

        async with SMTPServer(socket_path=path) as server:
            assert (await http.get("/health/mail")).status_code == 200
            assert (await invite(http, GRACE)).status_code == 200
            assert [message.recipients for message in server.messages] == [(GRACE,)]


@pytest.mark.asyncio
async def test_a_server_without_tls_where_tls_is_required_is_502_and_gets_no_mail(
    server: ThreadedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_URL", f"smtp://{server.host}:{server.port}")
    async with running() as http:
        response = await invite(http, GRACE)
        assert (await http.get("/health/mail")).status_code == 502
    assert response.status_code == 502
    assert outcomes(response) == {GRACE: "not sent"}
    assert b"MAIL" not in b"".join(connection.received for connection in server.connections)


@pytest.mark.asyncio
async def test_a_server_that_does_not_answer_in_time_is_503(
    server: ThreadedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "REQUEST_SECONDS", 0.3)
    server.hold("RCPT")
    async with running() as http:
        response = await invite(http, GRACE)
    assert response.status_code == 503
    assert outcomes(response) == {GRACE: "not sent"}
    assert server.messages == []


@pytest.mark.asyncio
async def test_a_wrong_url_keeps_it_from_starting_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_URL", "http://me:secret@mail.example")
    with pytest.raises(ConfigurationError, match=r"^URL begins with none of smtp://") as caught:
        async with running():
            pass
    assert "secret" not in str(caught.value)


# Sent in the background


@pytest.mark.asyncio
async def test_a_background_message_is_202_and_sent(server: ThreadedServer) -> None:
    async with running() as http:
        response = await http.post("/sign-ups", json={"address": GRACE})
        [message] = await server.wait_for_messages_async(1)
    assert response.status_code == 202
    assert message.recipients == (GRACE,)
    assert message.as_email()["Message-ID"] == response.json()["message_id"]


@pytest.mark.parametrize(
    ("reply", "performs", "said"),
    [("554 5.7.1 spam", False, "was not delivered: .*554 5.7.1 spam"), (b"", True, "may have arrived, or not")],
    ids=["refused", "unknown"],
)
@pytest.mark.asyncio
async def test_a_background_failure_is_202_and_logged_with_its_message_id(
    server: ThreadedServer, caplog: pytest.LogCaptureFixture, reply: str | bytes, performs: bool, said: str
) -> None:
    server.reply("END_OF_DATA", reply, performs=performs, close=True)
    with caplog.at_level(logging.ERROR, "mail"):
        async with running() as http:
            response = await http.post("/sign-ups", json={"address": GRACE})
    assert response.status_code == 202
    [record] = [record for record in caplog.records if record.name == "mail"]
    assert re.fullmatch(f"{re.escape(response.json()['message_id'])} {said}.*", record.getMessage())
    assert len(server.messages) == performs


# In tests of one's own: no lifespan, no socket


@pytest.mark.asyncio
async def test_the_client_can_be_replaced_by_one_in_memory() -> None:
    server = SMTPServer()
    async with server.client() as client:
        app.dependency_overrides[mail_client] = lambda: client
        try:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                response = await invite(http, GRACE)
        finally:
            del app.dependency_overrides[mail_client]
    assert response.status_code == 200
    assert server.messages[0].recipients == (GRACE,)


# A real process, by the line of the page


def command() -> list[str]:
    """Return the line of README.md that starts the application, at a free port."""
    [line] = re.findall(r"^(?:\w+=\S+ )*(uvicorn .+)$", (HERE / "README.md").read_text("utf-8"), re.MULTILINE)
    return [sys.executable, "-m", *shlex.split(line), "--port", "0"]


async def port_of(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    said = []
    async with asyncio.timeout(60):
        async for line in process.stderr:
            said.append(line.decode())
            found = re.search(r"running on http://127\.0\.0\.1:(\d+)", said[-1])
            if found:
                return int(found[1])
    raise AssertionError("".join(said))


@pytest.mark.asyncio
async def test_a_process_answers_before_it_sends_and_ends_after_it_has_sent(server: ThreadedServer) -> None:
    held = server.hold("END_OF_DATA", to=ALAN)
    process = await asyncio.create_subprocess_exec(
        *command(),
        cwd=HERE.parents[2],
        env={**os.environ, "SMTP_URL": server.url},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{await port_of(process)}", trust_env=False) as http:
            assert (await invite(http, GRACE)).status_code == 200
            response = await http.post("/sign-ups", json={"address": ALAN})
        assert response.status_code == 202
        held.wait(timeout=60)  # the application is another process: it goes on meanwhile
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        async with asyncio.timeout(60):
            async for line in process.stderr:
                if b"background tasks" in line:
                    break
        assert process.returncode is None
        held.release()
        async with asyncio.timeout(60):
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert [message.recipients for message in server.messages] == [(GRACE,), (ALAN,)]
    assert server.connections[-1].received.endswith(b"QUIT\r\n")
