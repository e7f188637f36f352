"""Window and Submission: what shares a write, what may begin when, and what each reply means for each message."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from smtplite.errors import (
    ConnectionLost,
    DeliveryUnknown,
    LocalProtocolError,
    MessageRefused,
    RecipientsRefused,
    RemoteProtocolError,
    SenderRefused,
    ServiceUnavailable,
    SMTPTimeout,
)
from smtplite.protocol import (
    MAX_CHUNK_BYTES,
    MAX_ONE_CHUNK_BYTES,
    Connection,
    Ehlo,
    Lhlo,
    Mail,
    Outcome,
    Rcpt,
    ServerTraits,
    State,
    Submission,
    Transfer,
    Window,
)

A, R, N, U = Outcome.ACCEPTED, Outcome.REFUSED, Outcome.NOT_SENT, Outcome.UNKNOWN

PROOF = b"MAIL FROM:<a@b.example>\r\nBDAT 8 LAST\r\nXPROBE\r\nRSET\r\n"
MAIL = b"MAIL FROM:<a@b.example>\r\n"
PROVED = b"250 a\r\n503 no recipients\r\n250 reset\r\n"


def greeted(*keywords: str, lmtp: bool = False) -> Connection:
    connection = Connection(lmtp=lmtp)
    connection.receive_data(b"220 mx\r\n")
    connection.next_event()
    connection.send(Lhlo("client.example") if lmtp else Ehlo("client.example"))
    lines = ["mx", "PIPELINING", "CHUNKING", "SIZE 1000000", "ENHANCEDSTATUSCODES", *keywords]
    for line in lines:
        connection.receive_data(b"250%b%b\r\n" % (b" " if line is lines[-1] else b"-", line.encode()))
    connection.next_event()
    return connection


def message(recipients: int = 1, size: int | None = 5, **options: bool) -> Submission:
    made = Submission(recipients, **options)
    made.fit(Mail("a@b.example"), [Rcpt(f"r{n}@x.example") for n in range(recipients)], size)
    return made


def rcpt(*numbers: int) -> bytes:
    return b"".join(b"RCPT TO:<r%d@x.example>\r\n" % n for n in numbers)


class Client:
    """Drives a window as its docstring says, with a server whose octets are given by hand."""

    def __init__(
        self,
        connection: Connection | None = None,
        *,
        chunking: bool = True,
        traits: ServerTraits | None = None,
        **options: object,
    ) -> None:
        self.connection = connection or greeted()
        self.traits = traits or ServerTraits()
        self.window: Window[Submission] = Window(
            self.connection,
            chunking=chunking,
            traits=self.traits,
            **options,  # type: ignore[arg-type]
        )
        self.done: list[Submission] = []

    def write(self, *messages: Submission, has_rested: bool = False) -> bytes:
        """Return all that goes into one write."""
        flight = b""
        newest = self.window.newest
        if newest is not None:
            flight += self._more(newest)
        for one in messages:
            assert self.window.has_room_for(one)
            self.window.begin(one, has_rested=has_rested)
            flight += self._more(one)
        return flight

    def _more(self, one: Submission) -> bytes:
        flight = one.transaction.next_flight()
        if one.transaction.wants_content:
            flight += one.transaction.send_content(b"x" * (5 if one.size is None else one.size), last=True)
        return flight

    def read(self, octets: bytes, *, unsent: int = 0) -> list[Submission]:
        """Take octets from the server; return the messages that are done by them."""
        self.connection.receive_data(octets)
        done: list[Submission] = []
        while (event := self.connection.next_event()) is not None:
            done += self.window.receive(event, unsent=unsent)
        return done

    def prove(self) -> None:
        first = message()
        assert self.write(first).startswith(PROOF)
        self.read(PROVED + b"250 a\r\n250 b\r\n")
        self.write()
        assert self.read(b"250 taken\r\n") == [first]
        assert self.window.is_proved


def seen(one: Submission) -> list[tuple[Outcome, int | None]]:
    return [(o.outcome, None if o.reply is None else o.reply.code) for o in one.outcomes]


# The proof


def test_the_first_message_proves_that_chunks_are_swallowed_at_no_round_trip_more() -> None:
    """Section 4, "Why CHUNKING is opt-in"."""
    client = Client()
    first = message(2)
    assert client.write(first) == PROOF + MAIL + rcpt(0, 1)
    assert first.transaction.transfer is Transfer.PROOF
    assert not client.window.may_begin
    assert client.read(PROVED + b"250 a\r\n250 b\r\n550 c\r\n") == []
    assert client.write() == b"BDAT 5 LAST\r\nxxxxx"
    assert client.read(b"250 taken\r\n") == [first]
    assert seen(first) == [(A, 250), (R, 550)]
    assert client.window.is_proved
    assert client.window.begun == 1
    assert client.write(message()) == MAIL + rcpt(0) + b"BDAT 5 LAST\r\nxxxxx"


def test_a_server_that_takes_the_probe_for_a_command_gets_no_chunk_any_more() -> None:
    """R23; go-smtp, and whatever answers XPROBE: the reply to RSET is out of class."""
    client = Client()
    first = message()
    client.write(first)
    with pytest.raises(RemoteProtocolError) as caught:
        client.read(b"250 a\r\n503 no recipients\r\n500 XPROBE?\r\n250 reset\r\n250 a\r\n250 b\r\n")
    assert client.window.fail(caught.value) == [first]
    assert seen(first) == [(N, None)]
    assert first.transaction.refuses_chunks
    assert client.window.must_close
    assert not client.traits.takes_chunks
    first.reopen()
    again = Client(chunking=True)
    again.window = Window(again.connection, chunking=True, traits=client.traits)
    assert again.write(first) == MAIL + rcpt(0) + b"DATA\r\n"


@pytest.mark.parametrize("code", [500, 502, 521, 530])
def test_a_server_that_does_not_know_the_probe_gets_no_chunk_any_more(code: int) -> None:
    client = Client()
    first = message()
    client.write(first)
    assert client.read(b"250 a\r\n%d no\r\n250 reset\r\n250 a\r\n250 b\r\n" % code) == [first]
    assert seen(first) == [(N, None)]
    assert isinstance(first.error, ConnectionLost)
    assert first.transaction.refuses_chunks
    assert client.window.must_close
    assert not client.traits.takes_chunks


@pytest.mark.parametrize("octets", [b"", b"250 a\r\n", b"250 a\r\n503 no\r\n"])
def test_a_connection_that_ends_at_the_proof_is_no_proof(octets: bytes) -> None:
    """Exchange hung on BDAT; others close."""
    for end in (b"", None):
        client = Client()
        first = message()
        client.write(first)
        if octets:
            client.read(octets)
        done = client.read(b"") if end is not None else client.window.fail(SMTPTimeout("no reply"))
        assert done == [first]
        assert seen(first) == [(N, None)]
        assert not client.traits.takes_chunks


def test_a_421_at_the_proof_is_any_421() -> None:
    for replies in (b"421 going down\r\n", b"250 a\r\n421 going down\r\n", b"250 a\r\n503 no\r\n421 down\r\n"):
        client = Client()
        first = message()
        client.write(first)
        assert client.read(replies) == [first]
        assert isinstance(first.error, ServiceUnavailable)
        assert first.transaction.was_cut
        assert client.traits.takes_chunks


def test_a_refused_envelope_behind_a_good_proof_is_a_refusal_and_the_proof_stands() -> None:
    client = Client()
    first = message()
    client.write(first)
    assert client.read(PROVED + b"550 no\r\n503 b\r\n") == [first]
    assert isinstance(first.error, SenderRefused)
    assert client.window.is_proved
    assert not client.window.must_close
    assert client.write(message()) == MAIL + rcpt(0)  # the content waits, as after every failure
    assert client.read(b"250 a\r\n250 b\r\n") == []
    assert client.write() == b"BDAT 5 LAST\r\nxxxxx"
    assert len(client.read(b"250 taken\r\n")) == 1
    assert client.write(message()) == MAIL + rcpt(0) + b"BDAT 5 LAST\r\nxxxxx"


# How content travels


def test_data_where_chunks_are_not_asked_for_or_not_offered_or_the_size_is_not_known_or_too_much() -> None:
    for client, one in (
        (Client(chunking=False), message()),
        (Client(pipelining=False), message()),
        (Client(greeted("BURL imap")), message()),  # Dovecot's submission server
        (Client(greeted("LIMITS MAILMAX=1")), message()),  # the proof has a MAIL of its own
        (Client(), message(size=None)),
        (Client(), message(size=1_000_001)),
    ):
        client.write(one)
        assert one.transaction.transfer is Transfer.DATA


def test_where_no_size_is_offered_chunks_end_at_64_kib() -> None:
    connection = greeted()
    connection.extensions._keywords = {}
    connection.extensions.__dict__.pop("size", None)
    for size, transfer in ((MAX_ONE_CHUNK_BYTES, Transfer.PROOF), (MAX_ONE_CHUNK_BYTES + 1, Transfer.DATA)):
        one = message(size=size)
        Client(connection).window.begin(one)
        assert one.transaction.transfer is transfer


def test_after_a_rest_the_content_waits_for_the_replies_to_its_envelope() -> None:
    """Section 4: so that what is lost is certainly not sent."""
    client = Client()
    client.prove()
    one = message()
    assert client.write(one, has_rested=True) == MAIL + rcpt(0)
    assert client.read(b"") == [one]
    assert seen(one) == [(N, None)]
    assert one.transaction.died_idle


def test_require_all_with_several_recipients_waits_for_their_replies() -> None:
    client = Client()
    client.prove()
    one = message(2, require_all=True)
    assert client.write(one) == MAIL + rcpt(0, 1)
    assert client.read(b"250 a\r\n250 b\r\n550 c\r\n") == [one]
    assert seen(one) == [(N, None), (R, 550)]
    assert client.write(message()).startswith(b"RSET\r\n" + MAIL)


def test_large_content_travels_alone_and_each_chunk_waits_for_the_one_before_the_last() -> None:
    client = Client()
    client.prove()
    large = message(size=MAX_CHUNK_BYTES * 3)
    small = message()
    client.window.begin(small)
    client._more(small)
    assert not client.window.has_room_for(large)
    client.read(b"250 a\r\n250 b\r\n250 taken\r\n")
    assert client.window.has_room_for(large)
    client.window.begin(large)
    transaction = large.transaction
    assert transaction.next_flight() == MAIL + rcpt(0)
    assert not transaction.wants_content
    client.read(b"250 a\r\n250 b\r\n")
    transaction.next_flight()
    for _ in range(2):
        assert transaction.wants_content
        assert transaction.send_content(b"x" * 10) == b"BDAT 10\r\n" + b"x" * 10
    assert not transaction.wants_content
    assert transaction.is_open
    assert transaction.phase == "content"
    assert not client.window.may_begin
    client.read(b"250 10 octets\r\n")
    assert transaction.wants_content
    assert transaction.send_content(b"yy", last=True) == b"BDAT 2 LAST\r\nyy"
    assert client.read(b"250 10 octets\r\n") == []
    assert client.read(b"250 taken\r\n") == [large]
    assert seen(large) == [(A, 250)]


def with_chunks_owed(code: int = 0) -> tuple[Client, Submission]:
    client = Client()
    client.prove()
    large = message(size=MAX_ONE_CHUNK_BYTES + 1)
    client.window.begin(large)
    large.transaction.next_flight()
    client.read(b"250 a\r\n250 b\r\n")
    large.transaction.next_flight()
    large.transaction.send_content(b"x" * 10)
    large.transaction.send_content(b"y" * 10)
    if code:
        client.read(b"%d no\r\n" % code)
    return client, large


@pytest.mark.parametrize("code", [552, 451])
def test_nothing_is_written_behind_a_refused_chunk_and_the_next_message_is_preceded_by_rset(code: int) -> None:
    client, large = with_chunks_owed(code)
    assert not large.transaction.wants_content
    assert not large.transaction.is_open
    assert not large.transaction.is_done  # the other chunk's reply is owed
    assert client.read(b"503 no\r\n") == [large]
    assert seen(large) == [(R, code)]
    assert isinstance(large.error, MessageRefused)
    assert large.error.command == "BDAT"
    assert not client.window.must_close
    assert client.write(message()).startswith(b"RSET\r\n" + MAIL)


@pytest.mark.parametrize("code", [500, 502, 521, 530])
def test_a_chunk_that_is_no_command_there_closes_the_connection_and_is_remembered(code: int) -> None:
    client, large = with_chunks_owed(code)
    assert client.read(b"503 no\r\n") == [large]
    assert large.transaction.refuses_chunks
    assert client.window.must_close
    assert not client.traits.takes_chunks


def test_a_refused_chunk_behind_which_the_last_one_was_written_ends_at_its_reply() -> None:
    client, large = with_chunks_owed()
    client.read(b"250 ten\r\n")
    large.transaction.send_content(b"z", last=True)
    client.read(b"552 too much\r\n")
    assert not large.is_done or not large.transaction.is_done
    assert client.read(b"503 no\r\n") == [large]
    assert seen(large) == [(R, 552)]


def test_a_last_chunk_that_is_taken_behind_a_refused_one_is_nothing_that_anybody_can_know() -> None:
    client, large = with_chunks_owed()
    client.read(b"250 ten\r\n")
    large.transaction.send_content(b"z", last=True)
    client.read(b"552 too much\r\n")
    assert client.read(b"250 taken\r\n") == [large]
    assert seen(large) == [(U, None)]
    assert isinstance(large.error, DeliveryUnknown)
    assert isinstance(large.error.__cause__, RemoteProtocolError)
    assert client.window.must_close


def test_a_chunk_that_is_acknowledged_before_it_left_breaks_the_protocol() -> None:
    client, large = with_chunks_owed()
    assert client.read(b"250 ten\r\n250 twenty\r\n", unsent=1) == [large]
    assert isinstance(large.error, RemoteProtocolError)
    assert seen(large) == [(N, None)]
    assert client.window.must_close


@pytest.mark.parametrize("end", [b"", b"2"])
def test_a_chunk_that_was_refused_stays_so_if_the_connection_ends(end: bytes) -> None:
    """Section 4: a refusal that was read stays a refusal."""
    client, large = with_chunks_owed(552)
    assert client.read(end) + client.read(b"") == [large]
    assert isinstance(large.error, MessageRefused)
    assert seen(large) == [(R, 552)]


def test_a_chunk_that_is_refused_before_it_left_closes_the_connection() -> None:
    client, large = with_chunks_owed()
    client.read(b"250 ten\r\n")
    assert client.read(b"552 too much\r\n", unsent=1) == [large]
    assert seen(large) == [(R, 552)]
    assert client.window.must_close


def test_a_chunk_refused_by_421_is_a_421() -> None:
    client, large = with_chunks_owed()
    assert client.read(b"421 going down\r\n") == [large]
    assert isinstance(large.error, ServiceUnavailable)
    assert seen(large) == [(N, None)]


# Windows of chunks


def test_messages_share_a_write_and_each_is_preceded_by_rset() -> None:
    """R23: without it Exim delivered the second message under the first one's sender."""
    client = Client()
    client.prove()
    first, second = message(), message()
    one = MAIL + rcpt(0) + b"BDAT 5 LAST\r\nxxxxx"
    assert client.write(first, second) == one + b"RSET\r\n" + one
    assert client.read(b"250 a\r\n250 b\r\n250 one\r\n") == [first]
    assert client.window.oldest is second
    assert client.read(b"250 reset\r\n250 a\r\n250 b\r\n250 two\r\n") == [second]
    assert seen(first) == seen(second) == [(A, 250)]


