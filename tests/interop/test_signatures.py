"""Signatures that were made before sending verify behind real servers, or nothing was sent.

DKIM is checked by dkimpy, with a key that needs no DNS; S/MIME by openssl. A signature that a server's lack of 8BITMIME
would break is never sent broken: the message is refused with ExtensionRequired.
"""

from __future__ import annotations

import email
import email.policy
import importlib
import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from email.message import EmailMessage, Message
from pathlib import Path
from typing import Any

import attrs
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


@attrs.frozen
class Signed:
    """A message with a signature.

    Attributes:
        message_id: its own.
        message: as it is handed to smtplite.
        needs: the extension without which the signature would break.
    """

    message_id: str
    message: bytes | Message[Any, Any]
    needs: str | None = None


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


def dkimpy() -> Any:
    """Return the module of dkimpy; where it is missing, do as for a server."""
    is_there = importlib.util.find_spec("dkim") is not None
    ensure_nothing_is_missing(lambda: None if is_there else "dkimpy is not installed: pip install -e '.[test]'")
    return importlib.import_module("dkim")


def dkim_signature(octets: bytes, keys: Path) -> bytes:
    """Return the DKIM-Signature field of a message."""
    key = (keys / "key.pem").read_bytes()
    field: bytes = dkimpy().sign(octets, b"s", b"client.test", key, canonicalize=(b"simple", b"simple"))
    return field


def dkim_verifies(octets: bytes, keys: Path) -> bool:
    """Tell whether the DKIM-Signature of a message is right."""
    public = openssl("rsa", "-in", str(keys / "key.pem"), "-pubout", "-outform", "DER")
    encoded = openssl("base64", "-A", given=public)

    def answer(name: bytes, timeout: int = 5) -> bytes:
        assert name == b"s._domainkey.client.test."
        return b"v=DKIM1; k=rsa; p=" + encoded

    verified: bool = dkimpy().verify(octets, dnsfunc=answer)
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
@pytest.mark.parametrize("kind", ["ASCII", "8-bit", "with a file"])
@pytest.mark.asyncio
async def test_a_dkim_signature_verifies_or_nothing_was_sent(
    server: Server, service: str, hidden: tuple[str, ...], kind: str, keys: Path
) -> None:
    messages = []
    for form in FORMS.values():
        message_id = new_message_id()
        octets = to_sign(message_id, kind)
        octets = dkim_signature(octets, keys) + octets
        assert dkim_verifies(octets, keys)
        assert not dkim_verifies(octets.replace(b".dot", b".dots"), keys)
        messages.append(Signed(message_id, form(octets), "8BITMIME" if kind == "8-bit" else None))
    for content in await stored(server, service, hidden, messages):
        assert dkim_verifies(content, keys)


@each_server_and_offer
@pytest.mark.parametrize("kind", ["ASCII", "8-bit", "with a file"])
@pytest.mark.asyncio
async def test_a_dkim_signature_made_while_sending_verifies(
    server: Server, service: str, hidden: tuple[str, ...], kind: str, keys: Path
) -> None:
    messages = []
    for name, form in FORMS.items():
        if name != "octets":
            message_id = new_message_id()
            messages.append(Signed(message_id, form(to_sign(message_id, kind))))
    contents = await stored(server, service, hidden, messages, sign=lambda octets: dkim_signature(octets, keys))
    assert len(contents) == len(messages)
    for content in contents:
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
@pytest.mark.parametrize("kind", ["ASCII", "8-bit", "UTF-8 in a field"])
@pytest.mark.parametrize("program", ["smime", "cms"])
@pytest.mark.asyncio
async def test_an_smime_signature_verifies_or_nothing_was_sent(
    server: Server, service: str, hidden: tuple[str, ...], kind: str, program: str, keys: Path
) -> None:
    messages = []
    for name, form in FORMS.items():
        message_id = new_message_id()
        octets = smime(message_id, kind, program, keys)
        assert smime_verifies(octets, program, keys)
        assert not smime_verifies(octets.replace(b"aus", b"von"), program, keys)
        needs = None if kind == "ASCII" else "8BITMIME"
        if kind == "UTF-8 in a field" and name != "octets":
            needs = "SMTPUTF8"
        messages.append(Signed(message_id, form(octets), needs))
    for content in await stored(server, service, hidden, messages):
        assert smime_verifies(content, program, keys)


async def stored(
    server: Server, service: str, hidden: tuple[str, ...], messages: list[Signed], **options: Any
) -> list[bytes]:
    """Send messages; return what the server stored of each that was not refused, line endings CRLF.

    Args:
        server: where to.
        service: one of its services.
        hidden: what it does not offer.
        messages: what is sent.
        options: of the Client.
    """
    client, written = masked_client(server, service, hidden, **options)
    accepted: list[str] = []
    async with client:
        offered = {keyword for keyword in ("8BITMIME", "SMTPUTF8") if keyword in (await client.check()).extensions}
        if "8BITMIME" not in offered:
            offered.discard("SMTPUTF8")
        for message in messages:
            written.clear()
            said = await claim(client, message.message, sender=SENDER, recipients=[RECIPIENT])
            if message.needs is None or message.needs in offered:
                assert said.accepted == (RECIPIENT,), str(said)
                accepted.append(message.message_id)
            else:
                assert isinstance(said.error, smtplite.ExtensionRequired), str(said)
                assert said.error.keyword == message.needs
                assert b"MAIL" not in written
            assert "8BITMIME" in offered or written.isascii()
    contents = []
    copies = server.stored_of([message.message_id for message in messages])
    for message in messages:
        found = copies.get(message.message_id, [])
        assert len(found) == (message.message_id in accepted)
        contents += [copy.content.replace(b"\n", b"\r\n") for copy in found]
    return contents
