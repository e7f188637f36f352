"""A Litestar application that sends mail through one smtplite.Client."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

from litestar import Litestar, Request, Response, post
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.params import JSONBody

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


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    """Make the client, and close it after the last request and background task."""
    url = os.environ.get("SMTP_URL", "smtp://localhost:1025?tls=none")
    async with Client.from_url(url, timeout=30) as client:  # opens no connection
        app.state.mail = client
        yield


async def mail_client(state: State) -> Client:
    """Return the client of this process."""
    client: Client = state.mail
    return client


@dataclass
class Person:
    """The body of a request: whom to write to."""

    address: str


def message_for(person: Person, subject: str) -> EmailMessage:
    """Write a message.

    Raises:
        MessageError: nothing can be sent to the address.
    """
    message = EmailMessage()
    message["From"] = SENDER
    message["To"] = ForwardPath.parse(person.address).address  # exactly one address
    message["Subject"] = subject
    message.set_content("Good to have you here.\n")
    return message


@post("/invitations", status_code=200)
async def invite(data: JSONBody[Person], mail: NamedDependency[Client]) -> dict[str, str | None]:
    """Send while the caller waits."""
    receipt = await mail.send(message_for(data, "Invitation"))
    return {"outcome": "accepted", "message_id": receipt.message_id}


@post("/sign-ups", status_code=202)
async def sign_up(data: JSONBody[Person], mail: NamedDependency[Client]) -> Response[dict[str, str]]:
    """Answer at once, and send afterwards."""
    return Response({}, background=BackgroundTask(deliver, mail, message_for(data, "Welcome")))


async def deliver(mail: Client, message: EmailMessage) -> None:
    """Send in the background, and log every outcome but success."""
    try:
        await mail.send(message, timeout=300)
    except DeliveryUnknown as error:
        log.error("%s may have arrived, or not: %s", error.message_id, error.__cause__)  # noqa: TRY400 (no fault here)
    except SMTPError as error:
        log.error("%s was not delivered: %s", error.message_id, error)  # noqa: TRY400 (no fault here)


def answer_error(_: Request[Any, Any, Any], error: SMTPError) -> Response[dict[str, str | None]]:
    """Answer a request whose message was not certainly accepted for anybody."""
    log.warning("%s (%s)", error, error.message_id)
    status, outcome = answer_to(error)
    headers = {"Retry-After": "60"} if status == 503 else None
    return Response({"outcome": outcome, "message_id": error.message_id}, status_code=status, headers=headers)


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


app = Litestar(
    [invite, sign_up],
    lifespan=[lifespan],
    dependencies={"mail": Provide(mail_client)},
    exception_handlers={SMTPError: answer_error},
)
