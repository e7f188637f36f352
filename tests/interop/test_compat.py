"""Programs for aiosmtplib against real servers, over both libraries: what is returned, raised, and stored."""

from __future__ import annotations

from typing import Any

import aiosmtplib
import pytest

import smtplite.compat.aiosmtplib as compat

from .launcher import HOST, PASSWORD, USERNAME
from .matrix import SECURE_SERVERS
from .messages import SENDER, as_stored, new_message_id, raw_message
from .secure import SecureServer

pytestmark = [
    pytest.mark.interop,
    # aiosmtplib leaves a connection where it fails to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

ANYONE = "anyone@example.test"


async def program(lib: Any, server: SecureServer, service: str, content: bytes) -> list[Any]:
    """Log in, look, send, and begin a transaction by hand; return what was seen."""
    tls = {"use_tls": True} if service == "implicit" else {"start_tls": True}
    at = {"hostname": HOST, "port": server.ports[service], "tls_context": server.client_context(), **tls}
    seen: list[Any] = []
    async with lib.SMTP(**at) as smtp:
        seen.append((await smtp.login(USERNAME, PASSWORD)).code)
        seen.append((smtp.supports_extension("8bitmime"), sorted(smtp.esmtp_extensions), (await smtp.noop()).code))
        errors, _ = await smtp.sendmail(SENDER, [ANYONE], content)
        seen.append(errors)
        seen.append([(await smtp.mail(SENDER)).code, (await smtp.rcpt(ANYONE)).code, (await smtp.rset()).code])
        seen.append((await smtp.quit()).code)
    return seen


@pytest.mark.parametrize("server", SECURE_SERVERS, indirect=True)
@pytest.mark.parametrize("service", ["starttls", "implicit"])
@pytest.mark.asyncio
async def test_a_program_does_the_same_over_both_libraries(server: SecureServer, service: str) -> None:
    theirs, ours = new_message_id(), new_message_id()
    contents = {message_id: raw_message(message_id, b"Hello.\r\n.\r\n") for message_id in (theirs, ours)}
    said = await program(aiosmtplib, server, service, contents[theirs])
    assert await program(compat, server, service, contents[ours]) == said
    for message_id, content in contents.items():
        assert [copy.content for copy in server.stored(message_id)] == [as_stored(content)]
