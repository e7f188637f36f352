"""The page docs/reference/servers.md, from a run: which servers, what they offer, what was tried, and their quirks.

`SMTPLITE_INTEROP=require pytest -m interop tests/interop --write-servers-table` writes it. It holds no times and no
counts, so that two runs on the same versions write the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path

import attrs
import pytest

from smtplite.protocol.extensions import Extensions

from .launcher import Server, Service
from .matrix import takes_chunks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "servers.md"
COMMAND = "SMTPLITE_INTEROP=require pytest -m interop tests/interop --write-servers-table"

#: Parameters of tests, as the page names them.
_WAYS: Mapping[str, str] = {"send": "`send`", "send_many": "`send_many`"}
_MODES: Mapping[str, str] = {"data": "DATA", "bdat": "BDAT", "lockstep": "lockstep"}
#: Said of every server, or by columns of their own.
_NOT_LISTED = frozenset({"AUTH", "HELP", "STARTTLS"})


@attrs.frozen(eq=False)
class Tried:
    """What was tried on one server, by tests that passed."""

    services: set[str] = attrs.field(factory=set)
    ways: set[str] = attrs.field(factory=set)
    modes: set[str] = attrs.field(factory=set)
    mechanisms: set[str] = attrs.field(factory=set)


class Recorder:
    """A plugin of pytest that notes what the tests tried, and writes the page when the servers are about to stop."""

    def __init__(self) -> None:
        self._tried: dict[type[Server], Tried] = {}
        self._quirks: set[tuple[str, str, str]] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note a test that passed."""
        report = yield
        if report.when == "call" and report.passed and hasattr(item, "callspec"):
            self._note(item.callspec.params, list(item.iter_markers("quirk")))
        return report

    def _note(self, params: Mapping[str, object], quirks: Sequence[pytest.Mark]) -> None:
        server = params.get("server")
        if not isinstance(server, type) or not issubclass(server, Server):
            return
        # A server that is another one with other limits is the same one on the page.
        tried = self._tried.setdefault(next(base for base in server.__mro__ if "name" in vars(base)), Tried())
        for name, noted in (("way", tried.ways), ("mode", tried.modes), ("name", tried.mechanisms)):
            if isinstance(value := params.get(name), str):
                noted.add(value)
        if isinstance(service := params.get("service"), str):
            tried.services.add(service)
        for quirk in quirks:
            name, does, handled = quirk.args
            if server.name.startswith(name):
                self._quirks.add((name, does, handled))

    def write(self, servers: Mapping[type[Server], Server]) -> None:
        """Write the page.

        Args:
            servers: those that run; what they offer is asked now.
        """
        known = [(servers[each], self._tried[each]) for each in servers if each in self._tried]
        known.sort(key=lambda pair: pair[0].name.lower())
        PAGE.write_text(
            page(known, sorted(self._quirks, key=lambda quirk: (quirk[0].lower(), quirk))), encoding="utf-8"
        )


def page(known: Sequence[tuple[Server, Tried]], quirks: Sequence[tuple[str, str, str]]) -> str:
    """Return the page for servers that run, what was tried on each, and the quirks that were met."""
    servers, tried_on = [], []
    for server, tried in known:
        offers = asyncio.run(_offers(server))
        reached = dict.fromkeys(
            _reached(service) for name, service in server.services.items() if name in tried.services
        )
        keywords = set[str]().union(*offers) - _NOT_LISTED
        mechanisms = {mechanism for each in offers for mechanism in each.auth}
        servers.append(
            (server.name, server.version(), _list(reached), _list(sorted(keywords)), _list(sorted(mechanisms)))
        )
        modes = [text for name, text in _MODES.items() if name in tried.modes and _can(name, offers)]
        ways = [text for name, text in _WAYS.items() if name in tried.ways]
        tried_on.append((server.name, _list(modes), _list(ways), _list(sorted(tried.mechanisms))))
    return _TEXT.format(
        command=COMMAND,
        servers=_table(("Server", "Version", "Reached by", "Offers", "Authentication"), servers),
        tried=_table(("Server", "Messages sent by", "Sent with", "Authenticated with"), tried_on),
        quirks=_table(("Server", "What it does", "What smtplite does"), quirks),
    )


async def _offers(server: Server) -> list[Extensions]:
    found = []
    for name, service in server.services.items():
        if service.works:
            async with server.client(name) as client:
                found.append((await client.check()).extensions)
    return found


def _reached(service: Service) -> str:
    protocol = "LMTP" if service.lmtp else "SMTP"
    how = {"none": "", "starttls": " with STARTTLS", "implicit": " in TLS"}[service.tls]
    return f"{protocol}{how}{' on a Unix socket' if service.unix else ''}"


def _can(mode: str, offers: Iterable[Extensions]) -> bool:
    # Where CHUNKING or PIPELINING is not offered, a message that was to travel so travelled in another way.
    if mode == "bdat":
        return any(takes_chunks(each) for each in offers)
    return mode == "lockstep" or any(each.pipelining for each in offers)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "–"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


_TEXT = """\
# Servers

smtplite is tested with real servers, each a private instance on loopback. The tests compare what the servers store with
what was sent, byte for byte, and what smtplite reported for each recipient with what is in the mailboxes at the end.
Such a run writes this page:

```sh
{command}
```

## Which servers

{servers}
## What was tried

On every server, as far as the server can do it:

- messages: dots everywhere, no final line ending, lines of 998 bytes, every byte value, bare CR and LF, Unix line
  endings, no body, only empty lines, attachments, 10 MiB, addresses and headers in UTF-8;
- envelopes: some, all and none of the recipients refused, for now and for good; refused after the content; 421 in the
  middle; `require_all`; the null reverse-path; 1,500 recipients; recipients and domains that are not ASCII; odd local
  parts; delivery status notifications;
- connections: used again after a refusal; closed by the server while idle; the server restarted between two messages,
  gone, killed in the middle of one message and among hundreds; limits of messages for each connection; 1,000 messages
  with `send_many`, and 100 tasks that `send` at the same time.

BDAT is used with `chunking=True`, where the server offers CHUNKING. In lockstep, each command waits for the reply to
the one before: with `pipelining=False`, or where the server does not offer PIPELINING.

{tried}
## Quirks

These servers do something that others do not, or that no standard asks for. A test covers each of these quirks.

{quirks}"""
