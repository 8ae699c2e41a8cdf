"""Reading answers token by token, with whatever the model wears: what all token-level metrics are computed from.

Read it as: `read_answers(model, encoded)[i]` is the table (`audits.metrics.answer_tokens`) of text i.
Does not show: what the model says when it chooses the earlier tokens itself (`audits.behaviour.generations`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audits.metrics.answer_tokens import AnswerTokens, tokens_of
from workbench.concepts import Fact
from workbench.errors import BadInput
from workbench.guards import spoken
from workbench.model import HookedModel
from workbench.scoring import Targets, chunks
from workbench.sites import Site
from workbench.tokens import Batch, Encoded, encode_text

ROWS = 32
"""Texts a pass."""


@dataclass(frozen=True)
class Predicted:
    """The logits that predict one text's answer tokens."""

    logits: Float[Tensor, "token vocab"]
    """As the model says them, guards included; float32 or better."""
    token: Int[Tensor, " token"]
    """The tokens that stand there."""


def with_end(model: HookedModel, encoded: Sequence[Encoded]) -> list[Encoded]:
    """The texts with the end-of-text token as one more answer token, as OpenUnlearning labels them.

    Raises:
        BadInput: when the tokenizer has none.
    """
    end = model.tokenizer.eos_token_id
    if end is None:
        raise BadInput(f"The tokenizer of {model.name} has no end-of-text token to count; use published=False")
    return [replace(e, ids=(*e.ids, end)) for e in encoded]


def whole_texts(model: HookedModel, texts: Sequence[str]) -> list[Encoded]:
    """Texts of which every token but the first is an answer.

    Raises:
        BadInput: when there is no text, or one has fewer than two tokens.
    """
    rows = [encode_text(model.tokenizer, text) for text in texts]
    short = [text for text, row in zip(texts, rows, strict=True) if len(row) < 2]
    if short or not rows:
        raise BadInput(
            f"The text {short[0]!r} has fewer than two tokens, so nothing in it is predicted; leave it out"
            if short
            else "There is no text to read; give at least one"
        )
    return [Encoded(row, 1, ()) for row in rows]


def predictions(model: HookedModel, encoded: Sequence[Encoded]) -> Iterator[Predicted]:
    """The logits of one text's answer tokens after another's, without gradients."""
    for batch, targets in chunks(encoded, ROWS):
        logits = _said(model, batch, targets)
        sizes = targets.row.bincount(minlength=len(batch.ids)).tolist()
        for part, token in zip(logits.split(sizes), targets.token.split(sizes), strict=True):
            yield Predicted(part, token)


@torch.no_grad()
def _said(model: HookedModel, batch: Batch, targets: Targets) -> Float[Tensor, "n vocab"]:
    last = Site(model.n_layers - 1, "resid_post")
    resid = model.run(batch, read=[last], logits=False).acts[last]
    logits = model.decode(resid[targets.row, targets.position])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return spoken(model, batch, logits, targets.row, targets.position)


def read_answers(model: HookedModel, encoded: Sequence[Encoded]) -> list[AnswerTokens]:
    """The table of every text, on the CPU."""
    tables = (tokens_of(p.logits, p.token) for p in predictions(model, encoded))
    return [AnswerTokens(t.logprob.cpu(), t.hit.cpu(), t.mean.cpu(), t.variance.cpu()) for t in tables]


def losses(model: HookedModel, facts: Sequence[Fact], published: bool = False) -> list[float]:
    """Mean token loss of each answer, nats; with the end-of-text token when `published`."""
    encoded = model.encode(facts)
    return [t.loss for t in read_answers(model, with_end(model, encoded) if published else encoded)]
