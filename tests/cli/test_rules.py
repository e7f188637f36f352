"""`smtplite worker check-rules`: what is wrong in a file, and what holds for whom, with file, line and source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

RULES = """\
[default]
connection_limit = 10

[relay."smtp.office365.com"]
max_message_rate = "20/min"
source = "https://wiki.example.com/mail"
checked = 2026-11-30

[recipient."gmail.com"]
max_message_rate = "20/s"

[[recipient."gmail.com".automation]]
code = [421, 450]
enhanced_code = "4.7.28"
regex = 'unusual rate'
trigger = { Threshold = "3/h" }
action = ["Suspend", { SetConfig = { name = "max_message_rate", value = "1/min" } }]
duration = "2 hours"

[recipient."*"]
suspended = false
quota = "9000/day"
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("rules.toml").write_text(RULES, encoding="utf-8")
    return Path("rules.toml")


def test_what_holds_for_a_relay_is_said_with_line_and_source(run: Run, rules: Path) -> None:
    ran = run("worker", "check-rules", rules, "smtp.office365.com")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[:3] == [
        "relay smtp.office365.com",
        "  Microsoft 365",
        "    connection_limit = 3  smtplite's services.toml:28",
    ]
    assert "    max_message_rate = 20/min  rules.toml:5" in lines
    assert lines[lines.index("    max_message_rate = 20/min  rules.toml:5") + 1] == (
        "      https://wiki.example.com/mail, read 2026-11-30"
    )
    assert "    quota = 10000/day  smtplite's services.toml:30" in lines
    assert "    if a reply has 432, and 4.3.2: connection_limit = 1 for 5 min" in lines


def test_every_rule_that_holds_for_a_recipient_is_shown(run: Run, rules: Path) -> None:
    ran = run("worker", "check-rules", rules, "ada@GMAIL.com")
    assert ran.out == (
        "recipient ada@GMAIL.com\n"
        '  [recipient."gmail.com"]  rules.toml:9\n'
        "    max_message_rate = 20/s  rules.toml:10\n"
        "    if a reply has 421 or 450, and 4.7.28, and 'unusual rate', 3/h:"
        " suspend, max_message_rate = 1/min for 2 h\n"
        '      recipient."gmail.com".automation[0]  rules.toml:12\n'
        '  [recipient."*"]  rules.toml:20\n'
        "    suspended = false  rules.toml:21\n"
        "    quota = 9000/day  rules.toml:22\n"
    )


def test_where_there_is_no_rule_that_is_said(run: Run, rules: Path) -> None:
    assert run("worker", "check-rules", "ada@example.net").out == "recipient ada@example.net: no rule\n"
    assert run("worker", "check-rules", "mail.example.com").out == "relay mail.example.com: no rule\n"
    ran = run("worker", "check-rules", "--no-services", "smtp.office365.com")
    assert ran.out == "relay smtp.office365.com: no rule\n"


def test_a_service_without_numbers_is_known_all_the_same(run: Run) -> None:
    ran = run("worker", "check-rules", "smtp.mailgun.org")
    assert ran.out.splitlines()[:3] == ["relay smtp.mailgun.org", "  Mailgun", "    no limit is known"]


def test_of_a_url_only_the_host_is_shown(run: Run) -> None:
    ran = run("worker", "check-rules", "smtp://me:secret@smtp.gmail.com:587?tls=starttls")
    assert ran.out.startswith("relay smtp.gmail.com\n")
    assert "secret" not in ran.out + ran.err
    wrong = run("worker", "check-rules", "smtp://me:secret@[::1:587")
    assert wrong.code == 2
    assert "secret" not in wrong.out + wrong.err


def test_a_later_file_wins(run: Run, rules: Path) -> None:
    Path("later.toml").write_text('[recipient."gmail.com"]\nmax_message_rate = "5/s"\n', encoding="utf-8")
    ran = run("worker", "check-rules", rules, "later.toml", "ada@gmail.com")
    assert "    max_message_rate = 5/s  later.toml:2\n" in ran.out


def test_a_file_alone_is_only_checked(run: Run, rules: Path) -> None:
    ran = run("worker", "check-rules", rules)
    assert (ran.code, ran.out) == (0, "rules.toml: right; 4 tables\n")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('"20/min"', '"20 per minute"', 'rules.toml:5: relay."smtp.office365.com".max_message_rate must be a rate'),
        ("https://wiki", "wiki", 'rules.toml:6: relay."smtp.office365.com".source must be a URL'),
        ("2026-11-30", '"yesterday"', 'rules.toml:7: relay."smtp.office365.com".checked must be a date'),
        ("2026-11-30", "2026-11-30T10:00:00Z", "checked must be a date, such as 2026-11-30"),
        ('source = "', 'note = "', ""),
        ("421, 450", "421, 250", 'rules.toml:13: recipient."gmail.com".automation[0].code[1] must be a reply code'),
        ("quota", "qouta", 'rules.toml:22: recipient."*".qouta is not known; known here: max'),
        ("[default]", "[defualt]", "rules.toml:1: defualt is not known"),
        ("[default]", "[default", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_key(run: Run, rules: Path, old: str, new: str, text: str) -> None:
    assert old in RULES
    rules.write_text(RULES.replace(old, new, 1), encoding="utf-8")
    ran = run("worker", "check-rules", rules)
    assert ran.code == (2 if text else 0)
    assert text in ran.err


def test_a_file_that_is_not_there_is_said(run: Run) -> None:
    ran = run("worker", "check-rules", "none.toml", "ada@example.net")
    assert ran.code == 2
    assert ran.err.startswith("smtplite worker: cannot read the rules none.toml")


def test_a_program_reads_it_as_json(run: Run, rules: Path) -> None:
    ran = run("worker", "check-rules", "--json", rules, "smtp.office365.com", "ada@gmail.com")
    relay, recipient = map(json.loads, ran.out.splitlines())
    [rule] = relay["rules"]
    assert rule["limits"]["connection_limit"] == {
        "value": 3,
        "where": "smtplite's services.toml:28",
        "source": "https://learn.microsoft.com/en-us/exchange/troubleshoot/send-emails/smtp-submission-improvements",
        "checked": "2026-11-30",
    }
    assert [each["pattern"] for each in recipient["rules"]] == ["gmail.com", "*"]
    assert recipient["rules"][0]["automation"][0]["when"]["trigger"] == "3/h"
