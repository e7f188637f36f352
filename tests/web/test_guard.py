"""Who may ask the page: by which name, from which page, with which token; and what every response says."""

from __future__ import annotations

import httpx
import pytest

from smtplite.cli.store import Store
from smtplite.cli.web.address import is_loopback
from smtplite.cli.web.guard import PAGE_POLICY, Token
from smtplite.cli.web.markup import POLICY

from .conftest import CHANGING, ORIGIN, Ask, received

API = "/api/v1/messages"
SECRET = "correct horse battery"
pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8025", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("app.localhost:8025", 200),
        ("[::1]:8025", 200),
        ("127.9.9.9", 200),
        ("mail.dev.example:8025", 200),
        ("MAIL.dev.example", 200),
        ("evil.example:8025", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("evillocalhost", 403),
        ("0.0.0.0:8025", 403),
        ("192.168.1.5", 403),
        ("", 403),
        ("[::1", 200),
        ("[fe80::1]", 403),
        ("2130706433", 403),
        ("localhost@evil.example", 403),
        ("evil.example#localhost", 403),
    ],
)
async def test_it_answers_to_names_of_this_machine_alone(host: str, status: int, ask: Ask) -> None:
    """DNS rebinding: a name of somebody else's that is made to point here."""
    client = ask(hosts=["mail.dev.example"])
    for path in ("/", API, "/openapi.json", "/static/page.js"):
        assert (await client.get(path, headers={"Host": host})).status_code == status, path


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {**CHANGING, "Origin": "null"},
        {**CHANGING, "Origin": "http://evil.example"},
        {**CHANGING, "Origin": "http://127.0.0.1"},
        {**CHANGING, "Origin": "http://127.0.0.1:8026"},
        {**CHANGING, "Origin": "http://localhost:8025"},
        {**CHANGING, "Origin": "http://127.0.0.1:8025.evil.example"},
        {**CHANGING, "Origin": ""},
    ],
)
async def test_nothing_changes_for_a_page_of_somebody_else(headers: dict[str, str], ask: Ask, store: Store) -> None:
    store.add(received())
    client = ask()
    for method, path in (("DELETE", f"{API}/1"), ("DELETE", API), ("POST", f"{API}/1/release"), ("POST", "/session")):
        response = await client.request(method, path, headers=headers, content=b'{"numbers": "all"}')
        assert response.status_code == 403
        assert "Origin: http://127.0.0.1:8025" in response.json()["error"]
    assert len(store) == 1


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_nothing_changes_for_what_a_form_could_send(kind: str, ask: Ask, store: Store) -> None:
    store.add(received())
    for path in (API, f"{API}/1"):
        response = await ask().request(
            "DELETE", path, headers={"Origin": ORIGIN, "Content-Type": kind}, content=b'{"numbers": "all"}'
        )
        assert response.status_code == 415
    assert len(store) == 1


async def test_an_origin_by_tls_is_a_proxys(ask: Ask, store: Store) -> None:
    store.add(received())
    headers = {**CHANGING, "Host": "mail.dev.example", "Origin": "https://mail.dev.example"}
    response = await ask(hosts=["mail.dev.example"]).delete(f"{API}/1", headers=headers)
    assert response.status_code == 200


async def test_get_changes_nothing(ask: Ask, store: Store) -> None:
    for _ in range(2):
        store.add(received())
    client = ask()
    for path in ("", "/1", "/1/html", "/1/text", "/1/source", "/1/attachments/0", "/1/release", "?_method=DELETE"):
        await client.get(API + path, headers={"X-HTTP-Method-Override": "DELETE"})
        await client.head(API + path)
    assert store.revision == 2


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_another_sites_page_cannot_load_anything(site: str, ask: Ask, store: Store) -> None:
    store.add(received())
    client = ask()
    for mode, destination in (("no-cors", "image"), ("no-cors", "script"), ("cors", "empty"), ("navigate", "iframe")):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": destination}
        assert (await client.get(f"{API}/1/attachments/0", headers=headers)).status_code == 403
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await client.get("/", headers=headers)).status_code == 200  # a link to it may be anywhere


# Tokens


