"""What the protocol core costs without I/O, beside the whole send of aiosmtplib; and whether a reply stays cheap.

Run::

    python benchmarks/core.py            # about 20 s; --quick: a few seconds, noisier

It needs aiosmtplib for the first part, which is skipped without it. Everything stays on loopback and on one core.

It prints:

1. *One message*: CPU time of the client process, in µs. The core's is ours without any I/O: Mail, Rcpt and BdatLast
   made anew, every address a new one and parsed, sent, and their three replies (the verdict a new one) read from one
   block, on a connection with PIPELINING, CHUNKING and ENHANCEDSTATUSCODES. aiosmtplib's is its whole send of the same
   message of 1 KiB on one warm connection, the kernel's part included, to a minimal server in another process: once as
   `send_message` of an EmailMessage, once as `sendmail` of bytes. The goal is a ratio of at most 0.10 to the former.
   The server does not offer SIZE, so that both send the same parameters: none. Then a message of DATA through
   Transaction, whose content is also normalised and dot-stuffed.
2. *One reply*: the CPU time of reading one reply to RCPT while 5,000 of them share one write, against 100, through
   Transaction and through a bare Connection. The goal is a ratio of at most 1.5: the cost does not grow with the queue.
   What sending one RCPT costs, and deciding its outcome at the end, is printed beside it.

Each line comes from rounds of A B A B ..., and gives the median of the rounds' ratios and their spread. No absolute
time is a test: the exit status is 0 whatever the numbers are.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from importlib.metadata import PackageNotFoundError, version

from smtplite import __version__
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

try:
    import aiosmtplib
except ImportError:
    aiosmtplib = None  # type: ignore[assignment]

ROUNDS = 5
SINK_SECONDS = 120  # after which the server ends whatever happens
READ_BYTES = 65_536  # what one read of a socket gives at most

SENDER = "sender@example.org"
EHLO_REPLY = (
    b"250-mx.example.com\r\n250-PIPELINING\r\n250-8BITMIME\r\n"
    b"250-CHUNKING\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n"
)
OK_MAIL = b"250 2.1.0 Ok\r\n"
OK_RCPT = b"250 2.1.5 Ok\r\n"
OK_DATA = b"354 End data with <CR><LF>.<CR><LF>\r\n"
OK_CONTENT = b"250 2.0.0 Ok: queued as 4bXyZ12345z9QQ\r\n"


def message_of_1_kib() -> EmailMessage:
    message = EmailMessage()
    message["From"] = SENDER
    message["To"] = "recipient@example.com"
    message["Subject"] = "A small message"
    message["Date"] = "Mon, 01 Jan 2024 00:00:00 +0000"
    message["Message-ID"] = "<20240101000000.1@example.org>"
    line = "The quick brown fox jumps over the lazy dog, again and again and again."
    message.set_content("\n".join([line] * 10) + "\n")
    short_of = 1024 - len(as_wire(message))
    message.set_content("\n".join([line] * 10 + [line[: short_of - 2]]) + "\n")
    return message


def as_wire(message: EmailMessage) -> bytes:
    return message.as_bytes(policy=message.policy.clone(linesep="\r\n"))


# --- the server: as little as aiosmtplib can do with -----------------------------------------------------------------


class Sink(asyncio.Protocol):
    """Says yes to everything, and reads content until its lone dot."""

    def __init__(self) -> None:
        self.buffer = b""
        self.in_content = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"220 mx.example.com ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            line, end, rest = self.buffer.partition(b"\r\n.\r\n" if self.in_content else b"\r\n")
            if not end:
                return
            self.buffer = rest
            if self.in_content:
                self.in_content = False
                self.transport.write(OK_CONTENT)
                continue
            verb = line[:4].upper()
            if verb == b"EHLO":
                self.transport.write(EHLO_REPLY)
            elif verb == b"DATA":
                self.in_content = True
                self.transport.write(OK_DATA)
            elif verb == b"QUIT":
                self.transport.write(b"221 2.0.0 Bye\r\n")
                self.transport.close()
            else:
                self.transport.write(OK_MAIL if verb == b"MAIL" else OK_RCPT)


async def serve() -> None:
    """Print the port, and serve until stdin ends: that is when our parent does, in whatever way."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def wait_for_parent() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(stop.set)

    server = await loop.create_server(Sink, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    threading.Thread(target=wait_for_parent, daemon=True).start()
    loop.call_later(SINK_SECONDS, stop.set)
    await stop.wait()
    server.close()


@contextmanager
def sink_in_another_process() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, __file__, "--sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


# --- measuring -------------------------------------------------------------------------------------------------------

Measurement = Callable[[], float]  # returns µs of one message, or of one reply


def rounds(a: Measurement, b: Measurement) -> tuple[list[float], list[float]]:
    """Measure A B A B ...; the first round only warms up."""
    times_a, times_b = [], []
    for number in range(ROUNDS + 1):
        gc.collect()
        time_a = a()
        gc.collect()
        time_b = b()
        if number:
            times_a.append(time_a)
            times_b.append(time_b)
    return times_a, times_b


def ratio(times_a: list[float], times_b: list[float]) -> str:
    ratios = sorted(a / b for a, b in zip(times_a, times_b, strict=True))
    return f"{statistics.median(ratios):.3f}  ({ratios[0]:.3f} to {ratios[-1]:.3f})"


def met(times_a: list[float], times_b: list[float], goal: float) -> str:
    value = statistics.median(a / b for a, b in zip(times_a, times_b, strict=True))
    return f"goal <= {goal:.2f}: {'met' if value <= goal else 'MISSED'}"


def us(times: list[float]) -> str:
    return f"{statistics.median(times):8.2f} µs"


# --- one message -----------------------------------------------------------------------------------------------------


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


def verdict(number: int) -> bytes:
    """Return a reply that no other message gets: servers put the queue's identifier there."""
    return b"250 2.0.0 Ok: queued as 4bXyZ%09d\r\n" % number


def core_with_bdat(content: bytes, count: int) -> float:
    """µs of one message through Connection, all of it in one write; every address and every verdict is new."""
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
    return elapsed / count * 1e6


def core_with_data(content: bytes, count: int) -> float:
    """µs of one message through Transaction, with DATA; every address and every verdict is new."""
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
        transaction.send_content(content) + transaction.end_content()
        connection.receive_data(last)
        while (event := connection.next_event()) is not None:
            transaction.receive(event)
        accepted += transaction.outcomes[0].outcome is Outcome.ACCEPTED
    elapsed = time.process_time() - start
    assert accepted == count
    return elapsed / count * 1e6


def compare_messages(message: EmailMessage, content: bytes, count: int) -> None:
    if aiosmtplib is None:
        print("   skipped: aiosmtplib is not installed")
        return
    with sink_in_another_process() as port, asyncio.Runner() as runner:
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, use_tls=False, start_tls=False, timeout=30)

        def send_message() -> float:
            async def send() -> float:
                start = time.process_time()
                for _ in range(count):
                    await client.send_message(message)
                return time.process_time() - start

            return runner.run(send()) / count * 1e6

        def sendmail() -> float:
            async def send() -> float:
                start = time.process_time()
                for _ in range(count):
                    await client.sendmail(SENDER, ["recipient@example.com"], content)
                return time.process_time() - start

            return runner.run(send()) / count * 1e6

        runner.run(client.connect())
        core_count = count * 20
        core, whole = rounds(lambda: core_with_bdat(content, core_count), send_message)
        print(f"   the core, BDAT                      {us(core)}")
        print(f"   aiosmtplib, send_message            {us(whole)}")
        print(f"   ratio                               {ratio(core, whole)}   {met(core, whole, 0.10)}")
        core, whole = rounds(lambda: core_with_bdat(content, core_count), sendmail)
        print(f"   aiosmtplib, sendmail(bytes)         {us(whole)}")
        print(f"   ratio of the core to that           {ratio(core, whole)}")
        core, whole = rounds(lambda: core_with_data(content, core_count), send_message)
        print(f"   the core, DATA by Transaction       {us(core)}")
        print(f"   ratio of that to send_message       {ratio(core, whole)}")
        runner.run(client.quit())


