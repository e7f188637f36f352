"""SASL without a network: every RFC's vector, every violation, and no secret in anything that is shown."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
import re
import secrets
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtplite import sasl
from smtplite.errors import AuthenticationError, ConfigurationError, LocalProtocolError, SMTPError
from smtplite.protocol import (
    Auth,
    AuthCancel,
    AuthResponse,
    ChallengeReceived,
    Connection,
    Ehlo,
    Replied,
)
from smtplite.sasl import (
    CramMd5,
    Exchange,
    External,
    Login,
    Mechanism,
    OAuthBearer,
    Plain,
    ScramSha1,
    ScramSha256,
    XOAuth2,
    choose,
    password_mechanisms,
    salted_password,
    saslprep,
    usable,
)

SECRET = "pa,ss=w0rd-ähm"
TOKEN = "ya29.s3cr3t-t0ken"


async def fetch(refresh: bool) -> str:
    return TOKEN


EVERY: list[Mechanism] = [
    Plain("user", SECRET),
    Login("user", SECRET),
    CramMd5("user", SECRET),
    ScramSha1("user", SECRET),
    ScramSha256("user", SECRET),
    XOAuth2("user", TOKEN),
    OAuthBearer("user", TOKEN),
    External("user"),
]
every_mechanism = pytest.mark.parametrize("mechanism", EVERY, ids=lambda mechanism: mechanism.name)


# SASLprep


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("", ""),
        ("p w", "p w"),
        ("a\u00a0b\u3000c", "a b c"),  # spaces beyond ASCII
        ("e\u0301", "é"),
        ("a\u200bb\ufeffc", "abc"),  # B.1 wins over C.2.2 and C.1.2
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
        ("\u05d0", "\u05d0"),
    ],
)
def test_saslprep_maps(text: str, prepared: str) -> None:
    """RFC 4013 3, and what its section 2 maps and normalises."""
    assert saslprep(text) == prepared
    assert saslprep(text, stored=True) == prepared


@pytest.mark.parametrize(
    "character",
    [
        "\u0007",  # C.2.1
        "\x7f",
        "\x00",
        "\r",
        "\u0085",  # C.2.2
        "\u2028",
        "\ue000",  # C.3 private use
        "\ufdd0",  # C.4 no character
        pytest.param("\ud800", id="surrogate"),  # C.5
        pytest.param("\ufffd", id="replacement"),  # C.6
        "\u2ff0",  # C.7
        "\u202e",  # C.8
        "\U000e0001",  # C.9
    ],
)
def test_saslprep_prohibits(character: str) -> None:
    for text in (character, f"user{character}", f"{character}ü"):
        with pytest.raises(ConfigurationError, match=r"^username holds a character that SASLprep prohibits"):
            saslprep(text, "username")


@pytest.mark.parametrize("text", ["\u0627\u0031", "1\u0627", "\u0627a\u0627", "a\u0627"])
def test_saslprep_checks_the_direction(text: str) -> None:
    """RFC 4013 3, last line; RFC 3454 6."""
    with pytest.raises(ConfigurationError, match="writing directions"):
        saslprep(text)


def test_saslprep_takes_unassigned_characters_in_queries_only() -> None:
    assert saslprep("p\U0001f600") == "p\U0001f600"
    with pytest.raises(ConfigurationError, match=r"not in Unicode 3\.2"):
        saslprep("p\U0001f600", stored=True)


@given(st.text(), st.booleans())
def test_saslprep_is_idempotent(text: str, stored: bool) -> None:
    try:
        prepared = saslprep(text, stored=stored)
    except ConfigurationError:
        return
    assert saslprep(prepared, stored=stored) == prepared
    assert not set(prepared) & {"\0", "\r", "\n", "\x01"}


# Vectors


def test_plain_vectors() -> None:
    """RFC 4616 4."""
    assert Plain("tim", "tanstaaftanstaaf").exchange().initial_response == b"\0tim\0tanstaaftanstaaf"
    acting = Plain("Kurt", "xipj3plmq", authzid="Ursel").exchange()
    assert acting.initial_response == b"Ursel\0Kurt\0xipj3plmq"
    acting.finish("2.7.0 Welcome")


def test_plain_prepares_both() -> None:
    assert Plain("I\u00adX", "\u2168").exchange().initial_response == b"\0IX\0IX"


def test_cram_md5_vector() -> None:
    """RFC 2195 2."""
    exchange = CramMd5("tim", "tanstaaftanstaaf").exchange()
    assert exchange.initial_response is None
    response = exchange.respond(b64decode("PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+"))
    assert b64encode(response) == b"dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"
    exchange.finish()


def test_cram_md5_without_md5_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(*_: object) -> bytes:
        raise ValueError("[digital envelope routines] unsupported")

    exchange = CramMd5("tim", SECRET).exchange()
    monkeypatch.setattr("hmac.digest", digest)
    with pytest.raises(AuthenticationError, match="this Python has no MD5"):
        exchange.respond(b"<1@x>")


@pytest.mark.parametrize("prompts", [(b"Username:", b"Password:"), (b"User Name\0", b"Password\0"), (b"", b"\xff?")])
def test_login_does_not_read_the_prompts(prompts: tuple[bytes, bytes]) -> None:
    exchange = Login("tim", "p\r\n\0 ä").exchange()
    assert exchange.initial_response is None
    assert exchange.respond(prompts[0]) == b"tim"
    assert exchange.respond(prompts[1]) == "p\r\n\0 ä".encode()
    exchange.finish("ok")


@pytest.mark.parametrize("identity", ["", "tim@example.com", "jürgen"])
def test_external_sends_the_identity(identity: str) -> None:
    """RFC 4422 A.4."""
    exchange = External(identity).exchange()
    assert exchange.initial_response == identity.encode()
    exchange.finish()


def test_empty_initial_response_is_an_equals_sign() -> None:
    exchange = External().exchange()
    assert Auth(exchange.name, exchange.initial_response).to_bytes() == b"AUTH EXTERNAL =\r\n"


@attrs.frozen
class Vector:
    """One published SCRAM exchange, user "user", password "pencil"."""

    mechanism: Mechanism
    nonce: str
    first: bytes
    server_first: bytes
    final: bytes
    server_final: bytes


RFC_5802 = Vector(
    ScramSha1("user", "pencil"),
    "fyko+d2lbbFgONRv9qkxdawL",
    b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
    b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
    b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
    b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
)
RFC_7677 = Vector(
    ScramSha256("user", "pencil"),
    "rOprNGfwEbeRWgbNEkqO",
    b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
)
both_vectors = pytest.mark.parametrize("vector", [RFC_5802, RFC_7677], ids=["RFC 5802", "RFC 7677"])


def begin(vector: Vector) -> Exchange:
    assert isinstance(vector.mechanism, ScramSha1 | ScramSha256)
    return Exchange(vector.mechanism, vector.mechanism.steps(vector.nonce))


def proved(vector: Vector) -> Exchange:
    exchange = begin(vector)
    assert exchange.initial_response == vector.first
    assert exchange.respond(vector.server_first) == vector.final
    return exchange


@both_vectors
def test_scram_vectors_with_the_signature_in_a_challenge(vector: Vector) -> None:
    exchange = proved(vector)
    assert exchange.respond(vector.server_final) == b""
    exchange.finish("2.7.0 Authentication successful")


@both_vectors
@pytest.mark.parametrize("text", ["{}", "2.7.0 {}", "{} Authentication successful", "2.7.0 ok\n2.7.0 {}"])
def test_scram_vectors_with_the_signature_in_the_success(vector: Vector, text: str) -> None:
    proved(vector).finish(text.format(b64encode(vector.server_final).decode()))


def test_scram_signature_in_both_places_is_read_once() -> None:
    exchange = proved(RFC_7677)
    assert exchange.respond(RFC_7677.server_final) == b""
    exchange.finish(b64encode(RFC_7677.server_final).decode())


def test_salted_password_vector() -> None:
    """RFC 6070 2, and the salted password of RFC 5802 5."""
    assert salted_password("sha1", b"password", b"salt", 4096).hex() == "4b007901b765489abead49d926f721d065a429c1"
    assert (
        salted_password("sha1", b"pencil", b64decode("QSXCR+Q6sek8bf92"), 4096).hex()
        == "1d96ee3a529b5a5f9e47c01f229a2cb8a6e15f7d"
    )


OAUTH_TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="


def test_oauthbearer_vector() -> None:
    """RFC 7628 4.1."""
    exchange = OAuthBearer("user@example.com", OAUTH_TOKEN, host="server.example.com", port=143).exchange()
    assert exchange.initial_response == b64decode(
        "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyI"
        "HZGOWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )
    exchange.finish("ok")


def test_oauthbearer_rejected_vector() -> None:
    """RFC 7628 4.3: the error is acknowledged with 0x01; then comes the server's 535."""
    exchange = OAuthBearer("user@example.com", OAUTH_TOKEN).exchange()
    assert exchange.error_data is None
    response = exchange.respond(
        b64decode(
            "eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIiwic2NvcGUiOiJleGFtcGxlX3Njb3BlIiwib3BlbmlkLWNvbmZpZ3VyYXRpb24i"
            "OiJodHRwczovL2V4YW1wbGUuY29tLy53ZWxsLWtub3duL29wZW5pZC1jb25maWd1cmF0aW9uIn0="
        )
    )
    assert AuthResponse(response).to_bytes() == b"AQ==\r\n"
    assert exchange.error_data == {
        "status": "invalid_token",
        "scope": "example_scope",
        "openid-configuration": "https://example.com/.well-known/openid-configuration",
    }


