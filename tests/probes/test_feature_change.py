"""A change that all subjects share is found, one subject's is not, and two readings of one model show none."""

from typing import Any

import numpy as np
import pytest

from probes.feature_cards import BINS, cards
from probes.feature_change import FeatureChanges, most_changed
from workbench.errors import BadInput
from workbench.sae_activations import Activations
from workbench.stats import bootstrap

SUBJECTS = tuple(f"subject {i // 2}" for i in range(24))
"""12 subjects of two facts."""

LENGTHS = np.array([5 + i % 3 for i in range(24)])
ROWS = np.repeat(np.arange(24), LENGTHS)


def held(dense: np.ndarray) -> Activations:
    """(token, feature) as activations."""
    token, feature = dense.nonzero()
    return Activations(LENGTHS, token, feature, dense[token, feature].astype(np.float32))


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Feature 0 is switched off, 1 is switched off for one subject, 2 comes up, 3 stays, 4 never fires; then noise."""
    rng = np.random.default_rng(0)
    before = (rng.random((len(ROWS), 65)) < 0.3) * (0.5 + rng.random((len(ROWS), 65)))
    after = (rng.random((len(ROWS), 65)) < 0.3) * (0.5 + rng.random((len(ROWS), 65)))
    first = np.isin(np.arange(len(ROWS)), np.cumsum(LENGTHS) - 1)  # the last token of each fact
    before[:, :5], after[:, :5] = 0, 0
    before[first, 0], after[first, 2] = 2.0, 3.0
    before[ROWS < 2, 1] = 4.0
    before[first, 3] = after[first, 3] = 1.0
    return before, after


@pytest.fixture(scope="module")
def changes(pair) -> FeatureChanges:
    return FeatureChanges.of(held(pair[0]), held(pair[1]), SUBJECTS)


def column(changes: FeatureChanges) -> tuple[dict[int, float], dict[int, float]]:
    told = changes.notes()["by_feature"]
    return tuple(dict(zip(told["feature"], told[name], strict=True)) for name in ("p", "q"))


def test_what_all_subjects_share_is_found_and_what_one_has_is_not(changes) -> None:
    p, q = column(changes)
    assert p[0] == p[2] == pytest.approx(2**-11, rel=1e-3) and max(q[0], q[2]) < 0.05
    assert p[1] == 1 and p[3] == 1  # one subject alone, however clear; no change at all
    assert 4 not in p and len(p) == 64
    noise = [q[i] for i in range(5, 65)]
    assert sum(one < 0.05 for one in noise) <= 2
    told = changes.notes()
    assert told["tested"] == 64 and told["subjects"] == 12 and told["facts"] == 24 and told["all_signs"]
    assert told["smallest_p"] == 2**-11 and told["found"] == sum(one < 0.05 for one in q.values())
    assert told["tokens"] == len(ROWS)


def test_a_model_against_itself_shows_no_change(pair) -> None:
    told = FeatureChanges.of(held(pair[0]), held(pair[0]), SUBJECTS).notes()
    assert told["found"] == 0 and set(told["by_feature"]["p"]) == {1.0}


def test_q_is_larger_than_p_by_how_many_were_tested(changes) -> None:
    p, q = column(changes)
    assert all(q[i] >= p[i] for i in p) and q[0] == pytest.approx(p[0] * 64 / 2, rel=0.01)


def test_intervals_are_those_of_the_share_of_tokens(changes, pair) -> None:
    before, after = pair
    told = changes.intervals([0, 2, 3, 9])
    for feature in (0, 2, 3, 9):
        share = (after[:, feature] > 0).mean() - (before[:, feature] > 0).mean()
        assert told[str(feature)]["change"] == pytest.approx(share)
        assert told[str(feature)]["low"] <= share <= told[str(feature)]["high"]
    assert told["0"]["high"] < 0 < told["2"]["low"] and told["3"]["low"] == told["3"]["high"] == 0
    moved = (after[:, 9] > 0).astype(float) - (before[:, 9] > 0)
    expected = bootstrap(moved, [SUBJECTS[row] for row in ROWS]).estimate()
    assert (told["9"]["low"], told["9"]["high"]) == (expected.low, expected.high)
    single = bootstrap(moved, [str(i) for i in range(len(moved))]).estimate()
    assert single.low != expected.low  # subjects are drawn, not tokens


def test_the_most_changed_are_the_furthest_from_zero_either_way() -> None:
    assert most_changed(np.array([0.1, 0.0, -0.4, 0.2]), 2) == [2, 3]
    assert most_changed(np.array([0.1, 0.0, -0.4, 0.2]), 9) == [2, 3, 0]


def test_activations_survive_packing(pair) -> None:
    kept = held(pair[0])
    again = Activations.unpack(kept.packed())
    for name in ("lengths", "token", "feature", "value"):
        assert np.array_equal(getattr(kept, name), getattr(again, name))
    assert again.of(0) == pytest.approx(pair[0][:, 0]) and again.features.tolist() == kept.features.tolist()
    with pytest.raises(BadInput, match="cannot be read"):
        Activations.unpack({**kept.packed(), "value": "AAAA"})


def test_a_card_counts_every_firing_token_and_aligns_both_models(pair) -> None:
    sides = {"before": held(pair[0]), "after": held(pair[1])}
    made: dict[str, Any] = cards([0, 1, 4, 9], sides, 2)
    bins = made["9"]["histogram"]
    assert len(bins["edges"]) == BINS + 1 and bins["edges"][-1] == pytest.approx(max(p[:, 9].max() for p in pair))
    assert sum(bins["before"]) == (pair[0][:, 9] > 0).sum() and sum(bins["after"]) == (pair[1][:, 9] > 0).sum()
    assert made["4"]["examples"] == [] and made["4"]["histogram"]["edges"] == []
    assert [one["fact"] for one in made["1"]["examples"]] == [0, 1]  # the only facts it fires in
    for feature in (0, 9):
        peaks = [max(p[fact == ROWS, feature].max() for p in pair) for fact in range(24)]
        shown = [one["fact"] for one in made[str(feature)]["examples"]]
        assert sorted((peaks[i] for i in shown), reverse=True) == pytest.approx(sorted(peaks, reverse=True)[:2])
        for one in made[str(feature)]["examples"]:
            for side, p in zip(("before", "after"), pair, strict=True):
                assert one[side] == pytest.approx(p[one["fact"] == ROWS, feature].tolist(), rel=1e-3)
    assert set(cards([0], {"after": sides["after"]}, 2)["0"]["histogram"]) == {"edges", "after"}
