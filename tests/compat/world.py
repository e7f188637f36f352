"""What a small program for aiosmtplib runs in, and what is compared afterwards."""

from __future__ import annotations

import builtins
import email
import email.policy
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiosmtplib
import attrs

import smtplite.compat.aiosmtplib
from smtplite.testing import SMTPServer

__all__ = ["LIBRARIES", "PROGRAMS", "Program", "Run", "World", "program", "run", "violations"]

LIBRARIES: Final[dict[str, Any]] = {"aiosmtplib": aiosmtplib, "smtplite": smtplite.compat.aiosmtplib}

Code = Callable[["World"], Awaitable[Any]]


@attrs.frozen
class World:
    """One library, one server, and where files may be."""

    lib: Any
    server: SMTPServer
    folder: Path

    @property
    def at(self) -> dict[str, Any]:
        """Where the server is, as keyword arguments."""
        return {"hostname": self.server.host, "port": self.server.port}

    @property
    def ca(self) -> str:
        """The file with the CA of the server's certificate."""
        return str(self.server.write_ca(self.folder / "ca.pem"))


@attrs.frozen
class Program:
    """A small program, and the server that it meets."""

    name: str
    code: Code
    server: dict[str, Any]
    #: Where the two differ on purpose: the key of the difference in `differences.py`.
    differs: str | None = None

    @property
    def is_on_unix(self) -> bool:
        return self.server.get("socket_path") is not None


PROGRAMS: Final[list[Program]] = []


def program(*, differs: str | None = None, **server: Any) -> Callable[[Code], Code]:
    """Make a program of an async function of a World; further arguments are those of SMTPServer."""

    def add(code: Code) -> Code:
        PROGRAMS.append(Program(code.__name__, code, server, differs))
        return code

    return add


@attrs.frozen
class Run:
    """What a program returned or raised, and what the server has of it."""

    result: Any
    error: Any
    messages: list[Any]
    connections: int
    raised: BaseException | None
    server: SMTPServer


async def run(program: Program, library: str) -> Run:
    """Run a program on a library, against a server of its own."""
    with tempfile.TemporaryDirectory(prefix="compat") as folder:  # a short path: a Unix socket's has 108 octets
        options = dict(program.server)
        if program.is_on_unix:
            options["socket_path"] = Path(folder) / "s"
        async with SMTPServer(**options) as server:
            world = World(LIBRARIES[library], server, Path(folder))
            result: Any = None
            raised: Exception | None = None
            try:
                result = plain(await program.code(world))
            except Exception as error:  # noqa: BLE001 (the program's own: it is compared)
                raised = error
            messages = [(m.sender, m.recipients, read(m.content)) for m in server.messages]
            return Run(result, shape(raised), messages, len(server.connections), raised, server)


def plain(value: Any) -> Any:
    """Return a value with the classes of neither library."""
    if isinstance(value, BaseException):
        return shape(value)
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value


#: What a program can catch: the names that both libraries have, and those of Python.
_PUBLIC: Final = {name for name in aiosmtplib.__all__ if isinstance(getattr(aiosmtplib, name), type)}
_PYTHON: Final = {cls for cls in vars(builtins).values() if isinstance(cls, type)} | {ssl.SSLError}


def shape(error: BaseException | None) -> Any:
    """Return what a program can see of an error: its public class and the bases, and the server's words."""
    if error is None:
        return None
    names = [cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _PUBLIC]
    bases = sorted(cls.__name__ for cls in type(error).__mro__ if cls in _PYTHON and cls is not object)
    nearest = next(cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _PUBLIC or cls in _PYTHON)
    seen: dict[str, Any] = {"class": nearest, "all": names, "bases": bases}
    if "SMTPResponseException" in names and error.code > 0:  # type: ignore[attr-defined]  # it has one
        seen |= {name: plain(getattr(error, name)) for name in ("code", "message")}
    for name in ("sender", "recipient", "recipients"):
        if names and isinstance(value := getattr(error, name, None), (str, list)):
            seen[name] = plain(value)
    return seen


def read(content: bytes) -> Any:
    """Return what a reader sees of a message: its fields, unfolded and decoded, and its parts."""
    message = email.message_from_bytes(content, policy=email.policy.default)
    return _part(message)


def violations(server: SMTPServer) -> set[str]:
    """Return what the server saw of breaches of the protocol."""
    return {violation for connection in server.connections for violation in connection.violations}


def _part(message: Any) -> Any:
    fields = [(name.lower(), " ".join(str(value).split())) for name, value in message.items()]
    kept = [field for field in fields if field[0] not in ("content-transfer-encoding", "mime-version")]
    if message.is_multipart():
        return kept, [_part(part) for part in message.iter_parts()]
    return kept, message.get_payload(decode=True)
