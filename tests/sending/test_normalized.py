"""What a session says of content, that its line endings are CRLF already, is so: no octet is another."""

from __future__ import annotations

from collections.abc import Callable
from email import policy
from email.message import EmailMessage
from email.mime.application import MIMEApplication
from email.mime.text import MIMEText
from email.parser import BytesParser
from typing import Any

import anyio
from hypothesis import example, given
from hypothesis import strategies as st

from smtplite import Content, Envelope, ExtensionRequired, MessageError
from smtplite.message.content import WHOLE_BYTES
from smtplite.message.prepared import Prepared, prepare
from smtplite.protocol import ContentEncoder, Extensions
from tests.exhaustive import examples

HEADER = b"From: a@b.example\r\nTo: c@d.example\r\nMessage-ID: <1@b.example>\r\n\r\n"
ENVELOPE: dict[str, Any] = {"sender": "a@b.example", "recipients": ["c@d.example"]}
EIGHT_BIT = Extensions({"8BITMIME": (), "SMTPUTF8": ()})
SEVEN_BIT = Extensions({})

bodies = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"\xc3\xa9", b" ", b"=", b"\x85", b"\x0b", b"\x0c"]),
    max_size=20,
).map(b"".join)


def with_payload(body: bytes, encoding: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "a@b.example", "c@d.example"
    message["Content-Transfer-Encoding"] = encoding
    message["Content-Type"] = "text/plain; charset=utf-8"
    message.set_payload(body.decode("utf-8").encode("ascii", "surrogateescape") if body.isascii() else body.decode())
    return message


def compat32(body: bytes) -> Any:
    message = MIMEText(body.decode(), "plain", "utf-8")
    message["From"], message["To"] = "a@b.example", "c@d.example"
    return message


def attached(body: bytes) -> Any:
    message = MIMEApplication(body)
    message["From"], message["To"] = "a@b.example", "c@d.example"
    return message


def composed(body: bytes) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "a@b.example", "c@d.example"
    message.set_content(body.decode(), cte="8bit")
    message.add_attachment(body.decode(), subtype="plain")
    return message


async def stream(octets: bytes, size: int) -> Any:
    for start in range(0, len(octets), size):
        yield octets[start : start + size]


FORMS: dict[str, Callable[[bytes], Prepared]] = {
    "octets": lambda body: prepare(HEADER + body, **ENVELOPE),
    "octets with LF": lambda body: prepare(HEADER.replace(b"\r\n", b"\n") + body, **ENVELOPE),
    "many octets": lambda body: prepare(HEADER + b"x\r\n" * WHOLE_BYTES + body, **ENVELOPE),
    "a bytearray": lambda body: prepare(bytearray(HEADER + body), **ENVELOPE),
    "signed": lambda body: prepare(HEADER + body, sign=lambda _: b"DKIM-Signature: x\r\n", **ENVELOPE),
    "a Content": lambda body: prepare(Content.from_bytes(HEADER + body), **ENVELOPE),
    "a stream": lambda body: prepare(Content.from_stream(stream(HEADER + body, 3)), **ENVELOPE),
    "long lines": lambda body: prepare(
        HEADER + body, envelope=Envelope("a@b.example", ["c@d.example"], long_lines="send")
    ),
    "parsed": lambda body: prepare(BytesParser(policy=policy.default).parsebytes(HEADER + body)),
    "parsed, compat32": lambda body: prepare(BytesParser(policy=policy.compat32).parsebytes(HEADER + body)),
    "as it is, 8bit": lambda body: prepare(with_payload(body, "8bit")),
    "as it is, base64": lambda body: prepare(with_payload(body, "base64")),
    "as it is, binary": lambda body: prepare(with_payload(body, "binary")),
    "text, compat32": lambda body: prepare(compat32(body)),
    "attached": lambda body: prepare(attached(body)),
    "composed": lambda body: prepare(composed(body)),
}


@examples(1000)
@given(form=st.sampled_from(list(FORMS)), body=bodies)
@example(form="octets with LF", body=b".\n.\r.\r\n.\r")
def test_a_body_that_is_not_binary_is_encoded_alike_without_a_look_at_its_line_endings(form: str, body: bytes) -> None:
    async def read(extensions: Extensions) -> list[bytes]:
        prepared = FORMS[form](body)
        await prepared.check()
        fitted = prepared.for_server(extensions, is_tls=True)[2]
        assert not fitted.is_binary
        return [fitted.whole] if fitted.whole is not None else [piece async for piece in fitted.pieces()]

    for extensions in (EIGHT_BIT, SEVEN_BIT):
        try:
            pieces = anyio.run(read, extensions)
        except (MessageError, ExtensionRequired, ValueError):  # it cannot be sent, or not even be built
            continue
        known, unknown = ContentEncoder(), ContentEncoder()
        assert [known.encode(piece, is_normalized=True) for piece in pieces] == list(map(unknown.encode, pieces))
        assert known.at_line_start is unknown.at_line_start


def test_a_binary_body_is_not_said_to_be_normalized() -> None:
    envelope = Envelope("a@b.example", ["c@d.example"], body="BINARYMIME")
    prepared = prepare(HEADER + b"a\nb\rc", envelope=envelope)
    body = prepared.for_server(
        Extensions({"8BITMIME": (), "BINARYMIME": (), "CHUNKING": (), "PIPELINING": ()}), is_tls=True, binary_ok=True
    )[2]
    assert body.is_binary
    assert body.whole == HEADER + b"a\nb\rc"
