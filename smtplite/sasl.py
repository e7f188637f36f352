"""Authentication mechanisms as generators without I/O: challenge in, response out (RFC 4422, RFC 4954).

One job, although long: eight mechanisms, each a short generator, and the checks of secrets and challenges that they
share.

A mechanism is a value: credentials, and how they are proved. `Mechanism.exchange` begins one authentication with it.
The session carries the bytes; base64 and lines are the core's::

    exchange = mechanism.exchange()
    connection.send(Auth(exchange.name, exchange.initial_response))
    on ChallengeReceived:   connection.send(AuthResponse(exchange.respond(event.challenge)))
                            AuthenticationError: connection.send(AuthCancel()), read its reply, raise the error
    on 235:                 exchange.finish(event.reply.text)
                            AuthenticationError: close the connection, for the server is not who we think it is
    on 4yz, 5yz:            the server said no; `exchange.error_data` may say why

No repr and no error shows a secret. What the caller passes is checked when the mechanism is made (ConfigurationError);
what the server says is checked when it arrives (AuthenticationError).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import stringprep
import unicodedata
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable
from typing import Any, ClassVar, Final, Self

import attrs

from smtplite.callbacks import check_function
from smtplite.errors import AuthenticationError, ConfigurationError, LocalProtocolError

__all__ = [
    "MAX_AUTH_LINE_BYTES",
    "MAX_INLINE_ITERATIONS",
    "MAX_ITERATIONS",
    "MIN_ITERATIONS",
    "CramMd5",
    "Exchange",
    "External",
    "Login",
    "Mechanism",
    "OAuthBearer",
    "Plain",
    "ScramSha1",
    "ScramSha256",
    "Steps",
    "TokenCallback",
    "TokenMechanism",
    "XOAuth2",
    "choose",
    "password_mechanisms",
    "salted_password",
    "saslprep",
    "usable",
]

#: An AUTH command, with its CRLF: a longer one goes without its initial response (RFC 4954 4).
MAX_AUTH_LINE_BYTES: Final = 512
#: Fewer rounds of PBKDF2 make a stolen exchange cheap to guess from (RFC 5802 5.1, RFC 7677 4).
MIN_ITERATIONS: Final = 4096
#: More would let a server burn our CPU: this many take about half a second.
MAX_ITERATIONS: Final = 1_000_000
#: More take over 10 ms on a slow machine, and belong in a worker thread: `Exchange.is_costly`.
MAX_INLINE_ITERATIONS: Final = 20_000

#: A mechanism at work. The first `next` gives the initial response, or None if the server speaks first;
#: `send(challenge)` gives the response to it; `send(None)` says that the server reported success: a mechanism that is
#: finished then returns. AuthenticationError is raised at whatever is not acceptable.
Steps = Generator[bytes | None, bytes | None, None]

#: Asked for an access token; True: the last one was rejected, fetch a new one.
TokenCallback = Callable[[bool], Awaitable[str]]


# Strings


def saslprep(text: str, argument: str = "text", *, stored: bool = False) -> str:
    """Return the text as both sides compare it: spaces and compatibility forms unified, invisible characters dropped.

    Args:
        text: a username or password.
        argument: its name, for the error; the text itself is never shown.
        stored: also refuse characters that Unicode 3.2 does not have (a "stored string"; the others are "queries").

    Raises:
        ConfigurationError: the text holds what the profile prohibits.

    RFC 4013, RFC 3454.
    """
    if text.isascii() and text.isprintable():
        return text
    mapped = (" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", "".join(mapped))
    for character in prepared:
        if any(prohibits(character) for prohibits in _PROHIBITED):
            raise ConfigurationError(
                f"{argument} holds a character that SASLprep prohibits, such as a line ending or another control "
                "character: take it out, or send it unprepared with auth=sasl.Login(...)"
            )
        if stored and stringprep.in_table_a1(character):
            raise ConfigurationError(
                f"{argument} holds a character that is not in Unicode 3.2, which SCRAM cannot use: use sasl.Plain"
            )
    if any(map(stringprep.in_table_d1, prepared)) and not (
        stringprep.in_table_d1(prepared[0])
        and stringprep.in_table_d1(prepared[-1])
        and not any(map(stringprep.in_table_d2, prepared))
    ):
        raise ConfigurationError(
            f"{argument} mixes writing directions in a way that SASLprep does not allow: send it unprepared with "
            "auth=sasl.Login(...)"
        )
    return prepared


# RFC 4013 2.3; C.1.2 is mapped to spaces before
_PROHIBITED: Final = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def _utf8(argument: str, text: str) -> bytes:
    """Encode what the caller passed as it is. No UnicodeEncodeError, here or as a cause: it would hold the secret."""
    if not isinstance(text, str):
        raise ConfigurationError(f"{argument} must be a str, not {type(text).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigurationError(f"{argument} holds a lone surrogate: decode it from UTF-8 without errors=")
    return text.encode()


def _given(argument: str, text: str) -> bytes:
    encoded = _utf8(argument, text)
    if not encoded:
        raise ConfigurationError(f"{argument} is empty: pass it, or do not authenticate")
    return encoded


def _prepared(argument: str, text: str, *, stored: bool = False) -> bytes:
    _utf8(argument, text)
    return _given(argument, saslprep(text, argument, stored=stored))


def _identity(argument: str, text: str) -> bytes:
    encoded = _utf8(argument, text)
    if 0 in encoded:
        raise ConfigurationError(f"{argument} holds a NUL: take it out")
    return encoded


def _saslname(name: bytes) -> bytes:
    return name.replace(b"=", b"=3D").replace(b",", b"=2C")


# Validators of fields


def _is_given(_instance: Mechanism, attribute: attrs.Attribute[str], value: str) -> None:
    _given(attribute.name, value)


def _is_preparable(_instance: Mechanism, attribute: attrs.Attribute[str], value: str) -> None:
    _prepared(attribute.name, value)


def _is_storable(_instance: Mechanism, attribute: attrs.Attribute[str], value: str) -> None:
    _prepared(attribute.name, value, stored=True)


def _is_identity(_instance: Mechanism, attribute: attrs.Attribute[str], value: str) -> None:
    _identity(attribute.name, value)


# The exchange


def _refused(mechanism: str, what: str, remedy: str) -> AuthenticationError:
    return AuthenticationError(f"server {what}: {remedy}", command=f"AUTH {mechanism}", phase="auth")


_TELL_OPERATOR: Final = "it does not speak the mechanism, tell its operator or choose another mechanism with auth="
_MISTRUST: Final = "do not trust it, check its name and certificate"


def _unfinished(mechanism: str) -> AuthenticationError:
    return _refused(mechanism, f"reported success before {mechanism} was finished", _MISTRUST)


def _expected(mechanism: str, challenge: bytes | None) -> bytes:
    if challenge is None:
        raise _unfinished(mechanism)
    return challenge


class Exchange:
    """One authentication under way: made by `Mechanism.exchange`, driven by the session, used once.

    After an AuthenticationError it is over: every further call raises one again. No method does I/O, awaits, or needs
    a particular thread; make one call at a time.

    Attributes:
        name: the mechanism's registered name, for `Auth`.
        initial_response: for `Auth`. None: send none, since the server speaks first or the line would be over
            MAX_AUTH_LINE_BYTES; then the first challenge is answered with it.
        error_data: what a server that rejected an access token said about it (XOAUTH2, OAUTHBEARER): its JSON object.
            None: it said nothing, or nothing that can be read.
    """

    def __init__(self, mechanism: Mechanism, steps: Steps | None = None) -> None:
        self.name: str = mechanism.name
        self.error_data: dict[str, Any] | None = None
        self._mechanism = mechanism
        self._steps = mechanism.steps() if steps is None else steps
        self._gives = f"{type(mechanism).__name__}.steps()"
        try:
            first = next(self._steps)
        except StopIteration:
            raise ConfigurationError(f"{self._gives} ended before it gave a response") from None
        if first is not None:
            first = self._octets(first)
        is_deferred = first is not None and _auth_line_bytes(self.name, first) > MAX_AUTH_LINE_BYTES
        self.initial_response = None if is_deferred else first
        self._deferred = first if is_deferred else None
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Exchange {self.name}>"

    def is_costly(self, challenge: bytes | None) -> bool:
        """Tell whether `respond` to this challenge would stall an event loop: PBKDF2 with many rounds, up to 0.5 s.

        If so, call it in a worker thread, ``await anyio.to_thread.run_sync(exchange.respond, challenge)``: hashlib
        releases the interpreter's lock. If that is cancelled, the thread may be abandoned, and the exchange with it.
        """
        return challenge is not None and self._deferred is None and self._mechanism.is_costly(challenge)

    def respond(self, challenge: bytes | None) -> bytes:
        """Return the response to a challenge; send it with `AuthResponse` (b"" is an empty line).

        Args:
            challenge: `ChallengeReceived.challenge`: decoded bytes; None if they were not base64.

        Raises:
            AuthenticationError: the challenge is not acceptable, or the mechanism was already finished. The exchange is
                over: send `AuthCancel`, read its reply, raise.
        """
        self._enter()
        if challenge is None:
            raise _refused(self.name, "sent a challenge that is not base64", _TELL_OPERATOR)
        if self._deferred is not None:
            # Such a challenge is empty (RFC 4954 4). Whatever stands in it: the prompts of LOGIN are not read either.
            response: bytes | None = self._deferred
            self._deferred = None
        else:
            self.error_data = self._mechanism.error_data(challenge) or self.error_data
            try:
                response = self._steps.send(challenge)
            except StopIteration:
                raise _refused(self.name, f"sent a challenge after {self.name} was finished", _MISTRUST) from None
        response = self._octets(response)  # only the initial one may be missing
        self._is_over = False
        return response

    def _octets(self, response: bytes | None) -> bytes:
        """Return a response, if it is one: mechanisms may be the caller's own (rule R33)."""
        if not isinstance(response, bytes):
            raise ConfigurationError(f"{self._gives} gave {type(response).__name__}, not bytes")
        return response

    def finish(self, text: str = "") -> None:
        """Check the server's success; the session counts as authenticated only once this has returned.

        Args:
            text: `Reply.text` of the 235. It may contain the last data of a mechanism, in base64.

        Raises:
            AuthenticationError: the mechanism was not finished: the server proved nothing. Close the connection.

        RFC 4954 4; RFC 4422 3.6: data with the outcome counts as a challenge that is answered by an empty response.
        """
        self._enter()
        if self._deferred is None:
            data = self._mechanism.success_data(text)
            try:
                if self._steps.send(data) == b"" and data is not None:
                    self._steps.send(None)
            except StopIteration:
                return
        raise _unfinished(self.name)

    def _enter(self) -> None:
        if self._is_over:
            raise _refused(self.name, f"went on after {self.name} had ended", _MISTRUST)
        self._is_over = True  # and so it stays, should anything be raised: no success can come after a refusal


