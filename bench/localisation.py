"""Is a localiser right? Every one we have against places that are known because the facts were planted there.

    python -m bench.localisation [--blocks] [--seeds 3] [--first-seed 1] [--json]

Without `--blocks`: facts written by hand into single value vectors of dense and MoE models, looked for one by one
(k = 1). With it, also groups of facts trained into one block of neurons, or one expert (k = the block's size; experts:
k = 1); the models are trained once, minutes each, and kept. Only groups recalled with exact match of at least 0.9
count. Seed 0 of the blocks was used to choose `located`, so seeds count from 1.

Columns: recall@k (precision@k is the same number), mean rank of the true places (of the best true place for k = 1 the
same), AUROC, right layer; and, with the value vectors of the k named places zeroed, how far the log-probability of the
forget and the near answers falls, beside k random places. Brackets are 95% intervals that resample models' groups.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from jaxtyping import Float

from bench.localisers import EXPERTS, LAYERS, NEURONS, Asked
from workbench.changes import kept
from workbench.checkpoint import Checkpoint
from workbench.concepts import FactSet
from workbench.demo.planted import plant
from workbench.demo.planted_blocks import PlantedBlocks, plant_blocks
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.sites import Site
from workbench.stats import auc, bootstrap

DRAWS = 3
"""Random sets of places that ablating is held against."""


@dataclass(frozen=True)
class Case:
    """One question with a known answer."""

    truth: str
    """What kind of truth: `by hand, dense`, `blocks, moe`, ..."""
    cluster: str
    """Cases of one cluster are not independent."""
    asked: Asked
    sites: frozenset[Site]
    """The true neurons."""
    falls: dict[frozenset[Site], tuple[float, float]] = field(default_factory=dict, compare=False)
    """What zeroing places has cost the forget and near answers, as far as it was tried; of no place: their means."""

    @property
    def layer(self) -> int:
        """The true layer."""
        (layer,) = {site.layer for site in self.sites}
        assert layer is not None
        return layer

    @property
    def expert(self) -> Site | None:
        """The true expert; None in a dense model."""
        (expert,) = {site.expert for site in self.sites}
        return None if expert is None else Site(self.layer, "expert", expert)


@dataclass(frozen=True)
class Result:
    """How one localiser did in one case; None is not applicable."""

    truth: str
    localiser: str
    cluster: str
    recall: float | None = None
    rank: float | None = None
    auroc: float | None = None
    right_layer: float | None = None
    forget_drop: float | None = None
    random_drop: float | None = None
    near_drop: float | None = None


MEASURES = tuple(one.name for one in fields(Result))[3:]


def by_hand(seeds: Sequence[int], archs: Sequence[str] = ("llama", "olmoe")) -> Iterator[Case]:
    """Facts in hand-written value vectors, one case a fact."""
    for arch in archs:
        for seed in seeds:
            planted = plant(arch, seed)
            model = HookedModel(planted.model, planted.tokenizer, name=f"by hand, {arch}, seed {seed}")
            concept = planted.concept
            every = (*concept.forget, *concept.near, *concept.far)
            for number, fact in enumerate(every):
                rest = tuple(other for other in every if other.subject != fact.subject)
                asked = Asked(
                    model,
                    FactSet(name="one", facts=(fact,)),
                    FactSet(name="rest", facts=rest),
                    peers=FactSet(name="peers", facts=rest),
                    seed=1000 * seed + number,
                )
                kind = "dense" if arch == "llama" else "moe"
                yield Case(f"by hand, {kind}", f"{seed} {fact.subject}", asked, frozenset({planted.sites[fact.prompt]}))


def in_blocks(planted: PlantedBlocks) -> Iterator[Case]:
    """Facts trained into blocks or experts, one case a group that was learnt."""
    kind = planted.recipe.kind
    with Checkpoint(planted.folder).open() as model:
        for number, (place, group) in enumerate(zip(planted.places, planted.groups, strict=True)):
            if group.fit:
                concept = planted.concept(place)
                asked = Asked(
                    model,
                    concept.forget,
                    concept.near,
                    (concept.far, concept.retain),
                    seed=1000 * planted.seed + number,
                )
                yield Case(f"blocks, {kind}", f"{planted.seed} {place.topic}", asked, frozenset(place.sites))


def results(case: Case, names: Sequence[str] | None = None, ablate: bool = True) -> Iterator[Result]:
    """Every localiser that fits the case."""
    whole_expert = case.truth == "blocks, moe"
    for name, localise in {} if whole_expert else NEURONS.items():
        if names is None or name in names:
            found = localise(case.asked)
            flat = {
                Site(s.layer, "mlp_act", i, s.expert): float(v) for s, row in found.items() for i, v in enumerate(row)
            }
            yield scored(case, name, flat, case.sites, ablate)
    for name, rate in {} if whole_expert else LAYERS.items():
        if (names is None or name in names) and case.truth != "by hand, moe":
            layers = rate(case.asked)
            right = None if np.isnan(layers).all() else float(np.nanargmax(layers) == case.layer)
            yield Result(case.truth, name, case.cluster, right_layer=right)
    for name, assess in EXPERTS.items() if case.expert else ():
        if names is None or name in names:
            assert case.expert is not None
            yield scored(
                case, f"{name} (expert)", assess(case.asked), frozenset({case.expert}), ablate and whole_expert
            )


def scored(case: Case, name: str, found: dict[Site, float], true: frozenset[Site], ablate: bool) -> Result:
    """Hold scores against the truth; what was not scored is ranked last."""
    sites = list(found)
    values = np.nan_to_num(np.array(list(found.values()), dtype=float), nan=-np.inf)
    is_true = np.array([site in true for site in sites])
    order = np.argsort(-values, kind="stable")
    # ties share the mean of their ranks, so that a localiser that scores all places alike is at chance
    rank = np.array([(values > v).sum() + ((values == v).sum() + 1) / 2 for v in values[is_true]])
    best = [sites[i] for i in order[: len(true)]]
    share = np.array([_layer_share(sites, values, layer) for layer in range(case.asked.model.n_layers)])
    drops = ablation(case, best) if ablate else (None, None, None)
    return Result(
        case.truth,
        name,
        case.cluster,
        float(np.mean([site in true for site in best])),
        float(rank.mean()),
        auc(values[is_true], values[~is_true]),
        float(share.argmax() == case.layer),
        *drops,
    )


def _layer_share(sites: Sequence[Site], values: Float[np.ndarray, " n"], layer: int) -> float:
    """Positive scores of a layer's 32 best places, added up (k = 1: the best place's)."""
    inside = np.sort(values[[site.layer == layer for site in sites]])[::-1][:32]
    return float(inside[np.isfinite(inside)].clip(min=0).sum())


@torch.no_grad()
def ablation(case: Case, named: Sequence[Site]) -> tuple[float, float, float]:
    """Mean fall of the forget answers' log-probability, the same for random places, and the near answers' fall."""
    model, asked = case.asked.model, case.asked
    forget, near = (score(model, facts.facts).logprob for facts in (asked.forget, asked.near))
    hurt = [
        forget.sub(_without(model, named, asked.forget)).mean(),
        near.sub(_without(model, named, asked.near)).mean(),
    ]
    drawn = [
        forget.sub(_without(model, _random_places(model, named, asked.seed + draw), asked.forget)).mean()
        for draw in range(DRAWS)
    ]
    return float(hurt[0]), float(torch.stack(drawn).mean()), float(hurt[1])


def _random_places(model: HookedModel, like: Sequence[Site], seed: int) -> list[Site]:
    if like[0].part == "mlp_act":
        return model.random_neurons(len(like), seed)
    experts = [Site(site.layer, "expert", site.expert) for site, _ in model.mlps()]
    return [experts[i] for i in np.random.default_rng(seed).permutation(len(experts))[: len(like)]]


def _without(model: HookedModel, sites: Sequence[Site], facts: FactSet) -> torch.Tensor:
    """Log-probability of answers with the value vectors of some neurons, or experts, zeroed."""
    width = {site: len(rows) for site, rows in model.mlps()}
    neurons = [
        neuron
        for site in sites
        for neuron in (
            [site]
            if site.part == "mlp_act"
            else [
                Site(site.layer, "mlp_act", i, site.index)
                for i in range(width[Site(site.layer, "mlp_act", None, site.index)])
            ]
        )
    ]
    stored = model.stored_at(neurons)
    with kept(model, list({name for name, _ in stored})):
        for _, vector in stored:
            vector.zero_()
        return score(model, facts.facts).logprob


def summary(found: Sequence[Result]) -> list[dict[str, object]]:
    """One row a truth and localiser: every measure's mean with its interval."""
    rows = []
    for truth, name in dict.fromkeys((one.truth, one.localiser) for one in found):
        mine = [one for one in found if (one.truth, one.localiser) == (truth, name)]
        row: dict[str, object] = {"truth": truth, "localiser": name, "cases": len(mine)}
        for measure in MEASURES:
            pairs = [(getattr(one, measure), one.cluster) for one in mine if getattr(one, measure) is not None]
            if pairs:
                values, clusters = zip(*pairs, strict=True)
                estimate = bootstrap(np.array(values), clusters, draws=2000).estimate()
                row[measure] = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
            else:
                row[measure] = None
        rows.append(row)
    return rows


