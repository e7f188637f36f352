"""Rules: what a file may say, what holds for whom, and how whatever is wrong is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtplite import ConfigurationError
from smtplite.protocol.reply import EnhancedStatusCode, Reply
from smtplite.worker.shaping import Action, Automation, Rate, Rules, Trigger
from smtplite.worker.shaping.units import seconds_of, spoken
from tests.exhaustive import WHOLE

FILE = """\
[default]
connection_limit = 10
max_message_rate = "100/s"

[[default.automation]]
regex = ['rate exceeded', 'too many']
code = [421, 451]
trigger = { Threshold = "3/h" }
action = [{ SetConfig = { name = "max_message_rate", value = "1/min" } }, "Suspend"]
duration = "1h 30m"

[relay."*.example.com"]
connection_limit = 5
quota = "50,000/day"

[[relay."*.example.com".automation]]
enhanced_code = "4.7.x"
action = { SetConfig = { name = "connection_limit", value = 1 } }
duration = "10 min"

[recipient."gmail.com"]
max_message_rate = "20/s"

[recipient."*.bücher.example"]
suspended = true
"""


def reply(code: int, text: str = "", enhanced: str | None = None) -> Reply:
    parsed = None if enhanced is None else EnhancedStatusCode(*map(int, enhanced.split(".")))
    return Reply(code, (f"{enhanced or ''} {text}".strip().encode(),), parsed)


def test_the_last_rule_that_matches_a_relay_wins_and_what_is_done_on_replies_is_all_done() -> None:
    rules = Rules.of(FILE)
    rule = rules.for_relay("SMTP.example.com")
    assert (rule.connection_limit, rule.max_message_rate, rule.quota) == (5, Rate(100, 1), Rate(50_000, 86_400))
    assert [each.name for each in rule.automation] == ["default.automation[0]", 'relay."*.example.com".automation[0]']
    assert rules.for_relay("example.org").connection_limit == 10
    assert rules.for_relay("example.com").quota is None, "a star stands for a name, and a dot is a dot"


def test_all_rules_that_match_a_recipient_hold() -> None:
    rules = Rules.of(FILE + '[recipient."*"]\nquota = "9/day"\n')
    assert [rule.pattern for rule in rules.for_recipient("ada@GMAIL.com")] == ["gmail.com", "*"]
    assert [rule.suspended for rule in rules.for_recipient("ada@www.bücher.example")] == [True, None]
    assert [rule.suspended for rule in rules.for_recipient("ada@www.xn--bcher-kva.example")] == [True, None]


def test_an_automation_is_read_whole() -> None:
    first, second = Rules.of(FILE, "rules.toml").for_relay("mx.example.com").automation
    assert first.where == "rules.toml:5"
    assert first.trigger == Trigger(3, 3600)
    assert first.actions == (Action("max_message_rate", Rate(1, 60)), Action("suspend"))
    assert first.duration == 5400
    assert second.trigger == Trigger()
    assert second.actions == (Action("connection_limit", 1),)
    assert str(first.actions[0]) == "max_message_rate = 1/min"


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        (reply(451, "Rate Exceeded"), False),
        (reply(451, "4.7.1: rate exceeded"), True),
        (reply(450, "rate exceeded"), False),
        (reply(421, "4.7.0 too\nmany"), False),
        (Reply(421, (b"too", b"many rate", b"exceeded")), True),
    ],
)
def test_code_and_text_must_both_fit(given: Reply, fits: bool) -> None:
    assert Rules.of(FILE).for_relay("x").automation[0].fits(given) is fits


@pytest.mark.parametrize(
    ("pattern", "given", "fits"),
    [
        ("4.7.x", reply(451, enhanced="4.7.28"), True),
        ("4.7.28", reply(451, enhanced="4.7.2"), False),
        ("x.7.1", reply(550, enhanced="5.7.1"), True),
        ("4.7.x", reply(451, "4.7.28 in the text, and not offered"), False),
    ],
)
def test_an_enhanced_code_may_have_x_for_any_number(pattern: str, given: Reply, fits: bool) -> None:
    automation = Automation(name="", where="", enhanced_code=(pattern,), actions=(), duration=1)
    assert automation.fits(given) is fits


AUTOMATION = "[[default.automation]]\nregex = 'x'\naction = 'Suspend'\nduration = '1h'\n"


@pytest.mark.exhaustive(keep=WHOLE)
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("\n[relays]\n", ":2: relays is not known; known here: default, relay, recipient"),
        ("relay = 1\n", ":1: relay must be a table, not 1"),
        ("[relay]\n\n'mx.example.com' = 3\n", ':3: relay."mx.example.com" must be a table'),
        ("[relay.'mx.example.com:25']\n", ':1: relay."mx.example.com:25" must be the name'),
        ("[recipient.'ada@example.com']\n", ':1: recipient."ada@example.com" must be the name'),
        ("[default]\n\nconnections = 3\n", ":3: default.connections is not known; known here: connection_limit"),
        ("[default]\nconnection_limit = 0\n", ":2: default.connection_limit must be a whole number from 1"),
        ("[default]\nconnection_limit = true\n", ":2: default.connection_limit must be a whole number from 1"),
        ("[default]\nmax_message_rate = 5\n", ":2: default.max_message_rate must be a rate"),
        ("[default]\nmax_message_rate = '5/fortnight'\n", ":2: default.max_message_rate must be a rate"),
        ("[default]\nmax_message_rate = '0/s'\n", ":2: default.max_message_rate must be a rate"),
        ("[default]\nquota = '/s'\n", ":2: default.quota must be a rate"),
        ("[default]\nsuspended = 'yes'\n", ":2: default.suspended must be true or false"),
        ("[recipient]\n[recipient.a]\nconnection_limit = 1\n", ":3: recipient.a.connection_limit is for relays"),
        ("[recipient.a]\nmax_deliveries_per_connection = 1\n", ":2: recipient.a.max_deliveries_per_connection is for"),
        ("[recipient.a]\nrate = 1\n", ":2: recipient.a.rate is not known; known here: max_message_rate"),
        (
            "[default]\nautomation = 3\n",
            ":2: default.automation must be an array of tables: write [[default.automation]]",
        ),
        (AUTOMATION.replace("regex = 'x'\n", ""), ":1: default.automation[0] needs a regex, a code or"),
        (AUTOMATION.replace("action = 'Suspend'\n", ""), ":1: default.automation[0] needs an action"),
        (AUTOMATION.replace("duration = '1h'\n", ""), ":1: default.automation[0] needs a duration"),
        (
            AUTOMATION.replace("'x'", "['x', '(']"),
            ":2: default.automation[0].regex[1] must be a regular expression (missing",
        ),
        (AUTOMATION.replace("'x'", "''"), ":2: default.automation[0].regex must be a regular expression"),
        (
            AUTOMATION.replace("'Suspend'", "'Bounce'"),
            ':3: default.automation[0].action must be "Suspend" or { SetConfig',
        ),
        (AUTOMATION.replace("'Suspend'", "[]"), ":3: default.automation[0].action is empty"),
        (AUTOMATION.replace("'Suspend'", "{ SetConfig = {} }"), "action.SetConfig needs a name"),
        (
            AUTOMATION.replace("'Suspend'", "['Suspend',\n{ SetConfig = { name = 'enable_tls', value = 1 } }]"),
            ':4: default.automation[0].action[1].SetConfig.name must be "max_message_rate" or "connection_limit"',
        ),
        (
            AUTOMATION.replace("'Suspend'", "{ SetConfig = { name = 'connection_limit', value = '1' } }"),
            ":3: default.automation[0].action.SetConfig.value must be a whole number",
        ),
        (
            AUTOMATION.replace("'Suspend'", "{ SetConfig = { name = 'connection_limit', value = 1 } }").replace(
                "default", "recipient.a"
            ),
            ":3: recipient.a.automation[0].action.SetConfig.name is for relays",
        ),
        (AUTOMATION.replace("'1h'", "'soon'"), ":4: default.automation[0].duration must be a duration"),
        (AUTOMATION.replace("'1h'", "3600"), ":4: default.automation[0].duration must be a duration"),
        (AUTOMATION.replace("'1h'", "'400 days'"), ":4: default.automation[0].duration must be a duration"),
        (AUTOMATION + "code = 250\n", ":5: default.automation[0].code must be a reply code from 400 to 599, not 250"),
        (
            AUTOMATION + "enhanced_code = '4.7'\n",
            ":5: default.automation[0].enhanced_code must be an enhanced status code",
        ),
        (AUTOMATION + "trigger = 'Later'\n", ':5: default.automation[0].trigger must be "Immediate" or'),
        (AUTOMATION + "trigger = { }\n", ':5: default.automation[0].trigger must be "Immediate" or'),
        (AUTOMATION + "trigger.Threshold = 2\n", ":5: default.automation[0].trigger.Threshold must be a rate"),
        (AUTOMATION + "trigger.threshold = 2\n", ":5: default.automation[0].trigger.threshold is not known"),
        (AUTOMATION + AUTOMATION + "when = 1\n", ":9: default.automation[1].when is not known"),
        ("[default\n", "rules.toml is not valid TOML: "),
    ],
)
def test_whatever_is_wrong_is_refused_with_file_line_and_key(text: str, error: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Rules.of(text, "my rules.toml")
    assert "my rules.toml" in str(caught.value)
    assert error in str(caught.value)


def test_a_pattern_from_the_command_line_may_be_written_as_people_write_it() -> None:
    """``smtplite worker suspend CONFIG bücher.example`` suspended nothing, and said that it did."""
    for pattern in ("bücher.example", "Bücher.Example", "xn--bcher-kva.example"):
        assert Rules.matches(pattern, "a@BÜCHER.example")
        assert not Rules.matches(pattern, "a@bucher.example")
    assert Rules.matches("*.bücher.example", "a@mx.xn--bcher-kva.example")


def test_a_later_file_replaces_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text(FILE)
    second.write_text(
        "[relay.'*.example.com']\nconnection_limit = 2\n[recipient.'*.bücher.example']\nsuspended = false\n"
    )
    rules = Rules.read(first, second)
    rule = rules.for_relay("mx.example.com")
    assert (rule.connection_limit, rule.quota) == (2, Rate(50_000, 86_400))
    assert len(rule.automation) == 2
    assert rules.for_recipient("a@x.bücher.example")[0].suspended is False


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the rules .*none\.toml"):
        Rules.read(tmp_path / "none.toml")


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("2 hours", 7200), ("1d 2h", 93_600), ("1 second", 1)])
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "0s", "1h x", "1.5h", "-1h", "1 fortnight"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="a duration"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "59 min 59 s"), (5340, "1 h 29 min"), (90_000, "1 d 1 h")],
)
def test_durations_are_said(seconds: float, text: str) -> None:
    assert spoken(seconds) == text
