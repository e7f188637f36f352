"""From a message to its envelope and its wire form: rules R18 to R22, and `design.md` "Values" and "What is altered".

The stdlib's `email` differs between Pythons, and old patch levels let header injections through their generators: what
stands here holds on all of them, either because we refuse, or because the octets are read back by a parser of our own.
"""

from __future__ import annotations

import copy
import email
import email.policy
import pickle
import re
import socket
import time
from collections.abc import Callable
from email import encoders
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage, Message
from email.mime.application import MIMEApplication
from email.mime.base import MIMEBase
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.errors import ExtensionRequired, MessageError, RecipientsRefused
from smtplite.message import wire_bytes
from smtplite.message.content import Content, OctetBody
from smtplite.message.envelope import Envelope, Outgoing, Recipient
from smtplite.message.prepared import Prepared, prepare
from smtplite.message.wire import MAX_TEXT_LINE_BYTES
from smtplite.protocol.commands import Mail, Rcpt
from smtplite.protocol.extensions import Extensions
from smtplite.protocol.reply import EnhancedStatusCode, Reply
from smtplite.results import Delivery, Receipt
from tests.exhaustive import examples

if TYPE_CHECKING:
    AnyMessage = Message[Any, Any]

ME = "me@client.example"
YOU = "you@server.example"
OTHER = "other@server.example"
DATE = "Mon, 23 Nov 2026 06:00:00 +0000"
MESSAGE_ID = "<1@client.example>"

EVERYTHING = Extensions(
    {
        "SIZE": ("100000",),
        "8BITMIME": (),
        "SMTPUTF8": (),
        "DSN": (),
        "REQUIRETLS": (),
        "DELIVERBY": (),
        "MT-PRIORITY": (),
    }
)
NOTHING = Extensions({})

SMTP = email.policy.SMTP
BOTH_PARSERS = pytest.mark.parametrize(
    "policy", [email.policy.default, email.policy.compat32], ids=["default", "compat32"]
)


def parsed(data: bytes | str, policy: Any = email.policy.default) -> AnyMessage:
    message: AnyMessage = email.message_from_bytes(data if isinstance(data, bytes) else data.encode(), policy=policy)
    return message


def text_message(**fields: Any) -> EmailMessage:
    """A complete small message; fields: underscores stand for hyphens, None leaves one out."""
    message = EmailMessage()
    values = {"From": ME, "To": YOU, "Subject": "Hello", "Date": DATE, "Message_ID": MESSAGE_ID} | fields
    for name, value in values.items():
        if value is not None:
            message[name.replace("_", "-")] = value
    message.set_content("Hello,\n.\n.. bye\n")
    return message


def old_message(**fields: Any) -> MIMEText:
    """The same, of the classes that know no policy and check nothing."""
    message = MIMEText("Hello,\n.\n.. bye\n")
    values = {"From": ME, "To": YOU, "Subject": "Hello", "Date": DATE, "Message_ID": MESSAGE_ID} | fields
    for name, value in values.items():
        if value is not None:
            message[name.replace("_", "-")] = value
    return message


def header_of(data: bytes) -> list[bytes]:
    """Read a header section as a server does, apart from the stdlib: each field, folded lines and all."""
    fields: list[bytes] = []
    for line in data.split(b"\r\n"):
        if not line:
            return fields
        if line[:1] in (b" ", b"\t"):
            fields[-1] += b"\r\n" + line
        else:
            fields.append(line)
    raise AssertionError("no empty line ends the header section")


def names_of(data: bytes) -> list[str]:
    return [field.partition(b":")[0].decode("ascii").lower() for field in header_of(data)]


def values_of(data: bytes, name: str) -> list[str]:
    fields = [field.partition(b":") for field in header_of(data)]
    return [value.decode("utf-8").strip() for found, _, value in fields if found.decode().lower() == name]


def assert_only_crlf(data: bytes) -> None:
    rest = data.replace(b"\r\n", b"")
    assert b"\r" not in rest
    assert b"\n" not in rest


def state(message: AnyMessage) -> object:
    payload: Any = message.get_payload()
    parts = [state(part) for part in payload] if isinstance(payload, list) else payload
    fields = [(name, type(value), str(value)) for name, value in message.raw_items()]
    return (fields, parts, message.policy, message.preamble, message.epilogue, message.get_content_type())


def fitted(prepared: Prepared, extensions: Extensions) -> tuple[Mail, list[Rcpt], bytes]:
    """Return what goes to a server without TLS, the content as octets."""
    mail, rcpts, body = prepared.for_server(extensions, is_tls=False)
    assert isinstance(body, OctetBody)
    assert body.is_repeatable
    return mail, rcpts, body.octets


# --- wire_bytes


def with_attachments() -> EmailMessage:
    message = text_message(Subject="Grüße", To="Jörg Müller <you@server.example>, other@server.example")
    message.add_alternative("<p>größer</p>", subtype="html", cte="8bit")
    message.add_attachment(bytes(range(256)), maintype="application", subtype="octet-stream", filename="größe.bin")
    message.add_attachment("a text\nof lines\n", filename="a.txt")
    for number, part in enumerate(part for part in message.walk() if part.is_multipart()):
        part.set_boundary(f"==b{number}==")
    return message


def with_an_attached_message() -> EmailMessage:
    inner = text_message(Subject="inner", Bcc="kept@inner.example", Resent_Bcc="kept2@inner.example")
    message = text_message(Bcc="dropped@outer.example", Resent_Bcc="dropped2@outer.example")
    message.add_attachment(inner)
    message.set_boundary("==outer==")
    return message


def old_multipart() -> MIMEMultipart:
    inner = MIMEMultipart(
        "alternative", boundary="==inner==", _subparts=[MIMEText("plain"), MIMEText("<p>ü</p>", "html")]
    )
    message = MIMEMultipart("mixed", boundary="==mixed==")
    message["From"], message["To"], message["Bcc"] = ME, YOU, "secret@server.example"
    message.preamble = "a preamble\nof two lines"
    message.epilogue = "an epilogue\n"
    message.attach(inner)
    message.attach(MIMEApplication(b"\0\1\2" * 100, Name="x.bin"))
    message.attach(MIMEMessage(old_message(Bcc="kept@inner.example")))
    part = MIMEBase("application", "x-y")
    part.set_payload(b"octets")
    encoders.encode_base64(part)
    part.add_header("Content-Disposition", "attachment", filename=("utf-8", "", "größe.bin"))
    message.attach(part)
    return message


def signed() -> AnyMessage:
    return parsed(
        "From: me@client.example\nTo: you@server.example\nContent-Type: multipart/signed; boundary=sig;"
        " protocol=application/x; micalg=sha-256\n\n--sig\nContent-Type: text/plain\nX-Long: "
        + "word " * 40
        + "\n\nbody  \n--sig\nContent-Type: application/x\n\nsignature\n--sig--\n"
    )


def delivery_status() -> AnyMessage:
    return parsed(
        "From: me@client.example\nTo: you@server.example\nContent-Type: multipart/report; boundary=r\n\n--r\n\nFailed\n"
        "--r\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\nFinal-Recipient: rfc822; a@b\n"
        "Action: failed\n\n--r\nContent-Type: text/rfc822-headers\n\nFrom: x\nBcc: y\n--r--\n"
    )


