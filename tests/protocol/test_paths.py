"""Addresses and domains: parsed or refused, never rewritten, except that a domain becomes its A-label (R18, R19).

ADDRESSES is the one table of what is taken and what is refused, and why; the docs are generated from it.
"""

from __future__ import annotations

import copy
import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtplite.errors import MessageError
from smtplite.protocol.paths import (
    MAX_DOMAIN_BYTES,
    MAX_LOCAL_PART_BYTES,
    MAX_QUOTED_LOCAL_PART_BYTES,
    Domain,
    ForwardPath,
    Path,
    ReversePath,
)
from tests.exhaustive import WHOLE

_LABEL_63 = "d" * 63
_DOMAIN_255 = ".".join(["d" * 63] * 4)

#: (address, its path on the wire or None if it is refused, why)
ADDRESSES: list[tuple[str, bytes | None, str]] = [
    # --- dot-strings and domains (RFC 5321 4.1.2)
    ("user@example.com", b"<user@example.com>", "what nearly every address looks like"),
    ("a@b", b"<a@b>", "one letter, and a domain with one label"),
    ("user@localhost", b"<user@localhost>", "one label is enough for a domain"),
    ("User.Name@Example.COM", b"<User.Name@Example.COM>", "neither part changes its case"),
    ("user+tag@example.com", b"<user+tag@example.com>", "sub-address"),
    ("o'neil@example.com", b"<o'neil@example.com>", "an apostrophe is atext"),
    ("!#$%&'*+-/=?^_`{|}~@example.com", b"<!#$%&'*+-/=?^_`{|}~@example.com>", "all of atext"),
    ("12345@67.example", b"<12345@67.example>", "digits alone are an atom, and a label may begin with a digit"),
    ("user@a-b.c-d.example", b"<user@a-b.c-d.example>", "hyphens inside labels"),
    ("user@xn--bcher-kva.example", b"<user@xn--bcher-kva.example>", "an A-label given as such"),
    ("user@192.0.2.1", b"<user@192.0.2.1>", "labels of digits fit the grammar of a domain; this is not an IP address"),
    ("a/b=c@example.com", b"<a/b=c@example.com>", "X.400 gateways write such addresses"),
    ("bounce=user=example.org@example.com", b"<bounce=user=example.org@example.com>", "VERP"),
    ("user", None, "no domain"),
    ("user@", None, "an empty domain"),
    ("@example.com", None, "an empty local part"),
    ("@", None, "nothing on either side"),
    (".user@example.com", None, "the local part begins with a dot"),
    ("user.@example.com", None, "the local part ends with a dot: such addresses exist, but they need quotes"),
    ("us..er@example.com", None, "two dots in a row"),
    ("us er@example.com", None, "a space outside quotes"),
    (" user@example.com", None, "a space before the address: nothing is stripped"),
    ("user@example.com ", None, "a space after the address: nothing is stripped"),
    ("user@exam ple.com", None, "a space in the domain"),
    ("user@@example.com", None, "two @"),
    ("us@er@example.com", None, "an @ outside quotes"),
    ("user@.example.com", None, "an empty label at the beginning"),
    ("user@example..com", None, "an empty label in the middle"),
    ("user@example.com.", None, "a root dot: RFC 5321 has none"),
    ("user@-example.com", None, "a label begins with a hyphen"),
    ("user@example-.com", None, "a label ends with a hyphen"),
    ("user@exam_ple.com", b"<user@exam_ple.com>", "an underscore in a label: container networks use it"),
    ("user@_mail.example_", b"<user@_mail.example_>", "an underscore at either end of a label"),
    ("user@example.com:25", None, "a port is not part of a domain"),
    ("us(comment)er@example.com", None, "comments belong to headers"),
    ("user@example.com (comment)", None, "comments belong to headers"),
    ("us,er@example.com", None, "a comma is not atext"),
    ("a@x.example,b@x.example", None, "one address, never a list"),
    ("a@x.example;b@x.example", None, "one address, never a list"),
    ("us:er@example.com", None, "a colon is not atext"),
    ("us;er@example.com", None, "a semicolon is not atext"),
    ("us\\er@example.com", None, "a backslash outside quotes"),
    ("us[er]@example.com", None, "brackets in the local part"),
    ("mailto:user@example.com", None, "a URL is not an address"),
    # --- what mail clients show, and RFC 5321 does not know
    ("<user@example.com>", None, "smtplite adds the angle brackets itself"),
    ("User <user@example.com>", None, "a name and an address: `send` accepts this, but a command has only the address"),
    ('"User" <user@example.com>', None, "a name and an address, as above"),
    ("@relay.example:user@example.com", None, "a source route is never generated (RFC 5321 3.6.1)"),
    # --- quoted local parts
    ('"user"@example.com', b'<"user"@example.com>', "quoted without need: sent as given"),
    ('"us er"@example.com', b'<"us er"@example.com>', "a space inside quotes"),
    ('"us@er"@example.com', b'<"us@er"@example.com>', "an @ inside quotes"),
    ('"us..er."@example.com', b'<"us..er."@example.com>', "any dots inside quotes"),
    ('"us\\"er"@example.com', b'<"us\\"er"@example.com>', "a quoted quote"),
    ('"us\\\\er"@example.com', b'<"us\\\\er"@example.com>', "a quoted backslash"),
    ('"a@b> SIZE=1"@example.com', b'<"a@b> SIZE=1"@example.com>', "inside quotes, no bracket closes the path"),
    ('""@example.com', b'<""@example.com>', "an empty quoted string fits the grammar"),
    ('"us er"@[192.0.2.1]', b'<"us er"@[192.0.2.1]>', "quoted, at an address literal"),
    ('"us er"@bücher.example', b'<"us er"@xn--bcher-kva.example>', "quoted, at an internationalized domain"),
    ('"us"er"@example.com', None, "a bare quote inside quotes"),
    ('"user@example.com', None, "the quotes never end"),
    ('user"@example.com', None, "the quotes never begin"),
    ('us"e"r@example.com', None, "quotes in the middle of an atom"),
    ('"us".er@example.com', None, "quoted and atom mixed (obs-local-part)"),
    ('"user\\"@example.com', None, "the closing quote is quoted"),
    ('"user"', None, "quoted, without a domain"),
    ('"user"example.com', None, "quoted, and without an @"),
    ('"user"@', None, "quoted, with an empty domain"),
    ('"us\ter"@example.com', None, "a tab inside quotes is a control character"),
    ('"a\r\nRSET"@x', None, "parseaddr turns this into <a>, another mailbox (aiosmtplib 5.1.3, smtplib)"),
    ('"a\\\r\nRSET"@x', None, "a quoted CR (CVE-2026-30227, MimeKit)"),
    # --- commands and parameters in disguise
    ("user@example.com\r\nRCPT TO:<evil@example.org>", None, "a second command (CVE-2026-53533, aiosmtplib)"),
    ("user@example.com\nRSET", None, "a lone LF is a line end to many servers"),
    ("user@example.com\rRSET", None, "a lone CR is a line end to some servers"),
    ("user@example.com\r\n", None, "a line end after the address, as read from a file"),
    ("\r\nuser@example.com", None, "folding white space (MBSD's FWS attack)"),
    ("user\r\n@example.com", None, "a line end in the local part"),
    ("us\0er@example.com", None, "NUL ends strings in C"),
    ("user@example.com\0", None, "a NUL at the end"),
    ("us\x0ber@example.com", None, "VT: a line end to some servers"),
    ("us\x0cer@example.com", None, "FF: a line end to some servers"),
    ("us\x7fer@example.com", None, "DEL"),
    ("us\x1ber@example.com", None, "ESC"),
    ("user@example.com> SIZE=1", None, "parameter smuggling"),
    ("user@x> AUTH=<y", None, "parameter smuggling (aiosmtplib 5.1.2)"),
    ("user>@example.com", None, "a bracket that closes the path early"),
    ("user@example.com>", None, "a bracket at the end"),
    ("user@exam<ple.com", None, "a bracket in the domain"),
    ("user@[x:> SIZE=1]", None, "a bracket and a space in an address literal"),
    ("user@[x:>SIZE=1]", None, "a bracket in an address literal, though dcontent has it (R18)"),
    # --- address literals (RFC 5321 4.1.3)
    ("user@[192.0.2.1]", b"<user@[192.0.2.1]>", "IPv4"),
    ("user@[IPv6:2001:db8::1]", b"<user@[IPv6:2001:db8::1]>", "IPv6"),
    ("user@[ipv6:::1]", b"<user@[ipv6:::1]>", "the tag ignores case"),
    ("user@[IPv6:::ffff:192.0.2.1]", b"<user@[IPv6:::ffff:192.0.2.1]>", "IPv6 that ends like IPv4"),
    ("user@[X-Tag:anything!]", b"<user@[X-Tag:anything!]>", "a tag that smtplite does not know"),
    ("user@[192.0.2.256]", None, "not an IPv4 address"),
    ("user@[192.0.2]", None, "three parts instead of four"),
    ("user@[192.0.2.01]", None, "leading zeros: some read this as octal"),
    ("user@[2001:db8::1]", None, "IPv6 without its tag"),
    ("user@[IPv6:192.0.2.1]", None, "IPv4 with the tag of IPv6"),
    ("user@[IPv6:2001:db8::1::2]", None, "not an IPv6 address"),
    ("user@[IPv6:fe80::1%eth0]", None, "a scope has a meaning only on this host"),
    ("user@[IPv6:]", None, "a tag and nothing after it"),
    ("user@[]", None, "an empty literal"),
    ("user@[192.0.2.1", None, "the bracket never closes"),
    ("user@192.0.2.1]", None, "the bracket never opens"),
    ("user@[192.0.2.1]x", None, "something after the literal"),
    ("user@[192.0.2.1].example", None, "a literal is not a label"),
    ("user@[a]b:c]", None, "a bracket inside the literal"),
    ("user@[X-:c]", None, "a tag that ends with a hyphen"),
    ("user@[x:a\r\nb]", None, "a line end inside the literal"),
    ("user@[x:é]", None, "dcontent is ASCII"),
    # --- internationalized domains (RFC 5890, UTS 46)
    ("user@bücher.example", b"<user@xn--bcher-kva.example>", "the domain becomes its A-label"),
    ("user@BÜCHER.example", b"<user@xn--bcher-kva.example>", "mapped to lower case first"),
    ("user@faß.example", b"<user@xn--fa-hia.example>", "not transitional: ß stays ß"),
    ("user@例え.テスト", b"<user@xn--r8jz45g.xn--zckzah>", "another script in every label"),
    ("user@bücher。example", b"<user@xn--bcher-kva.example>", "the ideographic full stop is a dot"),
    ("user@bücher.", None, "an A-label and an empty one"),
    ("user@.bücher", None, "an empty label and an A-label"),
    ("user@bücher.exam_ple", b"<user@xn--bcher-kva.exam_ple>", "an underscore next to an A-label"),
    ("user@Mail.BÜCHER.Example", b"<user@Mail.xn--bcher-kva.Example>", "A-labels are made label by label"),
    ("user@bü_cher.example", None, "an underscore inside what would be an A-label"),
    ("user@-x.bücher.example", None, "a label that begins with a hyphen, next to an A-label"),
    ("user@a℀b.example", None, "a symbol that maps to a/c"),
    ("user@a․example", None, "a one dot leader that would map to a dot"),
    ("user@﹤x﹥.example", None, "small brackets that would map to < and >"),
    ("user@［192.0.2.1］", None, "full-width brackets do not make a literal"),
    ("user@" + "ü" * 64 + ".example", None, "a label with an A-label of more than 63 bytes"),
    # --- local parts beyond ASCII (RFC 6531): taken, and marked as in need of SMTPUTF8
    ("üser@example.com", "<üser@example.com>".encode(), "needs SMTPUTF8; the local part is never converted"),
    ("用户@例え.テスト", "<用户@xn--r8jz45g.xn--zckzah>".encode(), "needs SMTPUTF8; the domain is converted"),
    ('"ü ser"@example.com', '<"ü ser"@example.com>'.encode(), "quoted, needs SMTPUTF8"),
    ("ü.ser@[192.0.2.1]", "<ü.ser@[192.0.2.1]>".encode(), "at an address literal"),
    ("u\u0308ser@example.com", "<u\u0308ser@example.com>".encode(), "decomposed: not normalised"),
    ("ü..ser@example.com", None, "two dots in a row, also outside ASCII"),
    ("ü ser@example.com", None, "a space outside quotes, also outside ASCII"),
    ("ü>@example.com", None, "a bracket, also outside ASCII"),
    ('"\\ü"@example.com', None, "a quoted pair must be ASCII"),
    # --- what cannot be seen
    ("us\x85er@example.com", None, "NEL: a line end to some servers"),
    ("us\u2028er@example.com", None, "LINE SEPARATOR"),
    ("us\u2029er@example.com", None, "PARAGRAPH SEPARATOR"),
    ("us\u00a0er@example.com", None, "NO-BREAK SPACE"),
    ("us\u3000er@example.com", None, "IDEOGRAPHIC SPACE"),
    ('"us\u00a0er"@example.com', None, "NO-BREAK SPACE, also inside quotes"),
    ("us\u200ber@example.com", None, "ZERO WIDTH SPACE"),
    ("us\u200der@example.com", None, "ZERO WIDTH JOINER"),
    ("us\u00ader@example.com", None, "SOFT HYPHEN"),
    ("\u202emoc.elpmaxe@example.com", None, "RIGHT-TO-LEFT OVERRIDE"),
    ("\ufeffuser@example.com", None, "a byte order mark, as read from a file"),
    ("us\ud800er@example.com", None, "a lone surrogate is not a character"),
    ("user@exam\u200bple.com", None, "in the domain, where the mapping would silently drop it"),
    ("user@exam\u00adple.com", None, "in the domain, where the mapping would silently drop it"),
    ("user@exam\u2028ple.com", None, "LINE SEPARATOR in the domain"),
    (
        "us\u010der\u010a@example.com",
        "<us\u010der\u010a@example.com>".encode(),
        "cut down to bytes, it would contain LF",
    ),
    (
        "us\u560a\u560der@example.com",
        "<us\u560a\u560der@example.com>".encode(),
        "cut down to bytes, it would contain LF and CR",
    ),
    # --- lengths, in octets (RFC 5321 4.5.3.1)
    (
        "SRS0=" + "h" * 80 + "=tt=example.org=user@example.com",
        b"<SRS0=" + b"h" * 80 + b"=tt=example.org=user@example.com>",
        "SRS: longer than the 64 octets of RFC 5321, but servers accept it",
    ),
    ("l" * 255 + "@example.com", b"<" + b"l" * 255 + b"@example.com>", "a local part of 255 bytes"),
    ("l" * 256 + "@example.com", None, "a local part of 256 bytes"),
    ("l" * 256 + "@bücher.example", None, "a local part of 256 bytes, at an internationalized domain"),
    ('"' + "l" * 62 + '"@x', b'<"' + b"l" * 62 + b'"@x>', "quotes count"),
    ('"' + "l" * 63 + '"@x', None, "quotes count"),
    ('"' + "ü" * 31 + '"@x', b'<"' + "ü".encode() * 31 + b'"@x>', "bytes count, not characters, also inside quotes"),
    ('"' + "ü" * 32 + '"@x', None, "bytes count, not characters, also inside quotes"),
    ("ü" * 127 + "@x", b"<" + "ü".encode() * 127 + b"@x>", "bytes count, not characters"),
    ("ü" * 128 + "@x", None, "bytes count, not characters"),
    ("u@" + _LABEL_63 + ".example", b"<u@" + _LABEL_63.encode() + b".example>", "a label of 63 bytes"),
    ("u@" + _LABEL_63 + "d.example", None, "a label of 64 bytes"),
    (
        "l" * 255 + "@" + _DOMAIN_255,
        b"<" + b"l" * 255 + b"@" + _DOMAIN_255.encode() + b">",
        "the longest of all: 255 bytes on both sides",
    ),
    ("u@" + "d." * 127 + "dd", None, "a domain of 256 bytes"),
    ('"u"@' + "d." * 127 + "dd", None, "a domain of 256 bytes, with a quoted local part"),
    ("u@" + "ü." * 60 + "example", None, "a domain over 255 bytes as A-labels"),
    ("u" * 100_000 + "@example.com", None, "an over-long address (MBSD's CRLF-less attack)"),
    ("u@" + "d" * 100_000, None, "an over-long domain"),
    ("u@" + "ü" * 100_000, None, "an over-long internationalized domain"),
]
#: The null reverse-path, and the recipient without a domain (RFC 5321 4.5.5, 4.1.1.3).
ONLY_MAIL: list[tuple[str, bytes]] = [("", b"<>")]
ONLY_RCPT: list[tuple[str, bytes]] = [
    ("postmaster", b"<postmaster>"),
    ("Postmaster", b"<Postmaster>"),
    ("POSTMASTER", b"<POSTMASTER>"),
]


