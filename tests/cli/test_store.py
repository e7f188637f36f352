"""What `smtplite serve` caught: bounded, told to those who listen, and back after a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import attrs
import pytest

from smtplite.cli import store as module
from smtplite.cli.store import Change, Store
from smtplite.cli.terminal import UserError
from smtplite.testing import ReceivedMessage, Refusal, RefusedMessage, Violation
from smtplite.testing.message import Dialogue

MESSAGE = ReceivedMessage(
    sender="ada@example.org",
    recipients=("grace@example.net", "bob@example.net"),
    parameters={"SIZE": "100", "SMTPUTF8": None},
    recipient_parameters=({"NOTIFY": "NEVER"}, {}),
    content=b"Subject: =?utf-8?q?H=C3=A9?=\r\nFrom: Ada <ada@example.org>\r\n"
    b"To: Grace <grace@example.net>\r\n\r\nhi\r\n",
    via="BDAT",
    helo="client.example",
    tls="TLSv1.3",
    authenticated_as="ada",
    violations=(Violation("a bare LF", at="CONTENT", number=4, rfc="RFC 5321 section 2.3.8"),),
    refusals=(Refusal(at="RCPT", reply="550 no", recipient="x@example.net"),),
    dialogue=(("S", b"220 hello\r\n"), ("C", b"EHLO \xff\r\n"), ("S", b"250-one\r\n250 two\r\n")),
)
REFUSED = RefusedMessage(refusals=(Refusal(at="AUTH", reply="535 no"),), helo="client.example")


def numbers(store: Store) -> list[int]:
    return [caught.number for caught in store]


def test_a_message_is_kept_with_all_that_is_known_of_it() -> None:
    store = Store()
    caught = store.add(MESSAGE)
    assert store.get(1) is caught
    assert store.content(1) == MESSAGE.content
    assert store.path(caught) is None
    assert (caught.subject, caught.author, caught.addressees) == (
        "Hé",
        "Ada <ada@example.org>",
        "Grace <grace@example.net>",
    )
    assert (caught.sender, caught.recipients, caught.user) == (MESSAGE.sender, MESSAGE.recipients, "ada")
    assert caught.dialogue == (("S", "220 hello"), ("C", "EHLO \\xff"), ("S", "250-one\n250 two"))
    assert not caught.refusal


def test_a_session_that_came_to_no_message_is_kept_too() -> None:
    caught = Store().add(REFUSED)
    assert (caught.sender, caught.recipients, caught.size) == (None, (), 0)
    assert caught.refusal == "535 no (at AUTH)"


@pytest.mark.parametrize(
    "message", [MESSAGE, REFUSED, attrs.evolve(REFUSED, sender="", content=b"Subject: no\r\n\r\n")]
)
def test_all_of_it_survives_a_restart(message: ReceivedMessage | RefusedMessage, tmp_path: Path) -> None:
    caught = Store(folder=tmp_path).add(message)
    again = Store(folder=tmp_path)
    [restored] = again
    assert restored == attrs.evolve(caught, time=restored.time)
    assert restored.time == caught.time.replace(microsecond=0)
    for one, other in zip(restored.violations, caught.violations, strict=True):
        assert (one.at, one.number, one.rfc) == (other.at, other.number, other.rfc)
    assert again.content(1) == message.content
    assert again.add(MESSAGE).number == 2


def test_a_refused_message_has_a_file_that_is_not_taken_for_an_accepted_one(tmp_path: Path) -> None:
    store = Store(folder=tmp_path)
    store.add(REFUSED)
    store.add(MESSAGE)
    assert sorted(path.name for path in tmp_path.glob("*[0-9].eml")) == ["000002.eml"]
    assert (tmp_path / "000001.refused.eml").exists()


@pytest.mark.parametrize("has_folder", [False, True])
def test_the_newest_are_kept(has_folder: bool, tmp_path: Path) -> None:
    store = Store(keep=3, folder=tmp_path if has_folder else None)
    changes: list[Change] = []
    store.listen(changes.append)
    for _ in range(5):
        store.add(MESSAGE)
    assert numbers(store) == [3, 4, 5]
    assert len(store) == 3
    assert store.content(2) is None
    assert [(change.revision, change.removed) for change in changes] == [
        (1, ()),
        (2, ()),
        (3, ()),
        (4, (1,)),
        (5, (2,)),
    ]
    if has_folder:
        assert sorted(path.name for path in tmp_path.glob("*.eml")) == ["000003.eml", "000004.eml", "000005.eml"]


def test_without_keep_the_folder_keeps_what_the_list_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEFAULT_KEEP", 2)
    store = Store(folder=tmp_path)
    for _ in range(4):
        store.add(MESSAGE)
    assert numbers(store) == [3, 4] == numbers(Store(folder=tmp_path))
    assert len(list(tmp_path.glob("*.eml"))) == 4
    assert numbers(Store(keep=1, folder=tmp_path)) == [4]
    assert len(list(tmp_path.glob("*.eml"))) == 1


def test_memory_is_bounded_in_bytes_and_the_newest_stays_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMORY_BYTES", 2 * len(MESSAGE.content))
    store = Store()
    for _ in range(4):
        store.add(MESSAGE)
    assert numbers(store) == [3, 4]
    store.add(attrs.evolve(MESSAGE, content=b"x" * 1000))
    assert numbers(store) == [5]


def test_deleted_messages_are_gone_and_their_numbers_not_given_again(tmp_path: Path) -> None:
    store = Store(folder=tmp_path)
    changes: list[Change] = []
    for _ in range(3):
        store.add(MESSAGE)
    stop = store.listen(changes.append)
    assert store.remove([3, 2, 3, 77]) == (3, 2)
    assert changes == [Change(revision=4, removed=(3, 2))]
    stop()
    assert numbers(store) == [1]
    assert [path.name for path in tmp_path.glob("*.eml")] == ["000001.eml"]
    again = Store(folder=tmp_path)
    assert again.add(MESSAGE).number == 4
    assert len(changes) == 1
    assert again.remove([]) == ()


def test_the_file_of_envelopes_is_bounded_like_the_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SPARE_LINES", 3)
    store = Store(keep=2, folder=tmp_path)
    for _ in range(20):
        store.add(MESSAGE)
    lines = (tmp_path / "envelopes.jsonl").read_text().splitlines()
    assert len(lines) <= 2 + 3
    assert json.loads(lines[-1])["file"] == "000020.eml"
    store.remove([20])
    store.add(MESSAGE)
    store.remove([21])
    assert Store(folder=tmp_path).add(MESSAGE).number == 22


@pytest.mark.parametrize(
    "line", ["", "null", "[]", "7", '{"file": 7}', '{"file": "x.eml"}', '{"file": "000001.eml", "time"', "[" * 100_000]
)
def test_a_line_that_says_nothing_costs_nothing(line: str, tmp_path: Path) -> None:
    (tmp_path / "000001.eml").write_bytes(MESSAGE.content)
    (tmp_path / "envelopes.jsonl").write_text(line + "\n")
    [caught] = Store(folder=tmp_path)
    assert (caught.number, caught.sender, caught.subject) == (1, None, "Hé")


def test_values_of_the_wrong_type_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "000001.eml").write_bytes(MESSAGE.content)
    names = ["time", "sender", "recipients", "parameters", "recipient_parameters", "violations", "refusals", "dialogue"]
    for value in (None, 1, [1], [[1, 2]], ["x"], {"x": 1}, [{"at": 1}]):
        (tmp_path / "envelopes.jsonl").write_text(json.dumps({"file": "000001.eml", **dict.fromkeys(names, value)}))
        [caught] = Store(folder=tmp_path)
        assert caught.subject == "Hé"


def test_what_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    store = Store(folder=tmp_path / "mail")
    (tmp_path / "mail").rmdir()
    with pytest.raises(OSError, match="No such file"):
        store.add(MESSAGE)
    assert len(store) == 0


def test_a_message_whose_envelope_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    """It was refused: the next run must not show it as accepted."""
    store = Store(folder=tmp_path)
    (tmp_path / "envelopes.jsonl").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        store.add(MESSAGE)
    assert not list(tmp_path.glob("*.eml"))


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot use"):
        Store(folder=tmp_path / "file")


def test_a_long_dialogue_keeps_its_begin_and_its_end() -> None:
    many: list[tuple[Literal["C", "S"], bytes]] = [("C", b"RCPT TO:<%d@example.net>\r\n" % n) for n in range(9000)]
    dialogue: Dialogue = (("S", b"220 hello\r\n"), *many, ("S", b"250 ok\r\n"))
    caught = Store().add(attrs.evolve(MESSAGE, dialogue=dialogue))
    assert caught.dialogue[0] == ("S", "220 hello")
    assert caught.dialogue[-1] == ("S", "250 ok")
    assert "lines are left out" in caught.dialogue[-2][1]
    assert sum(len(said) for _, said in caught.dialogue) < 2 * module.MAX_DIALOGUE_CHARS
