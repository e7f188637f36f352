"""Real mail servers, each in a private instance on loopback, for the interop tests.

Every server is one class with the small interface of `Server`: start, stop, the ports of its services, and the
messages that it stored, found by Message-ID. A server that is added later is one more subclass; the tests and the
conftest know nothing but that interface.

Nothing here leaves the machine: every service listens on 127.0.0.1, and what a server would relay it refuses.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

import attrs
import pytest

HOST = "127.0.0.1"
DOMAIN = "example.test"
"""Anything at this domain is delivered, but for the recipients that `Server` says are refused on purpose."""

STORE_USER = "smtplite-store"
START_SECONDS = 30.0
SETTLE_SECONDS = 30.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.02


GUARD = """
while read -r line; do group=$line; done
if [ -n "$group" ]; then
    kill -TERM "-$group"
    # What still runs may write into the folder.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        kill -0 "-$group" || break
        sleep 0.5
    done
    kill -KILL "-$group"
fi
rm -rf "$0"
"""
"""A shell script: at the end of its input it ends the process group that it read there, and removes a folder."""


class ServerError(Exception):
    """A server did not start, did not settle or stored what it should not; the text ends with its log."""


@attrs.frozen
class Stored:
    """One copy of a message, as the server keeps it.

    Attributes:
        recipient: whose copy it is, as the server names it.
        trace: the header fields that the server put in front, line endings LF.
        content: everything behind them, line endings LF.
    """

    recipient: str
    trace: bytes
    content: bytes


class Daemon(abc.ABC):
    """A private instance of one program that serves, in a folder and a process group of its own.

    Use it through `running`, which starts and stops it.
    """

    name: ClassVar[str]
    services: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        # Not TMPDIR: it may be closed to the users that a server drops to, and too long: the path of a Unix socket
        # ends at 107 octets, and those of a server lie deep in its folder.
        self.folder = Path(tempfile.mkdtemp(prefix="smtplite-", dir="/tmp"))
        self.folder.chmod(0o755)
        self._leader: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.ports: Mapping[str, int] = dict(zip(self.services, free_ports(len(self.services)), strict=True))

    @classmethod
    @abc.abstractmethod
    def missing(cls) -> str | None:
        """Say what this machine lacks to run the server, and the command that installs it; None: nothing."""

    @abc.abstractmethod
    def configure(self) -> list[str]:
        """Write the configuration below `folder`; return the command that runs the server in the foreground.

        Its processes must stay in the process group of that command, which is how they are ended.
        """

    def log(self) -> str:
        """Return the end of what the server printed and logged, for error texts."""
        return tail(self.folder / "output") + tail(self.folder / "log")

    def alive(self) -> bool:
        """Tell whether the server still runs."""
        return self._leader is not None and self._leader.poll() is None

    def start(self) -> None:
        """Start the server and return when every service has sent its greeting.

        Raises:
            ServerError: it ended, or did not answer within `START_SECONDS`; call `stop` all the same.
        """
        # Should pytest be killed, nobody calls `stop`. The guard then reads the end of a pipe that only we hold.
        # (A parent-death signal does not do: the kernel forgets it when Postfix changes its user.)
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, os.fspath(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        command = self.configure()
        with (self.folder / "output").open("wb") as output:
            self._leader = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        assert self._guard.stdin is not None
        self._guard.stdin.write(b"%d\n" % self._leader.pid)
        for service, port in self.ports.items():
            greets = functools.partial(self.greets, service)
            self._wait(greets, START_SECONDS, f"{service} did not greet on port {port}")

    def greets(self, service: str) -> bool:
        """Tell whether a service sends an SMTP or LMTP greeting."""
        try:
            with contextlib.closing(self.connect(service)) as connection:
                return connection.recv(4).startswith(b"220")
        except OSError:
            return False

    def connect(self, service: str) -> socket.socket:
        """Return a connection to a service, under TLS if that is how the service begins."""
        return socket.create_connection((HOST, self.ports[service]), timeout=START_SECONDS)

    def stop(self) -> None:
        """End the server and remove its folder; harmless when it never started."""
        try:
            for process in (self._guard, self._leader):
                if process is not None:
                    end_group(process)
                    if process.stdin is not None:
                        process.stdin.close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self, reached: Callable[[], bool], seconds: float, otherwise: str) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            if not self.alive():
                raise ServerError(f"{self.name} ended\n{self.log()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name}: {otherwise} within {seconds:g} s\n{self.log()}")
            time.sleep(POLL_SECONDS)

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServerError(f"{' '.join(command)} exited with {done.returncode}\n{done.stderr}{self.log()}")
        return done.stdout


class Server(Daemon):
    """A private instance of one mail server.

    Every server stores what is sent to any address at `DOMAIN`, except that it refuses these local parts at RCPT:

    - `reject4xx...` and `reject5xx...`: with the code that stands in the name;
    - `defer...`: 451;
    - `disc421...`: 421, and closes the connection.
    """

    @abc.abstractmethod
    def is_settled(self) -> bool:
        """Tell whether everything that the server took is stored by now."""

    @abc.abstractmethod
    def read_store(self) -> Iterator[Stored]:
        """Yield every stored copy, in any order."""

    def stored(self, message_id: str) -> list[Stored]:
        """Return the copies of one message, sorted by recipient.

        Waits until the server has stored all that it took. So an empty list means: it never took the message; and
        a list of one: it took it once, and a second copy is not merely late. Close your connections first, because
        a server may hold back what belongs to an open transaction.

        Args:
            message_id: as it stands in the field, with the angle brackets.

        Raises:
            ServerError: the server still holds something after `SETTLE_SECONDS`.
        """
        self._wait(self.is_settled, SETTLE_SECONDS, "it still holds messages that it did not store")
        wanted = message_id.encode()
        copies = [copy for copy in self.read_store() if message_id_of(copy.content) == wanted]
        return sorted(copies, key=lambda copy: copy.recipient)


ServerT = TypeVar("ServerT", bound=Daemon)


@contextlib.contextmanager
def running(server_class: type[ServerT]) -> Iterator[ServerT]:
    """Run a server for the length of a block; it is stopped and removed however the block ends."""
    server = server_class()
    try:
        server.start()
        yield server
    finally:
        server.stop()


class Postfix(Server):
    """Postfix, its smtpd(8) on two ports and virtual(8) delivering into one Maildir.

    Services:
        smtp: everything that Postfix offers without TLS and AUTH: PIPELINING, CHUNKING, 8BITMIME, SMTPUTF8, DSN,
            ENHANCEDSTATUSCODES, SIZE.
        lockstep: only 8BITMIME and SIZE are offered.

    Both refuse a bare LF, and anything written behind DATA before it was answered. Commands written ahead on the
    lockstep port they do not refuse: to Postfix, every client that says EHLO knows of PIPELINING.
    """

    name = "Postfix"
    services: ClassVar[tuple[str, ...]] = ("smtp", "lockstep")

    INSTALL = (
        "echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections"
        " && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postfix"
    )
    DISCARDED = "pipelining,chunking,dsn,smtputf8,enhancedstatuscodes,etrn,vrfy,silent-discard"
    # maildrop, incoming, active, deferred: the way a message takes. Looking in this order, a file that moves on
    # between two looks is met a second time, never missed.
    QUEUES = ("maildrop", "incoming", "active", "deferred")
    TRACE_FIELDS = frozenset({b"return-path", b"x-original-to", b"delivered-to", b"received"})

    def __init__(self) -> None:
        super().__init__()
        self.config = self.folder / "etc"
        self.queue = self.folder / "q"
        self.maildir = self.folder / "mail" / "all"

    @classmethod
    def missing(cls) -> str | None:
        if sys.platform != "linux":
            return "the launcher knows Linux alone: run the tests in a container"
        if os.geteuid() != 0:
            return "Postfix starts only as root: run the tests with sudo"
        for program in ("postfix", "postconf"):
            if shutil.which(program) is None:
                return f"{program} is not installed: {cls.INSTALL}"
        return None

    def configure(self) -> list[str]:
        ensure_system_user(STORE_USER)
        for folder in (self.config, self.queue, self.folder / "data", self.maildir.parent):
            folder.mkdir()
        shutil.chown(self.folder / "data", "postfix")
        shutil.chown(self.maildir.parent, STORE_USER, STORE_USER)
        (self.config / "main.cf").write_text(self._main_cf())
        (self.config / "master.cf").write_text(self._master_cf())
        (self.config / "recipient_access").write_text(
            "/^reject(4[0-9][0-9])[^@]*@/  $1 4.7.1 refused on purpose\n"
            "/^reject(5[0-9][0-9])[^@]*@/  $1 5.7.1 refused on purpose\n"
            "/^defer[^@]*@/                451 4.7.1 deferred on purpose\n"
            "/^disc421[^@]*@/              421 4.3.2 closing on purpose\n"
        )
        # Makes the folders of the queue and says what is wrong with the configuration.
        self._run("postfix", "-c", os.fspath(self.config), "check")
        daemons = self._run("postconf", "-c", os.fspath(self.config), "-h", "daemon_directory").strip()
        return [os.path.join(daemons, "master"), "-c", os.fspath(self.config), "-s"]

    def is_settled(self) -> bool:
        return not any(path.is_file() for queue in self.QUEUES for path in (self.queue / queue).rglob("*"))

    def read_store(self) -> Iterator[Stored]:
        for path in (self.maildir / "new").glob("*"):
            trace, content = split_trace(path.read_bytes(), self.TRACE_FIELDS)
            found = re.search(rb"^X-Original-To: (.*)$", trace, re.MULTILINE)
            yield Stored(found[1].decode() if found else "", trace, content)

    def settings(self) -> dict[str, object]:
        """Return what stands in main.cf (postconf(5))."""
        store = pwd.getpwnam(STORE_USER)
        return {
            "compatibility_level": "3.6",
            "queue_directory": self.queue,
            "data_directory": self.folder / "data",
            "maillog_file": self.folder / "log",
            "maillog_file_prefixes": self.folder,
            "myhostname": "postfix.test",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "inet_interfaces": HOST,
            "inet_protocols": "ipv4",
            "alias_maps": "",
            "alias_database": "",
            # Nothing leaves this machine, not even a question to a name server.
            "default_transport": "error:no delivery outside of this instance",
            "relay_transport": "error:no delivery outside of this instance",
            "smtpd_peername_lookup": "no",
            "smtp_dns_support_level": "disabled",
            "notify_classes": "",
            # The one Maildir, whoever the recipient is.
            "virtual_mailbox_domains": DOMAIN,
            "virtual_mailbox_base": self.maildir.parent,
            "virtual_mailbox_maps": f"static:{self.maildir.name}/",
            "virtual_mailbox_limit": 0,
            "virtual_minimum_uid": 1,
            "virtual_uid_maps": f"static:{store.pw_uid}",
            "virtual_gid_maps": f"static:{store.pw_gid}",
            # One copy for each recipient, each with its own X-Original-To.
            "virtual_destination_recipient_limit": 1,
            "smtpd_recipient_restrictions": f"check_recipient_access regexp:{self.config}/recipient_access, "
            "reject_unauth_destination",
            "message_size_limit": 41_943_040,
            "smtputf8_enable": "yes",
            # What arrives is stored as it came. By default Postfix would complete and rewrite the headers of local
            # clients, and drop Bcc: that would hide a client that sends it.
            "local_header_rewrite_clients": "",
            "message_drop_headers": "",
            # What a client must not do is refused, not mended.
            "smtpd_forbid_bare_newline": "reject",
            "smtpd_forbid_bare_newline_exclusions": "",
            "smtpd_forbid_unauth_pipelining": "yes",
            # Refusals are the subject of the tests: they are not slowed down or counted.
            "smtpd_error_sleep_time": 0,
            "smtpd_soft_error_limit": 10_000,
            "smtpd_hard_error_limit": 10_000,
            "smtpd_junk_command_limit": 100_000,
            "smtpd_client_connection_count_limit": 0,
        }

    def options(self) -> dict[str, str]:
        """Return the options of smtpd(8) that make each service what it is."""
        return {"smtp": "", "lockstep": f"-o smtpd_discard_ehlo_keywords={self.DISCARDED}"}

    def _main_cf(self) -> str:
        return "".join(f"{name} = {value}\n" for name, value in self.settings().items())

    def _master_cf(self) -> str:
        # service, type, private, unprivileged, chroot, wake-up time, most processes, program
        rows = [
            *(
                (f"{HOST}:{self.ports[service]}", "inet", "n", "-", "n", "-", "-", f"smtpd {options}")
                for service, options in self.options().items()
            ),
            ("postlog", "unix-dgram", "n", "-", "n", "-", "1", "postlogd"),
            ("cleanup", "unix", "n", "-", "n", "-", "0", "cleanup"),
            ("qmgr", "unix", "n", "-", "n", "300", "1", "qmgr"),
            ("rewrite", "unix", "-", "-", "n", "-", "-", "trivial-rewrite"),
            ("bounce", "unix", "-", "-", "n", "-", "0", "bounce"),
            ("defer", "unix", "-", "-", "n", "-", "0", "bounce"),
            ("trace", "unix", "-", "-", "n", "-", "0", "bounce"),
            ("flush", "unix", "n", "-", "n", "1000?", "0", "flush"),
            ("proxymap", "unix", "-", "-", "n", "-", "-", "proxymap"),
            ("showq", "unix", "n", "-", "n", "-", "-", "showq"),
            ("error", "unix", "-", "-", "n", "-", "-", "error"),
            ("retry", "unix", "-", "-", "n", "-", "-", "error"),
            ("tlsmgr", "unix", "-", "-", "n", "1000?", "1", "tlsmgr"),
            ("virtual", "unix", "-", "n", "n", "-", "-", "virtual"),
            ("anvil", "unix", "-", "-", "n", "-", "1", "anvil"),
        ]
        return "".join("  ".join(row) + "\n" for row in rows)


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody uses now, all different.

    The kernel chooses them, and they are held together until the last one is known. Another process may take one
    before the server does; `Server.start` then says so.
    """
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def ensure_system_user(name: str) -> None:
    """Make a system user and group without home and log-in, if missing.

    They stay: the next run uses them again, and another one may be using them now.
    """
    try:
        grp.getgrnam(name)
    except KeyError:
        subprocess.run(["groupadd", "--system", name], check=True)
    try:
        pwd.getpwnam(name)
    except KeyError:
        home_and_shell = ["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
        subprocess.run(["useradd", "--system", "--gid", name, "--no-create-home", *home_and_shell, name], check=True)


def end_group(leader: subprocess.Popen[bytes]) -> None:
    """End a process that leads its own group, and the whole group; return when none of it runs."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader.pid, signal_number)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if not group_runs(leader.pid):
                leader.wait()
                return
            time.sleep(POLL_SECONDS)
    raise ServerError(f"the process group {leader.pid} survived SIGKILL for {STOP_SECONDS:g} s")


def group_runs(group: int) -> bool:
    """Tell whether a process group has a member that is more than a zombie.

    Asking killpg would count the zombies, too, and an init inside a container may take seconds to reap them.
    """
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (program) state parent group ...: the program's name may hold blanks and parentheses
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended between the two looks
            continue
        if int(its_group) == group and state not in "ZX":
            return True
    return False


def split_trace(raw: bytes, names: frozenset[bytes]) -> tuple[bytes, bytes]:
    """Split a stored file into the fields on top that carry one of the names, and the rest.

    Args:
        raw: the file, line endings LF.
        names: field names in lower case. The message itself must not begin with one of them.
    """
    end = 0
    inside = False
    for line in raw.splitlines(keepends=True):
        name, colon, _ = line.partition(b":")
        if line[:1] in (b" ", b"\t"):
            pass  # a folded line belongs to the field above it
        else:
            inside = bool(colon) and name.lower() in names
        if not inside:
            break
        end += len(line)
    return raw[:end], raw[end:]


def message_id_of(content: bytes) -> bytes | None:
    """Return the Message-ID of a message from its header section, line endings LF; None if it has none."""
    header, _, _ = content.partition(b"\n\n")
    found = re.search(rb"^Message-ID:\s*(<[^>]*>)", header, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else None


def tail(path: Path, lines: int = 40) -> str:
    """Return the last lines of a log, or nothing if there is none."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "".join(text.splitlines(keepends=True)[-lines:])


def ensure_available(server_class: type[Daemon]) -> None:
    """Skip the calling test, with the reason, when the server cannot run on this machine.

    With SMTPLITE_INTEROP=require, as in CI, that is a failure: there a skip would hide that nothing was tested.
    """
    missing = server_class.missing()
    if missing is None:
        return
    if os.environ.get("SMTPLITE_INTEROP") == "require":
        pytest.fail(f"SMTPLITE_INTEROP=require, but {missing}", pytrace=False)
    pytest.skip(missing)
