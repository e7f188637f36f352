"""The house: which room may import which. An arrow that is not drawn here does not exist."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exhaustive import WHOLE

pytestmark = pytest.mark.exhaustive(keep=WHOLE)

PACKAGE = Path(__file__).parents[1] / "smtplite"


#: What each room may import, beside itself. `CORE` and `MESSAGE` say in which order their own modules stand.
ARROWS: dict[str, set[str]] = {
    "smtplite.errors": set(),
    "smtplite.elsewhere": {"smtplite.errors"},
    "smtplite.callbacks": {"smtplite.errors"},
    "smtplite.protocol": {"smtplite.errors"},
    "smtplite.trace": {"smtplite.errors", "smtplite.protocol"},
    "smtplite.sasl": {"smtplite.errors", "smtplite.callbacks"},
    "smtplite.system": {"smtplite.errors"},
    "smtplite.net": {"smtplite.errors", "smtplite.callbacks", "smtplite.system"},
    "smtplite.options": {
        "smtplite.errors",
        "smtplite.callbacks",
        "smtplite.protocol",
        "smtplite.sasl",
        "smtplite.system",
    },
    "smtplite.message": {"smtplite.errors", "smtplite.elsewhere", "smtplite.protocol", "smtplite.system"},
    "smtplite.results": {"smtplite.errors", "smtplite.protocol", "smtplite.message"},
    "smtplite.sending": {
        "smtplite.errors",
        "smtplite.callbacks",
        "smtplite.protocol",
        "smtplite.trace",
        "smtplite.sasl",
        "smtplite.net",
        "smtplite.options",
        "smtplite.message",
        "smtplite.results",
    },
    "smtplite.types": {"smtplite.message", "smtplite.options"},
    "smtplite.client": {
        "smtplite.errors",
        "smtplite.elsewhere",
        "smtplite.callbacks",
        "smtplite.protocol",
        "smtplite.trace",
        "smtplite.sasl",
        "smtplite.net",
        "smtplite.options",
        "smtplite.message",
        "smtplite.results",
        "smtplite.sending",
    },
    "smtplite": set(),
}

#: Rooms above the client, and what they may import of each other; of all that is below, they may import anything.
ABOVE: dict[str, set[str]] = {
    "smtplite.testing": set(),
    "smtplite.sync": set(),
    "smtplite.oauth": set(),
    "smtplite.routes": set(),
    "smtplite.compat": set(),
    "smtplite.worker": set(),
    "smtplite.contrib": {"smtplite.testing", "smtplite.sync"},
    "smtplite.cli": {"smtplite.testing", "smtplite.routes", "smtplite.worker"},
    "smtplite.__main__": {"smtplite.cli"},
}

#: The order of the modules of some rooms: each may import those before it. What stands in one set does not meet.
CORE: list[set[str]] = [
    {"grammar", "codes"},
    {"reply", "paths", "transparency"},
    {"extensions"},
    {"parameters"},
    {"commands"},
    {"envelope", "events", "state", "redaction"},
    {"usual"},
    {"whole"},
    {"connection", "outcomes"},
    {"transaction"},
    {"submission"},
    {"window"},
]
MESSAGE: list[set[str]] = [
    {"headers", "threads"},
    {"objects"},
    {"addresses", "wire"},
    {"flatten"},
    {"content", "signing", "composing"},
    {"envelope"},
    {"prepared"},
]
NET: list[set[str]] = [
    {"failures", "stream"},
    {"waiting", "watching", "foreign", "tls"},
    {"sockets"},
    {"connecting"},
]
SENDING: list[set[str]] = [
    {"deadline"},
    {"outbound"},
    {"session"},
    {"handshake", "pool", "items"},
    {"single", "stream"},
    {"raw"},
]
ORDERS = {"smtplite.protocol": CORE, "smtplite.message": MESSAGE, "smtplite.net": NET, "smtplite.sending": SENDING}

#: Modules of the core that say what is sent. Those that say how it goes (connection, transaction, ...) are not for it.
FOR_MESSAGE = {
    "smtplite.protocol.commands",
    "smtplite.protocol.envelope",
    "smtplite.protocol.extensions",
    "smtplite.protocol.parameters",
    "smtplite.protocol.paths",
    "smtplite.protocol.transparency",
}

#: Rooms of the testing kit that hand out a client; the server shares nothing with it, or both would be wrong alike.
FOR_APPLICATIONS = {
    "smtplite.testing.outbox",
    "smtplite.testing.pytest_plugin",
}

#: What the sans-IO core may use beside the standard library; and what of that it may not.
CORE_LIBRARIES = {"attrs", "idna", "smtplite"}
NOT_IN_THE_CORE = {"anyio", "asyncio", "ssl", "socket", "selectors", "select", "logging", "time", "email", "threading"}

#: Modules of the standard library that are not on every system, or not the same; and names that tell systems apart.
OF_A_SYSTEM = {
    "fcntl",
    "msvcrt",
    "termios",
    "tty",
    "pty",
    "select",
    "signal",
    "resource",
    "pwd",
    "grp",
    "winreg",
    "ctypes",
}
SYSTEM_MODULES = {"os", "socket", "sys"}
TELLING = {"sys.platform", "os.name", "os.fork", "os.register_at_fork", "os.uname", "socket.AF_UNIX"}


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
    """The innermost room of the tables that a module lies in."""
    rooms = [
        name for name in (*ARROWS, *ABOVE) if module == name or (module.startswith(name + ".") and name != "smtplite")
    ]
    assert rooms, f"{module} has no room: give it one in ARROWS or ABOVE"
    return max(rooms, key=len)


def place(module: str) -> int:
    """Where a module stands in the order of its room; a package's `__init__` comes last."""
    name = module.removeprefix(room(module)).lstrip(".")
    order = ORDERS[room(module)]
    return len(order) if not name else next(i for i, names in enumerate(order) if name in names)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_arrow_is_drawn(module: str) -> None:
    here = room(module)
    for imported in set(imports(MODULES[module])) & set(MODULES):
        there = room(imported)
        if here != there:
            allowed = ARROWS[here] if here in ARROWS else ABOVE[here] | set(ARROWS)
            assert there in allowed, f"{module} imports {imported}: that arrow is not drawn"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if room(m) in ORDERS))
