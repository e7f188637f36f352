"""`Route.from_url`, and what `Client.from_url` says of such a URL."""

from __future__ import annotations

import pytest

from smtplite import Client, ConfigurationError
from smtplite.routes import Route
from smtplite.routes.urls import parse


def test_a_url_of_two() -> None:
    members, options = parse("failover(smtp://a.example smtps://me:pw@b.example:465?max_connections=2)")
    assert members == ["smtp://a.example", "smtps://me:pw@b.example:465?max_connections=2"]
    assert options == {"policy": "failover"}
    assert repr(Route.from_url("failover(smtp://a smtp://b)")) == "Route(['a:587', 'b:587'])"


def test_weights_stand_in_the_urls_and_options_behind_the_parenthesis() -> None:
    members, options = parse(
        "weighted(smtp://a?weight=3 smtp://b?tls=none&weight=1&timeout=5 smtp://c)?pause=7&failures=2"
    )
    assert members == ["smtp://a", "smtp://b?tls=none&timeout=5", "smtp://c"]
    assert options == {"policy": "weighted", "weights": [3.0, 1.0, 1.0], "pause": 7.0, "failures": 2}


def test_symfony_writes_it_without_a_hyphen() -> None:
    assert parse("roundrobin(smtp://a smtp://b)")[1] == {"policy": "round-robin"}


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("smtp://a", "URL of a route is"),
        ("best(smtp://a)", "URL of a route is"),
        ("failover(smtp://a smtp://b", "URL of a route is"),
        ("failover()", "no members"),
        ("failover(smtp://a failover(smtp://b))", "URL of a route is"),
        ("failover(smtp://a?weight=2)", "'weight' is for weighted"),
        ("weighted(smtp://a?weight=x)", "not a number"),
        ("failover(smtp://a)?retries=2", "option 'retries' of a route"),
        ("failover(smtp://a)?pause=x", "not a number"),
        (b"failover(smtp://a)", "must be a str"),
    ],
)
def test_what_is_wrong_is_said(url: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Route.from_url(url)


def test_no_error_shows_a_password() -> None:
    for url in ("failover(smtp://me:hunter2@a", "failover(http://me:hunter2@a)", "x(smtp://me:hunter2@a)"):
        with pytest.raises(ConfigurationError) as caught:
            Route.from_url(url)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["failover(smtp://a smtp://b)", " round-robin (smtp://a smtp://b)", "anything(x)"])
def test_a_client_names_the_route(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"smtplite\.routes\.Route\.from_url"):
        Client.from_url(url)
