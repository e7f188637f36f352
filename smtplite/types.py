"""Names for type annotations: what the functions of smtplite accept.

::

    from smtplite.types import AnyMessage


    async def notify(client: smtplite.Client, message: AnyMessage | None = None) -> None: ...
"""

from __future__ import annotations

from collections.abc import Iterable
from email.headerregistry import Address
from email.message import Message
from typing import TYPE_CHECKING

from smtplite.message.composing import AttachmentLike, People, Person
from smtplite.message.content import Content
from smtplite.message.envelope import Recipient
from smtplite.options import Security, TLSMode

__all__ = ["AnyMessage", "AnyRecipients", "AttachmentLike", "People", "Person", "Security", "TLSMode"]

if TYPE_CHECKING:
    from smtplite.message.envelope import AnyMessage, AnyRecipients
else:  # unions, so that `AnyMessage | None` works at run time too, where Message is not generic
    #: What `Client.send` accepts as a message.
    AnyMessage = Message | bytes | bytearray | memoryview | Content
    #: One address, or several.
    AnyRecipients = str | Address | Recipient | Iterable[str | Address | Recipient]
