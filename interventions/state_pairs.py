"""Training on hidden states: forget facts paired with retain facts, and what the model held there before.

What the states of the retain facts were is computed once, before the first update, and stored: there is no second
model. Memory: tokens of the retain facts x width x number of sites, in the model's own precision, on the CPU (400
facts of 20 tokens at one site of width 4096 in bfloat16: 66 MB).
Does not show: what becomes of tokens that are in neither set.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from workbench.concepts import Fact
from workbench.model import HookedModel
from workbench.objectives import IGNORED, labelled
from workbench.sites import Site
from workbench.tokens import Batch, Encoded, pad

ROWS = 16
"""Facts a pass when states are stored."""


@dataclass(frozen=True)
class Told:
    """A fact, and what is known of its tokens."""

    fact: Encoded
    """Its tokens."""
    known: Mapping[str, Tensor] = field(default_factory=dict)
    """Name -> one row a token."""


@dataclass(frozen=True)
class Pair:
    """A forget fact, and a retain fact to go with it."""

    forget: Told
    retain: Told | None


def pairs(forget: Sequence[Told], retain: Sequence[Told], seed: int) -> list[Pair]:
    """Every fact of the longer set once, each with one of the other set; the retain facts in a random order."""
    if not retain:
        return [Pair(told, None) for told in forget]
    shuffled = random.Random(seed).sample(list(retain), len(retain))
    length = max(len(forget), len(retain))
    return [Pair(forget[i % len(forget)], shuffled[i % len(shuffled)]) for i in range(length)]


@dataclass(frozen=True)
class Collate:
    """Pairs as a batch: tokens, labels, which tokens count, and what is known of them."""

    special: tuple[int, ...]
    """Ids of tokens that do not count: they stand in every fact, so they cannot be steered and kept at once."""

    def __call__(self, given: list[Pair]) -> dict[str, Tensor]:
        """`forget.*` and, where there are any, `retain.*` tensors."""
        kept = [pair.retain for pair in given if pair.retain is not None]
        return self._named("forget.", [pair.forget for pair in given]) | (self._named("retain.", kept) if kept else {})

    def _named(self, prefix: str, given: list[Told]) -> dict[str, Tensor]:
        batch = labelled([told.fact for told in given])
        counts = batch["attention_mask"].bool() & ~torch.isin(batch["input_ids"], torch.tensor(self.special).long())
        width = batch["input_ids"].shape[1]
        known = {key: _stacked([told.known[key] for told in given], width) for key in given[0].known}
        return {prefix + key: value for key, value in {**batch, "counts": counts, **known}.items()}


def _stacked(rows: Sequence[Tensor], length: int) -> Tensor:
    """One row a token, of several facts: padded with zeros, or cut, to a length."""
    return pad_sequence([row[:length] for row in rows], batch_first=True)


def collate_for(model: HookedModel) -> Collate:
    """The collate function for a model's tokenizer."""
    return Collate(tuple(sorted(model.tokenizer.all_special_ids)))


def labelled_tokens(batch: Mapping[str, Tensor], prefix: str) -> Bool[Tensor, "row pos"]:
    """Tokens that have a label of their own: those of the answers."""
    return batch[prefix + "labels"] != IGNORED


def states(
    model: HookedModel, batch: Mapping[str, Tensor], prefix: str, sites: Sequence[Site], *, whole: bool = False
) -> dict[Site, Float[Tensor, "row pos width"]]:
    """Values of sites at a batch's tokens, with their graph where gradients are on.

    Args:
        model: the model, also while it is trained.
        batch: from `Collate`.
        prefix: `forget.` or `retain.`.
        sites: where to read.
        whole: run all blocks; else those above the last site compute nothing.
    """
    given = Batch(batch[prefix + "input_ids"], batch[prefix + "attention_mask"].bool())
    above = None if whole else max(site.layer or 0 for site in sites) + 1
    return model.run(given, read=sites, logits=False, grad=torch.is_grad_enabled(), stop=above).acts


@torch.no_grad()
def stored(model: HookedModel, facts: Sequence[Fact], sites: Sequence[Site], *, padding: bool = False) -> list[Told]:
    """Facts with the values that sites hold at their tokens now, under the names of the sites.

    Args:
        model: as it is now.
        facts: facts.
        sites: where to read.
        padding: store the values at padding too, up to the length of the longest fact.
    """
    encoded, found = model.encode(facts), list[Told]()
    longest = [max((fact.ids for fact in encoded), key=len)] if padding and encoded else []
    for start in range(0, len(encoded), ROWS):
        rows = encoded[start : start + ROWS]
        batch = pad([*(fact.ids for fact in rows), *longest])
        acts = model.run(batch, read=sites, logits=False, stop=max(site.layer or 0 for site in sites) + 1).acts
        found += [
            Told(
                fact, {str(site): acts[site][row, : None if padding else len(fact.ids)].cpu().clone() for site in sites}
            )
            for row, fact in enumerate(rows)
        ]
    return found


def bytes_of(told: Iterable[Told]) -> int:
    """Memory that what is known takes."""
    return sum(value.nbytes for one in told for value in one.known.values())


@torch.no_grad()
def along(told: Sequence[Told], site: Site, collate: Collate, vector: Float[Tensor, " width"]) -> dict[str, Any]:
    """Mean norm of the stored values of a site over the tokens that count, and mean cosine with a vector."""
    values = torch.cat([one.known[str(site)][_counting(one.fact, collate)] for one in told]).float()
    norm = values.norm(dim=-1)
    cosine = values @ vector.float() / (norm * vector.float().norm()).clamp_min(1e-12)
    return {"norm": float(norm.mean()), "cosine": float(cosine.mean())}


def _counting(fact: Encoded, collate: Collate) -> Bool[Tensor, " pos"]:
    return ~torch.isin(torch.tensor(fact.ids), torch.tensor(collate.special).long())
