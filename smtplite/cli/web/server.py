"""The server of the page: its socket, uvicorn on it, and the end of both."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import anyio
import uvicorn

from smtplite.cli.terminal import UserError

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from smtplite.cli.web.app import Site

__all__ = ["listen", "serve"]

#: For a response that is still under way when the server ends.
_GRACE_SECONDS: Final = 1
_FAILED: Final = 1


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals alone: `smtplite serve` hears them, and cancels us."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UserError: it cannot.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host} port {port} for the page: {error.strerror or error}", _FAILED
        ) from None


async def serve(site: Site, listener: socket.socket, *, task_status: TaskStatus[None]) -> None:
    """Serve the page until it is cancelled; then end what is under way, within a second or so."""
    config = uvicorn.Config(
        site.app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = _Server(config)

    async def run() -> None:
        with anyio.CancelScope(shield=True):  # cancelled, uvicorn would leave its connections as they are
            await server.serve(sockets=[listener])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        tasks.start_soon(site.index.run)
        try:
            task_status.started()
            await anyio.sleep_forever()
        finally:
            site.events.end()
            server.should_exit = True
