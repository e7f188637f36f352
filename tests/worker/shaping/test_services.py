"""The rules for submission services: every number has a source and a date, and the page of the providers agrees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import attrs
import pytest

from smtplite.worker.shaping import Rate, Rules
from smtplite.worker.shaping.rules import Origin, RelayRule
from smtplite.worker.shaping.services import SERVICES, services

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "providers.md"
RULES = services().relays
NAMES = [rule.service for rule in RULES]


def origins(rule: RelayRule) -> Iterator[tuple[str, Origin]]:
    yield from rule.origins.items()
    yield from ((each.name, each.origin) for each in rule.automation)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_every_number_and_every_text_has_a_source_and_the_day_on_which_it_was_read(rule: RelayRule) -> None:
    for key, origin in origins(rule):
        assert origin.source.startswith("https://"), key
        assert isinstance(origin.checked, date), key
        assert date(2026, 1, 1) < origin.checked, key
        assert re.fullmatch(re.escape(SERVICES) + r":\d+", origin.where)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_where_no_number_is_published_that_is_said(rule: RelayRule) -> None:
    assert rule.service
    if not rule.origins:
        assert re.search("no number|your account's", rule.note)


@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("email-smtp.eu-west-1.amazonaws.com", "Amazon SES"),
        ("email-smtp-fips.us-east-1.amazonaws.com", "Amazon SES"),
        ("smtp.office365.com", "Microsoft 365"),
        ("smtp.gmail.com", "Gmail"),
        ("smtp-relay.gmail.com", "Google Workspace relay"),
        ("smtp.sendgrid.net", "SendGrid"),
        ("smtp.mailgun.org", "Mailgun"),
        ("smtp.eu.mailgun.org", "Mailgun"),
        ("smtp.postmarkapp.com", "Postmark"),
        ("smtp-broadcasts.postmarkapp.com", "Postmark"),
        ("in-v3.mailjet.com", "Mailjet"),
        ("smtp-relay.brevo.com", "Brevo"),
        ("smtp.sparkpostmail.com", "SparkPost"),
        ("smtp.eu.sparkpostmail.com", "SparkPost"),
        ("smtp.socketlabs.com", "SocketLabs"),
        ("smtp.zeptomail.eu", "Zoho ZeptoMail"),
        ("mail.example.com", ""),
    ],
)
def test_a_relay_is_known_by_the_name_of_its_host(host: str, service: str) -> None:
    assert services().for_relay(host).service == service


def test_nobody_is_limited_by_what_is_another_services() -> None:
    for rule in RULES:
        found = services().for_relay(rule.pattern.replace("*", "x"))
        assert (found.service, found.connection_limit) == (rule.service, rule.connection_limit)


def test_a_file_of_your_own_wins_key_by_key_but_its_default_does_not() -> None:
    own = Rules.of('[default]\nconnection_limit = 50\n[relay."smtp.office365.com"]\nquota = "5000/day"\n', "own.toml")
    rule = services().and_also(own).for_relay("smtp.office365.com")
    assert (rule.connection_limit, rule.quota, rule.max_message_rate) == (3, Rate(5000, 86_400), Rate(30, 60))
    assert rule.origins["quota"] == Origin("own.toml:4")
    assert rule.origins["connection_limit"].where.startswith(SERVICES)
    assert services().and_also(own).for_relay("mail.example.com").connection_limit == 50


# The page

#: What the page's table of limits calls them, where it has another name.
ON_THE_PAGE = {"Gmail": "Gmail, personal"}
SPOKEN = {1.0: "a second", 60.0: "a minute", 86_400.0: "a day"}


def limits_of_the_page() -> dict[str, str]:
    """Return provider -> its row in the table of limits."""
    table = PAGE.read_text(encoding="utf-8").partition("\n## Limits\n")[2].partition("\n##")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows[2:]}


SHARED = [name for name in NAMES if ON_THE_PAGE.get(name, name) in limits_of_the_page()]
assert len(SHARED) >= 6


@pytest.mark.parametrize("service", SHARED)
def test_the_page_has_the_numbers_of_the_file(service: str) -> None:
    [rule] = [rule for rule in RULES if rule.service == service]
    _, connections, messages, *_ = limits_of_the_page()[ON_THE_PAGE.get(service, service)].split(" | ")
    if rule.connection_limit is None:
        assert connections == "not named"
    else:
        assert connections.startswith(f"{rule.connection_limit:,} ")
    if rule.max_deliveries_per_connection is not None:
        assert re.search(rf"(?<![\d,]){rule.max_deliveries_per_connection:,} in (a|one) connection", messages)
    for rate in (rule.max_message_rate, rule.quota):
        if rate is not None:
            often = "(in 24 hours|a day)" if rate.seconds == 86_400 else SPOKEN[rate.seconds]
            assert re.search(rf"(?<![\d,]){rate.count:,} ((messages|recipients) )?{often}", messages), str(rate)


def test_a_rule_with_sources_is_the_same_rule() -> None:
    """What is said about a limit for people changes nothing for a worker."""
    bare = Rules.of('[relay."a.example"]\nquota = "5/day"\n', "a")
    about = Rules.of(
        '[relay."a.example"]\nquota = "5/day"\nsource = "https://a.example/"\nchecked = 2026-11-30\nnote = "n"\n', "a"
    )
    assert attrs.evolve(about.relays[0], note="") == bare.relays[0]