EIGHT_BIT = (
    "From: me@client.example\nTo: you@server.example\nBcc: secret@server.example\nMIME-Version: 1.0\n"
    "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGrüße\n"
)
MESSAGES: dict[str, Callable[[], AnyMessage]] = {
    "text": text_message,
    "no fields at all": EmailMessage,
    "no body": lambda: parsed("From: a@x\n"),
    "8-bit body": lambda: parsed(EIGHT_BIT),
    "8-bit body, compat32": lambda: parsed(EIGHT_BIT, email.policy.compat32),
    "8-bit body, LF and CRLF mixed": lambda: parsed(EIGHT_BIT + "a\r\nb\nc\rd"),
    "8-bit body, no charset": lambda: parsed("From: a@x\nContent-Transfer-Encoding: 8bit\n\nü\n"),
    "8-bit header": lambda: parsed("From: a@x\nSubject: Grüße\n\nx\n"),
    "8-bit header, latin-1": lambda: parsed(b"From: a@x\nSubject: Gr\xfc\xdfe\n\nx\n", email.policy.compat32),
    "8-bit set_content": with_attachments,
    "Bcc, a message attached": with_an_attached_message,
    "nested multiparts of old": old_multipart,
    "signed": signed,
    "delivery status": delivery_status,
    "old": old_message,
    "old, utf-8 body": lambda: MIMEText("Grüße\n" * 3, "plain", "utf-8"),
    "long header": lambda: text_message(
        Subject="word " * 100, References=" ".join(f"<{n}@x.example>" for n in range(50))
    ),
    "long header without a space": lambda: text_message(Subject="w" * 300),
    "long header, old": lambda: old_message(Subject="word " * 100, X_Tokens="w" * 300),
    "long header beyond ASCII": lambda: text_message(
        Subject="Grüße " * 50, To=[Address("Jörg", "you", "server.example")] * 9
    ),
    "folded header, parsed": lambda: parsed("From: a@x\nTo: b@y,\n c@z\nSubject: a\n\tb\n \n c\n\nx\n"),
    "several Bcc": lambda: parsed(
        "BCC: a@x\nFrom: a@x\nbcc: b@y,\n c@z\nResent-BCC: d@z\n\nx\n", email.policy.compat32
    ),
    "a body with From, dots and Bcc": lambda: parsed("From: a@x\n\nFrom me\n.\nBcc: x\n"),
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("seven_bit", [False, True], ids=["8bit", "7bit"])
def test_bcc_and_resent_bcc_never_leave_in_the_header_section(name: str, seven_bit: bool) -> None:
    assert not {"bcc", "resent-bcc"} & set(names_of(wire_bytes(MESSAGES[name](), seven_bit=seven_bit)))


@BOTH_PARSERS
def test_bcc_does_not_leave_when_a_body_is_encoded_anew_for_a_server_without_8bitmime(policy: Any) -> None:
    # The stdlib then writes a copy of the message: what is dropped must not depend on which object it is.
    prepared = prepare(parsed(EIGHT_BIT, policy))
    _, rcpts, content = fitted(prepared, NOTHING)
    assert b"secret" not in content
    assert content.isascii()
    assert [rcpt.forward_path.address for rcpt in rcpts] == [YOU, "secret@server.example"]
    assert names_of(content).count("date") == 1
    assert names_of(content).count("message-id") == 1


def test_a_message_inside_the_message_keeps_its_own_bcc() -> None:
    wire = wire_bytes(with_an_attached_message())
    assert b"kept@inner.example" in wire
    assert b"kept2@inner.example" in wire
    assert b"outer.example" not in wire
    assert b"kept@inner.example" in wire_bytes(old_multipart())


def test_a_multipart_without_a_boundary_gets_one_and_stays_as_it_was() -> None:
    message = MIMEMultipart(_subparts=[MIMEText("one"), MIMEMultipart(_subparts=[MIMEText("two")])])
    message["Bcc"] = "secret@server.example"
    empty = EmailMessage()
    empty["Content-Type"] = "multipart/mixed"
    for multipart in (message, empty):
        before = state(multipart)
        again = parsed(wire_bytes(multipart))
        assert state(multipart) == before
        assert again.get_boundary()
        assert again["Bcc"] is None
        assert not again.defects
    assert [part.get_payload() for part in parsed(wire_bytes(message)).walk() if not part.is_multipart()] == [
        "one",
        "two",
    ]


@pytest.mark.parametrize(
    "data",
    [
        "Content-Type: multipart/mixed\n\nno\nboundary\rand\r\nno parts\n",
        "Content-Type: multipart/mixed; boundary=b\n\nthe boundary\nnever comes\n",
        "Content-Type: message/rfc822\n\nSubject: x\n\na\rb\n",
        "Content-Type: multipart/mixed; boundary=b\n\npre\ramble\n--b\n\na\rb\n--b--\nepi\rlogue\n",
    ],
)
@BOTH_PARSERS
def test_no_line_ending_but_crlf_leaves_also_where_the_stdlib_writes_a_payload_as_it_is(data: str, policy: Any) -> None:
    assert_only_crlf(wire_bytes(parsed(data, policy)))


def test_no_line_ending_but_crlf_leaves_when_an_attached_message_is_a_str() -> None:
    message = EmailMessage()
    message["Content-Type"] = "message/rfc822"
    message.set_payload("Subject: x\n\na\rb\n.\n")
    wire = wire_bytes(message)
    assert_only_crlf(wire)
    assert wire.endswith(b"\r\n\r\nSubject: x\r\n\r\na\r\nb\r\n.\r\n")


def test_a_header_object_is_written_as_the_text_that_it_holds() -> None:
    message = old_message(
        Subject=Header("Grüße " * 30, "utf-8", header_name="Subject"), X_Plain=Header("word " * 40), Bcc=Header("x@y")
    )
    again = parsed(wire_bytes(message))
    assert again["Subject"] == "Grüße " * 30
    assert again["X-Plain"] == "word " * 40
    assert again["Bcc"] is None
    assert "Subject: Grüße".encode() in wire_bytes(message, utf8=True)


def test_a_header_object_in_one_part_leaves_the_other_headers_alone() -> None:
    part: Any = MIMEText("part")
    part["Content-Description"] = Header("größer", "utf-8")
    message = text_message(From="Jörg <me@client.example>")
    alone = header_of(wire_bytes(message))
    message.make_mixed(boundary="b")
    message.attach(part)
    wire = wire_bytes(message)
    assert alone[0] in header_of(wire)
    assert alone[0] == b"From: =?utf-8?q?J=C3=B6rg?= <me@client.example>"
    assert b"\r\nContent-Description: =?utf-8?q?gr=C3=B6=C3=9Fer?=\r\n" in wire


@pytest.mark.parametrize("value", ["Jörg Müller <me@client.example>", '"Müller, Jörg" <me@client.example>'])
def test_plain_text_beyond_ascii_in_an_old_message_is_encoded_and_the_address_in_it_is_not(value: str) -> None:
    # as_bytes(policy=SMTP) raises UnicodeEncodeError before 3.13; as_bytes() encodes the address with the name.
    message = old_message(From=value, Subject="Grüße\r\n aus Köln")
    wire = wire_bytes(message)
    assert wire.isascii()
    assert values_of(wire, "from")[0].endswith("<me@client.example>")
    again = parsed(wire)
    assert again["From"] == value
    assert again["Subject"] == "Grüße aus Köln"
    assert prepare(message).sender.address == ME
    assert "Jörg".encode() in wire_bytes(message, utf8=True) or "Müller".encode() in wire_bytes(message, utf8=True)


def test_an_empty_date_or_message_id_is_present() -> None:
    prepared = prepare(parsed("From: a@x\nTo: b@y\nDate:\nMessage-ID:\n\n"))
    assert prepared.added == ()
    assert prepared.message_id is None


def with_a_part(part: Any) -> MIMEMultipart:
    message = MIMEMultipart()
    message.attach(part)
    return message


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_a_part("a str is no part"),
        lambda: parsed("Content-Type: text/plain; charset=no-such-charset\n\n") and old_message(X=b"octets"),
        lambda: old_message(X=5),
        lambda: b"no message",
    ],
)
def test_what_cannot_be_flattened_is_a_message_error(make: Callable[[], Any]) -> None:
    with pytest.raises(MessageError, match="cannot be flattened"):
        wire_bytes(make())


def test_a_message_nested_too_deeply_is_a_message_error_and_unchanged() -> None:
    outer = inner = MIMEMultipart(boundary="0")
    for number in range(3000):
        part = MIMEMultipart(boundary=str(number))
        inner.attach(part)
        inner = part
    policy = outer.policy
    with pytest.raises(MessageError, match="cannot be flattened"):
        wire_bytes(outer)
    assert outer.policy is policy


# --- R22: CR and LF in header names and values


INJECTIONS = [
    "x\nInjected: y",
    "x\rInjected: y",
    "x\r\nInjected: y",
    "x\n\nbody",
    "x\r\n\r\nbody",
    "x\r\n.\r\nMAIL FROM:<>",
    "x\n",
    "x\r\n",
    "x\r",
    "\nInjected: y",
    "x\n y\nInjected: y",
    "x\r y",
    "x\n\r y",
    "x\n\x0bInjected: y",
]
NAMES = [
    "Subject",
    "To",
    "From",
    "Sender",
    "Reply-To",
    "X-Any",
    "Message-ID",
    "Date",
    "Content-Type",
    "Content-Disposition",
]


def put(message: AnyMessage, name: str, value: object) -> AnyMessage:
    """Put a field into a message behind the back of every check that the stdlib has."""
    message._headers.append((name, value))  # type: ignore[attr-defined]
    return message


@pytest.mark.exhaustive(keep=60)
@pytest.mark.parametrize("value", INJECTIONS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [text_message, old_message])
def test_a_line_break_in_a_header_value_is_a_message_error(
    make: Callable[[], AnyMessage], name: str, value: str
) -> None:
    with pytest.raises(MessageError, match=re.escape(name)):
        wire_bytes(put(make(), name, value))
    with pytest.raises(MessageError):
        prepare(put(make(), name, value), sender=ME, recipients=YOU)


@pytest.mark.parametrize("value", INJECTIONS)
def test_a_line_break_in_a_header_object_is_a_message_error(value: str) -> None:
    for charset in (None, "us-ascii"):
        with pytest.raises(MessageError):
            wire_bytes(old_message(X_Any=Header(value, charset)))
    try:  # encoded, it would be harmless; we need not let it
        wire = wire_bytes(old_message(X_Any=Header(value, "utf-8")))
    except MessageError:
        pass
    else:
        assert names_of(wire)[-1] == "x-any"


@pytest.mark.parametrize(
    "name", ["X\nInjected", "X\r\nInjected: y\r\nZ", "X\r", "X:", "X Y", "", "X\0", "Ü", "X\x7f", "Bcc "]
)
def test_a_header_name_that_is_none_is_a_message_error(name: str) -> None:
    for make in (text_message, old_message):
        with pytest.raises(MessageError, match="header name"):
            wire_bytes(put(make(), name, "value"))


@pytest.mark.parametrize("name", [None, 5, b"X"])
def test_a_header_name_that_is_no_str_is_a_message_error(name: Any) -> None:
    with pytest.raises(MessageError):
        wire_bytes(put(text_message(), name, "value"))


ENCODED = [
    "=?utf-8?q?x=0AInjected:_y?=",
    "=?utf-8?q?x=0DInjected:_y?=",
    "=?utf-8?q?x=0D=0AInjected:_y?=",
    "=?utf-8?b?eApJbmplY3RlZDogeQ==?=",
    "=?utf-8?q?x=0A=0Abody?=",
    "=?utf-8?q?x=0A_folded?=",
    "=?utf-8?q?x?= =?utf-8?q?=0AInjected:_y?=",
    "=?utf-8?q?x=C2=85Injected:_y?=",
    "=?utf-8?q?x=E2=80=A8Injected:_y?=",
    "=?utf-8?q?x=0BInjected:_y?=",
    "=?utf-8?q?x=0CInjected:_y?=",
    "=?utf-8?q?x=1CInjected:_y?=",
]


def filled(name: str, value: str) -> str:
    if name == "Content-Type":
        return f'text/plain; charset="us-ascii"; name="{value}"'
    if name == "Content-Disposition":
        return f'attachment; filename="{value}"'
    return f"{value} <you@server.example>" if name in ("To", "From", "Sender", "Reply-To") else value


@pytest.mark.exhaustive(keep=60)
@pytest.mark.parametrize("value", ENCODED)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "padding", ["", " " + "long " * 40, " " + "l" * 200, " ü"], ids=["short", "long", "unbroken", "8bit"]
)
def test_an_encoded_word_never_becomes_a_header_field(name: str, value: str, padding: str) -> None:
    source = filled(name, value + padding) + "\n"
    candidates: list[Callable[[], AnyMessage]] = [
        lambda: parsed(f"X-First: 1\n{name}: {source}X-Last: 2\n\nbody\n"),
        lambda: parsed(f"X-First: 1\n{name}: {source}X-Last: 2\n\nbody\n", email.policy.compat32),
        lambda: put(
            put(parsed("X-First: 1\n\nbody\n"), name, SMTP.header_factory(name, source.strip())), "X-Last", "2"
        ),
        lambda: put(put(old_message(), name, source.strip()), "X-Last", "2"),
        lambda: put(put(old_message(), name, Header(source.strip(), "utf-8")), "X-Last", "2"),
    ]
    for make in candidates:
        for utf8, seven_bit in ((False, False), (True, False), (False, True)):
            try:
                message = make()
            except Exception:  # noqa: BLE001 (the stdlib refused it before us)
                continue
            put_in = [name.lower() for name, _ in message.raw_items()]
            try:
                wire = wire_bytes(message, utf8=utf8, seven_bit=seven_bit)
            except MessageError:
                continue
            assert names_of(wire) == put_in
            assert_only_crlf(wire)


CONTROLS = st.sampled_from(
    ["\n", "\r", "\r\n", " ", "\t", "\0", "\v", "\f", "\x1c", "\x85", "\u2028", ":", "a: b", "ü", "w" * 90]
)
ANY_VALUE = st.lists(CONTROLS | st.sampled_from([*ENCODED, "a@b", "<", ">", '"', ",", "\udcfc"]), max_size=8).map(
    "".join
)


@examples(200)
@given(st.sampled_from(NAMES), ANY_VALUE, st.booleans(), st.booleans(), st.booleans())
def test_whatever_a_value_holds_the_fields_on_the_wire_are_the_fields_put_in(
    name: str, value: str, old: bool, utf8: bool, seven_bit: bool
) -> None:
    message = put(put(Message() if old else EmailMessage(), name, value), "X-Last", "2")
    try:
        wire = wire_bytes(message, utf8=utf8, seven_bit=seven_bit)
    except MessageError:
        return
    assert names_of(wire) == [name.lower(), "x-last"]
    assert wire.endswith(b"X-Last: 2\r\n\r\n")
    assert_only_crlf(wire)


