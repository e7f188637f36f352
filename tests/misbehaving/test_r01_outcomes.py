"""R1: every recipient has exactly one outcome, whatever goes wrong, and wherever.

The matrix of all phases and all faults; each case holds R9, too: the next message arrives, and arrives right.
"""

from __future__ import annotations

import anyio
import attrs
import pytest

import smtplite
from smtplite import ConnectionLost, DeliveryUnknown, MessageRefused, RemoteProtocolError, ServiceUnavailable, TLSError

from .dialogue import (
    FIRST,
    LARGE,
    PHASES,
    Fault,
    assert_next_arrives,
    assert_one_outcome_each,
    asyncio_and_trio,
    client_at,
    close,
    content_for,
    failure_of,
    flood,
    options_for,
    reset,
    say,
    server_for,
    skips_time,
    up_to,
)
from .server import Honest, Peer, Server, ehlo_reply

pytestmark = pytest.mark.anyio

#: At each phase, a reply of a class that this phase does not have.
WRONG_CLASS = {
    "greeting": b"354 go\r\n",
    "hello": b"354 go\r\n",
    "starttls": b"354 go\r\n",
    "auth": b"354 go\r\n",
    "mail": b"354 go\r\n",
    "rcpt": b"354 go\r\n",
    "data": b"250 ok\r\n",
    "content": b"250 taken\r\n",
    "end of data": b"354 go\r\n",
}
#: The right reply, and in the same segment one to a command that was not sent.
EARLY = {
    "greeting": b"220 mx\r\n" + ehlo_reply(),
    "hello": ehlo_reply() + b"250 sender\r\n",
    "starttls": b"220 go ahead\r\n" + ehlo_reply(),
    "auth": b"235 welcome\r\n250 sender\r\n",
    "mail": b"250 sender\r\n250 recipient\r\n",
    "rcpt": b"250 recipient\r\n354 go\r\n",
    "data": b"354 go\r\n250 taken\r\n",
}


def say_amid(said: bytes) -> Fault:
    """Say it while content comes, and take no more of that."""

    async def fault(peer: Peer) -> None:
        await peer.write(said)
        assert b"\r\n.\r\n" not in await peer.read_to_the_end()

    return fault


def fault_of(kind: str, phase: str) -> Fault:
    said = {
        "421": b"421 4.3.2 closing\r\n",
        "junk": b"\x16\x03\x01 what\r\n",
        "wrong class": WRONG_CLASS[phase],
        "early": EARLY.get(phase, b""),
    }.get(kind)
    if said is not None:
        return say_amid(said) if phase == "content" else say(said)
    return {
        "close": close,
        "reset": reset,
        "endless line": flood(b"x" * 10_000, b"250 "),
        "endless reply": flood(b"250-" + b"x" * 500 + b"\r\n"),
    }[kind]


def expected_error(kind: str, phase: str) -> type[smtplite.SMTPError]:
    if kind in ("close", "reset"):
        return ConnectionLost
    if phase == "starttls":
        return TLSError
    if kind == "421":
        return MessageRefused if phase == "end of data" else ServiceUnavailable
    return RemoteProtocolError


MATRIX = [
    pytest.param(phase, kind, keywords, id=f"R1-{phase}-{kind}{'' if keywords else '-lockstep'}".replace(" ", "_"))
    for phase in PHASES
    for kind in ("close", "reset", "421", "junk", "wrong class", "endless line", "endless reply", "early")
    for keywords in [("PIPELINING",), ()]
    if keywords or phase in ("mail", "rcpt", "data", "end of data")
    if kind != "early" or (phase in EARLY and not (keywords and phase in ("mail", "rcpt")))
]


