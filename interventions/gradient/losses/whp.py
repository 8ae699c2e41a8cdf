"""Who's Harry Potter (WHP): learn generic predictions, made from a model that was trained further on the topic.

Source: Eldan and Russinovich 2023, https://arxiv.org/abs/2310.02238. Formula: generic logits = base - alpha
relu(reinforced - base); the model is trained on their likeliest token. The paper also replaces the topic's own words
by generic ones, which is a matter of the data. MUSE (https://arxiv.org/abs/2407.06460) has no training: it uses the
generic logits as a model at evaluation; that is `generic_logits` alone.
Expect: what further training made likelier is held down. Cannot do: ignore a constant between the two models' logits,
as the paper's formula is of logits, not of probabilities.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interventions.gradient.losses.said import Said


def generic_logits(
    base: Float[Tensor, "*at vocab"], reinforced: Float[Tensor, "*at vocab"], alpha: float = 1.0
) -> Float[Tensor, "*at vocab"]:
    """The base model's logits less what the reinforced model has more.

    Args:
        base: logits of the model to be unlearned.
        reinforced: logits of the model trained further on what to forget.
        alpha: how much of the difference to take off.
    """
    return base - alpha * (reinforced - base).relu()


def generic_nll(forget: Said, generic: Float[Tensor, "n vocab"]) -> Float[Tensor, ""]:
    """Mean NLL of the generic logits' likeliest tokens, under the model in training."""
    return functional.cross_entropy(forget.logits, generic.argmax(dim=-1))