def ready(*messages: Submission) -> Client:
    client = Client(in_flight=8)
    client.prove()
    client.write(*messages)
    return client


CLEAN = b"250 reset\r\n250 a\r\n250 b\r\n250 taken\r\n"


@pytest.mark.parametrize(
    ("replies", "outcome", "error"),
    [
        (b"550 no\r\n503 b\r\n503 c\r\n", R, SenderRefused),
        (b"250 a\r\n550 b\r\n503 c\r\n", R, RecipientsRefused),
        (b"250 a\r\n250 b\r\n552 c\r\n", R, MessageRefused),
    ],
)
def test_a_refused_message_touches_none_behind_it_and_the_window_shrinks(
    replies: bytes, outcome: Outcome, error: type[Exception]
) -> None:
    first, second = message(), message()
    client = ready(first, second)
    assert client.read(replies + CLEAN) == [first, second]
    assert seen(first)[0][0] is outcome
    assert isinstance(first.error, error)
    assert seen(second) == [(A, 250)]
    assert not client.window.must_close


def test_a_chunk_that_is_taken_for_nobody_is_the_last_thing_that_is_begun_there() -> None:
    """RFC 3030 2: it must be refused. Whether a transaction is open at this server now, nobody knows."""
    first, second = message(), message()
    client = ready(first, second)
    assert client.read(b"250 a\r\n550 b\r\n250 taken\r\n" + CLEAN) == [first, second]
    assert seen(first) == [(R, 550)]
    assert seen(second) == [(A, 250)]  # RSET came before it
    assert client.window.must_close


