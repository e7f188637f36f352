"""What is measured: the groups, their runs, and the goals of each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import attrs

from benchmarks.common import MIB, QUICK_ROUNDS, ROUNDS
from benchmarks.core import FEW, MANY
from benchmarks.measure import CPU, PEAK, RATE, SECONDS, SPEED, STALL, TRIPS, Drawing, Goal, Group, Row, Run
from benchmarks.native import KEYWORDS
from benchmarks.transparency import BODIES
from benchmarks.work import Work

#: The columns of the table that compares, in this order.
COLUMNS: Final = ("aiosmtplib", "smtpproto", "smtplib", "nodemailer", "smtp-source", "raw bytes")
LOOPS: Final = {"asyncio": "smtplite", "uvloop": "smtplite:uvloop", "trio": "smtplite:trio"}
SETTLE_MS: Final = 10
LARGE_BYTES: Final = 100 * MIB

AIOSMTPLIB: Final = "aiosmtplib"
C_PROGRAM: Final = "smtp-source"


def on(who: str, loop: str) -> str:
    """Return the name of a run of smtplite on an event loop; asyncio is not mentioned."""
    return who if loop == "asyncio" else f"{who}, on {loop}"


def named(*columns: str, **others: str) -> dict[str, str]:
    """Return column -> run, for runs that are called as their column."""
    return {column: others.get(column.replace("-", "_").replace(" ", "_"), column) for column in columns}


PEERS: Final = named(*COLUMNS[:-1])
#: The ways of smtplite, as they are called in the tables.
WAYS: Final = ("send", "send, chunking", "send_many", "send_many, chunking")
Form = Literal["octets", "objects"]
#: Messages of each way that take half a second or so.
_COUNTS: Final[dict[Form, tuple[int, ...]]] = {
    "octets": (2_500, 3_000, 6_000, 20_000),
    "objects": (1_000, 1_500, 2_000, 3_000),
}
_TITLES: Final[dict[Form, tuple[str, ...]]] = {
    "octets": (
        "one `await send` of bytes, 1 KiB, after another",
        "the same with `chunking=True`",
        "`send_many` of bytes, 1 KiB",
        "the same with `chunking=True`",
    ),
    "objects": (
        "one `await send` of an `EmailMessage` after another",
        "the same with `chunking=True`",
        "`send_many` of `EmailMessage` objects",
        "the same with `chunking=True`",
    ),
}


def _part(quick: bool) -> int:
    return 10 if quick else 1


def _ours(form: Form, loops: dict[str, str], *, quick: bool, suffix: str = "") -> list[Run]:
    """Return the runs of smtplite on loopback: in each way, on each of some loops, by the peer that has it."""
    part = _part(quick)
    return [
        Run(
            who=on(f"smtplite {way}", loop) + suffix,
            peer=peer,
            request=Work(
                way="bulk" if way.startswith("send_many") else "sequence",
                count=count // part,
                warm=50 // part,
                form=form,
                chunking=way.endswith("chunking"),
            ),
        )
        for loop, peer in loops.items()
        for way, count in zip(WAYS, _COUNTS[form], strict=True)
    ]


def _theirs(form: Form, counts: dict[str, int], *, quick: bool) -> list[Run]:
    """Return the runs of peers on loopback, one message after another; of nodemailer all to its pool, too."""
    part = _part(quick)
    runs = [
        Run(who=peer, peer=peer, request=Work(way="sequence", count=count // part, warm=50 // part, form=form))
        for peer, count in counts.items()
    ]
    pooled = Work(way="bulk", count=600 // part, warm=50 // part, form=form)
    runs.append(Run(who="nodemailer, all to its pool", peer="nodemailer", request=pooled))
    return runs


def _on_loopback(form: Form, way: str, peers: dict[str, str], goals: list[Goal]) -> Row:
    return Row(
        title=_TITLES[form][WAYS.index(way)],
        ours=f"smtplite {way}",
        metric=RATE,
        goals=goals,
        peers=peers | ({"nodemailer": "nodemailer, all to its pool"} if way.startswith("send_many") else {}),
        loops={loop: on(f"smtplite {way}", loop) for loop in LOOPS if loop != "asyncio"},
        is_lead=form == "objects",
    )


def against(who: str, limit: float) -> Goal:
    return Goal(limit=limit, against=who)


def objects(*, quick: bool) -> Group:
    counts = {AIOSMTPLIB: 1_000, "smtpproto": 500, "smtplib": 1_000, "nodemailer": 600}
    goals = {"send_many": [against(AIOSMTPLIB, 4)], "send_many, chunking": [against(AIOSMTPLIB, 7)]}
    return Group(
        name="objects",
        title="EmailMessage objects of 1 KiB a second, on one warm connection over loopback",
        metric=RATE,
        reference=AIOSMTPLIB,
        rounds=QUICK_ROUNDS if quick else ROUNDS,
        runs=[*_ours("objects", LOOPS, quick=quick), *_theirs("objects", counts, quick=quick)],
        rows=[_on_loopback("objects", way, named(*counts), goals.get(way, [])) for way in WAYS],
        drawings=[
            Drawing(
                title="An EmailMessage by send, on one machine",
                metric=RATE,
                unit="messages a second",
                runs={"smtplite, chunking": "smtplite send, chunking", "smtplite": "smtplite send"} | named(*counts),
                place=1,
            )
        ],
        note="Each object is a message of its own, built before the clock starts; nodemailer has its own kind.",
    )


def loopback(*, quick: bool) -> Group:
    part = _part(quick)
    counts = {AIOSMTPLIB: 2_000, "smtplib": 4_000, "nodemailer": 600}
    raw = (8_000, 16_000, 12_000, 200_000)
    goals = {
        "send": [against(AIOSMTPLIB, 2)],
        "send, chunking": [against(AIOSMTPLIB, 2.8)],
        "send_many": [against(AIOSMTPLIB, 4)],
        "send_many, chunking": [against(AIOSMTPLIB, 12), against(C_PROGRAM, 2)],
    }
    runs = [*_ours("octets", LOOPS, quick=quick), *_theirs("octets", counts, quick=quick)]
    for run, count in zip(_ours("octets", {"asyncio": "raw"}, quick=quick), raw, strict=True):
        assert isinstance(run.request, Work)
        who = f"raw bytes, as {run.who.removeprefix('smtplite ')}"
        runs.append(attrs.evolve(run, who=who, request=attrs.evolve(run.request, count=count // part)))
    c_program = Work(way="sequence", count=8_000 // part, warm=50 // part)
    runs.append(Run(who=C_PROGRAM, peer=C_PROGRAM, request=c_program))
    peers = named(*counts, C_PROGRAM)
    return Group(
        name="loopback",
        title="Messages of 1 KiB a second, on one warm connection over loopback",
        metric=RATE,
        reference=AIOSMTPLIB,
        rounds=QUICK_ROUNDS if quick else ROUNDS,
        runs=runs,
        rows=[_on_loopback("octets", way, peers | {"raw bytes": f"raw bytes, as {way}"}, goals[way]) for way in WAYS],
        drawings=[
            Drawing(
                title="A bulk run of bytes, on one machine",
                metric=RATE,
                unit="messages a second",
                runs={"smtplite, chunking": "smtplite send_many, chunking", "smtplite": "smtplite send_many"}
                | peers
                | {"nodemailer": "nodemailer, all to its pool"},
                place=3,
            ),
        ],
        note="Messages as bytes are ready to be sent. smtpproto accepts only objects. The time of smtp-source includes "
        "connecting, and it sends one message again and again.",
    )


def another(interpreter: str, name: str, form: Form, *, quick: bool) -> Group:
    """Return the rows of `objects` or `loopback` on another Python, for --also: shown, not judged.

    Args:
        interpreter: its path.
        name: what it is, as in "CPython 3.11.7".
        form: which of the two.
        quick: with little work.
    """
    part = _part(quick)
    work = Work(way="sequence", count=(2_000 if form == "octets" else 1_000) // part, warm=50 // part, form=form)
    what = "bytes" if form == "octets" else "EmailMessage objects"
    return Group(
        name="another",
        title=f"The same on {name}: {what}",
        metric=RATE,
        reference=AIOSMTPLIB,
        rounds=QUICK_ROUNDS if quick else ROUNDS,
        runs=[
            *_ours(form, {"asyncio": f"smtplite@{interpreter}"}, quick=quick),
            Run(who=AIOSMTPLIB, peer=f"{AIOSMTPLIB}@{interpreter}", request=work),
        ],
        rows=[
            Row(
                title=f"{title}, on {name}",
                ours=f"smtplite {way}",
                metric=RATE,
                peers={AIOSMTPLIB: AIOSMTPLIB},
            )
            for way, title in zip(WAYS, _TITLES[form], strict=True)
        ],
        note="aiosmtplib is faster on CPython 3.11 than on later versions, so ratios are lower there.",
        arguments=(interpreter, name, form),
    )


def trips(*, quick: bool) -> Group:
    def runs_to(recipients: int, suffix: str) -> list[Run]:
        few = 4 if quick or recipients > 1 else 20

        def work(way: Any, count: int = few, **how: Any) -> Work:
            return Work(way=way, count=count, warm=3, recipients=recipients, **how)

        many = {"count": 40 if quick else 100}
        window = {"count": 64 if quick else 320}
        found = [
            Run(who=f"smtplite send{suffix}", peer="smtplite", request=work("sequence")),
            Run(who=f"smtplite send, chunking{suffix}", peer="smtplite", request=work("sequence", chunking=True)),
            Run(who=f"smtplite send_many{suffix}", peer="smtplite", request=work("bulk", **many)),
            Run(
                who=f"smtplite send_many, chunking{suffix}",
                peer="smtplite",
                request=work("bulk", chunking=True, **window),
            ),
            Run(who=f"raw bytes, as send{suffix}", peer="raw", request=work("sequence")),
            Run(who=f"raw bytes, as send, chunking{suffix}", peer="raw", request=work("sequence", chunking=True)),
            Run(who=f"raw bytes, as send_many{suffix}", peer="raw", request=work("bulk", **many)),
            Run(
                who=f"raw bytes, as send_many, chunking{suffix}",
                peer="raw",
                request=work("bulk", chunking=True, **window),
            ),
        ]
        found += [
            Run(who=f"{name}{suffix}", peer=name, request=work("sequence"), is_lone=True)
            for name in ("aiosmtplib", "smtpproto", "smtplib", "nodemailer")
        ]
        found.append(Run(who=f"smtp-source{suffix}", peer="smtp-source", request=work("sequence"), is_lone=True))
        return found

    def row(name: str, title: str, limit: float, suffix: str = "") -> Row:
        return Row(
            title=title,
            ours=f"smtplite {name}{suffix}",
            metric=TRIPS,
            goals=[Goal(limit=limit)],
            peers={column: f"{column}{suffix}" for column in COLUMNS[:-1]}
            | {"raw bytes": f"raw bytes, as {name}{suffix}"},
        )

    to_50 = ", to 50"
    return Group(
        name="trips",
        title="Round trips a message, counted by the server",
        metric=TRIPS,
        settle_ms=SETTLE_MS,
        rounds=1 if quick else 3,
        warms_up=False,
        runs=[
            *runs_to(1, ""),
            *(run for run in runs_to(50, to_50) if "send_many" not in run.who),
            Run(who="SyncClient", peer="sync", request=Work(way="sequence", count=4 if quick else 20, warm=3)),
        ],
        rows=[
            row("send", "round trips a message: `send`", 2),
            Row(
                title="round trips a message: `SyncClient.send`",
                ours="SyncClient",
                metric=TRIPS,
                goals=[Goal(limit=0.5, against="smtplib")],
                peers={"smtplib": "smtplib"},
            ),
            row("send", "round trips a message: `send` to 50 recipients", 2, to_50),
            row("send, chunking", "round trips a message: `send` with `chunking=True`", 1),
            row("send, chunking", "the same to 50 recipients", 1, to_50),
            row("send_many", "round trips a message: `send_many`", 1.05),
            row("send_many, chunking", "the same with `chunking=True`", 0.06),
        ],
        note=f"The server answers when the client was silent for {SETTLE_MS} ms, and counts how often that was.",
    )


def _on_the_line(
    name: str, title: str, *, count: int, recipients: int, rtt: float, limits: tuple[float, float], quick: bool
) -> Group:
    def work(way: Any, **how: Any) -> Work:
        return Work(way=way, count=count, recipients=recipients, **how)

    runs = []
    for loop, peer in LOOPS.items():
        runs.append(Run(who=on("smtplite", loop), peer=peer, request=work("bulk")))
        runs.append(Run(who=on("smtplite, chunking", loop), peer=peer, request=work("bulk", chunking=True)))
    runs.append(Run(who="raw bytes", peer="raw", request=work("bulk")))
    runs.append(Run(who="raw bytes, chunking", peer="raw", request=work("bulk", chunking=True)))
    runs.append(Run(who="smtplite, one send after another", peer="smtplite", request=work("sequence"), is_lone=True))
    runs += [
        Run(who=peer, peer=peer, request=work("bulk" if peer == "nodemailer" else "sequence"), is_lone=True)
        for peer in COLUMNS[:-1]
    ]

    def row(who: str, title: str, limit: float, raw: str) -> Row:
        return Row(
            title=title,
            ours=who,
            metric=SECONDS,
            goals=[] if quick else [Goal(limit=limit)],
            peers=PEERS | {"raw bytes": raw},
            loops={loop: on(who, loop) for loop in LOOPS if loop != "asyncio"},
            is_lead=recipients == 1,
        )

    return Group(
        name=name,
        title=f"{title}: seconds in all",
        metric=SECONDS,
        reference=AIOSMTPLIB,
        round_trip_seconds=rtt,
        rounds=1 if quick else ROUNDS,
        warms_up=False,
        are_lone_at_once=True,
        runs=runs,
        rows=[
            row("smtplite", title, limits[0], "raw bytes"),
            row("smtplite, chunking", "the same with `chunking=True`", limits[1], "raw bytes, chunking"),
        ],
        drawings=[
            Drawing(
                title=f"{count} messages, {rtt * 1e3:.0f} ms to the server and back",
                metric=SECONDS,
                unit="seconds in all",
                runs={
                    "smtplite, chunking": "smtplite, chunking",
                    "smtplite": "smtplite",
                    "smtplite, one by one": "smtplite, one send after another",
                }
                | PEERS,
                place=2,
            )
        ]
        if recipients == 1
        else [],
        note="The time is from making the client to the last receipt, and includes connecting. The peers were measured "
        "once, all at the same time, because they do little but wait.",
    )


def rtt20(*, quick: bool) -> Group:
    count = 10 if quick else 200
    title = f"{count} messages, round trip 20 ms, 1 connection"
    return _on_the_line("rtt20", title, count=count, recipients=1, rtt=0.02, limits=(4.5, 0.5), quick=quick)


def rtt50(*, quick: bool) -> Group:
    count = 2 if quick else 20
    title = f"{count} messages to 50 recipients each, round trip 50 ms, 1 connection"
    return _on_the_line("rtt50", title, count=count, recipients=50, rtt=0.05, limits=(1.6, 0.5), quick=quick)


def concurrent(*, quick: bool) -> Group:
    count = 100 if quick else 1_000
    connections = {"": 5 if quick else 50, ", chunking": 2 if quick else 10}

    def work(connections: int, **how: Any) -> Work:
        return Work(way="concurrent", count=count, connections=connections, **how)

    def who(chunking: str, loop: str = "asyncio") -> str:
        return on(f"smtplite{chunking}, {connections[chunking]} connections", loop)

    runs = [
        Run(who=who(chunking, loop), peer=peer, request=work(connections[chunking], chunking=bool(chunking)))
        for loop, peer in LOOPS.items()
        for chunking in connections
    ]
    others = {"aiosmtplib": count, "smtpproto": connections[""], "nodemailer": 10, "smtp-source": connections[""]}
    runs += [
        Run(who=f"{peer}, {number:,} connections", peer=peer, request=work(number)) for peer, number in others.items()
    ]

    def row(chunking: str, limit: float) -> Row:
        title = f"{count:,} concurrent `send()`, round trip 20 ms, {connections[chunking]} connections"
        return Row(
            title=title + (", `chunking=True`" if chunking else ""),
            ours=who(chunking),
            metric=SECONDS,
            goals=[] if quick else [Goal(limit=limit)],
            peers={peer: f"{peer}, {number:,} connections" for peer, number in others.items()},
            loops={loop: who(chunking, loop) for loop in LOOPS if loop != "asyncio"},
        )

    return Group(
        name="concurrent",
        title=f"{count:,} concurrent `send()` at a round trip of 20 ms: seconds in all",
        metric=SECONDS,
        reference=f"aiosmtplib, {count:,} connections",
        round_trip_seconds=0.02,
        rounds=1 if quick else ROUNDS,
        warms_up=not quick,
        runs=runs,
        rows=[row("", 1.3), row(", chunking", 2.4)],
        note="aiosmtplib.send opens a connection for each message. smtpproto's client does too, up to that number at a "
        "time.",
    )


def handshake(*, quick: bool) -> Group:
    modes = {
        "none": ("plain", 3.1),
        "implicit": ("implicit TLS + AUTH PLAIN", 5.1),
        "starttls": ("STARTTLS + AUTH PLAIN", 7.2),
    }
    clients = ("smtplite", "aiosmtplib", "blocking sockets")
    return Group(
        name="handshake",
        title="Round trips before the first MAIL, by time",
        metric=TRIPS,
        keywords=None,
        rounds=QUICK_ROUNDS if quick else ROUNDS,
        runs=[
            Run(who=f"{client}, {title}", peer="handshake", request={"client": client, "mode": mode})
            for mode, (title, _) in modes.items()
            for client in clients
        ],
        rows=[
            Row(
                title=f"round trips before the first MAIL: {title}",
                ours=f"smtplite, {title}",
                metric=TRIPS,
                goals=[Goal(limit=limit)],
                peers={"aiosmtplib": f"aiosmtplib, {title}", "raw bytes": f"blocking sockets, {title}"},
            )
            for title, limit in modes.values()
        ],
        note="Here raw bytes means blocking sockets that know every byte beforehand. See `benchmarks/handshake.py`.",
    )


def large(*, quick: bool) -> Group:
    size = (4 * MIB) if quick else LARGE_BYTES
    mib = size // MIB

    def work(way: Any = "large", **how: Any) -> Work:
        return Work(way=way, size=size, **how)

    runs = [
        Run(who="smtplite", peer="smtplite", request=work()),
        Run(who="smtplite, chunking", peer="smtplite", request=work(chunking=True)),
        Run(who="smtplite, from a path", peer="smtplite", request=work("large-path")),
    ]
    runs += [Run(who=peer, peer=peer, request=work()) for peer in COLUMNS[:-1]]
    runs.append(Run(who="raw bytes", peer="raw", request=work()))
    runs += [
        Run(who=f"{who}, watched", peer=peer, request=work(watch=True))
        for who, peer in {
            **{on("smtplite", loop): peer for loop, peer in LOOPS.items()},
            "aiosmtplib": "aiosmtplib",
            "smtpproto": "smtpproto",
            "raw bytes": "raw",
        }.items()
    ]
    watched = {name: f"{name}, watched" for name in ("aiosmtplib", "smtpproto", "raw bytes")}
    return Group(
        name="large",
        title=f"A message of {mib} MiB: seconds",
        metric=SECONDS,
        reference=AIOSMTPLIB,
        rounds=1 if quick else ROUNDS,
        warms_up=False,
        is_fresh=True,
        runs=runs,
        rows=[
            Row(
                title=f"{mib} MiB body from bytes: wall",
                ours="smtplite",
                metric=SECONDS,
                goals=[Goal(limit=0.10, against=AIOSMTPLIB)],
                peers=PEERS | {"raw bytes": "raw bytes"},
                is_lead=True,
            ),
            Row(
                title=f"{mib} MiB body from bytes: memory above the caller's copy",
                ours="smtplite",
                metric=PEAK,
                goals=[Goal(limit=8)],
                is_lead=True,
                peers=named("aiosmtplib", "smtpproto", "smtplib", "nodemailer", "raw bytes"),
            ),
            Row(
                title=f"{mib} MiB body from a path: memory in all",
                ours="smtplite, from a path",
                metric=PEAK,
                goals=[Goal(limit=8)],
            ),
            Row(
                title=f"{mib} MiB body from bytes: longest stall of the event loop",
                ours="smtplite, watched",
                metric=STALL,
                goals=[Goal(limit=20)],
                peers=watched,
                loops={loop: f"{on('smtplite', loop)}, watched" for loop in LOOPS if loop != "asyncio"},
            ),
        ],
        note="Each run has a process of its own. Its memory is how much the high-water mark grows from just before the "
        "message, on a connection that has already sent a small one. smtpproto holds the message as an object. Stalls "
        "are wall time, and include what the server uses of the same core.",
    )


def core(*, quick: bool) -> Group:
    count = 60 if quick else 400
    return Group(
        name="core",
        title="CPU for one message of 1 KiB: the core alone, and a whole send",
        metric=CPU,
        reference=AIOSMTPLIB,
        keywords=tuple(keyword for keyword in KEYWORDS if not keyword.startswith("SIZE")),
        rounds=QUICK_ROUNDS if quick else ROUNDS,
        runs=[
            Run(who="the core, BDAT", peer="kernels", request={"kernel": "message by BDAT", "count": count * 20}),
            Run(who="the core, DATA", peer="kernels", request={"kernel": "message by DATA", "count": count * 10}),
            Run(
                who="aiosmtplib", peer="aiosmtplib", request=Work(way="sequence", count=count, warm=20, form="objects")
            ),
            Run(who="aiosmtplib, of bytes", peer="aiosmtplib", request=Work(way="sequence", count=count, warm=20)),
        ],
        rows=[
            Row(
                title="protocol core alone: CPU a message",
                ours="the core, BDAT",
                metric=CPU,
                goals=[Goal(limit=0.10, against="aiosmtplib", name="aiosmtplib's whole send")],
                peers={"aiosmtplib": "aiosmtplib"},
            )
        ],
        note="See `benchmarks/core.py`.",
    )


def watching(*, quick: bool) -> Group:
    work = {
        "send_many": Work(way="bulk", count=300 if quick else 6_000, warm=5 if quick else 50),
        "send": Work(way="sequence", count=120 if quick else 2_500, warm=5 if quick else 50),
    }
    runs = []
    for name, request in work.items():
        runs.append(Run(who=f"smtplite {name}", peer="smtplite", request=request))
        runs.append(Run(who=f"smtplite {name}, without a question", peer="untraceable", request=request))
        traced = attrs.evolve(request, trace=True)
        runs.append(Run(who=f"smtplite {name}, with trace=", peer="smtplite", request=traced))

    return Group(
        name="watching",
        title="What it costs to be able to watch, used and unused",
        metric=RATE,
        reference="smtplite send_many",
        rounds=QUICK_ROUNDS if quick else ROUNDS,
        runs=runs,
        rows=[
            Row(
                title=f"`{name}`, `trace` unused",
                ours=f"smtplite {name}",
                metric=RATE,
                goals=[
                    Goal(
                        limit=0.97,
                        against=f"smtplite {name}, without a question",
                        name="itself without a question whether somebody listens",
                    )
                ],
            )
            for name in work
        ],
        note='"Without a question": the statements that ask whether somebody listens were cut out of the source. "With '
        '`trace=`": a function that does nothing is called for each event.',
    )


def blocking(*, quick: bool) -> Group:
    def work(count: int, **how: Any) -> Work:
        return Work(way="sequence", count=count // (10 if quick else 1), warm=50 // (10 if quick else 1), **how)

    objects = work(1_000, form="objects")
    runs = [
        Run(who="SyncClient, of objects", peer="sync", request=objects),
        Run(who="smtplib, of objects", peer="smtplib", request=objects),
        Run(who="smtplite, of objects", peer="smtplite", request=objects),
        Run(who="SyncClient, of bytes", peer="sync", request=work(2_000)),
        Run(who="smtplib, of bytes", peer="smtplib", request=work(2_000)),
        Run(who="smtplite, of bytes", peer="smtplite", request=work(2_000)),
    ]
    return Group(
        name="blocking",
        title="CPU for a message of 1 KiB by a client that blocks, on one warm connection",
        metric=CPU,
        reference="smtplib, of objects",
        rounds=QUICK_ROUNDS if quick else ROUNDS,
        runs=runs,
        rows=[
            Row(
                title="`SyncClient.send` of an `EmailMessage`: CPU",
                ours="SyncClient, of objects",
                metric=CPU,
                goals=[Goal(limit=1.4, against="smtplib, of objects", name="smtplib's `send_message`")],
                peers={"smtplib": "smtplib, of objects"},
            ),
            Row(
                title="`SyncClient.send` of bytes: CPU",
                ours="SyncClient, of bytes",
                metric=CPU,
                peers={"smtplib": "smtplib, of bytes"},
            ),
        ],
        note="CPU of the whole process: the caller's thread and that of the event loop. smtplite is `await "
        "Client.send`.",
    )


def replies(*, quick: bool) -> Group:
    repeat = 1 if quick else 4
    runs, rows = [], []
    for by in ("Transaction", "Connection"):
        for recipients, times in ((MANY, repeat), (FEW, repeat * MANY // FEW)):
            request = {"kernel": f"reply by {by}", "recipients": recipients, "repeat": times}
            runs.append(Run(who=f"{by}, {recipients:,} RCPT", peer="kernels", request=request))
        few = f"{by}, {FEW:,} RCPT"
        rows.append(
            Row(
                title=f"reading one reply of {MANY:,}, by {by}",
                ours=f"{by}, {MANY:,} RCPT",
                metric=CPU,
                goals=[Goal(limit=1.5, against=few, name=f"the same of {FEW:,}")],
            )
        )
    return Group(
        name="replies",
        title="CPU for one reply to RCPT, many of which share a write",
        metric=CPU,
        keywords=None,
        rounds=QUICK_ROUNDS if quick else ROUNDS,
        runs=runs,
        rows=rows,
        note="See `benchmarks/core.py`.",
    )


def transparency(*, quick: bool) -> Group:
    def run(who: str, work: str, kind: str = "words") -> Run:
        return Run(who=who, peer="kernels", request={"kernel": "transparency", "work": work, "kind": kind})

    kinds = list(BODIES)[: 2 if quick else None]
    runs = [run("copy", "copy"), run("sliced only", "slice"), *(run(kind, "encode", kind) for kind in kinds)]
    if not quick:
        runs.append(run("prose, by aiosmtplib", "aiosmtplib", "prose"))
    return Group(
        name="transparency",
        title="Dot-stuffing and line endings, streamed, against copying the bytes",
        metric=SPEED,
        reference="copy",
        keywords=None,
        rounds=QUICK_ROUNDS if quick else ROUNDS,
        runs=runs,
        rows=[
            Row(
                title="dot-stuffing, CRLF text with 1 % dot lines",
                ours="words",
                metric=SPEED,
                goals=[Goal(limit=0.6, against="copy", name="copying")],
                peers={} if quick else {"aiosmtplib": "prose, by aiosmtplib"},
            )
        ],
        note="See `benchmarks/transparency.py` for what the kinds are.",
    )


def flattening(*, quick: bool) -> Group:
    counts = {"small text": 300, "beyond ASCII": 100, "long and mixed": 40, "alternative": 60}
    goals = {"small text": 1 / 4, "long and mixed": 1 / 3}
    runs = [
        Run(
            who=f"{kind}, by {work}",
            peer="kernels",
            request={"kernel": "flattening", "work": work, "kind": kind, "count": count // (10 if quick else 1)},
        )
        for kind, count in counts.items()
        for work in ("wire_bytes", "as_bytes")
    ]
    return Group(
        name="flattening",
        title="CPU to make bytes of an EmailMessage",
        metric=CPU,
        keywords=None,
        rounds=QUICK_ROUNDS if quick else ROUNDS,
        runs=runs,
        rows=[
            Row(
                title=f"EmailMessage → wire bytes, {kind}",
                ours=f"{kind}, by wire_bytes",
                metric=CPU,
                goals=[Goal(limit=goals[kind], against=f"{kind}, by as_bytes", name="`as_bytes(policy=SMTP)`")]
                if kind in goals
                else [],
                peers={"smtplib": f"{kind}, by as_bytes"},
            )
            for kind in counts
        ],
        note="See `benchmarks/flattening.py`. The peers flatten with `as_bytes`, which is in the column of the "
        "standard library.",
    )


def parsing(*, quick: bool) -> Group:
    kinds = {"window": (200, "a reply of one line, 96 at once"), "EHLO": (4_000, "a reply to EHLO, of seven lines")}
    runs = [
        Run(
            who=f"{title}, by {work}",
            peer="kernels",
            request={"kernel": "parsing", "work": work, "kind": kind, "count": count // (10 if quick else 1)},
        )
        for kind, (count, title) in kinds.items()
        for work in ("ReplyParser", "smtplib")
    ]
    runs.append(
        Run(
            who="a reply of one line, byte by byte, by ReplyParser",
            peer="kernels",
            request={"kernel": "parsing", "work": "ReplyParser", "kind": "octets", "count": 4 if quick else 20},
        )
    )
    return Group(
        name="parsing",
        title="CPU to read one reply",
        metric=CPU,
        keywords=None,
        rounds=QUICK_ROUNDS if quick else ROUNDS,
        runs=runs,
        rows=[
            Row(
                title=f"reading {title}",
                ours=f"{title}, by ReplyParser",
                metric=CPU,
                peers={"smtplib": f"{title}, by smtplib"},
            )
            for _, title in kinds.values()
        ],
        note="See `benchmarks/parsing.py`.",
    )


#: Name for --rows -> what makes the group.
GROUPS: Final[dict[str, Callable[..., Group]]] = {
    made.__name__: made
    for made in (
        objects,
        loopback,
        trips,
        rtt20,
        rtt50,
        concurrent,
        handshake,
        large,
        core,
        watching,
        blocking,
        replies,
        transparency,
        flattening,
        parsing,
    )
}
