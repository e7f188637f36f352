"""The documentation holds: generated parts are up to date, examples run, links lead somewhere.

How the Python blocks of README.md and docs/**/*.md are run:

- The blocks of a page run in order, in one namespace, as a program of its own would (``__name__`` is "__main__").
  ``await`` may stand outside of functions.
- The example's "localhost" and 1025 stand for an SMTP server that is up meanwhile, 2424 for an LMTP server, and
  "/run/dovecot/lmtp" for one on a Unix socket. ``sys.argv[1:]`` are the SMTP server's host and port. They refuse
  nobody@example.net, and lose the connection in place of the verdict on a message to lost@example.net.
- On howto/oauth2.md the addresses of the providers stand for an authorization server and a mail server that takes its
  tokens.
- Functions ``test_*`` without arguments that a block defines are called.
- What a block prints must be the next block, if that is a ```` ```text output ````; "..." there stands for anything.
- A block ```` ```python no-run ```` is compiled, not run.
"""

from __future__ import annotations

import ast
import asyncio
import doctest
import html
import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final, cast

import attrs
import pytest
from anyio.from_thread import start_blocking_portal

import smtplite
import smtplite.protocol
import smtplite.testing
from smtplite import Client
from smtplite.protocol import (
    REPLY_CODES,
    RULES,
    Auth,
    AuthResponse,
    Connection,
    Ehlo,
    Quit,
    StartTls,
    State,
)
from smtplite.testing import SMTPServer
from smtplite.trace import FlightSent

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
#: What docs/build.py html made is not ours to check.
BUILT: Final = DOCS / "_build"
PAGES: Final = [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if BUILT not in page.parents)]
NAMES: Final = [page.relative_to(ROOT).as_posix() for page in PAGES]


def _build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build: Final = _build()


# Generated parts


def test_every_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    status = build.main(["--check"])
    assert capsys.readouterr().out == "docs are up to date\n"
    assert status == 0


def test_a_page_that_is_out_of_date_is_named_and_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for name in build.BESIDE:
        shutil.copy(ROOT / name, tmp_path)
    page = docs / "reference" / "timeouts.md"
    original = page.read_text(encoding="utf-8")
    page.write_text(original.replace("| `pool` | 60 |", "| `pool` | 61 |"), encoding="utf-8")
    assert page.read_text(encoding="utf-8") != original
    assert build.main(["--check"], docs) == 1
    assert "docs/reference/timeouts.md is out of date" in capsys.readouterr().out
    assert build.main([], docs) == 0
    assert page.read_text(encoding="utf-8") == original


@pytest.mark.parametrize(
    "page",
    [
        "<!-- generated: no-such-part -->\n<!-- end generated -->\n",
        "<!-- generated: limits -->\nand no end\n",
        "<!-- generated: Limits -->\n<!-- end generated -->\n",
    ],
    ids=["unknown", "endless", "misspelt"],
)
def test_a_part_that_nothing_makes_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="generated part"):
        build.regenerate(page)


def test_the_article_has_21_codes_and_the_core_knows_each() -> None:
    assert len(set(build.codes.ARTICLE_CODES)) == 21
    assert set(build.codes.ARTICLE_CODES) <= set(REPLY_CODES)


# States


def _arrows() -> list[tuple[str, str, list[str]]]:
    arrows = re.findall(r"^    (\w+) --> (\w+): (.+)$", build.states.diagram(), re.MULTILINE)
    return [(source, target, labels.split(", ")) for source, target, labels in arrows]


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.verb)
def test_the_verb_of_every_rule_is_in_the_table_and_in_the_diagram(rule: Any) -> None:
    assert f"| `{rule.verb}` |" in build.states.rules()
    labels = {label for _, _, labels in _arrows() for label in labels}
    assert rule.verb in labels or any(f"({rule.verb})" in label for label in labels)


def test_every_transition_is_an_arrow_and_every_arrow_a_transition() -> None:
    drawn = {(source, target, label) for source, target, labels in _arrows() for label in labels}
    assert drawn == {attrs.astuple(edge) for edge in build.states.edges()}


def test_every_state_is_in_the_diagram() -> None:
    drawn = {state for source, target, _ in _arrows() for state in (source, target)}
    assert drawn == {state.name for state in State}


