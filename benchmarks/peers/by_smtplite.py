"""smtplite, on asyncio, uvloop or trio: the worker's option."""

from __future__ import annotations

import inspect
import ssl
from typing import Any, Final

import anyio

import smtplite
from benchmarks.common import HOST, LOCAL_HOSTNAME, installed
from benchmarks.common import versions as versions_of
from benchmarks.peers.watch import watched
from benchmarks.work import Work
from benchmarks.worker import NotAvailable, Turn
from smtplite import Client

BACKENDS: Final[dict[str, dict[str, Any]]] = {
    "": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
IN_FLIGHT: Final = 32


def versions() -> dict[str, str]:
    """Return what runs here."""
    openssl = ssl.OPENSSL_VERSION.removeprefix("OpenSSL ")
    return {"smtplite": smtplite.__version__, "OpenSSL": openssl} | versions_of("anyio", "attrs", "uvloop", "trio")


def run(request: dict[str, Any], turn: Turn, option: str) -> None:
    """Do a `Work`."""
    work = Work(**request)
    if option and installed(option) is None:
        raise NotAvailable(f"{option} is not installed")
    if work.chunking and "chunking" not in inspect.signature(Client).parameters:
        raise NotAvailable("Client has no chunking=")
    if work.way == "bulk" and not hasattr(Client, "send_many"):
        raise NotAvailable("Client has no send_many")
    if work.way == "large-path" and not hasattr(smtplite, "Content"):
        raise NotAvailable("there is no Content")
    ways = {"sequence": sequence, "bulk": bulk, "concurrent": concurrent, "large": whole, "large-path": whole}
    anyio.run(ways[work.way], work, turn, **BACKENDS[option])


def public(name: str) -> Any:
    """Return a public name that an older smtplite may not have."""
    return getattr(smtplite, name)


def client_for(work: Work) -> Client:
    options: dict[str, Any] = {"chunking": True} if work.chunking else {}
    if work.trace:
        options["trace"] = _listen
    return Client(
        HOST, work.port, tls="none", local_hostname=LOCAL_HOSTNAME, max_connections=work.connections, **options
    )


def _listen(event: object) -> None:
    pass


def at_once(client: Client) -> int:
    """Return how many messages took the usual way so far, on the connections that are open (see `protocol.usual`)."""
    return sum(session.window.at_once for session in client._pool._idle)


def calls(work: Work) -> list[tuple[Any, dict[str, Any]]]:
    """Return the arguments of `send`; the envelope of an object is left to its headers, as its users do."""
    if work.form == "objects":
        return [(letter.built(), {}) for letter in work.messages()]
    return [(letter.octets, {"sender": letter.sender, "recipients": letter.recipients}) for letter in work.messages()]


async def sequence(work: Work, turn: Turn) -> None:
    todo = calls(work)
    before = 0
    if not work.warm:
        turn.begin()
    async with client_for(work) as client:
        for number, (message, envelope) in enumerate(todo):
            if number == work.warm and work.warm:
                before = at_once(client)
                turn.begin()
            await client.send(message, **envelope)
        turn.end()
        turn.result["at_once"] = at_once(client) - before


async def bulk(work: Work, turn: Turn) -> None:
    todo = calls(work)

    async def send_many(client: Any, some: list[tuple[Any, dict[str, Any]]]) -> None:
        outgoing: Any = public("Outgoing")
        messages = (outgoing(message, **envelope) for message, envelope in some)
        async with client.send_many(messages, connections=work.connections, in_flight=IN_FLIGHT) as deliveries:
            async for delivery in deliveries:
                delivery.result()

    before = 0
    if not work.warm:
        turn.begin()
    async with client_for(work) as client:
        if work.warm:
            await send_many(client, todo[: work.warm])
            before = at_once(client)
            turn.begin()
        await send_many(client, todo[work.warm :])
        turn.end()
        turn.result["at_once"] = at_once(client) - before


async def concurrent(work: Work, turn: Turn) -> None:
    todo = calls(work)

    async def send(client: Client, message: Any, envelope: dict[str, Any]) -> None:
        await client.send(message, **envelope)

    turn.begin()
    async with client_for(work) as client:
        async with anyio.create_task_group() as tasks:
            for message, envelope in todo:
                tasks.start_soon(send, client, message, envelope)
        turn.end()
        turn.result["at_once"] = at_once(client)


async def whole(work: Work, turn: Turn) -> None:
    """Send one large message, after a small one."""
    (small, envelope), *_ = calls(Work(way="sequence"))
    from_path = work.way == "large-path"
    message: Any = public("Content").from_path(work.path) if from_path else work.large()

    async def send() -> None:
        await client.send(message, **envelope)

    async with client_for(work) as client:
        await client.send(small, **envelope)
        turn.begin()
        if work.watch:
            await watched(send(), turn.result)
        else:
            await send()
        turn.end()
