"""Line endings and dots: the same octets at any chunking, equal to a naive reference (R21, VU#302671)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.protocol.transparency import ContentEncoder, DotStuffer, Normalizer, has_only_crlf, normalize
from tests.exhaustive import examples

EXAMPLES = examples(300)
SPECIAL = b"\r\n.\0a"


def reference_lines(content: bytes) -> list[bytes]:
    """Cut at CRLF, CR and LF, in one pass, octet by octet."""
    lines, at = [b""], 0
    while at < len(content):
        if content[at : at + 2] == b"\r\n":
            lines.append(b"")
            at += 2
        elif content[at : at + 1] in (b"\r", b"\n"):
            lines.append(b"")
            at += 1
        else:
            lines[-1] += content[at : at + 1]
            at += 1
    return lines


def reference_normalize(content: bytes) -> bytes:
    return b"\r\n".join(reference_lines(content))


def reference(content: bytes) -> bytes:
    return b"\r\n".join(b"." + line if line[:1] == b"." else line for line in reference_lines(content))


def unstuff(wire: bytes) -> bytes:
    """What a server does (RFC 5321 4.5.2)."""
    return b"\r\n".join(line[1:] if line[:1] == b"." else line for line in wire.split(b"\r\n"))


def encode(chunks: Iterable[bytes]) -> bytes:
    encoder = ContentEncoder()
    return b"".join(encoder.encode(chunk) for chunk in chunks)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(borders)]


def singly(data: bytes) -> list[bytes]:
    return [data[n : n + 1] for n in range(len(data))]


contents = st.lists(st.sampled_from(SPECIAL), max_size=60).map(bytes) | st.binary(max_size=60)
places = st.lists(st.integers(0, 100), max_size=8)


@EXAMPLES
@given(contents, places)
def test_the_same_octets_come_out_at_any_chunking_and_they_are_the_reference_s(content: bytes, at: list[int]) -> None:
    """R21."""
    expected = reference(content)
    assert encode([content]) == expected
    assert encode(singly(content)) == expected
    assert encode(cut(content, at)) == expected


@EXAMPLES
@given(contents, places)
def test_the_normalizer_alone_at_any_chunking(content: bytes, at: list[int]) -> None:
    normalizer = Normalizer()
    assert b"".join(map(normalizer.encode, cut(content, at))) == reference_normalize(content) == normalize(content)


@EXAMPLES
@given(contents)
def test_unstuffing_gives_the_normalised_content_back(content: bytes) -> None:
    assert unstuff(encode([content])) == normalize(content)


@EXAMPLES
@given(contents)
def test_the_result_holds_no_bare_cr_or_lf_and_no_line_that_is_a_dot(content: bytes) -> None:
    wire = encode([content])
    assert b"\r" not in wire.replace(b"\r\n", b"")
    assert b"\n" not in wire.replace(b"\r\n", b"")
    assert b"." not in wire.split(b"\r\n")
    assert has_only_crlf(wire)


def test_every_content_of_up_to_five_special_octets_at_every_chunking() -> None:
    for length in range(6):
        for octets in product(SPECIAL, repeat=length):
            content = bytes(octets)
            expected = reference(content)
            for mask in range(1 << max(length - 1, 0)):
                at = [n + 1 for n in range(length - 1) if mask >> n & 1]
                assert encode(cut(content, at)) == expected


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"\n.\n", b"\r\n..\r\n"),
        (b"\n.\r\n", b"\r\n..\r\n"),
        (b"\r\n.\n", b"\r\n..\r\n"),
        (b"\r.\r", b"\r\n..\r\n"),
        (b"\r\n.\r", b"\r\n..\r\n"),
        (b"\r.\r\n", b"\r\n..\r\n"),
        (b"\r\r\n.\r\r\n", b"\r\n\r\n..\r\n\r\n"),
        (b"\n\r.\n\r", b"\r\n\r\n..\r\n\r\n"),
        (b"\r\n.\r\n", b"\r\n..\r\n"),
        (b"\r\n\0.\r\n", b"\r\n\0.\r\n"),
        (b"\r\n.\0\r\n", b"\r\n..\0\r\n"),
        (b".", b".."),
        (b"..", b"..."),
        (b".\r\n", b"..\r\n"),
        (b"\x85.\x85", b"\x85.\x85"),
        (b"\x0b.\x0b", b"\x0b.\x0b"),
        (b"a.\r\nb.", b"a.\r\nb."),
    ],
)
@pytest.mark.parametrize("behind", [b"", b"MAIL FROM:<evil@example.org>\r\n"])
def test_the_smuggling_sequences_are_no_end_of_data(content: bytes, wire: bytes, behind: bytes) -> None:
    """VU#302671: no server, however lax, finds an end of data inside of the content."""
    for chunks in ([content + behind], singly(content + behind), [content, behind]):
        assert encode(chunks) == wire + behind
    assert not re.search(rb"(^|[\r\n])\.[\r\n]", wire + behind)


