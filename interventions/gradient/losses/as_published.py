"""Three losses of published code that are not what their names say, for whoever compares with models trained by them.

Source: MUSE, https://arxiv.org/abs/2407.06460 (`npo`, `klr`), and WAGLE, https://arxiv.org/abs/2410.17509 (`KL`; SOUL
shares it). All take logits of ALL positions of a batch (`logits.flatten(0, 1)`), prompt and padding too.
Expect: MUSE's two depend on constants that softmax ignores; WAGLE's has no term that keeps the model's entropy.
Does not show: NPO or a KL divergence; those are npo.py and kl.py. Use these to reproduce, not to unlearn.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interventions.gradient.losses.npo import fading
from interventions.gradient.losses.said import wide


def muse_npo(
    logits: Float[Tensor, "n vocab"], reference: Float[Tensor, "n vocab"], beta: float = 0.1
) -> Float[Tensor, ""]:
    """NPO's formula on each raw logit, reference less current, averaged over positions and vocabulary."""
    return fading((wide(reference) - wide(logits)).flatten(), beta).mean()


def muse_kl(logits: Float[Tensor, "n vocab"], reference: Float[Tensor, "n vocab"], rows: int) -> Float[Tensor, ""]:
    """KL's formula on raw logits in place of log-probabilities, summed and divided by the number of rows only."""
    return functional.kl_div(wide(logits), wide(reference), reduction="sum", log_target=True) / rows


def wagle_kl(logits: Float[Tensor, "n vocab"], reference: Float[Tensor, "n vocab"]) -> Float[Tensor, ""]:
    """Cross-entropy -sum p_current log(p_reference + 1e-12), mean over positions."""
    return -(wide(logits).softmax(dim=-1) * (wide(reference).softmax(dim=-1) + 1e-12).log()).sum(dim=-1).mean()
