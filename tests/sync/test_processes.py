"""What happens to a process: Ctrl-C, the end of the interpreter, a fork. Each in a process of its own."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from smtplite.sync.loop import EXIT_CANCEL_SECONDS, EXIT_SECONDS
from smtplite.testing import ThreadedServer

from .conftest import PATIENCE_SECONDS, Program

pytestmark = pytest.mark.needs("fork", "signals for other processes")

#: The end of the interpreter takes no longer, whatever the server does; the rest is for a slow machine.
EXIT_AT_MOST_SECONDS = EXIT_SECONDS + 3 * EXIT_CANCEL_SECONDS + 25

#: For programs whose last words count: on a machine that is busy, two seconds may be too short for them.
UNHURRIED = f"""
import smtplite.sync.loop
smtplite.sync.loop.EXIT_SECONDS = {PATIENCE_SECONDS}
"""

Start = Callable[..., Program]


def arrived(server: ThreadedServer) -> list[str]:
    return [str(message.as_email()["Message-ID"]) for message in server.messages]


# Ctrl-C

INTERRUPTED = """
say("begin")
began = time.monotonic()
try:
    client.send(RAW % b"1")
except KeyboardInterrupt:
    say("interrupted")
client.close()
"""


def test_ctrl_c_cancels_what_was_not_handed_over(server: ThreadedServer, program: Start) -> None:
    held = server.hold("MAIL")
    child = program(INTERRUPTED)
    held.wait(timeout=PATIENCE_SECONDS)
    child.process.send_signal(signal.SIGINT)
    assert child.end() == (0, "begin\ninterrupted\n", "")
    held.release()
    assert server.messages == []


def test_ctrl_c_after_the_hand_over_logs_that_the_outcome_is_unknown(server: ThreadedServer, program: Start) -> None:
    held = server.hold("END_OF_DATA")
    child = program(INTERRUPTED)
    held.wait(timeout=PATIENCE_SECONDS)
    child.process.send_signal(signal.SIGINT)
    code, stdout, stderr = child.end()
    assert (code, stdout) == (0, "begin\ninterrupted\n")
    assert "delivery unknown for you@example.org" in stderr
    held.release()


def test_ctrl_c_that_nobody_catches_ends_the_program(server: ThreadedServer, program: Start) -> None:
    held = server.hold("MAIL")
    child = program("client.send(RAW % b'1')")
    held.wait(timeout=PATIENCE_SECONDS)
    child.process.send_signal(signal.SIGINT)
    code, _, stderr = child.end()
    assert code == -signal.SIGINT
    assert stderr.endswith("KeyboardInterrupt\n")
    held.release()


def test_ctrl_c_waits_for_a_second_at_most_if_the_loop_stands_still(server: ThreadedServer, program: Start) -> None:
    child = program(
        """
def trace(event):
    say("stands still")
    threading.Event().wait()

client = SyncClient("127.0.0.1", int(sys.argv[1]), tls="none", trace=trace)
try:
    client.send(RAW % b"1")
except KeyboardInterrupt:
    say("interrupted")
"""
    )
    assert child.line() == "stands still"
    began = time.monotonic()
    child.process.send_signal(signal.SIGINT)
    assert child.line() == "interrupted"
    assert time.monotonic() - began < 1 + 15
    assert child.end() == (0, "", "")
    assert time.monotonic() - began < EXIT_AT_MOST_SECONDS
    assert server.messages == []


def test_ctrl_c_in_a_stream_gives_it_up(server: ThreadedServer, program: Start) -> None:
    held = server.hold("END_OF_DATA")
    child = program(
        """
stream = client.send_many((RAW % b"%d" % n for n in range(1000)), connections=1)
try:
    with stream:
        for delivery in stream:
            pass
except KeyboardInterrupt:
    say("interrupted", sum(type(one.error).__name__ == "DeliveryUnknown" for one in stream.rest))
