"""A Flask application that sends mail through one smtplite.SyncClient."""

import logging
import os
from email.message import EmailMessage

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

from smtplite import (
    DeliveryUnknown,
    ExtensionRequired,
    MessageError,
    MessageRefused,
    RecipientsRefused,
    SMTPError,
    SyncClient,
)
from smtplite.protocol import ForwardPath

log = logging.getLogger("mail")

# One client for the process, shared by its threads. It does not connect yet, so gunicorn may fork after this.
mail = SyncClient.from_url(os.environ.get("SMTP_URL", "smtp://localhost:1025?tls=none"), timeout=30)
SENDER = os.environ.get("MAIL_FROM", "team@example.org")

app = Flask(__name__)


@app.post("/invitations")
def invite() -> ResponseReturnValue:
    """Send while the caller waits."""
    body = request.get_json(silent=True)
    if not isinstance(body, dict) or not isinstance(body.get("address"), str):
        return jsonify(outcome='the body is a JSON object with an "address"'), 422
    receipt = mail.send(invitation(body["address"]))
    return jsonify(outcome="accepted", message_id=receipt.message_id, process=os.getpid())


def invitation(address: str) -> EmailMessage:
    """Write the message.

    Raises:
        MessageError: the text is not exactly one address.
    """
    message = EmailMessage()
    message["From"] = SENDER
    message["To"] = ForwardPath.parse(address).address  # exactly one address
    message["Subject"] = "Invitation"
    message.set_content("Good to have you here.\n")
    return message


@app.errorhandler(SMTPError)
def answer_error(error: SMTPError) -> ResponseReturnValue:
    """Answer a request whose message was not certainly accepted for anybody."""
    log.warning("%s (%s)", error, error.message_id)
    status, outcome = answer_to(error)
    headers = {"Retry-After": "60"} if status == 503 else {}
    return jsonify(outcome=outcome, message_id=error.message_id), status, headers


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
