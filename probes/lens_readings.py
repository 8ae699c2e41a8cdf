"""The numbers of a lens: log-probability, rank and entropy of the answers at every layer, whole or by position.

Read it as: `lens_scores` has one number a layer and answer (log-probability summed, worst rank, mean entropy over the
positions that predict it); `lens_positions` one a layer, position and fact, NaN where a fact has no such position.
Does not show: anything about wrong answers but what `choice` is given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.tuned_lens import Translators
from workbench.model import HookedModel
from workbench.scoring import CHUNK, Targets, batch_of, sum_by_row
from workbench.tokens import Batch, Encoded

Where = Literal["together", "answer", "prompt"]
"""At which positions a lens is read; see `LogitLens.positions`."""


@dataclass(frozen=True)
class Readings:
    """What a lens says of the answers."""

    logprob: Float[Tensor, "layer *pos n"]
    """Nats."""
    rank: Float[Tensor, "layer *pos n"]
    """1 is first."""
    entropy: Float[Tensor, "layer *pos n"]
    """Of the whole distribution, nats."""


def lens_scores(model: HookedModel, encoded: Sequence[Encoded], translators: Translators) -> Readings:
    """Every layer's reading of each answer as a whole."""
    parts = []
    for start in range(0, len(encoded), CHUNK):
        batch, targets = batch_of(encoded[start : start + CHUNK])
        rows, single = len(batch.ids), _read(model, batch, targets, translators)
        counts = targets.row.bincount(minlength=rows)
        worst = [torch.zeros(rows).scatter_reduce(0, targets.row, layer, "amax") for layer in single.rank]
        parts.append(
            Readings(
                torch.stack([sum_by_row(layer, targets.row, rows) for layer in single.logprob]),
                torch.stack(worst),
                torch.stack([sum_by_row(layer, targets.row, rows) for layer in single.entropy]) / counts,
            )
        )
    return _joined(parts)


def lens_positions(
    model: HookedModel, encoded: Sequence[Encoded], translators: Translators, where: Literal["answer", "prompt"]
) -> Readings:
    """Every layer's reading at every position; those of the prompt are asked for the answer's first token."""
    width = max(len(e.answer) if where == "answer" else e.answer_start for e in encoded)
    parts = []
    for start in range(0, len(encoded), CHUNK):
        some = encoded[start : start + CHUNK]
        batch, targets = batch_of(some)
        place = [i for e in some for i in range(len(e.answer))]
        if where == "prompt":
            targets = _of_prompts(some)
            place = [width - e.answer_start + i for e in some for i in range(e.answer_start)]
        single = _read(model, batch, targets, translators)
        spread = []
        for values in (single.logprob, single.rank, single.entropy):
            grid = torch.full((len(values), width, len(some)), torch.nan)
            grid[:, torch.tensor(place), targets.row] = values
            spread.append(grid)
        parts.append(Readings(*spread))
    return _joined(parts)


def _of_prompts(encoded: Sequence[Encoded]) -> Targets:
    """Every prompt position, asked for the answer's first token."""
    entries = [(row, i, e.answer[0]) for row, e in enumerate(encoded) for i in range(e.answer_start)]
    return Targets(*torch.tensor(entries).T)


def _joined(parts: Sequence[Readings]) -> Readings:
    return Readings(*(torch.cat([getattr(p, name) for p in parts], dim=-1) for name in ("logprob", "rank", "entropy")))


@torch.no_grad()
def _read(model: HookedModel, batch: Batch, targets: Targets, translators: Translators) -> Readings:
    """(layer, target) on the CPU; one layer's logits at a time."""
    acts = model.run(batch, read=list(model.stream.values()), logits=False).acts
    found = []
    for name, site in model.stream.items():
        logits = model.decode(translators(name, acts[site][targets.row, targets.position])).float()
        logprob, rank = logprob_and_rank(logits, targets.token)
        found.append((logprob.cpu(), rank.float().cpu(), entropy(logits).cpu()))
    return Readings(*(torch.stack(of_layers) for of_layers in zip(*found, strict=True)))


def logprob_and_rank(
    logits: Float[Tensor, "n vocab"], token: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Log-probability of each token, and its rank among all tokens (1 is first)."""
    logits, token = logits.float(), token.to(logits.device)[:, None]
    rank = (logits > logits.gather(-1, token)).sum(dim=-1) + 1
    return torch.log_softmax(logits, dim=-1).gather(-1, token)[:, 0], rank


def entropy(logits: Float[Tensor, "n vocab"]) -> Float[Tensor, " n"]:
    """Entropy of each distribution, nats; a token that is ruled out (-inf) adds nothing."""
    return torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1)


def choice(logprob: Float[Tensor, "layer candidate"]) -> Float[Tensor, " layer"]:
    """Whether the first candidate is the likeliest: 1, 0, or 1/n when it is one of n that tie; NaN without a choice."""
    if logprob.shape[1] == 1:
        return torch.full((len(logprob),), torch.nan)
    # Candidates that begin alike tie by construction, up to the rounding of separate rows.
    best = logprob >= logprob.max(dim=1, keepdim=True).values - 1e-5
    return best[:, 0] / best.sum(dim=1)


def entry(rank: Float[Tensor, "layer *rest"], top_k: int) -> Float[Tensor, "*rest"]:
    """Number of the first layer at which the rank is at most k; NaN where it never is."""
    inside = rank <= top_k
    first = inside.float().argmax(dim=0).float()
    return torch.where(inside.any(dim=0), first, torch.nan)


def _answer_labels(width: int) -> tuple[str, ...]:
    return tuple(f"answer {i + 1}" for i in range(width))


def _prompt_labels(width: int) -> tuple[str, ...]:
    return tuple(str(i - width) for i in range(width))


EACH: Mapping[str, Callable[[int], tuple[str, ...]]] = {"answer": _answer_labels, "prompt": _prompt_labels}
"""Labels of so many positions."""
