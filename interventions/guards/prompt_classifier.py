"""A prompt classifier as a guard's trigger: logistic regression on the mean of a site over the prompt.

Source: the detectors of ECO (https://arxiv.org/abs/2406.07933) and GUARD (https://arxiv.org/abs/2505.13312), which are
a fine-tuned RoBERTa and an MLP on the embeddings of a sentence encoder; here the features are the model's own (token
embeddings unless another site is named), so that the guard needs no second model.
Expect: sure where forget prompts name things that others do not. Each word appended thins the mean out.
Cannot do: tell prompts apart that hold the same words in another order (on embeddings), or know a name it never saw.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interventions.guards.prompts import (
    STILL_THERE,
    Halves,
    line_between,
    one_site,
    rates,
    readings,
    require_telling,
    to_forget,
    to_keep,
    warning,
)
from workbench.concepts import Concept
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.triggers import Trigger


class ClassifiedGuard(Intervention):
    """A guard that acts on the prompts that a classifier picks."""

    paraphrases: bool = True
    """Whether paraphrases of the prompts are fitted on too."""
    held_out: float = Field(0.3, gt=0, lt=1)
    """Share of the prompts on which the threshold is chosen and rates are read."""
    inverse_l2: float = Field(1.0, gt=0)
    """Inverse strength of the classifier's penalty (scikit-learn's C)."""
    seed: int = 0
    """Seed of what is held out, and of any noise."""
    force: bool = False
    """Give the guard even if its classifier cannot tell the prompts apart."""

    def trigger(
        self, model: HookedModel, concept: Concept, where: Sequence[Site] | None
    ) -> tuple[Trigger, dict[str, Any]]:
        """The classifier, and what the notes say of it.

        Args:
            model: only read.
            concept: forget facts, and retain facts (else near and far ones) to tell them from.
            where: one other site to look at; None for the token embeddings.

        Raises:
            BadInput: for too few prompts, another kind of site, or prompts it cannot tell apart.
        """
        site = one_site(model, where, Site(None, "embed"))
        wanted = Halves.of(to_forget(concept, self.paraphrases), self.held_out, self.seed)
        kept, source = to_keep(concept, self.paraphrases)
        others = Halves.of(kept, self.held_out, self.seed)
        fitted = [prompt_means(model, prompts.fit, site) for prompts in (wanted, others)]
        weight, bias = logistic(fitted[0], fitted[1], self.inverse_l2)
        held = [prompt_means(model, prompts.held, site) for prompts in (wanted, others)]
        low, high = (-(rows @ weight + bias) for rows in held)
        line = -line_between(low, high)
        tensors = {"weight": weight.float(), "bias": bias.float()}
        trigger = Trigger(site, "linear", tensors, {"threshold": line, "pooled": True})
        sets = {
            "forget, held out": wanted.held,
            "keep, held out": others.held,
            "near": concept.near.facts,
            "far": concept.far.facts,
            "never taught": concept.never_taught.facts,
            "forget, other formats": concept.forget.reworded("formats").facts,
        }
        found = rates(model, trigger, sets)
        balanced = require_telling(found, f"The prompt classifier at {site}", self.force)
        return trigger, {
            "site": str(site),
            "prompts to keep": source,
            "fires on": found,
            "balanced accuracy, held out": balanced,
            "warning": warning(found),
            "weights": STILL_THERE,
        }


def prompt_means(model: HookedModel, facts: Sequence[Any], site: Site) -> Float[Tensor, "fact width"]:
    """Mean of a site over each prompt."""
    return torch.stack([value.mean(0) for value in readings(model, facts, site)])


def logistic(
    positive: Float[Tensor, "m width"], negative: Float[Tensor, "n width"], inverse_l2: float
) -> tuple[Float[Tensor, " width"], Float[Tensor, ""]]:
    """Weight and bias of a logistic regression, both classes weighing the same, fitted on standardised features."""
    from sklearn.linear_model import LogisticRegression  # half a second to import

    rows = torch.cat([positive, negative])
    mean, spread = rows.mean(0), rows.std(0)
    scale = torch.where(spread > 1e-9 * rows.abs().amax(0), 1 / spread, 0.0)  # what does not vary tells nothing
    found = LogisticRegression(C=inverse_l2, class_weight="balanced", max_iter=1000)
    found.fit(((rows - mean) * scale).numpy(), np.arange(len(rows)) < len(positive))
    weight = torch.from_numpy(found.coef_[0]) * scale
    return weight, torch.tensor(float(found.intercept_[0]), dtype=torch.float64) - weight @ mean