def test_the_table_is_one_of_many_rows_each_with_a_reason_and_each_once() -> None:
    assert len(ADDRESSES) >= 80
    assert len({address for address, _, _ in ADDRESSES}) == len(ADDRESSES)
    assert all(reason for _, _, reason in ADDRESSES)


@pytest.mark.exhaustive(keep=WHOLE)
@pytest.mark.parametrize("kind", [ReversePath, ForwardPath])
@pytest.mark.parametrize(("address", "wire"), [row[:2] for row in ADDRESSES], ids=range(len(ADDRESSES)))
def test_an_address_is_sent_as_it_stands_or_refused(
    kind: type[ReversePath] | type[ForwardPath], address: str, wire: bytes | None
) -> None:
    """R18, R19."""
    if wire is None:
        with pytest.raises(MessageError) as caught:
            kind.parse(address)
        assert len(str(caught.value)) < 800  # an over-long address is not repeated in full
    else:
        path = kind.parse(address)
        assert type(path) is kind
        assert path.wire == wire
        assert path.address == address
        assert path.needs_smtputf8 is not wire.isascii()
        assert kind.parse(path) is path  # type: ignore[arg-type]


@pytest.mark.parametrize(("address", "wire"), ONLY_MAIL)
def test_the_null_reverse_path_is_for_mail_only(address: str, wire: bytes) -> None:
    assert ReversePath.parse(address).wire == wire
    assert ReversePath.parse(address).address == address
    with pytest.raises(MessageError):
        ForwardPath.parse(address)


