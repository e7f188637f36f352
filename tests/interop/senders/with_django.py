"""Send the messages that stdin describes, by Django's own SMTP backend; the argument is the port."""

from __future__ import annotations

import json
import sys
from email.utils import formataddr

from django.conf import settings  # type: ignore[import-untyped]
from django.core.mail import EmailMultiAlternatives, get_connection  # type: ignore[import-untyped]

settings.configure(
    EMAIL_BACKEND="django.core.mail.backends.smtp.EmailBackend", EMAIL_HOST="127.0.0.1", EMAIL_PORT=int(sys.argv[1])
)

with get_connection() as connection:
    for spec in json.load(sys.stdin):
        message = EmailMultiAlternatives(
            spec["subject"],
            spec["text"],
            formataddr((spec["sender_name"], spec["sender"])),
            [formataddr(tuple(pair)) for pair in spec["to"]],
            cc=spec["cc"],
            bcc=spec["bcc"],
            reply_to=[spec["reply_to"]] if spec["reply_to"] is not None else None,
            connection=connection,
        )
        if spec["html"] is not None:
            message.attach_alternative(spec["html"], "text/html")
        if spec["file"] is not None:
            message.attach(spec["file"], b"%PDF-1.7 " + bytes(range(256)) * 20, "application/pdf")
        if message.send() != 1:
            raise SystemExit(f"not sent: {spec['subject']}")