def test_oauthbearer_escapes_the_username() -> None:
    assert OAuthBearer("a,b=c", "t").exchange().initial_response == b"n,a=a=2Cb=3Dc,\x01auth=Bearer t\x01\x01"


def test_xoauth2_vector() -> None:
    """Google's published example, and its error."""
    exchange = XOAuth2("someuser@example.com", "vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg==").exchange()
    assert exchange.initial_response == b64decode(
        "dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB2RjlkZnQ0cW1UYzJOdmIzUmxja0JoZEhSaGRtbHpkR0V1WTI5dENnPT0BAQ=="
    )
    challenge = "eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIG1hYyIsInNjb3BlIjoiaHR0cHM6Ly9tYWlsLmdvb2dsZS5jb20vIn0K"
    assert exchange.respond(b64decode(challenge)) == b""
    assert exchange.error_data == {
        "status": "401",
        "schemes": "bearer mac",
        "scope": "https://mail.google.com/",
    }


# A server of the test's own, after RFC 5802 3 and 5


class ScramServer:
    def __init__(self, algorithm: str, username: str, password: str, iterations: int = 4096) -> None:
        self.algorithm = algorithm
        self.user = username
        self.salt = secrets.token_bytes(16)
        self.iterations = iterations
        salted = hashlib.pbkdf2_hmac(algorithm, password.encode(), self.salt, iterations)
        self.stored_key = hashlib.new(algorithm, self._hmac(salted, b"Client Key")).digest()
        self.server_key = self._hmac(salted, b"Server Key")
        self.authzid = ""

    def _hmac(self, key: bytes, message: bytes) -> bytes:
        return hmac.new(key, message, self.algorithm).digest()

    def first(self, message: bytes) -> bytes:
        match = re.fullmatch(r"n,(?:a=([^,]+))?,(n=([^,]+),r=([!-+\--~]+))", message.decode())
        assert match is not None
        authzid, self.bare, name, nonce = match.groups()
        self.header = message.decode()[: -len(self.bare)]
        self.authzid = self.unescape(authzid or "")
        assert self.unescape(name) == self.user
        self.nonce = nonce + secrets.token_hex(8)
        self.sent = f"r={self.nonce},s={b64encode(self.salt).decode()},i={self.iterations}"
        return self.sent.encode()

    @staticmethod
    def unescape(name: str) -> str:
        assert re.fullmatch(r"(?:[^=,\0]|=2C|=3D)*", name, re.DOTALL)
        return name.replace("=2C", ",").replace("=3D", "=")

    def final(self, message: bytes) -> bytes:
        without, _, proof = message.decode().rpartition(",p=")
        assert without == f"c={b64encode(self.header.encode()).decode()},r={self.nonce}"
        signed = f"{self.bare},{self.sent},{without}".encode()
        signature = self._hmac(self.stored_key, signed)
        client_key = bytes(a ^ b for a, b in zip(b64decode(proof, validate=True), signature, strict=True))
        if hashlib.new(self.algorithm, client_key).digest() != self.stored_key:
            return b"e=invalid-proof"
        return b"v=" + b64encode(self._hmac(self.server_key, signed))


names = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1) | st.text("a,=ü ñ", min_size=1)


@settings(max_examples=40, deadline=None)
@given(names, names, st.text("ab,=\u05d0"), st.sampled_from([ScramSha1, ScramSha256]), st.booleans())
def test_scram_with_an_independent_server(
    username: str, password: str, authzid: str, kind: type[ScramSha1 | ScramSha256], in_success: bool
) -> None:
    server = ScramServer("sha1" if kind is ScramSha1 else "sha256", username, password)
    exchange = kind(username, password, authzid=authzid).exchange()
    assert exchange.initial_response is not None or len(username) + len(authzid) > 100
    first = exchange.initial_response if exchange.initial_response is not None else exchange.respond(b"")
    final = server.final(exchange.respond(server.first(first)))
    assert server.authzid == authzid
    if in_success:
        exchange.finish(f"2.7.0 {b64encode(final).decode()}")
    else:
        assert exchange.respond(final) == b""
        exchange.finish("2.7.0 ok")


def test_scram_with_a_wrong_password_reports_the_servers_error() -> None:
    server = ScramServer("sha256", "user", "another")
    exchange = ScramSha256("user", SECRET).exchange()
    final = server.final(exchange.respond(server.first(exchange.initial_response or b"")))
    with pytest.raises(AuthenticationError, match=r"with the error b'invalid-proof': check username and password"):
        exchange.respond(final)


def test_scram_nonces_are_long_and_never_the_same() -> None:
    first = {ScramSha256("user", "x").exchange().initial_response for _ in range(50)}
    assert len(first) == 50
    assert all(message is not None and len(message) == len(b"n,,n=user,r=") + 24 for message in first)


def test_scram_ignores_optional_extensions() -> None:
    """RFC 5802 5.1: unrecognised optional attributes are ignored, though signed."""
    exchange = begin(RFC_7677)
    assert exchange.respond(RFC_7677.server_first + b",x=1,Y=a=b\xc3\xa4").startswith(b"c=biws,r=")


# What a server may not do


NONCE = RFC_7677.server_first.split(b",")[0]
MALFORMED = "a first message that is none of SCRAM-SHA-256"


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (b"", MALFORMED),
        (b"m=ext," + RFC_7677.server_first, "a mandatory extension of SCRAM-SHA-256"),
        (RFC_7677.server_first + b",m=ext", MALFORMED),
        (RFC_7677.server_first + b",", MALFORMED),
        (RFC_7677.server_first + b",x=", MALFORMED),
        (RFC_7677.server_first + b",x=\0", MALFORMED),
        (RFC_7677.server_first + b"\n", MALFORMED),
        (b" " + RFC_7677.server_first, MALFORMED),
        (b"s=W22ZaJ0SNY7soEsUEjb6gQ==," + NONCE + b",i=4096", MALFORMED),
        (NONCE + b",i=4096,s=W22ZaJ0SNY7soEsUEjb6gQ==", MALFORMED),
        (NONCE + b",s=W22ZaJ0SNY7soEsUEjb6gQ==", MALFORMED),
        (NONCE + b",s=,i=4096", MALFORMED),
        (NONCE + b",s=====,i=4096", MALFORMED),
        (NONCE + b",s=W22,i=4096", MALFORMED),
        (NONCE + b",s=W2*Z,i=4096", MALFORMED),
        (NONCE + b",s=W2==W22Z,i=4096", MALFORMED),
        (NONCE + b"\x7f,s=W22Z,i=4096", MALFORMED),
        (NONCE + b" ,s=W22Z,i=4096", MALFORMED),
        (NONCE + b",s=W22Z,i=", MALFORMED),
        (NONCE + b",s=W22Z,i=0", MALFORMED),
        (NONCE + b",s=W22Z,i=04096", MALFORMED),
        (NONCE + b",s=W22Z,i=+4096", MALFORMED),
        (NONCE + b",s=W22Z,i= 4096", MALFORMED),
        (NONCE + b",s=W22Z,i=4_096", MALFORMED),
        (NONCE + b",s=W22Z,i=4096.0", MALFORMED),
        (NONCE + b",s=W22Z,i=-4096", MALFORMED),
        (NONCE + ",s=W22Z,i=٤٠٩٦".encode(), MALFORMED),
        (NONCE + b",s=W22Z,i=1", "too few iterations"),
        (NONCE + b",s=W22Z,i=4095", "too few iterations"),
        (NONCE + b",s=W22Z,i=1000001", "too many iterations"),
        (NONCE + b",s=W22Z,i=" + b"9" * 9000, "too many iterations"),
        (b"r=rOprNGfwEbeRWgbNEkqO,s=W22Z,i=4096", "a nonce that does not extend ours"),
        (b"r=rOprNGfwEbeRWgbNEkq,s=W22Z,i=4096", "a nonce that does not extend ours"),
        (b"r=another,s=W22Z,i=4096", "a nonce that does not extend ours"),
        (b"r=xrOprNGfwEbeRWgbNEkqO,s=W22Z,i=4096", "a nonce that does not extend ours"),
        (b"e=unknown-user", "with the error b'unknown-user'"),
        (b"e=", "a final message that is none of SCRAM-SHA-256"),
        (b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", MALFORMED),
    ],
)
def test_scram_first_messages_that_are_refused(message: bytes, what: str) -> None:
    with pytest.raises(AuthenticationError, match=what):
        begin(RFC_7677).respond(message)


