"""How a testing server behaves: what it offers, and what it was told to say."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import attrs

from smtplite.testing.script import ScriptedReply

__all__ = [
    "DEFAULT_SCRAM_ITERATIONS",
    "DEFAULT_SIZE_LIMIT",
    "ScramFault",
    "ServerConfig",
    "ServerExtensions",
    "ServerQuirks",
]

#: What a server may do wrong in SCRAM: a nonce that does not extend the client's, a server signature that is wrong or
#: not sent at all, and success after an ``e=``.
ScramFault = Literal["nonce", "wrong-signature", "no-signature", "error"]

#: Bytes of content that a server accepts by default.
DEFAULT_SIZE_LIMIT = 128 * 1024 * 1024
#: The least that servers should use (RFC 5802 section 5.1).
DEFAULT_SCRAM_ITERATIONS = 4096


def _upper(keywords: Iterable[str]) -> frozenset[str]:
    return frozenset(keyword.upper() for keyword in keywords)


def _mechanisms(names: Iterable[str] | None) -> tuple[str, ...] | None:
    if isinstance(names, str):
        raise TypeError(f"mechanisms are a tuple of names, not {names!r}")
    return None if names is None else tuple(name.upper() for name in names)


def _faults(faults: Iterable[ScramFault]) -> frozenset[ScramFault]:
    return frozenset(faults)


@attrs.frozen(kw_only=True)
class ServerExtensions:
    """What the reply to EHLO or LHLO offers, and so what the server accepts.

    By default it is what most servers offer. BINARYMIME, REQUIRETLS, DELIVERBY, FUTURERELEASE, MT-PRIORITY, LIMITS and
    STARTTLS are off until they are switched on; `all` switches on all but the last two. AUTH is offered if
    `ServerConfig` has any user.

    What is not offered is not known either: BDAT without `chunking` is answered with 500, and its bytes run as
    commands; a parameter of an extension that is off is answered with 555. Servers without the extension do the same.
    """

    #: PIPELINING (RFC 2920). Off: more than one command in a write is still answered, and recorded as a mistake.
    pipelining: bool = True
    #: CHUNKING (RFC 3030).
    chunking: bool = True
    #: BINARYMIME (RFC 3030 section 3): content of BODY=BINARYMIME is accepted byte for byte, by BDAT only.
    binarymime: bool = False
    #: 8BITMIME (RFC 6152).
    eight_bit_mime: bool = True
    #: SMTPUTF8 (RFC 6531).
    smtputf8: bool = True
    #: SIZE (RFC 1870): the limit in bytes; 0: offered without a limit; None: not offered.
    size: int | None = DEFAULT_SIZE_LIMIT
    #: DSN (RFC 3461).
    dsn: bool = True
    #: ENHANCEDSTATUSCODES (RFC 2034).
    enhanced_status_codes: bool = True
    #: REQUIRETLS (RFC 8689); inside TLS only.
    requiretls: bool = False
    #: DELIVERBY (RFC 2852): the least seconds that ``BY=seconds;R`` may ask for; 0: no such limit.
    deliver_by: int | None = None
    #: FUTURERELEASE (RFC 4865): the most seconds that HOLDFOR may ask for, and the latest time that HOLDUNTIL may name,
    #: such as ``(86400, "2099-12-31T00:00:00Z")``. Beyond either: 501.
    future_release: tuple[int, str] | None = None
    #: MT-PRIORITY (RFC 6710).
    mt_priority: bool = False
    #: LIMITS MAILMAX (RFC 9422): transactions in a session; the MAIL beyond that is answered `mailmax_code`.
    mailmax: int | None = None
    #: 421 closes the connection, 452 does not.
    mailmax_code: Literal[421, 452] = 421
    #: LIMITS RCPTMAX (RFC 9422): RCPT in a transaction, refused ones too; those beyond are answered 452 4.5.3.
    rcptmax: int | None = None
    #: STARTTLS (RFC 3207); not offered inside TLS.
    starttls: bool = False
    #: HELP (RFC 5321 section 4.1.1.8).
    help: bool = True
    #: Further lines of the reply, such as ``"AUTH=PLAIN LOGIN"``: said, and nothing else.
    extra_keywords: tuple[str, ...] = ()
    #: Keywords of further parameters of MAIL and RCPT, accepted with any value.
    extra_parameters: frozenset[str] = attrs.field(default=frozenset(), converter=_upper)

    @classmethod
    def none(cls) -> ServerExtensions:
        """Return extensions none of which is offered."""
        return cls(
            pipelining=False,
            chunking=False,
            eight_bit_mime=False,
            smtputf8=False,
            size=None,
            dsn=False,
            enhanced_status_codes=False,
            help=False,
        )

    @classmethod
    def all(cls, **changes: Any) -> ServerExtensions:
        """Return extensions all of which are offered except LIMITS and STARTTLS; `changes` are applied to that."""
        offered: dict[str, Any] = {
            "binarymime": True,
            "requiretls": True,
            "deliver_by": 0,
            "future_release": (30 * 86_400, "9999-12-31T23:59:59Z"),
            "mt_priority": True,
        }
        return cls(**{**offered, **changes})

    def keywords(self, *, in_tls: bool = False) -> tuple[str, ...]:
        """Return the lines that follow the first one of the reply to EHLO, STARTTLS and AUTH left out.

        Args:
            in_tls: whether EHLO was said inside TLS.
        """
        limits = [
            f"{name}={value}"
            for name, value in (("MAILMAX", self.mailmax), ("RCPTMAX", self.rcptmax))
            if value is not None
        ]
        offered = [
            ("PIPELINING", self.pipelining),
            ("CHUNKING", self.chunking),
            ("BINARYMIME", self.binarymime),
            ("8BITMIME", self.eight_bit_mime),
            ("SMTPUTF8", self.smtputf8),
            (f"SIZE {self.size}" if self.size else "SIZE", self.size is not None),
            ("DSN", self.dsn),
            ("ENHANCEDSTATUSCODES", self.enhanced_status_codes),
            ("REQUIRETLS", self.requiretls and in_tls),
            (f"DELIVERBY {self.deliver_by}" if self.deliver_by else "DELIVERBY", self.deliver_by is not None),
            (" ".join(["FUTURERELEASE", *map(str, self.future_release or ())]), self.future_release is not None),
            ("MT-PRIORITY", self.mt_priority),
            (" ".join(["LIMITS", *limits]), bool(limits)),
            ("HELP", self.help),
        ]
        return (*(keyword for keyword, is_offered in offered if is_offered), *self.extra_keywords)


def _codes(codes: bool | Collection[int]) -> bool | frozenset[int]:
    return codes if isinstance(codes, bool) else frozenset(codes)


@attrs.frozen(kw_only=True)
class ServerQuirks:
    """Habits of real servers that a client has to live with, each a switch; by default the server has none of them."""

    #: A BDAT that is refused is answered at once, and the bytes of its chunk are read as command lines; which ones
    #: is in `ServerConnection.executed_content`. Codes: only if the refusal has one of them.
    #:
    #: True: go-smtp, whatever the refusal. ``{530}``: Postfix with TLS required, Dovecot submission before AUTH.
    #: ``{552}``: Exim, for a chunk that goes over SIZE.
    executes_refused_chunks: bool | frozenset[int] = attrs.field(default=False, converter=_codes)
    #: A mail transaction outlives its refused BDAT: without RSET the next MAIL is answered 503, and the RCPT and BDAT
    #: after it belong to the old reverse-path and the old recipients (Exim).
    merges_messages: bool = False
    #: BDAT is read and never answered, nor is anything after it (Exchange).
    hangs_on_bdat: bool = False
    #: Every complete command that arrived together with the end-of-data dot, and after it, is answered 503 and not
    #: performed, not even QUIT: ``"after"`` the verdict, in order (Haraka), or, out of order, ``"before"`` it.
    refuses_after_dot: Literal["after", "before"] | None = None
    #: How many messages one connection may bring; the MAIL beyond that is answered 421, and the connection closed.
    max_messages: int | None = None
    #: The 421 comes at once after the verdict on the last of `max_messages`, and the connection is closed.
    closes_unasked: bool = False
    #: LMTP: a BDAT LAST that fails is answered once for all recipients (Dovecot).
    lmtp_fails_once: bool = False
    #: DATA is answered 354 although nobody was accepted, and the dot after it 250. The message goes nowhere.
    takes_empty_envelopes: bool = False
    #: A bare LF ends a command as CRLF does, and is accepted in content (Postfix with smtpd_forbid_bare_newline=no).
    #: But only ``CRLF . CRLF`` ends the content.
    takes_bare_lf: bool = False
    #: The least length of a reply to RCPT, filled up with meaningless lines. A few of them fill a socket.
    rcpt_reply_bytes: int = 0


@attrs.frozen(kw_only=True)
class ServerConfig:
    """One testing server's behaviour, the same for each of its connections."""

    #: The domain that greeting and EHLO reply begin with.
    name: str = "mail.example.com"
    extensions: ServerExtensions = attrs.field(factory=ServerExtensions)
    #: Speak LMTP (RFC 2033): LHLO only, and one reply per accepted recipient after end of data.
    lmtp: bool = False
    #: End the first line of each reply with the number of the command that it answers: ``250 2.1.0 sender ok #3``.
    #:
    #: The greeting is ``#0``. Content after a 354 counts as a command of its own, a BDAT and its chunk as one, an AUTH
    #: and its responses as one. A 334 has no number, as it would not be base64; nor has what is said unasked.
    numbered: bool = False
    #: Refuse what real servers accept although it breaks the protocol, such as 8-bit content without BODY=8BITMIME.
    #:
    #: It is recorded in any case. What is always refused: a bare LF (unless `ServerQuirks.takes_bare_lf`),
    #: commands that are unknown or out of sequence, parameters that are not offered, and what cannot be understood.
    strict: bool = False
    #: Without TLS, answer 530 to everything except what leads to TLS or ends the session (RFC 3207 section 4).
    require_tls: bool = False
    #: Passwords by user name.
    users: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    #: OAuth access tokens by user name.
    tokens: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    #: Who the client is by EXTERNAL; None: the name in its TLS certificate, if the server asked for one.
    external_identity: str | None = None
    #: SASL mechanisms to offer, in this order; None: all that `users`, `tokens` and `external_identity` allow.
    #:
    #: One that the server does not know is offered and answered 504.
    mechanisms: tuple[str, ...] | None = attrs.field(default=None, converter=_mechanisms)
    #: Offer and accept PLAIN, LOGIN, XOAUTH2 and OAUTHBEARER without TLS; otherwise they are answered 538.
    auth_in_clear: bool = False
    #: Offer ``AUTH=PLAIN LOGIN`` instead of ``AUTH PLAIN LOGIN``.
    auth_legacy_form: bool = False
    #: Before AUTH, answer 530 to everything for which RFC 4954 section 6 allows it.
    require_auth: bool = False
    #: The server's nonce in SCRAM and CRAM-MD5; None: a different one each time.
    auth_nonce: str | None = None
    #: The iteration count, even one that is too low or far too high, or text that is not a count.
    #:
    #: With one that the server cannot or will not compute, the exchange ends with a 535.
    scram_iterations: int | str = DEFAULT_SCRAM_ITERATIONS
    #: None: one that is derived from the user's name.
    scram_salt: bytes | None = None
    #: Whether the server's final message is in the text of the 235 instead of a 334 of its own.
    scram_final_in_success: bool = False
    #: How to misbehave in SCRAM.
    scram_faults: frozenset[ScramFault] = attrs.field(default=frozenset(), converter=_faults)
    #: Which habits of real servers to have.
    quirks: ServerQuirks = attrs.field(factory=ServerQuirks)
    #: Scripted replies that each connection starts with, if no common `Script` is given.
    replies: tuple[ScriptedReply, ...] = ()
