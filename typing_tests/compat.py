"""Programs for aiosmtplib, as type checkers see them over smtplite."""

from email.message import EmailMessage
from typing import assert_type

import smtplite.compat.aiosmtplib as aiosmtplib
from smtplite.compat.aiosmtplib import SMTP, SMTPRecipientsRefused, SMTPResponse
from smtplite.compat.aiosmtplib.api import DEFAULT_TIMEOUT
from smtplite.compat.aiosmtplib.errors import SMTPRecipientRefused, SMTPSenderRefused


async def programs(message: EmailMessage) -> None:
    """What `send` and `SMTP` take and return."""
    errors, text = await aiosmtplib.send(message, hostname="mail.example", timeout=DEFAULT_TIMEOUT)
    assert_type(errors, dict[str, SMTPResponse])
    assert_type(text, str)
    async with SMTP(hostname="mail.example", start_tls=True) as smtp:
        assert_type(smtp, SMTP)
        code, message_text = await smtp.login("me", b"secret")
        assert_type(code, int)
        assert_type(message_text, str)
        assert_type(
            await smtp.sendmail("a@example.org", ["b@example.net"], "text"), tuple[dict[str, SMTPResponse], str]
        )
        assert_type(smtp.is_connected, bool)
        assert_type(smtp.last_ehlo_response, SMTPResponse | None)
        assert_type(await smtp.execute_command(b"NOOP"), SMTPResponse)
        await smtp.execute_command("NOOP")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def exceptions(error: Exception) -> None:
    """What can be read of an exception."""
    if isinstance(error, SMTPSenderRefused):
        assert_type(error.code, int)
        assert_type(error.sender, str)
    if isinstance(error, SMTPRecipientsRefused):
        assert_type(error.recipients, list[SMTPRecipientRefused])
