"""Signatures that were made before sending verify behind real servers, or nothing was sent.

DKIM is checked by dkimpy, with a key that needs no DNS; S/MIME by openssl. A signature that a server's lack of 8BITMIME
would break is never sent broken: the message is refused with ExtensionRequired.
"""

from __future__ import annotations

import email
import email.policy
import shutil
import subprocess
from collections.abc import Callable
from email.message import EmailMessage, Message
from pathlib import Path
from typing import Any

import dkim
import pytest

import smtplite
from smtplite.message.flatten import wire_bytes

from .awkward import LONG_NAME
from .launcher import Server, ensure_nothing_is_missing
from .masked import masked_client
from .matrix import claim
from .messages import DATE, SENDER, new_message_id
from .test_awkward import RECIPIENT, each_server_and_offer

pytestmark = pytest.mark.interop

FORMS: dict[str, Callable[[bytes], bytes | Message[Any, Any]]] = {
    "octets": lambda octets: octets,
    "parsed": lambda octets: email.message_from_bytes(octets, policy=email.policy.default),
    "parsed, SMTP": lambda octets: email.message_from_bytes(octets, policy=email.policy.SMTP),
    "parsed, compat32": lambda octets: email.message_from_bytes(octets, policy=email.policy.compat32),
}
each_form = pytest.mark.parametrize("form", FORMS)


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    """Run openssl and return what it prints."""
    done = subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with key.pem and cert.pem."""
    ensure_nothing_is_missing(lambda: None if shutil.which("openssl") else "openssl is not installed")
    folder = tmp_path_factory.mktemp("keys")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=client.test",
            "-addext", f"subjectAltName=email:{SENDER}", "-addext", "extendedKeyUsage=emailProtection",
            "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"))  # fmt: skip
    return folder


# DKIM


def dkim_signature(octets: bytes, keys: Path) -> bytes:
    """Return the DKIM-Signature field of a message."""
    key = (keys / "key.pem").read_bytes()
    field: bytes = dkim.sign(octets, b"s", b"client.test", key, canonicalize=(b"simple", b"simple"))
    return field


def dkim_verifies(octets: bytes, keys: Path) -> bool:
    """Tell whether the DKIM-Signature of a message is right."""
    public = openssl("rsa", "-in", str(keys / "key.pem"), "-pubout", "-outform", "DER")
    encoded = openssl("base64", "-A", given=public)

    def answer(name: bytes, timeout: int = 5) -> bytes:
        assert name == b"s._domainkey.client.test."
        return b"v=DKIM1; k=rsa; p=" + encoded

    verified: bool = dkim.verify(octets, dnsfunc=answer)
    return verified


def to_sign(message_id: str, kind: str) -> bytes:
    """Return a message that is not signed yet, as octets, line endings CRLF."""
    message = EmailMessage(policy=email.policy.SMTP)
    message["From"] = SENDER
    message["To"] = f'"{LONG_NAME}" <anyone@example.test>'
    message["Subject"] = "Grüße  an alle: https://x.example/" + "q" * 100
    message["Date"] = DATE
    message["Message-ID"] = message_id
    message["References"] = " ".join(f"<{'x' * 60}.{number}@x.example>" for number in range(5))
    message.set_content("Grüße\n\n.dot \n", cte="8bit" if kind == "8-bit" else "quoted-printable")
    if kind == "with a file":
        message.add_attachment(b"\0\1\2" * 50, maintype="application", subtype="pdf", filename="Übung Plan.pdf")
    return wire_bytes(message)


@each_server_and_offer
@each_form
@pytest.mark.parametrize("kind", ["ASCII", "8-bit", "with a file"])
@pytest.mark.asyncio
async def test_a_dkim_signature_verifies_or_nothing_was_sent(
    server: Server, service: str, hidden: tuple[str, ...], form: str, kind: str, keys: Path
) -> None:
    message_id = new_message_id()
    octets = to_sign(message_id, kind)
    octets = dkim_signature(octets, keys) + octets
    assert dkim_verifies(octets, keys)
    needs_eight_bit = kind == "8-bit" and "8BITMIME" in hidden
    content = await sent(server, service, hidden, FORMS[form](octets), message_id, "8BITMIME" * needs_eight_bit)
    assert content is None or dkim_verifies(content, keys)


@each_server_and_offer
@pytest.mark.parametrize("kind", ["ASCII", "8-bit", "with a file"])
@pytest.mark.parametrize("form", ["parsed", "parsed, compat32"])
@pytest.mark.asyncio
async def test_a_dkim_signature_made_while_sending_verifies(
    server: Server, service: str, hidden: tuple[str, ...], form: str, kind: str, keys: Path
) -> None:
    message_id = new_message_id()
    message = FORMS[form](to_sign(message_id, kind))
    content = await sent(
        server, service, hidden, message, message_id, "", sign=lambda octets: dkim_signature(octets, keys)
    )
    assert content is not None
    assert content.startswith(b"DKIM-Signature:")
    assert dkim_verifies(content, keys)


# S/MIME


def smime(message_id: str, kind: str, program: str, keys: Path) -> bytes:
    """Return a message that openssl signed, as octets, line endings CRLF."""
    encoding = "8bit" if kind == "8-bit" else "quoted-printable"
    text = "Grüße aus Köln" if kind == "8-bit" else "Gr=C3=BC=C3=9Fe aus K=C3=B6ln=20"
    part = f"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n{text}\r\n.\r\n"
    if kind == "UTF-8 in a field":
        part = f"Content-Description: Grüße\r\n{part}"
    signed = openssl(program, "-sign", "-crlfeol", "-signer", str(keys / "cert.pem"), "-inkey",
                     str(keys / "key.pem"), given=part.encode())  # fmt: skip
    signed = signed.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    fields = {"From": SENDER, "To": RECIPIENT, "Subject": "signed", "Date": DATE, "Message-ID": message_id}
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode() + signed


def smime_verifies(octets: bytes, program: str, keys: Path) -> bool:
    """Tell whether a message's signature is right."""
    done = subprocess.run(
        ["openssl", program, "-verify", "-CAfile", str(keys / "cert.pem")],
        input=octets,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@each_server_and_offer
@each_form
@pytest.mark.parametrize("kind", ["ASCII", "8-bit", "UTF-8 in a field"])
@pytest.mark.parametrize("program", ["smime", "cms"])
@pytest.mark.asyncio
async def test_an_smime_signature_verifies_or_nothing_was_sent(
    server: Server, service: str, hidden: tuple[str, ...], form: str, kind: str, program: str, keys: Path
) -> None:
    message_id = new_message_id()
    octets = smime(message_id, kind, program, keys)
    assert smime_verifies(octets, program, keys)
    assert not smime_verifies(octets.replace(b"aus", b"von"), program, keys)
    lacking = ""
    if kind != "ASCII" and "8BITMIME" in hidden:
        lacking = "8BITMIME"
    if kind == "UTF-8 in a field" and form != "octets":
        lacking = "SMTPUTF8"
    content = await sent(server, service, hidden, FORMS[form](octets), message_id, lacking)
    assert content is None or smime_verifies(content, program, keys)


async def sent(
    server: Server,
    service: str,
    hidden: tuple[str, ...],
    message: bytes | Message[Any, Any],
    message_id: str,
    lacking: str,
    **options: Any,
) -> bytes | None:
    """Send a message; return what was stored, line endings CRLF.

    Args:
        server: where to.
        service: one of its services.
        hidden: what it does not offer.
        message: what is sent.
        message_id: its own.
        lacking: the extension that it is known to need, and which may not be offered; then None is returned.
        options: of the Client.
    """
    client, written = masked_client(server, service, hidden, **options)
    async with client:
        extensions = (await client.check()).extensions
        written.clear()
        said = await claim(client, message, sender=SENDER, recipients=[RECIPIENT])
    [*copies] = server.stored(message_id)
    if lacking and (lacking not in extensions or (lacking == "SMTPUTF8" and "8BITMIME" not in extensions)):
        assert isinstance(said.error, smtplite.ExtensionRequired), str(said)
        assert said.error.keyword == lacking
        assert copies == []
        assert b"MAIL" not in written
        return None
    assert said.accepted == (RECIPIENT,), str(said)
    assert "8BITMIME" in extensions or written.isascii()
    [copy] = copies
    return copy.content.replace(b"\n", b"\r\n")
