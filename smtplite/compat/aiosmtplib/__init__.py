"""The names of aiosmtplib 5.1 on top of smtplite: ``import smtplite.compat.aiosmtplib as aiosmtplib``.

::

    errors, reply = await aiosmtplib.send(message, hostname="mail.example.com", username="me", password="secret")

For a library that imports aiosmtplib itself, put this module under that name before it does::

    sys.modules["aiosmtplib"] = smtplite.compat.aiosmtplib

The page "Programs for aiosmtplib" of the documentation says what differs.
"""

from smtplite.compat.aiosmtplib import api, email, errors, esmtp, response, smtp, status, typing
from smtplite.compat.aiosmtplib.connecting import CompatWarning
from smtplite.compat.aiosmtplib.exceptions import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPConnectResponseError,
    SMTPConnectTimeoutError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupported,
    SMTPReadTimeoutError,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from smtplite.compat.aiosmtplib.sending import SMTP, send
from smtplite.compat.aiosmtplib.values import SMTPResponse, SMTPStatus, SMTPTokenGenerator

__all__ = [
    "SMTP",
    "CompatWarning",
    "SMTPAuthenticationError",
    "SMTPConnectError",
    "SMTPConnectResponseError",
    "SMTPConnectTimeoutError",
    "SMTPDataError",
    "SMTPException",
    "SMTPHeloError",
    "SMTPNotSupported",
    "SMTPReadTimeoutError",
    "SMTPRecipientRefused",
    "SMTPRecipientsRefused",
    "SMTPResponse",
    "SMTPResponseException",
    "SMTPSenderRefused",
    "SMTPServerDisconnected",
    "SMTPStatus",
    "SMTPTimeoutError",
    "SMTPTokenGenerator",
    "api",
    "email",
    "errors",
    "esmtp",
    "response",
    "send",
    "smtp",
    "status",
    "typing",
]

#: Of aiosmtplib, whose names these are.
__version__ = "5.1.3"
