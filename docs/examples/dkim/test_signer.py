"""dkimpy's own verifier on what arrived: at the built-in server, and at Postfix."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from smtplite import Client, Content, MessageError, Outgoing, SMTPError
from smtplite.testing import ServerExtensions, SMTPServer

try:  # in a checkout of smtplite
    from docs.examples.dkim import signer as example
except ImportError:  # beside signer.py
    import signer as example

FOLDER = Path(__file__).parent
DOMAIN = "example.org"
ME, YOU = "ada@example.org", "grace@example.test"  # a domain that the private Postfix delivers to


def pem(
    key: Any, form: PrivateFormat = PrivateFormat.PKCS8, encryption: KeySerializationEncryption | None = None
) -> bytes:
    octets = key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())
    assert isinstance(octets, bytes)
    return octets


RSA_KEY = rsa.generate_private_key(65537, 2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
RSA = example.DkimSigner(DOMAIN, "rsa2026", pem(RSA_KEY))
ED = example.DkimSigner(DOMAIN, "ed2026", pem(ED_KEY))
SIGNERS = [pytest.param(RSA, id="rsa"), pytest.param(ED, id="ed25519")]


def dns(name: bytes, timeout: float = 5) -> bytes | None:
    """Answer from memory, as dkimpy asks."""
    records = {f"{each.record_name}.".encode(): each.record.encode() for each in (RSA, ED)}
    return records.get(name)


def is_verified(octets: bytes, index: int = 0) -> bool:
    try:
        return bool(dkim.DKIM(octets).verify(idx=index, dnsfunc=dns))
    except dkim.ValidationError:  # the hash of the body is another
        return False


def with_another_body(octets: bytes) -> bytes:
    header, end, body = octets.replace(b"\r\n", b"\n").partition(b"\n\n")
    assert body
    return header + end + b"X" + body


def fields_of(octets: bytes) -> str:
    """Return the first field, unfolded."""
    match = re.match(rb"DKIM-Signature:((?:[^\r\n]|\r\n[ \t])*)\r\n", octets)
    assert match is not None, octets[:100]
    return re.sub(r"\s+", "", match[1].decode())


# What is sent


def small(number: int) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Ada Lovelace <ada@example.org>"
    message["To"] = YOU
    message["Subject"] = "Grüße  " + "of a line that is so long that it must be folded somewhere " * 3
    message["Message-ID"] = f"<{random.getrandbits(64):x}.{number}@example.org>"
    message.set_content(f"Grüße, {number}.  \n.\n..dots\n\ttabs \t and  blanks   \n\n\n", cte="8bit")
    return message


def large(number: int) -> EmailMessage:
    message = small(number)
    message.set_content("Grüße aus London.  \n.\n" * 30_000, cte="8bit")
    message.add_attachment(bytes(range(256)) * 400, maintype="application", subtype="octet-stream")
    return message


SIZES = [pytest.param(small, id="small"), pytest.param(large, id="large")]


async def by_send(client: Client, messages: list[Any]) -> None:
    for message in messages:
        assert (await client.send(message, sender=ME, recipients=YOU)).complete


async def by_send_many(client: Client, messages: list[Any]) -> None:
    items = [Outgoing(message, sender=ME, recipients=[YOU]) for message in messages]
    async with client.send_many(items) as deliveries:
        said = [delivery.error async for delivery in deliveries]
    assert said == [None] * len(messages)


Way = Callable[[Client, list[Any]], Awaitable[None]]
WAYS = [pytest.param(by_send, id="send"), pytest.param(by_send_many, id="send_many")]


# At the built-in server


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", SIZES)
@pytest.mark.parametrize("signer", SIGNERS)
@pytest.mark.parametrize("is_eight_bit", [True, False], ids=["8bit", "7bit"])
@pytest.mark.parametrize("chunking", [True, False], ids=["BDAT", "DATA"])
def test_what_arrives_is_verified(
    way: Way, make: Callable[[int], EmailMessage], signer: Any, is_eight_bit: bool, chunking: bool
) -> None:
    async def run() -> list[bytes]:
        server = SMTPServer(extensions=ServerExtensions(eight_bit_mime=is_eight_bit, smtputf8=False))
        async with server, Client(server.host, server.port, tls="none", sign=signer, chunking=chunking) as client:
            await way(client, [make(number) for number in range(3)])
        assert not server.violations
        return [message.content for message in server.messages]

    arrived = asyncio.run(run())
    assert len(arrived) == 3
    for content in arrived:
        assert f"a={signer.algorithm};" in fields_of(content)
        assert is_verified(content)
        assert not is_verified(with_another_body(content))
        assert not is_verified(content.replace(b"Ada Lovelace", b"Eve"))
        # Already at the end of its own header: a second From or Subject could be what is shown.
        assert not is_verified(b"From: eve@example.org\r\n" + content)
        assert not is_verified(b"Subject: another\r\n" + content)
        assert all(len(line) <= 78 for line in content.partition(b"From:")[0].splitlines())
        assert content.isascii() != is_eight_bit


@pytest.mark.parametrize("way", WAYS)
def test_two_signatures_of_one_message_are_both_verified(way: Way) -> None:
    async def run() -> list[bytes]:
        async with SMTPServer() as server:
            async with Client(server.host, server.port, tls="none", sign=example.sign_with(RSA, ED)) as client:
                await way(client, [small(1)])
            return [message.content for message in server.messages]

    (content,) = asyncio.run(run())
    assert content.count(b"DKIM-Signature:") == 2
    assert is_verified(content, 0)
    assert is_verified(content, 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\r\n\r\n\r\n", id="empty lines"),
        pytest.param(b"no line end", id="no line end"),
        pytest.param(b"blanks  \t \r\n \r\n", id="blanks"),
        pytest.param(b"From here\r\n.\r\n..\r\n\tb=abc; bh=def\r\n", id="what could be taken for something else"),
    ],
)
def test_bodies_that_canonicalisation_changes(way: Way, body: bytes, tmp_path: Path) -> None:
    octets = b"From: ada@example.org\r\nTo: grace@example.test\r\nsubject:  b=x;\r\n\tbh=y \r\n\r\n" + body
    (tmp_path / "message.eml").write_bytes(octets)

    async def run() -> list[bytes]:
        async with SMTPServer() as server:
            async with Client(server.host, server.port, tls="none", sign=RSA) as client:
                await way(client, [octets, Content.from_path(tmp_path / "message.eml")])
            return [message.content for message in server.messages]

    arrived = asyncio.run(run())
    assert len(arrived) == 2
    for content in arrived:
        assert is_verified(content)


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_signed_is_not_sent(way: Way) -> None:
    async def run() -> tuple[SMTPError, int]:
        async with SMTPServer() as server, Client(server.host, server.port, tls="none", sign=RSA) as client:
            octets = b"To: grace@example.test\r\n\r\nfrom nobody\r\n"
            if way is by_send:
                with pytest.raises(MessageError) as caught:
                    await client.send(octets, sender=ME, recipients=YOU)
                return caught.value, len(server.messages)
            async with client.send_many([Outgoing(octets, sender=ME, recipients=[YOU])]) as deliveries:
                (delivery,) = [delivery async for delivery in deliveries]
            assert delivery.error is not None
            return delivery.error, len(server.messages)

    error, taken = asyncio.run(run())
    assert "no From" in str(error)
    assert isinstance(error.__cause__, dkim.DKIMException)
    assert taken == 0


# The key


def test_the_key_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = example.DkimSigner(DOMAIN, "rsa2026", pem(RSA_KEY))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a key is parsed")

    for owner, name in ((dkim, "parse_pem_private_key"), (example, "load_pem_private_key")):
        monkeypatch.setattr(owner, name, refuse)
    octets = b"From: ada@example.org\r\n\r\nHello\r\n"
    for _ in range(3):
        assert is_verified(signer(octets) + octets)


@pytest.mark.parametrize(
    ("key", "password"),
    [
        pytest.param(pem(RSA_KEY, PrivateFormat.TraditionalOpenSSL), None, id="RSA PRIVATE KEY"),
        pytest.param(pem(RSA_KEY, encryption=BestAvailableEncryption(b"secret")), b"secret", id="with a password"),
    ],
)
def test_forms_of_a_key(key: bytes, password: bytes | None) -> None:
    octets = b"From: ada@example.org\r\n\r\nHello\r\n"
    assert is_verified(example.DkimSigner(DOMAIN, "rsa2026", key, password=password)(octets) + octets)


@pytest.mark.parametrize(
    ("domain", "selector", "key", "text"),
    [
        ("bücher.example", "s", pem(ED_KEY), "domain is a domain name in ASCII"),
        ("example.org; x=1", "s", pem(ED_KEY), "domain is"),
        ("example.org", "s\r\nBcc: eve@example.org", pem(ED_KEY), "selector is"),
        ("example.org", "s", pem(ec.generate_private_key(ec.SECP256R1())), "RSA or Ed25519, not"),
        ("example.org", "s", b"no key", "PEM"),
    ],
)
def test_what_is_no_domain_selector_or_key_is_refused(domain: str, selector: str, key: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        example.DkimSigner(domain, selector, key)


# The page


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files that the page makes, in the working directory; made by its own commands where openssl is there."""
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^\$ (openssl .*)$", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 2
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    for command in commands:
        subprocess.run(command.split(), check=True, capture_output=True)
    return tmp_path


