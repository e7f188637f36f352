"""STARTTLS and AUTH of the testing server's sans-IO half, octets in and octets out."""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.testing import ReceivedMessage, ScriptedReply, ServerConfig, ServerConnection, ServerExtensions
from smtplite.testing.sasl import Challenge, Exchange, Failure, Success, decode_response

EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<ann@example.org>\r\n"
BOB = b"RCPT TO:<bob@example.org>\r\n"
MESSAGE = MAIL + BOB + b"BDAT 0 LAST\r\n"
STARTTLS = b"STARTTLS\r\n"
TLS = "TLSv1.3"

USER, PASSWORD, TOKEN = "me", "s3cret-kä7tsu", "t0ken-of-me"
PLAIN = b64encode(f"\0{USER}\0{PASSWORD}".encode())
WRONG_PLAIN = b64encode(f"\0{USER}\0wr0ng".encode())
OFFERS_TLS = ServerExtensions(starttls=True)


def line(octets: bytes) -> bytes:
    return b64encode(octets) + b"\r\n"


def config(**options: object) -> ServerConfig:
    options = {"users": {USER: PASSWORD}, "tokens": {USER: TOKEN}, "auth_in_clear": True} | options
    return ServerConfig(**options)  # type: ignore[arg-type]


def codes(sent: bytes) -> list[int]:
    return [int(reply[:3]) for reply in sent.split(b"\r\n")[:-1] if reply[3:4] != b"-"]


@attrs.frozen
class Outcome:
    sent: bytes
    messages: list[ReceivedMessage]
    violations: Sequence[str]
    authenticated_as: str | None
    closing: bool

    @property
    def codes(self) -> list[int]:
        """Without the greeting's and the first EHLO's."""
        return codes(self.sent)[2:]


def drive(
    pieces: Iterable[bytes],
    config: ServerConfig,
    replies: Sequence[ScriptedReply] = (),
    inside: Iterable[bytes] = (),
    implicit: bool = False,
) -> Outcome:
    """Feed `pieces` in clear, then `inside` in TLS."""
    server = ServerConnection(attrs.evolve(config, replies=tuple(replies)))
    if implicit:
        server.tls_established(TLS)
    sent = server.greeting() + b"".join([server.feed(piece) for piece in pieces])
    if server.begins_tls:
        server.tls_established(TLS)
        sent += b"".join([server.feed(piece) for piece in inside])
    return Outcome(sent, server.mailbox.messages, server.violations, server.authenticated_as, server.closing)


def talk(*lines: bytes, config: ServerConfig, replies: Sequence[ScriptedReply] = (), implicit: bool = False) -> Outcome:
    return drive([EHLO, *lines], config, replies, implicit=implicit)


# --- the same octets, however they are cut


@attrs.frozen
class Dialogue:
    clear: bytes
    config: ServerConfig
    inside: bytes = b""
    replies: tuple[ScriptedReply, ...] = ()


RESPONSES = line(USER.encode()) + line(PASSWORD.encode())
DIALOGUES = {
    "starttls": Dialogue(EHLO + STARTTLS, config(extensions=OFFERS_TLS), EHLO + MESSAGE + b"QUIT\r\n"),
    "bytes after starttls": Dialogue(EHLO + STARTTLS + EHLO + MESSAGE, config(extensions=OFFERS_TLS), EHLO),
    "plain": Dialogue(EHLO + b"AUTH PLAIN " + PLAIN + b"\r\n" + MESSAGE, config()),
    "plain in two steps": Dialogue(EHLO + b"AUTH PLAIN\r\n" + PLAIN + b"\r\n" + MESSAGE, config()),
    "login": Dialogue(EHLO + b"AUTH LOGIN\r\n" + RESPONSES + MESSAGE, config()),
    "cancelled": Dialogue(EHLO + b"AUTH LOGIN\r\n*\r\nAUTH LOGIN\r\n" + RESPONSES, config()),
    "cram-md5": Dialogue(EHLO + b"AUTH CRAM-MD5\r\n" + line(b"me " + b"0" * 32), config(auth_nonce="n")),
    "not base64": Dialogue(EHLO + b"AUTH LOGIN\r\n\r\r\n\n\0\xff\r\nNOOP\r\n", config()),
    "long responses": Dialogue(
        EHLO + b"".join(b"AUTH PLAIN\r\n" + b"A" * octets + b"\r\n" for octets in (12_286, 12_287)), config()
    ),
    "long command": Dialogue(EHLO + b"AUTH PLAIN " + b"A" * 500 + b"\r\n" + b"NOOP\r\n", config()),
    "xoauth2": Dialogue(
        EHLO + b"AUTH XOAUTH2 " + line(b"user=me\1auth=Bearer no\1\1") + b"\r\nNOOP\r\n", config(auth_nonce="n")
    ),
    "scripted": Dialogue(
        EHLO + b"AUTH LOGIN\r\n" + RESPONSES + b"\r\n\r\nNOOP\r\n",
        config(),
        replies=(
            ScriptedReply("AUTH", "334 prompt"),
            ScriptedReply("END_OF_AUTH", "334 more", times=2),
            ScriptedReply("END_OF_AUTH", "454 4.7.0 later"),
        ),
    ),
}
anyhow = pytest.mark.parametrize("dialogue", DIALOGUES.values(), ids=DIALOGUES)


