"""`aiosmtplib.status`."""

from smtplite.compat.aiosmtplib.values import SMTPStatus

__all__ = ["SMTPStatus"]