def test_a_dot_at_the_border_of_chunks() -> None:
    assert encode([b"a\r\n", b".", b"\r\n", b".b"]) == b"a\r\n..\r\n..b"
    assert encode([b"a", b".", b"\r", b"\n", b"."]) == b"a.\r\n.."
    assert encode([b"a\r", b".\r", b"."]) == b"a\r\n..\r\n.."
    assert encode([b"a\r", b"", b"\n", b"", b"\n"]) == b"a\r\n\r\n"


CLEAN = b"Subject: x\r\n\r\nline one.\r\nline two ... and so on\r\n"


@pytest.mark.parametrize("content", [CLEAN, b"", b"no line end", b"\r\n", CLEAN * 10_000], ids=len)
def test_clean_content_comes_back_as_the_very_same_object(content: bytes) -> None:
    assert normalize(content) is content
    assert Normalizer().encode(content) is content
    assert DotStuffer().encode(content) is content
    assert ContentEncoder().encode(content) is content


def test_each_of_several_clean_chunks_comes_back_as_the_very_same_object() -> None:
    encoder = ContentEncoder()
    for _ in range(3):
        assert encoder.encode(CLEAN) is CLEAN


@EXAMPLES
@given(contents)
def test_what_has_only_crlf_is_what_normalize_leaves(content: bytes) -> None:
    assert has_only_crlf(content) is (reference_normalize(content) == content)


PIECE = 131_072


@pytest.mark.parametrize("offset", [-2, -1, 0, 1])
@pytest.mark.parametrize("ending", [b"\r\n", b"\r", b"\n", b"\r\r\n"])
def test_line_ends_where_large_content_is_checked_piece_by_piece(offset: int, ending: bytes) -> None:
    for behind in (b"", b"b" * 10, b"b" * PIECE):
        content = b"a" * (PIECE + offset) + ending + behind
        expected = content.replace(ending, b"\r\n\r\n" if ending == b"\r\r\n" else b"\r\n")
        assert has_only_crlf(content) is (ending == b"\r\n")
        assert normalize(content) == expected
        assert encode([content]) == expected


def test_a_bad_line_end_in_the_first_piece_is_enough() -> None:
    assert not has_only_crlf(b"a\nb" + b"c" * (3 * PIECE))
    assert has_only_crlf(b"a\r\nb" + b"c" * (3 * PIECE))


@pytest.mark.parametrize(
    ("chunks", "at_line_start"),
    [
        ([], True),
        ([b""], True),
        ([b"a"], False),
        ([b"a\r\n"], True),
        ([b"a\r"], True),
        ([b"a\n"], True),
        ([b"a\r", b"\n"], True),
        ([b"a\r", b"\nb"], False),
        ([b"."], False),
        ([b"a\r\n", b""], True),
    ],
)
def test_whether_the_end_of_data_needs_a_line_end_in_front(chunks: list[bytes], at_line_start: bool) -> None:
    encoder = ContentEncoder()
    wire = b"".join(map(encoder.encode, chunks))
    assert encoder.at_line_start is at_line_start
    assert at_line_start is (not wire or wire.endswith(b"\r\n"))


@EXAMPLES
@given(contents, st.integers(1, 9))
def test_what_is_known_to_be_normalized_is_encoded_alike_without_another_look(content: bytes, size: int) -> None:
    content = reference_normalize(content)
    known, unknown = ContentEncoder(), ContentEncoder()
    chunks = [content[at : at + size] for at in range(0, len(content), size)]
    whole = b"".join([known.encode(chunk, is_normalized=True) for chunk in chunks])
    assert whole == ContentEncoder().encode(content)
    for chunk in chunks:
        unknown.encode(chunk)
    assert known.at_line_start is unknown.at_line_start is (not content or content.endswith(b"\r\n"))


@pytest.mark.parametrize("dots", [0, 1, 400, 2000])
@pytest.mark.parametrize("opening", [b"", b"x" * 4000 + b"\r\n", b"." * 9 + b"\r\n", b".\r\n" * 9])
def test_dots_are_found_alike_where_they_are_rare_and_where_they_are_not(opening: bytes, dots: int) -> None:
    """The way to look for them is chosen by a sample, and changed where the sample misled."""
    content = opening + b"text without\r\n.leading\r\nin.ner\r\n" * dots + b"end\r\n.."
    lines = content.split(b"\r\n")
    expected = b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines)
    assert DotStuffer().encode(content) == expected
    stuffer = DotStuffer()
    assert b"".join(stuffer.encode(content[i : i + 777]) for i in range(0, len(content), 777)) == expected