client.close()
"""
    )
    held.wait(timeout=PATIENCE_SECONDS)
    child.process.send_signal(signal.SIGINT)
    code, stdout, _ = child.end()
    assert (code, stdout) == (0, "interrupted 1\n")
    held.release()


# The end of the interpreter


def test_a_client_that_was_never_closed_says_goodbye(server: ThreadedServer, program: Start) -> None:
    child = program(UNHURRIED + 'client.send(RAW % b"1"); client.send(RAW % b"2" + b"line\\r\\n" * 100_000)')
    assert child.end() == (0, "", "")
    [connection] = server.connections
    assert connection.received.endswith(b"QUIT\r\n")
    assert len(server.messages) == 2


IN_A_DAEMON = """
thread = threading.Thread(target=client.send, args=(RAW % b"1" + b"line\\r\\n" * LINES,), daemon=True)
thread.start()
sys.stdin.readline()
"""


@pytest.mark.parametrize("lines", [1, 100_000], ids=["small", "large"])
def test_a_send_under_way_does_not_keep_the_interpreter(server: ThreadedServer, program: Start, lines: int) -> None:
    """Small and large: a large message is prepared in a worker thread."""
    held = server.hold("MAIL")
    child = program(IN_A_DAEMON.replace("LINES", str(lines)))
    held.wait(timeout=PATIENCE_SECONDS)
    began = time.monotonic()
    assert child.end() == (0, "", "")
    assert time.monotonic() - began < EXIT_AT_MOST_SECONDS
    held.release()
    assert server.messages == []


def test_a_send_cut_off_after_the_hand_over_logs_that_the_outcome_is_unknown(
    server: ThreadedServer, program: Start
) -> None:
    held = server.hold("END_OF_DATA")
    child = program(IN_A_DAEMON.replace("LINES", "1"))
    held.wait(timeout=PATIENCE_SECONDS)
    code, _, stderr = child.end()
    assert code == 0
    assert "delivery unknown for you@example.org" in stderr
    assert "Traceback" not in stderr
    held.release()


@pytest.mark.parametrize("is_daemon", [True, False])
def test_a_send_under_way_is_given_time_to_end(server: ThreadedServer, program: Start, is_daemon: bool) -> None:
    """Of a daemon a moment; a thread that is none is waited for by the interpreter itself, and the loop serves it."""
    held = server.hold("END_OF_DATA")
    source = IN_A_DAEMON.replace("LINES", "1").replace("daemon=True", f"daemon={is_daemon}")
    child = program(UNHURRIED + 'threading._register_atexit(say, "ends")\n' + source)
    held.wait(timeout=PATIENCE_SECONDS)
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.line() == "ends"
    held.release()
    assert child.end() == (0, "", "")
    [connection] = server.connections
    assert connection.received.endswith(b"QUIT\r\n")


def test_a_thread_that_is_no_daemon_goes_on_sending_after_the_end_of_main(
    server: ThreadedServer, program: Start
) -> None:
    child = program(
        UNHURRIED
        + """
def work():
    threading.main_thread().join()
    for number in range(5):
        client.send(RAW % b"%d" % number)

client.send(RAW % b"first")  # or the loop could not begin any more, from Python 3.12 on
threading.Thread(target=work).start()
"""
    )
    assert child.end() == (0, "", "")
    assert arrived(server) == ["<first@x>", *(f"<{number}@x>" for number in range(5))]
    [connection] = server.connections
    assert connection.received.endswith(b"QUIT\r\n")


def test_a_thread_that_is_no_daemon_connects_by_name_after_the_end_of_main(
    server: ThreadedServer, program: Start
) -> None:
    child = program(
        """
other = SyncClient("localhost", int(sys.argv[1]), tls="none")

def work():
    threading.main_thread().join()
    other.send(RAW % b"late")

client.send(RAW % b"first")  # or the loop could not begin any more, from Python 3.12 on
threading.Thread(target=work).start()
"""
    )
    assert child.end() == (0, "", "")
    assert arrived(server) == ["<first@x>", "<late@x>"]


def test_a_name_server_that_does_not_answer_does_not_keep_the_interpreter(
    server: ThreadedServer, program: Start
) -> None:
    child = program(
        """
import socket

def look_up(*_, **__):
    say("asked")
    threading.Event().wait()

socket.getaddrinfo = look_up
client = SyncClient("mail.example.org", 25, tls="none")
threading.Thread(target=client.send, args=(RAW % b"1",), daemon=True).start()
sys.stdin.readline()
"""
    )
    assert child.line() == "asked"
    began = time.monotonic()
    assert child.end() == (0, "", "")
    assert time.monotonic() - began < EXIT_AT_MOST_SECONDS


def test_a_stream_that_was_never_ended_does_not_keep_the_interpreter(server: ThreadedServer, program: Start) -> None:
    child = program('stream = client.send_many(RAW % b"%d" % n for n in range(10_000))\nnext(stream)')
    assert child.end() == (0, "", "")


def test_what_is_sent_at_exit_is_sent_before_smtplites_own_and_refused_after_it(
    server: ThreadedServer, program: Start
) -> None:
    """Functions of atexit run in reverse order: one that is older than smtplite runs after smtplite's."""
    before = """
def late():
    for one in client, SyncClient("127.0.0.1", int(sys.argv[1]), tls="none"):
        try:
            one.send(RAW % b"late")
        except smtplite.LocalProtocolError as error:
            say(error)

atexit.register(late)
"""
    source = 'atexit.register(lambda: client.send(RAW % b"early"))\nclient.send(RAW % b"first")\n'
    code, stdout, stderr = program(source, before=before).end()
    assert (code, stderr) == (0, "")
    assert stdout.count("nothing can be sent any more: send earlier") == 2
    assert arrived(server) == ["<first@x>", "<early@x>"]


# Forks


def test_a_fork_has_a_loop_and_connections_of_its_own(server: ThreadedServer, program: Start) -> None:
    child = program(
        UNHURRIED
        + """
client.send(RAW % b"parent")
pid = os.fork()
if not pid:
    client.send(RAW % b"child")
    sys.exit()
_, status = os.waitpid(pid, 0)
assert status == 0, status
client.send(RAW % b"parent-again")
"""
    )
    assert child.end() == (0, "", "")
    assert arrived(server) == ["<parent@x>", "<child@x>", "<parent-again@x>"]
    assert [connection.received.count(b"QUIT\r\n") for connection in server.connections] == [1, 1]


