"""The server's side of SASL: each mechanism is a generator that yields challenges and is sent responses.

It is an oracle, like the rest of the protocol half: it shares nothing with `smtplite.sasl`, which it judges. What is
wrong with a response, and not only with what it says, is a violation; a violation never quotes a response.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import stringprep
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator

import attrs

from smtplite.testing.config import ServerConfig

__all__ = [
    "MECHANISMS",
    "Challenge",
    "Exchange",
    "Failure",
    "Mechanism",
    "Success",
    "decode_response",
    "encode_challenge",
    "offered_mechanisms",
]

#: Of PBKDF2: beyond this the server claims an iteration count, but does not compute with it.
MAX_COMPUTED_ITERATIONS = 1_000_000


@attrs.frozen
class Challenge:
    """What the server asks next; empty if the client is to begin."""

    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Success:
    """The client is who it says."""

    identity: str
    #: The mechanism's last word, if it goes into the text of the 235.
    final: bytes | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Failure:
    """The exchange ends without success."""

    code: int = 535
    enhanced: str = "5.7.8"
    text: str = "authentication credentials invalid"
    #: What the client did wrong, apart from not knowing the password.
    violation: str | None = None


Step = Challenge | Success | Failure
_Steps = Generator[bytes, bytes, Success | Failure]


class _Malformed(Exception):
    """A response is not what its mechanism allows. The text becomes a violation, so it quotes nothing."""


def encode_challenge(data: bytes) -> str:
    """Encode `data` for a 334."""
    return b64encode(data).decode("ascii")


def decode_response(line: bytes) -> bytes:
    """Undo base64, of one spelling only: padded, nothing around it.

    Raises:
        ValueError: it is not base64.

    RFC 4648 section 4.
    """
    data = b64decode(line, validate=True)
    if b64encode(data) != line:
        raise ValueError("not base64 as it is written canonically")
    return data


def _text(response: bytes, what: str) -> str:
    try:
        return response.decode()
    except UnicodeDecodeError:
        raise _Malformed(f"{what} that is not UTF-8") from None


def _prepared(text: str) -> str:
    """Return `text` as SASLprep maps it, so that what was typed in two ways is the same.

    RFC 4013 sections 2.1 and 2.2.
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else "" if stringprep.in_table_b1(char) else char for char in text
    )
    return unicodedata.normalize("NFKC", mapped)


def _password_of(config: ServerConfig, user: str) -> str | None:
    wanted = _prepared(user)
    return next((_prepared(password) for name, password in config.users.items() if _prepared(name) == wanted), None)


def _nonce(config: ServerConfig) -> str:
    return config.auth_nonce or secrets.token_urlsafe(18)


def _checked(config: ServerConfig, user: str, password: str, authorization_identity: str = "") -> Success | Failure:
    known = _password_of(config, user)
    if known is None or known != _prepared(password) or authorization_identity not in {"", user}:
        return Failure()
    return Success(user)


def _plain(config: ServerConfig, peer: str | None) -> _Steps:
    """``[authzid] NUL authcid NUL passwd`` (RFC 4616 section 2)."""
    del peer
    parts = _text((yield b""), "PLAIN response").split("\0")
    if len(parts) != 3:
        raise _Malformed(f"PLAIN response with {len(parts) - 1} NUL instead of 2")
    authorization_identity, user, password = parts
    if not user or not password:
        raise _Malformed("PLAIN response without a user or without a password")
    return _checked(config, user, password, authorization_identity)


def _login(config: ServerConfig, peer: str | None) -> _Steps:
    """Two prompts (draft-murchison-sasl-login-00)."""
    del peer
    user = _text((yield b"Username:"), "LOGIN user")
    password = _text((yield b"Password:"), "LOGIN password")
    if not user or not password:
        raise _Malformed("LOGIN response that is empty")
    return _checked(config, user, password)


def _cram_md5(config: ServerConfig, peer: str | None) -> _Steps:
    """``user SP digest`` (RFC 2195 section 2)."""
    del peer
    challenge = f"<{_nonce(config)}@{config.name}>".encode()
    response = _text((yield challenge), "CRAM-MD5 response")
    user, _, digest = response.rpartition(" ")
    if not user or re.fullmatch("[0-9a-f]{32}", digest) is None:
        raise _Malformed("CRAM-MD5 response that is not a user and 32 lower-case hexadecimal digits")
    password = _password_of(config, user)
    if password is None or not hmac.compare_digest(hmac.digest(password.encode(), challenge, "md5").hex(), digest):
        return Failure()
    return Success(user)


