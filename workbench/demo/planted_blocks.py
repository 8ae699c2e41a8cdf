"""`plant_blocks`: models in which each group's facts are known to lie in one layer's block of neurons, or one expert.

Two phases (see `planted_blocks_reference`, `planted_blocks_train`): a reference is trained without the planted facts,
with room for every block kept silent; then each group is trained into its block alone. Switching all blocks off gives
the reference's outputs bit for bit, so what a perfect unlearning would leave is known exactly. Everything is kept in
the cache, a folder at a time, so a run that was stopped goes on where it was.

Read it as: `groups[i].fit` says whether a group was learnt well enough (exact match of at least 0.9 with all blocks on)
to be called truth; the others are kept and marked. Does not show: how a model that was trained on everything at once
stores facts. Injected truth is not new (Chang et al. 2024, https://arxiv.org/abs/2311.09060; gradient routing, Cloud et
al. 2024, https://arxiv.org/abs/2410.04332); the exact counterpart without it is what this adds.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from workbench.concepts import Concept, Fact, FactSet
from workbench.demo.models import _appearing, _one_thread, cache_root, demo_tokenizer
from workbench.demo.planted_blocks_recipe import BlockRecipe, Place, block_recipe, items_of
from workbench.demo.planted_blocks_reference import Block, silence, train_reference
from workbench.demo.planted_blocks_train import train_block
from workbench.demo.recall import share_recalled
from workbench.demo.recipe import Kind
from workbench.demo.world import spread, world
from workbench.errors import BadInput
from workbench.sites import Site

FIT = 0.9
"""Exact match with the block on, from which a group counts as truth."""

FAR = 72
"""Most far facts, and most retain facts, of a group's concept."""

Progress = Callable[[str, int, int], None]
"""Called with what is being trained (`reference`, or a topic), steps done and steps in all."""


class Group(BaseModel):
    """What was measured of one planted group; shares of answers that greedy decoding gives."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    topic: str
    """Topic of the group's people."""
    layer: int
    """Where it lies."""
    expert: int | None
    """In which expert; None in a dense model."""
    with_block: float
    """Its facts, all blocks on."""
    reworded: float
    """Its facts in wordings that training held out, all blocks on."""
    without_block: float
    """Its facts, its own block off."""
    near_before: float
    """Its neighbours' facts in the reference."""
    near_after: float
    """The same, all blocks on."""
    rest_before: float
    """All other taught facts and common knowledge in the reference."""
    rest_after: float
    """The same, all blocks on."""

    @property
    def fit(self) -> bool:
        """Whether a localiser may be judged by it."""
        return self.with_block >= FIT


@dataclass(frozen=True)
class PlantedBlocks:
    """A model with planted blocks, its reference, and the truth about both."""

    folder: Path
    """Checkpoint with all blocks on."""
    reference: Path
    """Checkpoint that never read the planted facts, of the same shape."""
    recipe: BlockRecipe
    """How it was made."""
    seed: int
    """Of the world, the layout and the training."""
    places: tuple[Place, ...]
    """Where each group lies."""
    groups: tuple[Group, ...]
    """What was measured, in the order of `places`."""

    def concept(self, place: Place) -> Concept:
        """One group as a question: its facts, its neighbours' (the topic's other people), and all else that was read.

        Far is common knowledge, retain what the reference knows about other topics.
        """
        own, near = items_of(place, self.seed)
        truth, planted = world(self.seed), {name for other in self.places for name in other.subjects}
        elsewhere = {other.topic for other in self.places} - {place.topic}
        rest = [item for item in truth.items if item.topic.name in elsewhere and item.subject not in planted]
        never = [item for item in truth.unknown if item.topic.name == place.topic]
        source = f"workbench.demo.planted_blocks, seed {self.seed}"

        def pack(part: str, facts: Sequence[Fact]) -> FactSet:
            name = f"demo:blocks/{place.topic}/{part}"
            return FactSet(name=name, facts=tuple(facts), source=source, licence="CC0-1.0")

        return Concept(
            name=f"demo:blocks/{place.topic}",
            forget=pack("forget", [item.fact() for item in own]),
            near=pack("near", [item.fact() for item in near]),
            far=pack("far", [row.fact() for row in spread(truth.utility, FAR)]),
            retain=pack("retain", [item.fact() for item in spread(rest, FAR)]),
            never_taught=pack("never_taught", [item.fact() for item in never]),
        )

    def sites(self, topic: str) -> tuple[Site, ...]:
        """The neurons of a group.

        Raises:
            BadInput: for a topic that was not planted.
        """
        for place in self.places:
            if place.topic == topic:
                return place.sites
        raise BadInput(f"No block was planted for {topic!r}; there are {', '.join(p.topic for p in self.places)}")


@contextmanager
def switched_off(model: PreTrainedModel, places: tuple[Place, ...]) -> Iterator[None]:
    """Blocks off for the length of a `with` block; afterwards the model holds the same bits as before."""
    blocks = [Block(place) for place in places]
    before = [block.matrices(model)["down"].detach().clone() for block in blocks]
    try:
        silence(model, blocks)
        yield
    finally:
        with torch.no_grad():
            for block, matrix in zip(blocks, before, strict=True):
                block.matrices(model)["down"].copy_(matrix)


