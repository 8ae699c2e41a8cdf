"""PDU: flatten the logits on forget answers while the retain loss is held under a bound by a dual variable.

Source: Entesari et al. 2025, https://arxiv.org/abs/2506.05314. Formulas: forget F = mean over positions of (largest
logit - mean logit)^2; loss = gamma F + multiplier (retain - bound); after each step
multiplier <- max(0, multiplier + rate (retain - bound)). OpenUnlearning's mask marks the answer's own positions,
one later than those that predict it, so the first answer token is left out and what follows the last is taken: give
`logits[labels != -100]` for that instead of `forget.logits`. It forms the loss with the multiplier before the update.
Expect: F falls by squares of logits, so it is large at first. Cannot do: work without a bound that suits the model.
"""

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.losses.said import wide


def flatness(logits: Float[Tensor, "n vocab"]) -> Float[Tensor, ""]:
    """Mean over positions of the squared distance of the largest logit from the mean logit; 0 when uniform."""
    logits = wide(logits)
    return (logits.amax(dim=-1) - logits.mean(dim=-1)).square().mean()


def pdu(
    forget: Float[Tensor, ""], retain: Float[Tensor, ""], multiplier: float, bound: float, gamma: float = 1.0
) -> Float[Tensor, ""]:
    """The Lagrangian of one step.

    Args:
        forget: `flatness` of the forget answers.
        retain: the loss on retain facts, nats.
        multiplier: the dual variable.
        bound: what the retain loss may be, nats.
        gamma: weight of the forget term.
    """
    return gamma * forget + multiplier * (retain - bound)


def dual_step(multiplier: float, retain: float, bound: float, rate: float = 1.0) -> float:
    """The dual variable after a step that had this retain loss: up where it broke the bound, never below 0."""
    return max(0.0, multiplier + rate * (retain - bound))
