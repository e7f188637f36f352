"""SMTP: the object that programs for aiosmtplib use; and `send`, which does not need one."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from email.message import Message
from typing import Any

from smtplite import Receipt
from smtplite.compat.aiosmtplib.connecting import DEFAULT_TIMEOUT, Timeout
from smtplite.compat.aiosmtplib.exceptions import (
    SMTPException,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPServerDisconnected,
)
from smtplite.compat.aiosmtplib.parts import (
    as_message,
    envelope_of,
    extract_recipients,
    extract_sender,
    recipients_of,
    sender_of,
)
from smtplite.compat.aiosmtplib.speaking import Speaking
from smtplite.compat.aiosmtplib.values import (
    Default,
    SMTPResponse,
    SMTPStatus,
    SMTPTokenGenerator,
    SocketPathType,
    response_of,
    response_text,
)

__all__ = ["SMTP", "SMTP_PORT", "SMTP_STARTTLS_PORT", "SMTP_TLS_PORT", "send"]

SMTP_PORT = 25
SMTP_TLS_PORT = 465
SMTP_STARTTLS_PORT = 587

#: What `send_message` of aiosmtplib adds by itself, and smtplite by itself, too: then nothing is asked for.
_BY_ITSELF = frozenset({"smtputf8", "body=8bitmime"})


class SMTP(Speaking):
    """One connection to a mail server.

    ::

        async with SMTP(hostname="mail.example.com", port=587, start_tls=True) as smtp:
            await smtp.login("me", "secret")
            errors, reply = await smtp.send_message(message)

    The arguments, the methods and what they return and raise are those of aiosmtplib; the page "Programs for
    aiosmtplib" says what differs.
    """

    async def sendmail(
        self,
        sender: str,
        recipients: str | Sequence[str],
        message: str | bytes,
        /,
        *,
        mail_options: Iterable[str] | None = None,
        rcpt_options: Iterable[str] | None = None,
        timeout: Timeout = Default.token,
    ) -> tuple[dict[str, SMTPResponse], str]:
        """Send a message that is given as text or bytes.

        Args:
            sender: the reverse-path; "" is the null one.
            recipients: one address, or several.
            message: text must be ASCII. Line endings become CRLF, a Bcc field is taken out.
            mail_options: such as ``["SMTPUTF8"]``.
            rcpt_options: such as ``["NOTIFY=NEVER"]``, for each recipient.
            timeout: seconds for each step; the default 60 waits 600 seconds for the verdict.

        Returns:
            The refused recipients with their replies, and the text of the last reply.

        Raises:
            ValueError: what is given cannot be sent.
            SMTPRecipientsRefused: every recipient was refused.
            SMTPResponseException: the server said no.
            SMTPServerDisconnected: the connection ended; a `smtplite.DeliveryUnknown` if all had been written.
            SMTPReadTimeoutError: no reply came in time; likewise.
        """
        addresses = [recipients] if isinstance(recipients, str) else list(recipients)
        envelope = envelope_of(sender, addresses, mail_options, rcpt_options)
        octets = message.encode("ascii") if isinstance(message, str) else bytes(message)
        if not addresses:
            raise SMTPRecipientsRefused([])
        return await self._send(as_message(octets), timeout, lambda: sender, {"envelope": envelope})

    async def send_message(
        self,
        message: Message,
        /,
        *,
        sender: str | None = None,
        recipients: str | Sequence[str] | None = None,
        mail_options: Iterable[str] | None = None,
        rcpt_options: Iterable[str] | None = None,
        timeout: Timeout = Default.token,
    ) -> tuple[dict[str, SMTPResponse], str]:
        """Send a message object of `email`; Bcc is not shown to anybody.

        Args:
            message: Message-ID and Date are added to what is sent, if they are missing.
            sender: None: from Sender or From.
            recipients: None: from To, Cc and Bcc.
            mail_options: see `sendmail`.
            rcpt_options: see `sendmail`.
            timeout: see `sendmail`.

        Returns:
            The refused recipients with their replies, and the text of the last reply.

        Raises:
            ValueError: there is no sender or no recipient, or something cannot be sent.
            SMTPException: see `sendmail`.
        """
        options = [option for option in mail_options or () if option.lower() not in _BY_ITSELF]
        rcpt_options = list(rcpt_options or ())
        author = sender_of(message) if sender is None else sender
        given = [recipients] if isinstance(recipients, str) else recipients
        if given is None:
            given = recipients_of(message)
        if given is not None and not given:
            raise ValueError("recipients is empty: leave it out to take them from To, Cc and Bcc")
        if not options and not rcpt_options:
            wanted: dict[str, Any] = {"sender": author, "recipients": given}
        else:
            author = extract_sender(message) if author is None else author
            given = extract_recipients(message) if given is None else list(given)
            if author is None:
                raise ValueError("message has no From: pass sender=")
            if not given:
                raise ValueError("message has no To, Cc or Bcc: pass recipients=")
            wanted = {"envelope": envelope_of(author, given, options, rcpt_options)}
        return await self._send(message, timeout, lambda: author or extract_sender(message) or "", wanted)

    async def _send(
        self, message: Message | bytes, timeout: Timeout, sender: Callable[[], str], wanted: dict[str, Any]
    ) -> tuple[dict[str, SMTPResponse], str]:
        self._live()
        turn = self._message_turn
        if turn is None:
            raise SMTPServerDisconnected("not connected: call connect first")
        async with turn:
            if turn is not self._message_turn:
                raise SMTPServerDisconnected("not connected: closed while this call waited for its turn")
            await self._ehlo_or_helo_if_needed()
            try:
                receipt: Receipt = await self._do(
                    lambda session: session.send(message, **wanted), timeout, sender=sender
                )
            except (SMTPResponseException, SMTPRecipientsRefused):
                if self.is_connected:
                    await self._give_up_transaction()
                raise
        if not self.is_connected:
            self.close()
        errors = {address: response_of(reply) for address, reply in receipt.refused.items()}
        # aiosmtplib has no word for this: the message was accepted for somebody, and then the connection ended.
        for address in receipt.not_sent:
            errors[address] = SMTPResponse(SMTPStatus.invalid_response, "not sent: the connection ended first")
        for address in receipt.unknown:
            errors[address] = SMTPResponse(SMTPStatus.invalid_response, "unknown: it may have been delivered, or not")
        return errors, "" if receipt.reply is None else response_text(receipt.reply)

    async def _give_up_transaction(self) -> None:
        """Say RSET after a refusal: what is said by hand next begins at the beginning."""
        try:
            await self.rset()
        except (ConnectionError, SMTPResponseException, SMTPException):
            pass  # the refusal says more, and is raised

    def sendmail_sync(self, *args: Any, **kwargs: Any) -> tuple[dict[str, SMTPResponse], str]:
        """Connect, `sendmail` and disconnect, in an event loop of its own."""

        async def run() -> tuple[dict[str, SMTPResponse], str]:
            async with self:
                return await self.sendmail(*args, **kwargs)

        return asyncio.run(run())

    def send_message_sync(self, *args: Any, **kwargs: Any) -> tuple[dict[str, SMTPResponse], str]:
        """Connect, `send_message` and disconnect, in an event loop of its own."""

        async def run() -> tuple[dict[str, SMTPResponse], str]:
            async with self:
                return await self.send_message(*args, **kwargs)

        return asyncio.run(run())


async def send(
    message: Message | str | bytes,
    /,
    *,
    sender: str | None = None,
    recipients: str | Sequence[str] | None = None,
    mail_options: Sequence[str] | None = None,
    rcpt_options: Sequence[str] | None = None,
    hostname: str | None = "localhost",
    port: int | None = None,
    username: str | bytes | None = None,
    password: str | bytes | None = None,
    oauth_token_generator: SMTPTokenGenerator | None = None,
    local_hostname: str | None = None,
    source_address: tuple[str, int] | None = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    use_tls: bool = False,
    start_tls: bool | None = None,
    validate_certs: bool = True,
    client_cert: str | None = None,
    client_key: str | None = None,
    tls_context: ssl.SSLContext | None = None,
    cert_bundle: str | None = None,
    socket_path: SocketPathType | None = None,
    sock: socket.socket | None = None,
) -> tuple[dict[str, SMTPResponse], str]:
    """Connect, send one message and disconnect: the arguments of `SMTP` and of its methods.

    Returns:
        The refused recipients with their replies, and the text of the last reply.

    Raises:
        ValueError: what is given cannot be sent.
        SMTPException: what `SMTP.connect` and `SMTP.sendmail` raise.
    """
    if isinstance(message, (str, bytes)):
        if not recipients:
            raise ValueError("a message as str or bytes needs recipients=")
        if not sender:
            raise ValueError("a message as str or bytes needs sender=")
    smtp = SMTP(
        hostname=hostname,
        port=port,
        username=username,
        password=password,
        oauth_token_generator=oauth_token_generator,
        local_hostname=local_hostname,
        source_address=source_address,
        timeout=timeout,
        use_tls=use_tls,
        start_tls=start_tls,
        validate_certs=validate_certs,
        client_cert=client_cert,
        client_key=client_key,
        tls_context=tls_context,
        cert_bundle=cert_bundle,
        socket_path=socket_path,
        sock=sock,
    )
    async with smtp:
        if isinstance(message, (str, bytes)):
            return await smtp.sendmail(
                sender or "", recipients or (), message, mail_options=mail_options, rcpt_options=rcpt_options
            )
        return await smtp.send_message(
            message, sender=sender, recipients=recipients, mail_options=mail_options, rcpt_options=rcpt_options
        )
