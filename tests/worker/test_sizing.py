"""The arithmetic of the sizing page."""

from __future__ import annotations

import math
import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "howto" / "sizing.md").read_text(encoding="utf-8")
#: What the page plans for: a connection is busy with messages for this part of the time.
BUSY = 0.7


def rows(after: str) -> list[list[str]]:
    table = TEXT.partition(after)[2].partition("\n\n|")[2].partition("\n\n")[0]
    return [[cell.strip().replace(",", "") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_connections_are_the_rate_times_the_time_divided_by_how_busy_they_are() -> None:
    found = rows("Plan for 70 % of the result")
    assert len(found) == 4
    for rate, *connections in found:
        expected = [math.ceil(float(rate) * seconds / BUSY - 1e-9) for seconds in (0.020, 0.100, 0.300)]
        assert [int(number) for number in connections] == expected


def test_the_shares_are_those_of_one_message_a_round_trip() -> None:
    found = rows("## Measured")
    assert len(found) == 4
    for connections, *cells in found:
        for cell in cells:
            rate, share = map(int, re.findall(r"\d+", cell))
            assert share == round(100 * rate * 0.020 / int(connections))


def test_ten_million_a_day_is_116_a_second() -> None:
    assert round(10_000_000 / 86_400) == 116
    assert "**116 a second**" in TEXT
    assert round(10_000_000 / (8 * 3600)) == 347
    for kilobytes, gigabytes in ((1.9, 19), (1.5, 15), (6.4, 64), (0.33, 3.3), (0.39, 3.9), (0.48, 4.8)):
        assert math.isclose(kilobytes * 10_000_000 / 1e6, gigabytes)
        assert f"{gigabytes} GB" in TEXT or f"{gigabytes} GB" in TEXT.replace(", ", " GB, ")
