"""Sixty awkward messages and two: what people and mail programs really send, and what mail programs tend to break.

Each function of the table makes one with a Message-ID, and says by itself what a receiver must read in it. Nothing of
that is computed by what is tested.
"""

from __future__ import annotations

import email
import email.policy
from collections.abc import Callable, Mapping
from email.header import Header
from email.headerregistry import Address, Group
from email.message import EmailMessage, Message
from email.mime.application import MIMEApplication
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import formataddr
from typing import Any

import attrs

from .messages import DATE, SENDER

__all__ = ["AWKWARD", "Awkward"]

Mailboxes = list[tuple[str, str]]

LONG_NAME = "Doe, Jane, ceo@bank.example, Head of Everything that is Important in this Company and Others, PhD"
HTML_LINE = "<p>" + "<b>Grüße</b>, &amp; <i>so weiter</i> " * 540 + "</p>"


@attrs.frozen(kw_only=True)
class Awkward:
    """A message, and what must be read from what a server stored.

    Attributes:
        message: as it is handed to smtplite.
        text: name of a field -> its text, decoded.
        mailboxes: name of a field -> its mailboxes: display name, decoded, and address.
        verbatim: name of a field -> its value, unfolded, octet for octet.
        files: the file names of the parts that have one, in their order.
        bodies: what the parts that hold no others say, in their order: text as str.
        needs: the extensions without which it must be refused.
        stored: what is stored, octet for octet, line endings LF; None: whatever reads right. If a server has no
            8BITMIME, bodies may still be encoded.
    """

    message: bytes | Message[Any, Any]
    text: Mapping[str, str] = attrs.field(factory=dict)
    mailboxes: Mapping[str, Mailboxes] = attrs.field(factory=dict)
    verbatim: Mapping[str, str] = attrs.field(factory=dict)
    files: list[str] = attrs.field(factory=list)
    bodies: list[str | bytes] | None = None
    needs: frozenset[str] = frozenset()
    stored: bytes | None = None


AWKWARD: dict[str, Callable[[str], Awkward]] = {}
"""All of them, by name."""


def awkward(make: Callable[[str], Awkward]) -> Callable[[str], Awkward]:
    """Put a message into the table."""
    AWKWARD[make.__name__] = make
    return make


def complete(message: Any, message_id: str, **more: object) -> Any:
    """Give a message the fields that every one needs, and more; an underscore in a name stands for a hyphen."""
    fields = {"From": SENDER, "To": "anyone@example.test", "Subject": "awkward", "Date": DATE, **more}
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    message["Message-ID"] = message_id
    return message


def built(message_id: str, body: str = "text\n", **fields: object) -> EmailMessage:
    """Return an EmailMessage of text."""
    message: EmailMessage = complete(EmailMessage(), message_id, **fields)
    message.set_content(body)
    return message


def old(message_id: str, body: str = "text\n", **fields: object) -> MIMEText:
    """Return a MIMEText."""
    message: MIMEText = complete(MIMEText(body, "plain", "utf-8"), message_id, **fields)
    return message


def raw(message_id: str, *lines: str, **fields: str) -> bytes:
    """Return a message as octets, line endings CRLF: fields, those of MIME among them, and the lines of its body."""
    values = {"From": SENDER, "To": "anyone@example.test", "Subject": "awkward", "Date": DATE, **fields}
    section = [f"{name.replace('_', '-')}: {value}" for name, value in values.items() if value]
    section += [f"Message-ID: {message_id}", "MIME-Version: 1.0"]
    return "".join(f"{line}\r\n" for line in (*section, "", *lines)).encode("utf-8", "surrogateescape")


def unix(octets: bytes) -> bytes:
    """Return octets with LF for CRLF."""
    return octets.replace(b"\r\n", b"\n")