def test_a_fork_that_python_was_not_told_of_is_seen_by_the_process_id(server: ThreadedServer, program: Start) -> None:
    child = program(
        """
client.send(RAW % b"parent")
here = os.getpid()
os.getpid = lambda: here + 1
client.send(RAW % b"child")
os.getpid = lambda: here
say(sum(thread.name == "smtplite" for thread in threading.enumerate()))
"""
    )
    assert child.end() == (0, "2\n", "")
    assert arrived(server) == ["<parent@x>", "<child@x>"]
    assert len(server.connections) == 2


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("verb", ["GREETING", "MAIL", "END_OF_DATA"])
@pytest.mark.parametrize("sends", [True, False])
def test_a_fork_in_the_middle_of_a_send_leaves_it_to_the_parent(
    server: ThreadedServer, program: Start, verb: str, sends: bool
) -> None:
    held = server.hold(verb, times=1)
    child = program(
        f"""
receipts = []
thread = threading.Thread(target=lambda: receipts.append(client.send(RAW % b"parent")))
thread.start()
sys.stdin.readline()
pid = os.fork()
if not pid:
    if {sends}:
        client.send(RAW % b"child")
        client.close()
    import gc
    gc.collect()
    sys.exit()
_, status = os.waitpid(pid, 0)
assert status == 0, status
say("the child has ended")
thread.join()
assert receipts[0].complete
client.send(RAW % b"parent-again")
"""
    )
    held.wait(timeout=PATIENCE_SECONDS)
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.line() == "the child has ended"
    held.release()
    assert child.end() == (0, "", "")
    expected = ["<parent@x>", "<parent-again@x>"] + ["<child@x>"] * sends
    assert sorted(arrived(server)) == sorted(expected)
    assert len(server.connections) == 1 + sends


def test_a_fork_by_a_signals_handler_in_the_waiting_thread_does_not_wait_in_the_child(
    server: ThreadedServer, program: Start
) -> None:
    held = server.hold("MAIL")
    child = program(
        """
def fork(*_):
    global pid
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        say("child:", os.waitstatus_to_exitcode(status))

pid = None
signal.signal(signal.SIGUSR1, fork)
try:
    receipt = client.send(RAW % b"parent")
except smtplite.LocalProtocolError as error:
    assert not pid
    say(error)
    os._exit(7)
say(receipt.complete)
"""
    )
    held.wait(timeout=PATIENCE_SECONDS)
    child.process.send_signal(signal.SIGUSR1)
    assert child.line() == "this process was forked during a send: its parent goes on sending"
    assert child.line() == "child: 7"
    held.release()
    assert child.end() == (0, "True\n", "")
    assert arrived(server) == ["<parent@x>"]


@pytest.mark.exhaustive(keep=0)
def test_a_fork_while_many_threads_send_again_and_again(server: ThreadedServer, program: Start) -> None:
    """Whatever lock a thread may hold at that moment, the child does not wait for it."""
    child = program(
        """
ends = threading.Event()

def work(name):
    number = 0
    while not ends.is_set():
        assert client.send(RAW % b"%s.%d" % (name, number)).complete
        number += 1

threads = [threading.Thread(target=work, args=(b"t%d" % n,)) for n in range(4)]
for thread in threads:
    thread.start()
for number in range(10):
    pid = os.fork()
    if not pid:
        signal.alarm(20)  # ends a child that hangs
        assert client.send(RAW % b"child-%d" % number).complete
        sys.exit()
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
ends.set()
for thread in threads:
    thread.join()
"""
    )
    assert child.end() == (0, "", "")
    ids = arrived(server)
    assert len(ids) == len(set(ids))
    assert {f"<child-{number}@x>" for number in range(10)} <= set(ids)


def test_the_loops_thread_imports_nothing_when_it_first_sends(server: ThreadedServer, program: Start) -> None:
    """A process that is forked in the middle of an import has that import locked for ever."""
    child = program(
        """
before = set(sys.modules)
client.send(RAW % b"1")
list(client.send_many([RAW % b"2", RAW % b"3" + b"line\\r\\n" * 100_000]))
say(*sorted(set(sys.modules) - before))
"""
    )
    assert child.end() == (0, "\n", "")


def test_streams_and_sessions_stay_with_the_parent(server: ThreadedServer, program: Start) -> None:
    child = program(
        """
from smtplite.protocol import Noop

stream = client.send_many(RAW % b"%d" % n for n in range(200))
with stream, client.session() as session:
    got = [next(stream)]
    pid = os.fork()
    if not pid:
        for use in (lambda: next(stream), lambda: session.command(Noop())):
            try:
                use()
            except smtplite.LocalProtocolError as error:
                assert "was forked from" in str(error), error
            else:
                os._exit(1)
        sys.exit()  # leaves both blocks
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
    assert session.command(Noop()).code == 250
    got += stream
assert len(got) == 200
client.close()
"""
    )
    assert child.end() == (0, "", "")
    assert len(arrived(server)) == 200
    assert all(connection.received.endswith(b"QUIT\r\n") for connection in server.connections)
