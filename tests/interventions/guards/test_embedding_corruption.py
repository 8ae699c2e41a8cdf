import pytest
import torch

from interventions.guards.embedding_corruption import EMBED, PERIOD, EmbeddingCorruption, surrogate
from workbench.concepts import FactSet
from workbench.edits import HookEdit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.operators import Operator
from workbench.scoring import batch_of, score, score_candidates


@pytest.fixture(scope="module")
def searched(dense_bench) -> HookEdit:
    return EmbeddingCorruption(halvings=3).fit(dense_bench.model, dense_bench.concept)


def moved(model: HookedModel, edit: HookEdit, facts) -> torch.Tensor:
    """Which entries of the embeddings the guard changes: (row, pos, width)."""
    batch, _ = batch_of(model.encode(facts))
    before = model.run(batch, read=[EMBED], logits=False).acts[EMBED]
    with edit.on(model):
        after = model.run(batch, read=[EMBED], logits=False).acts[EMBED]
    return (before != after) & batch.mask[..., None]


def test_only_the_subjects_tokens_are_corrupted(bench) -> None:
    edit = EmbeddingCorruption(sigma=2.0).fit(bench.model, bench.concept)
    facts = [*bench.concept.forget, *bench.concept.near]
    changed = moved(bench.model, edit, facts)
    for row, encoded in enumerate(bench.model.encode(facts)):
        wanted = list(encoded.subject) if row < len(bench.concept.forget) else []
        assert changed[row].any(dim=-1).nonzero()[:, 0].tolist() == wanted
    assert changed[0, wanted_token(bench, 0)].all()  # in every dimension
    assert edit.notes["tokens"] == {"subjects to forget": 1.0, "beside them": 0.0, "in prompts to keep": 0.0}


def wanted_token(bench, row: int) -> int:
    return bench.model.encode(bench.concept.forget.facts)[row].subject[0]


def test_all_tokens_can_be_corrupted_in_the_first_dimensions(dense_bench) -> None:
    edit = EmbeddingCorruption(sigma=2.0, tokens="all", dims=5).fit(dense_bench.model, dense_bench.concept)
    changed = moved(dense_bench.model, edit, dense_bench.concept.forget.facts[:3])
    assert changed[..., :5].any(dim=-1).sum() == sum(
        len(e.ids) for e in dense_bench.model.encode(dense_bench.concept.forget.facts[:3])
    )
    assert not changed[..., 5:].any()


@pytest.mark.parametrize("mode, factor", [("zero", 0.0), ("flip", -1.0)])
def test_zero_and_flip(dense_bench, mode: str, factor: float) -> None:
    model, facts = dense_bench.model, dense_bench.concept.forget.facts[:2]
    edit = EmbeddingCorruption(mode=mode).fit(model, dense_bench.concept)
    batch, _ = batch_of(model.encode(facts))
    before = model.run(batch, read=[EMBED], logits=False).acts[EMBED]
    with edit.on(model):
        after = model.run(batch, read=[EMBED], logits=False).acts[EMBED]
    at = wanted_token(dense_bench, 0)
    assert torch.equal(after[0, at], factor * before[0, at]) and "sigma" not in edit.notes


def test_the_noise_is_as_large_as_asked_and_differs_by_position(dense_bench) -> None:
    method = EmbeddingCorruption(sigma=3.0)
    operator = method.fit(dense_bench.model, dense_bench.concept).operators[EMBED]
    batch, _ = batch_of(dense_bench.model.encode(dense_bench.concept.forget.facts))
    own = dense_bench.model.run(batch, read=[EMBED], logits=False).acts[EMBED][batch.mask].square().mean().sqrt()
    assert operator.tensor.shape == (PERIOD, dense_bench.model.d_model)
    assert float(operator.tensor.std() / own) == pytest.approx(3.0, rel=0.15)
    assert not torch.equal(operator.tensor[0], operator.tensor[1])


def test_vectors_by_position_begin_anew_where_they_end() -> None:
    vectors = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    value = torch.zeros(2, 5, 2)
    added = Operator("add_by_position", vectors)(value)
    assert added[1, :, 0].tolist() == [1, 2, 3, 1, 2] and torch.equal(added[0], added[1])
    assert torch.equal(
        Operator("add_by_position", vectors)(value[:, :2]), added[:, :2]
    )  # the row's length does not matter


def test_the_search_stops_at_the_smallest_strength_that_is_enough(dense_bench, searched: HookEdit) -> None:
    notes, concept = searched.notes, dense_bench.concept
    known = float(score(dense_bench.model, concept.never_taught.facts).probability.mean())
    assert notes["level to reach"] == pytest.approx(known) and notes["level from"] == "never-taught facts"
    with searched.on(dense_bench.model):
        level = float(score(dense_bench.model, concept.forget.facts).probability.mean())
    assert notes["reached"] and level <= known
    enough = [row for row in notes["levels"] if row["probability"] <= known]
    assert notes["sigma"] == min(row["sigma"] for row in enough)
    below = max(row["sigma"] for row in notes["levels"] if row["sigma"] < notes["sigma"])
    assert notes["sigma"] / below < 2 ** (1 / 8) + 1e-6  # three halvings of a doubling
    assert dense_bench.greedy(searched)["forget"] <= 0.05


def test_without_facts_that_were_never_taught_the_candidates_say_the_level(dense_bench) -> None:
    without = dense_bench.concept.model_copy(update={"never_taught": FactSet(name="none")})
    level, source = surrogate(dense_bench.model, without)
    means = [float(c.exp().mean()) for c in score_candidates(dense_bench.model, without.forget.facts)]
    assert level == pytest.approx(sum(means) / len(means)) and "candidates" in source
    bare = tuple(f.model_copy(update={"distractors": ()}) for f in without.forget)
    nothing = without.model_copy(update={"forget": FactSet(name="bare", facts=bare)})
    with pytest.raises(BadInput, match="set sigma"):
        EmbeddingCorruption().fit(dense_bench.model, nothing)


def test_too_little_noise_leaves_the_facts(dense_bench) -> None:
    edit = EmbeddingCorruption(sigma=0.1).fit(dense_bench.model, dense_bench.concept)
    assert dense_bench.greedy(edit)["forget"] >= 0.9


def test_more_dimensions_than_there_are_is_refused(dense_bench) -> None:
    with pytest.raises(BadInput, match="128 dimensions"):
        EmbeddingCorruption(dims=999).fit(dense_bench.model, dense_bench.concept)


def test_noise_leaves_a_trace_among_the_candidates(dense_bench, searched: HookEdit) -> None:
    """Asked to choose, it still picks half of the forget answers (by luck .15), though it says none of them."""
    with searched.on(dense_bench.model):
        assert dense_bench.chosen() >= 0.3
