"""Causal validation of concept vectors: does damaging them, and not others like them, take the answers away?

Source: Hong et al. 2024, https://arxiv.org/abs/2406.11614 (ConceptVectors), section on validating the vectors: Gaussian
noise is added to a vector, and the model is asked about the concept and about other things. Variant: the drop of the
answers' log-probability and of exact-match accuracy instead of the BLEU score of generated text against the model's own
earlier text; all found vectors damaged together; noise scaled to the vector's norm instead of the same 0.1 everywhere
(`published=True` adds that, but not the published loop's slip of leaving the noise of earlier concepts in the model);
and beside the near and far facts a second control that the paper lacks, as many random neurons of the same MLPs.
Read it as: drop in nats (mean over draws); a found vector holds the concept when its damage costs the forget facts much
more than it costs near and far facts, and much more than damaging random neurons does (the notes give paired intervals,
and how often a random draw did as much harm).
Does not show: that the knowledge is nowhere else (a small drop may mean it is stored twice), nor what noise far larger
than the vector does by itself: `damage="zero"` only takes away.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from probes.concept_vectors import VectorFinder, controls_of
from workbench.concepts import Fact, FactSet
from workbench.edits import kept
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.patching import Progress
from workbench.scoring import score
from workbench.sites import Site, parse_sites
from workbench.stats import Draws, bootstrap
from workbench.trace import Trace

PUBLISHED_SIGMA = 0.1
"""Standard deviation of the published noise, whatever the vector's norm."""

VECTORS = ("found", "random")
"""What is damaged."""

MEASURES = ("logprob", "accuracy")
"""What is read of every fact: log-probability of the answer, nats; 1 if greedy decoding gives it, else 0."""

Drops = Float[np.ndarray, "vectors draw measure fact"]
"""Before less after; NaN where a draw was not needed."""


@dataclass(frozen=True)
class Asked:
    """Facts of several sets in one list."""

    sets: dict[str, FactSet]
    """`forget`, and `near` and `far` where given."""

    @property
    def facts(self) -> list[Fact]:
        """All of them, set after set."""
        return [fact for facts in self.sets.values() for fact in facts]

    @property
    def labels(self) -> tuple[str, ...]:
        """A unique label a fact."""
        return tuple(f"{name} {label}" for name, facts in self.sets.items() for label in facts.labels)

    def where(self) -> dict[str, slice]:
        """The facts of each set."""
        ends = np.cumsum([0, *map(len, self.sets.values())]).tolist()
        return {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(self.sets)}


