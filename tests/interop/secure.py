"""Mail servers with TLS and authentication: Postfix with Dovecot's SASL, Exim, Haraka, nodemailer's smtp-server.

Debian's packages of Exim and Postfix exclude each other, and the other two are packages of npm: `bash .ci/run servers`
puts Exim, unpacked, and these below `servers_folder`, where they are looked for.
"""

from __future__ import annotations

import abc
import base64
import hmac
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import trustme

from smtplite import sasl

from .launcher import (
    A_LABEL_DOMAIN,
    DOMAIN,
    HOST,
    IDN_DOMAIN,
    PASSWORD,
    START_SECONDS,
    STORE_USER,
    USERNAME,
    Daemon,
    Postfix,
    Server,
    Service,
    Stored,
    ensure_system_user,
    files_below,
    queue_id_of,
    split_trace,
    tail,
    with_last_line_ended,
)

FILES = Path(__file__).parent / "files"
INSTALL = "bash .ci/run servers"

TOKEN_KEY = b"the key that signs the access tokens of the interop tests"
TOKEN_SECONDS = 3600


WITH_PASSWORD: dict[str, type[sasl.Plain | sasl.Login | sasl.CramMd5 | sasl.ScramSha1 | sasl.ScramSha256]] = {
    mechanism.name: mechanism for mechanism in (sasl.Plain, sasl.Login, sasl.CramMd5, sasl.ScramSha1, sasl.ScramSha256)
}
WITH_TOKEN: dict[str, type[sasl.TokenMechanism]] = {
    mechanism.name: mechanism for mechanism in (sasl.XOAuth2, sasl.OAuthBearer)
}


class TLSServer(Server):
    """A server with a certificate for "localhost" and 127.0.0.1, from a CA of its own: `client_context` trusts it."""

    def __init__(self) -> None:
        super().__init__()
        self._authority = trustme.CA()
        self.key = self.folder / "key.pem"
        self.certificate = self.folder / "certificate.pem"

    def client_context(self) -> ssl.SSLContext:
        """Return a context for clients that trust this server, and nobody else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context

    def client_options(self, service: str) -> dict[str, Any]:
        options = super().client_options(service)
        if options["tls"] != "none":
            options["tls_context"] = self.client_context()
        return options

    def connect(self, service: str) -> socket.socket:
        connection = super().connect(service)
        if self.services[service].tls != "implicit":
            return connection
        with connection:  # wrap_socket takes it over, or leaves it open if it fails
            return self.client_context().wrap_socket(connection, server_hostname=HOST)

    def write_certificate(self) -> None:
        """Write the server's key and certificate, readable for whichever user the server becomes."""
        issued = self._authority.issue_cert("localhost", HOST)
        issued.private_key_pem.write_to_path(self.key)
        issued.cert_chain_pems[0].write_to_path(self.certificate)


class SecureServer(TLSServer):
    """A server that takes mail from `USERNAME` alone, under TLS.

    Services:
        starttls: with STARTTLS.
        implicit: with TLS from the first octet.
        plain: if there is one: no TLS, and anybody may send.

    Attributes:
        mechanisms: what it offers under TLS.
    """

    services: ClassVar[Mapping[str, Service]] = {
        "starttls": Service(tls="starttls", authenticates=True),
        "implicit": Service(tls="implicit", authenticates=True),
    }
    mechanisms: ClassVar[tuple[str, ...]]

    def client_options(self, service: str) -> dict[str, Any]:
        options = super().client_options(service)
        if self.services[service].authenticates:
            options["auth"] = self.mechanism("PLAIN")
        return options

    @staticmethod
    def mechanism(name: str) -> sasl.Mechanism:
        """Return a mechanism with which the server lets us in."""
        if name in WITH_PASSWORD:
            return WITH_PASSWORD[name](USERNAME, PASSWORD)
        return WITH_TOKEN[name](USERNAME, access_token())


