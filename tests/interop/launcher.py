"""Real mail servers, each in a private instance on loopback, for the interop tests.

Every server is one class with the small interface of `Server`: start, stop, restart, its services, a client for each,
and the messages that it stored, found by Message-ID. A server that is added later is one more subclass; the tests and
the conftest know nothing but that interface.

Nothing here leaves the machine: every service listens on 127.0.0.1, and what a server would relay it refuses.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import attrs
import pytest

from smtplite import Client

if sys.platform != "win32":  # others import this for their own servers
    import grp
    import pwd

HOST = "127.0.0.1"
DOMAIN = "example.test"
"""Anything at this domain is delivered, but for the recipients that `Server` says are refused on purpose."""

IDN_DOMAIN = "b\u00fccher.test"
A_LABEL_DOMAIN = "xn--bcher-kva.test"
"""A domain beyond ASCII, as people write it and as it travels; delivered as `DOMAIN` is."""

USERNAME = "alice"
PASSWORD = "s3cret pass"
"""With a blank, which a server or a client may take for the end of something."""

REFUSALS = (450, 451, 452, 500, 550, 552, 571)
"""The codes that may stand in the name of a recipient or sender that is refused; see `Server`."""

STORE_USER = "smtplite-store"
START_SECONDS = 30.0
SETTLE_SECONDS = 60.0
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
        transaction: the server's name for the transaction in which it took the message. Two copies of one
            transaction are the server's own doing, when it was killed between storing a copy and noting that it did.
    """

    recipient: str
    trace: bytes
    content: bytes
    transaction: str


@attrs.frozen(kw_only=True)
class Service:
    """One way to reach a server.

    Attributes:
        tls: how a client begins TLS here.
        lmtp: it speaks LMTP.
        authenticates: nobody sends here without authentication.
        unix: on a Unix socket; else on a loopback port.
        works: False if it offers something that it cannot do; mail cannot be sent here.
        idle_seconds: how long a connection may be idle; None: longer than any test.
        max_messages: how many messages it takes, of one connection or in all; None: more than any test sends.
    """

    tls: Literal["implicit", "starttls", "none"] = "none"
    lmtp: bool = False
    authenticates: bool = False
    unix: bool = False
    works: bool = True
    idle_seconds: int | None = None
    max_messages: int | None = None

    @property
    def takes_everything(self) -> bool:
        """True if mail can be sent here without a thought of limits."""
        return self.works and self.idle_seconds is None and self.max_messages is None


