"""Both shops over a real PostgreSQL: what is booked is sent by a worker, and what is not booked is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import django
import httpx
import psycopg
import pytest
from asgi_lifespan import LifespanManager
from django.conf import settings
from django.test import RequestFactory

from smtplite.testing import SMTPServer
from smtplite.worker import Worker
from smtplite.worker.postgres import PostgresSource
from tests.worker.engines import PostgresServer

SECONDS = 240


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    missing = PostgresServer.missing()
    if missing:
        pytest.fail(missing)
    with PostgresServer() as server:
        with psycopg.connect(server.info) as connection:
            connection.execute("CREATE TABLE shop_order (id serial PRIMARY KEY, buyer text, item text)")
        asyncio.run(install(server.info))
        yield server.info


async def install(info: str) -> None:
    async with PostgresSource(info) as source:
        await source.install()


async def sent(info: str) -> SMTPServer:
    """Return the server that a worker sent all of it to."""
    server = SMTPServer()
    async with PostgresSource(info) as source, server.client() as client, asyncio.timeout(SECONDS):
        worker = Worker(source, client)
        task = asyncio.create_task(worker.run())
        while any(lane.waiting + lane.leased + lane.later for lane in await source.status()):  # noqa: ASYNC110 (no event)
            await asyncio.sleep(0.05)
        worker.stop()
        await task
    return server


@pytest.mark.asyncio
async def test_fastapi(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from .shop_fastapi import app

    monkeypatch.setenv("DATABASE_URL", database)
    async with asyncio.timeout(SECONDS), LifespanManager(app) as manager:
        transport = httpx.ASGITransport(app=manager.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as browser:
            booked = await browser.post("/orders", json={"buyer": "grace@example.net", "item": "tea"})
            sold_out = await browser.post("/orders", json={"buyer": "alan@example.net", "item": "tea", "stock": 0})
    assert (booked.status_code, sold_out.status_code) == (201, 409)
    server = await sent(database)
    assert [message.recipients for message in server.messages] == [("grace@example.net",)]
    assert b"You ordered: tea." in server.messages[0].content


def test_django(database: str) -> None:
    host, user, name = (part.partition("=")[2] for part in database.split())
    engine: dict[str, Any] = {"ENGINE": "django.db.backends.postgresql", "HOST": host, "USER": user, "NAME": name}
    settings.configure(DATABASES={"default": engine}, SECRET_KEY="tests", ALLOWED_HOSTS=["*"])
    django.setup()
    from django.db import connection

    from .shop_django import place_order

    requests = RequestFactory()
    booked = place_order(requests.post("/", {"buyer": "grace@example.net", "item": "coffee"}))
    sold_out = place_order(requests.post("/", {"buyer": "alan@example.net", "item": "coffee", "stock": "0"}))
    connection.close()
    assert (booked.status_code, sold_out.status_code) == (201, 409)
    server = asyncio.run(sent(database))
    assert [message.recipients for message in server.messages] == [("grace@example.net",)]
    assert b"You ordered: coffee." in server.messages[0].content
