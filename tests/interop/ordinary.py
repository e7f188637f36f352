"""Twenty ordinary messages, and how the mailers that people use send them to the testing server.

Each mailer writes the messages in its own way, from the same few facts, and is called as its documentation has it.
"""

from __future__ import annotations

import json
import os
import shutil
import smtplib
import subprocess
import sys
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Final

import attrs

__all__ = ["MESSAGES", "SENDERS", "Ordinary", "Sender"]

PATIENCE_SECONDS: Final = 120
_SERVERS = Path(
    os.environ.get("SMTPLITE_SERVERS")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smtplite-servers"
)
_PROGRAMS = Path(__file__).with_name("senders")


@attrs.frozen(kw_only=True)
class Ordinary:
    """What a message is: its text, and whatever else it has."""

    subject: str
    text: str = "Hello, Grace.\n"
    html: str | None = None
    sender_name: str = "Ada"
    sender: str = "ada@example.org"
    to: tuple[tuple[str, str], ...] = (("Grace", "grace@example.net"),)
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    file: str | None = None
    reply_to: str | None = None

    @property
    def recipients(self) -> list[str]:
        """Whom the envelope names."""
        return [*(address for _, address in self.to), *self.cc, *self.bcc]

    def as_email(self) -> EmailMessage:
        """Build it as Python's documentation does."""
        message = EmailMessage()
        message["From"] = f"{self.sender_name} <{self.sender}>"
        message["To"] = ", ".join(f"{name} <{address}>" for name, address in self.to)
        if self.cc:
            message["Cc"] = ", ".join(self.cc)
        if self.reply_to is not None:
            message["Reply-To"] = self.reply_to
        message["Subject"] = self.subject
        message.set_content(self.text)
        if self.html is not None:
            message.add_alternative(self.html, subtype="html")
        if self.file is not None:
            message.add_attachment(PDF, maintype="application", subtype="pdf", filename=self.file)
        return message


PDF: Final = b"%PDF-1.7 " + bytes(range(256)) * 20
FAMILY = tuple((f"Reader {number}", f"reader{number}@example.net") for number in range(5))

MESSAGES: Final = {
    "plain": Ordinary(subject="Hello"),
    "umlauts in the text": Ordinary(subject="Hello", text="Schöne Grüße aus Köln.\n"),
    "umlauts in the subject": Ordinary(subject="Schöne Grüße"),
    "umlauts in a name": Ordinary(subject="Hello", sender_name="Ada Müller"),
    "Japanese": Ordinary(subject="こんにちは", text="お元気ですか。\n"),
    "emoji": Ordinary(subject="Party 🎉", text="See you 🎂\n"),
    "text and HTML": Ordinary(subject="News", html="<h1>News</h1><p>Hello, <b>Grace</b>.</p>"),
    "HTML with umlauts": Ordinary(subject="News", text="Grüße\n", html="<p>Schöne Grüße</p>"),
    "an attachment": Ordinary(subject="Invoice", file="invoice.pdf"),
    "an attachment with umlauts": Ordinary(subject="Rechnung", text="Grüße\n", file="Rechnung März.pdf"),
    "a long subject": Ordinary(subject="A subject that goes on and on, " * 8),
    "a long line": Ordinary(subject="Hello", text="one word after another " * 60 + "\n"),
    "a long line of HTML": Ordinary(subject="News", html=f"<p>{'<b>bold</b> and <i>not</i> ' * 100}</p>"),
    "lines that begin with dots": Ordinary(subject="Dots", text="one\n.two\n..three\n.\nend\n"),
    "five recipients": Ordinary(subject="Hello", to=FAMILY),
    "Cc and Bcc": Ordinary(subject="Hello", cc=("cc@example.net",), bcc=("bcc@example.net",)),
    "an address for replies": Ordinary(subject="Hello", reply_to="team@example.org"),
    "a tag in the address": Ordinary(subject="Hello", sender="ada+news@example.org"),
    "almost nothing": Ordinary(subject="(none)", text="\n"),
    "a long text": Ordinary(subject="A story", text="It was a dark and stormy night.\n" * 3_000),
}


def _smtplib(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE_SECONDS) as client:
        for message in MESSAGES.values():
            client.send_message(message.as_email(), message.sender, message.recipients)


def _spec() -> str:
    return json.dumps([{**attrs.asdict(message), "recipients": message.recipients} for message in MESSAGES.values()])


def _program(*command: str) -> Callable[[int], None]:
    def send(port: int) -> None:
        ran = subprocess.run(
            [*command, str(port)],
            input=_spec(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
            env={**os.environ, "NODE_PATH": str(_SERVERS / "nodemailer" / "node_modules"), "PATH": _path()},
        )
        if ran.returncode:
            raise AssertionError(f"{command[-1]}: {ran.stdout[-1_000:]}{ran.stderr[-2_000:]}")

    return send


def _path() -> str:
    return f"{_SERVERS / 'node' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"


def _has(name: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(name, path=_path()) else f"{name} is not installed (tests/interop/install.sh)"


def _nodemailer_is_missing() -> str | None:
    folder = _SERVERS / "nodemailer" / "node_modules" / "nodemailer"
    return _has("node")() or (
        None if folder.is_dir() else f"nodemailer is not in {folder.parent} (tests/interop/install.sh)"
    )


@attrs.frozen
class Sender:
    """A mailer: how it sends the twenty messages to a port of this machine, and what it needs on this machine."""

    send: Callable[[int], None]
    missing: Callable[[], str | None] = lambda: None


SENDERS: Final = {
    "smtplib": Sender(_smtplib),
    "aiosmtplib": Sender(_program(sys.executable, str(_PROGRAMS / "with_aiosmtplib.py"))),
    "Django": Sender(_program(sys.executable, str(_PROGRAMS / "with_django.py"))),
    "nodemailer": Sender(_program("node", str(_PROGRAMS / "with_nodemailer.js")), _nodemailer_is_missing),
    "curl": Sender(_program(sys.executable, str(_PROGRAMS / "with_curl.py")), _has("curl")),
    "swaks": Sender(_program(sys.executable, str(_PROGRAMS / "with_swaks.py")), _has("swaks")),
}