def test_the_window_shrinks_to_one_after_trouble_and_doubles_with_each_clean_message() -> None:
    """Section 4: Exim ends the session at the fourth command that fails."""
    bad = message()
    client = ready(bad)
    client.read(b"550 no\r\n503 b\r\n503 c\r\n")
    one = message()
    assert client.write(one) == b"RSET\r\n" + MAIL + rcpt(0)
    assert not client.window.may_begin
    client.read(b"250 r\r\n250 a\r\n250 b\r\n")
    client.write()
    assert not client.window.may_begin
    client.read(b"250 c\r\n")
    assert seen(one) == [(A, 250)]
    for allowed in (2, 8, 8):
        begun: list[Submission] = []
        while client.window.may_begin and len(begun) < 20:
            begun.append(message())
            client.write(begun[-1])
        assert len(begun) == allowed
        client.read(b"250 a\r\n250 b\r\n250 c\r\n" + CLEAN * (allowed - 1))
        assert all(seen(one) == [(A, 250)] for one in begun)


def test_a_message_behind_failures_is_certainly_not_sent_where_the_server_has_had_enough_of_them() -> None:
    """R1, R11: Exim answers the tenth RSET of messages that failed with 554, and closes."""
    bad, one = message(), message()
    client = ready(bad)
    client.read(b"250 a\r\n550 b\r\n503 c\r\n")
    assert client.write(one) == b"RSET\r\n" + MAIL + rcpt(0)
    with pytest.raises(RemoteProtocolError, match="RSET") as caught:
        client.read(b"554 Too many nonmail commands\r\n")
    assert client.window.fail(caught.value) == [one]
    assert seen(one) == [(N, None)]
    assert one.transaction.died_idle
    assert one.transaction.was_cut


