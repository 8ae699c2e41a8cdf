"""Pruning: zero the smallest weights; what was added on top of the knowledge may be among them.

Source: Wanda, Sun et al. 2023, https://arxiv.org/abs/2306.11695, as an attack in Che et al. 2025,
https://arxiv.org/abs/2502.05209. `magnitude`: the smallest weights of every matrix in the blocks. `wanda`: size
times the root mean square of the input, compared within each output; here on the value vectors of all MLPs and
experts, whose inputs are neurons and can be read anywhere (published: every linear map). Calibrated on near and far
facts, so what only the forget prompts use goes first.
Expect: models lose knowledge under pruning, forgotten or not. What counts is an answer that comes back.
Does not show: pruning with an aim (`prune_difference`).
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from audits.attacks.attack import Attack
from workbench.concepts import Concept
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.moments import moments_of
from workbench.scoring import chunks
from workbench.sites import Site
from workbench.tokens import Batch


class Prune(Attack):
    """Zero the smallest weights."""

    threat: ClassVar[str] = "Somebody has the weights and compresses them, with a few harmless texts to calibrate on."

    score: Literal["magnitude", "wanda"] = "wanda"
    """What counts as small."""
    shares: tuple[float, ...] = (0.1, 0.3, 0.5)
    """Shares of the weights that are zeroed, tried one after the other (published: 0.5)."""

    def attempts(self, model: HookedModel, concept: Concept) -> Iterable[WeightEdit]:
        """Every share."""
        for share in self.shares:
            yield self.fit(model, concept, share)

    def fit(self, model: HookedModel, concept: Concept, share: float | None = None) -> WeightEdit:
        """The weights after pruning.

        Args:
            model: unchanged afterwards.
            concept: near and far facts for `wanda`; `magnitude` needs none.
            share: how much goes; None for the most of the budget.

        Raises:
            BadInput: for a share outside 0 to 1, or no near and far facts to calibrate on.
        """
        part = max(self.shares, default=0.0) if share is None else share
        if not 0 < part < 1:
            raise BadInput(f"Pruning needs shares between 0 and 1, got {self.shares}; 0.5 zeroes half of the weights")
        stores = {store.name: store for _, store in model.down_projections()}
        names = model.block_matrices() if self.score == "magnitude" else list(stores)
        sizes = _inputs(model, concept) if self.score == "wanda" else {}

        def change() -> dict[str, object]:
            with torch.no_grad():
                if self.score == "magnitude":
                    zeroed = sum(_zero(model.parameter(name), part) for name in names)
                else:
                    zeroed = sum(
                        _zero_columns(
                            store.vectors if site.expert is None else store.vectors[site.expert], sizes, site, part
                        )
                        for site, store in model.down_projections()
                    )
            return {"zeroed": zeroed, "share": part, "tensors": len(names)}

        return fit_weights(model, names, change, self.spec())


def smallest(score: Float[Tensor, "*rows n"], share: float) -> Bool[Tensor, "*rows n"]:
    """The given share (rounded down) of the entries along the last axis with the lowest scores; ties by position."""
    count = int(share * score.shape[-1])
    chosen = torch.zeros(score.shape, dtype=torch.bool, device=score.device)
    return chosen.scatter(-1, score.argsort(dim=-1, stable=True)[..., :count], True)


def _zero(weight: Tensor, share: float) -> int:
    """Zero the smallest of a matrix, or of each expert's, in place; how many."""
    flat = weight.detach().abs().float().reshape(-1 if weight.ndim < 3 else len(weight), weight.shape[-2:].numel())
    chosen = smallest(flat, share).view(weight.shape)
    weight[chosen] = 0
    return int(chosen.sum())


def _zero_columns(rows: Tensor, sizes: dict[Site, Tensor], site: Site, share: float) -> int:
    """Zero, of every output of one MLP, the inputs that matter least to it, in place; how many."""
    score = rows.detach().abs().float() * sizes[site].to(rows.device, torch.float32)[:, None]
    chosen = smallest(score.T.contiguous(), share).T
    rows[chosen] = 0
    return int(chosen.sum())


def _inputs(model: HookedModel, concept: Concept) -> dict[Site, Float[Tensor, " neuron"]]:
    """Root mean square of every neuron over the tokens of near and far facts; 0 in an expert that gets none."""
    facts = (*concept.near, *concept.far)
    if not facts:
        raise BadInput(f"{concept.name} has no near or far facts to calibrate on; use score='magnitude'")
    sites = [site for site, _ in model.down_projections()]
    found = moments_of(model, sites, _batches(model, facts))
    return {site: (one.mean.square() + one.squares / max(one.count, 1)).sqrt() for site, one in found.items()}


def _batches(model: HookedModel, facts: tuple[object, ...]) -> Iterator[tuple[Batch, Tensor]]:
    for batch, _ in chunks(model.encode(facts)):  # type: ignore[arg-type]
        yield batch, batch.mask