@pytest.mark.parametrize("value", ["x\nInjected: y", "x\r\n\r\nbody", "=?utf-8?q?x=0AInjected:_y?= " + "long " * 40])
def test_the_headers_of_parts_and_of_attached_messages_are_checked_too(value: str) -> None:
    part = put(MIMEText("part"), "X-Part", value)
    nested = MIMEMultipart(boundary="n", _subparts=[MIMEMultipart(boundary="m", _subparts=[part])])
    for message in (nested, MIMEMessage(put(old_message(), "Subject", value))):
        if value.startswith("=?"):  # it stays encoded
            wire = wire_bytes(message)
            assert b"\nInjected" not in wire
            assert_only_crlf(wire)
        else:
            with pytest.raises(MessageError, match="line break"):
                wire_bytes(message)


@pytest.mark.parametrize("value", ["x\nInjected: y", 'x"\r\nInjected: y\r\nX: "', "x\r"])
def test_a_line_break_in_a_filename_is_a_message_error(value: str) -> None:
    part = MIMEApplication(b"octets")
    part.add_header("Content-Disposition", "attachment", filename=value)
    with pytest.raises(MessageError, match="Content-Disposition holds a line break"):
        wire_bytes(MIMEMultipart(boundary="b", _subparts=[part]))


def test_a_line_break_in_an_encoded_filename_stays_encoded_or_is_refused() -> None:
    part = MIMEApplication(b"octets")
    part.add_header("Content-Disposition", "attachment", filename=("utf-8", "", "ü\r\nInjected: y"))
    wire = wire_bytes(part)
    assert names_of(wire) == ["content-type", "mime-version", "content-transfer-encoding", "content-disposition"]
    source = "Content-Disposition: attachment; filename*=utf-8''x%0D%0AInjected%3A%20y" + "; a=b" * 30 + "\n\n"
    try:
        wire = wire_bytes(parsed(source))
    except MessageError:
        return
    assert names_of(wire) == ["content-disposition"]


@pytest.mark.parametrize("boundary", ["b\nInjected: y", "b\r\n\r\nbody", "b\r"])
def test_a_line_break_in_a_boundary_is_a_message_error(boundary: str) -> None:
    with pytest.raises(MessageError):
        wire_bytes(MIMEMultipart(boundary=boundary, _subparts=[MIMEText("x")]))


def test_a_line_break_in_an_encoded_boundary_is_a_message_error() -> None:
    # Harmless in the header section; but the stdlib decodes it, and writes it into the body as it is.
    message = MIMEMultipart(_subparts=[MIMEText("x")])
    del message["Content-Type"]
    message["Content-Type"] = "multipart/mixed; boundary*=us-ascii''b%0D%0AContent-Type%3A%20text/html%0D%0A%0D%0A"
    with pytest.raises(MessageError, match="boundary holds a line break"):
        wire_bytes(message)


def test_a_header_object_cannot_write_another_field_than_the_one_it_stands_for() -> None:
    bcc = EmailMessage()
    bcc["Bcc"] = "secret@server.example"
    with pytest.raises(MessageError, match="X-Harmless would be written as"):
        wire_bytes(put(text_message(), "X-Harmless", bcc["Bcc"]))

    class Hostile(str):
        __slots__ = ()
        name = "X-Hostile"

        def fold(self, *, policy: object) -> str:
            return "X-Hostile: x\r\nBcc: y\r\n"

    with pytest.raises(MessageError, match="line break"):
        wire_bytes(put(text_message(), "X-Hostile", Hostile("x")))


@pytest.mark.parametrize("value", ["a\r\n b", "a\n b", "a\n\tb\r\n c", "a,\n b"])
def test_a_value_that_comes_folded_passes(value: str) -> None:
    for make in (text_message, old_message):
        assert re.search(rb"X-Any: a,?\r\n[ \t]b", wire_bytes(put(make(), "X-Any", value)))


def test_the_name_of_a_field_is_written_as_it_was_put_in() -> None:
    assert b"\r\nx-ANY: 1\r\n" in wire_bytes(text_message(x_ANY="1"))


# --- The envelope from the headers


def envelope_of(fields: str, policy: Any = email.policy.default) -> tuple[str, list[str]]:
    prepared = prepare(parsed(fields + "\n\nbody\n", policy))
    by_octets = (
        prepare((fields + "\n\nbody\n").encode()) if not re.search(r"(?im)^(resent-)?bcc:", fields) else prepared
    )
    assert prepared.recipients == by_octets.recipients
    assert prepared.envelope.sender == by_octets.envelope.sender
    return prepared.envelope.sender, list(prepared.recipients)


ENVELOPES: list[tuple[str, str, list[str]]] = [
    ("From: a@x\nTo: b@y", "a@x", ["b@y"]),
    ("from: a@x\nTO: b@y", "a@x", ["b@y"]),
    ("Sender: s@x\nFrom: a@x, b@x\nTo: b@y", "s@x", ["b@y"]),
    ("From: a@x\nSender: s@x\nTo: b@y", "s@x", ["b@y"]),
    ("From: a@x\nSender:\nTo: b@y", "a@x", ["b@y"]),
    ("From: a@x\nSender: s@x\nFrom: not, a, list\nTo: b@y", "s@x", ["b@y"]),
    ("From: a@x\nBcc: 4@y\nCc: 2@y, 3@y\nTo: 1@y", "a@x", ["1@y", "2@y", "3@y", "4@y"]),
    ("From: a@x\nTo: 1@y\nCc: 3@y\nTo: 2@y\nCc: 4@y", "a@x", ["1@y", "2@y", "3@y", "4@y"]),
    ("From: a@x\nTo: 1@y,\n 2@y,\n\t3@y", "a@x", ["1@y", "2@y", "3@y"]),
    ("From: a@x\nTo:\n 1@y\n (a comment)", "a@x", ["1@y"]),
    ("From: a@x\nTo:\nCc: b@y", "a@x", ["b@y"]),
    ("From: a@x\nTo: undisclosed-recipients:;\nBcc: b@y", "a@x", ["b@y"]),
    ("From: a@x\nTo: one: 1@y, Two <2@y>;, 3@y, none:;", "a@x", ["1@y", "2@y", "3@y"]),
    ("From: a@x (me)\nTo: b@y (you, not@this), c@z(c)", "a@x", ["b@y", "c@z"]),
    ('From: "A, B" <a@x>\nTo: "C, D" <c@y>, "not@this" <d@y>, "\\"" <e@y>', "a@x", ["c@y", "d@y", "e@y"]),
    ("From: =?utf-8?q?A=2C?= <a@x>\nTo: =?utf-8?q?evil=40x=2C_=3Cb=40c=3E?= <d@y>", "a@x", ["d@y"]),
    ("From: John Q. Public <a@x>\nTo: b@y", "a@x", ["b@y"]),
    (
        'From: "a b"@x\nTo: "b c"@y, "d\\"e"@y, "f\\\\g"@y, "h,i"@y',
        '"a b"@x',
        ['"b c"@y', '"d\\"e"@y', '"f\\\\g"@y', '"h,i"@y'],
    ),
    ('From: a@x\nTo: "<b@y>"@z', "a@x", ['"<b@y>"@z']),
    ("From: a@x\nTo: b@[192.0.2.1], c@[IPv6:2001:db8::1]", "a@x", ["b@[192.0.2.1]", "c@[IPv6:2001:db8::1]"]),
    ("From: a@x\nTo: <@relay.example,@other.example:b@y>", "a@x", ["b@y"]),
    ("From: a@x\nTo: 1@y,,2@y,", "a@x", ["1@y", "2@y"]),
    ("From: a@x\nTo: b@bücher.example", "a@x", ["b@bücher.example"]),
    ("From: Jörg <a@x>\nTo: 用户@例子.example", "a@x", ["用户@例子.example"]),
    ("From: a@x\nTo: b@y, b@y, B@y, b@Y", "a@x", ["b@y", "b@y", "B@y", "b@Y"]),
    # Resent- blocks (RFC 5322 3.6.6)
    (
        f"Resent-From: r@x\nResent-To: 1@y\nResent-Date: {DATE}\nResent-Message-ID: <2@x>\nFrom: a@x\nTo: b@y",
        "r@x",
        ["1@y"],
    ),
    (
        "From: a@x\nTo: b@y\nResent-From: r@x\nResent-To: 1@y\nResent-Cc: 2@y\nResent-Bcc: 3@y",
        "r@x",
        ["1@y", "2@y", "3@y"],
    ),
    ("Resent-From: r@x\nResent-Sender: s@x\nResent-To: 1@y\nSender: t@x\nFrom: a@x\nTo: b@y", "s@x", ["1@y"]),
    ("Resent-From: r@x, s@x\nResent-Sender: s@x\nResent-To: 1@y\nFrom: a@x", "s@x", ["1@y"]),
    ("Resent-From: r@x\nResent-To: 1@y\nResent-From: q@x\nResent-To: 2@y\nFrom: a@x\nTo: b@y", "r@x", ["1@y"]),
    ("Resent-From: r@x\nResent-To: 1@y\nReceived: by z\nResent-To: 2@y\nResent-Cc: 3@y\nFrom: a@x", "r@x", ["1@y"]),
    ("Received: by z\nResent-To: 1@y\nResent-From: r@x\nTo: b@y\nResent-Cc: 3@y\nFrom: a@x", "r@x", ["1@y"]),
    ("RESENT-FROM: r@x\nresent-to: 1@y\nFrom: a@x\nTo: b@y", "r@x", ["1@y"]),
    ("From: not a list of addresses at all\nResent-From: r@x\nResent-To: 1@y\nTo: ((", "r@x", ["1@y"]),
]


@pytest.mark.parametrize(("fields", "sender", "recipients"), ENVELOPES)
@BOTH_PARSERS
def test_the_envelope_is_read_from_the_headers(fields: str, sender: str, recipients: list[str], policy: Any) -> None:
    assert envelope_of(fields, policy) == (sender, recipients)


REFUSED = [
    ("From: a@x, b@x\nTo: c@y", "several From"),
    ("From: a@x\nFrom: b@x\nTo: c@y", "several From"),
    ("From: a@x\nSender: b@x, c@x\nTo: c@y", "several Sender"),
    ("To: c@y", "has no From"),
    ("From:\nTo: c@y", "has no From"),
    ("From: a@x", "names nobody"),
    ("From: a@x\nTo:", "names nobody"),
    ("From: a@x\nTo: undisclosed-recipients:;", "names nobody"),
    ("Resent-From: r@x\nFrom: a@x\nTo: b@y", "names nobody"),
    ("Resent-To: r@x\nFrom: a@x\nTo: b@y", "has no From"),
]


@pytest.mark.parametrize(("fields", "match"), REFUSED)
@BOTH_PARSERS
def test_headers_that_do_not_tell_sender_and_recipients_are_a_message_error(
    fields: str, match: str, policy: Any
) -> None:
    with pytest.raises(MessageError, match=f"{match}.*: pass (sender|recipients)="):
        envelope_of(fields, policy)