def as_it_is(octets: bytes, **more: Any) -> Awkward:
    """Return a message as octets: stored as it is, whatever a server offers, or refused."""
    needs = frozenset(() if octets.isascii() else ("8BITMIME",))
    return Awkward(message=octets, stored=unix(octets), **{"needs": needs, **more})


def as_parsed(octets: bytes, policy: Any = email.policy.default, **more: Any) -> Awkward:
    """Return a message that was read by `email`, and needs no change unless its body must be encoded."""
    return Awkward(message=email.message_from_bytes(octets, policy=policy), stored=unix(octets), **more)


# Mailboxes


@awkward
def a_long_name_with_commas_in_an_address_object(message_id: str) -> Awkward:
    to = [Address(LONG_NAME, "jane", "x.example"), Address("", "b", "x.example")]
    return Awkward(
        message=built(message_id, To=to), mailboxes={"To": [(LONG_NAME, "jane@x.example"), ("", "b@x.example")]}
    )


@awkward
def a_long_name_with_commas_by_formataddr(message_id: str) -> Awkward:
    to = formataddr((LONG_NAME, "jane@x.example"))
    return Awkward(message=built(message_id, To=to), mailboxes={"To": [(LONG_NAME, "jane@x.example")]})


@awkward
def a_long_name_with_commas_in_a_mimetext(message_id: str) -> Awkward:
    reply_to = formataddr((LONG_NAME, "jane@x.example"))
    return Awkward(
        message=old(message_id, Reply_To=reply_to),
        mailboxes={"Reply-To": [(LONG_NAME, "jane@x.example")]},
        bodies=["text\n"],
    )


@awkward
def many_long_names_in_one_field(message_id: str) -> Awkward:
    people = [(f"{number}. {LONG_NAME}", f"p{number}@x.example") for number in range(40)]
    return Awkward(
        message=built(message_id, Cc=", ".join(formataddr(person) for person in people)), mailboxes={"Cc": people}
    )


@awkward
def a_name_of_umlauts_and_a_comma(message_id: str) -> Awkward:
    person = ("Müller, Jörg", "joerg@x.example")
    return Awkward(message=built(message_id, To=formataddr(person)), mailboxes={"To": [person]})


@awkward
def a_name_that_looks_like_somebody_else(message_id: str) -> Awkward:
    name = "Müller, Jörg <evil@evil.example>"
    return Awkward(
        message=built(message_id, To=[Address(name, "joerg", "x.example")]),
        mailboxes={"To": [(name, "joerg@x.example")]},
    )


@awkward
def names_in_six_scripts(message_id: str) -> Awkward:
    people = [
        ("山田 太郎", "a@x.example"),
        ("Иван Петров", "b@x.example"),
        ("Γιώργος Παπαδόπουλος", "c@x.example"),
        ("דוד כהן", "d@x.example"),
        ("محمد علي", "e@x.example"),
        ("김민수", "f@x.example"),
    ]
    to = [Address(name, *address.split("@")) for name, address in people]
    return Awkward(message=built(message_id, To=to), mailboxes={"To": people})


@awkward
def a_name_of_emoji_joined_to_one(message_id: str) -> Awkward:
    name = "👩‍👩‍👧‍👦" * 12
    return Awkward(
        message=built(message_id, From=Address(name, "family", "x.example")),
        mailboxes={"From": [(name, "family@x.example")]},
    )


@awkward
def groups_one_of_them_empty(message_id: str) -> Awkward:
    group = Group("Die Größten", (Address("Ö, Ä", "a", "x.example"), Address("", "b", "x.example")))
    return Awkward(
        message=built(message_id, Cc=[group, Group("nobody", ())]),
        mailboxes={"Cc": [("Ö, Ä", "a@x.example"), ("", "b@x.example")]},
    )


@awkward
def a_quoted_local_part(message_id: str) -> Awkward:
    return Awkward(
        message=built(message_id, Reply_To='"Q, R" <"a b,c@d"@x.example>'),
        mailboxes={"Reply-To": [("Q, R", '"a b,c@d"@x.example')]},
    )