@pytest.mark.parametrize("iterations", [b"4096", b"4097"])
def test_scram_iterations_within_bounds(iterations: bytes) -> None:
    assert begin(RFC_7677).respond(NONCE + b",s=W22Z,i=" + iterations)


def test_scram_most_iterations() -> None:
    """The upper bound itself is accepted, and its work done where the session wants: in another thread."""
    exchange = ScramSha1("user", "pencil").exchange()
    server = ScramServer("sha1", "user", "pencil", sasl.MAX_ITERATIONS)
    challenge = server.first(exchange.initial_response or b"")
    assert exchange.is_costly(challenge)
    responses: list[bytes] = []
    thread = threading.Thread(target=lambda: responses.append(exchange.respond(challenge)))
    thread.start()
    thread.join()
    assert exchange.respond(server.final(responses[0])) == b""
    exchange.finish()


@pytest.mark.parametrize(
    ("iterations", "is_costly"),
    [
        (b"4095", False),
        (b"20000", False),
        (b"20001", True),
        (b"1000000", True),
        (b"1000001", False),
        (b"9" * 99, False),
    ],
)
def test_costly_is_what_would_stall_the_loop(iterations: bytes, is_costly: bool) -> None:
    exchange = begin(RFC_7677)
    assert exchange.is_costly(NONCE + b",s=W22Z,i=" + iterations) is is_costly
    assert not exchange.is_costly(RFC_7677.server_final)
    assert not exchange.is_costly(None)
    assert not exchange.is_costly(b"")
    deferred = ScramSha256("u" * 500, "x").exchange()
    assert not deferred.is_costly(NONCE + b",s=W22Z,i=20001")  # answered with the initial response


@every_mechanism
def test_only_scram_is_costly(mechanism: Mechanism) -> None:
    challenge = NONCE + b",s=W22Z,i=500000"
    assert mechanism.exchange().is_costly(challenge) is mechanism.name.startswith("SCRAM")


FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (b"", "a final message that is none of"),
        (b"v=", "a final message that is none of"),
        (b"v=6rri*", "a final message that is none of"),
        (FINAL + b"\n", "a final message that is none of"),
        (FINAL + b",m=x", "a final message that is none of"),
        (b"x=1," + FINAL, "a final message that is none of"),
        (b"V" + FINAL[1:], "a final message that is none of"),
        (b"v=6rri", "a wrong signature"),
        (b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "a wrong signature"),
        (RFC_5802.server_final, "a wrong signature"),
        (b"e=other-error", "with the error b'other-error'"),
        # what is none of RFC 5802's could be what another mechanism showed (rule R28)
        (b"e=\x1b[2J", "server refused [A-Z0-9-]+: check username and password"),
        (b"e=" + b"x" * 9000, "server refused [A-Z0-9-]+: check username and password"),
    ],
)
def test_scram_final_messages_that_are_refused(message: bytes, what: str) -> None:
    with pytest.raises(AuthenticationError, match=what) as caught:
        proved(RFC_7677).respond(message)
    assert len(str(caught.value)) < 300


def test_scram_final_message_may_have_extensions() -> None:
    assert proved(RFC_7677).respond(FINAL + b",x=1") == b""


@pytest.mark.parametrize("text", ["", "2.7.0 Authentication successful", "ZT1vdGhlcg==", FINAL.decode(), "dj0="])
def test_scram_success_without_the_signature_is_none(text: str) -> None:
    with pytest.raises(AuthenticationError):
        proved(RFC_7677).finish(text)


def test_scram_success_with_a_wrong_signature_is_none() -> None:
    with pytest.raises(AuthenticationError, match="a wrong signature"):
        proved(RFC_7677).finish(b64encode(RFC_5802.server_final).decode())


def test_scram_success_before_its_proof_is_none() -> None:
    for text in ("ok", b64encode(FINAL).decode()):
        with pytest.raises(AuthenticationError):
            begin(RFC_7677).finish(text)


