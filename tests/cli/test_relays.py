"""`smtplite send` with --server given again: another relay, for what one certainly did not take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smtplite.testing.threaded import ThreadedServer

Start = Callable[..., ThreadedServer]
Run = Callable[..., Any]


def outbox(folder: Path, count: int) -> Path:
    for number in range(count):
        text = f"From: ada@example.org\r\nTo: r{number}@example.net\r\n\r\nHello.\r\n"
        (folder / f"{number:03}.eml").write_bytes(text.encode())
    return folder


def test_what_the_first_does_not_take_goes_to_the_second(
    start: Start, run: Run, tmp_path: Path, unused_port: Callable[[], int]
) -> None:
    server = start()
    dead = f"smtp://127.0.0.1:{unused_port()}?tls=none"
    ran = run("send", "--server", dead, "--server", server.url, outbox(tmp_path, 20))
    assert ran.code == 0, ran.err
    assert "accepted 20, refused 0, unknown 0" in ran.out
    assert len(server.messages) == 20


def test_each_file_has_one_outcome_however_it_went(start: Start, run: Run, tmp_path: Path) -> None:
    one, two = start(), start()
    one.reply("MAIL", "421 closing")
    results = tmp_path / "results.jsonl"
    (tmp_path / "box").mkdir()
    box = outbox(tmp_path / "box", 10)
    ran = run("send", "--server", one.url, "--server", two.url, "--results", results, box)
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in results.read_text(encoding="ascii").splitlines()]
    assert [line["outcome"] for line in lines].count("accepted") == 10
    assert [line["outcome"] for line in lines].count("begun") == 10
    assert (len(one.messages), len(two.messages)) == (0, 10)


def test_if_both_are_away_it_could_not_go_on(run: Run, tmp_path: Path, unused_port: Callable[[], int]) -> None:
    dead = [f"smtp://127.0.0.1:{unused_port()}?tls=none" for _ in range(2)]
    ran = run("send", "--server", dead[0], "--server", dead[1], outbox(tmp_path, 3))
    assert ran.code == 1
    assert "cannot connect" in ran.err
