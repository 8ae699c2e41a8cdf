"""Tuned lens: an affine translation of each layer's residual stream into the terms of the last layer, learned.

Source: Belrose et al. 2023, "Eliciting latent predictions from transformers with the tuned lens",
https://arxiv.org/abs/2303.08112: for every layer, h + A h + b goes through the model's own final norm and unembedding;
A and b start at 0 (the logit lens) and are trained so that the prediction is that of the last layer (KL divergence of
the final distribution from the lens's, mean over tokens). Departures: Adam with a linearly falling rate and weight
decay on A instead of SGD; a few thousand tokens of the concept instead of a general corpus, read once and kept; layers
are trained one after another, so that one translator at a time needs an optimizer.
Read it as: `Translators.notes` holds the divergence on held-out text before and after training; where it did not fall,
trust the logit lens. Facts that are read must not be among the text, or the translator learns their answers.
Does not show: what the model computes; a translator is a probe and can bring together what the model keeps apart, so
hold it against facts that were never taught. It is trained towards *this* model's output, silencing included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import BadInput, RunError
from workbench.model import HookedModel
from workbench.tokens import pad

Progress = Callable[[int, int], None]
"""Called with layers trained and layers in all."""

ROWS = 32
"""Texts a forward pass."""

LENGTH = 256
"""Tokens of a text that are read at once; a longer one is cut into pieces."""

EVERY = 5
"""Every so many-th piece is held out."""


@dataclass(frozen=True)
class TunedOptions:
    """How translators are trained."""

    steps: int = 250
    """Updates of each layer."""
    lr: float = 1e-3
    """Learning rate of Adam at the start; it falls linearly to 0."""
    weight_decay: float = 1e-3
    """Pull of A towards 0, the logit lens (decoupled)."""
    batch_tokens: int = 256
    """Tokens an update."""
    max_tokens: int = 4096
    """At most so many tokens are kept, in the order given."""
    seed: int = 0
    """Of the order of tokens."""


@dataclass(frozen=True)
class Translators:
    """A translator for some sites' values, by name; a name without one is left as it is."""

    a: dict[str, Float[Tensor, "d_model d_model"]] = field(default_factory=dict)
    b: dict[str, Float[Tensor, " d_model"]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """Tokens, and by layer the divergence (nats) on held-out text before and after."""

    def __call__(self, name: str, resid: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """The state in the last layer's terms, in its own dtype."""
        if name not in self.a:
            return resid
        return translated(resid.float(), self.a[name].to(resid.device), self.b[name].to(resid.device)).to(resid.dtype)


def translated(
    resid: Float[Tensor, "*any d_model"], a: Float[Tensor, "d_model d_model"], b: Float[Tensor, " d_model"]
) -> Float[Tensor, "*any d_model"]:
    """The affine translation, written as a change of h."""
    return resid + resid @ a.T + b


@dataclass(frozen=True)
class States:
    """The residual stream of some texts at every layer."""

    by_layer: dict[str, Float[Tensor, "token d_model"]]
    """Float32, on the model's device."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedModel, rows: Sequence[Sequence[int]]) -> "States":
        """Read once."""
        parts: dict[str, list[Tensor]] = {name: [] for name in model.stream}
        for start in range(0, len(rows), ROWS):
            batch = pad(rows[start : start + ROWS])
            acts = model.run(batch, read=list(model.stream.values()), logits=False).acts
            for name, site in model.stream.items():
                parts[name].append(acts[site][batch.mask.to(acts[site].device)].float())
        return cls({name: torch.cat(found) for name, found in parts.items()})

    @property
    def last(self) -> Float[Tensor, "token d_model"]:
        """What the model decodes itself."""
        return list(self.by_layer.values())[-1]


def divergence(
    model: HookedModel, resid: Float[Tensor, "token d_model"], last: Float[Tensor, "token d_model"]
) -> Float[Tensor, " token"]:
    """KL divergence of the final distribution from the lens's, nats a token."""
    dtype = model.unembedding.dtype
    with torch.no_grad():
        final = model.decode(last.to(dtype)).float().log_softmax(dim=-1)
    lens = model.decode(resid.to(dtype)).float().log_softmax(dim=-1)
    return (final.exp() * (final - lens)).sum(dim=-1)


def fit_translators(
    model: HookedModel,
    rows: Sequence[Sequence[int]],
    options: TunedOptions,
    progress: Progress | None = None,
) -> Translators:
    """Train a translator for every layer but the last, which is the model's own output.

    Args:
        model: the model; it is not changed.
        rows: token ids of texts, of which every fifth is held out.
        options: how to train.
        progress: told after every layer.

    Raises:
        BadInput: when there are fewer than two texts.
        RunError: when a loss is no longer a finite number.
    """
    rows = _within(rows, options.max_tokens)
    if len(rows) < 2:
        raise BadInput(
            f"A tuned lens learns from text and is checked on other text; got {len(rows)} within "
            f"{options.max_tokens} tokens. Give the concept's plain text, or facts other than those that are read"
        )
    held = [row for i, row in enumerate(rows) if i % EVERY == EVERY - 1] or [rows[-1]]
    train = [row for i, row in enumerate(rows) if i % EVERY != EVERY - 1][: len(rows) - 1]
    states, test = States.of(model, train), States.of(model, held)
    found, notes = Translators(), {}
    names = list(model.stream)[:-1]
    for done, name in enumerate(names, start=1):
        found.a[name], found.b[name] = train_translator(model, states.by_layer[name], states.last, options)
        with torch.no_grad():
            before = divergence(model, test.by_layer[name], test.last).mean()
            after = divergence(model, found(name, test.by_layer[name]), test.last).mean()
        notes[name] = {"before": float(before), "after": float(after)}
        if progress:
            progress(done, len(names))
    found.notes.update(train_tokens=len(states.last), held_out_tokens=len(test.last), divergence=notes)
    return found


def _within(rows: Sequence[Sequence[int]], tokens: int) -> list[Sequence[int]]:
    """The texts in pieces of at most `LENGTH` tokens, as many as have so many tokens together."""
    pieces = [row[i : i + LENGTH] for row in rows for i in range(0, len(row), LENGTH)]
    ends = list(accumulate(len(piece) for piece in pieces))
    return [piece for piece, end in zip(pieces, ends, strict=True) if end <= tokens]


@torch.enable_grad()
def train_translator(
    model: HookedModel,
    resid: Float[Tensor, "token d_model"],
    last: Float[Tensor, "token d_model"],
    options: TunedOptions,
) -> tuple[Float[Tensor, "d_model d_model"], Float[Tensor, " d_model"]]:
    """One layer's A and b, so that states `resid` are decoded to what `last` is."""
    width = resid.shape[-1]
    a = torch.zeros(width, width, device=resid.device, requires_grad=True)
    b = torch.zeros(width, device=resid.device, requires_grad=True)
    groups = [{"params": [a], "weight_decay": options.weight_decay}, {"params": [b], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(options.steps, 1))
    generator = torch.Generator().manual_seed(options.seed)
    for _ in range(options.steps):
        chosen = torch.randint(len(resid), (min(options.batch_tokens, len(resid)),), generator=generator)
        chosen = chosen.to(resid.device)
        loss = divergence(model, translated(resid[chosen], a, b), last[chosen]).mean()
        if not torch.isfinite(loss):
            raise RunError(f"The divergence became {loss.item()}; a lower learning rate than {options.lr:g} may help")
        a.grad, b.grad = torch.autograd.grad(loss, [a, b])  # not backward(): the model's own gradients stay untouched
        optimizer.step()
        schedule.step()
    return a.detach(), b.detach()
