"""Each server x each way to reach it x each mechanism x each way that a message travels x `send` and `send_many`."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

from smtplite import Outgoing

from .launcher import Server
from .matrix import (
    MODES,
    SERVERS,
    Dialogue,
    Ledger,
    check_travelled,
    claims,
    each_mode,
    each_service,
    each_way,
)
from .messages import SENDER, as_stored, nasty_message, new_message_id, simple_message
from .secure import SecureServer

pytestmark = pytest.mark.interop

ANYONE = "anyone@example.test"


@each_service()
@each_mode
@each_way
@pytest.mark.asyncio
async def test_what_is_said_of_each_message_is_what_the_mailboxes_hold(
    server: Server, service: str, mode: str, way: str
) -> None:
    """Over one connection: a message for several, one for nobody, one for some; and one more, as if nothing was."""
    nasty, refused, mixed, simple = (new_message_id() for _ in range(4))
    some = ["a@example.test", "reject550@example.test", "b@example.test", "defer@example.test"]
    items = {
        nasty: Outgoing(nasty_message(nasty), SENDER, recipients=["two@example.test", "one@example.test"]),
        refused: Outgoing(nasty_message(refused), SENDER, recipients=["reject550@example.test"]),
        mixed: Outgoing(nasty_message(mixed), SENDER, recipients=some),
        simple: Outgoing(simple_message(simple, ANYONE)),
    }
    dialogue = Dialogue()
    ledger = Ledger(server)
    async with server.client(service, trace=dialogue, max_connections=1, **MODES[mode]) as client:
        said = await claims(client, way, list(items.values()))
        extensions = (await client.check()).extensions
    for (message_id, item), claim in zip(items.items(), said, strict=True):
        assert isinstance(item.message, (bytes, EmailMessage))
        ledger.note(message_id, claim, server.as_kept(as_stored(item.message)))
    assert said[0].accepted == ("two@example.test", "one@example.test")
    assert said[1].codes == {"reject550@example.test": 550}
    assert said[2].accepted == ("a@example.test", "b@example.test")
    assert said[2].codes == {"reject550@example.test": 550, "defer@example.test": 451}
    assert said[3].accepted == (ANYONE,)
    ledger.check()
    check_travelled(dialogue, extensions, mode)


@pytest.mark.parametrize(
    ("server", "service", "name"),
    [
        pytest.param(server, name, mechanism, id=f"{server.__name__}-{name}-{mechanism}")
        for server in SERVERS
        if issubclass(server, SecureServer)
        for name, service in server.services.items()
        if service.authenticates and service.takes_everything
        for mechanism in server.mechanisms
    ],
    indirect=["server"],
)
@each_mode
@each_way
@pytest.mark.asyncio
async def test_who_is_authenticated_sends(server: SecureServer, service: str, name: str, mode: str, way: str) -> None:
    ids = [new_message_id() for _ in range(2)]
    items = [Outgoing(nasty_message(message_id), SENDER, recipients=[ANYONE]) for message_id in ids]
    dialogue = Dialogue()
    ledger = Ledger(server)
    async with server.client(service, auth=server.mechanism(name), trace=dialogue, **MODES[mode]) as client:
        said = await claims(client, way, items)
    for message_id, claim in zip(ids, said, strict=True):
        assert claim.accepted == (ANYONE,), f"{claim}\n{dialogue}"
        ledger.note(message_id, claim, as_stored(nasty_message(message_id)))
    ledger.check()
    assert [command.split()[1] for command in dialogue.commands if command.startswith("AUTH ")] == [name]
