"""The house: arrows point down only. Each floor may import what lies on the floors below it, and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "smtplite"

#: From the ground up. A module is named once; a package stands for its __init__.
FLOORS: list[set[str]] = [
    {"smtplite.errors"},
    {"smtplite.protocol.grammar"},
    {"smtplite.protocol.reply", "smtplite.protocol.paths", "smtplite.protocol.transparency"},
    {"smtplite.protocol.extensions"},
    {"smtplite.protocol.parameters"},
    {"smtplite.protocol.commands"},
    {"smtplite.protocol.events", "smtplite.protocol.state"},
    {"smtplite.protocol.connection"},
    {"smtplite.protocol.transaction"},
    {"smtplite.protocol.window"},
    {"smtplite.protocol"},
    {"smtplite.content", "smtplite.flatten", "smtplite.trace", "smtplite.stream", "smtplite.sasl", "smtplite.url"},
    {"smtplite.signing"},
    {"smtplite.message"},
    {"smtplite.session"},
    {"smtplite.handshake", "smtplite.pool", "smtplite.consignment"},
    {"smtplite.deliveries", "smtplite.raw"},
    {"smtplite.client"},
    {"smtplite"},
    {"smtplite.testing"},
    {"smtplite.cli", "smtplite.contrib"},
    {"smtplite.__main__"},
]

#: Rooms whose inner order is their own affair.
FURNISHED = ("smtplite.testing", "smtplite.cli", "smtplite.contrib")

#: Rooms of the testing kit that hand out a client; the server shares nothing with it, or both would be wrong alike.
FOR_APPLICATIONS = {
    "smtplite.testing.outbox",
    "smtplite.testing.pytest_plugin",
}

#: What the sans-IO core may use beside the standard library; and what of that it may not.
CORE_LIBRARIES = {"attrs", "idna", "smtplite"}
NOT_IN_THE_CORE = {"anyio", "asyncio", "ssl", "socket", "selectors", "select", "logging", "time", "email", "threading"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports(path: Path) -> Iterator[str]:
    """Yield what a module imports when it runs; what stands under ``if TYPE_CHECKING`` does not run."""

    def walk(nodes: list[ast.stmt]) -> Iterator[ast.stmt]:
        for node in nodes:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            yield node
            for field in ("body", "orelse", "finalbody"):
                yield from walk(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from walk(handler.body)

    for node in walk(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            for alias in node.names:  # "from package import module" imports the module
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def room(module: str) -> str:
    return next((name for name in FURNISHED if module == name or module.startswith(name + ".")), module)


def floor(module: str) -> int:
    return next((i for i, names in enumerate(FLOORS) if room(module) in names), -1)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_arrows_point_down_only(module: str) -> None:
    assert floor(module) >= 0, f"{module} has no floor: give it one in FLOORS"
    for imported in imports(MODULES[module]):
        if imported in MODULES and room(imported) != room(module):
            assert floor(imported) < floor(module), f"{module} imports {imported}, which is not below it"


def test_every_named_room_exists() -> None:
    assert {name for names in FLOORS for name in names} <= set(MODULES)


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith(("smtplite.protocol", "smtplite.errors"))))
def test_the_core_does_no_io_and_keeps_no_time(module: str) -> None:
    for imported in imports(MODULES[module]):
        top = imported.partition(".")[0]
        assert top not in NOT_IN_THE_CORE, f"{module} imports {imported}"
        assert top in CORE_LIBRARIES or top in sys.stdlib_module_names, f"{module} imports {imported}"


def test_importing_the_core_loads_no_io() -> None:
    program = (
        "import sys, smtplite.protocol\n"
        "loaded = {'anyio', 'asyncio', 'ssl', 'socket', '_socket', 'email', 'logging'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_testing_servers_protocol_half_is_independent_of_the_clients() -> None:
    """It is the oracle that judges the client: a shared mistake would be no mistake to it."""
    for module, path in MODULES.items():
        if module.startswith("smtplite.testing.") and module not in FOR_APPLICATIONS:
            ours = {name for name in imports(path) if name.startswith("smtplite.") and room(name) != "smtplite.testing"}
            assert not ours, f"{module} imports {ours}"
