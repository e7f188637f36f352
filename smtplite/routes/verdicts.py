"""What a relay's answer means for the others: who moves on, and whether the relay is to blame. One table: `judge`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import attrs

from smtplite.errors import (
    AuthenticationError,
    ConfigurationError,
    DeliveryUnknown,
    ExtensionRequired,
    LocalProtocolError,
    MessageError,
    ReplyError,
    SenderRefused,
    ServiceUnavailable,
    SMTPError,
    TransportError,
)
from smtplite.protocol import Reply
from smtplite.results import Receipt

__all__ = ["CONNECTING", "Refusals", "Verdict", "judge", "refusals_of"]

#: Which refusals are not final: reply codes, "4yz" or "5yz", or a function of the reply.
Refusals: TypeAlias = Callable[[Reply], bool] | Iterable[int | str]

#: Phases in which no message was begun. (None: an error of a server that was not reached at all.)
CONNECTING: Final = frozenset({None, "pool", "rate limit", "connect", "tls", "greeting", "hello", "starttls", "auth"})
#: Phases that say nothing about the relay: the time was spent on our side.
_OURS: Final = frozenset({None, "pool", "rate limit"})


@attrs.frozen(kw_only=True)
class Verdict:
    """What is to be done about the answer of one relay.

    Attributes:
        moves: the recipients who go to another relay.
        trouble: what the relay failed with; None: it works, or the answer does not tell.
        works: whether the answer shows that the relay works.
    """

    moves: tuple[str, ...] = ()
    trouble: SMTPError | None = None
    works: bool = False


def refusals_of(fail_over_on: Refusals) -> Callable[[Reply], bool]:
    """Return what tells whether a refusal is to be tried elsewhere.

    Raises:
        ConfigurationError: it is neither a function nor reply codes.
    """
    if callable(fail_over_on):
        return fail_over_on
    codes: set[int] = set()
    digits: set[int] = set()
    if isinstance(fail_over_on, str) or not isinstance(fail_over_on, Iterable):
        raise _no_refusals(fail_over_on)
    for item in fail_over_on:
        if item in ("4yz", "5yz"):
            digits.add(int(str(item)[0]))
        elif isinstance(item, int) and not isinstance(item, bool) and 400 <= item <= 599:
            codes.add(item)
        else:
            raise _no_refusals(item)
    return lambda reply: reply.code in codes or reply.code // 100 in digits


def _no_refusals(given: object) -> ConfigurationError:
    return ConfigurationError(
        f'fail_over_on must be reply codes from 400 to 599, "4yz", "5yz", or a function of a Reply, not {given!r:.80}'
    )


def judge(result: Receipt | SMTPError, is_chosen: Callable[[Reply], bool], *, require_all: bool) -> Verdict:
    """Decide which recipients move on: never one for whom it was, or may have been, accepted.

    Args:
        result: what sending to the relay returned, or raised.
        is_chosen: tells which refusals the user wants to be tried elsewhere.
        require_all: the message is for everybody or nobody.
    """
    moving = [address for address, reply in result.refused.items() if reply.code == 421 or is_chosen(reply)]
    if isinstance(result, Receipt):
        is_cut = bool(result.not_sent or result.unknown)
        return Verdict(moves=(*result.not_sent, *moving), works=not is_cut)
    if isinstance(result, (MessageError, ConfigurationError, LocalProtocolError)):
        return Verdict()
    if isinstance(result, ExtensionRequired):
        return Verdict(moves=result.not_sent, works=True)
    trouble = _trouble(result)
    if isinstance(result, SenderRefused) and result.reply is not None and result.reply.is_transient:
        moving = list(result.refused)
    is_everybody = bool(moving) and len(moving) == len(result.refused)
    if require_all and result.refused and not is_everybody:
        return Verdict(trouble=trouble, works=trouble is None)
    goes_on = trouble is not None or isinstance(result, TransportError) or is_everybody
    return Verdict(moves=(*(result.not_sent if goes_on else ()), *moving), trouble=trouble, works=trouble is None)


def _trouble(error: SMTPError) -> SMTPError | None:
    """Return the error if it is the relay's: then it counts against it."""
    if isinstance(error, (ServiceUnavailable, AuthenticationError)):
        return error
    if isinstance(error, SenderRefused):
        return error if error.reply is not None and error.reply.is_transient else None
    if isinstance(error, ReplyError):
        return error if error.reply is not None and error.reply.code == 421 else None
    if isinstance(error, TransportError) and error.phase in _OURS and error.__cause__ is None:
        return None
    if isinstance(error, DeliveryUnknown) and isinstance(error.__cause__, SMTPError):
        return error.__cause__
    return error