@pytest.mark.parametrize("mechanism", [Login("u", "p"), CramMd5("u", "p"), ScramSha256("u", "p"), ScramSha1("u", "p")])
def test_success_at_once_is_refused(mechanism: Mechanism) -> None:
    """A server that greets anybody has proved nothing: who is it?"""
    exchange = mechanism.exchange()
    with pytest.raises(AuthenticationError, match=f"reported success before {mechanism.name} was finished"):
        exchange.finish("2.7.0 welcome")


def test_success_after_logins_first_prompt_is_refused() -> None:
    exchange = Login("u", "p").exchange()
    exchange.respond(b"Username:")
    with pytest.raises(AuthenticationError, match="before LOGIN was finished"):
        exchange.finish()


def run(exchange: Exchange) -> Exchange:
    """Lead an exchange to where only success may follow."""
    if exchange.name == "LOGIN":
        exchange.respond(b"Username:")
        exchange.respond(b"Password:")
    elif exchange.name == "CRAM-MD5":
        exchange.respond(b"<1@x>")
    elif exchange.name.startswith("SCRAM"):
        server = ScramServer("sha256" if "256" in exchange.name else "sha1", "user", SECRET)
        exchange.respond(server.final(exchange.respond(server.first(exchange.initial_response or b""))))
    elif exchange.name in ("XOAUTH2", "OAUTHBEARER"):
        exchange.respond(b"{}")
    return exchange


@every_mechanism
def test_a_challenge_after_the_end_is_refused(mechanism: Mechanism) -> None:
    exchange = run(mechanism.exchange())
    with pytest.raises(AuthenticationError, match=f"sent a challenge after {mechanism.name} was finished"):
        exchange.respond(b"more")


@every_mechanism
def test_a_challenge_that_is_no_base64_is_refused(mechanism: Mechanism) -> None:
    with pytest.raises(AuthenticationError, match="a challenge that is not base64"):
        mechanism.exchange().respond(None)


@every_mechanism
def test_success_after_a_refusal_is_none(mechanism: Mechanism) -> None:
    """The session cancels; a 235 to the "*" must not count."""
    exchange = mechanism.exchange()
    with pytest.raises(AuthenticationError):
        exchange.respond(None)
    with pytest.raises(AuthenticationError, match=f"went on after {mechanism.name} had ended"):
        exchange.finish("ok")
    with pytest.raises(AuthenticationError, match="had ended"):
        exchange.respond(b"")


def test_an_exchange_is_used_once() -> None:
    exchange = Plain("u", "p").exchange()
    exchange.finish()
    with pytest.raises(AuthenticationError, match="had ended"):
        exchange.finish()
    with pytest.raises(AuthenticationError, match="had ended"):
        exchange.respond(b"")


@pytest.mark.parametrize("mechanism", [XOAuth2("u", "t"), OAuthBearer("u", "t")])
def test_success_after_a_rejected_token_is_refused(mechanism: Mechanism) -> None:
    exchange = mechanism.exchange()
    exchange.respond(b'{"status":"401"}')
    with pytest.raises(AuthenticationError, match="success although it had rejected the token"):
        exchange.finish()


@attrs.frozen
class Polite(Mechanism):
    """A mechanism of the user's own: the server must say please, and is answered with an empty line."""

    name = "X-POLITE"

    def steps(self) -> sasl.Steps:
        please = yield b"hello"
        yield b""
        if please is None:
            yield b""


def test_a_mechanism_of_ones_own() -> None:
    exchange = Polite().exchange()
    assert exchange.initial_response == b"hello"
    assert exchange.respond(b"please") == b""
    exchange.finish("ok")
    with pytest.raises(AuthenticationError, match="before X-POLITE was finished"):
        Polite().exchange().finish("ok")


def test_cram_md5_refuses_an_empty_challenge() -> None:
    with pytest.raises(AuthenticationError, match="an empty challenge"):
        CramMd5("u", "p").exchange().respond(b"")


@pytest.mark.parametrize(
    "challenge", [b"", b"{", b"[1]", b'"x"', b"null", b"{}", b"\xff\xfe{", b"[" * 9000, b'{"x":' * 9000, b"9" * 9000]
)
def test_a_token_error_that_cannot_be_read_is_acknowledged_all_the_same(challenge: bytes) -> None:
    for mechanism, response in ((XOAuth2("u", "t"), b""), (OAuthBearer("u", "t"), b"\x01")):
        exchange = mechanism.exchange()
        assert exchange.respond(challenge) == response
        assert exchange.error_data is None


def server_data() -> st.SearchStrategy[list[bytes]]:
    likely = st.sampled_from(
        [b"", b"Username:", b"e=x", FINAL, b"{}", RFC_7677.server_first, RFC_5802.server_first, b'{"status":"400"}']
    )
    return st.lists(likely | st.binary(max_size=40), max_size=6)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(EVERY), server_data(), st.text(max_size=40))
def test_whatever_a_server_says_the_only_error_is_ours(mechanism: Mechanism, said: list[bytes], text: str) -> None:
    exchange = mechanism.exchange()
    refused = None
    try:
        for challenge in said:
            exchange.is_costly(challenge)
            assert isinstance(exchange.respond(challenge), bytes)
        exchange.finish(text)
    except AuthenticationError as error:
        refused = error
    if refused is not None:
        assert (refused.reply, refused.phase, refused.retryable) == (None, "auth", False)
        assert refused.command == f"AUTH {mechanism.name}"


# The initial response and the length of its line


