"""The results file: at every moment the truth, whatever interrupted its writer (rule R31)."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.cli import results as results_module
from smtplite.cli.results import Record, Result, Results, begun_lines
from smtplite.cli.terminal import UserError

if sys.platform != "win32":
    import resource

FORMER = '{{"file": "{}", "recipient": {}, "outcome": "{}", "reply": {}, "error": null}}\n'


def result(recipient: str | None, outcome: str, reply: str | None = None, file: str = "a.eml") -> Result:
    return Result(file=file, recipient=recipient, outcome=outcome, reply=reply)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def outcomes(record: Record) -> dict[str | None, str]:
    return {recipient: found.outcome for recipient, found in record.results.items()}


def known(path: Path) -> dict[str, Record]:
    with Results(path, read_only=True) as results:
        return results.known


def test_what_was_written_is_read_and_nothing_is_lost(path: Path) -> None:
    odd = "b\udcff\n.eml"  # a name that is no UTF-8, and has a line break
    with Results(path) as results:
        results.begin(begun_lines("a.eml", None) + begun_lines(odd, None))
        results.write([result("x@y.example", "refused", "451 later")])
        results.write([result("jürgen@y.example", "unknown", file=odd)])
    with Results(path) as results:
        results.begin(begun_lines("a.eml", ["x@y.example"]))
        results.write([result("x@y.example", "accepted", "250 ok")])
    found = known(path)
    assert found["a.eml"].results == {"x@y.example": result("x@y.example", "accepted", "250 ok")}
    assert found[odd].results == {"jürgen@y.example": result("jürgen@y.example", "unknown", file=odd)}
    assert len(lines(path)) == 6


def test_a_line_is_in_the_file_before_the_next_one_is_known(path: Path) -> None:
    with Results(path) as results:
        results.begin(begun_lines("a.eml", None))
        assert path.read_bytes().endswith(b'"outcome": "begun"}\n')
        results.write([result("x@y.example", "accepted")])
        assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("recipients", [None, ["x@y.example", "z@y.example"]])
def test_what_was_begun_and_has_no_outcome_is_unknown_and_the_next_writer_says_so(
    recipients: list[str] | None, path: Path
) -> None:
    with Results(path) as results:
        results.begin(begun_lines("a.eml", recipients))
    for _ in range(2):  # said once
        with Results(path) as results:
            record = results.known["a.eml"]
            assert record.has_unknown
            assert outcomes(record) == (
                {None: "unknown"} if recipients is None else dict.fromkeys(recipients, "unknown")
            )
            assert record.recipients_left(resend_unknown=False) == []
            assert record.recipients_left(resend_unknown=True) == recipients
    count = 1 if recipients is None else len(recipients)
    assert [line["outcome"] for line in lines(path)] == ["begun"] * count + ["unknown"] * count
    assert "an earlier run" in lines(path)[-1]["error"]


def test_a_message_whose_outcomes_were_cut_off_is_unknown_for_those_who_have_no_line(path: Path) -> None:
    with Results(path) as results:
        results.begin(begun_lines("a.eml", None))
        results.write([result(f"{name}@y.example", "accepted") for name in "abc"])
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"b@y.example")])
    with Results(path) as results:
        record = results.known["a.eml"]
        assert outcomes(record) == {"a@y.example": "accepted", None: "unknown"}
        assert record.recipients_left(resend_unknown=False) == []
        assert record.recipients_left(resend_unknown=True) is None
        assert record.recipients_done(resend_unknown=True) == {"a@y.example"}


@given(st.integers(0, 2000))
def test_wherever_a_writer_was_killed_the_file_is_read_and_says_no_more_than_was_written(cut: int) -> None:
    """A torn line alone is lost; what it says of a message is "begun" at least until all its outcomes are there."""
    whole = b"".join(
        begun_lines(f"{n}.eml", None)
        + results_module._outcome_lines([result(f"{name}@y.example", "accepted", file=f"{n}.eml") for name in "xy"])
        for n in range(5)
    )
    octets = whole[:cut]
    found: dict[str, Record] = {}
    for line in octets.splitlines(keepends=True):
        results_module._take_in(found, line)
    for file, record in found.items():
        record.close(file)
        accepted = {f"{name}@y.example" for name in "xy" if outcomes(record).get(f"{name}@y.example") == "accepted"}
        assert record.has_unknown == (len(accepted) < 2)
    # The last line may lack its line break alone: then it says all it has to say.
    begun = sum(begun_lines(f"{n}.eml", None).rstrip() in octets for n in range(5))
    assert len(found) == begun


@pytest.mark.parametrize("octets", [1, 5, 12, 40])
def test_a_writer_that_was_killed_within_a_line_loses_that_line_alone(octets: int, path: Path) -> None:
    with Results(path) as results:
        results.write([result("x@y.example", "accepted")])
        whole = path.read_bytes()
    path.write_bytes(whole + whole[:octets])
    assert set(known(path)) == {"a.eml"}
    with Results(path) as results:
        results.write([result("x@y.example", "refused", file="b.eml")])
    assert set(known(path)) == {"a.eml", "b.eml"}
    assert path.read_bytes().count(b"\n") == 3


def test_a_file_of_the_former_format_is_understood(path: Path) -> None:
    """It has no "begun" lines, and does not tell how many lines follow."""
    path.write_text(
        FORMER.format("a.eml", '"x@y.example"', "accepted", '"250 ok"')
        + FORMER.format("a.eml", '"z@y.example"', "not_sent", "null")
        + FORMER.format("b.eml", "null", "not_sent", "null")
    )
    found = known(path)
    assert outcomes(found["a.eml"]) == {"x@y.example": "accepted", "z@y.example": "not_sent"}
    assert found["a.eml"].recipients_left(resend_unknown=False) == ["z@y.example"]
    assert found["b.eml"].recipients_left(resend_unknown=False) is None


@pytest.mark.parametrize(
    "line",
    [
        "From: ada@example.org",
        "[]",
        "{}",
        "[" * 100_000,
        '{"file": 1, "recipient": null, "outcome": "accepted", "reply": null}',
        '{"file": "a", "recipient": 1, "outcome": "accepted", "reply": null}',
        '{"file": "a", "recipient": null, "outcome": "eaten", "reply": null}',
        '{"file": "a", "recipient": null, "outcome": "accepted", "reply": null, "more": "1"}',
        '{"recipient": null, "outcome": "begun"}',
        '{"file": "' + "x" * 2_000_000 + '", "recipient": null, "outcome": "begun"}',
    ],
    ids=range(10),
)
@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_no_results_file_is_refused_with_its_line(line: str, read_only: bool, path: Path) -> None:
    with Results(path) as results:
        results.write([result("x@y.example", "accepted")])
    with path.open("a") as file:
        file.write(f"{line}\n")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"results, line [23]: not a line of a results file"):
        Results(path, read_only=read_only)
    assert path.read_bytes() == before


# What is known


def test_only_what_cannot_duplicate_is_left_unless_the_unknown_is_asked_for() -> None:
    record = Record()
    for found in (
        result("taken@y.example", "accepted", "250 ok"),
        result("maybe@y.example", "unknown"),
        result("never@y.example", "refused", "550 no"),
        result("later@y.example", "refused", "451 later"),
        result("not@y.example", "not_sent"),
    ):
        record.add(found, 0)
    assert record.recipients_left(resend_unknown=False) == ["later@y.example", "not@y.example"]
    assert record.recipients_left(resend_unknown=True) == ["maybe@y.example", "later@y.example", "not@y.example"]
    record = Record()
    record.add(result(None, "not_sent"), 0)
    assert record.recipients_left(resend_unknown=False) is None


@pytest.mark.parametrize("later", ["not_sent", "refused"])
@pytest.mark.parametrize("whom", ["x@y.example", None])
def test_what_may_have_arrived_is_not_undone_by_a_later_run_that_did_not_send_it(later: str, whom: str | None) -> None:
    """R31."""
    record = Record()
    record.add_begun(whom)
    record.close("a.eml")
    record.add_begun(whom)
    record.add(result("x@y.example", later, "451 later"), 0)
    assert outcomes(record) == {"x@y.example": "unknown"}
    record.add(result("x@y.example", "accepted", "250 ok"), 0)
    assert outcomes(record) == {"x@y.example": "accepted"}
    assert not record.has_unknown


def test_a_later_run_to_others_leaves_the_unknown_as_it_is() -> None:
    record = Record()
    record.add_begun(None)
    record.close("a.eml")
    record.add_begun("other@y.example")
    record.add(result("other@y.example", "accepted", "250 ok"), 0)
    assert outcomes(record) == {None: "unknown", "other@y.example": "accepted"}
    record.add(result(None, "not_sent"), 0)  # a third one could not read it
    assert outcomes(record)[None] == "unknown"


# One writer


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.needs("symbolic links")
def test_a_second_one_is_refused_until_the_first_is_done(read_only: bool, path: Path) -> None:
    with Results(path):
        with pytest.raises(UserError, match="results is in use by another smtplite send: wait for its end, or"):
            Results(path, read_only=read_only)
        (path.parent / "link").symlink_to(path)
        with pytest.raises(UserError, match="link is in use"):
            Results(path.parent / "link")
    with Results(path, read_only=read_only):
        pass


@pytest.mark.needs("flock")
def test_where_files_cannot_be_locked_it_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(UserError, match=r"cannot lock .* against other processes: Operation not supported"):
        Results(path)


@pytest.mark.parametrize("kind", ["FIFO", "device", "socket", "folder"])
@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.needs("named pipes")
def test_it_is_a_regular_file(kind: str, read_only: bool, path: Path) -> None:
    """R33."""
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    verb = "read" if read_only else "write"
    with pytest.raises(UserError, match=f"cannot {verb} .*results: it is a {kind}, not a regular file"):
        Results(path, read_only=read_only)


def test_what_is_resumed_must_be_there_and_is_not_made(path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*results: No such file or directory"):
        Results(path, must_exist=True)
    with pytest.raises(UserError, match=r"cannot read .*results: No such file or directory"):
        Results(path, read_only=True)
    assert not path.exists()


# A full disk


@contextmanager
def room_for(octets: int) -> Iterator[None]:
    """Let no file grow beyond this; the system's signal is ignored, as it is by Python."""
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1, 30, 70, 100, 150])
@pytest.mark.needs("limits of resources")
def test_what_has_no_room_is_not_in_the_file_and_the_rest_is_whole(room: int, path: Path) -> None:
    with Results(path) as results:
        results.begin(begun_lines("a.eml", None))
        results.write([result("x@y.example", "accepted")])
        before = path.read_bytes()
        with room_for(len(before) + room):
            with pytest.raises(UserError, match=r"cannot write .*results: File too large") as raised:
                results.begin(begun_lines("b.eml", None) + begun_lines("c.eml", None) + begun_lines("d.eml", None))
            assert raised.value.exit_code == 1
            assert path.read_bytes() == before
        results.begin(begun_lines("b.eml", None))  # there is room again
    found = known(path)
    assert outcomes(found["a.eml"]) == {"x@y.example": "accepted"}
    assert set(found) == {"a.eml", "b.eml"}


@pytest.mark.needs("limits of resources")
def test_a_part_that_cannot_be_taken_back_is_a_torn_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ftruncate(descriptor: int, length: int) -> None:
        raise OSError(5, "Input/output error")

    with Results(path) as results:
        results.begin(begun_lines("a.eml", None))
        with room_for(results._size + 30), monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", ftruncate)
            with pytest.raises(UserError, match="cannot write"):
                results.write([result("x@y.example", "accepted")])
        results.begin(begun_lines("b.eml", None))
    found = known(path)
    assert outcomes(found["a.eml"]) == {None: "unknown"}
    assert set(found) == {"a.eml", "b.eml"}


@pytest.mark.needs("limits of resources")
def test_a_disk_that_is_full_when_it_is_opened_ends_it_before_anything_is_sent(path: Path) -> None:
    path.write_bytes(begun_lines("a.eml", None))
    with room_for(path.stat().st_size), pytest.raises(UserError, match=r"cannot write .*: File too large"):
        Results(path)
    with Results(path):  # the lock has gone with it
        pass
