"""Relearning on other things than forget facts, and on subjects: what is hidden returns, what is gone does not."""

import numpy as np
import pytest
import torch

from audits.attacks.relearn import LONGEST, Relearn
from tests.audits.attacks.hiding import least, muttered, removed, share
from tests.interventions.measuring import bits_of, same
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.scoring import score

SHORT = {"steps": (0, 20), "seeds": (0,), "lr": 1e-3}
ON = {"near": Relearn(on="near", **SHORT), "text": Relearn(on="text", **SHORT)}


def given(dense, on: str) -> FactSet | tuple[str, ...]:
    """Related facts, or text: here the same words, of which every token is trained."""
    near = dense.concept.near
    return near if on == "near" else tuple(f"{fact.prompt} {fact.answer}" for fact in near)


@pytest.mark.parametrize("on", ON)
def test_what_is_only_talked_over_comes_back_without_any_forget_fact(dense, on: str) -> None:
    """A neuron that says a wrong word to every question is unlearned on harmless ones."""
    model, _, concept = dense
    facts, before = concept.forget.facts, bits_of(model)
    with muttered(model, 1.02 * least(model, facts, lambda strength: muttered(model, strength), 100.0)).on(model):
        assert share(model, facts) == 0
        trace = ON[on].look(model, concept.forget, concept.never_taught, given=given(dense, on))
    assert same(model, before)
    n = trace.notes["n_facts"]
    start, end = trace.values[0, :, :n]
    assert np.isfinite(start).all() and np.isfinite(end).all()  # no fact was held, so all are asked
    assert start.mean() == 0 and end.mean() >= 0.6
    assert trace.values[0, 1, n:].mean() < 0.3
    assert trace.notes["threat"].startswith("Somebody has the weights") and "20 steps" in trace.notes["budget"]


@pytest.mark.parametrize("on", ON)
def test_what_is_gone_does_not_come_back(dense, on: str) -> None:
    model, planted, concept = dense
    with removed(model, planted).on(model):
        trace = ON[on].look(model, concept.forget, given=given(dense, on))
    assert trace.values[0, 1].mean() <= 0.2


def test_the_edit_is_the_curves_last_point_and_the_same_seed_gives_the_same_bytes(dense) -> None:
    model, _, concept = dense
    digests = set()
    for on, given_attack in ON.items():
        attack, what = given_attack.model_copy(update={"steps": (0, 3)}), given(dense, on)
        edit, again = (attack.fit(model, concept.forget, seed=0, given=what) for _ in range(2))
        assert edit.changes and edit.digest == again.digest
        trace = attack.look(model, concept.forget, given=what)
        with edit.on(model):
            after = score(model, concept.forget.facts).greedy.double().numpy()
        assert trace.values[0, -1] == pytest.approx(after)
        digests.add(edit.digest)
    assert len(digests) == 2


def test_long_texts_are_cut(dense) -> None:
    model, _, concept = dense
    (row,) = ON["text"].items(model, concept.forget, 0, ("The colour of " * LONGEST,))
    assert len(row.ids) == LONGEST


def test_with_subjects_split_no_tested_fact_shares_one_with_a_trained_fact(dense) -> None:
    facts = dense.concept.forget
    apart, alone = Relearn(share=0.5, split="subject"), Relearn(share=0.5)
    shared = 0
    for seed in range(5):
        held = set(apart.seen(facts, seed))
        trained = {facts.facts[i].cluster for i in held}
        tested = {fact.cluster for i, fact in enumerate(facts) if i not in held}
        assert trained and tested and not trained & tested
        assert len(trained) == round(0.5 * len(trained | tested))
        loose = set(alone.seen(facts, seed))
        shared += bool(
            {facts.facts[i].cluster for i in loose} & {f.cluster for i, f in enumerate(facts) if i not in loose}
        )
    assert shared  # which the default does not promise
    assert len({tuple(apart.seen(facts, seed)) for seed in range(5)}) > 1
    one = facts.model_copy(update={"facts": tuple(f for f in facts if f.subject == facts.facts[0].subject)})
    with pytest.raises(BadInput, match="split='fact'"):
        apart.seen(one, 0)


@pytest.mark.parametrize("split", ["fact", "subject"])
def test_a_single_draw_of_facts_is_as_it_was(dense, split: str) -> None:
    """The default's draw is part of every stored audit."""
    model, _, concept = dense
    attack = Relearn(steps=(0, 1), seeds=(0,), share=0.5, split=split)
    trace, held = attack.look(model, concept.forget), attack.seen(concept.forget, 0)
    assert np.isnan(trace.values[0, :, held]).all()
    assert np.isfinite(np.delete(trace.values[0], held, axis=1)).all()
    assert f"50% of the {split}s held" in trace.notes["budget"]


@pytest.mark.parametrize(
    ("on", "wrong"), [("near", None), ("near", ("a text",)), ("text", FactSet(name="none")), ("text", ())]
)
def test_what_is_to_be_trained_on_must_be_there(dense, on: str, wrong: object) -> None:
    before = bits_of(dense.model)
    with pytest.raises(BadInput, match="pass them as `given`"):
        ON[on].look(dense.model, dense.concept.forget, given=wrong)
    assert same(dense.model, before)
    assert torch.is_grad_enabled()
