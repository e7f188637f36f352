"""Tokens of `smtplite.oauth` at a real server that asks the authorization server about each: Dovecot's introspection.

Postfix takes the mail, Dovecot authenticates (RFC 7628 and XOAUTH2), and asks authlib's server on loopback (RFC 7662).
"""

from __future__ import annotations

import pytest

import smtplite
from smtplite import Client, oauth
from tests.oauth.authorization import (
    CLIENT_ID,
    CLIENT_SECRET,
    REFRESH_TOKEN,
    RESOURCE_SERVER,
    SCOPE,
    AuthorizationServer,
    google_key,
)

from .conftest import Launch
from .launcher import USERNAME
from .matrix import Dialogue
from .messages import SENDER, as_stored, nasty_message, new_message_id
from .secure import WITH_TOKEN, Dovecot, SecurePostfix

pytestmark = pytest.mark.interop

RECIPIENT = "anyone@example.test"


class IntrospectingDovecot(Dovecot):
    """Dovecot that knows no key, and asks about each token."""

    def __init__(self) -> None:
        super().__init__()
        self.provider = AuthorizationServer(user=USERNAME)

    def configure(self) -> list[str]:
        command = super().configure()
        client, secret = RESOURCE_SERVER
        (self.folder / "oauth2.conf").write_text(
            "introspection_mode = post\n"
            f"introspection_url = http://{client}:{secret}@127.0.0.1:{self.provider.port}/introspect\n"
            "username_attribute = username\n"
            "active_attribute = active\n"
            "active_value = true\n"
        )
        return command

    def start(self) -> None:
        self.provider.__enter__()
        super().start()

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self.provider.__exit__(None, None, None)


class IntrospectingPostfix(SecurePostfix):
    """Postfix with it."""

    name = "Postfix with Dovecot that introspects"
    mechanisms = tuple(WITH_TOKEN)
    DOVECOT = IntrospectingDovecot

    @property
    def provider(self) -> AuthorizationServer:
        """The authorization server that it asks."""
        assert isinstance(self.dovecot, IntrospectingDovecot)
        return self.dovecot.provider


@pytest.fixture
def server(launch: Launch) -> IntrospectingPostfix:
    launched = launch(IntrospectingPostfix)
    assert isinstance(launched, IntrospectingPostfix)
    return launched


def client_credentials(provider: AuthorizationServer) -> oauth.TokenSource:
    return oauth.ClientCredentials(
        token_endpoint=provider.token_endpoint, client_id=CLIENT_ID, client_secret=CLIENT_SECRET, scope=SCOPE
    )


def refresh_token(provider: AuthorizationServer) -> oauth.TokenSource:
    return oauth.RefreshToken(
        token_endpoint=provider.token_endpoint,
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        refresh_token=REFRESH_TOKEN,
    )


def service_account(provider: AuthorizationServer) -> oauth.TokenSource:
    return oauth.ServiceAccount.from_info(google_key(provider.token_endpoint), subject=USERNAME)


SOURCES = [client_credentials, refresh_token, service_account]
each_mechanism = pytest.mark.parametrize("name", WITH_TOKEN)


def client_of(server: IntrospectingPostfix, name: str, source: oauth.TokenSource, trace: Dialogue) -> Client:
    return server.client("starttls", auth=WITH_TOKEN[name](USERNAME, source), trace=trace)


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
@each_mechanism
@pytest.mark.asyncio
async def test_a_token_that_was_issued_lets_us_in(server: IntrospectingPostfix, name: str, make: object) -> None:
    assert callable(make)
    message_id = new_message_id()
    message = nasty_message(message_id)
    dialogue = Dialogue()
    asked = len(server.provider.introspected)
    async with client_of(server, name, make(server.provider), dialogue) as client:
        await client.send(message, sender=SENDER, recipients=[RECIPIENT])
    assert dialogue.codes.count(235) == 1
    assert len(server.provider.introspected) == asked + 1
    assert server.provider.introspected[-1] in server.provider.issued
    assert [copy.content for copy in server.stored(message_id)] == [as_stored(message)]


@each_mechanism
@pytest.mark.asyncio
async def test_a_token_that_was_revoked_is_rejected_and_fetched_anew_once(
    server: IntrospectingPostfix, name: str
) -> None:
    message_id = new_message_id()
    message = nasty_message(message_id)
    dialogue = Dialogue()
    source = client_credentials(server.provider)
    server.provider.revoke(await source(False))
    fetches = len(server.provider.forms)
    async with client_of(server, name, source, dialogue) as client:
        await client.send(message, sender=SENDER, recipients=[RECIPIENT])
    assert dialogue.codes.count(535) == dialogue.codes.count(235) == 1
    assert len(server.provider.forms) == fetches + 1
    assert [copy.content for copy in server.stored(message_id)] == [as_stored(message)]


@each_mechanism
@pytest.mark.asyncio
async def test_tokens_of_somebody_else_are_rejected(server: IntrospectingPostfix, name: str) -> None:
    message_id = new_message_id()
    with AuthorizationServer(user=USERNAME) as elsewhere:
        async with client_of(server, name, client_credentials(elsewhere), Dialogue()) as client:
            with pytest.raises(smtplite.AuthenticationError) as caught:
                await client.send(nasty_message(message_id), sender=SENDER, recipients=[RECIPIENT])
        assert len(elsewhere.forms) == 2
        assert not any(token in str(caught.value) + repr(vars(caught.value)) for token in elsewhere.issued)
    assert caught.value.reply is not None
    assert caught.value.reply.code == 535
    assert caught.value.error_data is not None
    assert server.stored(message_id) == []
