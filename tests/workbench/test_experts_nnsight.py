"""nnsight reaches the neurons of an expert by another way, the source of the kernel: it must see and do the same."""

import importlib.util

import pytest
import torch
from torch import Tensor

from tests.zoo import MOE_CONFIGS, make, tokenizer
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.tokens import Batch, pad

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nnsight") is None, reason="nnsight is in the optional extra [inside]"
)

BATCH: Batch = pad([[0, 5, 9, 17, 33, 70, 12], [0, 8, 3, 41]])
LAYER = 1


@pytest.fixture(scope="module", params=list(MOE_CONFIGS))
def model(request: pytest.FixtureRequest) -> HookedModel:
    return HookedModel(make(request.param), tokenizer(), name=request.param, check=False)


def through_source(model: HookedModel, expert: int, zero: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Expert of every pair, token of every pair, neurons of every pair, and the logits; `zero` takes one expert out."""
    from workbench.model_remote_place import nnsight_quietly

    nnsight = nnsight_quietly()
    wrapped = nnsight.NNsight(model.hf)
    experts = wrapped.get(model.anatomy.mixtures[LAYER].experts)
    with torch.no_grad(), wrapped.trace(**BATCH.inputs(model.device), use_cache=False):
        kernel = experts.source.experts_forward_1.source
        expert_of, order = kernel.torch_sort_0.output
        nnsight.save(expert_of)
        nnsight.save(order)
        neurons = nnsight.save(kernel.self__apply_gate_0.output.clone())
        if zero:
            kernel.self__apply_gate_0.output = neurons * (expert_of != expert)[:, None]
        logits = nnsight.save(wrapped.output.logits)
    return expert_of, order // (len(order) // BATCH.ids.numel()), neurons, logits


def test_the_neurons_of_every_expert_are_those_that_nnsight_reads(model: HookedModel) -> None:
    expert_of, token_of, neurons, _ = through_source(model, 0, zero=False)
    experts = range(model.anatomy.mixtures[LAYER].n_experts)
    sites = [Site(LAYER, "mlp_act", None, expert) for expert in experts]
    acts = model.run(BATCH, read=sites, logits=False).acts
    assert len(set(expert_of.tolist())) > 1
    for expert, site in zip(experts, sites, strict=True):
        here = expert_of == expert
        flat = acts[site].flatten(0, 1)
        assert torch.equal(flat[token_of[here]], neurons[here])
        away = torch.ones(len(flat), dtype=torch.bool).index_fill(0, token_of[here], False)
        assert not flat[away].any()


def test_taking_an_expert_out_does_what_it_does_in_nnsight(model: HookedModel) -> None:
    expert = int(through_source(model, 0, zero=False)[0].mode().values)  # one that is used
    theirs = through_source(model, expert, zero=True)[-1]
    with torch.no_grad():
        ours = model.run(BATCH, rewrite={Site(LAYER, "mlp_act", None, expert): torch.zeros_like}).logits
        plain = model.run(BATCH).logits
    assert torch.equal(ours, theirs)
    assert (plain - theirs).abs().max() > 1e-4


def test_nnsight_leaves_the_model_as_it_was(model: HookedModel) -> None:
    with torch.no_grad():
        before = model.run(BATCH).logits
        through_source(model, 0, zero=True)
        assert torch.equal(model.run(BATCH).logits, before)