class Daemon(abc.ABC):
    """A private instance of one program that serves, in a folder and a process group of its own.

    Use it through `running`, which starts and stops it.

    Attributes:
        name: the program, for people.
        services: the ways to reach it, by name.
        folder: everything that it writes.
        ports: by the name of the service.
    """

    name: ClassVar[str]
    services: ClassVar[Mapping[str, Service]]

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="smtplite-", dir=scratch()))
        self.folder.chmod(0o755)
        self._leader: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []
        with_ports = [name for name, service in self.services.items() if not service.unix]
        self.ports: Mapping[str, int] = dict(zip(with_ports, free_ports(len(with_ports)), strict=True))

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
        self._command = self.configure()
        self._run_leader()

    def _run_leader(self) -> None:
        with (self.folder / "output").open("ab") as output:
            self._leader = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        assert self._guard is not None
        assert self._guard.stdin is not None
        self._guard.stdin.write(b"%d\n" % self._leader.pid)
        for service in self.services:
            greets = functools.partial(self.greets, service)
            self._wait(greets, START_SECONDS, f"{self.address(service)} ({service}) did not greet")

    def halt(self) -> None:
        """End the server's processes in good order; the folder stays: `resume` goes on with it."""
        assert self._leader is not None
        end_group(self._leader)

    def kill(self) -> None:
        """End the server's processes in the middle of whatever they do; `resume` goes on with its folder."""
        assert self._leader is not None
        os.killpg(self._leader.pid, signal.SIGKILL)
        end_group(self._leader)

    def resume(self) -> None:
        """Start the server again, on the same ports, after `halt` or `kill`."""
        self._run_leader()

    def address(self, service: str) -> str:
        """Return where a service listens, for people."""
        if self.services[service].unix:
            return os.fspath(self.socket_path(service))
        return f"port {self.ports[service]}"

    def socket_path(self, service: str) -> Path:
        """Return where a service on a Unix socket listens."""
        return self.folder / "run" / service

    def greets(self, service: str) -> bool:
        """Tell whether a service sends an SMTP or LMTP greeting."""
        try:
            with contextlib.closing(self.connect(service)) as connection:
                return connection.recv(4).startswith(b"220")
        except OSError:
            return False

    def count_connections(self, service: str) -> int:
        """Return how many connections to a service are open: to our knowledge, the server ended none of them."""
        wanted = f"{self.ports[service]:04X}"
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        # number, near end, far end, state, ...: addresses as hexadecimal, and 01 for ESTABLISHED
        rows = [line.split() for line in lines]
        return sum(row[2].endswith(f":{wanted}") and row[3] == "01" for row in rows)

    def wait_until_idle_connections_end(self, service: str) -> None:
        """Wait until a service with `idle_seconds` has closed every connection."""
        seconds = (self.services[service].idle_seconds or 0) + START_SECONDS
        self._wait(lambda: self.count_connections(service) == 0, seconds, f"it left idle connections to {service} open")

    def connect(self, service: str) -> socket.socket:
        """Return a connection to a service, under TLS if that is how the service begins."""
        if not self.services[service].unix:
            return socket.create_connection((HOST, self.ports[service]), timeout=START_SECONDS)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(START_SECONDS)
            connection.connect(os.fspath(self.socket_path(service)))
        except BaseException:
            connection.close()
            raise
        return connection

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
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode != 0:
            raise ServerError(f"{' '.join(command)} exited with {done.returncode}\n{done.stderr}{self.log()}")
        return done.stdout


