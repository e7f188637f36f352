"""`aiosmtplib.smtp`."""

from smtplite.compat.aiosmtplib.connecting import DEFAULT_TIMEOUT
from smtplite.compat.aiosmtplib.sending import SMTP, SMTP_PORT, SMTP_STARTTLS_PORT, SMTP_TLS_PORT

__all__ = ["DEFAULT_TIMEOUT", "SMTP", "SMTP_PORT", "SMTP_STARTTLS_PORT", "SMTP_TLS_PORT"]