def test_a_reply_to_rset_that_is_none_is_no_refusal_and_nothing_goes_again() -> None:
    """R4, R11."""
    bad, one = message(), message()
    client = ready(bad)
    client.read(b"250 a\r\n550 b\r\n503 c\r\n")
    client.write(one)
    with pytest.raises(RemoteProtocolError, match="RSET") as caught:
        client.read(b"354 go\r\n")
    assert client.window.fail(caught.value) == [one]
    assert not one.transaction.died_idle
    assert not one.transaction.was_cut


def test_mail_refused_and_the_message_taken_is_nothing_that_anybody_can_know() -> None:
    """Section 4, "Windows"; and what is still to be read cannot be trusted."""
    for replies in (b"550 no\r\n250 b\r\n250 c\r\n", b"550 no\r\n503 b\r\n250 c\r\n", b"550 no\r\n250 b\r\n554 c\r\n"):
        first, second = message(), message()
        client = ready(first, second)
        assert client.read(replies) == [first, second]
        for one in (first, second):
            assert seen(one) == [(U, None)]
            assert isinstance(one.error, DeliveryUnknown)
        assert client.window.must_close


def test_at_most_256_kib_are_unacknowledged() -> None:
    client = Client()
    client.prove()
    large = [message(size=MAX_ONE_CHUNK_BYTES) for _ in range(4)]
    client.write(*large)
    assert not client.window.has_room_for(message(size=1))
    assert client.window.has_room_for(message(size=None))  # with DATA: its content waits for all of them
    client.read(b"250 a\r\n250 b\r\n250 taken\r\n")
    assert client.window.has_room_for(message(size=MAX_ONE_CHUNK_BYTES))
    assert not client.window.has_room_for(message(size=MAX_ONE_CHUNK_BYTES + 1))


def test_data_behind_chunks_is_preceded_by_rset() -> None:
    client = Client()
    client.prove()
    assert client.write(message(), message(size=None)).endswith(b"RSET\r\n" + MAIL + rcpt(0) + b"DATA\r\n")


def test_what_the_stream_did_not_take_is_not_sent_and_the_rest_unknown() -> None:
    """R1: several messages in one write, and the write failed in the middle."""
    first, second, third = message(), message(), message()
    client = ready(first, second, third)
    done = client.window.fail(ConnectionLost("reset"), unsent=len(MAIL))
    assert done == [first, second, third]
    assert [seen(one) for one in done] == [[(U, None)], [(U, None)], [(N, None)]]
    assert isinstance(third.error, ConnectionLost)
    assert third.transaction.was_cut
    assert not first.transaction.was_cut


@pytest.mark.parametrize(
    "answered", [b"421 too many\r\n", b"250 a\r\n421 too many\r\n", b"250 a\r\n250 b\r\n421 x\r\n"]
)
def test_a_421_with_nothing_but_the_end_behind_it_is_certain_for_all_behind(answered: bytes) -> None:
    """RFC 5321 3.8."""
    first, second = message(), message()
    client = ready(first, second)
    assert client.read(answered + b"") in ([], [first])
    client.read(b"")
    assert seen(first)[0][0] in (N, R)
    assert first.error is not None
    assert first.error.retryable
    assert seen(second) == [(N, None)]
    assert isinstance(second.error, ServiceUnavailable)
    assert second.transaction.was_cut


def test_counting_goes_on_behind_a_421() -> None:
    first, second = message(), message()
    client = ready(first, second)
    assert client.read(b"250 a\r\n250 b\r\n421 full\r\n" + CLEAN) == [first, second]
    assert seen(first) == [(R, 421)]
    assert isinstance(first.error, MessageRefused)
    assert seen(second) == [(A, 250)]
    assert client.window.must_close


def test_counting_goes_on_behind_a_421_to_an_envelope() -> None:
    first = message(2)
    client = ready(first)
    assert client.read(b"250 a\r\n421 b\r\n250 c\r\n250 taken\r\n") == [first]
    assert seen(first) == [(R, 421), (A, 250)]
    first = message()
    client = ready(first)
    assert client.read(b"250 a\r\n421 b\r\n503 taken\r\n") == [first]
    assert seen(first) == [(N, None)]
    assert isinstance(first.error, ServiceUnavailable)
    first = message()
    client = ready(first)
    assert client.read(b"421 a\r\n503 b\r\n503 c\r\n") == [first]
    assert seen(first) == [(N, None)]
    assert isinstance(first.error, ServiceUnavailable)


@pytest.mark.parametrize("behind", [b"2", b"250", b"junk\r\n"])
def test_a_421_with_octets_behind_it_leaves_unknown_what_was_handed_over(behind: bytes) -> None:
    first, second = message(), message()
    client = ready(first, second)
    client.read(b"250 a\r\n250 b\r\n421 full\r\n")
    try:
        client.read(behind)
        client.read(b"")
    except RemoteProtocolError as error:
        client.window.fail(error)
    assert seen(second) == [(U, None)]


