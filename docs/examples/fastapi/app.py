"""A FastAPI application that sends mail through one smtplite.Client. README.md explains how to run it, and why."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.utils import make_msgid
from typing import Annotated, Literal, TypedDict
from uuid import NAMESPACE_URL, uuid5

from fastapi import BackgroundTasks, Depends, FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, Field

from smtplite import (
    Client,
    DeliveryUnknown,
    ExtensionRequired,
    MessageError,
    MessageRefused,
    Receipt,
    RecipientsRefused,
    SMTPError,
)
from smtplite.protocol import ForwardPath, ReversePath

log = logging.getLogger("mail")

SENDER = ReversePath.parse(os.environ.get("MAIL_FROM", "team@example.org")).address  # wrong: the start fails
REQUEST_SECONDS = 30.0
"""For a message that somebody waits for: the wait for a connection, sending, and the final reply."""
BACKGROUND_SECONDS = 300.0
"""For a message that nobody waits for: a server may take minutes to scan it."""
RETRY_AFTER_SECONDS = 60


class State(TypedDict):
    """What the lifespan puts into each `request.state`."""

    mail: Client


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[State]:
    """Make the client, and close it after the last request and background task."""
    url = os.environ.get("SMTP_URL", "smtp://localhost:1025?tls=none")
    async with Client.from_url(url, timeout=REQUEST_SECONDS) as client:  # opens no connection
        yield {"mail": client}


async def mail_client(request: Request) -> Client:
    """Return the client of this process; tests override this dependency."""
    client: Client = request.state.mail
    return client


def checked(address: str) -> str:
    """Return the address, if it is exactly one by the rules of `send`."""
    try:
        return ForwardPath.parse(address).address
    except MessageError as error:
        raise ValueError(str(error)) from None  # pydantic turns this into a 422


Mail = Annotated[Client, Depends(mail_client)]
Address = Annotated[str, AfterValidator(checked)]
Line = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]


# Requests and answers


class Invitation(BaseModel):
    """Whom to invite, and to what."""

    to: Annotated[list[Address], Field(min_length=1, max_length=20)]
    event: Line


class SignUp(BaseModel):
    """Somebody new."""

    address: Address


class Outcome(BaseModel):
    """What became of a message for one recipient."""

    outcome: Literal["accepted", "refused", "not sent", "unknown"]
    reply: str | None = None


class Report(BaseModel):
    """What became of a message."""

    message_id: str | None
    recipients: dict[str, Outcome]
    again: bool = False
    """Whether sending it again may succeed and cannot deliver it twice."""
    reason: str | None = None
    """What the caller has to change, where it was not the server who said so."""


def report(result: Receipt | SMTPError) -> Report:
    """Return the outcome of a message. Receipts and errors have the recipients in the same four attributes."""
    return Report(
        message_id=result.message_id,
        recipients={
            **{address: Outcome(outcome="accepted") for address in result.accepted},
            **{address: Outcome(outcome="refused", reply=str(reply)) for address, reply in result.refused.items()},
            **{address: Outcome(outcome="not sent") for address in result.not_sent},
            **{address: Outcome(outcome="unknown") for address in result.unknown},
        },
        again=isinstance(result, SMTPError) and result.retryable,
        reason=str(result) if isinstance(result, MessageError | ExtensionRequired) else None,
    )


def status_of(error: SMTPError) -> int:
    """Return the HTTP status for a message that was not certainly accepted for anybody. This is the policy."""
    if isinstance(error, DeliveryUnknown):
        return 504  # handed over, and no final reply came
    if error.retryable:
        return 503  # certainly not delivered; the same request may succeed later
    if isinstance(error, RecipientsRefused | MessageRefused | MessageError | ExtensionRequired):
        return 422  # certainly not delivered; the caller has to change something
    return 502  # certainly not delivered; the operator has to change something: password, certificate, sender


# The messages


def new_message(message_id: str, to: list[str], subject: str, text: str) -> EmailMessage:
    """Write a message."""
    message = EmailMessage()
    message["From"] = SENDER
    message["To"] = ", ".join(to)
    message["Subject"] = subject
    message["Message-ID"] = message_id
    message.set_content(text)
    return message


def message_id_of(invitation: Invitation, key: str | None) -> str:
    """Return the same Message-ID for the same invitation under the same key, so a second copy can be recognized."""
    domain = SENDER.rpartition("@")[2]
    if key is None:
        return make_msgid(domain=domain)
    return f"<{uuid5(NAMESPACE_URL, f'{key} {invitation.model_dump_json()}')}@{domain}>"


# The routes

app = FastAPI(title="Invitations", lifespan=lifespan)


@app.exception_handler(SMTPError)
async def answer_error(_: Request, error: SMTPError) -> Response:
    """Answer a request whose message was not certainly accepted for anybody."""
    status = status_of(error)
    log.log(logging.ERROR if status in (502, 504) else logging.WARNING, "%s (%s)", error, error.message_id)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else None
    return JSONResponse(report(error).model_dump(), status, headers)


@app.post("/invitations", responses={status: {"model": Report} for status in (502, 503, 504)})
async def invite(
    invitation: Invitation,
    mail: Mail,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> Report:
    """Send while the caller waits, and tell the outcome for each recipient."""
    message = new_message(
        message_id_of(invitation, idempotency_key),
        invitation.to,
        f"Invitation: {invitation.event}",
        f"You are invited to {invitation.event}.\n",
    )
    # The recipients are passed explicitly, so that no header can add one.
    return report(await mail.send(message, sender=SENDER, recipients=invitation.to))


@app.post("/sign-ups", status_code=202)
async def sign_up(person: SignUp, mail: Mail, tasks: BackgroundTasks) -> dict[str, str]:
    """Answer at once, and send afterwards."""
    message_id = make_msgid(domain=SENDER.rpartition("@")[2])
    message = new_message(message_id, [person.address], "Welcome", "Good to have you here.\n")
    tasks.add_task(deliver, mail, message, person.address)
    return {"message_id": message_id}


async def deliver(mail: Client, message: EmailMessage, recipient: str) -> None:
    """Send in the background, and log every outcome but success, because nobody waits for an answer."""
    try:
        await mail.send(message, sender=SENDER, recipients=recipient, timeout=BACKGROUND_SECONDS)
    except DeliveryUnknown as error:
        # Not sent again: better no welcome than two.
        log.error("%s may have arrived, or not: %s", error.message_id, error.__cause__)  # noqa: TRY400 (no fault here)
    except SMTPError as error:
        log.error("%s was not delivered: %s", error.message_id, error)  # noqa: TRY400 (no fault here)


@app.get("/health")
async def health() -> dict[str, bool]:
    """Say that this process is up, whatever the mail server does."""
    return {"ok": True}


@app.get("/health/mail")
async def mail_health(mail: Mail) -> dict[str, bool]:
    """Say whether the mail server accepts us: connect, TLS, password."""
    await mail.check()
    return {"ok": True}
