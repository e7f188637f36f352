"""`Route.send`: what moves on to another relay, and what never does."""

from __future__ import annotations

import logging
import pickle
from collections.abc import AsyncIterator
from email.message import EmailMessage

import anyio
import pytest

import smtplite
from smtplite import (
    AuthenticationError,
    Client,
    ConfigurationError,
    ConnectError,
    Content,
    DeliveryUnknown,
    Envelope,
    ExtensionRequired,
    MessageError,
    MessageRefused,
    Receipt,
    Recipient,
    RecipientsRefused,
    SenderRefused,
    TLSError,
)
from smtplite.message import Prepared
from smtplite.options import Security
from smtplite.routes import BreakerClosed, BreakerHalfOpened, BreakerOpened, MovedOn, Route
from smtplite.testing import ServerExtensions

from .relays import Clock, Relay, raw, route_of

pytestmark = pytest.mark.asyncio

TWO = ("x@example.net", "y@example.net")


async def test_all_is_well_and_the_first_takes_it() -> None:
    one, two = Relay(), Relay()
    async with route_of(one, two) as route:
        receipt = await route.send(raw())
    assert [hop.accepted for hop in receipt.hops] == [("reader0@example.net",)]
    assert receipt.complete
    assert (len(one.names), len(two.names)) == (1, 0)


@pytest.mark.exhaustive(keep=5)
@pytest.mark.parametrize(
    ("verb", "reply"),
    [
        ("GREETING", "554 no service"),
        ("GREETING", "421 too busy"),
        ("EHLO", "550 not you"),
        ("MAIL", "421 closing"),
        ("MAIL", "451 4.3.0 not now"),
        ("RCPT", "421 closing"),
        ("DATA", "421 closing"),
        ("END_OF_DATA", "421 closing"),
        ("DATA", "220 what"),
    ],
)
async def test_what_is_certainly_not_taken_goes_to_the_other(verb: str, reply: str) -> None:
    one, two = Relay("one.example"), Relay("two.example")
    one.server.reply(verb, reply)
    async with route_of(one, two) as route:
        receipt = await route.send(raw())
    assert receipt.accepted == ("reader0@example.net",)
    assert receipt.server == "two.example"
    assert len(receipt.hops) == 2
    assert receipt.hops[0].error is not None
    assert not one.names
    assert len(two.names) == 1


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize(
    ("verb", "reply", "error"),
    [
        ("MAIL", "550 5.7.1 not you", SenderRefused),
        ("RCPT", "550 5.1.1 no such user", RecipientsRefused),
        ("RCPT", "450 4.2.1 not now", RecipientsRefused),
        ("DATA", "451 4.3.0 not now", MessageRefused),
        ("END_OF_DATA", "554 5.6.0 no", MessageRefused),
        ("END_OF_DATA", "452 4.3.1 full", MessageRefused),
    ],
)
async def test_a_refusal_is_final(verb: str, reply: str, error: type[smtplite.SMTPError]) -> None:
    one, two = Relay(), Relay()
    one.server.reply(verb, reply)
    async with route_of(one, two) as route:
        with pytest.raises(error) as caught:
            await route.send(raw())
    assert len(caught.value.hops) == 1
    assert not two.server.connections


@pytest.mark.parametrize("chosen", [{452}, {"4yz"}, lambda reply: "full" in reply.text])
async def test_a_refusal_that_was_chosen_moves_on(chosen: object) -> None:
    one, two = Relay(), Relay()
    one.server.reply("RCPT", "452 4.2.2 full", to="x@example.net")
    one.server.reply("RCPT", "550 5.1.1 no", to="z@example.net")
    async with route_of(one, two, fail_over_on=chosen) as route:
        receipt = await route.send(raw(0, *TWO, "z@example.net"))
    assert receipt.accepted == TWO
    assert list(receipt.refused) == ["z@example.net"]
    assert one.recipients == ["y@example.net"]
    assert two.recipients == ["x@example.net"]
    assert receipt.replies["x@example.net"].code == 250