def cut(dialogue: Dialogue, cuts: Sequence[int]) -> Outcome:
    """Drive `dialogue`, cut there, without the violations that show only in octets that arrive together."""
    octets = dialogue.clear + dialogue.inside
    border = len(dialogue.clear)
    ends = sorted({*cuts, border, len(octets)} - {0})
    pieces = [(start, octets[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    outcome = drive(
        [piece for start, piece in pieces if start < border],
        dialogue.config,
        dialogue.replies,
        [piece for start, piece in pieces if start >= border],
    )
    kept = [text for text in outcome.violations if text == "bytes after STARTTLS" or "bytes after" not in text]
    return attrs.evolve(outcome, violations=kept)


@anyhow
def test_octet_by_octet(dialogue: Dialogue) -> None:
    assert cut(dialogue, range(len(dialogue.clear + dialogue.inside))) == cut(dialogue, [])


@pytest.mark.exhaustive(keep=4)
@anyhow
def test_every_single_split(dialogue: Dialogue) -> None:
    expected = cut(dialogue, [])
    length = len(dialogue.clear + dialogue.inside)
    for index in range(1, length, 1 if length < 2000 else 97):
        assert cut(dialogue, [index]) == expected, index


@given(st.sampled_from(sorted(DIALOGUES)), st.data())
def test_any_splits(name: str, data: st.DataObject) -> None:
    dialogue = DIALOGUES[name]
    length = len(dialogue.clear + dialogue.inside)
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=20)))
    assert cut(dialogue, cuts) == cut(dialogue, [])


# --- STARTTLS


def test_starttls_is_offered_in_clear_only() -> None:
    outcome = drive([EHLO, STARTTLS], config(extensions=OFFERS_TLS), inside=[EHLO])
    clear, inside = outcome.sent.split(b"220 2.0.0 ready to start TLS\r\n")
    assert b"\r\n250-STARTTLS\r\n" in clear
    assert b"STARTTLS" not in inside
    assert outcome.violations == []
    assert b"STARTTLS" not in talk(config=config()).sent


def test_tls_forgets_everything() -> None:
    """RFC 3207 section 4.2."""
    server = ServerConnection(config(extensions=OFFERS_TLS))
    server.greeting()
    for octets in (EHLO, b"AUTH PLAIN " + PLAIN + b"\r\n", STARTTLS):
        server.feed(octets)
    assert server.begins_tls
    assert server.authenticated_as == USER
    server.tls_established(TLS)
    assert not server.begins_tls
    assert server.tls == TLS
    assert server.authenticated_as is None
    assert codes(server.feed(MAIL)) == [503]
    assert codes(server.feed(b"BDAT 0\r\n")) == [500]
    assert server.violations == ["MAIL before EHLO", "BDAT, which is not offered"]


@pytest.mark.parametrize("whole", [True, False])
def test_octets_in_clear_behind_starttls_are_dropped(whole: bool) -> None:
    pieces = [EHLO, STARTTLS + MESSAGE] if whole else [EHLO, STARTTLS, MAIL, BOB + b"BDAT 0 LAST\r\n"]
    outcome = drive(pieces, config(extensions=OFFERS_TLS), inside=[EHLO])
    assert outcome.codes == [220, 250]
    assert outcome.messages == []
    assert outcome.violations == ["bytes after STARTTLS, which ends its group"]


@pytest.mark.parametrize(
    ("lines", "expected", "violation"),
    [
        ([b"HELO client.example\r\n", STARTTLS], [250, 503], "STARTTLS before EHLO"),
        ([EHLO, MAIL, STARTTLS], [250, 250, 503], "STARTTLS within a mail transaction"),
        ([EHLO, b"STARTTLS now\r\n"], [250, 501], "STARTTLS with an argument: 'now'"),
    ],
)
def test_starttls_out_of_place(lines: list[bytes], expected: list[int], violation: str) -> None:
    server = ServerConnection(config(extensions=OFFERS_TLS))
    assert [code for octets in lines for code in codes(server.feed(octets))] == expected
    assert server.violations == [violation]
    assert not server.begins_tls


def test_starttls_where_it_is_not_offered() -> None:
    outcome = talk(STARTTLS, config=config())
    assert (outcome.codes, outcome.violations) == ([502], ["STARTTLS, which is not offered"])
    outcome = talk(STARTTLS, config=config(extensions=OFFERS_TLS), implicit=True)
    assert (outcome.codes, outcome.violations) == ([503], ["STARTTLS inside TLS"])
    inside = talk(
        STARTTLS, config=config(extensions=OFFERS_TLS), implicit=True, replies=[ScriptedReply("STARTTLS", "220")]
    )
    assert inside.codes == [220]


@pytest.mark.parametrize("reply", ["454 4.7.0 not now", "554 5.7.0 no", "354 go on", "421 4.3.2 busy", b"", b"25"])
def test_starttls_refused_by_script(reply: str | bytes) -> None:
    server = ServerConnection(config(extensions=OFFERS_TLS))
    server.feed(EHLO)
    server.script.add(ScriptedReply("STARTTLS", reply, performs=False if reply == b"25" else None))
    octets = reply.encode() + b"\r\n" if isinstance(reply, str) else reply
    assert server.feed(STARTTLS) == octets
    assert not server.begins_tls
    assert server.closing == (octets[:3] == b"421")


