"""The protocol core without I/O: what a message costs, and whether a reply stays cheap in a long queue.

Run: ``python -m benchmarks --rows core replies``.

*One message*, CPU time: Mail, Rcpt and BdatLast made anew, every address a new one and parsed, sent, and their three
replies (the verdict a new one) read from one block, on a connection with PIPELINING, CHUNKING and ENHANCEDSTATUSCODES.
Beside it stands aiosmtplib's whole send of an EmailMessage of the same size on one warm connection, the kernel's part
included. The server does not offer SIZE, so that both send the same parameters: none. Then a message of DATA through
Transaction, whose content is also normalised and dot-stuffed.

*One reply*, CPU time: of reading one reply to RCPT while 5,000 of them share one write, against 100, through
Transaction and through a bare Connection. What sending one RCPT costs, and deciding its outcome, is measured with it.
"""

from __future__ import annotations

import time
from typing import Final

from benchmarks.work import MESSAGE_BYTES, SENDER, letters
from smtplite.protocol import (
    BdatLast,
    Connection,
    Ehlo,
    Mail,
    Outcome,
    Rcpt,
    Replied,
    Transaction,
)

READ_BYTES: Final = 65_536  # what one read of a socket gives at most
FEW, MANY = 100, 5_000

EHLO_REPLY: Final = (
    b"250-mx.example.com\r\n250-PIPELINING\r\n250-8BITMIME\r\n"
    b"250-CHUNKING\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n"
)
OK_MAIL: Final = b"250 2.1.0 Ok\r\n"
OK_RCPT: Final = b"250 2.1.5 Ok\r\n"
OK_DATA: Final = b"354 End data with <CR><LF>.<CR><LF>\r\n"
OK_CONTENT: Final = b"250 2.0.0 Ok: queued as 4bXyZ12345z9QQ\r\n"


def greeted() -> Connection:
    connection = Connection()
    connection.receive_data(b"220 mx.example.com ESMTP\r\n")
    connection.next_event()
    connection.send(Ehlo("client.example.org"))
    connection.receive_data(EHLO_REPLY)
    connection.next_event()
    assert connection.extensions.pipelining
    assert connection.extensions.chunking
    assert connection.extensions.enhanced_status_codes
    return connection


# One message


def content_of_a_message() -> bytes:
    content = letters(1)[0].octets
    assert len(content) == MESSAGE_BYTES
    return content


def verdict(number: int) -> bytes:
    """Return a reply that no other message gets: servers put the queue's identifier there."""
    return b"250 2.0.0 Ok: queued as 4bXyZ%09d\r\n" % number


def message_by_bdat(count: int) -> dict[str, float]:
    """Return the µs of one message through Connection, all of it in one write; every address and verdict is new."""
    content = content_of_a_message()
    connection = greeted()
    envelopes = [
        (f"sender-{number}@example.org", f"recipient-{number}@example.com", OK_MAIL + OK_RCPT + verdict(number))
        for number in range(count)
    ]
    answered = 0
    start = time.process_time()
    for sender, recipient, replies in envelopes:
        b"".join(
            (
                connection.send(Mail(sender)),
                connection.send(Rcpt(recipient)),
                connection.send(BdatLast(len(content))),
                connection.send_content(content),
            )
        )
        connection.receive_data(replies)
        while (event := connection.next_event()) is not None:
            assert isinstance(event, Replied)
            answered += event.reply.is_positive
    elapsed = time.process_time() - start
    assert answered == 3 * count
    return {"us": elapsed / count * 1e6}


def message_by_data(count: int) -> dict[str, float]:
    """Return the µs of one message through Transaction, with DATA; every address and verdict is new."""
    content = content_of_a_message()
    connection = greeted()
    envelopes = [
        (f"sender-{number}@example.org", f"recipient-{number}@example.com", verdict(number)) for number in range(count)
    ]
    first = OK_MAIL + OK_RCPT + OK_DATA
    accepted = 0
    start = time.process_time()
    for sender, recipient, last in envelopes:
        transaction = Transaction(connection, Mail(sender), [Rcpt(recipient)])
        transaction.next_flight()
        connection.receive_data(first)
        while (event := connection.next_event()) is not None:
            transaction.receive(event)
        assert transaction.wants_content
        transaction.send_content(content, last=True)
        connection.receive_data(last)
        while (event := connection.next_event()) is not None:
            transaction.receive(event)
        accepted += transaction.outcomes[0].outcome is Outcome.ACCEPTED
    elapsed = time.process_time() - start
    assert accepted == count
    return {"us": elapsed / count * 1e6}


# One reply


def blocks(data: bytes) -> list[bytes]:
    """Cut what the server sends as reads of a socket would."""
    return [data[start : start + READ_BYTES] for start in range(0, len(data), READ_BYTES)]


def reply_by_transaction(recipients: int, repeat: int) -> dict[str, float]:
    """Return the µs for each recipient: to read its reply, to send its RCPT, to decide its outcome."""
    connection = greeted()
    replies = blocks(OK_RCPT * recipients)
    sending = reading = deciding = 0.0
    for _ in range(repeat):
        rcpts = [Rcpt(f"recipient-{number}@example.com") for number in range(recipients)]
        t0 = time.process_time()
        transaction = Transaction(connection, Mail(SENDER), rcpts)
        transaction.next_flight()
        t1 = time.process_time()
        connection.receive_data(OK_MAIL)
        while (event := connection.next_event()) is not None:
            transaction.receive(event)
        t2 = time.process_time()
        for block in replies:
            connection.receive_data(block)
            while (event := connection.next_event()) is not None:
                transaction.receive(event)
        t3 = time.process_time()
        connection.receive_data(OK_DATA)
        while (event := connection.next_event()) is not None:
            transaction.receive(event)
        transaction.send_content(b"x\r\n", last=True)
        t4 = time.process_time()
        connection.receive_data(OK_CONTENT)
        while (event := connection.next_event()) is not None:
            transaction.receive(event)
        t5 = time.process_time()
        assert {outcome.outcome for outcome in transaction.outcomes} == {Outcome.ACCEPTED}
        sending += t1 - t0
        reading += t3 - t2
        deciding += t5 - t4
    total = recipients * repeat / 1e6
    return {"us": reading / total, "send_us": sending / total, "decide_us": deciding / total}


def reply_by_connection(recipients: int, repeat: int) -> dict[str, float]:
    """Return the µs for each recipient: to read its reply, to send its RCPT."""
    connection = greeted()
    replies = blocks(OK_RCPT * recipients)
    sending = reading = 0.0
    for _ in range(repeat):
        rcpts = [Rcpt(f"recipient-{number}@example.com") for number in range(recipients)]
        mail = Mail(SENDER)
        connection.send(mail)
        t0 = time.process_time()
        for rcpt in rcpts:
            connection.send(rcpt)
        t1 = time.process_time()
        last = BdatLast(0)
        connection.send(last)
        connection.receive_data(OK_MAIL)
        while connection.next_event() is not None:
            pass
        t2 = time.process_time()
        for block in replies:
            connection.receive_data(block)
            while connection.next_event() is not None:
                pass
        t3 = time.process_time()
        assert connection.pending == (last,)
        connection.receive_data(OK_CONTENT)
        while connection.next_event() is not None:
            pass
        sending += t1 - t0
        reading += t3 - t2
    total = recipients * repeat / 1e6
    return {"us": reading / total, "send_us": sending / total}
