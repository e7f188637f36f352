"""`aiosmtplib.response`."""

from smtplite.compat.aiosmtplib.values import SMTPResponse

__all__ = ["SMTPResponse"]
