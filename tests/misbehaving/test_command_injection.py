"""R18, R19, R20, and section 1.1 of the rules: nothing that a caller passes becomes a command, or another address.

The server of these tests fails at any line that is no command of RFC 5321 (`server.Honest`). So each test holds two
things: what cannot be sent is refused before a connection is opened, and what is sent is sent octet for octet.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any

import pytest

from smtplite import (
    Client,
    ConfigurationError,
    ConnectError,
    Envelope,
    ExtensionRequired,
    MessageError,
    Outgoing,
    Recipient,
    SMTPError,
    sasl,
)
from smtplite.protocol.commands import Custom, Expn, Help, Noop, Vrfy

from .dialogue import ASYNCIO_AND_TRIO, FIRST, SECOND, client_at
from .server import Honest, Server

pytestmark = pytest.mark.anyio

EVENT_LOOPS = ASYNCIO_AND_TRIO

#: What ends a line for somebody, or an argument; in the terms of MBSD's paper: also "FWS" and "CRLF-less".
BREAKS = {
    "CRLF": "\r\nRSET",
    "LF": "\nRSET",
    "CR": "\rRSET",
    "CRLF at the end": "\r\n",
    "LF at the end": "\n",
    "NUL": "\0",
    "VT": "\x0b",
    "FF": "\x0c",
    "ESC": "\x1b",
    "DEL": "\x7f",
    "NEL": "\x85",
    "LINE SEPARATOR": "\u2028",
    "PARAGRAPH SEPARATOR": "\u2029",
    "NO-BREAK SPACE": "\u00a0",
    "ZERO WIDTH SPACE": "\u200b",
    "RIGHT-TO-LEFT OVERRIDE": "\u202e",
    "BOM": "\ufeff",
    "lone surrogate": "\udc0a",
    "FWS": "\r\n RSET",
    "a tab": "\tSIZE=1",
    "a parameter": "> SIZE=1",
    "AUTH=": "> AUTH=<x",
    "a space": " SIZE=1",
    "a second address": ">,<b@example.org",
    "a comma": ",b@example.org",
}
IDS = [name.replace(" ", "_") for name in BREAKS]

Place = Callable[[str], str]
IN_AN_ADDRESS: dict[str, Place] = {
    "in front": lambda evil: f"{evil}a@example.org",
    "in the local part": lambda evil: f"a{evil}b@example.org",
    "behind the local part": lambda evil: f"a{evil}@example.org",
    "in the domain": lambda evil: f"a@exam{evil}ple.org",
    "at the end": lambda evil: f"a@example.org{evil}",
    "behind a bracket": lambda evil: f"<a@example.org{evil}>",
}
QUOTED: dict[str, Place] = {
    "quoted": lambda evil: f'"a{evil}b"@example.org',
    "quoted alone": lambda evil: f'"{evil}"@example.org',
    "escaped": lambda evil: f'"a\\{evil}b"@example.org',
    "in a literal": lambda evil: f"a@[192.0.2.1{evil}]",
    "in a general literal": lambda evil: f"a@[x:{evil}]",
}


async def attempt(
    content: Any = FIRST,
    *,
    make_client: dict[str, Any] | None = None,
    keywords: tuple[str, ...] = ("PIPELINING", "SMTPUTF8", "8BITMIME", "DSN", "SIZE", "FUTURERELEASE", "MT-PRIORITY"),
    **options: Any,
) -> tuple[SMTPError | None, list[bytes]]:
    """Try to send; return the error and the commands that reached the server, which judges each of them."""
    honest = Honest(*keywords)
    error: SMTPError | None = None
    async with Server(honest) as server, client_at(server, **(make_client or {})) as client:
        try:
            receipt = await client.send(content, **options)
            assert receipt.complete
        except SMTPError as caught:
            error = caught
        if error is not None:
            # Refused before a connection was opened, so that nothing can have been said.
            assert isinstance(error, (MessageError, ExtensionRequired)), error
            assert not error.retryable
            assert isinstance(error, ExtensionRequired) or server.peers == []
    return error, honest.commands


def path_in(commands: list[bytes], verb: bytes) -> bytes:
    (line,) = (command for command in commands if command.startswith(verb))
    found = re.fullmatch(verb + rb"(<.*>)(?: [A-Z0-9=-]+)*", line)
    assert found is not None, line
    return found[1]


# Addresses


@pytest.mark.parametrize("evil", BREAKS.values(), ids=IDS)
@pytest.mark.parametrize("who", ["sender", "recipient"])
async def test_r18_an_address_with_what_ends_it_is_refused(who: str, evil: str) -> None:
    """R18, R20, CVE-2026-53533, GHSA-v3q9-hj7j-63hq, bpo-43124, gh-87290, CVE-2015-9096, OSVDB-131677, CVE-2015-8476.

    With MBSD's attacks: by CRLF, by FWS, and "CRLF-less" at servers that end lines elsewhere, too.
    """
    for place in IN_AN_ADDRESS.values():
        address = place(evil)
        envelope = (address, "you@example.org") if who == "sender" else ("me@example.org", ["you@example.org", address])
        error, commands = await attempt(sender=envelope[0], recipients=envelope[1])
        assert isinstance(error, MessageError), address
        assert str(error).isprintable()
        assert commands == []


@pytest.mark.parametrize("place", QUOTED.values(), ids=[f"R18-{name}".replace(" ", "_") for name in QUOTED])
async def test_within_quotes_it_is_refused_or_sent_as_it_is(place: Place) -> None:
    """R18, R19, CVE-2026-30227, GHSA-g7hc-96xr-gvvx, CVE-2025-59937, GHSA-wpwj-69cm-q9c5, CVE-2026-48019.

    Angle brackets and spaces may stand within quotes (RFC 5321 4.1.2) and mean nothing there.
    """
    for address in map(place, BREAKS.values()):
        error, commands = await attempt(sender=address, recipients=["you@example.org", address])
        if error is None:
            assert path_in(commands, b"MAIL FROM:") == b"<" + address.encode() + b">"
            assert b"RCPT TO:<" + address.encode() + b">" in commands
            assert address.startswith('"')
            assert not re.search(r"[^\x20-\x7e]", address)
        else:
            assert commands == []


ADVISORIES = {
    # From the advisories, as their finders wrote them.
    "CVE-2025-59937": '"toni.tester@example.com> ORCPT=admin@admin.com"@example.com',
    "GHSA-wpwj-69cm-q9c5": '"toni.tester> SIZE=1 @"@example.com',
    "CVE-2026-30227": '"a\r\nRSET\r\nMAIL FROM:<evil@example.org>\r\n"@example.com',
    "GHSA-g7hc-96xr-gvvx": '"a\\\r\nRSET"@example.com',
    "CVE-2026-32178": '"me\r\nBcc: x@example.org" <me@example.org>',
    "CVE-2025-7962": "me@example.org\r\nRCPT TO:<evil@example.org>",
    "CVE-2025-7962 narrowed": "me\u010d\u010aRSET@example.org",
    "CVE-2026-48019": '"\r\nRSET"@example.org',
    "CVE-2015-8476": "me@example.org\r\nDATA",
    "CVE-2015-9096": "me@example.org>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n",
    "OSVDB-131677": "me@example.org\nRSET",
    "smtp-connection#31": "me@example.org>\r\nRCPT TO:<evil@example.org",
    "aiosmtplib 5.1.3 AUTH=": "user@example.org> AUTH=<y",
    "curl RCPT suffix": "<me@example.org> NOTIFY=NEVER",
    "curl test3227": "<me@example.org\r\n>",
    "MBSD FWS": "me@example.org\r\n RSET",
    "MBSD CRLF-less": "a" * 500 + "@example.org",
    "MBSD long domain": "a@" + "b" * 500 + ".org",
    "CVE-2019-16056": "me@malicious.org@important.example",
    "CVE-2023-27043": "me@example.org]<evil@example.org>",
    "route": "<@evil.example:me@example.org>",
    "source route": "@evil.example:me@example.org",
    "percent": "me%evil.example@example.org",
    "bang": "evil!me@example.org",
    "comment": "me(comment)@example.org",
    "group": "us:me@example.org;",
    "display name": "Me <me@example.org>",
    "no domain": "me",
    "empty domain": "me@",
    "empty local part": "@example.org",
    "only brackets": "<>",
    "dot at the end": "me.@example.org",
}


@pytest.mark.parametrize("address", ADVISORIES.values(), ids=[name.replace(" ", "_") for name in ADVISORIES])
@pytest.mark.parametrize("lists", [(), ("HELP",)], ids=["SMTPUTF8_offered", "not_offered"])
async def test_r19_an_address_is_parsed_or_refused_and_never_rewritten(address: str, lists: tuple[str, ...]) -> None:
    """R19: what is sent is `<` + the address + `>`, or nothing is; of a name and an address, the address."""
    path = "<me@example.org>" if address == "Me <me@example.org>" else f"<{address}>"
    keywords = {"keywords": lists} if lists else {}
    error, commands = await attempt(sender=address, recipients="you@example.org", **keywords)  # type: ignore[arg-type]
    if error is None:
        assert path_in(commands, b"MAIL FROM:") == path.encode()
    else:
        assert not any(command.startswith((b"MAIL", b"RCPT")) for command in commands)
    error, commands = await attempt(sender="me@example.org", recipients=[address], **keywords)  # type: ignore[arg-type]
    if error is None:
        assert path_in(commands, b"RCPT TO:") == path.encode()
    else:
        assert not any(command.startswith((b"MAIL", b"RCPT")) for command in commands)


async def test_r19_an_address_is_not_made_a_shorter_one() -> None:
    r"""R19: aiosmtplib and smtplib send `"a\r\nRSET"@x` to `<a>`, and report it as delivered."""
    for address in (
        '"a\r\nRSET"@example.org',
        "a b@example.org",
        "a@b@example.org",
        "a,b@example.org",
        "(x)a@example.org",
    ):
        error, commands = await attempt(recipients=[address])
        assert isinstance(error, MessageError)
        assert commands == []


async def test_r19_a_str_is_one_recipient() -> None:
    """R19: never split at commas or spaces."""
    for address in ("a@example.org,b@example.org", "a@example.org; b@example.org", "a@example.org b@example.org"):
        error, _ = await attempt(recipients=address)
        assert isinstance(error, MessageError)


async def test_r19_of_a_domain_alone_the_form_changes() -> None:
    """R19: A-labels; a local part stays as it is, and is never narrowed to octets (CVE-2025-7962)."""
    error, commands = await attempt(sender="me@bücher.example", recipients="you@example.org")
    assert error is None
    assert path_in(commands, b"MAIL FROM:") == b"<me@xn--bcher-kva.example>"
    # U+010D and U+010A: cut to one octet each, they are CR and LF.
    error, commands = await attempt(sender="me\u010d\u010a@example.org", recipients="you@example.org")
    assert error is None
    assert path_in(commands, b"MAIL FROM:") == "<me\u010d\u010a@example.org>".encode()
    error, commands = await attempt(sender="me\u010d\u010a@example.org", recipients="y@example.org", keywords=("SIZE",))
    assert isinstance(error, ExtensionRequired)
    assert [command.split(b" ")[0] for command in commands] == [b"EHLO", b"QUIT"]


@pytest.mark.parametrize(
    "address",
    [
        pytest.param('"attacker\\" -oQ/tmp/ -X/tmp/x.php  some"@example.org', id="CVE-2016-10033"),
        pytest.param('"attacker\\\' -oQ/tmp/ -X/tmp/x.php  some"@example.org', id="CVE-2016-10045"),
        pytest.param('"attacker\\" -X/tmp/x.php "@example.org', id="CVE-2016-10074"),
        pytest.param("-oQ/tmp/@example.org", id="RUSTSEC-2020-0069"),
        pytest.param("--help@example.org", id="an_option"),
    ],
)
async def test_an_address_is_no_argument_of_a_program(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R18: no program is run; the address is sent as it is (PHPMailer, SwiftMailer and lettre ran sendmail)."""

    def run(*_: object, **__: object) -> None:
        raise AssertionError("a program was run")

    monkeypatch.setattr(subprocess.Popen, "__init__", run)
    error, commands = await attempt(sender=address, recipients="you@example.org")
    if error is None:
        assert path_in(commands, b"MAIL FROM:") == b"<" + address.encode() + b">"


