"""Envelope: MAIL and the RCPTs of a message, whose command objects are made only if somebody asks for them."""

from __future__ import annotations

from collections.abc import Sequence

from smtplite.protocol.commands import Mail, Rcpt
from smtplite.protocol.parameters import NO_PARAMETERS, Parameters
from smtplite.protocol.paths import ForwardPath, ReversePath

__all__ = ["EnvelopeCommands"]


class EnvelopeCommands:
    """MAIL and the RCPTs of one envelope, of which no RCPT has parameters. They are made when somebody asks for them.

    Args:
        sender: the reverse-path.
        parameters: of MAIL.
        recipients: the forward-paths.
    """

    __slots__ = "_commands", "parameters", "recipients", "sender"

    def __init__(self, sender: ReversePath, parameters: Parameters, recipients: Sequence[ForwardPath]) -> None:
        self.sender = sender
        self.parameters = parameters
        self.recipients = recipients
        self._commands: tuple[Mail, list[Rcpt]] | None = None

    @property
    def commands(self) -> tuple[Mail, list[Rcpt]]:
        """MAIL, and the RCPTs in the order of the recipients: the same each time."""
        if self._commands is None:
            rcpts = [Rcpt(path, NO_PARAMETERS) for path in self.recipients]
            self._commands = Mail(self.sender, self.parameters), rcpts
        return self._commands