class Dovecot(Daemon):
    """Dovecot 2.3, as the SASL of another server: it listens on a Unix socket for that server's user alone.

    Attributes:
        sasl_path: where it listens.
    """

    name = "Dovecot"
    services: ClassVar[Mapping[str, Service]] = {}
    CLIENT_USER = "postfix"

    def __init__(self) -> None:
        super().__init__()
        self.sasl_path = self.folder / "run" / "sasl"

    @classmethod
    def missing(cls) -> str | None:
        return dovecot_missing("auth") or needs_root(cls.name)

    def configure(self) -> list[str]:
        config = write_dovecot_config(
            "dovecot.conf", self.folder, socket=self.sasl_path.name, client_user=self.CLIENT_USER
        )
        return ["dovecot", "-F", "-c", os.fspath(config)]

    def start(self) -> None:
        super().start()
        self._wait(self._listens, START_SECONDS, "its socket took no connection")

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(os.fspath(self.sasl_path)) == 0


class SecurePostfix(SecureServer, Postfix):
    """Postfix, as `Postfix`, with TLS, and with a `Dovecot` of its own that authenticates.

    Services:
        starttls, implicit: as every `SecureServer`.
        submission: with STARTTLS, and in clear nothing else: 530.
        clear: AUTH without any TLS.
        impatient: as implicit, and an idle connection is closed after three seconds.
    """

    name = "Postfix with Dovecot"
    services: ClassVar[Mapping[str, Service]] = {
        **SecureServer.services,
        "submission": Service(tls="starttls", authenticates=True),
        "clear": Service(authenticates=True),
        "impatient": Service(tls="implicit", authenticates=True, idle_seconds=3),
    }
    mechanisms: ClassVar[tuple[str, ...]] = (
        "PLAIN",
        "LOGIN",
        "CRAM-MD5",
        "SCRAM-SHA-1",
        "SCRAM-SHA-256",
        "OAUTHBEARER",
        "XOAUTH2",
    )
    DOVECOT: ClassVar[type[Dovecot]] = Dovecot

    def __init__(self) -> None:
        super().__init__()
        self.dovecot = self.DOVECOT()

    @classmethod
    def missing(cls) -> str | None:
        return Postfix.missing() or Dovecot.missing()

    def start(self) -> None:
        self.dovecot.start()
        super().start()

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self.dovecot.stop()

    def log(self) -> str:
        return super().log() + self.dovecot.log()

    def configure(self) -> list[str]:
        self.write_certificate()
        return super().configure()

    def settings(self) -> dict[str, object]:
        return {
            **super().settings(),
            "smtpd_recipient_restrictions": f"check_recipient_access regexp:{self.config}/recipient_access, "
            "reject_unauth_destination, permit_sasl_authenticated, reject",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_auth_only": "yes",
            "smtpd_tls_chain_files": f"{self.key}, {self.certificate}",
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": self.dovecot.sasl_path,
            "smtpd_sasl_security_options": "noanonymous",
        }

    def client_options(self, service: str) -> dict[str, Any]:
        options = super().client_options(service)
        return {**options, "allow_insecure_auth": True} if service == "clear" else options

    def options(self) -> dict[str, str]:
        return {
            "starttls": "",
            "implicit": "-o smtpd_tls_wrappermode=yes",
            "submission": "-o smtpd_tls_security_level=encrypt",
            "clear": "-o smtpd_tls_security_level=none -o smtpd_tls_auth_only=no",
            "impatient": f"-o smtpd_tls_wrappermode=yes -o smtpd_timeout={self.services['impatient'].idle_seconds}s",
        }


