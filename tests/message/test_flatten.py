"""Flattening: octet for octet what the stdlib writes, without its generator for what people really send.

Where the stdlib is the oracle, its own generator is asked on this very Python; the boundaries that it makes up are made
the same by seeding `random`.
"""

from __future__ import annotations

import contextlib
import copy
import email
import email.policy
import importlib.util
import random
import re
import threading
from collections.abc import Callable, Iterator
from email.header import Header
from email.headerregistry import Address, Group
from email.message import EmailMessage, Message, MIMEPart
from email.mime.application import MIMEApplication
from email.mime.image import MIMEImage
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.errors import MessageError
from smtplite.message import flatten, prepared
from smtplite.message.flatten import LARGE_BYTES, is_large, wire_bytes
from tests.exhaustive import examples

if TYPE_CHECKING:
    AnyMessage = Message[Any, Any]

POLICIES = {"default": email.policy.default, "SMTP": email.policy.SMTP, "compat32": email.policy.compat32}
EACH_FORM = [(False, False), (True, False), (False, True), (True, True)]
SEED = 20261123


def parsed(data: bytes | str, policy: Any = email.policy.default) -> AnyMessage:
    message: AnyMessage = email.message_from_bytes(data if isinstance(data, bytes) else data.encode(), policy=policy)
    return message


def flattened_by_the_stdlib(message: AnyMessage, *, utf8: bool = False, seven_bit: bool = False) -> bytes:
    policy = email.policy.SMTPUTF8 if utf8 else email.policy.SMTP
    twin = copy.deepcopy(message)
    del twin["Bcc"]
    del twin["Resent-Bcc"]
    random.seed(SEED)
    return twin.as_bytes(policy=policy.clone(cte_type="7bit") if seven_bit else policy)


def flattened_by_us(message: AnyMessage, *, utf8: bool = False, seven_bit: bool = False) -> bytes:
    random.seed(SEED)
    return wire_bytes(message, utf8=utf8, seven_bit=seven_bit)


def state(message: AnyMessage) -> object:
    payload: Any = message._payload  # type: ignore[attr-defined]
    parts = (
        [state(part) if isinstance(part, Message) else part for part in payload]
        if payload.__class__ is list
        else payload
    )
    fields = [(name, type(value), str(value)) for name, value in message.raw_items()]
    return fields, parts, message.policy, message.preamble, message.epilogue, list(vars(message))


def assert_as_by_the_stdlib(message: AnyMessage) -> None:
    """Each form, octet for octet, and the message untouched; where the stdlib fails, we may, but say so."""
    before = state(message)
    for utf8, seven_bit in EACH_FORM:
        try:
            expected = flattened_by_the_stdlib(message, utf8=utf8, seven_bit=seven_bit)
        except Exception:  # noqa: BLE001 (any of the stdlib's bugs)
            try:
                wire = flattened_by_us(message, utf8=utf8, seven_bit=seven_bit)
            except MessageError:
                continue
            assert b"\n" not in wire.replace(b"\r\n", b"")
            continue
        if b"\n" in expected.replace(b"\r\n", b"") or b"\r" in expected.replace(b"\r\n", b""):
            continue  # a payload that it writes as it stands: held elsewhere
        if not utf8 and has_internationalized_domain(message):
            continue  # that it writes as nobody can read it: see below
        try:
            assert flattened_by_us(message, utf8=utf8, seven_bit=seven_bit) == expected, (utf8, seven_bit)
        except MessageError:
            assert has_broken_field(message, utf8=utf8, seven_bit=seven_bit)
    assert state(message) == before


def has_internationalized_domain(message: AnyMessage) -> bool:
    found: list[Any] = []
    for part in message.walk():
        for name, value in part.raw_items():
            if name.lower() in ("to", "cc", "reply-to") and not value.isascii():
                text = "".join(value.splitlines()).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                with contextlib.suppress(Exception):  # the stdlib's parser, on what is no address
                    found += getattr(value, "addresses", ()) or email.policy.SMTP.header_factory(name, text).addresses
    return any(not address.domain.isascii() for address in found)


