"""The example as its users see it: fastapi-mail of PyPI, and the messages in a real SMTP server."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

import smtplite.compat.aiosmtplib
from smtplite.testing import SMTPServer

from . import app as example

# Where login fails, fastapi-mail leaves the connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

GRACE = "grace@example.net"


@asynccontextmanager
async def running(server: SMTPServer, tmp_path: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    base = example.config().model_copy(
        update={
            "MAIL_SERVER": server.host,
            "MAIL_PORT": server.port,
            "CERT_BUNDLE": str(server.write_ca(tmp_path / "ca.pem")),
            **settings,
        }
    )
    example.app.dependency_overrides[example.config] = lambda: base
    transport = httpx.ASGITransport(app=example.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http
    example.app.dependency_overrides.clear()


async def invite(http: httpx.AsyncClient, *to: str) -> httpx.Response:
    return await http.post("/invitations", json={"to": to, "event": "Tea"})


def test_fastapi_mail_has_smtplite_in_place_of_aiosmtplib() -> None:
    assert sys.modules["fastapi_mail.connection"].aiosmtplib is smtplite.compat.aiosmtplib
    assert sys.modules["fastapi_mail.config"].DEFAULT_TIMEOUT == 60
    code = "from app import app; import sys; print([n for n in sys.modules if n.split('.')[0] == 'aiosmtplib'])"
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:app", "-c", code],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "['aiosmtplib', 'aiosmtplib.api']\n"


@pytest.mark.asyncio
async def test_a_message_with_a_template_arrives(tmp_path: Path) -> None:
    async with SMTPServer() as server, running(server, tmp_path) as http:
        response = await invite(http, GRACE, "alan@example.net")
    assert response.status_code == 200
    [message] = server.messages
    assert (message.sender, message.recipients) == ("team@example.org", (GRACE, "alan@example.net"))
    parsed = message.as_email()
    assert parsed["Subject"] == "Invitation: Tea"
    assert "You are invited: Tea" in str(parsed.get_body(("html",)).get_content())
    assert not server.connections[0].violations
    assert server.connections[0].received.endswith(b"QUIT\r\n")


@pytest.mark.asyncio
async def test_a_password_travels_inside_tls(tmp_path: Path) -> None:
    users = {"me": "secret"}
    settings = {"USE_CREDENTIALS": True, "MAIL_USERNAME": "me", "MAIL_PASSWORD": SecretStr("secret")}
    async with SMTPServer(tls="starttls", users=users, require_auth=True) as server:
        async with running(server, tmp_path, MAIL_STARTTLS=True, **settings) as http:
            assert (await invite(http, GRACE)).status_code == 200
            settings["MAIL_PASSWORD"] = SecretStr("wrong-one")
        async with running(server, tmp_path, MAIL_STARTTLS=True, **settings) as http:
            refused = await invite(http, GRACE)
        assert refused.status_code == 503
        assert "535" in refused.json()["detail"]
        assert len(server.messages) == 1


@pytest.mark.asyncio
async def test_a_password_does_not_travel_without_tls(tmp_path: Path) -> None:
    settings = {"USE_CREDENTIALS": True, "MAIL_USERNAME": "me", "MAIL_PASSWORD": SecretStr("secret")}
    async with SMTPServer(users={"me": "secret"}, auth_in_clear=True) as server:
        async with running(server, tmp_path, **settings) as http:
            response = await invite(http, GRACE)
    assert response.status_code == 503
    assert "not sent unencrypted" in response.json()["detail"]
    assert b"AUTH" not in server.connections[0].received


@pytest.mark.asyncio
async def test_a_lost_verdict_is_504_and_is_not_sent_again(tmp_path: Path) -> None:
    async with SMTPServer() as server, running(server, tmp_path) as http:
        server.reply("END_OF_DATA", b"", performs=True, close=True)
        response = await invite(http, GRACE)
    assert response.status_code == 504
    assert len(server.messages) == 1


@pytest.mark.asyncio
async def test_a_server_that_takes_nothing_now_is_503(tmp_path: Path) -> None:
    async with SMTPServer() as server, running(server, tmp_path) as http:
        server.reply("GREETING", "421 4.3.2 shutting down")
        response = await invite(http, GRACE)
    assert response.status_code == 503
    assert "shutting down" in response.json()["detail"]
    assert server.messages == []
