"""KL divergence to a reference model, to keep it where it should stay as it was.

Source: Maini et al. 2024 (TOFU), https://arxiv.org/abs/2401.06121; the same in the code of NPO, SimNPO and LoKU.
Forward: mean over positions of KL(reference || current); reverse: KL(current || reference). The positions are the rows
of `logits`: those of answers (`retain.logits`) by default, where published code takes all, prompt and padding too
(`logits.flatten(0, 1)`). The reference may be logits or log-probabilities.
Expect: forward punishes what is no longer said, reverse what is newly said. Cannot do: see a change of what the
reference says nowhere in these texts.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interventions.gradient.losses.said import wide


def forward_kl(logits: Float[Tensor, "n vocab"], reference: Float[Tensor, "n vocab"]) -> Float[Tensor, ""]:
    """Mean over positions of KL(reference || current), nats."""
    return _divergence(reference, logits)


def reverse_kl(logits: Float[Tensor, "n vocab"], reference: Float[Tensor, "n vocab"]) -> Float[Tensor, ""]:
    """Mean over positions of KL(current || reference), nats."""
    return _divergence(logits, reference)


def _divergence(of: Float[Tensor, "n vocab"], to: Float[Tensor, "n vocab"]) -> Float[Tensor, ""]:
    of, to = wide(of).log_softmax(dim=-1), wide(to).log_softmax(dim=-1)
    return functional.kl_div(to, of, reduction="batchmean", log_target=True)
