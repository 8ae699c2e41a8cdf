"""Training rows for the demo models: short documents packed to 64 tokens, each seeing only itself.

The bottleneck: in half of the documents about an entity, tokens after its name may not attend to the name's first
piece. The model can then recall a fact only from what the last piece of the name has gathered, which gives causal
traces the shape known from large models (early MLP at the last subject token).

Read it as: a row's `hidden_after[k]` is the last position of the row that may look at position k. Does not show:
anything that arises by itself; the bottleneck is planted, and reports about demo models should say so.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from workbench.demo.world import Text
from workbench.training import Batch

ROW = 64
"""Tokens in a row."""

ANSWER_WEIGHT = 5.0
"""How much more an answer counts in the loss than the words around it, most of which cannot be predicted."""

BOTTLENECK = 0.5
"""Share of the documents about an entity in which the name's first piece is hidden afterwards."""

_IGNORED = -100


@dataclass(frozen=True)
class Document:
    """One tokenised text."""

    ids: tuple[int, ...]
    """`<bos>`, the text, `<eos>`."""
    subject: int
    """Index of the name's first piece (its second follows); 0 when the text is about no entity."""
    topic: int
    """Number of the entity's topic; -1 when there is none."""
    answers: frozenset[int]
    """Ids of the tokens that answer a question."""


@dataclass(frozen=True)
class Row:
    """Some documents side by side, exactly `ROW` tokens with the padding."""

    ids: tuple[int, ...]
    document: tuple[int, ...]
    """Which document of the row each token belongs to; padding has -1."""
    hidden_after: tuple[int, ...]
    """Last position that may attend to each token."""
    weight: tuple[float, ...]
    """How much predicting each token counts."""
    topic: tuple[int, ...]
    """Topic number at the name's last piece and after it; -1 elsewhere."""


def documents(texts: Sequence[Text], tokenizer: PreTrainedTokenizerFast, topics: Sequence[str]) -> list[Document]:
    """Tokenise texts; a text about an entity must name it in two tokens."""
    encoded = tokenizer([text.text for text in texts])["input_ids"]
    first = {
        text.subject: tokenizer(text.subject, add_special_tokens=False)["input_ids"][0]
        for text in texts
        if text.subject
    }
    return [
        Document(
            (*ids, tokenizer.eos_token_id),
            ids.index(first[text.subject]) if text.subject else 0,
            topics.index(text.topic) if text.topic else -1,
            frozenset(
                token for answer in text.answers for token in tokenizer(answer, add_special_tokens=False)["input_ids"]
            ),
        )
        for text, ids in zip(texts, encoded, strict=True)
    ]


def _row(batch: Sequence[Document], pad: int, rng: random.Random) -> Row:
    """Lay documents side by side."""
    ids, document, hidden, topic = list[int](), list[int](), list[int](), list[int]()
    weight = list[float]()
    for number, entry in enumerate(batch):
        start, size = len(ids), len(entry.ids)
        ids += entry.ids
        document += [number] * size
        hidden += [ROW] * size
        weight += [ANSWER_WEIGHT if token in entry.answers else 1.0 for token in entry.ids]
        topic += [entry.topic if entry.subject and i > entry.subject else -1 for i in range(size)]
        if entry.subject and rng.random() < BOTTLENECK:
            hidden[start + entry.subject] = start + entry.subject + 1
    rest = ROW - len(ids)
    return Row(
        (*ids, *[pad] * rest),
        (*document, *[-1] * rest),
        (*hidden, *[ROW] * rest),
        (*weight, *[0.0] * rest),
        (*topic, *[-1] * rest),
    )


def pack(entries: Sequence[Document], count: int, pad: int, seed: int) -> list[Row]:
    """`count` rows from as many rounds over all documents as needed, each round in a new order."""
    rng = random.Random(f"pack {seed}")
    rows, waiting, used = list[Row](), list[Document](), 0
    for entry in _rounds(entries, rng):
        if used + len(entry.ids) > ROW:
            rows.append(_row(waiting, pad, rng))
            waiting, used = [], 0
            if len(rows) == count:
                break
        waiting.append(entry)
        used += len(entry.ids)
    return rows


def _rounds(entries: Sequence[Document], rng: random.Random) -> Iterator[Document]:
    """All documents again and again, without end."""
    while True:
        yield from rng.sample(entries, len(entries))


def collate(rows: Sequence[Row]) -> Batch:
    """Ids, labels (next token inside the document), positions, topics, and the 4-D attention mask to be added."""
    ids, document, hidden, topic = (
        torch.tensor([getattr(row, name) for row in rows]) for name in ("ids", "document", "hidden_after", "topic")
    )
    place = torch.arange(ROW)
    seen = (
        (document[:, :, None] == document[:, None, :])
        & (place[:, None] >= place)
        & (place[:, None] <= hidden[:, None, :])
    )
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
    labels = torch.full_like(ids, _IGNORED)
    inside = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
    labels[:, :-1] = torch.where(inside, ids[:, 1:], _IGNORED)
    weight = torch.tensor([row.weight for row in rows]).roll(-1, dims=1) * (labels != _IGNORED)
    return {
        "ids": ids,
        "labels": labels,
        "weight": weight,
        "mask": mask,
        "topic": topic,
        "positions": _positions(document),
    }


def _positions(document: Int[Tensor, "row pos"]) -> Int[Tensor, "row pos"]:
    """Position of every token inside its own document."""
    place = torch.arange(document.shape[1]).expand_as(document)
    starts = torch.ones_like(document, dtype=torch.bool)
    starts[:, 1:] = document[:, 1:] != document[:, :-1]
    return place - torch.where(starts, place, 0).cummax(dim=1).values


def next_token_loss(logits: Float[Tensor, "row pos vocab"], batch: Batch) -> Float[Tensor, ""]:
    """Weighted mean cross-entropy of the next token, nats."""
    each = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=_IGNORED, reduction="none")
    return (each * batch["weight"].flatten()).sum() / batch["weight"].sum()
