"""`smtplite completion SHELL`: the shell itself completes commands, options, choices and files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def complete(script: str, line: str, folder: Path) -> set[str]:
    """Return what bash offers for the last word of a line."""
    program = """
        eval "$1"
        COMP_LINE=$2 COMP_POINT=${#2}
        read -r -a COMP_WORDS <<< "$2"
        [[ $2 == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
        function=$(complete -p smtplite | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        "$function" smtplite "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    ran = subprocess.run(
        ["bash", "-c", program, "bash", script, line],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(ran.stdout.split())


@pytest.fixture
def script(run: Run) -> str:
    ran = run("completion", "bash")
    assert (ran.code, ran.err) == (0, "")
    return str(ran.out)


def test_bash_completes_commands_options_choices_and_files(script: str, tmp_path: Path) -> None:
    (tmp_path / "hello.eml").touch()
    assert complete(script, "smtplite s", tmp_path) == {"send", "serve"}
    assert complete(script, "smtplite send --dr", tmp_path) == {"--dry-run"}
    assert complete(script, "smtplite serve --print ", tmp_path) >= {"text", "raw", "summary"}
    assert complete(script, "smtplite check --mechanism scram", tmp_path) == {"scram-sha-1", "scram-sha-256"}
    assert "hello.eml" in complete(script, "smtplite send hel", tmp_path)
    assert "hello.eml" in complete(script, "smtplite send --results hel", tmp_path)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_understands_its_script(shell: str, run: Run, tmp_path: Path) -> None:
    ran = run("completion", shell)
    assert ran.code == 0
    assert "dry-run" in ran.out
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its script was made, and not read")
    file = tmp_path / "script"
    file.write_text(ran.out)
    subprocess.run([shell, "-n", file], check=True, timeout=60)


def test_without_shtab_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    ran = run("completion", "bash")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == 'smtplite completion: shtab is not installed: install "smtplite[cli]"\n'
