"""What `smtplite` and `smtplite.protocol` offer is what their modules offer, each name once."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from typing import get_args

import pytest

import smtplite
import smtplite.protocol
import smtplite.testing

#: Modules of the core whose names are for those who build on it, not for `smtplite.protocol` itself.
INNER = {"codes", "grammar", "outcomes", "parameters", "paths", "redaction", "usual", "reply", "state", "transparency"}
INNER |= {"envelope", "whole"}  # for speed alone


def test_every_public_name_is_there_and_is_what_its_module_says() -> None:
    for name in smtplite.__all__:
        module = importlib.import_module(smtplite._MODULE_OF[name])
        assert getattr(smtplite, name) is getattr(module, name)
        assert name in module.__all__


def test_all_is_the_union_of_the_homes() -> None:
    assert sorted(smtplite.__all__) == sorted(smtplite._MODULE_OF)
    assert len(smtplite.__all__) == len(set(smtplite.__all__))


def test_dir_shows_the_public_names_alone() -> None:
    rooms = {"errors", "message", "oauth", "protocol", "routes", "sasl", "testing", "trace", "types"}
    assert set(dir(smtplite)) == {*smtplite.__all__, *rooms, "__version__"}
    assert all(hasattr(smtplite, name) for name in dir(smtplite))


@pytest.mark.parametrize(
    "name", ["sasl.Plain", "trace.FlightSent", "types.AnyMessage", "protocol.Vrfy", "message.wire_bytes"]
)
def test_a_room_works_after_import_smtplite_alone(name: str) -> None:
    program = f"import smtplite\nassert smtplite.{name} is not None"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_types_for_annotations_work_at_run_time_too() -> None:
    for name in smtplite.types.__all__:
        assert type(None) in get_args(getattr(smtplite.types, name) | None)


def test_every_error_is_public() -> None:
    from smtplite import errors

    assert set(errors.__all__) <= set(smtplite.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sender'"):
        smtplite.Sender  # type: ignore[attr-defined]  # noqa: B018


def test_the_core_offers_the_union_of_its_modules() -> None:
    offered = set(smtplite.protocol.__all__)
    for info in pkgutil.iter_modules(smtplite.protocol.__path__):
        module = importlib.import_module(f"smtplite.protocol.{info.name}")
        if info.name not in INNER:
            assert set(module.__all__) <= offered, info.name
    for name in offered:
        assert hasattr(smtplite.protocol, name)


@pytest.mark.parametrize("package", [smtplite, smtplite.protocol, smtplite.testing], ids=lambda p: p.__name__)
def test_each_module_names_what_it_offers(package: object) -> None:
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):  # type: ignore[attr-defined]
        if info.name == "smtplite.__main__":
            continue
        module = importlib.import_module(info.name)
        for name in module.__all__:
            assert hasattr(module, name), f"{info.name}.{name}"
