"""The benchmarks without a clock: the round trips before the first MAIL, what counts them, and what is written.

The compiled programs are tested where they can be compiled. No time is asserted anywhere.
"""

from __future__ import annotations

import email
import email.policy
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal
from xml.etree import ElementTree

import anyio.abc
import pytest

from smtplite import Client
from smtplite.message.prepared import prepare
from smtplite.testing import SMTPServer
from smtplite.trace import FlightSent, TraceEvent

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the package

from benchmarks import native, picture, report, rows, work  # noqa: E402
from benchmarks.common import HOST, Spread, ratios  # noqa: E402
from benchmarks.measure import CPU, RATE, SECONDS, Drawing, Goal, Group, Measuring, Results, Row, Run  # noqa: E402
from benchmarks.rows import GROUPS  # noqa: E402

# The round trips before the first MAIL, as benchmarks/handshake.py measures them

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
HOSTNAME = "client.example.org"
USER, PASSWORD = "me", "secret"

Mode = Literal["none", "implicit", "starttls"]

#: The commands of each flight before MAIL's, and the round trips with those of TCP, TLS and the greeting.
EXPECTED: dict[Mode, tuple[list[str], int]] = {
    "none": ([f"EHLO {HOSTNAME}"], 3),
    "implicit": ([f"EHLO {HOSTNAME}", "AUTH PLAIN [redacted]"], 5),
    "starttls": ([f"EHLO {HOSTNAME}", "STARTTLS", f"EHLO {HOSTNAME}", "AUTH PLAIN [redacted]"], 7),
}


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def server_for(mode: Mode) -> SMTPServer:
    if mode == "none":
        return SMTPServer()
    return SMTPServer(tls=mode, users={USER: PASSWORD}, mechanisms=["PLAIN"])


def options_for(mode: Mode, server: SMTPServer) -> dict[str, Any]:
    options: dict[str, Any] = {"tls": mode, "local_hostname": HOSTNAME}
    if mode != "none":
        options.update(username=USER, password=PASSWORD, tls_context=server.ca_context())
    return options


@pytest.mark.anyio
@pytest.mark.parametrize("mode", EXPECTED)
async def test_each_command_before_mail_is_a_flight_and_none_is_too_many(mode: Mode) -> None:
    events: list[TraceEvent] = []
    async with server_for(mode) as server:
        async with Client(server.host, server.port, trace=events.append, **options_for(mode, server)) as client:
            assert (await client.send(RAW)).complete
    flights = [event.commands for event in events if isinstance(event, FlightSent)]
    before = [(command,) for command in EXPECTED[mode][0]]
    assert flights[: len(before)] == before
    mail, rcpt, data = flights[len(before)]  # one write, which the reply to the one before it let go
    assert mail.startswith("MAIL FROM:<me@example.org>")
    assert (rcpt, data) == ("RCPT TO:<you@example.org>", "DATA")
    assert server.violations == []


class Turns(anyio.abc.ByteStream):
    """A stream that counts how often the server answered: once for all that it says before the client speaks again."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._client_spoke = True  # connecting asks for the greeting
        self.count = 0

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        data = await self._stream.receive(max_bytes)
        self.count += self._client_spoke
        self._client_spoke = False
        return data

    async def send(self, item: bytes) -> None:
        self._client_spoke = True
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("mode", EXPECTED)
async def test_round_trips_before_mail_with_those_of_tcp_and_tls(mode: Mode) -> None:
    server = server_for(mode)
    turns: list[Turns] = []
    before_mail: list[int] = []

    async def connect() -> Turns:
        turns.append(Turns(await server.connect()))
        return turns[-1]

    def trace(event: TraceEvent) -> None:
        if isinstance(event, FlightSent) and event.commands[0].startswith("MAIL"):
            before_mail.append(turns[-1].count)

    async with Client("localhost", connect=connect, trace=trace, **options_for(mode, server)) as client:
        receipt = await client.send(RAW)
    assert receipt.tls == (None if mode == "none" else "TLSv1.3")
    assert [1 + count for count in before_mail] == [EXPECTED[mode][1]]  # TCP's is the first
    assert server.violations == []


# The server of the benchmarks, which counts


EHLO = b"EHLO client.example.org\r\n"
ENVELOPE = b"MAIL FROM:<me@example.org>\r\nRCPT TO:<you@example.org>\r\n"


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile into a folder of our own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMTPLITE_BENCH", str(tmp_path_factory.mktemp("bench")))
        yield


@pytest.fixture
def compiled() -> None:
    try:
        native.build("sink")
        native.build("line")
    except native.CannotBuild as reason:
        pytest.skip(str(reason))


class Dialogue:
    """A client that says exactly what it is told to, on a blocking socket."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=30)
        self._lines = self.socket.makefile("rb")

    def __enter__(self) -> Dialogue:
        assert self.codes(1) == [220]
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self.socket.close()

    def codes(self, count: int) -> list[int]:
        """Return the codes of the next replies; 0 at the end."""
        found = []
        for _ in range(count):
            line = self._lines.readline()
            while line[3:4] == b"-":
                line = self._lines.readline()
            found.append(int(line[:3] or b"0"))
        return found

    def say(self, octets: bytes, replies: int = 1) -> list[int]:
        self.socket.sendall(octets)
        return self.codes(replies)