async def test_address_objects_are_checked_like_strings() -> None:
    """R18: `email.headerregistry.Address`, whose own check lets some through."""
    for evil in BREAKS.values():
        await assert_address_objects(evil)


async def assert_address_objects(evil: str) -> None:
    for names in (
        {"username": f"a{evil}", "domain": "example.org"},
        {"username": "a", "domain": f"example.org{evil}"},
        {"display_name": f"x{evil}", "username": "a", "domain": "example.org"},
    ):
        try:
            address = Address(**names)
        except (ValueError, IndexError, TypeError):
            continue  # the stdlib refused
        for verb, options in (
            (b"MAIL FROM:", (address, "you@example.org")),
            (b"RCPT TO:", ("me@example.org", [address])),
        ):
            error, commands = await attempt(sender=options[0], recipients=options[1])
            if error is None:
                assert path_in(commands, verb) == b"<" + address.addr_spec.encode() + b">"
            else:
                assert commands == []


# Every other argument of send


def with_header(name: str, value: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "me@example.org"
    message["To"] = "you@example.org"
    message.set_content("body\n")
    message._headers.append((name, value))  # type: ignore[attr-defined]  # past the stdlib's check, as it once was
    return message


PARAMETERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "envid": lambda evil: {"envid": f"id{evil}"},
    "ret": lambda evil: {"ret": f"FULL{evil}"},
    "body": lambda evil: {"body": f"7BIT{evil}"},
    "a parameter's value": lambda evil: {"parameters": {"MT-PRIORITY": f"3{evil}"}},
    "a parameter's keyword": lambda evil: {"parameters": {f"MT-PRIORITY{evil}": "3"}},
    "a keyword alone": lambda evil: {"parameters": {f"X{evil}": None}},
}
RECIPIENT_PARAMETERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "notify": lambda evil: {"notify": f"NEVER{evil}"},
    "one of notify": lambda evil: {"notify": ["SUCCESS", f"DELAY{evil}"]},
    "orcpt": lambda evil: {"orcpt": f"a{evil}@example.org"},
    "orcpt's type": lambda evil: {"orcpt": f"rfc822;a{evil}@example.org"},
    "a recipient's value": lambda evil: {"parameters": {"RRVS": f"1{evil}"}},
    "a recipient's keyword": lambda evil: {"parameters": {f"RRVS{evil}": "1"}},
}


