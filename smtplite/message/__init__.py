"""What is sent: from the caller's message to an envelope and its wire form. No network, no protocol state."""

from smtplite.message.flatten import wire_bytes
from smtplite.message.prepared import Prepared, envelope_of

__all__ = ["Prepared", "envelope_of", "wire_bytes"]