@pytest.mark.usefixtures("compiled")
def test_the_sink_counts_as_a_flight_what_comes_once_all_is_answered() -> None:
    with native.Sink(*native.KEYWORDS) as sink:
        with Dialogue(sink.port) as client:
            assert client.say(EHLO) == [250]
            assert client.say(ENVELOPE + b"DATA\r\n", 3) == [250, 250, 354]
            client.socket.sendall(b"Subject: hi\r\n")  # however many reads it takes, it is one flight
            assert client.say(b"\r\nbody\r\n.\r\n") == [250]
            assert client.say(b"MAIL FROM:<me@example.org>\r\n") == [250]
            assert client.say(b"RCPT TO:<you@example.org>\r\n") == [250]
            assert client.say(b"QUIT\r\n") == [221]
            assert client.codes(1) == [0]
        counts = sink.counts()
    assert counts.flights == 6
    assert counts.session_flights == 2  # EHLO and QUIT
    assert counts.messages == 1
    assert counts.octets == len(b"Subject: hi\r\n\r\nbody\r\n")
    assert (counts.connections, counts.violations) == (1, 0)


@pytest.mark.usefixtures("compiled")
def test_a_sink_that_settles_takes_for_one_flight_what_is_written_before_the_client_waits() -> None:
    message = ENVELOPE + b"BDAT 6 LAST\r\nbody\r\n"
    with native.Sink(*native.KEYWORDS, settle_ms=300) as sink:
        with Dialogue(sink.port) as client:
            client.say(EHLO)
            for _ in range(2):
                for _ in range(8):
                    client.socket.sendall(message)
                assert client.codes(24) == [250] * 24
        counts = sink.counts()
    assert (counts.messages, counts.flights - counts.session_flights) == (16, 2)
    assert counts.round_trips == 2 / 16


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_the_sink_swallows_content_wherever_it_is_cut(size: int) -> None:
    """Doubled dots count once; a lone dot ends it only between two CRLF."""
    content = b"..\r\n\r\n..x\r\na.\r\n.b\r\n\r\r\n" * 3
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    octets = b"." + stuffed + b".\r\nNOOP\r\n"
    with native.Sink(*native.KEYWORDS) as sink:
        with Dialogue(sink.port) as client:
            client.say(EHLO)
            client.say(ENVELOPE + b"DATA\r\n", 3)
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(octets), size):
                client.socket.sendall(octets[start : start + size])
            assert client.codes(2) == [250, 250]
        counts = sink.counts()
    assert (counts.octets, counts.messages, counts.violation) == (len(content), 1, "")


