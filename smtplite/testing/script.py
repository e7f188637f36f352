"""Scripted replies: what a testing server was told to say instead of its own reply."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import TypedDict

import attrs

__all__ = ["Hold", "ReplyOptions", "Script", "ScriptedReply", "ScriptedText"]

#: What a `ScriptedReply` may say.
ScriptedText = str | bytes | Callable[[bytes], bytes] | None

_VERB = re.compile(r"[A-Z][A-Z0-9_]*")
_CODE = re.compile(rb"[0-9]{3}")
_STATUS_LINE = re.compile(r"[0-9]{3}(?: .*)?")
_ENHANCED = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?= |$)")


def _same_mailbox(one: str, other: str) -> bool:
    """Compare as mailboxes: the local part exactly, the domain without regard to case (RFC 5321 section 2.4)."""
    one_local, _, one_domain = one.rpartition("@")
    other_local, _, other_domain = other.rpartition("@")
    return one_local == other_local and one_domain.lower() == other_domain.lower()


def _upper(verb: str) -> str:
    return verb.upper()


class Hold:
    """Holds back the replies that it is given to until `release`; a connection does not go on past such a reply.

    What the reply answers is done anyway: a message whose verdict is held is in the mailbox.

    Without I/O: `ServerConnection.feed` returns what comes before the reply, and `ServerConnection.resume`, once the
    hold has been released, the reply and what follows. `SMTPServer` does that by itself.
    """

    def __init__(self) -> None:
        #: Replies that were held so far.
        self.count = 0
        self.is_released = False
        self._on_release: list[Callable[[], None]] = []

    def release(self) -> None:
        """Let the replies go, and hold no more."""
        self.is_released = True
        listeners, self._on_release = self._on_release, []
        for listener in listeners:
            listener()

    def on_release(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the replies may go; at once, if they already may."""
        if self.is_released:
            listener()
        else:
            self._on_release.append(listener)

    def reached(self) -> None:
        """Note that a reply is held from now on."""
        self.count += 1


class ReplyOptions(TypedDict, total=False):
    """What `SMTPServer.reply` takes besides verb and reply: the keyword arguments of `ScriptedReply`."""

    to: str | None
    sender: str | None
    times: int | None
    performs: bool | None
    close: bool | None
    in_tls: bool | None
    alert: bool
    for_all: bool
    after_bytes: int
    hold: Hold | None