@pytest.mark.parametrize("make", PARAMETERS.values(), ids=[name.replace(" ", "_") for name in PARAMETERS])
async def test_r18_a_parameter_of_mail_ends_nothing(make: Callable[[str], dict[str, Any]]) -> None:
    """R18: key and value; printable text of an ENVID is encoded as xtext, and nothing else is."""
    for evil in BREAKS.values():
        await assert_parameter_of_mail(make, evil)


async def assert_parameter_of_mail(make: Callable[[str], dict[str, Any]], evil: str) -> None:
    error, commands = await attempt_envelope(lambda: Envelope("me@example.org", "you@example.org", **make(evil)))
    if error is None:
        (mail,) = (command for command in commands if command.startswith(b"MAIL"))
        if b"PRIORITY" in mail:  # a comma and an @ may stand in a value
            assert mail == f"MAIL FROM:<me@example.org> SIZE={len(FIRST)} MT-PRIORITY=3,b@example.org".encode()
            return
        encoded = "".join(f"+{ord(c):02X}" if c in " +=<>" else c for c in f"id{evil}")
        assert mail == f"MAIL FROM:<me@example.org> SIZE={len(FIRST)} ENVID={encoded}".encode()


@pytest.mark.parametrize(
    "make", RECIPIENT_PARAMETERS.values(), ids=[name.replace(" ", "_") for name in RECIPIENT_PARAMETERS]
)
async def test_r18_a_parameter_of_rcpt_ends_nothing(make: Callable[[str], dict[str, Any]]) -> None:
    """R18: an ORCPT is xtext, or utf-8-addr-xtext."""
    for evil in BREAKS.values():
        await assert_parameter_of_rcpt(make, evil)


