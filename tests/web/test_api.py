"""The JSON API of `smtplite serve --web`: what it answers, and that its description says so."""

from __future__ import annotations

import re
from typing import Any

import anyio
import jsonschema
import pytest
import pytest_asyncio
from httpx import AsyncClient, Response

from smtplite.cli.store import Store
from smtplite.cli.web.app import MAX_BODY_BYTES, Site
from smtplite.cli.web.release import Release
from smtplite.testing import SMTPServer

from .conftest import CHANGING, PIXEL, REFUSED, Ask, letter, received

API = "/api/v1/messages"
pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def description(ask: Ask) -> dict[str, Any]:
    answer: dict[str, Any] = (await ask().get("/openapi.json")).json()
    return answer


def answered(description: dict[str, Any], response: Response, method: str, path: str) -> Any:
    """Return the JSON of a response, which is as its description has it."""
    operation = description["paths"][path][method]
    said = operation["responses"].get(str(response.status_code), operation["responses"]["default"])
    schema = said["content"]["application/json"]["schema"]
    answer = response.json()
    jsonschema.validate(answer, {**schema, "components": description["components"]})
    return answer


async def test_messages_are_listed_the_newest_first(ask: Ask, store: Store, description: dict[str, Any]) -> None:
    store.add(received(recipients=tuple(f"r{n}@example.net" for n in range(12))))
    store.add(REFUSED)
    answer = answered(description, await ask().get(API), "get", API)
    assert answer["revision"] == answer["total"] == 2
    refused, first = answer["messages"]
    assert refused["refusal"] == "550 5.1.1 no such user (at RCPT: bob@example.net)"
    assert (first["subject"], first["from"]) == ("Your invoice", "Ada Lovelace <ada@example.org>")
    assert (first["recipient_count"], len(first["recipients"]), first["violation_count"]) == (12, 10, 1)


async def test_a_list_can_be_read_in_parts(ask: Ask, store: Store) -> None:
    for _ in range(5):
        store.add(received())
    client = ask()
    assert [each["number"] for each in (await client.get(f"{API}?limit=2")).json()["messages"]] == [5, 4]
    answer = (await client.get(f"{API}?limit=2&before=4")).json()
    assert [each["number"] for each in answer["messages"]] == [3, 2]
    assert answer["total"] == 3


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "before=²", "limit=99999999999", "wait=x"])
async def test_what_is_no_number_is_said(query: str, ask: Ask, description: dict[str, Any]) -> None:
    response = await ask().get(f"{API}?{query}")
    assert response.status_code == 422
    assert "is a whole number" in answered(description, response, "get", API)["error"]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("", [3, 2, 1]),
        ("ENGINE", [2]),
        ("dear grace", [2, 1]),
        ('"grace, see"', []),
        ('"dear grace"', [2, 1]),
        ("märz.csv", [2, 1]),
        ("from:ada", [3, 2, 1]),
        ("to:hopper", [2, 1]),
        ("to:grace subject:invoice", [1]),
        ("subject:dear", []),
        ("is:refused", [3]),
        ("is:violations", [2, 1]),
        ("is:whatever", []),
        ("from:", [3, 2, 1]),
        ("is:", [3, 2, 1]),
        ('from:"ada lovelace" ', [2, 1]),
    ],
)
async def test_search(query: str, numbers: list[int], ask: Ask, store: Store) -> None:
    store.add(received())
    store.add(received(letter("The analytical engine")))
    store.add(REFUSED)
    answer = (await ask().get(API, params={"search": query})).json()
    assert [each["number"] for each in answer["messages"]] == numbers


async def test_a_search_finds_the_words_of_html_mail(ask: Ask, store: Store) -> None:
    store.add(received(b"Content-Type: text/html\r\n\r\n<style>p{}</style><p>reset your <b>password</b>"))
    client = ask()
    assert (await client.get(f"{API}?search=password")).json()["total"] == 1
    assert (await client.get(f"{API}?search=style")).json()["total"] == 0


