"""Membership by the gradient: how much a text would still move the weights.

Source: OpenUnlearning, https://arxiv.org/abs/2506.12618 (`gradnorm`), after Nasr et al. 2019,
https://arxiv.org/abs/1812.00910. Formula: p-norm of the whole gradient of the text's mean token loss. OpenUnlearning
takes the mean over parameter tensors of each one's norm, so that a bias counts as much as an embedding, drops the last
label from the loss and leaves the model in training mode (dropout): `published` does the first two.
Read it as: lower, more likely trained on. Does not show: which weights; a norm is dominated by large tensors.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def gradient_size(gradients: Sequence[Tensor], p: float = 2.0, published: bool = False) -> Float[Tensor, ""]:
    """Size of one text's gradient.

    Args:
        gradients: of each parameter tensor.
        p: which norm.
        published: mean of the tensors' norms in place of the norm of all.
    """
    norms = torch.stack([torch.linalg.vector_norm(g, p) for g in gradients])
    return norms.mean() if published else torch.linalg.vector_norm(norms, p)
