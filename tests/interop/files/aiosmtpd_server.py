"""aiosmtpd: refuses what `Server` in launcher.py names, and stores each message as one file of JSON before it answers.

Run: python aiosmtpd_server.py SETTINGS.json
"""

import asyncio
import base64
import functools
import itertools
import json
import re
import ssl
import sys
import time
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

SETTINGS = json.loads(Path(sys.argv[1]).read_bytes())
MAX_MESSAGE_BYTES = 41_943_040


class Store:
    """What aiosmtpd asks about each recipient and each message."""

    def __init__(self, *, authenticates: bool) -> None:
        self._authenticates = authenticates

    async def handle_RCPT(  # noqa: N802 (aiosmtpd's name)
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        local_part, _, domain = address.rpartition("@")
        if refusal := re.match(r"reject([45])(\d\d)", local_part):
            return f"{refusal[1]}{refusal[2]} {refusal[1]}.7.1 refused on purpose"
        if local_part.startswith("defer"):
            return "451 4.7.1 deferred on purpose"
        if local_part.startswith("disc421"):
            assert server.transport is not None
            asyncio.get_running_loop().call_soon(server.transport.close)
            return "421 4.3.2 closing on purpose"
        if self._authenticates and not session.authenticated:
            return "550 5.7.1 authenticate first"
        if domain not in SETTINGS["domains"]:
            return "550 5.7.1 no delivery outside of this instance"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(  # noqa: N802 (aiosmtpd's name)
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if refusal := re.match(r"end([45])(\d\d)", envelope.mail_from or ""):
            return f"{refusal[1]}{refusal[2]} {refusal[1]}.7.1 refused on purpose"
        recipients = [address for address in envelope.rcpt_tos if not address.startswith("discard")]
        if recipients:
            assert isinstance(envelope.original_content, bytes)
            content = base64.b64encode(envelope.original_content).decode()
            path = Path(SETTINGS["store"], str(next(_numbers)))
            path.with_suffix(".part").write_text(json.dumps({"recipients": recipients, "content": content}))
            path.with_suffix(".part").rename(path.with_suffix(".json"))
        return "250 2.0.0 stored"


_numbers = itertools.count(time.time_ns())


def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    """Say whether somebody may send."""
    assert isinstance(data, LoginPassword)
    wanted = (SETTINGS["username"].encode(), SETTINGS["password"].encode())
    return AuthResult(success=(data.login, data.password) == wanted, handled=False)


def protocol(service: dict[str, Any], context: ssl.SSLContext) -> SMTP:
    """Return the server's end of one connection."""
    return SMTP(
        Store(authenticates=service["authenticates"]),
        hostname="aiosmtpd.test",
        data_size_limit=MAX_MESSAGE_BYTES,
        enable_SMTPUTF8=True,
        tls_context=context if service["tls"] == "starttls" else None,
        authenticator=authenticate if service["authenticates"] else None,
        auth_required=False,
        # Of TLS that begins before the greeting it does not know.
        auth_require_tls=service["tls"] != "implicit",
        timeout=service["idle_seconds"] or 300,
        command_call_limit={"MAIL": service["max_messages"], "*": 1_000_000} if service["max_messages"] else None,
    )


async def main() -> None:
    """Serve until the process ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SETTINGS["certificate"], SETTINGS["key"])
    loop = asyncio.get_running_loop()
    for service in SETTINGS["services"].values():
        await loop.create_server(
            functools.partial(protocol, service, context),
            "127.0.0.1",
            service["port"],
            ssl=context if service["tls"] == "implicit" else None,
        )
    await asyncio.Event().wait()


asyncio.run(main())