_SCRAM_CLIENT_FIRST = re.compile(
    r"(?P<header>(?P<binding>n|y|p=[A-Za-z0-9.-]+),(?:a=(?P<authzid>[^,]+))?,)"
    r"(?P<bare>n=(?P<user>[^,\0]+),r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-z]=[^,\0]+)*)"
)
_SCRAM_CLIENT_FINAL = re.compile(
    r"(?P<without_proof>c=(?P<binding>[A-Za-z0-9+/]+=*),r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-z]=[^,\0]+)*)"
    r",p=(?P<proof>[A-Za-z0-9+/]+=*)"
)


def _saslname(text: str) -> str:
    """Undo ``=2C`` and ``=3D`` (RFC 5802 section 5.1)."""
    if re.search("=(?!2C|3D)", text):
        raise _Malformed("SCRAM name with a bare =")
    return text.replace("=2C", ",").replace("=3D", "=")


def _scram_final_message(config: ServerConfig, signature: bytes) -> bytes | None:
    if "no-signature" in config.scram_faults:
        return None
    if "error" in config.scram_faults:
        return b"e=other-error"
    if "wrong-signature" in config.scram_faults:
        signature = bytes([signature[0] ^ 1]) + signature[1:]
    return b"v=" + b64encode(signature)


def _scram(algorithm: str, config: ServerConfig) -> _Steps:
    """Two messages of each side (RFC 5802 sections 3, 5 and 7)."""
    first = _SCRAM_CLIENT_FIRST.fullmatch(_text((yield b""), "SCRAM response"))
    if first is None:
        raise _Malformed("SCRAM client-first-message that is none")
    if first["binding"].startswith("p="):
        raise _Malformed("SCRAM with channel binding, which is not offered")
    user = _saslname(first["user"])
    nonce = ("" if "nonce" in config.scram_faults else first["nonce"]) + _nonce(config)
    salt = config.scram_salt
    if salt is None:
        salt = hashlib.sha256(user.encode()).digest()[:16]
    iterations = config.scram_iterations
    server_first = f"r={nonce},s={b64encode(salt).decode()},i={iterations}"

    final = _SCRAM_CLIENT_FINAL.fullmatch(_text((yield server_first.encode()), "SCRAM response"))
    if final is None:
        raise _Malformed("SCRAM client-final-message that is none")
    if final["binding"] != b64encode(first["header"].encode()).decode():
        raise _Malformed("SCRAM c= that is not the header of the first message")
    if final["nonce"] != nonce:
        raise _Malformed("SCRAM nonce that is not the server's")
    try:
        proof = decode_response(final["proof"].encode())
    except ValueError:
        raise _Malformed("SCRAM proof that is not base64") from None
    password = _password_of(config, user)
    if password is None or not isinstance(iterations, int) or not 0 < iterations <= MAX_COMPUTED_ITERATIONS:
        return Failure()
    salted = hashlib.pbkdf2_hmac(algorithm, password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", algorithm)
    auth_message = f"{first['bare']},{server_first},{final['without_proof']}".encode()
    client_signature = hmac.digest(hashlib.new(algorithm, client_key).digest(), auth_message, algorithm)
    expected = bytes(one ^ other for one, other in zip(client_key, client_signature, strict=True))
    is_authorized = first["authzid"] is None or _saslname(first["authzid"]) == user
    if not hmac.compare_digest(proof, expected) or not is_authorized:
        return Failure()
    server_signature = hmac.digest(hmac.digest(salted, b"Server Key", algorithm), auth_message, algorithm)
    message = _scram_final_message(config, server_signature)
    if message is None:
        return Success(user)
    if config.scram_final_in_success:
        return Success(user, final=message)
    if (yield message):
        raise _Malformed("SCRAM response to the server's final message that is not empty")
    return Success(user)


def _scram_sha1(config: ServerConfig, peer: str | None) -> _Steps:
    del peer
    return _scram("sha1", config)


def _scram_sha256(config: ServerConfig, peer: str | None) -> _Steps:
    del peer
    return _scram("sha256", config)


_XOAUTH2 = re.compile("user=(?P<user>[^\1]+)\1auth=Bearer (?P<token>[!-~]+)\1\1")
_OAUTHBEARER = re.compile(
    "n,(?:a=(?P<user>[^,\1]+))?,\1(?:(?:host=[^\1]+|port=[0-9]+)\1)*auth=Bearer (?P<token>[!-~]+)\1\1"
)


def _xoauth2(config: ServerConfig, peer: str | None) -> _Steps:
    """One message; after a rejected token a challenge that says why, and an empty response (Google's XOAUTH2)."""
    del peer
    match = _XOAUTH2.fullmatch(_text((yield b""), "XOAUTH2 response"))
    if match is None:
        raise _Malformed("XOAUTH2 response that is none")
    user = match["user"]
    if config.tokens.get(user) == match["token"]:
        return Success(user)
    error = {"status": "401", "schemes": "bearer", "scope": "https://mail.example.com/"}
    if (yield json.dumps(error).encode()):
        raise _Malformed("XOAUTH2 response to the error that is not empty")
    return Failure()


def _oauthbearer(config: ServerConfig, peer: str | None) -> _Steps:
    """Like XOAUTH2, in the spelling of RFC 7628 sections 3.1 and 3.2.3."""
    del peer
    match = _OAUTHBEARER.fullmatch(_text((yield b""), "OAUTHBEARER response"))
    if match is None:
        raise _Malformed("OAUTHBEARER response that is none")
    user, token = match["user"], match["token"]
    for name, known in config.tokens.items():
        if known == token and (user is None or _saslname(user) == name):
            return Success(name)
    if (yield json.dumps({"status": "invalid_token", "scope": "mail"}).encode()) != b"\1":
        raise _Malformed("OAUTHBEARER response to the error that is not one ^A")
    return Failure()


def _external(config: ServerConfig, peer: str | None) -> _Steps:
    """An authorization identity, or nothing (RFC 4422 appendix A)."""
    authorization_identity = _text((yield b""), "EXTERNAL response")
    identity = config.external_identity if config.external_identity is not None else peer
    if identity is None or authorization_identity not in {"", identity}:
        return Failure()
    return Success(identity)


@attrs.frozen
class Mechanism:
    """What the server knows of one mechanism."""

    #: Yields one challenge before each response, an empty one where the client begins.
    steps: Callable[[ServerConfig, str | None], _Steps]
    takes_initial_response: bool = True
    #: Whether who listens knows the password or token afterwards.
    is_plain_text: bool = False


#: By name.
MECHANISMS = {
    "SCRAM-SHA-256": Mechanism(_scram_sha256),
    "SCRAM-SHA-1": Mechanism(_scram_sha1),
    "PLAIN": Mechanism(_plain, is_plain_text=True),
    # No client should send an initial response with LOGIN, and the clients of the field do
    "LOGIN": Mechanism(_login, is_plain_text=True),
    "CRAM-MD5": Mechanism(_cram_md5, takes_initial_response=False),
    "XOAUTH2": Mechanism(_xoauth2, is_plain_text=True),
    "OAUTHBEARER": Mechanism(_oauthbearer, is_plain_text=True),
    "EXTERNAL": Mechanism(_external),
}


def offered_mechanisms(config: ServerConfig, *, in_tls: bool) -> tuple[str, ...]:
    """Return the mechanisms that the reply to EHLO names."""
    names = config.mechanisms
    if names is None:
        by_password = ("SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN", "CRAM-MD5") if config.users else ()
        by_token = ("XOAUTH2", "OAUTHBEARER") if config.tokens else ()
        names = (*by_password, *by_token, *(("EXTERNAL",) if config.external_identity is not None else ()))
    if in_tls or config.auth_in_clear:
        return names
    return tuple(name for name in names if name not in MECHANISMS or not MECHANISMS[name].is_plain_text)


class Exchange:
    """One run of one mechanism.

    Call `begin`, then `respond` for each response of the client, until one of them returns no challenge.

    Args:
        mechanism: one of `MECHANISMS`.
        config: whom the server knows, and how it misbehaves.
        peer: whom the client's certificate names.
    """

    def __init__(self, mechanism: str, config: ServerConfig, peer: str | None = None) -> None:
        self._mechanism = MECHANISMS[mechanism]
        self._name = mechanism
        self._steps = self._mechanism.steps(config, peer)

    def begin(self, initial_response: bytes | None = None) -> Step:
        """Take the AUTH command.

        Args:
            initial_response: None: there was none; empty: there was an empty one.

        RFC 4954 section 4.
        """
        if initial_response is not None and not self._mechanism.takes_initial_response:
            violation = f"initial response with {self._name}, where the server begins"
            return Failure(501, "5.7.0", "no initial response with this mechanism", violation)
        challenge = Challenge(next(self._steps))
        return challenge if initial_response is None else self.respond(initial_response)

    def respond(self, response: bytes) -> Step:
        """Take a response, its base64 undone."""
        try:
            return Challenge(self._steps.send(response))
        except StopIteration as stop:
            outcome: Success | Failure = stop.value
            return outcome
        except _Malformed as error:
            return Failure(501, "5.5.2", "response not understood", str(error))
