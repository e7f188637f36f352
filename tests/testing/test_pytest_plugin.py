"""The pytest plugin, in projects of its users: each test writes one and runs pytest in it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from smtplite.testing import ReceivedMessage, pytest_plugin

CONFTEST = 'pytest_plugins = ["smtplite.testing.pytest_plugin"]\n'

HELPERS = """
import smtplib
from email.message import EmailMessage

import pytest

import smtplite


def message(subject="hello", to="bob@example.org"):
    result = EmailMessage()
    result["From"] = "ann@example.org"
    result["To"] = to
    result["Subject"] = subject
    result.set_content("hi")
    return result


def send_blocking(server, *args):
    with smtplib.SMTP(server.host, server.port, local_hostname="client.example", timeout=20) as client:
        client.send_message(message(*args))
"""

INI = """
[pytest]
filterwarnings = error
addopts = --strict-markers
asyncio_default_fixture_loop_scope = function
"""

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Give a function that runs pytest over a project with these tests, and returns what it printed."""

    def run_pytest(tests: str, *options: str, conftest: str = CONFTEST, **counts: int) -> str:
        (tmp_path / "conftest.py").write_text(conftest)
        (tmp_path / "test_project.py").write_text(HELPERS + textwrap.dedent(tests))
        (tmp_path / "pytest.ini").write_text(INI)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *options]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        summary = ", ".join(f"{count} {name}" for name, count in counts.items())
        assert f" {summary} in " in result.stdout or not counts, result.stdout + result.stderr
        assert result.returncode == (1 if {"failed", "errors"} & set(counts) else 0), result.stdout + result.stderr
        return result.stdout

    return run_pytest


@pytest.mark.exhaustive(keep=0)
def test_a_running_server_for_tests_of_every_kind(run: Run) -> None:
    run(
        """
        import anyio


        def test_blocking(smtp_server):
            assert smtp_server.url == f"smtp://127.0.0.1:{smtp_server.port}?tls=none"
            send_blocking(smtp_server)
            [received] = smtp_server.messages
            assert received.as_email()["Subject"] == "hello"


        def test_each_test_has_a_server_of_its_own(smtp_server):
            assert smtp_server.messages == []


        @pytest.mark.asyncio
        async def test_asyncio(smtp_server):
            async with smtplite.Client.from_url(smtp_server.url) as client:
                assert (await client.send(message())).complete
            assert len(smtp_server.messages) == 1


        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
        async def test_any_loop(smtp_server, anyio_backend):
            async with smtplite.Client.from_url(smtp_server.url) as client:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.send, message("in the background"))
                    [received] = await smtp_server.wait_for_messages_async(1, 20)
            assert received.as_email()["Subject"] == "in the background"


        def test_blocking_and_waiting(smtp_server):
            import threading

            thread = threading.Thread(target=send_blocking, args=(smtp_server,))
            thread.start()
            assert len(smtp_server.wait_for_messages(1, timeout=20)) == 1
            thread.join()
            smtp_server.reset()
            assert smtp_server.messages == []
            smtp_server.reply("RCPT", "550 5.1.1 no such user")
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                send_blocking(smtp_server)
        """,
        passed=6,
    )


@pytest.mark.exhaustive(keep=0)
def test_an_outbox_in_memory(run: Run) -> None:
    run(
        """
        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
        async def test_outbox(smtp_outbox, anyio_backend):
            assert (await smtp_outbox.client.send(message())).complete
            [received] = smtp_outbox.messages
            assert received.recipients == ("bob@example.org",)


        @pytest.mark.asyncio
        async def test_a_refusal(smtp_outbox):
            smtp_outbox.server.reply("RCPT", "550 5.1.1 no such user")
            with pytest.raises(smtplite.RecipientsRefused):
                await smtp_outbox.client.send(message())
            assert smtp_outbox.messages == []


        @pytest.mark.asyncio
        @pytest.mark.smtp_server(tls="starttls", lmtp=True)
        async def test_tls_and_lmtp_are_seen_to(smtp_outbox):
            await smtp_outbox.client.send(message())
            assert smtp_outbox.messages[0].tls


        @pytest.mark.smtp_server(users={"me": "secret"}, tls="implicit")
        class TestOptions:
            @pytest.fixture
            def smtp_outbox_options(self):
                return {"username": "me", "password": "secret"}

            @pytest.mark.asyncio
            async def test_options_of_the_client(self, smtp_outbox):
                await smtp_outbox.client.send(message())
                assert smtp_outbox.messages[0].authenticated_as == "me"
        """,
        passed=5,
    )