@pytest.mark.parametrize(("address", "wire"), ONLY_RCPT)
def test_postmaster_without_a_domain_is_for_rcpt_only(address: str, wire: bytes) -> None:
    path = ForwardPath.parse(address)
    assert (path.address, path.wire, path.needs_smtputf8) == (address, wire, False)
    with pytest.raises(MessageError, match="no @"):
        ReversePath.parse(address)


@pytest.mark.parametrize("address", [None, b"user@example.com", 1, ["user@example.com"], object()])
def test_an_address_is_a_str(address: object) -> None:
    with pytest.raises(MessageError, match=f"must be a str, not {type(address).__name__}"):
        ReversePath.parse(address)  # type: ignore[arg-type]
    with pytest.raises(MessageError, match=f"must be a str, not {type(address).__name__}"):
        ForwardPath.parse(address)  # type: ignore[arg-type]


def test_one_kind_of_path_is_not_taken_for_the_other() -> None:
    with pytest.raises(MessageError):
        ForwardPath.parse(ReversePath.parse(""))  # type: ignore[arg-type]
    with pytest.raises(MessageError):
        ReversePath.parse(ForwardPath.parse("postmaster"))  # type: ignore[arg-type]


def test_the_named_limits() -> None:
    assert (MAX_LOCAL_PART_BYTES, MAX_QUOTED_LOCAL_PART_BYTES, MAX_DOMAIN_BYTES) == (255, 64, 255)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("user@example.com", "user@EXAMPLE.com", True),
        ("user@example.com", "User@example.com", False),
        ("user@bücher.example", "user@XN--BCHER-KVA.example", True),
        ('"a@B"@example.com', '"a@B"@Example.com', True),
        ('"a@B"@example.com', '"a@b"@example.com', False),
        ("user@example.com", '"user"@example.com', False),
        ("postmaster", "PostMaster", True),
        ("postmaster", "postmaster@example.com", False),
    ],
)
def test_two_recipients_are_one_if_the_local_part_is_octet_equal_and_the_domain_equal(
    one: str, other: str, same: bool
) -> None:
    assert (ForwardPath.parse(one).mailbox == ForwardPath.parse(other).mailbox) is same


