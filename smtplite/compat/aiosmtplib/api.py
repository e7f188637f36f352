"""`aiosmtplib.api`."""

from smtplite.compat.aiosmtplib.connecting import DEFAULT_TIMEOUT
from smtplite.compat.aiosmtplib.sending import SMTP, send
from smtplite.compat.aiosmtplib.values import SMTPResponse, SMTPTokenGenerator, SocketPathType

__all__ = ["DEFAULT_TIMEOUT", "SMTP", "SMTPResponse", "SMTPTokenGenerator", "SocketPathType", "send"]