@awkward
def an_internationalized_domain(message_id: str) -> Awkward:
    return Awkward(
        message=built(message_id, Reply_To="Jörg <joerg@bücher.example>"),
        mailboxes={"Reply-To": [("Jörg", "joerg@xn--bcher-kva.example")]},
    )


@awkward
def an_internationalized_domain_in_a_field_that_email_does_not_know(message_id: str) -> Awkward:
    return Awkward(
        message=built(message_id, Disposition_Notification_To="Jörg <joerg@bücher.example>"),
        mailboxes={"Disposition-Notification-To": [("Jörg", "joerg@xn--bcher-kva.example")]},
    )


@awkward
def an_internationalized_local_part(message_id: str) -> Awkward:
    return Awkward(
        message=built(message_id, Reply_To="Jörg <jörg@bücher.example>", Subject="Grüße"),
        mailboxes={"Reply-To": [("Jörg", "jörg@bücher.example")]},
        text={"Subject": "Grüße"},
        needs=frozenset({"SMTPUTF8"}),
    )


@awkward
def a_resent_block(message_id: str) -> Awkward:
    return Awkward(
        message=built(
            message_id,
            Resent_From=formataddr((LONG_NAME, "jane@x.example")),
            Resent_To=formataddr(("Jörg, Ü", "j@x.example")),
            Resent_Date=DATE,
        ),
        mailboxes={"Resent-From": [(LONG_NAME, "jane@x.example")], "Resent-To": [("Jörg, Ü", "j@x.example")]},
    )


@awkward
def comments_around_an_address(message_id: str) -> Awkward:
    value = "(the (old) one) a@x.example (Ann), B <b@x.example> (b)"
    octets = raw(message_id, "text", Cc=value)
    return as_parsed(octets, mailboxes={"Cc": [("", "a@x.example"), ("B", "b@x.example")]})


@awkward
def a_display_name_of_dots(message_id: str) -> Awkward:
    return as_parsed(
        raw(message_id, "text", Cc="J. Q. Public <jqp@x.example>"), verbatim={"Cc": "J. Q. Public <jqp@x.example>"}
    )


# Text


def subject(message: Message[Any, Any], text: str, **more: Any) -> Awkward:
    return Awkward(message=message, text={"Subject": text}, **more)


@awkward
def a_long_subject_of_mixed_scripts(message_id: str) -> Awkward:
    text = "Re: [list] Grüße  aus Köln — 東京より、 Привет, γειά σου, and some more words of plain English to fold " * 3
    return subject(built(message_id, Subject=text.strip()), text.strip())


@awkward
def a_subject_of_emoji(message_id: str) -> Awkward:
    text = "🎉🎊 " * 40 + "done 👍🏽"
    return subject(built(message_id, Subject=text), text)


@awkward
def a_subject_from_right_to_left(message_id: str) -> Awkward:
    text = "שלום עולם, 123 (abc) — مرحبا بالعالم \u200f\u202bRLE\u202c"
    return subject(built(message_id, Subject=text), text)


@awkward
def a_subject_of_many_blanks(message_id: str) -> Awkward:
    text = "ü  two   three    ü" + " " * 90 + "ninety ü"
    return subject(built(message_id, Subject=text), text)


@awkward
def a_subject_with_a_word_longer_than_a_line(message_id: str) -> Awkward:
    text = "see https://x.example/" + "q" * 600 + " für mehr"
    return subject(built(message_id, Subject=text), text)


@awkward
def a_subject_with_a_word_longer_than_any_line(message_id: str) -> Awkward:
    return subject(built(message_id, Subject="w" * 1200), "w" * 1200)


@awkward
def a_subject_of_combining_marks(message_id: str) -> Awkward:
    text = "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!" * 4
    return subject(built(message_id, Subject=text), text)