async def test_what_was_deleted_is_forgotten_by_the_search_as_well(ask: Ask, store: Store) -> None:
    site = Site(store)
    store.add(received())
    store.add(received())
    await ask(site).get(f"{API}?search=invoice")
    assert len(site.index) == 2
    store.remove([1])
    assert len(site.index) == 1


async def test_whoever_waits_gets_the_message_that_comes(ask: Ask, store: Store) -> None:
    site = Site(store)
    client = ask(site)
    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            while not len(site.events):
                await anyio.lowlevel.checkpoint()
            store.add(received(letter("another one")))
            store.add(received())

        tasks.start_soon(send)
        answer = (await client.get(f"{API}?search=subject:invoice&wait=60")).json()
    assert [each["number"] for each in answer["messages"]] == [2]


async def test_nobody_waits_for_a_server_that_ends(ask: Ask, store: Store) -> None:
    site = Site(store)
    site.events.end()
    assert (await ask(site).get(f"{API}?wait=60")).json()["total"] == 0


async def test_a_message_is_read_in_full(ask: Ask, store: Store, description: dict[str, Any]) -> None:
    store.add(received())
    answer = answered(description, await ask().get(f"{API}/1"), "get", f"{API}/{{number}}")
    assert answer["text"] == "Dear Grace,\nsee https://example.org/i/7.\n"
    assert answer["html"].startswith("<p>Dear <b>Grace</b>")
    assert answer["links"] == ["https://example.org/pay?a=1&b=2", "javascript:alert(1)", "https://example.org/i/7"]
    assert [(each["name"], each["content_id"], each["size"]) for each in answer["attachments"]] == [
        ("part-1.png", "logo@example.org", len(PIXEL)),
        ("Rechnung für März.csv", "", 5),
    ]
    assert {"name": "Subject", "value": "Your invoice"} in answer["headers"]
    assert answer["parameters"] == {"SIZE": "7"}
    assert answer["recipient_parameters"] == [{"NOTIFY": "NEVER"}]
    assert answer["dialogue"][0] == {"who": "server", "said": "220 mail.example.com"}
    assert answer["violations"] == [
        {"text": "a line ended in a bare LF", "at": "CONTENT", "rfc": "RFC 5321 section 2.3.8"}
    ]


async def test_a_session_that_came_to_nothing_is_read_as_well(
    ask: Ask, store: Store, description: dict[str, Any]
) -> None:
    store.add(REFUSED)
    answer = answered(description, await ask().get(f"{API}/1"), "get", f"{API}/{{number}}")
    assert answer["refusals"] == [{"at": "RCPT", "reply": "550 5.1.1 no such user", "recipient": "bob@example.net"}]
    assert (await ask().get("/messages/1/pane")).status_code == 200


async def test_what_is_no_unicode_is_shown_all_the_same(ask: Ask, store: Store) -> None:
    store.add(received(sender="\udcff@example.org", helo="\udcff"))
    assert (await ask().get(API)).json()["messages"][0]["sender"] == "\udcff@example.org"
    assert (await ask().get("/messages/1/pane")).status_code == 200


async def test_html_text_source_and_attachments(ask: Ask, store: Store) -> None:
    message = received()
    store.add(message)
    client = ask()
    html = await client.get(f"{API}/1/html")
    assert html.headers["content-type"] == "text/html; charset=utf-8"
    assert 'src="data:image/png;base64,' in html.text
    assert (await client.get(f"{API}/1/text")).text == "Dear Grace,\nsee https://example.org/i/7.\n"
    source = await client.get(f"{API}/1/source")
    assert source.content == message.content
    assert source.headers["content-type"] == "text/plain; charset=utf-8"
    file = await client.get(f"{API}/1/source?download")
    assert file.headers["content-disposition"].startswith('attachment; filename="000001.eml"')
    attachment = await client.get(f"{API}/1/attachments/1")
    assert attachment.content == b"a,b\r\n"
    assert attachment.headers["content-type"] == "application/octet-stream"
    assert attachment.headers["content-disposition"] == (
        "attachment; filename=\"Rechnung f_r M_rz.csv\"; filename*=UTF-8''Rechnung%20f%C3%BCr%20M%C3%A4rz.csv"
    )