# --- one reply -------------------------------------------------------------------------------------------------------

Stages = tuple[float, float, float]  # µs for each recipient: to send its RCPT, to read its reply, to decide its outcome


def blocks(data: bytes) -> list[bytes]:
    """Cut what the server sends as reads of a socket would."""
    return [data[start : start + READ_BYTES] for start in range(0, len(data), READ_BYTES)]


def by_transaction(recipients: int, repeat: int) -> Stages:
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
        transaction.send_content(b"x\r\n")
        transaction.end_content()
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
    return sending / total, reading / total, deciding / total


def by_connection(recipients: int, repeat: int) -> Stages:
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
    return sending / total, reading / total, 0.0


def compare_replies(measure: Callable[[int, int], Stages], repeat: int) -> None:
    few, many = 100, 5000
    at_few: list[Stages] = []
    at_many: list[Stages] = []

    def many_recipients() -> float:
        at_many.append(measure(many, repeat))
        return at_many[-1][1]

    def few_recipients() -> float:
        at_few.append(measure(few, repeat * many // few))
        return at_few[-1][1]

    rounds(many_recipients, few_recipients)
    for stage, name in enumerate(("to send one RCPT", "to read one reply", "to decide one outcome")):
        a = [stages[stage] for stages in at_many[1:]]
        b = [stages[stage] for stages in at_few[1:]]
        if not any(a):
            continue
        goal = f"   {met(a, b, 1.5)}" if stage == 1 else ""
        print(f"   {name:22} {us(b)} at {few:,}, {us(a)} at {many:,}; ratio {ratio(a, b)}{goal}")


# --- the command -----------------------------------------------------------------------------------------------------


def installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} (not installed)"


def pin() -> str:
    """Keep this process, and the server that it starts, on one core: two are too noisy to compare."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned"
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return f"pinned to core {core}"


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of the protocol core; see the docstring.")
    parser.add_argument("--quick", action="store_true", help="fewer messages a round: seconds, but noisier")
    parser.add_argument("--sink", action="store_true", help=argparse.SUPPRESS)  # how this command starts its server
    arguments = parser.parse_args()
    if arguments.sink:
        asyncio.run(serve())
        return
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}, {pin()}\n"
        f"smtplite {__version__}, {installed('attrs')}, {installed('aiosmtplib')}"
        f"\nCPU time of the client process; medians of {ROUNDS} rounds (lowest to highest ratio)\n"
    )
    message = message_of_1_kib()
    content = as_wire(message)
    print(f"1. One message of {len(content):,} octets to one recipient")
    compare_messages(message, content, 60 if arguments.quick else 400)
    repeat = 1 if arguments.quick else 4
    print("2. One reply to RCPT, by Transaction")
    compare_replies(by_transaction, repeat)
    print("   One reply to RCPT, by Connection")
    compare_replies(by_connection, repeat)


if __name__ == "__main__":
    main()
