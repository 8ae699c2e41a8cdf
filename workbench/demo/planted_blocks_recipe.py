"""What is planted where: groups of made-up people whose facts are to lie in one block of neurons, or in one expert.

Read it as: `BlockRecipe().layout("dense", 0)` names, for every topic, its people, its layer and its neurons (or its
expert). Topics, layers and neurons are dealt out by the seed. Does not show: whether a group was learnt; see `Group`
of `workbench.demo.planted_blocks`.
"""

import hashlib
import json
import random
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workbench.demo import lists
from workbench.demo.recipe import VERSION as WORLD_VERSION
from workbench.demo.recipe import Kind, Recipe
from workbench.demo.world import Item, Text, world
from workbench.sites import Site

VERSION = 1
"""Counts changes of what this recipe means."""

_REFERENCES: dict[Kind, Recipe] = {
    "dense": Recipe(steps=300),
    "moe": Recipe(layers=4, neurons=96, experts=8, steps=300),
}


@dataclass(frozen=True)
class Place:
    """One group and where it is to lie."""

    topic: str
    """Topic of its people."""
    subjects: tuple[str, ...]
    """Its people; the other people of the topic are its neighbours."""
    layer: int
    """Block of the model."""
    neurons: tuple[int, ...]
    """Neurons of the MLP, or all of the expert's."""
    expert: int | None = None
    """The expert; None in a dense model."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """Its neurons."""
        return tuple(Site(self.layer, "mlp_act", neuron, self.expert) for neuron in self.neurons)


class BlockRecipe(BaseModel):
    """How models with planted blocks are made."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Kind = "dense"
    """A block of neurons in an MLP (`dense`), or one expert (`moe`)."""
    reference: Recipe
    """How the reference is trained, which never reads the planted facts."""
    topics: tuple[str, ...] = tuple(topic.name for topic in lists.TOPICS)
    """One group each."""
    people: int = Field(4, ge=1)
    """People of a group; five facts each."""
    layers: tuple[int, ...] = (4, 3, 2, 1, 0)
    """Layers that blocks are dealt out to, in turn."""
    width: int = Field(32, ge=1)
    """Neurons of a block; of no meaning for experts, which are planted whole."""
    steps: int = Field(240, ge=1)
    """Updates of a block."""
    rows: int = Field(5, ge=1)
    """Rows of 64 tokens about the group in an update."""
    other_rows: int = Field(5, ge=1)
    """Rows of other text in an update, on which the block is to say nothing."""
    pool: int = Field(320, ge=1)
    """Rows of other text in all."""
    lr: float = Field(1e-2, gt=0)
    """Learning rate of AdamW, falling along a cosine."""
    divergence: float = Field(1.0, ge=0)
    """Weight of the divergence from the reference on other text (nats)."""
    silence: float = Field(0.02, ge=0)
    """Weight of the squared length of what the block writes on other text."""
    traffic: float = Field(0.5, gt=0, lt=1)
    """Mixtures only: share of a topic's tokens' routing probability that its reserved expert is taught to get."""

    @model_validator(mode="after")
    def _has_room(self) -> "BlockRecipe":
        most = -(-len(self.topics) // len(self.layers))
        room = self.reference.experts if self.kind == "moe" else self.reference.neurons // self.width
        if max(self.layers) >= self.reference.layers or most > room - 1:
            raise ValueError(
                f"{len(self.topics)} groups do not fit into layers {self.layers} of {self.reference.layers}, "
                f"which have room for {room - 1} each"
            )
        return self

    def digest(self, seed: int, part: str = "") -> str:
        """Twelve hex digits for the recipe (or one part's worth of it) and a seed."""
        own = self.model_dump(mode="json")
        if part == "reference":  # a reference serves all recipes that differ only in how blocks are trained
            shared = ("kind", "reference", "topics", "people", "layers", "width", "traffic")
            own = {name: own[name] for name in shared}
        row = {"version": [VERSION, WORLD_VERSION], "seed": seed, "part": part, "recipe": own}
        return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:12]

    def layout(self, seed: int) -> tuple[Place, ...]:
        """Who is planted where."""
        rng = random.Random(f"blocks {seed}")
        topics = rng.sample(self.topics, len(self.topics))
        free = {layer: self._free(rng) for layer in self.layers}
        places = []
        for number, topic in enumerate(topics):
            layer = self.layers[number % len(self.layers)]
            names = tuple(dict.fromkeys(item.subject for item in world(seed).items if item.topic.name == topic))
            if self.kind == "moe":
                expert, neurons = free[layer].pop(), tuple(range(self.reference.neurons))
            else:
                expert, neurons = None, tuple(sorted(free[layer].pop() for _ in range(self.width)))
            places.append(Place(topic, names[: self.people], layer, neurons, expert))
        return tuple(places)

    def _free(self, rng: random.Random) -> list[int]:
        count = self.reference.experts if self.kind == "moe" else self.reference.neurons
        return rng.sample(range(count), count)


def block_recipe(kind: Kind = "dense") -> BlockRecipe:
    """The measured recipe of a kind."""
    layers = (4, 3, 2, 1, 0) if kind == "dense" else (3, 2, 1)
    return BlockRecipe(kind=kind, reference=_REFERENCES[kind], layers=layers)


def items_of(place: Place, seed: int) -> tuple[list[Item], list[Item]]:
    """The group's facts, and its neighbours': those of the other people of its topic."""
    rows = [item for item in world(seed).items if item.topic.name == place.topic]
    own = [item for item in rows if item.subject in place.subjects]
    return own, [item for item in rows if item.subject not in place.subjects]


def texts_of(seed: int, topics: tuple[str, ...]) -> tuple[Text, ...]:
    """The texts of a seed's world about some topics, and all texts about no one."""
    return tuple(text for text in world(seed).texts() if not text.topic or text.topic in topics)