def printed(rows: Sequence[dict[str, object]]) -> str:
    """The table."""
    heads = ("recall@k", "rank", "AUROC", "right layer", "forget falls", "random", "near falls")
    lines = [f"{'truth':15} {'localiser':48} {'n':>3} " + " ".join(f"{head:>18}" for head in heads)]
    for row in rows:
        cells = [_cell(row[measure], 1 if measure == "rank" else 2) for measure in MEASURES]
        lines.append(
            f"{row['truth']:15} {row['localiser']:48} {row['cases']:>3} " + " ".join(f"{c:>18}" for c in cells)
        )
    return "\n".join(lines)


def _cell(value: object, digits: int) -> str:
    if not isinstance(value, dict):
        return "-"
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f} {value['high']:.{digits}f}]"


def main() -> None:
    """Plant, localise, print."""
    parser = argparse.ArgumentParser(description="score localisers against planted truth")
    parser.add_argument("--blocks", action="store_true", help="also score the trained blocks (trained once, kept)")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--first-seed", type=int, default=1, help="first seed of the blocks")
    parser.add_argument("--kinds", nargs="+", default=["dense", "moe"], choices=["dense", "moe"])
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    archs = [{"dense": "llama", "moe": "olmoe"}[kind] for kind in asked.kinds]
    found = [one for case in by_hand(range(asked.seeds), archs) for one in results(case)]
    groups: list[dict[str, object]] = []
    for kind in asked.kinds if asked.blocks else ():
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
            planted = plant_blocks(kind, seed, progress=_tell)
            groups += [{"kind": kind, "seed": seed, "fit": one.fit, **one.model_dump()} for one in planted.groups]
            found += [one for case in in_blocks(planted) for one in results(case)]
    rows = summary(found)
    print(json.dumps({"rows": rows, "groups": groups}, indent=2) if asked.json else printed(rows))
    if "attribution_patching" not in NEURONS and not asked.json:
        print("attribution_patching is not installed, so it is not in the table")
    for group in groups if not asked.json else ():
        print(
            f"{group['kind']} seed {group['seed']}: {group['topic']} in layer {group['layer']}, exact match "
            f"{group['with_block']:.2f} with and {group['without_block']:.2f} without"
            + ("" if group["fit"] else "; too low, left out")
        )


def _tell(what: str, step: int, steps: int) -> None:
    if step == steps or step % 50 == 0:
        print(f"\rtraining {what}: {step}/{steps}   ", end="" if step < steps else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