def test_a_421_and_then_silence_is_certain_too() -> None:
    first, second = message(), message()
    client = ready(first, second)
    client.read(b"250 a\r\n250 b\r\n421 full\r\n")
    client.window.fail(SMTPTimeout("no reply"))
    assert seen(second) == [(N, None)]


@pytest.mark.parametrize("code", [500, 502, 521, 530])
def test_bdat_refused_as_a_command_ends_the_connection_after_the_replies_that_are_owed(code: int) -> None:
    first, second = message(), message()
    client = ready(first, second)
    assert client.read(b"250 a\r\n250 b\r\n%d c\r\n" % code) == [first]
    assert first.transaction.refuses_chunks
    assert client.window.must_close
    assert not client.window.may_begin
    assert client.read(CLEAN) == [second]
    assert seen(second) == [(A, 250)]
    assert not client.traits.takes_chunks


def test_mail_out_of_sequence_behind_the_proof_is_a_proof_that_failed() -> None:
    """R11 (c): Dovecot's submission server says 250 to RSET, and the server behind it does not hear of it in time."""
    client = Client()
    one = message()
    client.write(one)
    assert client.read(PROVED + b"503 nested MAIL\r\n503 MAIL first\r\n") == [one]
    assert one.transaction.refuses_chunks
    assert seen(one) == [(N, None)]
    assert isinstance(one.error, ConnectionLost)
    assert client.window.must_close
    assert not client.traits.takes_chunks


# DATA


def up_to_the_next_envelope(traits: ServerTraits | None = None) -> tuple[Client, Submission, Submission]:
    client = Client(chunking=False, traits=traits)
    first, second = message(), message()
    client.write(first)
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    client.write(second)
    return client, first, second


@pytest.mark.parametrize("how", ["end", "error"])
def test_a_server_that_goes_away_over_the_first_thing_behind_a_dot_gets_nothing_there_any_more(how: str) -> None:
    """A proxy that crashes on it must not make each message unknown."""
    client, first, second = up_to_the_next_envelope()
    done = client.read(b"") if how == "end" else client.window.fail(ConnectionLost("reset"))
    assert done == [first, second]
    assert seen(first) == [(U, None)]
    assert seen(second) == [(N, None)]
    assert client.traits.reads_behind_dot is False
    another = Client(chunking=False, traits=client.traits)
    another.write(message())
    another.read(b"250 a\r\n250 b\r\n354 go\r\n")
    another.write()
    assert not another.window.may_begin


def test_a_caller_that_gives_up_says_nothing_of_the_server() -> None:
    client, first, second = up_to_the_next_envelope()
    assert client.window.fail(ConnectionLost("cancelled"), is_our_own=True) == [first, second]
    assert client.traits.reads_behind_dot is None


def test_a_server_that_has_read_behind_a_dot_once_is_trusted_with_it() -> None:
    client, first, second = up_to_the_next_envelope()
    client.read(b"250 taken\r\n250 a\r\n250 b\r\n354 go\r\n")
    client.write()
    assert client.read(b"250 taken\r\n") == [second]
    assert client.traits.reads_behind_dot is True
    another, third, fourth = up_to_the_next_envelope(client.traits)
    assert another.read(b"") == [third, fourth]
    assert client.traits.reads_behind_dot is True
    assert first.error is None


def test_an_end_in_front_of_the_dot_says_nothing_of_what_stands_behind_it() -> None:
    client = Client(chunking=False)
    client.write(message())
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    client.write()
    client.read(b"")
    assert client.traits.reads_behind_dot is None


def test_content_dot_and_the_next_envelope_share_a_write() -> None:
    client = Client(chunking=False)
    first, second = message(), message()
    assert client.write(first) == MAIL + rcpt(0) + b"DATA\r\n"
    assert not client.window.may_begin
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    assert client.write(second) == b"xxxxx\r\n.\r\n" + MAIL + rcpt(0) + b"DATA\r\n"
    assert not client.window.may_begin
    assert client.read(b"250 taken\r\n250 a\r\n250 b\r\n354 go\r\n") == [first]
    assert client.write() == b"xxxxx\r\n.\r\n"


@pytest.mark.parametrize(
    "client",
    [
        Client(chunking=False, in_flight=1),
        Client(greeted("BURL imap"), chunking=False),
        Client(chunking=False, pipelining=False),
        Client(greeted(lmtp=True), chunking=False),
    ],
    ids=["in_flight=1", "Dovecot submission", "lockstep", "LMTP"],
)
def test_where_nothing_may_stand_behind_the_dot(client: Client) -> None:
    first = message()
    client.write(first)
    while not first.transaction.has_left(0):
        command = client.connection.awaiting
        client.read(b"354 go\r\n" if command is not None and command.verb == "DATA" else b"250 ok\r\n" * 1)
        client.write()
    assert not client.window.may_begin
    client.read(b"250 taken\r\n")
    assert seen(first) == [(A, 250)]
    assert client.window.may_begin


def test_haraka_ignores_what_stands_behind_a_dot_and_gets_it_again_in_lockstep() -> None:
    """Section 4, "Servers that differ"."""
    client = Client(chunking=False)
    first, second, third = message(), message(), message()
    client.write(first)
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    client.write(second)
    assert client.read(b"250 taken\r\n503 one at a time\r\n503 x\r\n503 x\r\n") == [first]
    assert not client.traits.reads_behind_dot
    for written, replied in (
        (b"RSET\r\n", b"250 reset\r\n"),
        (MAIL, b"250 a\r\n"),
        (rcpt(0), b"250 b\r\n"),
        (b"DATA\r\n", b"354 go\r\n"),
        (b"xxxxx\r\n.\r\n", b"250 taken\r\n"),
    ):
        assert client.write() == written
        done = client.read(replied)
    assert done == [second]
    assert seen(second) == [(A, 250)]
    assert client.write(third) == MAIL + rcpt(0) + b"DATA\r\n"
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    client.write()
    assert not client.window.may_begin


