"""The results file: read as it was written, whatever interrupted its writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtplite.cli.results import Result, Results, read_results, worth_another_try
from smtplite.cli.terminal import UserError


def result(recipient: str | None, outcome: str, reply: str | None = None, file: str = "a.eml") -> Result:
    return Result(file=file, recipient=recipient, outcome=outcome, reply=reply)


def test_what_was_written_is_read_and_the_last_word_counts(tmp_path: Path) -> None:
    path = tmp_path / "results"
    odd = "b\udcff\n.eml"  # a name that is no UTF-8, and has a line break
    with Results(path) as results:
        results.write([result("x@y.example", "not_sent"), result("jürgen@y.example", "unknown", file=odd)])
    with Results(path) as results:  # nothing that is there is lost
        results.write([result("x@y.example", "accepted", "250 ok")])
    assert read_results(path) == {
        "a.eml": {"x@y.example": result("x@y.example", "accepted", "250 ok")},
        odd: {"jürgen@y.example": result("jürgen@y.example", "unknown", file=odd)},
    }


def test_a_line_is_in_the_file_before_the_next_one_is_known(tmp_path: Path) -> None:
    path = tmp_path / "results"
    with Results(path) as results:
        results.write([result("x@y.example", "accepted")])
        assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("octets", [1, 5, 12, 40])
def test_a_writer_that_was_killed_within_a_line_loses_that_line_alone(octets: int, tmp_path: Path) -> None:
    path = tmp_path / "results"
    with Results(path) as results:
        results.write([result("x@y.example", "accepted")])
        whole = path.read_bytes()
    path.write_bytes(whole + whole[:octets])
    assert set(read_results(path)) == {"a.eml"}
    with Results(path) as results:
        results.write([result("x@y.example", "refused", file="b.eml")])
    assert set(read_results(path)) == {"a.eml", "b.eml"}
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(
    "line",
    [
        "From: ada@example.org",
        "[]",
        "{}",
        '{"file": 1, "recipient": null, "outcome": "accepted", "reply": null}',
        '{"file": "a", "recipient": null, "outcome": "eaten", "reply": null}',
    ],
)
def test_what_is_no_results_file_is_refused_with_its_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "results"
    with Results(path) as results:
        results.write([result("x@y.example", "accepted")])
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError, match=r"results, line 2: not a line of a results file"):
        read_results(path)


def test_only_what_cannot_duplicate_is_worth_another_try() -> None:
    known: dict[str | None, Result] = {
        "taken@y.example": result("taken@y.example", "accepted", "250 ok"),
        "maybe@y.example": result("maybe@y.example", "unknown"),
        "never@y.example": result("never@y.example", "refused", "550 no"),
        "later@y.example": result("later@y.example", "refused", "451 later"),
        "not@y.example": result("not@y.example", "not_sent"),
    }
    assert worth_another_try(known) == ["later@y.example", "not@y.example"]
    assert worth_another_try({None: result(None, "not_sent")}) is None
    assert worth_another_try({**known, None: result(None, "not_sent")}) == ["later@y.example", "not@y.example"]