def _greeted() -> Connection:
    connection = Connection()
    connection.receive_data(b"220 mx.example\r\n")
    connection.next_event()
    connection.send(Ehlo("client.example"))
    connection.receive_data(b"250-mx.example\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n")
    connection.next_event()
    return connection


def test_the_arrows_that_stand_in_no_rule_are_what_the_core_does() -> None:
    challenged = _greeted()
    for command in (Auth("PLAIN"), AuthResponse(b"")):
        challenged.send(command)
        challenged.receive_data(b"334 \r\n")
        challenged.next_event()
        assert challenged.state is State.AUTH

    encrypted = _greeted()
    encrypted.send(StartTls())
    encrypted.receive_data(b"220 go on\r\n")
    encrypted.next_event()
    encrypted.tls_established()
    assert encrypted.state is State.HELLO

    closing = _greeted()
    closing.send(Quit())
    closing.receive_data(b"221 bye\r\n")
    closing.next_event()
    assert closing.state is State.CLOSING
    closing.receive_data(b"")
    closing.next_event()
    assert closing.state is State.CLOSED  # type: ignore[comparison-overlap]  # a property's narrowed type outlives calls


# Examples


@attrs.frozen
class Block:
    """A fenced block of a page."""

    info: str
    source: str
    line: int


_FENCE: Final = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m[1].strip(), m[2], text.count("\n", 0, m.start(2))) for m in _FENCE.finditer(text)]


def _compile(page: Path, block: Block) -> CodeType:
    # The empty lines in front make the line numbers of a traceback those of the page.
    source = "\n" * block.line + block.source
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compiled = compile(source, str(page), "exec", flags=flags, dont_inherit=True)
    assert isinstance(compiled, CodeType)
    return compiled


@contextmanager
def _servers() -> Iterator[dict[str, str]]:
    """Run the servers in a thread of their own, so that examples may block; give what in an example stands for them."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        # Not tmp_path: the path of a Unix socket has little room.
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        smtp = SMTPServer()
        lmtp = SMTPServer(lmtp=True)
        lmtp_socket = SMTPServer(lmtp=True, socket_path=Path(folder) / "lmtp")
        for server in (smtp, lmtp, lmtp_socket):
            server.reply("RCPT", "550 5.1.1 no such user here", to="nobody@example.net")
            server.reply("END_OF_DATA", b"", performs=True, close=True, to="lost@example.net")
            stack.enter_context(portal.wrap_async_context_manager(server))
        yield {
            '"localhost"': f'"{smtp.host}"',
            "1025": str(smtp.port),
            "2424": str(lmtp.port),
            '"/run/dovecot/lmtp"': repr(str(lmtp_socket.socket_path)),
        }


MAILBOXES: Final = ("invoices@example.org", "ada@gmail.com")


@contextmanager
def _providers(folder: Path, monkeypatch: pytest.MonkeyPatch, namespace: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Run an authorization server and a mail server that takes its tokens, for the page about OAuth 2.0."""
    from tests.oauth.authorization import CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN, AuthorizationServer, google_key

    mail = SMTPServer(tls="starttls", require_auth=True, tokens=dict.fromkeys(MAILBOXES, "none.yet"))
    tokens = cast("dict[str, str]", mail.config.tokens)

    class ForAll(dict[str, str]):
        def __setitem__(self, _user: str, token: str) -> None:
            tokens.update(dict.fromkeys(MAILBOXES, token))

    with AuthorizationServer(user=MAILBOXES[0], mailboxes=ForAll()) as server, mail.in_thread():
        server.rotates = True
        monkeypatch.setenv("TENANT_ID", "tenant")
        monkeypatch.setenv("CLIENT_ID", CLIENT_ID)
        monkeypatch.setenv("CLIENT_SECRET", CLIENT_SECRET)
        (folder / "refresh-token").write_text(REFRESH_TOKEN)
        (folder / "service-account.json").write_text(json.dumps(google_key(server.token_endpoint)))
        namespace["trusts_the_server"] = mail.ca_context()
        here = f'"{mail.host}", {mail.port}, tls_context=trusts_the_server'
        yield {
            '"smtp.office365.com"': here,
            '"smtp.gmail.com"': here,
            "https://login.microsoftonline.com": server.url,
            "https://oauth2.googleapis.com/token": server.token_endpoint,
        }
        assert (folder / "refresh-token").read_text() in server.refresh_tokens  # which was not there at first
        assert [len(message.recipients) for message in mail.messages] == [1, 1, 1]


