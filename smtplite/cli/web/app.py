"""The application: the page, its fragments, and the JSON API."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import anyio
import anyio.to_thread
import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from smtplite.cli.parts import Reading, read
from smtplite.cli.store import Caught, Store
from smtplite.cli.web.api import description
from smtplite.cli.web.events import Events
from smtplite.cli.web.guard import Guard, Token
from smtplite.cli.web.markup import MAX_MARKUP_CHARS, POLICY, links_of, shown
from smtplite.cli.web.release import Release
from smtplite.cli.web.search import Index

__all__ = ["Site"]

_HERE: Final = Path(__file__).parent
_STATIC: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

#: Of the text and the source that the page shows; there is a link to all of it.
MAX_SHOWN_CHARS: Final = 200_000
#: Of a request.
MAX_BODY_BYTES: Final = 1024 * 1024
#: Of a summary; the others are counted.
MAX_RECIPIENTS: Final = 10
#: Messages whose parts are remembered, so that their pictures and attachments are not read again.
_READINGS: Final = 4
_MAX_READING_BYTES: Final = 8 * 1024 * 1024
_THREADS: Final = 4
MAX_WAIT_SECONDS: Final = 60.0


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        # ASCII: an envelope may hold what is not Unicode text.
        return json.dumps(content, separators=(",", ":")).encode("ascii")


class Site:
    """The page, and what it needs.

    Args:
        store: the messages.
        hosts: names that requests may use for it, besides those of loopback.
        token: which requests from other machines must show; None: nobody must.
        release: where a message can be sent on to; None: nowhere.
        smtp: the URL of the mail server, to show where to send mail.

    Attributes:
        app: the application, guarded.
        events: the streams of live updates; to be ended before the server.
        index: to be run beside the server.
    """

    def __init__(
        self,
        store: Store,
        *,
        hosts: Sequence[str] = (),
        token: Token | None = None,
        release: Release | None = None,
        smtp: str = "",
    ) -> None:
        self._store = store
        self._token = token
        self._release = release
        self._smtp = smtp
        # By it a browser knows whether what it remembers as read belongs to this store.
        self._name = (
            secrets.token_hex(8)
            if store.folder is None
            else hashlib.sha256(bytes(store.folder.resolve())).hexdigest()[:16]
        )
        self._readings: OrderedDict[int, Reading] = OrderedDict()
        self._limiter = anyio.CapacityLimiter(_THREADS)
        self._static = {name: (_HERE / "static" / name).read_bytes() for name in _STATIC}
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        self._templates.filters["size"] = _size
        self.events = Events(store, summary)
        self.index = Index(store)
        app = Starlette(routes=self._routes(), exception_handlers={HTTPException: _explained})
        self.app: ASGIApp = Guard(
            app, hosts=hosts, token=token, login=self._templates.get_template("login.html").render()
        )

    def _routes(self) -> list[Route]:
        api = "/api/v1/messages"
        return [
            Route("/", self._page),
            Route("/messages/{number:int}", self._page),
            Route("/messages/{number:int}/pane", self._pane),
            Route("/static/{name}", self._file),
            Route("/openapi.json", self._openapi),
            Route("/session", self._login, methods=["POST"]),
            Route("/api/v1/events", self._live),
            Route(api, self._list),
            Route(api, self._delete_many, methods=["DELETE"]),
            Route(f"{api}/{{number:int}}", self._message),
            Route(f"{api}/{{number:int}}", self._delete, methods=["DELETE"]),
            Route(f"{api}/{{number:int}}/html", self._html),
            Route(f"{api}/{{number:int}}/text", self._text),
            Route(f"{api}/{{number:int}}/source", self._source),
            Route(f"{api}/{{number:int}}/attachments/{{index:int}}", self._attachment),
            Route(f"{api}/{{number:int}}/release", self._send_on, methods=["POST"]),
        ]

    # The page

    async def _page(self, request: Request) -> Response:
        del request  # the script reads the address
        return self._rendered("page.html", release=self._release, store=self._name, smtp=self._smtp)

    async def _pane(self, request: Request) -> Response:
        caught = self._asked_for(request)
        reading = await self._reading(caught)
        source = await self._content(caught)
        markup = reading.markup
        return self._rendered(
            "message.html",
            message=caught,
            reading=reading,
            markup_is_large=markup is not None and len(markup) > MAX_MARKUP_CHARS,
            text=_cut(reading.text),
            source=_cut(source[: MAX_SHOWN_CHARS + 1].decode("utf-8", "replace")),
            links=await self._in_thread(links_of, reading.text, markup),
            release=self._release,
            limit=MAX_SHOWN_CHARS,
        )

    def _rendered(self, name: str, **values: Any) -> Response:
        text = self._templates.get_template(name).render(**values)
        return Response(text.encode("utf-8", "replace"), media_type="text/html; charset=utf-8")

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            raise HTTPException(404, "there is no such file")
        return Response(self._static[name], media_type=_STATIC[name], headers={"Cache-Control": "no-cache"})

    async def _login(self, request: Request) -> Response:
        body = await _body(request)
        token = body.get("token")
        if self._token is None or not isinstance(token, str) or not self._token.is_right(token.strip()):
            raise HTTPException(403, "this is not the token")
        response = Response(status_code=204)
        response.set_cookie(self._token.cookie_name, self._token.cookie, httponly=True, samesite="strict")
        return response

    # The API: what it says of itself is in `api`

    async def _openapi(self, request: Request) -> Response:
        del request
        return _Json(description())

    async def _live(self, request: Request) -> Response:
        del request
        headers = {"X-Accel-Buffering": "no"}  # a proxy would hold the events back
        return StreamingResponse(self.events.stream(), media_type="text/event-stream", headers=headers)

    async def _list(self, request: Request) -> Response:
        query = request.query_params.get("search", "")
        before = _number(request, "before", None)
        limit = _number(request, "limit", None)
        deadline = anyio.current_time() + min(_number(request, "wait", 0) or 0, MAX_WAIT_SECONDS)
        with self.events.changes() as changes:
            while True:
                revision = self._store.revision  # before the search: what changes meanwhile is told after it
                found = await self.index.find(query)
                if before is not None:
                    found = [caught for caught in found if caught.number < before]
                left = deadline - anyio.current_time()
                if found or left <= 0 or self.events.is_over or not await changes.wait(left):
                    break
                changes.take()
        found = [caught for caught in found if self._store.get(caught.number) is not None]
        return _Json(
            {
                "revision": revision,
                "total": len(found),
                "messages": [summary(caught) for caught in (found if limit is None else found[:limit])],
            }
        )

    async def _message(self, request: Request) -> Response:
        caught = self._asked_for(request)
        reading = await self._reading(caught)
        links = await self._in_thread(links_of, reading.text, reading.markup)
        return _Json(
            {
                **summary(caught),
                "recipients": list(caught.recipients),
                "parameters": dict(caught.parameters),
                "recipient_parameters": list(map(dict, caught.recipient_parameters)),
                "helo": caught.helo,
                "via": caught.via,
                "refusals": [
                    {"at": each.at, "reply": each.reply, "recipient": each.recipient} for each in caught.refusals
                ],
                "violations": [{"text": str(each), "at": each.at, "rfc": each.rfc} for each in caught.violations],
                "dialogue": [
                    {"who": "client" if who == "C" else "server", "said": said} for who, said in caught.dialogue
                ],
                "headers": [{"name": name, "value": value} for name, value in reading.headers],
                "text": reading.text,
                "html": reading.markup,
                "links": [link.url for link in links],
                "attachments": [
                    {
                        "index": index,
                        "name": each.name,
                        "content_type": each.content_type,
                        "content_id": each.content_id,
                        "size": len(each.data),
                    }
                    for index, each in enumerate(reading.attachments)
                ],
                "problems": list(reading.problems),
            }
        )

    async def _html(self, request: Request) -> Response:
        reading = await self._reading(self._asked_for(request))
        if reading.markup is None:
            raise HTTPException(404, "this message has no HTML")
        text = await self._in_thread(shown, reading.markup, reading.attachments)
        return _foreign(text.encode("utf-8", "replace"), "text/html; charset=utf-8")

    async def _text(self, request: Request) -> Response:
        reading = await self._reading(self._asked_for(request))
        if reading.text is None:
            raise HTTPException(404, "this message has no text")
        return _foreign(reading.text.encode("utf-8", "replace"), "text/plain; charset=utf-8")

    async def _source(self, request: Request) -> Response:
        caught = self._asked_for(request)
        content = await self._content(caught)
        if "download" in request.query_params:
            return _download(content, f"{caught.number:06}.eml")
        return _foreign(content, "text/plain; charset=utf-8")

    async def _attachment(self, request: Request) -> Response:
        reading = await self._reading(self._asked_for(request))
        index = request.path_params["index"]
        if index >= len(reading.attachments):
            raise HTTPException(404, "this message has no such attachment")
        attachment = reading.attachments[index]
        return _download(attachment.data, attachment.name)

    async def _delete(self, request: Request) -> Response:
        return self._deleted([self._asked_for(request).number])

    async def _delete_many(self, request: Request) -> Response:
        numbers = (await _body(request)).get("numbers")
        if numbers == "all":
            return self._deleted([caught.number for caught in self._store])
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise HTTPException(422, 'say which: {"numbers": [1, 2]} or {"numbers": "all"}')
        return self._deleted(numbers)

    def _deleted(self, numbers: list[int]) -> Response:
        try:
            removed = self._store.remove(numbers)
        except OSError as error:
            raise HTTPException(500, f"cannot delete the file of a message: {error.strerror}") from None
        return _Json({"deleted": list(removed), "revision": self._store.revision})

    async def _send_on(self, request: Request) -> Response:
        body = await _body(request)
        caught = self._asked_for(request)
        if self._release is None:
            raise HTTPException(404, "no server was given at the start: smtplite serve --release-to URL")
        if caught.refusal or caught.sender is None or not caught.recipients:
            raise HTTPException(409, "this message was refused: there is no envelope to send it with")
        if body != {"sender": caught.sender, "recipients": list(caught.recipients)}:
            raise HTTPException(
                422, 'confirm the envelope of this message: {"sender": ..., "recipients": [...]}, nobody more or fewer'
            )
        if self._release.is_under_way(caught.number):
            raise HTTPException(409, "this message is being sent right now")
        return _Json(await self._release.send(caught, await self._content(caught)))

    # What they share

    def _asked_for(self, request: Request) -> Caught:
        number = request.path_params["number"]
        caught = self._store.get(number)
        if caught is None:
            raise HTTPException(404, f"message {number} is not here, or not any more")
        return caught

    async def _content(self, caught: Caught) -> bytes:
        content: bytes | None = await self._in_thread(self._store.content, caught.number)
        if content is None:
            raise HTTPException(404, f"message {caught.number} is not here, or not any more")
        return content

    async def _reading(self, caught: Caught) -> Reading:
        reading = self._readings.get(caught.number)
        if reading is None:
            reading = await self._in_thread(read, await self._content(caught))
            if caught.size <= _MAX_READING_BYTES:
                self._readings[caught.number] = reading
                while len(self._readings) > _READINGS:
                    self._readings.popitem(last=False)
        else:
            self._readings.move_to_end(caught.number)
        return reading

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._limiter, abandon_on_cancel=True)


def summary(caught: Caught) -> dict[str, Any]:
    """Return what the list shows of a message."""
    return {
        "number": caught.number,
        "time": caught.time.isoformat(timespec="seconds"),
        "sender": caught.sender,
        "recipients": list(caught.recipients[:MAX_RECIPIENTS]),
        "recipient_count": len(caught.recipients),
        "from": caught.author,
        "to": caught.addressees,
        "subject": caught.subject,
        "size": caught.size,
        "tls": caught.tls,
        "user": caught.user,
        "refusal": caught.refusal,
        "violation_count": len(caught.violations),
    }


def _foreign(content: bytes, media_type: str) -> Response:
    """Return what a message holds, so that it can do nothing."""
    return Response(content, media_type=media_type, headers={"Content-Security-Policy": POLICY})


def _download(content: bytes, name: str) -> Response:
    plain = "".join(each if each.isascii() and each not in '"\\' else "_" for each in name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    headers = {"Content-Disposition": disposition, "Content-Security-Policy": POLICY}
    return Response(content, media_type="application/octet-stream", headers=headers)


async def _body(request: Request) -> dict[str, Any]:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise HTTPException(413, f"a request has at most {MAX_BODY_BYTES:,} bytes")
    try:
        body = json.loads(bytes(data) or b"{}")
    except (ValueError, RecursionError):
        raise HTTPException(400, "the request is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "the request is not a JSON object")
    return body


def _number(request: Request, name: str, default: int | None) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise HTTPException(422, f"{name} is a whole number")
    return int(text)


async def _explained(request: Request, error: Exception) -> Response:
    del request
    if not isinstance(error, HTTPException):  # Starlette gives us no other
        raise error
    return _Json({"error": error.detail}, error.status_code, error.headers)


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:MAX_SHOWN_CHARS]


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1000:,.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:,.1f} MB"
