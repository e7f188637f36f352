"""Messages of every kind: what each server stores is what was handed in, octet for octet."""

from __future__ import annotations

import pytest

import smtplite
from smtplite.protocol.window import MAX_ONE_CHUNK_BYTES

from .launcher import Server
from .matrix import MODES, SERVERS, Dialogue, Ledger, claim, each_server, first_service, takes_chunks
from .messages import MESSAGES, SENDER, as_stored, new_message_id, raw_message, with_utf8_headers
from .others import DovecotLMTP
from .secure import SmtpServer

pytestmark = pytest.mark.interop

RECIPIENTS = ["one@example.test", "two@example.test"]

ONE_SERVICE_OF_EACH: list[tuple[type[Server], str]] = [
    *((server, first_service(server)) for server in SERVERS),
    (SmtpServer, "lmtp"),
]


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize(
    ("server", "service", "mode"),
    [
        pytest.param(server, service, mode, id=f"{server.__name__}-{service}-{mode}")
        for server, service in ONE_SERVICE_OF_EACH
        for mode in (("data", "bdat") if server.offers_chunking else ("data",))
    ],
    indirect=["server"],
)
@pytest.mark.asyncio
async def test_a_message_is_stored_as_it_was_handed_in(server: Server, service: str, kind: str, mode: str) -> None:
    message_id = new_message_id()
    message = MESSAGES[kind](message_id)
    needs_utf8 = MESSAGES[kind] is with_utf8_headers
    dialogue = Dialogue()
    async with server.client(service, trace=dialogue, **MODES[mode]) as client:
        said = await claim(client, message, sender=SENDER, recipients=RECIPIENTS)
        extensions = (await client.check()).extensions
    content = as_stored(message, utf8=needs_utf8)
    # Without SIZE nobody knows what a server does to a large chunk.
    fits_chunks = "SIZE" in extensions or len(content.replace(b"\n", b"\r\n")) <= MAX_ONE_CHUNK_BYTES
    in_chunks = mode == "bdat" and fits_chunks and takes_chunks(extensions)
    if not in_chunks and not content.endswith(b"\n"):
        content += b"\n"  # DATA cannot carry a last line that does not end
    ledger = Ledger(server)
    ledger.note(message_id, said, server.as_kept(content))
    if needs_utf8 and "SMTPUTF8" not in extensions:
        assert isinstance(said.error, smtplite.ExtensionRequired)
        assert said.error.keyword == "SMTPUTF8"
        assert "MAIL" not in dialogue.verbs
    else:
        assert said.accepted == tuple(RECIPIENTS), f"{said}\n{dialogue}"
        assert ("BDAT" in dialogue.verbs) == in_chunks
    ledger.check()


@each_server()
@pytest.mark.parametrize("body", [b"x" * 999 + b"\r\n", b"a NUL: \0\r\n"], ids=["a line of 999 octets", "a NUL octet"])
@pytest.mark.asyncio
async def test_what_no_server_may_get_is_refused_by_us(server: Server, service: str, body: bytes) -> None:
    message_id = new_message_id()
    dialogue = Dialogue()
    async with server.client(service, trace=dialogue) as client:
        said = await claim(client, raw_message(message_id, body), sender=SENDER, recipients=RECIPIENTS)
    assert isinstance(said.error, smtplite.MessageError)
    assert "MAIL" not in dialogue.verbs
    ledger = Ledger(server)
    ledger.note(message_id, said)
    ledger.check()


@each_server(lambda server: server is not DovecotLMTP)  # which says nothing of sizes
@pytest.mark.asyncio
async def test_a_message_over_the_size_offered_is_not_begun(server: Server, service: str) -> None:
    message_id = new_message_id()
    message = raw_message(message_id, (b"x" * 98 + b"\r\n") * 420_000)
    dialogue = Dialogue()
    async with server.client(service, trace=dialogue) as client:
        with pytest.raises(smtplite.ExtensionRequired) as caught:
            await client.send(message, sender=SENDER, recipients=RECIPIENTS)
    assert caught.value.keyword == "SIZE"
    assert "MAIL" not in dialogue.verbs
    assert server.stored(message_id) == []
