"""Planted models: what is written is recalled, what is not is unknown, and the named neuron is what holds it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from workbench.concepts import Fact
from workbench.demo.planted import ARCHITECTURES, Planted, plant
from workbench.errors import BadInput
from workbench.sites import Site

TRUE_LAYER = {"forget": 1, "near": 0, "far": 1}


def probability(planted: Planted, prompt: str, answer: str) -> float:
    """Probability of the whole answer."""
    start = planted.tokenizer(prompt)["input_ids"]
    ids = planted.tokenizer(f"{prompt} {answer}")["input_ids"]
    with torch.no_grad():
        logprobs = planted.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return logprobs[range(len(start) - 1, len(ids) - 1), ids[len(start) :]].sum().exp().item()


def value_vector(planted: Planted, site: Site) -> torch.Tensor:
    """The residual-stream vector that a neuron adds (a view: writing to it edits the model)."""
    assert site.layer is not None
    mlp = planted.model.model.layers[site.layer].mlp
    if site.expert is None:
        return mlp.down_proj.weight.data[:, site.index]
    return mlp.experts.down_proj.data[site.expert, :, site.index]


@pytest.fixture(params=ARCHITECTURES)
def planted(request: pytest.FixtureRequest) -> Planted:
    """A fresh planted model of each architecture."""
    return plant(request.param)


def test_sizes(planted: Planted) -> None:
    concept = planted.concept
    assert [len(concept.forget), len(concept.near), len(concept.far), len(concept.never_taught)] == [10, 8, 8, 8]
    assert len(set(concept.forget.subjects)) == 4
    assert len(planted.tokenizer("Ada Stone", add_special_tokens=False)["input_ids"]) == 2


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_written_facts_are_recalled_and_others_are_not(arch: str, seed: int) -> None:
    planted = plant(arch, seed)
    for group in ("forget", "near", "far"):
        for fact in getattr(planted.concept, group):
            assert probability(planted, fact.prompt, fact.answer) > 0.8, fact.prompt
            for reworded in (*fact.paraphrases, *fact.formats):
                assert probability(planted, reworded, fact.answer) > 0.5, reworded
    for fact in planted.concept.never_taught:
        assert probability(planted, fact.prompt, fact.answer) < 0.1, fact.prompt


def test_every_site_is_in_its_layer_and_used_once(planted: Planted) -> None:
    for group, layer in TRUE_LAYER.items():
        sites = planted.sites_of(getattr(planted.concept, group).facts)
        assert {site.layer for site in sites} == {layer}
        assert len({site.expert for site in sites}) == 1
    assert len(set(planted.sites.values())) == len(planted.sites) == 26


def test_zeroing_the_true_site_removes_exactly_that_fact(planted: Planted) -> None:
    first, *others = [*planted.concept.forget, *planted.concept.far]
    value_vector(planted, planted.sites[first.prompt]).zero_()
    assert probability(planted, first.prompt, first.answer) < 0.1
    assert min(probability(planted, fact.prompt, fact.answer) for fact in others) > 0.8


def test_zeroing_another_neuron_changes_nothing(planted: Planted) -> None:
    fact, used = planted.concept.forget.facts[0], {site.index for site in planted.sites.values()}
    site = planted.sites[fact.prompt]
    free = next(j for j in range(48) if j not in used)
    before = probability(planted, fact.prompt, fact.answer)
    value_vector(planted, Site(site.layer, "mlp_act", free, site.expert)).zero_()
    assert probability(planted, fact.prompt, fact.answer) == pytest.approx(before, abs=1e-3)


def test_value_vector_says_the_answer(planted: Planted) -> None:
    for fact in planted.concept.near:
        logits = planted.model.get_output_embeddings().weight @ value_vector(planted, planted.sites[fact.prompt])
        assert planted.tokenizer.decode([int(logits.argmax())]) == fact.answer


def test_generation_gives_the_answer_and_stops(planted: Planted) -> None:
    for fact in planted.concept.forget:
        ids = planted.tokenizer(fact.prompt, return_tensors="pt")["input_ids"]
        out = planted.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5)[0, ids.shape[1] :]
        assert planted.tokenizer.decode(out, skip_special_tokens=True) == fact.answer
        assert out[-1] == planted.tokenizer.eos_token_id


def test_saved_is_an_ordinary_checkpoint(planted: Planted, tmp_path: Path) -> None:
    folder = planted.save(tmp_path / "checkpoint")
    again = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    before = planted.model.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    fact: Fact
    for fact in planted.concept.forget:
        prompt, answer = tokenizer(fact.prompt)["input_ids"], tokenizer(fact.answer, add_special_tokens=False)
        assert tokenizer(f"{fact.prompt} {fact.answer}")["input_ids"] == prompt + answer["input_ids"]


def test_same_seed_same_model_and_other_seed_another() -> None:
    state = torch.get_rng_state()
    first, again, other = plant(seed=3), plant(seed=3), plant(seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [planted.model.model.layers[1].mlp.down_proj.weight for planted in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert first.sites == again.sites != other.sites


def test_unknown_architecture_is_named() -> None:
    with pytest.raises(BadInput, match="Did you mean 'llama'"):
        plant("lama")
