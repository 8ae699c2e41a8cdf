"""The prompts a detector is fitted and tested on, where it draws its line, and how often it fires on each set.

A share of the prompts is held out at random; the line is drawn on these and the rates are read on these. A detector
that cannot tell them apart is refused: a guard on top of it would silence the wrong prompts.
Does not show: how it does on prompts worded unlike all of these. Held-out prompts share subjects with the fitted ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.concepts import Concept, Fact
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.tokens import Batch, pad
from workbench.triggers import Trigger

STILL_THERE = "the weights are unchanged and hold everything; whoever drops the guard has it back"
"""What the notes of every guard say."""

ROWS = 128
"""Prompts a forward pass."""

TELLING = 0.75
"""Balanced accuracy on held-out prompts that a detector must exceed: not reached by one that fires on half of the
prompts to keep, or misses half of the others."""

ODD = 0.1
"""Share of a set that a guard treats wrongly from which its notes warn."""

LEAST = 4
"""Fewest prompts to forget from which statistics are taken."""


@dataclass(frozen=True)
class Halves:
    """Prompts to fit on, and prompts held out."""

    fit: tuple[Fact, ...]
    held: tuple[Fact, ...]

    @classmethod
    def of(cls, facts: Sequence[Fact], share: float, seed: int) -> "Halves":
        """Hold out a share of the facts at random: at least one, and at most all but two (of two facts, one)."""
        order = torch.randperm(len(facts), generator=torch.Generator().manual_seed(seed)).tolist()
        cut = max(1, min(len(facts) - 2, round(share * len(facts))))
        return cls(tuple(facts[i] for i in sorted(order[cut:])), tuple(facts[i] for i in sorted(order[:cut])))


def worded(facts: Sequence[Fact], paraphrases: bool) -> list[Fact]:
    """The facts, and one more for each paraphrase if asked; no prompt twice."""
    found = {fact.prompt: fact for fact in facts}
    for fact in facts if paraphrases else ():
        for prompt in (p for p in fact.paraphrases if fact.subject in p):
            found.setdefault(prompt, fact.model_copy(update={"prompt": prompt, "paraphrases": (), "formats": ()}))
    return list(found.values())


def to_forget(concept: Concept, paraphrases: bool) -> list[Fact]:
    """Prompts that should set the guard off.

    Raises:
        BadInput: when there are too few to take statistics from.
    """
    found = worded(concept.forget.facts, paraphrases)
    if len(found) < LEAST:
        raise BadInput(
            f"{concept.name} has {len(found)} different forget prompts, too few to fit a detector and hold some out: "
            f"give at least {LEAST}"
        )
    return found


def to_keep(concept: Concept, paraphrases: bool) -> tuple[list[Fact], str]:
    """Prompts that should not set the guard off, and where they come from.

    Raises:
        BadInput: when there are too few.
    """
    source, facts = "retain facts", concept.retain.facts
    if not facts:
        source = "the near and far facts themselves, because the concept has no retain set: their rates are flattered"
        facts = (*concept.near.facts, *concept.far.facts)
    found = worded(facts, paraphrases)
    if len(found) < 2:
        raise BadInput(
            f"{concept.name} has {len(found)} retain, near and far prompts, so nothing says what a guard must leave "
            "alone: give at least 2 under 'retain' (or 'near' and 'far')"
        )
    return found, source


def one_site(model: HookedModel, where: Sequence[Site] | None, default: Site) -> Site:
    """The one whole site that a detector looks at.

    Raises:
        BadInput: for several sites, a part of one, or one that this model does not have.
    """
    if where is None:
        return default
    if len(where) != 1 or where[0].index is not None or where[0].expert is not None:
        said = ", ".join(map(str, where)) or "none"
        raise BadInput(
            f"The detector looks at one whole site, such as {default} or L{model.n_layers - 1}.resid_pre, got {said} "
            "(a single expert's neurons are 0 for every prompt that is sent elsewhere)"
        )
    model.tap(where[0])
    return where[0]


def prompt_batches(model: HookedModel, facts: Sequence[Fact]) -> list[Batch]:
    """The prompts alone, in order."""
    rows = [encoded.ids[: encoded.answer_start] for encoded in model.encode(facts)]
    return [pad(rows[start : start + ROWS]) for start in range(0, len(rows), ROWS)]


@torch.no_grad()
def readings(model: HookedModel, facts: Sequence[Fact], site: Site) -> list[Float[Tensor, "pos width"]]:
    """A site's value at every token of each prompt, float64 on the CPU."""
    stop = 0 if site.layer is None else site.layer + 1
    found: list[Tensor] = []
    for batch in prompt_batches(model, facts):
        value = model.run(batch, read=[site], logits=False, stop=stop).acts[site].double().cpu()
        found += [row[mask] for row, mask in zip(value, batch.mask, strict=True)]
    return found


def fires(model: HookedModel, trigger: Trigger, facts: Sequence[Fact]) -> Bool[Tensor, " fact"]:
    """Whether each prompt sets the trigger off."""
    told = [trigger.told(model, batch)[:, 0] for batch in prompt_batches(model, facts)]
    return torch.cat(told) if told else torch.zeros(0, dtype=torch.bool)


def rates(model: HookedModel, trigger: Trigger, sets: Mapping[str, Sequence[Fact]]) -> dict[str, dict[str, Any]]:
    """The share of each set that sets the trigger off, and its size; None for an empty set."""
    fired = {name: fires(model, trigger, facts) for name, facts in sets.items()}
    return {name: {"share": float(f.double().mean()) if len(f) else None, "n": len(f)} for name, f in fired.items()}


def line_between(low: Float[Tensor, " m"], high: Float[Tensor, " n"]) -> float:
    """Where to draw the line so that `low` lies at or below it and `high` above.

    Half way between two neighbouring values, where the balanced accuracy is highest; the lowest such place on ties.
    """
    values = torch.cat([low, high]).unique()
    lines = torch.cat([(values[:-1] + values[1:]) / 2, values[-1:]])
    right = (low[None] <= lines[:, None]).double().mean(1) + (high[None] > lines[:, None]).double().mean(1)
    return float(lines[int((right >= right.max() - 1e-9).nonzero()[0])])


def require_telling(found: Mapping[str, Mapping[str, Any]], what: str, force: bool) -> float:
    """Balanced accuracy on the held-out prompts.

    Raises:
        BadInput: when the detector cannot tell them apart, unless forced.
    """
    hit, wrong = found["forget, held out"], found["keep, held out"]
    balanced = (hit["share"] + 1 - wrong["share"]) / 2
    if balanced <= TELLING and not force:
        raise BadInput(
            f"{what} fires on {hit['share']:.2f} of {hit['n']} held-out forget prompts and on {wrong['share']:.2f} of "
            f"{wrong['n']} held-out prompts to keep: it does not tell them apart (balanced accuracy {balanced:.2f}, "
            f"needed more than {TELLING}). Look at another site (`where`), give more or other prompts, a smaller alpha "
            "if you chose it, or set force to have it all the same"
        )
    return float(balanced)


def warning(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The sets on which a guard fires where it should not, or does not where it should; empty when there are none."""
    said = []
    for name, rate in found.items():
        wrong = None if rate["share"] is None else 1 - rate["share"] if name.startswith("forget") else rate["share"]
        if wrong is not None and wrong > ODD:
            said.append(f"fires on {rate['share']:.2f} of {rate['n']} prompts of: {name}")
    return "; ".join(said)
