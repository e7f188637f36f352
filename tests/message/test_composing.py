"""compose(): what it makes is what was asked for, and what is wrong is said at once, by the argument's name."""

from __future__ import annotations

import email
import inspect
import os
import pickle
from collections.abc import Callable
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import smtplite
from smtplite import Attachment, MessageError, SMTPError, compose
from smtplite.message import wire_bytes
from smtplite.message.addresses import mailboxes_of
from smtplite.testing import SMTPServer

ADA = "Ada Lovelace <ada@example.org>"
PNG = b"\x89PNG\r\n\x1a\n and no more"
PICTURE = '<p>Hello <img src="cid:logo"></p>'
MAIL = b"From: x@example.org\r\nSubject: inner\r\nX-Odd: two  spaces \r\n\r\nHello\r\n"


def composed(**arguments: Any) -> EmailMessage:
    """Compose with what a test does not care about."""
    return compose(**{"from_": ADA, "to": ["grace@example.net"], "text": "Hello\n", **arguments})


def received(message: EmailMessage) -> EmailMessage:
    """Return the message as the standard library of a receiver reads it from the wire."""
    read = email.message_from_bytes(wire_bytes(message), policy=policy.default)
    assert isinstance(read, EmailMessage)
    assert not any(part.defects for part in read.walk())
    return read


def tree(part: Any) -> Any:
    """Return types in their order: a str for a leaf, (type, [parts]) for what has parts."""
    kind = part.get_content_type()
    return (kind, [tree(inner) for inner in part.get_payload()]) if part.is_multipart() else kind


# The bodies


TREES: list[tuple[dict[str, Any], Any]] = [
    ({"text": "Hello"}, "text/plain"),
    ({"text": None, "html": "<p>Hello"}, "text/html"),
    ({"text": "Hello", "html": "<p>Hello"}, ("multipart/alternative", ["text/plain", "text/html"])),
    (
        {"text": None, "html": PICTURE, "inline": {"logo": ("a.png", PNG)}},
        ("multipart/related", ["text/html", "image/png"]),
    ),
    (
        {"text": "Hello", "html": PICTURE, "inline": {"logo": ("a.png", PNG), "b": ("b.gif", b"GIF")}},
        ("multipart/alternative", ["text/plain", ("multipart/related", ["text/html", "image/png", "image/gif"])]),
    ),
    (
        {"text": "Hello", "attachments": [("a.pdf", b"%PDF"), ("b.txt", b"b")]},
        ("multipart/mixed", ["text/plain", "application/pdf", "text/plain"]),
    ),
    ({"text": None, "attachments": [("a.pdf", b"%PDF")]}, ("multipart/mixed", ["application/pdf"])),
    (
        {"text": None, "html": PICTURE, "inline": {"logo": ("a.png", PNG)}, "attachments": [("a.pdf", b"%PDF")]},
        ("multipart/mixed", [("multipart/related", ["text/html", "image/png"]), "application/pdf"]),
    ),
    (
        {"html": PICTURE, "inline": {"logo": ("a.png", PNG)}, "attachments": [("a.pdf", b"%PDF"), ("m.eml", MAIL)]},
        (
            "multipart/mixed",
            [
                ("multipart/alternative", ["text/plain", ("multipart/related", ["text/html", "image/png"])]),
                "application/pdf",
                ("message/rfc822", ["text/plain"]),
            ],
        ),
    ),
]