@pytest.mark.usefixtures("compiled")
def test_the_sink_swallows_a_chunk_that_it_refuses() -> None:
    chunk = b"RSET\r\nMAIL FROM:<x@example.org>\r\n"
    refused = b"MAIL FROM:<me@example.org>\r\nRCPT TO:<nobody@example.org>\r\nBDAT %d LAST\r\n%s" % (len(chunk), chunk)
    with native.Sink(*native.KEYWORDS, refuse="nobody") as sink:
        with Dialogue(sink.port) as client:
            client.say(EHLO)
            assert client.say(refused + b"RSET\r\n", 4) == [250, 550, 503, 250]
            assert client.say(ENVELOPE + b"BDAT 3\r\nabcBDAT 0 LAST\r\n", 4) == [250, 250, 250, 250]
        counts = sink.counts()
    assert (counts.refused_bdat, counts.resets, counts.messages, counts.octets) == (1, 1, 1, 3)
    assert (counts.recipients, counts.violations) == (1, 0)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("keywords", "octets", "replies", "violation"),
    [
        (["8BITMIME"], ENVELOPE, 2, "pipelining, which was not offered"),
        (["PIPELINING"], ENVELOPE + b"DATA\r\nbody\r\n.\r\n", 4, "more behind a command that ends its group"),
        (["PIPELINING"], b"MAIL FROM:<a@example.org>\r\nMAIL FROM:<b@example.org>\r\n", 2, "MAIL within a transaction"),
        (["PIPELINING"], b"BDAT 3 LAST\r\n", 1, "an unknown command"),
        (["PIPELINING"], b"NOOP\n", 1, "a bare LF behind a command"),
    ],
)
def test_the_sink_notices_what_a_client_may_not_do(
    keywords: list[str], octets: bytes, replies: int, violation: str
) -> None:
    with native.Sink(*keywords) as sink:
        with Dialogue(sink.port) as client:
            client.say(EHLO)
            client.say(octets, replies)
        counts = sink.counts(reset=True)
        assert (counts.violation, counts.violations > 0) == (violation, True)
        assert sink.counts().violations == 0


@pytest.mark.usefixtures("compiled")
def test_the_sink_prints_its_counts_when_it_is_terminated() -> None:
    with native.Sink("PIPELINING") as sink:
        with Dialogue(sink.port) as one, Dialogue(sink.port):
            one.say(EHLO)
            assert sink.counts().most_connections == 2
        counts = sink.terminate()
    assert (counts.connections, counts.flights) == (2, 1)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("max_in_flight", [None, 65_536])
def test_the_delay_line_passes_on_every_octet_and_the_end(max_in_flight: int | None) -> None:
    """Also more than a socket takes at once, and more than may be on its way."""
    content = work.text(6 << 20, is_prose=False)[:-1] + b"\r\n"
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    with native.Sink(*native.KEYWORDS) as sink, native.Line(sink.port, 0.002, max_in_flight=max_in_flight) as line:
        with Dialogue(line.port) as client:
            client.say(EHLO)
            assert client.say(ENVELOPE + b"DATA\r\n", 3) == [250, 250, 354]
            assert client.say(stuffed + b".\r\n") == [250]
            assert client.say(b"QUIT\r\n") == [221]
            assert client.codes(1) == [0]  # the server closed
        counts = sink.counts()
    assert (counts.messages, counts.octets, counts.violation) == (1, len(content), "")


@pytest.mark.usefixtures("compiled")
def test_the_delay_line_ends_a_connection_whose_server_is_not_there() -> None:
    with native.Sink("PIPELINING") as sink:
        port = sink.port
    with native.Line(port, 0.002) as line, socket.create_connection((HOST, line.port), timeout=30) as client:
        assert client.recv(100) == b""


# The command


@pytest.mark.exhaustive(keep=0)
@pytest.mark.usefixtures("compiled")
def test_a_quick_run_of_some_rows_writes_its_page_and_its_picture(tmp_path: Path) -> None:
    left_out = ["aiosmtplib", "smtpproto", "smtplib", "nodemailer", "smtp-source"]
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rows", "trips", "watching", "parsing"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path), "--without", *left_out],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout  # the client that nobody can watch, too, is made of what the code is now
    goals = (tmp_path / "goals.md").read_text(encoding="utf-8")
    assert "| round trips a message: `send` | 2.00 | ≤ 2 | reached: 2.00 (2.00) |" in goals
    assert "| round trips a message: `send` to 50 recipients | 2.00 | ≤ 2 | reached: 2.00 (2.00) |" in goals
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| raw bytes, as send_many, chunking | 0.031 |" in page
    assert "| reading a reply to EHLO, of seven lines |" in page
    assert "nodemailer did not run: left out" in page
    ElementTree.parse(tmp_path / "results.svg")