def plant_blocks(
    kind: Kind = "dense",
    seed: int = 0,
    *,
    recipe: BlockRecipe | None = None,
    progress: Progress | None = None,
) -> PlantedBlocks:
    """Train, or find in the cache, a reference and the model with all blocks planted.

    Args:
        kind: `dense` (a block of neurons a group) or `moe` (an expert a group).
        seed: of the world, the layout and the training.
        recipe: another recipe than the measured one.
        progress: told about every step.
    """
    recipe = block_recipe(kind) if recipe is None else recipe
    if recipe.kind != kind:
        raise BadInput(f"The recipe is for {recipe.kind!r}, but {kind!r} was asked for")
    places, tokenizer = recipe.layout(seed), demo_tokenizer()
    reference = _folder(recipe, seed, "reference")
    folder = _folder(recipe, seed, "planted")
    with _one_thread():
        if not (reference / "demo.json").is_file():
            _make_reference(recipe, seed, tokenizer, reference, progress)
        if not (folder / "demo.json").is_file():
            _make_planted(recipe, seed, tokenizer, reference, folder, progress)
    said = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    groups = tuple(Group.model_validate(row) for row in said["groups"])
    return PlantedBlocks(folder, reference, recipe, seed, places, groups)


def _folder(recipe: BlockRecipe, seed: int, part: str) -> Path:
    digest = recipe.digest(seed, "reference" if part == "reference" else "")
    return cache_root() / f"blocks-{recipe.kind}-{part}-seed{seed}-{digest}"


def _told(progress: Progress | None, what: str, steps: int) -> Callable[[int, float], None]:
    def tell(step: int, _: float) -> None:
        if progress:
            progress(what, step, steps)

    return tell


def _keep(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, about: dict[str, object]) -> None:
    """Write an ordinary checkpoint, complete or not at all."""
    with _appearing(folder) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        (scratch / "demo.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _make_reference(
    recipe: BlockRecipe, seed: int, tokenizer: PreTrainedTokenizerFast, folder: Path, progress: Progress | None
) -> None:
    began = time.process_time()
    model = train_reference(recipe, seed, tokenizer, _told(progress, "reference", recipe.reference.steps))
    seconds = round(time.process_time() - began, 1)
    _keep(model, tokenizer, folder, {"recipe": recipe.model_dump(mode="json"), "seed": seed, "cpu_seconds": seconds})


def _make_planted(
    recipe: BlockRecipe,
    seed: int,
    tokenizer: PreTrainedTokenizerFast,
    reference: Path,
    folder: Path,
    progress: Progress | None,
) -> None:
    """Train the missing blocks, each from the reference, and put all of them into one model."""
    places, began = recipe.layout(seed), time.process_time()
    parts = [_trained_block(recipe, seed, tokenizer, reference, place, progress) for place in places]
    model = opened(reference)
    before = [_measured(model, tokenizer, place, places, seed) for place in places]
    with torch.no_grad():
        for place, part in zip(places, parts, strict=True):
            for name, matrix in Block(place).matrices(model).items():
                matrix[Block(place).index(name)] = part[name]
    groups = [_group(model, tokenizer, place, places, seed, old) for place, old in zip(places, before, strict=True)]
    about = {
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "groups": [group.model_dump() for group in groups],
        "sites": {place.topic: [str(site) for site in place.sites] for place in places},
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    _keep(model, tokenizer, folder, about)


def _trained_block(
    recipe: BlockRecipe,
    seed: int,
    tokenizer: PreTrainedTokenizerFast,
    reference: Path,
    place: Place,
    progress: Progress | None,
) -> dict[str, torch.Tensor]:
    """The weights of one block, trained now or found in the cache."""
    path = _folder(recipe, seed, f"block-{place.topic}") / "block.safetensors"
    if not path.is_file():
        model = opened(reference)
        train_block(model, tokenizer, place, recipe, seed, _told(progress, place.topic, recipe.steps))
        block = Block(place)
        own = {n: m.detach()[block.index(n)].contiguous().clone() for n, m in block.matrices(model).items()}
        with _appearing(path.parent) as scratch:
            save_file(own, scratch / path.name)
    return load_file(path)


def opened(folder: Path) -> PreTrainedModel:
    """The Hugging Face model of one of the folders, ready to read or change."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager").eval()


def _group(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    place: Place,
    places: tuple[Place, ...],
    seed: int,
    before: tuple[float, float, float],
) -> Group:
    """Measure one group in the model with all blocks on."""
    own = [item.fact() for item in items_of(place, seed)[0]]
    reworded = [fact.model_copy(update={"prompt": prompt}) for fact in own for prompt in fact.paraphrases]
    with_block, near, rest = _measured(model, tokenizer, place, places, seed)
    with switched_off(model, (place,)):
        without = share_recalled(model, tokenizer, own)
    return Group(
        topic=place.topic,
        layer=place.layer,
        expert=place.expert,
        with_block=with_block,
        reworded=share_recalled(model, tokenizer, reworded),
        without_block=without,
        near_before=before[1],
        near_after=near,
        rest_before=before[2],
        rest_after=rest,
    )


def _measured(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    place: Place,
    places: tuple[Place, ...],
    seed: int,
) -> tuple[float, float, float]:
    """Recall of a group, of its neighbours, and of everything else that the reference has read."""
    own, near = items_of(place, seed)
    planted = {name for other in places for name in other.subjects}
    topics = {other.topic for other in places} - {place.topic}
    known = [i.fact() for i in world(seed).items if i.topic.name in topics and i.subject not in planted]
    rest: list[Fact] = [*known, *(row.fact() for row in world(seed).utility)]
    parts = ([item.fact() for item in own], [item.fact() for item in near], rest)
    with_block, neighbours, others = (share_recalled(model, tokenizer, facts) for facts in parts)
    return with_block, neighbours, others
