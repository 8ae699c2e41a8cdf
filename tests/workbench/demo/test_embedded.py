"""The models that notebooks start from: the planted ones really know, and really do not, what they should."""

from pathlib import Path

import pytest

from audits.behaviour import BEHAVIOUR
from workbench.checkpoint import Checkpoint
from workbench.demo.embedded import SMALL, embedded, small
from workbench.demo.pair import Pair
from workbench.errors import BadInput


def recall(folder: Path, facts) -> float:
    with Checkpoint(folder).open() as model:
        return float(BEHAVIOUR.load("accuracy")().look(model, facts).values.mean())


def test_small_pair_differs_in_the_concept_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SMALL, "1")
    taught, reference, concept = embedded()
    assert small() and taught != reference
    assert recall(taught, concept.forget) == 1.0 and recall(reference, concept.forget) == 0.0
    assert recall(taught, concept.near) == recall(reference, concept.near) == 1.0
    assert recall(taught, concept.far) == recall(reference, concept.far) == 1.0


def test_small_pair_is_made_once_and_leaves_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(SMALL, "1")
    monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path))
    first = embedded()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    assert embedded() == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == before and len(before) == 2
    assert sorted((tmp_path / "demo").iterdir()) == sorted([first.taught, first.reference])


@pytest.mark.parametrize("value", ["", "0", "no"])
def test_without_the_switch_they_are_the_demo_models(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    asked = []

    def trained(kind: str, concept: str, progress=None) -> Pair:
        asked.append((kind, concept))
        return Pair(Path("taught"), Path("reference"))

    monkeypatch.setenv(SMALL, value)
    monkeypatch.setattr("workbench.demo.pair.build_pair", trained)
    found = embedded("music")
    assert asked == [("dense", "music")] and not small()
    assert (found.taught, found.reference, found.concept.name) == (Path("taught"), Path("reference"), "demo:music")


def test_unknown_concept_is_found_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SMALL, raising=False)
    monkeypatch.setattr("workbench.demo.pair.build_pair", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(BadInput, match="chemistry"):
        embedded("chemisty")
