"""What ``smtplite check`` prints: each step as it ends, then everything that was found, as text or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from smtplite.cli.server_options import advice_on, explain
from smtplite.cli.terminal import Output, Paint, plural, printable

if TYPE_CHECKING:
    from smtplite.cli.timeline import Step, Timeline
    from smtplite.errors import SMTPError
    from smtplite.protocol.extensions import Extensions
    from smtplite.protocol.reply import Reply

__all__ = ["EXIT_CODES", "Report", "StepPrinter"]

#: The version of what --json prints: it changes when a name goes away or changes its meaning.
SCHEMA: Final = 1

#: Step -> exit code if it is the first that failed; steps that are not named here share _OTHER.
EXIT_CODES: Final = {
    "connect": 10,
    "TLS": 11,
    "STARTTLS": 11,
    "greeting": 12,
    "EHLO": 13,
    "HELO": 13,
    "LHLO": 13,
    "AUTH": 14,
    "MAIL": 15,
    "RCPT": 16,
}
_OTHER: Final = 17

_SHOWN_NAMES: Final = 3


@attrs.frozen(kw_only=True)
class Report:
    """Everything that was found.

    Attributes:
        timeline: finished.
        failed: the first step that failed; None if none did.
        problem: what failed, in words.
    """

    timeline: Timeline
    failed: Step | None
    problem: str | None

    @classmethod
    def of(cls, timeline: Timeline, error: SMTPError | None, *, recipients: int) -> Report:
        """Find the first failure; a refused EHLO or AUTH after which another one succeeded does not count."""
        for step in timeline.steps:
            if step.ok:
                continue
            problem = None
            if step.reply is not None and step.name == "RCPT":
                refused = sum(other.name == "RCPT" and not other.ok for other in timeline.steps)
                problem = f"server refused {refused} of {plural(recipients, 'recipient')}"
            elif step.reply is not None and step.name in ("NOOP", "MAIL", "RSET"):
                what = f"the sender {step.subject}" if step.name == "MAIL" else step.name
                problem = f"server refused {what}: {step.reply}{advice_on(step.reply)}"
            elif step is timeline.failed:
                problem = None if error is None else explain(error)
            if problem is not None:
                return cls(timeline=timeline, failed=step, problem=problem)
        return cls(timeline=timeline, failed=None, problem=None)

    @property
    def exit_code(self) -> int:
        """See EXIT_CODES."""
        return 0 if self.failed is None else EXIT_CODES.get(self.failed.name, _OTHER)

    @property
    def round_trips(self) -> int:
        """Of all steps."""
        return sum(step.round_trips for step in self.timeline.steps)

    def print(self) -> None:
        """Print what is known about the server, after the steps."""
        paint = Paint()
        print()
        for name, text in self._facts():
            print(f"{paint(f'{name:<12}', 'faint')} {printable(text)}")
        verdict = paint("ok", "good") if self.failed is None else paint(f"failed at {self.failed.name}", "bad")
        total = f"{plural(len(self.timeline.steps), 'step')}, {plural(self.round_trips, 'round trip')}"
        print(f"{verdict}: {total}, {_milliseconds(self.timeline.seconds)}")

    def _facts(self) -> list[tuple[str, str]]:
        timeline = self.timeline
        facts = []
        if timeline.tls is not None:
            tls = timeline.tls
            names = ", ".join(tls.names[:_SHOWN_NAMES]) or tls.subject or "nobody"
            more = f" and {len(tls.names) - _SHOWN_NAMES} more" if len(tls.names) > _SHOWN_NAMES else ""
            facts += [
                ("TLS", f"{tls.version}, {tls.cipher}"),
                ("certificate", f"for {names}{more}; issued by {tls.issuer or 'nobody named'}"),
                ("", f"until {tls.not_after:%Y-%m-%d} ({plural(tls.days_left, 'day')} left)"),
            ]
        extensions = timeline.extensions
        if extensions is not None:
            limits = ", ".join(f"{name} {value:,}" for name, value in _limits(extensions).items() if value)
            facts += [
                ("extensions", ", ".join(extensions) or "none"),
                ("mechanisms", ", ".join(extensions.auth) or "none"),
                ("limits", limits or "not said"),
            ]
        return facts

    def as_json(self) -> dict[str, Any]:
        """Return what --json prints; each key is always there."""
        timeline = self.timeline
        extensions, tls = timeline.extensions, timeline.tls
        tried = [step for step in timeline.steps if step.name == "AUTH"]
        mails = [step for step in timeline.steps if step.name == "MAIL"]
        return {
            "schema": SCHEMA,
            "server": timeline.server or None,
            "ok": self.failed is None,
            "exit_code": self.exit_code,
            "failed": None if self.failed is None else self.failed.name,
            "error": self.problem,
            "seconds": round(timeline.seconds, 6),
            "round_trips": self.round_trips,
            "steps": [
                {
                    "step": step.name,
                    "subject": step.subject or None,
                    "ok": bool(step.ok),
                    "seconds": round(step.seconds, 6),
                    "round_trips": step.round_trips,
                    "reply": _reply(step.reply),
                    "detail": step.detail or None,
                }
                for step in timeline.steps
            ],
            "greeting": None if timeline.greeting is None else timeline.greeting.text,
            "tls": None
            if tls is None
            else {
                "version": tls.version,
                "cipher": tls.cipher,
                "certificate": {
                    "subject": tls.subject,
                    "issuer": tls.issuer,
                    "names": list(tls.names),
                    "not_before": tls.not_before.isoformat(),
                    "not_after": tls.not_after.isoformat(),
                    "days_left": tls.days_left,
                },
            },
            "extensions": None if extensions is None else {name: list(words) for name, words in extensions.items()},
            "mechanisms": None if extensions is None else list(extensions.auth),
            "limits": None if extensions is None else {k.lower(): v for k, v in _limits(extensions).items()},
            "authentication": {"mechanism": tried[-1].subject or None, "ok": bool(tried[-1].ok)} if tried else None,
            "sender": _answer(mails[0]) if mails else None,
            "recipients": [_answer(step) for step in timeline.steps if step.name == "RCPT"],
        }


def _limits(extensions: Extensions) -> dict[str, int | None]:
    limits = extensions.limits
    return {
        "SIZE": extensions.size,
        "MAILMAX": limits.mailmax,
        "RCPTMAX": limits.rcptmax,
        "RCPTDOMAINMAX": limits.rcptdomainmax,
    }


def _answer(step: Step) -> dict[str, Any]:
    address = step.subject.partition(">")[0].removeprefix("<")
    return {"address": address, "ok": bool(step.ok), "reply": _reply(step.reply)}


def _reply(reply: Reply | None) -> dict[str, Any] | None:
    if reply is None:
        return None
    return {"code": reply.code, "enhanced": str(reply.enhanced) if reply.enhanced else None, "text": reply.text}


def _milliseconds(duration: float) -> str:
    return f"{duration * 1000:,.1f} ms"


class StepPrinter:
    """Prints each step as it ends, so that people see where it hangs."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._has_begun = False
        self._paint = Paint()

    def __call__(self, step: Step) -> None:
        """Print a step."""
        reply = step.reply
        said = step.detail if reply is None else f"{reply.code} {reply.text.partition(chr(10))[0]}"
        subject = f"{step.subject}: " if step.subject and said else step.subject
        paint = self._paint
        cost = f"{_milliseconds(step.seconds):>13}{step.round_trips:>7}"
        if not self._has_begun:
            self._output.print(paint(f"{'step':<10}{'time':>13}{'trips':>7}", "faint"))
            self._has_begun = True
        name = paint(f"{step.name:<10}", "good" if step.ok else "bad")
        mark = "" if step.ok else paint("FAILED", "bad") + "  "
        self._output.print(f"{name}{paint(cost, 'faint')}  {mark}{printable(f'{subject}{said}')}".rstrip())