@pytest.mark.exhaustive(keep=50)
@pytest.mark.parametrize(("phase", "kind", "keywords"), MATRIX)
async def test_each_fault_at_each_phase_has_one_certain_outcome(
    phase: str, kind: str, keywords: tuple[str, ...]
) -> None:
    """R1, R9: and the next message arrives right."""
    fault = fault_of(kind, phase)

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, phase, *keywords)
        await fault(peer)

    honest = server_for(phase, *keywords)
    async with Server(misbehave, honest) as server:
        # One place in the pool: the first message must not keep it.
        async with client_at(server, max_connections=1, **options_for(phase)) as client:
            error = await failure_of(client, content_for(phase))
            expected = expected_error(kind, phase)
            if phase != "end of data":
                # A reset may be faster than the news that the connection is there.
                is_too_early = (phase, kind) == ("greeting", "reset") and type(error) is smtplite.ConnectError
                assert type(error) is expected or is_too_early
                assert error.not_sent == ("you@example.org",)
                assert error.retryable is (kind in ("close", "reset", "421"))
            elif kind == "421":  # RFC 5321 3.8: it says that nothing was taken
                assert type(error) is expected
                assert error.refused["you@example.org"].code == 421
                assert error.retryable
            else:
                assert type(error) is DeliveryUnknown
                assert type(error.__cause__) is expected
                assert error.unknown == ("you@example.org",)
                assert error.delivered is None
                assert not error.retryable
            assert len(server.peers) == 1  # nothing was tried again
            await assert_next_arrives(client, server, honest)


@pytest.mark.exhaustive(keep=20)
@asyncio_and_trio
@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        pytest.param(
            phase,
            kind,
            id=f"{phase}-{kind}".replace(" ", "_"),
        )
        for phase in PHASES
        for kind in ("close", "reset", "421", "junk", "wrong class", "endless line")
        if (phase, kind) != ("greeting", "reset")  # which may come before the client knows of the connection
    ],
)
async def test_the_error_says_in_which_phase_it_happened(phase: str, kind: str) -> None:
    """R1: `phase` is None only where there was no dialogue."""
    fault = fault_of(kind, phase)

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, phase, "PIPELINING")
        await fault(peer)

    async with Server(misbehave) as server, client_at(server, **options_for(phase)) as client:
        error = await failure_of(client, content_for(phase))
    assert error.phase == phase


@skips_time
@pytest.mark.parametrize(
    ("phase", "seconds"),
    [
        ("greeting", 30),
        ("hello", 60),
        ("starttls", 60),
        ("auth", 60),
        ("mail", 60),
        ("rcpt", 60),
        ("data", 120),
        ("content", 180),
        ("end of data", 600),
    ],
)
@pytest.mark.parametrize("keywords", [("PIPELINING",), ()], ids=["R1-R7-pipelined", "R1-R7-lockstep"])
async def test_silence_at_each_phase_ends_at_its_deadline(
    phase: str, seconds: float, keywords: tuple[str, ...]
) -> None:
    """R1, R7: with the deadlines that are the default."""
    is_over = anyio.Event()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, phase, *keywords)
        await is_over.wait()

    honest = server_for(phase, *keywords)
    async with Server(misbehave, honest) as server:
        async with client_at(server, max_connections=1, **options_for(phase)) as client:
            begun = anyio.current_time()
            error = await failure_of(client, content_for(phase))
            waited = anyio.current_time() - begun
            is_over.set()
            assert seconds - 1 <= waited <= seconds + 1
            if phase == "end of data":
                assert type(error) is DeliveryUnknown
                assert type(error.__cause__) is smtplite.SMTPTimeout
            else:
                assert type(error) is smtplite.SMTPTimeout
                assert error.not_sent == ("you@example.org",)
                assert error.retryable
            assert error.phase == phase
            await assert_next_arrives(client, server, honest)


# Several recipients

A, B, C, D = RECIPIENTS = [f"{name}@example.org" for name in "abcd"]
RCPT_REPLIES = b"250 2.1.5 a\r\n550 5.1.1 b\r\n451 4.3.0 c\r\n250 2.1.5 d\r\n"


