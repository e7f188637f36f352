"""RawSession: a connection on which the caller says what is said, one command after another."""

from __future__ import annotations

from typing import Final

from smtplite.errors import LocalProtocolError, SMTPError
from smtplite.protocol.commands import (
    Auth,
    AuthCancel,
    AuthResponse,
    Bdat,
    BdatProbe,
    Command,
    Data,
    EndOfData,
    Greeting,
    StartTls,
)
from smtplite.protocol.extensions import Extensions
from smtplite.protocol.reply import Reply
from smtplite.results import ServerInfo
from smtplite.sending.deadline import Deadline
from smtplite.sending.handshake import reply_of
from smtplite.sending.session import Session

__all__ = ["RawSession"]

#: What takes more than a command and its reply: content, TLS, an exchange.
_NOT_RAW: Final = (Greeting, Data, EndOfData, Bdat, BdatProbe, StartTls, Auth, AuthResponse, AuthCancel)


class RawSession:
    """What `Client.session` gives: greeted, inside TLS and authenticated as the client's other connections.

    Args:
        session: for its commands alone.
        timeout: seconds for each command, all in all; None: no limit beside that of the reply.
    """

    def __init__(self, session: Session, timeout: float | None) -> None:
        self._session = session
        self._timeout = timeout

    @property
    def extensions(self) -> Extensions:
        """What the server offers."""
        return self._session.extensions

    @property
    def info(self) -> ServerInfo:
        """What is known of the server."""
        return self._session.info

    @property
    def transcript(self) -> tuple[str, ...]:
        """The last commands and replies, secrets left out."""
        return self._session.transcript

    async def command(self, command: Command) -> Reply:
        """Send a command and return its reply, whatever it says.

        Args:
            command: of `smtplite.protocol`, such as ``Vrfy("x")`` or ``Custom("XFOO", "bar")``.

        Raises:
            LocalProtocolError: the command is illegal now, or not one for a raw session; nothing was sent.
            ServiceUnavailable: the server closes the connection, unasked.
            ConnectionLost: the connection ended; it is of no further use.
            SMTPTimeout: no reply came in time; the connection is of no further use.
            RemoteProtocolError: the server broke the protocol; the connection is of no further use.
        """
        if isinstance(command, _NOT_RAW):
            raise LocalProtocolError(f"{command.verb or 'the greeting'} is not for a raw session: use Client.send")
        session = self._session
        if session.is_dead:
            raise LocalProtocolError("connection is closed: open another session")
        deadline = Deadline(self._timeout)
        try:
            with deadline.scope:
                return reply_of(await session.ask(command, deadline))
        except LocalProtocolError:
            raise
        except SMTPError as error:
            error.transcript = session.transcript
            session.abort(str(error))
            raise
        except BaseException:
            session.abort("a command was interrupted")
            raise
        timeout = deadline.error()
        timeout.transcript = session.transcript
        session.abort(str(timeout))
        raise timeout
