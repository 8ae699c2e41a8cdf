"""Scores agree with published code where numbers are stored, and with their formulas worked out by hand."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from interventions.gradient.masks.fisher import fisher
from interventions.gradient.masks.measured import measured
from interventions.gradient.masks.salun import salun
from interventions.gradient.masks.select import best
from interventions.gradient.masks.sure import sure
from interventions.gradient.masks.wagle import wagle
from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.mean_gradients import mean_gradients
from workbench.model import HookedModel
from workbench.objectives import token_loss
from workbench.sites import Site

GOLDEN = Path(__file__).parents[2] / "golden"
RECORDS = {r["id"]: r for r in json.loads((GOLDEN / "gradient_masks.json").read_text())["records"]}


@pytest.fixture(scope="module")
def gradients():
    """Weights, and gradients of forget and retain losses summed over two batches of two rows, as published."""
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / "models" / "llama_unlearned", dtype=torch.float64).eval()
    batches = load_file(GOLDEN / "batches.safetensors")
    weights = dict(model.named_parameters())
    sums = []
    for part in ("forget", "retain"):
        total = {name: torch.zeros_like(p) for name, p in weights.items()}
        for rows in (slice(0, 2), slice(2, 4)):
            named = {key: batches[f"{part}.{key}"][rows] for key in ("input_ids", "attention_mask")}
            loss = token_loss(model(**named).logits, batches[f"{part}.labels"][rows]).mean
            for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
                total[name] += gradient
        sums.append(total)
    return {name: p.detach() for name, p in weights.items()}, *sums


@pytest.mark.parametrize("name", RECORDS)
def test_wagle_agrees_with_the_authors_code(gradients, name: str) -> None:
    weights, forget, retain = gradients
    expected, mu = RECORDS[name]["independent_float64"], RECORDS[name]["arguments"]["mu"]
    scores = {n: wagle(weights[n], forget[n], retain[n], mu) for n in weights}
    every = torch.cat([score.flatten() for score in scores.values()])
    assert -float(every.sum()) == pytest.approx(expected["scores_sum"], rel=1e-6)
    assert float(every.norm()) == pytest.approx(expected["scores_l2"], rel=1e-6)
    for share in RECORDS[name]["arguments"]["ratios"]:
        masks = best(scores, share)
        assert sum(int(mask.sum()) for mask in masks.values()) == expected[f"ones_total_{share:g}"]
        for tensor, count in expected[f"ones_ratio_{share:g}"].items():
            assert int(masks[tensor].sum()) == count


@pytest.mark.parametrize("name", RECORDS)
def test_means_over_batches_are_the_published_scores_with_another_mu(gradients, name: str) -> None:
    """Gradients as `mean_gradients` gives them; see the docstring of wagle.py."""
    weights, forget, retain = gradients
    mu = RECORDS[name]["arguments"]["mu"]
    for n in weights:
        published = wagle(weights[n], forget[n], retain[n], mu)
        torch.testing.assert_close(2 * wagle(weights[n], forget[n] / 2, retain[n] / 2, mu / 2), published)
    variant = RECORDS[name]["variants"]["mean_over_batches"]["value"]["scores_sum"]
    means = sum(float(wagle(weights[n], forget[n] / 2, retain[n] / 2, mu).sum()) for n in weights)
    assert -means == pytest.approx(variant, rel=1e-6)


def test_by_hand() -> None:
    weight, forget, retain = torch.tensor([1.0, -2.0]), torch.tensor([3.0, -4.0]), torch.tensor([0.5, 0.25])
    assert wagle(weight, forget, retain, 0.5).tolist() == [0.0, 10.0]
    assert salun(forget).tolist() == [3.0, 4.0]
    assert sure(torch.tensor([[3.0, -4.0], [0.0, 1.0]])).tolist() == [[5.0, 5.0], [1.0, 1.0]]
    assert sure(forget).tolist() == [5.0, 5.0]
    assert fisher(forget.square(), retain.square(), floor=0.0).tolist() == [36.0, 256.0]
    assert fisher(torch.tensor([1e-5]), torch.tensor([0.0])).tolist() == pytest.approx([1.0])


def test_the_best_are_found_over_all_tensors_with_ties_in_order() -> None:
    scores = {"a": torch.tensor([[1.0, 5.0], [2.0, 2.0]]), "b": torch.tensor([2.0, 0.0]), "c": torch.tensor([0.5, 0.5])}
    masks = best(scores, 0.3)
    assert masks.keys() == {"a"} and masks["a"].tolist() == [[False, True], [True, False]]
    masks = best(scores, 0.5)
    assert masks["a"].tolist() == [[False, True], [True, True]] and masks["b"].tolist() == [True, False]
    every = best(scores, 1.0)
    assert all(mask.all() for mask in every.values()) and len(every) == 3


def test_what_shares_a_score_can_be_kept_together() -> None:
    scores = {"a": torch.tensor([[1.0, 1.0], [2.0, 2.0]]), "b": torch.tensor([0.0, 0.0])}
    assert best(scores, 0.5, ties=True)["a"].all()
    every = best(scores, 1.0, ties=True)
    assert every.keys() == {"a"} and every["a"].all()


def test_what_may_not_move_is_not_chosen_and_the_share_is_of_the_rest() -> None:
    scores = {"a": torch.tensor([9.0, 1.0, 2.0]), "b": torch.tensor([8.0, 3.0])}
    within = {"a": torch.tensor([False, True, True]), "b": torch.tensor([False, True])}
    masks = best(scores, 0.67, within)
    assert masks["a"].tolist() == [False, False, True] and masks["b"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("scores", "share", "match"),
    [([1.0, 2.0], 0.4, "raise mask_share"), ([0.0, 0.0], 0.5, "no gradient"), ([1.0, float("nan")], 0.5, "not finite")],
)
def test_scores_that_select_nothing_are_an_error(scores, share: float, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        best({"a": torch.tensor(scores)}, share)


@pytest.fixture(scope="module")
def planted():
    found = plant("llama", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


@pytest.mark.parametrize("name", ["wagle", "salun", "sure", "fisher"])
def test_masks_find_the_neurons_that_were_planted(planted, name: str) -> None:
    """Rows of the down-projection, by neuron: the forget facts' hold far more of the mask than others do."""
    model, found = planted
    parameter = "model.layers.1.mlp.down_proj.weight"
    within = {parameter: torch.ones_like(model.parameter(parameter), dtype=torch.bool)}
    facts = found.concept.forget.facts
    retain = found.concept.near.facts + found.concept.far.facts
    share = len(facts) / 48
    mask = measured(name, model, facts, retain, within, share=share)[parameter].double().mean(dim=0)
    true = [site.index for site in found.sites_of(facts)]
    others = [i for i in range(48) if i not in true]
    if name == "sure":  # whole rows are output dimensions, which tell no neurons apart
        assert (mask == mask[0]).all() and share <= float(mask[0]) <= share + 1 / 128
    else:
        assert float(mask[true].mean()) > 0.5 > 0.2 > float(mask[others].mean())