@awkward
def a_subject_with_what_looks_encoded(message_id: str) -> Awkward:
    text = "how =?utf-8?q?this?= is read in für"
    return subject(built(message_id, Subject=text), text)


@awkward
def a_subject_of_a_header_object(message_id: str) -> Awkward:
    message: Any = old(message_id)
    del message["Subject"]
    message["Subject"] = Header("Grüße an alle, und noch ein wenig mehr, damit es länger wird " * 3, "utf-8")
    text = "Grüße an alle, und noch ein wenig mehr, damit es länger wird " * 3
    return subject(message, text)


@awkward
def utf8_in_the_fields_of_a_parsed_message(message_id: str) -> Awkward:
    octets = raw(message_id, "text", Subject="Grüße  aus Köln", Cc='"Müller, Jörg" <j@x.example>')
    return Awkward(
        message=email.message_from_bytes(octets, policy=email.policy.default),
        text={"Subject": "Grüße  aus Köln"},
        mailboxes={"Cc": [("Müller, Jörg", "j@x.example")]},
    )


@awkward
def utf8_in_the_fields_of_octets(message_id: str) -> Awkward:
    return as_it_is(
        raw(message_id, "text", Subject="Grüße  aus Köln"), needs=frozenset({"SMTPUTF8", "8BITMIME"})
    )  # fmt: skip


@awkward
def latin1_in_a_parsed_subject(message_id: str) -> Awkward:
    octets = raw(message_id, "text", Subject="Gr\udcfc\udcdfe aus K\udcf6ln")
    return Awkward(
        message=email.message_from_bytes(octets, policy=email.policy.compat32),
        text={"Subject": "Gr\udcfc\udcdfe aus K\udcf6ln"},
    )


# Identifiers and tokens


@awkward
def a_thread_of_forty_references(message_id: str) -> Awkward:
    references = " ".join(f"<{'x' * (number * 3 % 70 + 1)}.{number}@mail.example>" for number in range(40))
    return Awkward(
        message=built(message_id, References=references, In_Reply_To=references.rpartition(" ")[2]),
        verbatim={"References": references, "In-Reply-To": references.rpartition(" ")[2]},
    )


@awkward
def an_outlook_message_id_of_two_hundred(message_id: str) -> Awkward:
    value = f"<{'AM0PR04MB' + 'A1B2C3D4' * 22}@AM0PR04MB0000.eurprd04.prod.outlook.example>"
    return Awkward(message=built(message_id, In_Reply_To=value), verbatim={"In-Reply-To": value})


@awkward
def one_click_unsubscribe(message_id: str) -> Awkward:
    value = f"<mailto:leave@x.example?subject={'u' * 200}>, <https://x.example/u/{'p' * 300}?list=1>"
    return Awkward(
        message=built(message_id, List_Unsubscribe=value, List_Unsubscribe_Post="List-Unsubscribe=One-Click"),
        verbatim={"List-Unsubscribe": value, "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"},
    )


@awkward
def authentication_results_and_an_arc_seal(message_id: str) -> Awkward:
    seal = "i=1; a=rsa-sha256; d=x.example; s=arc; cv=none; b=" + "Ab+/9" * 68 + "=="
    results = (
        "mx.x.example; dkim=pass header.i=@y.example header.s=s header.b=abcdefg; spf=pass smtp.mailfrom=a@y.example"
    )
    return Awkward(
        message=built(message_id, ARC_Seal=seal, Authentication_Results=results),
        verbatim={"ARC-Seal": seal, "Authentication-Results": results},
    )


@awkward
def json_in_a_field(message_id: str) -> Awkward:
    value = '{"unique_args":{"customer":"1234","campaign":"spring"},"category":["a","b"],"filters":{"x":{"y":1}}}'
    return Awkward(message=built(message_id, X_SMTPAPI=value), verbatim={"X-SMTPAPI": value})


# File names


def with_file(message_id: str, name: str) -> EmailMessage:
    message = built(message_id)
    message.add_attachment(b"\0\1\2", maintype="application", subtype="octet-stream", filename=name)
    return message


