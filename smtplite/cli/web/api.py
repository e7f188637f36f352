"""What the JSON API says of itself: ``/openapi.json`` (OpenAPI 3.1)."""

from __future__ import annotations

from typing import Any, Final

from smtplite import __version__

__all__ = ["description"]

_STRING: Final = {"type": "string"}
_INTEGER: Final = {"type": "integer"}
_STRINGS: Final = {"type": "array", "items": _STRING}
_MAYBE: Final = {"type": ["string", "null"]}
_PARAMETERS: Final = {"type": "object", "additionalProperties": _MAYBE}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _said(base: dict[str, Any], text: str) -> dict[str, Any]:
    return {**base, "description": text}


_SUMMARY: Final = {
    "number": _said(_INTEGER, "of the message; never used again in this store"),
    "time": {"type": "string", "format": "date-time"},
    "sender": _said(_MAYBE, "the reverse-path; empty: the null reverse-path; null: there was no MAIL"),
    "recipients": _said(_STRINGS, "the forward-paths; in a list of messages the first ten"),
    "recipient_count": _INTEGER,
    "from": _said(_STRING, "the From field, decoded"),
    "to": _said(_STRING, "the To field, decoded"),
    "subject": _STRING,
    "size": _said(_INTEGER, "of the content, in bytes"),
    "tls": _said(_MAYBE, 'the version of TLS, such as "TLSv1.3"; null: unencrypted'),
    "user": _said(_MAYBE, "who authenticated; null: nobody"),
    "refusal": _said(_STRING, "why it was refused as a whole; empty: it was accepted"),
    "violation_count": _INTEGER,
}

_SCHEMAS: Final = {
    "Summary": _object(**_SUMMARY),
    "Message": _object(
        **_SUMMARY,
        parameters=_said(_PARAMETERS, "of MAIL"),
        recipient_parameters=_said({"type": "array", "items": _PARAMETERS}, "of each RCPT"),
        helo=_said(_STRING, "what the client called itself"),
        via={"type": "string", "enum": ["DATA", "BDAT"]},
        refusals=_said(
            {"type": "array", "items": _object(at=_STRING, reply=_STRING, recipient=_MAYBE)},
            "all that was refused on its way; an empty reply: the connection ended instead",
        ),
        violations=_said(
            {"type": "array", "items": _object(text=_STRING, at=_STRING, rfc=_STRING)},
            "where the client broke the protocol",
        ),
        dialogue={
            "type": "array",
            "items": _object(who={"type": "string", "enum": ["client", "server"]}, said=_STRING),
        },
        headers={"type": "array", "items": _object(name=_STRING, value=_STRING)},
        text=_said(_MAYBE, "decoded; null: there is none"),
        html=_said(_MAYBE, "decoded, as the message has it: it may do anything; null: there is none"),
        links=_said(_STRINGS, "of the HTML and of the text, each once"),
        attachments={
            "type": "array",
            "items": _object(index=_INTEGER, name=_STRING, content_type=_STRING, content_id=_STRING, size=_INTEGER),
        },
        problems=_said(_STRINGS, "what could not be read"),
    ),
    "Messages": _object(
        revision=_said(_INTEGER, "of the store; each change adds one"),
        total=_said(_INTEGER, "how many were found"),
        messages={"type": "array", "items": {"$ref": "#/components/schemas/Summary"}},
    ),
    "Deleted": _object(deleted={"type": "array", "items": _INTEGER}, revision=_INTEGER),
    "Envelope": _object(sender=_STRING, recipients=_STRINGS),
    "Released": _object(
        accepted=_STRINGS,
        refused=_said({"type": "object", "additionalProperties": _STRING}, "address: reply"),
        unknown=_STRINGS,
        not_sent=_STRINGS,
        error=_MAYBE,
        may_have_been_delivered=_said({"type": "boolean"}, "then sending it again may deliver it twice"),
    ),
    "Error": _object(error=_STRING),
}