#: Where the stdlib reads another address than the one that stands there, or only some of them.
MISREAD = [
    "a@x b@y",
    "a@x; b@y",
    "a@x\tb@y",
    "<a@x> b@y",
    "<a@x><b@y>",
    "<a@x>junk",
    "<a@x,b@y>",
    "<<a@x>>",
    "<a@x",
    "a@x>",
    "<>",
    "a",
    "everyone",
    "Doe, John <j@x>",
    "a b@x",
    "a..b@x",
    ".a@x",
    "a.@x",
    "a@x.",
    "a@x..y",
    "a@b@c",
    "a\\b@x",
    '"a"b@x',
    'a"b"@x',
    '""@x',
    '"a\\b"@x',
    '"a@x',
    "a@[192.0.2.1",
    "a@[(c)192.0.2.1]",
    "a@x)b",
    "a@x(b",
    "group: a@x",
    "<@[ ",
    "@[ ",
    "x: y: a@x;;",
    "(" * 3000 + "a@x",
    "=?utf-8?q?a=40b=2Ec?=",
    "=?utf-8?q?a=40evil=2Eexample=3E?=@good.example",
    "<=?utf-8?q?a=40evil=2Eexample=3E?=@good.example>",
    "=?utf-8?q?a=40evil=2Eexample?= @good.example",
    "=?utf-8?q?a?= @good.example",
    "a@=?utf-8?q?evil=2Eexample?=",
    "x <a@=?utf-8?q?b=C3=BCcher?=.example>",
    "=?utf-8?q?x?= a@x",
    "a\0@x",
    "a@x\0",
    "a\v@x",
    "a@x\vy",
    "a@x\x1cy",
    "a@ex\u2003ample.com",
    "a@ex\x85ample.com",
    "a@ex\u3000ample.com, b@y",
    "a@x\u3000",
    "a\u00a0@x",
    '"a\u00a0b"@x',
    "a\u200b@x",
    "a@x\u2028",
]


@pytest.mark.parametrize("value", MISREAD)
@BOTH_PARSERS
def test_r19_addresses_that_could_be_read_as_others_are_refused(value: str, policy: Any) -> None:
    with pytest.raises(MessageError):
        prepare(parsed(f"From: me@client.example\nTo: {value}\n\n", policy))
    with pytest.raises(MessageError):
        prepare(f"From: me@client.example\nTo: {value}\n\n".encode())
    with pytest.raises(MessageError):
        prepare(parsed(f"From: {value}\nTo: me@client.example\n\n", policy))


@pytest.mark.parametrize("value", MISREAD)
def test_r19_an_address_field_put_into_a_message_goes_where_the_field_on_the_wire_says(value: str) -> None:
    message = text_message(To=None)
    try:
        message["To"] = value
    except Exception:  # noqa: BLE001 (the stdlib refused it before us)
        return
    try:
        prepared = prepare(message)
    except MessageError:
        return
    (written,) = values_of(prepared.content, "to")
    assert [written.rstrip()] == [recipient.strip() for recipient in prepared.recipients]


@BOTH_PARSERS
def test_r19_octets_that_are_no_utf8_in_an_address_are_refused_not_replaced(policy: Any) -> None:
    for raw in (
        b"From: a@x\nTo: caf\xe9@y\n\n",
        b"From: a@x\nTo: b@caf\xe9.example\n\n",
        b"From: caf\xe9@x\nTo: b@y\n\n",
    ):
        with pytest.raises(MessageError, match="not UTF-8"):
            prepare(parsed(raw, policy))
        with pytest.raises(MessageError, match="not UTF-8"):
            prepare(raw)
    assert prepare(parsed(b"From: a@x\nTo: Caf\xe9 <b@y>\n\n", policy)).recipients == ("b@y",)


LOCAL = st.text('ab."\\ (),:;<>@[]=?_\u00fc\u2003\x85\0\x1c', min_size=1, max_size=8)
DOMAIN = st.text("ab.-[]() =?\u00fc\u2003\x85<>,@:;", min_size=1, max_size=8)


@examples(300)
@given(LOCAL, DOMAIN, st.booleans())
def test_r19_whatever_is_taken_from_a_header_stands_there_octet_for_octet(local: str, domain: str, angle: bool) -> None:
    value = f"<{local}@{domain}>" if angle else f"{local}@{domain}"
    try:
        prepared = prepare(f"From: me@client.example\nTo: {value}\n\n".encode())
    except MessageError:
        return
    for recipient in prepared.recipients:
        if recipient not in value:  # comments and white space may stand around dots and the @ (RFC 5322 4.4)
            value = re.sub(r" *([.@]) *", r"\1", re.sub(r"\([^()\\]*\)", "", value))
        assert recipient in value
        rest = value.replace(recipient, "", 1)
        if len(prepared.recipients) == 1 and "(" not in value and ":" not in value and "<" not in value[1:]:
            assert set(rest) <= set("<>, ")


SMUGGLED = [
    '"a\r\nRSET"@x',
    '"a\nRSET"@x',
    "a@x\r\nRCPT TO:<evil@y>",
    "a@x\r\n",
    "a@x\n",
    " a@x",
    "a@x ",
    "a@x> AUTH=<",
    "a@x>",
    "<a@x>",
    "Me <<a@x>>",
    "Me <a@x> (me)",
    "Me <@r:a@x>",
    "Me: a@x;",
    "a@x,b@y",
    "a@x b@y",
    "a\0@x",
    '"a\0"@x',
    "a",
    "@x",
    "a@",
    "a\u2028@x",
    "a@x\u3000",
]


@pytest.mark.parametrize("address", SMUGGLED)
def test_r18_r19_an_address_that_is_none_is_refused_never_rewritten(address: str) -> None:
    message = text_message()
    cases: list[dict[str, Any]] = [
        {"sender": address, "recipients": YOU},
        {"sender": ME, "recipients": address},
        {"sender": ME, "recipients": [YOU, address]},
        {"sender": ME, "recipients": Recipient(address)},
        {"envelope": Envelope(ME, [YOU, address])},
        {"envelope": Envelope(address, YOU)},
    ]
    for arguments in cases:
        with pytest.raises(MessageError):
            prepare(message, **arguments)


def test_what_is_passed_wins_over_the_headers_which_are_then_not_read() -> None:
    message = put(old_message(From=None, To=None), "To", "everyone")
    message["From"] = "not a list of addresses, at all"
    prepared = prepare(message, sender=ME, recipients=YOU)
    assert (prepared.envelope.sender, prepared.recipients) == (ME, (YOU,))
    assert prepare(text_message(To="everyone"), recipients=YOU).envelope.sender == ME
    assert prepare(text_message(From="nobody at all, or"), sender=OTHER).recipients == (YOU,)
    assert prepare(text_message(), sender="").sender.wire == b"<>"
    assert values_of(prepare(text_message(), sender=OTHER).content, "from") == [ME]


def test_recipients_given_as_a_str_is_one_address_and_never_split() -> None:
    assert prepare(text_message(), recipients=OTHER).recipients == (OTHER,)
    assert prepare(text_message(), recipients='"a,b"@x').recipients == ('"a,b"@x',)
    with pytest.raises(MessageError):
        prepare(text_message(), recipients="a@x, b@y")


@pytest.mark.parametrize(
    "given_as",
    [
        [YOU, OTHER],
        (YOU, OTHER),
        iter([YOU, OTHER]),
        (address for address in (YOU, OTHER)),
        {YOU: 1, OTHER: 2},
        [Address("You", "you", "server.example"), Recipient(OTHER)],
        [Recipient(Address("You", "you", "server.example")), Address(addr_spec=OTHER)],
    ],
    ids=["list", "tuple", "iterator", "generator", "dict", "mixed", "mixed2"],
)
def test_recipients_are_any_iterable_of_addresses(given_as: Any) -> None:
    prepared = prepare(text_message(), recipients=given_as)
    assert prepared.recipients == (YOU, OTHER)
    assert prepared.envelope.recipients == (Recipient(YOU), Recipient(OTHER))


def test_an_address_object_is_quoted_where_it_must_be() -> None:
    prepared = prepare(text_message(), sender=Address("", "a b", "x"), recipients=Address("", "c,d", "y"))
    assert prepared.sender.wire == b'<"a b"@x>'
    assert prepared.recipients == ('"c,d"@y',)
    for wrong in (Address(), Address("only a name"), Address("", "a", "x,y"), Address("", "a", "x> BODY=8BITMIME")):
        with pytest.raises(MessageError):
            prepare(text_message(), recipients=wrong)


@pytest.mark.parametrize("nobody", [[], (), iter([]), {}])
def test_empty_recipients_are_a_message_error(nobody: Any) -> None:
    with pytest.raises(MessageError, match="no recipients"):
        prepare(text_message(), recipients=nobody)
    with pytest.raises(MessageError, match="no recipients"):
        prepare(text_message(), envelope=Envelope(ME, []))


@pytest.mark.parametrize(
    "wrong", [5, b"you@server.example", [b"you@server.example"], [[YOU]], [None], object(), [("You", YOU)]]
)
def test_recipients_of_another_type_are_a_message_error(wrong: Any) -> None:
    with pytest.raises(MessageError, match=r"not (int|bytes|list|NoneType|object|tuple)"):
        prepare(text_message(), recipients=wrong)


@pytest.mark.parametrize("wrong", [5, b"me@client.example", [ME], Recipient(ME)])
def test_a_sender_of_another_type_is_a_message_error(wrong: Any) -> None:
    with pytest.raises(MessageError, match=r"not (int|bytes|list|Recipient)"):
        prepare(text_message(), sender=wrong)


@pytest.mark.parametrize("make", [text_message, old_message])
def test_a_line_break_in_an_address_field_is_refused_before_it_is_read(make: Callable[..., AnyMessage]) -> None:
    for value in ("you@server.example\n,evil@evil.example", "you@server.example\r\nBcc: evil@evil.example"):
        with pytest.raises(MessageError, match="header to holds a line break"):
            prepare(put(make(To=None), "To", value))


def test_an_envelope_needs_its_recipients() -> None:
    with pytest.raises(MessageError, match="not NoneType"):
        Envelope(ME, None)  # type: ignore[arg-type]


def test_envelope_and_sender_or_recipients_exclude_each_other() -> None:
    cases: list[dict[str, Any]] = [{"sender": ME}, {"recipients": YOU}, {"sender": ""}, {"recipients": []}]
    for arguments in cases:
        with pytest.raises(MessageError, match="not both"):
            prepare(text_message(), envelope=Envelope(ME, YOU), **arguments)


@pytest.mark.parametrize(
    "field",
    [{"dsn": "maybe"}, {"body": "9BIT"}, {"body": "8bitmime"}, {"parameters": ["XVERP"]}, {"parameters": "XVERP"}],
)
def test_an_envelope_refuses_values_that_it_does_not_know(field: Any) -> None:
    with pytest.raises(MessageError):
        Envelope(ME, YOU, **field)


