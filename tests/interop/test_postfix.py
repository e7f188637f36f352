"""smtplite against Postfix: what it stores, and what the receipt says of it."""

from __future__ import annotations

import pytest

import smtplite
from smtplite import Client

from .launcher import HOST, Postfix
from .messages import SENDER, as_stored, nasty_message, new_message_id, simple_message

pytestmark = pytest.mark.interop


@pytest.mark.asyncio
async def test_an_email_message_is_stored_as_it_was_built(postfix: Postfix, port: int) -> None:
    message_id = new_message_id()
    message = simple_message(message_id, "anyone@example.test")
    async with Client(HOST, port, tls="none") as client:
        await client.send(message)
    assert [copy.content for copy in postfix.stored(message_id)] == [as_stored(message)]


@pytest.mark.asyncio
async def test_the_receipt_of_a_delivered_message_is_complete(postfix: Postfix, port: int) -> None:
    message_id = new_message_id()
    recipients = ("one@example.test", "two@example.test")
    async with Client(HOST, port, tls="none") as client:
        receipt = await client.send(simple_message(message_id, *recipients))
    assert receipt.complete
    assert receipt.accepted == recipients
    assert receipt.message_id == message_id


@pytest.mark.asyncio
async def test_nasty_bytes_are_stored_octet_for_octet(postfix: Postfix, port: int) -> None:
    message_id = new_message_id()
    message = nasty_message(message_id)
    async with Client(HOST, port, tls="none") as client:
        await client.send(message, sender=SENDER, recipients=["anyone@example.test"])
    assert [copy.content for copy in postfix.stored(message_id)] == [as_stored(message)]


@pytest.mark.asyncio
async def test_every_recipient_gets_one_copy(postfix: Postfix, port: int) -> None:
    message_id = new_message_id()
    recipients = [f"reader{number:02}@example.test" for number in range(50)]
    async with Client(HOST, port, tls="none") as client:
        await client.send(nasty_message(message_id), sender=SENDER, recipients=recipients)
    assert [copy.recipient for copy in postfix.stored(message_id)] == recipients


@pytest.mark.asyncio
async def test_refused_recipients_stand_in_the_receipt_with_their_replies(postfix: Postfix, port: int) -> None:
    recipients = ["reject550@example.test", "a@example.test", "defer@example.test", "reject452@example.test"]
    async with Client(HOST, port, tls="none") as client:
        receipt = await client.send(nasty_message(new_message_id()), sender=SENDER, recipients=recipients)
    assert {address: reply.code for address, reply in receipt.refused.items()} == {
        "reject550@example.test": 550,
        "defer@example.test": 451,
        "reject452@example.test": 452,
    }
    # Postfix quotes the address in its reply: so no reply stands beside another recipient.
    assert all(f"<{address}>" in reply.text for address, reply in receipt.refused.items())


@pytest.mark.asyncio
async def test_those_accepted_beside_refused_ones_get_one_copy_each(postfix: Postfix, port: int) -> None:
    message_id = new_message_id()
    message = nasty_message(message_id)
    recipients = ["reject550@example.test", "a@example.test", "defer@example.test", "b@example.test"]
    async with Client(HOST, port, tls="none") as client:
        receipt = await client.send(message, sender=SENDER, recipients=recipients)
    assert receipt.accepted == ("a@example.test", "b@example.test")
    stored = postfix.stored(message_id)
    assert [copy.recipient for copy in stored] == ["a@example.test", "b@example.test"]
    assert {copy.content for copy in stored} == {as_stored(message)}


@pytest.mark.asyncio
async def test_all_refused_raises_with_every_reply(postfix: Postfix, port: int) -> None:
    recipients = ["reject550@example.test", "defer@example.test"]
    async with Client(HOST, port, tls="none") as client:
        with pytest.raises(smtplite.RecipientsRefused) as caught:
            await client.send(nasty_message(new_message_id()), sender=SENDER, recipients=recipients)
    assert {address: reply.code for address, reply in caught.value.refused.items()} == {
        "reject550@example.test": 550,
        "defer@example.test": 451,
    }
    assert caught.value.delivered is False


@pytest.mark.asyncio
async def test_all_refused_stores_nothing(postfix: Postfix, port: int) -> None:
    message_id = new_message_id()
    async with Client(HOST, port, tls="none") as client:
        with pytest.raises(smtplite.RecipientsRefused):
            await client.send(nasty_message(message_id), sender=SENDER, recipients=["reject550@example.test"])
    assert postfix.stored(message_id) == []


@pytest.mark.asyncio
async def test_the_next_message_after_a_refusal_arrives(postfix: Postfix, port: int) -> None:
    message_id = new_message_id()
    message = nasty_message(message_id)
    async with Client(HOST, port, tls="none") as client:
        with pytest.raises(smtplite.RecipientsRefused):
            await client.send(nasty_message(new_message_id()), sender=SENDER, recipients=["reject550@example.test"])
        await client.send(message, sender=SENDER, recipients=["anyone@example.test"])
    assert [copy.content for copy in postfix.stored(message_id)] == [as_stored(message)]


@pytest.mark.asyncio
async def test_a_421_among_the_recipients_stores_nothing(postfix: Postfix, port: int) -> None:
    message_id = new_message_id()
    recipients = ["a@example.test", "disc421@example.test", "b@example.test"]
    async with Client(HOST, port, tls="none") as client:
        with pytest.raises(smtplite.ServiceUnavailable) as caught:
            await client.send(nasty_message(message_id), sender=SENDER, recipients=recipients)
    assert caught.value.delivered is False
    assert postfix.stored(message_id) == []


@pytest.mark.asyncio
async def test_a_bcc_recipient_gets_a_copy_that_does_not_tell(postfix: Postfix, port: int) -> None:
    message_id = new_message_id()
    message = simple_message(message_id, "open@example.test")
    without_bcc = as_stored(message)
    message["Bcc"] = "secret@example.test"
    async with Client(HOST, port, tls="none") as client:
        await client.send(message)
    stored = postfix.stored(message_id)
    assert [copy.recipient for copy in stored] == ["open@example.test", "secret@example.test"]
    assert {copy.content for copy in stored} == {without_bcc}
