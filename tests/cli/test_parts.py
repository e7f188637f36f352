"""A message as a person reads it, whoever wrote it."""

from __future__ import annotations

import email.policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.cli import parts
from smtplite.cli.parts import fields_of, file_name, header_text, read, text_of_markup
from tests.exhaustive import examples, part


def letter() -> EmailMessage:
    message = EmailMessage(policy=email.policy.SMTP)
    message["Subject"] = "Grüße aus Köln"
    message["From"] = "Ada Lovelace <ada@example.org>"
    message.set_content("Dear Grace,\nbest wishes: für dich.\n")
    message.add_alternative("<p>Dear <b>Grace</b>", subtype="html")
    message.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="köln.png")
    message.add_attachment("inner text", filename="notes.txt")
    return message


def test_text_markup_and_attachments_are_decoded() -> None:
    found = read(letter().as_bytes())
    assert dict(found.headers)["Subject"] == "Grüße aus Köln"
    assert found.text == "Dear Grace,\nbest wishes: für dich.\n"
    assert found.markup == "<p>Dear <b>Grace</b>\n"
    assert [(each.name, each.content_type) for each in found.attachments] == [
        ("köln.png", "image/png"),
        ("notes.txt", "text/plain"),
    ]
    assert found.attachments[0].data == b"\x89PNG"
    assert not found.problems


def test_a_message_within_a_message_is_one_attachment() -> None:
    outer = EmailMessage(policy=email.policy.SMTP)
    outer["Subject"] = "Fwd"
    outer.set_content("see below")
    outer.add_attachment(letter())
    [inner] = read(outer.as_bytes()).attachments
    assert inner.name == "part-1.eml"
    assert b"Subject: " in inner.data


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain", "plain"),
        (b"=?utf-8?q?Gr=C3=BC=C3=9Fe?= =?utf-8?b?w6Q=?=", "Grüßeä"),
        ("Grüße".encode(), "Grüße"),
        ("Grüße".encode("latin-1"), "Grüße"),
        (b"=?utf-8?b?a?=", "=?utf-8?b?a?="),
        (b"=?no-such-charset?q?=C3=A9?=", "é"),
        (b"=?punycode?q?abc?=", "abc"),
        (b"a\x1b[2J\x07b", "a[2Jb"),
        ("invoice\u202egpj.exe".encode(), "invoicegpj.exe"),
    ],
)
def test_a_field_is_decoded_and_holds_nothing_unseen(raw: bytes, text: str) -> None:
    assert header_text(raw) == text


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_fields_are_unfolded(end: bytes) -> None:
    content = end.join([b"Subject: one", b"  two", b"no field", b" of it", b"To:x", b"", b"Not: a field"])
    assert list(fields_of(content)) == [("Subject", "one two"), ("To", "x")]


def test_a_message_that_begins_with_its_body_has_no_fields() -> None:
    assert list(fields_of(b"\r\nSubject: no\r\n\r\n")) == []
    assert read(b"\r\nbody").text == "body"


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\system32\\evil.dll", "evil.dll"),
        ("..", ""),
        (".bashrc", "bashrc"),
        ("con.txt", "_con.txt"),
        ("NUL", "_NUL"),
        ('a"b<c>|?*:%.txt', "a_b_c______.txt"),
        ("x\r\nSet-Cookie: a", "x Set-Cookie_ a"),
        ("a" * 300 + ".pdf", "a" * 90 + ".pdf"),
        ("a" * 300, "a" * 100),
    ],
)
def test_a_name_is_only_a_name(given_name: str, name: str) -> None:
    assert file_name(given_name) == name


BROKEN = {
    "a boundary that never comes": b'Content-Type: multipart/mixed; boundary="x"\r\n\r\nhello',
    "no boundary": b"Content-Type: multipart/mixed\r\n\r\nhello",
    "base64 that is none": b"Content-Transfer-Encoding: base64\r\n\r\n!!!=",
    "an encoding that is none": b"Content-Transfer-Encoding: \xff\r\n\r\nx",
    "a charset that is none": b"Content-Type: text/plain; charset=no-such\r\n\r\nx",
    "a charset of Python's alone": b"Content-Type: text/plain; charset=unicode_escape\r\n\r\n\\u0041",
    "a charset that is no text": b"Content-Type: text/plain; charset=zlib\r\n\r\nx",
    "a type that is none": b"Content-Type: ;;;=\r\n\r\nx",
    "an RFC 2231 name that is none": b"Content-Disposition: attachment; filename*=x'y'%ZZ%\r\n\r\nx",
    "a header that is none": b"\xff\xfe\x00: x\r\n\r\nx",
    "nothing": b"",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=list(BROKEN))
def test_what_is_broken_is_read_as_far_as_it_goes(content: bytes) -> None:
    found = read(content)
    assert found.text is not None or found.attachments


def test_parts_within_parts_without_end_are_a_problem_and_not_a_crash() -> None:
    content = b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (depth, depth) for depth in range(1500)
    )
    found = read(content)
    assert found.problems
    assert found.text is not None


def test_no_more_parts_are_read_than_anybody_could_look_at() -> None:
    content = b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n' + b"--x\r\nContent-Type: a/b\r\n\r\n\r\n" * 1500
    found = read(content)
    assert len(found.attachments) == parts.MAX_PARTS
    assert "more than 1,000 parts" in found.problems[0]


def test_every_cut_of_a_message_can_be_read() -> None:
    content = letter().as_bytes()
    for end in part(range(len(content)), keep=40):
        read(content[:end])


@examples(200)
@given(st.binary(max_size=300))
def test_any_bytes_can_be_read(content: bytes) -> None:
    found = read(content)
    for _, value in found.headers:
        assert value.isprintable()


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ("<p>Hello <b>Ada</b>", " Hello Ada "),
        ("<STYLE>p { color: red }</style>text", ">text"),
        ("a<script>alert(1)", "a"),
        ("<<<<", "<<<<"),
    ],
)
def test_the_words_of_markup(markup: str, words: str) -> None:
    assert text_of_markup(markup) == words


@pytest.mark.parametrize("repeated", [b"a=b; ", b'a="', b"; filename*1=b"])
def test_parameters_without_end_take_no_time(repeated: bytes) -> None:
    """The stdlib's parser would take minutes."""
    content = b"Content-Type: text/plain; " + repeated * 100_000 + b"\r\n\r\nhi\r\n"
    assert read(content).text == "hi\n"
