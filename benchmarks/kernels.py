"""The kernels, as a worker: pieces of smtplite without I/O, which the request names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import smtplite
from benchmarks import core, flattening, parsing, transparency
from benchmarks.common import versions as versions_of
from benchmarks.worker import Turn

KERNELS: Final[dict[str, Callable[..., dict[str, float]]]] = {
    "message by BDAT": core.message_by_bdat,
    "message by DATA": core.message_by_data,
    "reply by Transaction": core.reply_by_transaction,
    "reply by Connection": core.reply_by_connection,
    "transparency": transparency.speed,
    "flattening": flattening.cost,
    "parsing": parsing.cost,
}


def versions() -> dict[str, str]:
    """Return what runs here."""
    return {"smtplite": smtplite.__version__} | versions_of("anyio", "attrs", "aiosmtplib")


def run(request: dict[str, Any], turn: Turn, option: str) -> None:  # noqa: ARG001 (it has none)
    """Run ``request["kernel"]`` with the other arguments of the request."""
    arguments = dict(request)
    kernel = KERNELS[arguments.pop("kernel")]
    turn.begin()
    turn.result.update(kernel(**arguments))
    turn.end()
