"""Prepared: a message that is read once, for several clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from email.message import EmailMessage

import pytest

from smtplite import Content, Envelope, MessageError, Outgoing, Recipient
from smtplite.message import Prepared
from smtplite.testing import ServerExtensions

from .relays import Relay, raw

pytestmark = pytest.mark.asyncio

TWO = ("x@example.net", "y@example.net")


async def test_two_clients_send_the_same_message() -> None:
    one, two = Relay(), Relay(server={"extensions": ServerExtensions(eight_bit_mime=False)})
    message = EmailMessage()
    message["From"], message["To"] = "a@example.org", ", ".join(TWO)
    message.set_content("caf\u00e9\n", cte="8bit")
    prepared = await Prepared.of(message)
    async with one.client as first, two.client as second:
        receipts = [await first.send(prepared), await second.send(prepared.only(["y@example.net"]))]
    assert receipts[0].message_id == receipts[1].message_id == prepared.message_id
    assert [receipt.accepted for receipt in receipts] == [TWO, ("y@example.net",)]
    assert one.server.messages[0].as_email()["Date"] == two.server.messages[0].as_email()["Date"]
    assert two.server.messages[0].content.isascii()


async def test_it_is_an_item_of_a_stream_too() -> None:
    one = Relay()
    items = [await Prepared.of(raw(number)) for number in range(3)]
    async with one.client as client, client.send_many(items) as deliveries:
        found = [delivery.item async for delivery in deliveries]
    assert set(map(id, found)) == set(map(id, items))
    assert len(one.names) == 3


async def test_a_part_has_those_recipients_and_their_parameters() -> None:
    envelope = Envelope("a@example.org", [Recipient(to, notify="NEVER") for to in (*TWO, "X <x@example.net>")])
    prepared = await Prepared.of(raw(), envelope=envelope)
    part = prepared.only(["y@example.net", "X <x@example.net>"])
    assert part.recipients == ("y@example.net", "X <x@example.net>")
    assert [recipient.address for recipient in part.envelope.recipients] == list(part.recipients)
    assert [recipient.notify for recipient in part.envelope.recipients] == ["NEVER"] * 2
    assert prepared.recipients == (*TWO, "X <x@example.net>")


async def test_its_content_can_be_read_by_other_means() -> None:
    assert await (await Prepared.of(raw(5).replace(b"\r\n", b"\n"))).read() == raw(5)
    large = raw(6, size=300_000)
    prepared = await Prepared.of(Content.from_bytes(large), sender="a@example.org", recipients="b@example.net")
    assert await prepared.read() == large
    assert prepared.is_whole


async def test_what_can_be_read_once_is_whole_until_some_of_it_was_taken() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield raw()

    prepared = await Prepared.of(Content.from_stream(pieces()), sender="a@example.org", recipients="b@example.net")
    assert prepared.is_whole
    assert await prepared.read() == raw()
    assert not prepared.is_whole
    with pytest.raises(MessageError, match="only once"):
        await prepared.read()


async def test_its_envelope_is_its_own() -> None:
    one = Relay()
    prepared = await Prepared.of(raw())
    async with one.client as client:
        with pytest.raises(MessageError, match="has its envelope"):
            await client.send(prepared, recipients="z@example.net")
        async with client.send_many([Outgoing(prepared, recipients="z@example.net")]) as deliveries:  # type: ignore[arg-type]  # on purpose
            [delivery] = [each async for each in deliveries]
    assert isinstance(delivery.error, MessageError)
    assert not one.names
