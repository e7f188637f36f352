"""The URL of a route: ``failover(smtp://a smtp://b)``, for `Route.from_url`."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qsl

from smtplite.errors import ConfigurationError

__all__ = ["members_of", "parse"]

_FORM: Final = re.compile(r"\s*([A-Za-z-]+)\s*\(([^()]*)\)\s*(?:\?(\S*))?\s*")
#: Symfony writes them in the same way.
_POLICIES: Final = {
    "failover": "failover",
    "round-robin": "round-robin",
    "roundrobin": "round-robin",
    "weighted": "weighted",
}
_WEIGHT: Final = re.compile(r"(?<=[?&])weight=([^&#]*)&?")
_OPTIONS: Final[dict[str, type]] = {"failures": int, "pause": float, "max_pause": float, "timeout": float}


def parse(url: str) -> tuple[list[str], dict[str, Any]]:
    """Return the URLs of the members, and what else the URL says, by the names of Route's arguments.

    Raises:
        ConfigurationError: it is not understood; never shows a part of the URL that could hold a password.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"URL of a route must be a str, not {type(url).__name__}")
    match = _FORM.fullmatch(url)
    policy = _POLICIES.get(match[1].lower()) if match is not None else None
    if match is None or policy is None:
        raise ConfigurationError(
            "URL of a route is failover(URL URL), round-robin(URL URL) or weighted(URL?weight=3 URL?weight=1): "
            "percent-encode parentheses inside a URL"
        )
    members, weights = members_of(match[2].split())
    options: dict[str, Any] = {"policy": policy, **_options(match[3] or "")}
    if policy == "weighted":
        options["weights"] = [1.0 if weight is None else weight for weight in weights]
    elif any(weight is not None for weight in weights):
        raise ConfigurationError("URL option 'weight' is for weighted(...)")
    return members, options


def members_of(urls: list[str]) -> tuple[list[str], list[float | None]]:
    """Return the URLs of clients, and the weight that stood in each."""
    members: list[str] = []
    weights: list[float | None] = []
    for url in urls:
        found = _WEIGHT.search(url)
        weight = None
        if found is not None:
            try:
                weight = float(found[1])
            except ValueError:
                raise ConfigurationError("URL option 'weight' has a value that is not a number") from None
            url = _WEIGHT.sub("", url, count=1).rstrip("?&")
        members.append(url)
        weights.append(weight)
    return members, weights


def _options(query: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise ConfigurationError(f"option {name!r} of a route is not one of {', '.join(_OPTIONS)}")
        try:
            options[name] = _OPTIONS[name](text)
        except ValueError:
            raise ConfigurationError(f"option {name!r} of a route has a value that is not a number") from None
    return options
