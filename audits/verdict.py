"""From evidence to a verdict: the ladder with its caps, the utility verdict, and where axes contradict each other.

The level is the highest rung with all lower rungs evidenced. One claim that failed, could not decide or was not run
stops the climb, and the report names it; a claim that is not needed stops it only by finding knowledge, or by
breaking. There is no averaged score. Beside the level stands whether knowledge was found at all: `undecided` below U4
is a lack of evidence, `found` is evidence.
"""

from collections.abc import Sequence

from audits.claims import Claim
from audits.judge import JudgeOptions
from workbench.evidence import ALPHA, LEVELS, Evidence, Knowledge, Utility

GOOD = ("PASS", "WARN")
"""Statuses that evidence a claim."""


def ladder(claims: Sequence[Claim], evidence: Sequence[Evidence], has_reference: bool) -> tuple[int, str]:
    """The level reached, and what keeps it from the next one (empty at the top)."""
    idle = _idle_attacks(claims, evidence)
    extra = {claim.id for claim in claims if not claim.needed}
    for rung in range(1, len(LEVELS)):
        stops = [e for e in evidence if e.rung == rung and e.status not in GOOD and e.claim not in idle]
        stops = [e for e in stops if e.status in ("FAIL", "ERROR") or e.claim not in extra]
        if stops:
            return rung - 1, f"U{rung}: " + "; ".join(stop_words(e) for e in sorted(stops, key=_gravity))
        if rung == 5:
            return _equivalence(claims, evidence, has_reference)
    raise AssertionError("the ladder ends at U5")


def knowledge_of(level: int, evidence: Sequence[Evidence]) -> tuple[Knowledge, tuple[str, ...]]:
    """Whether any claim of U1 to U4 found the knowledge, and which.

    A level alone does not say it: a retrained model and a good fake can both end at U2, the one because an interval is
    too wide, the other because something was found. Where the base does not know the facts there is nothing to find:
    the audit then gives no evidence here.
    """
    found = [e for e in evidence if e.rung in (1, 2, 3, 4) and e.status == "FAIL"]
    if found:
        return "found", tuple(e.claim for e in sorted(found, key=lambda e: e.rung or 0))
    return ("not found" if level >= 4 else "undecided"), ()


def _idle_attacks(claims: Sequence[Claim], evidence: Sequence[Evidence]) -> set[str]:
    """Prompt attacks without power, in rungs where another prompt attack had power: they do not cap the level."""
    attacks = [(claim, e) for claim, e in zip(claims, evidence, strict=True) if claim.attack]
    strong = {claim.rung for claim, e in attacks if e.value is not None and not e.note.startswith("no power")}
    return {claim.id for claim, e in attacks if claim.rung in strong and e.note.startswith("no power")}


def _equivalence(claims: Sequence[Claim], evidence: Sequence[Evidence], has_reference: bool) -> tuple[int, str]:
    if not has_reference:
        return 4, "U5: needs a retrained reference; give one with --reference"
    open_ones = [
        e
        for claim, e in zip(claims, evidence, strict=True)
        if claim.primary and (e.p_equivalence is None or e.p_equivalence > ALPHA)
    ]
    if open_ones:
        return 4, "U5: not shown equivalent to the reference on " + ", ".join(e.claim for e in open_ones)
    return 5, ""


def _gravity(e: Evidence) -> tuple[int, float]:
    order = ("FAIL", "ERROR", "INCONCLUSIVE", "NOT_RUN")
    return order.index(e.status), -(e.difference.mean if e.difference else 0.0)


def stop_words(e: Evidence) -> str:
    """One stop in words: the claim, its status and its number."""
    if e.value is None:
        return f"{e.claim} {'error' if e.status == 'ERROR' else 'not run'} ({e.why_missing})"
    against = e.reference if e.compared_with == "reference" else e.floor
    control = "" if against is None else f", {e.compared_with} {against.mean:.2f}"
    where = f" at {e.where}" if e.where else ""
    word = {"FAIL": "fails", "INCONCLUSIVE": "inconclusive"}[e.status]
    reason = " (no power)" if e.note.startswith("no power") else ""
    return f"{e.claim} {word}{reason}: {e.value.mean:.2f}{where}{control}"


