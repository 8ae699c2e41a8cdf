"""What every guard of this folder must hold, on models whose facts are known."""

from pathlib import Path

import pytest
import torch

from interventions.guards.embedding_corruption import EmbeddingCorruption
from interventions.guards.guard_decoding import GuardDecoding
from interventions.guards.logit_difference import LogitDifference
from workbench.concepts import FactSet
from workbench.edits import HookEdit, load_edit
from workbench.errors import BadInput
from workbench.intervention import Intervention
from workbench.scoring import batch_of, score
from workbench.sites import Site

METHODS: dict[str, Intervention] = {
    "eco": EmbeddingCorruption(sigma=8.0),
    "guard": GuardDecoding(),
    "uld": LogitDifference(steps=50),
}


@pytest.fixture(scope="module", params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def edit(bench, name: str) -> HookEdit:
    return METHODS[name].fit(bench.model, bench.concept)


def test_the_facts_are_gone_and_the_others_stay(bench, edit: HookEdit) -> None:
    before, after = bench.greedy(), bench.greedy(edit)
    assert before["forget"] == 1
    assert after["forget"] <= 0.05 and after["paraphrases"] <= 0.1
    for kept in ("near", "far"):
        assert after[kept] >= 0.95 * before[kept]


def test_it_says_that_nothing_was_removed(edit: HookEdit) -> None:
    assert "whoever drops the guard has it back" in edit.notes["weights"]
    assert "flattered" in edit.notes["prompts to keep"]  # the planted concept has no retain set


def test_the_model_is_the_same_bits_before_during_and_after(bench, edit: HookEdit, name: str) -> None:
    weights, identity = bench.weights(), bench.model.identity
    whole = score(bench.model, bench.concept.forget.facts).logprob
    with edit.on(bench.model):
        score(bench.model, bench.concept.forget.facts)
        assert bench.is_as(weights) and bench.model.identity != identity
    assert bench.is_as(weights) and bench.model.identity == identity
    assert torch.equal(score(bench.model, bench.concept.forget.facts).logprob, whole)


def test_saved_and_loaded_it_is_the_same(bench, edit: HookEdit, tmp_path: Path) -> None:
    edit.save(tmp_path / "guard")
    loaded = load_edit(tmp_path / "guard")
    assert loaded.digest == edit.digest and loaded.notes == edit.notes
    scores = []
    for one in (edit, loaded):
        with one.on(bench.model):
            scores.append(score(bench.model, bench.concept.forget.facts).logprob)
    assert torch.equal(*scores)


def test_a_fact_is_scored_alone_as_in_a_batch(bench, edit: HookEdit) -> None:
    facts = [*bench.concept.forget, *bench.concept.near, *bench.concept.forget.reworded("formats")]
    with edit.on(bench.model):
        together = score(bench.model, facts)
        alone = [score(bench.model, [fact]) for fact in facts]
    assert torch.allclose(together.logprob, torch.cat([one.logprob for one in alone]), atol=2e-3)
    assert torch.equal(together.greedy, torch.cat([one.greedy for one in alone]))


def test_score_and_both_kinds_of_pass_say_the_same(bench, edit: HookEdit) -> None:
    facts = [*bench.concept.forget, *bench.concept.near.facts[:3]]
    batch, targets = batch_of(bench.model.encode(facts))
    with edit.on(bench.model):
        scored = score(bench.model, facts)
        whole = bench.model.run(batch).logits
        last = bench.model.run(batch, logits=3).logits
    at = whole[targets.row, targets.position].log_softmax(-1)
    total = torch.zeros(len(facts)).index_add(0, targets.row, at.gather(1, targets.token[:, None])[:, 0].detach())
    assert torch.allclose(total, scored.logprob, atol=2e-3)
    assert torch.allclose(last, whole[:, -3:], atol=1e-4)


def test_the_same_seed_gives_the_same_edit(bench, edit: HookEdit, name: str) -> None:
    again = METHODS[name].fit(bench.model, bench.concept)
    assert again.digest == edit.digest
    other = METHODS[name].model_copy(update={"seed": 1}).fit(bench.model, bench.concept)
    assert other.digest != edit.digest


def test_on_another_model_it_is_refused(edit: HookEdit, bench) -> None:
    from workbench.demo.planted import plant
    from workbench.model import HookedModel

    found = plant("llama", 7)
    with (
        pytest.raises(BadInput, match="fitted to model"),
        edit.on(HookedModel(found.model, found.tokenizer, check=False)),
    ):
        pass


def test_with_nothing_to_keep_it_is_refused(dense_bench, name: str) -> None:
    empty = FactSet(name="none")
    alone = dense_bench.concept.model_copy(update={"near": empty, "far": empty, "retain": empty})
    with pytest.raises(BadInput, match="what a guard must leave alone"):
        METHODS[name].fit(dense_bench.model, alone)


def test_a_wrong_site_is_refused(dense_bench, name: str) -> None:
    with pytest.raises(BadInput, match="where"):
        METHODS[name].fit(dense_bench.model, dense_bench.concept, [Site(0, "mlp_act", 3)])


@pytest.mark.parametrize(
    "method, options",
    [
        (EmbeddingCorruption, {"sigma": 0}),
        (EmbeddingCorruption, {"dims": 0}),
        (EmbeddingCorruption, {"mode": "blur"}),
        (GuardDecoding, {"nearest": 0}),
        (LogitDifference, {"weight": 0.8}),
        (LogitDifference, {"floor": 1.0}),
        (LogitDifference, {"depth": 0}),
    ],
)
def test_bad_options_are_refused(method, options) -> None:
    with pytest.raises(BadInput):
        method(**options)
