"""Rules: what a relay and recipients' servers accept, and what to do when a reply says that it was too much."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self, TypeAlias, TypeVar

import attrs
import idna

from smtplite.errors import ConfigurationError
from smtplite.protocol.reply import Reply
from smtplite.worker.shaping.positions import Path as Position
from smtplite.worker.shaping.positions import positions
from smtplite.worker.shaping.units import Rate, seconds_of

__all__ = ["Action", "Automation", "Origin", "RecipientRule", "RelayRule", "Rules", "Trigger"]

T = TypeVar("T")

#: What an action may change.
Setting: TypeAlias = int | Rate | None

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_ENHANCED: Final = re.compile(r"[245x]\.(?:[0-9]{1,3}|x)\.(?:[0-9]{1,3}|x)")
_MOST_CONNECTIONS: Final = 100_000


@attrs.frozen
class Origin:
    """Where a value is in the files, and which source it was taken from.

    Attributes:
        where: file and line.
        source: a URL; "": none is given.
        checked: when the source was last read.
    """

    where: str
    source: str = ""
    checked: date | None = None


@attrs.frozen
class Trigger:
    """How many replies trigger an automation.

    Attributes:
        count: the number of replies.
        seconds: the seconds within which they must come; 0: the first reply is enough.
    """

    count: int = 1
    seconds: float = 0.0

    def __str__(self) -> str:
        return "Immediate" if self.count == 1 else str(Rate(self.count, self.seconds))


@attrs.frozen
class Action:
    """What an automation does.

    Attributes:
        setting: "suspend", "max_message_rate" or "connection_limit".
        value: the rate, or the number of connections; None for "suspend".
    """

    setting: str
    value: Setting = None

    def __str__(self) -> str:
        return "suspend" if self.value is None else f"{self.setting} = {self.value}"


@attrs.frozen(kw_only=True)
class Automation:
    """What to do, and for how long, when a server gives certain replies.

    A reply counts if it matches `regex`, `code` and `enhanced_code`. An empty one matches every reply; of several
    values, one has to match.

    Attributes:
        name: its name in `status` and in the log: its key in the file.
        where: file and line.
        regex: searched for in the reply, such as ``"451 4.7.1 too many messages"``.
        code: reply codes.
        enhanced_code: enhanced status codes, with "x" for any number.
        trigger: how many such replies are needed.
        actions: what is done.
        duration: how long, in seconds.
        origin: where it is in the files, and the source of its text or codes.
    """

    name: str
    where: str
    regex: tuple[re.Pattern[str], ...] = ()
    code: tuple[int, ...] = ()
    enhanced_code: tuple[str, ...] = ()
    trigger: Trigger = Trigger()
    actions: tuple[Action, ...]
    duration: float
    origin: Origin = attrs.field(default=Origin(""), eq=False)

    def fits(self, reply: Reply) -> bool:
        """Return True if a reply counts."""
        if self.code and reply.code not in self.code:
            return False
        if self.enhanced_code and not any(_fits_enhanced(code, reply) for code in self.enhanced_code):
            return False
        if not self.regex:
            return True
        said = f"{reply.code} {reply.text}".replace("\n", " ")
        return any(regex.search(said) for regex in self.regex)


def _fits_enhanced(pattern: str, reply: Reply) -> bool:
    if reply.enhanced is None:
        return False
    parts = str(reply.enhanced).split(".")
    return all(wanted in ("x", part) for wanted, part in zip(pattern.split("."), parts, strict=True))


@attrs.frozen(kw_only=True)
class RecipientRule:
    """What applies to recipients in some domains. All recipients that match a rule share its limits.

    Attributes:
        pattern: a domain, with "*" for any characters.
        where: file and line.
        max_message_rate: messages to them, evenly spread.
        quota: messages to them within any period of this length.
        suspended: True: nothing is sent to them.
        automation: what to do when replies about them match.
        service: the service that the rule is about, for people.
        note: what else to know, for people.
        origins: key -> where it is in the files, and the source of its value.
    """

    pattern: str
    where: str = ""
    max_message_rate: Rate | None = None
    quota: Rate | None = None
    suspended: bool | None = None
    automation: tuple[Automation, ...] = ()
    service: str = ""
    note: str = ""
    origins: Mapping[str, Origin] = attrs.field(factory=dict, eq=False, repr=False)


@attrs.frozen(kw_only=True)
class RelayRule(RecipientRule):
    """What applies to relays, by the name of their host.

    Attributes:
        connection_limit: connections to the relay, of all workers together.
        max_deliveries_per_connection: how many messages are sent over a connection before it is replaced.
    """

    connection_limit: int | None = None
    max_deliveries_per_connection: int | None = None


@attrs.frozen(kw_only=True)
class Rules:
    """The rules in the files, checked.

    Attributes:
        relays: rules for relays, in the order of the files.
        recipients: rules for recipients, in the order of the files.
    """

    relays: tuple[RelayRule, ...] = ()
    recipients: tuple[RecipientRule, ...] = ()

    @classmethod
    def read(cls, *paths: Path) -> Self:
        """Read files. A value in a later file replaces the value for the same relay or domain in an earlier one.

        Raises:
            ConfigurationError: a file cannot be read, or something in it is not known; names the file, line and key.
        """
        rules = cls()
        for path in paths:
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"cannot read the rules {path}: {error}") from error
            rules = rules.and_also(cls.of(text, str(path)))
        return rules

    @classmethod
    def of(cls, text: str, where: str = "rules") -> Self:
        """Read rules from a text, as `read` does from a file.

        Args:
            text: TOML.
            where: the name of the text in errors.

        Raises:
            ConfigurationError: as `read`.
        """
        try:
            given = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{where} is not valid TOML: {error}") from error
        return cls(**_read_tables(_Table(given, (), where, positions(text))))

    def and_also(self, later: Rules) -> Self:
        """Return these rules together with others, which win where both set a value.

        A rule for all relays comes before the rules for some of them, whichever of the two it is from.
        """
        relays = [*self.relays, *later.relays]
        return attrs.evolve(
            self,
            relays=_merged(sorted(relays, key=lambda rule: rule.pattern != "*")),
            recipients=_merged([*self.recipients, *later.recipients]),
        )

    def for_relay(self, host: str) -> RelayRule:
        """Return what applies to a relay. If several rules match its name, the last one that sets a value wins."""
        found = RelayRule(pattern=host)
        for rule in self.relays:
            if _matches(rule.pattern, host):
                found = attrs.evolve(_over(found, rule), pattern=host)
        return found

    def for_recipient(self, address: str) -> tuple[RecipientRule, ...]:
        """Return the rules that match the domain of an address; all of them apply."""
        return tuple(rule for rule in self.recipients if self.matches(rule.pattern, address))

    @staticmethod
    def matches(pattern: str, address: str) -> bool:
        """Return True if the domain of an address matches a pattern."""
        return _matches(_normal(pattern), _normal(address.rpartition("@")[2]))


_Rule = TypeVar("_Rule", bound=RecipientRule)


def _merged(rules: Iterable[_Rule]) -> tuple[_Rule, ...]:
    by_pattern: dict[str, _Rule] = {}
    for rule in rules:
        earlier = by_pattern.get(rule.pattern)
        by_pattern[rule.pattern] = rule if earlier is None else _over(earlier, rule)
    return tuple(by_pattern.values())


def _over(earlier: _Rule, later: _Rule) -> _Rule:
    """Return the earlier rule with all values of the later one; the automations of both apply."""
    said = {
        field.name: value
        for field in attrs.fields(type(later))
        if (value := getattr(later, field.name)) != field.default
        and field.name not in ("pattern", "automation", "origins")
    }
    origins = {**earlier.origins, **later.origins}
    return attrs.evolve(earlier, **said, automation=(*earlier.automation, *later.automation), origins=origins)


@lru_cache(maxsize=1024)
def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name.lower()) is not None


@lru_cache(maxsize=1024)
def _normal(domain: str) -> str:
    """Return a domain or a pattern as it is sent: lower case, with A-labels."""
    return ".".join(label.lower() if label.isascii() else _a_label(label) for label in domain.split("."))


def _a_label(label: str) -> str:
    try:
        return idna.encode(label, uts46=True).decode("ascii")
    except idna.IDNAError:
        return label.lower()


# From TOML


@attrs.frozen
class _Table:
    """A table of a file: reads values, and says what is wrong and where.

    Attributes:
        values: key -> value.
        path: the table's place in the file.
        file: the name of the file.
        lines: path -> line.
    """

    values: Mapping[str, Any]
    path: Position
    file: str
    lines: Mapping[Position, int]

    def wrong(self, problem: str, *key: str | int) -> ConfigurationError:
        """Return the error for a key of this table, or for the table."""
        path = (*self.path, *key)
        return ConfigurationError(f"{self.where(*key)}: {_spelt(path)} {problem}")

    def where(self, *key: str | int) -> str:
        """Return the file and line of a key of this table, or of the table."""
        return f"{self.file}:{self.lines.get((*self.path, *key), 1)}"

    @property
    def name(self) -> str:
        """Its name in the file."""
        return _spelt(self.path)

    def check_keys(self, known: Iterable[str]) -> None:
        for key in self.values:
            if key not in known:
                raise self.wrong(f"is not known; known here: {', '.join(known)}", key)

    def table(self, key: str) -> _Table:
        value = self.values.get(key, {})
        if not isinstance(value, Mapping):
            raise self.wrong(f"must be a table, not {value!r:.80}", key)
        return _Table(value, (*self.path, key), self.file, self.lines)

    def tables(self, key: str) -> list[_Table]:
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            raise self.wrong(f"must be an array of tables: write [[{_spelt((*self.path, key))}]]", key)
        return [_Table(item, (*self.path, key, n), self.file, self.lines) for n, item in enumerate(value)]

    def read(self, key: str, reader: Callable[[Any], T], default: T) -> T:
        """Return the value of a key, read by a function whose ValueError says what it should be."""
        if key not in self.values:
            return default
        value = self.values[key]
        try:
            return reader(value)
        except ValueError as error:
            raise self.wrong(f"must be {error}, not {value!r:.80}", key) from None

    def read_each(self, key: str, reader: Callable[[Any], T]) -> tuple[T, ...]:
        """Return the values of a key that may have one value or a list."""
        given = self.values.get(key, [])
        values: list[T] = []
        for number, value in enumerate(given if isinstance(given, list) else [given]):
            try:
                values.append(reader(value))
            except ValueError as error:
                at = (key, number) if isinstance(given, list) else (key,)
                raise self.wrong(f"must be {error}, not {value!r:.80}", *at) from None
        return tuple(values)


def _spelt(path: Position) -> str:
    """Return a path as people write it: ``relay."smtp.example.com".automation[0].regex``."""
    text = ""
    for name in path:
        if isinstance(name, int):
            text += f"[{name}]"
        else:
            spelt = name if _BARE.fullmatch(name) else f'"{name}"'
            text += f".{spelt}" if text else spelt
    return text


_LIMITS: Final = ("max_message_rate", "quota", "suspended", "automation", "source", "checked", "service", "note")
#: Keys that describe the other keys of a table; they need no source.
_ABOUT: Final = ("source", "checked", "service", "note", "automation")
_RELAY_LIMITS: Final = ("connection_limit", "max_deliveries_per_connection", *_LIMITS)
_AUTOMATION: Final = ("regex", "code", "enhanced_code", "trigger", "action", "duration", "source", "checked")
_NO_CONNECTIONS: Final = (
    "is for relays only, because connections are not opened for each recipient: use max_message_rate, or [relay.NAME]"
)


def _read_tables(root: _Table) -> dict[str, tuple[Any, ...]]:
    root.check_keys(("default", "relay", "recipient"))
    relays: list[RelayRule] = []
    if "default" in root.values:
        relays.append(_relay_rule("*", root.table("default")))
    by_relay, by_recipient = root.table("relay"), root.table("recipient")
    relays += [_relay_rule(_pattern(by_relay, name), by_relay.table(name)) for name in by_relay.values]
    recipients = [
        _recipient_rule(_pattern(by_recipient, name), by_recipient.table(name)) for name in by_recipient.values
    ]
    return {"relays": _merged(relays), "recipients": _merged(recipients)}


def _pattern(table: _Table, name: str) -> str:
    if not isinstance(table.values[name], Mapping):
        raise table.wrong('must be a table: name the host or the domain, as in [relay."smtp.example.com"]', name)
    pattern = name.strip().rstrip(".")
    if not re.fullmatch(r"[^\s@/:]+", pattern):
        raise table.wrong(
            'must be the name of a host or a domain, without a port or "@"; "*" is for any characters', name
        )
    return _normal(pattern)


def _limits(table: _Table, *, is_relay: bool) -> dict[str, Any]:
    return {
        "where": table.where(),
        "max_message_rate": table.read("max_message_rate", _rate, None),
        "quota": table.read("quota", _rate, None),
        "suspended": table.read("suspended", _flag, None),
        "automation": tuple(_automation(each, is_relay=is_relay) for each in table.tables("automation")),
        "service": table.read("service", _text, ""),
        "note": table.read("note", _text, ""),
        "origins": _origins(table),
    }


def _origins(table: _Table) -> dict[str, Origin]:
    """Return the line and the source of each key. The source is one URL for all keys, or a table of URLs by key."""
    keys = [key for key in table.values if key not in _ABOUT]
    checked = table.read("checked", _date, None)
    if isinstance(table.values.get("source"), Mapping):
        given = table.table("source")
        given.check_keys(keys)
        sources = {key: given.read(key, _url, "") for key in keys}
    else:
        sources = dict.fromkeys(keys, table.read("source", _url, ""))
    return {key: Origin(table.where(key), sources[key], checked) for key in keys}


def _relay_rule(pattern: str, table: _Table) -> RelayRule:
    table.check_keys(_RELAY_LIMITS)
    return RelayRule(
        pattern=pattern,
        connection_limit=table.read("connection_limit", _whole, None),
        max_deliveries_per_connection=table.read("max_deliveries_per_connection", _whole, None),
        **_limits(table, is_relay=True),
    )


def _recipient_rule(pattern: str, table: _Table) -> RecipientRule:
    for key in ("connection_limit", "max_deliveries_per_connection"):
        if key in table.values:
            raise table.wrong(_NO_CONNECTIONS, key)
    table.check_keys(_LIMITS)
    return RecipientRule(pattern=pattern, **_limits(table, is_relay=False))


def _automation(table: _Table, *, is_relay: bool) -> Automation:
    table.check_keys(_AUTOMATION)
    if not {"regex", "code", "enhanced_code"} & table.values.keys():
        raise table.wrong("needs a regex, a code or an enhanced_code, to say which replies it is for")
    for key in ("action", "duration"):
        if key not in table.values:
            raise table.wrong(f"needs {'an action' if key == 'action' else 'a duration'}")
    return Automation(
        name=table.name,
        where=table.where(),
        regex=table.read_each("regex", _regex),
        code=table.read_each("code", _code),
        enhanced_code=table.read_each("enhanced_code", _enhanced_code),
        trigger=_trigger(table),
        actions=_actions(table, is_relay=is_relay),
        duration=table.read("duration", _duration, 0.0),
        origin=Origin(table.where(), table.read("source", _url, ""), table.read("checked", _date, None)),
    )


def _trigger(table: _Table) -> Trigger:
    given = table.values.get("trigger", "Immediate")
    if given == "Immediate":
        return Trigger()
    if not isinstance(given, Mapping):
        raise table.wrong(f'must be "Immediate" or {{ Threshold = "3/h" }}, not {given!r:.80}', "trigger")
    trigger = table.table("trigger")
    trigger.check_keys(("Threshold",))
    rate = trigger.read("Threshold", _rate, None)
    if rate is None:
        raise table.wrong('must be "Immediate" or { Threshold = "3/h" }', "trigger")
    return Trigger(rate.count, rate.seconds)


def _actions(table: _Table, *, is_relay: bool) -> tuple[Action, ...]:
    given = table.values["action"]
    several: Sequence[tuple[tuple[str | int, ...], Any]] = (
        [(("action", number), value) for number, value in enumerate(given)]
        if isinstance(given, list)
        else [(("action",), given)]
    )
    if not several:
        raise table.wrong("is empty: say what is to be done", "action")
    return tuple(_action(table, key, value, is_relay=is_relay) for key, value in several)


def _action(table: _Table, key: tuple[str | int, ...], value: Any, *, is_relay: bool) -> Action:
    if value == "Suspend":
        return Action("suspend")
    if not isinstance(value, Mapping) or not isinstance(value.get("SetConfig"), Mapping):
        raise table.wrong(
            f'must be "Suspend" or {{ SetConfig = {{ name = ..., value = ... }} }}, not {value!r:.80}', *key
        )
    action = _Table(value, (*table.path, *key), table.file, table.lines)
    action.check_keys(("SetConfig",))
    config = action.table("SetConfig")
    config.check_keys(("name", "value"))
    for needed in ("name", "value"):
        if needed not in config.values:
            raise config.wrong(f"needs a {needed}")
    match config.values["name"]:
        case "max_message_rate":
            return Action("max_message_rate", config.read("value", _rate, None))
        case "connection_limit" if is_relay:
            return Action("connection_limit", config.read("value", _whole, None))
        case "connection_limit":
            raise config.wrong(_NO_CONNECTIONS, "name")
        case other:
            raise config.wrong(f'must be "max_message_rate" or "connection_limit", not {other!r:.80}', "name")


def _whole(value: Any) -> int:
    if not (type(value) is int and 1 <= value <= _MOST_CONNECTIONS):
        raise ValueError(f"a whole number from 1 to {_MOST_CONNECTIONS}")
    return value


def _flag(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise ValueError("true or false")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text")
    return value


def _url(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"https?://\S+", value):
        raise ValueError('a URL, such as "https://docs.example.com/limits"')
    return value


def _date(value: Any) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):  # a datetime is a date as well
        return value
    raise ValueError("a date, such as 2026-11-30, without quotation marks")


def _rate(value: Any) -> Rate:
    return Rate.of(value if isinstance(value, str) else "")


def _duration(value: Any) -> float:
    return seconds_of(value if isinstance(value, str) else "")


def _regex(value: Any) -> re.Pattern[str]:
    if not isinstance(value, str) or not value:
        raise ValueError("a regular expression")
    try:
        return re.compile(value)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from None


def _code(value: Any) -> int:
    if not (type(value) is int and 400 <= value <= 599):
        raise ValueError("a reply code from 400 to 599")
    return value


def _enhanced_code(value: Any) -> str:
    if not isinstance(value, str) or not _ENHANCED.fullmatch(value):
        raise ValueError('an enhanced status code, such as "4.7.28" or "4.7.x"')
    return value
