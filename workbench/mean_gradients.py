"""The mean gradient of the ordinary loss on facts, weight by weight: what masks of weights are made of.

Source: as in the code of SalUn, https://arxiv.org/abs/2310.12508, and WAGLE, https://arxiv.org/abs/2410.17509, which
sum over batches; here the mean, so that the number of facts does not matter.
Does not show: curvature, or what weights do together. Where facts pull in opposite directions their gradients cancel;
`workbench.fisher` squares them first.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.concepts import Fact
from workbench.fisher import differentiable
from workbench.model import HookedModel
from workbench.objectives import answer_nll, labelled

PASS = 16
"""Facts a gradient."""


def mean_gradients(
    model: HookedModel, facts: Sequence[Fact], names: Sequence[str], size: int = PASS
) -> dict[str, Float[Tensor, "..."]]:
    """Mean over batches of the gradient of the mean token loss on facts, in float32 or better.

    Args:
        model: unchanged.
        facts: in the order in which they are batched.
        names: parameters.
        size: facts a batch.
    """
    encoded = model.encode(facts)
    parameters = [model.parameter(name) for name in names]
    sums = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters]
    starts = range(0, len(encoded), size)
    with differentiable(parameters), torch.enable_grad():
        for start in starts:
            batch = {key: t.to(model.device) for key, t in labelled(encoded[start : start + size]).items()}
            gradients = torch.autograd.grad(answer_nll(model.hf, batch), parameters, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient
    return {name: total / len(starts) for name, total in zip(names, sums, strict=True)}