@awkward
def a_file_name_of_umlauts_and_spaces(message_id: str) -> Awkward:
    name = "Übung  Plan für alle und noch mehr, und noch länger als eine Zeile; (neu).pdf"
    return Awkward(message=with_file(message_id, name), files=[name], bodies=["text\n", b"\0\1\2"])


@awkward
def a_file_name_of_japanese(message_id: str) -> Awkward:
    name = "見積書_株式会社山田商事_御中_" * 5 + "最終版.xlsx"
    return Awkward(message=with_file(message_id, name), files=[name], bodies=["text\n", b"\0\1\2"])


@awkward
def a_file_name_of_emoji_and_quotes(message_id: str) -> Awkward:
    name = '😀 it\'s 100 % "ü" * 1.png'
    return Awkward(message=with_file(message_id, name), files=[name], bodies=["text\n", b"\0\1\2"])


@awkward
def a_file_name_by_add_header_unquoted(message_id: str) -> Awkward:
    name = "Übung Plan.pdf"
    message = complete(MIMEMultipart(), message_id)
    message.attach(MIMEText("text\n"))
    part = MIMEApplication(b"\0\1\2")
    part.add_header("Content-Disposition", f"attachment; filename= {name}")
    message.attach(part)
    return Awkward(message=message, files=[name], bodies=["text\n", b"\0\1\2"])


@awkward
def a_file_name_by_add_header_in_three_parts(message_id: str) -> Awkward:
    name = "Übung.pdf"
    message = complete(MIMEMultipart(), message_id)
    message.attach(MIMEText("text\n"))
    part = MIMEApplication(b"\0\1\2")
    part.add_header("Content-Disposition", "attachment", filename=("utf-8", "", name))
    message.attach(part)
    return Awkward(message=message, files=[name], bodies=["text\n", b"\0\1\2"])


@awkward
def an_rfc2231_name_in_segments_that_was_parsed(message_id: str) -> Awkward:
    octets = raw(
        message_id,
        "AAEC",
        Content_Type="application/octet-stream",
        Content_Transfer_Encoding="base64",
        Content_Disposition="attachment;\r\n filename*0*=utf-8''%C3%9Cbung%20;\r\n"
        " filename*1*=Plan%20f%C3%BCr%20alle;\r\n filename*2=.pdf",
    )
    return as_parsed(octets, files=["Übung Plan für alle.pdf"], bodies=[b"\0\1\2"])


# Bodies


@awkward
def html_of_one_line_of_20_kb(message_id: str) -> Awkward:
    message: MIMEText = complete(MIMEText(HTML_LINE, "html", _charset=None), message_id)
    del message["Content-Type"], message["Content-Transfer-Encoding"]
    message["Content-Type"] = "text/html; charset=utf-8"
    message["Content-Transfer-Encoding"] = "8bit"
    message._payload = HTML_LINE.encode().decode("ascii", "surrogateescape")  # type: ignore[attr-defined]
    return Awkward(message=message, bodies=[HTML_LINE])


@awkward
def html_of_one_line_in_an_emailmessage(message_id: str) -> Awkward:
    message = built(message_id)
    message.add_alternative(HTML_LINE, subtype="html", cte="8bit")
    return Awkward(message=message, bodies=["text\n", HTML_LINE])


@awkward
def ascii_of_one_long_line_in_a_mimetext(message_id: str) -> Awkward:
    body = "a long line " * 200
    return Awkward(message=complete(MIMEText(body), message_id), bodies=[body])


@awkward
def eight_bit_text(message_id: str) -> Awkward:
    body = "Grüße,\n\n.dot\nFrom here\n中文\n"
    message: EmailMessage = complete(EmailMessage(), message_id)
    message.set_content(body, cte="8bit")
    return Awkward(message=message, bodies=[body])


