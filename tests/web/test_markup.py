"""HTML mail for a browser: pictures of its own, no head that reaches elsewhere, and its links as text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.cli.parts import Attachment
from smtplite.cli.web import markup as module
from smtplite.cli.web.markup import links_of, shown
from tests.exhaustive import examples

LOGO = Attachment(name="logo.png", content_type="image/png", content_id="logo", data=b"PNG")


@pytest.mark.parametrize(
    ("given_markup", "after"),
    [
        ("<p>hi", "<p>hi"),
        ("<!DOCTYPE html>\n<html><p>hi", "<!DOCTYPE html>\n<html><p>hi"),
        ('<img src="cid:logo">', '<img src="data:image/png;base64,UE5H">'),
        ("<td background=CID:logo>", "<td background=data:image/png;base64,UE5H>"),
        ("<p style='background: url(cid:logo)'>", "<p style='background: url(data:image/png;base64,UE5H)'>"),
        ('<img src="cid:other">', '<img src="cid:other">'),
        ("<link rel=preconnect href=//evil.example>", "<bgsound rel=preconnect href=//evil.example>"),
        ("<LINK\nrel=dns-prefetch>", "<bgsound\nrel=dns-prefetch>"),
        ("<link/rel=x><meta/x><base/x>", "<bgsound/rel=x><bgsound/x><bgsound/x>"),
        (
            "<base href=https://evil.example target=_self>",
            "<bgsound href=https://evil.example target=_self>",
        ),
        ("<iframe src=//evil.example></iframe>x", "<noembed src=//evil.example></noembed>x"),
        ("<frame src=//evil.example><frameset>", "<bgsound src=//evil.example><frameset>"),
        ("<a target=_self href=x>", '<a target="_blank" target=_self href=x>'),
        ("<svg><A/xlink:href=x>", '<svg><A target="_blank"/xlink:href=x>'),
        ("<map><area\nhref=x>", '<map><area target="_blank"\nhref=x>'),
        ("<abbr><article><a-b>", "<abbr><article><a-b>"),
        ("<svg><animate x></animate><SET/>", "<svg><metadata x></metadata><metadata/>"),
        ("<basefont><metal><links>", "<basefont><metal><links>"),
    ],
)
def test_what_is_shown(given_markup: str, after: str) -> None:
    assert shown(given_markup, [LOGO]) == after


@pytest.mark.parametrize("kind", ["text/html", "application/javascript", "image/x", "image/png; x"])
def test_what_is_no_picture_is_not_put_into_the_markup(kind: str) -> None:
    one = Attachment(name="x", content_type=kind, content_id="logo", data=b"x")
    assert "data:" not in shown('<img src="cid:logo">', [one])


def test_a_picture_that_is_named_a_million_times_is_not_put_there_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PICTURE_BYTES", 9)
    assert shown("cid:logo " * 50, [LOGO]).count("data:image/png") == 3


def test_a_content_id_may_be_percent_encoded() -> None:
    one = Attachment(name="x", content_type="image/gif", content_id="a b@c", data=b"x")
    assert "data:image/gif" in shown('<img src="cid:a%20b@c">', [one])


@pytest.mark.parametrize(
    ("given_markup", "urls"),
    [
        ('<a href="https://a.example/?x=1&amp;y=2">', ["https://a.example/?x=1&y=2"]),
        ("<A class=x HREF='https://a.example/'>", ["https://a.example/"]),
        ("<area shape=rect href=https://a.example/>", ["https://a.example/"]),
        ("<svg><a xlink:href='https://a.example/'>", ["https://a.example/"]),
        ('<a title="> href=no" href="https://a.example/>">', ["https://a.example/>"]),
        ('<a href="java\tscript:alert(1)">', ["javascript:alert(1)"]),
        ('<a href=" https://a.example/\u202etxt.exe">', ["https://a.example/txt.exe"]),
        ("<a href=x><a href=x>", ["x"]),
        ("<abbr href=x><p href=y>", []),
        ("<a href><a href=''><a", []),
        ("<a " * 10, []),
    ],
)
def test_links_of_html(given_markup: str, urls: list[str]) -> None:
    assert [link.url for link in links_of(None, given_markup)] == urls


def test_links_of_text() -> None:
    text = (
        "see https://a.example/x?y=1, (http://b.example). Or <HTTPS://c.example/>; not ftp://d.example or www.e.example"
    )
    assert [link.url for link in links_of(text, None)] == [
        "https://a.example/x?y=1",
        "http://b.example",
        "HTTPS://c.example/",
    ]


@pytest.mark.parametrize(
    ("url", "opens"),
    [
        ("https://a.example/", True),
        ("HTTP://a.example/", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("mailto:ada@example.org", False),
        ("//a.example/", False),
        ("/api/v1/messages", False),
        ("file:///etc/passwd", False),
        ("https:///x", False),
        ("https:javascript", False),
    ],
)
def test_only_http_opens(url: str, opens: bool) -> None:
    [link] = links_of(None, f'<a href="{url}">')
    assert link.opens is opens


def test_no_more_links_are_listed_than_anybody_reads() -> None:
    assert len(links_of("".join(f"https://a.example/{n} " for n in range(2000)), None)) == module.MAX_LINKS


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize(
    "piece", ["<a ", "<a href=", '<a href="', "<a x='", "<a href=x>", "https://", "<", "cid:", "<link "]
)
def test_what_repeats_a_thousandfold_takes_a_moment(piece: str) -> None:
    """Not a matter of milliseconds: quadratic time would be minutes."""
    began = time.process_time()
    links_of(piece * 50_000, piece * 50_000)
    shown(piece * 50_000, [LOGO])
    assert time.process_time() - began < 10


@examples(200)
@given(st.text(alphabet="<>a='\" /hrefxlinkmtbs:cd&;\n", max_size=80))
def test_no_head_that_reaches_elsewhere_is_left(text: str) -> None:
    links_of(text, text)
    after = shown(text, [LOGO]).lower()
    for name in ("link", "meta", "base", "frame", "iframe"):
        for end in " \n/>":
            assert f"<{name}{end}" not in after