def test_within_a_room_arrows_point_down(module: str) -> None:
    for imported in set(imports(MODULES[module])) & set(MODULES):
        if room(imported) == room(module):
            assert place(imported) < place(module), f"{module} imports {imported}, which is not below it"


def test_every_named_room_exists() -> None:
    assert {*ARROWS, *ABOVE} <= set(MODULES)
    for name, order in ORDERS.items():
        named = {f"{name}.{module}" for modules in order for module in modules} | {name}
        assert named == {module for module in MODULES if room(module) == name}


@pytest.mark.parametrize("module", sorted(m for m in MODULES if room(m) == "smtplite.message"))
def test_what_is_sent_knows_nothing_of_how_it_goes(module: str) -> None:
    for imported in set(imports(MODULES[module])) & set(MODULES):
        if room(imported) == "smtplite.protocol":
            assert imported in FOR_MESSAGE, f"{module} imports {imported}"


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
            ours = {
                name
                for name in imports(path)
                if name.startswith("smtplite.") and not name.startswith("smtplite.testing")
            }
            assert not ours, f"{module} imports {ours}"


def of_a_system(source: str) -> Iterator[str]:
    """Yield what a module does to tell systems apart."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in OF_A_SYSTEM)
        elif isinstance(node, ast.ImportFrom) and node.module in OF_A_SYSTEM:
            yield node.module
        elif (isinstance(node, ast.Attribute) and ast.unparse(node) in TELLING) or (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"hasattr", "getattr"}
            and ast.unparse(node.args[0]) in SYSTEM_MODULES
        ):
            yield ast.unparse(node)


@pytest.mark.parametrize("module", sorted(m for m in MODULES if room(m) != "smtplite.system"))
def test_what_depends_on_the_system_is_in_its_room(module: str) -> None:
    """So whoever asks what is different on Windows reads one folder."""
    assert not list(of_a_system(MODULES[module].read_text(encoding="utf-8")))


def test_what_tells_systems_apart_is_found() -> None:
    lines = (
        "import select",
        "from signal import SIGINT",
        "sys.platform",
        "getattr(os, 'O_BINARY', 0)",
        "socket.AF_UNIX",
    )
    assert [len(list(of_a_system(line))) for line in lines] == [1] * len(lines)
