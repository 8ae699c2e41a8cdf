from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from workbench.attribution import neuron_effects
from workbench.concepts import Fact
from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import batch_of, score, score_batch, score_candidates
from workbench.sites import Site
from workbench.tokens import encode, encode_text

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def planted(request: pytest.FixtureRequest):
    found = plant(request.param, 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


def test_it_equals_a_plain_token_by_token_sum(planted) -> None:
    model, found = planted
    facts = [*found.concept.forget, *found.concept.far]
    scores = score(model, facts)
    for i, fact in enumerate(facts):
        ids = torch.tensor([encode_text(model.tokenizer, f"{fact.prompt} {fact.answer}")])
        start = len(encode_text(model.tokenizer, fact.prompt))
        with torch.no_grad():
            logprobs = model.hf(ids).logits.log_softmax(-1)[0]
        expected = sum(logprobs[t - 1, ids[0, t]] for t in range(start, ids.shape[1]))
        assert float(scores.logprob[i]) == pytest.approx(float(expected), abs=1e-4)
        assert int(scores.tokens[i]) == ids.shape[1] - start


def test_some_answers_have_more_than_one_token(planted) -> None:
    model, found = planted
    assert int(score(model, found.concept.forget.facts).tokens.max()) > 1


def test_greedy_is_what_generation_gives(planted) -> None:
    model, found = planted
    facts = [*found.concept.forget, *found.concept.never_taught]
    said = []
    for fact in facts:
        ids = torch.tensor([encode_text(model.tokenizer, fact.prompt)])
        answer = model.encode([fact])[0].answer
        out = model.hf.generate(ids, max_new_tokens=len(answer), do_sample=False, pad_token_id=0, eos_token_id=-1)
        said.append(tuple(out[0, ids.shape[1] :].tolist()) == answer)
    assert score(model, facts).greedy.tolist() == said
    assert any(said) and not all(said)


def test_candidates_come_true_answer_first(planted) -> None:
    model, found = planted
    facts = [fact for fact in found.concept.forget if fact.distractors]
    for fact, logprobs in zip(facts, score_candidates(model, facts), strict=True):
        assert len(logprobs) == len(fact.candidates)
        assert int(logprobs.argmax()) == 0
        assert float(logprobs[0]) == pytest.approx(float(score(model, [fact]).logprob[0]), abs=1e-4)


def test_an_answer_that_tokenises_to_nothing_is_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "models" / "llama_base")
    fact = Fact(subject="Mira Solen", prompt="Mira Solen was born in", answer="Hadlow")
    assert len(encode(tokenizer, fact).answer) == 1
    with pytest.raises(BadInput, match="tokenises to nothing"):
        encode(tokenizer, fact.model_copy(update={"answer": " "}))


def test_an_answer_that_changes_the_prompts_tokens_is_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "models" / "llama_base")
    with pytest.raises(BadInput, match="changes the tokens of the prompt"):
        encode(tokenizer, Fact(subject="Mira", prompt="Mira was bo", answer="rn there"), joiner="")


def test_effects_are_activation_times_gradient(planted) -> None:
    model, found = planted
    facts = found.concept.forget.facts
    effects = neuron_effects(model, facts)
    batch, targets = batch_of(model.encode(facts))
    sites = [site for site, _ in model.mlps()]
    kept: dict[Site, torch.Tensor] = {}

    def leaf(site):
        def rewrite(value):
            kept[site] = value.detach().clone().requires_grad_(True)
            return kept[site]

        return rewrite

    for site in sites:  # one site at a time: a leaf cuts the graph to everything below it
        total = score_batch(model, batch, targets, rewrite={site: leaf(site)}, grad=True).logit.sum()
        gradient = torch.autograd.grad(total, kept[site])[0]
        expected = (gradient * kept[site].detach()).sum(dim=(0, 1)) / len(facts)
        torch.testing.assert_close(effects[site], expected, atol=1e-4, rtol=1e-3)


def test_the_planted_neurons_have_the_largest_effects_and_gradients_leave_no_trace(planted) -> None:
    model, found = planted
    effects = neuron_effects(model, found.concept.forget.facts)
    ranked = sorted(((float(v), i, site) for site, e in effects.items() for i, v in enumerate(e)), reverse=True)
    flat = set(found.sites_of(found.concept.forget.facts))
    top = {Site(site.layer, "mlp_act", i, site.expert) for _, i, site in ranked[: 2 * len(flat)]}
    assert len(flat & top) >= 0.9 * len(flat)
    assert all(p.grad is None for p in model.hf.parameters())