def test_a_run_that_fails_is_reported_and_the_next_one_runs(tmp_path: Path) -> None:
    def parsing(who: str, kind: str) -> Run:
        request = {"kernel": "parsing", "work": "ReplyParser", "kind": kind, "count": 1}
        return Run(who=who, peer="kernels", request=request)

    group = Group(
        name="some",
        title="Some",
        metric=CPU,
        keywords=None,
        rounds=2,
        runs=[parsing("wrong", "no such kind"), parsing("right", "EHLO")],
        rows=[Row(title="parsing", ours="wrong", metric=CPU)],
    )
    with Measuring(tmp_path) as measuring:
        results = measuring.measure(group)
    assert len(results.failures) == 1
    assert "KeyError: 'no such kind'" in results.failures[0]
    assert results.missing == {"wrong": "failed"}
    assert [len(samples) for samples in results.samples.values()] == [2]


def test_the_groups_name_only_runs_that_they_have() -> None:
    for quick in (False, True):
        groups = [make(quick=quick) for make in GROUPS.values()]
        groups += [rows.another("python3.11", "CPython 3.11.7", form, quick=quick) for form in ("octets", "objects")]
        for group in groups:
            names = [run.who for run in group.runs]
            assert len(names) == len(set(names)), group.name
            used = {group.reference} if group.reference else set()
            for row in group.rows:
                used |= {row.ours, *row.peers.values(), *row.loops.values()}
                used |= {goal.against for goal in row.goals if goal.against}
            for drawing in group.drawings:
                used |= set(drawing.runs.values())
            assert used <= set(names), group.name


def test_the_picture_compares_three_works_in_an_order_of_its_own() -> None:
    places = [drawing.place for make in GROUPS.values() for drawing in make(quick=False).drawings]
    assert sorted(places) == [1, 2, 3]


@pytest.mark.parametrize("recipients", [1, 50])
def test_the_messages_differ_and_have_one_size(recipients: int) -> None:
    letters = work.letters(recipients)
    assert len({letter.octets for letter in letters}) == work.MESSAGES
    assert len({len(letter.octets) for letter in letters}) == 1
    if recipients == 1:
        assert len(letters[0].octets) == work.MESSAGE_BYTES
    for letter in letters[:3]:
        prepared = prepare(letter.octets)
        assert prepared.sender.address == letter.sender
        assert list(prepared.recipients) == letter.recipients
        assert letter.parsed().as_bytes() == letter.octets


# What is written


def made_up() -> report.Report:
    """Return results of which every number is known: we send twice, and three times, as fast as the peer."""
    runs = [
        Run(who=who, peer="none", request={})
        for who in ("smtplite <fast>", "smtplite, in time", "peer", "absent", "smtplite, absent")
    ]
    rows = [
        Row(
            title="work",
            ours="smtplite <fast>",
            metric=RATE,
            goals=[Goal(limit=2, against="peer"), Goal(limit=4, against="peer")],
            peers={"aiosmtplib": "peer", "smtplib": "absent"},
            is_lead=True,
        ),
        Row(title="time", ours="smtplite, in time", metric=SECONDS, goals=[Goal(limit=1.5)]),
        Row(title="nothing", ours="smtplite, absent", metric=RATE, goals=[Goal(limit=1)]),
    ]
    drawing = Drawing(
        title="Messages & more",
        metric=RATE,
        unit="messages a second",
        runs={"smtplite <fast>": "smtplite <fast>", "peer": "peer", "no": "absent"},
    )
    group = Group(name="x", title="Some work", metric=RATE, reference="peer", runs=runs, rows=rows, drawings=[drawing])
    results = Results(group)
    results.samples["smtplite <fast>"] = [
        {"count": 200, "seconds": 1.0, "at_once": 199},
        {"count": 600, "seconds": 2.0, "at_once": 600},
    ]
    results.samples["smtplite, in time"] = [{"count": 1, "seconds": 2.0}, {"count": 1, "seconds": 4.0}]
    results.samples["peer"] = [{"count": 100, "seconds": 1.0}, {"count": 100, "seconds": 1.0}]
    results.missing = {"absent": "there is none", "smtplite, absent": "not yet written"}
    results.failures = ["x, absent: it\nfell over"]
    return report.Report(
        results=[results], versions={"b": "2", "A": "1"}, absent={"nodemailer": "no Node.js"}, load=0.5
    )


