"""R15, R16, R17: who we are is proved only where nobody listens, only in full, and shown to nobody else."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import logging
import pickle
import re
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from smtplite import AuthenticationError, Client, RemoteProtocolError, ServiceUnavailable, SMTPError, sasl
from smtplite.trace import TraceEvent

from .dialogue import ASYNCIO_AND_TRIO, FIRST, SECOND, client_at, failure_of, nothing_follows
from .server import Honest, Peer, Server, ehlo_reply

pytestmark = pytest.mark.anyio

EVENT_LOOPS = ASYNCIO_AND_TRIO

USER, PASSWORD, TOKEN = "me@example.org", "s3cret-Pässwort", "ya29.t0ken-T0KEN"
CREDENTIALS: dict[str, Any] = {"username": USER, "password": PASSWORD}

AuthScript = Callable[[Peer, bytes], Awaitable[None]]


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


def offering(mechanisms: str, answer: AuthScript) -> Callable[[Peer], Awaitable[None]]:
    """Return a script that offers the mechanisms, and hands each AUTH line to `answer`."""

    async def script(peer: Peer) -> None:
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply(f"AUTH {mechanisms}"))
        await answer(peer, await peer.read_line())

    return script


def saying(reply: bytes) -> AuthScript:
    async def answer(peer: Peer, line: bytes) -> None:
        await peer.write(reply)
        await nothing_follows(peer)

    return answer


def insecure(server: Server, **options: object) -> Client:
    return client_at(server, allow_insecure_auth=True, **options)


async def refusal_of(client: Client, expected: type[SMTPError] = AuthenticationError) -> SMTPError:
    error = await failure_of(client)
    assert type(error) is expected
    assert error.not_sent == ("you@example.org",)
    return error


# R15


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(CREDENTIALS, id="R15-password"),
        pytest.param({"auth": sasl.ScramSha256(USER, PASSWORD)}, id="R15-SCRAM"),
        pytest.param({"auth": sasl.CramMd5(USER, PASSWORD)}, id="R15-CRAM-MD5"),
        pytest.param({"auth": sasl.External()}, id="R15-EXTERNAL"),
        pytest.param({"auth": sasl.XOAuth2(USER, TOKEN)}, id="R15-XOAUTH2"),
        pytest.param({"auth": sasl.OAuthBearer(USER, TOKEN)}, id="R15-OAUTHBEARER"),
    ],
)
@pytest.mark.parametrize("lmtp", [False, True], ids=["SMTP", "LMTP"])
async def test_in_clear_nobody_authenticates(options: dict[str, object], lmtp: bool) -> None:
    """R15: loopback is no exception, LMTP neither: any local user can bind a port."""

    async def script(peer: Peer) -> None:
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply("AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 EXTERNAL XOAUTH2 OAUTHBEARER"))
        await nothing_follows(peer)

    async with Server(script) as server, client_at(server, lmtp=lmtp, **options) as client:
        error = await refusal_of(client)
        assert error.reply is None
        assert not error.retryable
        assert "allow_insecure_auth" in str(error)


async def test_a_unix_socket_is_no_place_to_listen(tmp_path: Path) -> None:
    """R15: the one exception."""
    honest = Honest("AUTH PLAIN")
    path = str(tmp_path / "smtp")
    async with Server(honest, path=path), Client(socket_path=path, **CREDENTIALS) as client:
        assert (await client.send(FIRST)).complete
    assert honest.commands[1].startswith(b"AUTH PLAIN ")


@pytest.mark.parametrize(
    ("offered", "first"),
    [
        ("PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256", b"SCRAM-SHA-256"),
        ("PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1", b"SCRAM-SHA-1"),
        ("PLAIN LOGIN CRAM-MD5", b"CRAM-MD5"),  # in clear: before those that show the password
        ("LOGIN PLAIN", b"PLAIN"),
        ("X-BEST LOGIN", b"LOGIN"),
    ],
)
@pytest.mark.parametrize("reply", [b"535 5.7.8 no\r\n", b"454 4.7.0 later\r\n", b"530 5.7.0 no\r\n", b"503 no\r\n"])
async def test_the_order_is_the_clients_and_a_no_is_a_no(offered: str, first: bytes, reply: bytes) -> None:
    """R15 (MailKit CVE-2026-41319 was a downgrade): the password is not shown to who refused its proof."""
    lines: list[bytes] = []

    async def answer(peer: Peer, line: bytes) -> None:
        lines.append(line)
        await peer.write(reply)
        await nothing_follows(peer)

    async with Server(offering(offered, answer)) as server, insecure(server, **CREDENTIALS) as client:
        error = await refusal_of(client)
        assert isinstance(error, AuthenticationError)
        assert error.command == f"AUTH {first.decode()}"
        assert error.phase == "auth"
        assert error.retryable is reply.startswith(b"4")
        assert len(server.peers) == 1
        if first not in (b"PLAIN", b"LOGIN"):
            for secret in (PASSWORD.encode(), b64(PASSWORD.encode())):
                assert secret not in server.peers[0].received
    assert [line.split(b" ")[1] for line in lines] == [first]


@pytest.mark.parametrize(
    ("reply", "goes_on"),
    [
        (b"504 5.5.4 unknown\r\n", True),
        (b"534 5.7.9 too weak\r\n", True),
        (b"538 5.7.11 encrypt\r\n", True),
        (b"502 5.5.1 not implemented\r\n", True),
        (b"500 5.5.2 what\r\n", True),
        (b"501 5.5.2 cannot\r\n", True),
        (b"535 5.7.8 no\r\n", False),
        (b"503 5.5.1 no\r\n", False),
        (b"550 5.7.1 no\r\n", False),
        (b"432 4.7.12 change it\r\n", False),
        (b"421 4.3.2 closing\r\n", False),
    ],
)
async def test_what_is_not_this_one_is_not_no(reply: bytes, goes_on: bool) -> None:
    """R15: the next mechanism only behind 504, 534 and 538, and behind 500, 501 and 502 before any challenge."""
    lines: list[bytes] = []

    async def answer(peer: Peer, line: bytes) -> None:
        lines.append(line)
        await peer.write(reply)
        if goes_on:
            lines.append(await peer.read_line())
            await peer.write(b"235 welcome\r\n")
            await peer.read_line()
            await peer.write(b"421 enough\r\n")
        else:
            await nothing_follows(peer)

    async with Server(offering("SCRAM-SHA-256 PLAIN", answer)) as server, insecure(server, **CREDENTIALS) as client:
        is_closing = goes_on or reply.startswith(b"421")
        error = await refusal_of(client, ServiceUnavailable if is_closing else AuthenticationError)
        assert error.retryable is (is_closing or reply.startswith(b"4"))
    assert [line.split(b" ")[1] for line in lines] == [b"SCRAM-SHA-256", b"PLAIN"][: 1 + goes_on]


@pytest.mark.parametrize(
    ("offered", "text"),
    [
        pytest.param("X-ONLY", "server offers 'X-ONLY', none of SCRAM-SHA-256 ", id="none_in_common"),
        pytest.param("EXTERNAL", "server offers 'EXTERNAL', none of SCRAM-SHA-256 ", id="EXTERNAL"),
        pytest.param("", "server offers no authentication", id="nothing"),
    ],
)
async def test_with_credentials_it_is_never_unauthenticated(offered: str, text: str) -> None:
    """R15: no mechanism, no mail."""

    async def script(peer: Peer) -> None:
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply(*([f"AUTH {offered}"] if offered else [])))
        await nothing_follows(peer)

    async with Server(script) as server, insecure(server, **CREDENTIALS) as client:
        error = await refusal_of(client)
    assert error.reply is None
    assert not error.retryable
    assert text in str(error)


# R16


@pytest.mark.parametrize("reply", [b"250 ok", b"200 ok", b"220 mx", b"221 bye", b"354 go", b"299 ok", b"236 ok"])
@pytest.mark.parametrize("mechanism", [sasl.Plain(USER, PASSWORD), sasl.Login(USER, PASSWORD)], ids=["PLAIN", "LOGIN"])
async def test_only_a_235_is_success(reply: bytes, mechanism: sasl.Mechanism) -> None:
    """R16."""
    script = offering(mechanism.name, saying(reply + b"\r\n"))
    async with Server(script) as server, insecure(server, auth=mechanism) as client:
        await refusal_of(client, RemoteProtocolError)


async def test_success_before_login_asked_for_the_password_is_none() -> None:
    """R16: and the password is not sent."""

    async def answer(peer: Peer, line: bytes) -> None:
        await peer.write(b"334 " + b64(b"Username:") + b"\r\n")
        await peer.read_line()
        await peer.write(b"235 welcome\r\n")
        await nothing_follows(peer)

    auth = sasl.Login(USER, PASSWORD)
    async with Server(offering("LOGIN", answer)) as server, insecure(server, auth=auth) as client:
        assert (await refusal_of(client)).reply is None
        assert b64(PASSWORD.encode()) not in server.peers[0].received


async def test_success_before_scram_was_asked_for_its_proof_is_none() -> None:
    """R16: who has shown nothing has not proved that it knows the password."""
    script = offering("SCRAM-SHA-256", saying(b"235 2.7.0 welcome\r\n"))
    async with Server(script) as server, insecure(server, **CREDENTIALS) as client:
        assert (await refusal_of(client)).reply is None


def server_first(client_first: bytes, **changes: object) -> bytes:
    nonce = re.search(rb",r=([^,]+)", client_first)
    assert nonce is not None
    values: dict[str, object] = {"r": nonce[1].decode() + "Server", "s": "c2FsdHNhbHQ=", "i": 4096, **changes}
    return ",".join(f"{key}={value}" for key, value in values.items()).encode()


def scram_signature(client_first: bytes, first: bytes, client_final: bytes) -> bytes:
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), b"saltsalt", 4096)
    without_proof = client_final.rpartition(b",p=")[0]
    message = b",".join((client_first.removeprefix(b"n,,"), first, without_proof))
    return hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")


def initial_response(line: bytes) -> bytes:
    return base64.b64decode(line.split(b" ")[2])


async def test_a_server_that_speaks_scram_as_it_should() -> None:
    """R16: so that the next tests fail for the reasons that they name."""
    honest = Honest()

    async def answer(peer: Peer, line: bytes) -> None:
        client_first = initial_response(line)
        first = server_first(client_first)
        await peer.write(b"334 " + b64(first) + b"\r\n")
        final = base64.b64decode(await peer.read_line())
        signature = scram_signature(client_first, first, final)
        await peer.write(b"334 " + b64(b"v=" + b64(signature)) + b"\r\n")
        assert await peer.read_line() == b""
        await peer.write(b"235 welcome\r\n")
        await honest.go_on(peer)

    async with Server(offering("SCRAM-SHA-256", answer)) as server, insecure(server, **CREDENTIALS) as client:
        assert (await client.send(FIRST)).complete


@pytest.mark.parametrize(
    "final",
    [
        pytest.param(None, id="R16-no_signature"),
        pytest.param(b"v=" + b64(bytes(32)), id="R16-wrong_signature"),
        pytest.param(b"v=", id="R16-empty_signature"),
        pytest.param(b"e=other-error", id="R16-error"),
        pytest.param(b"", id="R16-nothing"),
        pytest.param(b"v=" + b64(bytes(31)), id="R16-short_signature"),
    ],
)
@pytest.mark.parametrize("in_success", [False, True], ids=["in_a_challenge", "in_the_235"])
async def test_a_server_that_does_not_know_the_password_is_not_believed(final: bytes | None, in_success: bool) -> None:
    """R16: its 235 is no success."""

    async def answer(peer: Peer, line: bytes) -> None:
        await peer.write(b"334 " + b64(server_first(initial_response(line))) + b"\r\n")
        await peer.read_line()
        if final is None or in_success:
            await peer.write(b"235 " + (b64(final) if final else b"welcome") + b"\r\n")
        else:
            await peer.write(b"334 " + b64(final) + b"\r\n")
            assert await peer.read_line() == b"*"
            await peer.write(b"501 5.7.0 cancelled\r\n")
        await nothing_follows(peer)

    async with Server(offering("SCRAM-SHA-256", answer)) as server, insecure(server, **CREDENTIALS) as client:
        assert (await refusal_of(client)).reply is None


FIRST_MESSAGES = {
    "nonce replaced": {"r": "evil"},
    "i=1": {"i": 1},
    "i=4095": {"i": 4095},
    "i=1000001": {"i": 1_000_001},
    "i=2^31": {"i": 2**31},
    "i=10^4000": {"i": "1" + "0" * 4000},
    "i=0": {"i": 0},
    "i=-1": {"i": -1},
    "i of letters": {"i": "many"},
    "salt of no base64": {"s": "!!"},
}


@pytest.mark.parametrize(
    "changes", FIRST_MESSAGES.values(), ids=[f"R16-{name}".replace(" ", "_") for name in FIRST_MESSAGES]
)
async def test_a_first_message_of_scram_that_is_not_acceptable(changes: dict[str, object]) -> None:
    """R16: the exchange is ended by "*"; and at once, whatever the number of iterations is (SCRAM i=2^31)."""

    async def answer(peer: Peer, line: bytes) -> None:
        await peer.write(b"334 " + b64(server_first(initial_response(line), **changes)) + b"\r\n")
        assert await peer.read_line() == b"*"
        await peer.write(b"501 5.7.0 cancelled\r\n")
        await nothing_follows(peer)

    async with Server(offering("SCRAM-SHA-256", answer)) as server, insecure(server, **CREDENTIALS) as client:
        begun = time.process_time()
        assert (await refusal_of(client)).reply is None
        assert time.process_time() - begun < 2  # 2^31 iterations take twenty minutes


@pytest.mark.parametrize("said", [b"235 ok\r\n", b"250 ok\r\n", b"421 bye\r\n", b"junk\r\n", b""])
async def test_what_is_said_to_the_cancellation_changes_nothing(said: bytes) -> None:
    """R16: a 235 to "*" is no success either."""

    async def answer(peer: Peer, line: bytes) -> None:
        await peer.write(b"334 not=base64!\r\n")
        assert await peer.read_line() == b"*"
        await peer.write(said)
        if said:
            await nothing_follows(peer)

    async with Server(offering("SCRAM-SHA-256", answer)) as server, insecure(server, **CREDENTIALS) as client:
        assert (await refusal_of(client)).reply is None


@pytest.mark.parametrize(
    ("auth", "acknowledgement"),
    [
        pytest.param(sasl.XOAuth2(USER, TOKEN), b"", id="R16-XOAUTH2"),
        pytest.param(sasl.OAuthBearer(USER, TOKEN), b"AQ==", id="R16-OAUTHBEARER"),
    ],
)
@pytest.mark.parametrize("verdict", [b"535 5.7.8 no\r\n", b"235 welcome\r\n"], ids=["535", "235"])
async def test_an_error_challenge_is_acknowledged_and_the_verdict_read(
    auth: sasl.Mechanism, acknowledgement: bytes, verdict: bytes
) -> None:
    """R16: its JSON is on the error; a 235 behind it is none."""
    said = {"status": "401", "scope": "mail"}

    async def answer(peer: Peer, line: bytes) -> None:
        await peer.write(b"334 " + b64(json.dumps(said).encode()) + b"\r\n")
        assert await peer.read_line() == acknowledgement
        await peer.write(verdict)
        await nothing_follows(peer)

    async with Server(offering(auth.name, answer)) as server, insecure(server, auth=auth) as client:
        error = await refusal_of(client)
    assert isinstance(error, AuthenticationError)
    if verdict.startswith(b"535"):
        assert error.error_data == said
        assert error.reply is not None
    else:
        assert error.reply is None


# R17


def shapes(secret: str) -> set[str]:
    """Return the forms in which a secret could be seen: as it is, and in base64 at each of the three offsets."""
    octets = secret.encode()
    encoded = {b64(bytes(offset) + octets)[(offset * 8 + 5) // 6 : -4].decode() for offset in range(3)}
    return {secret, repr(secret)[1:-1], repr(octets)[2:-1], *encoded}


FORBIDDEN = shapes(PASSWORD) | shapes(TOKEN)


@pytest.mark.parametrize(
    ("mechanism", "says"),
    [
        pytest.param(sasl.Plain(USER, PASSWORD), "the line", id="R17-PLAIN_echoed"),
        pytest.param(sasl.Plain(USER, PASSWORD), "the password", id="R17-PLAIN_decoded"),
        pytest.param(sasl.Login(USER, PASSWORD), "the line", id="R17-LOGIN_echoed"),
        pytest.param(sasl.Login(USER, PASSWORD), "the password", id="R17-LOGIN_decoded"),
        pytest.param(sasl.XOAuth2(USER, TOKEN), "the line", id="R17-XOAUTH2_echoed"),
        pytest.param(sasl.XOAuth2(USER, TOKEN), "the token", id="R17-XOAUTH2_decoded"),
        pytest.param(sasl.OAuthBearer(USER, TOKEN), "the line", id="R17-OAUTHBEARER_echoed"),
        pytest.param(sasl.Plain(USER, PASSWORD), "nothing", id="R17-PLAIN"),
        pytest.param(sasl.CramMd5(USER, PASSWORD), "nothing", id="R17-CRAM-MD5"),
        pytest.param(sasl.ScramSha256(USER, PASSWORD), "nothing", id="R17-SCRAM-SHA-256"),
    ],
)
@pytest.mark.parametrize("code", [b"535", b"454", b"421"])
async def test_a_secret_is_seen_nowhere(
    mechanism: sasl.Mechanism, says: str, code: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """R17: also if the server repeats it in its refusal (emailjs #339, aiosmtpd #233, postal #1308, go-mail #338)."""
    events: list[TraceEvent] = []

    async def answer(peer: Peer, line: bytes) -> None:
        while line.startswith(b"AUTH ") and line.count(b" ") == 1:
            await peer.write(b"334 " + b64(b"challenge") + b"\r\n")
            line = await peer.read_line()
            if mechanism.name == "LOGIN":
                await peer.write(b"334 " + b64(b"Password:") + b"\r\n")
                line = await peer.read_line()
        text = {
            "the line": line,
            "the password": PASSWORD.encode(),
            "the token": TOKEN.encode(),
            "nothing": b"5.7.8 no",
        }[says]
        await peer.write(code + b"-5.7.8 cannot accept\r\n" + code + b" 5.7.8 '" + text + b"'\r\n")
        await nothing_follows(peer)

    with caplog.at_level(logging.DEBUG, logger="smtplite"):
        async with Server(offering(mechanism.name, answer)) as server:
            async with insecure(server, auth=mechanism, trace=events.append) as client:
                error = await failure_of(client)
                seen = [repr(client), repr(mechanism), str(mechanism)]
    assert type(error) is (ServiceUnavailable if code == b"421" else AuthenticationError)
    everything = "\n".join([*seen, *all_of(error, events, caplog)])
    assert "AUTH" in everything  # it was looked at
    for secret in FORBIDDEN:
        assert secret not in everything


def all_of(error: SMTPError, events: list[TraceEvent], caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return whatever can be read of what happened."""
    seen = ["".join(traceback.format_exception(error)), repr(vars(error)), *error.transcript]
    seen += [repr(vars(pickle.loads(pickle.dumps(error)))), repr(copy.copy(error)), str(error.reply)]
    chained: BaseException | None = error
    while chained is not None:
        seen += [repr(chained), repr(vars(chained))]
        chained = chained.__cause__ or chained.__context__
    return seen + [repr(event) for event in events] + [str(record.__dict__) for record in caplog.records]


MECHANISMS = {
    "PLAIN": sasl.Plain(USER, PASSWORD),
    "LOGIN": sasl.Login(USER, PASSWORD),
    "XOAUTH2": sasl.XOAuth2(USER, TOKEN),
    "OAUTHBEARER": sasl.OAuthBearer(USER, TOKEN),
}


async def last_line(peer: Peer, line: bytes) -> bytes:
    """Ask for what shows the secret, and return the line that does."""
    while line.startswith(b"AUTH LOGIN") or line == b64(USER.encode()):
        await peer.write(b"334 " + b64(b"?") + b"\r\n")
        line = await peer.read_line()
    return line


@pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=[f"R28-{name}" for name in MECHANISMS])
@pytest.mark.parametrize(
    "said",
    [
        b"250 ok %b\r\n",
        b"354 %b\r\n",
        b"220 %b\r\n",
        b"235 %b\r\n550 5.7.1 %b\r\n",
        b"235-%b\r\n550 5.7.1 no\r\n",
        b"%b\r\n",
        b"what is this: %b\r\n",
        b"%b",
        b"535-%b\r\n",
        b"535-no\r\n%b\r\n",
        b"535 no\r\n535 %b\r\n",
        b"504 %b\r\n250 %b\r\n",
        b"334 %b\r\n501 %b\r\n",
        b"334 e30=\r\n501 %b\r\n",
    ],
)
async def test_whatever_a_server_says_to_auth_it_is_quoted_without_the_secret(
    mechanism: sasl.Mechanism, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """R28: also what is no reply, and codes below 400: in error, log, trace and pickle."""
    events: list[TraceEvent] = []
    secret = TOKEN if mechanism.name in ("XOAUTH2", "OAUTHBEARER") else PASSWORD

    async def answer(peer: Peer, line: bytes) -> None:
        line = await last_line(peer, line)
        await peer.write(said.replace(b"%b", line + b" " + secret.encode()))
        if said.endswith(b"%b") or said.startswith(b"535-%b"):
            return
        await nothing_follows(peer)

    with caplog.at_level(logging.DEBUG, logger="smtplite"):
        async with Server(offering(mechanism.name, answer)) as server:
            async with insecure(server, auth=mechanism, trace=events.append) as client:
                error = await failure_of(client)
    everything = "\n".join(all_of(error, events, caplog))
    assert "AUTH" in everything
    for forbidden in FORBIDDEN:
        assert forbidden not in everything


@pytest.mark.parametrize("code", [b"250", b"354", b"421", b"454", b"535"])
async def test_of_a_text_that_could_hold_a_short_secret_nothing_is_shown(
    code: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """R28: looked for in free text, it would be told by its gaps."""
    events: list[TraceEvent] = []

    async def answer(peer: Peer, line: bytes) -> None:
        await peer.write(code + b" a passport\r\n")
        await nothing_follows(peer)

    with caplog.at_level(logging.DEBUG, logger="smtplite"):
        async with Server(offering("PLAIN", answer)) as server:
            async with insecure(server, auth=sasl.Plain(USER, "pass"), trace=events.append) as client:
                error = await failure_of(client)
    everything = "\n".join(all_of(error, events, caplog))
    assert "[redacted]" in everything
    assert " port" not in everything
    assert "a pass" not in everything
    assert "]port" not in everything


async def test_what_a_server_says_about_a_token_does_not_repeat_it(caplog: pytest.LogCaptureFixture) -> None:
    """R28: its JSON stands on the error."""
    events: list[TraceEvent] = []
    said = {"status": "401", TOKEN: [f"bad token {TOKEN}", {"token": TOKEN, "n": 1}]}

    async def answer(peer: Peer, line: bytes) -> None:
        await peer.write(b"334 " + b64(json.dumps(said).encode()) + b"\r\n")
        await peer.read_line()
        await peer.write(b"535 5.7.8 no\r\n")
        await nothing_follows(peer)

    with caplog.at_level(logging.DEBUG, logger="smtplite"):
        async with Server(offering("XOAUTH2", answer)) as server:
            async with insecure(server, auth=sasl.XOAuth2(USER, TOKEN), trace=events.append) as client:
                error = await failure_of(client)
    assert isinstance(error, AuthenticationError)
    assert error.error_data is not None
    assert error.error_data["status"] == "401"
    for forbidden in FORBIDDEN:
        assert forbidden not in "\n".join(all_of(error, events, caplog))


async def test_a_secret_in_a_url_is_seen_nowhere_either() -> None:
    """R17: neither in the error of a wrong URL nor in that of a connection."""
    for url in (
        f"smtp://me:{PASSWORD}@mx.example:99999",
        f"smtp://me:{PASSWORD}@mx.example?port=25",
        f"smtp://me:{PASSWORD}@mx.example/path",
        f"http://me:{PASSWORD}@mx.example",
        f"smtp://me:{PASSWORD}@[::1",
        f"smtp://me:{PASSWORD}?x@mx.example",
    ):
        with pytest.raises(SMTPError) as caught:
            Client.from_url(url)
        shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
        assert PASSWORD not in shown
    honest = Honest("AUTH PLAIN")
    async with Server(honest) as server:
        url = f"smtp://me:{PASSWORD}@127.0.0.1:{server.port}?tls=none"
        async with Client.from_url(url) as client:
            assert PASSWORD not in repr(client)
            assert PASSWORD not in str(await failure_of(client))


async def test_the_content_is_seen_nowhere() -> None:
    """R17: what is traced of it is its size."""
    events: list[TraceEvent] = []
    honest = Honest()
    async with Server(honest) as server, client_at(server, trace=events.append) as client:
        await client.send(SECOND.replace(b"second\r\n", b"very private\r\n"))
    assert events
    assert "very private" not in repr(events)