@pytest.mark.exhaustive(keep=0)
def test_marker_and_fixture_choose_the_servers_options(run: Run) -> None:
    run(
        """
        from smtplite.testing import ServerExtensions

        pytestmark = pytest.mark.smtp_server(name="module.example", numbered=True)


        @pytest.fixture
        def smtp_server_options():
            return {"name": "fixture.example", "extensions": ServerExtensions.none()}


        def greeting(server):
            with smtplib.SMTP(server.host, server.port, timeout=20) as client:
                reply = client.ehlo("client.example")[1]
                return reply.decode().splitlines()


        def test_fixture_and_module(smtp_server):
            assert greeting(smtp_server) == ["module.example greets client.example #1"]


        @pytest.mark.smtp_server(name="class.example")
        class TestClass:
            def test_class(self, smtp_server):
                assert greeting(smtp_server) == ["class.example greets client.example #1"]

            @pytest.mark.smtp_server(name="function.example")
            def test_function(self, smtp_server):
                assert greeting(smtp_server) == ["function.example greets client.example #1"]


        @pytest.mark.smtp_server(tls="starttls", users={"me": "secret"}, require_tls=True, extensions=None)
        def test_tls_and_users(smtp_server):
            assert smtp_server.url == f"smtp://127.0.0.1:{smtp_server.port}"
            with smtplib.SMTP("localhost", smtp_server.port, timeout=20) as client:
                client.starttls(context=smtp_server.ca_context())
                client.login("me", "secret")
                client.send_message(message())
            assert smtp_server.messages[0].authenticated_as == "me"
        """,
        passed=4,
    )


@pytest.mark.exhaustive(keep=0)
def test_the_marker_is_described(run: Run) -> None:
    assert "@pytest.mark.smtp_server(**options): how the server" in run("", "--markers")


@pytest.mark.exhaustive(keep=0)
def test_a_marker_with_an_option_that_is_none_is_an_error(run: Run) -> None:
    printed = run(
        """
        @pytest.mark.smtp_server("starttls")
        def test_positional(smtp_server):
            pass


        @pytest.mark.smtp_server(colour="blue")
        def test_unknown(smtp_server):
            pass
        """,
        errors=2,
    )
    assert "smtp_server takes keyword arguments, those of SMTPServer; not ('starttls',)" in printed
    assert "unexpected keyword argument 'colour'" in printed


def test_failures_read_well(run: Run) -> None:
    printed = run(
        """
        import attrs


        def test_empty(smtp_server):
            send_blocking(smtp_server)
            assert smtp_server.messages == []


        def test_sender(smtp_server):
            send_blocking(smtp_server)
            assert smtp_server.messages[0].sender == "zoe@example.org"


        def test_equal(smtp_server):
            send_blocking(smtp_server)
            [received] = smtp_server.messages
            other = attrs.evolve(received, sender="zoe@example.org", content=b"Subject: other\\r\\n")
            assert received == other


        def test_mistakes(smtp_server):
            with smtplib.SMTP(smtp_server.host, smtp_server.port, timeout=20) as client:
                client.docmd("BAD")
            assert 1 == 2


        def test_good(smtp_server):
            send_blocking(smtp_server)
        """,
        failed=4,
        passed=1,
    )
    shown = "<Q1: <ann@example.org> to bob@example.org, 'hello', "
    lines = printed.splitlines()
    assert any(line.startswith(f"E         Left contains one more item: {shown}") for line in lines)
    assert "E       AssertionError: assert 'ann@example.org' == 'zoe@example.org'" in lines
    assert "E         sender: 'ann@example.org' != 'zoe@example.org'" in lines
    assert r"E           b'Subject: other\r\n'" in lines
    # What the server took, where a test failed, and only there
    assert printed.count("- SMTP server of smtp_") == 4
    account = printed.split("- SMTP server of smtp_")
    assert "\n1 message\n  " + shown in account[1]
    assert (
        "\n0 messages\nrefused\n  <no MAIL: 500 5.5.1 command not recognized: 'BAD' (at COMMAND)>\n"
        "mistakes of the client\n  unknown command: 'BAD' [RFC 5321 section 2.2.1]\n"
    ) in account[4]


@pytest.mark.exhaustive(keep=0)
def test_without_the_plugin_there_is_nothing(run: Run) -> None:
    """No entry point loads it."""
    run(
        """
        def test_nothing(request):
            with pytest.raises(pytest.FixtureLookupError):
                request.getfixturevalue("smtp_server")
        """,
        conftest="",
        passed=1,
    )


@pytest.mark.exhaustive(keep=0)
def test_no_thread_is_left(run: Run) -> None:
    """All servers of a session run in one thread, which ends with it."""
    run(
        """
        import threading


        @pytest.mark.parametrize("number", range(20))
        def test_one(smtp_server, number):
            send_blocking(smtp_server)
            assert threading.active_count() < 5
        """,
        conftest=CONFTEST
        + textwrap.dedent(
            """
            import threading


            def pytest_unconfigure():
                assert threading.active_count() == 1, threading.enumerate()
            """
        ),
        passed=20,
    )


# --- here and not in another process: what the plugin says of messages


def test_the_comparison_is_of_two_messages_and_nothing_else() -> None:
    one = ReceivedMessage(sender="a@b", recipients=())
    other = ReceivedMessage(sender="c@d", recipients=())
    compare = pytest_plugin.pytest_assertrepr_compare
    assert compare("==", one, other) == [f"{one!r} == {other!r}", "sender: 'a@b' != 'c@d'"]
    assert compare("!=", one, one) is None
    assert compare("==", one, "a@b") is None
    assert compare("==", [one, one], [one, other]) == ["message 1 of 2 and 2", "sender: 'a@b' != 'c@d'"]
    assert compare("==", [one], [one, one]) is None
    assert compare("==", [one], ["a@b"]) is None
