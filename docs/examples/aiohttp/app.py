"""An aiohttp application that sends mail through one smtplite.Client."""

import logging
import os
from collections.abc import AsyncIterator
from email.message import EmailMessage

from aiohttp import web
from aiohttp.typedefs import Handler

from smtplite import (
    Client,
    DeliveryUnknown,
    ExtensionRequired,
    MessageError,
    MessageRefused,
    RecipientsRefused,
    SMTPError,
    compose,
)
from smtplite.protocol import ForwardPath, ReversePath

log = logging.getLogger("mail")

SENDER = ReversePath.parse(os.environ.get("MAIL_FROM", "team@example.org")).address  # wrong: the start fails
MAIL = web.AppKey("mail", Client)
routes = web.RouteTableDef()


async def mail_client(app: web.Application) -> AsyncIterator[None]:
    """Make the client before the first request, and close it after the last."""
    url = os.environ.get("SMTP_URL", "smtp://localhost:1025?tls=none")
    async with Client.from_url(url, timeout=30) as client:  # opens no connection
        app[MAIL] = client
        yield


@routes.post("/invitations")
async def invite(request: web.Request) -> web.Response:
    """Send while the caller waits."""
    receipt = await request.app[MAIL].send(await invitation(request))
    return web.json_response({"outcome": "accepted", "message_id": receipt.message_id})


async def invitation(request: web.Request) -> EmailMessage:
    """Write a message to the address in the body.

    Raises:
        HTTPUnprocessableEntity: the body has none.
        MessageError: nothing can be sent to it.
    """
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("address"), str):
        raise web.HTTPUnprocessableEntity(text='the body is a JSON object with an "address"')
    address = ForwardPath.parse(body["address"]).address  # exactly one address
    return compose(from_=SENDER, to=[address], subject="Invitation", text="Good to have you here.\n")


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a request whose message was not certainly accepted for anybody."""
    try:
        return await handler(request)
    except SMTPError as error:
        log.warning("%s (%s)", error, error.message_id)
        status, outcome = answer_to(error)
        headers = {"Retry-After": "60"} if status == 503 else None
        return web.json_response({"outcome": outcome, "message_id": error.message_id}, status=status, headers=headers)


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


def create_app() -> web.Application:
    """Make the application."""
    app = web.Application(middlewares=[answer_errors])
    app.cleanup_ctx.append(mail_client)
    app.add_routes(routes)
    return app


if __name__ == "__main__":
    web.run_app(create_app(), host="127.0.0.1", port=8000)
