"""Labelled answer batches, their token losses and logits: what every training on facts is made of.

Labels hold the answer's tokens and -100 elsewhere, as everywhere in the field, so the pure functions here can be
compared with published implementations on the same logits.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.tokens import Encoded, pad

IGNORED = -100
"""Label of a position that is not learnt."""

PASS = 16
"""Texts a pass when answers are read without training."""


@dataclass(frozen=True)
class TokenLoss:
    """Negative log-likelihood of the labelled tokens of each row."""

    total: Float[Tensor, " row"]
    """Sum over the row's labelled tokens, nats."""
    count: Int[Tensor, " row"]
    """Number of labelled tokens."""

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Mean over all labelled tokens of the batch (not the mean of row means)."""
        return self.total.sum() / self.count.sum()


def token_loss(logits: Float[Tensor, "row pos vocab"], labels: Int[Tensor, "row pos"]) -> TokenLoss:
    """Cross-entropy of each labelled token, predicted from the position before it."""
    shifted = labels[:, 1:]
    flat = functional.cross_entropy(logits[:, :-1].transpose(1, 2), shifted, ignore_index=IGNORED, reduction="none")
    return TokenLoss(flat.sum(dim=1), (shifted != IGNORED).sum(dim=1))


def labelled(encoded: Sequence[Encoded]) -> dict[str, Tensor]:
    """Ids, mask, position ids and labels of facts, padded on the right."""
    batch = pad([e.ids for e in encoded])
    labels = torch.full_like(batch.ids, IGNORED)
    for row, fact in enumerate(encoded):
        labels[row, fact.answer_start : len(fact.ids)] = torch.tensor(fact.answer)
    return {**batch.inputs(torch.device("cpu")), "labels": labels}


def answer_loss(model: PreTrainedModel, batch: dict[str, Any], prefix: str = "") -> TokenLoss:
    """Token loss of the batch entries whose names start with `prefix`."""
    named = {key: batch[prefix + key] for key in ("input_ids", "attention_mask", "position_ids")}
    return token_loss(model(**named, use_cache=False).logits, batch[prefix + "labels"])


def answer_nll(model: PreTrainedModel, batch: dict[str, Any]) -> Float[Tensor, ""]:
    """Ordinary training on answers: the mean token loss."""
    return answer_loss(model, batch).mean


@dataclass(frozen=True)
class AnswerLogits:
    """The logits that predict the labelled tokens of a batch, row by row and in the order of the text."""

    logits: Float[Tensor, "n vocab"]
    """As the model gives them."""
    token: Int[Tensor, " n"]
    """The labelled token that each predicts."""
    row: Int[Tensor, " n"]
    """Row of the batch it belongs to."""
    rows: int
    """Number of rows of the batch."""


def answer_logits(model: PreTrainedModel, batch: dict[str, Any], prefix: str = "", whole: bool = False) -> AnswerLogits:
    """The logits at the labelled tokens only: the other positions do not reach the unembedding.

    A vocabulary is large, so this is most of the memory of a short pass. What a model does to its logits afterwards
    (a scale, a cap) is its own code and acts as always. Where the unembedding is not a module of its own that gets all
    positions, everything is unembedded and the rest thrown away.

    Args:
        model: the model in training.
        batch: tensors as `labelled` makes them.
        prefix: which entries of the batch are meant.
        whole: unembed all positions all the same; the last bits of a gradient depend on it.
    """
    named = {key: batch[prefix + key] for key in ("input_ids", "attention_mask", "position_ids")}
    shifted = batch[prefix + "labels"][:, 1:]
    row, position = (shifted != IGNORED).nonzero(as_tuple=True)
    head = None if whole else model.get_output_embeddings()
    with _unembedding(head, row, position, tuple(named["input_ids"].shape)):
        logits = model(**named, use_cache=False).logits
    logits = logits[0] if logits.shape[:2] == (1, len(row)) else logits[row, position]  # a row has more positions
    return AnswerLogits(logits, shifted[row, position], row, len(shifted))


@dataclass(frozen=True)
class _Pick:
    """Lets only some positions through, as one row."""

    row: Tensor
    position: Tensor
    shape: tuple[int, ...]

    def __call__(self, _: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not given or tuple(given[0].shape[:2]) != self.shape:
            return None
        return (given[0][self.row.to(given[0].device), self.position.to(given[0].device)][None], *given[1:])


@contextmanager
def _unembedding(head: nn.Module | None, row: Tensor, position: Tensor, shape: tuple[int, ...]) -> Iterator[None]:
    """While the block runs, the unembedding gets only some positions."""
    handle = None if head is None else head.register_forward_pre_hook(_Pick(row, position, shape))
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


@torch.no_grad()
def answers_now(model: HookedModel, encoded: Sequence[Encoded]) -> list[Float[Tensor, "token vocab"]]:
    """The model's logits at the answer tokens of each text, float32 or better, on the CPU."""
    found: list[Tensor] = []
    for start in range(0, len(encoded), PASS):
        some = encoded[start : start + PASS]
        batch = {key: value.to(model.device) for key, value in labelled(some).items()}
        logits = answer_logits(model.hf, batch).logits.cpu()
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        found += logits.split([len(one.answer) for one in some])
    return found


def require_context(model: HookedModel, encoded: Sequence[Encoded], what: str) -> None:
    """Refuse texts that are longer than the positions a model has.

    Args:
        model: whose configuration says how many.
        encoded: the texts.
        what: what to call them, for instance `forget`.

    Raises:
        BadInput: with their number and the first of them.
    """
    limit = getattr(model.hf.config, "max_position_embeddings", None)
    if limit is None:
        return
    long = [i for i, text in enumerate(encoded) if len(text.ids) > limit]
    if long:
        named = ", ".join(f"number {i} with {len(encoded[i].ids)}" for i in long[:3])
        raise BadInput(
            f"{len(long)} of {len(encoded)} {what} texts are longer than the model's context of {limit} tokens: "
            f"{named}{', ...' if len(long) > 3 else ''}. Shorten or leave out these facts"
        )