def test_a_line_of_512_octets_carries_the_initial_response_and_a_longer_one_goes_without() -> None:
    """RFC 4954 4: the limit is the command line's, CRLF included."""
    fits = External("x" * 372).exchange()
    assert fits.initial_response is not None
    assert len(Auth("EXTERNAL", fits.initial_response).to_bytes()) == sasl.MAX_AUTH_LINE_BYTES == 512
    over = External("x" * 373).exchange()
    assert over.initial_response is None
    assert over.respond(b"") == b"x" * 373
    over.finish()
    for length in range(300, 400):
        mechanism = Plain("u", "p" * length)
        response = next(mechanism.steps())
        is_short = len(Auth("PLAIN", response).to_bytes()) <= 512
        assert (mechanism.exchange().initial_response is not None) is is_short


def test_the_deferred_initial_response_answers_any_first_challenge_and_is_no_error() -> None:
    exchange = OAuthBearer("u", "t" * 600).exchange()
    assert exchange.initial_response is None
    assert exchange.respond(b'{"status":"x"}').startswith(b"n,a=u,\x01auth=Bearer ttt")
    assert exchange.error_data is None
    assert exchange.respond(b'{"status":"401"}') == b"\x01"
    assert exchange.error_data == {"status": "401"}


def test_success_before_the_deferred_response_was_asked_for_is_refused() -> None:
    exchange = Plain("u", "p" * 600).exchange()
    with pytest.raises(AuthenticationError, match="before PLAIN was finished"):
        exchange.finish("ok")


# Tokens


def drive(awaitable: Any) -> Any:
    """Await what awaits nothing."""
    try:
        awaitable.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


@pytest.mark.parametrize("kind", [XOAuth2, OAuthBearer])
def test_a_callbacks_token_is_put_in_by_the_session(kind: type[XOAuth2 | OAuthBearer]) -> None:
    asked = []

    async def token(refresh: bool) -> str:
        asked.append(refresh)
        return "fresh" if refresh else "stale"

    mechanism = kind("user", token)
    assert mechanism.callback is token
    with pytest.raises(LocalProtocolError, match="await callback, then use with_token"):
        mechanism.exchange()
    for refresh, expected in ((False, b"Bearer stale"), (True, b"Bearer fresh")):
        ready = mechanism.with_token(drive(token(refresh)))
        assert type(ready) is kind
        assert ready.callback is None
        assert expected in (ready.exchange().initial_response or b"")
    assert asked == [False, True]
    assert mechanism.callback is token


def test_with_token_keeps_the_rest() -> None:
    ready = OAuthBearer("u", fetch, host="h", port=25).with_token("t")
    assert ready == OAuthBearer("u", "t", host="h", port=25)
    assert ready.exchange().initial_response == b"n,a=u,\x01host=h\x01port=25\x01auth=Bearer t\x01\x01"


BAD_TOKENS = ["", "a b", "a\x01auth=Bearer evil", "a\n", "a\r\n", "ü", "\ud800", "a\x00", "\x7f"]