async def _aclose(clients: list[Client]) -> None:
    for client in clients:
        await client.aclose()


# From 6.1 on, Django warns of every setting but MAILERS, and a site that has others shall see the page work.
@pytest.mark.filterwarnings("ignore:The EMAIL_[A-Z_]+ setting is deprecated")
@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_examples_of_a_page_run(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    blocks = _blocks(page)
    if not any(block.info == "python" for block in blocks):
        return
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with ExitStack() as stack:
        stands_for = stack.enter_context(_servers())
        if page.name == "oauth2.md":
            stands_for |= stack.enter_context(_providers(tmp_path, monkeypatch, namespace))
        runner = stack.enter_context(asyncio.Runner())
        pattern = re.compile("|".join(rf"(?<!\w){re.escape(text)}(?!\w)" for text in stands_for))
        monkeypatch.setattr(sys, "argv", ["program.py", stands_for['"localhost"'].strip('"'), stands_for["1025"]])
        for number, block in enumerate(blocks):
            if block.info != "python":
                continue
            source = pattern.sub(lambda match: stands_for[match[0]], block.source)
            known = set(namespace)
            result = eval(_compile(page, attrs.evolve(block, source=source)), namespace)
            if inspect.iscoroutine(result):
                runner.run(result)
            for name in sorted(set(namespace) - known):
                if name.startswith("test_"):
                    outcome = namespace[name]()
                    if inspect.iscoroutine(outcome):
                        runner.run(outcome)
            printed = capsys.readouterr().out
            following = blocks[number + 1] if number + 1 < len(blocks) else None
            if following is not None and following.info == "text output":
                checker = doctest.OutputChecker()
                is_same = checker.check_output(following.source, printed, doctest.ELLIPSIS)
                assert is_same, f"line {following.line}: the block above printed\n{printed}"
        runner.run(_aclose([value for value in namespace.values() if isinstance(value, Client)]))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_python_block_compiles_and_says_no_more_than_python_or_no_run(page: Path) -> None:
    for block in _blocks(page):
        if block.info.startswith("py"):
            assert block.info in ("python", "python no-run"), f"line {block.line}"
            _compile(page, block)


@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="from 3.13 on the prompt takes blocks from a terminal only, and each as a whole"
)
def test_the_quickstart_can_be_pasted_into_the_prompt_of_asyncio() -> None:
    blocks = [block for block in _blocks(DOCS / "quickstart.md") if block.info in ("python", "text output")]
    # Enter once more after an indented line, as the page says.
    pasted = [
        block.source + "\n" * block.source.splitlines()[-1].startswith(" ") for block in blocks if "py" in block.info
    ]
    expected = "".join(block.source for block in blocks if block.info == "text output")
    prompt = subprocess.run(
        [sys.executable, "-m", "asyncio"],
        input="".join(pasted),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=True,
    )
    assert "Error" not in prompt.stderr
    printed = re.sub(r"^(?:>>> |\.\.\. )+", "", prompt.stdout, flags=re.MULTILINE)
    assert doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS), printed


# Links


def _anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as they are made for Markdown on the web."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), target
        if anchor:
            assert anchor in _anchors(linked), target


