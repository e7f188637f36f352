"""Arguments that have other names elsewhere: whoever writes one learns the name that it has here."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import ParamSpec, TypeVar

from smtplite.errors import SMTPError

__all__ = ["explained"]

P = ParamSpec("P")
T = TypeVar("T")


def explained(
    error: type[SMTPError], name: str, hints: Mapping[str, str]
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function say what to write where it is called with an argument that it does not have.

    Type checkers and `inspect.signature` see the function as it is.

    Args:
        error: what is raised in place of TypeError.
        name: what the function is called in the error.
        hints: argument -> what to write; for others, the argument whose name is nearest.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        parameters = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
        known = [each.name for each in parameters]
        positional = [each.name for each in parameters if each.kind is not inspect.Parameter.KEYWORD_ONLY]
        required = [each.name for each in parameters if each.default is inspect.Parameter.empty]
        offset = len(inspect.signature(function).parameters) - len(parameters)  # 1: a method's self

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            by_position = positional[: len(args) - offset]
            for argument in kwargs:
                if argument not in known:
                    raise error(f"{name} has no argument {argument}{_hint(argument, hints, known)}")
                if argument in by_position:
                    raise error(f"{name} is given {argument} twice: by position and by name")
            if len(args) - offset > len(positional):
                those = f"all but {' and '.join(positional)}" if positional else "all of them"
                raise error(f"{name} is given arguments without their names: name {those}")
            if missing := [f"{argument}=" for argument in required if argument not in (*kwargs, *by_position)]:
                raise error(f"{name} needs {', '.join(missing)}")
            return function(*args, **kwargs)

        return checked

    return decorate


def _hint(argument: str, hints: Mapping[str, str], known: list[str]) -> str:
    if argument in hints:
        return f": {hints[argument]}"
    near = difflib.get_close_matches(argument, known, 1)
    return f": did you mean {near[0]}=?" if near else f"; it has {', '.join(known)}"