@awkward
def eight_bit_octets(message_id: str) -> Awkward:
    return as_it_is(
        raw(
            message_id,
            "Grüße, 中文",
            ".",
            "From here",
            Content_Type="text/plain; charset=utf-8",
            Content_Transfer_Encoding="8bit",
        )
    )


@awkward
def text_in_iso_2022_jp(message_id: str) -> Awkward:
    body = "日本語のテキスト\n"
    message: MIMEText = complete(MIMEText(body, "plain", "iso-2022-jp"), message_id)
    return Awkward(message=message, bodies=[body])


@awkward
def a_calendar_in_alternatives(message_id: str) -> Awkward:
    calendar = "BEGIN:VCALENDAR\nMETHOD:REQUEST\nBEGIN:VEVENT\nSUMMARY:Übung\nEND:VEVENT\nEND:VCALENDAR\n"
    message = built(message_id, "Einladung für dich\n")
    message.add_alternative("<p>Einladung für dich</p>\n", subtype="html")
    message.add_alternative(calendar, subtype="calendar", params={"method": "REQUEST"})
    return Awkward(message=message, bodies=["Einladung für dich\n", "<p>Einladung für dich</p>\n", calendar])


@awkward
def a_calendar_with_a_line_too_long(message_id: str) -> Awkward:
    calendar = "BEGIN:VCALENDAR\nDESCRIPTION:" + "Grüße " * 300 + "\nEND:VCALENDAR\n"
    message: EmailMessage = complete(EmailMessage(), message_id)
    message.set_content(calendar, subtype="calendar", cte="8bit", params={"method": "PUBLISH"})
    return Awkward(message=message, bodies=[calendar])


@awkward
def a_message_in_a_message_in_a_message(message_id: str) -> Awkward:
    innermost = built(
        "<3@x.example>", "Grüße von ganz innen\n", Subject="Grüße", To=formataddr((LONG_NAME, "j@x.example"))
    )
    middle = built("<2@x.example>", "in the middle\n")
    middle.add_attachment(innermost)
    message = built(message_id, "outside\n")
    message.add_attachment(middle)
    return Awkward(message=message, bodies=["outside\n", "in the middle\n", "Grüße von ganz innen\n"])


@awkward
def an_8bit_message_in_a_message(message_id: str) -> Awkward:
    body = "Grüße, 8-bit\n"
    inner: EmailMessage = complete(EmailMessage(), "<2@x.example>")
    inner.set_content(body, cte="8bit")
    message = complete(MIMEMultipart(), message_id)
    message.attach(MIMEMessage(inner))
    return Awkward(message=message, bodies=[body])


SIGNED = """\
--=_outer
Content-Type: multipart/mixed; boundary="=_inner"

--=_inner
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: {encoding}
X-Odd: kept   as it   is\t

{text}
--=_inner
Content-Type: application/octet-stream; name="a.bin"
Content-Transfer-Encoding: base64

AAEC
--=_inner--

--=_outer
Content-Type: application/pgp-signature; name="signature.asc"

-----BEGIN PGP SIGNATURE-----
iQEz
-----END PGP SIGNATURE-----
--=_outer--"""


def signed(message_id: str, text: str, encoding: str) -> bytes:
    return raw(
        message_id,
        *SIGNED.format(text=text, encoding=encoding).split("\n"),
        Content_Type='multipart/signed; micalg=pgp-sha256; protocol="application/pgp-signature"; boundary="=_outer"',
    )


@awkward
def nested_multipart_signed(message_id: str) -> Awkward:
    return as_parsed(signed(message_id, "plain text", "7bit"), files=["a.bin", "signature.asc"])


@awkward
def nested_multipart_signed_with_8bit_text(message_id: str) -> Awkward:
    return as_parsed(signed(message_id, "Grüße", "8bit"), needs=frozenset({"8BITMIME"}))


