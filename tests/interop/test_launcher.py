"""The launcher by itself, with smtplib as the client: what fails here is not smtplite's doing."""

from __future__ import annotations

import contextlib
import smtplib
import socket
from pathlib import Path

import pytest

from .launcher import HOST, Postfix, ensure_available, message_id_of, running, split_trace
from .messages import SENDER, as_stored, nasty_message, new_message_id

pytestmark = pytest.mark.interop


def offered(port: int) -> set[str]:
    """Return the EHLO keywords of a port."""
    with smtplib.SMTP(HOST, port) as client:
        client.ehlo()
        return set(client.esmtp_features)


def refusal(port: int, recipient: str) -> tuple[int, bytes]:
    """Return the reply to RCPT for one recipient."""
    with smtplib.SMTP(HOST, port) as client:
        client.ehlo()
        client.mail(SENDER)
        return client.rcpt(recipient)


def test_the_smtp_port_offers_every_extension(postfix: Postfix) -> None:
    wanted = {"pipelining", "chunking", "8bitmime", "smtputf8", "dsn", "enhancedstatuscodes", "size"}
    assert offered(postfix.ports["smtp"]) >= wanted


def test_the_lockstep_port_offers_size_and_8bitmime_alone(postfix: Postfix) -> None:
    assert offered(postfix.ports["lockstep"]) == {"size", "8bitmime"}


def test_what_is_written_behind_data_ahead_of_its_reply_is_refused(port: int) -> None:
    with contextlib.closing(smtplib.SMTP(HOST, port)) as client:
        client.ehlo()
        client.mail(SENDER)
        client.rcpt("anyone@example.test")
        client.send("DATA\r\nnot yet asked for\r\n")
        assert client.getreply()[0] == 554


def test_a_bare_lf_is_refused(postfix: Postfix, port: int) -> None:
    message_id = new_message_id()
    with contextlib.closing(smtplib.SMTP(HOST, port)) as client, pytest.raises(smtplib.SMTPDataError):
        client.sendmail(SENDER, ["anyone@example.test"], nasty_message(message_id) + b"a bare\nline feed\r\n")
    assert postfix.stored(message_id) == []


def test_a_message_is_stored_octet_for_octet(postfix: Postfix, port: int) -> None:
    message_id = new_message_id()
    message = nasty_message(message_id)
    with smtplib.SMTP(HOST, port) as client:
        client.sendmail(SENDER, ["anyone@example.test"], message, mail_options=["BODY=8BITMIME"])
    assert [copy.content for copy in postfix.stored(message_id)] == [as_stored(message)]


def test_every_recipient_has_a_copy_of_its_own(postfix: Postfix, port: int) -> None:
    message_id = new_message_id()
    with smtplib.SMTP(HOST, port) as client:
        client.sendmail(SENDER, ["b@example.test", "a@example.test"], nasty_message(message_id))
    assert [copy.recipient for copy in postfix.stored(message_id)] == ["a@example.test", "b@example.test"]


def test_a_bcc_field_that_a_client_sends_is_not_hidden(postfix: Postfix, port: int) -> None:
    message_id = new_message_id()
    message = b"Bcc: secret@example.test\r\n" + nasty_message(message_id)
    with smtplib.SMTP(HOST, port) as client:
        client.sendmail(SENDER, ["anyone@example.test"], message)
    assert [copy.content for copy in postfix.stored(message_id)] == [as_stored(message)]


def test_a_message_that_was_not_sent_is_not_found(postfix: Postfix) -> None:
    assert postfix.stored(new_message_id()) == []


@pytest.mark.parametrize("code", [450, 452, 500, 550, 552, 571])
def test_a_reject_recipient_is_refused_with_the_code_in_its_name(postfix: Postfix, code: int) -> None:
    found, text = refusal(postfix.ports["smtp"], f"reject{code}@example.test")
    assert (found, text[:6]) == (code, b"%d.7.1 " % (code // 100))


def test_a_defer_recipient_is_refused_for_now(postfix: Postfix) -> None:
    assert refusal(postfix.ports["smtp"], "defer@example.test")[0] == 451


def test_a_disc421_recipient_ends_the_connection(postfix: Postfix) -> None:
    with smtplib.SMTP(HOST, postfix.ports["smtp"]) as client:
        client.ehlo()
        client.mail(SENDER)
        assert client.rcpt("disc421@example.test")[0] == 421
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.noop()


def test_a_recipient_elsewhere_is_refused(postfix: Postfix) -> None:
    assert refusal(postfix.ports["smtp"], "anyone@elsewhere.test")[0] == 554


def test_a_failure_inside_the_block_leaves_no_process_and_no_file() -> None:
    ensure_available(Postfix)
    with pytest.raises(ZeroDivisionError), running(Postfix) as server:
        raise ZeroDivisionError
    assert not server.alive()
    assert not server.folder.exists()
    for port in server.ports.values():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port))


def test_a_missing_server_is_a_skip_that_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SMTPLITE_INTEROP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(pytest.skip.Exception, match=r"postfix is not installed: .* apt-get install"):
        ensure_available(Postfix)


def test_a_missing_root_is_a_skip_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMTPLITE_INTEROP", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="only as root"):
        ensure_available(Postfix)


def test_a_missing_server_is_a_failure_where_it_is_required(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SMTPLITE_INTEROP", "require")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(pytest.fail.Exception, match="postfix is not installed"):
        ensure_available(Postfix)


def test_the_trace_ends_where_the_message_begins() -> None:
    raw = b"Received: a\n\tfolded\nDelivered-To: b\nFrom: c\nReceived: d\n\nReceived: e\n"
    trace, content = split_trace(raw, frozenset({b"received", b"delivered-to"}))
    assert (trace, content) == (raw[:36], raw[36:])
    assert content.startswith(b"From: c\n")


def test_a_message_id_counts_in_the_header_section_only() -> None:
    assert message_id_of(b"Subject: a\nmessage-id:\n <1@a>\n\n") == b"<1@a>"
    assert message_id_of(b"Subject: a\n\nMessage-ID: <1@a>\n") is None