@pytest.mark.parametrize(
    "path",
    ["/2", "/2/html", "/1/html", "/1/attachments/0", "/2/source", "/0/text", "/1/attachments/99999999999999999999"],
)
async def test_what_is_not_there_is_said(path: str, ask: Ask, store: Store) -> None:
    store.add(received(b"Subject: plain\r\n\r\ntext\r\n"))
    response = await ask().get(API + path)
    assert response.status_code == 404
    assert response.json()["error"]


async def test_messages_are_deleted(ask: Ask, store: Store, description: dict[str, Any]) -> None:
    for _ in range(6):
        store.add(received())
    client = ask()
    response = await client.delete(f"{API}/2", headers=CHANGING)
    assert answered(description, response, "delete", f"{API}/{{number}}")["deleted"] == [2]
    response = await client.request("DELETE", API, headers=CHANGING, json={"numbers": [1, 2, 6]})
    assert answered(description, response, "delete", API)["deleted"] == [1, 6]
    assert (await client.get(f"{API}/1/source")).status_code == 404
    response = await client.request("DELETE", API, headers=CHANGING, json={"numbers": "all"})
    assert response.json()["deleted"] == [3, 4, 5]
    assert (await client.delete(f"{API}/2", headers=CHANGING)).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"[]", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"{}", 422),
        (b'{"numbers": "some"}', 422),
        (b'{"numbers": [true]}', 422),
        (b'{"numbers": ["1"]}', 422),
        (b" " * (MAX_BODY_BYTES + 1), 413),
    ],
)
async def test_a_request_that_does_not_say_which_deletes_nothing(
    body: bytes, status: int, ask: Ask, store: Store
) -> None:
    store.add(received())
    response = await ask().request("DELETE", API, headers=CHANGING, content=body)
    assert response.status_code == status
    assert response.json()["error"]
    assert len(store) == 1


