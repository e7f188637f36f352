"""Send the messages that stdin describes, by aiosmtplib; the argument is the port."""

from __future__ import annotations

import asyncio
import json
import sys
from email.message import EmailMessage
from typing import Any

import aiosmtplib


def built(spec: dict[str, Any]) -> EmailMessage:
    message = EmailMessage()
    message["From"] = f"{spec['sender_name']} <{spec['sender']}>"
    message["To"] = ", ".join(f"{name} <{address}>" for name, address in spec["to"])
    if spec["cc"]:
        message["Cc"] = ", ".join(spec["cc"])
    if spec["reply_to"] is not None:
        message["Reply-To"] = spec["reply_to"]
    message["Subject"] = spec["subject"]
    message.set_content(spec["text"])
    if spec["html"] is not None:
        message.add_alternative(spec["html"], subtype="html")
    if spec["file"] is not None:
        content = b"%PDF-1.7 " + bytes(range(256)) * 20
        message.add_attachment(content, maintype="application", subtype="pdf", filename=spec["file"])
    return message


async def main() -> None:
    client = aiosmtplib.SMTP(hostname="127.0.0.1", port=int(sys.argv[1]), start_tls=False)
    async with client:
        for spec in json.load(sys.stdin):
            await client.send_message(built(spec), recipients=spec["recipients"])


asyncio.run(main())
