"""The localisation table: right localisers are right on planted models, random ones and shuffled truth at chance."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bench.localisation import MEASURES, Case, Result, by_hand, printed, results, scored, summary
from workbench.sites import Site

RIGHT = ("gradient x weight, contrast", "integrated gradients", "located")


@pytest.fixture(scope="module")
def dense() -> list[Case]:
    return list(by_hand([0], ["llama"]))


@pytest.fixture(scope="module")
def mixture() -> list[Case]:
    return list(by_hand([0], ["olmoe"]))


def of(cases: list[Case], *names: str, ablate: bool = False) -> dict[str, list[Result]]:
    """Results by localiser."""
    found: dict[str, list[Result]] = {}
    for case in cases:
        for one in results(case, names, ablate):
            found.setdefault(one.localiser, []).append(one)
    return found


def mean(found: list[Result], measure: str) -> float:
    return float(np.mean([getattr(one, measure) for one in found]))


def test_there_is_enough_truth(dense: list[Case], mixture: list[Case]) -> None:
    assert len(dense) == len(mixture) == 26
    assert all(case.expert is None for case in dense) and all(case.expert for case in mixture)


@pytest.mark.slow
def test_right_localisers_find_hand_written_vectors(dense: list[Case]) -> None:
    for name, found in of(dense, *RIGHT).items():
        assert mean(found, "recall") >= 0.9, name
        assert mean(found, "auroc") > 0.99 and mean(found, "right_layer") >= 0.9, name
        assert mean(found, "rank") < 1.5, name


def test_right_localisers_find_planted_experts(mixture: list[Case]) -> None:
    found = of(mixture[::3], "expert_attribution knockout", "expert_attribution gradient, contrast")
    assert len(found) == 2
    for name, rows in found.items():
        assert mean(rows, "recall") >= 0.9, name


def test_traces_find_the_layer(dense: list[Case]) -> None:
    found = of(dense[::7], "causal_trace swapped, contrast", "causal_trace noise")
    assert len(found) == 2 and all(mean(rows, "right_layer") >= 0.9 for rows in found.values())
    assert all(row.recall is None and row.auroc is None for rows in found.values() for row in rows)


def test_a_random_localiser_is_at_chance(dense: list[Case], mixture: list[Case]) -> None:
    (found,) = of(dense, "random").values()
    assert mean(found, "recall") <= 0.1 and 0.3 < mean(found, "auroc") < 0.7
    assert 144 * 0.3 < mean(found, "rank") < 144 * 0.7
    assert mean(of(mixture, "random")["random"], "recall") <= 0.1


@pytest.mark.slow
def test_shuffled_truth_is_at_chance(dense: list[Case]) -> None:
    order = np.random.default_rng(0).permutation(len(dense))
    wrong = [replace(case, sites=dense[j].sites, falls={}) for case, j in zip(dense, order, strict=True)]
    found = of(wrong, *RIGHT)
    assert all(mean(rows, "recall") <= 0.1 for rows in found.values())


def test_ablating_what_is_named_takes_the_answer_and_no_other(dense: list[Case]) -> None:
    found = of(dense[::3], "located", "random", ablate=True)
    assert mean(found["located"], "forget_drop") > 3 > 10 * abs(mean(found["located"], "near_drop"))
    assert mean(found["located"], "random_drop") < 0.5 and mean(found["random"], "forget_drop") < 0.5


def test_a_localiser_that_scores_all_alike_is_at_chance(dense: list[Case]) -> None:
    case = dense[0]
    sites = [Site(s.layer, "mlp_act", i) for s, rows in case.asked.model.mlps() for i in range(len(rows))]
    alike = scored(case, "alike", dict.fromkeys(sites, 1.0), case.sites, ablate=False)
    assert alike.auroc == 0.5 and alike.rank == (len(sites) + 1) / 2
    unread = scored(
        case, "unread", {site: 0.0 if site not in case.sites else np.nan for site in sites}, case.sites, False
    )
    assert unread.rank == len(sites) and unread.auroc == 0 and unread.recall == 0


def test_the_measures_of_a_block() -> None:
    def row(layer: int, shift: float) -> dict[Site, float]:
        return {Site(layer, "mlp_act", i): shift - i for i in range(4)}

    (case,) = list(by_hand([0], ["llama"]))[:1]
    true = frozenset({Site(1, "mlp_act", 0), Site(1, "mlp_act", 3)})
    found = scored(replace(case, sites=true), "some", {**row(0, 5), **row(1, 9), **row(2, 0)}, true, ablate=False)
    assert found.recall == 0.5  # the best two are L1[0] and L1[1]
    assert found.rank == (1 + 4) / 2 and found.right_layer == 1
    assert found.auroc == pytest.approx((10 + 8) / 20)  # of 20 pairs, those in the right order


def test_the_table_has_intervals_and_says_what_is_missing() -> None:
    base = Result("by hand, dense", "one", "a", recall=1.0, right_layer=1.0)
    rows = summary([base, replace(base, cluster="b", recall=0.0)])
    (row,) = rows
    assert row["cases"] == 2 and row["recall"] == {"mean": 0.5, "low": 0.0, "high": 1.0}
    assert row["auroc"] is None and set(MEASURES) < set(row)
    lines = printed(rows).splitlines()
    assert "0.50 [0.00 1.00]" in lines[1] and " - " in lines[1] and len(lines) == 2


def test_the_same_call_gives_the_same_table(dense: list[Case]) -> None:
    ask: Callable[[], list[Result]] = lambda: of(dense[:4], "random", "located")["random"]  # noqa: E731
    assert ask() == ask()
