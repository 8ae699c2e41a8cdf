"""UGradSL: gradient ascent with generalised label smoothing.

Source: Di et al. 2024, https://arxiv.org/abs/2406.07698. Formula: labels (1 - rate) y + rate/V, with a negative rate
for the inverse form; UGradSL is minus the smoothed loss of forget answers, UGradSL+ mixes it with a retain loss:
share * retain - (1 - share) * smoothed. The paper has classes; here they are the tokens of the vocabulary. It sets the
rate by distance to neighbours or keeps it fixed; fixed here, -.4 as in FLAT's comparison. No stored number of theirs.
Expect: ascent that at the same time pulls towards the uniform distribution. Cannot do: stop by itself.
"""

from jaxtyping import Float
from torch import Tensor

from interventions.gradient.losses.graddiff import with_retain
from interventions.gradient.losses.said import Said


def smoothed_nll(said: Said, rate: float) -> Float[Tensor, ""]:
    """Mean cross-entropy to labels (1 - rate) y + rate/V; the rate may be negative."""
    return ((1 - rate) * said.loss - rate * said.log_prob.mean(dim=-1)).mean()


def ugradsl(forget: Said, rate: float = -0.4) -> Float[Tensor, ""]:
    """Minus the smoothed loss of the forget answers."""
    return -smoothed_nll(forget, rate)


def ugradsl_plus(forget: Said, retain: Float[Tensor, ""], share: float, rate: float = -0.4) -> Float[Tensor, ""]:
    """The same mixed with a retain loss, whose share (0 to 1) the paper tunes."""
    return with_retain(ugradsl(forget, rate), retain, 1 - share, share)
