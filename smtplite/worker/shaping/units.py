"""Units: rates and durations as they are written in rules, such as "100/s" and "2 hours"."""

from __future__ import annotations

import re
from typing import Final, Self

import attrs

__all__ = ["Rate", "seconds_of", "spoken"]

_UNITS: Final = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hr": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
    "d": 86_400.0,
    "day": 86_400.0,
    "days": 86_400.0,
}
_UNIT: Final = "|".join(sorted(_UNITS, key=len, reverse=True))
_RATE: Final = re.compile(rf"\s*([0-9][0-9_,]*)\s*/\s*({_UNIT})\s*")
_PART: Final = re.compile(rf"\s*([0-9]+)\s*({_UNIT})(?![a-z])\s*")

#: The longest duration of an automation. What is meant to last forever belongs in the file.
_LONGEST_SECONDS: Final = 366 * 86_400.0


@attrs.frozen
class Rate:
    """A number in a period.

    Attributes:
        count: how many.
        seconds: the period, in seconds.
    """

    count: int
    seconds: float

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a rate, such as ``"100/s"``, ``"30/min"`` or ``"10,000/day"``.

        Raises:
            ValueError: it is not a rate.
        """
        found = _RATE.fullmatch(text)
        count = int(re.sub("[_,]", "", found[1])) if found else 0
        if found is None or not count:
            raise ValueError('a rate, such as "100/s", "30/min" or "10000/day"')
        return cls(count, _UNITS[found[2]])

    @property
    def per_second(self) -> float:
        """How many a second."""
        return self.count / self.seconds

    def __str__(self) -> str:
        unit = {1.0: "s", 60.0: "min", 3600.0: "h", 86_400.0: "day"}.get(self.seconds, f"{self.seconds:g} s")
        return f"{self.count}/{unit}"


def seconds_of(text: str) -> float:
    """Return the seconds of a duration, such as ``"90m"``, ``"2 hours"`` or ``"1h 30m"``.

    Raises:
        ValueError: it is not a duration.
    """
    seconds, at = 0.0, 0
    while at < len(text):
        found = _PART.match(text, at)
        if found is None:
            seconds = 0.0
            break
        seconds += int(found[1]) * _UNITS[found[2]]
        at = found.end()
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise ValueError('a duration, such as "30s", "90m", "2 hours" or "1h 30m", at most a year')
    return seconds


def spoken(seconds: float) -> str:
    """Return a duration for people: ``"1 h 29 min"``."""
    whole = max(0, round(seconds))
    for unit, length, smaller, part in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