@pytest.mark.parametrize(
    "field",
    [{"ret": "full"}, {"ret": "ALL"}, {"envid": ""}, {"envid": "x" * 101}, {"envid": "a\r\nb"}, {"envid": "ü"}],
)
def test_r20_parameters_of_mail_are_checked_before_anything_is_sent(field: Any) -> None:
    with pytest.raises(MessageError):
        prepare(text_message(), envelope=Envelope(ME, YOU, **field))


@pytest.mark.parametrize(
    "field",
    [
        {"notify": "ALWAYS"},
        {"notify": ["NEVER", "SUCCESS"]},
        {"notify": []},
        {"notify": "SUCCESS,FAILURE"},
        {"orcpt": ""},
        {"orcpt": "a\r\nb@x"},
        {"orcpt": "x" * 501},
        {"parameters": {"X": "a b"}},
        {"parameters": {"X\r\nRSET": None}},
    ],
)
def test_r20_parameters_of_rcpt_are_checked_before_anything_is_sent(field: Any) -> None:
    with pytest.raises(MessageError):
        prepare(text_message(), envelope=Envelope(ME, [YOU, Recipient(OTHER, **field)]))


def test_a_header_object_is_read_as_it_stands_on_the_wire() -> None:
    # Its text before encoding would read as two addresses: a display name from a form must not add a recipient.
    to = Header("evil@evil.example,", "utf-8")
    to.append("<you@server.example>", "us-ascii")
    prepared = prepare(old_message(To=to))
    assert prepared.recipients == (YOU,)
    assert prepare(old_message(To=Header("a@x.example, b@y.example"))).recipients == ("a@x.example", "b@y.example")
    many = Header(", ".join(f"u{n}@server.example" for n in range(50)))
    assert len(prepare(old_message(To=many)).recipients) == 50
    with pytest.raises(MessageError, match="not a list of addresses"):
        prepare(old_message(To=Header("you@server.example", "utf-8")))  # nobody could read it


def test_a_long_list_of_recipients_is_read_whole_and_in_order() -> None:
    addresses = tuple(f"u{n}@x.example" for n in range(500))
    to = ",\n ".join(f'"Name, {n}" <{address}>' for n, address in enumerate(addresses))
    assert prepare(f"From: {ME}\nTo: {to}\n\n".encode()).recipients == addresses


# --- Octets


RAW = f"From: {ME}\r\nTo: {YOU}\r\n\r\nbody\r\n".encode()


def content_of(raw: bytes) -> bytes:
    return prepare(raw, sender=ME, recipients=YOU).content


@pytest.mark.parametrize(
    ("raw", "wire"),
    [
        (RAW, RAW),
        (RAW.replace(b"\r\n", b"\n"), RAW),
        (b"A: 1\nB: 2\r\n\nx\ry\nz\r\n", b"A: 1\r\nB: 2\r\n\r\nx\r\ny\r\nz\r\n"),
        (b"A: 1\n\nx\r\r\ny\n\rz", b"A: 1\r\n\r\nx\r\n\r\ny\r\n\r\nz"),
        (b"A: 1\n\nx\r", b"A: 1\r\n\r\nx\r\n"),
        (b"A: 1\r\n\r\n.\n.\r.\r\n", b"A: 1\r\n\r\n.\r\n.\r\n.\r\n"),
        (b"", b""),
        (b"\n", b"\r\n"),
        (b"\r\n", b"\r\n"),
        (b"\nbody only\r", b"\r\nbody only\r\n"),
        (b"A: 1", b"A: 1"),
        (b"A: 1\n", b"A: 1\r\n"),
        (b"A : 1\n\nno header\n\n", b"A : 1\r\n\r\nno header\r\n\r\n"),
        (b"A: 1\n\n\xff\xfe \xc3\xbc", b"A: 1\r\n\r\n\xff\xfe \xc3\xbc"),
    ],
)
def test_octets_are_sent_as_they_are_but_for_their_line_endings(raw: bytes, wire: bytes) -> None:
    for given_as in (raw, bytearray(raw), memoryview(raw), memoryview(raw * 2)[: len(raw)]):
        prepared = prepare(given_as, sender=ME, recipients=YOU)
        assert prepared.content == wire
        assert type(prepared.content) is bytes
        assert prepared.added == ()
        assert prepared.message is None


@pytest.mark.parametrize("raw", ["From: a@x\n\nbody", None, 5, [b"x"], open])
def test_a_message_of_another_type_is_a_message_error(raw: Any) -> None:
    with pytest.raises(MessageError, match=r"a message must be an email\.message\.Message, bytes or Content, not"):
        prepare(raw, sender=ME, recipients=YOU)


def test_a_str_in_place_of_a_message_is_a_message_error_that_says_what_to_do() -> None:
    with pytest.raises(MessageError, match=r"not str: encode it, as with text\.encode\(\)"):
        prepare("From: a@x\n\nbody", sender=ME, recipients=YOU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "raw",
    [
        b"A: 1\rBcc: x\r\n\r\n",
        b"A: 1\r\r\n\r\n",
        b"A: 1\r\n\r\r\n",
        b"\rA: 1\r\n\r\n",
        b"A: 1\n B\r\n\r\n"[:-6] + b"\r \n\n",
        b"A: 1\r\n\rB: 2",
        b"A: 1\r",
        b"\r",
    ],
)
def test_a_bare_cr_in_the_header_section_is_a_message_error(raw: bytes) -> None:
    with pytest.raises(MessageError, match="bare CR in its header section"):
        content_of(raw)


@pytest.mark.parametrize("field", [b"DKIM-Signature: v=1", b"dkim-signature : v=1", b"A: 1\nDKIM-SIGNATURE:\n v=1"])
def test_a_bare_cr_under_a_dkim_signature_is_a_message_error(field: bytes) -> None:
    with pytest.raises(MessageError, match="DKIM-Signature"):
        content_of(field + b"\n\na\rb")
    assert content_of(field + b"\n\na\nb").endswith(b"\r\n\r\na\r\nb")
    assert content_of(b"X-" + field.removeprefix(b"A: 1\n") + b"\n\na\rb").endswith(b"\r\n\r\na\r\nb")
    assert content_of(b"A: 1\n\nDKIM-Signature: x\n\na\rb").endswith(b"\r\n\r\na\r\nb")


@pytest.mark.parametrize("raw", [b"A: 1\0\n\n", b"A: 1\n\n\0", b"A: 1\n\n" + b"x\n" * 10_000 + b"\0\n", b"\n\0"])
def test_a_nul_is_a_message_error(raw: bytes) -> None:
    with pytest.raises(MessageError, match="NUL"):
        content_of(raw)


def test_a_nul_in_a_message_object_is_a_message_error() -> None:
    for message in (parsed(b"From: a@x\nTo: b@y\n\na\0b\n"), put(old_message(), "X-Any", "a\0b")):
        with pytest.raises(MessageError, match="NUL"):
            prepare(message)


@pytest.mark.parametrize(
    "header",
    [
        b"Bcc: x@y",
        b"BCC: x@y",
        b"bcc:x@y",
        b"Bcc : x@y",
        b"Bcc\t :x@y",
        b"Bcc:\n x@y",
        b"Bcc:",
        b"Resent-Bcc: x@y",
        b"RESENT-BCC : x@y",
        b"A: 1\nBcc: x@y",
        b"A: 1\r\nBcc: x@y\r\nB: 2",
        b"A: 1\n 2\nBcc: x@y",
        b"A: 1\r\n \r\nBcc: x@y",
        b"no field\nBcc: x@y",
    ],
)
@pytest.mark.parametrize("end", [b"\n\nbody", b"\r\n\r\nbody", b"\n\r\n", b"\n", b""])
def test_a_bcc_field_in_octets_is_a_message_error(header: bytes, end: bytes) -> None:
    with pytest.raises(MessageError, match="Bcc field"):
        content_of(header + end)


@pytest.mark.parametrize(
    "raw",
    [
        b"A: 1\n\nBcc: x@y\n",
        b"A: 1\r\n\r\nBcc: x@y\r\n",
        b"A: 1\n\r\nBcc: x@y\n",
        b"A: 1\r\n\nBcc: x@y\n",
        b"\nBcc: x@y\n",
        b"\r\nBcc: x@y\n",
        b"A: 1\n Bcc: x@y\n\n",
        b"A: 1\r\n\tResent-Bcc: x@y\r\n\r\n",
        b"A: Bcc: x@y\n\n",
        b"X-Bcc: x@y\n\n",
        b"Bcc-X: x@y\n\n",
    ],
)
def test_bcc_elsewhere_than_in_the_name_of_a_field_is_no_bcc_field(raw: bytes) -> None:
    assert content_of(raw).replace(b"\r\n", b"\n") == raw.replace(b"\r\n", b"\n")


@pytest.mark.parametrize(
    "where", [b"A: %b\n\nbody", b"A: 1\n %b\n\n", b"A: 1\n\n%b\n", b"A: 1\n\nx\n%b", b"A: 1\n\n%b\ny\n"]
)
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_line_of_998_octets_passes_and_one_of_999_is_a_message_error(where: bytes, ending: bytes) -> None:
    where = where.replace(b"\n", ending)
    line = next(line for line in where.split(ending) if b"%b" in line)
    room = MAX_TEXT_LINE_BYTES - (len(line) - 2)
    assert content_of(where % (b"x" * room))
    with pytest.raises(MessageError, match="more than 998 bytes"):
        content_of(where % (b"x" * (room + 1)))


@examples(100)
@given(
    st.lists(st.sampled_from([0, 1, 2, 500, 996, 997, 998]), max_size=12),
    st.booleans(),
    st.sampled_from([None, 999, 1000, 5000]),
)
def test_the_longest_line_decides_wherever_it_stands(lengths: list[int], ends: bool, too_long: int | None) -> None:
    lines = [b"", *(b"x" * length for length in lengths)]
    if too_long is not None:
        lines.insert(1 + len(lengths) // 2, b"x" * too_long)
    raw = b"\r\n".join(lines) + (b"\r\n" if ends else b"")
    if too_long is None:
        assert content_of(raw) == raw
    else:
        with pytest.raises(MessageError, match="more than 998"):
            content_of(raw)


def test_a_line_too_long_in_a_message_object_is_encoded() -> None:
    message = old_message()
    message.set_payload("x" * 999)
    assert parsed(prepare(message).content).get_payload(decode=True) == b"x" * 999
    long = text_message()
    long.set_content("x" * 5000)  # the stdlib encodes it by itself
    assert b"x" * 999 not in prepare(long).content


def test_the_message_id_of_octets_is_reported_and_none_is_added() -> None:
    assert prepare(RAW).message_id is None
    assert prepare(RAW).content == RAW
    assert prepare(b"Message-ID: <x@y>\n" + RAW).message_id == "<x@y>"
    assert prepare(b"message-id:\r\n <x@y> \r\n" + RAW).message_id == "<x@y>"
    assert prepare(b"Message-ID:\r\n" + RAW).message_id is None


# --- Message-ID and Date


@pytest.fixture
def no_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **keywords: object) -> Any:
        raise AssertionError("a name was looked up")

    for name in ("getfqdn", "gethostname", "gethostbyaddr", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, fail)


