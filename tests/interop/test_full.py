"""smtplite against a Postfix at its process limit: connections beyond it are accepted, and greeted by nobody (R26)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import anyio
import pytest

from smtplite import Outgoing

from .conftest import Launch
from .launcher import Postfix, Service
from .messages import SENDER, nasty_message, new_message_id

pytestmark = pytest.mark.interop

MESSAGES = 200
RECIPIENT = "anyone@example.test"


class FullPostfix(Postfix):
    """Postfix with few processes. Services: by how many there are."""

    name = "Postfix at its process limit"
    services: ClassVar[Mapping[str, Service]] = {"two": Service(), "three": Service()}
    processes: ClassVar[Mapping[str, int]] = {"two": 2, "three": 3}

    def options(self) -> dict[str, str]:
        return dict.fromkeys(self.services, "")


@pytest.fixture
def full(launch: Launch) -> FullPostfix:
    server = launch(FullPostfix)
    assert isinstance(server, FullPostfix)
    return server


@pytest.mark.parametrize("service", FullPostfix.services)
@pytest.mark.asyncio
async def test_a_stream_of_a_default_client_loses_nothing(full: FullPostfix, service: str) -> None:
    """R26."""
    items = [
        Outgoing(nasty_message(message_id), SENDER, recipients=RECIPIENT, tag=message_id)
        for message_id in (new_message_id() for _ in range(MESSAGES))
    ]
    async with full.client(service) as client, client.send_many(items) as deliveries:
        errors = [delivery.error async for delivery in deliveries if delivery.error is not None]
    assert errors == []
    stored = full.stored_of([item.tag for item in items])
    assert {len(copies) for copies in stored.values()} == {1}


@pytest.mark.parametrize("service", FullPostfix.services)
@pytest.mark.asyncio
async def test_many_senders_of_a_default_client_lose_nothing(full: FullPostfix, service: str) -> None:
    """R26."""
    message_ids = [new_message_id() for _ in range(MESSAGES)]
    complete: list[bool] = []
    async with full.client(service) as client, anyio.create_task_group() as tasks:

        async def send(message_id: str) -> None:
            receipt = await client.send(nasty_message(message_id), sender=SENDER, recipients=RECIPIENT)
            complete.append(receipt.complete)

        for message_id in message_ids:
            tasks.start_soon(send, message_id)
    assert complete == [True] * MESSAGES
    stored = full.stored_of(message_ids)
    assert {len(copies) for copies in stored.values()} == {1}