text = st.text(st.sampled_from('ab.@"\\<> \r\n\0\t[]:1ü\u200b\u2028é') | st.characters(), max_size=20)


@settings(max_examples=300, deadline=None)
@given(text | st.builds("{}@{}".format, text, text))
def test_whatever_is_taken_is_one_path_of_one_line_and_is_the_address_itself(address: str) -> None:
    """R18, R19: no octet below 0x21 or 0x7f but a space inside quotes, no bracket outside of quotes, no rewriting."""
    for kind in (ReversePath, ForwardPath):
        path: Path
        try:
            path = kind.parse(address)
        except MessageError:
            continue
        if not address:
            continue
        assert path.wire[:1] + path.wire[-1:] == b"<>"
        inner = path.wire[1:-1].decode("utf-8")
        local, at, _ = inner.rpartition("@")
        given_local, given_at, _ = address.rpartition("@")
        assert (local, at) == (given_local, given_at)
        unquoted = inner.removeprefix(local) if local.startswith('"') else inner
        assert not set(unquoted) & set(' <>"')
        assert all(character >= " " and character != "\x7f" for character in inner)


@pytest.mark.parametrize("local", ["a..b", ".a", "a.", "a...b.", "ü..b"])
@pytest.mark.parametrize("kind", [ReversePath, ForwardPath])
def test_a_local_part_that_only_its_dots_spoil_is_refused_with_its_quoted_form(
    kind: type[ReversePath] | type[ForwardPath], local: str
) -> None:
    """Docomo and others gave out such addresses: RFC 5321 has them in quotes alone."""
    with pytest.raises(MessageError, match="needs quotes") as caught:
        kind.parse(f"{local}@docomo.example")
    remedy = str(caught.value).rpartition("write ")[2]
    assert remedy == f'"{local}"@docomo.example'
    assert kind.parse(remedy).wire == f'<"{local}"@docomo.example>'.encode()


