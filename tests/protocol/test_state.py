"""The table of rules: its shape, and that the connection obeys it in every pair of state and command."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from itertools import product
from typing import Any, Protocol

import pytest

from smtplite.errors import LocalProtocolError, RemoteProtocolError
from smtplite.protocol import (
    RULES,
    Auth,
    AuthCancel,
    AuthResponse,
    Bdat,
    BdatLast,
    Command,
    Connection,
    Data,
    Ehlo,
    EndOfData,
    Event,
    Greeting,
    Helo,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    Rule,
    StartTls,
    State,
    commands,
)
from smtplite.protocol import connection as connection_module
from smtplite.protocol.state import AFTER, RESERVED_CODES, Occasion

Make = dict[type[Command], Callable[[], Command]]
ONE_OF_EACH = sorted(RULES, key=lambda kind: kind.__name__)


class Reach(Protocol):
    def __call__(self, state: State, *, lmtp: bool = ..., keywords: tuple[str, ...] = ...) -> Connection: ...


Show = Callable[[Event], tuple[Any, ...]]


def drain(connection: Connection) -> list[Event]:
    events = []
    while (event := connection.next_event()) is not None:
        events.append(event)
    return events


# The table


def test_there_is_a_rule_for_every_command() -> None:
    assert set(RULES) == {getattr(commands, name) for name in commands.__all__} - {Command}


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_a_rule_is_of_sound_shape(kind: type[Command]) -> None:
    rule = RULES[kind]
    assert rule.expected <= {2, 3, 4, 5}
    assert rule.phase
    assert rule.timeout in {"greeting", "command", "data_init", "end_of_data", "quit"}
    assert State.CLOSED not in rule.legal_in
    assert State.CLOSING not in rule.legal_in
    assert State.GREETING not in rule.legal_in
    assert rule.code is None or rule.code // 100 in rule.expected


def test_while_owed_is_what_success_leads_to_unless_said_otherwise() -> None:
    """Section 2: the optimistic state is that of the newest pending command."""
    assert {kind for kind, rule in RULES.items() if rule.while_owed is not rule.after_success} == {BdatLast}
    assert RULES[BdatLast].while_owed is State.VERDICT
    assert Rule("X", frozenset(), State.READY, None, True, "x").while_owed is State.READY


def test_every_state_but_the_ends_is_left_and_every_state_is_reached() -> None:
    left = {state for rule in RULES.values() for state in rule.legal_in}
    # GREETING is left by the greeting, TLS by tls_established: no command is sent there.
    assert set(State) - left == {State.GREETING, State.TLS, State.CLOSING, State.CLOSED}
    reached = {
        state
        for rule in RULES.values()
        for state in (rule.after_success, rule.after_failure, rule.while_owed, rule.after_challenge)
    }
    assert set(State) - reached - set(AFTER.values()) == {State.GREETING}
    assert set(AFTER) == set(Occasion)


def test_the_connection_goes_nowhere_but_where_a_table_says() -> None:
    """Every state that is assigned comes out of RULES or AFTER; only the first is named."""
    source = inspect.getsource(connection_module)
    assigned = {
        ast.unparse(node.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "self.state"
    }
    first, advanced = (
        "State.GREETING",
        "state",
    )  # `state`: the argument of _advance, which each caller takes from a rule
    tables = {each for each in assigned if each.startswith(("AFTER[", "_AFTER_250[", "_AFTER_USUAL["))}
    assert assigned == {first, advanced} | tables
    calls = {
        ast.unparse(node.args[0])
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._advance"
    }
    assert calls == {
        "rule.after_success",
        "rule.after_failure",
        "rule.after_failure if reply.is_negative else rule.after_success",
        "RULES[type(command)].after_challenge",
    }


def test_only_these_end_their_group() -> None:
    """RFC 2920 3.1; the end of data in LMTP besides (see test_connection)."""
    inside = {kind.__name__ for kind, rule in RULES.items() if not rule.ends_group}
    assert inside == {"Mail", "Rcpt", "Rset", "EndOfData", "Bdat", "BdatLast", "BdatProbe"}


def test_mail_is_never_behind_a_bdat_whose_verdict_is_owed() -> None:
    """R23: RSET goes in between."""
    assert RULES[BdatLast].while_owed not in RULES[Mail].legal_in
    assert RULES[BdatLast].while_owed in RULES[Rset].legal_in


def test_each_time_limit_is_that_of_rfc_5321_4_5_3_2() -> None:
    limits = {kind.__name__: rule.timeout for kind, rule in RULES.items() if rule.timeout != "command"}
    assert limits == {
        "Greeting": "greeting",
        "Data": "data_init",
        "EndOfData": "end_of_data",
        "Bdat": "end_of_data",
        "BdatLast": "end_of_data",
        "Quit": "quit",
    }


def test_the_keyword_that_must_be_offered() -> None:
    required = {kind.__name__: rule.requires for kind, rule in RULES.items() if rule.requires}
    assert required == {
        "StartTls": "STARTTLS",
        "Auth": "AUTH",
        "Bdat": "CHUNKING",
        "BdatLast": "CHUNKING",
        "BdatProbe": "CHUNKING",
    }


# Legality: every command in every state, and behind every command


def expected_assumed(connection: Connection, state: State) -> State | None:
    """Return the state by which legality is judged, or None if nothing may be sent at all."""
    if not connection.pending:
        return state
    newest = type(connection.pending[-1])
    if RULES[newest].ends_lmtp_group if connection.lmtp else RULES[newest].ends_group:
        return None
    if not connection.extensions.pipelining:
        return None
    return RULES[newest].while_owed or state


def expected_legal(connection: Connection, state: State, kind: type[Command]) -> bool:
    rule = RULES[kind]
    if expected_assumed(connection, state) not in rule.legal_in:
        return False
    if rule.requires is not None and rule.requires not in connection.extensions:
        return False
    if kind in (Ehlo, Helo):
        return not connection.lmtp
    if kind is Lhlo:
        return connection.lmtp
    return True


def snapshot(connection: Connection) -> tuple[Any, ...]:
    return (
        connection.state,
        tuple(map(id, connection.pending)),
        id(connection.awaiting),
        connection.owed,
        connection.has_unread,
        connection.wants_content,
        dict(connection.extensions),
        connection.extensions.greeting,
        connection.is_tls,
        connection.is_authenticated,
        connection.lmtp,
    )


GOOD = {Greeting: 220, StartTls: 220, Auth: 235, AuthResponse: 235, AuthCancel: 235, Data: 354, Quit: 221}


def play_on(connection: Connection, make: Make, show: Show) -> list[Any]:
    """Answer all that is owed, send whatever goes, end: what two equal connections do equally."""
    story: list[Any] = []

    def answer() -> None:
        for command in connection.pending:
            connection.receive_data(b"%d ok\r\n" % GOOD.get(type(command), 250))
            story.extend(map(show, drain(connection)))

    answer()
    if connection.wants_content:
        story.append(connection.send_content(b".x\n"))
    for kind in (EndOfData, AuthResponse, Noop, Mail, Rcpt, BdatLast, Rset, Quit):
        try:
            story.append(connection.send(make[kind]()))
        except LocalProtocolError as error:
            story.append(str(error))
        answer()
        story.append(connection.state)
    connection.receive_data(b"")
    story.extend(map(show, drain(connection)))
    return story


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("state", State)
def test_every_command_in_every_state_is_legal_by_the_table_or_refused_and_changes_nothing(
    state: State, lmtp: bool, pipelining: bool, reach: Reach, make: Make, show: Show
) -> None:
    keywords = ("PIPELINING", "CHUNKING", "STARTTLS", "AUTH PLAIN LOGIN")[0 if pipelining else 1 :]
    untouched = play_on(reach(state, lmtp=lmtp, keywords=keywords), make, show)
    for kind in RULES:
        connection = reach(state, lmtp=lmtp, keywords=keywords)
        base = State.RCPT if state is State.VERDICT else state
        before = snapshot(connection)
        command = make[kind]()
        if expected_legal(connection, base, kind):
            octets = connection.send(command)
            assert octets == command.to_bytes()
            assert connection.pending[-1] is command
            assert connection.owed == before[3] + 1
            assert connection.state is base
        else:
            with pytest.raises(LocalProtocolError):
                connection.send(command)
            assert snapshot(connection) == before
            assert play_on(connection, make, show) == untouched


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("state", State)
def test_every_command_behind_every_legal_command_is_judged_by_the_newest_alone(
    state: State, lmtp: bool, reach: Reach, make: Make, show: Show
) -> None:
    base = State.RCPT if state is State.VERDICT else state
    for first in RULES:
        if not expected_legal(reach(state, lmtp=lmtp), base, first):
            continue
        twin = reach(state, lmtp=lmtp)
        twin.send(make[first]())
        untouched = play_on(twin, make, show)
        for second in RULES:
            connection = reach(state, lmtp=lmtp)
            connection.send(make[first]())
            before = snapshot(connection)
            if expected_legal(connection, base, second):
                connection.send(make[second]())
                assert connection.owed == before[3] + 1
            else:
                with pytest.raises(LocalProtocolError):
                    connection.send(make[second]())
                assert snapshot(connection) == before
                assert play_on(connection, make, show) == untouched


@pytest.mark.parametrize("state", State)
def test_content_and_tls_are_refused_in_every_other_state_and_change_nothing(
    state: State, reach: Reach, make: Make, show: Show
) -> None:
    untouched = play_on(reach(state), make, show)
    connection = reach(state)
    before = snapshot(connection)
    if state is not State.DATA:
        with pytest.raises(LocalProtocolError):
            connection.send_content(b"x")
    if state not in (State.GREETING, State.TLS):
        with pytest.raises(LocalProtocolError):
            connection.tls_established()
    assert snapshot(connection) == before
    assert play_on(connection, make, show) == untouched


# Transitions


def answered(reach: Reach, make: Make, state: State, kind: type[Command], code: int) -> Connection:
    connection = reach(state, lmtp=kind is Lhlo)
    if kind is not Greeting:
        connection.send(make[kind]())
    for _ in connection.pending[:-1]:  # in VERDICT, the BDAT LAST in front
        connection.receive_data(b"250 ok\r\n")
    connection.receive_data(b"%d ok\r\n" % code)
    drain(connection)
    return connection


PAIRS = [(state, kind) for kind in ONE_OF_EACH for state in sorted(RULES[kind].legal_in, key=lambda state: state.name)]


@pytest.mark.parametrize(("state", "kind"), [*PAIRS, (State.GREETING, Greeting)])
def test_a_reply_leads_where_the_table_says(state: State, kind: type[Command], reach: Reach, make: Make) -> None:
    rule = RULES[kind]
    # Behind a BDAT LAST that was taken, all that is sent in VERDICT finds READY.
    before = State.READY if state is State.VERDICT else state
    good = answered(reach, make, state, kind, GOOD.get(kind, 250))
    assert good.state is (rule.after_success or before)
    assert good.pending == ()
    if kind is not Rset:
        for code in (450, 550, 571):
            assert answered(reach, make, state, kind, code).state is (rule.after_failure or before)
    # 421 to any command (RFC 5321 3.8).
    assert answered(reach, make, state, kind, 421).state is State.CLOSING


# Codes


def believed(kind: type[Command], code: int) -> bool:
    """Say, independently of the table, whether this code can be the reply to this command."""
    authentication = (Auth, AuthResponse, AuthCancel)
    own: dict[int, tuple[type[Command], ...]] = {
        220: (Greeting, StartTls),
        221: (Quit,),
        235: authentication,
        334: authentication,
        354: (Data,),
    }
    if code == 421:
        return True
    if code in own:
        return kind in own[code]
    if 300 <= code < 400:
        return kind is Data  # judged by the first digit
    if 200 <= code < 300:
        return kind not in (Data, StartTls, *authentication)
    return kind is not Rset


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_each_code_of_all_is_believed_or_breaks_the_protocol(kind: type[Command], reach: Reach, make: Make) -> None:
    """R4, R14, R16."""
    state = State.GREETING if kind is Greeting else min(RULES[kind].legal_in, key=lambda state: state.value)
    if state is State.VERDICT:
        state = State.READY
    for code in range(200, 600):
        try:
            connection = answered(reach, make, state, kind, code)
        except RemoteProtocolError:
            assert not believed(kind, code), code
        else:
            assert believed(kind, code), code
            assert connection.state is not State.CLOSED


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Data, 250),
        (Data, 334),
        (Mail, 354),
        (Mail, 334),
        (Rcpt, 220),
        (Rcpt, 354),
        (Rcpt, 221),
        (Rset, 550),
        (Rset, 450),
        (Rset, 354),
        (Auth, 350),
        (Auth, 250),
        (Auth, 220),
        (AuthResponse, 354),
        (StartTls, 250),
        (StartTls, 354),
        (StartTls, 334),
        (Ehlo, 220),
        (Ehlo, 354),
        (EndOfData, 354),
        (EndOfData, 221),
        (BdatLast, 354),
        (Quit, 220),
        (Quit, 354),
        (Noop, 235),
        (Greeting, 354),
        (Greeting, 221),
    ],
)
def test_a_reply_out_of_its_class_breaks_the_protocol_and_ends_the_connection(
    kind: type[Command], code: int, reach: Reach, make: Make
) -> None:
    """R4: the count is off, and no later reply can be trusted."""
    state = State.GREETING if kind is Greeting else min(RULES[kind].legal_in, key=lambda state: state.value)
    connection = reach(state)
    if kind is not Greeting:
        connection.send(make[kind]())
    connection.receive_data(b"%d surprise\r\n250 ok\r\n" % code)
    text = r"\[redacted\]" if kind in (Auth, AuthResponse) else "surprise"  # rule R28
    with pytest.raises(RemoteProtocolError, match=rf"server answered '{code} {text}' to ") as first:
        connection.next_event()
    assert connection.state is State.CLOSED
    with pytest.raises(RemoteProtocolError) as second:
        connection.next_event()
    assert str(first.value) == str(second.value)


def test_the_reserved_codes_are_these() -> None:
    assert {code: {kind.__name__ for kind in kinds} for code, kinds in RESERVED_CODES.items()} == {
        220: {"Greeting", "StartTls"},
        221: {"Quit"},
        235: {"Auth", "AuthResponse", "AuthCancel"},
        334: {"Auth", "AuthResponse", "AuthCancel"},
        354: {"Data"},
    }


# Groups: what shares a write is checked as a whole


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("state", State)
def test_a_group_is_its_commands_one_by_one_or_nothing(state: State, lmtp: bool, reach: Reach, make: Make) -> None:
    """Every pair of commands in every state: the same octets, or the same error and nothing changed."""
    for kinds in product(make, repeat=2):
        together, singly = reach(state, lmtp=lmtp), reach(state, lmtp=lmtp)
        group = [make[kind]() for kind in kinds]
        before = (snapshot(together), together.octets_sent)
        octets, refused = b"", None
        try:
            for command in group:
                octets += singly.send(command)
        except LocalProtocolError as error:
            refused = str(error)
        if refused is None:
            assert together.send_group(group) == octets, kinds
            assert together.pending[-2:] == tuple(group), kinds
            assert (together.state, snapshot(together)[3:]) == (singly.state, snapshot(singly)[3:]), kinds
            assert together.octets_sent == singly.octets_sent
        else:
            with pytest.raises(LocalProtocolError, match=re.escape(refused)):
                together.send_group(group)
            assert (snapshot(together), together.octets_sent) == before, kinds


def test_nothing_goes_in_a_group_behind_a_chunk(reach: Reach) -> None:
    """The chunk's octets come first: they would be taken for commands, or the commands for the chunk."""
    connection = reach(State.RCPT)
    with pytest.raises(LocalProtocolError, match="3 bytes of the chunk are missing"):
        connection.send_group([Bdat(3), BdatLast(0)])
    assert connection.pending == ()
    assert connection.send_group([Bdat(3)]) + connection.send_content(b"abc") == b"BDAT 3\r\nabc"
