"""The page of `smtplite serve --web`, asked without a socket."""

from __future__ import annotations

import email.policy
from collections.abc import AsyncIterator, Callable
from email.message import EmailMessage
from typing import Any

import attrs
import httpx
import pytest
import pytest_asyncio

from smtplite.cli.store import Store
from smtplite.cli.web.app import Site
from smtplite.testing import ReceivedMessage, Refusal, RefusedMessage, Violation

ORIGIN = "http://127.0.0.1:8025"
CHANGING = {"Origin": ORIGIN, "Content-Type": "application/json"}
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


def letter(subject: str = "Your invoice", text: str = "Dear Grace,\nsee https://example.org/i/7.\n") -> EmailMessage:
    message = EmailMessage(policy=email.policy.SMTP)
    message["Subject"] = subject
    message["From"] = "Ada Lovelace <ada@example.org>"
    message["To"] = "Grace Hopper <grace@example.net>"
    message.set_content(text)
    message.add_alternative(
        '<p>Dear <b>Grace</b>, <a href="https://example.org/pay?a=1&amp;b=2">pay</a> '
        '<a href="javascript:alert(1)">run</a> <img src="cid:logo@example.org"></p>\n',
        subtype="html",
    )
    html = message.get_payload()[1]  # type: ignore[index]  # a list, of a message with two bodies
    html.add_related(PIXEL, maintype="image", subtype="png", cid="<logo@example.org>")  # type: ignore[union-attr]  # likewise
    message.add_attachment(b"a,b\r\n", maintype="text", subtype="csv", filename="../../Rechnung für März.csv")
    return message


def received(message: EmailMessage | bytes | None = None, **changes: Any) -> ReceivedMessage:
    message = letter() if message is None else message
    content = message if isinstance(message, bytes) else message.as_bytes()
    plain = ReceivedMessage(
        sender="ada@example.org",
        recipients=("grace@example.net",),
        parameters={"SIZE": "7"},
        recipient_parameters=({"NOTIFY": "NEVER"},),
        content=content,
        helo="client.example",
        violations=(Violation("a line ended in a bare LF", at="CONTENT", rfc="RFC 5321 section 2.3.8"),),
        dialogue=(("S", b"220 mail.example.com\r\n"), ("C", b"EHLO client.example\r\n")),
    )
    return attrs.evolve(plain, **changes)


REFUSED = RefusedMessage(
    refusals=(Refusal(at="RCPT", reply="550 5.1.1 no such user", recipient="bob@example.net"),),
    sender="ada@example.org",
    helo="client.example",
)


@pytest.fixture
def store() -> Store:
    return Store()


Ask = Callable[..., httpx.AsyncClient]


@pytest_asyncio.fixture
async def ask(store: Store) -> AsyncIterator[Ask]:
    """Give a function that makes a client of the page; the arguments are those of Site."""
    clients: list[httpx.AsyncClient] = []

    def call(site: Site | None = None, **options: Any) -> httpx.AsyncClient:
        app: Any = (Site(store, **options) if site is None else site).app
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=ORIGIN)
        clients.append(client)
        return client

    yield call
    for client in clients:
        await client.aclose()
