"""More mail servers: OpenSMTPD, Sendmail, aiosmtpd, and Dovecot's LMTP and submission."""

from __future__ import annotations

import contextlib
import imaplib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import attrs

from .launcher import (
    A_LABEL_DOMAIN,
    DOMAIN,
    HOST,
    IDN_DOMAIN,
    PASSWORD,
    REFUSALS,
    STORE_USER,
    USERNAME,
    Postfix,
    Server,
    Service,
    Stored,
    ensure_system_user,
    files_below,
    queue_id_of,
    split_trace,
)
from .secure import (
    FILES,
    INSTALL,
    SecureServer,
    TLSServer,
    dovecot_missing,
    dovecot_version,
    fill,
    lacks_library,
    needs_namespaces,
    needs_root,
    read_json,
    servers_folder,
    write_dovecot_config,
)

NAMESPACES = ("unshare", "--pid", "--fork", "--kill-child")
"""Runs a program so that all its processes end with it: these servers deliver in process groups of their own."""


class OpenSMTPD(TLSServer):
    """OpenSMTPD 6.8 of Debian, unpacked. It has no PIPELINING, and closes the connection of who pipelines.

    Its paths are compiled in: so it runs in a mount namespace, where its own folders lie over the machine's.

    Services:
        plain: without TLS. A connection may bring a hundred messages, which is the default.
        starttls, implicit: TLS is offered, and every handshake fails, as with every OpenSMTPD 6.8 on OpenSSL 3
            ("SSL routines::tlsv1 alert internal error").
    """

    name = "OpenSMTPD"
    services: ClassVar[Mapping[str, Service]] = {
        "plain": Service(),
        "starttls": Service(tls="starttls", works=False),
        "implicit": Service(tls="implicit", works=False),
    }
    max_recipients = 1000

    USERS = ("opensmtpd", "opensmtpq")
    TRACE_FIELDS = frozenset({b"return-path", b"delivered-to", b"received"})
    OVERLAID: ClassVar[dict[str, str]] = {"spool": "/var/spool", "lib": "/var/lib", "run": "/run"}

    @classmethod
    def missing(cls) -> str | None:
        if not cls._program().exists():
            return f"OpenSMTPD is not unpacked at {cls._program()}: {INSTALL}"
        return lacks_library(cls._program()) or needs_root(cls.name) or needs_namespaces(cls.name)

    @staticmethod
    def _root() -> Path:
        return servers_folder() / "opensmtpd"

    @classmethod
    def _program(cls) -> Path:
        return cls._root() / "usr" / "sbin" / "smtpd"

    def configure(self) -> list[str]:
        for user in (STORE_USER, *self.USERS):
            ensure_system_user(user)
        for name in (*self.OVERLAID, "mail"):
            (self.folder / name).mkdir()
        (self.folder / "lib" / "opensmtpd" / "empty").mkdir(parents=True)
        shutil.chown(self.folder / "mail", STORE_USER, STORE_USER)
        self.write_certificate()
        self.key.chmod(0o600)
        filters = {
            f"{kind}{code}": f'filter {kind}{code} phase {phase} match {subject} regex "^{kind}{code}"'
            f' reject "{code} {code // 100}.7.1 refused on purpose"\n'
            for code in REFUSALS
            for kind, phase, subject in (("reject", "rcpt-to", "rcpt-to"), ("end", "commit", "mail-from"))
        }
        config = self.folder / "smtpd.conf"
        config.write_text(
            fill(
                "opensmtpd.conf",
                folder=self.folder,
                certificate=self.certificate,
                key=self.key,
                user=STORE_USER,
                domains=f'"{DOMAIN}", "{A_LABEL_DOMAIN}"',
                filters="".join(filters.values()),
                filter_names=", ".join(filters),
                **self.ports,
            )
        )
        overlay = [f"mount --bind {self.folder / name} {path}" for name, path in self.OVERLAID.items()]
        overlay.append(f"mount --bind {self._root()}/usr/libexec /usr/libexec")
        script = " && ".join([*overlay, f"exec {self._program()} -d -f {config}"])
        return [*NAMESPACES, "--mount", "sh", "-c", script]

    def greets(self, service: str) -> bool:
        if self.services[service].works:
            return super().greets(service)
        try:
            self.connect(service).close()
        except OSError:
            return False
        return True

    def connect(self, service: str) -> socket.socket:
        return Server.connect(self, service)  # no handshake: none succeeds

    def is_settled(self) -> bool:
        return not any(files_below(self.folder / "spool" / "smtpd" / "queue"))

    def store_files(self) -> Iterable[Path]:
        return (self.folder / "mail" / "new").glob("*")

    def read(self, path: Path) -> Iterator[Stored]:
        trace, content = split_trace(path.read_bytes(), self.TRACE_FIELDS)
        found = re.search(rb"^Delivered-To: (.*)$", trace, re.MULTILINE)
        yield Stored(found[1].decode() if found else "", trace, content, queue_id_of(trace))

    def version(self) -> str:
        done = subprocess.run([self._program(), "-h"], capture_output=True, text=True, check=False)
        found = re.search(r"OpenSMTPD (\S+)", done.stdout + done.stderr)
        return found[1] if found else ""