@pytest.mark.parametrize(
    ("sender", "domain"),
    [
        (ME, "client.example"),
        ("", "localhost"),
        ('"a@b"@client.example', "client.example"),
        ("me@bücher.example", "xn--bcher-kva.example"),
        ("me@[192.0.2.1]", "[192.0.2.1]"),
        ("me@[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ("用户@client.example", "client.example"),
    ],
)
def test_message_id_and_date_are_added_without_a_look_up(sender: str, domain: str, no_look_up: None) -> None:
    message = text_message(Date=None, Message_ID=None)
    before = state(message)
    prepared = prepare(message, sender=sender)
    assert state(message) == before
    assert [name for name, _ in prepared.added] == ["Date", "Message-ID"]
    assert names_of(prepared.content)[-2:] == ["date", "message-id"]
    assert prepared.message_id is not None
    assert re.fullmatch(rf"<[0-9.]+@{re.escape(domain)}>", prepared.message_id)
    assert values_of(prepared.content, "message-id") == [prepared.message_id]
    (date,) = values_of(prepared.content, "date")
    assert abs(email.utils.parsedate_to_datetime(date).timestamp() - time.time()) < 60


def test_message_id_and_date_are_the_same_for_every_server_and_differ_between_messages() -> None:
    prepared = prepare(parsed(EIGHT_BIT))
    ids = {values_of(fitted(prepared, server)[2], "message-id")[0] for server in (NOTHING, EVERYTHING)}
    assert ids == {prepared.message_id}
    assert prepare(parsed(EIGHT_BIT)).message_id != prepared.message_id


@pytest.mark.parametrize(
    "value",
    [
        MESSAGE_ID,
        "no id",
        "<",
        "<>",
        "",
        "<a@[>",
        "<a@b> junk",
        "(((",
        "<a\n b@c>",
        "=?utf-8?q?x?=",
        "<ü@x>",
        "[",
        "<a@b@c>",
    ],
)
@pytest.mark.parametrize("field", ["Message-ID", "Date"])
@BOTH_PARSERS
def test_a_message_id_or_date_that_is_there_stays_whatever_it_says(value: str, field: str, policy: Any) -> None:
    # The stdlib's own parsers fail on some of these.
    raw = f"From: {ME}\nTo: {YOU}\n{field}: {value}\n\n".encode()
    prepared = prepare(parsed(raw, policy), envelope=Envelope(ME, YOU))
    assert field not in dict(prepared.added)
    if field == "Message-ID":
        assert (prepared.message_id or "").encode("utf-8", "surrogateescape").decode() == value.replace("\n", "")


# --- for_server


def mail_of(prepared: Prepared, extensions: Extensions = EVERYTHING, *, is_tls: bool = True) -> bytes:
    return prepared.for_server(extensions, is_tls=is_tls)[0].to_bytes()


def rcpts_of(prepared: Prepared, extensions: Extensions = EVERYTHING) -> list[bytes]:
    return [rcpt.to_bytes() for rcpt in prepared.for_server(extensions, is_tls=True)[1]]


def test_mail_and_rcpt_are_bare_where_nothing_is_offered() -> None:
    mail, rcpts, content = fitted(prepare(RAW), NOTHING)
    assert mail.to_bytes() == b"MAIL FROM:<me@client.example>\r\n"
    assert [rcpt.to_bytes() for rcpt in rcpts] == [b"RCPT TO:<you@server.example>\r\n"]
    assert content is prepare(RAW).content or content == RAW


@pytest.mark.parametrize(
    ("raw", "size"),
    [(b"", 0), (b"\n", 2), (b"A: 1\n\n.\n.\n", 14), (b"A: 1\n\nx", 11), (b"A: 1\r\n\r\nx\r\n", 11), (b"\n\r", 4)],
)
def test_size_is_exact_and_counts_the_crlf_that_data_adds_but_no_doubled_dot(raw: bytes, size: int) -> None:
    prepared = prepare(raw, sender=ME, recipients=YOU)
    assert mail_of(prepared) == b"MAIL FROM:<me@client.example> SIZE=%d\r\n" % size
    assert mail_of(prepared, Extensions({"SIZE": ()})).endswith(b" SIZE=%d\r\n" % size)
    assert mail_of(prepared, Extensions({"SIZE": ("0",)})).endswith(b" SIZE=%d\r\n" % size)
    assert b"SIZE" not in mail_of(prepared, NOTHING)


def test_a_message_over_the_size_offered_is_extension_required() -> None:
    prepared = prepare(b"\nx", sender=ME, recipients=YOU)  # 3 octets, and the CRLF that DATA adds
    assert b"SIZE=5" in mail_of(prepared, Extensions({"SIZE": ("5",)}))
    with pytest.raises(ExtensionRequired, match=r"5 bytes.* at most 4") as caught:
        mail_of(prepared, Extensions({"SIZE": ("4",)}))
    assert caught.value.keyword == "SIZE"


def test_the_size_of_a_message_object_is_that_of_the_form_that_is_sent() -> None:
    prepared = prepare(parsed(EIGHT_BIT + "ü" * 400))
    for server in (Extensions({"SIZE": ()}), Extensions({"SIZE": (), "8BITMIME": ()})):
        mail, _, content = fitted(prepared, server)
        assert b" SIZE=%d" % (len(content) + 2 * (not content.endswith(b"\r\n"))) in mail.to_bytes()


def test_8bitmime_is_asked_for_only_when_the_content_needs_it() -> None:
    assert b"BODY" not in mail_of(prepare(RAW))
    assert b" BODY=8BITMIME" in mail_of(prepare(RAW + b"\xff"))
    assert b"BODY" not in mail_of(prepare(text_message()))
    assert b" BODY=8BITMIME" in mail_of(prepare(parsed(EIGHT_BIT)))
    assert b" BODY=8BITMIME" in mail_of(prepare(RAW, envelope=Envelope(ME, YOU, body="8BITMIME")))
    assert b" BODY=7BIT" in mail_of(prepare(RAW, envelope=Envelope(ME, YOU, body="7BIT")))
    assert b"BODY" not in mail_of(prepare(RAW, envelope=Envelope(ME, YOU, body="7BIT")), NOTHING)


def test_8bit_octets_without_8bitmime_are_extension_required() -> None:
    signed = "From: a@x\nTo: b@y\nContent-Type: multipart/signed; boundary=s\n\n--s\n\nü\n--s--\n"
    under_dkim = "DKIM-Signature: v=1; h=from\nFrom: a@x\nTo: b@y\n\nü\n"
    for message in (RAW + b"\xff", parsed(signed), parsed(under_dkim)):
        with pytest.raises(ExtensionRequired) as caught:
            mail_of(prepare(message), NOTHING)
        assert caught.value.keyword == "8BITMIME"


@BOTH_PARSERS
def test_an_8bit_message_object_is_encoded_anew_without_8bitmime(policy: Any) -> None:
    message = parsed(EIGHT_BIT, policy)
    before = state(message)
    prepared = prepare(message)
    mail, _, content = fitted(prepared, NOTHING)
    assert mail.to_bytes() == b"MAIL FROM:<me@client.example>\r\n"
    assert content.isascii()
    assert parsed(content).get_payload(decode=True) == "Grüße\n".encode()
    assert fitted(prepared, EVERYTHING)[2] == prepared.content
    assert "Grüße".encode() in prepared.content
    assert state(message) == before


def test_a_message_with_an_empty_header_section_is_encoded_anew_too() -> None:
    # A Message without fields is false.
    message = Message()
    message.set_payload("ü", "utf-8")
    message.replace_header("Content-Transfer-Encoding", "8bit")
    message.set_payload("ü".encode().decode("ascii", "surrogateescape"))
    for name in ("MIME-Version", "Content-Transfer-Encoding"):
        del message[name]
    assert fitted(prepare(message, sender=ME, recipients=YOU), NOTHING)[2].isascii()


def test_body_7bit_is_never_said_of_8bit_content() -> None:
    envelope = Envelope(ME, YOU, body="7BIT")
    with pytest.raises(MessageError, match="body='7BIT'"):
        prepare(RAW + b"\xff", envelope=envelope)
    prepared = prepare(parsed(EIGHT_BIT), envelope=envelope)
    mail, _, content = fitted(prepared, EVERYTHING)
    assert b" BODY=7BIT" in mail.to_bytes()
    assert content.isascii()
    with pytest.raises(MessageError, match="multipart/signed leaves as it is, holds 8-bit data"):
        prepare(parsed("Content-Type: multipart/signed; boundary=s\n\n--s\n\nü\n--s--\n"), envelope=envelope)
    with pytest.raises(MessageError, match="body='7BIT'"):  # UTF-8 headers cannot be made 7-bit
        prepare(text_message(Subject="Grüße"), envelope=Envelope(ME, "ü@x", body="7BIT"))


@pytest.mark.parametrize(
    ("sender", "recipient", "needs"),
    [
        (ME, YOU, None),
        (ME, "you@bücher.example", None),
        ("me@bücher.example", YOU, None),
        ("mé@x", YOU, "address 'mé@x'"),
        (ME, "用户@例子.example", "address '用户@例子.example'"),
        (ME, '"ü"@x', "address '\"ü\"@x'"),
    ],
)
def test_smtputf8_is_asked_for_when_a_local_part_needs_it_and_not_for_a_domain(
    sender: str, recipient: str, needs: str | None
) -> None:
    for message in (RAW, text_message()):
        prepared = prepare(message, sender=sender, recipients=[YOU, recipient])
        assert prepared.needs_smtputf8 == needs
        assert (b" SMTPUTF8" in mail_of(prepared)) is (needs is not None)
        for without in (NOTHING, Extensions({"SMTPUTF8": ()})):  # RFC 6531 3.1: only together with 8BITMIME
            if needs is None:
                assert b"SMTPUTF8" not in mail_of(prepared, without)
            else:
                with pytest.raises(ExtensionRequired, match=re.escape(needs)) as caught:
                    mail_of(prepared, without)
                assert caught.value.keyword == "SMTPUTF8"


@pytest.mark.parametrize("make", [text_message, old_message])
def test_an_idn_domain_is_sent_as_its_a_label_in_the_envelope_and_in_the_header(
    make: Callable[..., AnyMessage],
) -> None:
    prepared = prepare(make(To="Jörg <you@bücher.example>", From="me@bücher.example"))
    assert rcpts_of(prepared) == [b"RCPT TO:<you@xn--bcher-kva.example>\r\n"]
    assert prepared.recipients == ("you@bücher.example",)
    assert prepared.needs_smtputf8 is None
    assert values_of(prepared.content, "to") == ["=?utf-8?q?J=C3=B6rg?= <you@xn--bcher-kva.example>"]
    assert values_of(prepared.content, "from") == ["me@xn--bcher-kva.example"]
    assert mail_of(prepared, NOTHING) == b"MAIL FROM:<me@xn--bcher-kva.example>\r\n"


@BOTH_PARSERS
def test_an_idn_domain_in_a_parsed_header_needs_no_smtputf8(policy: Any) -> None:
    prepared = prepare(parsed("From: me@bücher.example\nTo: you@x\n\nx\n", policy))
    assert prepared.needs_smtputf8 is None
    assert prepared.content.isascii()
    assert values_of(prepared.content, "from") == ["me@xn--bcher-kva.example"]


def test_an_idn_domain_in_a_header_stays_as_it_is_in_a_transaction_with_smtputf8() -> None:
    prepared = prepare(text_message(To="用户@例子.example", Cc="you@bücher.example"))
    assert values_of(prepared.content, "cc") == ["you@bücher.example"]


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ("Subject: Grüße", "Subject"),
        ("A: 1\r\nSubject: x\r\n Grüße\r\nB: ü", "Subject"),
        ("A: 1\nSubject:\n\tGrüße", "Subject"),
    ],
)
def test_a_header_section_with_8bit_octets_needs_smtputf8(header: str, field: str) -> None:
    raw = header.encode() + b"\r\n" + RAW
    prepared = prepare(raw, sender=ME, recipients=YOU)
    assert b" BODY=8BITMIME SMTPUTF8" in mail_of(prepared)
    with pytest.raises(ExtensionRequired, match=f"header {field} needs SMTPUTF8"):
        mail_of(prepared, Extensions({"8BITMIME": ()}))
    assert prepare(RAW + "ü".encode()).needs_smtputf8 is None  # in the body it does not count
    assert b"SMTPUTF8" not in mail_of(prepare(raw, envelope=Envelope(ME, YOU, smtputf8=False)))