@attrs.frozen(kw_only=True)
class Case:
    """What the server says, and what must be said of a, b, c and d."""

    group: bytes
    verdict: bytes | None = None
    error: type[smtplite.SMTPError] | None
    accepted: tuple[str, ...] = ()
    refused: dict[str, int] = attrs.field(factory=dict)
    unknown: tuple[str, ...] = ()
    not_sent: tuple[str, ...] = ()


CASES = {
    "250": Case(
        group=b"250 sender\r\n" + RCPT_REPLIES + b"354 go\r\n",
        verdict=b"250 taken\r\n",
        error=None,
        accepted=(A, D),
        refused={B: 550, C: 451},
    ),
    "552": Case(
        group=b"250 sender\r\n" + RCPT_REPLIES + b"354 go\r\n",
        verdict=b"552 no\r\n",
        error=MessageRefused,
        refused={A: 552, B: 550, C: 451, D: 552},
    ),
    "421 at the end": Case(
        group=b"250 sender\r\n" + RCPT_REPLIES + b"354 go\r\n",
        verdict=b"421 closing\r\n",
        error=MessageRefused,
        refused={A: 421, B: 550, C: 451, D: 421},
    ),
    "lost at the end": Case(
        group=b"250 sender\r\n" + RCPT_REPLIES + b"354 go\r\n",
        verdict=b"",
        error=DeliveryUnknown,
        unknown=(A, D),
        refused={B: 550, C: 451},
    ),
    "half a verdict": Case(
        group=b"250 sender\r\n" + RCPT_REPLIES + b"354 go\r\n",
        verdict=b"250-taken\r\n250",
        error=DeliveryUnknown,
        unknown=(A, D),
        refused={B: 550, C: 451},
    ),
    "DATA refused": Case(
        group=b"250 sender\r\n" + RCPT_REPLIES + b"452 later\r\n",
        error=MessageRefused,
        refused={A: 452, B: 550, C: 451, D: 452},
    ),
    "lost at DATA": Case(
        group=b"250 sender\r\n" + RCPT_REPLIES,
        error=ConnectionLost,
        refused={B: 550, C: 451},
        not_sent=(A, D),
    ),
    "421 at DATA": Case(
        group=b"250 sender\r\n" + RCPT_REPLIES + b"421 closing\r\n",
        error=ServiceUnavailable,
        refused={B: 550, C: 451},
        not_sent=(A, D),
    ),
    "lost at the third": Case(
        group=b"250 sender\r\n250 a\r\n550 b\r\n",
        error=ConnectionLost,
        refused={B: 550},
        not_sent=(A, C, D),
    ),
    "all refused": Case(
        group=b"250 sender\r\n" + b"550 no\r\n" * 4 + b"554 no\r\n",
        error=smtplite.RecipientsRefused,
        refused=dict.fromkeys(RECIPIENTS, 550),
    ),
    "MAIL refused": Case(
        group=b"550 no\r\n" + b"503 no\r\n" * 5,
        error=smtplite.SenderRefused,
        refused=dict.fromkeys(RECIPIENTS, 550),
    ),
    "MAIL refused, recipients taken": Case(
        group=b"451 no\r\n" + b"250 ok\r\n" * 4 + b"503 no\r\n",
        error=smtplite.SenderRefused,
        refused=dict.fromkeys(RECIPIENTS, 451),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=[f"R1-{name}".replace(" ", "_") for name in CASES])
async def test_each_of_several_recipients_has_its_own_outcome(case: Case) -> None:
    """R1: a refusal that was read stays one, however the rest ends."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "mail", "PIPELINING")
        await peer.write(case.group)
        if case.verdict is not None:
            await peer.read_content()
            await peer.write(case.verdict)

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server) as client:
        said: smtplite.SMTPError | smtplite.Receipt
        if case.error is None:
            said = await client.send(FIRST, recipients=RECIPIENTS)
        else:
            said = await failure_of(client, recipients=RECIPIENTS)
            assert type(said) is case.error
        assert_one_outcome_each(said, RECIPIENTS)
        assert said.accepted == case.accepted
        assert {address: reply.code for address, reply in said.refused.items()} == case.refused
        assert said.unknown == case.unknown
        assert said.not_sent == case.not_sent
        assert len(server.peers) == 1
        await assert_next_arrives(client, server, honest)


@pytest.mark.parametrize(
    ("verdicts", "accepted", "refused", "unknown"),
    [
        pytest.param(b"250 a\r\n250 b\r\n", (A, B), {C: 550}, (), id="R1-all"),
        pytest.param(b"250 a\r\n452 b\r\n", (A,), {B: 452, C: 550}, (), id="R1-one_refused"),
        pytest.param(b"250 a\r\n", (A,), {C: 550}, (B,), id="R1-lost_between"),
        pytest.param(b"250 a\r\n250 b", (A,), {C: 550}, (B,), id="R1-lost_within"),
        pytest.param(b"250 a\r\njunk\r\n", (A,), {C: 550}, (B,), id="R1-junk_between"),
        pytest.param(b"250 a\r\n354 b\r\n", (A,), {C: 550}, (B,), id="R1-wrong_class_between"),
        pytest.param(b"250 a\r\n250 b\r\n250 c\r\n", (A, B), {C: 550}, (), id="R1-one_too_many"),
    ],
)
async def test_lmtp_has_a_verdict_for_each_recipient(
    verdicts: bytes, accepted: tuple[str, ...], refused: dict[str, int], unknown: tuple[str, ...]
) -> None:
    """R1: whoever was delivered is said, whatever came of the others."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "mail", "PIPELINING")
        await peer.write(b"250 sender\r\n250 a\r\n250 b\r\n550 c\r\n354 go\r\n")
        await peer.read_content()
        await peer.write(verdicts)

    recipients = [A, B, C]
    async with Server(misbehave) as server, client_at(server, lmtp=True) as client:
        receipt = await client.send(FIRST, recipients=recipients)
    assert_one_outcome_each(receipt, recipients)
    assert receipt.accepted == accepted
    assert {address: reply.code for address, reply in receipt.refused.items()} == refused
    assert receipt.unknown == unknown


async def test_a_recipient_named_twice_is_reported_twice() -> None:
    """R1: by the outcome of its one RCPT."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")

    recipients = ["a@example.org", "a@EXAMPLE.org"]
    async with Server(misbehave) as server, client_at(server) as client:
        error = await failure_of(client, recipients=recipients)
        assert error.unknown == tuple(recipients)
        assert server.peers[0].received.count(b"RCPT") == 1


@pytest.mark.parametrize("cut", [60_000, 65_536, 65_537, 200_000])
async def test_a_message_is_handed_over_with_its_last_octet_and_not_before(cut: int) -> None:
    """R1: content that goes in one write is unknown once it was written; a cut in the bulk is certain."""
    content = LARGE[: cut - 2] + b"\r\n"
    is_over = anyio.Event()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        peer.reset()
        is_over.set()

    async with Server(misbehave) as server, client_at(server) as client:
        error = await failure_of(client, content)
        await is_over.wait()
    assert type(error) is DeliveryUnknown  # the server had all of it


@pytest.mark.exhaustive(keep=1)
async def test_a_cut_in_the_bulk_is_certain_however_often() -> None:
    """R1, R9: five times in a row, and then it arrives."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "content", "PIPELINING")
        peer.reset()

    honest = Honest()
    async with Server(*[misbehave] * 5, honest) as server, client_at(server, max_connections=1) as client:
        for _ in range(5):
            error = await failure_of(client, LARGE)
            assert type(error) is ConnectionLost
            assert error.not_sent == ("you@example.org",)
        assert (await client.send(LARGE)).complete
    assert [message.content for message in honest.messages] == [LARGE]
