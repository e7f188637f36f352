"""docs/howto/cli.md shows what happens: its console blocks are run, and compared with what the page shows.

A block whose first command is ``smtplite serve`` runs beside the blocks behind it, until the next such block; what it
printed is compared then. Port 1025 stands for whichever is free. Times, rates and the like may differ.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from smtplite.cli.report import EXIT_CODES

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "cli.md"
PATIENCE_SECONDS = 60.0

HELLO = "From: Ada <ada@example.org>\nTo: Grace <grace@example.net>\nSubject: Hello\n\nHello, Grace.\n"

#: What differs from run to run, and what stands for it.
VARIABLE = [
    (r"[\d,]+\.\d ms", "0.0 ms"),
    (r"\d+\.\d s \([\d,]+ messages/s\)", "0.0 s (1 messages/s)"),
    (r"^\d\d:\d\d:\d\d ", "00:00:00 "),
    (r'"seconds": [\d.]+', '"seconds": 0.1'),
    (r"\d{4}-\d\d-\d\d \([\d,]+ days left\)", "3000-01-01 (1 days left)"),
    (r"^\d{6}$", "355000"),
    (r"trustme v[\d.]+", "trustme v1"),
    (r"TLS_\w+", "TLS_AES_256_GCM_SHA384"),
    (r"queued as Q\d", "queued as Q1"),
    (r" +", " "),
]


@attrs.frozen
class Block:
    commands: tuple[str, ...]
    shown: str


def blocks() -> Iterator[Block]:
    for match in re.finditer(r"^```console\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        lines = match[1].splitlines()
        yield Block(tuple(line[2:] for line in lines if line.startswith("$ ")), match[1])


def stable(text: str) -> str:
    for pattern, replacement in VARIABLE:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


@attrs.define
class Serving:
    block: Block
    program: subprocess.Popen[str]
    first: str
    port: str

    @classmethod
    def start(cls, block: Block, environment: dict[str, str]) -> Serving:
        *settings, command = block.commands
        script = "\n".join([*settings, f"exec {command} --port 0"])
        program = subprocess.Popen(
            ["bash", "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert program.stdout is not None
        first = program.stdout.readline()
        match = re.search(r":(\d+)", first)
        assert match is not None, first
        return cls(block, program, first, match[1])

    def finish(self) -> str:
        self.program.send_signal(signal.SIGINT)
        with self.program:
            assert self.program.stdout is not None
            out = self.program.stdout.read()
            assert self.program.wait(PATIENCE_SECONDS) == 0
        prompts = "".join(f"$ {command}\n" for command in self.block.commands)
        return prompts + (self.first + out).replace(f":{self.port}", ":1025")


def perform(block: Block, environment: dict[str, str], port: str, folder: Path) -> str:
    """Run a block in one shell, and return it as a terminal would show it."""
    program = folder / "program.py"
    text = program.read_text(encoding="utf-8")
    program.write_text(text.replace("1025", port), encoding="utf-8")
    # The status of the last command is kept for the next, which may ask for it.
    marked = "\n".join(
        f"status=$?; echo '$ '{_quoted(command)}; (exit $status)\n{command}" for command in block.commands
    )
    ran = subprocess.run(
        ["bash", "-c", marked.replace(":1025", f":{port}")],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    program.write_text(text, encoding="utf-8")
    return ran.stdout.replace(f":{port}", ":1025").replace(f", {port})", ", 1025)")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def shown_and_performed(folder: Path) -> list[tuple[str, str]]:
    (folder / "hello.eml").write_text(HELLO)
    program = re.search(r"^\$ cat program\.py\n(.*?)^\$ ", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert program is not None
    (folder / "program.py").write_text(program[1], encoding="utf-8")
    (folder / "outbox").mkdir()
    for number, name in enumerate(["grace", "bob", "alan"], 1):
        (folder / "outbox" / f"{number}.eml").write_text(
            HELLO.replace("grace@", f"{name}@").replace("Grace", name.title())
        )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "100"}
    environment.pop("PYTHONUNBUFFERED", None)  # it would hide that stdout and stderr come in a wrong order
    pairs = []
    serving: Serving | None = None
    for block in blocks():
        for command in block.commands:
            if command.startswith("export "):
                name, _, value = command.removeprefix("export ").partition("=")
                environment[name] = value
        if any(command.startswith("smtplite serve") for command in block.commands):
            if serving is not None:
                pairs.append((serving.block.shown, serving.finish()))
            serving = Serving.start(block, environment)
        else:
            assert serving is not None
            pairs.append((block.shown, perform(block, environment, serving.port, folder)))
    assert serving is not None
    pairs.append((serving.block.shown, serving.finish()))
    return pairs


def test_the_page_shows_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = shown_and_performed(tmp_path)
    assert len(pairs) == len(list(blocks())) >= 7
    for shown, performed in pairs:
        assert stable(performed) == stable(shown)


def test_the_page_has_every_exit_code_of_check() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page.partition("### Exit codes")[2].partition("###")[0]
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE))
    for step, code in EXIT_CODES.items():
        assert step in rows[str(code)] or step.lower() in rows[str(code)]
    assert set(map(int, rows)) == {0, 17, *EXIT_CODES.values()}
