"""A FastAPI application that sends with fastapi-mail, over smtplite. README.md says how to run it."""

import os
import sys
from pathlib import Path
from typing import Annotated

import smtplite.compat.aiosmtplib
from smtplite import DeliveryUnknown

sys.modules["aiosmtplib"] = smtplite.compat.aiosmtplib  # before fastapi-mail imports it

from fastapi import Depends, FastAPI, HTTPException  # noqa: E402 (what goes before must go before)
from fastapi_mail import ConnectionConfig, FastMail, MessageSchema, MessageType  # noqa: E402 (likewise)
from fastapi_mail.errors import ConnectionErrors  # noqa: E402 (likewise)
from pydantic import BaseModel, EmailStr, SecretStr  # noqa: E402 (likewise)

TEMPLATES = Path(__file__).parent / "templates"


class Invitation(BaseModel):
    """Whom to invite, and to what."""

    to: list[EmailStr]
    event: str


def config() -> ConnectionConfig:
    """Return the settings; tests override them."""
    return ConnectionConfig(
        MAIL_SERVER=os.environ.get("MAIL_SERVER", "localhost"),
        MAIL_PORT=int(os.environ.get("MAIL_PORT", "1025")),
        MAIL_USERNAME=os.environ.get("MAIL_USERNAME", ""),
        MAIL_PASSWORD=SecretStr(os.environ.get("MAIL_PASSWORD", "")),
        MAIL_STARTTLS=os.environ.get("MAIL_STARTTLS", "no") == "yes",
        MAIL_SSL_TLS=False,
        MAIL_FROM="team@example.org",
        MAIL_FROM_NAME="The team",
        USE_CREDENTIALS="MAIL_USERNAME" in os.environ,
        TEMPLATE_FOLDER=TEMPLATES,
    )


app = FastAPI(title="Invitations")


@app.post("/invitations")
async def invite(invitation: Invitation, settings: Annotated[ConnectionConfig, Depends(config)]) -> dict[str, str]:
    """Send an invitation, and wait for the server's answer."""
    message = MessageSchema(
        subject=f"Invitation: {invitation.event}",
        recipients=invitation.to,
        template_body={"event": invitation.event},
        subtype=MessageType.html,
    )
    try:
        await FastMail(settings).send_message(message, template_name="invitation.html")
    except DeliveryUnknown as error:
        raise HTTPException(504, "it may have arrived, or not") from error
    except ConnectionErrors as error:
        raise HTTPException(503, str(error)) from error
    return {"outcome": "accepted"}