async def assert_parameter_of_rcpt(make: Callable[[str], dict[str, Any]], evil: str) -> None:
    error, commands = await attempt_envelope(
        lambda: Envelope("me@example.org", ["a@example.org", Recipient("you@example.org", **make(evil))])
    )
    if error is None:
        rcpt = [command for command in commands if command.startswith(b"RCPT")][-1]
        found = re.fullmatch(rb"RCPT TO:<you@example\.org> ORCPT=(rfc822|utf-8);([\x21-\x7e]+)", rcpt)
        assert found is not None, rcpt
        assert not re.search(rb"[<>=]", found[2])


async def attempt_envelope(make: Callable[[], Envelope]) -> tuple[SMTPError | None, list[bytes]]:
    try:
        envelope = make()
    except MessageError as refused:  # when it is made
        return refused, []
    error, commands = await attempt(envelope=envelope)
    if error is not None:
        assert not any(command.startswith((b"MAIL", b"RCPT")) for command in commands)
    return error, commands


@pytest.mark.parametrize(
    "keyword", ["BODY", "SIZE", "SMTPUTF8", "AUTH", "PRDR", "RET", "ENVID", "NOTIFY", "ORCPT", "REQUIRETLS"]
)
async def test_a_parameter_that_is_the_clients_own_is_not_the_callers(keyword: str) -> None:
    """R18, R23, GHSA-c7w3-x93f-qmm8: nodemailer wrote `envelope.size` out as it was."""
    for name in (keyword, keyword.lower()):
        for value in ("1", "1\r\nRSET", None):
            error, commands = await attempt(envelope=Envelope("me@x.org", "you@x.org", parameters={name: value}))
            assert isinstance(error, MessageError)
            assert commands == []
            recipient = Recipient("you@x.org", parameters={name: value})
            error, commands = await attempt(envelope=Envelope("me@x.org", recipient))
            assert isinstance(error, MessageError)
            assert commands == []