@pytest.mark.parametrize("token", BAD_TOKENS)
@pytest.mark.parametrize("kind", [XOAuth2, OAuthBearer])
def test_a_token_cannot_inject(kind: type[XOAuth2 | OAuthBearer], token: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^token is empty, or holds a space"):
        kind("u", token)
    with pytest.raises(AuthenticationError, match=r"^token callback gave a value that is empty, or holds") as caught:
        kind("u", fetch).with_token(token)
    assert caught.value.reply is None
    assert caught.value.command == f"AUTH {kind.name}"


@pytest.mark.parametrize("token", [None, b"token", 1])
def test_a_token_is_a_str(token: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^token must be a str, or an async function of one argument"):
        XOAuth2("u", token)
    with pytest.raises(AuthenticationError, match=r"gave a value that is (NoneType|bytes|int), not str"):
        XOAuth2("u", fetch).with_token(token)


@pytest.mark.parametrize("username", ["u\x01auth=Bearer evil", "u\n", "u\0", "\x85", "u\x7f"])
@pytest.mark.parametrize("kind", [XOAuth2, OAuthBearer])
def test_a_username_cannot_inject(kind: type[XOAuth2 | OAuthBearer], username: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^username holds a control character"):
        kind(username, "t")


@pytest.mark.parametrize("options", [{"host": ""}, {"host": "a\x01b"}, {"host": "ü"}, {"host": b"h"}])
def test_a_host_cannot_inject(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"^host must be a host name"):
        OAuthBearer("u", "t", **options)


@pytest.mark.parametrize("port", [0, 65536, "25", True, 2.5])
def test_a_port_is_a_number(port: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^port must be a number from 1 to 65535"):
        OAuthBearer("u", "t", port=port)


# What a caller may not pass


PASSWORD_KINDS: list[Callable[..., Mechanism]] = [Plain, Login, CramMd5, ScramSha1, ScramSha256]
PREPARED_KINDS: list[Callable[..., Mechanism]] = [Plain, ScramSha1, ScramSha256]


@pytest.mark.parametrize("kind", PASSWORD_KINDS)
@pytest.mark.parametrize(
    ("value", "what"),
    [("", "is empty"), (b"x", "must be a str, not bytes"), (None, "not NoneType"), ("a\udcff", "surrogate")],
)
def test_username_and_password_are_checked_and_named(kind: Callable[..., Mechanism], value: Any, what: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^username .*{what}"):
        kind(value, "p")
    with pytest.raises(ConfigurationError, match=rf"^password .*{what}"):
        kind("u", value)


@pytest.mark.parametrize("kind", PREPARED_KINDS)
@pytest.mark.parametrize("value", ["a\0b", "password\n", "\u00ad\u200b", "\u0627\u0031"])
def test_what_saslprep_refuses_is_refused_by_name(kind: Callable[..., Mechanism], value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^username "):
        kind(value, "p")
    with pytest.raises(ConfigurationError, match=r"^password "):
        kind("u", value)


@pytest.mark.parametrize("kind", PREPARED_KINDS)
def test_authzid_holds_no_nul(kind: Callable[..., Mechanism]) -> None:
    with pytest.raises(ConfigurationError, match=r"^authzid holds a NUL"):
        kind("u", "p", authzid="a\0b")
    with pytest.raises(ConfigurationError, match=r"^authzid must be a str"):
        kind("u", "p", authzid=None)


def test_identity_holds_no_nul() -> None:
    with pytest.raises(ConfigurationError, match=r"^identity holds a NUL"):
        External("a\0b")


def test_scram_passwords_are_stored_strings() -> None:
    """RFC 5802 2.2 and 5.1: unassigned characters in the username, but not in the password."""
    assert ScramSha256("u\U0001f600", "p").exchange().initial_response
    with pytest.raises(ConfigurationError, match=r"^password .*which SCRAM cannot use"):
        ScramSha256("u", "p\U0001f600")


# Values


@every_mechanism
def test_mechanisms_are_values(mechanism: Mechanism) -> None:
    twin = copy.deepcopy(mechanism)
    assert twin == mechanism
    assert hash(twin) == hash(mechanism)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        mechanism.username = "x"  # type: ignore[attr-defined]


def test_mechanisms_of_the_same_fields_are_not_equal() -> None:
    assert len({Plain("u", "p"), Login("u", "p"), ScramSha1("u", "p"), ScramSha256("u", "p"), Plain("u", "q")}) == 5


def test_names_are_the_registered_ones() -> None:
    assert [mechanism.name for mechanism in EVERY] == [
        "PLAIN",
        "LOGIN",
        "CRAM-MD5",
        "SCRAM-SHA-1",
        "SCRAM-SHA-256",
        "XOAUTH2",
        "OAUTHBEARER",
        "EXTERNAL",
    ]
    for mechanism in EVERY:
        assert Auth(mechanism.name).mechanism == mechanism.name
        assert mechanism.exchange().name == mechanism.name


# The choice


def mechanism_names(mechanisms: Any) -> list[str]:
    return [mechanism.name for mechanism in mechanisms]


SECURE_ORDER = ["SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN", "CRAM-MD5"]
CLEAR_ORDER = ["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"]


def test_the_order_under_tls_and_in_clear() -> None:
    assert mechanism_names(password_mechanisms("u", "p", is_secure=True)) == SECURE_ORDER
    assert mechanism_names(password_mechanisms("u", "p", is_secure=False)) == CLEAR_ORDER


def test_a_password_that_scram_cannot_take_goes_without_it() -> None:
    assert mechanism_names(password_mechanisms("u", "\U0001f600", is_secure=True)) == SECURE_ORDER[2:]
    assert mechanism_names(password_mechanisms("u", "\U0001f600", is_secure=False)) == CLEAR_ORDER[2:]


def test_a_password_with_a_line_ending_is_refused_rather_than_sent_some_other_way() -> None:
    with pytest.raises(ConfigurationError, match=r"^password holds .* such as a line ending"):
        password_mechanisms("u", "from a file\n", is_secure=True)


def test_usable_keeps_the_clients_order() -> None:
    ours = password_mechanisms("u", "p", is_secure=True)
    assert mechanism_names(usable(ours, ("LOGIN", "PLAIN", "GSSAPI", "SCRAM-SHA-1"))) == [
        "SCRAM-SHA-1",
        "PLAIN",
        "LOGIN",
    ]
    assert usable(ours, ()) == []


def test_choose() -> None:
    ours = password_mechanisms("u", "p", is_secure=True)
    assert mechanism_names(choose(ours, ["LOGIN", "PLAIN"], is_secure=True, allow_insecure=False)) == ["PLAIN", "LOGIN"]
    assert mechanism_names(choose(iter(ours), ["LOGIN"], is_secure=False, allow_insecure=True)) == ["LOGIN"]


@pytest.mark.parametrize(
    ("offered", "is_secure", "what"),
    [
        (["PLAIN"], False, "client does not authenticate unencrypted"),
        ([], False, "client does not authenticate unencrypted"),
        ([], True, "server offers no authentication"),
        (["GSSAPI", "NTLM"], True, "server offers 'GSSAPI NTLM', none of EXTERNAL: pass a mechanism"),
        (["X" * 20] * 500, True, "server offers 'X"),
    ],
)
def test_choose_says_why_there_is_none(offered: list[str], is_secure: bool, what: str) -> None:
    with pytest.raises(AuthenticationError, match=what) as caught:
        choose([External()], offered, is_secure=is_secure, allow_insecure=False)
    assert caught.value.reply is None
    assert caught.value.phase == "auth"
    assert len(str(caught.value)) < 300


# As the session does it


def connected(offered: str) -> Connection:
    connection = Connection()
    connection.receive_data(b"220 hi\r\n")
    connection.next_event()
    connection.send(Ehlo("me.example"))
    connection.receive_data(f"250-hi\r\n250 AUTH {offered}\r\n".encode())
    connection.next_event()
    return connection


def authenticate(mechanism: Mechanism, replies: Iterator[bytes]) -> tuple[list[bytes], str]:
    """Drive the protocol as the docstring of `smtplite.sasl` says; replies may depend on nothing but their order."""
    connection = connected(mechanism.name)
    exchange = mechanism.exchange()
    written = [connection.send(Auth(exchange.name, exchange.initial_response))]
    refused: AuthenticationError | None = None
    while True:
        connection.receive_data(next(replies))
        event = connection.next_event()
        if isinstance(event, ChallengeReceived):
            try:
                written.append(connection.send(AuthResponse(exchange.respond(event.challenge))))
            except AuthenticationError as error:
                refused = error
                written.append(connection.send(AuthCancel()))
            continue
        assert isinstance(event, Replied)
        if refused is not None:
            return written, str(refused)
        if event.reply.is_positive:
            exchange.finish(event.reply.text)
        return written, str(event.reply)


def test_a_session_with_plain() -> None:
    written, _ = authenticate(Plain("tim", "tanstaaftanstaaf"), iter([b"235 2.7.0 ok\r\n"]))
    assert written == [b"AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm\r\n"]


def test_a_session_with_login() -> None:
    replies = [b"334 VXNlcm5hbWU6\r\n", b"334 UGFzc3dvcmQ6\r\n", b"235 ok\r\n"]
    written, _ = authenticate(Login("tim", "secret"), iter(replies))
    assert written == [b"AUTH LOGIN\r\n", b"dGlt\r\n", b"c2VjcmV0\r\n"]


def test_a_session_with_a_long_token_takes_two_steps() -> None:
    replies = [b"334 \r\n", b"334 eyJzdGF0dXMiOiI0MDEifQ==\r\n", b"535 5.7.8 no\r\n"]
    written, reply = authenticate(XOAuth2("tim", "t" * 1000), iter(replies))
    assert written[0] == b"AUTH XOAUTH2\r\n"
    assert b64decode(written[1]).startswith(b"user=tim\x01auth=Bearer ttt")
    assert written[2] == b"\r\n"
    assert reply.startswith("535")


@pytest.mark.parametrize("in_success", [True, False])
def test_a_session_with_scram(in_success: bool) -> None:
    exchange = begin(RFC_7677)
    connection = connected("SCRAM-SHA-256")
    connection.send(Auth(exchange.name, exchange.initial_response))
    final = b64encode(RFC_7677.server_final)
    for reply in (b"334 " + b64encode(RFC_7677.server_first), *(() if in_success else (b"334 " + final,))):
        connection.receive_data(reply + b"\r\n")
        event = connection.next_event()
        assert isinstance(event, ChallengeReceived)
        written = connection.send(AuthResponse(exchange.respond(event.challenge)))
    connection.receive_data(b"235 2.7.0 " + (final if in_success else b"ok") + b"\r\n")
    event = connection.next_event()
    assert isinstance(event, Replied)
    exchange.finish(event.reply.text)
    assert written == (b64encode(RFC_7677.final) if in_success else b"") + b"\r\n"


@every_mechanism
def test_a_session_cancels_at_what_is_no_base64(mechanism: Mechanism) -> None:
    written, error = authenticate(mechanism, iter([b"334 not base64!\r\n", b"501 5.5.2 cancelled\r\n"]))
    assert written[1:] == [b"*\r\n"]
    assert "not base64" in error


# Nothing shows a secret


def everything_shown(error: BaseException) -> Iterator[str]:
    """Yield what a log, a traceback or a debugger's user would see of an error and of what caused it."""
    seen: BaseException | None = error
    while seen is not None:
        yield from (str(seen), repr(seen), repr(seen.args), repr(vars(seen)), repr(getattr(seen, "object", "")))
        seen = seen.__cause__ or seen.__context__


SPOILT = "Tr0ub4dor"


@pytest.mark.parametrize("spoil", ["\n", "\0", "\ud800", "\U0001f600", "\u0627x", " ", "\x01", "\ue000", ""])
@pytest.mark.parametrize("kind", [*PASSWORD_KINDS, XOAuth2, OAuthBearer], ids=lambda kind: kind.name)
def test_no_error_of_the_callers_shows_a_secret(kind: Callable[..., Mechanism], spoil: str) -> None:
    secret = SPOILT + spoil
    try:
        mechanism = kind("user", secret)
    except SMTPError as error:
        shown = list(everything_shown(error))
    else:
        shown = [repr(mechanism), str(mechanism), repr(mechanism.exchange()), str(mechanism.exchange())]
    assert not [text for text in shown if SPOILT in text]
    if kind in (XOAuth2, OAuthBearer):
        try:
            shown = [repr(kind("user", fetch).with_token(secret))]
        except SMTPError as error:
            shown = list(everything_shown(error))
        assert not [text for text in shown if SPOILT in text]
    elif spoil == "\n":
        with pytest.raises(ConfigurationError) as caught:
            password_mechanisms("user", secret, is_secure=True)
        assert not [text for text in everything_shown(caught.value) if SPOILT in text]


@every_mechanism
def test_no_error_of_the_servers_shows_a_secret(mechanism: Mechanism) -> None:
    forms = {SECRET, TOKEN}
    for secret in (SECRET, TOKEN):
        forms |= {repr(secret.encode())[2:-1], b64encode(secret.encode()).decode()}
    shown = [repr(mechanism), str(mechanism), repr([mechanism])]
    for said in ((None,), (b"",), (b"x", None), (b"x", b"x", b"x"), (b"x", b"x"), (json.dumps({"a": 1}).encode(),)):
        exchange = mechanism.exchange()
        shown += [repr(exchange), str(exchange)]
        try:
            for challenge in said:
                exchange.respond(challenge)
            exchange.finish("ok")
        except AuthenticationError as error:
            shown += everything_shown(error)
    assert not [text for text in shown if any(form in text for form in forms)]
    assert "user" in shown[0]
