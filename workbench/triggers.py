"""`Trigger`: a stored detector on one site that says which prompts a guard acts on.

A prompt is judged before anything is said, and again at every token that follows, as a served model would. A detector
is one function here (or beside) and one line in `TRIGGERS`: from a site's value on whole rows and the mask, to yes or
no for the text up to each token.

Read it as: `trigger.told(model, batch)` is True at every token of a row whose prompt set the guard off, and from the
token on at which something said later did. What a row's prompt is, `Batch.prompt` says; without it, all of the row.
Does not show: whether the prompt was about the concept. How often it fires on what it should and should not is to be
measured on held-out prompts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import BadInput, did_you_mean
from workbench.sae_trigger import sae_share
from workbench.sites import Site
from workbench.tokens import Batch
from workbench.trigger_mahalanobis import mahalanobis

if TYPE_CHECKING:
    from workbench.model import HookedModel

Value = Float[Tensor, "row pos width"]
Mask = Bool[Tensor, "row pos"]
Answer = Bool[Tensor, "row pos"]

Detector = Callable[..., Tensor]
"""From a site's value, the mask, named tensors and options, to yes or no for the text up to each token."""


def box(value: Value, mask: Mask, *, mean: Tensor, radius: Tensor, share: float = 1.0) -> Answer:  # noqa: ARG001
    """Whether at least a share of the entries at a token lies within `mean` plus or minus `radius`."""
    return ((value - mean).abs() <= radius).to(value.dtype).mean(-1) >= share


def linear(
    value: Value, mask: Mask, *, weight: Tensor, bias: Tensor, threshold: float = 0.0, pooled: bool = True
) -> Answer:
    """Whether `weight . x + bias` exceeds the threshold, x the mean over the text so far (or the token alone)."""
    if pooled:
        there = mask[..., None].to(value.dtype)
        value = (value * there).cumsum(1) / there.cumsum(1).clamp(min=1)
    return value @ weight + bias > threshold


TRIGGERS: dict[str, Detector] = {"box": box, "linear": linear, "mahalanobis": mahalanobis, "sae_share": sae_share}
"""What a trigger can look for."""


@dataclass(frozen=True)
class Trigger:
    """A stored detector on one site.

    Raises:
        BadInput: for an unknown detector.
    """

    site: Site
    """What it looks at."""
    detector: str
    """A key of `TRIGGERS`."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """The detector's tensors by name."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The detector's numbers and words (JSON) by name."""

    def __post_init__(self) -> None:
        if self.detector not in TRIGGERS:
            raise BadInput(f"No trigger called {self.detector!r}. {did_you_mean(self.detector, TRIGGERS)}")

    def words(self) -> dict[str, Any]:
        """Everything that is no tensor."""
        return {"site": str(self.site), "detector": self.detector, "options": dict(self.options)}

    @classmethod
    def rebuilt(cls, words: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Trigger":
        """From what `words` and `tensors` gave."""
        return cls(Site.parse(words["site"]), words["detector"], dict(tensors), words["options"])

    @torch.no_grad()
    def fires(self, model: "HookedModel", batch: Batch) -> Bool[Tensor, "row pos"]:
        """What the detector says of the text up to each token, from one pass; on the CPU."""
        stop = 0 if self.site.layer is None else self.site.layer + 1  # blocks above the site need not be computed
        value = model.run(batch, read=[self.site], logits=False, stop=stop).acts[self.site]
        wide = value.to(torch.promote_types(value.dtype, torch.float32))
        wide = wide if wide.ndim == 3 else wide[..., None]
        given = {n: t.to(wide.device, wide.dtype) if t.is_floating_point() else t for n, t in self.tensors.items()}
        mask = batch.mask.to(wide.device)
        try:
            return TRIGGERS[self.detector](wide, mask, **given, **self.options).cpu() & batch.mask
        except (RuntimeError, TypeError) as error:
            raise BadInput(
                f"The trigger {self.detector!r} at {self.site} cannot judge {model.name}: {str(error)[:200]}"
            ) from None

    def told(self, model: "HookedModel", batch: Batch) -> Bool[Tensor, "row pos"]:
        """Where the guard acts: on a whole prompt that fires at its last token, and after any later token that does."""
        return acts_on(self.fires(model, batch), prompt_lengths(batch))


def prompt_lengths(batch: Batch) -> Int[Tensor, " row"]:
    """Tokens of each row's prompt; all of the row where the batch does not say."""
    return batch.mask.sum(dim=1) if batch.prompt is None else batch.prompt


def acts_on(fires: Bool[Tensor, "row pos"], prompt: Int[Tensor, " row"]) -> Bool[Tensor, "row pos"]:
    """From a detector's answers to the tokens a guard acts on."""
    last = (prompt - 1).clamp(min=0)[:, None]
    after = torch.arange(fires.shape[1])[None] >= last
    since = (fires & after).long().cummax(dim=1).values.bool()
    return torch.where(after, since, fires.gather(1, last))
