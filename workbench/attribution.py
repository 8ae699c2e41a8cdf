"""How much each MLP neuron adds to an answer, to first order: gradient times weight on its value vector.

For neuron j with coefficient m_j and value vector v_j, sum over d of v_j[d] * dL/dv_j[d] equals the sum over tokens
of m_j * dL/dm_j, which is activation times gradient. So one backward pass scores every neuron of every layer and of
every expert, and no hook inside the fused expert kernels is needed.

Read it as: how much of the answer's logit (less the mean logit; mean over facts) the neuron is responsible for;
positive means it speaks for the answer. The logit is used because the log-probability saturates: where a model is
sure, its gradient vanishes and with it every effect. A first-order estimate: confirm by ablating.
Source: gradient x activation attribution (Simonyan et al. 2013; used to locate knowledge neurons by Dai et al. 2022,
https://arxiv.org/abs/2104.08696, who integrate it along a path; the plain product is used here).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.concepts import Fact
from workbench.model import HookedModel
from workbench.scoring import chunks, score_batch
from workbench.sites import Site


def neuron_effects(model: HookedModel, facts: Sequence[Fact]) -> dict[Site, Float[Tensor, " neuron"]]:
    """First-order effect of every neuron on the answers' logit.

    Returns:
        The neurons of every MLP and every expert (`L3.mlp_act`, `L2.e5.mlp_act`), in logits per fact.
    """
    stores = {store.name: store for _, store in model.down_projections()}
    total = {name: torch.zeros_like(store.vectors[..., 0], dtype=torch.float32) for name, store in stores.items()}
    weights = [store.weight for store in stores.values()]
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for batch, targets in chunks(model.encode(facts)):
            objective = score_batch(model, batch, targets, grad=True).logit.sum()
            for store, gradient in zip(stores.values(), torch.autograd.grad(objective, weights), strict=True):
                total[store.name] += (store.as_rows(gradient) * store.vectors.detach()).sum(dim=-1).float()
    finally:
        for weight, flag in zip(weights, before, strict=True):
            weight.requires_grad_(flag)
    mean = {name: layer / len(facts) for name, layer in total.items()}
    return {
        site: mean[store.name] if site.expert is None else mean[store.name][site.expert]
        for site, store in model.down_projections()
    }
