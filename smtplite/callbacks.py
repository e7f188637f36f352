"""Functions that the caller passes: checked when they are passed, and again for what they return (rule R33).

A wrong one is a ConfigurationError that names its argument, not a TypeError from somewhere in smtplite. Exceptions that
the function itself raises are passed on as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from smtplite.errors import ConfigurationError

__all__ = ["check_function", "pass_through", "result_of"]

T = TypeVar("T")


def check_function(name: str, function: object, what: str, arguments: int, *, is_async: bool | None = None) -> None:
    """Check that something can be called as it will be.

    Args:
        name: the argument that it is.
        function: the caller's.
        what: what it should be, for the error.
        arguments: how many it will be called with, by position.
        is_async: False: an async function would never run; True, None: it may be one, or return an awaitable.

    Raises:
        ConfigurationError: it cannot.
    """
    if not callable(function):
        raise ConfigurationError(f"{name} must be {what}, not {type(function).__name__}")
    if is_async is False and any(map(inspect.iscoroutinefunction, (function, type(function).__call__))):
        raise ConfigurationError(f"{name} must be {what}, not an async function, which nobody would await")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some are written in C and do not tell
        return
    try:
        signature.bind(*(None,) * arguments)
    except TypeError as error:
        raise ConfigurationError(f"{name} must be {what}; this one cannot be called that way: {error}") from error


async def result_of(name: str, returned: Awaitable[T]) -> T:
    """Await what a function of the caller's returned.

    Raises:
        ConfigurationError: it cannot be awaited.
    """
    if not isinstance(returned, Awaitable):
        raise ConfigurationError(
            f"{name} returned {type(returned).__name__}, which cannot be awaited: make it an async function"
        )
    return await returned


async def pass_through(limit: AbstractAsyncContextManager[object]) -> None:
    """Enter and leave the caller's rate limit.

    Raises:
        ConfigurationError: it is not what ``async with`` takes.
    """
    kind = type(limit)
    await result_of("__aenter__ of rate_limit=", kind.__aenter__(limit))
    await result_of("__aexit__ of rate_limit=", kind.__aexit__(limit, None, None, None))
