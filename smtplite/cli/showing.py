"""What ``smtplite serve`` prints: a message as a person reads it, what was refused and why, and the mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from smtplite.cli.reading import Attachment, Reading, read
from smtplite.cli.terminal import Paint, printable

if TYPE_CHECKING:
    from smtplite.testing import ReceivedMessage, Refusal, RefusedMessage, Violation

__all__ = ["STYLES", "show_message", "show_refusal"]

STYLES: Final = ("text", "raw", "summary")

_SHOWN_RECIPIENTS: Final = 3
#: Of a text, and of what was refused or wrong about one message.
MAX_TEXT_LINES: Final = 200
MAX_NOTES: Final = 10

#: What a refusal says -> what to do about it.
_HINTS: Final = (
    ("bare LF in content", "with --bare-lf it is accepted"),
    ("530 5.7.0 authentication required", "the client sent no credentials, and --auth requires them"),
    ("535 ", "the client's user or password is not that of --auth"),
    ("must issue a STARTTLS command first", "the client did not begin TLS, and --tls starttls requires it"),
    ("TLS failed: tlsv1 alert unknown ca", "the client does not trust the certificate: give it the CA file"),
    ("TLS failed: sslv3 alert certificate unknown", "the client does not trust the certificate: give it the CA file"),
    ("TLS failed: the client ended", "maybe it does not trust the certificate: give it the CA file"),
    ("TLS failed: wrong version number", "the client did not begin with TLS, and --tls implicit requires it"),
    ("TLS failed: http request", "that was a web browser"),
)


def show_message(
    message: ReceivedMessage, number: int, *, place: str = "", style: str = "text", paint: Paint
) -> Iterator[str]:
    """Yield the lines of a message that was accepted.

    Args:
        message: what arrived.
        number: of the message.
        place: where it is stored.
        style: how much is shown: one of STYLES.
        paint: colours, if the terminal has any.
    """
    reading = read(message.content, only_header=style != "text")
    facts = [
        f"{message.sender or '<>'} -> {_named(message.recipients)}",
        f'"{reading.field("Subject")}"',
        f"{len(message.content):,} bytes",
        *([message.tls] if message.tls else []),
        *([f"user {message.authenticated_as}"] if message.authenticated_as else []),
        *([place] if place else []),
    ]
    yield f"{_now()} {paint(f'#{number}', 'good')}  {paint(printable('  '.join(facts)), 'bold')}"
    if style == "text":
        yield from _as_text(reading, paint)
    elif style == "raw":
        yield from (f"  | {line}".rstrip() for line in _raw_lines(message.content))
    yield from _notes(_refused(message.refusals), message.violations, paint)
    if style == "text":
        yield ""


def show_refusal(message: RefusedMessage, *, style: str = "text", strict: bool = False, paint: Paint) -> Iterator[str]:
    """Yield the lines of a message that was refused, or of a session without a message.

    Args:
        message: what was refused.
        style: how much is shown: one of STYLES.
        strict: whether it is refused only because the server is strict.
        paint: colours, if the terminal has any.
    """
    decisive = message.decisive
    refused = _named((*message.recipients, *message.refused_recipients))
    facts = ["no message" if message.sender is None else f"{message.sender or '<>'} -> {refused or 'nobody'}"]
    reading = read(message.content, only_header=style != "text")
    if reading.field("Subject"):
        facts.append(f'"{reading.field("Subject")}"')
    yield f"{_now()} {paint('refused', 'bad')}  {paint(printable('  '.join(facts)), 'bold')}"
    others = [refusal for refusal in message.refusals if refusal.recipient is not None and refusal != decisive]
    hint = next((hint for text, hint in _HINTS if text in decisive.reply), None)
    if hint is None and strict and decisive.reply.startswith("5") and message.violations:
        hint = "without --strict it may be accepted"
    if style == "text" and message.content:
        yield from _as_text(reading, paint)
    elif style == "raw" and message.content:
        yield from (f"  | {line}".rstrip() for line in _raw_lines(message.content))
    yield from _notes([str(refusal) for refusal in (decisive, *others)], message.violations, paint, hint=hint)
    if style == "text":
        yield ""


def _now() -> str:
    return f"{datetime.now().astimezone():%H:%M:%S}"


def _named(recipients: Sequence[str]) -> str:
    more = len(recipients) - _SHOWN_RECIPIENTS
    return ", ".join(recipients[:_SHOWN_RECIPIENTS]) + (f" and {more} more" if more > 0 else "")


def _refused(refusals: Sequence[Refusal]) -> list[str]:
    """Return who did not get a message that others got."""
    return [str(refusal) for refusal in refusals if refusal.recipient is not None]


def _as_text(reading: Reading, paint: Paint) -> Iterator[str]:
    for name, text in reading.fields:
        yield f"  {paint('|', 'faint')} {paint(f'{name}:', 'faint')} {printable(text)}"
    lines = reading.text.strip("\n").split("\n") if reading.text.strip() else []
    if reading.fields and lines:
        yield f"  {paint('|', 'faint')}"
    for line in lines[:MAX_TEXT_LINES]:
        yield f"  {paint('|', 'faint')} {printable(line)}".rstrip()
    if len(lines) > MAX_TEXT_LINES:
        yield f"  {paint('|', 'faint')} ({len(lines) - MAX_TEXT_LINES:,} more lines; --print raw shows them)"
    if reading.html is not None:
        made = "shown as text" if reading.is_text_of_html else "the same as HTML"
        yield f"  {paint('+', 'faint')} HTML, {len(reading.html.encode('utf-8', 'replace')):,} bytes ({made})"
    for attachment in reading.attachments:
        yield f"  {paint('+', 'faint')} {printable(_described(attachment))}"
    for problem in reading.problems:
        yield f"  {paint('!', 'warn')} {paint(printable(problem), 'warn')}"


def _described(attachment: Attachment) -> str:
    inline = " (inline)" if attachment.is_inline else ""
    return f"{attachment.name}  {attachment.type}, {attachment.size:,} bytes{inline}"


def _raw_lines(content: bytes) -> Iterator[str]:
    for line in content.removesuffix(b"\r\n").split(b"\r\n"):
        yield printable(line.decode("utf-8", "replace"))


def _notes(
    refused: Sequence[str], violations: Sequence[Violation], paint: Paint, *, hint: str | None = None
) -> Iterator[str]:
    """Yield a line for whatever was refused, and for each mistake of the client.

    Args:
        refused: what was, and why; the first is why the message came to nothing.
        violations: the client's mistakes.
        paint: colours, if the terminal has any.
        hint: what to do about the first that was refused.
    """
    for index, text in enumerate(refused[:MAX_NOTES]):
        yield f"  {paint('x', 'bad')} {paint(printable(text), 'bad')}"
        if hint is not None and not index:
            yield f"    {hint}"
    for violation in violations[:MAX_NOTES]:
        rule = f" ({violation.rfc})" if violation.rfc else ""
        yield f"  {paint('!', 'warn')} {paint(printable(f'{violation}{rule}'), 'warn')}"
    more = max(len(refused) - MAX_NOTES, 0) + max(len(violations) - MAX_NOTES, 0)
    if more:
        yield f"  {paint('!', 'warn')} {paint(f'and {more} more', 'warn')}"