def _auth_line_bytes(name: str, initial_response: bytes) -> int:
    return len("AUTH ") + len(name) + 1 + (len(initial_response) + 2) // 3 * 4 + 2


# The mechanisms


@attrs.frozen
class Mechanism(ABC):
    """Credentials, and the way to prove them. Derive from it for a mechanism of your own: `name` and `steps`."""

    #: As registered, upper case.
    name: ClassVar[str]

    @abstractmethod
    def steps(self) -> Steps:
        """Return the generator of one exchange: `Steps`."""

    def exchange(self) -> Exchange:
        """Begin an exchange."""
        return Exchange(self)

    def is_costly(self, challenge: bytes) -> bool:  # noqa: ARG002
        """Tell whether the response to this challenge takes over 10 ms to compute."""
        return False

    def success_data(self, text: str) -> bytes | None:  # noqa: ARG002
        """Return the mechanism's last challenge, if the text of the 235 holds it; None: it does not."""
        return None

    def error_data(self, challenge: bytes) -> dict[str, Any] | None:  # noqa: ARG002
        """Return what the challenge says about a refusal; None: it says none."""
        return None


@attrs.frozen
class Plain(Mechanism):
    """PLAIN: username and password as they are, both after SASLprep (RFC 4616).

    Attributes:
        authzid: whom to act as, if not the user.
    """

    name = "PLAIN"
    username: str = attrs.field(validator=_is_preparable)
    password: str = attrs.field(validator=_is_preparable, repr=False)
    authzid: str = attrs.field(default="", validator=_is_identity, kw_only=True)

    def steps(self) -> Steps:
        """Send everything at once."""
        yield b"\0".join(
            (
                _identity("authzid", self.authzid),
                _prepared("username", self.username),
                _prepared("password", self.password),
            )
        )


