"""The checks that CONTRIBUTING lists, each in an environment of its own: ``pip install nox``, then ``nox --list``.

``.ci/run`` is what decides, and needs no nox; this is for those who are used to it, and for one check at a time.
"""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "uv|virtualenv"

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the test suite; ``nox -s tests-3.13 -- tests/protocol`` a part of it."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def exhaustive(session: nox.Session) -> None:
    """Run all of the families of which the test suite runs a part."""
    session.install("-e", ".[test]")
    session.run("pytest", "--exhaustive", "-n", "auto", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, lint and types."""
    session.install("-e", ".[test]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy", "--strict")
    session.run("pyright")


@nox.session
def docs(session: nox.Session) -> None:
    """Compare the generated parts of the documentation, and build it for a browser."""
    session.install("-e", ".[docs]")
    session.run("python", "docs/build.py", "--check")
    session.run("python", "docs/build.py", "html")


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Run the benchmarks; ``nox -s benchmarks -- --quick`` a short form."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "benchmarks", *session.posargs)
