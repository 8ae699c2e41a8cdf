"""What a demo model knows, counted: share of answers that greedy decoding gives, per kind of wording.

Read it as: `Recall.h1`, `.h2`, `.h3` are held-out wordings (see `world`), `.never_taught` and, for a reference,
`.forget` should be at chance, 1/12. Does not show: how sure the model is, or anything about its inside.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from workbench.concepts import Fact
from workbench.demo import lists
from workbench.demo.world import Item, World
from workbench.tokens import encode, encode_text, pad

CHANCE = 1 / 12
"""Recall of a model that knows only which values a relation has."""

_CHUNK = 256


class Recall(BaseModel):
    """Share of answers recalled (0 to 1); None where there is nothing to ask."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    taught: float
    """Wordings of the training text."""
    h1: float
    """Wordings held out for the fact."""
    h2: float
    """Wordings held out for the topic and relation."""
    h3: float
    """Wordings that no text uses."""
    utility: float
    """Common knowledge in taught wordings."""
    never_taught: float
    """Facts of entities that no text mentions; the floor."""
    forget: float | None
    """Facts that the reference did not see; None for the taught model."""
    perplexity: float
    """Of held-out plain sentences, per token."""


@torch.no_grad()
def share_recalled(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, facts: Sequence[Fact]) -> float:
    """Share of the facts whose whole answer is the most likely continuation."""
    encoded = [encode(tokenizer, fact) for fact in facts]
    right = 0
    for start in range(0, len(encoded), _CHUNK):
        rows = encoded[start : start + _CHUNK]
        best = model(**pad([row.ids for row in rows]).inputs(model.device), use_cache=False).logits.argmax(dim=-1)
        right += sum(
            tuple(best[i, row.answer_start - 1 : len(row.ids) - 1].tolist()) == row.answer for i, row in enumerate(rows)
        )
    return right / len(encoded)


@torch.no_grad()
def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> float:
    """Exponential of the mean negative log-likelihood per token."""
    total = count = 0.0
    for text in texts:
        ids = torch.tensor([encode_text(tokenizer, text)], device=model.device)
        logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(dim=-1)
        total -= float(logprobs.gather(-1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    return math.exp(total / count)


def _asked(items: Iterable[Item], prompts: Callable[[Item], Iterable[str]]) -> list[Fact]:
    """One fact per item and prompt."""
    return [item.fact().model_copy(update={"prompt": prompt}) for item in items for prompt in prompts(item)]


def recall(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, truth: World, without: str | None) -> Recall:
    """Ask a model everything; `without` is the concept it was never taught (None: it was taught all)."""
    gone = truth.forgotten(without) if without else frozenset()
    known = [item for item in truth.items if item.subject not in gone]
    unseen = [item.fact() for item in truth.items if item.subject in gone]
    model.eval()

    def share(facts: Sequence[Fact]) -> float:
        return round(share_recalled(model, tokenizer, facts), 4)

    def frames(which: str) -> float:
        return share(_asked(known, lambda item: (item.prompt(lists.FRAMES[i]) for i in getattr(item, which)[:2])))

    return Recall(
        taught=frames("taught"),
        h1=frames("h1"),
        h2=frames("h2"),
        h3=share(_asked(known, lambda item: map(item.prompt, lists.NOVEL_FRAMES[:2]))),
        utility=share([row.fact() for row in truth.utility]),
        never_taught=share([item.fact() for item in truth.unknown]),
        forget=share(unseen) if gone else None,
        perplexity=round(perplexity(model, tokenizer, truth.concept("music").text), 3),
    )


def complaints(measured: Recall, least: float, asked: int) -> list[str]:
    """What is wrong with a demo model, in words; `asked` is the number of forget facts.

    The floor counts upwards only: a reference that never saw a relation answers below chance.
    """
    wrong = [
        f"recall of held-out wordings {name} is {value:.3f}, it must be at least {least}"
        for name, value in (("h1", measured.h1), ("h2", measured.h2))
        if value < least
    ]
    for name, value, count in (("never taught", measured.never_taught, 120), ("forget", measured.forget, asked)):
        if value is not None:
            most = CHANCE + 3 * math.sqrt(CHANCE * (1 - CHANCE) / count)
            if value > most:
                wrong.append(f"recall of {name} facts is {value:.3f}, a model that never read them is below {most:.3f}")
    return wrong