class Exim(SecureServer):
    """Exim 4 of Debian, unpacked; PLAIN and LOGIN are offered under TLS alone.

    It refuses `disc421...` with 550: a 4yz with which it closes the connection cannot be configured.

    Services:
        plain, starttls, implicit: as every `SecureServer`.
        impatient: as plain, and an idle connection is closed after three seconds.
    """

    name = "Exim"
    services: ClassVar[Mapping[str, Service]] = {
        "plain": Service(),
        **SecureServer.services,
        "impatient": Service(idle_seconds=3),
    }
    disc421_code = 550
    offers_chunking = True
    # How many messages one connection may bring; 0: any number.
    max_messages = 0
    mechanisms = ("PLAIN", "LOGIN", "CRAM-MD5")

    # The name is compiled in: Debian's Exim does not start where nobody is called so.
    USER = "Debian-exim"
    TRACE_FIELDS = frozenset({b"return-path", b"envelope-to", b"received"})

    @classmethod
    def missing(cls) -> str | None:
        if not cls._program().exists():
            return f"Exim is not unpacked at {cls._program()}: {INSTALL}"
        return lacks_library(cls._program()) or needs_root(cls.name)

    @staticmethod
    def _program() -> Path:
        return servers_folder() / "exim" / "usr" / "sbin" / "exim4"

    def configure(self) -> list[str]:
        ensure_system_user(self.USER)
        # Exim runs itself again as its own user, who may not be let into the folder that it was unpacked to.
        program = self.folder / "exim"
        shutil.copyfile(self._program(), program)
        program.chmod(0o755)
        for name in ("spool", "mail", "logs"):
            (self.folder / name).mkdir()
            shutil.chown(self.folder / name, self.USER, self.USER)
        self.write_certificate()
        config = self.folder / "exim.conf"
        config.write_text(
            fill(
                "exim.conf",
                folder=self.folder,
                user=self.USER,
                domains=f"{DOMAIN} : {A_LABEL_DOMAIN}",
                username=USERNAME,
                password=PASSWORD,
                certificate=self.certificate,
                key=self.key,
                ports=" : ".join(map(str, self.ports.values())),
                implicit=self.ports["implicit"],
                plain=self.ports["plain"],
                impatient=self.ports["impatient"],
                idle_seconds=self.services["impatient"].idle_seconds,
                max_messages=self.max_messages,
            )
        )
        return [os.fspath(program), "-C", os.fspath(config), "-bdf"]

    def resume(self) -> None:
        super().resume()
        # The daemon itself does not look for what was left in the queue.
        self._run(os.fspath(self.folder / "exim"), "-C", os.fspath(self.folder / "exim.conf"), "-qff")

    def log(self) -> str:
        return super().log() + "".join(tail(path) for path in sorted((self.folder / "logs").glob("*")))

    def is_settled(self) -> bool:
        # A message is two files. The header comes last and goes last.
        names = {path.name for path in files_below(self.folder / "spool" / "input")}
        return not any(name.endswith("-D") and f"{name.removesuffix('-D')}-H" in names for name in names)

    def store_files(self) -> Iterable[Path]:
        return (self.folder / "mail" / "new").glob("*")

    def read(self, path: Path) -> Iterator[Stored]:
        trace, content = split_trace(path.read_bytes(), self.TRACE_FIELDS)
        found = re.search(rb"^Envelope-to: ((?:.*\n[ \t])*.*)$", trace, re.MULTILINE)
        for recipient in re.split(r",\s+", found[1].decode()) if found else ():
            yield Stored(recipient, trace, content, queue_id_of(trace))

    def as_kept(self, content: bytes) -> bytes:
        return with_last_line_ended(content)

    def version(self) -> str:
        return self._run(os.fspath(self.folder / "exim"), "-C", os.fspath(self.folder / "exim.conf"), "-bV").split()[2]


class LimitedExim(Exim):
    """Exim, as `Exim`, whose connections bring no more than a few messages: then MAIL is answered 421."""

    max_messages = 5


class NodeServer(SecureServer):
    """A server that Node.js runs, which stores a message as one file of JSON before it answers the end of data."""

    package: ClassVar[str]
    OLDEST_NODE = 20
    TRACE_FIELDS: ClassVar[frozenset[bytes]] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.store = self.folder / "mail"

    @classmethod
    def missing(cls) -> str | None:
        node = node_program()
        if node is None:
            return f"Node.js is not installed: {INSTALL}"
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
        if int(version.removeprefix("v").partition(".")[0] or 0) < cls.OLDEST_NODE:
            return f"{cls.name} needs Node.js {cls.OLDEST_NODE}, here is {version}: {INSTALL}"
        if not (cls.module() / "package.json").exists():
            return f"{cls.name} is not installed at {cls.module()}: {INSTALL}"
        return None

    @classmethod
    def module(cls) -> Path:
        """Return where npm has put it."""
        return servers_folder() / "npm" / "node_modules" / cls.package

    def configure(self) -> list[str]:
        self.store.mkdir()
        self.write_certificate()
        node = node_program()
        assert node is not None
        return [node, *self.arguments()]

    @abc.abstractmethod
    def arguments(self) -> list[str]:
        """Write the configuration; return the arguments of `node`."""

    def store_files(self) -> Iterable[Path]:
        return self.store.glob("*.json")

    def read(self, path: Path) -> Iterator[Stored]:
        return read_json(path, self.TRACE_FIELDS)

    def version(self) -> str:
        package = json.loads((self.module() / "package.json").read_bytes())
        version: str = package["version"]
        return version


