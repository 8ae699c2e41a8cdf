"""Progress that is written to a run's events."""

import json
from pathlib import Path

import pytest

from workbench import telling
from workbench.store import RunFolder


def events(run: RunFolder) -> list[dict]:
    return [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]


def test_it_is_handed_on_and_written_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, clock, shown = RunFolder.claim(tmp_path / "run", {"verb": "look"}), [0.0], []
    monkeypatch.setattr(telling.time, "monotonic", lambda: clock[0])
    step = telling.Telling(run, lambda *words: shown.append(words))
    for done in range(25):  # ten a second
        clock[0] = done / 10
        step("tracing", done, 25)
    step("judging", 0, 1, "loss 2")
    assert [(e["what"], e["done"]) for e in events(run)] == [
        ("tracing", 0),
        ("tracing", 10),
        ("tracing", 20),
        ("judging", 0),
    ]
    assert all(e["total"] in (25, 1) for e in events(run))
    assert len(shown) == 26 and shown[-1] == ("judging", 0, 1, "loss 2")


def test_it_needs_nobody_to_hand_on_to(tmp_path: Path) -> None:
    run = RunFolder.claim(tmp_path / "run", {"verb": "look"})
    telling.Telling(run)("tracing", 1, 2)
    assert events(run)[0]["done"] == 1