@awkward
def multipart_signed_inside_a_list_footer(message_id: str) -> Awkward:
    lines = SIGNED.format(text="Grüße", encoding="8bit").split("\n")
    return as_parsed(
        raw(
            message_id,
            "--=_list",
            'Content-Type: multipart/signed; protocol="application/pgp-signature"; boundary="=_outer"',
            "",
            *lines,
            "",
            "--=_list",
            "Content-Type: text/plain; charset=us-ascii",
            "",
            "list footer",
            "--=_list--",
            Content_Type='multipart/mixed; boundary="=_list"',
        ),
        needs=frozenset({"8BITMIME"}),
    )


@awkward
def text_around_the_parts(message_id: str) -> Awkward:
    return as_parsed(
        raw(
            message_id,
            "This is a message of MIME.",
            "",
            "--b",
            "",
            "no fields here",
            "--b",
            "Content-Type: text/plain",
            "",
            "",
            "--b--",
            "",
            "behind the last part",
            Content_Type='multipart/mixed; boundary="b"',
        )
    )


@awkward
def a_delivery_report(message_id: str) -> Awkward:
    return as_parsed(
        raw(
            message_id,
            "--r",
            "",
            "It could not be delivered.",
            "--r",
            "Content-Type: message/delivery-status",
            "",
            "Reporting-MTA: dns; mx.x.example",
            "",
            "Final-Recipient: rfc822; a@x.example",
            "Action: failed",
            "Status: 5.1.1",
            "",
            "--r",
            "Content-Type: message/rfc822",
            "",
            "Subject: the first",
            "From: a@x.example",
            "",
            "text",
            "--r--",
            Content_Type='multipart/report; report-type=delivery-status; boundary="r"',
        )
    )


# Habits of mail programs


OUTLOOK = {
    "From": '"Doe, Jane (Extern)" <jane@x.example>',
    "Thread_Topic": "=?iso-8859-1?Q?Gr=FC=DFe?=",
    "Thread_Index": "AdrQ0jA3b0VZ9mF8SpqKc0nV2mYx3wAAAAAAAAAAAAAAAA==",
    "X_MS_Has_Attach": "yes",
    "Subject": "=?iso-8859-1?Q?AW:_Gr=FC=DFe_aus_K=F6ln,_und_noch_etwas_mehr?=\r\n =?iso-8859-1?Q?_dazu?=",
    "Accept_Language": "de-DE, en-US",
    "Content_Language": "de-DE",
    "Content_Type": 'multipart/related;\r\n\tboundary="_004_AM0PR04_";\r\n\ttype="multipart/alternative"',
}
OUTLOOK_BODY = [
    "--_004_AM0PR04_",
    "Content-Type: multipart/alternative;",
    '\tboundary="_000_AM0PR04_"',
    "",
    "--_000_AM0PR04_",
    'Content-Type: text/plain; charset="iso-8859-1"',
    "Content-Transfer-Encoding: quoted-printable",
    "",
    "Gr=FC=DFe,=20",
    "",
    "--_000_AM0PR04_",
    'Content-Type: text/html; charset="iso-8859-1"',
    "Content-Transfer-Encoding: quoted-printable",
    "",
    '<html xmlns:o=3D"urn:schemas-microsoft-com:office:office"><p class=3DMsoNormal>Gr=FC=DFe<o:p></o:p></p>=',
    "</html>",
    "",
    "--_000_AM0PR04_--",
    "",
    "--_004_AM0PR04_",
    'Content-Type: image/png; name="image001.png"',
    "Content-Description: image001.png",
    'Content-Disposition: inline; filename="image001.png"; size=3;',
    '\tcreation-date="Mon, 23 Nov 2026 06:00:00 GMT"',
    "Content-ID: <image001.png@01DAD0D2.3037B0A0>",
    "Content-Transfer-Encoding: base64",
    "",
    "AAEC",
    "",
    "--_004_AM0PR04_--",
]


