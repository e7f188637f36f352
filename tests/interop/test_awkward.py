"""What arrives is what was built (rule R32): awkward messages through real servers, read from their stores.

Each server is met as it is, and with 8BITMIME, SMTPUTF8 or both not offered.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import smtplite
from tests.message.test_headers import read_list, read_text

from .awkward import AWKWARD, Awkward
from .launcher import Postfix, Server
from .masked import masked_client
from .matrix import claim, show_difference
from .messages import SENDER, new_message_id
from .others import DovecotLMTP
from .reader import Part, read
from .secure import Exim

pytestmark = pytest.mark.interop

RECIPIENT = "anyone@example.test"
SERVICES: list[tuple[type[Server], str]] = [(Postfix, "smtp"), (Exim, "plain"), (DovecotLMTP, "lmtp")]
HIDDEN: list[tuple[str, ...]] = [(), ("SMTPUTF8",), ("8BITMIME",), ("8BITMIME", "SMTPUTF8")]

each_server_and_offer = pytest.mark.parametrize(
    ("server", "service", "hidden"),
    [
        pytest.param(server, service, hidden, id="-".join([server.__name__, *(f"no {each}" for each in hidden)]))
        for server, service in SERVICES
        for hidden in HIDDEN
    ],
    indirect=["server"],
)


def test_the_table_has_sixty() -> None:
    assert len(AWKWARD) >= 60


@each_server_and_offer
@pytest.mark.asyncio
async def test_r32_what_arrives_is_what_was_built(server: Server, service: str, hidden: tuple[str, ...]) -> None:
    client, sent = masked_client(server, service, hidden)
    accepted: dict[str, tuple[str, Awkward]] = {}
    wrong: list[str] = []
    async with client:
        offered = {keyword for keyword in ("8BITMIME", "SMTPUTF8") if keyword in (await client.check()).extensions}
        assert offered.isdisjoint(hidden)
        if "8BITMIME" not in offered:
            offered.discard("SMTPUTF8")  # which is nothing without it (RFC 6531 3.1)
        for name, make in AWKWARD.items():
            message_id = new_message_id()
            awkward = make(message_id)
            sent.clear()
            said = await claim(client, awkward.message, sender=SENDER, recipients=[RECIPIENT])
            lacking = awkward.needs - offered
            if not lacking:
                if said.accepted == (RECIPIENT,):
                    accepted[message_id] = name, awkward
                else:
                    wrong.append(f"{name}: {said}")
            elif not isinstance(said.error, smtplite.ExtensionRequired) or said.error.keyword not in lacking:
                wrong.append(f"{name}: it needs {lacking}, and nobody said so: {said}")
            if "8BITMIME" not in offered and not sent.isascii():
                wrong.append(f"{name}: octets beyond ASCII for a server without 8BITMIME")
    stored = server.stored_of(accepted)
    for message_id, (name, awkward) in accepted.items():
        copies = stored[message_id]
        if len(copies) != 1:
            wrong.append(f"{name}: {len(copies)} copies")
            continue
        try:
            content = copies[0].content
            compare(awkward, message_id, content, server, is_narrowed="8BITMIME" not in offered)
        except (AssertionError, KeyError, ValueError) as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}\n{content.decode(errors='backslashreplace')[:1500]}")
    assert not wrong, "\n".join(wrong)
    assert len(accepted) >= len(AWKWARD) - 6


def compare(awkward: Awkward, message_id: str, content: bytes, server: Server, *, is_narrowed: bool) -> None:
    """Compare what was stored with what was built."""
    if awkward.stored is not None and (awkward.stored.isascii() or not is_narrowed):
        kept = server.as_kept(awkward.stored)
        assert content == kept, show_difference(kept, content)
    if isinstance(awkward.message, bytes):
        return
    part = read(content)
    assert part.value("Message-ID").strip() == message_id
    for name, text in awkward.text.items():
        assert read_text(part.value(name)) == text, name
    for name, mailboxes in awkward.mailboxes.items():
        assert read_list(part.value(name)) == mailboxes, name
    for name, value in awkward.verbatim.items():
        assert part.value(name) == value, name
    if awkward.files:
        assert list(file_names(part)) == awkward.files
    if awkward.bodies is not None:
        leaves = part.leaves()
        assert len(leaves) == len(awkward.bodies)
        for leaf, body in zip(leaves, awkward.bodies, strict=True):
            if isinstance(body, bytes):
                assert leaf.decoded == body
            else:
                # the last line end may be the delimiter's, or the server's
                assert leaf.text.removesuffix("\n") == body.removesuffix("\n")


def file_names(part: Part) -> Iterator[str]:
    """Yield the names of files, in their order."""
    for leaf in part.leaves():
        name = leaf.parameters("Content-Disposition").get("filename") or leaf.parameters("Content-Type").get("name")
        if name is not None:
            yield name