@attrs.frozen
class ScriptedReply:
    """One rule: what to say to which command, and what else the server does.

    A reply replaces the server's own to every command that it matches and that is free of syntax errors, even where
    the server would have said no. The command is performed if the reply is positive and the server is able to: a RCPT
    that is answered 250 after a refused MAIL still adds no recipient.

    Raises:
        ValueError: `reply` is text but not ``code [text]``, or `verb` cannot be a verb.
    """

    #: A command, ``GREETING``, or one of these that are not commands:
    #:
    #: - ``END_OF_DATA``: the reply to the lone dot and to BDAT LAST;
    #: - ``AUTH_RESPONSE``: the reply to a line of the client within an authentication exchange, except ``*``;
    #: - ``END_OF_AUTH``: the final reply of an exchange, whether it answers AUTH or a line after it; it has priority
    #:   over those;
    #: - ``CONTENT``: said in the middle of the content, once, as soon as more than `after_bytes` of it have come.
    #:   Nothing is performed or refused by it. Without `close` the rest of the content is read, and answered as usual.
    #:
    #: A 3yz reply to any of the AUTH verbs continues the exchange: instead of a challenge it is one; instead of the
    #: final reply it is one more challenge.
    verb: str = attrs.field(converter=_upper)
    #: Text: ``"550 5.1.1 no such user"``; each further line of the text becomes a line of a multi-line reply. Bytes:
    #: sent exactly as they are, even if there are none. None: what the server says by itself, for use with `hold`,
    #: `close` or `performs`. A function: turns what the server says by itself into what is sent.
    reply: ScriptedText = None
    #: Only for this recipient: of RCPT, of END_OF_DATA in LMTP, else one of those accepted; argument of VRFY, EXPN.
    to: str | None = attrs.field(default=None, kw_only=True)
    #: Only for this reverse-path, in MAIL and all that follows it; empty: the null reverse-path.
    sender: str | None = attrs.field(default=None, kw_only=True)
    #: How often, over all connections that share the script; None: always.
    times: int | None = attrs.field(default=None, kw_only=True)
    #: Whether the command is performed; None: if the reply is positive (3yz for DATA, 2yz for all others).
    performs: bool | None = attrs.field(default=None, kw_only=True)
    #: Whether the server closes after the reply; None: if its code is 421.
    close: bool | None = attrs.field(default=None, kw_only=True)
    #: Only inside TLS (True), or only outside it (False).
    in_tls: bool | None = attrs.field(default=None, kw_only=True)
    #: Inside TLS: close with a fatal alert after the reply (``bad_record_mac``), instead of an orderly end.
    alert: bool = attrs.field(default=False, kw_only=True)
    #: END_OF_DATA in LMTP: this one reply answers for all recipients, as Dovecot does for a failed BDAT.
    for_all: bool = attrs.field(default=False, kw_only=True)
    #: CONTENT: how much of the content comes before it.
    after_bytes: int = attrs.field(default=0, kw_only=True)
    #: Holds the reply back; the command is performed at once.
    hold: Hold | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if _VERB.fullmatch(self.verb) is None:
            raise ValueError(f"{self.verb!r} is not a verb, GREETING or END_OF_DATA")
        if isinstance(self.reply, str) and _STATUS_LINE.fullmatch(self.reply.partition("\n")[0]) is None:
            raise ValueError(
                f"{self.reply!r} is not a reply, such as '550 5.1.1 no such user'; bytes are sent as they are"
            )

    @property
    def is_own(self) -> bool:
        """Whether the reply is made from what the server says by itself."""
        return not isinstance(self.reply, str | bytes)

    @property
    def _code(self) -> bytes:
        if isinstance(self.reply, bytes):
            return self.reply[:3]
        return self.reply[:3].encode() if isinstance(self.reply, str) else b""

    @property
    def is_positive(self) -> bool:
        """Whether a client must take the reply as success of this verb; never if it is the server's own."""
        return self._code[:1] == (b"3" if self.verb == "DATA" else b"2")

    @property
    def is_negative(self) -> bool:
        """Whether a client must take the reply as a refusal; never if it is the server's own."""
        return self._code[:1] in {b"4", b"5"}

    @property
    def code(self) -> int | None:
        """The reply code, if it is there."""
        return int(self._code) if _CODE.fullmatch(self._code) else None

    def performs_if(self, positive: bool) -> bool:
        """Say whether the server performs a command that it answers with this.

        Args:
            positive: whether a client takes the reply as success.
        """
        return positive if self.performs is None else self.performs

    @property
    def is_performed(self) -> bool:
        """Whether the server performs the command that it answers with this, which is not its own reply."""
        return self.performs_if(self.is_positive)

    @property
    def is_intermediate(self) -> bool:
        """Whether the reply asks the client to go on."""
        return self._code[:1] == b"3"

    @property
    def closes(self) -> bool:
        """Whether the server closes the connection after this reply."""
        return self.alert or (self._code == b"421" if self.close is None else self.close)

    def matches(
        self,
        verb: str,
        *,
        sender: str | None,
        recipients: Collection[str],
        in_tls: bool = False,
        content_bytes: int = 0,
    ) -> bool:
        """Say whether this rule is meant for `verb` with these addresses, and so much content for CONTENT."""
        if verb != self.verb or self.in_tls not in {None, in_tls}:
            return False
        if verb == "CONTENT" and content_bytes <= self.after_bytes:
            return False
        if self.sender is not None and (sender is None or not _same_mailbox(self.sender, sender)):
            return False
        return self.to is None or any(_same_mailbox(self.to, recipient) for recipient in recipients)

    def to_bytes(self, suffix: str = "") -> bytes:
        """Return the bytes to send, of a reply that is not the server's own.

        Args:
            suffix: ends the first line of a reply given as text.
        """
        if not isinstance(self.reply, str):
            return self.reply if isinstance(self.reply, bytes) else b""
        first, *others = self.reply.split("\n")
        code, text = first[:3], first[4:]
        enhanced = _ENHANCED.match(text)
        prefix = f"{enhanced[0]} " if enhanced else ""
        *lines, last = ((text + suffix).strip(), *(prefix + line for line in others))
        lines_before = "".join(f"{code}-{line}\r\n" for line in lines)
        return (lines_before + (f"{code} {last}" if last else code) + "\r\n").encode()


class Script:
    """The rules of a server, in the order in which they were given: the first match that is not used up answers."""

    def __init__(self, replies: Iterable[ScriptedReply] = ()) -> None:
        self._rules: list[_Rule] = []
        for reply in replies:
            self.add(reply)

    def add(self, reply: ScriptedReply) -> None:
        """Append a rule."""
        if reply.times != 0:
            self._rules.append(_Rule(reply, reply.times))

    def clear(self) -> None:
        """Forget all rules: from here on the server gives its own replies."""
        self._rules.clear()

    def take(
        self,
        verb: str,
        *,
        sender: str | None = None,
        recipients: Collection[str] = (),
        in_tls: bool = False,
        content_bytes: int = 0,
    ) -> ScriptedReply | None:
        """Return the reply to `verb`, used once; None: the server gives its own reply."""
        for index, rule in enumerate(self._rules):
            if not rule.reply.matches(
                verb, sender=sender, recipients=recipients, in_tls=in_tls, content_bytes=content_bytes
            ):
                continue
            if rule.left is not None:
                rule.left -= 1
                if not rule.left:
                    del self._rules[index]
            return rule.reply
        return None


@attrs.define
class _Rule:
    reply: ScriptedReply
    left: int | None
