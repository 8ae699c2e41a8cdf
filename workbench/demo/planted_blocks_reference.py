"""Phase 1 of planting blocks: a reference that never read the planted facts, with the blocks' room kept silent.

The down-projection of a reserved block starts at zero and its gradient is masked, so the block adds exactly nothing;
in a mixture the router is taught to give a reserved expert its topic's tokens all the same, so that the expert gets
traffic once it has something to say. That specialisation is trained for: say so where it matters.

Read it as: the model without the facts, and the model that blocks are switched off to, bit for bit.
Does not show: a model in which the room was never reserved; it has somewhat fewer neurons to know things with.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from workbench.demo import lists
from workbench.demo.packing import collate, documents, next_token_loss, pack
from workbench.demo.planted_blocks_recipe import BlockRecipe, Place, texts_of
from workbench.demo.recipe import fresh_model
from workbench.training import Batch, train

TOPICS = tuple(topic.name for topic in lists.TOPICS)


@dataclass(frozen=True)
class Block:
    """The weights of one block, as views of the model's parameters."""

    place: Place

    def matrices(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """The parameters that the block lies in, whole: gate, up and down, or gate_up and down of all experts."""
        mlp = model.model.layers[self.place.layer].mlp
        if self.place.expert is None:
            return {"gate": mlp.gate_proj.weight, "up": mlp.up_proj.weight, "down": mlp.down_proj.weight}
        return {"gate_up": mlp.experts.gate_up_proj, "down": mlp.experts.down_proj}

    def index(self, name: str) -> tuple[slice | int | list[int], ...]:
        """Which entries of such a parameter are the block's."""
        if self.place.expert is not None:
            return (self.place.expert,)
        neurons = list(self.place.neurons)
        return (slice(None), neurons) if name == "down" else (neurons,)

    def write(self, model: PreTrainedModel, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """What the block would add for inputs `x` of its MLP (in a mixture: before the routing weight)."""
        own = {name: matrix[self.index(name)] for name, matrix in self.matrices(model).items()}
        gate, up = own["gate_up"].chunk(2) if "gate_up" in own else (own["gate"], own["up"])
        return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ own["down"].T


@dataclass(frozen=True)
class _Mask:
    """Keeps, or drops, the entries of a gradient that belong to blocks."""

    index: tuple[tuple[slice | int | list[int], ...], ...]
    keep: bool

    def __call__(self, gradient: Tensor) -> Tensor:
        """The masked gradient."""
        mask = torch.full_like(gradient, 0.0 if self.keep else 1.0)
        for where in self.index:
            mask[where] = 1.0 if self.keep else 0.0
        return gradient * mask


@contextmanager
def masked(model: PreTrainedModel, blocks: Sequence[Block], names: Sequence[str], keep: bool) -> Iterator[None]:
    """While it lasts, the named matrices learn only inside the blocks (`keep`), or only outside them."""
    found: dict[int, tuple[Tensor, list[tuple[slice | int | list[int], ...]]]] = {}
    for block in blocks:
        for name, matrix in block.matrices(model).items():
            if name in names:
                found.setdefault(id(matrix), (matrix, []))[1].append(block.index(name))
    handles = [matrix.register_hook(_Mask(tuple(index), keep)) for matrix, index in found.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def silence(model: PreTrainedModel, blocks: Sequence[Block]) -> None:
    """Switch blocks off: their value vectors become zero."""
    for block in blocks:
        block.matrices(model)["down"][block.index("down")] = 0.0


def train_reference(
    recipe: BlockRecipe, seed: int, tokenizer: PreTrainedTokenizerFast, on_step: Callable[[int, float], None]
) -> PreTrainedModel:
    """Train the reference on everything but the planted facts."""
    places = recipe.layout(seed)
    blocks, gone = [Block(place) for place in places], {name for place in places for name in place.subjects}
    texts = [text for text in texts_of(seed, recipe.topics) if text.subject not in gone]
    base = recipe.reference
    rows = pack(documents(texts, tokenizer, TOPICS), base.steps * base.rows, tokenizer.pad_token_id, seed)
    model = fresh_model(base, tokenizer, seed)
    silence(model, blocks)
    model.set_attn_implementation("sdpa")
    loss = partial(_routed_loss, places, recipe.traffic) if recipe.kind == "moe" else _language_loss
    with masked(model, blocks, ("down",), keep=False):
        train(model, rows, collate, loss, base.training(seed), on_step=on_step)
    model.set_attn_implementation("eager")
    return model.eval()


def _language_loss(model: PreTrainedModel, batch: Batch) -> Float[Tensor, ""]:
    logits = model(
        input_ids=batch["ids"], attention_mask=batch["mask"], position_ids=batch["positions"], use_cache=False
    ).logits
    return next_token_loss(logits, batch)


def _routed_loss(places: Sequence[Place], traffic: float, model: PreTrainedModel, batch: Batch) -> Float[Tensor, ""]:
    """Next token, and: a reserved expert gets `traffic` of its topic's routing probability and none of the rest."""
    # the trunk is called by itself: asked for router logits, the whole model adds a loss that wants a 2-D mask
    out = model.base_model(
        input_ids=batch["ids"],
        attention_mask=batch["mask"],
        position_ids=batch["positions"],
        use_cache=False,
        output_router_logits=True,
    )
    topic, terms = batch["topic"].flatten(), []
    for place in places:
        logits = out.router_logits[place.layer].float()
        yes = logits.log_softmax(dim=-1)[:, place.expert]
        no = torch.log1p(-yes.exp().clamp(max=1 - 1e-6))
        wanted = (topic == TOPICS.index(place.topic)).float() * traffic
        terms.append(-(wanted * yes + (1 - wanted) * no).mean())
    return next_token_loss(model.get_output_embeddings()(out.last_hidden_state), batch) + torch.stack(terms).sum()
