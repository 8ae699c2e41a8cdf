import numpy as np
import pytest
import torch

from audits.attacks.prompts import FewShot, Jailbreak
from audits.attacks.quantise import Quantise, round_to_nearest
from audits.attacks.relearn import Relearn
from interventions.concept_ablation import ConceptAblation
from workbench.concepts import FactSet
from workbench.demo.planted import plant
from workbench.edits import fit_weights
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import score

QUICK = Relearn(steps=(0, 20), seeds=(0,), lr=3e-3, share=0.3)


@pytest.fixture(scope="module")
def known():
    found = plant("llama", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


def test_rounding_by_hand() -> None:
    row = torch.tensor([[0.7, 0.14, -0.7, 0.04], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[0.7, 0.1, -0.7, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(round_to_nearest(row, 4), expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounding_uses_no_more_levels_than_the_bits_allow_and_is_stable(bits: int) -> None:
    weight = torch.randn(8, 200, generator=torch.Generator().manual_seed(0))
    rounded = round_to_nearest(weight, bits)
    assert max(len(row.unique()) for row in rounded) <= 2**bits - 1
    torch.testing.assert_close(round_to_nearest(rounded, bits), rounded)
    step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert ((rounded - weight).abs() <= step / 2 + 1e-6).all()


def test_a_change_of_less_than_half_a_step_returns_to_the_same_codes(known) -> None:
    model, found = known
    name = "model.layers.1.mlp.down_proj.weight"
    codes = round_to_nearest(model.parameter(name).detach(), 4)
    step = codes.abs().amax(1, keepdim=True) / 7

    def nudge(share: float):
        def change() -> None:
            with torch.no_grad():
                inner = codes.abs() < codes.abs().amax(1, keepdim=True)  # the largest entry sets the step
                model.parameter(name).copy_(codes + share * step * inner)

        return fit_weights(model, [name], change, {})

    for share, same in ((0.4, True), (0.6, False)):
        with nudge(share).on(model), Quantise().fit(model, found.concept.forget).on(model):
            assert torch.allclose(model.parameter(name), codes, atol=1e-6) == same


def test_quantising_leaves_embeddings_and_norms_alone(known) -> None:
    model, found = known
    changed = Quantise().fit(model, found.concept.forget).changes
    assert changed
    assert all(".layers." in name and "norm" not in name for name in changed)


def test_the_attacker_holds_some_facts_and_never_all() -> None:
    facts = plant("llama", 0).concept.forget
    for share in (0.01, 0.3, 0.99):
        seen = Relearn(share=share).seen(facts, 0)
        assert 1 <= len(seen) < len(facts)
    assert Relearn().seen(facts, 0) == Relearn().seen(facts, 0)
    assert {tuple(Relearn(share=0.3).seen(facts, seed)) for seed in range(5)} != {
        tuple(Relearn(share=0.3).seen(facts, 0))
    }
    with pytest.raises(BadInput, match="at least two"):
        Relearn().seen(facts.take([0], "one"), 0)


def test_relearning_measures_only_unseen_facts_and_leaves_the_model_alone(known) -> None:
    model, found = known
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    trace = QUICK.look(model, found.concept.forget, found.concept.never_taught)
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    seen = QUICK.seen(found.concept.forget, 0)
    assert np.isnan(trace.values[0][:, seen]).all()
    unseen = [i for i in range(len(found.concept.forget)) if i not in seen]
    assert np.isfinite(trace.values[0][:, unseen]).all()
    assert trace.notes["n_facts"] == len(found.concept.forget)
    assert trace.values[0, 0, unseen].mean() > 0.9
    assert trace.values[0, 0, len(found.concept.forget) :].mean() < 0.3


def test_the_edit_is_the_curves_last_point(known) -> None:
    model, found = known
    facts = found.concept.forget
    trace = QUICK.look(model, facts)
    unseen = [i for i in range(len(facts)) if i not in QUICK.seen(facts, 0)]
    with QUICK.fit(model, facts, seed=0).on(model):
        after = score(model, [facts.facts[i] for i in unseen]).greedy.double().numpy()
    assert trace.values[0, -1, unseen] == pytest.approx(after)


def test_the_attack_finds_what_is_there_and_brings_back_nothing_that_was_cut_out(known) -> None:
    model, found = known
    facts, where = found.concept.forget, found.sites_of(found.concept.forget.facts)
    attack = Relearn(steps=(0, 20), seeds=(0,), share=0.3)
    there = np.nanmean(attack.look(model, facts).values[0, -1])
    with ConceptAblation(mode="zero").fit(model, found.concept, where).on(model):
        cut = np.nanmean(attack.look(model, facts).values[0, -1])
    assert there > 0.8
    assert cut < 0.2


def test_templates_keep_subject_and_answer(known) -> None:
    model, found = known
    for edit in (*FewShot().fit(found.concept), *Jailbreak().fit(found.concept)):
        with edit.on(model):
            shown = model.prompted(found.concept.forget.facts[0])
            assert shown.prompt.endswith(found.concept.forget.facts[0].prompt)
            assert len(shown.prompt) > len(found.concept.forget.facts[0].prompt)
            model.encode([found.concept.forget.facts[0]])


def test_few_shot_shows_no_forgotten_answer_and_needs_neighbours(known) -> None:
    _, found = known
    (edit,) = FewShot(shots=2).fit(found.concept)
    assert sum(fact.answer in edit.template for fact in found.concept.near) >= 2
    assert not any(fact.prompt in edit.template for fact in found.concept.forget)
    bare = found.concept.model_copy(update={"near": FactSet(name="none")})
    with pytest.raises(BadInput, match="near facts"):
        FewShot().fit(bare)


def test_a_concepts_own_templates_come_before_the_plain_ones(known) -> None:
    _, found = known
    own = found.concept.model_copy(update={"jailbreaks": ("Psst {prompt}",)})
    assert [e.template for e in Jailbreak().fit(own)] == ["Psst {prompt}"]
    assert len(Jailbreak().fit(found.concept)) == 2


@pytest.mark.parametrize("arch", ["llama", "olmoe"])
def test_relearning_by_low_rank_adapters_is_the_same_attack_with_other_weights(arch: str) -> None:
    found = plant(arch, 0)
    model, facts = HookedModel(found.model, found.tokenizer, check=False), found.concept.forget
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    held = [(name, id(module)) for name, module in model.hf.named_modules()]
    attack = QUICK.model_copy(update={"adapter": "lora", "adapter_rank": 3, "steps": (0, 8), "lr": 1e-2})
    trace, edit = attack.look(model, facts), attack.fit(model, facts, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    assert [(name, id(module)) for name, module in model.hf.named_modules()] == held
    assert edit.changes and all(".layers." in name and "experts" not in name for name in edit.changes)
    for name, change in edit.changes.items():
        assert torch.linalg.matrix_rank(change.values.reshape(before[name].shape) - before[name], rtol=1e-4) <= 3
    unseen = [i for i in range(len(facts)) if i not in attack.seen(facts, 0)]
    with edit.on(model):
        after = score(model, [facts.facts[i] for i in unseen]).greedy.double().numpy()
    assert trace.values[0, -1, unseen] == pytest.approx(after)
    assert edit.notes["losses"][-1] < edit.notes["losses"][0]


def test_low_rank_relearning_teaches_what_the_attacker_holds(known) -> None:
    from interventions.gradient.npo import Npo

    model, found = known
    attack, facts = QUICK.model_copy(update={"adapter": "lora", "lr": 1e-2}), found.concept.forget
    held = [facts.facts[i] for i in attack.seen(facts, 0)]
    with Npo(steps=15, lr=1e-3).fit(model, found.concept).on(model):
        before = float(score(model, held).probability.mean())
        with attack.fit(model, facts, seed=0).on(model):
            after = float(score(model, held).probability.mean())
    assert before < 0.1 < 0.9 < after