@attrs.frozen
class Login(Mechanism):
    """LOGIN: username and password in UTF-8 as they are, one after the other (draft-murchison-sasl-login-00).

    What the two prompts say is not read: servers word them as they like.
    """

    name = "LOGIN"
    username: str = attrs.field(validator=_is_given)
    password: str = attrs.field(validator=_is_given, repr=False)

    def steps(self) -> Steps:
        """Answer the first prompt with the username, the second with the password."""
        yield None
        yield _given("username", self.username)
        yield _given("password", self.password)


@attrs.frozen
class CramMd5(Mechanism):
    """CRAM-MD5: the password, in UTF-8 as it is, is the key to a digest of the challenge (RFC 2195)."""

    name = "CRAM-MD5"
    username: str = attrs.field(validator=_is_given)
    password: str = attrs.field(validator=_is_given, repr=False)

    def steps(self) -> Steps:
        """Answer the challenge with its digest."""
        challenge = _expected(self.name, (yield None))
        if not challenge:  # a digest of nothing is the same each time: whoever heard it could use it again
            raise _refused(self.name, "sent an empty challenge", _TELL_OPERATOR)
        try:
            digest = hmac.digest(_given("password", self.password), challenge, "md5")
        except ValueError:  # OpenSSL in FIPS mode
            raise AuthenticationError(
                "this Python has no MD5, which CRAM-MD5 needs: choose another mechanism with auth=",
                command=f"AUTH {self.name}",
                phase="auth",
            ) from None
        yield _given("username", self.username) + b" " + digest.hex().encode()


