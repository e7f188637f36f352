"""A Celery task that sends mail through one smtplite.SyncClient in each worker process."""

import os
from email.message import EmailMessage
from email.utils import make_msgid
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_task_logger

from smtplite import DeliveryUnknown, SMTPError, SyncClient

log = get_task_logger(__name__)

app = Celery("tasks", broker=os.environ.get("REDIS_URL", "redis://localhost"))
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    # A retry waits in the worker until it is due. After this time, Redis would give it to a second worker.
    broker_transport_options={"visibility_timeout": 4 * 3600},
)

SENDER = os.environ.get("MAIL_FROM", "team@example.org")
FIRST_RETRY_SECONDS = float(os.environ.get("MAIL_FIRST_RETRY_SECONDS", "30"))
LONGEST_RETRY_SECONDS = 3600.0
RETRIES = 10

# One client for each process. It connects when it first sends, which is after the fork.
mail = SyncClient.from_url(os.environ.get("SMTP_URL", "smtp://localhost:1025?tls=none"), max_connections=1, timeout=120)


def enqueue(to: str, subject: str, text: str) -> str:
    """Queue a message; return its Message-ID, which is the same in every try."""
    message_id = make_msgid(domain="example.org")
    send.delay(to, subject, text, message_id)
    return message_id


@app.task(bind=True, max_retries=RETRIES, soft_time_limit=300)
def send(self: Any, to: str, subject: str, text: str, message_id: str) -> None:
    """Send one message. Try again later if that cannot deliver it twice."""
    message = EmailMessage()
    message["From"] = SENDER
    message["To"] = to
    message["Subject"] = subject
    message["Message-ID"] = message_id
    message.set_content(text)
    try:
        mail.send(message)
    except DeliveryUnknown as error:
        # It may have arrived: better never than twice. For the opposite choice, retry here too.
        log.error("%s: nobody can know whether it arrived: %s", message_id, error.__cause__)  # noqa: TRY400 (no fault here)
    except SMTPError as error:
        if not error.retryable:
            log.error("%s: not delivered: %s", message_id, error)  # noqa: TRY400 (no fault here)
            return
        log.warning("%s: not delivered for now: %s", message_id, error)
        seconds = min(FIRST_RETRY_SECONDS * 2**self.request.retries, LONGEST_RETRY_SECONDS)
        raise self.retry(exc=error, countdown=seconds) from error
    except SoftTimeLimitExceeded:
        # By now smtplite has cancelled the message, and logged it if its outcome is unknown.
        log.error("%s: given up after its time limit", message_id)  # noqa: TRY400 (no fault here)