class Haraka(NodeServer):
    """Haraka 3, with `files/haraka_store.js` as the plugin that takes the mail.

    Services:
        plain, starttls, implicit: as every `SecureServer`.
        impatient: as plain, and an idle connection is closed after three seconds.
    """

    name = "Haraka"
    package = "haraka"
    services: ClassVar[Mapping[str, Service]] = {
        "plain": Service(),
        **SecureServer.services,
        "impatient": Service(idle_seconds=3),
    }
    mechanisms = ("PLAIN", "LOGIN", "CRAM-MD5")
    TRACE_FIELDS = frozenset({b"authentication-results"})

    def arguments(self) -> list[str]:
        for name in ("config", "plugins"):
            (self.folder / name).mkdir()
        shutil.copy(FILES / "haraka_store.js", self.folder / "plugins")
        (self.folder / "store.json").write_text(
            json.dumps(
                {
                    "domains": [DOMAIN, A_LABEL_DOMAIN],
                    "plain": [self.ports[name] for name, service in self.services.items() if service.tls == "none"],
                    "idle_seconds": {self.ports[name]: each.idle_seconds for name, each in self.services.items()},
                }
            )
        )
        listeners = ",".join(f"{HOST}:{port}" for port in self.ports.values())
        files = {
            "me": "haraka.test\n",
            "plugins": "tls\nauth/flat_file\nharaka_store\n",
            "smtp.ini": f"listen={listeners}\nsmtps_port={self.ports['implicit']}\nnodes=0\nforce_shutdown_timeout=1\n",
            "tls.ini": f"key={self.key}\ncert={self.certificate}\n",
            "auth_flat_file.ini": f"[core]\nmethods={','.join(self.mechanisms)}\n[users]\n{USERNAME}={PASSWORD}\n",
            # Lines of 998 octets are left whole, their CRLF and a dot of transparency counted. What is not said here
            # has no default in Haraka.
            "connection.ini": "[main]\nsmtputf8=true\n[headers]\nadd_received=false\nmax_lines=1000\nmax_received=100\n"
            "[max]\nbytes=41943040\nmime_parts=1000\nline_length=512\ndata_line_length=1001\n"
            "[message]\nhelo=hello\nclose=bye\n[uuid]\nbanner_chars=6\ndeny_chars=0\n",
        }
        for name, text in files.items():
            (self.folder / "config" / name).write_text(text)
        return [os.fspath(self.module() / "bin" / "haraka"), "-c", os.fspath(self.folder)]


class SmtpServer(NodeServer):
    """smtp-server 3 of nodemailer, run by `files/smtp_server.js`.

    Services:
        plain, starttls, implicit: as every `SecureServer`.
        impatient: as plain, and an idle connection is closed after three seconds.
        lmtp: recipients whose local part begins with `late4xx` or `late5xx` are refused after the content.
    """

    name = "smtp-server"
    package = "smtp-server"
    services: ClassVar[Mapping[str, Service]] = {
        "plain": Service(),
        **SecureServer.services,
        "impatient": Service(idle_seconds=3),
        "lmtp": Service(lmtp=True),
    }
    mechanisms = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2")

    def arguments(self) -> list[str]:
        settings = self.folder / "settings.json"
        settings.write_text(
            json.dumps(
                {
                    "module": os.fspath(self.module()),
                    "services": {
                        name: {"port": self.ports[name], **attrs.asdict(service)}
                        for name, service in self.services.items()
                    },
                    "domains": [DOMAIN, A_LABEL_DOMAIN, IDN_DOMAIN],
                    "store": os.fspath(self.store),
                    "key": os.fspath(self.key),
                    "certificate": os.fspath(self.certificate),
                    "mechanisms": self.mechanisms,
                    "username": USERNAME,
                    "password": PASSWORD,
                    "token": access_token(),
                }
            )
        )
        return [os.fspath(FILES / "smtp_server.js"), os.fspath(settings)]


