"""Policies: in which order a message goes to the relays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeAlias, get_args

from smtplite.errors import ConfigurationError

__all__ = ["Order", "Policy"]

#: "failover": the first relay that works. "round-robin": each in turn. "weighted": each in turn, by its weight.
Policy: TypeAlias = Literal["failover", "round-robin", "weighted"]


class Order:
    """In which order each message tries the relays: the first one has its turn, the others come after it.

    Args:
        policy: whose turn it is.
        count: of the relays.
        weights: of each relay, for "weighted".

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(self, policy: Policy, count: int, weights: Iterable[float] | None) -> None:
        if policy not in get_args(Policy):
            raise ConfigurationError(f'policy must be "failover", "round-robin" or "weighted", not {policy!r}')
        if (weights is not None) != (policy == "weighted"):
            raise ConfigurationError('weights= and policy="weighted" go together: one of them is missing')
        given = [1.0] * count if weights is None else list(weights)
        if len(given) != count:
            raise ConfigurationError(f"weights must have one number for each relay: {count}, not {len(given)}")
        for weight in given:
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
                raise ConfigurationError(f"a weight must be a positive number, not {weight!r}")
        self._weights: list[float] = given
        self._balance = [0.0] * count
        self._balance_of_others = [0.0] * count  # for the turns of relays that are out
        #: True if all messages go to the first relay that works.
        self.is_fixed = policy == "failover"

    def next(self, may_use: Callable[[int], bool]) -> Sequence[int]:
        """Return the relays, by index, in the order in which the next message tries them.

        Args:
            may_use: tells whether a relay works; if one does not, its turn goes to the others by their shares.
        """
        count = len(self._weights)
        if self.is_fixed:
            return range(count)
        drawn = [self._draw(self._balance, range(count))]
        if not may_use(drawn[0]) and (works := [index for index in range(count) if may_use(index)]):
            drawn.append(self._draw(self._balance_of_others, works))  # the share of one that is out
        behind = ((drawn[-1] + step) % count for step in range(1, count))
        return [*drawn, *(index for index in behind if index not in drawn)]

    def _draw(self, balance: list[float], among: Sequence[int]) -> int:
        """Give each relay its weight, and take the sum from the one that has most: shares hold at any length."""
        for index in among:
            balance[index] += self._weights[index]
        drawn = max(among, key=balance.__getitem__)
        balance[drawn] -= sum([self._weights[index] for index in among])
        return drawn