HEADERS = {
    "Subject": "x{}",
    "X-Custom": "x{}",
    "Message-ID": "<x{}@example.org>",
    "List-Unsubscribe": "(comment{}) <mailto:x@example.org>",
    "To": "Them{}<them@example.org>",
    "Reply-To": "a{}@example.org",
    "Content-Disposition": 'attachment; filename="x{}"',
    "DKIM-Signature": "v=1; b=x{}",
}


@pytest.mark.parametrize("name", HEADERS)
async def test_a_line_break_in_a_header_value_is_refused(name: str) -> None:
    """R18, R22, GHSA-268h-hp4c-crq3 (List-* comments): of a message object, before a connection is opened."""
    for evil in ("\r\nBcc: x@x.org", "\nBcc: x@x.org", "\rBcc: x@x.org", "\r\n\r\nbody", "\n\nbody", "\r\n"):
        error, commands = await attempt(with_header(name, HEADERS[name].format(evil)), recipients="you@example.org")
        assert isinstance(error, MessageError), evil
        assert commands == []


@pytest.mark.parametrize("evil", ["\r\nBcc", "\n", "\r", " ", ":", "\0", "ü", "", "\x7f"])
async def test_a_header_name_is_one(evil: str) -> None:
    """R18, R22."""
    error, commands = await attempt(with_header(f"X-A{evil}" if evil else "", "x"), recipients="you@example.org")
    assert isinstance(error, MessageError)
    assert commands == []


# The client's options


async def test_r18_the_name_in_ehlo_is_a_domain() -> None:
    """R18, GHSA-vvjj-xcjg-gr5g, aiosmtplib 5.1.3: also a space in local_hostname."""
    for evil in BREAKS.values():
        for name in (f"mail{evil}.example.org", f"mail.example.org{evil}", f"[192.0.2.1{evil}]", evil, ""):
            with pytest.raises(ConfigurationError):
                Client("127.0.0.1", 1, local_hostname=name)


async def test_r18_the_name_that_the_system_gives_us_is_not_trusted_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """R18, CVE-2026-28753: nginx wrote what the DNS said into the session."""
    for evil in BREAKS.values():
        name = f"host{evil}.example.org"
        for ask in ("gethostname", "getfqdn"):
            monkeypatch.setattr(socket, ask, lambda *_, name=name: name)
        error, commands = await attempt(recipients="you@example.org")
        assert error is None
        assert commands[0] == b"EHLO [127.0.0.1]"