@awkward
def outlook_as_octets(message_id: str) -> Awkward:
    return as_it_is(raw(message_id, *OUTLOOK_BODY, **OUTLOOK))


@awkward
def outlook_as_it_was_parsed(message_id: str) -> Awkward:
    return as_parsed(raw(message_id, *OUTLOOK_BODY, **OUTLOOK), files=["image001.png"])


@awkward
def outlook_winmail_dat(message_id: str) -> Awkward:
    return as_parsed(
        raw(
            message_id,
            "eJ8+Ig==",
            Content_Type='application/ms-tnef; name="winmail.dat"',
            Content_Transfer_Encoding="base64",
            Content_Disposition='attachment; filename="winmail.dat"',
        ),
        email.policy.compat32,
        bodies=[b"\x78\x9f\x3e\x22"],
        files=["winmail.dat"],
    )


@awkward
def outlook_file_name_as_an_encoded_word(message_id: str) -> Awkward:
    value = 'attachment; filename="=?utf-8?B?w5xidW5nLnBkZg==?="; size=3'
    return as_parsed(
        raw(
            message_id,
            "AAEC",
            Content_Type="application/pdf",
            Content_Transfer_Encoding="base64",
            Content_Disposition=value,
        ),
        verbatim={"Content-Disposition": value},
    )


@awkward
def gmail_with_flowed_text(message_id: str) -> Awkward:
    octets = raw(
        message_id,
        "--000000000000a1b2c305f00dcafe",
        'Content-Type: text/plain; charset="UTF-8"; format=flowed; delsp=yes',
        "Content-Transfer-Encoding: base64",
        "",
        "R3LDvMOfZSANCmFuIGFsbGUNCg==",
        "--000000000000a1b2c305f00dcafe",
        'Content-Type: text/html; charset="UTF-8"',
        "Content-Transfer-Encoding: quoted-printable",
        "",
        '<div dir=3D"ltr">Gr=C3=BC=C3=9Fe an alle</div>',
        "",
        "--000000000000a1b2c305f00dcafe--",
        Subject="=?UTF-8?B?R3LDvMOfZSDwn46J?=",
        X_Gm_Message_State="AOJu0Y" + "z8kQ+/" * 30,
        Content_Type='multipart/alternative; boundary="000000000000a1b2c305f00dcafe"',
    )
    return as_parsed(octets, bodies=["Grüße \nan alle\n", '<div dir="ltr">Grüße an alle</div>\n'])


@awkward
def gmail_file_name_in_both_fields(message_id: str) -> Awkward:
    return as_it_is(
        raw(
            message_id,
            "AAEC",
            Content_Type='application/pdf; name="=?UTF-8?Q?=C3=9Cbung=2Epdf?="',
            Content_Disposition='attachment; filename="=?UTF-8?Q?=C3=9Cbung=2Epdf?="',
            Content_Transfer_Encoding="base64",
            X_Attachment_Id="f_lx0a1b2c0",
        )
    )


@awkward
def apple_mail_with_a_blank_line_of_blanks(message_id: str) -> Awkward:
    return as_it_is(
        raw(
            message_id,
            " ",
            "text  ",
            "\t",
            Content_Type="text/plain;\r\n\tcharset=us-ascii",
            Mime_Version_2="1.0 (Mac OS X Mail 16.0 \\(3776.700.51\\))",
            Subject="",
        )
    )


@awkward
def a_mailing_list_with_tabs_and_long_received_lines(message_id: str) -> Awkward:
    octets = raw(
        message_id,
        "text",
        X_Received_2="from a.test (a.test [192.0.2.1])\r\n\tby b.example (Postfix) with ESMTPS id 1\r\n\tfor <l@b>",
        List_Id='"Alle (und mehr)" <alle.lists.example>',
        X_BeenThere="alle@lists.example",
        X_Long="x" * 900,
    )
    return as_parsed(octets, email.policy.compat32, verbatim={"List-Id": '"Alle (und mehr)" <alle.lists.example>'})
