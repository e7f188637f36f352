"""docs/howto/testing.md beyond what tests/docs runs of it: its pytest project, its faults, its tables of switches."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

import smtplite
from smtplite import Client
from smtplite.testing import ServerExtensions, ServerQuirks, SMTPServer, server_context

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "testing.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table whose first heading is `heading`."""
    [table] = re.findall(rf"^\| {heading} \|.*\n\| ---.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()]


def switches() -> list[set[str]]:
    tables = re.findall(r"^\| Switch \|.*\n\| ---.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [
        set(re.findall(r"`(\w+)`", " ".join(line.split(" | ")[0] for line in table.splitlines()))) for table in tables
    ]


def test_the_tables_name_every_switch() -> None:
    extensions, quirks = switches()
    assert extensions == {field.name for field in attrs.fields(ServerExtensions)}
    assert quirks == {field.name for field in attrs.fields(ServerQuirks)}


def test_the_defaults_of_the_extensions_are_as_they_say() -> None:
    [table] = re.findall(r"^\| Switch \| Extension \|.*\n\| ---.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    for line in table.splitlines():
        names, _, default = line.strip("|\n").rsplit(" | ", 2)
        value = getattr(ServerExtensions(), re.findall(r"`(\w+)`", names)[0])
        assert {"on": value is True, "off": value in (False, None), "none": not value, "128 MiB": value == 1 << 27}[
            default.strip()
        ], line


@pytest.mark.exhaustive(keep=0)
def test_the_pytest_project_of_the_page_runs(tmp_path: Path) -> None:
    conftest, *tests = re.findall(r"^```python no-run\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert "pytest_plugins" in conftest
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_page.py").write_text("\n\n".join(tests))
    ini = (
        "[pytest]\nfilterwarnings = error\naddopts = --strict-markers\nasyncio_default_fixture_loop_scope = function\n"
    )
    (tmp_path / "pytest.ini").write_text(ini)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert " 5 passed in " in result.stdout, result.stdout + result.stderr


# --- the faults


FAULTS = {fault: (line.strip("`"), outcome) for fault, line, outcome in rows("Fault")}


def message() -> EmailMessage:
    result = EmailMessage()
    result["From"] = "team@example.org"
    result["To"] = "grace@example.net"
    result.set_content("Hello, and a little more than ten bytes\n")
    return result


async def perform(server: SMTPServer, line: str) -> Any:
    """Run a line of the table, and return what it calls `held`."""
    namespace: dict[str, Any] = {"server": server, "server_context": server_context}
    code = compile(line, "testing.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    outcome = eval(code, namespace)
    if inspect.iscoroutine(outcome):
        await outcome
    return namespace.get("held")


def test_every_fault_of_the_table_is_tried() -> None:
    assert len(FAULTS) >= 20
    for line, outcome in FAULTS.values():
        assert line.startswith(("server.", "held = server.", "await server."))
        assert re.match(r"raises `\w+`|delivers|returns a receipt|waits", outcome)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.replace(" ", "-").replace(",", ""))
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_fault_is_what_the_table_says(fault: str, backend: str) -> None:
    line, outcome = FAULTS[fault]
    anyio.run(try_fault, line, outcome, backend=backend)


async def try_fault(line: str, outcome: str) -> None:
    server = SMTPServer(tls="starttls", users={"me": "secret"})
    with anyio.fail_after(20):
        async with server.client(username="me", password="secret") as client:
            if line.startswith("await "):
                await client.send(message())
            held = await perform(server, line)
            expected = re.match(r"raises `(\w+)`", outcome)
            if expected is not None:
                # A timeout only where there is something to wait for in vain; long enough to come so far
                timeout = 2 if "timeout" in outcome else None
                with pytest.raises(getattr(smtplite, expected[1])):
                    await client.send(message(), timeout=timeout)
                if "then delivers" in outcome:
                    assert (await client.send(message())).complete
            elif outcome.startswith("waits"):
                await released(server, client, held)
            else:
                assert (await client.send(message())).complete
    assert len(server.connections) == (2 if "new connection" in outcome else 1)
    taken = {"raises": "performs=True" in line, "returns": False, "delivers": True, "waits": True}[
        outcome.split(" ")[0]
    ]
    assert len(server.messages) == taken + line.startswith("await ") + ("then delivers" in outcome)


async def released(server: SMTPServer, client: Client, held: Any) -> None:
    receipts: list[smtplite.Receipt] = []

    async def send() -> None:
        receipts.append(await client.send(message()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await held.wait()
        assert receipts == []
        held.release()
    assert receipts[0].complete
