"""What one update is made of: forget facts paired with retain facts, and what the start model made of each.

Reference quantities are computed once, before training, so that there is never a second model in memory: the summed
log-probability of an answer (NPO, DPO) and, where a method asks for it, the start model's log-probabilities at every
answer token (UNDIAL, KL), whole or as the likeliest `top` tokens and their rest.
What a method may train on to protect is `concept.retain`; where a source has none, the near and far facts are used
and the edit says so, because the audit then measures utility on facts that were trained on.
Cannot do: keep whole references of long answers and large vocabularies small: tokens x vocabulary x 4 bytes.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interventions.gradient.losses.kl_stored import TopK
from workbench.concepts import Fact
from workbench.model import HookedModel
from workbench.objectives import answers_now, labelled, require_context
from workbench.scoring import score
from workbench.tokens import Encoded

Reference = Float[Tensor, "token vocab"] | TopK
"""Log-probabilities of the start model at each token of an answer."""


@dataclass(frozen=True)
class Text:
    """One fact as tokens, and what is known of it before training."""

    encoded: Encoded
    """Prompt and answer."""
    original: float | None = None
    """Summed log-probability of the answer under the start model, nats."""
    reference: Reference | None = None
    """What the start model says at each of its tokens."""
    labels: Int[Tensor, " token"] | None = None
    """Tokens to learn in place of the answer's."""


@dataclass(frozen=True)
class Pair:
    """A forget fact, another answer to it, and a retain fact to go with it."""

    forget: Text
    """What must go."""
    retain: Text | None = None
    """What must stay."""
    other: Text | None = None
    """The same question with another answer."""


def texts(model: HookedModel, facts: Sequence[Fact], what: str, scored: bool = False) -> list[Text]:
    """Facts as tokens, each with its log-probability under the model as it is now if asked.

    Raises:
        BadInput: for texts longer than the model's context, or none to score.
    """
    encoded = model.encode(facts)
    require_context(model, encoded, what)
    if not scored:
        return [Text(one) for one in encoded]
    original = score(model, facts).logprob.tolist()
    return [Text(one, value) for one, value in zip(encoded, original, strict=True)]


def with_references(model: HookedModel, given: Sequence[Text], top: int | None = None) -> list[Text]:
    """The same texts with what the model says at their answer tokens.

    Args:
        model: as it is before training.
        given: texts.
        top: how many of the likeliest tokens to keep, and all others together; None for the whole vocabulary.
    """
    logits = answers_now(model, [text.encoded for text in given])
    kept: list[Reference] = [one.log_softmax(-1) if top is None else TopK.of(one, top) for one in logits]
    return [replace(text, reference=one) for text, one in zip(given, kept, strict=True)]


def pair_up(
    forget: Sequence[Text], retain: Sequence[Text], seed: int, other: Sequence[Text] | None = None
) -> list[Pair]:
    """Every forget fact as often as needed for each retain fact to be used once.

    Args:
        forget: what must go.
        retain: what must stay; may be empty.
        seed: of the order of the retain facts.
        other: other answers, one a forget fact.
    """
    guarded = list(retain)
    random.Random(seed).shuffle(guarded)
    length = max(len(forget), len(guarded))
    return [
        Pair(
            forget[i % len(forget)],
            guarded[i % len(guarded)] if guarded else None,
            other[i % len(forget)] if other is not None else None,
        )
        for i in range(length)
    ]


def pair(model: HookedModel, forget: Sequence[Fact], retain: Sequence[Fact], seed: int) -> list[Pair]:
    """Forget facts with their log-probability, paired with retain facts."""
    return pair_up(texts(model, forget, "forget", scored=True), texts(model, retain, "retain"), seed)


def collate(pairs: list[Pair]) -> dict[str, Tensor]:
    """`forget.*` tensors, and `retain.*` and `other.*` where there are any."""
    parts = {
        "forget": [p.forget for p in pairs],
        "retain": [p.retain for p in pairs if p.retain is not None],
        "other": [p.other for p in pairs if p.other is not None],
    }
    return {f"{part}.{key}": t for part, given in parts.items() if given for key, t in _tensors(given).items()}


def _tensors(given: Sequence[Text]) -> dict[str, Tensor]:
    """Of some texts; numbers for each token stand in the order in which `answer_logits` gives the tokens."""
    found = labelled([text.encoded for text in given])
    originals = [text.original for text in given if text.original is not None]
    if originals:
        found["original"] = torch.tensor(originals)
    labels = [text.labels for text in given if text.labels is not None]
    if labels:
        found["drawn"] = torch.cat(labels)
    references = [text.reference for text in given if text.reference is not None]
    whole = [one for one in references if isinstance(one, Tensor)]
    stored = [one for one in references if isinstance(one, TopK)]
    if whole:
        found["reference"] = torch.cat(whole)
    if stored:
        found["reference.token"] = torch.cat([one.token for one in stored])
        found["reference.log_prob"] = torch.cat([one.log_prob for one in stored])
    return found
