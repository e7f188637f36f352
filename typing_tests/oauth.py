"""Where tokens come from: `smtplite.oauth`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

from smtplite import AuthenticationError, Client, SyncClient, TokenError, oauth, sasl

ENDPOINT = "https://login.example.com/token"
SECRET = "s3cret"  # noqa: S105 (an example)


async def store(refresh_token: str) -> None:
    """Keep a refresh token."""


def sources() -> None:
    """Each is what a mechanism takes."""
    application = oauth.ClientCredentials(
        token_endpoint=ENDPOINT, client_id="a", client_secret=SECRET, scope="c", timeout=5
    )
    user = oauth.RefreshToken(token_endpoint=ENDPOINT, client_id="a", refresh_token=SECRET, on_rotated=store)
    account = oauth.ServiceAccount.from_file(Path("key.json"), subject="me@example.org")
    assert_type(account, oauth.ServiceAccount)
    every: list[oauth.TokenSource] = [application, user, account]
    callback: sasl.TokenCallback = application
    Client("smtp.example.com", auth=[sasl.OAuthBearer("me", user), sasl.XOAuth2("me", user)])
    SyncClient("smtp.example.com", auth=sasl.XOAuth2("me", account))
    oauth.ClientCredentials("a", "b")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    print(every, callback)


async def a_token(source: oauth.TokenSource) -> None:
    """A source is a function."""
    assert_type(await source(False), str)
    await source("no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def an_error(error: TokenError) -> None:
    """What a provider said."""
    failed: AuthenticationError = error
    assert_type(error.error_data, dict[str, Any] | None)
    assert_type(error.is_transient, bool)
    print(failed)
