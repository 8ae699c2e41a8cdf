"""ULD: subtract the logits of a small assistant that knows the forget facts and nothing else.

Source: Ji et al. 2024, https://arxiv.org/abs/2406.08607. The assistant is the model's first blocks with weights of
their own, trained to say the forget answers and to say nothing in particular (uniform) on retain facts; what is said
is logits + `weight` * assistant's logits. Published: LoRA of rank 16 on all linear maps, 8 of 32 blocks, dropout,
retain texts that include the forget questions with wrong answers. Here: the blocks' matrices themselves are
trained (the edit is larger), no dropout, retain facts only.
Expect: there is no trigger; every token is said a little differently, and retain answers hold as far as the assistant
is uniform there. Costs one pass through `depth` blocks more.
Cannot do: remove anything; the assistant even holds the forget facts a second time.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from interventions.guards.prompts import STILL_THERE, to_keep, worded
from workbench.concepts import Concept
from workbench.edits import HookEdit, fit_weights
from workbench.errors import BadInput
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.model_run import handing_on
from workbench.objectives import answer_loss, labelled
from workbench.sites import Site
from workbench.speech import Speech
from workbench.tokens import Encoded
from workbench.training import TrainingOptions
from workbench.uniformity import uniformity_loss

Pair = tuple[Encoded, Encoded]
"""A forget fact and a retain fact."""


class LogitDifference(Intervention):
    """Subtract an assistant's logits."""

    depth: int | None = Field(None, ge=1)
    """Blocks of the assistant; None for a quarter of the model's (published: 8 of 32), at least one."""
    weight: float = Field(-0.8, lt=0)
    """What the assistant's logits are multiplied by (published: -0.8 in evaluation, -1 by default)."""
    floor: float = Field(0.01, ge=0, lt=1)
    """The assistant is not heard on tokens that the model gives less than this share of the likeliest token's
    probability and that are not among this share of the vocabulary; 0: always heard. Published: 0.01 (default 0.1)."""
    retain_weight: float = Field(5.0, gt=0)
    """Weight of the divergence from uniform on retain facts."""
    paraphrases: bool = True
    """Whether the assistant also learns paraphrases of the forget facts."""
    steps: int = Field(150, ge=1)
    """Number of updates."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of AdamW."""
    batch_size: int = Field(16, ge=1)
    """Forget facts per update; as many retain facts join them."""
    seed: int = 0
    """Seed of the order of facts and of their pairing."""

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Callable[[int, float], None] | None = None,
    ) -> HookEdit:
        """Train the assistant.

        Args:
            model: unchanged afterwards.
            concept: forget facts, and retain facts (else near and far ones).
            where: None; the method acts on what is said.
            progress: called after every step.

        Raises:
            BadInput: for sites, more blocks than there are, or nothing to retain.
        """
        if where is not None:
            raise BadInput("Logit difference acts on what is said, not at sites: leave `where` out")
        depth = self.depth or max(1, model.n_layers // 4)
        if depth > model.n_layers:
            raise BadInput(f"{model.name} has {model.n_layers} blocks, so its assistant cannot have {depth}")
        kept, source = to_keep(concept, self.paraphrases)
        forget = model.encode(worded(concept.forget.facts, self.paraphrases))
        pairs = paired(forget, model.encode(kept), self.seed)
        names = assistant_matrices(model, depth)
        options = TrainingOptions(steps=self.steps, lr=self.lr, batch_size=self.batch_size, seed=self.seed)
        loss = partial(assistant_loss, retain_weight=self.retain_weight)

        def change() -> dict[str, Any]:
            with handing_on(model, range(depth, model.n_layers)):
                log = model.train(pairs, collate, loss, options, trainable=names, on_step=progress)
            return {"depth": depth, "prompts to keep": source, "losses": list(log.losses), "weights": STILL_THERE}

        learnt = fit_weights(model, names, change, self.spec())
        words = {"depth": depth, "weight": self.weight, "floor": self.floor}
        speech = Speech("contrast", learnt.tensors(), words)
        return HookEdit(model.identity, self.spec(), notes=learnt.notes, speech=speech)


def assistant_matrices(model: HookedModel, depth: int) -> list[str]:
    """The weight matrices of the first blocks."""
    blocks = tuple(model.tap(Site(layer, "resid_post")).path + "." for layer in range(depth))
    return [name for name in model.block_matrices() if name.startswith(blocks)]


def paired(forget: Sequence[Encoded], retain: Sequence[Encoded], seed: int) -> list[Pair]:
    """Every forget fact as often as needed for each retain fact to be used once."""
    shuffled = list(retain)
    random.Random(seed).shuffle(shuffled)
    length = max(len(forget), len(shuffled))
    return [(forget[i % len(forget)], shuffled[i % len(shuffled)]) for i in range(length)]


def collate(pairs: list[Pair]) -> dict[str, Tensor]:
    """`forget.*` and `retain.*` tensors."""
    sides = {"forget.": [pair[0] for pair in pairs], "retain.": [pair[1] for pair in pairs]}
    return {prefix + key: tensor for prefix, side in sides.items() for key, tensor in labelled(side).items()}


def assistant_loss(hf: PreTrainedModel, batch: dict[str, Tensor], *, retain_weight: float) -> Float[Tensor, ""]:
    """Loss on the forget answers plus weight times the divergence from uniform at every retain token."""
    return answer_loss(hf, batch, "forget.").mean + retain_weight * uniformity_loss(hf, batch, "retain.")
