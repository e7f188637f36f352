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
        ("[relay]", "[rely]", "rely is not known; known here: relay, source, worker, shaping, metrics"),
        ("[relay]", "[relay", "cannot read"),
        ("[relay]", "relays = 1\n[relay]", "relays is not known"),
        ("[relay]", "shaping = true\n[relay]", "shaping must be a table, not True"),
        ('url = "env:THE_RELAY"', "", "relay.url is missing"),
        ('url = "env:THE_RELAY"', 'host = "x"', "relay.host is not known; known here: url"),
        ("env:THE_RELAY", "env:NOT_THERE", "variable 'NOT_THERE' is not set"),
        ('url = "dbname=shop"', "", "source.url is missing"),
        ("postgres", "mysql", "source.engine must be 'postgres'"),
        ("batch = 100", 'batch = "many"', "worker.batch must be a whole number, not 'many'"),
        ("batch = 100", "batch = true", "worker.batch must be a whole number, not True"),
        ("batch = 100", "size = 100", "worker.size is not known; known here: batch, "),
        (
            "[worker]",
            "[metrics]\nexporter = 'graphite'\n[worker]",
            "metrics.exporter must be one of 'prometheus', ",
        ),
        ("[worker]", "[metrics]\nlisten = 'here'\n[worker]", "metrics.listen must be an address and a port"),
        ("[worker]", "[metrics]\nlisten = 'localhost:70000'\n[worker]", "metrics.listen must be an address and a port"),
        ("[worker]", "[metrics]\nexporter = 'otlp'\nlisten = ':1'\n[worker]", "is only for the exporter 'prometheus'"),
        ("[worker]", "[metrics]\nport = 9464\n[worker]", "metrics.port is not known; known here: exporter, "),
        ("first = 10", "begin = 10", "worker.backoff.begin is not known; known here: first, longest"),
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


def test_rules_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_RELAY", "smtp://me:secret@mail.example.org:587")
    (tmp_path / "a.toml").write_text("[default]\nconnection_limit = 3\n")
    (tmp_path / "b.toml").write_text("[default]\nmax_deliveries_per_connection = 9\n")
    config = Config.read(written(tmp_path, GOOD + '[shaping]\nrules = ["a.toml", "b.toml"]\n'))
    assert config.rules is not None
    assert config.rules.for_relay("mail.example.org").connection_limit == 3
    assert config.relay_name == "mail.example.org:587"
    assert config._client_options() == {"max_connections": 5, "max_messages_per_connection": 9}
    assert Config.read(written(tmp_path, GOOD)).rules is None
    one = Config.read(written(tmp_path, GOOD + '[shaping]\nrules = "a.toml"\n')).rules
    assert one is not None
    assert one.for_relay("mail.example.org").max_deliveries_per_connection is None
    assert Config.read(written(tmp_path, GOOD + "[shaping]\n")).rules is not None


def test_wrong_rules_are_refused_with_file_line_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THE_RELAY", "smtp://mail.example.org")
    (tmp_path / "a.toml").write_text("[default]\nconnections = 3\n")
    path = written(tmp_path, GOOD + '[shaping]\nrules = "a.toml"\n')
    assert main(["worker", "run", str(path)]) == 2
    assert "a.toml:2: default.connections is not known" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["suspend", "resume"])
def test_nothing_is_suspended_where_nobody_would_look(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THE_RELAY", "smtp://mail.example.org")
    assert main(["worker", action, str(written(tmp_path, GOOD))]) == 2
    assert "has no table [shaping]" in capsys.readouterr().err


def test_rules_of_services_are_below_those_of_the_file_unless_they_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_RELAY", "smtp://smtp.office365.com")
    (tmp_path / "a.toml").write_text('[relay."smtp.office365.com"]\nquota = "5000/day"\n')
    for more, expected in (("", (3, "5000/day")), ("services = false\n", (None, "5000/day"))):
        rules = Config.read(written(tmp_path, GOOD + f'[shaping]\nrules = "a.toml"\n{more}')).rules
        assert rules is not None
        rule = rules.for_relay("smtp.office365.com")
        assert (rule.connection_limit, str(rule.quota)) == expected
    with pytest.raises(ConfigurationError, match=r"shaping.services must be true or false, not 'no'"):
        Config.read(written(tmp_path, GOOD + "[shaping]\nservices = 'no'\n"))
