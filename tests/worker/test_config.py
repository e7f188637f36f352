"""The file of `smtplite worker`: what is wrong in it is said with file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtplite import ConfigurationError
from smtplite.cli import main
from smtplite.worker import Backoff
from smtplite.worker.config import Config

GOOD = """
[relay]
url = "env:THE_RELAY"
[source]
engine = "postgres"
url = "dbname=shop"
lease_seconds = 30
[worker]
batch = 100
drain = 5.5
[worker.lanes]
transactional = 1
bulk = 4
[worker.backoff]
first = 10
longest = 600
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "worker.toml"
    path.write_text(text)
    return path


def test_a_file_says_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_RELAY", "smtp://me:secret@mail.example.org")
    config = Config.read(written(tmp_path, GOOD))
    assert config.relay == "smtp://me:secret@mail.example.org"
    assert config.source == {"url": "dbname=shop", "lease_seconds": 30}
    assert config.worker == {
        "batch": 100,
        "drain": 5.5,
        "lanes": {"transactional": 1, "bulk": 4},
        "backoff": Backoff(first=10, longest=600),
    }
    assert "secret" not in repr(config)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("[relay]", "[rely]", "tables are relay, source, worker, not 'rely'"),
        ("[relay]", "[relay", "cannot read"),
        ("[relay]", "relays = 1\n[relay]", "tables are"),
        ('url = "env:THE_RELAY"', "", "relay.url is missing"),
        ('url = "env:THE_RELAY"', 'host = "x"', "relay has url, not 'host'"),
        ("env:THE_RELAY", "env:NOT_THERE", "no variable 'NOT_THERE'"),
        ('url = "dbname=shop"', "", "source.url is missing"),
        ("postgres", "mysql", "source.engine must be 'postgres'"),
        ("batch = 100", 'batch = "many"', "worker.batch cannot be 'many'"),
        ("batch = 100", "batch = true", "worker.batch cannot be True"),
        ("batch = 100", "size = 100", "worker has batch"),
        ("first = 10", "begin = 10", "worker.backoff has first and longest, not 'begin'"),
        ("first = 10", "first = 1000", "first must be above 0 and at most longest"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, text: str) -> None:
    monkeypatch.setenv("THE_RELAY", "smtp://mail.example.org")
    assert old in GOOD
    with pytest.raises(ConfigurationError) as error:
        Config.read(written(tmp_path, GOOD.replace(old, new, 1)))
    assert text in str(error.value)


def test_the_command_says_it_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", "run", str(tmp_path / "none.toml")]) == 2
    assert capsys.readouterr().err.startswith("smtplite worker: cannot read the worker's configuration ")
