"""Reply codes, enhanced status codes, and the parameters of MAIL and RCPT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from making.markdown import code, first_line, prose, table
from smtplite import Reply
from smtplite.protocol import REPLY_CODES, RULES
from smtplite.protocol.codes import ENHANCED_STATUS_CODES
from smtplite.protocol.parameters import KNOWN_PARAMETERS
from smtplite.protocol.state import RESERVED_CODES

#: The reply codes that Benjamin Roux, "Le protocole SMTP" (2007), lists.
ARTICLE_CODES: Final = (
    *(211, 214, 220, 221, 250, 251, 354, 421, 450, 451, 452),
    *(500, 501, 502, 503, 504, 550, 551, 552, 553, 554),
)
#: For each class, the property of Reply whose docstring says what it means.
_CLASSES: Final = {2: "is_positive", 3: "is_intermediate", 4: "is_transient", 5: "is_permanent"}


def _class(digit: int) -> tuple[str, str]:
    """Return a class, such as "2yz", and its meaning."""
    name, _, meaning = first_line(getattr(Reply, _CLASSES[digit])).partition(": ")
    return name, meaning.rstrip(".")


def reply_classes() -> str:
    """Return the table of the classes: what each first digit means."""
    rows = ((*_class(digit), code(f"reply.{name}")) for digit, name in _CLASSES.items())
    return table(("Class", "Meaning", "Property that is True"), rows)


def _code_rows(codes: Iterable[int]) -> Iterable[Sequence[str]]:
    return ((str(number), prose(REPLY_CODES[number]), ": ".join(_class(number // 100))) for number in codes)


def reply_codes() -> str:
    """Return the table of all codes that the code knows by name."""
    return table(("Code", "Meaning", "Class"), _code_rows(sorted(REPLY_CODES)))


def enhanced_codes() -> str:
    """Return a table of the enhanced status codes without their class, and what each means."""
    rows = [(code(f"X.{subject}.{detail}"), text) for (subject, detail), text in ENHANCED_STATUS_CODES.items()]
    return table(("Code", "Meaning"), rows)


def parameters() -> str:
    """Return a table of the parameters that are known, and who sets each."""
    rows = [
        (code(known.keyword), known.extension, known.commands, _setter(known.set_by), known.meaning, known.rfc)
        for known in KNOWN_PARAMETERS
    ]
    return table(("Parameter", "Extension", "Of", "Set by", "Meaning", "Defined in"), rows)


def _setter(set_by: str) -> str:
    return set_by if set_by in ("the client", "never") else code(set_by)


def article_codes() -> str:
    """Return the table of the article's codes."""
    return table(("Code", "Meaning", "Class"), _code_rows(ARTICLE_CODES))


def reserved_codes() -> str:
    """Return the table of the codes that are valid only as the reply to some commands."""
    return table(
        ("Code", "Meaning", "Valid as the reply to"),
        (
            (
                str(number),
                prose(REPLY_CODES[number]),
                ", ".join(code(command.__name__) for command in RULES if command in commands),
            )
            for number, commands in RESERVED_CODES.items()
        ),
    )
