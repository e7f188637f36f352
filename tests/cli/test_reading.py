"""What a person reads of a message, whatever the message holds."""

from __future__ import annotations

from email.message import EmailMessage
from email.policy import SMTP

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.cli import reading
from smtplite.cli.reading import Attachment, read, text_of_html
from tests.exhaustive import examples


def letter() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Ada Müller <ada@example.org>"
    message["To"] = "grace@example.net"
    message["Subject"] = "Grüße aus Köln " * 8
    message.set_content("Hallo Grace,\n\nGrüße\n", cte="base64")
    return message


def test_fields_and_text_are_decoded() -> None:
    message = read(letter().as_bytes(policy=SMTP))
    assert message.field("From") == "Ada Müller <ada@example.org>"
    assert message.field("Subject") == ("Grüße aus Köln " * 8).strip()
    assert message.text == "Hallo Grace,\n\nGrüße\n"
    assert (message.attachments, message.html, message.problems) == ((), None, ())


def test_attachments_have_a_name_a_type_and_a_size() -> None:
    message = letter()
    message.add_alternative("<p>Hallo <img src='cid:logo'></p>", subtype="html")
    message.get_payload(1).add_related(b"PNG", "image", "png", cid="<logo>")  # type: ignore[union-attr]  # a message
    message.add_attachment(b"%PDF" * 100, maintype="application", subtype="pdf", filename="Rechnung März.pdf")
    inner = EmailMessage()
    inner["Subject"] = "inner"
    inner.set_content("inside\n")
    message.add_attachment(inner)
    shown = read(message.as_bytes(policy=SMTP))
    assert shown.text == "Hallo Grace,\n\nGrüße\n"
    assert shown.html is not None
    assert not shown.is_text_of_html
    assert [attrs.evolve(one, size=0) for one in shown.attachments] == [
        Attachment(name="part-1.png", type="image/png", size=0, is_inline=True),
        Attachment(name="Rechnung März.pdf", type="application/pdf", size=0),
        Attachment(name="part-3.eml", type="message/rfc822", size=0),
    ]
    assert [one.size for one in shown.attachments[:2]] == [3, 400]
    assert shown.attachments[2].size > len("inside")


def test_html_alone_is_read_as_text() -> None:
    message = EmailMessage()
    html = "<style>p {}</style><h1>Thanks!</h1><ul><li>1 teapot</ul><a href='https://x.example'>Track</a>"
    message.set_content(html, subtype="html")
    shown = read(message.as_bytes())
    assert shown.is_text_of_html
    assert shown.text == "Thanks!\n\n\n- 1 teapot\n\nTrack <https://x.example>".replace("\n\n\n", "\n\n")


def test_eight_bit_fields_are_read_as_utf8() -> None:
    assert read("Subject: Grüße\r\n\r\nGrüße\r\n".encode()).fields == (("Subject", "Grüße"),)


@pytest.mark.parametrize("charset", ["x-nobody", "us-ascii", "utf-16"])
def test_a_charset_that_is_wrong_does_not_hide_the_text(charset: str) -> None:
    head = f"Content-Type: text/plain; charset={charset}\r\n\r\n".encode()
    assert "Gr\xfc\xdfe" in read(head + "Grüße!".encode()).text or charset == "utf-16"


def test_what_is_too_large_is_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 30)
    shown = read(b"Subject: hello\r\n\r\n" + b"x" * 100)
    assert (shown.field("Subject"), shown.problems) == ("hello", ("only its first 30 bytes were read",))


def test_only_the_header_section_is_read_where_nothing_else_is_asked_for() -> None:
    shown = read(b"Subject: hello\r\n\r\n" + b"x" * 100, only_header=True)
    assert (shown.field("Subject"), shown.text, shown.problems) == ("hello", "", ())


def test_lines_without_end_are_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_LINES", 4)
    shown = read(b"Subject: hello\r\n\r\n1\r\n2\r\n3\r\n")
    assert (shown.text, shown.problems) == ("1\n2\r", ("only its first 23 bytes were read",))


@pytest.mark.parametrize("repeated", [b"a=b; ", b'a="', b"; filename*1=b"])
def test_parameters_without_end_take_no_time(repeated: bytes) -> None:
    """The stdlib's parser would take minutes."""
    assert read(b"Content-Type: text/plain; " + repeated * 100_000 + b"\r\n\r\nhi\r\n").problems == ()


def test_a_page_without_end_is_shown_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_HTML_CHARS", 10)
    assert text_of_html("<p>Hello, Grace</p>") == "Hello, \n(the rest of the HTML is not shown)".replace(", ", ",")


def test_parts_without_end_are_no_trouble() -> None:
    parts = b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (depth, depth) for depth in range(400)
    )
    assert read(parts + b"\r\nhi\r\n") is not None


@examples(100)
@given(st.binary(max_size=400))
def test_whatever_arrives_is_read(content: bytes) -> None:
    shown = read(content)
    assert isinstance(shown.text, str)
    "".join([shown.text, *(text for _, text in shown.fields)]).encode()


def test_html_that_python_gives_up_on_is_shown_as_far_as_it_goes() -> None:
    assert text_of_html("<p>Hello<![if x").startswith("Hello")


@examples(100)
@given(st.text(alphabet="<>/&;a p!-[]\"'=", max_size=200))
def test_whatever_html_it_is(html: str) -> None:
    assert "\n\n\n" not in text_of_html(html)
