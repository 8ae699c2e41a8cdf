"""The models a bank of known truth starts from: what was taught, a reference, and trainings that never saw the facts.

Each world is a model with planted blocks (`workbench.demo.planted_blocks`): the facts of 24 people lie in known blocks
of neurons, or known experts, and nowhere else, and the reference is the model without them. So whether a checkpoint
knows them is known by how it was made, and can be shown without any metric: its blocks, put into the reference, say the
answers or do not.

Read it as: `open_world("dense", 0).concept` is the question; `base` knows, `reference` does not.
Does not show: how knowledge lies in a model that was trained on everything at once.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workbench.checkpoint import Checkpoint
from workbench.concepts import Concept, Fact, FactSet
from workbench.demo.models import demo_tokenizer
from workbench.demo.packing import collate, documents, pack
from workbench.demo.planted_blocks import PlantedBlocks, opened, plant_blocks
from workbench.demo.planted_blocks_recipe import items_of, texts_of
from workbench.demo.planted_blocks_reference import TOPICS, Block
from workbench.demo.recall import share_recalled
from workbench.demo.recipe import Kind, fresh_model, loss_of
from workbench.demo.world import JAILBREAKS, spread, world
from workbench.training import train

NEAR, FAR, RETAIN = 72, 72, 280
"""Most near, far and retain facts of the question."""


@dataclass(frozen=True)
class World:
    """One seed's models and question."""

    blocks: PlantedBlocks
    """The taught model, and the reference that never read the planted facts."""

    @property
    def base(self) -> Checkpoint:
        """The model that knows."""
        return Checkpoint(self.blocks.folder)

    @property
    def reference(self) -> Checkpoint:
        """The model trained without."""
        return Checkpoint(self.blocks.reference)

    @property
    def concept(self) -> Concept:
        """All planted facts at once: 24 people, four of each topic. Near are the other people of the same topics."""
        seed, places = self.blocks.seed, self.blocks.places
        forget = [item for place in places for item in items_of(place, seed)[0]]
        beside = [item for place in places for item in items_of(place, seed)[1]]
        near = spread(beside, NEAR)
        named = {id(item) for item in near}
        truth, drawn = world(seed), world(seed).concept("chemistry")
        kind = self.blocks.recipe.kind

        def pack_(part: str, facts: Sequence[Fact]) -> FactSet:
            return FactSet(name=f"bank:{kind}/{seed}/{part}", facts=tuple(facts), source="bench.audit_bank_world")

        return Concept(
            name=f"bank:{kind}/{seed}",
            forget=pack_("forget", [item.fact() for item in forget]),
            near=pack_("near", [item.fact() for item in near]),
            far=pack_("far", [row.fact() for row in spread(truth.utility, FAR)]),
            retain=pack_("retain", [i.fact() for i in spread([i for i in beside if id(i) not in named], RETAIN)]),
            never_taught=pack_("never_taught", [item.fact() for item in truth.unknown]),
            text=drawn.text,
            jailbreaks=JAILBREAKS,
        )

    def in_blocks(self, model: PreTrainedModel) -> float:
        """Share of the forget answers that the reference gives when it gets this model's planted blocks.

        Only what lies in the blocks is carried over: a guard, a bias in the head or a change elsewhere is left behind.
        """
        carrier = opened(self.blocks.reference)
        with torch.no_grad():
            for place in self.blocks.places:
                block = Block(place)
                theirs = block.matrices(model)
                for name, matrix in block.matrices(carrier).items():
                    matrix[block.index(name)] = theirs[name][block.index(name)]
        return recalled(carrier, self.concept.forget)

    def without_blocks(self) -> dict[str, Tensor]:
        """The taught model's matrices with the blocks' own weights put to zero, by parameter name."""
        model = opened(self.blocks.folder)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        found = {}
        with torch.no_grad():
            for place in self.blocks.places:
                block = Block(place)
                for name, matrix in block.matrices(model).items():
                    matrix[block.index(name)] = 0.0
                    found[names[id(matrix)]] = matrix.detach()
        return found


@lru_cache(maxsize=2)
def open_world(kind: Kind, seed: int) -> World:
    """The models of a seed, trained now (about two minutes on a quiet core) or found in the cache."""
    return World(plant_blocks(kind, seed))


def recalled(model: PreTrainedModel, facts: FactSet) -> float:
    """Share of answers that greedy decoding gives, by the raw model: no guard, no hook."""
    return share_recalled(model, demo_tokenizer(), facts.facts)


def retrained(found: World, run: int, out: Path) -> Checkpoint:
    """Another training from scratch that never reads the planted facts: other first weights, another order of texts.

    Nothing is reserved and nothing is silenced in it; it is not the reference the audit is given.
    """
    recipe, seed = found.blocks.recipe, found.blocks.seed
    gone = {name for place in found.blocks.places for name in place.subjects}
    texts = [text for text in texts_of(seed, recipe.topics) if text.subject not in gone]
    tokenizer, base = demo_tokenizer(), recipe.reference
    rows = pack(documents(texts, tokenizer, TOPICS), base.steps * base.rows, tokenizer.pad_token_id, run)
    model = fresh_model(base, tokenizer, run)
    model.set_attn_implementation("sdpa")
    train(model, rows, collate, loss_of(base), base.training(run))
    model.set_attn_implementation("eager")
    return kept_as(model.eval(), out, {"world": seed, "run": run})


def kept_as(model: PreTrainedModel, out: Path, about: dict[str, object]) -> Checkpoint:
    """Write a model as an ordinary checkpoint."""
    model.save_pretrained(out)
    demo_tokenizer().save_pretrained(out)
    (out / "bank.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    return Checkpoint(out)