def salted_password(algorithm: str, password: bytes, salt: bytes, iterations: int) -> bytes:
    """Return SCRAM's salted password, ``Hi(password, salt, i)``: the costly part; hashlib runs it without the GIL.

    RFC 5802 2.2.
    """
    return hashlib.pbkdf2_hmac(algorithm, password, salt, iterations)


_BASE64: Final = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)"
_BASE64_WORD: Final = re.compile(_BASE64)
# extensions = attr-val *("," attr-val); all are optional, unknown ones are ignored                       (RFC 5802 7)
_EXTENSIONS: Final = r"(?:,[A-Za-ln-z]=[^,\x00]+)*"
# server-first-message = [reserved-mext ","] nonce "," salt "," iteration-count ["," extensions]        (RFC 5802 7)
# nonce: printable but ","; iteration-count: posit-number
_SERVER_FIRST: Final = re.compile(rf"r=([\x21-\x2b\x2d-\x7e]+),s=({_BASE64}),i=([1-9][0-9]*){_EXTENSIONS}".encode())
# server-final-message = (server-error / verifier) ["," extensions]                                     (RFC 5802 7)
_SERVER_FINAL: Final = re.compile(rf"(?:v=({_BASE64})|e=([^,\x00]+)){_EXTENSIONS}".encode())


# server-error-value, but for server-error-value-ext: what else a server says here could be the password that it learnt
# from another mechanism before (rule R28)                                                               (RFC 5802 7)
_SCRAM_ERRORS: Final = frozenset(
    {
        b"invalid-encoding",
        b"extensions-not-supported",
        b"invalid-proof",
        b"channel-bindings-dont-match",
        b"server-does-support-channel-binding",
        b"channel-binding-not-supported",
        b"unsupported-channel-binding-type",
        b"unknown-user",
        b"invalid-username-encoding",
        b"no-resources",
        b"other-error",
    }
)


def _iterations(digits: bytes) -> int:
    return int(digits[:8])  # eight of them are too many already, and a server may send thousands