HOST_BREAKS = [
    "\r\nRSET",
    "\n",
    " ",
    "\t",
    "\u2028",
    " evil.example",
    "\0",
    "\0.example.org",
]


@pytest.mark.parametrize("evil", HOST_BREAKS)
async def test_a_host_name_is_resolved_as_it_is_or_refused(evil: str) -> None:
    """R18, nodemailer 6347b47: there it stood in the CONNECT of a proxy; and R19: a shorter name is another host."""
    honest = Honest()
    async with Server(honest) as server:
        with pytest.raises((ConfigurationError, ConnectError)):
            async with Client(f"127.0.0.1{evil}", server.port, tls="none") as client:
                await client.send(FIRST)
        assert server.peers == []


async def test_a_host_name_that_cannot_be_resolved_is_shown_in_one_line() -> None:
    """R18: an error may stand in a log."""
    with pytest.raises((ConfigurationError, ConnectError)) as caught:
        async with Client("127.0.0.1\r\nRSET", 1, tls="none") as client:
            await client.send(FIRST)
    assert str(caught.value).isprintable()


URL_BREAKS = ["\r\n", "\n", "\r", "\0", " ", "\t", "\x7f", "%0d%0aRSET", "%0a", "%00", "%20"]
URL_PLACES: dict[str, Place] = {
    "scheme": lambda evil: f"smtp{evil}://127.0.0.1:PORT?tls=none",
    "host": lambda evil: f"smtp://127.0.0.1{evil}:PORT?tls=none",
    "port": lambda evil: f"smtp://127.0.0.1:PORT{evil}?tls=none",
    "path": lambda evil: f"smtp://127.0.0.1:PORT/{evil}?tls=none",
    "value": lambda evil: f"smtp://127.0.0.1:PORT?tls=none{evil}",
    "local_hostname": lambda evil: f"smtp://127.0.0.1:PORT?tls=none&local_hostname=a{evil}b.example",
    "option": lambda evil: f"smtp://127.0.0.1:PORT?tls=none&x{evil}=1",
}


@pytest.mark.parametrize("place", URL_PLACES.values(), ids=[f"R18-{name}" for name in URL_PLACES])
async def test_a_url_breaks_out_of_nothing(place: Place) -> None:
    """R18: raw or percent-encoded, in each of its parts."""
    for evil in URL_BREAKS:
        async with Server(Honest()) as server:
            with pytest.raises((ConfigurationError, ConnectError)):
                async with Client.from_url(place(evil).replace("PORT", str(server.port))) as client:
                    await client.send(FIRST)
            assert server.peers == []


@pytest.mark.parametrize("evil", URL_BREAKS)
async def test_credentials_of_a_url_are_base64_or_refused(evil: str) -> None:
    """R18: they may hold anything that SASLprep takes."""
    honest = Honest("AUTH PLAIN LOGIN")
    async with Server(honest) as server:
        port = server.port
        url = f"smtp://me{evil}:pass{evil}@127.0.0.1:{port}?tls=none&allow_insecure_auth=1"
        try:
            async with Client.from_url(url) as client:
                await client.send(FIRST)
        except ConfigurationError:
            assert server.peers == []
    for command in honest.commands:
        assert not command.startswith(b"AUTH") or re.fullmatch(rb"AUTH PLAIN [A-Za-z0-9+/=]+", command)


async def test_credentials_are_base64_or_refused() -> None:
    """R18: username, password, authzid, token: none of them breaks a line."""
    for evil in ("\r\nRSET", "\0", "\x85", "\u2028", " SIZE=1", ",x", "=", "\x01"):
        await assert_credentials(evil)


async def assert_credentials(evil: str) -> None:
    makes: list[Callable[[], sasl.Mechanism]] = [
        lambda: sasl.Plain(f"me{evil}", f"s3cret{evil}", authzid=f"x{evil}"),
        lambda: sasl.Plain("me", f"s3cret{evil}"),
        lambda: sasl.External(f"me{evil}"),
        lambda: sasl.XOAuth2(f"me{evil}", "token"),
        lambda: sasl.XOAuth2("me", f"token{evil}"),
        lambda: sasl.OAuthBearer("me", "token", host=f"mx.example{evil}"),
    ]
    for make in makes:
        try:
            auth = make()
        except ConfigurationError as error:
            assert "s3cret" not in str(error)  # noqa: PT017
            continue
        honest = Honest(f"AUTH {auth.name}")
        async with Server(honest) as server, client_at(server, auth=auth, allow_insecure_auth=True) as client:
            assert (await client.send(FIRST)).complete
        assert re.fullmatch(rb"AUTH [A-Z0-9]+ [A-Za-z0-9+/]+={0,2}", honest.commands[1])