@BOTH_PARSERS
def test_an_8bit_header_that_a_message_object_was_parsed_with_leaves_encoded(policy: Any) -> None:
    prepared = prepare(parsed(f"From: {ME}\nTo: {YOU}\nSubject: Grüße\n\nx\n", policy))
    assert b"\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n" in prepared.content
    assert mail_of(prepared, NOTHING) == b"MAIL FROM:<me@client.example>\r\n"


@pytest.mark.parametrize("make", [text_message, old_message])
@pytest.mark.parametrize("field", ["From", "To", "Cc", "Reply_To", "Sender", "Resent_From"])
def test_a_local_part_beyond_ascii_in_a_header_needs_smtputf8_whatever_the_envelope(
    make: Callable[..., AnyMessage], field: str
) -> None:
    # Without it the stdlib writes the address as an encoded word, which nobody may read as an address.
    prepared = prepare(make(**{field: "Jörg <jörg@x.example>"}), envelope=Envelope(ME, YOU))
    assert prepared.needs_smtputf8 == f"header {field.replace('_', '-')}"
    assert "<jörg@x.example>".encode() in prepared.content
    assert prepare(make(**{field: "Jörg <jorg@x.example>"}), envelope=Envelope(ME, YOU)).needs_smtputf8 is None
    assert prepare(make(Bcc="jörg@x.example"), envelope=Envelope(ME, YOU)).needs_smtputf8 is None
    with pytest.raises(MessageError, match=f"header {field.replace('_', '-')} needs SMTPUTF8|smtputf8=False forbids"):
        prepare(make(**{field: "Jörg <jörg@x.example>"}), envelope=Envelope(ME, YOU, smtputf8=False))
    with pytest.raises(MessageError, match=f"header {field.replace('_', '-')}"):
        prepare(make(**{field: "Jörg, no address"}), envelope=Envelope(ME, YOU))


def test_headers_are_utf8_in_a_transaction_with_smtputf8_and_encoded_in_others() -> None:
    message = text_message(Subject="Grüße")
    assert "Subject: Grüße".encode() in prepare(message, recipients="ü@x").content
    assert b"Subject: =?utf-8?q?Gr" in prepare(message).content
    assert "Subject: Grüße".encode() in prepare(message, envelope=Envelope(ME, YOU, smtputf8=True)).content


def test_smtputf8_can_be_decided_by_the_envelope() -> None:
    prepared = prepare(RAW, envelope=Envelope(ME, YOU, smtputf8=True))
    assert b" SMTPUTF8" in mail_of(prepared)
    with pytest.raises(ExtensionRequired, match="the envelope needs SMTPUTF8"):
        mail_of(prepared, NOTHING)
    with pytest.raises(MessageError, match="smtputf8=False"):
        prepare(RAW, envelope=Envelope(ME, "ü@x", smtputf8=False))


FULL = Envelope(
    ME,
    [
        Recipient(YOU, notify=["SUCCESS", "DELAY"], orcpt="old+you@x.example"),
        Recipient(OTHER, notify="NEVER"),
        "plain@x",
    ],
    ret="HDRS",
    envid="a+b=c d",
)


def test_dsn_parameters_are_sent_where_dsn_is_offered() -> None:
    for envelope in (FULL, attrs.evolve(FULL, dsn="drop")):
        prepared = prepare(RAW, envelope=envelope)
        assert b" RET=HDRS ENVID=a+2Bb+3Dc+20d\r\n" in mail_of(prepared)
        assert rcpts_of(prepared) == [
            b"RCPT TO:<you@server.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old+2Byou@x.example\r\n",
            b"RCPT TO:<other@server.example> NOTIFY=NEVER\r\n",
            b"RCPT TO:<plain@x>\r\n",
        ]


@pytest.mark.parametrize(
    "envelope",
    [FULL, Envelope(ME, YOU, ret="FULL"), Envelope(ME, YOU, envid="x"), Envelope(ME, Recipient(YOU, notify="NEVER"))],
)
def test_dsn_parameters_where_dsn_is_not_offered_are_extension_required_or_dropped(envelope: Envelope) -> None:
    with pytest.raises(ExtensionRequired) as caught:
        prepare(RAW, envelope=envelope).for_server(NOTHING, is_tls=False)
    assert caught.value.keyword == "DSN"
    mail, rcpts, _ = prepare(RAW, envelope=attrs.evolve(envelope, dsn="drop")).for_server(NOTHING, is_tls=False)
    assert mail.to_bytes() == b"MAIL FROM:<me@client.example>\r\n"
    assert all(rcpt.parameters.wire == b"" for rcpt in rcpts)


def test_an_orcpt_may_be_an_address_object_as_every_address_may() -> None:
    recipient = Recipient(YOU, orcpt=Address("You", "old+you", "x.example"))
    assert recipient.orcpt == "old+you@x.example"
    assert rcpts_of(prepare(RAW, recipients=recipient)) == [
        b"RCPT TO:<you@server.example> ORCPT=rfc822;old+2Byou@x.example\r\n"
    ]
    with pytest.raises(MessageError, match="an address must be a str"):
        Recipient(YOU, orcpt=5)  # type: ignore[arg-type]


def test_an_orcpt_beyond_ascii_has_the_form_that_the_transaction_can_carry() -> None:
    recipients = [Recipient(YOU, orcpt="jörg@x")]
    assert b" ORCPT=utf-8;j\\x{F6}rg@x\r\n" in rcpts_of(prepare(RAW, recipients=recipients))[0]
    prepared = prepare(RAW, envelope=Envelope("mé@x", recipients))
    assert " ORCPT=utf-8;jörg@x\r\n".encode() in rcpts_of(prepared)[0]


def test_require_tls_is_sent_only_inside_tls_and_where_it_is_offered() -> None:
    prepared = prepare(RAW, envelope=Envelope(ME, YOU, require_tls=True))
    assert b" REQUIRETLS\r\n" in mail_of(prepared)
    for extensions, is_tls in ((EVERYTHING, False), (NOTHING, True)):
        with pytest.raises(ExtensionRequired) as caught:
            mail_of(prepared, extensions, is_tls=is_tls)
        assert caught.value.keyword == "REQUIRETLS"


@pytest.mark.parametrize(
    "keyword",
    ["BODY", "SIZE", "SMTPUTF8", "AUTH", "PRDR", "RET", "ENVID", "NOTIFY", "ORCPT", "REQUIRETLS", "size", "Body"],
)
def test_r23_parameters_that_the_client_sets_or_never_sends_are_refused(keyword: str) -> None:
    for envelope in (
        Envelope(ME, YOU, parameters={keyword: "1"}),
        Envelope(ME, Recipient(YOU, parameters={keyword: None})),
    ):
        with pytest.raises(MessageError, match="not for `parameters`"):
            prepare(RAW, envelope=envelope)


@pytest.mark.parametrize(
    ("keyword", "value", "extension"),
    [
        ("BY", "120;R", "DELIVERBY"),
        ("by", "120;R", "DELIVERBY"),
        ("HOLDFOR", "60", "FUTURERELEASE"),
        ("HOLDUNTIL", "2026-11-23T06:00:00Z", "FUTURERELEASE"),
        ("MT-PRIORITY", "3", "MT-PRIORITY"),
        ("XVERP", None, "XVERP"),
    ],
)
def test_r23_other_parameters_are_sent_where_their_extension_is_offered(
    keyword: str, value: str | None, extension: str
) -> None:
    wire = f" {keyword}".encode() + (b"" if value is None else b"=" + value.encode())
    on_mail = prepare(RAW, envelope=Envelope(ME, YOU, parameters={keyword: value}))
    on_rcpt = prepare(RAW, envelope=Envelope(ME, Recipient(YOU, parameters={keyword: value})))
    assert mail_of(on_mail, Extensions({extension: ()})) == b"MAIL FROM:<me@client.example>%b\r\n" % wire
    assert rcpts_of(on_rcpt, Extensions({extension: ()})) == [b"RCPT TO:<you@server.example>%b\r\n" % wire]
    for prepared in (on_mail, on_rcpt):
        with pytest.raises(ExtensionRequired) as caught:
            prepared.for_server(NOTHING, is_tls=True)
        assert caught.value.keyword == extension


def test_parameters_are_taken_by_value() -> None:
    parameters: dict[str, str | None] = {"XVERP": None}
    envelope = Envelope(ME, Recipient(YOU, parameters=parameters), parameters=parameters)
    parameters["SIZE"] = "1"
    assert envelope.parameters == envelope.recipients[0].parameters == {"XVERP": None}


# --- The same recipient twice


SAME: list[str | Recipient] = [
    "a@x.example",
    "b@x.example",
    "a@X.EXAMPLE",
    "A@x.example",
    Recipient("a@x.example"),
    Recipient("c@x.example", notify={"SUCCESS", "DELAY"}, parameters={"XVERP": None, "BY": "1;R"}),
    Recipient("c@x.example", notify=("DELAY", "SUCCESS"), parameters={"BY": "1;R", "XVERP": None}),
]


def test_the_same_recipient_twice_is_one_rcpt_and_reported_for_each() -> None:
    """Local part octet-equal, domain equal, same parameters in whatever order."""
    prepared = prepare(RAW, recipients=SAME)
    assert rcpts_of(prepared, Extensions({"DSN": (), "XVERP": (), "DELIVERBY": ()})) == [
        b"RCPT TO:<a@x.example>\r\n",
        b"RCPT TO:<b@x.example>\r\n",
        b"RCPT TO:<A@x.example>\r\n",
        b"RCPT TO:<c@x.example> NOTIFY=SUCCESS,DELAY XVERP BY=1;R\r\n",
    ]
    assert prepared.positions == (0, 1, 0, 2, 0, 3, 3)
    assert prepared.recipients == (
        "a@x.example",
        "b@x.example",
        "a@X.EXAMPLE",
        "A@x.example",
        "a@x.example",
        "c@x.example",
        "c@x.example",
    )