@pytest.mark.parametrize(
    ("arguments", "expected"), TREES, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
def test_the_tree_is_what_mail_programs_expect(arguments: dict[str, Any], expected: Any) -> None:
    message = composed(**arguments)
    assert tree(message) == expected
    assert tree(received(message)) == expected


def test_a_receiver_finds_each_body_and_each_file_as_it_was_given() -> None:
    text, html, data = "Grüße\n\n.dots\n", f"<p>Grüße {'x' * 2000}</p>{PICTURE}\n", bytes(range(256)) * 10
    message = received(
        composed(text=text, html=html, inline={"logo": ("logo.png", PNG)}, attachments=[('Übung; "1".bin', data)])
    )
    plain, rich = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert rich is not None
    assert plain.get_content().replace("\r\n", "\n") == text
    assert rich.get_content().replace("\r\n", "\n") == html
    [attached] = message.iter_attachments()
    assert attached.get_filename() == 'Übung; "1".bin'
    assert attached.get_content() == data
    assert attached.get_content_disposition() == "attachment"
    [related] = [part for part in message.walk() if part.get_content_type() == "multipart/related"]
    assert related.get_param("type") == "text/html"
    [_, picture] = related.iter_parts()
    assert (picture["Content-ID"], picture.get_content_disposition()) == ("<logo>", "inline")
    assert picture.get_content() == PNG
    assert picture.get_filename() == "logo.png"


def test_text_without_an_end_of_line_gets_one_and_html_is_left_alone() -> None:
    assert composed(text="Hello").get_content() == "Hello\n"
    assert composed(text="").get_content().strip() == ""
    assert tree(composed(text=None, html="<p>a</p>")) == "text/html"


# Files and their types


@pytest.mark.parametrize(
    ("attachment", "expected"),
    [
        (("a.pdf", b""), "application/pdf"),
        (("A.PDF", b""), "application/pdf"),
        (("a.tar.gz", b""), "application/gzip"),
        (("a.csv.bz2", b""), "application/octet-stream"),
        (("unknown", b""), "application/octet-stream"),
        (("data:text,x.unknown", b""), "application/octet-stream"),
        (("a.txt", b"ascii"), 'text/plain; charset="utf-8"'),
        (("a.txt", "grüße".encode()), 'text/plain; charset="utf-8"'),
        (("a.txt", "grüße".encode("latin-1")), "text/plain"),
        (Attachment("a", b"", "Image/X-Thing"), "image/x-thing"),
        (Attachment("a.pdf", b"", 'text/csv; charset=iso-8859-1; header="a b"'), None),
        (Attachment("a.pdf", bytearray(b"x")), "application/pdf"),
        (Attachment("a.pdf", memoryview(b"x")), "application/pdf"),
        (("not.eml", b"no header section"), "application/octet-stream"),
        (("nul.eml", b"From: a@example.org\n\n\0"), "application/octet-stream"),
        (("cr.eml", b"From: a@example.org\n\n\r"), "application/octet-stream"),
        (("long.eml", b"From: a@example.org\n\n" + b"x" * 999), "application/octet-stream"),
        (("8bit.eml", "From: ä@example.org\n\n".encode()), "application/octet-stream"),
    ],
    ids=lambda value: str(getattr(value, "name", value))[:30],
)
def test_a_type_is_what_the_name_says_or_what_the_caller_says(attachment: Any, expected: str | None) -> None:
    [part] = composed(attachments=[attachment]).iter_attachments()
    assert part["Content-Type"] == (expected or 'text/csv; charset="iso-8859-1"; header="a b"')
    if part.get_content_maintype() != "text":
        name, data = (attachment.name, attachment.data) if isinstance(attachment, Attachment) else attachment
        assert (part.get_filename(), part.get_content()) == (name, data)


def test_text_travels_octet_for_octet() -> None:
    data = "one\ntwo\r\nthree\rü".encode()
    [part] = received(composed(attachments=[("a.txt", data)])).iter_attachments()
    assert part.get_payload(decode=True) == data


def test_a_message_is_attached_as_a_message_without_an_encoding() -> None:
    [part] = received(composed(attachments=[("forwarded.eml", MAIL)])).iter_attachments()
    assert part.get_content_type() == "message/rfc822"
    assert part["Content-Transfer-Encoding"] in ("7bit", "8bit")
    assert MAIL in wire_bytes(composed(attachments=[Attachment("m", MAIL, "message/rfc822")]))


def test_a_path_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "Rechnung März.pdf"
    path.write_bytes(b"%PDF")
    message = composed(attachments=[path])
    path.write_bytes(b"changed")
    [part] = message.iter_attachments()
    assert (part.get_filename(), part.get_content_type()) == ("Rechnung März.pdf", "application/pdf")
    assert part.get_content() == b"%PDF"


def test_an_attachment_is_a_value_that_does_not_show_its_octets() -> None:
    attachment = Attachment("a.bin", b"secret", "application/x-a")
    assert pickle.loads(pickle.dumps(attachment)) == attachment == Attachment("a.bin", b"secret", "application/x-a")
    assert "secret" not in repr(attachment)
    assert "6 bytes" in repr(attachment)


# People


PEOPLE: list[tuple[Any, str, str]] = [
    ("ada@example.org", "", "ada@example.org"),
    (" <ada@example.org> ", "", "ada@example.org"),
    ("Ada Lovelace <ada@example.org>", "Ada Lovelace", "ada@example.org"),
    ("Ada<ada@example.org>", "Ada", "ada@example.org"),
    ("Lovelace, Ada <ada@example.org>", "Lovelace, Ada", "ada@example.org"),
    ('"Lovelace, Ada" <ada@example.org>', "Lovelace, Ada", "ada@example.org"),
    (r'"Ada \"the\\ Countess\"" <ada@example.org>', r'Ada "the\ Countess"', "ada@example.org"),
    ('Ada "the Countess" Lovelace <ada@example.org>', 'Ada "the Countess" Lovelace', "ada@example.org"),
    ("ada@example.org <ada@example.org>", "ada@example.org", "ada@example.org"),
    ("Jürgen Größe <jürgen@bücher.example>", "Jürgen Größe", "jürgen@bücher.example"),
    ("=?utf-8?b?SsO8cmdlbg==?= <j@example.org>", "Jürgen", "j@example.org"),
    (email.utils.formataddr(("Größe, J.", "j@example.org")), "Größe, J.", "j@example.org"),
    (("=?utf-8?b?SsO8cmdlbg==?=", "j@example.org"), "=?utf-8?b?SsO8cmdlbg==?=", "j@example.org"),
    (("", "ada@example.org"), "", "ada@example.org"),
    ((" Ada ", "ada@example.org"), "Ada", "ada@example.org"),
    (("A <x@evil.example>, B", "ada@example.org"), "A <x@evil.example>, B", "ada@example.org"),
    (Address("Ada", "ada", "example.org"), "Ada", "ada@example.org"),
    (Address("Ada", "a da", "example.org"), "Ada", '"a da"@example.org'),
    ('Ada <"a da"@[192.0.2.1]>', "Ada", '"a da"@[192.0.2.1]'),
    (("Ümläut, " * 400, "ada@example.org"), ("Ümläut, " * 400).strip(), "ada@example.org"),
]


@pytest.mark.parametrize(("person", "name", "address"), PEOPLE, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("argument", ["from_", "to", "cc", "bcc", "reply_to"])
def test_a_person_is_one_mailbox(argument: str, person: Any, name: str, address: str) -> None:
    message = composed(**{argument: person if argument == "from_" else [person]})
    [mailbox] = message[argument.strip("_").replace("_", "-")].addresses
    assert (mailbox.display_name, mailbox.addr_spec) == (name, address)


def test_one_person_needs_no_list_and_any_iterable_is_several() -> None:
    assert [a.addr_spec for a in composed(to="a@example.org")["To"].addresses] == ["a@example.org"]
    several = ["a@example.org", "Bo <b@example.org>", Address("C", "c", "example.org"), ("D", "d@example.org")]
    for people in (several, tuple(several), iter(several)):
        found = composed(to=people)["To"].addresses
        assert [a.addr_spec for a in found] == [f"{n}@example.org" for n in "abcd"]
    # Of two addresses in a tuple, neither is the other's name.
    assert len(composed(to=("a@example.org", "b@example.org"))["To"].addresses) == 2
    assert "To" not in composed(to=[])


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=60)


@given(NAMES)
@example('a" <x@evil.example>, "b')
@example("=?utf-8?q?a?=")
@example("\\")
def test_a_name_of_any_characters_stays_one_mailbox(name: str) -> None:
    message = composed(to=[(name, "grace@example.net")], cc=[Address(name, "cc", "example.net")])
    for field, address in (("To", "grace@example.net"), ("Cc", "cc@example.net")):
        [mailbox] = message[field].addresses
        assert (mailbox.display_name, mailbox.addr_spec) == (name.strip(), address)


@given(NAMES | NAMES.map(lambda name: name * 20))
@example('a" <x@evil.example>, "b')
@example("=?utf-8?q?a?=")
@example("Größe, " * 200)
def test_a_name_of_any_length_is_one_mailbox_on_the_wire_too(name: str) -> None:
    section = wire_bytes(composed(to=[(name, "grace@example.net"), ("", "b@example.net")])).partition(b"\r\n\r\n")[0]
    assert all(len(line) <= 998 for line in section.splitlines())
    value = email.message_from_bytes(section)["To"]
    assert [(each.display_name, each.addr_spec) for each in mailboxes_of(value)] == [
        (name.strip(), "grace@example.net"),
        ("", "b@example.net"),
    ]
    read = email.message_from_bytes(section, policy=policy.default)["To"]  # which puts spaces between encoded words
    assert [each.addr_spec for each in read.addresses] == ["grace@example.net", "b@example.net"]


@given(st.text(max_size=30), st.text(max_size=20))
def test_whatever_is_passed_as_a_person_is_one_mailbox_or_a_message_error(text: str, address: str) -> None:
    for person in (text, f"{text} <{address}>", (text, address), f"{text} <a@example.org>"):
        try:
            message = composed(to=[person])
        except MessageError as error:
            assert str(error).startswith("to[0]")  # noqa: PT017 (either outcome is right)
        else:
            assert len(message["To"].addresses) == 1


# Fields


def test_date_and_message_id_are_set() -> None:
    message = composed(from_="Ada <ada@bücher.example>")
    assert message["Date"].datetime is not None
    assert str(message["Message-ID"]).endswith("@xn--bcher-kva.example>")
    assert composed()["Message-ID"] != composed()["Message-ID"]


def test_the_callers_own_fields_are_there() -> None:
    message = composed(
        subject="Grüße",
        headers={
            "X-Campaign": "7",
            "message-id": "<7@example.org>",
            "Date": "Mon, 23 Nov 2026 06:00:00 GMT",
            "Sender": "Lovelace, Ada <office@example.org>",
            "List-Unsubscribe": "<mailto:off@example.org>",
        },
    )
    read = received(message)
    assert (read["Subject"], read["X-Campaign"], read["Message-ID"]) == ("Grüße", "7", "<7@example.org>")
    assert read["Date"] == "Mon, 23 Nov 2026 06:00:00 +0000"
    assert read["Sender"].address.addr_spec == "office@example.org"
    assert read["List-Unsubscribe"] == "<mailto:off@example.org>"
    assert len(read.keys()) == len(set(map(str.lower, read.keys())))
    assert "Subject" not in composed()


@pytest.mark.parametrize(
    "value", ["=?utf-8?q?a=0Ab?=", "a  b", "é" * 200, "x" * 400, "<" + "x" * 300 + "@example.org>"]
)
@pytest.mark.parametrize("name", ["X-A", "References", "List-Id"])
def test_a_field_of_the_callers_can_be_sent_or_is_refused_at_once(name: str, value: str) -> None:
    try:
        message = composed(headers={name: value})
    except MessageError as error:
        assert str(error).startswith(f"headers[{name!r}] cannot be written")  # noqa: PT017 (either outcome is right)
    else:
        wire_bytes(message, utf8=True)


@pytest.mark.parametrize(
    ("links", "field"),
    [
        ("https://example.org/u/1?a=b,c", "<https://example.org/u/1?a=b,c>"),
        (
            ["mailto:off@example.org?subject=off", "https://example.org/u"],
            "<mailto:off@example.org?subject=off>, <https://example.org/u>",
        ),
    ],
)
def test_an_unsubscribe_link_has_the_two_fields_of_rfc_8058(links: Any, field: str) -> None:
    read = received(composed(unsubscribe=links))
    assert read["List-Unsubscribe"].strip() == field
    assert read["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


# What is wrong


def no_file(folder: Path) -> dict[str, Any]:
    return {"attachments": [folder / "missing.pdf"]}


def a_folder(folder: Path) -> dict[str, Any]:
    return {"attachments": [folder]}


def a_pipe(folder: Path) -> dict[str, Any]:
    os.mkfifo(folder / "pipe.pdf")
    return {"attachments": [folder / "pipe.pdf"]}


@pytest.mark.parametrize("make", [no_file, a_folder, a_pipe])
def test_a_file_that_cannot_be_read_is_named(make: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(MessageError, match=r"^attachments\[0\]: .*(missing\.pdf|pipe\.pdf|test_a_file)"):
        composed(**make(tmp_path))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"from_": None}, r"^from_ must be .* not None"),
    ({"from_": ""}, r"^from_: '' has no address"),
    ({"from_": "Ada"}, "^from_: .* has no @"),
    ({"from_": ["ada@example.org"]}, "^from_ must be .* not list"),
    ({"from_": ("Ada", b"ada@example.org")}, "^from_ must be .* not tuple"),
    ({"from_": "Ada <>"}, "^from_: .* has no address"),
    ({"from_": Address("x", "a", "y.example>, <evil@z.example")}, "^from_: "),
    ({"from_": Address("x", "a", "")}, "^from_: "),
    ({"from_": '"ada"@example.org'}, "^from_: .* would be written as 'ada@example.org'"),
    ({"from_": "a\r\nBcc: x@example.org <ada@example.org>"}, r"^from_: the name holds '\\r'"),
    ({"from_": ("a\nb", "ada@example.org")}, r"^from_: the name holds '\\n'"),
    ({"from_": ("\ud800", "ada@example.org")}, r"^from_: the name holds '\\ud800'"),
    ({"from_": "=?x-none?q?a?= <ada@example.org>"}, "^from_: the name .* cannot be decoded"),
    ({"from_": "=?utf-8?q?=0A?= <ada@example.org>"}, "^from_: the name holds"),
    ({"to": "a@example.org, b@example.org"}, "^to: .* a list"),
    ({"to": "Ann <a@example.org>, Bo <b@example.org>"}, "^to: .* a list"),
    ({"to": "a@example.org, Bo <b@example.org>"}, "^to: .* a list"),
    ({"to": "Ann <a@example.org> Bo <b@example.org>"}, "^to: .* a list"),
    ({"to": "a@example.org (Ann)"}, "^to: "),
    ({"to": ("Ann", "a@example.org")}, r"^to: .*\[\(name, address\)\]"),
    ({"to": ["a@example.org", 5]}, r"^to\[1\] must be .* not int"),
    ({"to": None}, "^to must be .* not None"),
    ({"to": b"a@example.org"}, "^to must be .* not bytes"),
    ({"to": {"a@example.org": "Ann"}}, "^to must be .* not dict"),
    ({"cc": ["nobody"]}, r"^cc\[0\]: "),
    ({"bcc": ["nobody"]}, r"^bcc\[0\]: "),
    ({"reply_to": ["nobody"]}, r"^reply_to\[0\]: "),
    ({"subject": "a\nb"}, r"^subject holds '\\n'"),
    ({"subject": "a\u2028b"}, "^subject holds"),
    ({"subject": "a " * 5001}, "^subject has 10002 characters"),
    ({"to": [("a " * 5001, "a@example.org")]}, r"^to\[0\]: the name has 10002 characters"),
    ({"to": '"' * 12000 + " <a@example.org>"}, "^to: the name has 12000 characters"),
    ({"attachments": [("a" * 10001, b"")]}, r"^attachments\[0\]: name of an attachment has 10001"),
    ({"headers": {"X-A": "a " * 5001}}, r"^headers\['X-A'\] has 10002 characters"),
    ({"subject": 5}, "^subject must be a str, not int"),
    ({"text": b"x"}, "^text must be a str, not bytes: decode it"),
    ({"text": "a\0"}, "^text holds a NUL"),
    ({"text": "a\ud800"}, "^text holds a lone surrogate"),
    ({"text": None}, "text=, html= or attachments="),
    ({"html": 5}, "^html must be a str, not int"),
    ({"html": "<img src='cid:logo'>"}, "^html shows 'logo'"),
    ({"html": "<p style='background: url(CID:a%40b)'>"}, "^html shows 'a%40b'"),
    ({"inline": {"a": ("a.png", b"")}}, "^inline .* html="),
    ({"html": "", "inline": [("a.png", b"")]}, "^inline must be a mapping"),
    ({"html": "", "inline": {"a b": ("a.png", b"")}}, "^inline: the name 'a b'"),
    ({"html": "", "inline": {5: ("a.png", b"")}}, "^inline: the name '5'"),
    ({"html": "", "inline": {"a": "a.png"}}, r"^inline\['a'\] is a str: write Path\('a.png'\)"),
    ({"html": "", "inline": {"a": ("a.txt", b"")}}, r"^inline\['a'\]: 'a.txt' is text/plain"),
    ({"html": "", "inline": {"a": b""}}, r"^inline\['a'\] must be a Path"),
    ({"attachments": "a.pdf"}, "^attachments must be a list .* not str"),
    ({"attachments": Path("a.pdf")}, "^attachments must be a list"),
    ({"attachments": ("a.pdf", b"")}, r"^attachments\[0\] is a str: write Path"),
    ({"attachments": ["/etc/passwd"]}, r"^attachments\[0\] is a str: write Path\('/etc/passwd'\)"),
    ({"attachments": [b""]}, r"^attachments\[0\] must be a Path"),
    ({"attachments": [Path("a\0b")]}, r"^attachments\[0\]: .*null"),
    ({"attachments": [("a.txt", "text")]}, r"^attachments\[0\]: data .* encode it"),
    ({"attachments": [("a.txt", Path("a"))]}, r"^attachments\[0\]: data .* write path.read_bytes"),
    ({"attachments": [("../a.txt", b"")]}, r"^attachments\[0\]: name .* without folders"),
    ({"attachments": [(5, b"")]}, r"^attachments\[0\]: name of an attachment must be a str"),
    ({"attachments": [("", b"")]}, r"^attachments\[0\]: name"),
    ({"attachments": [("a\nb", b"")]}, r"^attachments\[0\]: name of an attachment holds"),
    ({"attachments": [("a", b"", "b")]}, r"^attachments\[0\] must be a Path"),
    ({"attachments": [Attachment("a", b"", "message/rfc822")]}, r"^attachments\[0\] is not a message"),
    ({"unsubscribe": "http://example.org/u"}, "^unsubscribe: .* neither https"),
    ({"unsubscribe": "https:///u"}, "^unsubscribe: .* neither https"),
    ({"unsubscribe": "https://[u"}, "^unsubscribe: .* neither https"),
    ({"unsubscribe": "https://example.org/u 1"}, "^unsubscribe: .* percent-encode"),
    ({"unsubscribe": "https://example.org/>, <https://evil.example"}, "^unsubscribe: .* percent-encode"),
    ({"unsubscribe": "https://bücher.example/"}, "^unsubscribe: .* percent-encode"),
    ({"unsubscribe": "https://example.org/" + "x" * 900}, "^unsubscribe: .* more than 900 bytes"),
    ({"unsubscribe": "mailto:off@example.org"}, "^unsubscribe must have one https link"),
    ({"unsubscribe": "mailto:off"}, "^unsubscribe: .* neither https"),
    ({"unsubscribe": ["https://a.example/", "https://b.example/"]}, "^unsubscribe must have one https link"),
    ({"unsubscribe": []}, "^unsubscribe must have one https link"),
    ({"unsubscribe": True}, "^unsubscribe must be an https link.* not bool"),
    ({"unsubscribe": [5]}, "^unsubscribe: a link must be a str, not int"),
    ({"unsubscribe": "https://a.example/", "headers": {"list-unsubscribe": "x"}}, "^headers has List-Unsubscribe"),
    ({"headers": [("a", "b")]}, "^headers must be a mapping"),
    ({"headers": {"a b": "c"}}, "^headers: 'a b' is not a field name"),
    ({"headers": {5: "c"}}, "^headers: '5' is not a field name"),
    ({"headers": {"X-A": 5}}, r"^headers\['X-A'\] must be a str, not int"),
    ({"headers": {"X-A": "a\r\nBcc: b@example.org"}}, r"^headers\['X-A'\] holds"),
    ({"headers": {"X-A": "1", "x-a": "2"}}, r"^headers\['x-a'\] is given twice"),
    ({"headers": {"Subject": "a"}}, r"^headers\['Subject'\] .*write subject="),
    ({"headers": {"From": "a"}}, r"^headers\['From'\] .*write from_="),
    ({"headers": {"Content-Type": "a"}}, r"^headers\['Content-Type'\] cannot"),
    ({"headers": {"Resent-To": "a"}}, r"^headers\['Resent-To'\] cannot"),
    ({"headers": {"Message-ID": "7@example.org"}}, r"^headers\['Message-ID'\].*<unique@domain>"),
    ({"headers": {"Date": "today"}}, r"^headers\['Date'\].*not a date"),
    ({"headers": {"Sender": "nobody"}}, r"^headers\['Sender'\]: "),
    ({"sender": "a@example.org"}, "^compose has no argument sender: from_= .* sender= of send"),
    ({"body": "x"}, "^compose has no argument body: write text= or html="),
    ({"subjekt": "x"}, "^compose has no argument subjekt: did you mean subject="),
    ({"zzz": "x"}, "^compose has no argument zzz; it has from_, to"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_a_message_error_that_names_the_argument(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(MessageError, match=says) as caught:
        composed(**arguments)
    assert "\n" not in str(caught.value)
    assert not str(caught.value).endswith(".")


def test_a_missing_author_and_an_argument_by_position_are_message_errors() -> None:
    with pytest.raises(MessageError, match=r"^compose needs from_=$"):
        compose(text="x")  # type: ignore[call-arg]  # what a program that nobody checked does
    with pytest.raises(MessageError, match=r"^compose is given arguments without their names: name all of them"):
        compose("a@example.org", text="x")  # type: ignore[call-arg]  # the same


@pytest.mark.parametrize("content_type", ["image", "image/", "a/b;", "a/b; c", "multipart/mixed", "message/partial", 5])
def test_a_type_that_cannot_be_sent_is_refused(content_type: Any) -> None:
    with pytest.raises(MessageError, match=r"^content_type "):
        Attachment("a", b"", content_type)


JUNK = st.recursive(
    st.none() | st.integers() | st.binary(max_size=5) | st.text(max_size=8) | st.just(Path("missing")),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
ARGUMENTS = sorted(inspect.signature(compose).parameters)


@given(st.sampled_from(ARGUMENTS), JUNK)
def test_nothing_but_a_message_error_comes_out_whatever_goes_in(argument: str, junk: Any) -> None:
    try:
        message = composed(**{argument: junk})
        wire_bytes(message)
    except SMTPError as error:
        assert isinstance(error, MessageError)  # noqa: PT017 (either outcome is right)


@pytest.mark.asyncio
async def test_a_composed_message_is_sent_to_everybody_and_shows_bcc_to_nobody() -> None:
    message = composed(to=[("Hopper, Grace", "grace@example.net")], cc="cc@example.net", bcc=["bcc@example.net"])
    server = SMTPServer()
    async with server.client() as client:
        receipt = await client.send(message)
    assert receipt.accepted == ("grace@example.net", "cc@example.net", "bcc@example.net")
    [stored] = server.messages
    assert stored.sender == "ada@example.org"
    assert "bcc" not in stored.as_email()
    assert stored.as_email()["To"].addresses[0].display_name == "Hopper, Grace"


def test_the_package_offers_it() -> None:
    assert smtplite.compose is compose
    assert {"compose", "Attachment"} <= set(smtplite.__all__)
