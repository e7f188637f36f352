"""`aiosmtplib.esmtp`."""

from smtplite.compat.aiosmtplib.parts import parse_esmtp_extensions

__all__ = ["parse_esmtp_extensions"]
