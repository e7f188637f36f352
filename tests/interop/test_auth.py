"""smtplite against real servers with TLS and AUTH: every mechanism that each of them offers, under STARTTLS and TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Literal

import pytest
import trustme

import smtplite
from smtplite import Client, sasl
from smtplite.trace import FlightSent, ReplyReceived, TraceEvent

from .launcher import HOST
from .messages import SENDER, as_stored, nasty_message, new_message_id
from .secure import PASSWORD, SERVERS, USERNAME, SecurePostfix, SecureServer, access_token

pytestmark = pytest.mark.interop

Service = Literal["starttls", "implicit"]
SERVICES: tuple[Service, ...] = ("starttls", "implicit")
RECIPIENT = "anyone@example.test"
WITH_PASSWORD: dict[str, type[sasl.Plain | sasl.Login | sasl.CramMd5 | sasl.ScramSha1 | sasl.ScramSha256]] = {
    mechanism.name: mechanism for mechanism in (sasl.Plain, sasl.Login, sasl.CramMd5, sasl.ScramSha1, sasl.ScramSha256)
}
WITH_TOKEN: dict[str, type[sasl.TokenMechanism]] = {
    mechanism.name: mechanism for mechanism in (sasl.XOAuth2, sasl.OAuthBearer)
}


def matrix(mechanisms: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test for each server, each of these mechanisms that it offers, and each way to TLS."""
    return pytest.mark.parametrize(
        ("server", "service", "name"),
        [
            pytest.param(server, service, name, id=f"{server.__name__}-{service}-{name}")
            for server in SERVERS
            for service in SERVICES
            for name in server.mechanisms
            if name in mechanisms
        ],
        indirect=["server"],
    )


each_mechanism = matrix([*WITH_PASSWORD, *WITH_TOKEN])
each_password_mechanism = matrix(WITH_PASSWORD)
each_token_mechanism = matrix(WITH_TOKEN)
each_server = pytest.mark.parametrize(
    ("server", "service"),
    [pytest.param(server, service, id=f"{server.__name__}-{service}") for server in SERVERS for service in SERVICES],
    indirect=["server"],
)
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


class Dialogue:
    """What was said, from the events of a trace."""

    def __init__(self) -> None:
        self._events: list[TraceEvent] = []

    def __call__(self, event: TraceEvent) -> None:
        self._events.append(event)

    def __str__(self) -> str:
        return "\n".join(map(str, self._events))

    @property
    def commands(self) -> list[str]:
        """Every command that was sent."""
        return [command for event in self._events if isinstance(event, FlightSent) for command in event.commands]

    @property
    def verbs(self) -> set[str]:
        """The first word of every command that was sent."""
        return {command.partition(" ")[0] for command in self.commands}

    @property
    def codes(self) -> list[int]:
        """The code of every reply."""
        return [event.reply.code for event in self._events if isinstance(event, ReplyReceived)]


def valid(name: str) -> sasl.Mechanism:
    """Return a mechanism with which every server lets us in."""
    return (
        WITH_PASSWORD[name](USERNAME, PASSWORD) if name in WITH_PASSWORD else WITH_TOKEN[name](USERNAME, access_token())
    )


def client_of(server: SecureServer, service: Service, auth: sasl.Mechanism, trace: Dialogue | None = None) -> Client:
    """Return a client of a service, which trusts the server and authenticates."""
    context = server.client_context()
    return Client(HOST, server.ports[service], tls=service, tls_context=context, auth=auth, trace=trace)


# What lets us in


@each_mechanism
@pytest.mark.asyncio
async def test_check_authenticates(server: SecureServer, service: Service, name: str) -> None:
    dialogue = Dialogue()
    async with client_of(server, service, valid(name), dialogue) as client:
        info = await client.check()
    assert info.tls == "TLSv1.3"
    assert set(info.mechanisms) == set(server.mechanisms)
    assert [command for command in dialogue.commands if command.startswith(f"AUTH {name}")]
    assert dialogue.codes.count(235) == 1


@each_mechanism
@pytest.mark.asyncio
async def test_an_authenticated_message_is_stored_once(server: SecureServer, service: Service, name: str) -> None:
    message_id = new_message_id()
    message = nasty_message(message_id)
    async with client_of(server, service, valid(name)) as client:
        receipt = await client.send(message, sender=SENDER, recipients=[RECIPIENT])
    assert receipt.complete
    assert receipt.tls == "TLSv1.3"
    assert [(copy.recipient, copy.content) for copy in server.stored(message_id)] == [(RECIPIENT, as_stored(message))]


