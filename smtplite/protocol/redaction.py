"""Redaction: what was sent to prove who we are must not come back in a text of ours (rules R17, R28).

A server may repeat what it was sent: in its refusal, in a success, in a line that is no reply at all. What is made of
its octets while it answers AUTH (an error, an event, a transcript) is made without them.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Final

from smtplite.protocol.commands import Auth, AuthCancel, AuthResponse
from smtplite.protocol.reply import Reply

__all__ = ["MIN_SOUGHT_BYTES", "REDACTED", "Guard", "Secrets"]

#: What stands in place of a secret.
REDACTED: Final = b"[redacted]"
#: A shorter secret is not looked for in free text, where it would be told by its gaps: the text is left out whole.
MIN_SOUGHT_BYTES: Final = 6
#: A piece of base64 that is as long as this was ours, not the server's: its echo may be cut.
_PIECE_BYTES: Final = 8

#: What EXTERNAL sends is an identity, and so is what LOGIN sends first.
_NAME_ALONE: Final = "EXTERNAL"
_NAME_FIRST: Final = "LOGIN"
#: In these the server has nothing of its own to say with its success.
_ONE_SIDED: Final = ("PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER")
#: What precedes the token in these is no secret.
_BEARER: Final = frozenset({"XOAUTH2", "OAUTHBEARER"})


class Secrets:
    """What was sent in the authentication exchanges of one connection."""

    def __init__(self) -> None:
        self._mechanism = ""
        self._responses = 0  # in this exchange
        self._words: set[bytes] = set()  # as they are, and as they were sent
        self._pieces: set[bytes] = set()  # of what was sent in base64, in lower case
        self._is_short = False  # a secret of this exchange

    def begin(self, mechanism: str) -> None:
        """Take note that an exchange begins."""
        self._mechanism = mechanism
        self._responses = 0
        self._is_short = False

    def add(self, sent: bytes) -> None:
        """Take what is sent in the exchange, before base64."""
        self._responses += 1
        self._note(b64encode(sent))
        is_name = self._mechanism == _NAME_FIRST and self._responses == 1
        if is_name or self._mechanism == _NAME_ALONE:
            return
        # The last field: PLAIN's password, the token of OAuth; else all of it.
        secret = re.split(rb"[\x00\x01]", sent.rstrip(b"\x01"))[-1]
        if self._mechanism in _BEARER:
            secret = secret.removeprefix(b"auth=Bearer ")
        if not secret:
            return
        if len(secret) < MIN_SOUGHT_BYTES:
            self._is_short = True
        self._note(b64encode(secret))
        for offset in (1, 2):  # in whatever it stands that is put into base64; its first and last digits are others'
            self._cut(b64encode(bytes(offset) + secret).rstrip(b"=")[(offset * 8 + 5) // 6 : -1])
        self._words.update(word for word in (sent, secret, *secret.split(b" ")) if len(word) >= MIN_SOUGHT_BYTES)

    def _note(self, encoded: bytes) -> None:
        if len(encoded) >= _PIECE_BYTES:
            self._words.add(encoded)
        self._cut(encoded)

    def _cut(self, encoded: bytes) -> None:
        lower = encoded.lower()
        self._pieces.update(lower[i : i + _PIECE_BYTES] for i in range(len(lower) - _PIECE_BYTES + 1))

    def hide(self, text: bytes) -> bytes:
        """Return the text without the secrets that can be looked for in it."""
        if self._words:
            # The longest first, where one is a part of the other.
            words = sorted(self._words, key=len, reverse=True)
            text = re.sub(b"|".join(map(re.escape, words)), REDACTED, text, flags=re.IGNORECASE)
        lower = text.lower()
        shown: list[bytes] = []
        end = 0  # of what was looked at: shown, or left out
        for i in range(len(lower) - _PIECE_BYTES + 1):
            if lower[i : i + _PIECE_BYTES] in self._pieces:
                if i > end or not shown:
                    shown += [text[end:i], REDACTED]
                end = i + _PIECE_BYTES
        return b"".join((*shown, text[end:]))

    def hide_in(self, reply: Reply) -> Reply:
        """Return a reply to AUTH, or to a response, as it may be shown."""
        if reply.code == 235:
            # The server's proof may stand in it, and is still to be read.
            is_left_out = self._is_short and self._mechanism in _ONE_SIDED
        else:
            is_left_out = self._is_short or not reply.is_negative  # no answer to AUTH at all
        if is_left_out:
            return Reply(reply.code, (REDACTED,), reply.enhanced)
        return Reply(reply.code, tuple(map(self.hide, reply.lines)), reply.enhanced)


class Guard:
    """What may be shown of a connection's octets: up from AUTH to the next command that is none of its exchange."""

    def __init__(self) -> None:
        #: True while an authentication exchange is under way, or its end is the last thing that happened.
        self.is_up = False
        self._secrets: Secrets | None = None  # what was sent in authentication

    def watch(self, command: Auth | AuthResponse | AuthCancel) -> None:
        """Keep in mind what the server must not be quoted with."""
        self.is_up = True
        secrets = self._secrets = self._secrets or Secrets()
        if isinstance(command, Auth):
            secrets.begin(command.mechanism)
            if command.initial_response:
                secrets.add(command.initial_response)
        elif isinstance(command, AuthResponse) and command.response:
            secrets.add(command.response)

    def shown(self, octets: bytes) -> bytes:
        """Return octets of the server's, which are no reply of its to us, as an error may show them."""
        if self.is_up:
            return REDACTED if octets else b""
        return octets if self._secrets is None else self._secrets.hide(octets)

    def shown_reply(self, reply: Reply) -> Reply:
        """Return a reply as it may be shown."""
        if self._secrets is None or not self.is_up or reply.code == 334:  # a challenge is part of the exchange
            return reply
        return self._secrets.hide_in(reply)
