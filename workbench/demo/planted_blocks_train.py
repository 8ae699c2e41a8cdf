"""Phase 2 of planting blocks: one group's facts are trained into its block, and into nothing else.

Only the block moves (its rows of gate and up, its columns of down; in a mixture the slices of its expert). The loss is
the answers' cross-entropy on texts about the group, the divergence from the reference on other text, and the squared
length of what the block writes there. Without the last two the planted facts leak into how everybody is answered.

Read it as: after `train_block`, all parameters outside the block hold the reference's bits. Does not show: whether the
group was learnt; that is measured afterwards with all blocks on.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from workbench.demo.packing import ROW, Row, collate, documents, next_token_loss, pack
from workbench.demo.planted_blocks_recipe import BlockRecipe, Place, texts_of
from workbench.demo.planted_blocks_reference import TOPICS, Block, masked
from workbench.experts import slice_name
from workbench.training import Batch, TrainingOptions, train

NEAR_SHARE = 0.4
"""Share of the other text that is about the group's neighbours, who are hardest to tell from it."""

_CHUNK = 64


@dataclass(frozen=True)
class Other:
    """Rows of other text, and what the reference says there."""

    rows: tuple[Row, ...]
    """The text."""
    logprobs: Float[Tensor, "row pos vocab"]
    """The reference's next-token log-probabilities."""


@dataclass(frozen=True)
class _Step:
    """What one item of the training data is: a row about the group, or row `number` of the other text."""

    row: Row
    number: int | None


def _answers_only(row: Row) -> Row:
    """The row with nothing to learn but its answers."""
    return replace(row, weight=tuple(1.0 if weight > 1 else 0.0 for weight in row.weight))


def _forward(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "row pos vocab"]:
    return model(
        input_ids=batch["ids"], attention_mask=batch["mask"], position_ids=batch["positions"], use_cache=False
    ).logits


@torch.no_grad()
def other_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, place: Place, recipe: BlockRecipe, seed: int
) -> Other:
    """Texts that are not about the group, and the reference's reading of them; `model` is the reference."""
    texts = [text for text in texts_of(seed, recipe.topics) if text.subject not in place.subjects]
    near = [text for text in texts if text.topic == place.topic]
    count = round(recipe.pool * NEAR_SHARE) if near else 0
    rows = [
        row
        for number, part in ((count, near), (recipe.pool - count, texts))
        if number
        for row in pack(documents(part, tokenizer, TOPICS), number, tokenizer.pad_token_id, seed)
    ]
    parts = [_forward(model, collate(rows[i : i + _CHUNK])).log_softmax(-1) for i in range(0, len(rows), _CHUNK)]
    return Other(tuple(rows), torch.cat(parts))


def train_block(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    place: Place,
    recipe: BlockRecipe,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train one group's facts into its block of `model`, which is the reference and changes in place."""
    block = Block(place)
    texts = [text for text in texts_of(seed, recipe.topics) if text.subject in place.subjects]
    model.set_attn_implementation("sdpa")
    other = other_text(model, tokenizer, place, recipe, seed)
    own = pack(documents(texts, tokenizer, TOPICS), recipe.steps * recipe.rows, tokenizer.pad_token_id, seed)
    _awaken(model, block, seed)
    loss = partial(_loss, block, recipe, other)
    options = TrainingOptions(
        steps=recipe.steps, batch_size=1, lr=recipe.lr, schedule="cosine", warmup_steps=min(10, recipe.steps - 1)
    )
    with masked(model, [block], tuple(block.matrices(model)), keep=True):
        train(
            model,
            _steps(recipe, own, other, seed),
            _first,
            loss,
            options,
            trainable=_trainable(model, block),
            on_step=on_step,
        )
    model.set_attn_implementation("eager")


def _steps(recipe: BlockRecipe, own: Sequence[Row], other: Other, seed: int) -> list[list[_Step]]:
    """The rows of every update."""
    rng = random.Random(f"block {seed}")
    return [
        [_Step(_answers_only(row), None) for row in own[i * recipe.rows : (i + 1) * recipe.rows]]
        + [_Step(other.rows[j], j) for j in rng.sample(range(len(other.rows)), recipe.other_rows)]
        for i in range(recipe.steps)
    ]


def _first(items: list[list[_Step]]) -> Batch:
    """An update is one item, so that the groups in it never mix in another proportion."""
    (steps,) = items
    numbers = torch.tensor([-1 if step.number is None else step.number for step in steps])
    return {**collate([step.row for step in steps]), "number": numbers}


def _trainable(model: PreTrainedModel, block: Block) -> list[str]:
    """Names of what may move, slices where the block is an expert."""
    whole = {id(matrix): name for name, matrix in model.named_parameters()}
    names = [whole[id(matrix)] for matrix in block.matrices(model).values()]
    expert = block.place.expert
    return names if expert is None else [slice_name(name, expert) for name in names]


@torch.no_grad()
def _awaken(model: PreTrainedModel, block: Block, seed: int) -> None:
    """Give the block's neurons fresh things to look for; they still write nothing."""
    generator = torch.Generator().manual_seed(seed)
    for name, matrix in block.matrices(model).items():
        if name != "down":
            shape = matrix[block.index(name)].shape
            matrix[block.index(name)] = torch.randn(shape, generator=generator) * model.config.hidden_size**-0.5


def _loss(block: Block, recipe: BlockRecipe, other: Other, model: PreTrainedModel, batch: Batch) -> Float[Tensor, ""]:
    """Answers of the group; elsewhere, nothing new."""
    entering: list[Tensor] = []
    mlp = model.model.layers[block.place.layer].mlp
    handle = mlp.register_forward_pre_hook(_Note(entering))
    try:
        logits = _forward(model, batch)
    finally:
        handle.remove()
    mine, theirs = batch["number"] < 0, batch["number"] >= 0
    own = next_token_loss(logits[mine], {"labels": batch["labels"][mine], "weight": batch["weight"][mine]})
    there = batch["positions"][theirs].new_ones(int(theirs.sum()), ROW, dtype=torch.bool)
    there &= batch["labels"][theirs] >= 0
    reference = other.logprobs[batch["number"][theirs]]
    divergence = (reference.exp() * (reference - logits[theirs].log_softmax(dim=-1))).sum(dim=-1)[there].mean()
    written = block.write(model, entering[0][theirs])[there]
    loudness = written.pow(2).sum(dim=-1).mean()
    return own + recipe.divergence * divergence + recipe.silence * loudness


@dataclass(frozen=True)
class _Note:
    """A hook that notes down what enters a module."""

    into: list[Tensor]

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.into.append(args[0])
