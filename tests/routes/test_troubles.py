"""Ten kinds of trouble, and what a route does: the table of docs/howto/relays.md is made of TROUBLES."""

from __future__ import annotations

from typing import Any

import pytest

import smtplite
from smtplite import Receipt, SMTPError
from smtplite.routes import BreakerOpened
from smtplite.testing import ServerExtensions

from .relays import Relay, raw, route_of

MOVES = "goes to the next relay"
STAYS = "does not move on"
COUNTS = "this counts as a failure; after three in a row the relay is left alone"
AT_ONCE = "the relay is left alone at once, for five minutes; an ERROR is logged"
NOTHING = "the relay counts as working"

#: What happens at the first relay; how to make it happen; what happens to the message; how the relay is judged.
TROUBLES: tuple[tuple[str, str, str, str], ...] = (
    ("It cannot be reached: refused, no route, no DNS, silence", "is off", MOVES, COUNTS),
    ("Its greeting or EHLO reply is negative, or it says 421 anywhere", "GREETING 554 no service", MOVES, COUNTS),
    ("The password is wrong", "password", MOVES, AT_ONCE),
    ("Its certificate is wrong", "certificate", MOVES + ", if its TLS is as strong", AT_ONCE),
    ("The connection is lost, or time is up, before the end of the message was written", "lost", MOVES, COUNTS),
    ("The same, but after the end of the message was written", "unknown", STAYS + ": unknown", COUNTS),
    ("It refuses the sender for now (4yz to MAIL)", "MAIL 451 4.3.0 not now", MOVES, COUNTS),
    ("It refuses a recipient or the message (4yz or 5yz)", "RCPT 450 4.2.1 not now", STAYS + ": refused", NOTHING),
    ("It refuses the sender for good (5yz to MAIL)", "MAIL 550 5.7.1 not you", STAYS + ": refused", NOTHING),
    ("It does not offer what the message needs: SMTPUTF8, 8BITMIME, enough SIZE", "extension", MOVES, NOTHING),
)


def _first(how: str) -> Relay:
    """Return a relay at which this happens."""
    options: dict[str, Any] = {}
    server: dict[str, Any] = {}
    if how == "password":
        server = {"users": {"ada": "right"}, "auth_in_clear": True}
        options = {"username": "ada", "password": "wrong", "allow_insecure_auth": True}
    elif how == "certificate":
        server, options = {"tls": "implicit"}, {"tls": "implicit", "tls_hostname": "other.example"}
    elif how == "extension":
        server = {"extensions": ServerExtensions(size=10)}
    relay = Relay("one.example", server=server, **options)
    relay.is_off = how == "is off"
    if how == "lost":
        relay.server.reply("MAIL", b"", close=True)
    elif how == "unknown":
        relay.server.reply("END_OF_DATA", b"", close=True, performs=True)
    elif how.partition(" ")[0].isupper():
        relay.server.reply(how.partition(" ")[0], how.partition(" ")[2])
    return relay


@pytest.mark.parametrize(("what", "how", "message", "relay"), TROUBLES, ids=[row[1] for row in TROUBLES])
@pytest.mark.asyncio
async def test_the_table_tells_what_is_done(what: str, how: str, message: str, relay: str) -> None:
    one = _first(how)
    two = Relay("two.example", server={"tls": "starttls"}, tls="starttls")
    events: list[object] = []
    async with route_of(one, two, trace=events.append) as route:
        try:
            said: Receipt | SMTPError = await route.send(raw())
        except smtplite.SMTPError as error:
            said = error
        [first, _] = (await route.check()).relays
    found = MOVES if len(said.hops) == 2 else STAYS
    found += ": unknown" if said.unknown else ": refused" if said.refused else ""
    assert message.removesuffix(", if its TLS is as strong") == found
    assert bool(two.names) == (found == MOVES)
    is_open = any(isinstance(event, BreakerOpened) for event in events)
    assert relay == (AT_ONCE if is_open else COUNTS if first.failures else NOTHING)


def test_there_are_ten() -> None:
    assert len(TROUBLES) == 10
