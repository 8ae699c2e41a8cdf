"""From a residual state to logits, by the model's own final norm, unembedding and whatever comes after it.

Gemma caps logits, Granite and Cohere scale them; leaving that out gives other probabilities. Which applies is told by
the config, and `model.check()` proves it on the last layer.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Decoder:
    """The way out of the residual stream."""

    norm: nn.Module
    """Final norm."""
    unembed: nn.Module
    """Unembedding."""
    config: PreTrainedConfig
    """Says what is done to the logits."""

    def __call__(self, resid: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any vocab"]:
        """Logits of a residual state."""
        where = next(iter([*self.norm.parameters(), *self.unembed.parameters()])).device  # OLMo's norm has none
        return finish(self.config, self.unembed(self.norm(resid.to(where))))


def finish(config: PreTrainedConfig, logits: Float[Tensor, "*any vocab"]) -> Float[Tensor, "*any vocab"]:
    """What the architecture does to logits after the unembedding."""
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / divisor
    if factor := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * factor
    for name in ("final_logit_softcapping", "logits_soft_cap"):  # Gemma 2 and 3; RecurrentGemma
        if cap := getattr(config, name, None):
            logits = torch.tanh(logits / cap) * cap
    return logits


def gain_of(norm: nn.Module, width: int, dtype: torch.dtype) -> Float[Tensor, " d_model"]:
    """What a norm multiplies each direction by, read off what it does: a state of +1 and -1 has mean 0 and size 1.

    This holds for a norm that stores its gain, its gain less one (Gemma), or none at all (OLMo), with or without bias.
    """
    signs = torch.ones(width, dtype=dtype)
    signs[1::2] = -1
    signs = signs.to(next(norm.parameters(), signs).device)
    return (norm(signs) - norm(-signs)) / 2 * signs