def test_every_page_of_the_docs_can_be_reached_from_the_index() -> None:
    index = DOCS / "index.md"
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", index.read_text(encoding="utf-8"))
    linked = {(DOCS / target).resolve() for target in targets if not re.match(r"[a-z]+:", target)}
    assert set(PAGES[1:]) - {index} <= linked
    captions = re.findall(r"^\| \*\*(.+?)\*\* \|.*\.(?:md|rst)\)", index.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(captions) == len(set(captions))  # each is a part of the sidebar


@pytest.mark.parametrize(
    ("question", "page"),
    [
        ("run on Windows", "install.md#where-it-runs"),
        ("cost in dependencies", "install.md#what-it-costs-in-dependencies"),
        ("break in 0.2", "versioning.md#what-may-change-in-02"),
        ("report a security hole", "security-policy.md"),
    ],
)
def test_the_landing_page_leads_to_what_a_stranger_asks_first(question: str, page: str) -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    [row] = [line for line in index.splitlines() if question in line and line.startswith("|")]
    assert f"]({page})" in row


# Reference


API: Final = DOCS / "reference" / "api"


@pytest.mark.parametrize(
    ("page", "module"),
    [
        ("smtplite.rst", smtplite),
        ("testing.rst", smtplite.testing),
        ("oauth.rst", smtplite.oauth),
        ("protocol.rst", smtplite.protocol),
    ],
    ids=["smtplite", "testing", "oauth", "protocol"],
)
def test_every_public_name_is_on_the_page_of_its_module(page: str, module: ModuleType) -> None:
    text = (API / page).read_text(encoding="utf-8")
    described = set(re.findall(r"^\.\. auto\w+:: smtplite(?:\.\w+)*\.(\w+)$", text, re.MULTILINE))
    described |= set(re.findall(r"^\.\. py:data:: (\w+)$", text, re.MULTILINE))
    described |= set(re.findall(r"``(MAX_\w+)``", text))
    assert set(module.__all__) <= described


# The picture of the states


def test_the_picture_has_every_state_and_every_label() -> None:
    picture = build.states.picture()
    for state in State:
        assert f">{state.name}</text>" in picture
    for edge in build.states.edges():
        assert edge.label.partition(" ")[0] in picture


def test_no_box_of_the_picture_lies_on_another() -> None:
    places = list(build.states.PLACES.values())
    assert set(build.states.PLACES) == {state.name for state in State}
    for number, (x, y) in enumerate(places):
        for other_x, other_y in places[:number]:
            assert abs(x - other_x) > 104 or abs(y - other_y) > 34


# The pictures of the round trips


@pytest.mark.parametrize("name", build.flows.FLOWS)
def test_a_picture_has_every_line_and_a_number_for_each_round_trip(name: str) -> None:
    drawn = build.flows.flow(name)
    turns = build.flows.FLOWS[name].turns
    texts = [html.unescape(text) for text in re.findall(r">([^<>]+)</text>", drawn)]
    said = [line for turn in turns for line in turn]
    numbers = [str(number + 1) for number in range(len(turns) // 2)]
    assert sorted(texts) == sorted([*said, *numbers, "client", "server"])
    assert f"]({name}.svg)" in (DOCS / "explanation" / "round-trips.md").read_text(encoding="utf-8")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "options"), [("one-at-a-time", {"pipelining": False}), ("pipelining", {}), ("refusal", {})]
)
async def test_a_picture_shows_what_the_client_writes_at_once(name: str, options: dict[str, Any]) -> None:
    flights: list[tuple[str, ...]] = []

    def trace(event: object) -> None:
        if isinstance(event, FlightSent):
            flights.append(tuple(str(command).partition(" SIZE=")[0] for command in event.commands))

    server = SMTPServer()
    server.reply("RCPT", "550 no such user here", to="nobody@example.net")
    drawn = build.flows.FLOWS[name].turns[::2]
    recipients = re.findall(r"RCPT TO:<(.+?)>", " ".join(line for turn in drawn for line in turn))
    async with server.client(trace=trace, **options) as client:
        await client.check()
        flights.clear()  # without the opening of the connection
        await client.send(b"Subject: a\r\n\r\nb\r\n", sender="ada@example.org", recipients=recipients)
        assert flights == [tuple(line for line in turn if not line.startswith("(")) for turn in drawn]


# Dependencies


def test_the_tables_of_the_dependencies_have_every_extra_and_every_package() -> None:
    table = build.dependencies.dependencies()
    for extra, asked in build.dependencies._requirements().items():
        assert (f"| `smtplite[{extra}]` |" if extra else "| `smtplite` |") in table
        for requirement in asked:
            assert f"`{build.dependencies._name_of(requirement)}`" in table


def test_an_extra_that_was_not_measured_is_listed_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {**build.dependencies._requirements(), "new": ("some_package>=1",)}
    monkeypatch.setattr(build.dependencies, "_requirements", lambda: asked)
    assert "| `smtplite[new]` | `some-package` |  |  |  |" in build.dependencies.dependencies()


# Docstrings


def test_no_docstring_has_words_that_sphinx_takes_for_a_return_type() -> None:
    """Napoleon reads "The receipt: somebody ..." below Returns as a type, and what it is."""
    found = []
    for path in sorted((ROOT / "smtplite").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                described = re.search(r"^(?:Returns|Yields):\n\s*(.*)$", ast.get_docstring(node) or "", re.MULTILINE)
                if described is not None and re.search(r":\s", re.sub(r"`[^`]*`", "", described[1])):
                    found.append(f"{path.name}: {node.name}: {described[1]}")
    assert found == []