class Sendmail(TLSServer):
    """Sendmail 8 of Debian, unpacked, with a configuration of a page, which rewrites nothing.

    It says 421 to `disc421`, and does not close the connection. It runs in a namespace where the host has a name with
    a dot: elsewhere it waits for one for a minute.

    Services:
        plain: without TLS.
        starttls: with STARTTLS.
    """

    name = "Sendmail"
    services: ClassVar[Mapping[str, Service]] = {"plain": Service(), "starttls": Service(tls="starttls")}

    TRACE_FIELDS = frozenset({b"x-recipient", b"return-path", b"received"})

    @classmethod
    def missing(cls) -> str | None:
        if not cls._program().exists():
            return f"Sendmail is not unpacked at {cls._program()}: {INSTALL}"
        return lacks_library(cls._program()) or needs_root(cls.name) or needs_namespaces(cls.name)

    @staticmethod
    def _program() -> Path:
        return servers_folder() / "sendmail" / "usr" / "libexec" / "sendmail" / "sendmail"

    def configure(self) -> list[str]:
        ensure_system_user(STORE_USER)
        (self.folder / "queue").mkdir(mode=0o700)
        for name in ("part", "mail"):
            (self.folder / name).mkdir()
            shutil.chown(self.folder / name, STORE_USER, STORE_USER)
        self.write_certificate()
        self.key.chmod(0o600)
        (self.folder / "hosts").write_text(f"{HOST} sendmail.test\n")
        (self.folder / "switch").write_text("hosts files\naliases files\n")
        # Its arguments are the name of the transaction and recipients. $$ makes the name of the file its own.
        (self.folder / "store").write_text(
            f"cd {self.folder} || exit\n"
            "file=$1.$$\n"
            "shift\n"
            '{ printf "X-Recipient: %s\\n" "$@"; cat; } >"part/$file" && mv "part/$file" "mail/$file"\n'
        )
        refusal = '$* < $* >\t$# error $@ {0}.7.1 $: "{1} refused on purpose"'
        config = self.folder / "sendmail.cf"
        config.write_text(
            fill(
                "sendmail.cf",
                folder=self.folder,
                certificate=self.certificate,
                key=self.key,
                user=STORE_USER,
                domains=f"{DOMAIN} {A_LABEL_DOMAIN}",
                recipients="\n".join(f"Rreject{code}{refusal.format(code // 100, code)}" for code in REFUSALS),
                senders="\n".join(f"Rend{code}{refusal.format(code // 100, code)}" for code in REFUSALS),
                **self.ports,
            )
        )
        return self._command_line("-bD")

    def _command_line(self, *arguments: str) -> list[str]:
        program = [os.fspath(self._program()), "-C", os.fspath(self.folder / "sendmail.cf"), *arguments]
        return [*NAMESPACES, "--uts", "sh", "-c", 'hostname sendmail.test && exec "$@"', "sh", *program]

    def resume(self) -> None:
        super().resume()
        # The daemon itself does not look for what was left in the queue. Verbose, it does not go into the background.
        self._run(*self._command_line("-q", "-v"))

    def is_settled(self) -> bool:
        return not any((self.folder / "queue").glob("qf*"))  # the file that makes a message complete

    def store_files(self) -> Iterable[Path]:
        return (self.folder / "mail").iterdir()

    def read(self, path: Path) -> Iterator[Stored]:
        trace, content = split_trace(path.read_bytes(), self.TRACE_FIELDS)
        for recipient in re.findall(rb"^X-Recipient: (.*)$", trace, re.MULTILINE):
            if not recipient.startswith(b"discard"):
                yield Stored(recipient.decode(), trace, content, queue_id_of(trace))

    def version(self) -> str:
        with contextlib.closing(self.connect("plain")) as connection:
            return connection.recv(512).decode().split("Sendmail ")[1].partition("/")[0]


class Aiosmtpd(SecureServer):
    """aiosmtpd of PyPI, run by `files/aiosmtpd_server.py` with the Python that runs the tests.

    Services:
        plain, starttls, implicit: as every `SecureServer`.
        impatient: as plain, and an idle connection is closed after three seconds.
        limited: as plain, and a connection may bring a few messages, then MAIL is answered 421.
    """

    name = "aiosmtpd"
    services: ClassVar[Mapping[str, Service]] = {
        "plain": Service(),
        **SecureServer.services,
        "impatient": Service(idle_seconds=3),
        "limited": Service(max_messages=5),
    }
    mechanisms = ("PLAIN", "LOGIN")

    @classmethod
    def missing(cls) -> str | None:
        if importlib.util.find_spec("aiosmtpd") is None:
            return "aiosmtpd is not installed: pip install aiosmtpd"
        return None

    def configure(self) -> list[str]:
        self.write_certificate()
        (self.folder / "mail").mkdir()
        settings = self.folder / "settings.json"
        settings.write_text(
            json.dumps(
                {
                    "services": {
                        name: {"port": self.ports[name], **attrs.asdict(service)}
                        for name, service in self.services.items()
                    },
                    "domains": [DOMAIN, A_LABEL_DOMAIN, IDN_DOMAIN],
                    "store": os.fspath(self.folder / "mail"),
                    "key": os.fspath(self.key),
                    "certificate": os.fspath(self.certificate),
                    "username": USERNAME,
                    "password": PASSWORD,
                }
            )
        )
        return [sys.executable, "-W", "ignore", os.fspath(FILES / "aiosmtpd_server.py"), os.fspath(settings)]

    def store_files(self) -> Iterable[Path]:
        return (self.folder / "mail").glob("*.json")

    def read(self, path: Path) -> Iterator[Stored]:
        yield from read_json(path)

    def version(self) -> str:
        return importlib.metadata.version("aiosmtpd")