def test_a_domain_of_a_mailbox_may_hold_an_underscore_and_that_of_a_host_may_not() -> None:
    assert Domain.of_mailbox("smtp_relay.bücher.example").wire == b"smtp_relay.xn--bcher-kva.example"
    for refused in ("a b", "a..b", "a>b", "", "a_b.", "-a_b", "a_-", "exam\u00adple_", "l" * 64):
        with pytest.raises(MessageError):
            Domain.of_mailbox(refused)
    with pytest.raises(MessageError, match="neither a domain name"):
        Domain.parse("smtp_relay")


@pytest.mark.parametrize("label", ["a\u2024b", "a\u2100b", "\u2488", "a\ufe52b"])
def test_no_character_becomes_a_dot_behind_our_back(label: str) -> None:
    for domain in (f"{label}.example", f"a_b.{label}"):
        with pytest.raises(MessageError):
            Domain.of_mailbox(domain)


def test_an_over_long_address_costs_nothing() -> None:
    """R27: the codec of A-labels takes more than linear time, and is not asked."""
    began = time.thread_time()
    for address in ("ü" * 10**5 + "@x", "u@" + "ü." * 10**5, '"' + "\\" * 10**5 + '"@x', "a." * 10**5 + "@x"):
        with pytest.raises(MessageError):
            ForwardPath.parse(address)
    assert time.thread_time() - began < 1