def test_haraka_with_require_all() -> None:
    client = Client(chunking=False)
    client.write(message())
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    second = message(2, require_all=True)
    assert client.write(second).endswith(MAIL + rcpt(0, 1))
    client.read(b"250 taken\r\n503 a\r\n503 b\r\n503 c\r\n")
    assert client.write() == b"RSET\r\n"


@pytest.mark.parametrize("replies", [b"503 a\r\n550 b\r\n503 c\r\n", b"503 a\r\n503 b\r\n500 c\r\n", b"550 a\r\n" * 3])
def test_other_refusals_behind_a_dot_are_refusals(replies: bytes) -> None:
    client = Client(chunking=False)
    client.write(message())
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    second = message()
    client.write(second)
    client.read(b"250 taken\r\n" + replies)
    assert isinstance(second.error, SenderRefused)
    assert client.traits.reads_behind_dot is not False


def test_503_to_all_is_a_refusal_where_it_did_not_stand_behind_a_dot() -> None:
    client = Client(chunking=False)
    one = message()
    client.write(one)
    client.read(b"503 a\r\n503 b\r\n503 c\r\n")
    assert isinstance(one.error, SenderRefused)


def test_what_stands_behind_a_message_after_which_the_connection_must_be_closed_is_not_sent() -> None:
    """The first one's 250 came before its dot had left: nothing behind it can be trusted."""
    client = Client(chunking=False)
    first, second = message(), message()
    client.write(first)
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    behind = client.write(second)
    assert client.read(b"250 too early\r\n", unsent=len(behind)) == [first, second]
    assert isinstance(first.error, RemoteProtocolError)
    assert seen(first) == seen(second) == [(N, None)]
    assert isinstance(second.error, ConnectionLost)
    assert second.error.__cause__ is first.error
    assert client.window.must_close


def test_a_refusal_that_came_before_the_dot_had_left_is_one_and_closes() -> None:
    """R24; what stands behind it is not sent, and may be sent again."""
    client = Client(chunking=False)
    first, second = message(), message()
    client.write(first)
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    behind = client.write(second)
    assert client.read(b"552 too much\r\n", unsent=len(behind)) == [first, second]
    assert seen(first) == [(R, 552)]
    assert second.transaction.was_cut


def test_the_callers_content_fails() -> None:
    client = Client(chunking=False)
    one = message()
    client.write(one)
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    one.transaction.send_content(b"half")
    assert client.window.refuse_content() == [one]
    assert one.error is None
    assert seen(one) == [(N, None)]
    assert client.window.must_close


def test_postfix_keeps_a_refused_transaction_open_and_what_joined_it_goes_again_elsewhere() -> None:
    """Its end of data was refused by a policy: MAIL is nested, RCPT and DATA are taken, for another message."""
    client = Client(chunking=False)
    first, second = message(), message()
    client.write(first)
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    client.write(second)
    assert client.read(b"550 policy\r\n503 nested MAIL\r\n250 b\r\n354 go\r\n") == [first, second]
    assert seen(second) == [(N, None)]
    assert second.transaction.was_cut
    assert client.window.must_close
    assert client.traits.reads_behind_dot is not False


def test_rset_comes_behind_a_refused_end_of_data() -> None:
    client = Client(chunking=False)
    mail_one(client, b"550 policy\r\n")
    assert client.write(message()).startswith(b"RSET\r\n" + MAIL)


def test_503_to_all_behind_a_refused_end_of_data_goes_again_and_says_nothing_of_the_server() -> None:
    client = Client(chunking=False)
    client.write(message())
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    client.write(message())
    client.read(b"550 policy\r\n503 a\r\n503 b\r\n503 c\r\n")
    assert client.write() == b"RSET\r\n"
    assert client.traits.reads_behind_dot is not False


def test_a_connection_that_has_carried_enough_is_closed_and_the_number_remembered() -> None:
    """OpenSMTPD: 452 4.5.3 to MAIL."""
    client = Client(chunking=False)
    mail_one(client)
    mail_one(client)
    refused = message()
    client.write(refused)
    assert client.read(b"452 4.5.3 too many messages\r\n503 b\r\n503 c\r\n") == [refused]
    assert isinstance(refused.error, SenderRefused)
    assert refused.error.retryable
    assert client.window.must_close
    assert client.traits.max_transactions == 2


def test_exims_421_to_each_mail_of_a_window_is_one_limit() -> None:
    client = Client()
    client.prove()
    first, second, third = message(), message(), message()
    client.write(first, second, third)
    client.read(b"250 a\r\n250 b\r\n250 one\r\n" + b"250 r\r\n421 enough\r\n503 b\r\n503 c\r\n" * 2)
    assert client.traits.max_transactions == 2
    assert seen(second) == seen(third) == [(N, None)]


# Several transactions for one message


def batches(client: Client, one: Submission, *replies: bytes) -> list[bytes]:
    """Run one message to its end; return the RCPT of each transaction."""
    written = []
    for octets in replies:
        flight = client.write(one)
        written.append(b"".join(line + b"\r\n" for line in flight.split(b"\r\n") if line.startswith(b"RCPT")))
        done = client.read(octets)
        if not done:
            client.write()
            done = client.read(b"250 taken\r\n")
        assert done == [one]
    assert one.is_done
    return written


@pytest.mark.parametrize(
    "deferral", [b"452 too many\r\n", b"452 4.5.3 too many\r\n", b"552 5.5.3 x\r\n", b"552 x\r\n", b"451 4.5.3 x\r\n"]
)
def test_recipients_that_are_too_many_go_into_a_further_transaction(deferral: bytes) -> None:
    """RFC 5321 4.5.3.1.10; Postfix at 1,000."""
    one = message(3)
    client = Client(chunking=False)
    written = batches(
        client,
        one,
        b"250 a\r\n250 b\r\n" + deferral * 2 + b"354 go\r\n",
        b"250 a\r\n250 b\r\n" + deferral + b"354 go\r\n",
        b"250 a\r\n250 b\r\n354 go\r\n",
    )
    assert written == [rcpt(0, 1, 2), rcpt(1, 2), rcpt(2)]
    assert seen(one) == [(A, 250)] * 3
    assert one.error is None
    assert one.transactions == 3