def has_broken_field(message: AnyMessage, *, utf8: bool, seven_bit: bool) -> bool:
    """Whether the stdlib writes a field that is more than one: two words too long, in a To, make an empty line."""
    policy: Any = email.policy.SMTPUTF8 if utf8 else email.policy.SMTP
    policy = policy.clone(cte_type="7bit") if seven_bit else policy
    written = b""
    for part in message.walk():
        for name, value in part.raw_items():
            with contextlib.suppress(UnicodeEncodeError):  # a Bcc that it was never asked for
                written += policy.fold_binary(name, value)[:-2]
    return re.search(rb"\r\n(?![ \t])", written) is not None


# --- What people really send goes without the generator


def fields(message: Any, **more: Any) -> Any:
    values = {
        "From": "Me <me@client.example>",
        "To": "You <you@server.example>, other@server.example",
        "Subject": "Hello",
        "Date": "Mon, 23 Nov 2026 06:00:00 +0000",
        "Message-ID": "<1@client.example>",
        **more,
    }
    for name, value in values.items():
        if value is not None:
            message[name] = value
    return message


def text() -> EmailMessage:
    message: EmailMessage = fields(EmailMessage())
    message.set_content("Hello,\n.\nFrom me\n")
    return message


def with_html() -> EmailMessage:
    message = text()
    message.add_alternative("<p>Hello</p>\n", subtype="html")
    return message


def with_attachments() -> EmailMessage:
    message = with_html()
    message.add_attachment(bytes(range(256)) * 30, maintype="application", subtype="pdf", filename="invoice.pdf")
    message.add_attachment("text\n", filename="a.txt")
    message.add_attachment(text())
    return message


def with_8bit_text() -> EmailMessage:
    message: EmailMessage = fields(EmailMessage())
    message.set_content("Grüße\n", cte="8bit")
    message.add_alternative("<p>größer</p>\n" * 50, subtype="html")
    return message


def old(subtype: str = "mixed", **arguments: Any) -> MIMEMultipart:
    message: MIMEMultipart = fields(MIMEMultipart(subtype, **arguments), Bcc="secret@server.example")
    message.attach(MIMEText("Hello\n"))
    message.attach(MIMEText("<p>größer</p>", "html"))
    message.attach(MIMEApplication(b"\0\1\2" * 100, Name="x.bin"))
    message.attach(MIMEImage(b"\x89PNG", "png"))
    message.attach(MIMEMessage(MIMEText("inner")))
    return message


def with_text_around() -> MIMEMultipart:
    message = old(boundary="==b==")
    message.preamble = "a preamble\r\nof two\rlines"
    message.epilogue = "\nan epilogue"
    return message


COMMON: dict[str, Callable[[], AnyMessage]] = {
    "text": text,
    "Bcc": lambda: fields(EmailMessage(), Bcc="secret@server.example"),
    "html": with_html,
    "attachments": with_attachments,
    "8-bit": with_8bit_text,
    "no body": EmailMessage,
    "old text": lambda: fields(MIMEText("Hello\n")),
    "old utf-8 text": lambda: fields(MIMEText("Grüße\n", "plain", "utf-8")),
    "old multipart": old,
    "old multipart with a boundary": lambda: old(boundary="==b=="),
    "old alternative": lambda: old("alternative"),
    "digest": lambda: old("digest"),
    "signed": lambda: old("signed", boundary="s"),
    "text around": with_text_around,
    "no parts": lambda: MIMEMultipart(boundary="b"),
    "a part without fields": lambda: MIMEMultipart(boundary="b", _subparts=[Message()]),
    "group of addresses": lambda: fields(EmailMessage(), To=[Group("friends", [Address("a", "b", "c.example")])]),
    "text read back": lambda: parsed(text().as_bytes()),
    "text read back, compat32": lambda: parsed(text().as_bytes(), email.policy.compat32),
    "multipart read back": lambda: parsed(with_attachments().as_bytes()),
    "multipart read back, compat32": lambda: parsed(with_attachments().as_bytes(), email.policy.compat32),
    "CRLF read back": lambda: parsed(with_8bit_text().as_bytes(policy=email.policy.SMTP)),
    "folded Content-Type": lambda: parsed('Content-Type: multipart/mixed;\n boundary="b"\n\n--b\n\nx\n--b--\n'),
}


@pytest.fixture
def no_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **keywords: object) -> Any:
        raise AssertionError("the generator was asked")

    monkeypatch.setattr(flatten, "_generated", fail)


