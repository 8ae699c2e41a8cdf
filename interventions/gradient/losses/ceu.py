"""CE-U: learn one's own distribution with the true token ruled out.

Source: Yang 2025, https://arxiv.org/abs/2503.01224. Formula: mean over answer tokens of the cross-entropy between the
model and its own distribution without the true token, renormalised; that target is a constant of the step (detached).
The first `skip` answer tokens are left alone (1 in the paper's footnote and in OpenUnlearning). No retain loss.
Expect: a gradient of the size of p at the true token, neither vanishing nor exploding. Cannot do: be read as progress:
the target moves with the model, so the value may rise while forgetting works.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interventions.gradient.losses.said import Said


def ce_u(forget: Said, skip: int = 1) -> Float[Tensor, ""]:
    """Cross-entropy to the model's own distribution over the other tokens.

    Args:
        forget: the model in training on the forget facts.
        skip: answer tokens at the start of each row that are left alone.

    Raises:
        BadInput: when no answer is longer than `skip`.
    """
    said = forget.after(skip)
    return functional.cross_entropy(said.logits, said.others.detach().softmax(dim=-1))
