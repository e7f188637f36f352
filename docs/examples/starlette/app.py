"""A Starlette application that sends mail through one smtplite.Client."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Any, TypedDict

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from smtplite import (
    Client,
    DeliveryUnknown,
    ExtensionRequired,
    MessageError,
    MessageRefused,
    RecipientsRefused,
    SMTPError,
)
from smtplite.protocol import ForwardPath, ReversePath

log = logging.getLogger("mail")

SENDER = ReversePath.parse(os.environ.get("MAIL_FROM", "team@example.org")).address  # wrong: the start fails


class State(TypedDict):
    """What the lifespan puts into each `request.state`."""

    mail: Client


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[State]:
    """Make the client, and close it after the last request and background task."""
    url = os.environ.get("SMTP_URL", "smtp://localhost:1025?tls=none")
    async with Client.from_url(url, timeout=30) as client:  # opens no connection
        yield {"mail": client}


def mail_client(request: Request) -> Client:
    """Return the client of this process."""
    client: Client = request.state.mail
    return client


async def message_for(request: Request, subject: str) -> EmailMessage:
    """Write a message to the address in the body.

    Raises:
        HTTPException: the body has none.
        MessageError: nothing can be sent to it.
    """
    try:
        body: Any = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("address"), str):
        raise HTTPException(422, 'the body is a JSON object with an "address"')
    message = EmailMessage()
    message["From"] = SENDER
    message["To"] = ForwardPath.parse(body["address"]).address  # exactly one address
    message["Subject"] = subject
    message.set_content("Good to have you here.\n")
    return message


async def invite(request: Request) -> Response:
    """Send while the caller waits."""
    receipt = await mail_client(request).send(await message_for(request, "Invitation"))
    return JSONResponse({"outcome": "accepted", "message_id": receipt.message_id})


async def sign_up(request: Request) -> Response:
    """Answer at once, and send afterwards."""
    message = await message_for(request, "Welcome")
    return JSONResponse({}, 202, background=BackgroundTask(deliver, mail_client(request), message))


async def deliver(mail: Client, message: EmailMessage) -> None:
    """Send in the background, and log every outcome but success."""
    try:
        await mail.send(message, timeout=300)
    except DeliveryUnknown as error:
        log.error("%s may have arrived, or not: %s", error.message_id, error.__cause__)  # noqa: TRY400 (no fault here)
    except SMTPError as error:
        log.error("%s was not delivered: %s", error.message_id, error)  # noqa: TRY400 (no fault here)


async def answer_error(_: Request, error: Exception) -> Response:
    """Answer a request whose message was not certainly accepted for anybody."""
    assert isinstance(error, SMTPError)
    log.warning("%s (%s)", error, error.message_id)
    status, outcome = answer_to(error)
    headers = {"Retry-After": "60"} if status == 503 else None
    return JSONResponse({"outcome": outcome, "message_id": error.message_id}, status, headers)


def answer_to(error: SMTPError) -> tuple[int, str]:
    """Return the HTTP status and the outcome: the policy that the FastAPI example explains."""
    if isinstance(error, DeliveryUnknown):
        return 504, "unknown"
    if isinstance(error, MessageError):
        return 422, f"not sent: {error}"
    outcome = f"refused: {error.reply}" if error.reply is not None else "not sent"
    if error.retryable:
        return 503, outcome
    if isinstance(error, RecipientsRefused | MessageRefused | ExtensionRequired):
        return 422, outcome
    return 502, outcome


app = Starlette(
    lifespan=lifespan,
    exception_handlers={SMTPError: answer_error},
    routes=[Route("/invitations", invite, methods=["POST"]), Route("/sign-ups", sign_up, methods=["POST"])],
)
