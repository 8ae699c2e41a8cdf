"""From facts to padded token batches: which tokens are the prompt, the subject and the answer.

The answer's tokens are found by tokenising the prompt and the prompt with its answer and taking the difference,
never by tokenising the answer alone (SentencePiece and byte-pair tokenisers would give other pieces). Batches
are padded on the right and always carry ids, mask and position ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from workbench.concepts import Fact
from workbench.errors import BadInput


@dataclass(frozen=True)
class Encoded:
    """One fact as token ids."""

    ids: tuple[int, ...]
    """Prompt tokens, then answer tokens."""
    answer_start: int
    """Index of the first answer token; the token before it predicts it."""
    subject: tuple[int, ...]
    """Indices of the subject's tokens, ascending."""

    @property
    def answer(self) -> tuple[int, ...]:
        """The answer's token ids."""
        return self.ids[self.answer_start :]


@dataclass(frozen=True)
class Batch:
    """Token rows padded on the right to one length."""

    ids: Int[Tensor, "row pos"]
    """Token ids; padding holds any valid id."""
    mask: Bool[Tensor, "row pos"]
    """True where there is a token."""
    prompt: Int[Tensor, " row"] | None = None
    """How many tokens of each row were given; what follows is said. None: all were given."""

    @property
    def last(self) -> Int[Tensor, " row"]:
        """Index of each row's last token."""
        return self.mask.sum(dim=1) - 1

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """Keyword arguments for a Hugging Face forward pass: ids, mask and position ids, always all three."""
        positions = torch.arange(self.ids.shape[1]).expand_as(self.ids)
        named = {"input_ids": self.ids, "attention_mask": self.mask.long(), "position_ids": positions}
        return {name: tensor.to(device) for name, tensor in named.items()}


def pad(rows: Sequence[Sequence[int]], prompt: Sequence[int] | None = None) -> Batch:
    """Pad token rows on the right.

    Args:
        rows: token ids.
        prompt: how many tokens of each row are its prompt; None when nothing is said in them.

    Raises:
        BadInput: when there is no row, or a row holds no token.
    """
    if not rows or not all(rows):
        raise BadInput(
            f"Cannot make a batch of {len(rows)} rows of lengths {sorted({len(r) for r in rows})}: "
            "every row needs at least one token"
        )
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = True
    return Batch(ids, mask, None if prompt is None else torch.tensor(prompt))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids with the tokeniser's own leading special tokens and no end-of-text token."""
    ids = list(tokenizer(text)["input_ids"])
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return tuple(ids)


def encode(tokenizer: PreTrainedTokenizerBase, fact: Fact, joiner: str = " ") -> Encoded:
    """Tokenise a fact.

    Args:
        tokenizer: the checkpoint's own.
        fact: prompt, subject and answer.
        joiner: what stands between prompt and answer.

    Raises:
        BadInput: when the answer adds no token, changes the prompt's own tokens, or the subject cannot be located.
    """
    prompt, full = encode_text(tokenizer, fact.prompt), encode_text(tokenizer, fact.prompt + joiner + fact.answer)
    if len(full) <= len(prompt):
        raise BadInput(
            f"The answer {fact.answer!r} to {fact.prompt!r} tokenises to nothing with this checkpoint's "
            "tokenizer; give an answer it has tokens for"
        )
    if full[: len(prompt)] != prompt:
        raise BadInput(
            f"Adding the answer {fact.answer!r} changes the tokens of the prompt {fact.prompt!r}; "
            "end the prompt at a word boundary, without a trailing space"
        )
    return Encoded(full, len(prompt), subject_tokens(tokenizer, fact))


def subject_tokens(tokenizer: PreTrainedTokenizerBase, fact: Fact) -> tuple[int, ...]:
    """Indices of the tokens that overlap the subject's first occurrence, by character offsets."""
    if not tokenizer.is_fast:
        raise BadInput(
            f"The tokenizer {type(tokenizer).__name__} gives no character offsets, so the subject's tokens "
            "cannot be found; use a checkpoint with a fast tokenizer (tokenizer.json)"
        )
    start = fact.prompt.index(fact.subject)
    end = start + len(fact.subject)
    offsets = tokenizer(fact.prompt, return_offsets_mapping=True)["offset_mapping"]
    found = tuple(i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a)
    if not found:
        raise BadInput(f"The subject {fact.subject!r} has no token of its own in {fact.prompt!r}")
    return found
