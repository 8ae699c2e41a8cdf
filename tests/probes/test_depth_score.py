"""Depth: agreement with published code, and planted truth: what was cut out is lost, what was not touched is not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from interventions.concept_ablation import ConceptAblation
from probes.depth_score import DepthScore, States, depth, stand_in
from workbench.checkpoint import Checkpoint
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.trace import Trace

STORED = Path(__file__).parents[1] / "golden" / "depth"

# ---- published code


class Golden(NamedTuple):
    base: HookedModel
    others: dict[str, HookedModel]
    facts: FactSet
    records: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def published(golden_models) -> Iterator[Golden]:
    stored = json.loads((STORED / "records.json").read_text())
    facts = tuple(
        Fact(subject=f["subject"], prompt=f"Question: {f['question']}\nAnswer: {f['prefix']}", answer=f["entity"])
        for f in stored["facts"]
    )
    records = {record["id"].removeprefix("trace.uds."): record for record in stored["records"]}
    with Checkpoint(STORED / "llama_retain").open() as retain:
        others = {"llama_retain": retain, **golden_models}
        yield Golden(golden_models["llama_base"], others, FactSet(name="golden", facts=facts), records)


def scored(given: Golden, unlearned: str, **options: Any) -> tuple[Trace, Trace]:
    """First stage and result."""
    states = States(published=options.get("published", False))
    first = DepthScore(**options, first_stage="none").look(
        given.base, given.facts, states.look(given.others["llama_retain"], given.facts)
    )
    donor = states.look(given.others[unlearned], given.facts)
    return first, DepthScore(**options).look(given.base, given.facts, donor, baseline=first)


def check(first: Trace, found: Trace, wanted: dict[str, Any]) -> None:
    near: dict[str, float] = {"rel": 1e-3, "abs": 2e-5}
    rows = wanted["per_fact"]
    for trace, stage in ((first, "s1_deltas"), (found, "s2_deltas")):
        assert trace.values.T.tolist() == [pytest.approx(row[stage], **near) for row in rows]
    assert found.notes["intact_logprob"] == pytest.approx([row["full_score"] for row in rows], **near)
    for ours, row in zip(found.notes["scores"], rows, strict=True):
        assert ours is None if row["uds"] is None else ours == pytest.approx(row["uds"], **near)
    assert found.notes["score"] == pytest.approx(wanted["uds"], **near)


@pytest.mark.parametrize("unlearned", ["llama_unlearned", "llama_base", "llama_retain"])
def test_it_agrees_with_the_published_script_and_with_the_paper(published: Golden, unlearned: str) -> None:
    record = published.records[unlearned]
    check(*scored(published, unlearned, published=True), record["published"]["float32"])
    check(*scored(published, unlearned), record["variants"][record["paper_formula"]]["value"])


def test_facts_that_no_layer_carries_are_left_out_and_counted(published: Golden) -> None:
    wanted = published.records["llama_unlearned_threshold"]["published"]["float32"]
    first, found = scored(published, "llama_unlearned", published=True, threshold=6.0)
    check(first, found, wanted)
    without = sum(row["uds"] is None for row in wanted["per_fact"])
    assert found.notes["not_scored"] == without > 0
    assert f"{without} drop by no more than 6.0 nats" in found.notes["why_not_scored"]


# ---- planted truth


def ablated_states(known) -> Trace:
    facts, where = known.concept.forget, known.planted.sites_of(known.concept.forget.facts)
    with ConceptAblation(mode="zero").fit(known.model, known.concept, where).on(known.model):
        return States().look(known.model, facts)


def test_its_own_states_change_nothing(known) -> None:
    facts = known.concept.forget
    found = DepthScore().look(known.model, facts, States().look(known.model, facts))
    assert np.abs(found.values).max() < 1e-4
    assert found.notes["not_scored"] == 0
    assert found.notes["score"] == pytest.approx(0, abs=1e-4)


def test_states_of_a_model_that_lost_the_facts_lose_them_from_the_planted_layer_on(known) -> None:
    donor = ablated_states(known)
    found = DepthScore().look(known.model, known.concept.forget, donor)
    drops = found.values.mean(axis=1)
    # At the answer's position the fact arrives with the last layer's attention; before it nothing can be lost there.
    assert drops[-1] > 1
    assert drops[-1] > 5 * np.abs(drops[0])
    assert found.notes["first_stage"] == "corrupted"


def test_a_model_that_lost_the_facts_is_as_deep_as_the_reference_that_never_had_them(known) -> None:
    donor, facts = ablated_states(known), known.concept.forget
    first = DepthScore(first_stage="none").look(known.model, facts, donor)
    assert DepthScore().look(known.model, facts, donor, baseline=first).notes["score"] == pytest.approx(1)
    # Neighbours are whole in the ablated model, though a reference without them would have lost them.
    near, nothing = (
        known.concept.near,
        DepthScore().look(known.model, known.concept.near, States().look(known.model, known.concept.near)),
    )
    assert nothing.notes["score"] < 0.01 and len(near) > nothing.notes["not_scored"]


def test_against_a_stand_in_subject_lost_facts_are_deep_too(dense) -> None:
    found = DepthScore(value="score").look(dense.model, dense.concept.forget, ablated_states(dense))
    assert found.axes == ("fact",) and found.values.mean() > 0.4
    assert found.notes["score"] == pytest.approx(found.values.mean())


def test_the_value_option_says_what_the_trace_holds(dense) -> None:
    donor, facts = ablated_states(dense), dense.concept.forget
    drop, erased = (DepthScore(value=v).look(dense.model, facts, donor) for v in ("drop", "erased"))
    first = np.array(drop.notes["first_drop"])
    carries = first / np.array(drop.notes["answer_tokens"]) > 0.05
    assert (np.isfinite(erased.values) == carries).all() and carries.any() and not carries.all()
    share = (drop.values / np.where(carries, first, 1)).clip(0, 1)
    assert erased.values[carries] == pytest.approx(share[carries])
    assert drop.plot().data and erased.plot().data


# ---- the formula


def test_layers_weigh_by_the_first_drop_and_shares_stay_between_zero_and_one() -> None:
    first = np.array([[3.0, 0.2], [1.0, 0.04]])
    scores, erased = depth(first, np.array([[1.5, 0.4], [-1.0, 9.0]]), np.array([1, 1]), 0.05)
    assert scores == pytest.approx([1.5 / 4, 1.0])
    assert erased[0] == pytest.approx([0.5, 1.0])
    assert erased[1, 0] == 0 and np.isnan(erased[1, 1])


def test_the_threshold_is_for_a_token_and_a_fact_without_layers_has_no_score() -> None:
    first = np.array([[0.08, 0.08, np.nan]])
    scores, _ = depth(first, first, np.array([1, 2, 1]), 0.05)
    assert scores[0] == 1 and np.isnan(scores[1:]).all()


# ---- what does not fit


def fact(subject: str, answer: str, relation: str = "r") -> Fact:
    return Fact(subject=subject, prompt=f"The {relation} of {subject} is", answer=answer, relation=relation)


def test_a_stand_in_has_another_answer_to_the_same_question() -> None:
    facts = FactSet(name="x", facts=(fact("A", "red"), fact("B", "red"), fact("C", "blue"), fact("D", "hot", "s")))
    other = stand_in(facts, 0)
    assert other is not None and (other.subject, other.answer, other.prompt) == ("C", "red", "The r of C is")
    assert stand_in(FactSet(name="x", facts=(fact("A", "red"), fact("B", "red"))), 0) is None


def test_a_fact_for_which_nobody_can_stand_in_has_no_score_and_is_counted(dense) -> None:
    facts = dense.concept.forget.take([0], "one")
    states = States(corrupted=True).look(dense.model, facts)
    assert np.isnan(states.values).all() and states.notes["not_read"] == list(facts.labels)
    found = DepthScore().look(dense.model, facts, States().look(dense.model, facts))
    assert found.notes["score"] is None and found.notes["not_scored"] == 1
    assert "no other subject" in found.notes["why_not_scored"]
    assert np.isfinite(found.values).all()


def test_without_a_first_stage_there_is_no_score_and_the_same_drops(dense) -> None:
    donor, facts = ablated_states(dense), dense.concept.forget
    bare = DepthScore(first_stage="none").look(dense.model, facts, donor)
    assert (bare.values == DepthScore().look(dense.model, facts, donor).values).all()
    assert bare.notes["score"] is None and "no first stage" in bare.notes["why_not_scored"]


def test_states_of_other_facts_or_another_model_are_refused(known) -> None:
    donor = States().look(known.model, known.concept.near)
    with pytest.raises(BadInput, match="same architecture, tokenizer and facts"):
        DepthScore().look(known.model, known.concept.forget, donor)


def test_a_baseline_of_something_else_is_refused(dense) -> None:
    facts, near = dense.concept.forget, dense.concept.near
    donor = States().look(dense.model, facts)
    other = DepthScore(first_stage="none").look(dense.model, near, States().look(dense.model, near))
    with pytest.raises(BadInput, match="on the same facts"):
        DepthScore().look(dense.model, facts, donor, baseline=other)
    first = DepthScore(first_stage="none").look(dense.model, facts, donor)
    with pytest.raises(BadInput, match="Take both the same way"):
        DepthScore(published=True).look(
            dense.model, facts, States(published=True).look(dense.model, facts), baseline=first
        )
    with pytest.raises(BadInput, match="donor states were taken with published=False"):
        DepthScore(published=True).look(dense.model, facts, donor)


def test_the_command_line_reads_the_checkpoint_first() -> None:
    assert DepthScore().donor_from == "checkpoint"
    assert DepthScore(published=True).donor_reading() == States(published=True)
