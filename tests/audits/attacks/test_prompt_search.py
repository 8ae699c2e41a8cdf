import pytest
import torch

from audits.attacks.prompt_search import EMBED, PromptSearch, embeddings, losses_of, respelt, token_gradient
from audits.attacks.slot import Slot, filler, placed, template_of, usable
from audits.attacks.soft_prompt import AddAt
from audits.attacks.under import shares
from tests import zoo
from tests.audits.attacks.hiding import least, muttered, removed
from tests.interventions.measuring import bits_of, same
from workbench.concepts import Concept, Fact
from workbench.edits import load_edit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import batch_of, score, score_batch

QUICK = PromptSearch(tokens=3, steps=6, candidates=16)


def only(concept: Concept, relation: str) -> Concept:
    sets = {
        name: facts.model_copy(update={"facts": tuple(f for f in facts if f.relation == relation)})
        for name, facts in (("forget", concept.forget), ("never_taught", concept.never_taught))
    }
    return concept.model_copy(update=sets)


def found(trace) -> dict:
    return shares(trace.values[-1], trace.notes["n_facts"])


def hidden(dense, concept: Concept):
    """Only a prompt that says the relation more than once outweighs what is muttered."""
    hide = lambda strength: muttered(dense.model, strength)  # noqa: E731
    return hide(1.3 * least(dense.model, concept.forget.facts, hide, 100.0))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gradient_beats_random_search_with_the_same_budget(dense, seed: int) -> None:
    concept = only(dense.concept, "fruit")
    way = {"tokens": 3, "steps": 6, "candidates": 16, "seeds": (seed,)}
    with hidden(dense, concept).on(dense.model):
        losses = [PromptSearch(**way, gradient=g).fit(dense.model, concept).notes["losses"] for g in (True, False)]
    assert losses[0][0] == losses[1][0] and losses[0][-1] < losses[1][-1] - 0.1
    assert losses[0] == sorted(losses[0], reverse=True)


def test_it_finds_words_that_unlock_facts_it_did_not_hold_and_none_where_there_are_none(dense) -> None:
    model, planted, concept = dense.model, dense.planted, only(dense.concept, "fruit")
    with hidden(dense, concept).on(model):
        there = found(QUICK.look(model, concept))
    with removed(model, planted).on(model):
        gone = found(QUICK.look(model, concept))
    assert there["share"] >= 0.5 and there["control"] <= 0.25
    assert gone["share"] <= gone["control"] + 0.25 and gone["share"] <= 0.25


@pytest.mark.parametrize("place", ["prefix", "suffix"])
def test_the_gradient_is_the_slope_of_the_loss(known, place: str) -> None:
    model, _, concept = known
    facts = concept.forget.facts[:4]
    slot = filler(model, facts, 2, place)
    gradient = token_gradient(model, slot)
    table = embeddings(model, [*slot.ids[:1], usable(model)[5]])
    way = table[1] - table[0]
    if place == "prefix":
        step, start = 1e-3, slot.positions[0].start
        sides = []
        for sign in (1, -1):
            moved = torch.stack([sign * step * way, torch.zeros_like(way)])
            batch, targets = batch_of(slot.rows)
            scores = score_batch(model, batch, targets, rewrite={EMBED: AddAt(moved, start)})
            sides.append(-float(scores.logprob.double().mean()))
        assert float(gradient[0] @ way) == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=0.05, abs=1e-3)
    assert gradient.shape == (2, model.d_model) and gradient.abs().sum() > 0


def test_the_losses_of_swaps_are_those_of_their_templates(dense) -> None:
    model, _, concept = dense
    facts = concept.forget.facts
    slot = filler(model, facts, 2, "prefix")
    words = usable(model)[10:13]
    choices = [(slot.ids[0], word) for word in words]
    for ids, loss in zip(choices, losses_of(model, slot, choices), strict=True):
        said = respelt(model, facts, ids, "prefix")
        assert isinstance(said, Slot)
        batch, targets = batch_of(said.rows)
        assert -float(score_batch(model, batch, targets).logprob.mean()) == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("place", ["prefix", "suffix"])
@pytest.mark.parametrize("tokens", [1, 4])
def test_the_tokens_are_where_the_slot_says_with_any_tokenizer(dense, place: str, tokens: int) -> None:
    strange = HookedModel(zoo.make("llama"), zoo.tokenizer(), check=False)
    facts = [Fact(subject=s, prompt=f"The {s} of it is", answer="grey") for s in ("violin", "house")]
    for model, asked in ((dense.model, dense.concept.forget.facts), (strange, facts)):
        slot = filler(model, asked, tokens, place)
        assert len(slot.ids) == tokens
        plain = model.encode(asked)
        for row, before, at in zip(slot.rows, plain, slot.positions, strict=True):
            assert row.ids[at.start : at.stop] == slot.ids
            if place == "suffix":
                assert (*row.ids[: at.start], *row.ids[at.stop :]) == before.ids
        assert placed(model, asked, slot.text, place) == slot


def test_a_search_leaves_the_model_alone_and_repeats_itself(known, tmp_path) -> None:
    model, _, concept = known
    before, attack = bits_of(model), PromptSearch(tokens=2, steps=2, candidates=4, most=2)
    edit, again = (attack.fit(model, concept) for _ in range(2))
    assert edit.digest == again.digest and edit.template.endswith(" {prompt}")
    attack.look(model, concept)
    assert same(model, before) and model.prompt_template == "{prompt}"
    edit.save(tmp_path / "edit")
    assert load_edit(tmp_path / "edit").template == edit.template
    with edit.on(model):
        assert -float(score(model, concept.forget.facts).logprob.mean()) == pytest.approx(
            edit.notes["losses"][-1], abs=1e-4
        )
    assert (
        PromptSearch(tokens=1, steps=1, candidates=2, place="suffix")
        .fit(model, concept)
        .template.startswith("{prompt} ")
    )


def test_where_no_word_stays_one_token_it_is_said(dense, monkeypatch) -> None:
    import audits.attacks.slot as slots

    monkeypatch.setattr(slots, "_words", lambda _: iter(()))
    with pytest.raises(BadInput, match="no word"):
        filler(dense.model, dense.concept.forget.facts, 2, "prefix")
    assert template_of("x", "suffix") == "{prompt} x"