@pytest.mark.parametrize(
    "again",
    [
        Recipient("a@X.example", notify="NEVER"),
        Recipient("a@x.example", orcpt="o@x"),
        Recipient("a@x.example", parameters={"XVERP": None}),
    ],
)
def test_the_same_recipient_twice_with_different_parameters_is_refused(again: Recipient) -> None:
    """Two RCPTs could get two answers, and the receipt has room for one."""
    cases: list[list[str | Recipient]] = [["a@x.example", again], [again, "b@x.example", "a@x.example"]]
    for recipients in cases:
        with pytest.raises(MessageError, match=r"recipient 'a@[xX]\.example' is given twice with different parameters"):
            prepare(RAW, recipients=recipients)
    assert prepare(RAW, recipients=[again, again]).positions == (0, 0)


def test_recipients_that_differ_in_the_form_of_a_domain() -> None:
    prepared = prepare(RAW, recipients=["a@bücher.example", "a@xn--bcher-kva.example", "a@BÜCHER.example"])
    assert prepared.positions == (0, 0, 0)
    prepared = prepare(RAW, recipients=["postmaster", "Postmaster", "postmaster@x"])
    assert prepared.positions == (0, 0, 1)
    assert rcpts_of(prepared) == [b"RCPT TO:<postmaster>\r\n", b"RCPT TO:<postmaster@x>\r\n"]


# --- Receipt, Envelope, Recipient as values

TAKEN = Reply(250, (b"ok",))
NO = Reply(550, (b"5.1.1 no",), EnhancedStatusCode(5, 1, 1))


def test_a_receipt_is_complete_if_everybody_was_accepted() -> None:
    assert Receipt((YOU,)).complete
    assert not Receipt((YOU,), refused={OTHER: NO}).complete
    assert not Receipt((YOU,), unknown=(OTHER,)).complete
    assert not Receipt((YOU,), not_sent=(OTHER,)).complete


def test_raise_for_refused_raises_only_for_refusals_and_says_all_four_sets() -> None:
    Receipt((YOU,)).raise_for_refused()
    Receipt((YOU,), unknown=(OTHER,), not_sent=("c@x",)).raise_for_refused()
    receipt = Receipt((YOU,), refused={OTHER: NO}, unknown=("c@x",), not_sent=("d@x",))
    with pytest.raises(RecipientsRefused, match="refused 1 of 4 recipients: 550") as caught:
        receipt.raise_for_refused()
    error = caught.value
    assert (error.accepted, error.refused, error.unknown, error.not_sent) == ((YOU,), {OTHER: NO}, ("c@x",), ("d@x",))
    assert error.reply == NO
    assert not error.retryable


def test_what_raise_for_refused_raises_does_not_say_that_nobody_got_the_message() -> None:
    receipt = Receipt((YOU,), refused={OTHER: NO}, message_id=MESSAGE_ID)
    with pytest.raises(RecipientsRefused) as caught:
        receipt.raise_for_refused()
    assert (caught.value.delivered, caught.value.retryable, caught.value.message_id) == (True, False, MESSAGE_ID)
    assert pickle.loads(pickle.dumps(caught.value)).message_id == MESSAGE_ID
    with pytest.raises(RecipientsRefused) as caught:
        attrs.evolve(receipt, unknown=("c@x",)).raise_for_refused()
    assert caught.value.delivered is None


VALUES = [
    Recipient(YOU),
    Recipient(YOU, notify=("SUCCESS",), orcpt="o@x", parameters={"XVERP": None, "BY": "1;R"}),
    Envelope(ME, YOU),
    FULL,
    Envelope("", [YOU], dsn="drop", require_tls=True, body="8BITMIME", smtputf8=True, parameters={"MT-PRIORITY": "3"}),
    Receipt((YOU,)),
    Receipt(
        (YOU,), refused={OTHER: NO}, unknown=("c@x",), not_sent=("d@x",), reply=TAKEN, replies={YOU: TAKEN, OTHER: NO},
        message_id=MESSAGE_ID, server="mx.server.example", tls="TLSv1.3",
    ),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "round_trip", [lambda v: pickle.loads(pickle.dumps(v)), copy.copy, copy.deepcopy], ids=["pickle", "copy", "deep"]
)
def test_receipt_envelope_and_recipient_survive_pickle_and_copy(value: Any, round_trip: Callable[[Any], Any]) -> None:
    again = round_trip(value)
    assert again == value
    assert again is not value
    assert type(again) is type(value)
    assert repr(again) == repr(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_frozen(value: Any) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, attrs.fields(type(value))[0].name, "x")


def test_the_content_of_a_prepared_message_is_not_in_its_repr() -> None:
    assert "Hello,\\n" not in repr(attrs.evolve(prepare(RAW + b"Hello,\n")))
    assert "Hello," not in repr(prepare(text_message()))


# --- BINARYMIME


BINARY = b"Content-Transfer-Encoding: binary\r\n" + RAW + b"\0\n\r\xff" + b"x" * 5000
CHUNKS = Extensions({"CHUNKING": (), "BINARYMIME": (), "8BITMIME": (), "SIZE": ()})


def test_binarymime_is_sent_octet_for_octet_and_in_chunks_alone() -> None:
    prepared = prepare(BINARY, envelope=Envelope(ME, YOU, body="BINARYMIME"))
    mail, _, body = prepared.for_server(CHUNKS, is_tls=False, binary_ok=True)
    assert mail.to_bytes() == b"MAIL FROM:<me@client.example> SIZE=%d BODY=BINARYMIME\r\n" % len(BINARY)
    assert body.whole == BINARY
    assert body.is_binary
    assert not prepare(RAW).for_server(CHUNKS, is_tls=False)[2].is_binary


@pytest.mark.parametrize(
    ("extensions", "binary_ok", "keyword"),
    [
        (CHUNKS, False, "CHUNKING"),
        (Extensions({"BINARYMIME": ()}), True, "CHUNKING"),
        (Extensions({"CHUNKING": ()}), True, "BINARYMIME"),
        (NOTHING, True, "BINARYMIME"),
    ],
)
def test_binarymime_where_it_cannot_go_is_extension_required(
    extensions: Extensions, binary_ok: bool, keyword: str
) -> None:
    prepared = prepare(BINARY, envelope=Envelope(ME, YOU, body="BINARYMIME"))
    with pytest.raises(ExtensionRequired) as caught:
        prepared.for_server(extensions, is_tls=False, binary_ok=binary_ok)
    assert caught.value.keyword == keyword


@pytest.mark.parametrize(
    "header",
    [b"A: 1\nB: 2\r\n", b"A: 1\rB: 2\r\n", b"Bcc: x@y\r\n", b"A: \0\r\n", b"A: " + b"x" * 1000 + b"\r\n"],
    ids=["bare LF", "bare CR", "Bcc", "NUL", "long line"],
)
def test_the_header_section_of_binarymime_is_still_checked(header: bytes) -> None:
    with pytest.raises(MessageError):
        prepare(header + BINARY, envelope=Envelope(ME, YOU, body="BINARYMIME"))


def test_a_message_object_is_no_binarymime() -> None:
    with pytest.raises(MessageError, match="BINARYMIME"):
        prepare(text_message(), envelope=Envelope(ME, YOU, body="BINARYMIME"))


# --- Outgoing and Delivery


def test_an_outgoing_has_what_send_takes_and_a_tag() -> None:
    outgoing = Outgoing(RAW, ME, recipients=iter([YOU, OTHER]), tag=7)
    assert (outgoing.message, outgoing.sender, outgoing.recipients, outgoing.tag) == (RAW, ME, (YOU, OTHER), 7)
    assert outgoing.envelope is None
    assert Outgoing(RAW, recipients=YOU).recipients == YOU
    assert Outgoing(RAW, recipients=5).recipients == 5  # type: ignore[arg-type] # sending says what is wrong with it
    with pytest.raises(TypeError):
        Outgoing(RAW, ME, YOU)  # type: ignore[call-arg]


def test_the_result_of_a_delivery_is_the_receipt_or_the_error() -> None:
    receipt = Receipt((YOU,))
    assert Delivery(Outgoing(RAW), receipt).result() is receipt
    error = RecipientsRefused("no", refused={YOU: NO})
    delivery = Delivery(RAW, error=error)
    assert delivery.receipt is None
    for _ in range(2):
        with pytest.raises(RecipientsRefused) as caught:
            delivery.result()
        assert caught.value is error


@pytest.mark.parametrize(
    "round_trip", [lambda v: pickle.loads(pickle.dumps(v)), copy.copy, copy.deepcopy], ids=["pickle", "copy", "deep"]
)
def test_outgoing_and_delivery_survive_pickle_and_copy(round_trip: Callable[[Any], Any]) -> None:
    for value in (
        Outgoing(RAW, "", recipients=[YOU, Recipient(OTHER, notify="NEVER")], tag=("a", 1)),
        Outgoing(RAW, envelope=FULL),
        Outgoing(Content.from_bytes(RAW), ME, recipients=YOU),
        Outgoing(Content.from_path("message.eml"), ME, recipients=YOU),
        Delivery(Outgoing(RAW, tag=1), Receipt((YOU,))),
        Delivery(RAW, error=None),
    ):
        again = round_trip(value)
        assert again == value
        assert repr(again) == repr(value)
    again = round_trip(Outgoing(text_message(), tag=1))
    assert wire_bytes(again.message) == wire_bytes(text_message())
    again = round_trip(Delivery(Outgoing(RAW), error=RecipientsRefused("no", refused={YOU: NO}, reply=NO)))
    assert (type(again.error), again.error.refused, again.item) == (RecipientsRefused, {YOU: NO}, Outgoing(RAW))


def test_outgoing_and_delivery_are_frozen() -> None:
    for value in (Outgoing(RAW), Delivery(RAW)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            value.tag = value.receipt = 1  # type: ignore[misc,union-attr]


@pytest.mark.parametrize(("text", "binary_ok", "said"), [(b"x", True, None), (b"x", False, 9), (b"x\r\n", True, 9)])
def test_the_size_is_exact_or_not_said(text: bytes, binary_ok: bool, said: int | None) -> None:
    """Section 4: DATA ends a last line that does not end, a chunk leaves it; which of both it will be, nobody knows."""
    prepared = prepare(b"A: \r\n " + text, sender="me@example.org", recipients="you@example.org")
    mail, _, _ = prepared.for_server(Extensions({"SIZE": ["100"]}), is_tls=False, binary_ok=binary_ok)
    assert str(mail).endswith(">" if said is None else f" SIZE={said}")
    with pytest.raises(ExtensionRequired):
        prepared.for_server(Extensions({"SIZE": ["8"]}), is_tls=False, binary_ok=binary_ok)
