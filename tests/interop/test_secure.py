"""The servers with TLS and AUTH by themselves, with smtplib as the client: what fails here is not smtplite's doing."""

from __future__ import annotations

import contextlib
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Launch
from .launcher import HOST, PASSWORD, USERNAME, Daemon, Server, ensure_available, running
from .matrix import SECURE_SERVERS, SERVERS, first_service
from .messages import SENDER, as_stored, nasty_message, new_message_id
from .others import DovecotLMTP, DovecotSubmission, OpenSMTPD, Sendmail
from .secure import (
    Dovecot,
    Exim,
    Haraka,
    NodeServer,
    SecurePostfix,
    SecureServer,
    SmtpServer,
    access_token,
)

pytestmark = pytest.mark.interop

each_server = pytest.mark.parametrize("server", SECURE_SERVERS, indirect=True)
each_service = pytest.mark.parametrize("service", SecureServer.services)


@contextlib.contextmanager
def connected(server: SecureServer, service: str) -> Iterator[smtplib.SMTP]:
    """Return a client under TLS that said EHLO."""
    context = server.client_context()
    port = server.ports[service]
    with smtplib.SMTP_SSL(HOST, port, context=context) if service == "implicit" else smtplib.SMTP(HOST, port) as client:
        if service == "starttls":
            client.starttls(context=context)
        client.ehlo()
        yield client


def commands_that_run() -> str:
    """Return the command lines of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended between the two looks
            lines.append(path.read_text(errors="replace"))
    return "\n".join(lines)


@each_server
@each_service
def test_every_mechanism_is_offered_under_tls(server: SecureServer, service: str) -> None:
    with connected(server, service) as client:
        assert sorted(client.esmtp_features["auth"].split()) == sorted(server.mechanisms)


@pytest.mark.parametrize("server", [SecurePostfix], indirect=True)
def test_the_clear_port_of_postfix_offers_every_mechanism_without_tls(server: SecureServer) -> None:
    with connected(server, "clear") as client:
        assert sorted(client.esmtp_features["auth"].split()) == sorted(server.mechanisms)
        assert "starttls" not in client.esmtp_features


@each_server
@each_service
def test_nobody_sends_without_authentication(server: SecureServer, service: str) -> None:
    with connected(server, service) as client:
        client.mail(SENDER)
        assert client.rcpt("anyone@example.test")[0] in (530, 550, 554)


@each_server
@each_service
def test_a_message_is_stored_octet_for_octet_once_for_each_recipient(server: SecureServer, service: str) -> None:
    message_id = new_message_id()
    message = nasty_message(message_id)
    with connected(server, service) as client:
        client.login(USERNAME, PASSWORD)
        client.sendmail(SENDER, ["b@example.test", "a@example.test"], message, mail_options=["BODY=8BITMIME"])
    stored = server.stored(message_id)
    assert [copy.recipient for copy in stored] == ["a@example.test", "b@example.test"]
    assert {copy.content for copy in stored} == {as_stored(message)}


@each_server
def test_recipients_are_refused_with_the_code_in_their_names(server: SecureServer) -> None:
    with connected(server, "starttls") as client:
        client.login(USERNAME, PASSWORD)
        client.mail(SENDER)
        for code in server.refusals:
            assert client.rcpt(f"reject{code}@example.test")[0] == code
        assert client.rcpt("defer@example.test")[0] == 451


@each_server
def test_a_disc421_recipient_ends_the_connection(server: SecureServer) -> None:
    with connected(server, "starttls") as client:
        client.login(USERNAME, PASSWORD)
        client.mail(SENDER)
        assert client.rcpt("disc421@example.test")[0] == (550 if isinstance(server, Exim) else 421)
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.noop()


@each_server
def test_a_recipient_elsewhere_is_refused(server: SecureServer) -> None:
    with connected(server, "starttls") as client:
        client.login(USERNAME, PASSWORD)
        client.mail(SENDER)
        assert client.rcpt("anyone@elsewhere.test")[0] in (550, 554)


@each_server
def test_a_message_that_was_not_sent_is_not_found(server: SecureServer) -> None:
    assert server.stored(new_message_id()) == []


@pytest.mark.parametrize("server_class", SERVERS)
def test_a_failure_inside_the_block_leaves_no_process_and_no_file(server_class: type[Server]) -> None:
    ensure_available(server_class)
    with pytest.raises(ZeroDivisionError), running(server_class) as server:
        raise ZeroDivisionError
    parts = [server, *(part for part in vars(server).values() if isinstance(part, Daemon))]
    for part in parts:
        assert not part.alive()
        assert not part.folder.exists()
        assert str(part.folder) not in commands_that_run()
    for service in server.services:
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            server.connect(service)


@pytest.mark.parametrize("server", SERVERS, indirect=True)
def test_chunking_is_offered_where_the_matrix_says_so(server: Server) -> None:
    if not server.services[first_service(type(server))].lmtp:
        port = server.ports[first_service(type(server))]
        with smtplib.SMTP(HOST, port) as client:
            client.ehlo()
            offered = client.has_extn("chunking")
    else:
        with smtplib.LMTP(HOST, server.ports["lmtp"]) as lmtp:
            lmtp.ehlo()
            offered = lmtp.has_extn("chunking")
    assert offered == server.offers_chunking


def test_a_server_that_cannot_be_started_is_tried_once(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(SmtpServer):
        starts = 0

        def arguments(self) -> list[str]:
            Broken.starts += 1
            return ["-e", "process.exit(1)"]

    ensure_available(SmtpServer)
    for _ in range(2):
        with pytest.raises(Exception, match="smtp-server ended"):
            launch(Broken)
    assert Broken.starts == 1


@pytest.mark.parametrize(
    "server_class", [Dovecot, DovecotLMTP, DovecotSubmission, Exim, Haraka, OpenSMTPD, Sendmail, SmtpServer]
)
def test_a_missing_server_is_named_with_the_command_that_installs_it(
    server_class: type[Daemon], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SMTPLITE_SERVERS", str(tmp_path))
    missing = server_class.missing()
    assert missing is not None
    assert ("Node.js" if issubclass(server_class, NodeServer) else server_class.name.partition(" ")[0]) in missing
    assert missing.endswith("bash .ci/run servers")


@pytest.mark.parametrize("server_class", [Haraka, SmtpServer])
def test_a_package_of_npm_that_is_missing_is_named(
    server_class: type[NodeServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "node").write_text("#!/bin/sh\necho v22.1.0\n")
    (tmp_path / "node").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SMTPLITE_SERVERS", str(tmp_path))
    assert (server_class.missing() or "").startswith(f"{server_class.name} is not installed at {tmp_path}")


def test_a_node_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "node").write_text("#!/bin/sh\necho v18.20.4\n")
    (tmp_path / "node").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SMTPLITE_SERVERS", str(tmp_path))
    assert (Haraka.missing() or "").startswith("Haraka needs Node.js 20, here is v18.20.4: ")


def test_an_expired_token_is_another_one() -> None:
    assert access_token() == access_token()
    assert access_token(expired=True) != access_token()
