"""Who comes from another library learns what to write: options and methods that a Client has under other names."""

from __future__ import annotations

import copy
import inspect
import smtplib
from typing import Any

import aiosmtplib
import pytest

import smtplite
from smtplite import Client, ConfigurationError
from smtplite.elsewhere import METHODS, OPTIONS


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_an_option_of_another_library_says_what_to_write(name: str) -> None:
    options: dict[str, Any] = {name: True}
    with pytest.raises(ConfigurationError) as caught:
        Client("localhost", **options)
    assert str(caught.value) == f"Client has no argument {name}: {OPTIONS[name]}"
    assert not str(caught.value).endswith(".")


@pytest.mark.parametrize("function", [aiosmtplib.SMTP.__init__, smtplib.SMTP.__init__, aiosmtplib.send])
def test_every_option_of_the_peers_is_ours_or_explained(function: Any) -> None:
    ours = set(inspect.signature(Client).parameters) | set(inspect.signature(Client.send).parameters)
    for name in inspect.signature(function).parameters:
        assert name in ours or name in OPTIONS, name


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((), {"hostnam": "h"}, "Client has no argument hostnam: did you mean hostname=?"),
        ((), {"zzz": 1}, "Client has no argument zzz; it has hostname, port, tls, "),
        (("h", 25, "none"), {}, "Client is given arguments without their names: name all but hostname and port"),
        (("h",), {"hostname": "h"}, "Client is given hostname twice: by position and by name"),
    ],
)
def test_a_wrong_call_is_a_configuration_error_and_no_type_error(
    arguments: tuple[Any, ...], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Client(*arguments, **options)
    assert str(caught.value).startswith(says)


@pytest.mark.asyncio
async def test_send_says_it_too() -> None:
    with pytest.raises(ConfigurationError, match="Client has no argument from_addr: write sender="):
        await smtplite.send(b"", hostname="localhost", from_addr="a@example.org")
    with pytest.raises(ConfigurationError, match="Client has no argument use_tls: "):
        await smtplite.send(b"", hostname="localhost", use_tls=True)


def test_from_url_says_it_too() -> None:
    with pytest.raises(ConfigurationError, match="Client has no argument start_tls: "):
        Client.from_url("smtp://localhost", start_tls=False)


def test_tools_and_subclasses_see_the_options_as_they_are() -> None:
    class Ours(Client):
        def __init__(self, *, room: str) -> None:
            super().__init__("localhost", tls="none")
            self.room = room

    assert Ours(room="kitchen").room == "kitchen"
    assert list(inspect.signature(Client).parameters)[:3] == ["hostname", "port", "tls"]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_of_another_library_says_what_to_write(name: str) -> None:
    client = Client("localhost")
    with pytest.raises(AttributeError) as caught:
        getattr(client, name)
    assert str(caught.value) == f"Client has no {name}: {METHODS[name]}"
    assert not hasattr(client, name)


def test_what_programs_call_of_the_peers_is_ours_or_explained() -> None:
    calls = {name for name, _ in inspect.getmembers(aiosmtplib.SMTP, inspect.iscoroutinefunction) if name[0] != "_"}
    calls -= {name for name in calls if name.startswith("auth_")} | {"help"}
    calls |= {"close", "is_connected", "supports_extension"}  # which are no coroutines
    calls |= {"set_debuglevel", "has_extn", "docmd", "verify", "sendmail", "send_message", "starttls", "login", "quit"}
    assert len(calls) > 20
    assert calls - set(dir(smtplib.SMTP)) - set(dir(aiosmtplib.SMTP)) == set()
    assert {name for name in calls if not hasattr(Client, name)} - set(METHODS) == set()


def test_any_other_name_is_a_plain_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^Client has no nonsense$"):
        Client("localhost").nonsense  # type: ignore[attr-defined]  # noqa: B018 (what is tested)
    with pytest.raises(AttributeError, match=r"^Client has no _pool$"):  # and no recursion
        object.__new__(Client)._pool  # noqa: B018 (what is tested)
    assert repr(copy.copy(Client("localhost"))) == "Client('localhost:587')"