@pytest.mark.parametrize("evil", ["\r\nRSET", "\n", " x", "\0", "a" * 21, "plain", "ü"])
async def test_the_name_of_a_mechanism_is_one(evil: str) -> None:
    """R18: also of a mechanism of the caller's own, offered by the server or not."""

    class Evil(sasl.Mechanism):
        name = f"PLAIN{evil}"

        def steps(self) -> sasl.Steps:
            yield b"x"

    honest = Honest(f"AUTH PLAIN {Evil.name}".replace("\r\n", " ").replace("\n", " "))
    async with Server(honest) as server, client_at(server, auth=Evil(), allow_insecure_auth=True) as client:
        with pytest.raises(SMTPError):
            await client.send(FIRST)
    assert not any(command.startswith((b"AUTH", b"MAIL")) for command in honest.commands)


# Commands of the caller's own


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda evil: Vrfy(f"a{evil}"), id="CVE-2026-53533_VRFY"),
        pytest.param(lambda evil: Expn(f"a{evil}"), id="CVE-2026-53533_EXPN"),
        pytest.param(lambda evil: Help(f"a{evil}"), id="CVE-2026-42257_HELP"),
        pytest.param(lambda evil: Custom("ETRN", f"a{evil}"), id="CVE-2026-47240_argument"),
        pytest.param(lambda evil: Custom(f"ETRN{evil}"), id="CVE-2026-47241_verb"),
        pytest.param(lambda evil: Custom(f"ETRN{evil}", f"x{evil}"), id="CVE-2026-47242_both"),
    ],
)
async def test_a_command_of_the_callers_own_is_one_line(make: Callable[[str], object]) -> None:
    """R18: there is no "raw" argument (Net::IMAP's were: CVE-2026-42257, CVE-2026-47240, -47241, -47242)."""
    for evil in ("\r\nRSET", "\nRSET", "\rRSET", "\0", "\x0b", "\x7f", "\x85", "\u2028", "ü", "\udc0a"):
        with pytest.raises(MessageError):
            make(evil)


async def test_a_session_of_the_callers_own_writes_whole_commands_alone() -> None:
    """R18: what was refused when it was made cannot be sent; a text or octets are no command."""
    honest = Honest()
    async with Server(honest) as server, client_at(server) as client:
        for wrong in (b"RSET\r\n", "RSET", "NOOP\r\nRSET"):
            async with client.session() as session:
                with pytest.raises((TypeError, KeyError, AttributeError, SMTPError)):
                    await session.command(wrong)  # type: ignore[arg-type]
        async with client.session() as session:
            assert (await session.command(Noop())).code == 250
    assert {command.split(b" ")[0] for command in honest.commands} == {b"EHLO", b"NOOP", b"QUIT"}


async def test_of_many_messages_the_wrong_ones_alone_are_refused() -> None:
    """R18, R20: each is its own delivery; nothing of it reaches the server, between two that do."""
    wrong = [
        Outgoing(FIRST, sender="me@example.org\r\nRSET"),
        Outgoing(FIRST, recipients=["you@example.org", "a b@example.org"]),
        Outgoing(FIRST, envelope=Envelope("me@x.org", "you@x.org", parameters={"SIZE": "1"})),
        Outgoing(with_header("X-A", "x\r\nBcc: y@example.org")),
        b"Subject: x\r\n\r\nnobody\r\n",
    ]
    items: list[Any] = [item for each in wrong for item in (each, SECOND)]
    honest = Honest()
    async with Server(honest) as server, client_at(server) as client:
        async with client.send_many(items, connections=1) as deliveries:
            outcomes = [delivery async for delivery in deliveries]
    assert sorted(type(delivery.error) is MessageError for delivery in outcomes) == [False] * 5 + [True] * 5
    assert [message.content for message in honest.messages] == [SECOND] * 5
    assert sum(command.startswith(b"MAIL") for command in honest.commands) == 5