def _content(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {kind: {"schema": schema}}}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _operation(
    summary: str,
    answer: dict[str, Any],
    *,
    said: str = "",
    parameters: tuple[dict[str, Any], ...] = (),
    body: dict[str, Any] | None = None,
    changes: bool = False,
) -> dict[str, Any]:
    origin = {
        "name": "Origin",
        "in": "header",
        "required": True,
        "schema": _STRING,
        "description": "where the page is, such as http://127.0.0.1:8025: so no other site can do this",
    }
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "done", **answer},
            "default": {"description": "why not", **_content("application/json", _reference("Error"))},
        },
        "parameters": [*parameters, *([origin] if changes else [])],
    }
    if said:
        operation["description"] = said
    if body is not None:
        operation["requestBody"] = {"required": True, **_content("application/json", body)}
    return operation


def _query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": text}


def _paths() -> dict[str, Any]:
    json, text = "application/json", "text/plain"
    one = {"name": "number", "in": "path", "required": True, "schema": _INTEGER}
    index = {"name": "index", "in": "path", "required": True, "schema": _INTEGER}
    messages = "/api/v1/messages"
    return {
        messages: {
            "get": _operation(
                "List messages, the newest first",
                _content(json, _reference("Messages")),
                parameters=(
                    _query("search", _STRING, 'words; "several words"; from:, to:, subject:, is:refused, is:violation'),
                    _query("limit", _INTEGER, "at most so many"),
                    _query("before", _INTEGER, "only those with a lower number"),
                    _query("wait", _INTEGER, "seconds to wait for the first one, if there is none yet; at most 60"),
                ),
            ),
            "delete": _operation(
                "Delete messages",
                _content(json, _reference("Deleted")),
                body=_object(numbers={"oneOf": [{"type": "array", "items": _INTEGER}, {"const": "all"}]}),
                changes=True,
            ),
        },
        f"{messages}/{{number}}": {
            "parameters": [one],
            "get": _operation("Read a message", _content(json, _reference("Message"))),
            "delete": _operation(
                "Delete a message",
                _content(json, _reference("Deleted")),
                said="It needs the header Content-Type: application/json, although it has no body.",
                changes=True,
            ),
        },
        f"{messages}/{{number}}/html": {
            "parameters": [one],
            "get": _operation("Its HTML, which runs nothing and loads nothing", _content("text/html", _STRING)),
        },
        f"{messages}/{{number}}/text": {
            "parameters": [one],
            "get": _operation("Its text", _content(text, _STRING)),
        },
        f"{messages}/{{number}}/source": {
            "parameters": [one],
            "get": _operation(
                "Its source, byte for byte",
                _content(text, _STRING),
                parameters=(_query("download", _STRING, "as a file"),),
            ),
        },
        f"{messages}/{{number}}/attachments/{{index}}": {
            "parameters": [one, index],
            "get": _operation("An attachment, decoded", _content("application/octet-stream", _STRING)),
        },
        f"{messages}/{{number}}/release": {
            "parameters": [one],
            "post": _operation(
                "Send a message to the server of --release-to",
                _content(json, _reference("Released")),
                said="The body confirms the envelope of the message. No other envelope can be given.",
                body=_reference("Envelope"),
                changes=True,
            ),
        },
        "/api/v1/events": {
            "get": _operation(
                "What changes, as server-sent events",
                _content("text/event-stream", _STRING),
                said="hello: revision and number of messages; change: revision, added (summaries), removed (numbers); "
                "reload: too much has changed, list the messages anew.",
            ),
        },
    }


def description() -> dict[str, Any]:
    """Return the description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "smtplite serve --web",
            "version": __version__,
            "description": "The messages that the mail catcher caught.",
        },
        "paths": _paths(),
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "with --web-token"}},
        },
        "security": [{}, {"token": []}],
    }