def test_the_page(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys, its DNS records and its program."""
    records: dict[bytes, bytes] = {}
    page = (FOLDER / "README.md").read_text("utf-8")
    for command in re.findall(r"^\$ python (signer\.py .*)$", page, re.MULTILINE):
        script, *arguments = command.split()
        done = subprocess.run(
            [sys.executable, FOLDER / script, *arguments], check=True, capture_output=True, text=True, cwd=keys
        )
        name, _, value = done.stdout.partition(" IN TXT ")
        strings = re.findall(r'"([^"]*)"', value)
        assert all(len(string) <= 255 for string in strings)
        records[name.encode()] = "".join(strings).encode()
    assert len(records) == 2
    (program,) = re.findall(r"^```python no-run\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.setitem(sys.modules, "signer", example)

    async def run() -> bytes:
        async with SMTPServer() as server:
            source = program.replace('"localhost", 1025', f'"{server.host}", {server.port}')
            assert source != program
            lines = "".join(f"    {line}\n" for line in source.splitlines())
            namespace: dict[str, Any] = {}
            exec(f"async def program():\n{lines}", namespace)
            await namespace["program"]()
            (message,) = server.messages
            return message.content

    content = asyncio.run(run())
    for index in range(2):
        assert dkim.DKIM(content).verify(idx=index, dnsfunc=lambda name, timeout: records.get(name))


# At Postfix


@pytest.fixture(scope="module")
def postfix() -> Iterator[Any]:
    launcher = pytest.importorskip("tests.interop.launcher", reason="only in a checkout of smtplite")
    launcher.ensure_available(launcher.Postfix)
    with launcher.running(launcher.Postfix) as server:
        yield server


@pytest.mark.interop
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", SIZES)
@pytest.mark.parametrize("signer", SIGNERS)
def test_what_postfix_stores_is_verified(
    way: Way, make: Callable[[int], EmailMessage], signer: Any, postfix: Any
) -> None:
    messages = [make(number) for number in range(3)]

    async def run() -> None:
        async with postfix.client("smtp", sign=signer) as client:
            await way(client, list(messages))

    asyncio.run(run())
    copies = postfix.stored_of([str(message["Message-ID"]) for message in messages])
    for stored in copies.values():
        (copy,) = stored
        assert f"a={signer.algorithm};" in fields_of(copy.content.replace(b"\n", b"\r\n"))
        assert is_verified(copy.trace + copy.content)
        assert not is_verified(copy.trace + with_another_body(copy.content))
