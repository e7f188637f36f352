"""The configuration file of `smtplite worker`, in TOML: which queue, which relay, and how to send."""

from __future__ import annotations

import os
import tomllib
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self
from urllib.parse import urlsplit

import attrs

from smtplite.client import Client
from smtplite.errors import ConfigurationError
from smtplite.worker.exporting import exported, options_of
from smtplite.worker.retrying import Backoff
from smtplite.worker.running import Worker
from smtplite.worker.shaping import Boards, Rules, Shaping
from smtplite.worker.shaping.services import services
from smtplite.worker.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Config", "Installable"]

#: A value that begins with this is the name of an environment variable: so the file need not contain a secret.
_ENVIRONMENT: Final = "env:"

#: Table -> the keys that it may have, and their types.
_KEYS: Final[Mapping[str, Mapping[str, type | tuple[type, ...]]]] = {
    "relay": {"url": str},
    "source": {"engine": str, "url": str, "lease_seconds": (int, float), "stream": str},
    "worker": {
        "batch": int,
        "in_flight": int,
        "timeout": (int, float),
        "drain": (int, float),
        "lanes": dict,
        "backoff": dict,
    },
    "shaping": {"rules": (str, list), "services": bool},
    "metrics": {"exporter": str, "listen": str, "count_every": (int, float)},
}

#: What errors call the types.
_KINDS: Final[Mapping[type | tuple[type, ...], str]] = {
    str: "a text",
    int: "a whole number",
    (int, float): "a number",
    dict: "a table",
    (str, list): "a text, or a list of texts",
    bool: "true or false",
}


class Installable(Source, Protocol):
    """A source that can prepare its engine, and keeps what workers share."""

    @property
    def boards(self) -> Boards:
        """Where `smtplite.worker.shaping` keeps what workers share."""

    async def install(self) -> None:
        """Create what the engine needs and does not have yet."""


@attrs.frozen(kw_only=True)
class Config:
    """The contents of the file, checked.

    Attributes:
        relay: the URL of the server to send to.
        engine: "postgres" or "jetstream".
        source: arguments of the source.
        worker: arguments of `Worker`.
        rules: the rules for shaping; None: no shaping.
        metrics: arguments of `exporting.exported`; None: no metrics.
    """

    relay: str = attrs.field(repr=False)
    engine: str
    source: dict[str, Any] = attrs.field(repr=False)
    worker: dict[str, Any]
    rules: Rules | None = None
    metrics: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            ConfigurationError: it cannot be read, or something in it is not known; names the key.
        """
        try:
            text = path.read_text(encoding="utf-8")
            given = tomllib.loads(text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"cannot read the worker's configuration {path}: {error}") from error
        return cls.of(given, str(path), folder=path.parent)

    @classmethod
    def of(cls, given: Mapping[str, Any], where: str, *, folder: Path = Path()) -> Self:
        """Read the configuration from a mapping, as `read` does from a file.

        Args:
            given: table -> key -> value.
            where: its name in errors.
            folder: the folder that the paths of files of rules begin at.

        Raises:
            ConfigurationError: as `read`.
        """
        _check_keys(given, where)
        source = dict(given.get("source", {}))
        worker = dict(given.get("worker", {}))
        engine = source.pop("engine", None)
        if engine not in _SOURCES:
            raise ConfigurationError(
                f"{where}: source.engine must be {' or '.join(map(repr, _SOURCES))}, not {engine!r:.80}"
            )
        for table, values in (("relay", given.get("relay", {})), ("source", source)):
            if "url" not in values:
                raise ConfigurationError(f"{where}: {table}.url is missing")
        source["url"] = _value(source["url"], f"{where}: source.url")
        if "backoff" in worker:
            unknown = worker["backoff"].keys() - {"first", "longest"}
            if unknown:
                raise _unknown(f"worker.backoff.{min(unknown)}", ("first", "longest"), where)
            worker["backoff"] = Backoff(**worker["backoff"])
        metrics = None
        if "metrics" in given:
            metrics = options_of(given["metrics"], where)
            if "count_every" in metrics:
                worker["count_every"] = metrics.pop("count_every")
        return cls(
            relay=_value(given["relay"]["url"], f"{where}: relay.url"),
            engine=engine,
            source=source,
            worker=worker,
            rules=_rules(given["shaping"], folder) if "shaping" in given else None,
            metrics=metrics,
        )

    @property
    def relay_name(self) -> str:
        """The name under which workers share the relay's limits: its host, and its port if the URL has one."""
        url = urlsplit(self.relay)
        return f"{url.hostname or url.path}{f':{url.port}' if url.port else ''}"

    @asynccontextmanager
    async def open_source(self) -> AsyncIterator[Installable]:
        """Connect to the engine for the duration of the block."""
        async with _SOURCES[self.engine](**self.source) as source:
            yield source

    @asynccontextmanager
    async def open_worker(self) -> AsyncIterator[Worker]:
        """Connect to the engine, and yield the worker; it connects to the relay when there is something to send."""
        with nullcontext() if self.metrics is None else exported(**self.metrics) as trace:
            async with self.open_source() as source, Client.from_url(self.relay, **self._client_options()) as client:
                shaper = None
                if self.rules is not None:
                    shaper = Shaping(self.rules, self.relay_name, source.boards, client)
                yield Worker(source, client, shaper=shaper, trace=trace, **self.worker)

    def _client_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        lanes = self.worker.get("lanes") or {}
        numbers = [number for number in lanes.values() if number]
        if len(numbers) == len(lanes) > 0 and "max_connections=" not in self.relay:
            options["max_connections"] = sum(numbers)
        if self.rules is not None:
            most = self.rules.for_relay(urlsplit(self.relay).hostname or "").max_deliveries_per_connection
            if most is not None:
                options["max_messages_per_connection"] = most
        return options


