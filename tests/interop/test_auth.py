"""smtplite against real servers with TLS and AUTH: every mechanism that each of them offers, under STARTTLS and TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterable

import pytest
import trustme

import smtplite
from smtplite import Client, sasl

from .launcher import HOST, PASSWORD, USERNAME
from .matrix import SECURE_SERVERS, Dialogue, each_service, usual
from .messages import SENDER, as_stored, nasty_message, new_message_id
from .secure import WITH_PASSWORD, WITH_TOKEN, SecurePostfix, SecureServer, access_token

pytestmark = pytest.mark.interop

RECIPIENT = "anyone@example.test"


def matrix(mechanisms: Iterable[str], *services: str) -> pytest.MarkDecorator:
    """Run a test for each server, each of these mechanisms that it offers, and each of these services."""
    return pytest.mark.parametrize(
        ("server", "service", "name"),
        [
            pytest.param(server, service, name, id=f"{server.__name__}-{service}-{name}")
            for server in SECURE_SERVERS
            for service in services
            for name in server.mechanisms
            if name in mechanisms
        ],
        indirect=["server"],
    )


each_mechanism = matrix([*WITH_PASSWORD, *WITH_TOKEN], "starttls", "implicit")
# A refusal takes a server up to a second, and is the same under any TLS.
each_password_mechanism = matrix(WITH_PASSWORD, "starttls")
each_token_mechanism = matrix(WITH_TOKEN, "starttls")
each_server = each_service(lambda service: service.tls != "none" and usual(service), servers=SECURE_SERVERS)
secure_postfix = pytest.mark.parametrize("server", [pytest.param(SecurePostfix, id="SecurePostfix")], indirect=True)


class Tokens:
    """A source of access tokens that notes how it was asked.

    Args:
        tokens: the one to give at first, and the one to give when that was rejected.
    """

    def __init__(self, *tokens: str) -> None:
        self._tokens = tokens
        self.refreshes: list[bool] = []

    async def __call__(self, refresh: bool) -> str:
        self.refreshes.append(refresh)
        return self._tokens[refresh]


def client_of(server: SecureServer, service: str, auth: sasl.Mechanism, trace: Dialogue | None = None) -> Client:
    """Return a client of a service, which trusts the server and authenticates."""
    return server.client(service, auth=auth, trace=trace)


# What lets us in


@each_mechanism
@pytest.mark.asyncio
async def test_check_authenticates(server: SecureServer, service: str, name: str) -> None:
    dialogue = Dialogue()
    async with client_of(server, service, server.mechanism(name), dialogue) as client:
        info = await client.check()
    assert info.tls == "TLSv1.3"
    assert set(info.mechanisms) == set(server.mechanisms)
    assert [command for command in dialogue.commands if command.startswith(f"AUTH {name}")]
    assert dialogue.codes.count(235) == 1


@each_server
@pytest.mark.asyncio
async def test_without_authentication_nothing_is_stored(server: SecureServer, service: str) -> None:
    """So that what the other tests find stored was sent by whoever authenticated."""
    message_id = new_message_id()
    async with server.client(service, auth=None) as client:
        with pytest.raises((smtplite.SenderRefused, smtplite.RecipientsRefused)):
            await client.send(nasty_message(message_id), sender=SENDER, recipients=[RECIPIENT])
    assert server.stored(message_id) == []


@each_server
@pytest.mark.asyncio
async def test_username_and_password_choose_the_best_mechanism(server: SecureServer, service: str) -> None:
    best = next(name for name in ("SCRAM-SHA-256", "PLAIN") if name in server.mechanisms)
    dialogue = Dialogue()
    async with server.client(service, auth=None, username=USERNAME, password=PASSWORD, trace=dialogue) as client:
        await client.check()
    assert [command.split()[1] for command in dialogue.commands if command.startswith("AUTH ")] == [best]
    assert dialogue.codes.count(235) == 1


# What keeps us out


@each_password_mechanism
@pytest.mark.asyncio
async def test_a_wrong_password_is_refused_with_the_reply(server: SecureServer, service: str, name: str) -> None:
    message_id = new_message_id()
    async with client_of(server, service, WITH_PASSWORD[name](USERNAME, "wrong " + PASSWORD)) as client:
        with pytest.raises(smtplite.AuthenticationError) as caught:
            await client.send(nasty_message(message_id), sender=SENDER, recipients=[RECIPIENT])
    assert caught.value.reply is not None
    assert caught.value.reply.code == 535
    assert caught.value.reply.text in str(caught.value)
    assert caught.value.not_sent == (RECIPIENT,)
    assert server.stored(message_id) == []


@each_token_mechanism
@pytest.mark.asyncio
async def test_a_rejected_token_is_renewed_once(server: SecureServer, service: str, name: str) -> None:
    message_id = new_message_id()
    message = nasty_message(message_id)
    tokens = Tokens(access_token(expired=True), access_token())
    async with client_of(server, service, WITH_TOKEN[name](USERNAME, tokens)) as client:
        await client.send(message, sender=SENDER, recipients=[RECIPIENT])
    assert tokens.refreshes == [False, True]
    assert [copy.content for copy in server.stored(message_id)] == [as_stored(message)]


@each_token_mechanism
@pytest.mark.asyncio
async def test_a_token_that_is_rejected_twice_is_an_error(server: SecureServer, service: str, name: str) -> None:
    message_id = new_message_id()
    tokens = Tokens(access_token(expired=True), access_token(expired=True))
    async with client_of(server, service, WITH_TOKEN[name](USERNAME, tokens)) as client:
        with pytest.raises(smtplite.AuthenticationError) as caught:
            await client.send(nasty_message(message_id), sender=SENDER, recipients=[RECIPIENT])
    assert tokens.refreshes == [False, True]
    assert caught.value.reply is not None
    assert caught.value.reply.code == 535
    assert server.stored(message_id) == []


@each_token_mechanism
@pytest.mark.asyncio
async def test_the_error_holds_what_the_server_says_of_a_token(server: SecureServer, service: str, name: str) -> None:
    async with client_of(server, service, WITH_TOKEN[name](USERNAME, access_token(expired=True))) as client:
        with pytest.raises(smtplite.AuthenticationError) as caught:
            await client.check()
    assert caught.value.reply is not None
    assert caught.value.reply.code == 535
    assert caught.value.error_data is not None
    assert caught.value.error_data["status"] in ("401", "invalid_token")


# Certificates


def context_that_trusts_nobody_here() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trustme.CA().configure_trust(context)
    return context


@each_server
@pytest.mark.asyncio
async def test_a_certificate_of_an_unknown_ca_is_a_tls_error(server: SecureServer, service: str) -> None:
    message_id = new_message_id()
    dialogue = Dialogue()
    async with server.client(service, tls_context=context_that_trusts_nobody_here(), trace=dialogue) as client:
        with pytest.raises(smtplite.TLSError, match="certificate"):
            await client.send(nasty_message(message_id), sender=SENDER, recipients=[RECIPIENT])
    assert dialogue.verbs <= {"EHLO", "STARTTLS"}
    assert server.stored(message_id) == []


@each_server
@pytest.mark.asyncio
async def test_a_certificate_with_another_name_is_a_tls_error(server: SecureServer, service: str) -> None:
    message_id = new_message_id()
    dialogue = Dialogue()
    async with server.client(service, tls_hostname="elsewhere.test", trace=dialogue) as client:
        with pytest.raises(smtplite.TLSError, match=r"elsewhere\.test"):
            await client.send(nasty_message(message_id), sender=SENDER, recipients=[RECIPIENT])
    assert dialogue.verbs <= {"EHLO", "STARTTLS"}
    assert server.stored(message_id) == []


@each_server
@pytest.mark.asyncio
async def test_check_shows_the_certificate(server: SecureServer, service: str) -> None:
    """It is for 127.0.0.1 and localhost."""
    async with client_of(server, service, server.mechanism("PLAIN")) as client:
        info = await client.check()
    assert info.certificate_subject is not None
    assert info.certificate_expires is not None
    assert info.cipher is not None


# AUTH in clear


@secure_postfix
@pytest.mark.asyncio
async def test_in_clear_nothing_secret_is_sent(server: SecureServer) -> None:
    message_id = new_message_id()
    dialogue = Dialogue()
    async with Client(
        HOST, server.ports["clear"], tls="none", username=USERNAME, password=PASSWORD, trace=dialogue
    ) as client:
        with pytest.raises(smtplite.AuthenticationError, match="allow_insecure_auth") as caught:
            await client.send(nasty_message(message_id), sender=SENDER, recipients=[RECIPIENT])
    assert caught.value.reply is None
    assert dialogue.verbs == {"EHLO"}
    assert server.stored(message_id) == []


@secure_postfix
@pytest.mark.parametrize("name", SecurePostfix.mechanisms)
@pytest.mark.asyncio
async def test_in_clear_every_mechanism_works_where_it_is_allowed(server: SecureServer, name: str) -> None:
    message_id = new_message_id()
    message = nasty_message(message_id)
    async with Client(
        HOST, server.ports["clear"], tls="none", auth=server.mechanism(name), allow_insecure_auth=True
    ) as client:
        receipt = await client.send(message, sender=SENDER, recipients=[RECIPIENT])
    assert receipt.tls is None
    assert [copy.content for copy in server.stored(message_id)] == [as_stored(message)]


@secure_postfix
@pytest.mark.asyncio
async def test_in_clear_the_chosen_mechanism_does_not_show_the_password(server: SecureServer) -> None:
    dialogue = Dialogue()
    async with Client(
        HOST,
        server.ports["clear"],
        tls="none",
        username=USERNAME,
        password=PASSWORD,
        allow_insecure_auth=True,
        trace=dialogue,
    ) as client:
        info = await client.check()
    assert info.tls is None
    assert [command.split()[1] for command in dialogue.commands if command.startswith("AUTH ")] == ["SCRAM-SHA-256"]