def test_fisher_and_wagle_look_at_retain_facts_and_the_others_do_not(planted) -> None:
    model, found = planted
    parameter = "model.layers.1.mlp.down_proj.weight"
    within = {parameter: torch.ones_like(model.parameter(parameter), dtype=torch.bool)}
    facts, near, far = (getattr(found.concept, part).facts for part in ("forget", "near", "far"))
    for name, differs in (("wagle", True), ("fisher", True), ("salun", False), ("sure", False)):
        one, other = (measured(name, model, facts, kept, within)[parameter] for kept in (near, far))
        assert torch.equal(one, other) != differs


def test_the_gradient_is_the_mean_over_batches_and_leaves_no_trace(planted) -> None:
    model, found = planted
    facts = found.concept.forget.facts
    name = "model.layers.1.mlp.down_proj.weight"
    flags = [p.requires_grad for p in model.hf.parameters()]
    whole = mean_gradients(model, facts[:4], [name], size=2)[name]
    parts = [mean_gradients(model, facts[i : i + 2], [name], size=2)[name] for i in (0, 2)]
    torch.testing.assert_close(whole, (parts[0] + parts[1]) / 2)
    assert [p.requires_grad for p in model.hf.parameters()] == flags
    assert all(p.grad is None for p in model.hf.parameters())


def test_one_neuron_is_a_place_for_a_mask(planted) -> None:
    model, found = planted
    from workbench.regions import masks_of, region_of

    region = region_of(model, [found.sites_of(found.concept.forget.facts)[0], Site(0, "mlp_act", 1)])
    within = masks_of(model, region.names, region.masks)
    masks = measured("salun", model, found.concept.forget.facts, (), within, share=0.5)
    assert sum(int(mask.sum()) for mask in masks.values()) == 128
    assert all(not (mask & ~within[name]).any() for name, mask in masks.items())