@pytest.mark.parametrize(
    ("reply", "performs", "begins"),
    [
        ("220 2.0.0 go", None, True),
        ("250 go", None, True),
        ("220 2.0.0 go", False, False),
        (b"220 go\r\n250-evil\r\n", None, True),
        (b"", True, True),
    ],
)
def test_starttls_performed_by_script(reply: str | bytes, performs: bool | None, begins: bool) -> None:
    server = ServerConnection(config(extensions=OFFERS_TLS))
    server.feed(EHLO)
    server.script.add(ScriptedReply("STARTTLS", reply, performs=performs))
    assert server.feed(STARTTLS) == (reply.encode() + b"\r\n" if isinstance(reply, str) else reply)
    assert server.begins_tls is begins
    assert (server.feed(b"NOOP\r\n") == b"") is begins


def test_replies_may_be_for_one_side_of_tls_only() -> None:
    replies = [ScriptedReply("EHLO", "250 bare", in_tls=False), ScriptedReply("NOOP", "450 4.0.0 no", in_tls=True)]
    outcome = drive([EHLO, b"NOOP\r\n", STARTTLS], config(extensions=OFFERS_TLS), replies, [EHLO, b"NOOP\r\n"])
    assert b"\r\n250 bare\r\n" in outcome.sent
    assert b"\r\n250-PIPELINING\r\n" in outcome.sent
    assert outcome.codes == [250, 220, 250, 450]


def test_tls_required() -> None:
    lines = [
        b"RSET\r\n",
        b"VRFY x\r\n",
        MAIL,
        BOB,
        b"DATA\r\n",
        b"BDAT 4 LAST\r\nRSET",
        b"NOOP\r\n",
        b"HELP\r\n",
        b"AUTH PLAIN\r\n",
    ]
    secured = config(extensions=OFFERS_TLS, require_tls=True)
    outcome = drive([EHLO, *lines, STARTTLS], secured, inside=[EHLO, MESSAGE])
    assert outcome.codes == [530] * 6 + [250, 214, 530, 220, 250, 250, 250, 250]
    assert b"530 5.7.0 must issue a STARTTLS command first\r\n" in outcome.sent
    assert outcome.violations == []
    assert [message.tls for message in outcome.messages] == [TLS]
    assert talk(b"QUIT\r\n", config=secured).codes == [221]


def test_a_message_knows_how_it_came() -> None:
    [message] = talk(MESSAGE, config=config()).messages
    assert (message.tls, message.authenticated_as) == (None, None)
    [message] = talk(b"AUTH PLAIN " + PLAIN + b"\r\n", MESSAGE, config=config(), implicit=True).messages
    assert (message.tls, message.authenticated_as) == (TLS, USER)


# --- AUTH: what is offered, and when it may come


@pytest.mark.parametrize(
    ("options", "implicit", "offer"),
    [
        ({"tokens": {}}, True, b"AUTH SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN CRAM-MD5"),
        ({"tokens": {}, "auth_in_clear": False}, False, b"AUTH SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5"),
        ({"users": {}}, False, b"AUTH XOAUTH2 OAUTHBEARER"),
        ({"users": {}, "auth_in_clear": False}, False, None),
        ({"users": {}, "tokens": {}}, True, None),
        ({"users": {}, "tokens": {}, "external_identity": "me"}, False, b"AUTH EXTERNAL"),
        ({"mechanisms": ("login", "PLAIN")}, False, b"AUTH LOGIN PLAIN"),
        ({"mechanisms": ("PLAIN", "X-ODD"), "auth_in_clear": False}, False, b"AUTH X-ODD"),
        ({"mechanisms": ("PLAIN",), "auth_legacy_form": True}, False, b"AUTH=PLAIN"),
    ],
)
def test_what_is_offered(options: dict[str, object], implicit: bool, offer: bytes | None) -> None:
    sent = talk(config=config(**options), implicit=implicit).sent
    assert [octets[4:] for octets in sent.split(b"\r\n") if octets[4:8] == b"AUTH"] == ([offer] if offer else [])
    assert b"AUTH" not in drive([b"HELO client.example\r\n"], config(**options)).sent


def test_mechanisms_are_no_string() -> None:
    with pytest.raises(TypeError, match="a tuple of names"):
        config(mechanisms="PLAIN")


def test_a_config_shows_no_credentials() -> None:
    assert PASSWORD not in repr(config())
    assert TOKEN not in repr(config())


