"""Residual knowledge: 1 for the same model, 0 for one that never knew, None where there is nothing to divide by."""

from dataclasses import replace

import numpy as np
import pytest

from interventions.concept_ablation import ConceptAblation
from probes.linear_probes import LinearProbes
from probes.residual_knowledge import residual_knowledge
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.trace import Trace

SUBJECTS = 40


def made(accuracies: tuple[float, ...], never: float = 0.2, seed: int = 0, **notes) -> Trace:
    """A reading with the accuracy given at each layer on 80 facts about 40 people, and 40 never-taught facts."""
    generator = np.random.default_rng(seed)
    known = np.array([generator.permutation(80) < round(80 * a) for a in accuracies])
    unknown = np.array([generator.permutation(40) < round(40 * never) for _ in accuracies])
    values = np.concatenate([known, unknown], axis=1)[:, None].astype(float)
    subjects = [f"p{i // 2}" for i in range(80)] + [f"n{i // 2}" for i in range(40)]
    labels = {
        "layer": tuple(f"L{i}" for i in range(len(accuracies))),
        "seed": ("0",),
        "fact": tuple(str(i) for i in range(120)),
    }
    about = {"subjects": subjects, "n_facts": 80, "controls": {"shuffled": [0.25] * len(accuracies), "chance": [0.25]}}
    return Trace("linear_probes", values, ("layer", "seed", "fact"), "share of facts", labels, about | notes)


def test_the_same_reading_is_one_without_width():
    found = residual_knowledge(made((0.9, 0.8)), made((0.9, 0.8)))
    assert found.values.tolist() == [1.0, 1.0] == found.notes["low"] == found.notes["high"]


def test_the_ratio_is_the_formula_and_the_interval_holds_it():
    found = residual_knowledge(made((0.85,)), made((0.55,), seed=1))
    assert found.values[0] == pytest.approx((0.55 - 0.25) / (0.85 - 0.25))
    assert found.notes["low"][0] < found.values[0] - 0.05 and found.values[0] + 0.05 < found.notes["high"][0]
    assert (
        found.notes["n"] == [80] and found.notes["clusters"] == [40] and found.notes["excess"] == [pytest.approx(0.6)]
    )


def test_at_the_floor_it_is_nought_and_below_it_negative():
    base = made((0.9,), never=0.25)
    assert residual_knowledge(base, made((0.25,), seed=1)).values[0] == pytest.approx(0)
    assert residual_knowledge(base, made((0.0,), seed=1)).values[0] < -0.3
    never = residual_knowledge(base, made((0.25,), seed=1), floor="never_taught")
    assert never.values[0] == pytest.approx(0) and never.notes["low"][0] < -0.05 < 0.05 < never.notes["high"][0]
    known = residual_knowledge(base, made((0.25,), seed=1))
    width = [one.notes["high"][0] - one.notes["low"][0] for one in (never, known)]
    assert width[0] > width[1] and never.notes["floor_resampled"] and not known.notes["floor_resampled"]


def test_where_the_base_reads_nothing_there_is_no_ratio():
    found = residual_knowledge(made((0.9, 0.3)), made((0.5, 0.9)))
    assert np.isnan(found.values[1]) and found.values[0] > 0
    assert "+0.05 above the floor" in found.notes["why_missing"][1] and found.notes["why_missing"][0] is None
    assert found.notes["low"][1] is None
    assert np.isfinite(residual_knowledge(made((0.9, 0.5)), made((0.5, 0.9)), smallest=0.2).values[1])
    assert np.isnan(residual_knowledge(made((0.9, 0.5)), made((0.5, 0.9)), smallest=0.3).values[1])


def test_an_excess_that_may_be_nothing_is_not_divided_by():
    base = made((0.4,))
    few = [0, 2, 4, 6, 80, 81]  # six people: 0.15 above the floor, give or take 0.4
    small = replace(
        base,
        values=np.array([1, 0, 1, 0, 0, 0.0]).reshape(1, 1, 6),
        labels={**base.labels, "fact": tuple(map(str, few))},
        notes={**base.notes, "subjects": [base.notes["subjects"][i] for i in few], "n_facts": 4},
    )
    found = residual_knowledge(small, small)
    assert np.isnan(found.values[0]) and "interval" in found.notes["why_missing"][0]


def test_facts_read_in_one_only_do_not_enter():
    base, after = made((0.9,)), made((0.5,), seed=1)
    holes = after.values.copy()
    holes[..., :10] = np.nan
    found = residual_knowledge(base, replace(after, values=holes))
    expected = (np.nanmean(holes[..., :80]) - 0.25) / (base.values[..., 10:80].mean() - 0.25)
    assert found.notes["n"] == [70] and found.values[0] == pytest.approx(expected)
    turned = residual_knowledge(
        replace(base, values=np.where(np.isnan(holes), np.nan, base.values)), made((0.5,), seed=1)
    )
    assert turned.notes["n"] == [70] and turned.values[0] == pytest.approx(expected)
    nothing = residual_knowledge(base, replace(after, values=np.full_like(holes, np.nan)))
    assert np.isnan(nothing.values[0]) and "no fact" in nothing.notes["why_missing"][0]


def test_readings_that_differ_are_refused():
    base = made((0.9,))
    with pytest.raises(BadInput, match="train_digest"):
        residual_knowledge(base, made((0.9,), train_digest="other"))
    with pytest.raises(BadInput, match="labels"):
        residual_knowledge(base, made((0.9, 0.9)))
    with pytest.raises(BadInput, match="erase=True"):
        residual_knowledge(base, base, floor="erased")
    with pytest.raises(BadInput, match="logit_lens"):
        residual_knowledge(base, replace(base, name="logit_lens"))
    alone = replace(base, notes={**base.notes, "n_facts": 120})
    with pytest.raises(BadInput, match="never-taught"):
        residual_knowledge(alone, alone, floor="never_taught")


def test_planted_facts_silenced_and_removed(dense):
    """Ablating the planted neurons takes the answers away; the untouched model keeps all of them."""
    people = FactSet(
        name="people", facts=tuple(f for f in (*dense.concept.forget, *dense.concept.near) if f.relation != "friend")
    )
    probe = LinearProbes(seeds=2, erase=True, keep="all")
    base = probe.look(dense.model, people)
    same = residual_knowledge(base, probe.look(dense.model, people))
    assert same.values[-1] == 1.0 and same.axes == ("layer",) and same.notes["floor_resampled"]
    where = dense.planted.sites_of(people.facts)
    with ConceptAblation(mode="zero").fit(dense.model, dense.concept, where).on(dense.model):
        removed = probe.look(dense.model, people)
    for floor in ("shuffled", "erased", "majority", "chance"):
        found = residual_knowledge(base, removed, floor)
        assert found.values[-1] < 0.35 and np.isnan(found.values[0]), floor