def _rules(given: Mapping[str, Any], folder: Path) -> Rules:
    names = given.get("rules", [])
    own = Rules.read(*(folder / str(name) for name in ([names] if isinstance(names, str) else names)))
    return services().and_also(own) if given.get("services", True) else own


def _postgres(url: str, **options: Any) -> Any:
    from smtplite.worker.postgres import PostgresSource

    if "stream" in options:
        raise ConfigurationError("source.stream is only for the engine 'jetstream': remove it")
    return PostgresSource(url, **options)


def _jetstream(url: str, **options: Any) -> Any:
    from smtplite.worker.jetstream import JetStreamSource

    return JetStreamSource(url, **options)


_SOURCES: Final[Mapping[str, Callable[..., Any]]] = {"postgres": _postgres, "jetstream": _jetstream}


def _check_keys(given: Mapping[str, Any], where: str) -> None:
    for table, values in given.items():
        if table not in _KEYS:
            raise _unknown(table, _KEYS, where)
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"{where}: {table} must be a table, not {values!r:.80}")
        for key, value in values.items():
            if key not in _KEYS[table]:
                raise _unknown(f"{table}.{key}", _KEYS[table], where)
            allowed = _KEYS[table][key]
            if not isinstance(value, allowed) or (isinstance(value, bool) and allowed is not bool):
                raise ConfigurationError(f"{where}: {table}.{key} must be {_KINDS[allowed]}, not {value!r:.80}")


def _unknown(name: str, known: Iterable[str], where: str) -> ConfigurationError:
    return ConfigurationError(f"{where}: {name:.80} is not known; known here: {', '.join(known)}")


def _value(text: str, where: str) -> str:
    if not text.startswith(_ENVIRONMENT):
        return text
    name = text.removeprefix(_ENVIRONMENT)
    if name not in os.environ:
        raise ConfigurationError(f"{where}: the environment variable {name!r:.80} is not set")
    return os.environ[name]
