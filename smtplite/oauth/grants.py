"""The sources: three ways in which a provider gives a program a token (RFC 6749 4.4, 6; RFC 7523)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import anyio

from smtplite.callbacks import check_function, result_of
from smtplite.errors import ConfigurationError, TokenError
from smtplite.oauth.endpoint import SEE_DATA, Endpoint, checked
from smtplite.oauth.source import Token, TokenSource

__all__ = ["ClientCredentials", "RefreshToken", "ServiceAccount"]

_JWT_SECONDS: Final = 3600  # as long as Google allows

_logger: Final = logging.getLogger("smtplite")


class ClientCredentials(TokenSource):
    """Tokens for an application that sends in its own name: the client credentials grant (RFC 6749 4.4). Microsoft 365.

    Args:
        token_endpoint: ``https://login.microsoftonline.com/TENANT/oauth2/v2.0/token``.
        client_id: who the application is.
        client_secret: its secret.
        scope: what the token is for: ``https://outlook.office365.com/.default``.
        timeout: how many seconds a fetch may take in all.
        tls_context: what verifies the endpoint's certificate; None: the system's certificates.

    Raises:
        ConfigurationError: an argument cannot be used, or the extra is not installed.
    """

    def __init__(
        self,
        *,
        token_endpoint: str,
        client_id: str,
        client_secret: str,
        scope: str | None = None,
        timeout: float = 30.0,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        self._client_id = checked("client_id", client_id)
        self._client_secret = checked("client_secret", client_secret)
        self._scope = None if scope is None else checked("scope", scope)
        super().__init__(Endpoint.of(token_endpoint, timeout, tls_context, SEE_DATA))

    def _name(self) -> str:
        return self._client_id

    async def _ask(self, options: dict[str, Any]) -> None:
        # In the form, as both providers document it: authlib's Basic does not encode the secret (RFC 6749 2.3.1).
        async with self._clients.AsyncOAuth2Client(
            self._client_id,
            self._client_secret,
            token_endpoint_auth_method="client_secret_post",  # noqa: S106 (the name of a way)
            scope=self._scope,
            **options,
        ) as client:
            await client.fetch_token(self._endpoint.url, grant_type="client_credentials")


class RefreshToken(TokenSource):
    """Tokens for a mailbox whose user consented once: the refresh token grant (RFC 6749 6). Gmail, Microsoft.

    Some providers send a new refresh token with an access token, and the old one stops working. `on_rotated` lets a
    program keep the new one over a restart: the access token is used only after it has returned. If it raises, nobody
    gets a token, and it is called again with the same refresh token when the next token is requested.

    Args:
        token_endpoint: ``https://oauth2.googleapis.com/token``, or
            ``https://login.microsoftonline.com/TENANT/oauth2/v2.0/token``.
        client_id: who the application is.
        client_secret: its secret; None for an application that has none.
        refresh_token: the one that the provider gave when the user consented, or the last one given to `on_rotated`.
        scope: what the token is for; None: everything that the user consented to.
        on_rotated: ``async (refresh_token: str) -> None``: stores a new refresh token, within `timeout` seconds.
        timeout: how many seconds a fetch may take in all.
        tls_context: what verifies the endpoint's certificate; None: the system's certificates.

    Raises:
        ConfigurationError: an argument cannot be used, or the extra is not installed.
    """

    def __init__(
        self,
        *,
        token_endpoint: str,
        client_id: str,
        refresh_token: str,
        client_secret: str | None = None,
        scope: str | None = None,
        on_rotated: Callable[[str], Awaitable[None]] | None = None,
        timeout: float = 30.0,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        self._client_id = checked("client_id", client_id)
        self._client_secret = None if client_secret is None else checked("client_secret", client_secret)
        self._refresh_token = checked("refresh_token", refresh_token)
        self._scope = None if scope is None else checked("scope", scope)
        if on_rotated is not None:
            check_function("on_rotated", on_rotated, "an async function of one argument (refresh_token: str)", 1)
        self._on_rotated = on_rotated
        self._unsaved: Token | None = None
        remedy = "the refresh token has expired, was revoked or is another client's: have the user consent again"
        super().__init__(Endpoint.of(token_endpoint, timeout, tls_context, remedy))

    def _name(self) -> str:
        return self._client_id

    async def _ask(self, options: dict[str, Any]) -> None:
        async with self._clients.AsyncOAuth2Client(
            self._client_id,
            self._client_secret,
            token_endpoint_auth_method="none" if self._client_secret is None else "client_secret_post",
            scope=self._scope,
            **options,
        ) as client:
            await client.refresh_token(self._endpoint.url, refresh_token=self._refresh_token)

    async def _renew(self) -> Token:
        if self._unsaved is not None:
            unsaved = await self._save(self._unsaved)
            if unsaved.is_fresh:
                return unsaved
        token = await self._fetch_token()
        if token.refresh_token is None or token.refresh_token == self._refresh_token:
            return token
        self._refresh_token = token.refresh_token  # the old one may have ended, whatever becomes of this one
        self._unsaved = token
        return await self._save(token)

    async def _save(self, token: Token) -> Token:
        if self._on_rotated is None:
            _logger.warning(
                "%s sent a new refresh token to %s, which is lost when the program ends: pass on_rotated=",
                self._endpoint.host,
                self._client_id,
            )
        else:
            try:
                with anyio.fail_after(self._endpoint.timeout):
                    await result_of("on_rotated", self._on_rotated(self._refresh_token))
            except Exception as error:
                raise TokenError(
                    f"on_rotated failed with {type(error).__name__}, so the new token is not used: the next call "
                    "calls it again",
                    phase="auth",
                    is_transient=True,
                ) from error
        self._unsaved = None
        return token


class ServiceAccount(TokenSource):
    """Tokens for a mailbox of a Google Workspace domain whose administrator trusts a service account (RFC 7523).

    `from_file` takes what it needs from the JSON file that Google makes for a key.

    Args:
        client_email: who the service account is.
        private_key: its RSA key, in PEM.
        subject: whose mailbox, by domain-wide delegation.
        scope: what the token is for.
        key_id: which of the account's keys it is.
        token_endpoint: where to ask.
        timeout: how many seconds a fetch may take in all.
        tls_context: what verifies the endpoint's certificate; None: the system's certificates.

    Raises:
        ConfigurationError: an argument cannot be used, or the extra is not installed.
    """

    def __init__(
        self,
        *,
        client_email: str,
        private_key: str,
        subject: str,
        scope: str = "https://mail.google.com/",
        key_id: str | None = None,
        token_endpoint: str = "https://oauth2.googleapis.com/token",  # noqa: S107 (an address)
        timeout: float = 30.0,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        self._client_email = checked("client_email", client_email)
        self._subject = checked("subject", subject)
        self._scope = checked("scope", scope)
        self._header = {"alg": "RS256", "typ": "JWT"}
        if key_id is not None:
            self._header["kid"] = checked("key_id", key_id)
        remedy = "check subject=, scope=, what the administrator delegated to this account, and this machine's clock"
        super().__init__(Endpoint.of(token_endpoint, timeout, tls_context, remedy))
        self._key = _rsa_key(private_key)

    @classmethod
    def from_info(
        cls,
        info: Mapping[str, Any],
        *,
        subject: str,
        scope: str = "https://mail.google.com/",
        timeout: float = 30.0,
        tls_context: ssl.SSLContext | None = None,
    ) -> ServiceAccount:
        """Return the service account of a key that Google made: what is in its JSON file.

        Raises:
            ConfigurationError: it is not such a key.
        """
        if not isinstance(info, Mapping) or info.get("type") != "service_account":
            raise ConfigurationError(
                "key file is not a service account's: make one in the Google Cloud console, as JSON with "
                '"type": "service_account"'
            )
        return cls(
            client_email=info.get("client_email", ""),
            private_key=info.get("private_key", ""),
            subject=subject,
            scope=scope,
            key_id=info.get("private_key_id"),
            token_endpoint=info.get("token_uri", ""),
            timeout=timeout,
            tls_context=tls_context,
        )

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        subject: str,
        scope: str = "https://mail.google.com/",
        timeout: float = 30.0,
        tls_context: ssl.SSLContext | None = None,
    ) -> ServiceAccount:
        """Return the service account of a key's JSON file, which is read now.

        Raises:
            ConfigurationError: it cannot be read, or is not such a key.
        """
        try:
            info = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise ConfigurationError(f"key file cannot be read: {error.strerror}: {os.fspath(path)!r:.80}") from error
        except (ValueError, RecursionError):
            info = None
        return cls.from_info(info, subject=subject, scope=scope, timeout=timeout, tls_context=tls_context)

    def _name(self) -> str:
        return self._client_email

    async def _ask(self, options: dict[str, Any]) -> None:
        url = self._endpoint.url
        async with self._clients.AsyncAssertionClient(
            url,
            issuer=self._client_email,
            subject=self._subject,
            audience=url,
            claims={"scope": self._scope},  # Google reads it here
            key=self._key,
            header=dict(self._header),
            expires_in=_JWT_SECONDS,
            **options,
        ) as client:
            await client.refresh_token()


def _rsa_key(pem: object) -> Any:
    """Read a private key once: to check it takes longer than to sign with it."""
    from joserfc.jwk import RSAKey

    key = None
    if isinstance(pem, str) and "PRIVATE KEY" in pem:
        with contextlib.suppress(Exception):  # whatever is wrong with it: what its parser says could hold parts of it
            key = RSAKey.import_key(pem)
    if key is None:
        raise ConfigurationError("private_key is not an RSA private key in PEM: pass the one from Google's JSON file")
    return key