class VectorValidation(VectorFinder):
    """Damage the found vectors, and random ones of the same MLPs, and see which answers go."""

    damage: Literal["noise", "zero"] = "noise"
    """Add Gaussian noise to the vector, or set it to zero."""
    sigma: float = Field(default=5.0, gt=0)
    """Expected norm of the noise in norms of the vector. Several, as in the publication, so that the vector is drowned:
    noise of one norm leaves a cosine of 0.7 with it."""
    published: bool = False
    """Noise of standard deviation 0.1 in every entry, whatever the vector's norm; `sigma` is not used."""
    draws: int = Field(default=5, ge=1)
    """How often noise, and the random neurons, are drawn anew. Zeroing the found vectors needs no second draw."""
    measure: Literal["logprob", "accuracy"] = "logprob"
    """What the trace holds the drop of; the notes have both."""
    sites: tuple[str, ...] = ()
    """Vectors to damage, like L5.mlp_act[412]; by default those that are found."""
    seed: int = 0
    """Of all draws."""

    @torch.no_grad()
    def look(
        self,
        model: HookedModel,
        facts: FactSet,
        near: FactSet | None = None,
        far: FactSet | None = None,
        found: Trace | None = None,
        progress: Progress | None = None,
    ) -> Trace:
        """Axes (damaged, fact): the drop of each fact, under `forget: found`, `forget: random`, `near: found`, ...

        Args:
            model: the model; the same bits afterwards.
            facts: what the vectors are about.
            near: facts of the same kind that should stay.
            far: unrelated facts.
            found: a trace of `ConceptVectors` (any with a `site` axis of neurons) to take the vectors from.
            progress: told after every damage.

        Raises:
            BadInput: when a site is no value vector, or an MLP has too few other neurons to compare with.
        """
        about = model.about(facts)
        chosen = self._chosen(model, facts, found)
        given = {"forget": facts, "near": near, "far": far}
        asked = Asked({name: some for name, some in given.items() if some is not None and len(some)})
        before = _read(model, asked.facts)
        drops = self._drops(model, chosen, asked, before, progress)
        rows = [f"{name}: {vectors}" for name in asked.sets for vectors in VECTORS]
        return Trace(
            "vector_validation",
            _by_set(drops[:, :, MEASURES.index(self.measure)], asked),
            ("damaged", "fact"),
            "drop in nats" if self.measure == "logprob" else "drop in share of facts",
            {"damaged": tuple(rows), "fact": asked.labels},
            about
            | {
                "subjects": [fact.subject for fact in asked.facts],
                "options": self.spec(),
                "vectors": list(map(str, chosen)),
                "sets": {name: {"name": s.name, "digest": s.digest, "n": len(s)} for name, s in asked.sets.items()},
                "not_measured": {
                    name: f"no {name} facts were given" for name in ("near", "far") if name not in asked.sets
                },
                "known_before": {
                    name: int(before[MEASURES.index("accuracy"), part].sum()) for name, part in asked.where().items()
                },
                "summary": {m: _summary(drops[:, :, i], asked, self.seed) for i, m in enumerate(MEASURES)},
                "axes": {"damaged": "facts asked: vectors damaged; a fact outside the set is NaN, for it is not meant"},
            },
        )

    def _chosen(self, model: HookedModel, facts: FactSet, found: Trace | None) -> tuple[Site, ...]:
        """The vectors to damage: those named, those of the trace, or those that are found now."""
        if self.sites and found is not None:
            raise BadInput("Vectors were given twice, as the option 'sites' and as a trace: give one of them")
        if self.sites:
            chosen = tuple(dict.fromkeys(parse_sites(self.sites)))
        else:
            trace = self.find(model, facts) if found is None else found
            chosen = tuple(trace.top("site", self.vectors))
        if not chosen:
            raise BadInput("The trace names no vector to damage; give one of `concept_vectors`, or the option 'sites'")
        model.stored_at(chosen)  # says so if one is no value vector
        return chosen

    def _drops(
        self,
        model: HookedModel,
        chosen: Sequence[Site],
        asked: Asked,
        before: Float[np.ndarray, "measure fact"],
        progress: Progress | None,
    ) -> Drops:
        """Every damage in turn, each put right before the next."""
        drops = np.full((len(VECTORS), self.draws, *before.shape), np.nan)
        jobs = list(self._jobs(model, chosen))
        for done, (row, draw, sites) in enumerate(jobs):
            drops[row, draw] = before - self._damaged(model, sites, asked.facts, draw)
            if progress:
                progress(done + 1, len(jobs))
        return drops

    def _jobs(self, model: HookedModel, chosen: Sequence[Site]) -> Iterator[tuple[int, int, Sequence[Site]]]:
        """What to damage for each row and draw."""
        for draw in range(self.draws):
            if draw == 0 or self.damage == "noise":
                yield 0, draw, chosen
            yield 1, draw, controls_of(model, chosen, self.seed + draw)

    def _damaged(
        self, model: HookedModel, sites: Sequence[Site], facts: Sequence[Fact], draw: int
    ) -> Float[np.ndarray, "measure fact"]:
        """What is read with some vectors damaged; the weights are the same bits afterwards."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + draw)
        stored = model.stored_at(sites)
        with kept(model, sorted({name for name, _ in stored})):
            for _, vector in stored:
                if self.damage == "zero":
                    vector.zero_()
                    continue
                noise = torch.randn(len(vector), generator=generator)  # on the CPU: the same on every device
                scale = PUBLISHED_SIGMA if self.published else self.sigma * float(vector.norm()) / len(vector) ** 0.5
                vector.add_((scale * noise).to(vector.device, vector.dtype))
            return _read(model, facts)


def _read(model: HookedModel, facts: Sequence[Fact]) -> Float[np.ndarray, "measure fact"]:
    """Log-probability of every answer, and whether greedy decoding gives it."""
    scores = score(model, facts)
    return np.stack([scores.logprob.double().numpy(), scores.greedy.double().numpy()])


def _by_set(drops: Float[np.ndarray, "vectors draw fact"], asked: Asked) -> Float[np.ndarray, "damaged fact"]:
    """Mean over draws, a row for each set and kind of vectors, NaN outside the set."""
    mean = np.nanmean(drops, axis=1)
    rows = np.full((len(asked.sets) * len(VECTORS), mean.shape[1]), np.nan)
    for i, part in enumerate(asked.where().values()):
        rows[i * len(VECTORS) : (i + 1) * len(VECTORS), part] = mean[:, part]
    return rows


def _summary(drops: Float[np.ndarray, "vectors draw fact"], asked: Asked, seed: int) -> dict[str, Any]:
    """Mean drops with intervals over subjects, paired differences, and the harm of each random draw."""
    mean, found = np.nanmean(drops, axis=1), {}
    for i, (name, part) in enumerate(asked.where().items()):
        subjects, own = list(asked.sets[name].subjects), seed + i  # sets are resampled independently
        rows = {"found": mean[0, part], "random": mean[1, part], "found - random": mean[0, part] - mean[1, part]}
        found[name] = {row: bootstrap(values, subjects, own) for row, values in rows.items()}
    forget = found["forget"]["found"]
    harm = {row: drops[i, :, asked.where()["forget"]].mean(axis=1) for i, row in enumerate(VECTORS)}
    as_bad = int((harm["random"] >= np.nanmean(harm["found"])).sum())
    return {
        "sets": {name: {row: _plain(one) for row, one in rows.items()} for name, rows in found.items()},
        "forget_less": {
            name: _plain(_difference(forget, rows["found"])) for name, rows in found.items() if name != "forget"
        },
        "draws": {row: [None if np.isnan(one) else float(one) for one in values] for row, values in harm.items()},
        "random_draws_as_bad": as_bad,
        "p_random": (as_bad + 1) / (drops.shape[1] + 1),
    }


def _difference(one: Draws, other: Draws) -> Draws:
    """Of two means over different facts."""
    return Draws(one.mean - other.mean, one.draws - other.draws, one.n + other.n, one.clusters + other.clusters)


def _plain(found: Draws) -> dict[str, Any]:
    """The mean with its interval, in JSON form."""
    return found.estimate().model_dump(mode="json")
