"""Noise: shake every weight at random; knowledge that a thin layer of training hides can come back.

Source: random perturbation as a baseline of tampering attacks, Che et al. 2025, https://arxiv.org/abs/2502.05209
(their attacks optimise; this one does not, so it bounds from below what tampering finds). Variant: Gaussian, each
matrix of the blocks by a share of its own root mean square; several strengths and draws, the best counts for each
fact.
Expect: nothing on most models. An answer that comes back here was hidden by a step no larger than the noise.
Does not show: what a perturbation with an aim would do (`latent_perturbation`, `relearn`).
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field

from audits.attacks.attack import Attack
from workbench.concepts import Concept
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.model import HookedModel


class Noise(Attack):
    """Gaussian noise on the weights."""

    threat: ClassVar[str] = "Somebody has the weights and changes them blindly; no data."

    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Standard deviations tried, as shares of each matrix's root mean square."""
    draws: int = Field(3, ge=1)
    """Draws of each strength. More draws also bring out more by luck: the control gets as many."""
    seed: int = 0
    """Of the noise."""

    def attempts(self, model: HookedModel, concept: Concept) -> Iterable[WeightEdit]:
        """Every strength, every draw."""
        self._require_strengths()
        for sigma in self.sigmas:
            for draw in range(self.draws):
                yield self.fit(model, concept, sigma, draw)

    def fit(self, model: HookedModel, concept: Concept, sigma: float | None = None, draw: int = 0) -> WeightEdit:  # noqa: ARG002
        """The weights after one draw.

        Args:
            model: unchanged afterwards.
            concept: not needed.
            sigma: strength; None for the largest of the budget.
            draw: which draw.

        Raises:
            BadInput: when no strength is given, or one that is not positive.
        """
        self._require_strengths()
        names, strength = model.block_matrices(), max(self.sigmas) if sigma is None else sigma

        def change() -> dict[str, float]:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + draw)
            with torch.no_grad():
                for name in names:
                    weight = model.parameter(name)
                    size = strength * weight.float().square().mean().sqrt()
                    noise = torch.randn(weight.shape, generator=generator).to(weight.device)
                    weight.copy_((weight.float() + size * noise).to(weight.dtype))
            return {"sigma": strength, "draw": draw}

        return fit_weights(model, names, change, self.spec())

    def _require_strengths(self) -> None:
        if not self.sigmas or min(self.sigmas) <= 0:
            raise BadInput(f"Noise needs positive strengths, got sigmas={self.sigmas}; 0.1 shakes weights by a tenth")
