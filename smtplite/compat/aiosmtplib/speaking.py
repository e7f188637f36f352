"""The commands of SMTP and the mechanisms of AUTH, each as a method, by aiosmtplib's names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

from smtplite import ConfigurationError, sasl
from smtplite.compat.aiosmtplib.connecting import Connected, Timeout
from smtplite.compat.aiosmtplib.exceptions import (
    SMTPAuthenticationError,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPSenderRefused,
)
from smtplite.compat.aiosmtplib.parts import mail_command, parse_address, rcpt_command
from smtplite.compat.aiosmtplib.values import Default, SMTPResponse, SMTPStatus, response_of
from smtplite.errors import LocalProtocolError
from smtplite.protocol import Expn, Help, Noop, Rset, Vrfy

__all__ = ["Speaking"]

#: "Not this mechanism", which says nothing of the password: the next one may be tried.
_NOT_THIS_ONE: Final = (500, 501, 502, 504, 534, 538)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Speaking(Connected):
    """A connection, and what may be said on it."""

    #: What `login` tries, the preferred one first.
    AUTH_METHODS: ClassVar[tuple[str, ...]] = ("scram-sha-256", "scram-sha-1", "plain", "login", "cram-md5")

    async def _checked(
        self, response: SMTPResponse, *, error: type[SMTPResponseException] = SMTPResponseException
    ) -> SMTPResponse:
        if response.code >= 400:
            raise error(*response)
        return response

    async def noop(self, *, timeout: Timeout = Default.token) -> SMTPResponse:
        """Ask for nothing but a reply.

        Raises:
            SMTPResponseException: the server said no.
        """
        await self._ehlo_or_helo_if_needed()
        return await self._checked(await self._say(Noop(), timeout))

    async def rset(self, *, timeout: Timeout = Default.token) -> SMTPResponse:
        """Give the mail transaction up.

        Raises:
            SMTPResponseException: the server said no.
        """
        await self._ehlo_or_helo_if_needed()
        return await self._checked(await self._say(Rset(), timeout))

    async def help(self, *, timeout: Timeout = Default.token) -> str:
        """Ask for help; return the text.

        Raises:
            SMTPResponseException: the server said no.
        """
        await self._ehlo_or_helo_if_needed()
        return (await self._checked(await self._say(Help(), timeout))).message

    async def vrfy(
        self, address: str, /, *, options: Iterable[str] | None = None, timeout: Timeout = Default.token
    ) -> SMTPResponse:
        """Ask whether a mailbox exists.

        Raises:
            SMTPResponseException: the server said no.
        """
        await self._ehlo_or_helo_if_needed()
        return await self._checked(await self._say(Vrfy(self._about(address, options)), timeout))

    async def expn(
        self, address: str, /, *, options: Iterable[str] | None = None, timeout: Timeout = Default.token
    ) -> SMTPResponse:
        """Ask who is on a list.

        Raises:
            SMTPResponseException: the server said no.
        """
        await self._ehlo_or_helo_if_needed()
        return await self._checked(await self._say(Expn(self._about(address, options)), timeout))

    def _about(self, address: str, options: Iterable[str] | None) -> str:
        wanted = list(options or ())
        if any(option.lower() == "smtputf8" for option in wanted) and not self.supports_extension("smtputf8"):
            raise SMTPNotSupported("server does not offer SMTPUTF8")
        return " ".join((parse_address(address), *wanted))

    # A mail transaction by hand

    async def mail(
        self,
        sender: str,
        /,
        *,
        options: Iterable[str] | None = None,
        encoding: str = "ascii",
        timeout: Timeout = Default.token,
    ) -> SMTPResponse:
        """Begin a mail transaction.

        Raises:
            ValueError: the address cannot be sent.
            SMTPSenderRefused: the server said no.
        """
        await self._ehlo_or_helo_if_needed()
        address = parse_address(sender)
        address.encode(encoding)
        try:
            response = await self._say(mail_command(address, options), timeout)
        except SMTPException as error:
            _raise_out_of_order(error, SMTPSenderRefused, sender)
            raise
        if response.code >= 400:
            raise SMTPSenderRefused(*response, sender)
        return response

    async def rcpt(
        self,
        recipient: str,
        /,
        *,
        options: Iterable[str] | None = None,
        encoding: str = "ascii",
        timeout: Timeout = Default.token,
    ) -> SMTPResponse:
        """Name one recipient of the transaction.

        Raises:
            ValueError: the address cannot be sent.
            SMTPRecipientRefused: the server said no.
        """
        await self._ehlo_or_helo_if_needed()
        address = parse_address(recipient)
        address.encode(encoding)
        try:
            response = await self._say(rcpt_command(address, options), timeout)
        except SMTPException as error:
            _raise_out_of_order(error, SMTPRecipientRefused, recipient)
            raise
        if response.code >= 400:
            raise SMTPRecipientRefused(*response, recipient)
        return response

    async def data(self, message: str | bytes, /, *, timeout: Timeout = Default.token) -> SMTPResponse:
        """Send the content, after `mail` and `rcpt`: line endings become CRLF, and nothing else is changed.

        Raises:
            SMTPDataError: the server said no.
            SMTPServerDisconnected: the connection ended; a `smtplite.DeliveryUnknown` if all had been written.
            SMTPReadTimeoutError: no reply came in time; likewise.
        """
        self._live()
        await self._ehlo_or_helo_if_needed()
        octets = message.encode("ascii") if isinstance(message, str) else bytes(message)
        try:
            response = response_of(await self._do(lambda session: session.data(octets), timeout))
        except SMTPException as error:
            _raise_out_of_order(error, SMTPDataError)
            raise
        if response.code == SMTPStatus.domain_unavailable:
            self.close()
        return await self._checked(response, error=SMTPDataError)

    # Authentication

    @property
    def supported_auth_methods(self) -> list[str]:
        """What both sides know, in our order."""
        methods = [method for method in self.AUTH_METHODS if method in self.server_auth_methods]
        if self._context is None and self.socket_path is None:  # in clear: first what does not show the password
            methods.sort(key=lambda method: method in ("plain", "login"))
        return methods

    async def login(
        self, username: str | bytes, password: str | bytes, /, timeout: Timeout = Default.token
    ) -> SMTPResponse:
        """Authenticate by the best method that both sides know. A refused password is not tried by another one.

        Raises:
            SMTPAuthenticationError: the server refused it.
            SMTPException: the server offers no authentication, or none that can be used here.
        """
        self._live()
        await self._ehlo_or_helo_if_needed()
        if not self.supports_extension("auth"):
            hint = "" if self._context is not None else ": it may do so inside TLS, by starttls or use_tls=True"
            raise SMTPException(f"server offers no authentication{hint}")
        refused: SMTPAuthenticationError | None = None
        for name in self.supported_auth_methods:
            method = getattr(self, f"auth_{name.replace('-', '')}")
            try:
                response: SMTPResponse = await method(username, password, timeout=timeout)
            except SMTPAuthenticationError as error:
                refused = error
                if error.code not in _NOT_THIS_ONE:
                    break
            except ConfigurationError as error:  # SCRAM takes fewer passwords than the others
                if not name.startswith("scram"):
                    raise
                refused = refused or SMTPAuthenticationError(SMTPStatus.auth_failed, str(error))
            else:
                return response
        raise refused or SMTPException(f"server offers {self.server_auth_methods}, and none of {self.AUTH_METHODS}")

    async def auth_plain(
        self, username: str | bytes, password: str | bytes, /, *, timeout: Timeout = Default.token
    ) -> SMTPResponse:
        """Authenticate by PLAIN.

        Raises:
            SMTPAuthenticationError: the server refused it.
        """
        return await self._prove(sasl.Plain(_text(username), _text(password)), timeout)

    async def auth_login(
        self, username: str | bytes, password: str | bytes, /, *, timeout: Timeout = Default.token
    ) -> SMTPResponse:
        """Authenticate by LOGIN.

        Raises:
            SMTPAuthenticationError: the server refused it.
        """
        return await self._prove(sasl.Login(_text(username), _text(password)), timeout)

    async def auth_crammd5(
        self, username: str | bytes, password: str | bytes, /, *, timeout: Timeout = Default.token
    ) -> SMTPResponse:
        """Authenticate by CRAM-MD5.

        Raises:
            SMTPAuthenticationError: the server refused it.
        """
        return await self._prove(sasl.CramMd5(_text(username), _text(password)), timeout)

    async def auth_scramsha256(
        self, username: str | bytes, password: str | bytes, /, *, timeout: Timeout = Default.token
    ) -> SMTPResponse:
        """Authenticate by SCRAM-SHA-256, which aiosmtplib does not have.

        Raises:
            SMTPAuthenticationError: the server refused it.
        """
        return await self._prove(sasl.ScramSha256(_text(username), _text(password)), timeout)

    async def auth_scramsha1(
        self, username: str | bytes, password: str | bytes, /, *, timeout: Timeout = Default.token
    ) -> SMTPResponse:
        """Authenticate by SCRAM-SHA-1, which aiosmtplib does not have.

        Raises:
            SMTPAuthenticationError: the server refused it.
        """
        return await self._prove(sasl.ScramSha1(_text(username), _text(password)), timeout)

    async def auth_xoauth2(
        self, username: str | bytes, access_token: str | bytes, /, *, timeout: Timeout = Default.token
    ) -> SMTPResponse:
        """Authenticate by an OAuth 2.0 access token.

        Raises:
            SMTPAuthenticationError: the server refused it.
        """
        return await self._prove(sasl.XOAuth2(_text(username), _text(access_token)), timeout)

    async def _prove(self, mechanism: sasl.Mechanism, timeout: Timeout) -> SMTPResponse:
        self._live()
        await self._ehlo_or_helo_if_needed()
        self._refuse_in_clear()
        try:
            return response_of(await self._do(lambda session: session.authenticate(mechanism), timeout))
        except SMTPException as error:
            _raise_out_of_order(error, SMTPAuthenticationError)
            raise

    async def _log_in_if_wanted(self) -> None:
        generator, username = self._oauth_token_generator, self._login_username
        if generator is not None:
            if username is None:
                raise SMTPException("oauth_token_generator needs username")
            await self._ehlo_or_helo_if_needed()
            if "xoauth2" not in self.server_auth_methods:
                raise SMTPException("server does not offer XOAUTH2, which oauth_token_generator is for")
            self._refuse_in_clear()
            await self.auth_xoauth2(username, await generator())
        elif username is not None:
            await self.login(username, self._login_password if self._login_password is not None else "")


def _raise_out_of_order(error: SMTPException, cls: type[SMTPResponseException], *details: str) -> None:
    """Raise what a server would say to a command out of order: it was not sent."""
    if isinstance(error.__cause__, LocalProtocolError):
        raise cls(SMTPStatus.bad_command_sequence, f"not sent: {error}", *details) from error.__cause__
