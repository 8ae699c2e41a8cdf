"""Greedy generation in batches: what a model says after a prompt, with whatever edits and guards it wears.

A bare model keeps keys and values, and its prompts are padded on the left, with ids, mask and position ids at every
step; nothing of the checkpoint's own generation settings (sampling, penalties) is used. A model that wears a guard is
run on whole rows, every step, through `HookedModel.run`, because guards look at whole rows.
Read it as: `greedy(model, rows, 32)[i]` is what it says after row i, up to the end-of-text token, which is left out.
Does not show: what it would say with another prompt, or when sampled. Rows that are generated together say what they
say alone, up to ties that rounding breaks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.tokens import pad

ROWS = 32
"""Prompts a batch."""


@dataclass(frozen=True)
class Continuation:
    """What was said after one prompt."""

    ids: tuple[int, ...]
    """Token ids, without the end-of-text token."""
    ended: bool
    """Whether the model ended by itself; otherwise the number of tokens was used up."""

    def text(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """As text, without special tokens and without blanks around it."""
        return str(tokenizer.decode(list(self.ids), skip_special_tokens=True)).strip()


@torch.no_grad()
def greedy(
    model: HookedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, rows: int = ROWS
) -> list[Continuation]:
    """The most likely token after another, until the end-of-text token or the last allowed one.

    Args:
        model: an open model; what it wears acts, and takes each row as its prompt.
        prompts: token ids, at least one each.
        max_new_tokens: how many to say at most.
        rows: prompts a batch.

    Raises:
        BadInput: for an empty prompt, no token to say, or a text longer than the model's context.
    """
    _require_room(model, prompts, max_new_tokens)
    ends = end_tokens(model)
    steps = _whole_rows if model.guards or model.whole_passes else _remembering
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, Continuation] = {}
    for some in _batches(order, prompts, rows, equal=_needs_equal_lengths(model)):
        said: list[list[int]] = [[] for _ in some]
        over = [False] * len(some)
        for token in steps(model, [prompts[i] for i in some], max_new_tokens):
            for row, one in enumerate(token.tolist()):
                over[row] = over[row] or one in ends
                if not over[row]:
                    said[row].append(one)
            if all(over):
                break
        found |= {i: Continuation(tuple(s), o) for i, s, o in zip(some, said, over, strict=True)}
    return [found[i] for i in range(len(prompts))]


def end_tokens(model: HookedModel) -> frozenset[int]:
    """Ids that end a text: the checkpoint's own (there may be several) and the tokenizer's."""
    told = getattr(model.hf.generation_config, "eos_token_id", None) if not model.whole_passes else None
    own = told if isinstance(told, list) else [told]
    return frozenset(i for i in (*own, model.tokenizer.eos_token_id) if i is not None)


def room(model: HookedModel, prompts: Sequence[Sequence[int]]) -> int | None:
    """How many tokens can be said after the longest prompt; None when the model sets no limit."""
    limit = None if model.whole_passes else getattr(model.hf.config, "max_position_embeddings", None)
    return None if limit is None else limit - max((len(p) for p in prompts), default=0)


def _require_room(model: HookedModel, prompts: Sequence[Sequence[int]], count: int) -> None:
    if count < 1 or not all(prompts):
        raise BadInput(
            f"Cannot generate {count} tokens after prompts of {sorted({len(p) for p in prompts})} tokens: "
            "give at least one of each"
        )
    left = room(model, prompts)
    if left is not None and count > left:
        raise BadInput(
            f"{count} new tokens do not fit behind a prompt of {max(map(len, prompts), default=0)} into the context of "
            f"{model.name}, which leaves {left}; ask for fewer tokens or give shorter prompts"
        )


def _needs_equal_lengths(model: HookedModel) -> bool:
    """Whether padding on the left would spoil a row.

    In float64 eager attention masks with -1.8e308, which its float32 softmax takes for minus infinity: NaN.
    """
    return not model.whole_passes and model.hf.dtype == torch.float64


def _batches(order: Sequence[int], prompts: Sequence[Sequence[int]], rows: int, equal: bool) -> Iterator[list[int]]:
    """Numbers of the prompts that go together; of equal length if they must be."""
    some: list[int] = []
    for i in order:
        if some and (len(some) == rows or (equal and len(prompts[i]) != len(prompts[some[0]]))):
            yield some
            some = []
        some.append(i)
    if some:
        yield some


def _remembering(model: HookedModel, prompts: Sequence[Sequence[int]], count: int) -> Iterator[Int[Tensor, " row"]]:
    """Token after token, with keys and values kept and the prompts padded on the left."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    position, memory = (mask.cumsum(dim=1) - 1).clamp_min(0), None
    for _ in range(count):
        out = model.hf(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=memory,
            use_cache=True,
            logits_to_keep=1,
        )
        ids, memory = out.logits[:, -1:].argmax(dim=-1), out.past_key_values
        mask, position = torch.cat([mask, torch.ones_like(ids)], dim=1), position[:, -1:] + 1
        yield ids[:, 0]


def _whole_rows(model: HookedModel, prompts: Sequence[Sequence[int]], count: int) -> Iterator[Int[Tensor, " row"]]:
    """Token after token, each from a pass over the whole rows."""
    rows, given = [list(prompt) for prompt in prompts], [len(prompt) for prompt in prompts]
    for _ in range(count):
        batch = pad(rows, given)
        kept = batch.last.unique()
        logits = model.run(batch, logits=kept).logits
        assert logits is not None
        chosen = logits[torch.arange(len(rows)), torch.searchsorted(kept, batch.last)].argmax(dim=-1).cpu()
        for row, token in zip(rows, chosen.tolist(), strict=True):
            row.append(token)
        yield chosen