DOMAINS: list[tuple[str, bytes | None]] = [
    ("client.example", b"client.example"),
    ("localhost", b"localhost"),
    ("skyrunner.home", b"skyrunner.home"),
    ("[192.0.2.1]", b"[192.0.2.1]"),
    ("[IPv6:2001:db8::1]", b"[IPv6:2001:db8::1]"),
    ("bücher.example", b"xn--bcher-kva.example"),
    ("d" * 63 + ".x", b"d" * 63 + b".x"),
    ("d." * 127 + "d", b"d." * 127 + b"d"),
    ("", None),
    (" ", None),
    ("client example", None),
    ("client.example\r\nMAIL FROM:<>", None),
    ("client.example\n", None),
    ("client_host", None),
    ("client.example.", None),
    ("[192.0.2.1", None),
    ("[::1]", None),
    ("192.0.2.1]", None),
    ("d" * 64, None),
    ("d." * 127 + "dd", None),
    ("ü" * 60 + ".example\r\n", None),
    ("exam\u00adple.com", None),
    ("exam\u200bple.com", None),
    ("exam\u2028ple.com", None),
    ("exam\ud800ple.com", None),
    ("a<b", None),
]


@pytest.mark.parametrize(("domain", "wire"), DOMAINS)
def test_a_domain_is_sent_as_it_stands_or_refused(domain: str, wire: bytes | None) -> None:
    """R18: the argument of EHLO too, also where it comes from DNS (CVE-2026-28753)."""
    if wire is None:
        with pytest.raises(MessageError):
            Domain.parse(domain)
    else:
        parsed = Domain.parse(domain)
        assert parsed.wire == wire
        assert Domain.parse(parsed) is parsed
        assert parsed == Domain(wire)