@pytest.mark.parametrize("verb", ["MAIL", "rcpt", "DATA", "BDAT", "AUTH", "STARTTLS", "EHLO", "QUIT", "TURN", "ATRN"])
async def test_a_command_that_changes_the_count_is_not_the_callers(verb: str) -> None:
    """R18, R23."""
    with pytest.raises(MessageError):
        Custom(verb, "x")


# R20


TOO_LATE = {
    "the last recipient": {"recipients": ["a@example.org"] * 50 + ["b c@example.org"]},
    "a parameter of the last": {
        "envelope": Envelope("me@x.org", ["a@x.org", Recipient("b@x.org", parameters={"X": "a b"})])
    },
    "notify of the last": {"envelope": Envelope("me@x.org", ["a@x.org", Recipient("b@x.org", notify="SOMETIMES")])},
    "no recipients": {"recipients": []},
    "envelope and sender": {"envelope": Envelope("me@x.org", "a@x.org"), "sender": "me@x.org"},
}


@pytest.mark.parametrize("options", TOO_LATE.values(), ids=[f"R20-{name}".replace(" ", "_") for name in TOO_LATE])
@pytest.mark.parametrize("is_warm", [False, True], ids=["new_connection", "in_the_pool"])
async def test_everything_is_checked_before_the_first_octet(options: dict[str, Any], is_warm: bool) -> None:
    """R20: the last of many as well; and a connection in the pool stays as it is."""
    honest = Honest()
    async with Server(honest) as server, client_at(server) as client:
        if is_warm:
            await client.send(SECOND)
        before = list(honest.commands)
        with pytest.raises(MessageError):
            await client.send(FIRST, **options)
        assert honest.commands == before
        assert len(server.peers) == is_warm
        assert (await client.send(SECOND)).complete
        assert len(server.peers) == 1


CONTENTS = {
    "NUL": FIRST + b"\0",
    "a long line": FIRST + b"x" * 999 + b"\r\n",
    "Bcc": b"Bcc: x@example.org\r\n" + FIRST,
    "a bare CR in the header section": b"X: a\rb\r\n" + FIRST,
    "no From": b"To: you@example.org\r\n\r\nbody\r\n",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=[f"R20-{name}".replace(" ", "_") for name in CONTENTS])
async def test_the_message_is_checked_before_the_first_octet(content: bytes) -> None:
    """R20."""
    error, commands = await attempt(content)
    assert isinstance(error, MessageError)
    assert commands == []


@pytest.mark.parametrize(
    ("content", "options", "offered", "keyword"),
    [
        pytest.param(FIRST, {}, "SIZE 10", "SIZE", id="R20-SIZE"),
        pytest.param(FIRST + b"\xff\r\n", {}, "SIZE", "8BITMIME", id="R20-8BITMIME"),
        pytest.param(FIRST, {"recipients": "ü@example.org"}, "8BITMIME", "SMTPUTF8", id="R20-SMTPUTF8"),
        pytest.param(FIRST, {"envelope": Envelope("a@x.org", "b@x.org", envid="x")}, "SIZE", "DSN", id="R20-DSN"),
        pytest.param(
            FIRST,
            {"envelope": Envelope("a@x.org", "b@x.org", parameters={"HOLDFOR": "1"})},
            "SIZE",
            "FUTURERELEASE",
            id="R20-FUTURERELEASE",
        ),
    ],
)
async def test_what_is_not_offered_is_said_before_mail(
    content: bytes, options: dict[str, Any], offered: str, keyword: str
) -> None:
    """R20: ExtensionRequired, and the connection goes back to the pool as it was."""
    honest = Honest("PIPELINING", offered)
    async with Server(honest) as server, client_at(server) as client:
        for _ in range(2):
            with pytest.raises(ExtensionRequired) as caught:
                await client.send(content, **options)
            assert caught.value.keyword == keyword
        assert [command.split(b" ")[0] for command in honest.commands] == [b"EHLO"]
        assert len(server.peers) == 1