@pytest.mark.parametrize(
    ("lines", "options", "expected", "violations"),
    [
        ([b"AUTH PLAIN\r\n"], {"users": {}, "tokens": {}}, [502], ["AUTH, which is not offered"]),
        ([b"AUTH\r\n"], {}, [501], ["AUTH without a mechanism"]),
        ([b"AUTH PLAIN\r\n"], {"mechanisms": ("LOGIN",)}, [504], ["AUTH PLAIN, which is not offered"]),
        ([b"AUTH c2VjcmV0\r\n"], {}, [504], ["AUTH with a mechanism, which is not offered"]),
        ([b"AUTH X-ODD\r\n"], {"mechanisms": ("X-ODD",)}, [504], []),
        ([b"AUTH PLAIN\r\n"], {"auth_in_clear": False}, [538], ["AUTH PLAIN without TLS"]),
        ([b"HELO client.example\r\n", b"AUTH PLAIN\r\n"], {}, [250, 503], ["AUTH before EHLO"]),
        ([MAIL, b"AUTH PLAIN\r\n"], {}, [250, 503], ["AUTH within a mail transaction"]),
        ([b"AUTH PLAIN " + PLAIN + b"\r\n"] * 2, {}, [235, 503], ["AUTH after AUTH"]),
        ([b"AUTH PLAIN " + PLAIN + b"\r\n", EHLO, b"AUTH LOGIN\r\n"], {}, [235, 250, 503], ["AUTH after AUTH"]),
        ([b"AUTH PLAIN " + WRONG_PLAIN + b"\r\n", b"AUTH PLAIN " + PLAIN + b"\r\n"], {}, [535, 235], []),
        ([b"AUTH PLAIN ?\r\n"], {}, [501], ["AUTH initial response that is not base64"]),
        ([b"AUTH PLAIN  AAAA\r\n"], {}, [501], ["AUTH initial response that is not base64"]),
        (
            [b"AUTH PLAIN " + b"AG1lAHM\r\n"],
            {},
            [501],
            ["AUTH initial response that is not base64"],
        ),
        ([b"AUTH CRAM-MD5 =\r\n"], {}, [501], ["initial response with CRAM-MD5, where the server begins"]),
        ([b"AUTH LOGIN\r\n", b"!\r\n"], {}, [334, 501], ["AUTH response that is not base64"]),
        ([b"AUTH LOGIN\r\n", b"*\r\n"], {}, [334, 501], []),
        ([b"AUTH LOGIN\r\n", b"bWU=\r\n", b"*\r\n", b"NOOP\r\n"], {}, [334, 334, 501, 250], []),
        ([b"AUTH PLAIN =\r\n"], {}, [501], ["PLAIN response with 0 NUL instead of 2"]),
        ([b"auth plain\r\n", PLAIN + b"\r\n"], {}, [334, 235], []),
    ],
)
def test_sequence_and_syntax(
    lines: list[bytes], options: dict[str, object], expected: list[int], violations: list[str]
) -> None:
    outcome = talk(*lines, config=config(**options))
    assert outcome.codes == expected
    assert outcome.violations == violations


def test_auth_comes_behind_ehlo() -> None:
    outcome = drive([b"AUTH PLAIN\r\n"], config())
    assert codes(outcome.sent) == [220, 503]
    assert outcome.violations == ["AUTH before EHLO"]


def test_auth_required() -> None:
    """RFC 4954 section 6."""
    lines = [b"RSET\r\n", b"NOOP\r\n", b"VRFY x\r\n", MAIL, BOB, b"BDAT 4\r\nRSET", b"AUTH PLAIN " + PLAIN + b"\r\n"]
    outcome = talk(*lines, b"RSET\r\n", MESSAGE, config=config(require_auth=True))
    assert outcome.codes == [250, 250, 530, 530, 530, 530, 235, 250, 250, 250, 250]
    assert b"530 5.7.0 authentication required\r\n" in outcome.sent
    assert outcome.violations == []
    assert outcome.messages[0].authenticated_as == USER


def test_the_auth_line_stays_within_512_octets() -> None:
    """RFC 4954 section 4: a longer response goes into a line of its own, of up to 12,288 octets."""
    padding = b"\0me\0" + b"x" * 370
    fits = b"AUTH PLAIN " + b64encode(padding)[:496]
    assert len(fits) + 2 <= 512
    outcome = talk(fits + b"\r\n", b"AUTH PLAIN " + b"A" * 500 + b"\r\n", b"AUTH PLAIN\r\n", b"A" * 12_284 + b"\r\n",
                   b"AUTH PLAIN\r\n", b"A" * 12_288 + b"\r\n", config=config())  # fmt: skip
    assert outcome.codes == [535, 500, 334, 501, 334, 500]
    assert outcome.violations == [
        "command line too long: b'AUTH ...'",
        "PLAIN response with 9213 NUL instead of 2",
        "AUTH response too long",
    ]


def test_a_response_sent_too_early() -> None:
    outcome = talk(b"AUTH LOGIN\r\n" + RESPONSES + MAIL, config=config())
    assert outcome.codes == [334, 334, 235, 250]
    assert set(outcome.violations) == {"bytes after AUTH, which ends its group"}


# --- mechanisms


def exchange(mechanism: str, *responses: bytes, **options: object) -> list[Challenge | Success | Failure]:
    """Run one with an initial response (or with none, if the first is b"-"), and return each step."""
    machine = Exchange(mechanism, config(**options))
    first, *others = responses
    steps = [machine.begin(None if first == b"-" else first)]
    return steps + [machine.respond(response) for response in others]


