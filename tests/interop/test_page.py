"""The page of `smtplite serve --web` in Chromium, driven as a person would: all of it, and what hostile mail tries."""

from __future__ import annotations

import email.policy
import functools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import attrs
import pytest

from smtplite import compose
from smtplite.cli.store import Store
from smtplite.cli.web import events
from smtplite.cli.web.app import Site
from smtplite.cli.web.guard import Token
from smtplite.cli.web.release import Release
from smtplite.cli.web.server import listen, serve
from smtplite.testing import ReceivedMessage, Refusal, RefusedMessage, SMTPServer, Violation

from .browser import PATIENCE_MS, axe, chromium, faults, missing, settled
from .hostile import HACKED, MESSAGES, TRAP
from .launcher import ensure_nothing_is_missing

pytestmark = pytest.mark.interop

#: Where pictures of the page are written, for the documentation, or to be looked at.
SHOTS = os.environ.get("SMTPLITE_SHOTS")
SECRET = "correct horse battery"


@attrs.define
class Trap:
    """A server of the sender's: counts whoever connects, and hears what they ask for."""

    port: int
    heard: list[bytes]
    hit: threading.Event

    def listen(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.hit.set()
            with connection:
                connection.settimeout(2)
                said = b""
                try:
                    said = connection.recv(200).partition(b"\r\n")[0]
                    connection.sendall(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")
                except OSError:  # a connection that was opened for later
                    pass
                self.heard.append(said)


@pytest.fixture(scope="module")
def trap() -> Iterator[Trap]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    found = Trap(listener.getsockname()[1], [], threading.Event())
    thread = threading.Thread(target=found.listen, args=[listener], daemon=True)
    thread.start()
    yield found
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


@attrs.define
class Catcher:
    """A page, and the store behind it; both in a thread."""

    url: str
    store: Store
    call: Callable[..., Any]
    site: Site
    smtp: SMTPServer

    def add(self, message: EmailMessage | bytes, **changes: Any) -> int:
        content = message if isinstance(message, bytes) else message.as_bytes(policy=email.policy.SMTP)
        plain = ReceivedMessage(
            sender="ada@example.org", recipients=("grace@example.net",), content=content, helo="client.example"
        )
        number: int = self.call(self.store.add, attrs.evolve(plain, **changes)).number
        return number

    def send(self, subject: str) -> None:
        """Send a message by SMTP."""

        async def send() -> None:
            async with self.smtp.client() as client:
                await client.send(letter(subject))

        self.call(send)


@contextmanager
def catching(*, keep: int | None = None, release: Release | None = None, **options: Any) -> Iterator[Catcher]:
    store = Store(keep=keep)

    def take(message: ReceivedMessage) -> None:
        store.add(message)

    listener = listen("127.0.0.1", 0)
    with anyio.from_thread.start_blocking_portal() as portal:
        smtp = SMTPServer(on_message=take)
        site = portal.call(functools.partial(Site, store, release=release, smtp="smtp://127.0.0.1:1025", **options))
        running, _ = portal.start_task(serve, site, listener)
        yield Catcher(f"http://127.0.0.1:{listener.getsockname()[1]}", store, portal.call, site, smtp)
        running.cancel()


@pytest.fixture
def catcher() -> Iterator[Catcher]:
    ensure_nothing_is_missing(missing)
    with catching() as found:
        yield found


@pytest.fixture(scope="module")
def browser(trap: Trap) -> Iterator[Any]:
    ensure_nothing_is_missing(missing)
    rules = f"MAP evil.example 127.0.0.1:{trap.port}, MAP rebound.example 127.0.0.1"
    with chromium(f"--host-resolver-rules={rules}") as found:
        yield found


Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Give a function that opens a URL in a browser of its own; what it complains about fails the test."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def call(url: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        return page

    yield call
    for context in contexts:
        context.close()
    assert not complaints


def letter(subject: str = "Your invoice", number: int = 7) -> EmailMessage:
    return compose(
        from_="Ada Lovelace <ada@example.org>",
        to=["Grace Hopper <grace@example.net>"],
        subject=subject,
        text=f"Dear Grace,\n\nyour invoice is at https://example.org/i/{number}.\n\nAda\n",
        html="<body style='font-family: sans-serif; color: #222'><h1 style='color: #3451d1'>Analytical Engines</h1>"
        f"<p>Dear Grace,</p><p>your invoice is ready: <a href='https://example.org/i/{number}'>see it</a>.</p>"
        "<table style='border-collapse: collapse' cellpadding=8 border=1><tr><th>Item<th>Price<tr><td>Engine no. 1"
        "<td>1,500 pounds<tr><td>Cards, punched<td>12 pounds</table><p>Ada</p><img src='cid:logo' alt=''></body>",
        inline={"logo": LOGO},
        attachments=[("terms.txt", b"Pay within 30 days.\n")],
    )


LOGO = Path(__file__).parent / "files" / "logo.png"


def rows(page: Any) -> list[str]:
    """Return the subjects of the list, as far as it is in view."""
    found = page.evaluate(
        "[...document.querySelectorAll('.row')].sort((a, b) => a.ariaPosInSet - b.ariaPosInSet)"
        ".map((row) => row.querySelector('.subject').textContent)"
    )
    return [str(each) for each in found]


def until(page: Any, condition: str, argument: Any = None) -> None:
    # A function: what is no function would be handed to eval(), which the policy of the page forbids.
    function = condition if "=>" in condition.partition(")")[2][:4] else f"() => {condition}"
    page.wait_for_function(function, arg=argument, timeout=PATIENCE_MS)


def until_live(page: Any) -> None:
    page.wait_for_selector("#state[data-state=live]")


def count_is(page: Any, text: str) -> None:
    until(page, "(text) => document.getElementById('count')?.textContent === text", text)


def subject_is(page: Any, text: str) -> None:
    """Wait until this message is open."""
    until(page, "(text) => document.getElementById('subject')?.textContent === text", text)


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png")


# The list


def test_mail_is_on_the_page_as_it_comes_and_nothing_waits_for_a_timer_or_asks_again(
    catcher: Catcher, open_page: Open
) -> None:
    page = open_page(catcher.url)
    until_live(page)
    page.wait_for_selector("#nothing:not([hidden])")
    assert "smtp://127.0.0.1:1025" in page.inner_text("#nothing")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    # From here on no timer of the page's ever ends.
    page.evaluate("() => { window.timers = 0; window.setTimeout = window.setInterval = () => ++timers; }")
    for number in range(5):
        catcher.send(f"no. {number}")
        until(
            page,
            "(subject) => [...document.querySelectorAll('.row .subject')].some((each) => each.textContent === subject)",
            f"no. {number}",
        )
    assert rows(page) == [f"no. {number}" for number in (4, 3, 2, 1, 0)]
    assert page.evaluate("timers") == 0
    assert asked == []
    assert "New message from Ada Lovelace" in page.inner_text("#said")
    assert page.title() == "(5) Mail · smtplite"


def test_of_five_thousand_messages_each_frame_draws_those_in_view_and_no_others(
    catcher: Catcher, open_page: Open
) -> None:
    """The work of a frame depends on the window alone: however long the list is, it scrolls without a stutter."""
    content = [letter(f"no. {number}", number).as_bytes() for number in range(10)]

    def fill() -> None:
        for number in range(5000):
            catcher.store.add(
                ReceivedMessage(sender="a@b.example", recipients=("c@d.example",), content=content[number % 10])
            )

    catcher.call(fill)
    page = open_page(catcher.url)
    count_is(page, "5,000 messages")
    # Of each frame: the rows that were made in it, those that are in the document, and the pixels without a row.
    frames = page.evaluate(
        """async () => { const list = document.getElementById('list'), found = [];
        let made = 0;
        new MutationObserver((all) => { for (const each of all) made += each.addedNodes.length; })
          .observe(document.getElementById('rows'), {childList: true});
        for (let step = 0; step < 60; step++) {
          made = 0;
          list.scrollTop += 5000;
          await new Promise(requestAnimationFrame);  // its end: the page draws in it
          await new Promise(requestAnimationFrame);
          const {top, bottom} = list.getBoundingClientRect();
          const drawn = [...document.querySelectorAll('.row')].map((row) => row.getBoundingClientRect());
          const covered = drawn.reduce(
            (sum, row) => sum + Math.max(0, Math.min(bottom, row.bottom) - Math.max(top, row.top)), 0);
          found.push([made, drawn.length, Math.round(bottom - top - covered)]);
        }
        return found; }"""
    )
    assert len(frames) == 60
    assert all(0 < made < 60 and drawn < 60 and bare == 0 for made, drawn, bare in frames), frames
    page.evaluate("document.getElementById('list').scrollTop = 1e9")
    until(page, "[...document.querySelectorAll('.row')].some((row) => row.ariaPosInSet === '5000')")
    read_in_the_middle(page)
    catcher.send("while they read further down")
    stood_still_at(page, 2501)
    count_is(page, "5,000 messages")
    assert catcher.store.get(1) is None  # the oldest has gone
    page.fill("#search", "subject:while")
    count_is(page, "1 of 5,000 messages")


def read_in_the_middle(page: Any) -> None:
    """Scroll to the middle, and from there on note at each moment where the topmost row that is in view stands."""
    page.evaluate(
        "() => { const list = document.getElementById('list'); list.scrollTop = (list.scrollHeight / 2) - 20; }"
    )
    until(
        page,
        """() => {
        const list = document.getElementById('list'), {top, bottom} = list.getBoundingClientRect();
        const place = (row) => row?.getBoundingClientRect();
        const inView = [...document.querySelectorAll('.row')]
          .filter((row) => place(row).bottom > top && place(row).top < bottom)
          .sort((one, other) => place(one).top - place(other).top);
        if (!inView.length) return false;  // not drawn yet
        const number = inView[0].dataset.number;
        window.read = () => document.querySelector(`.row[data-number="${number}"]`);
        window.places = new Set();
        const note = () => { if (list.clientHeight) places.add(place(read())?.top ?? 'not in the document'); };
        const frame = () => { note(); requestAnimationFrame(frame); };
        frame();
        // What it said, drew or scrolled is noted before anybody else has a turn.
        const changes = {childList: true, attributes: true, characterData: true, subtree: true};
        new MutationObserver(note).observe(document.body, changes);
        list.addEventListener('scroll', note);
        return true; }""",
    )


def stood_still_at(page: Any, position: int) -> None:
    """Wait until the row which is read is at this position of the list: it never moved in the window until then."""
    until(page, "(position) => read()?.ariaPosInSet === position", str(position))
    assert page.evaluate("places.size") == 1, page.evaluate("[...places]")


def test_whoever_reads_further_down_goes_on_reading_there(
    open_page: Open, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes or goes above, and however the page hears of it."""
    with catching(keep=100) as catcher:
        for number in range(100):
            catcher.add(letter(f"no. {number}"))
        page = open_page(catcher.url)
        count_is(page, "100 messages")
        until_live(page)
        read_in_the_middle(page)
        at = int(page.evaluate("read().ariaPosInSet"))
        catcher.send("one more")
        stood_still_at(page, at + 1)

        def several() -> None:
            for number in range(3):
                content = letter(f"more {number}").as_bytes()
                catcher.store.add(ReceivedMessage(sender="a@b.example", recipients=("c@d.example",), content=content))
            catcher.store.remove([103])

        catcher.call(several)  # in one event
        stood_still_at(page, at + 3)
        catcher.call(catcher.store.remove, [99, 100, 101, 102])
        stood_still_at(page, at - 1)
        with monkeypatch.context() as patch:
            patch.setattr(events, "MAX_BEHIND", 0)  # the page is told to read the list anew
            catcher.send("one more")
            stood_still_at(page, at)
        assert page.evaluate("document.getElementById('list').scrollTop") > 0
        page.evaluate("document.getElementById('list').scrollTop = 0")
        catcher.send("at the top")  # those who read there see what comes
        until(page, "document.querySelector('[aria-posinset=\"1\"] .subject')?.textContent === 'at the top'")
        assert page.evaluate("document.getElementById('list').scrollTop") == 0


def test_whoever_reads_what_was_found_goes_on_reading_there(catcher: Catcher, open_page: Open) -> None:
    for number in range(60):
        catcher.add(letter(f"{'a bill' if number % 2 else 'greetings'} {number}"))
    page = open_page(catcher.url)
    page.fill("#search", "subject:bill")
    count_is(page, "30 of 60 messages")
    read_in_the_middle(page)
    at = int(page.evaluate("read().ariaPosInSet"))
    catcher.send("one more bill")
    stood_still_at(page, at + 1)


def test_on_a_phone_the_list_is_where_it_was_after_a_message_was_read(catcher: Catcher, open_page: Open) -> None:
    for number in range(60):
        catcher.add(letter(f"no. {number}"))
    page = open_page(catcher.url, viewport={"width": 390, "height": 844})
    count_is(page, "60 messages")
    until_live(page)
    read_in_the_middle(page)
    at = int(page.evaluate("read().ariaPosInSet"))
    page.evaluate("read().nextElementSibling.click()")
    page.wait_for_selector("article")
    assert not page.is_visible("#list")
    catcher.send("while they read a message")
    until(page, "document.getElementById('said').textContent.includes('while they read')")
    page.click(".back")
    stood_still_at(page, at + 1)


def test_ten_thousand_messages_leave_five_hundred(open_page: Open, browser: Any) -> None:
    with catching(keep=500) as catcher:
        page = open_page(catcher.url)
        until_live(page)
        content = letter().as_bytes()

        async def flood() -> None:
            for number in range(10_000):
                catcher.store.add(
                    ReceivedMessage(sender=f"s{number}@b.example", recipients=("c@d.example",), content=content)
                )
                if number % 50 == 0:
                    await anyio.lowlevel.checkpoint()

        catcher.call(flood)
        catcher.send("the last one")
        until(page, "document.querySelector('.row .subject')?.textContent !== undefined")
        until(
            page, "[...document.querySelectorAll('.row .subject')].some((each) => each.textContent === 'the last one')"
        )
        count_is(page, "500 messages")
        assert rows(page)[:2] == ["the last one", "Your invoice"]
        assert len(catcher.store) == 500
        page.click(".row >> nth=1")
        page.wait_for_selector("#subject")


def test_two_browsers_and_two_tabs_see_the_same(catcher: Catcher, open_page: Open) -> None:
    for number in range(3):
        catcher.add(letter(f"no. {number}"))
    first, other = open_page(catcher.url), open_page(catcher.url)
    tab = first.context.new_page()
    tab.goto(catcher.url)
    for page in (first, other, tab):
        until_live(page)
        count_is(page, "3 messages")
    assert catcher.call(len, catcher.site.events) == 2  # one stream for a browser, whatever number of tabs
    catcher.send("new")
    for page in (first, other, tab):
        count_is(page, "4 messages")
    tab.click(".row >> text=no. 1")
    tab.wait_for_selector("article")
    other.click(".row >> text=no. 1")
    other.click("[data-do=delete]")
    for page in (first, other, tab):
        count_is(page, "3 messages")
    subject_is(tab, "no. 0")  # the next one
    first.close()  # the tab that listened: the other one takes over
    until(tab, "navigator.locks.query().then((all) => all.held.length === 1)")
    catcher.send("after it")
    count_is(tab, "4 messages")


def test_a_restart_of_the_server_is_noticed(open_page: Open, browser: Any) -> None:
    with catching() as catcher:
        catcher.add(letter())
        page = open_page(catcher.url)
        until_live(page)
    page.wait_for_selector("#state[data-state=lost]")
    assert page.inner_text("#state-text") == "connection lost"


# Search and keyboard


def test_search(catcher: Catcher, open_page: Open) -> None:
    catcher.add(letter("The analytical engine"))
    catcher.add(letter("Grüße"), sender="bob@example.org")
    page = open_page(catcher.url)
    count_is(page, "2 messages")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("GRÜSSE")
    count_is(page, "1 of 2 messages")
    assert rows(page) == ["Grüße"]
    page.fill("#search", "from:bob")
    until(page, "document.querySelectorAll('.row').length === 1")
    page.fill("#search", "pounds engine")
    until(page, "document.querySelectorAll('.row').length === 0")
    assert "Nothing found" in page.inner_text("#nothing")
    page.fill("#search", "invoice")
    count_is(page, "2 of 2 messages")
    catcher.send("one more invoice")  # found as it comes
    count_is(page, "3 of 3 messages")
    page.keyboard.press("Escape")
    count_is(page, "3 messages")
    assert page.evaluate("document.activeElement.id") == "list"


def test_the_keyboard_is_enough(catcher: Catcher, open_page: Open) -> None:
    for number in range(5):
        catcher.add(letter(f"no. {number}"))
    page = open_page(catcher.url)
    count_is(page, "5 messages")

    def at() -> str:
        return str(page.evaluate("document.querySelector('.row.cursor .subject')?.textContent"))

    for key, subject in (("j", "no. 4"), ("j", "no. 3"), ("j", "no. 2"), ("k", "no. 3")):
        page.keyboard.press(key)
        until(page, "(text) => document.querySelector('.row.cursor .subject')?.textContent === text", subject)
    page.keyboard.press("Enter")
    until(page, "document.activeElement.id === 'subject'")
    assert page.inner_text("#subject") == "no. 3"
    assert page.evaluate("location.pathname") == "/messages/4"
    page.keyboard.press("j")
    subject_is(page, "no. 2")
    page.keyboard.press("Delete")
    subject_is(page, "no. 1")
    count_is(page, "4 messages")
    page.keyboard.press("Escape")
    assert page.evaluate("location.pathname") == "/"
    assert page.evaluate("document.activeElement.id") == "list"
    page.keyboard.press("End")
    until(page, "document.querySelector('.row.cursor .subject').textContent === 'no. 0'")
    assert page.get_attribute("#list", "aria-activedescendant") == "m1"
    page.keyboard.press("Delete")
    count_is(page, "3 messages")
    assert at() == "no. 1"
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")
    page.click("#single-keys")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")  # switched off: somebody dictates
    assert page.evaluate("document.activeElement.id") != "search"


def test_a_key_that_comes_together_with_new_mail_leads_to_where_it_should(catcher: Catcher, open_page: Open) -> None:
    """Between what the page hears and what it draws, too: the message which the key leads to is in view."""
    for number in range(60):
        catcher.add(letter(f"no. {number}"))
    page = open_page(catcher.url)
    count_is(page, "60 messages")
    until_live(page)
    page.focus("#list")
    page.keyboard.press("End")
    until(page, "document.querySelector('.row.cursor .subject')?.textContent === 'no. 0'")
    page.keyboard.press("PageUp")  # one more page, and the list is scrolled
    until(page, "!['no. 0', undefined].includes(document.querySelector('.row.cursor .subject')?.textContent)")
    page.evaluate(
        """() => new MutationObserver((_, observer) => {
          observer.disconnect();
          const key = new KeyboardEvent('keydown', {key: 'PageUp', bubbles: true, cancelable: true});
          document.getElementById('list').dispatchEvent(key);
        }).observe(document.getElementById('said'), {childList: true})"""
    )
    catcher.send("meanwhile")
    until(page, "document.querySelector('.row.cursor')?.ariaSetSize === '61'")
    distance = page.evaluate(
        "document.querySelector('.row.cursor').getBoundingClientRect().top"
        " - document.getElementById('list').getBoundingClientRect().top"
    )
    assert abs(distance) < 1


def test_the_address_says_which_message_and_back_goes_back(catcher: Catcher, open_page: Open) -> None:
    for number in range(3):
        catcher.add(letter(f"no. {number}"))
    page = open_page(f"{catcher.url}/messages/2")
    subject_is(page, "no. 1")
    page.click(".row >> text=no. 2")
    subject_is(page, "no. 2")
    page.go_back()
    subject_is(page, "no. 1")
    page.goto(f"{catcher.url}/messages/77")
    page.wait_for_selector("text=not here any more")


# A message


def test_each_view(catcher: Catcher, open_page: Open) -> None:
    catcher.add(
        letter("Grüße"),
        parameters={"BODY": "8BITMIME"},
        recipient_parameters=({"NOTIFY": "NEVER"},),
        refusals=(Refusal(at="RCPT", reply="550 no such user", recipient="bob@example.net"),),
        violations=(Violation("a line of 1,200 bytes", at="CONTENT", rfc="RFC 5321 section 4.5.3.1.6"),),
        dialogue=(("S", b"220 mail.example.com\r\n"), ("C", b"EHLO client.example\r\n"), ("S", b"250-a\r\n250 b\r\n")),
        tls="TLSv1.3",
        authenticated_as="ada",
    )
    page = open_page(catcher.url)
    page.click(".row")
    frame = page.frame_locator("iframe")
    assert frame.locator("h1").inner_text() == "Analytical Engines"
    loaded = page.wait_for_selector("iframe").content_frame()
    loaded.wait_for_load_state()  # its pictures too
    assert frame.locator("img").evaluate("(picture) => picture.naturalWidth") == 64
    link = page.locator("#panel-html aside a")
    assert link.get_attribute("href") == "https://example.org/i/7"
    assert (link.get_attribute("rel"), link.get_attribute("target")) == ("noopener noreferrer", "_blank")
    texts = {
        "text": ["your invoice is at https://example.org/i/7"],
        "attachments": ["terms.txt", "text/plain, 20 bytes", "logo.png", "cid:logo"],
        "headers": ["Subject", "Grüße", "Message-ID"],
        "source": ["Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=", "multipart/mixed"],
        "envelope": [
            "<ada@example.org> BODY=8BITMIME",
            "<grace@example.net> NOTIFY=NEVER",
            "TLSv1.3",
            "550 no such user",
        ],
        "dialogue": ["220 mail.example.com", "EHLO client.example", "250-a\n250 b"],
        "violations": ["a line of 1,200 bytes", "CONTENT, RFC 5321 section 4.5.3.1.6"],
    }
    for name, parts in texts.items():
        page.click(f"#tab-{name}")
        shown = page.inner_text(f"#panel-{name}")
        for each in parts:
            assert each in shown, (name, each, shown)
        assert page.locator("[role=tabpanel]:visible").count() == 1
    page.keyboard.press("ArrowRight")  # from the last tab to the first
    assert page.get_attribute("#tab-html", "aria-selected") == "true"
    with page.expect_download() as download:
        page.click("#tab-attachments")
        page.click("text=terms.txt")
    assert download.value.suggested_filename == "terms.txt"
    assert Path(download.value.path()).read_bytes() == b"Pay within 30 days.\n"
    with page.expect_download() as download:
        page.click("text=Download")
    assert Path(download.value.path()).read_bytes() == catcher.store.content(1)


def test_what_was_refused_is_shown_with_its_reason(catcher: Catcher, open_page: Open) -> None:
    refused = RefusedMessage(refusals=(Refusal(at="AUTH", reply="535 5.7.8 wrong"),), helo="client.example")
    catcher.call(catcher.store.add, refused)
    page = open_page(catcher.url)
    page.click(".row:has-text('refused')")
    assert "535 5.7.8 wrong (at AUTH)" in page.inner_text(".problem")
    page.fill("#search", "is:refused")
    count_is(page, "1 of 1 message")


def test_delete_one_and_all(catcher: Catcher, open_page: Open) -> None:
    for number in range(4):
        catcher.add(letter(f"no. {number}"))
    page = open_page(catcher.url)
    page.click(".row >> text=no. 2")
    page.click("[data-do=delete]")
    count_is(page, "3 messages")
    assert catcher.store.get(3) is None
    page.fill("#search", '"no. 3"')
    count_is(page, "1 of 3 messages")
    page.click("#delete-all")  # of what was found
    page.click("#ask-delete >> text=Keep them")
    assert len(catcher.store) == 3
    page.click("#delete-all")
    page.click("#ask-delete button.danger")
    until(page, "document.querySelectorAll('.row').length === 0")
    assert [each.number for each in catcher.store] == [1, 2]
    page.fill("#search", "")
    count_is(page, "2 messages")
    page.click("#delete-all")
    page.click("#ask-delete button.danger")
    count_is(page, "No messages")
    assert len(catcher.store) == 0


def test_release_shows_the_envelope_and_sends_to_the_server_of_the_start(open_page: Open, browser: Any) -> None:
    with SMTPServer().in_thread() as relay:
        relay.reply("RCPT", "550 5.1.1 no such user", to="bob@example.net")
        release = Release("smtp://relay.example", {"hostname": relay.host, "port": relay.port, "tls": "none"})
        with catching(release=release) as catcher:
            catcher.add(letter(), recipients=("grace@example.net", "bob@example.net"))
            page = open_page(catcher.url)
            page.click(".row")
            page.click("[data-do=release]")
            page.wait_for_selector("#release[open]")
            asked = page.inner_text("#release")
            for each in ("smtp://relay.example", "<ada@example.org>", "grace@example.net", "bob@example.net"):
                assert each in asked
            shot(page, "release")
            page.click("#release-cancel")
            assert not relay.messages
            page.click("[data-do=release]")
            page.click("#release-go")
            page.wait_for_selector("#release-outcome.bad")
            outcome = page.inner_text("#release-outcome")
            assert outcome == "Accepted for grace@example.net.\nRefused for bob@example.net: 550 5.1.1 no such user"
            [message] = relay.messages
            assert message.recipients == ("grace@example.net",)
            assert message.content == catcher.store.content(1)


# Widths, colours, people


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_axe_finds_nothing(width: int, scheme: str, catcher: Catcher, open_page: Open) -> None:
    for number in range(12):
        catcher.add(letter(f"Your invoice no. {number} for the analytical engine"))
    catcher.add(
        letter("Grüße aus Köln, wo es regnet: an-extremely-long-word-" + "without-a-break-" * 20),
        violations=(Violation("an 8-bit body without BODY=8BITMIME", at="CONTENT", rfc="RFC 6152 section 3"),) * 3,
        dialogue=(("S", b"220 mail.example.com\r\n"), ("C", b"EHLO client.example\r\n")),
    )
    refused = RefusedMessage(
        refusals=(Refusal(at="RCPT", reply="550 5.1.1 no such user here", recipient="bob@example.net"),), sender=""
    )
    catcher.call(catcher.store.add, refused)
    page = open_page(
        catcher.url, viewport={"width": width, "height": 844 if width == 390 else 800}, color_scheme=scheme
    )
    count_is(page, "14 messages")

    def look(name: str) -> None:
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        shot(page, f"{scheme}-{width}-{name}")
        if (width == 390 or scheme == "dark") and name in {"text", "attachments", "headers", "source"}:
            return  # what they are made of is in the others
        assert not faults(page, {"moderate", "serious", "critical"}), name

    page.evaluate(axe().read_text())
    look("list")
    page.click(".row >> nth=1")
    page.wait_for_selector("article")
    look("html")
    for name in ("text", "attachments", "headers", "source", "envelope", "dialogue", "violations"):
        page.click(f"#tab-{name}")
        look(name)
    if width == 390:
        assert not page.is_visible("#list")
        page.click(".back")
        assert page.is_visible("#list")
    else:
        page.keyboard.press("Escape")
        page.click("#show-keys")
        look("keys")
        page.keyboard.press("Escape")
    page.fill("#search", "nothing like it")
    count_is(page, "0 of 14 messages")
    look("nothing")


# What others try


#: Where a click of a person could do more than one of a script.
BY_HAND = {"links that run", "links that leave", "forms", "a base elsewhere", "svg that leaves"}


def test_hostile_mail_neither_runs_nor_loads_nor_leaves_nor_reaches_the_list(
    catcher: Catcher, open_page: Open, trap: Trap
) -> None:
    assert len(MESSAGES) >= 30
    trap.heard.clear()
    numbers = {name: catcher.add(content) for name, content in MESSAGES.items()}
    page = open_page(catcher.url)
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    popups: list[str] = []
    page.context.on("page", lambda other: popups.append(other.url))
    count_is(page, f"{len(MESSAGES)} messages")
    assert HACKED not in page.title()
    page.focus("#list")
    first = next(iter(numbers))
    for name, number in numbers.items():
        page.keyboard.press("k" if name != first else "End")
        if name == first:
            page.keyboard.press("Enter")
        page.wait_for_selector(f"article[data-number='{number}']")
        if page.locator("iframe").count():
            handle = page.wait_for_selector("iframe", state="attached")
            page.click("#tab-html")
            if not handle.get_attribute("src"):
                page.click("[data-do=show-html]")
            frame = handle.content_frame()
            frame.wait_for_url("**/html")
            if name in BY_HAND:
                for element in frame.query_selector_all("a, button"):
                    element.click(force=True)
            else:
                frame.evaluate("document.querySelectorAll('a, input, summary').forEach((each) => each.click?.())")
            frame.evaluate("0")  # what the clicks began has begun
            assert frame.url == f"{catcher.url}/api/v1/messages/{number}/html", name
            assert page.locator("iframe").count() == 1, name
        page.evaluate("document.querySelectorAll('[role=tab]').forEach((tab) => tab.click())")
        page.focus("#list")
        assert page.url == f"{catcher.url}/messages/{number}", name
        assert HACKED not in page.title(), name
        assert page.evaluate("document.querySelectorAll('article').length") == 1, name
        assert (
            page.evaluate("document.querySelectorAll('#pane script, #pane img, #list img, #list script').length") == 0
        )
    page.goto(catcher.url)
    count_is(page, f"{len(MESSAGES)} messages")
    assert len(catcher.store) == len(MESSAGES)
    page.wait_for_load_state("networkidle")
    assert not popups
    assert not trap.heard


#: What does not need a click, and would be seen at once.
AT_ONCE = [
    "a script",
    "event handlers",
    "a meta refresh",
    "a meta refresh to the page",
    "svg that loads",
    "style sheets",
    "pictures",
    "frames",
    "a frameset",
    "links of the head",
    "a base elsewhere",
]


def test_hostile_mail_is_as_harmless_in_a_tab_of_its_own(catcher: Catcher, open_page: Open, trap: Trap) -> None:
    trap.heard.clear()
    first = open_page(catcher.url)
    tabs = {}
    for name in AT_ONCE:
        tabs[name] = tab = first.context.new_page()
        tab.goto(f"{catcher.url}/api/v1/messages/{catcher.add(MESSAGES[name])}/html")
    for number, (name, tab) in enumerate(tabs.items(), 1):
        tab.wait_for_load_state("networkidle")
        assert tab.url == f"{catcher.url}/api/v1/messages/{number}/html", name
        assert HACKED not in tab.title(), name
    assert not trap.heard


@pytest.mark.parametrize(
    "name", ["a script", "a meta refresh", "style sheets", "pictures", "frames", "links of the head"]
)
def test_the_same_mail_without_our_headers_falls_into_the_trap(
    name: str, catcher: Catcher, open_page: Open, trap: Trap
) -> None:
    """Or the two tests above would prove nothing."""
    number = catcher.add(MESSAGES[name])
    page = open_page(catcher.url)
    markup = page.request.get(f"{catcher.url}/api/v1/messages/{number}").json()["html"]
    trap.hit.clear()
    other = page.context.new_page()
    other.route("**/control", lambda route: route.fulfill(body=markup, content_type="text/html"))
    other.goto("http://rebound.example/control", wait_until="commit")
    assert trap.hit.wait(PATIENCE_MS / 1000)


def test_a_link_opens_in_a_tab_that_knows_nothing_of_us(catcher: Catcher, open_page: Open, trap: Trap) -> None:
    catcher.add(compose(from_="a@b.example", to=["c@d.example"], subject="x", text=f"confirm: {TRAP}/confirm/7"))
    page = open_page(catcher.url)
    page.click(".row")
    heard: list[dict[str, str]] = []

    def answer(route: Any) -> None:
        heard.append(route.request.headers)
        route.fulfill(body="done")

    page.context.route("**/confirm/*", answer)
    with page.context.expect_page() as opened:
        page.click("#panel-text aside a")
    opened.value.wait_for_load_state()
    assert opened.value.evaluate("window.opener") is None
    assert "referer" not in heard[0]


def test_attachments_are_files_and_nothing_else(catcher: Catcher, open_page: Open) -> None:
    catcher.add(MESSAGES["names that are paths"])
    page = open_page(f"{catcher.url}/messages/1")
    page.click("#tab-attachments")
    names = page.locator(".attachments a").all_inner_texts()
    assert names == [
        "passwd",
        "evil.html",
        "messages",
        "invoicefdp.exe",
        "_img src=x onerror=alert(1)_.html",
        "a",
        "page.html",
    ]
    for index, name in enumerate(names):
        with page.expect_download() as download:
            page.evaluate("(index) => { location = `/api/v1/messages/1/attachments/${index}` }", index)
        assert download.value.suggested_filename == name
        assert page.url == f"{catcher.url}/messages/1"


def test_another_name_for_us_is_refused(catcher: Catcher, open_page: Open) -> None:
    """DNS rebinding: the name of another site leads here all of a sudden."""
    catcher.add(letter())
    port = catcher.url.rpartition(":")[2]
    page = open_page(f"http://rebound.example:{port}/")
    assert "this name is not served here" in page.content()
    assert page.evaluate("fetch('/api/v1/messages').then((response) => response.status)") == 403


def test_another_site_can_neither_read_nor_change_anything(catcher: Catcher, open_page: Open, trap: Trap) -> None:
    catcher.add(letter())
    port = int(catcher.url.rpartition(":")[2])
    page = open_page("about:blank")
    page.route(
        "http://rebound.example/**",
        lambda route: route.fulfill(body="<p>another site", content_type="text/html"),
    )
    page.goto("http://rebound.example/")
    outcomes = page.evaluate(
        """async (api) => {
          const tried = {};
          const attempt = async (name, options, path = "") => {
            const said = (response) => response.type === "opaque" ? "opaque" : response.status;
            tried[name] = await fetch(api + path, options).then(said, () => "failed");
          };
          const body = '{"numbers": "all"}', json = {"Content-Type": "application/json"};
          await attempt("read", {});
          await attempt("read blindly", {mode: "no-cors"});
          await attempt("delete", {method: "DELETE", headers: json, body});
          await attempt("post", {method: "POST", mode: "no-cors", headers: {"Content-Type": "text/plain"}, body});
          await attempt("release", {method: "POST", mode: "no-cors", body}, "/1/release");
          const element = (name, attributes) => new Promise((done) => {
            const made = Object.assign(document.createElement(name), attributes);
            made.onload = () => done("loaded");
            made.onerror = () => done("failed");
            document.body.append(made);
          });
          tried.script = await element("script", {src: api});
          tried.picture = await element("img", {src: api + "/1/attachments/1"});
          const stream = new EventSource(api.replace("messages", "events"));
          tried.stream = await new Promise((done) => {
            stream.onopen = () => done("open");
            stream.onerror = () => done("failed");
          });
          return tried; }""",
        f"http://127.0.0.1:{port}/api/v1/messages",
    )
    assert outcomes.pop("read blindly") in {"opaque", "failed"}
    assert outcomes.pop("post") in {"opaque", "failed"}
    assert outcomes.pop("release") in {"opaque", "failed"}
    assert set(outcomes.values()) == {"failed"}, outcomes
    page.set_content(
        f"<form method=post enctype=text/plain action='http://127.0.0.1:{port}/api/v1/messages'>"
        '<input name=\'{"numbers": "all", "x": "\' value=\'"}\'><button>win</button></form>'
    )
    with page.expect_navigation():
        page.click("button")
    assert "Origin" in page.content()
    page.goto(f"http://127.0.0.1:{port}/api/v1/messages?_method=DELETE")  # a link
    assert len(catcher.store) == 1


def test_others_than_this_machine_need_the_token(open_page: Open, browser: Any) -> None:
    with catching(token=Token(SECRET, 1)) as catcher:
        catcher.add(letter())
        page = open_page(catcher.url)
        page.fill("#token", "wrong")
        page.click("button")
        page.wait_for_selector("text=This is not the token.")
        page.fill("#token", SECRET)
        page.click("button")
        count_is(page, "1 message")
        until_live(page)
        by_address = open_page(f"{catcher.url}/#token={SECRET.replace(' ', '%20')}")
        count_is(by_address, "1 message")
        assert by_address.url == f"{catcher.url}/"