async def test_a_chosen_refusal_stays_one_if_the_other_cannot_be_reached() -> None:
    one, two = Relay(), Relay()
    one.server.reply("RCPT", "452 4.2.2 full", to="x@example.net")
    two.is_off = True
    async with route_of(one, two, fail_over_on=["4yz"]) as route:
        receipt = await route.send(raw(0, *TWO))
        assert {to: reply.code for to, reply in receipt.refused.items()} == {"x@example.net": 452}
        with pytest.raises(RecipientsRefused) as caught:
            await route.send(raw(1, "x@example.net"))
    assert len(caught.value.hops) == 2


class Broken:
    """A member that fails in a way of its own, nobody knows when."""

    server = "broken.example"
    security: Security = "verified"

    async def send(self, message: object, **options: object) -> smtplite.Receipt:
        raise RuntimeError("bug")

    async def check(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


async def test_after_a_member_that_says_nothing_of_the_message_it_goes_nowhere_else() -> None:
    first, last = Relay(), Relay()
    first.server.reply("RCPT", "450 4.2.2 full", to="b@example.net")
    async with Route([first.client, Broken(), last.client], fail_over_on=["4yz"]) as route:
        receipt = await route.send(raw(1, "a@example.net", "b@example.net"))
    assert receipt.accepted == ("a@example.net",)
    assert receipt.unknown == ("b@example.net",)
    assert last.names == []


async def test_for_everybody_or_nobody_moves_on_as_a_whole_or_not_at_all() -> None:
    one, two = Relay(), Relay()
    one.server.reply("RCPT", "452 4.2.2 full", to="x@example.net")
    async with route_of(one, two, fail_over_on=["4yz"]) as route:
        receipt = await route.send(raw(0, *TWO), require_all=True)
        assert receipt.accepted == TWO
        assert (one.recipients, two.recipients) == ([], list(TWO))
        one.server.reply("RCPT", "550 5.1.1 no", to="z@example.net")
        with pytest.raises(RecipientsRefused):
            await route.send(raw(1, *TWO, "z@example.net"), require_all=True)
    assert (one.recipients, two.recipients) == ([], list(TWO))


async def test_what_may_have_arrived_never_goes_to_another() -> None:
    one, two = Relay(), Relay()
    one.server.reply("END_OF_DATA", b"", close=True, performs=True)
    async with route_of(one, two) as route:
        with pytest.raises(DeliveryUnknown) as caught:
            await route.send(raw())
    assert caught.value.unknown == ("reader0@example.net",)
    assert len(caught.value.hops) == 1
    assert not two.server.connections


async def test_of_many_recipients_only_those_who_lack_it_move_on() -> None:
    """The first transaction was taken; before the second one, the relay says 421."""
    one = Relay("one.example", server={"extensions": ServerExtensions(rcptmax=2)})
    two = Relay("two.example")
    one.server.reply("MAIL", None, times=1)
    one.server.reply("MAIL", "421 closing")
    everybody = tuple(f"r{number}@example.net" for number in range(5))
    async with route_of(one, two) as route:
        receipt = await route.send(raw(0, *everybody))
    assert receipt.accepted == everybody
    assert one.recipients == list(everybody[:2])
    assert two.recipients == list(everybody[2:])
    assert receipt.server == "two.example"
    assert [hop.accepted for hop in receipt.hops] == [everybody[:2], everybody[2:]]
    assert receipt.hops[0].not_sent == everybody[2:]


async def test_lmtp_verdicts_stay_and_only_who_was_closed_out_moves_on() -> None:
    one = Relay(server={"lmtp": True}, lmtp=True)
    two = Relay(server={"lmtp": True}, lmtp=True)
    one.server.reply("END_OF_DATA", "421 closing", to="y@example.net")
    async with route_of(one, two) as route:
        receipt = await route.send(raw(0, *TWO))
    assert receipt.accepted == TWO
    assert two.recipients == ["y@example.net"]


# What a relay lacks


async def test_what_one_relay_lacks_leads_to_the_other() -> None:
    small = Relay(
        server={"extensions": ServerExtensions(smtputf8=False, eight_bit_mime=False, size=200)},
    )
    large = Relay()
    accents = b"From: a@example.org\r\nTo: b@example.net\r\nMessage-ID: <8@x>\r\n\r\ncaf\xc3\xa9\r\n"
    async with route_of(small, large) as route:
        receipts = [
            await route.send(raw(1), sender="a@example.org", recipients="j\u00f6rg@example.net"),
            await route.send(raw(2, size=1000)),
            await route.send(accents),
            await route.send(raw(3)),
        ]
        assert (await route.check()).relays[0].failures == 0
    assert [len(receipt.hops) for receipt in receipts] == [2, 2, 2, 1]
    keywords = [receipt.hops[0].error.keyword for receipt in receipts[:3]]  # type: ignore[union-attr]  # checked above
    assert keywords == ["SMTPUTF8", "SIZE", "8BITMIME"]
    assert small.names == ["<3@example.org>"]


async def test_what_no_relay_has_is_said() -> None:
    without = [Relay(server={"extensions": ServerExtensions(smtputf8=False)}) for _ in range(2)]
    async with route_of(*without) as route:
        with pytest.raises(ExtensionRequired) as caught:
            await route.send(raw(), recipients="j\u00f6rg@example.net")
    assert len(caught.value.hops) == 2
    assert caught.value.not_sent == ("j\u00f6rg@example.net",)


async def test_it_is_prepared_once_and_fitted_to_each_relay() -> None:
    """The same Message-ID and Date everywhere; 7-bit for the relay that needs it."""
    one = Relay()
    two = Relay(server={"extensions": ServerExtensions(eight_bit_mime=False)})
    one.server.reply("RCPT", "452 full", to="y@example.net")
    message = EmailMessage()
    message["From"], message["To"] = "a@example.org", ", ".join(TWO)
    message.set_content("caf\u00e9\n", cte="8bit")
    async with route_of(one, two, fail_over_on=[452]) as route:
        receipt = await route.send(message)
    [first], [second] = one.server.messages, two.server.messages
    for name in ("Message-ID", "Date"):
        assert first.as_email()[name] == second.as_email()[name]
    assert receipt.message_id == first.as_email()["Message-ID"]
    assert b"\xc3\xa9" in first.content
    assert second.content.isascii()
    assert message["Message-ID"] is None


async def test_the_envelope_goes_along_for_those_who_move_on() -> None:
    one, two = Relay(), Relay()
    one.server.reply("RCPT", "452 full", to="y@example.net")
    envelope = Envelope("a@example.org", [Recipient(to, notify="NEVER") for to in TWO], ret="HDRS")
    async with route_of(one, two, fail_over_on=[452]) as route:
        await route.send(raw(0, *TWO), envelope=envelope)
    [message] = two.server.messages
    assert message.ret == "HDRS"
    assert message.notify_of("y@example.net") == ("NEVER",)


async def test_each_client_signs_for_itself() -> None:
    one, two = Relay(sign=lambda octets: b"X-Sign: one\r\n"), Relay(sign=lambda octets: b"X-Sign: two\r\n")
    one.server.reply("DATA", "421 closing")
    async with route_of(one, two) as route:
        await route.send(raw())
    [message] = two.server.messages
    assert message.content.startswith(b"X-Sign: two\r\nFrom:")


# Content that can be read once


async def _pieces() -> AsyncIterator[bytes]:
    yield raw()
    for _ in range(200):
        yield b"y" * 998 + b"\r\n"


async def test_a_stream_of_which_nothing_was_read_moves_on() -> None:
    one, two = Relay(), Relay()
    one.is_off = True
    async with route_of(one, two) as route:
        content = Content.from_stream(_pieces())
        receipt = await route.send(content, sender="a@example.org", recipients="b@example.net")
    assert receipt.complete
    assert len(two.server.messages[0].content) > 200_000


async def test_a_stream_that_was_begun_does_not() -> None:
    one, two = Relay(), Relay()
    one.server.reply("CONTENT", b"", after_bytes=70_000, close=True)
    async with route_of(one, two) as route:
        with pytest.raises(smtplite.ConnectionLost) as caught:
            await route.send(Content.from_stream(_pieces()), sender="a@example.org", recipients="b@example.net")
    assert caught.value.not_sent == ("b@example.net",)
    assert not two.server.connections


async def test_a_file_that_can_be_read_again_does() -> None:
    one, two = Relay(), Relay()
    one.server.reply("CONTENT", b"", after_bytes=70_000, close=True)
    async with route_of(one, two) as route:
        receipt = await route.send(
            Content.from_bytes(raw(size=1_000_000)), sender="a@b.example", recipients="b@c.example"
        )
    assert receipt.complete
    assert len(receipt.hops) == 2


async def test_a_stream_of_the_callers_is_closed_at_the_end() -> None:
    is_closed = anyio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            yield raw(size=100_000)
            yield raw(size=100_000)
        finally:
            is_closed.set()

    one = Relay()
    one.is_off = True
    async with route_of(one) as route:
        with pytest.raises(ConnectError):
            await route.send(Content.from_stream(pieces()), sender="a@example.org", recipients="b@example.net")
    assert is_closed.is_set()


async def test_what_cannot_be_sent_is_told_before_any_relay_is_asked() -> None:
    one, two = Relay(), Relay()
    async with route_of(one, two) as route:
        with pytest.raises(MessageError):
            await route.send(b"no header")
        with pytest.raises(MessageError, match="has its envelope"):
            await one.client.send(await Prepared.of(raw()), recipients="z@example.net")
    assert not one.connects


# Passwords and certificates


async def test_a_wrong_password_opens_the_breaker_and_is_said_loudly(caplog: pytest.LogCaptureFixture) -> None:
    one = Relay(
        server={"users": {"ada": "right"}, "auth_in_clear": True},
        username="ada",
        password="wrong-secret",
        allow_insecure_auth=True,
    )
    two = Relay()
    events: list[object] = []
    async with route_of(one, two, trace=events.append) as route:
        with caplog.at_level(logging.WARNING, "smtplite.routes"):
            first = await route.send(raw(1))
            second = await route.send(raw(2))
        found = (await route.check()).relays[0]
    assert isinstance(first.hops[0].error, AuthenticationError)
    assert len(second.hops) == 1
    assert len(one.server.connections) == 2  # the message, and the check
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "wrong-secret" not in caplog.text
    assert (found.breaker, found.failures) == ("open", 1)
    assert isinstance(found.last_error, AuthenticationError)
    assert [type(event) for event in events] == [BreakerOpened, MovedOn]


@pytest.mark.parametrize("policy", ["failover", "round-robin"])
async def test_a_certificate_error_never_moves_to_a_relay_with_weaker_tls(policy: str) -> None:
    one = Relay(server={"tls": "implicit"}, tls="implicit", tls_hostname="other.example")
    two = Relay()  # in clear
    async with route_of(one, two, policy=policy) as route:
        with pytest.raises(TLSError) as caught:
            await route.send(raw(1))
        assert len(caught.value.hops) == 1
        assert not two.connects
        if policy == "failover":  # nor once its breaker is open
            with pytest.raises(TLSError):
                await route.send(raw(2))
            assert not two.connects


async def test_a_certificate_error_moves_to_a_relay_that_is_as_safe() -> None:
    one = Relay(server={"tls": "implicit"}, tls="implicit", tls_hostname="other.example")
    clear = Relay()
    safe = Relay(server={"tls": "starttls"}, tls="starttls")
    async with route_of(one, clear, safe) as route:
        receipts = [await route.send(raw(1)), await route.send(raw(2))]
    assert [len(receipt.hops) for receipt in receipts] == [2, 1]
    assert not clear.connects
    assert len(safe.names) == 2


async def test_a_lost_connection_may_move_to_a_relay_in_clear() -> None:
    one = Relay(server={"tls": "implicit"}, tls="implicit")
    one.is_off = True
    two = Relay()
    async with route_of(one, two) as route:
        assert (await route.send(raw())).tls is None


async def test_how_safe_a_client_is() -> None:
    import ssl

    anything = ssl.create_default_context()
    anything.check_hostname = False
    anything.verify_mode = ssl.CERT_NONE
    assert Client("mx.example").security == "verified"
    assert Client("mx.example", tls_context=anything).security == "encrypted"
    assert Client("mx.example", tls="none").security == "clear"
    assert Client(socket_path="/run/smtp").security == "verified"
    assert Client("mx.example").server == "mx.example:587"


# Breakers


async def test_a_relay_that_failed_is_left_alone_then_tried_by_one_message() -> None:
    clock = Clock()
    one, two = Relay(), Relay()
    one.is_off = True
    events: list[object] = []
    async with route_of(one, two, clock=clock, pause=5, trace=events.append) as route:
        for number in range(6):
            await route.send(raw(number))
        assert one.connects == 3
        clock.now += 5
        one.is_off = False
        in_turn = anyio.Event()
        waiting = anyio.Event()

        async def hold() -> None:
            waiting.set()
            await in_turn.wait()

        one.before = hold
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(route.send, raw(10))
            await waiting.wait()
            await route.send(raw(11))  # one at a time tries it
            assert one.connects == 4
            in_turn.set()
        await route.send(raw(12))
    assert one.names == ["<10@example.org>", "<12@example.org>"]
    kinds = [type(event) for event in events if not isinstance(event, MovedOn)]
    assert kinds == [BreakerOpened, BreakerHalfOpened, BreakerClosed]


async def test_all_open_is_not_for_ever() -> None:
    """A relay that is back is found by the next message, whatever the clock says; and nothing is lost meanwhile."""
    clock = Clock()
    one, two = Relay(), Relay()
    one.is_off = two.is_off = True
    async with route_of(one, two, clock=clock, failures=1, pause=1000) as route:
        for number in range(3):
            with pytest.raises(ConnectError) as caught:
                await route.send(raw(number))
            assert caught.value.retryable
            assert len(caught.value.hops) == 2
        two.is_off = False
        assert (await route.send(raw(9))).complete


async def test_those_who_wait_for_the_one_that_tries_learn_what_it_learns() -> None:
    one = Relay()
    one.is_off = True
    async with route_of(one, failures=1) as route:
        with pytest.raises(ConnectError):
            await route.send(raw())
        release = anyio.Event()
        one.before = release.wait
        failures: list[smtplite.SMTPError] = []

        async def send(number: int) -> None:
            try:
                await route.send(raw(number))
            except smtplite.SMTPError as error:
                failures.append(error)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(send, number)
            await anyio.wait_all_tasks_blocked()
            assert one.connects == 2
            release.set()
        assert one.connects == 2
        assert len(failures) == 20
        assert all(failure.not_sent and failure.retryable for failure in failures)


async def test_those_who_wait_go_once_it_works() -> None:
    one = Relay()
    one.is_off = True
    async with route_of(one, failures=1) as route:
        with pytest.raises(ConnectError):
            await route.send(raw())
        release = anyio.Event()
        one.before, one.is_off = release.wait, False
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(route.send, raw(number))
            await anyio.wait_all_tasks_blocked()
            assert one.connects == 2
            release.set()
    assert len(one.names) == 20


async def test_a_probe_that_is_cancelled_lets_the_next_one_try() -> None:
    one = Relay()
    one.is_off = True
    async with route_of(one, failures=1) as route:
        with pytest.raises(ConnectError):
            await route.send(raw())
        one.before = anyio.sleep_forever
        with anyio.move_on_after(0.01):
            await route.send(raw())
        one.before, one.is_off = None, False
        assert (await route.send(raw(2))).complete


async def test_a_check_that_finds_a_relay_well_lets_the_next_message_try_it() -> None:
    clock = Clock()
    one, two = Relay(), Relay()
    one.is_off = True
    async with route_of(one, two, clock=clock, failures=1, pause=100) as route:
        await route.send(raw(1))
        found = (await route.check()).relays
        assert (found[0].breaker, found[1].breaker) == ("open", "closed")
        assert found[0].retry_in == 100
        assert isinstance(found[0].error, ConnectError)
        assert isinstance(found[1].info, smtplite.ServerInfo)
        one.is_off = False
        assert (await route.check()).relays[0].error is None
        await route.send(raw(2))
    assert one.names == ["<2@example.org>"]


async def test_a_check_raises_if_no_relay_works() -> None:
    one, two = Relay(), Relay()
    one.is_off = two.is_off = True
    async with route_of(one, two) as route:
        with pytest.raises(ConnectError) as caught:
            await route.check()
    assert len(caught.value.hops) == 2


# Policies


@pytest.mark.parametrize(("policy", "weights", "shares"), [("round-robin", None, (1, 1)), ("weighted", [3, 1], (3, 1))])
async def test_shares_hold(policy: str, weights: list[int] | None, shares: tuple[int, int]) -> None:
    one, two = Relay(), Relay()
    async with route_of(one, two, policy=policy, weights=weights) as route:
        for number in range(40):
            await route.send(raw(number))
    unit = 40 // sum(shares)
    assert (len(one.names), len(two.names)) == (unit * shares[0], unit * shares[1])


# Values and arguments


async def test_what_the_caller_gets_survives_pickle() -> None:
    one, two = Relay(), Relay()
    one.is_off = True
    async with route_of(one, two) as route:
        receipt = await route.send(raw())
        two.server.reply("RCPT", "550 no")
        with pytest.raises(RecipientsRefused) as caught:
            await route.send(raw())
    again = pickle.loads(pickle.dumps(receipt))
    assert isinstance(again, Receipt)
    assert [hop.relay for hop in again.hops] == [hop.relay for hop in receipt.hops]
    error = pickle.loads(pickle.dumps(caught.value))
    assert [str(hop) for hop in error.hops] == [str(hop) for hop in caught.value.hops]
    assert len(error.__notes__) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"members": "smtp://a"}, "Route.from_url"),
        ({"members": []}, "no members"),
        ({"members": [1]}, "not int"),
        ({"members": ["http://a"]}, "URL begins with none"),
        ({"policy": "random"}, "policy must be"),
        ({"failures": 0}, "failures must be"),
        ({"pause": -1}, "pause must be"),
        ({"timeout": "5"}, "timeout must be"),
        ({"clock": 5}, "clock must be"),
        ({"trace": 5}, "trace must be"),
        ({"fail_over_on": "4yz"}, "fail_over_on must be"),
        ({"fail_over_on": [250]}, "fail_over_on must be"),
        ({"fail_over_on": 452}, "fail_over_on must be"),
    ],
)
async def test_a_wrong_argument_is_named(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Route(**{"members": ["smtp://a.example", "smtp://b.example"], **arguments})  # type: ignore[arg-type]


async def test_a_hook_that_fails_disturbs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    one, two = Relay(), Relay()
    one.is_off = True

    def hook(event: object) -> None:
        raise ValueError("mine")

    async with route_of(one, two, trace=hook) as route:
        assert (await route.send(raw())).complete
    assert "trace hook failed" in caplog.text