@pytest.mark.parametrize(
    ("mechanism", "responses", "identity"),
    [
        ("PLAIN", [b"\0me\0" + PASSWORD.encode()], "me"),
        ("PLAIN", [b"me\0me\0" + PASSWORD.encode()], "me"),
        ("PLAIN", [b"you\0me\0" + PASSWORD.encode()], None),
        ("PLAIN", ["\0me\0s3cret-ka\u0308\u00ad7tsu".encode()], "me"),
        ("PLAIN", [b"\0me\0no"], None),
        ("PLAIN", [b"\0nobody\0" + PASSWORD.encode()], None),
        ("LOGIN", [b"-", b"me", PASSWORD.encode()], "me"),
        ("LOGIN", [b"me", PASSWORD.encode()], "me"),
        ("LOGIN", [b"me", b"no"], None),
        ("XOAUTH2", [b"user=me\1auth=Bearer t0ken-of-me\1\1"], "me"),
        ("XOAUTH2", [b"-", b"user=me\1auth=Bearer t0ken-of-me\1\1"], "me"),
        ("XOAUTH2", [b"user=you\1auth=Bearer t0ken-of-me\1\1", b""], None),
        ("OAUTHBEARER", [b"n,a=me,\1host=h\1port=587\1auth=Bearer t0ken-of-me\1\1"], "me"),
        ("OAUTHBEARER", [b"n,,\1auth=Bearer t0ken-of-me\1\1"], "me"),
        ("OAUTHBEARER", [b"n,a=you,\1auth=Bearer t0ken-of-me\1\1", b"\1"], None),
        ("EXTERNAL", [b""], "cert"),
        ("EXTERNAL", [b"-", b"cert"], "cert"),
        ("EXTERNAL", [b"other"], None),
    ],
)
def test_credentials(mechanism: str, responses: list[bytes], identity: str | None) -> None:
    *challenges, last = exchange(mechanism, *responses, external_identity="cert")
    assert all(isinstance(step, Challenge) for step in challenges)
    assert last == (Failure() if identity is None else Success(identity))


def test_external_needs_somebody() -> None:
    assert exchange("EXTERNAL", b"") == [Failure()]
    assert Exchange("EXTERNAL", config(), peer="cert").begin(b"") == Success("cert")


def test_a_rejected_token_is_explained() -> None:
    """RFC 7628 section 3.2.3: 334 and JSON, and the 535 behind the client's answer to it."""
    challenge, last = exchange("XOAUTH2", b"user=me\1auth=Bearer x\1\1", b"")
    assert isinstance(challenge, Challenge)
    assert b'"status": "401"' in challenge.data
    assert last == Failure()
    outcome = talk(b"AUTH OAUTHBEARER " + line(b"n,a=me,\1auth=Bearer x\1\1"), b"AQ==\r\n", config=config())
    assert outcome.codes == [334, 535]
    assert outcome.sent.endswith(b"\r\n535 5.7.8 authentication credentials invalid\r\n")


C_IS_WRONG = "SCRAM c= that is not the header of the first message"


@pytest.mark.parametrize(
    ("mechanism", "responses", "violation"),
    [
        ("PLAIN", [b"me\0secret"], "PLAIN response with 1 NUL instead of 2"),
        ("PLAIN", [b"\0me\0"], "PLAIN response without a user or without a password"),
        ("PLAIN", [b"\0me\0\xff"], "PLAIN response that is not UTF-8"),
        ("LOGIN", [b"-", b"me", b""], "LOGIN response that is empty"),
        ("CRAM-MD5", [b"-", b"me secret"], "CRAM-MD5 response that is not a user and 32 lower-case hexadecimal digits"),
        ("XOAUTH2", [b"user=me\1auth=secret\1\1"], "XOAUTH2 response that is none"),
        ("XOAUTH2", [b"user=me\1auth=Bearer x\1\1", b"x"], "XOAUTH2 response to the error that is not empty"),
        ("OAUTHBEARER", [b"n,a=me\1auth=Bearer x\1\1"], "OAUTHBEARER response that is none"),
        ("OAUTHBEARER", [b"n,,\1auth=Bearer x\1\1", b""], "OAUTHBEARER response to the error that is not one ^A"),
        ("SCRAM-SHA-256", [b"n,,n=me"], "SCRAM client-first-message that is none"),
        ("SCRAM-SHA-256", [b"n,,m=x,n=me,r=c"], "SCRAM client-first-message that is none"),
        ("SCRAM-SHA-256", [b"n,,n=m=e,r=c"], "SCRAM name with a bare ="),
        ("SCRAM-SHA-256", [b"p=tls-exporter,,n=me,r=c"], "SCRAM with channel binding, which is not offered"),
        ("SCRAM-SHA-256", [b"n,,n=me,r=c", b"x"], "SCRAM client-final-message that is none"),
        ("SCRAM-SHA-256", [b"n,,n=me,r=c", b"c=eSws,r=cS,p=AAAA"], C_IS_WRONG),
        ("SCRAM-SHA-256", [b"n,,n=me,r=c", b"c=biws,r=c,p=AAAA"], "SCRAM nonce that is not the server's"),
        ("SCRAM-SHA-256", [b"n,,n=me,r=c", b"c=biws,r=cS,p=AA"], "SCRAM proof that is not base64"),
    ],
)  # fmt: skip
def test_a_response_that_is_none(mechanism: str, responses: list[bytes], violation: str) -> None:
    last = exchange(mechanism, *responses, auth_nonce="S")[-1]
    assert last == Failure(501, "5.5.2", "response not understood", violation)