@attrs.frozen
class _Scram(Mechanism):
    """SCRAM without channel binding; the server's signature is verified (RFC 5802)."""

    algorithm: ClassVar[str]
    username: str = attrs.field(validator=_is_preparable)
    password: str = attrs.field(validator=_is_storable, repr=False)
    authzid: str = attrs.field(default="", validator=_is_identity, kw_only=True)

    def steps(self, _nonce: str | None = None) -> Steps:
        """Prove that we know the password, then check that the server does (RFC 5802 3)."""
        nonce = (_nonce or secrets.token_urlsafe(18)).encode()
        authzid = _saslname(_identity("authzid", self.authzid))
        header = b"n,a=%b," % authzid if authzid else b"n,,"
        client_first = b"n=%b,r=%b" % (_saslname(_prepared("username", self.username)), nonce)
        server_first = _expected(self.name, (yield header + client_first))

        full_nonce, salt, iterations = self._server_first(server_first, nonce)
        salted = salted_password(self.algorithm, _prepared("password", self.password, stored=True), salt, iterations)
        client_key = self._hmac(salted, b"Client Key")
        client_final = b"c=%b,r=%b" % (b64encode(header), full_nonce)
        auth_message = b",".join((client_first, server_first, client_final))
        client_signature = self._hmac(hashlib.new(self.algorithm, client_key).digest(), auth_message)
        proof = bytes(a ^ b for a, b in zip(client_key, client_signature, strict=True))
        server_final = _expected(self.name, (yield b"%b,p=%b" % (client_final, b64encode(proof))))

        self._verify(server_final, self._hmac(self._hmac(salted, b"Server Key"), auth_message))
        yield b""

    def is_costly(self, challenge: bytes) -> bool:
        """Tell whether the server asks for more than MAX_INLINE_ITERATIONS rounds."""
        match = _SERVER_FIRST.fullmatch(challenge)
        return match is not None and MAX_INLINE_ITERATIONS < _iterations(match[3]) <= MAX_ITERATIONS

    def success_data(self, text: str) -> bytes | None:
        """Return the server-final-message, if the 235 brings it."""
        for word in text.split():
            if _BASE64_WORD.fullmatch(word) and (data := b64decode(word)).startswith(b"v="):
                return data
        return None

    def _hmac(self, key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, self.algorithm)

    def _server_first(self, message: bytes, nonce: bytes) -> tuple[bytes, bytes, int]:
        if message.startswith(b"e="):  # it may end the exchange here already
            self._verify(message, b"")
        match = _SERVER_FIRST.fullmatch(message)
        if match is None:
            what = (
                f"asks for a mandatory extension of {self.name} that smtplite does not know"
                if message.startswith(b"m=")
                else f"sent a first message that is none of {self.name}"
            )
            raise _refused(self.name, what, _TELL_OPERATOR)
        full_nonce, salt, digits = match.groups()
        if not full_nonce.startswith(nonce) or full_nonce == nonce:
            raise _refused(self.name, "sent a nonce that does not extend ours", _MISTRUST)
        iterations = _iterations(digits)
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise _refused(
                self.name,
                f"asks for too {'few' if iterations < MIN_ITERATIONS else 'many'} iterations of its hash, "
                f"{MIN_ITERATIONS} to {MAX_ITERATIONS} are accepted",
                "have its operator change them, or choose another mechanism with auth=",
            )
        return full_nonce, b64decode(salt), iterations

    def _verify(self, message: bytes, signature: bytes) -> None:
        match = _SERVER_FINAL.fullmatch(message)
        if match is None:
            raise _refused(self.name, f"sent a final message that is none of {self.name}", _TELL_OPERATOR)
        verifier, error = match.groups()
        if error is not None:
            said = f" with the error {error!r}" if error in _SCRAM_ERRORS else ""
            raise _refused(self.name, f"refused {self.name}{said}", "check username and password")
        if not hmac.compare_digest(b64decode(verifier), signature):
            raise _refused(self.name, "sent a wrong signature, so it does not know the password", _MISTRUST)


class ScramSha256(_Scram):
    """SCRAM-SHA-256: neither side shows the password, both prove that they know it (RFC 7677).

    Username and password go through SASLprep; a password cannot contain characters that are not in Unicode 3.2.

    Attributes:
        authzid: whom to act as, if not the user.
    """

    name = "SCRAM-SHA-256"
    algorithm = "sha256"


class ScramSha1(_Scram):
    """SCRAM-SHA-1: `ScramSha256` with the older hash (RFC 5802)."""

    name = "SCRAM-SHA-1"
    algorithm = "sha1"


