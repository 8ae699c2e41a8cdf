"""UNDIAL: distil the start model with the logit of the forget token lowered.

Source: Dong et al. 2024, https://arxiv.org/abs/2402.10052. Formula: mean over positions of the cross-entropy between
softmax(reference logits - strength at the label) and the model. Here over the tokens of `forget`. The authors' code
labels every next token, prompt and padding too (`Said.of(logits, input_ids)`). OpenUnlearning takes all positions but
labels those outside the answer -100, which indexes vocabulary entry V - 100 and penalises that token there
(`Said.of(logits, labels with -100 replaced by V - 100)`; it fails where V < 100).
Expect: a fixed target, so training converges. Cannot do: forget more than `strength` says.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interventions.gradient.losses.said import Said, wide


def undial(forget: Said, reference: Float[Tensor, "n vocab"], strength: float = 10.0) -> Float[Tensor, ""]:
    """Cross-entropy to the start model with the labelled tokens held down.

    Args:
        forget: the model in training on the forget facts.
        reference: logits, or log-probabilities, of the start model at the same tokens.
        strength: what is taken from the labelled token's logit, nats.
    """
    step = reference.new_full((len(forget.token), 1), -strength, dtype=forget.logits.dtype)
    target = wide(reference).to(forget.logits).scatter_add(1, forget.token[:, None], step).softmax(dim=-1)
    return functional.cross_entropy(forget.logits, target)