class Server(Daemon):
    """A private instance of one mail server.

    Every server stores what is sent to any address at `DOMAIN` and `IDN_DOMAIN`. But local parts that begin so are
    refused at RCPT:

    - `reject4xx` and `reject5xx`: with the code that stands in the name, one of `REFUSALS`;
    - `defer`: 451;
    - `disc421`: 421, and the connection is closed.

    To `discard` it says 250, and stores nothing. And a reverse-path whose local part begins with `end4xx` or `end5xx`
    makes it refuse the whole message at the end of data, with that code. A subclass says where its server cannot.

    Attributes:
        refusals: the codes with which it can be made to refuse.
        disc421_code: the code for `disc421`; None: the server cannot be made to close the connection there.
        offers_chunking: CHUNKING is among what it offers, at least by its first service.
        knows_discard: it can be made to discard.
        knows_end: it can be made to refuse at the end of data.
        max_recipients: how many recipients it takes in one transaction; None: more than any test names.
    """

    refusals: ClassVar[tuple[int, ...]] = REFUSALS
    disc421_code: ClassVar[int | None] = 421
    offers_chunking: ClassVar[bool] = False
    knows_discard: ClassVar[bool] = True
    knows_end: ClassVar[bool] = True
    max_recipients: ClassVar[int | None] = None

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[Path] = set()
        self._files: dict[bytes | None, list[Path]] = {}

    @abc.abstractmethod
    def version(self) -> str:
        """Return the version of the program that runs."""

    def is_settled(self) -> bool:
        """Tell whether everything that the server took is stored by now.

        What it was still receiving when it was killed does not count. True for one that stores before it answers.
        """
        return True

    @abc.abstractmethod
    def store_files(self) -> Iterable[Path]:
        """Yield the files that hold what is stored, complete ones alone."""

    @abc.abstractmethod
    def read(self, path: Path) -> Iterator[Stored]:
        """Yield each copy of the one message that a file holds."""

    def as_kept(self, content: bytes) -> bytes:
        """Return what the server makes of a message that was sent: what it alters on its own account.

        Args:
            content: as it was sent, line endings LF.
        """
        return content

    def client_options(self, service: str) -> dict[str, Any]:
        """Return the arguments with which a Client of a service is made, and may send."""
        kind = self.services[service]
        options: dict[str, Any] = {"tls": kind.tls, "lmtp": kind.lmtp}
        if kind.unix:
            return {**options, "socket_path": os.fspath(self.socket_path(service))}
        return {**options, "hostname": HOST, "port": self.ports[service]}

    def client(self, service: str, **options: Any) -> Client:
        """Return a Client of a service.

        Args:
            service: the name.
            options: more arguments for the Client; they win.
        """
        return Client(**{**self.client_options(service), **options})

    def settle(self) -> None:
        """Wait until the server has stored all that it took. Close your connections first.

        Raises:
            ServerError: the server still holds something after `SETTLE_SECONDS`.
        """
        self._wait(self.is_settled, SETTLE_SECONDS, "it still holds messages that it did not store")

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
        return self.stored_of([message_id])[message_id]

    def stored_of(self, message_ids: Iterable[str]) -> dict[str, list[Stored]]:
        """Return Message-ID -> copies, as `stored` does for one; waits and looks once for all of them."""
        self.settle()
        self._look_for_files()
        found: dict[str, list[Stored]] = {}
        for message_id in message_ids:
            copies = (copy for path in self._files.get(message_id.encode(), ()) for copy in self.read(path))
            found[message_id] = sorted(copies, key=lambda copy: copy.recipient)
        return found

    def stored_with(self, octets: bytes) -> list[Stored]:
        """Return the copies of all messages that hold these octets; waits as `stored` does."""
        self.settle()
        paths = [path for path in self.store_files() if octets in path.read_bytes()]
        return [copy for path in paths for copy in self.read(path)]

    def _look_for_files(self) -> None:
        for path in self.store_files():
            if path not in self._seen:
                self._seen.add(path)
                message_id = next((message_id_of(copy.content) for copy in self.read(path)), None)
                self._files.setdefault(message_id, []).append(path)


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
    """Postfix, its smtpd(8) on several ports and virtual(8) delivering into one Maildir.

    Services:
        smtp: everything that Postfix offers without TLS and AUTH: PIPELINING, CHUNKING, 8BITMIME, SMTPUTF8, DSN,
            ENHANCEDSTATUSCODES, SIZE.
        lockstep: only 8BITMIME and SIZE are offered.
        lenient: as smtp, but a bare LF and what is written too early are taken, as Debian 12 ships it.
        impatient: as smtp, and an idle connection is closed after three seconds.
        rationed: as smtp, and MAIL is refused with 450 after a few messages.

    All but lenient refuse a bare LF, and anything written behind DATA before it was answered. Commands written ahead on
    the lockstep port they do not refuse: to Postfix, every client that says EHLO knows of PIPELINING.
    """

    name = "Postfix"
    services: ClassVar[Mapping[str, Service]] = {
        "smtp": Service(),
        "lockstep": Service(),
        "lenient": Service(),
        "impatient": Service(idle_seconds=3),
        "rationed": Service(max_messages=5),
    }
    #: By service: how many smtpd(8) there may be. One more connection is accepted by the kernel, and greeted by nobody.
    processes: ClassVar[Mapping[str, int]] = {}

    INSTALL = (
        "echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections"
        " && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postfix"
    )
    DISCARDED = "pipelining,chunking,dsn,smtputf8,enhancedstatuscodes,etrn,vrfy,silent-discard"
    # maildrop, incoming, active, deferred: the way a message takes. Looking in this order, a file that moves on
    # between two looks is met a second time, never missed. It is executable from the moment that it is complete.
    offers_chunking = True
    max_recipients = 1000
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
        (self.config / "sender_access").write_text(
            "/^end(4[0-9][0-9])[^@]*@/  $1 4.7.1 refused on purpose\n"
            "/^end(5[0-9][0-9])[^@]*@/  $1 5.7.1 refused on purpose\n"
        )
        (self.config / "transport").write_text("/^discard/ discard:on purpose\n")
        # Makes the folders of the queue and says what is wrong with the configuration.
        self._run("postfix", "-c", os.fspath(self.config), "check")
        daemons = self._run("postconf", "-c", os.fspath(self.config), "-h", "daemon_directory").strip()
        return [os.path.join(daemons, "master"), "-c", os.fspath(self.config), "-s"]

    def is_settled(self) -> bool:
        return not any(is_executable(path) for queue in self.QUEUES for path in files_below(self.queue / queue))

    def store_files(self) -> Iterable[Path]:
        return (self.maildir / "new").glob("*")

    def read(self, path: Path) -> Iterator[Stored]:
        trace, content = split_trace(path.read_bytes(), self.TRACE_FIELDS)
        found = re.search(rb"^X-Original-To: (.*)$", trace, re.MULTILINE)
        yield Stored(found[1].decode() if found else "", trace, content, queue_id_of(trace))

    def version(self) -> str:
        return self._run("postconf", "-d", "-h", "mail_version").strip()

    def as_kept(self, content: bytes) -> bytes:
        return with_last_line_ended(content)

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
            "virtual_mailbox_domains": f"{DOMAIN}, {A_LABEL_DOMAIN}, {IDN_DOMAIN}",
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
            "smtpd_end_of_data_restrictions": f"check_sender_access regexp:{self.config}/sender_access",
            "transport_maps": f"regexp:{self.config}/transport",
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
        return {
            "smtp": "",
            "lockstep": f"-o smtpd_discard_ehlo_keywords={self.DISCARDED}",
            "lenient": "-o smtpd_forbid_bare_newline=no -o smtpd_forbid_unauth_pipelining=no",
            "impatient": f"-o smtpd_timeout={self.services['impatient'].idle_seconds}s",
            "rationed": f"-o smtpd_client_message_rate_limit={self.services['rationed'].max_messages}"
            " -o smtpd_client_event_limit_exceptions=",
        }

    def _main_cf(self) -> str:
        return "".join(f"{name} = {value}\n" for name, value in self.settings().items())

    def _master_cf(self) -> str:
        # service, type, private, unprivileged, chroot, wake-up time, most processes, program
        rows = [
            *(
                (
                    f"{HOST}:{self.ports[service]}",
                    "inet",
                    "n",
                    "-",
                    "n",
                    "-",
                    str(self.processes.get(service, "-")),
                    f"smtpd {options}",
                )
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
            ("discard", "unix", "-", "-", "n", "-", "-", "discard"),
            ("retry", "unix", "-", "-", "n", "-", "-", "error"),
            ("tlsmgr", "unix", "-", "-", "n", "1000?", "1", "tlsmgr"),
            ("virtual", "unix", "-", "n", "n", "-", "-", "virtual"),
            ("anvil", "unix", "-", "-", "n", "-", "1", "anvil"),
        ]
        return "".join("  ".join(row) + "\n" for row in rows)


MEMORY = Path("/dev/shm")
MEMORY_BYTES = 2 << 30


@functools.cache
def scratch() -> Path:
    """Return where the folders of servers lie: in memory if there is enough, since a server syncs every message.

    Not TMPDIR: it may be closed to the users that a server drops to, and too long: the path of a Unix socket ends at
    107 octets, and those of a server lie deep in its folder.
    """
    with contextlib.suppress(OSError):
        found = os.statvfs(MEMORY)
        if found.f_bavail * found.f_frsize > MEMORY_BYTES and not found.f_flag & (os.ST_NOEXEC | os.ST_RDONLY):
            return MEMORY
    return Path("/tmp")


_PORTS = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Return loopback ports that are nobody else's for as long as this process lives, all different.

    Each is bound here, and not listened on: so nobody else finds it free, be it before its server has started or while
    it is down between `halt` and `resume`. The server itself may listen on it, since it says SO_REUSEADDR, as all do.
    They lie below those that the kernel chooses for the near end of a connection.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.choice(_PORTS)
        with socket.socket() as keeper, contextlib.suppress(OSError):
            keeper.bind((HOST, port))
            # Not before: to another one who does the same it would be free.
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keeper.detach()
            ports.append(port)
    return ports


_users_lock = threading.Lock()


def ensure_system_user(name: str) -> None:
    """Make a system user and group without home and log-in, if missing.

    They stay: the next run uses them again, and another one may be using them now.
    """
    with _users_lock:  # servers start in threads
        try:
            grp.getgrnam(name)
        except KeyError:
            subprocess.run(["groupadd", "--system", name], check=True)
        try:
            pwd.getpwnam(name)
        except KeyError:
            home_and_shell = ["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
            subprocess.run(
                ["useradd", "--system", "--gid", name, "--no-create-home", *home_and_shell, name], check=True
            )


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
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (program) state parent group ...: the program's name may hold blanks and parentheses
            state, _, its_group = file.read_text().rpartition(")")[2].split()[:3]
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


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in the folders below, whatever vanishes meanwhile."""
    for path, _, names in os.walk(folder):  # Path.rglob fails when a folder vanishes
        yield from (Path(path, name) for name in names)


def is_executable(path: Path) -> bool:
    """Tell whether a path leads to a regular file that its owner may execute."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:  # it moved on between the two looks
        return False
    return stat.S_ISREG(mode) and bool(mode & stat.S_IXUSR)


def with_last_line_ended(content: bytes) -> bytes:
    """Return what a server keeps that completes the last line, where a chunk (RFC 3030) may leave it open."""
    return content if content.endswith(b"\n") else content + b"\n"


def message_id_of(content: bytes) -> bytes | None:
    """Return the Message-ID of a message from its header section, line endings LF; None if it has none."""
    header, _, _ = content.partition(b"\n\n")
    found = re.search(rb"^Message-ID:\s*(<[^>]*>)", header, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else None


def queue_id_of(trace: bytes) -> str:
    """Return the identifier in the newest Received field, which names the transaction (RFC 5321 4.4)."""
    found = re.search(rb"^Received:(?:.*\n[ \t])*?.*?\bid ([\w-]+)", trace, re.MULTILINE)
    return found[1].decode() if found else ""


def tail(path: Path, lines: int = 40) -> str:
    """Return the last lines of a log, or nothing if there is none."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "".join(text.splitlines(keepends=True)[-lines:])


def ensure_available(server_class: type[Daemon]) -> None:
    """Skip the calling test, with the reason, when the server cannot run on this machine.

    With SMTPLITE_INTEROP=require, as in CI, that is a failure: there a skip would hide that nothing was tested. With
    SMTPLITE_INTEROP=skip none is started at all: CI has a step of its own for them.
    """
    ensure_nothing_is_missing(server_class.missing)


def ensure_nothing_is_missing(look: Callable[[], str | None]) -> None:
    """Do as `ensure_available` for what is no server: `look` says what this machine lacks."""
    if os.environ.get("SMTPLITE_INTEROP") == "skip":
        pytest.skip("SMTPLITE_INTEROP=skip")
    missing = look()
    if missing is None:
        return
    if os.environ.get("SMTPLITE_INTEROP") == "require":
        pytest.fail(f"SMTPLITE_INTEROP=require, but {missing}", pytrace=False)
    pytest.skip(missing)