@each_server
@pytest.mark.asyncio
async def test_without_authentication_nothing_is_stored(server: SecureServer, service: Service) -> None:
    """So that what the other tests find stored was sent by whoever authenticated."""
    message_id = new_message_id()
    context = server.client_context()
    async with Client(HOST, server.ports[service], tls=service, tls_context=context) as client:
        with pytest.raises((smtplite.SenderRefused, smtplite.RecipientsRefused)):
            await client.send(nasty_message(message_id), sender=SENDER, recipients=[RECIPIENT])
    assert server.stored(message_id) == []


@each_server
@pytest.mark.asyncio
async def test_username_and_password_choose_the_best_mechanism(server: SecureServer, service: Service) -> None:
    best = next(name for name in ("SCRAM-SHA-256", "PLAIN") if name in server.mechanisms)
    dialogue = Dialogue()
    context = server.client_context()
    async with Client(
        HOST,
        server.ports[service],
        tls=service,
        tls_context=context,
        username=USERNAME,
        password=PASSWORD,
        trace=dialogue,
    ) as client:
        await client.check()
    assert [command.split()[1] for command in dialogue.commands if command.startswith("AUTH ")] == [best]
    assert dialogue.codes.count(235) == 1


# What keeps us out


@each_password_mechanism
@pytest.mark.asyncio
async def test_a_wrong_password_is_refused_with_the_reply(server: SecureServer, service: Service, name: str) -> None:
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
async def test_a_rejected_token_is_renewed_once(server: SecureServer, service: Service, name: str) -> None:
    message_id = new_message_id()
    message = nasty_message(message_id)
    tokens = Tokens(access_token(expired=True), access_token())
    async with client_of(server, service, WITH_TOKEN[name](USERNAME, tokens)) as client:
        await client.send(message, sender=SENDER, recipients=[RECIPIENT])
    assert tokens.refreshes == [False, True]
    assert [copy.content for copy in server.stored(message_id)] == [as_stored(message)]


@each_token_mechanism
@pytest.mark.asyncio
async def test_a_token_that_is_rejected_twice_is_an_error(server: SecureServer, service: Service, name: str) -> None:
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
async def test_the_error_holds_what_the_server_says_of_a_token(
    server: SecureServer, service: Service, name: str
) -> None:
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
async def test_a_certificate_of_an_unknown_ca_is_a_tls_error(server: SecureServer, service: Service) -> None:
    message_id = new_message_id()
    dialogue = Dialogue()
    async with Client(
        HOST,
        server.ports[service],
        tls=service,
        tls_context=context_that_trusts_nobody_here(),
        username=USERNAME,
        password=PASSWORD,
        trace=dialogue,
    ) as client:
        with pytest.raises(smtplite.TLSError, match="certificate"):
            await client.send(nasty_message(message_id), sender=SENDER, recipients=[RECIPIENT])
    assert dialogue.verbs <= {"EHLO", "STARTTLS"}
    assert server.stored(message_id) == []


@each_server
@pytest.mark.asyncio
async def test_a_certificate_with_another_name_is_a_tls_error(server: SecureServer, service: Service) -> None:
    message_id = new_message_id()
    dialogue = Dialogue()
    async with Client(
        HOST,
        server.ports[service],
        tls=service,
        tls_context=server.client_context(),
        tls_hostname="elsewhere.test",
        username=USERNAME,
        password=PASSWORD,
        trace=dialogue,
    ) as client:
        with pytest.raises(smtplite.TLSError, match=r"elsewhere\.test"):
            await client.send(nasty_message(message_id), sender=SENDER, recipients=[RECIPIENT])
    assert dialogue.verbs <= {"EHLO", "STARTTLS"}
    assert server.stored(message_id) == []


@each_server
@pytest.mark.asyncio
async def test_check_shows_the_certificate(server: SecureServer, service: Service) -> None:
    """It is for 127.0.0.1 and localhost."""
    async with client_of(server, service, valid("PLAIN")) as client:
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
    async with Client(HOST, server.ports["clear"], tls="none", auth=valid(name), allow_insecure_auth=True) as client:
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