class DovecotLMTP(TLSServer):
    """Dovecot 2.3's LMTP server, which stores in one Maildir for each recipient.

    It refuses with 451 4.3.0 or with 550 5.1.1 alone, and closes no connection. `full` is refused after the content:
    552 5.2.2, over quota.

    Services:
        lmtp: without TLS.
        starttls: with STARTTLS.
        unix: on a Unix socket.
    """

    name = "Dovecot LMTP"
    services: ClassVar[Mapping[str, Service]] = {
        "lmtp": Service(lmtp=True),
        "starttls": Service(tls="starttls", lmtp=True),
        "unix": Service(lmtp=True, unix=True),
    }
    refusals = (451, 550)
    offers_chunking = True
    disc421_code = None
    knows_discard = False
    knows_end = False

    TRACE_FIELDS = frozenset({b"return-path", b"delivered-to", b"received"})

    @classmethod
    def missing(cls) -> str | None:
        return dovecot_missing("lmtp") or needs_root(cls.name)

    def configure(self) -> list[str]:
        ensure_system_user(STORE_USER)
        for name in ("run", "state", "mail"):
            (self.folder / name).mkdir()
        shutil.chown(self.folder / "mail", STORE_USER, STORE_USER)
        self.write_certificate()
        quota = "userdb_quota_rule=*:bytes=1"
        home = self.folder / "mail" / "full"
        (self.folder / "full").write_text(f"full@{DOMAIN}::{STORE_USER}:{STORE_USER}::{home}::{quota}\n")
        config = self.folder / "dovecot.conf"
        config.write_text(
            fill(
                "dovecot_lmtp.conf",
                folder=self.folder,
                instance=self.folder.name,
                certificate=self.certificate,
                key=self.key,
                domain=DOMAIN,
                store_user=STORE_USER,
                **self.ports,
            )
        )
        return ["dovecot", "-F", "-c", os.fspath(config)]

    @staticmethod
    def imap_missing() -> str | None:
        """Say what this machine lacks for `imap`."""
        return dovecot_missing("imap")

    @contextlib.contextmanager
    def imap(self, recipient: str) -> Iterator[imaplib.IMAP4]:
        """Open the INBOX of a recipient by IMAP, logged in, to read it only."""
        config = self.folder / "dovecot.conf"
        with imaplib.IMAP4_stream(f"doveadm -c {config} exec imap -u {recipient}") as client:
            client.select(readonly=True)
            yield client

    def store_files(self) -> Iterable[Path]:
        return (self.folder / "mail").glob("*/new/*")

    def read(self, path: Path) -> Iterator[Stored]:
        trace, content = split_trace(path.read_bytes(), self.TRACE_FIELDS)
        yield Stored(path.parts[-3], trace, content, queue_id_of(trace))

    def version(self) -> str:
        return dovecot_version()


class DovecotSubmission(SecureServer):
    """Dovecot 2.3's submission server, which hands on to a Postfix of its own while the client waits for the reply.

    A 571 from that Postfix it takes for no reply at all, and closes both connections: "421 4.4.0 dovecot.test Lost
    connection to relay server (bad reply)".
    """

    name = "Dovecot submission"
    mechanisms = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2")
    refusals = tuple(code for code in REFUSALS if code != 571)
    offers_chunking = True
    max_recipients = Postfix.max_recipients

    def __init__(self) -> None:
        super().__init__()
        self.relay = Postfix()

    @classmethod
    def missing(cls) -> str | None:
        return dovecot_missing("submission") or Postfix.missing()

    def start(self) -> None:
        self.relay.start()
        super().start()

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self.relay.stop()

    def log(self) -> str:
        return super().log() + self.relay.log()

    def configure(self) -> list[str]:
        self.write_certificate()
        config = write_dovecot_config(
            "dovecot_submission.conf",
            self.folder,
            certificate=self.certificate,
            key=self.key,
            relay=self.relay.ports["smtp"],
            **self.ports,
        )
        return ["dovecot", "-F", "-c", os.fspath(config)]

    def as_kept(self, content: bytes) -> bytes:
        return self.relay.as_kept(content)

    def is_settled(self) -> bool:
        return self.relay.is_settled()

    def store_files(self) -> Iterable[Path]:
        return self.relay.store_files()

    def read(self, path: Path) -> Iterator[Stored]:
        return self.relay.read(path)

    def version(self) -> str:
        return dovecot_version()
