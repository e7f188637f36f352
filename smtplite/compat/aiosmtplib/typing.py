"""`aiosmtplib.typing`."""

from smtplite.compat.aiosmtplib.values import Default, SMTPStatus, SMTPTokenGenerator, SocketPathType

__all__ = ["Default", "SMTPStatus", "SMTPTokenGenerator", "SocketPathType"]