async def test_a_file_that_cannot_be_deleted_is_said(ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(numbers: object) -> None:
        raise OSError(30, "Read-only file system")

    store.add(received())
    monkeypatch.setattr(store, "remove", fail)
    response = await ask().delete(f"{API}/1", headers=CHANGING)
    assert (response.status_code, response.json()["error"]) == (
        500,
        "cannot delete the file of a message: Read-only file system",
    )


# Release


def release_to(server: SMTPServer) -> Release:
    return Release(server.url, {"hostname": server.host, "port": server.port, "tls": "none"})


ENVELOPE = {"sender": "ada@example.org", "recipients": ["grace@example.net"]}
RELEASE = f"{API}/{{number}}/release"


async def test_a_message_is_sent_on_with_its_own_envelope(ask: Ask, store: Store, description: dict[str, Any]) -> None:
    store.add(received(b"Subject: hi\r\nTo: everybody@example.com\r\n\r\nx\r\n"))
    async with SMTPServer() as server:
        response = await ask(release=release_to(server)).post(f"{API}/1/release", headers=CHANGING, json=ENVELOPE)
    answer = answered(description, response, "post", RELEASE)
    assert (answer["accepted"], answer["error"]) == (["grace@example.net"], None)
    [message] = server.messages
    assert (message.sender, message.recipients) == ("ada@example.org", ("grace@example.net",))
    assert message.content == received(b"Subject: hi\r\nTo: everybody@example.com\r\n\r\nx\r\n").content


@pytest.mark.parametrize(
    "body",
    [
        {},
        {**ENVELOPE, "recipients": ["mallory@example.org"]},
        {**ENVELOPE, "recipients": ["grace@example.net", "mallory@example.org"]},
        {**ENVELOPE, "recipients": []},
        {**ENVELOPE, "sender": "mallory@example.org"},
        {**ENVELOPE, "server": "smtp://mallory.example"},
    ],
)
async def test_no_envelope_but_its_own_can_be_confirmed(body: dict[str, Any], ask: Ask, store: Store) -> None:
    store.add(received())
    async with SMTPServer() as server:
        response = await ask(release=release_to(server)).post(f"{API}/1/release", headers=CHANGING, json=body)
    assert response.status_code == 422
    assert not server.connections


async def test_without_a_server_nothing_is_released(ask: Ask, store: Store) -> None:
    store.add(received())
    response = await ask().post(f"{API}/1/release", headers=CHANGING, json=ENVELOPE)
    assert response.status_code == 404
    assert "--release-to" in response.json()["error"]


async def test_what_was_refused_is_not_released(ask: Ask, store: Store) -> None:
    store.add(REFUSED)
    async with SMTPServer() as server:
        body = {"sender": "ada@example.org", "recipients": []}
        response = await ask(release=release_to(server)).post(f"{API}/1/release", headers=CHANGING, json=body)
    assert response.status_code == 409
    assert not server.connections


async def test_what_became_of_each_recipient_is_told(ask: Ask, store: Store, description: dict[str, Any]) -> None:
    both = {"sender": "ada@example.org", "recipients": ["grace@example.net", "bob@example.net"]}
    store.add(received(recipients=("grace@example.net", "bob@example.net")))
    async with SMTPServer() as server:
        server.reply("RCPT", "550 5.1.1 no such user", to="bob@example.net")
        client = ask(release=release_to(server))
        answer = answered(
            description, await client.post(f"{API}/1/release", headers=CHANGING, json=both), "post", RELEASE
        )
        assert answer["accepted"] == ["grace@example.net"]
        assert answer["refused"] == {"bob@example.net": "550 5.1.1 no such user"}
        server.reply("END_OF_DATA", b"", performs=True, close=True)
        answer = answered(
            description, await client.post(f"{API}/1/release", headers=CHANGING, json=both), "post", RELEASE
        )
        assert answer["unknown"] == ["grace@example.net"]
        assert answer["may_have_been_delivered"]
    answer = answered(description, await client.post(f"{API}/1/release", headers=CHANGING, json=both), "post", RELEASE)
    assert answer["not_sent"] == both["recipients"]
    assert not answer["may_have_been_delivered"]
    assert answer["error"]


async def test_a_message_is_not_released_twice_at_the_same_time(ask: Ask, store: Store) -> None:
    store.add(received())
    async with SMTPServer() as server:
        held = server.hold("END_OF_DATA", times=1)
        client = ask(release=release_to(server))
        async with anyio.create_task_group() as tasks:

            async def first() -> None:
                assert (await client.post(f"{API}/1/release", headers=CHANGING, json=ENVELOPE)).status_code == 200

            tasks.start_soon(first)
            await held.wait()
            response = await client.post(f"{API}/1/release", headers=CHANGING, json=ENVELOPE)
            assert response.status_code == 409
            held.release()
        assert len(server.messages) == 1


# The description


async def test_every_route_is_described_and_nothing_else(store: Store, description: dict[str, Any]) -> None:
    routes = {
        (re.sub(r":int\}", "}", route.path), method.lower())
        for route in Site(store)._routes()
        for method in (route.methods or ())
        if method != "HEAD" and route.path.startswith("/api/")
    }
    described = {
        (path, method) for path, item in description["paths"].items() for method in item if method != "parameters"
    }
    assert described == routes


async def test_the_description_is_openapi(description: dict[str, Any]) -> None:
    assert description["openapi"] == "3.1.0"
    for schema in description["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for path, item in description["paths"].items():
        named = {each["name"] for each in item.get("parameters", ())}
        assert named == set(re.findall(r"\{(\w+)\}", path))


async def test_other_methods_are_refused(ask: Ask, store: Store) -> None:
    store.add(received())
    client: AsyncClient = ask()
    for method in ("POST", "PUT", "PATCH"):
        assert (await client.request(method, f"{API}/1", headers=CHANGING)).status_code == 405
    assert (await client.request("OPTIONS", API)).status_code == 403
    assert len(store) == 1
