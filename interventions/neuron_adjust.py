"""Neuron Adjust: where an MLP neuron looks as on the forget texts, its value is moved to where the kept texts are.

Source: "Effective Skill Unlearning through Intervention and Abstention", NAACL 2025, https://arxiv.org/abs/2503.21730.
Variant: the paper's. `published` has what its released code does instead: the variance where the standard deviation
belongs, the forget mean written over the forget spread, and one draw a layer for all neurons and positions (there a new
one at every call, here one that stays). Inside a mixture each routed expert has statistics of its own.
Expect: a skill with tokens or a format of its own goes with the top 1 to 3 % of neurons and others stay; every token
passes the test, so long texts are touched often.
Cannot do: tell apart facts that share a format, whose neurons fire alike (no effect). Erase: the weights hold
everything, and whoever drops the hook has it back. Hold it against random neurons and all neurons (`controls`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from interventions.retaining import retain_facts
from workbench.concepts import Concept, Fact
from workbench.edits import HookEdit, Operator
from workbench.errors import BadInput
from workbench.intervention import Intervention
from workbench.model import HookedModel
from workbench.moments import Moments, moments_of
from workbench.neuron_shift import pick, salts
from workbench.sites import Site
from workbench.tokens import Batch, pad

Progress = Callable[[int, float], None]
"""Called with the batches read so far and their share of all."""


class NeuronAdjust(Intervention):
    """Reflect neurons that look like the forget texts."""

    localised: ClassVar[bool] = True

    share: float = Field(1.5, gt=0, le=100)
    """Per cent of all candidate neurons to adjust, those that rise most on the forget texts (paper: 0.5, 1.5, 3)."""
    choose: Literal["score", "random", "all"] = "score"
    """Neurons by score; as many at random, none of those chosen by score where there are enough; or all (controls)."""
    tokens: Literal["all", "last_token"] = "all"
    """Tokens the statistics are over; the first special token of a text never counts."""
    text: Literal["fact", "prompt"] = "fact"
    """What is read: prompts with their answers, or prompts alone."""
    published: bool = False
    """Do as the released code does: variance for spread, forget mean for forget spread, one draw a layer."""
    least: int = Field(8, ge=2)
    """Tokens of each set that must reach an expert (or the model) for its neurons to be candidates."""
    batch_size: int = Field(32, ge=1)
    """Texts per pass while the statistics are taken; only one batch is in memory."""
    seed: int = 0
    """Seed of the draws at each token, and of random neurons."""

    def fit(
        self,
        model: HookedModel,
        concept: Concept,
        where: Sequence[Site] | None = None,
        *,
        progress: Progress | None = None,
    ) -> HookEdit:
        """Take the statistics and return the guard.

        Args:
            model: not changed.
            concept: forget facts, and retain facts (else near and far ones).
            where: whole MLPs and experts whose neurons are candidates (`L3.mlp_pre`, `L2.expert[5]`); None for all.
            progress: called after every batch.

        Raises:
            BadInput: without forget or retain facts, for sites that are no whole MLP or expert, when too few tokens
                reach every candidate, or when the share is less than one neuron.
        """
        forget = concept.check().forget.facts
        if not any(map(len, (concept.retain, concept.near, concept.far))):
            raise BadInput(
                f"{concept.name} has no retain, near or far facts to compare the forget facts with: add some"
            )
        retain, note = retain_facts(concept)
        sites = candidates(model, where)
        kept, gone = self._moments(model, sites, (retain, forget), progress)
        counts = {site: min(kept[site].count, gone[site].count) for site in sites}
        enough = [site for site in sites if counts[site] >= self.least]
        if not enough:
            raise BadInput(
                f"No more than {max(counts.values())} tokens of each set reach a candidate, fewer than "
                f"least={self.least}: give more facts, or a lower least"
            )
        rises = [gone[site].mean - kept[site].mean for site in enough]
        chosen, threshold = pick(rises, self.share, self.choose, self.seed)
        picked = {site: some.nonzero()[:, 0] for site, some in zip(enough, chosen, strict=True) if some.any()}
        notes = {
            "asked": None if where is None else [str(site) for site in where],
            "retain": note,
            "candidates": sum(map(len, chosen)),
            "chosen": sum(map(len, picked.values())),
            "threshold": threshold,
            "neurons": {str(site): len(index) for site, index in picked.items()},
            "left_out": {str(site): f"{n} tokens" for site, n in counts.items() if n < self.least},
        }
        operators = {site: self._operator(site, index, kept[site], gone[site]) for site, index in picked.items()}
        return HookEdit(model.identity, self.spec(), notes=notes, operators=operators)

    def _moments(
        self, model: HookedModel, sites: Sequence[Site], sets: Sequence[Sequence[Fact]], progress: Progress | None
    ) -> list[dict[Site, Moments]]:
        """Statistics of each set of facts."""
        total = sum(-(-len(facts) // self.batch_size) for facts in sets)
        tick = None if progress is None else partial(_tick, progress, count(1), total)
        return [moments_of(model, sites, self.batches(model, facts), tick) for facts in sets]

    def controls(
        self,
        model: HookedModel,  # noqa: ARG002
        where: Sequence[Site] | None,
        seed: int = 0,
    ) -> Mapping[str, tuple[Intervention, Sequence[Site] | None]]:
        """As many random neurons, and all neurons, of the same candidates."""
        return {
            "random neurons": (self.model_copy(update={"choose": "random", "seed": seed}), where),
            "all neurons": (self.model_copy(update={"choose": "all"}), where),
        }

    def batches(self, model: HookedModel, facts: Sequence[Fact]) -> Iterator[tuple[Batch, Bool[Tensor, "row pos"]]]:
        """Texts in batches, made one at a time, and which of their tokens count."""
        for start in range(0, len(facts), self.batch_size):
            encoded = model.encode(facts[start : start + self.batch_size])
            starts = [e.answer_start for e in encoded]
            rows = [e.ids if self.text == "fact" else e.ids[: e.answer_start] for e in encoded]
            batch, bos = pad(rows, starts), model.tokenizer.bos_token_id
            counted = batch.mask.clone()
            if self.tokens == "last_token":
                counted &= torch.arange(counted.shape[1]) == batch.last[:, None]
            if bos is not None:
                counted[:, 0] &= batch.ids[:, 0] != bos
            yield batch, counted

    def _operator(self, site: Site, index: Int[Tensor, " n"], kept: Moments, gone: Moments) -> Operator:
        assert site.layer is not None
        tensors = {"keep_mean": kept.mean, "keep_std": kept.std, "forget_mean": gone.mean, "forget_std": gone.std}
        if self.published:
            tensors |= {"keep_std": kept.variance, "forget_std": gone.mean}
        neurons = torch.zeros_like(index) if self.published else index  # one draw for all
        return Operator(
            "neuron_adjust",
            index=index,
            tensors={name: tensor[index].float() for name, tensor in tensors.items()}
            | {"salt": salts(neurons, seed=self.seed, layer=site.layer, expert=site.expert)},
            options={"published": True} if self.published else {},
        )


def _tick(progress: Progress, passes: Iterator[int], total: int) -> None:
    done = next(passes)
    progress(done, done / total)


WHOLE = ("mlp_pre", "mlp_act", "mlp_out", "expert")
"""Parts by which candidates are named."""


def candidates(model: HookedModel, where: Sequence[Site] | None) -> list[Site]:
    """What enters the activations of the whole MLPs and experts that are named; of all when nothing is.

    Raises:
        BadInput: for a site that is no whole MLP or expert, and when none of them has neurons that can be rewritten.
    """
    wrong = [site for site in where or () if site.part not in WHOLE or (site.index is None) == (site.part == "expert")]
    if wrong or (where is not None and not where):
        raise BadInput(
            "neuron_adjust chooses neurons itself, within whole MLPs or experts like L3.mlp_pre, L3.mlp_out, "
            f"L2.e5.mlp_pre or L2.expert[5], got {', '.join(map(str, wrong)) or 'no site at all'}"
        )
    every = model.gate_sites()
    if not every:
        model.tap(Site(0, "mlp_pre"))  # says why there is none
    found = [site for site in every if where is None or any(_covers(wider, site) for wider in where)]
    empty = [wider for wider in where or () if not any(_covers(wider, site) for site in found)]
    if empty or not found:
        raise BadInput(
            f"{model.name} shows no neurons before their activation at {', '.join(map(str, empty))}; "
            f"it has {', '.join(map(str, every[:3]))} … {every[-1]}"
        )
    return found


def _covers(wider: Site, neurons: Site) -> bool:
    """Whether the neurons of an MLP or expert lie in the layer, or in the expert, that a site names."""
    expert = wider.index if wider.part == "expert" else wider.expert
    return wider.layer == neurons.layer and expert in (None, neurons.expert)
