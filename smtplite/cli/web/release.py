"""Release: send a message that was caught to the server that `--release-to` named, and to no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smtplite.cli.server_options import explain
from smtplite.errors import DeliveryUnknown, SMTPError

if TYPE_CHECKING:
    from smtplite.cli.store import Caught

__all__ = ["Release"]


class Release:
    """Sends messages on, with the envelope that they came with.

    Args:
        server: for display, without a password.
        options: the arguments of Client.
    """

    def __init__(self, server: str, options: Mapping[str, Any]) -> None:
        self.server = server
        self._options = dict(options)
        self._under_way: set[int] = set()

    def is_under_way(self, number: int) -> bool:
        """Say whether this message is being sent right now."""
        return number in self._under_way

    async def send(self, caught: Caught, content: bytes) -> dict[str, Any]:
        """Send a message, and return what became of it for each recipient."""
        from smtplite.client import Client

        self._under_way.add(caught.number)
        try:
            async with Client(**self._options) as client:
                receipt = await client.send(content, sender=caught.sender, recipients=list(caught.recipients))
        except SMTPError as error:
            return {
                "accepted": list(error.accepted),
                "refused": {address: str(reply) for address, reply in error.refused.items()},
                "unknown": list(error.unknown),
                "not_sent": list(error.not_sent),
                "error": explain(error),
                "may_have_been_delivered": isinstance(error, DeliveryUnknown) or bool(error.unknown),
            }
        finally:
            self._under_way.discard(caught.number)
        return {
            "accepted": list(receipt.accepted),
            "refused": {address: str(reply) for address, reply in receipt.refused.items()},
            "unknown": list(receipt.unknown),
            "not_sent": list(receipt.not_sent),
            "error": None,
            "may_have_been_delivered": bool(receipt.unknown),
        }