UTILITY = ("near", "far", "fluency")
"""Claims the utility verdict rests on; others stand beside it."""


def utility_of(evidence: Sequence[Evidence], options: JudgeOptions) -> tuple[Utility, str]:
    """Whether other knowledge stands, and the claim that says so."""
    measured = [e for e in evidence if e.claim in UTILITY and e.difference is not None]
    if not measured:
        return "not measured", "the concept has no near facts, far facts or text"
    for e in measured:
        if _loss(e) > (options.broken_fluency if e.claim == "fluency" else options.broken):
            return "broken", _utility_words(e)
    for status in ("FAIL", "INCONCLUSIVE"):
        for e in measured:
            if e.status == status:
                doubt = "" if status == "FAIL" else " (a loss beyond the margin cannot be excluded)"
                return "degraded", _utility_words(e) + doubt
    return "intact", "no loss beyond the margin on " + ", ".join(e.claim for e in measured)


def _loss(e: Evidence) -> float:
    assert e.difference is not None
    return e.difference.mean if e.claim == "fluency" else -e.difference.mean


def _utility_words(e: Evidence) -> str:
    assert e.value is not None and e.before is not None
    return f"{e.claim} {e.value.mean:.2f}, base {e.before.mean:.2f}"


PHRASES = {
    "choice": "among wrong answers it picks the right one for {value:.2f} of them",
    "lens": "the lens at {where} already says {value:.2f} of them",
    "probe": "a linear probe at {where} still reads {value:.2f} of them",
    "depth": "the base still reads {value:.2f} of the depth from its states",
    "vectors": "the concept's value vectors still promote {value:.2f} of their top tokens",
    "causal": "the places that caused them in the base still raise them by {value:.2f}",
    "relearn": "a short relearning on a few facts brings back {value:.2f} of the others",
    "relearn_subjects": "relearning half of the subjects brings back {value:.2f} of the others'",
    "relearn_near": "a short training on related facts brings back {value:.2f}",
    "relearn_text": "a short training on plain text brings back {value:.2f}",
    "quantise_8": "rounding to 8 bits brings back {value:.2f}",
    "quantise_3": "rounding to 3 bits brings back {value:.2f}",
    "quantise": "rounding to 4 bits brings back {value:.2f}",
    "short_list": "short lists made from all layers hold {value:.2f} of them",
    "prune": "zeroing the smallest weights brings back {value:.2f}",
    "noise": "shaking the weights brings back {value:.2f}",
    "orthogonalise": "projecting out the direction it was moved along brings back {value:.2f}",
    "prune_difference": "cutting neurons that speak against them brings back {value:.2f}",
    "soft_prompt": "trained vectors before the question bring back {value:.2f}, of facts they were not trained on",
    "latent_perturbation": "one trained vector inside brings back {value:.2f}, of facts it was not trained on",
    "patch_back": "with the base's neuron coefficients put in, its own value vectors say {value:.2f} of them",
    "membership": "its losses betray what it was trained on (AUC {value:.2f})",
}
"""How an inner reading that contradicts the outputs is told."""


def contradictions(evidence: Sequence[Evidence]) -> tuple[str, ...]:
    """Sentences on where the mouth and the inside disagree, strongest first."""
    direct = next((e for e in evidence if e.claim == "direct"), None)
    if direct is None or direct.value is None or direct.status == "FAIL":
        return ()
    inside = [e for e in evidence if e.claim in PHRASES and e.status == "FAIL" and e.value is not None]
    inside.sort(key=lambda e: -(abs(e.difference.mean) if e.difference else 0.0))
    return tuple(f"Asked directly it gives {direct.value.mean:.2f} of the answers, but {tell(e)}" for e in inside)


def tell(e: Evidence) -> str:
    """A failed inner claim as half a sentence, with the control it was held against."""
    assert e.value is not None
    control = e.reference if e.compared_with == "reference" else e.floor
    told = PHRASES[e.claim].format(where=e.where or "some layer", value=e.value.mean)
    return told + ("" if control is None else f" ({e.compared_with}: {control.mean:.2f})")