def test_a_domain_is_a_str() -> None:
    with pytest.raises(MessageError, match="must be a str, not bytes"):
        Domain.parse(b"client.example")  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(text)
def test_whatever_domain_is_taken_is_printable_ascii_without_space_and_brackets(domain: str) -> None:
    try:
        wire = Domain.parse(domain).wire
    except MessageError:
        return
    assert all(0x21 <= octet < 0x7F for octet in wire)
    assert not set(wire) & set(b"<>\\")


def test_a_codec_that_fails_otherwise_is_a_message_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> bytes:
        raise UnicodeEncodeError("punycode", "ü", 0, 1, "no")

    monkeypatch.setattr("smtplite.protocol.paths.idna.encode", fail)
    with pytest.raises(MessageError, match=r"is not an internationalized domain name$"):
        Domain.parse("bücher.example")


def test_paths_survive_pickle_and_copy() -> None:
    path = ForwardPath.parse("üser@bücher.example")
    for again in (pickle.loads(pickle.dumps(path)), copy.copy(path), copy.deepcopy(path)):
        assert type(again) is ForwardPath
        assert (again.address, again.wire, again.needs_smtputf8) == (path.address, path.wire, True)


def test_a_domain_beyond_any_length_is_not_looked_at() -> None:
    with pytest.raises(MessageError, match="more than 2048 characters"):
        Domain.parse("ü" * 3000)


def test_a_character_that_would_become_a_dot_ends_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """One label would be two where nobody sees it. Today's tables refuse each such character; others may map it."""
    monkeypatch.setattr("smtplite.protocol.paths.idna.encode", lambda *args, **kwargs: b"xn--a.b")
    with pytest.raises(MessageError, match=r"would become 'xn--a\.b'"):
        Domain.parse("a\u2488b.example")
