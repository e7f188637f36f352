"""The smoke test of a wheel: run with an interpreter into which smtplite alone was installed, from an empty folder.

``python tests/packaging/smoke.py VERSION`` needs nothing but the installed package. It asks for what a stranger would
try first, and ends with an error if anything of it is not so.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import sys
from email.message import EmailMessage
from pathlib import Path

import smtplite
from smtplite.testing import SMTPServer

HERE = Path(__file__).resolve().parents[2]


def fail(what: str) -> None:
    sys.exit(f"smoke test: {what}")


def look_at_the_package(version: str) -> None:
    """What was installed is the wheel, whole, and says who it is."""
    package = Path(smtplite.__file__).resolve().parent
    if package.is_relative_to(HERE):
        fail(f"smtplite was imported from the checkout: {package}")
    if not (package / "py.typed").is_file():
        fail("py.typed is missing: type checkers see nothing")
    installed = importlib.metadata.version("smtplite")
    if not installed == smtplite.__version__ == version:
        fail(f"versions differ: {installed}, {smtplite.__version__}, {version}")
    for name in smtplite.__all__:
        getattr(smtplite, name)
    needed = {
        requirement.split(">")[0]
        for requirement in importlib.metadata.requires("smtplite") or []
        if "extra ==" not in requirement
    }
    if needed != {"anyio", "attrs", "idna"}:
        fail(f"it needs {sorted(needed)}")


async def send() -> None:
    """A message goes to the built-in server and arrives."""
    message = EmailMessage()
    message["From"] = "ada@example.org"
    message["To"] = "grace@example.net"
    message.set_content("Hello.\n")
    async with SMTPServer() as server, smtplite.Client(server.host, server.port, tls="none") as client:
        receipt = await client.send(message)
    if receipt.accepted != ("grace@example.net",) or len(server.messages) != 1:
        fail(f"the message did not arrive: {receipt}")


if __name__ == "__main__":
    look_at_the_package(sys.argv[1])
    asyncio.run(send())
    print(f"smtplite {sys.argv[1]}: installed, complete, and a message arrived")