@pytest.mark.parametrize(
    "refusal", [b"452 4.2.2 full\r\n", b"552 5.2.2 full\r\n", b"450 x\r\n", b"451 4.4.3 x\r\n", b"550 5.5.3 x\r\n"]
)
def test_other_refusals_are_final(refusal: bytes) -> None:
    one = message(2)
    assert batches(Client(chunking=False), one, b"250 a\r\n250 b\r\n" + refusal + b"354 go\r\n") == [rcpt(0, 1)]
    assert seen(one)[1][0] is R


def test_recipients_of_whom_none_was_taken_are_refused() -> None:
    one = message(2)
    client = Client(chunking=False)
    client.write(one)
    client.read(b"250 a\r\n452 b\r\n452 c\r\n554 d\r\n")
    assert one.is_done
    assert isinstance(one.error, RecipientsRefused)
    assert one.error.reply is not None


def test_a_message_that_was_refused_is_not_sent_to_the_rest() -> None:
    one = message(2)
    client = Client(chunking=False)
    client.write(one)
    client.read(b"250 a\r\n250 b\r\n452 c\r\n354 go\r\n")
    client.write()
    client.read(b"554 no\r\n")
    assert one.is_done
    assert seen(one) == [(R, 554), (R, 452)]


@pytest.mark.parametrize("options", [{"require_all": True}, {"is_repeatable": False}])
def test_require_all_and_content_that_is_read_but_once_never_split(options: dict[str, bool]) -> None:
    one = message(2, **options)
    client = Client(greeted("LIMITS RCPTMAX=1"), chunking=False)
    assert client.write(one).startswith(MAIL + rcpt(0, 1))
    client.read(b"250 a\r\n250 b\r\n452 c\r\n" + (b"" if one.require_all else b"354 go\r\n"))
    client.write()
    client.read(b"" if one.require_all else b"250 taken\r\n")
    assert one.is_done
    assert seen(one)[1] == (R, 452)


def test_rcptmax_splits_beforehand_and_the_refused_of_one_transaction_keep_nobody_from_the_next() -> None:
    """RFC 9422."""
    one = message(5)
    written = batches(
        Client(greeted("LIMITS RCPTMAX=2"), chunking=False),
        one,
        b"250 a\r\n550 b\r\n550 c\r\n503 d\r\n",
        b"250 r\r\n250 a\r\n250 b\r\n550 c\r\n354 go\r\n",
        b"250 a\r\n250 b\r\n354 go\r\n",
    )
    assert written == [rcpt(0, 1), rcpt(2, 3), rcpt(4)]
    assert seen(one) == [(R, 550), (R, 550), (A, 250), (R, 550), (A, 250)]
    assert one.error is None


def test_a_refused_sender_is_refused_for_the_rest_too() -> None:
    one = message(3)
    client = Client(greeted("LIMITS RCPTMAX=2"), chunking=False)
    client.write(one)
    client.read(b"550 a\r\n503 b\r\n503 c\r\n503 d\r\n")
    assert one.is_done
    assert isinstance(one.error, SenderRefused)
    assert [outcome for outcome, _ in seen(one)] == [R, R, N]


def test_what_comes_of_the_rest_does_not_undo_what_was_delivered() -> None:
    one = message(2)
    client = Client(chunking=False)
    client.write(one)
    client.read(b"250 a\r\n250 b\r\n452 c\r\n354 go\r\n")
    client.write()
    client.read(b"250 taken\r\n")
    client.write(one)
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    client.write()
    client.read(b"")
    assert seen(one) == [(A, 250), (U, None)]
    assert one.error is None
    assert one.is_done


def test_reopened_the_last_transaction_counts_for_nothing() -> None:
    one = message(2)
    client = Client(chunking=False)
    client.write(one)
    client.read(b"")
    assert one.is_done
    assert isinstance(one.error, ConnectionLost)
    assert one.transaction.died_idle
    one.reopen()
    assert not one.is_done
    assert one.error is None
    assert one.transactions == 0
    assert batches(Client(chunking=False), one, b"250 a\r\n250 b\r\n250 c\r\n354 go\r\n") == [rcpt(0, 1)]


def test_stopped_a_message_has_no_further_transaction() -> None:
    one = message(2)
    one.stop()
    assert one.is_done
    assert seen(one) == [(N, None)] * 2


# Limits of a connection


def mail_one(client: Client, end: bytes = b"250 taken\r\n") -> Submission:
    one = message()
    client.write(one)
    client.read(b"250 a\r\n250 b\r\n354 go\r\n")
    client.write()
    client.read(end)
    return one


def test_mailmax_and_the_callers_own_limit_end_the_connection() -> None:
    for client in (Client(greeted("LIMITS MAILMAX=2"), chunking=False), Client(chunking=False, max_transactions=2)):
        mail_one(client)
        assert client.window.may_begin
        assert not client.window.is_spent
        mail_one(client)
        assert client.window.is_spent
        assert not client.window.may_begin


def closed_after(messages: int, how: bytes, traits: ServerTraits) -> None:
    client = Client(chunking=False)
    client.traits = traits
    client.window = Window(client.connection, traits=traits)
    for _ in range(messages):
        mail_one(client)
    if how == b"421 unasked\r\n":
        client.read(how)
    else:
        client.write(message())
        client.read(how)
    assert client.window.must_close or client.connection.state is State.CLOSING


@pytest.mark.parametrize("how", [b"421 too many\r\n", b"421 unasked\r\n"])
def test_the_number_of_messages_before_a_421_limits_the_next_connections(how: bytes) -> None:
    traits = ServerTraits()
    closed_after(3, how, traits)
    assert traits.max_transactions == 3
    for _ in range(16):  # then the server's reason may be long gone
        client = Client(chunking=False)
        client.window = Window(client.connection, traits=traits, max_transactions=10)
        for _ in range(3):
            mail_one(client)
        assert client.window.is_spent
    assert traits.max_transactions is None


