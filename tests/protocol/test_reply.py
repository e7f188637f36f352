"""Octets to replies: the same replies at any split, a limit on everything, and no octet believed that is no reply."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtplite.errors import RemoteProtocolError
from smtplite.protocol.codes import ENHANCED_STATUS_CODES, REPLY_CODES
from smtplite.protocol.reply import (
    MAX_CHALLENGE_LINE_BYTES,
    MAX_LINE_BYTES,
    MAX_REPLY_BYTES,
    EnhancedStatusCode,
    Reply,
    ReplyParser,
)

EXAMPLES = settings(max_examples=150, deadline=None)


def drain(parser: ReplyParser, *, enhanced: bool = False) -> Iterator[Reply]:
    while (reply := parser.next_reply(enhanced=enhanced)) is not None:
        yield reply


def parse(pieces: Iterable[bytes], *, enhanced: bool = False) -> list[Reply]:
    parser = ReplyParser()
    replies: list[Reply] = []
    for piece in pieces:
        parser.receive_data(piece)
        replies += drain(parser, enhanced=enhanced)
    return replies


def singly(data: bytes) -> list[bytes]:
    return [data[n : n + 1] for n in range(len(data))]


CONVERSATIONS: list[tuple[bytes, list[Reply]]] = [
    (b"250 ok\r\n", [Reply(250, (b"ok",))]),
    (b"250\r\n", [Reply(250, (b"",))]),
    (b"250 \r\n", [Reply(250, (b"",))]),
    (b"250\tok\r\n", [Reply(250, (b"ok",))]),
    (b"571 no\r\n", [Reply(571, (b"no",))]),
    (b"299 odd\r\n", [Reply(299, (b"odd",))]),
    (b"250-a\r\n250-b\r\n250 c\r\n", [Reply(250, (b"a", b"b", b"c"))]),
    (b"250-a\r\n250\r\n", [Reply(250, (b"a", b""))]),
    (b"250-\r\n250-\r\n250 \r\n", [Reply(250, (b"", b"", b""))]),
    (b"250-a\r\n250\tb\r\n", [Reply(250, (b"a", b"b"))]),
    (b"220 a\r\n250 b\r\n354 c\r\n", [Reply(220, (b"a",)), Reply(250, (b"b",)), Reply(354, (b"c",))]),
    (b"250-a\r\n250 b\r\n550-c\r\n550 d\r\n", [Reply(250, (b"a", b"b")), Reply(550, (b"c", b"d"))]),
    ("250 grüß\r\n".encode("latin-1"), [Reply(250, ("grüß".encode("latin-1"),))]),
    ("250 grüß 中\r\n".encode(), [Reply(250, ("grüß 中".encode(),))]),
    (b"250 - x\r\n", [Reply(250, (b"- x",))]),
    (b"250--x\r\n250 y\r\n", [Reply(250, (b"-x", b"y"))]),
]


@pytest.mark.parametrize(("data", "replies"), CONVERSATIONS)
def test_replies_read_whole_byte_by_byte_and_at_every_single_and_double_split(
    data: bytes, replies: list[Reply]
) -> None:
    assert parse([data]) == replies
    assert parse(singly(data)) == replies
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            assert parse([data[:first], data[first:second], data[second:]]) == replies


@pytest.mark.parametrize(("data", "replies"), CONVERSATIONS)
@pytest.mark.parametrize("trailing", [b"2", b"250", b"250-x\r\n", b"250-x\r\n250", b"250 x\r"])
def test_trailing_octets_change_no_reply_and_are_reported_as_held(
    data: bytes, replies: list[Reply], trailing: bytes
) -> None:
    parser = ReplyParser()
    parser.receive_data(data + trailing)
    assert list(drain(parser)) == replies
    assert parser.has_data
    assert parser.partial_code == trailing[:3]
    assert parser.unread == trailing.rpartition(b"\n")[2]
    parser.discard()
    assert not parser.has_data
    assert parser.unread == parser.partial_code == b""
    parser.receive_data(b"220 again\r\n")
    assert list(drain(parser)) == [Reply(220, (b"again",))]


lines = st.binary(max_size=40).map(lambda line: bytes(octet for octet in line if octet not in b"\0\r\n"))
replies_strategy = st.builds(Reply, st.integers(200, 599), st.lists(lines, min_size=1, max_size=4).map(tuple))


def to_bytes(reply: Reply) -> bytes:
    *first, last = reply.lines
    return b"".join(b"%d-%b\r\n" % (reply.code, line) for line in first) + b"%d %b\r\n" % (reply.code, last)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(borders)]


@EXAMPLES
@given(st.lists(replies_strategy, max_size=5), st.lists(st.integers(0, 10_000), max_size=12))
def test_replies_do_not_depend_on_how_the_octets_are_split(replies: list[Reply], places: list[int]) -> None:
    assert parse(cut(b"".join(map(to_bytes, replies)), places)) == replies


hostile = st.lists(
    st.sampled_from(
        [b"250", b"354", b"421", b"334", b"2", b"-", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\0", b"x", b"\xff"]
    )
    | st.binary(max_size=4)
).map(b"".join)


def until_error(pieces: Iterable[bytes]) -> tuple[list[Reply], str | None]:
    """Return the replies, those in front of a violation too, and the violation."""
    parser = ReplyParser()
    replies: list[Reply] = []
    try:
        for piece in pieces:
            parser.receive_data(piece)
            while (reply := parser.next_reply()) is not None:
                replies.append(reply)
    except RemoteProtocolError as error:
        return replies, str(error)
    return replies, None


@EXAMPLES
@given(hostile, st.lists(st.integers(0, 10_000), max_size=12))
def test_any_octets_at_any_split_give_the_same_replies_and_the_same_error(data: bytes, places: list[int]) -> None:
    assert until_error(cut(data, places)) == until_error([data]) == until_error(singly(data))


MALFORMED = {
    "mixed codes (R5)": b"250-a\r\n251 b\r\n",
    "mixed codes, both continued": b"250-a\r\n550-b\r\n",
    "mixed codes, then code only": b"250-a\r\n251\r\n",
    "no digits": b"abc hello\r\n",
    "one digit too few": b"25 ok\r\n",
    "one digit too many": b"2500 ok\r\n",
    "an underscore that int() would take": b"2_0 ok\r\n",
    "a sign that int() would take": b"+22 ok\r\n",
    "a space that int() would take": b" 25 ok\r\n",
    "Arabic digits that int() would take": "٢٥٠ ok\r\n".encode(),
    "full-width digits": "２５０ ok\r\n".encode(),
    "superscript digits": "²⁵⁰ ok\r\n".encode(),
    "hexadecimal": b"0xF ok\r\n",
    "code 000": b"000 ok\r\n",
    "code 199": b"199 ok\r\n",
    "code 600": b"600 ok\r\n",
    "code 999": b"999 ok\r\n",
    "bare LF": b"250 ok\n",
    "bare LF in a continued reply": b"250-a\n250 b\r\n",
    "bare CR in the text": b"250 a\rb\r\n",
    "bare CR that hides a reply": b"250 a\r250 b\r\n",
    "CR CR LF": b"250 a\r\r\n",
    "NUL": b"250 a\0b\r\n",
    "NUL in the code": b"25\0 a\r\n",
    "no separator": b"250ok\r\n",
    "another separator": b"250+ok\r\n",
    "vertical tab as separator": b"250\x0bok\r\n",
    "an empty line": b"\r\n",
    "an empty line with a bare LF": b"\n",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x0a",
    "IMAP": b"* OK ready\r\n",
    "POP3": b"+OK ready\r\n",
    "a text line inside a reply": b"250-a\r\nb\r\n250 c\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_reply_breaks_the_protocol_however_it_arrives(data: bytes) -> None:
    assert until_error([data])[1] is not None
    assert until_error(singly(data))[1] is not None
    assert until_error([data, b"250 ok\r\n"])[1] is not None


def test_the_error_shows_at_most_80_octets_of_the_line() -> None:
    _, error = until_error([b"\x1b" * 2000 + b"\r\n"])
    assert error is not None
    assert error == "server sent a line that is not a reply: " + repr(b"\x1b" * 80)


def line(code: bytes, octets: int, separator: bytes = b" ") -> bytes:
    return code + separator + b"x" * (octets - 6) + b"\r\n"


@pytest.mark.parametrize(("code", "limit"), [(b"250", MAX_LINE_BYTES), (b"334", MAX_CHALLENGE_LINE_BYTES)])
@pytest.mark.parametrize("piece_bytes", [1, 1000, 100_000])
def test_a_line_has_a_limit_and_a_challenge_a_higher_one(code: bytes, limit: int, piece_bytes: int) -> None:
    def pieces(data: bytes) -> list[bytes]:
        return [data[n : n + piece_bytes] for n in range(0, len(data), piece_bytes)]

    assert [reply.code for reply in parse(pieces(line(code, limit)))] == [int(code)]
    replies, error = until_error(pieces(line(code, limit + 1)))
    assert (replies, error) == ([], f"server sent a line of more than {limit} bytes")


def test_a_line_that_never_ends_is_given_up_at_the_limit_without_its_end() -> None:
    parser = ReplyParser()
    parser.receive_data(b"250 " + b"x" * (MAX_LINE_BYTES - 4))
    assert parser.next_reply() is None
    parser.receive_data(b"x")
    with pytest.raises(RemoteProtocolError, match="line of more than 4096"):
        parser.next_reply()


def test_each_octet_of_a_long_line_in_one_octet_pieces_is_searched_once() -> None:
    """R6: no re-scan. What was searched for a line end is not searched again."""
    parser = ReplyParser()
    data = line(b"334", MAX_CHALLENGE_LINE_BYTES)
    for count, octet in enumerate(singly(data)[:-1], 1):
        parser.receive_data(octet)
        assert parser.next_reply() is None
        assert parser._scanned == count
        assert len(parser.unread) == count
    parser.receive_data(b"\n")
    assert parser.next_reply() is not None


def test_a_reply_has_a_limit() -> None:
    whole, rest = divmod(MAX_REPLY_BYTES, 1024)
    assert rest == 0
    fits = line(b"250", 1024, b"-") * (whole - 1) + line(b"250", 1024)
    (reply,) = parse([fits])
    assert len(reply.lines) == whole
    _, error = until_error([line(b"250", 1024, b"-") * (whole - 1) + line(b"250", 1025)])
    assert error == f"server sent a reply of more than {MAX_REPLY_BYTES} bytes"
    _, error = until_error(singly(b"250-\r\n" * (MAX_REPLY_BYTES // 6 + 1)))
    assert error == f"server sent a reply of more than {MAX_REPLY_BYTES} bytes"


def test_the_limit_of_a_reply_is_per_reply() -> None:
    one = line(b"250", 4000, b"-") * 20 + line(b"250", 4000)
    assert len(parse([one * 5])) == 5


def test_the_named_limits() -> None:
    assert (MAX_LINE_BYTES, MAX_CHALLENGE_LINE_BYTES, MAX_REPLY_BYTES) == (4096, 12_294, 102_400)


def test_nothing_is_held_at_first() -> None:
    parser = ReplyParser()
    assert not parser.has_data
    assert parser.partial_code == b""
    assert parser.next_reply() is None
    parser.receive_data(b"250 ok\r\n")
    assert parser.has_data
    assert parser.partial_code == b"250"
    assert parser.next_reply() is not None
    assert not parser.has_data


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"250 2.1.5 ok\r\n", EnhancedStatusCode(2, 1, 5)),
        (b"550-5.1.1 no\r\n550 5.1.1 such user\r\n", EnhancedStatusCode(5, 1, 1)),
        (b"550 5.7.509\r\n", EnhancedStatusCode(5, 7, 509)),
        (b"550 4.2.1 mismatched, met in the field\r\n", EnhancedStatusCode(4, 2, 1)),
        (b"250 ok\r\n", None),
        (b"250 2.1.5ok\r\n", None),
        (b"250 1.2.3 ok\r\n", None),
        (b"250\r\n", None),
    ],
)
def test_an_enhanced_code_is_read_only_where_it_was_offered(data: bytes, expected: EnhancedStatusCode | None) -> None:
    assert [reply.enhanced for reply in parse([data], enhanced=True)] == [expected]
    assert [reply.enhanced for reply in parse([data])] == [None]


def test_an_enhanced_code_reads_as_in_the_rfc() -> None:
    assert str(EnhancedStatusCode(5, 1, 1)) == "5.1.1"


def test_a_reply_is_judged_by_its_first_digit_known_or_not() -> None:
    claims = {
        2: (True, False, False, False, False),
        3: (False, True, False, False, False),
        4: (False, False, True, False, True),
        5: (False, False, False, True, True),
    }
    for code in range(200, 600):
        (reply,) = parse([b"%d x\r\n" % code])
        assert claims[code // 100] == (
            reply.is_positive,
            reply.is_intermediate,
            reply.is_transient,
            reply.is_permanent,
            reply.is_negative,
        )


def test_the_article_s_codes_are_documented() -> None:
    article = "211 214 220 221 250 251 354 421 450 451 452 500 501 502 503 504 550 551 552 553 554"
    assert {int(code) for code in article.split()} <= set(REPLY_CODES)
    assert all(200 <= code <= 599 and meaning for code, meaning in REPLY_CODES.items())


def test_a_reply_for_people() -> None:
    reply = Reply(550, (b"5.1.1 no", "such ü\xff".encode("latin-1")))
    assert reply.text == "5.1.1 no\nsuch \ufffd\ufffd"
    assert str(reply) == "550 5.1.1 no / such \ufffd\ufffd"
    assert str(Reply(250)) == "250"


def test_str_of_a_reply_writes_no_escape_sequence_into_a_log() -> None:
    reply = Reply(550, ("a\x1b[2Jb\x0bc\u2028d\x85e é 中\t.".encode(),))
    assert str(reply) == "550 a\\x1b[2Jb\\x0bc\\u2028d\\x85e é 中\\t."


def by_pickle(reply: Reply) -> Reply:
    result = pickle.loads(pickle.dumps(reply))
    assert isinstance(result, Reply)
    return result


@pytest.mark.parametrize("round_trip", [by_pickle, copy.copy, copy.deepcopy])
def test_a_reply_survives_pickle_and_copy(round_trip: object) -> None:
    assert callable(round_trip)
    reply = Reply(550, (b"a", b"5.1.1 b"), EnhancedStatusCode(5, 1, 1))
    assert round_trip(reply) == reply
    assert hash(reply) == hash(round_trip(reply))


def test_a_long_reply_is_cut_where_it_is_shown_and_whole_in_its_text() -> None:
    reply = Reply(250, (b"x" * 3000, b"y" * 3000))
    assert len(str(reply)) < 500
    assert str(reply).endswith("x...")
    assert reply.text == "x" * 3000 + "\n" + "y" * 3000


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (EnhancedStatusCode(5, 1, 1), "no such mailbox at the destination"),
        (EnhancedStatusCode(4, 1, 1), "no such mailbox at the destination"),
        (EnhancedStatusCode(4, 2, 2), "mailbox is full"),
        (EnhancedStatusCode(5, 7, 30), "REQUIRETLS is needed, but not supported"),
        (EnhancedStatusCode(2, 0, 0), "other or undefined status"),
        (EnhancedStatusCode(5, 7, 509), "other status of security or policy"),
        (EnhancedStatusCode(5, 0, 1), "other or undefined status"),
        (EnhancedStatusCode(5, 9, 9), ""),
        (EnhancedStatusCode(5, 999, 999), ""),
    ],
)
def test_an_enhanced_code_has_the_registrys_meaning_whatever_its_class(
    status: EnhancedStatusCode, meaning: str
) -> None:
    assert status.meaning == meaning


def test_every_registered_code_has_a_meaning_and_every_subject_a_general_one() -> None:
    """RFC 5248: how many details each subject has, so that none is missing."""
    details: dict[int, set[int]] = {}
    for (subject, detail), meaning in ENHANCED_STATUS_CODES.items():
        details.setdefault(subject, set()).add(detail)
        assert meaning == EnhancedStatusCode(5, subject, detail).meaning
        assert meaning == meaning.strip(" .")
    last = {0: 0, 1: 10, 2: 4, 3: 6, 4: 7, 5: 6, 6: 10, 7: 30}
    assert details == {subject: set(range(last[subject] + 1)) for subject in last}


@pytest.mark.parametrize("record", [b"\x15\x03\x03\x00\x02\x02\x28", b"\x16\x03\x01\x02\x00", b"\x15\x03\r\n"])
@pytest.mark.parametrize("size", [1, 2, 99])
@pytest.mark.parametrize("before", [b"", b"220 hi\r\n", b"220-hi\r\n"])
def test_a_tls_record_in_place_of_a_reply_is_told_at_once(record: bytes, size: int, before: bytes) -> None:
    """No line end need ever come."""
    parser = ReplyParser()
    said = before + record

    def read() -> None:
        for start in range(0, len(said), size):
            parser.receive_data(said[start : start + size])
            while parser.next_reply() is not None:
                pass

    with pytest.raises(
        RemoteProtocolError, match=r"server speaks TLS where an unencrypted reply is due: pass tls=\"impl"
    ):
        read()