@attrs.frozen
class External(Mechanism):
    """EXTERNAL: the server knows who we are, for example by a TLS client certificate (RFC 4422 appendix A).

    Attributes:
        identity: whom to act as; "": the one that the server knows from the connection.
    """

    name = "EXTERNAL"
    identity: str = attrs.field(default="", validator=_is_identity)

    def steps(self) -> Steps:
        """Say whom to act as."""
        yield _identity("identity", self.identity)


# RFC 6750 2.1 allows fewer; what matters is that nothing ends the field (0x01) or the word.
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_HOST: Final = re.compile(r"[\x21-\x7e]+")
_UNFIT: Final = "is empty, or holds a space, a control character or a character that is not ASCII"


def _is_token_name(_instance: TokenMechanism, attribute: attrs.Attribute[str], value: str) -> None:
    _given(attribute.name, value)
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise ConfigurationError(f"{attribute.name} holds a control character: take it out")


def _is_token(_instance: TokenMechanism, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        check_function(attribute.name, value, "a str, or an async function of one argument (refresh: bool)", 1)
        return
    if _TOKEN.fullmatch(value) is None:
        raise ConfigurationError(f'{attribute.name} {_UNFIT}: pass it bare, without "Bearer"')


def _is_host(_instance: TokenMechanism, attribute: attrs.Attribute[str | None], value: str | None) -> None:
    if value is not None and (not isinstance(value, str) or _HOST.fullmatch(value) is None):
        raise ConfigurationError(f"{attribute.name} must be a host name in ASCII, or None, not {value!r}")


def _is_port(_instance: TokenMechanism, attribute: attrs.Attribute[int | None], value: int | None) -> None:
    if value is not None and (type(value) is not int or not 1 <= value <= 65535):
        raise ConfigurationError(f"{attribute.name} must be a number from 1 to 65535, or None, not {value!r}")


@attrs.frozen
class TokenMechanism(Mechanism):
    """An OAuth 2.0 access token, in one of the two forms that servers accept.

    A generator without I/O cannot await, so the session gets the token first, and begins with a mechanism that has it::

        if mechanism.callback is not None:
            mechanism = mechanism.with_token(await mechanism.callback(False))     # True: the last one was rejected
        exchange = mechanism.exchange()

    Attributes:
        username: whose mailbox.
        token: the token without "Bearer", or ``async (refresh: bool) -> str``, called with one positional argument.
    """

    username: str = attrs.field(validator=_is_token_name)
    token: str | TokenCallback = attrs.field(validator=_is_token, repr=False)

    #: The answer to a rejection, for which the server then sends its 535.
    _acknowledgement: ClassVar[bytes]

    @property
    def callback(self) -> TokenCallback | None:
        """What to ask for a token; None: it is given."""
        return None if isinstance(self.token, str) else self.token

    def with_token(self, token: str) -> Self:
        """Return this mechanism with the token that its callback gave.

        Raises:
            AuthenticationError: it is no token.
        """
        if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
            fault = _UNFIT if isinstance(token, str) else f"is {type(token).__name__}, not str"
            raise AuthenticationError(
                f'token callback gave a value that {fault}: return the access token bare, without "Bearer"',
                command=f"AUTH {self.name}",
                phase="auth",
            )
        return attrs.evolve(self, token=token)

    @abstractmethod
    def message(self, token: str) -> bytes:
        """Return the initial response."""

    def steps(self) -> Steps:
        """Send the token; a challenge after it says that it was rejected, and is acknowledged.

        Raises:
            LocalProtocolError: the token is still to be fetched: see `with_token`.
        """
        if not isinstance(self.token, str):
            raise LocalProtocolError(f"{self.name} cannot begin without its token: await callback, then use with_token")
        if (yield self.message(self.token)) is not None and (yield self._acknowledgement) is None:
            raise _refused(self.name, "reported success although it had rejected the token", _MISTRUST)

    def error_data(self, challenge: bytes) -> dict[str, Any] | None:
        """Return the JSON object that says why the token was rejected."""
        try:
            data = _without(str(self.token), json.loads(challenge))
        except (ValueError, RecursionError):
            return None
        return data if isinstance(data, dict) else None


def _without(token: str, data: Any) -> Any:
    """Return what a server said in JSON without the token, should it repeat it (rule R28)."""
    if isinstance(data, str):
        return "[redacted]" if token in data else data
    if isinstance(data, list):
        return [_without(token, item) for item in data]
    if isinstance(data, dict):
        return {_without(token, key): _without(token, value) for key, value in data.items()}
    return data


@attrs.frozen
class XOAuth2(TokenMechanism):
    """XOAUTH2: an access token for Google and Microsoft (developers.google.com/gmail/imap/xoauth2-protocol)."""

    name = "XOAUTH2"
    _acknowledgement = b""

    def message(self, token: str) -> bytes:
        """Return the initial response."""
        return b"user=%b\x01auth=Bearer %b\x01\x01" % (self.username.encode(), token.encode())


@attrs.frozen
class OAuthBearer(TokenMechanism):
    """OAUTHBEARER: an access token as standardised (RFC 7628).

    Attributes:
        host: the server's name as we know it, for a server that asks for it.
        port: its port, likewise.
    """

    name = "OAUTHBEARER"
    _acknowledgement = b"\x01"
    host: str | None = attrs.field(default=None, validator=_is_host, kw_only=True)
    port: int | None = attrs.field(default=None, validator=_is_port, kw_only=True)

    def message(self, token: str) -> bytes:
        """Return the initial response (RFC 7628 3.1)."""
        fields = [b"n,a=%b," % _saslname(self.username.encode())]
        if self.host is not None:
            fields.append(b"host=%b" % self.host.encode())
        if self.port is not None:
            fields.append(b"port=%d" % self.port)
        return b"\x01".join((*fields, b"auth=Bearer %b" % token.encode(), b"", b""))


# The choice


def password_mechanisms(username: str, password: str, *, is_secure: bool) -> tuple[Mechanism, ...]:
    """Return the mechanisms for a username and a password, the one to try first at the beginning.

    Args:
        username: who we are.
        password: the secret.
        is_secure: inside TLS or on a Unix socket. If it is not, CRAM-MD5, which does not show the password, comes
            before those that do.

    Raises:
        ConfigurationError: username or password cannot be used; says which, never shows it.

    SCRAM is left out for a password with characters that Unicode 3.2 does not have: it cannot use them.
    """
    plain = Plain(username, password)
    try:
        scram: tuple[Mechanism, ...] = (ScramSha256(username, password), ScramSha1(username, password))
    except ConfigurationError:  # Plain took both: this is the stricter profile of a "stored string" (RFC 5802 2.2)
        scram = ()
    login = Login(username, password)
    cram = CramMd5(username, password)
    return (*scram, plain, login, cram) if is_secure else (*scram, cram, plain, login)


def usable(mechanisms: Iterable[Mechanism], offered: Collection[str]) -> list[Mechanism]:
    """Return those that the server offers, in the client's order: the server's means nothing (rule R15)."""
    return [mechanism for mechanism in mechanisms if mechanism.name in offered]


def choose(
    mechanisms: Iterable[Mechanism], offered: Collection[str], *, is_secure: bool, allow_insecure: bool
) -> list[Mechanism]:
    """Return the mechanisms to try, in the client's order; at least one.

    Args:
        mechanisms: what the client can do, in its order.
        offered: what the server can do: `Extensions.auth`, read again after STARTTLS.
        is_secure: inside TLS or on a Unix socket.
        allow_insecure: the caller passed ``allow_insecure_auth=True``.

    Raises:
        AuthenticationError: there is none, and why. Nothing was sent; nothing may be sent unauthenticated.
    """
    ours = tuple(mechanisms)
    if not is_secure and not allow_insecure:
        raise AuthenticationError(
            'client does not authenticate unencrypted: use tls="starttls" or "implicit", or pass '
            "allow_insecure_auth=True if nobody can listen in",
            phase="auth",
        )
    if not offered:
        raise AuthenticationError(
            "server offers no authentication: use its submission port (587, 465), or leave the credentials out",
            phase="auth",
        )
    if not (both := usable(ours, offered)):
        theirs = " ".join(offered)[:80]
        raise AuthenticationError(
            f"server offers {theirs!r}, none of {' '.join(mechanism.name for mechanism in ours)}: "
            "pass a mechanism that it offers with auth=",
            phase="auth",
        )
    return both
