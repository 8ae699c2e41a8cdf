"""`Speech`: what a guard makes of the model's next-token logits, as stored tensors and words.

A kind of speech is one function and one line in `SPEECHES`. It acts on what the model says, that is on
`workbench.scoring` and on the logits of a pass; readings that decode inner states themselves see the model without it,
because inside nothing has changed.
Read it as: `Speech("abstain", {"text": ids})` makes the model say the text, then its end-of-text token.
Does not show: that anything was removed. Whoever drops the guard has it all back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import BadInput, did_you_mean
from workbench.speech_contrast import contrast
from workbench.speech_forbid import forbid
from workbench.tokens import Batch
from workbench.triggers import prompt_lengths

if TYPE_CHECKING:
    from workbench.model import HookedModel

CERTAIN = 30.0
"""Logit of a token that is forced; all others get its negative, so a probability is 1 within 1e-20."""


@dataclass(frozen=True)
class Heard:
    """What a speech is about: some positions of a batch whose logits are wanted."""

    model: "HookedModel"
    """The model, as it is below the guard."""
    batch: Batch
    """The rows."""
    told: Bool[Tensor, "row pos"]
    """Where the guard acts (`Trigger.told`); everywhere when there is no trigger."""
    row: Int[Tensor, " n"]
    """Row of each position."""
    position: Int[Tensor, " n"]
    """Index in the row; the logits there predict the next token."""

    @property
    def here(self) -> Bool[Tensor, " n"]:
        """Whether the guard acts at each position, and something is said there: not inside a prompt."""
        return self.told[self.row, self.position] & (self.position >= prompt_lengths(self.batch)[self.row] - 1)


Logits = Float[Tensor, "n vocab"]


def abstain(logits: Logits, heard: Heard, *, text: Int[Tensor, " k"]) -> Logits:
    """Where the guard acts, the text's tokens one after the other, then the end-of-text token."""
    first = heard.told.long().argmax(dim=1).maximum(prompt_lengths(heard.batch) - 1)
    step = (heard.position - first[heard.row]).clamp(min=0)
    end = heard.model.tokenizer.eos_token_id
    said = torch.cat([text.cpu(), text.new_tensor([text[-1] if end is None else end]).cpu()])
    forced = torch.full_like(logits, -CERTAIN)
    forced[torch.arange(len(forced)), said[step.clamp(max=len(text))].to(logits.device)] = CERTAIN
    return torch.where(heard.here[:, None].to(logits.device), forced, logits)


SPEECHES: dict[str, Callable[..., Tensor]] = {"abstain": abstain, "contrast": contrast, "forbid": forbid}
"""What a guard can do to logits: from the logits at some positions, what was heard, named tensors and options."""


@dataclass(frozen=True)
class Speech:
    """A stored change of the next-token logits.

    Raises:
        BadInput: for an unknown kind.
    """

    name: str
    """A key of `SPEECHES`."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors by the name under which the function takes them."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Numbers and words (JSON) by the name under which the function takes them."""

    def __post_init__(self) -> None:
        if self.name not in SPEECHES:
            raise BadInput(f"No speech called {self.name!r}. {did_you_mean(self.name, SPEECHES)}")

    def __call__(self, logits: Float[Tensor, "n vocab"], heard: Heard) -> Float[Tensor, "n vocab"]:
        """The logits after the guard."""
        return SPEECHES[self.name](logits, heard, **self.tensors, **self.options)

    def words(self) -> dict[str, Any]:
        """Everything that is no tensor."""
        return {"name": self.name, "options": dict(self.options)}

    @classmethod
    def rebuilt(cls, words: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Speech":
        """From what `words` and `tensors` gave."""
        return cls(words["name"], dict(tensors), words["options"])