@pytest.mark.parametrize("text", [b"QQ", b"QR==", b"QQ==\n", b" QQ==", b"Q", b"====", b"QQ==QQ==", "ä".encode()])
def test_base64_has_one_spelling(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (binascii.Error, or ours)
        decode_response(text)


def test_the_example_of_cram_md5() -> None:
    """RFC 2195 section 2: the digest of its challenge, which the server is given by name and nonce."""
    options: dict[str, object] = {
        "users": {"tim": "tanstaaftanstaaf"},
        "auth_nonce": "1896.697170952",
        "name": "postoffice.reston.mci.net",
    }
    assert exchange("CRAM-MD5", b"-", b"tim b913a602c7eda7a495b4e6e7334d3890", **options) == [
        Challenge(b"<1896.697170952@postoffice.reston.mci.net>"),
        Success("tim"),
    ]
    assert exchange("CRAM-MD5", b"-", b"tim c913a602c7eda7a495b4e6e7334d3890", **options)[-1] == Failure()
    assert exchange("CRAM-MD5", b"-", b"tom b913a602c7eda7a495b4e6e7334d3890", **options)[-1] == Failure()


SCRAM_EXAMPLES: dict[str, tuple[dict[str, object], bytes, bytes, bytes, bytes]] = {
    "SCRAM-SHA-1": (
        {"auth_nonce": "3rfcNHYJY1ZVvWVs7j", "scram_salt": b64decode("QSXCR+Q6sek8bf92")},
        b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    "SCRAM-SHA-256": (
        {"auth_nonce": "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", "scram_salt": b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")},
        b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
}


@pytest.mark.parametrize("mechanism", SCRAM_EXAMPLES)
def test_the_examples_of_scram(mechanism: str) -> None:
    """RFC 5802 section 5 and RFC 7677 section 3."""
    options, first, server_first, final, server_final = SCRAM_EXAMPLES[mechanism]
    options |= {"users": {"user": "pencil"}}
    assert exchange(mechanism, first, final, b"", **options) == [
        Challenge(server_first),
        Challenge(server_final),
        Success("user"),
    ]
    last = exchange(mechanism, first, final, **options, scram_final_in_success=True)[-1]
    assert last == Success("user", final=server_final)
    assert exchange(mechanism, first, final, b"x", **options)[-1] == Failure(
        501, "5.5.2", "response not understood", "SCRAM response to the server's final message that is not empty"
    )
    assert exchange(mechanism, first, final, **{**options, "users": {"user": "pencils"}})[-1] == Failure()
    assert exchange(mechanism, first, final, **{**options, "users": {}})[-1] == Failure()


class ScramClient:
    """A client of its own, which believes everything, and keeps what it was told."""

    def __init__(self, user: str, password: str, algorithm: str, authorization_identity: str = "") -> None:
        self._password, self._algorithm = password.encode(), algorithm
        self._header = f"n,{authorization_identity},"
        self._bare = f"n={user.replace('=', '=3D').replace(',', '=2C')},r=client"
        self.first = (self._header + self._bare).encode()
        self.signature = b""

    def final(self, server_first: bytes) -> bytes:
        attributes = dict(part.split("=", 1) for part in server_first.decode().split(","))
        salted = hashlib.pbkdf2_hmac(
            self._algorithm, self._password, b64decode(attributes["s"]), max(1, int(attributes["i"]))
        )
        key = hmac.digest(salted, b"Client Key", self._algorithm)
        without_proof = f"c={b64encode(self._header.encode()).decode()},r={attributes['r']}"
        message = f"{self._bare},{server_first.decode()},{without_proof}".encode()
        mask = hmac.digest(hashlib.new(self._algorithm, key).digest(), message, self._algorithm)
        proof = bytes(one ^ other for one, other in zip(key, mask, strict=True))
        server_key = hmac.digest(salted, b"Server Key", self._algorithm)
        self.signature = hmac.digest(server_key, message, self._algorithm)
        return f"{without_proof},p={b64encode(proof).decode()}".encode()


def scram(
    mechanism: str = "SCRAM-SHA-256", user: str = USER, identity: str = "", **options: object
) -> tuple[list[int], bytes, Outcome]:
    """Authenticate by SCRAM over the protocol half: the codes, what the server said last, and what became of it."""
    client = ScramClient(user, PASSWORD, "sha1" if mechanism == "SCRAM-SHA-1" else "sha256", identity)
    server = ServerConnection(config(**options))
    server.feed(EHLO)
    answer = server.feed(f"AUTH {mechanism} ".encode() + line(client.first))
    sent = [answer]
    if answer[:4] == b"334 ":
        answer = server.feed(line(client.final(b64decode(answer[4:]))))
        sent.append(answer)
    last = answer
    if answer[:4] == b"334 ":
        sent.append(server.feed(b"\r\n"))
    outcome = Outcome(b"".join(sent), [], server.violations, server.authenticated_as, server.closing)
    return codes(b"".join(sent)), last.replace(b64encode(b"v=" + b64encode(client.signature)), b"<signature>"), outcome


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256"])
@pytest.mark.parametrize("user", ["me", "a,b=c", "m\u00e9"])
def test_scram(mechanism: str, user: str) -> None:
    result, last, outcome = scram(mechanism, user, users={user: PASSWORD})
    assert result == [334, 334, 235]
    assert last == b"334 <signature>\r\n"
    assert (outcome.authenticated_as, outcome.violations) == (user, [])


def test_scram_with_an_authorization_identity() -> None:
    assert scram(identity="a=me")[2].authenticated_as == USER
    assert scram(identity="a=you")[0] == [334, 535]


@pytest.mark.parametrize("enhanced", [True, False])
def test_scram_may_end_in_the_235(enhanced: bool) -> None:
    extensions = ServerExtensions(enhanced_status_codes=enhanced)
    result, last, outcome = scram(scram_final_in_success=True, extensions=extensions, numbered=True)
    assert result == [334, 235]
    assert last == (b"235 2.7.0 <signature>\r\n" if enhanced else b"235 <signature>\r\n")
    assert outcome.authenticated_as == USER


def test_scram_misbehaving() -> None:
    """What a client must refuse; this one does not, and so shows that the server went through with it."""
    result, last, _ = scram(scram_faults=["wrong-signature"])
    assert result == [334, 334, 235]
    assert b64decode(last[4:])[:2] == b"v="
    assert b"<signature>" not in last
    assert scram(scram_faults=["no-signature"])[1] == b"235 2.7.0 authentication successful\r\n"
    assert scram(scram_faults=["error"])[1] == b"334 " + line(b"e=other-error")
    machine = Exchange("SCRAM-SHA-1", config(auth_nonce="server", scram_faults=["nonce"], scram_salt=b"salt"))
    assert machine.begin(b"n,,n=me,r=client") == Challenge(b"r=server,s=c2FsdA==,i=4096")
    assert scram(scram_faults=["nonce"])[0] == [334, 334, 235]


@pytest.mark.parametrize(
    ("iterations", "expected"),
    [(1, [334, 334, 235]), (4095, [334, 334, 235]), (0, [334, 535]), (-1, [334, 535]), ("10", [334, 535])],
)
def test_scram_with_an_odd_iteration_count(iterations: int | str, expected: list[int]) -> None:
    assert scram(scram_iterations=iterations)[0] == expected


def test_scram_claims_a_huge_iteration_count_without_computing() -> None:
    machine = Exchange("SCRAM-SHA-256", config(auth_nonce="S", scram_iterations=2**31, scram_salt=b"salt"))
    assert machine.begin(b"n,,n=me,r=c") == Challenge(b"r=cS,s=c2FsdA==,i=2147483648")
    assert machine.respond(b"c=biws,r=cS,p=AAAA") == Failure()


# --- scripted replies


@pytest.mark.parametrize(
    "reply", ["454 4.7.0 later", "535 5.7.8 no", "504 5.5.4 no", "534 5.7.9 weak", "421 4.3.2 busy"]
)
def test_auth_refused_by_script(reply: str) -> None:
    for verb, lines in (
        ("AUTH", [b"AUTH PLAIN " + PLAIN + b"\r\n"]),
        ("AUTH", [b"AUTH LOGIN\r\n"]),
        ("END_OF_AUTH", [b"AUTH PLAIN " + PLAIN + b"\r\n"]),
        ("END_OF_AUTH", [b"AUTH PLAIN\r\n", PLAIN + b"\r\n"]),
        ("AUTH_RESPONSE", [b"AUTH PLAIN\r\n", PLAIN + b"\r\n"]),
    ):
        outcome = talk(*lines, config=config(), replies=[ScriptedReply(verb, reply)])
        assert outcome.codes == [*([334] if len(lines) == 2 else []), int(reply[:3])]
        assert outcome.authenticated_as is None
        assert outcome.closing == reply.startswith("421")


def test_success_too_early() -> None:
    outcome = talk(b"AUTH SCRAM-SHA-256 " + line(b"n,,n=me,r=c"), MESSAGE, config=config(require_auth=True),
                   replies=[ScriptedReply("AUTH", "235 2.7.0 ok")])  # fmt: skip
    assert outcome.codes == [235, 250, 250, 250]
    assert outcome.messages[0].authenticated_as == ""


def test_success_that_is_none_or_of_another_code() -> None:
    auth = b"AUTH PLAIN " + PLAIN + b"\r\n"
    assert talk(auth, config=config(), replies=[ScriptedReply("AUTH", "250 ok")]).authenticated_as == USER
    lie = ScriptedReply("END_OF_AUTH", "235 ok", performs=False)
    assert talk(auth, MAIL, config=config(require_auth=True), replies=[lie]).codes == [235, 530]
    wrong = b"AUTH PLAIN " + WRONG_PLAIN + b"\r\n"
    assert talk(wrong, config=config(), replies=[ScriptedReply("AUTH", "235 ok")]).authenticated_as == ""
    in_clear = talk(auth, config=config(auth_in_clear=False), replies=[ScriptedReply("AUTH", "235 ok")])
    assert in_clear.authenticated_as is None
    assert in_clear.violations == ["AUTH PLAIN without TLS"]


def test_any_prompt_and_challenges_that_cannot_be_decoded() -> None:
    replies = [ScriptedReply("AUTH", "334 ???", times=1), ScriptedReply("AUTH_RESPONSE", "334", times=1)]
    outcome = talk(b"AUTH LOGIN\r\n", *RESPONSES.splitlines(keepends=True), config=config(), replies=replies)
    assert outcome.sent.endswith(b"334 ???\r\n334\r\n235 2.7.0 authentication successful\r\n")
    assert outcome.authenticated_as == USER
    cancelled = talk(b"AUTH LOGIN\r\n", b"*\r\n", config=config(), replies=replies)
    assert cancelled.codes == [334, 501]
    assert cancelled.violations == []


def test_more_challenges_than_the_mechanism_has() -> None:
    auth = b"AUTH PLAIN " + PLAIN + b"\r\n"
    more = ScriptedReply("END_OF_AUTH", "334 bW9yZQ==", times=3)
    outcome = talk(auth, b"\r\n", b"\r\n", b"\r\n", config=config(), replies=[more])
    assert outcome.codes == [334, 334, 334, 235]
    assert outcome.authenticated_as == USER
    endless = ScriptedReply("AUTH_RESPONSE", "334 ")
    outcome = talk(b"AUTH PLAIN\r\n", *[b"\r\n"] * 20, b"*\r\n", config=config(), replies=[endless])
    assert outcome.codes == [334] * 21 + [501]
    outcome = talk(auth, b"*\r\n", config=config(), replies=[attrs.evolve(more, times=1)])
    assert (outcome.codes, outcome.authenticated_as) == ([334, 501], None)


def test_a_scripted_exchange_where_there_is_none() -> None:
    nobody = config(users={}, tokens={}, extensions=ServerExtensions(extra_keywords=("AUTH X-ODD",)))
    replies = [ScriptedReply("AUTH", "334 "), ScriptedReply("END_OF_AUTH", "235 ok", times=0)]
    outcome = talk(b"AUTH X-ODD\r\n", b"eHh4\r\n", b"NOOP\r\n", config=nobody, replies=replies)
    assert outcome.codes == [334, 502, 250]
    assert outcome.authenticated_as is None


def test_replies_within_an_exchange_are_numbered_as_its_command_and_challenges_never() -> None:
    lines = [b"AUTH LOGIN\r\n", *RESPONSES.splitlines(keepends=True), b"NOOP\r\n"]
    replies = [ScriptedReply("AUTH", "334 VXNlcg==")]
    sent = talk(*lines, config=config(numbered=True), replies=replies).sent
    assert sent.endswith(
        b"334 VXNlcg==\r\n334 UGFzc3dvcmQ6\r\n235 2.7.0 authentication successful #2\r\n250 2.0.0 ok #3\r\n"
    )


# --- no credentials in violations and replies


SECRETS = [PASSWORD.encode(), PLAIN, PLAIN.upper(), b64encode(PASSWORD.encode()), b64encode(PASSWORD.encode()).upper()]
FRAGMENTS = [
    b"AUTH PLAIN " + PLAIN,
    b"AUTH " + PLAIN,
    b"auth  plain  " + PLAIN + b" ",
    b"AUTH\t" + PLAIN,
    b"NOOP\nAUTH PLAIN " + PLAIN,
    b"AUTH LOGIN",
    b"AUTH CRAM-MD5 " + PLAIN,
    b"AUTH PLAIN " + PLAIN + b"\0",
    b"AUTH PLAIN " + PLAIN * 20,
    b64encode(USER.encode()),
    PLAIN,
    PLAIN + b" ",
    PLAIN * 200,
    b"\xff" + PLAIN,
    b64encode(PASSWORD.encode()),
    PASSWORD.encode(),
    PASSWORD.encode() + b"\0",
    b"*",
    b"",
]


@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=6),
    st.sampled_from([config(), config(auth_in_clear=False), config(users={}, tokens={}), config(require_tls=True)]),
    st.booleans(),
    st.booleans(),
)
def test_no_violation_and_no_reply_holds_a_credential(
    fragments: list[bytes], config: ServerConfig, together: bool, refuses: bool
) -> None:
    replies = [ScriptedReply("GREETING", "554 no")] if refuses else []
    lines = [fragment + b"\r\n" for fragment in [b"AUTH LOGIN", *fragments]]
    outcome = drive([EHLO, *([b"".join(lines)] if together else lines)], config, replies)
    # The first octets of a quotation are enough to give something away
    pieces = {secret[start : start + 8] for secret in SECRETS for start in range(len(secret) - 7)}
    for text in [*outcome.violations, outcome.sent.decode()]:
        assert not [piece for piece in pieces if piece in text.encode()], text
        assert not [piece for piece in pieces if piece in re.sub(rb"\\x..", b"", text.encode())], text


def test_a_line_behind_auth_is_shown_again_once_the_client_is_back() -> None:
    lines = [b"AUTH LOGIN\r\n", b"FOO\r\n", b"NOOP\r\n", b"FOO\r\n"]
    outcome = talk(*lines, config=config(auth_in_clear=False))
    assert outcome.violations == [
        "AUTH LOGIN without TLS",
        "unknown command: (not shown after AUTH)",
        "unknown command: 'FOO'",
    ]


# --- what the server says unasked


def test_what_is_said_unasked() -> None:
    server = ServerConnection(config())
    server.greeting()
    assert server.is_idle
    server.feed(EHLO)
    assert server.say(b"421 4.3.2 closing\r\n", close=True) == b"421 4.3.2 closing\r\n"
    assert server.closing
    assert not server.is_idle
    assert server.feed(MAIL) == b""
    assert server.violations == []


@pytest.mark.parametrize("octets", [b"NO", b"NOOP\r", MAIL, MAIL + BOB + b"DATA\r\n", b"AUTH LOGIN\r\n", STARTTLS])
def test_a_connection_is_not_idle_within_something(octets: bytes) -> None:
    server = ServerConnection(config(extensions=OFFERS_TLS))
    server.feed(EHLO)
    assert server.is_idle
    server.feed(octets)
    assert not server.is_idle