async def test_with_a_token_nothing_is_told_without_it(ask: Ask, store: Store) -> None:
    store.add(received())
    client = ask(token=Token(SECRET, 8025))
    for path in (API, f"{API}/1", f"{API}/1/html", f"{API}/1/attachments/0", "/api/v1/events", "/openapi.json"):
        response = await client.get(path)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/messages/1", "/messages/1/pane"):
        response = await client.get(path)
        assert response.status_code == 401
        assert "Token" in response.text
        assert "invoice" not in response.text
    assert (await client.delete(f"{API}/1", headers=CHANGING)).status_code == 401
    assert (await client.get("/static/page.css")).status_code == 200
    assert len(store) == 1


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (f"Bearer {SECRET}", 200),
        (f"bearer  {SECRET}", 200),
        (f"Bearer {SECRET}x", 401),
        (f"Basic {SECRET}", 401),
        (SECRET, 401),
        ("Bearer", 401),
        ("Bearer ÿ", 401),
    ],
)
async def test_a_program_shows_the_token(value: str, status: int, ask: Ask) -> None:
    client = ask(token=Token(SECRET, 8025))
    headers = [(b"Authorization", value.encode("latin-1"))]
    assert (await client.get(API, headers=headers)).status_code == status


async def test_a_browser_gets_a_cookie_for_the_token(ask: Ask) -> None:
    client = ask(token=Token(SECRET, 8025))
    for wrong in ({"token": "wrong"}, {"token": 7}, {}):
        assert (await client.post("/session", headers=CHANGING, json=wrong)).status_code == 403
    assert (await client.get(API)).status_code == 401
    response = await client.post("/session", headers=CHANGING, json={"token": SECRET})
    assert response.status_code == 204
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("smtplite_8025=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert SECRET not in cookie
    assert (await client.get(API)).status_code == 200
    assert (await client.get("/")).status_code == 200


@pytest.mark.parametrize("cookie", ["smtplite_8025=x", "smtplite_8026=x", "smtplite_8025", ";;==", 'smtplite_8025="'])
async def test_another_cookie_is_none(cookie: str, ask: Ask) -> None:
    client = ask(token=Token(SECRET, 8025))
    assert (await client.get(API, headers={"Cookie": cookie})).status_code == 401


async def test_without_a_token_nobody_logs_in(ask: Ask) -> None:
    assert (await ask().post("/session", headers=CHANGING, json={"token": ""})).status_code == 403


# What every response says


def common(response: httpx.Response) -> None:
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert response.headers["x-dns-prefetch-control"] == "off"
    assert "access-control-allow-origin" not in response.headers


async def test_every_response_says_what_a_browser_may_do(ask: Ask, store: Store) -> None:
    store.add(received())
    client = ask()
    for path in ("/", "/messages/1", "/messages/1/pane", "/static/page.js", API, f"{API}/1", "/nothing", f"{API}/9"):
        response = await client.get(path)
        common(response)
        assert response.headers["content-security-policy"] == PAGE_POLICY, path
    for path in ("html", "text", "source", "source?download", "attachments/0"):
        response = await client.get(f"{API}/1/{path}")
        common(response)
        assert response.headers["content-security-policy"] == POLICY, path
    response = await client.get("/", headers={"Host": "evil.example"})
    common(response)


async def test_our_pages_are_in_nobodys_frame_and_load_from_nowhere_else() -> None:
    assert "frame-ancestors 'none'" in PAGE_POLICY
    assert "default-src 'none'" in PAGE_POLICY
    assert not {"'unsafe-inline'", "'unsafe-eval'", "http:", "https:", "*"} & set(PAGE_POLICY.split())
    assert POLICY.startswith("sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline';")


async def test_our_pages_name_nothing_of_elsewhere(ask: Ask, store: Store) -> None:
    store.add(received(b"Subject: plain\r\n\r\ntext\r\n"))
    client = ask()
    for path in ("/", "/messages/1/pane", "/static/page.css", "/static/page.js"):
        assert "://" not in (await client.get(path)).text, path


@pytest.mark.parametrize(
    ("host", "verdict"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)],
)
async def test_loopback(host: str, verdict: bool) -> None:
    assert is_loopback(host) is verdict