@pytest.mark.parametrize("name", COMMON)
def test_what_people_really_send_goes_without_the_generator(name: str, no_generator: None) -> None:
    message = COMMON[name]()
    assert flattened_by_us(message) == flattened_by_the_stdlib(message)
    assert flattened_by_us(message, utf8=True) == flattened_by_the_stdlib(message, utf8=True)


@pytest.mark.parametrize("name", ["text", "old text", "text read back", "text read back, compat32"])
def test_a_text_whose_fields_fit_their_lines_asks_the_stdlib_for_nothing(
    name: str, no_generator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes it fast: neither generator nor policy, which fold each field anew."""
    message = COMMON[name]()
    expected = flattened_by_the_stdlib(message)

    def fail(*arguments: object) -> Any:
        raise AssertionError("a policy was asked")

    monkeypatch.setattr(flatten, "_fold", fail)
    assert flattened_by_us(message) == expected


@pytest.mark.parametrize("name", COMMON)
def test_each_form_of_it_is_what_the_stdlib_writes(name: str) -> None:
    assert_as_by_the_stdlib(COMMON[name]())


def boundary_of(wire: bytes) -> str:
    boundary = parsed(wire).get_boundary()
    assert boundary is not None
    return boundary


def test_a_boundary_that_stands_in_a_body_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([7, 7, 8])
    monkeypatch.setattr(random, "randrange", lambda limit: next(numbers))
    taken = "===============0000000000000000007=="
    message = MIMEMultipart(_subparts=[MIMEText(f"--{taken}\n")])
    assert boundary_of(wire_bytes(message)) == taken.replace("7", "8")


# --- What is not certain goes through the generator: a part, or a field


class Django(MIMEText):
    """As frameworks have them: a class of their own that answers as its base does."""

    def as_bytes(self, unixfrom: bool = False, policy: Any = None) -> bytes:
        raise AssertionError("not asked")


class Other(EmailMessage):
    """A class that answers the generator differently."""

    def get_content_maintype(self) -> str:
        return "text"

    def raw_items(self) -> Iterator[tuple[str, Any]]:
        return iter([*super().raw_items(), ("X-Other", "1")])


class WithFields(EmailMessage):
    def _write_headers(self, generator: Any) -> None:
        generator._fp.write(b"X-Own: 1\r\n\r\n")


class Text(str):
    __slots__ = ()


def other() -> AnyMessage:
    message = Other()
    message["Content-Type"] = "multipart/mixed; boundary=b"
    message.set_payload("no parts\n")
    return message


def own_fields() -> AnyMessage:
    message = WithFields()
    message.set_payload("x\n")
    return message


def with_payload(payload: Any, **more: Any) -> AnyMessage:
    message: AnyMessage = fields(Message(), **more)
    message._payload = payload  # type: ignore[attr-defined]
    return message


def of_type(value: str, payload: Any = None) -> AnyMessage:
    return with_payload([MIMEText("x")] if payload is None else payload, **{"Content-Type": value})


def related() -> AnyMessage:
    message = MIMEMultipart("related", type="text/html", start="<a@b>")
    message.attach(MIMEText("x", "html"))
    return message


UNUSUAL: dict[str, Callable[[], AnyMessage]] = {
    "a framework's class": lambda: fields(Django("Hello\n")),
    "a class that answers differently": other,
    "a class with fields of its own": own_fields,
    "str of a class of its own": lambda: with_payload(Text("a\nb")),
    "two Content-Types": lambda: parsed("Content-Type: multipart/mixed\nContent-Type: text/plain\n\nx\n"),
    "two Content-Types, no boundary": lambda: fields(
        with_payload([MIMEText("x")]), **{"Content-Type": "multipart/mixed", "content-type": "multipart/alternative"}
    ),
    "a boundary that is quoted oddly": lambda: of_type('multipart/mixed; boundary="a\\"b"'),
    "a boundary in RFC 2231": lambda: of_type("multipart/mixed; boundary*=us-ascii''a%20b"),
    "two boundaries": lambda: of_type("multipart/mixed; boundary=a; boundary=b"),
    "a boundary of another parameter": lambda: of_type("multipart/mixed; x-boundary=a"),
    "parameters and no boundary": related,
    "a comment in the type": lambda: of_type("multipart/(c)mixed; boundary=a"),
    "no subtype": lambda: with_payload("x", **{"Content-Type": "text"}),
    "two slashes": lambda: with_payload("x", **{"Content-Type": "multipart/mixed/x"}),
    "an empty type": lambda: with_payload("x", **{"Content-Type": ""}),
    "a type of no handler": lambda: with_payload("x", **{"Content-Type": "chemical/x-pdb"}),
    "a type in capitals": lambda: of_type("MULTIPART/Mixed; BOUNDARY=a"),
    "a type with a space in front": lambda: with_payload("x", **{"Content-Type": " text/plain"}),
    "a Header object as type": lambda: with_payload("x", **{"Content-Type": Header("text/plain")}),
    "multipart without parts": lambda: with_payload(None, **{"Content-Type": "multipart/mixed; boundary=a"}),
    "multipart that is one part": lambda: of_type("multipart/mixed; boundary=a", MIMEText("x")),
    "multipart that is a str": lambda: with_payload("a\n", **{"Content-Type": "multipart/mixed; boundary=a"}),
    "an 8-bit preamble": lambda: parsed("Content-Type: multipart/mixed; boundary=b\n\nü\n--b\n\nx\n--b--\nü\n"),
    "delivery status": lambda: parsed(
        "Content-Type: multipart/report; boundary=r; report-type=delivery-status\n\n--r\n\nFailed\n"
        "--r\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\nAction: failed\n\n--r--\n"
    ),
    "message that is a str": lambda: with_payload("Subject: x\r\n\r\na\r\n", **{"Content-Type": "message/rfc822"}),
    "message of no message": lambda: with_payload([], **{"Content-Type": "message/rfc822"}),
    "message/partial": lambda: parsed("Content-Type: message/partial; number=1\n\nSubject: x\n\nbody\n"),
    "default type of a digest": lambda: parsed(
        "Content-Type: multipart/digest; boundary=d\n\n--d\n\nSubject: x\n\nb\n--d--\n"
    ),
    "8-bit text of no charset": lambda: parsed("Content-Type: text/plain\n\nü\n"),
    "8-bit text, as str": lambda: with_payload("ü"),
    "part of a str": lambda: with_payload(["x"], **{"Content-Type": "multipart/mixed; boundary=a"}),
    "empty values": lambda: fields(EmailMessage(), Subject="", **{"X-Empty": "", "Reply-To": ""}),
    "empty values, old": lambda: fields(Message(), Subject="", **{"X-Empty": "", "Reply-To": ""}),
    "values of white space": lambda: fields(EmailMessage(), Subject=" a ", **{"X-Tab": "a\tb", "X-Space": "  "}),
    "values of white space, old": lambda: fields(Message(), Subject=" a ", **{"X-Tab": "a\tb", "X-Space": "  "}),
    "a date that is none": lambda: fields(EmailMessage(), Date="yesterday"),
    "encoded words of ASCII": lambda: fields(
        EmailMessage(),
        Subject="=?utf-8?q?a?= =?utf-8?q?b?=",
        To='=?utf-8?q?a=2Cb?= =?utf-8?q?c?= <you@x.example>, "q" <z@y>',
    ),
    "comments": lambda: fields(EmailMessage(), To="you@x.example (a (nested) comment), (c) other@x.example"),
    "quoted local parts": lambda: fields(EmailMessage(), To='"a b"@x.example, "\\"" <"c,d"@x.example>'),
    "a field named otherwise": lambda: fields(EmailMessage(), SUBJECT=text()["Subject"], Subject=None),
    "a filename to fold": lambda: fields(
        EmailMessage(), **{"Content-Disposition": 'attachment; filename="' + "long " * 20 + '.pdf"'}
    ),
    "a part of an old class in a new message": lambda: fields(
        with_payload([text(), MIMEText("x"), MIMEPart()], **{"Content-Type": 'multipart/mixed; boundary="b"'})
    ),
    "8-bit fields": lambda: parsed(b"Subject: Gr\xfc\xdfe\nX-Long: " + "ü".encode() * 60 + b"\n\nx\n"),
    "signed, to fold": lambda: parsed(
        "Content-Type: multipart/signed; boundary=sig; protocol=application/x; micalg=sha-256; x-more=yes-a-lot\n\n"
        "--sig\nContent-Type: text/plain\nX-Long: " + "word " * 40 + "\n\nbody  \n"
        "--sig\nContent-Type: application/x\n\ns\n--sig--\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_the_unusual_comes_out_as_the_stdlib_writes_it(name: str) -> None:
    assert_as_by_the_stdlib(UNUSUAL[name]())


@pytest.mark.parametrize(
    "kind",
    ["mixed", "alternative", "related", "signed", "x-a-very-long-subtype-that-leaves-no-room-for-a-boundary-beside-it"],
)
@pytest.mark.parametrize("name", ["Content-Type", "content-type", "CONTENT-TYPE"])
@pytest.mark.parametrize("new", [True, False])
def test_a_boundary_that_is_made_up_is_written_as_the_stdlib_does(kind: str, name: str, new: bool) -> None:
    message: Any = EmailMessage() if new else Message()
    message[name] = f"multipart/{kind}"
    message._payload = [MIMEText("x")]
    assert_as_by_the_stdlib(message)


def test_depth_has_no_influence_on_what_is_written() -> None:
    message: AnyMessage = MIMEText("innermost\n")
    for number in range(flatten._MAX_DEPTH + 10):
        outer = MIMEMultipart(boundary=f"b{number}")
        outer.attach(message)
        message = outer
    assert wire_bytes(message) == flattened_by_the_stdlib(message)


# --- Any message at all


WORD = st.sampled_from(
    ["word", "Grüße", "a@b.example", "=?utf-8?q?=C3=BC?=", "=?utf-8?b?eA==?=", ",", '"', "(c)", "<", ">"]
)
VALUE = st.lists(WORD | st.sampled_from([" ", "\t", "  ", "w" * 80, "\udcfc"]), max_size=12).map("".join)
#: No folding, so that the short way is gone as often as the long one.
SHORT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
NAME = st.sampled_from(
    ["Subject", "X-A", "Comments", "List-Id", "To", "Cc", "Reply-To", "Bcc", "Resent-Bcc", "References"]
)
LINES = st.lists(
    st.sampled_from(
        ["\n", "\r\n", "\r", ".", "From x", "word ", "--b", "--b--", "=", "\udcc3\udcbc", "ü", "\0", "x" * 70]
    )
).map("".join)
TYPES = st.sampled_from(
    [
        "text/plain",
        "text/html; charset=utf-8",
        'text/plain; charset="us-ascii"; format=flowed',
        "TEXT/x",
        "application/octet-stream",
        "image/png; name=x",
        "text",
        "x/y/z",
        "",
    ]
)
CONTAINERS = st.sampled_from(
    [
        "multipart/mixed",
        "multipart/alternative",
        'multipart/related; boundary="b"',
        "multipart/mixed; boundary=b; type=x",
        "multipart/related; type=text/html",
        "multipart/signed; boundary=b",
        "multipart/digest",
        "Multipart/Mixed; Boundary=b",
        "multipart/mixed; boundary=\"b b\"",
        "message/rfc822",
        "message/delivery-status",
        "message/external-body",
    ]
)  # fmt: skip


@st.composite
def part(draw: st.DrawFn, depth: int = 2) -> AnyMessage:
    message: Any = draw(st.sampled_from([EmailMessage, MIMEPart, Message]))()
    for name in draw(st.lists(NAME, max_size=4)):
        value: Any = draw(SHORT | VALUE)
        try:
            message[name] = value
        except Exception:  # noqa: BLE001 (the stdlib refuses some, and fails on others)
            message.set_raw(name, value)
    is_container = depth and draw(st.booleans())
    kind = draw(st.none() | (CONTAINERS if is_container else TYPES))
    if kind is not None:
        if draw(st.booleans()):
            message["Content-Type"] = kind
        else:
            message.set_raw("Content-Type", kind)
    if draw(st.booleans()):
        message["Content-Transfer-Encoding"] = draw(st.sampled_from(["7bit", "8bit", "base64", "quoted-printable"]))
    if is_container:
        message._payload = draw(st.lists(part(depth=depth - 1), max_size=3) | st.none() | LINES)
        message.preamble = draw(st.none() | LINES)
        message.epilogue = draw(st.none() | LINES)
    else:
        message._payload = draw(st.none() | LINES)
    return message  # type: ignore[no-any-return]


@examples(400)
@given(part())
def test_any_message_comes_out_as_the_stdlib_writes_it(message: AnyMessage) -> None:
    assert_as_by_the_stdlib(message)


@examples(150)
@given(part(), st.sampled_from(sorted(POLICIES)))
def test_any_message_that_was_sent_and_read_again_comes_out_as_the_stdlib_writes_it(
    message: AnyMessage, policy: str
) -> None:
    try:
        wire = wire_bytes(message)
    except MessageError:
        return
    assert_as_by_the_stdlib(parsed(wire, POLICIES[policy]))


@examples(200)
@given(st.binary(max_size=300), st.sampled_from(sorted(POLICIES)))
def test_any_octets_that_were_read_come_out_as_the_stdlib_writes_them(raw: bytes, policy: str) -> None:
    assert_as_by_the_stdlib(parsed(raw, POLICIES[policy]))


@examples(150)
@given(LINES, st.integers(1, 9))
def test_a_body_in_steps_is_the_body_at_once_wherever_the_steps_end(body: str, step: int) -> None:
    message = MIMEMultipart(boundary="b", _subparts=[MIMEText("x")])
    part: Any = message.get_payload(0)
    part._payload = body
    if body.isascii():
        message.preamble = message.epilogue = body
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flatten, "_STEP_CHARACTERS", step)
        assert_as_by_the_stdlib(message)
        part.__class__ = Other  # through the generator, whose lines are ours
        assert_as_by_the_stdlib(message)


def test_a_large_body_is_what_the_stdlib_writes() -> None:
    line = "word " * 15 + "\n"
    message = MIMEText(line * 5000)
    message.preamble = "unused"
    assert wire_bytes(message) == flattened_by_the_stdlib(message)
    assert wire_bytes(parsed(("X: 1\n\n" + "Grüße\r\n" * 60_000).encode())).endswith("\r\nGrüße\r\n".encode())


def stdlib_messages() -> list[Path]:
    """Return the messages that the stdlib's own tests read, where this Python came with them."""
    spec = importlib.util.find_spec("test")
    for root in () if spec is None else spec.submodule_search_locations or ():
        found = sorted(Path(root, "test_email", "data").glob("msg_*.txt"))
        if found:
            return found
    return []


@pytest.mark.parametrize("policy", POLICIES)
def test_the_stdlibs_own_test_messages_come_out_as_it_writes_them(policy: str) -> None:
    messages = stdlib_messages()
    if not messages:
        pytest.skip("this Python came without test.test_email")
    assert len(messages) > 40
    for path in messages:
        assert_as_by_the_stdlib(parsed(path.read_bytes(), POLICIES[policy]))


# --- Nobody else's objects are touched


class Watching(str):
    """A header value that looks, while it is written, at the message that it stands in."""

    __slots__ = ("look",)
    name = "X-Watch"
    look: Callable[[], None]

    def fold(self, *, policy: Any) -> str:
        self.look()
        return "X-Watch: x\r\n"


@pytest.mark.parametrize(
    "make", [lambda: MIMEText("x"), lambda: MIMEMultipart(_subparts=[MIMEText("x")]), lambda: Django("x")]
)
@pytest.mark.parametrize("deep", [False, True])
def test_a_message_has_its_own_policy_and_headers_also_while_it_is_written(
    make: Callable[[], AnyMessage], deep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another task may be sending the same object, and a worker thread flatten it: the stdlib sets its policy."""
    message = make()
    policy = message.policy
    seen = []
    watch = Watching("x")
    watch.look = lambda: seen.append((message.policy is policy, [name for name, _ in message.raw_items()]))
    message.set_raw("X-Watch", watch)
    names = [name for name, _ in message.raw_items()]
    if deep:  # the generator's way
        monkeypatch.setattr(flatten, "_write_plain", lambda *arguments, **keywords: False)
    assert b"\r\nX-Watch: x\r\n" in wire_bytes(message)
    assert seen == [(True, names)]
    assert message.get_boundary() is None


def test_many_threads_may_flatten_one_message_at_the_same_time() -> None:
    message = old()
    del message["Subject"]
    message["Subject"] = "Grüße " * 30
    message.set_boundary("b")
    message.get_payload(0).__class__ = Other
    expected = wire_bytes(message)
    before = state(message)
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.extend(wire_bytes(message) for _ in range(5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 20
    assert state(message) == before


# --- R22, on the short way too


@pytest.mark.parametrize("character", [*map(chr, range(0x20)), "\x7f", "\x85", "\u2028", "\u2029"])
def test_a_control_character_in_a_value_never_goes_the_short_way(character: str) -> None:
    for make in (EmailMessage, Message):
        message = make()
        message.set_raw("X-A", f"a{character}Injected: b")
        try:
            wire = wire_bytes(message)
        except MessageError:
            continue
        assert wire.count(b"\r\n") == 2
        assert wire.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("name", ["X A", "X:", "X\n", "X\r\nY", "", "Ü", "X\0", "Bcc "])
def test_a_name_that_is_none_never_goes_the_short_way(name: str) -> None:
    for container in (Message(), MIMEMultipart(boundary="b")):
        part: Any = container if not container.is_multipart() else Message()
        part.set_raw(name, "value")
        if container is not part:
            container.attach(part)
        with pytest.raises(MessageError, match="header name"):
            wire_bytes(container)


@pytest.mark.parametrize("value", ["a\nInjected: b", "a\r\n\r\nbody"])
def test_a_line_break_in_the_type_of_a_multipart_without_boundary_is_refused(value: str) -> None:
    message: Any = MIMEMultipart(_subparts=[MIMEText("x")])
    message.replace_header("Content-Type", f"multipart/mixed; x={value}")
    with pytest.raises(MessageError):
        wire_bytes(message)


# --- Internationalized domains in address fields


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        ("you@bücher.example", b"you@xn--bcher-kva.example"),
        ("You <you@bücher.example>", b"You <you@xn--bcher-kva.example>"),
        ("Jörg <you@bücher.example>", b"=?utf-8?q?J=C3=B6rg?= <you@xn--bcher-kva.example>"),
        ('"Müller, Jörg" <you@bücher.example>', b"=?utf-8?q?M=C3=BCller=2C_J=C3=B6rg?= <you@xn--bcher-kva.example>"),
        ('"a b"@bücher.example', b'"a b"@xn--bcher-kva.example'),
        ("a@x.example, b@BÜCHER.example", b"a@x.example, b@xn--bcher-kva.example"),
        ("two: a@x.example, b@例え.テスト;", b"two: a@x.example, b@xn--r8jz45g.xn--zckzah;"),
    ],
)
@pytest.mark.parametrize("name", ["From", "Sender", "To", "Cc", "Reply-To", "Resent-To", "resent-from"])
def test_an_internationalized_domain_in_an_address_field_is_written_with_its_a_label(
    name: str, value: str, wire: bytes
) -> None:
    """The stdlib writes an encoded word into the middle of the address: nobody could answer to it."""
    candidates: list[AnyMessage] = [
        parsed(f"{name}: {value}\n\n"),
        parsed(f"{name}: {value}\n\n", email.policy.compat32),
        fields(Message(), **{"From": None, "To": None, name: value}),
    ]
    if name != "Sender" or "," not in value:
        candidates.append(fields(EmailMessage(), **{"From": None, "To": None, name: value}))
    for message in candidates:
        before = state(message)
        for seven_bit in (False, True):
            assert name.encode() + b": " + wire + b"\r\n" in wire_bytes(message, seven_bit=seven_bit)
        assert f"{value}\r\n".encode() in wire_bytes(message, utf8=True)
        assert state(message) == before


def test_an_internationalized_domain_in_a_message_inside_the_message_gets_its_a_label_too() -> None:
    inner = fields(MIMEText("x"), Bcc="kept@bücher.example", **{"Reply-To": "r@bücher.example"})
    wire = wire_bytes(MIMEMessage(inner))
    assert b"\r\nBcc: kept@xn--bcher-kva.example\r\n" in wire
    assert b"\r\nReply-To: r@xn--bcher-kva.example\r\n" in wire


@pytest.mark.parametrize("name", ["Subject", "X-To", "Comments"])
def test_other_fields_keep_what_looks_like_an_address(name: str) -> None:
    assert_as_by_the_stdlib(fields(EmailMessage(), **{name: "you@bücher.example"}))


@pytest.mark.parametrize(
    "value",
    [
        "Jörg <jörg@bücher.example>",  # of use with SMTPUTF8 alone
        "jörg@x.example",
        "Jörg, no address",
        "=?utf-8?q?J=C3=B6rg?= <you@x.example>",
        "Jörg <you@x.example>",
    ],
)
def test_address_fields_without_such_a_domain_are_what_the_stdlib_writes(value: str) -> None:
    for policy in POLICIES.values():
        message = parsed(f"To: {value}\n\n", policy)
        for utf8, seven_bit in EACH_FORM:
            expected = flattened_by_the_stdlib(message, utf8=utf8, seven_bit=seven_bit)
            assert flattened_by_us(message, utf8=utf8, seven_bit=seven_bit) == expected


def test_a_domain_that_has_no_a_label_is_refused_and_the_field_is_named() -> None:
    for message in (parsed("Reply-To: a@-ü.example\n\n"), parsed(f"Reply-To: a@{'ü' * 64}.example\n\n")):
        with pytest.raises(MessageError, match=r"header Reply-To: domain '-?ü.* is no internationalized domain name"):
            wire_bytes(message)
        assert wire_bytes(message, utf8=True)


def test_a_field_that_would_name_somebody_else_once_it_is_rewritten_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    message = fields(EmailMessage(), To="Jörg <you@bücher.example>")
    monkeypatch.setattr(Address, "__str__", lambda self: f"evil@evil.example, {self.addr_spec}")
    with pytest.raises(MessageError, match="header To cannot be written with A-labels"):
        wire_bytes(message)


def test_a_display_name_that_the_stdlib_decodes_into_an_address_is_refused_or_stays_encoded() -> None:
    """Before 3.13 it writes what it decoded, without quotes."""
    message = fields(EmailMessage(), To=[Address("=?utf-8?q?=2C_evil=40x=2C?=", "you", "bücher.example")])
    try:
        wire = wire_bytes(message)
    except MessageError as error:
        assert "cannot be written with A-labels" in str(error)  # noqa: PT017 (one of two right outcomes)
    else:
        assert [address.addr_spec for address in parsed(wire)["To"].addresses] == ["you@xn--bcher-kva.example"]


@pytest.mark.parametrize("name", ["a@b.example, c", "x> , evil@evil.example, <y", "=?utf-8?q?x?=", 'q"\\', "(c)"])
def test_a_display_name_stays_one_when_its_address_gets_an_a_label(name: str) -> None:
    wire = wire_bytes(fields(EmailMessage(), To=[Address(name, "you", "bücher.example")]))
    assert [address.addr_spec for address in parsed(wire)["To"].addresses] == ["you@xn--bcher-kva.example"]


# --- Large messages


def test_a_message_is_large_by_its_bodies_or_by_headers_that_take_long_to_fold() -> None:
    """Such a one is flattened in a worker thread, so that the event loop does not stall."""
    assert not is_large(text())
    assert not is_large(with_attachments())
    assert not is_large(MIMEText("x" * (LARGE_BYTES - 1)))
    assert is_large(MIMEText("x" * LARGE_BYTES))
    halves = [MIMEText("x" * (LARGE_BYTES // 2)) for _ in range(2)]
    assert is_large(MIMEMultipart(_subparts=[MIMEMultipart(_subparts=[halves[0]]), MIMEMessage(halves[1])]))
    many = ", ".join(f"user{n}@server.example" for n in range(200))
    assert is_large(fields(EmailMessage(), To=many))
    assert is_large(fields(Message(), To=many))
    assert is_large(fields(Message(), To=Header(many)))
    assert is_large(MIMEMultipart(_subparts=[fields(Message(), Subject="ü" * 3000)]))
    assert not is_large(fields(EmailMessage(), References="<1@x.example> " * 20))


def test_a_message_of_very_many_parts_or_in_itself_is_large() -> None:
    assert is_large(MIMEMultipart(_subparts=[MIMEText("x")] * 2000))
    loop: Any = MIMEMultipart()
    loop.attach(loop)
    assert is_large(loop)
    with pytest.raises(MessageError, match="cannot be flattened"):
        wire_bytes(loop)
    assert not is_large(with_payload(["no part", None, 5]))


def test_octets_are_large_only_by_a_header_section_that_may_take_long_to_read() -> None:
    header = b"To: " + b", ".join(b"user%d@server.example" % n for n in range(1000))
    assert prepared.is_large(header + b"\r\n\r\nx")
    assert not prepared.is_large(b"To: you@x.example\r\n\r\n" + b"x" * 10_000_000)
    assert not prepared.is_large(bytearray(b"short"))
    assert prepared.is_large(MIMEText("x" * LARGE_BYTES))
    assert not prepared.is_large("text")