def servers_folder() -> Path:
    """Return where `.ci/run servers` puts what is not installed into the system: SMTPLITE_SERVERS, or in the cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("SMTPLITE_SERVERS") or f"{cache}/smtplite-servers").expanduser()


def node_program() -> str | None:
    """Return the path of `node`: what `.ci/run servers` installed where the system has none, or too old a one."""
    return shutil.which("node", path=servers_folder() / "node" / "bin") or shutil.which("node")


def needs_root(name: str) -> str | None:
    """Say what keeps a server from changing to the users that it runs as; None: nothing."""
    if sys.platform != "linux":
        return "the launcher knows Linux alone: run the tests in a container"
    if os.geteuid() != 0:
        return f"{name} starts only as root: run the tests with sudo"
    return None


def needs_namespaces(name: str) -> str | None:
    """Say what keeps a server from a namespace of its own; None: nothing."""
    done = subprocess.run(
        ["unshare", "--mount", "--uts", "--pid", "--fork", "true"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return f"{name} needs namespaces of its own: {done.stderr.strip()}: let root do that"
    return None


def lacks_library(program: Path) -> str | None:
    """Say which library an unpacked program lacks; None: none."""
    # By its path: Debian has it always, and a PATH may lead elsewhere.
    done = subprocess.run(["/usr/bin/ldd", program], capture_output=True, text=True, check=False)
    lacking = re.findall(r"(\S+) => not found", done.stdout)
    return f"{program.name} lacks {', '.join(lacking)}: {INSTALL}" if lacking else None


DOVECOT_PROGRAMS = Path("/usr/lib/dovecot")


def dovecot_missing(part: str) -> str | None:
    """Say what this machine lacks to run a part of Dovecot 2.3, such as "lmtp"; None: nothing."""
    if shutil.which("dovecot") is None:
        return f"Dovecot is not installed: {INSTALL}"
    if not (DOVECOT_PROGRAMS / part).exists():
        return f"Dovecot is installed without its {part}: {INSTALL}"
    version = dovecot_version()
    if not version.startswith("2.3."):
        return f"Dovecot {version} is configured in another way than 2.3, which the launcher knows: use Debian 12"
    return None


def dovecot_version() -> str:
    """Return the version of the Dovecot that is installed."""
    done = subprocess.run(["dovecot", "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition(" ")[0].strip()


def write_dovecot_config(file: str, folder: Path, **values: object) -> Path:
    """Write a configuration for a Dovecot that knows `USERNAME`, by password and by token; return its path.

    Args:
        file: of `FILES`.
        folder: the instance's.
        values: for the names in the file, beside `folder`, `instance` and `store_user`.
    """
    ensure_system_user(STORE_USER)
    keys = folder / "keys" / "default" / "HS256"
    for each in (folder / "run", folder / "state", keys):
        each.mkdir(parents=True)
    (keys / "default").write_bytes(base64.b64encode(TOKEN_KEY))
    (folder / "oauth2.conf").write_text(
        "introspection_mode = local\n"
        f"local_validation_key_dict = fs:posix:prefix={folder}/keys/\n"
        "username_attribute = sub\n"
    )
    (folder / "passwd").write_text(f"{USERNAME}:{{PLAIN}}{PASSWORD}::::::\n")
    config = folder / "dovecot.conf"
    config.write_text(fill(file, folder=folder, instance=folder.name, store_user=STORE_USER, **values))
    return config


def read_json(path: Path, trace_fields: frozenset[bytes] = frozenset()) -> Iterator[Stored]:
    """Yield each copy of the message in a file that one of the stores in `FILES` wrote."""
    stored = json.loads(path.read_bytes())
    raw = base64.b64decode(stored["content"]).replace(b"\r\n", b"\n")
    trace, content = split_trace(raw, trace_fields)
    for recipient in stored["recipients"]:
        yield Stored(recipient, trace, content, path.stem)


def fill(file: str, **values: object) -> str:
    """Return a file of `FILES` with a value for each name that stands between two @."""
    return re.sub(r"@(\w+)@", lambda match: str(values[match[1]]), (FILES / file).read_text())


_STARTED = int(time.time())


def access_token(*, expired: bool = False) -> str:
    """Return the access token of `USERNAME`, the same for the whole run: a JSON web token (RFC 7519, HS256).

    Args:
        expired: return one that is too old, and that every server rejects.
    """
    expires = _STARTED + (-TOKEN_SECONDS if expired else TOKEN_SECONDS)
    claims = {"sub": USERNAME, "iat": _STARTED - 2 * TOKEN_SECONDS, "exp": expires}
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signed = ".".join(map(_base64url, parts))
    return f"{signed}.{_base64url(hmac.digest(TOKEN_KEY, signed.encode(), 'sha256'))}"


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
