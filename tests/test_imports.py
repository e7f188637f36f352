"""What importing smtplite loads. How long that takes, benchmarks/imports.py says."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded_by(statement: str) -> set[str]:
    """Return the modules that the statement loads in a fresh interpreter, beside those that are there anyway."""
    program = (
        f"import sys\nbefore = set(sys.modules)\n{statement}\nprint(*sorted(set(sys.modules) - before), sep='\\n')\n"
    )
    # Isolated from environment variables and the working directory; coverage and the like would load more.
    command = [sys.executable, "-I", "-c", program]
    return set(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split())


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


IO = {"anyio", "asyncio", "trio", "ssl", "_ssl", "socket", "_socket", "select", "selectors", "concurrent"}


def test_smtplite_alone_loads_none_of_its_modules_and_no_library() -> None:
    """Its names are loaded when they are first used."""
    loaded = loaded_by("import smtplite")
    assert {name for name in loaded if name.startswith("smtplite")} == {"smtplite"}
    assert not packages(loaded) & (IO | {"attr", "attrs", "email", "idna", "logging"})


def test_the_core_loads_no_io_and_no_email() -> None:
    loaded = loaded_by("import smtplite.protocol")
    assert not packages(loaded) & (IO | {"email", "logging", "hashlib", "urllib", "pathlib"})
    ours = {name for name in loaded if name.startswith("smtplite.")}
    assert ours == {"smtplite.errors"} | {name for name in ours if name.startswith("smtplite.protocol")}


def test_the_protocol_half_of_the_testing_server_loads_no_io() -> None:
    loaded = loaded_by("from smtplite.testing import ServerConnection")
    # `email` itself loads socket.
    assert not packages(loaded) & {"anyio", "asyncio", "trio", "ssl", "trustme", "cryptography", "pytest"}
    assert "smtplite.client" not in loaded


@pytest.mark.parametrize(
    "statement", ["from smtplite import Client", "from smtplite import *", "import smtplite.sasl, smtplite.trace"]
)
def test_a_client_loads_nothing_that_only_tests_and_commands_need(statement: str) -> None:
    loaded = loaded_by(statement)
    assert not packages(loaded) & {"trustme", "cryptography", "rich", "pytest", "_pytest", "trio", "uvloop", "argparse"}
    assert not loaded & {"smtplite.testing", "smtplite.cli", "smtplite.__main__"}


def test_a_client_loads_of_the_standard_librarys_networking_what_anyio_does() -> None:
    """No smtplib, no http, and no event loop that anyio has not chosen."""
    needed = loaded_by("import anyio, anyio.abc, anyio.lowlevel, anyio.to_thread, anyio.streams.tls, ssl, email.policy")
    networking = {"asyncio", "concurrent", "ftplib", "http", "multiprocessing", "smtplib", "socketserver", "trio"}
    ours = packages(loaded_by("from smtplite import Client")) & networking
    assert ours <= packages(needed) & networking


def test_the_testing_kit_makes_no_certificates_until_it_is_asked_to() -> None:
    loaded = loaded_by("from smtplite.testing import Outbox, SMTPServer, ThreadedServer")
    assert not packages(loaded) & {"trustme", "cryptography", "pytest", "_pytest", "rich"}


def test_the_libraries_for_tokens_are_loaded_with_the_first_source() -> None:
    libraries = {"authlib", "httpx", "httpx2", "httpcore2", "joserfc", "cryptography", "trio"}
    assert not packages(loaded_by("import smtplite.oauth")) & libraries
    source = "smtplite.oauth.ClientCredentials(token_endpoint='https://a.example', client_id='a', client_secret='b')"
    assert packages(loaded_by(f"import smtplite.oauth; {source}")) & libraries >= {"authlib", "httpx2"}


@pytest.mark.parametrize("module", ["smtplite.cli", "smtplite.__main__"])
def test_the_command_line_loads_rich_and_the_server_only_for_what_needs_them(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert not packages(loaded) & {"rich", "trustme", "cryptography"}
    assert "smtplite.testing" not in loaded
