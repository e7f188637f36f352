"""`aiosmtplib.email`."""

from smtplite.compat.aiosmtplib.parts import (
    extract_addresses,
    extract_recipients,
    extract_sender,
    flatten_message,
    parse_address,
    quote_address,
)

__all__ = [
    "extract_addresses",
    "extract_recipients",
    "extract_sender",
    "flatten_message",
    "parse_address",
    "quote_address",
]