def test_a_ratio_is_taken_round_for_round() -> None:
    assert ratios([2.0, 30.0, 6.0], [1.0, 10.0, 3.0]) == Spread(2.0, 2.0, 3.0)


def test_the_page_leads_with_what_people_do_and_keeps_our_goals_out() -> None:
    page = report.page(made_up())
    for line in (
        "| work | 250 msg/s | 100 msg/s | – | – |",
        "| work | msg/s | 250 | – | – | 100 | – | – | – | – | – |",
        "| smtplite <fast> | 250 | 200 to 300 | 2.5 (2 to 3) | 799 of 800 |",
        "| absent | – | not available: there is none |  |  |",
        "- x, absent: it fell over",
        "- A 1, b 2",
        "- nodemailer did not run: no Node.js",
    ):
        assert line in page.splitlines(), line
    assert platform.python_version() in page
    assert page.index("results.svg") < page.index("| work | 250 msg/s") < page.index("- A 1, b 2")
    for word in ("goal", "reached", "missed"):
        assert word not in page, word


def test_our_goals_say_what_was_reached_what_was_missed_and_what_is_not_there() -> None:
    page = report.goals_page(made_up())
    for line in (
        "| work | 250 msg/s | ≥ 2 × peer | reached: 2.5 (2 to 3) |",
        "|  |  | ≥ 4 × peer | **missed by 38 %: 2.5 (2 to 3)** |",
        "| time | 3.00 s | ≤ 1.5 s | **missed by 100 %: 3.00 (2.00 to 4.00)** |",
        "| nothing | – | – | not available: not yet written |",
        "- x, absent: it fell over",
        "- A 1, b 2",
    ):
        assert line in page.splitlines(), line


def test_what_a_run_found_is_written_again_from_what_it_kept(tmp_path: Path) -> None:
    found = report.Report(
        results=[
            Results(rows.parsing(quick=True), {}, {}, ["parsing: it fell over"]),
            Results(rows.another("python", "CPython 3.11.7", "octets", quick=True), missing={"aiosmtplib": "absent"}),
        ],
        is_quick=True,
        load=1.0,
    )
    found.results[0].samples["a reply to EHLO, of seven lines, by ReplyParser"] = [{"us": 5.0}, {"us": 7.0}]
    found.keep(tmp_path / "kept")
    again = report.Report.read(tmp_path / "kept")
    assert "| reading a reply to EHLO, of seven lines | µs | 6.00 |" in report.page(again)
    for render in (report.page, report.goals_page, picture.draw):
        assert render(again) == render(found)


def test_a_message_that_is_built_says_what_its_octets_say() -> None:
    letter = work.letters(1)[0]
    read = email.message_from_bytes(prepare(letter.built()).content, policy=email.policy.default)
    parsed = letter.parsed()
    assert read.get_content() == parsed.get_content()
    assert {name: str(read[name]) for name in read} == {name: str(parsed[name]) for name in parsed}


def test_the_picture_is_valid_and_its_bars_are_as_long_as_the_numbers() -> None:
    svg = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(picture.draw(made_up()))
    bars = {element.get("class"): float(element.get("width", 0)) for element in root.iter(f"{svg}rect")}
    assert bars["ours"] == pytest.approx(2.5 * bars["theirs"], rel=0.01)
    texts = ["".join(element.itertext()) for element in root.iter(f"{svg}text")]
    assert texts[:6] == [
        "Messages & more",
        "messages a second: longer is better",
        "smtplite <fast>",
        "250",
        "peer",
        "100",
    ]
    style = root.find(f"{svg}style")
    assert style is not None
    assert "prefers-color-scheme: dark" in str(style.text)
    right = float(root.get("width", 0))
    assert all(float(element.get("x", 0)) < right for element in root.iter(f"{svg}text"))
