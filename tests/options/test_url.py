"""Client.from_url: what a URL says, and what it never shows."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from smtplite import Client, ConfigurationError
from smtplite.options import options_of


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("smtp://host", {"hostname": "host"}),
        ("SMTP://Host.Example:25/", {"hostname": "host.example", "port": 25}),
        ("smtps://host", {"hostname": "host", "tls": "implicit"}),
        ("smtps://host:4650", {"hostname": "host", "port": 4650, "tls": "implicit"}),
        ("lmtp://host", {"hostname": "host", "lmtp": True}),
        ("smtp+unix:///run/smtp", {"socket_path": "/run/smtp"}),
        ("lmtp+unix:///run/a%20b", {"socket_path": "/run/a b", "lmtp": True}),
        ("smtp://[::1]:25", {"hostname": "::1", "port": 25}),
        ("smtp://me:p%40ss%2F%23@host:587", {"hostname": "host", "port": 587, "username": "me", "password": "p@ss/#"}),
        ("smtp://me%40example.org:x@host", {"hostname": "host", "username": "me@example.org", "password": "x"}),
        ("smtp://me@host", {"hostname": "host", "username": "me"}),
        ("smtp://localhost:1025?tls=none", {"hostname": "localhost", "port": 1025, "tls": "none"}),
        (
            "smtp://h?max_connections=4&pipelining=no&idle_timeout=2.5&timeout=9&max_age=60&local_hostname=a.b"
            "&max_messages_per_connection=7&tls_hostname=mx.a.b&allow_insecure_auth=true",
            {
                "hostname": "h",
                "max_connections": 4,
                "pipelining": False,
                "idle_timeout": 2.5,
                "timeout": 9.0,
                "max_age": 60.0,
                "local_hostname": "a.b",
                "max_messages_per_connection": 7,
                "tls_hostname": "mx.a.b",
                "allow_insecure_auth": True,
            },
        ),
    ],
)
def test_what_a_url_says(url: str, options: dict[str, object]) -> None:
    assert options_of(url) == options


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("smtp://me:s3cret@host?nonsense=1", "option 'nonsense' is not one of tls, "),
        ("smtp://me:s3cret@host?password=s3cret", "option 'password' is not one of"),
        ("smtp://me:s3cret@host?max_connections=s3cret", "option 'max_connections' has a value that is not a valid"),
        ("smtp://me:s3cret@host?pipelining=s3cret", "option 'pipelining' has a value that is not a valid boolean"),
        ("smtp://me:s3cret@host?tls=none&tls=none", "option 'tls' is given twice"),
        ("smtp://me:s3cret@host/path", "percent-encode a /"),
        ("smtp://me:s3/cret@host", "percent-encode a /|no valid port"),
        ("smtp://me:s3#cret@host", "percent-encode it as %23"),
        ("smtp://me:s3 cret@host", "a space or a control character"),
        ("smtp://me:s3\ncret@host", "a space or a control character"),
        ("smtp://me:12?s3cret@host", r"percent-encode a \? before it as %3F"),
        ("smtp://me:s3cret@", "no host"),
        ("smtp://me:s3cret@host:99999", "no valid port"),
        ("smtp://me:s3cret@host:s3cret", "no valid port"),
        ("smtp://me:s3cret@[::1", "is not a URL"),
        ("smtp://", "no host"),
        ("smtp:host", "no host"),
        ("host:25", "begins with none of smtp://, smtps://"),
        ("http://me:s3cret@host", "begins with none of"),
        ("", "begins with none of"),
        ("smtp+unix://me:s3cret@host/run", "with three slashes"),
        ("lmtp+unix:run", "with three slashes"),
        ("smtp://me:%ff@host", "not UTF-8"),
    ],
)
def test_a_url_that_is_not_understood_shows_nothing_that_could_be_the_password(url: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        options_of(url)
    error: BaseException | None = caught.value
    while error is not None:  # a traceback shows what an error was raised from, unless it was suppressed
        assert "s3" not in str(error)
        assert "cret" not in str(error)
        error = error.__cause__ if error.__suppress_context__ else error.__context__


def test_only_text_is_a_url() -> None:
    with pytest.raises(ConfigurationError, match="URL must be a str, not bytes"):
        options_of(b"smtp://host")  # type: ignore[arg-type]


def test_overrides_win_over_the_url() -> None:
    client = Client.from_url("smtps://me:s3cret@host?max_connections=4", port=2525, tls="starttls")
    assert repr(client) == "Client('host:2525')"
    assert repr(Client.from_url("smtps://host")) == "Client('host:465')"
    assert repr(Client.from_url("smtp://host")) == "Client('host:587')"
    assert repr(Client.from_url("smtp://host?tls=none")) == "Client('host:25')"


# A CA of one's own


def test_a_ca_is_trusted_alone_and_under_its_own_rules(tmp_path: Path) -> None:
    ca = tmp_path / "a b.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    context = options_of(f"smtp://host?ca={tmp_path}/a%20b.pem")["tls_context"]
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.hostname_checks_common_name is False
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("missing.pem", "the file cannot be read: No such file"),
        ("", "has a value that is not a valid file"),
        ("%00", "has a value that is not a valid file"),
        ("empty.pem", "the file holds no CA certificate"),
    ],
)
def test_a_ca_that_cannot_be_read_is_named_by_its_option_alone(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    name = f"{tmp_path}/{file}" if file.endswith(".pem") else file
    with pytest.raises(ConfigurationError, match=f"^URL option 'ca'.*{text}") as caught:
        options_of(f"smtp://me:s3cret@host?ca={name}")
    assert "pem" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_ca_without_tls_and_a_ca_named_twice_are_refused(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    with pytest.raises(ConfigurationError, match=r"tls is \"none\": .*ca gives a tls_context"):
        Client.from_url(f"smtp://host?tls=none&ca={ca}")
    with pytest.raises(ConfigurationError, match="'ca' is given twice"):
        options_of(f"smtp://host?ca={ca}&ca={ca}")
