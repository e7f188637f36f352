"""Mailers that people use send ordinary messages to the testing server: it takes them, and says what breaks a rule."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from smtplite.testing import SMTPServer
from smtplite.testing.threaded import ThreadedServer
from tests.interop.launcher import ensure_nothing_is_missing
from tests.interop.ordinary import MESSAGES, SENDERS

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "testing.md"
#: Those that come with the [test] extra, or with Python.
HERE = frozenset({"smtplib", "aiosmtplib", "Django"})

mailers = pytest.mark.parametrize(
    "name", [name if name in HERE else pytest.param(name, marks=pytest.mark.interop) for name in SENDERS]
)


def mistakes(server: ThreadedServer) -> Counter[str]:
    """Count the messages that have each violation."""
    return Counter(str(violation) for message in server.messages for violation in set(message.violations))


def on_the_page() -> dict[str, dict[str, str]]:
    """Return the cells of the table, by mailer and by the name of the row."""
    [table] = re.findall(r"^(\| Of 20 messages \|.*\n\| ---.*\n(?:\|.*\n)+)", PAGE.read_text("utf-8"), re.MULTILINE)
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {name: {row[0].strip("`"): row[column] for row in rows} for column, name in enumerate(head[1:], 1)}


@mailers
def test_ordinary_messages_are_all_accepted_and_the_page_says_what_is_wrong_with_them(name: str) -> None:
    assert len(MESSAGES) == 20
    if name not in HERE:
        ensure_nothing_is_missing(SENDERS[name].missing)
    with SMTPServer(strict=False).in_thread() as server:
        SENDERS[name].send(server.port)
        assert not server.refused
        assert [set(message.recipients) for message in server.messages] == [
            set(message.recipients) for message in MESSAGES.values()
        ]
        assert [message.sender for message in server.messages] == [message.sender for message in MESSAGES.values()]
        found = {"accepted": "20", **{row: str(count) for row, count in mistakes(server).items()}}
    assert {row: cell for row, cell in on_the_page()[name].items() if cell != "0"} == found


def test_the_page_names_every_mailer() -> None:
    assert set(on_the_page()) == set(SENDERS)


@pytest.mark.interop
@pytest.mark.parametrize("crlf", [False, True])
def test_curl_needs_an_option_for_a_file_with_lf(crlf: bool, tmp_path: Path) -> None:
    ensure_nothing_is_missing(SENDERS["curl"].missing)
    file = tmp_path / "mail.txt"
    file.write_bytes(b"Subject: Hello\n\nHello.\n")
    with SMTPServer(strict=False).in_thread() as server:
        command = ["curl", "--silent", f"smtp://127.0.0.1:{server.port}", "--upload-file", str(file)]
        command += ["--mail-from", "ada@example.org", "--mail-rcpt", "grace@example.net", *(["--crlf"] if crlf else [])]
        ran = subprocess.run(command, check=False, timeout=60)
        assert (ran.returncode == 0, len(server.messages)) == (crlf, int(crlf))
        assert [str(refused.decisive) for refused in server.refused] == (
            [] if crlf else ["554 5.6.0 bare LF in content (after the content)"]
        )
