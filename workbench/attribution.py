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


def neuron_effects(model: HookedModel, facts: Sequence[Fact]) -> list[Float[Tensor, "..."]]:
    """First-order effect of every neuron on the answers' logit.

    Returns:
        One tensor a layer, (neuron,) in a dense MLP or (expert, neuron) in a mixture, in logits per fact.
    """
    found = [model.value_vectors(layer) for layer in range(model.n_layers)]
    total = [torch.zeros_like(v.vectors[..., 0], dtype=torch.float32) for v in found]
    weights = [v.weight for v in found]
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for batch, targets in chunks(model.encode(facts)):
            objective = score_batch(model, batch, targets, grad=True).logit.sum()
            gradients = torch.autograd.grad(objective, weights)
            for i, (vectors, gradient) in enumerate(zip(found, gradients, strict=True)):
                total[i] += (vectors.as_rows(gradient) * vectors.vectors.detach()).sum(dim=-1).float()
    finally:
        for weight, flag in zip(weights, before, strict=True):
            weight.requires_grad_(flag)
    return [layer / len(facts) for layer in total]
