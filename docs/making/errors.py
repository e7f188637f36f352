"""The tree of errors, and what each carries."""

from __future__ import annotations

from making.markdown import attributes, code, first_line, table
from smtplite import SMTPError


def _subclasses(cls: type[SMTPError]) -> list[type[SMTPError]]:
    # In the order of their definition; a user's own subclasses are not ours to document.
    return [child for child in cls.__subclasses__() if child.__module__ == SMTPError.__module__]


def _other_bases(cls: type[SMTPError]) -> str:
    others = [base.__name__ for base in cls.__bases__ if base is not Exception and not issubclass(base, SMTPError)]
    return f" ({', '.join(others)})" if others else ""


def error_tree() -> str:
    """Return the exception tree, drawn."""
    lines = []

    def draw(cls: type[SMTPError], lead: str, below: str) -> None:
        lines.append(f"{lead}{cls.__name__}{_other_bases(cls)}")
        children = _subclasses(cls)
        for child in children:
            is_last = child is children[-1]
            draw(child, below + ("└── " if is_last else "├── "), below + ("    " if is_last else "│   "))

    draw(SMTPError, "", "")
    return "```text\n" + "\n".join(lines) + "\n```\n"


def error_table() -> str:
    """Return the table of the exceptions: what each says, and the attributes that it adds."""
    rows = []

    def add(cls: type[SMTPError]) -> None:
        bases = ", ".join(code(base.__name__) for base in cls.__bases__)
        added = "" if cls is SMTPError else ", ".join(map(code, attributes(cls)))
        rows.append((code(cls.__name__), bases, first_line(cls), added))
        for child in _subclasses(cls):
            add(child)

    add(SMTPError)
    return table(("Class", "Bases", "Meaning", "Further attributes"), rows)


def error_attributes() -> str:
    """Return the table of what every error carries."""
    rows = [(code(name), meaning) for name, meaning in attributes(SMTPError).items()]
    rows += [(code(name), first_line(value)) for name, value in vars(SMTPError).items() if isinstance(value, property)]
    return table(("Attribute", "Meaning"), rows)