def test_a_421_before_any_message_limits_nothing() -> None:
    traits = ServerTraits()
    closed_after(0, b"421 too many connections\r\n", traits)
    assert traits.max_transactions is None


def test_the_callers_own_limit_is_not_taken_for_one_that_was_learnt() -> None:
    traits = ServerTraits(max_transactions=5)
    client = Client(chunking=False)
    client.window = Window(client.connection, traits=traits, max_transactions=2)
    mail_one(client)
    mail_one(client)
    assert client.window.is_spent
    assert traits == ServerTraits(max_transactions=5)


# LMTP


def lmtp() -> Client:
    client = Client(greeted(lmtp=True))
    first = message()
    assert client.write(first) == PROOF + MAIL + rcpt(0)
    client.read(PROVED + b"250 a\r\n250 b\r\n")
    assert client.write() == b"BDAT 5 LAST\r\nxxxxx"
    assert client.read(b"250 taken\r\n") == [first]
    return client


def test_in_lmtp_a_message_in_one_chunk_has_a_verdict_for_each_recipient_and_nothing_behind_it() -> None:
    """RFC 2033 4.2."""
    client = lmtp()
    one = message(3)
    assert client.write(one) == MAIL + rcpt(0, 1, 2) + b"BDAT 5 LAST\r\nxxxxx"
    assert not client.window.may_begin
    assert client.read(b"250 a\r\n250 b\r\n550 c\r\n250 d\r\n250 one\r\n452 4.2.2 full\r\n") == [one]
    assert seen(one) == [(A, 250), (R, 550), (R, 452)]


def test_in_lmtp_a_chunk_for_nobody_has_one_reply() -> None:
    """Dovecot: one 503."""
    client = lmtp()
    one = message(2)
    client.write(one)
    assert client.read(b"250 a\r\n550 b\r\n550 c\r\n503 nobody\r\n") == [one]
    assert isinstance(one.error, RecipientsRefused)
    assert not client.window.must_close


def test_in_lmtp_one_503_for_several_recipients_ends_the_session() -> None:
    client = lmtp()
    one = message(2)
    client.write(one)
    assert client.read(b"250 a\r\n250 b\r\n250 c\r\n503 no\r\n") == [one]
    assert [outcome for outcome, _ in seen(one)] == [R, R]
    assert client.window.must_close


# The window as such


def test_an_empty_window_takes_events_and_the_end() -> None:
    client = Client()
    assert len(client.window) == 0
    assert client.window.newest is None
    assert client.window.oldest is None
    assert client.window.fail(ConnectionLost("over")) == []
    assert client.window.must_close
    assert client.window.reason == "over"
    client.window.fail(ConnectionLost("again"))
    assert client.window.reason == "over"


def test_a_reply_that_belongs_to_no_message_is_not_the_windows_affair() -> None:
    client = Client()
    from smtplite.protocol import Noop

    client.connection.send(Noop())
    assert client.read(b"250 ok\r\n") == []


def test_nothing_begins_once_the_server_says_it_closes() -> None:
    client = Client()
    client.read(b"421 going down\r\n")
    assert not client.window.may_begin
    assert not client.window.has_room_for(message())


def all_outcomes(ones: Iterable[Submission]) -> set[Outcome]:
    return {outcome for one in ones for outcome, _ in seen(one)}


@pytest.mark.parametrize("cut", range(120))
def test_wherever_a_window_is_cut_what_was_refused_or_taken_stays_so(cut: int) -> None:
    replies = (
        b"250 a\r\n250 b\r\n250 one\r\n250 r\r\n550 no\r\n503 b\r\n503 c\r\n250 r\r\n250 a\r\n250 b\r\n452 full\r\n"
        b"250 r\r\n250 a\r\n250 b\r\n250 four\r\n"
    )
    ones = [message() for _ in range(4)]
    client = ready(*ones)
    client.read(replies[:cut])
    client.read(b"")
    assert all(one.is_done for one in ones)
    want = [A, R, R, A]
    ends = [replies.index(mark) + len(mark) for mark in (b"one\r\n", b"no\r\n", b"full\r\n", b"four\r\n")]
    for one, outcome, end in zip(ones, want, ends, strict=True):
        assert seen(one)[0][0] is (outcome if cut >= end else U)
    assert U not in all_outcomes(ones) or cut < len(replies)


def test_what_was_or_may_have_been_delivered_is_not_sent_again() -> None:
    """R1, R11: reopen refuses it, and nothing changes; also where asserts do nothing (`test_source`)."""
    for outcomes in ("delivered", "lost behind the dot"):
        client, one = Client(chunking=False), message(2)
        client.write(one)
        client.read(b"250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n")
        client.write()
        if outcomes == "delivered":
            client.read(b"250 taken\r\n")
        else:
            client.window.fail(ConnectionLost("reset"))
        assert one.is_done
        before = (one.outcomes, one.error, one.transactions, one.transaction)
        with pytest.raises(LocalProtocolError, match="cannot be sent again"):
            one.reopen()
        assert (one.outcomes, one.error, one.transactions, one.transaction) == before
        assert one.is_done


def test_a_message_that_was_fitted_to_no_server_cannot_begin() -> None:
    client, one = Client(chunking=False), Submission(1)
    with pytest.raises(LocalProtocolError, match="fit"):
        client.window.begin(one)
    assert not len(client.window)
    assert client.window.begun == 0
    assert not one.transactions
    one.fit(Mail("me@x.example"), [Rcpt("you@x.example")], None)
    assert client.window.begin(one).next_flight().startswith(b"MAIL")


def test_a_reopened_message_knows_the_transaction_before() -> None:
    """A message in two transactions, of which the second is sent again elsewhere."""
    client, one = Client(chunking=False), message(2)
    client.write(one)
    client.read(b"250 ok\r\n250 ok\r\n452 many\r\n354 go\r\n")
    client.write()
    client.read(b"250 taken\r\n")
    first = one.transaction
    client.write(one)
    assert one.transaction is not first
    client.window.fail(ConnectionLost("reset"))
    one.reopen()
    assert one.transaction is first
    assert one.transactions == 1
    assert not one.is_done
