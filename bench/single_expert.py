"""Does it matter which expert is unlearned in, and does the anchor help? Every choice, with intervals.

    python -m bench.single_expert
    python -m bench.single_expert --truths free topic --seeds 0 1 2 --cases 1 --steps 80 --lr 1e-3

`blocks`: groups of facts trained into one known expert (`workbench.demo.planted_blocks`); `free` and `topic`: the
demo's mixtures, left to themselves or routed by topic, where nobody knows the place. The models are trained once,
minutes each, and kept. Every ranking (gradient, knock-out, published affinity) gives its first and its last expert; one
random expert is shared by all. Each is trained by the same loss for the same steps, with anchor 0, 1 and 10.

Columns: forget answers given half-way and at the end, near and retain answers, forget facts that come back when a
fifth of them is relearned (20 steps, the others are counted), share of the chosen experts that stays (forget tokens),
share of forget tokens sent to the trained expert before and after, CPU seconds. Brackets are 95% intervals that
resample the subjects of all models. Below: the fall of the forget answers, the first expert's less the last one's and
less the random one's, and with less without the anchor, fact by fact; then what each ranking puts first, with the
forget answers half-way and at the end, and what comes back.
Budget: learning rate and steps were chosen on blocks of seed 0, so blocks count from seed 1. The other models hold four
times as many facts a concept and barely move with it: give them `--steps 80 --lr 1e-3`.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from audits.attacks.relearn import Relearn
from interventions.single_expert import SingleExpert
from workbench.checkpoint import Checkpoint
from workbench.concepts import Concept
from workbench.demo.models import build
from workbench.demo.planted_blocks import plant_blocks
from workbench.demo.world import world
from workbench.expert_ranking import RankedBy, ranking
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.sites import Site
from workbench.stats import bootstrap

RANKINGS: tuple[RankedBy, ...] = ("gradient", "knockout", "affinity")
ANCHORS = (0.0, 1.0, 10.0)
TOPICS = ("chemistry", "zoology", "music", "cuisine", "astronomy", "commerce")
ATTACK = Relearn(share=0.2, steps=(20,), seeds=(0,))


@dataclass(frozen=True)
class Case:
    """One concept in one model."""

    truth: str
    name: str
    model: HookedModel
    concept: Concept
    expert: Site | None
    """Where it lies; None where nobody knows."""


@dataclass(frozen=True)
class Row:
    """One expert trained with one anchor; arrays have an entry a fact."""

    truth: str
    case: str
    choice: str
    anchor: float
    expert: str
    subjects: tuple[str, ...]
    before: np.ndarray
    half: np.ndarray
    forget: np.ndarray
    near: float
    retain: float
    back: float
    overlap: float
    sent: tuple[float, float]
    seconds: float


@dataclass
class Halfway:
    """Asks for the forget answers in the middle of the training."""

    model: HookedModel
    concept: Concept
    step: int
    found: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __call__(self, step: int, _: float) -> None:
        """After every step."""
        if step == self.step:
            self.found = given(self.model, self.concept, "forget")


def given(model: HookedModel, concept: Concept, part: str) -> np.ndarray:
    """Whether each answer is given."""
    return score(model, getattr(concept, part).facts).greedy.double().numpy()


def cases(truth: str, seeds: Sequence[int], count: int) -> Iterator[Case]:
    """The first concepts of every model."""
    for seed in seeds:
        if truth == "blocks":
            planted = plant_blocks("moe", seed)
            fit = [p for p, group in zip(planted.places, planted.groups, strict=True) if group.fit]
            with Checkpoint(planted.folder).open() as model:
                for place in fit[:count]:
                    true = Site(place.layer, "expert", place.expert)
                    yield Case(truth, f"{seed} {place.topic}", model, planted.concept(place), true)
        else:
            with Checkpoint(build("moe", "taught", TOPICS[0], seed, routing=truth)).open() as model:
                for topic in TOPICS[:count]:
                    yield Case(truth, f"{seed} {topic}", model, world(seed).concept(topic), None)


def chosen(case: Case, seed: int) -> dict[str, Site]:
    """Name of a choice -> its expert."""
    found: dict[str, Site] = {}
    for by in RANKINGS:
        order = list(ranking(case.model, case.concept.forget.facts, by))
        found |= {f"{by} first": order[0], f"{by} last": order[-1]}
    firsts = {found[f"{by} first"] for by in RANKINGS} | {case.expert}
    found["random"] = random.Random(f"{seed} {case.name}").choice([site for site in order if site not in firsts])
    return found


def rows(case: Case, asked: argparse.Namespace) -> Iterator[Row]:
    """Every choice with every anchor; an expert that is chosen twice is trained once."""
    trained: dict[tuple[Site, float], Row] = {}
    choices = chosen(case, 0)
    if case.expert is not None:
        choices["true"] = case.expert
    for choice, site in choices.items():
        for anchor in ANCHORS:
            if (site, anchor) not in trained:
                trained[site, anchor] = one(case, site, anchor, asked)
                print(".", end="", file=sys.stderr, flush=True)
            row = trained[site, anchor]
            yield Row(**{**vars(row), "choice": choice})


def one(case: Case, site: Site, anchor: float, asked: argparse.Namespace) -> Row:
    """Train one expert and look."""
    model, concept = case.model, case.concept
    before = given(model, concept, "forget")
    half = Halfway(model, concept, asked.steps // 2)
    method = SingleExpert(loss=asked.loss, anchor=anchor, steps=asked.steps, lr=asked.lr)
    began = time.process_time()
    edit = method.fit(model, concept, [site], progress=half)
    seconds = time.process_time() - began
    with edit.on(model):
        after = {part: given(model, concept, part) for part in ("forget", "near", "retain")}
        back = float(np.nanmean(ATTACK.look(model, concept.forget).values))
    routing = edit.notes["routing"]["forget"]
    sent = routing["sent_to"][str(site)]
    return Row(
        case.truth,
        case.name,
        "",
        anchor,
        str(site),
        concept.forget.subjects,
        before,
        half.found,
        after["forget"],
        float(after["near"].mean()),
        float(after["retain"].mean()),
        back,
        routing["overlap"],
        (sent["before"], sent["after"]),
        seconds,
    )


def interval(values: Sequence[np.ndarray], mine: Sequence[Row]) -> str:
    """Mean over all facts of some rows; subjects are resampled."""
    clusters = [f"{row.case} {subject}" for row in mine for subject in row.subjects]
    found = bootstrap(np.concatenate(values), clusters, draws=2000).estimate()
    return f"{found.mean:.2f} [{found.low:.2f} {found.high:.2f}]"


def table(found: Sequence[Row]) -> Iterator[str]:
    """One line a choice and anchor."""
    heads = ("half-way", "forget", "near", "retain", "back", "overlap", "sent", "CPU s")
    widths = (17, 17, 5, 6, 5, 7, 10, 6)
    yield f"{'choice':15} {'anchor':>6} " + " ".join(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True))
    for choice, anchor in dict.fromkeys((row.choice, row.anchor) for row in found):
        mine = [row for row in found if (row.choice, row.anchor) == (choice, anchor)]
        means = {n: np.mean([getattr(r, n) for r in mine]) for n in ("near", "retain", "back", "overlap", "seconds")}
        sent = np.mean([row.sent for row in mine], axis=0)
        cells = (
            interval([row.half for row in mine], mine),
            interval([row.forget for row in mine], mine),
            *(f"{means[name]:.2f}" for name in ("near", "retain", "back", "overlap")),
            f"{sent[0]:.2f} > {sent[1]:.2f}",
            f"{means['seconds']:.1f}",
        )
        yield f"{choice:15} {anchor:>6g} " + " ".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))


def paired(found: Sequence[Row]) -> Iterator[str]:
    """How much farther the forget answers fall, fact by fact."""
    at = {(row.case, row.choice, row.anchor): row for row in found}
    names = list(dict.fromkeys(row.case for row in found))
    pairs = [
        (f"{by} first less {other}, anchor {anchor:g}", (f"{by} first", anchor), (other, anchor))
        for by in RANKINGS
        for other in (f"{by} last", "random")
        for anchor in ANCHORS
    ]
    pairs += [
        (f"{by} first, anchor {anchor:g} less 0", (f"{by} first", anchor), (f"{by} first", 0.0))
        for by in RANKINGS
        for anchor in ANCHORS[1:]
    ]
    yield f"{'the forget answers fall farther by':50} {'half-way':>17} {'at the end':>17}"
    for said, ours, theirs in pairs:
        mine, other = ([at[name, *which] for name in names] for which in (ours, theirs))
        both = [
            interval([getattr(b, when) - getattr(a, when) for a, b in zip(mine, other, strict=True)], mine)
            for when in ("half", "forget")
        ]
        yield f"{said:50} {both[0]:>17} {both[1]:>17}"


def picks(found: Sequence[Row], anchor: float = 1.0) -> Iterator[str]:
    """Which expert each ranking puts first, and the forget answers half-way and after training it."""
    at = {(row.case, row.choice): row for row in found if row.anchor == anchor}
    yield f"{'model, concept':20} {'true':14} " + " ".join(f"{by:>30}" for by in RANKINGS)
    for case in dict.fromkeys(row.case for row in found):
        true = at.get((case, "true"))
        mine = [at[case, f"{by} first"] for by in RANKINGS]
        cells = [
            f"{row.expert} {row.half.mean():.2f} {row.forget.mean():.2f} back {row.back:.2f}".rjust(30) for row in mine
        ]
        yield f"{case:20} {true.expert if true else '-':14} " + " ".join(cells)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description="compare experts to unlearn in, and anchors")
    parser.add_argument("--truths", nargs="+", default=["blocks"], choices=["blocks", "free", "topic"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--cases", type=int, default=2, help="concepts of each model")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--loss", default="npo")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for truth in asked.truths:
        found = [row for case in cases(truth, asked.seeds, asked.cases) for row in rows(case, asked)]
        before = interval([row.before for row in found], found)
        count = len({row.case for row in found})
        print(f"\n== {truth}: {count} concepts, {asked.loss}, {asked.steps} steps, lr {asked.lr:g}; before {before}")
        for part in (table, paired, picks):
            print("\n".join(part(found)), flush=True)


if __name__ == "__main__":
    main()
