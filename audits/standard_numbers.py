"""The numbers papers compare methods by, from stored readings: TOFU's two, MUSE's PrivLeak, the reference attack.

Source: Maini et al. 2024, https://arxiv.org/abs/2401.06121 (forget quality, model utility); Shi et al. 2024,
https://arxiv.org/abs/2407.06460 (PrivLeak). The formulas are `audits.metrics`. TOFU's paper has the arithmetic mean of
the wrong answers' probabilities in its truth ratio and does not speak of the end-of-text token; its code
(`aggregate_eval_stat.py`), and OpenUnlearning's, have the geometric mean and count that token: both stand here.
TOFU's utility is over three sets; here `near` stands for the retain set, and `far` for real authors and world facts,
whose probability is among options. Parts that were not read are left out and the rest is named.
Read it as: what a table in a paper would say of this checkpoint. They decide nothing: the claims do.
Does not show: a number comparable with a paper's unless data, items and generated tokens are the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from audits.items import Readings
from audits.metrics.forget_quality import forget_quality
from audits.metrics.membership import Membership, less_reference, membership_of
from audits.metrics.model_utility import TofuSet, model_utility
from audits.metrics.privleak import privleak, privleak_between
from audits.metrics.truth_ratio import truth_ratio
from workbench.errors import BadInput
from workbench.evidence import StandardNumber
from workbench.trace import Trace

STANDARD_READINGS = (
    "tofu_losses.forget",
    "tofu_losses.near",
    "tofu_losses.far",
    "rouge_l.near",
    "rouge_l.far",
    "membership_min_k.forget",
    "membership_loss.forget",
)
"""What they are made of; asked for with the suite `full`."""

TOFU = "TOFU, arXiv:2401.06121"
MUSE = "MUSE, arXiv:2407.06460"

NEEDS_REFERENCE = "needs a model retrained without the concept; give one with --reference"

NEEDS_NEVER_TAUGHT = "needs never-taught facts beside the reference, and none were read; add some to the concept"

RATIOS, MEMBERS, OTHERS = "tofu_losses.forget", "membership_min_k.forget", "membership_min_k.never_taught"
LOSSES, OTHER_LOSSES = "membership_loss.forget", "membership_loss.never_taught"

UTILITY_PARTS = (
    "near probability",
    "near truth ratio",
    "near ROUGE-L recall",
    "far probability among options",
    "far truth ratio",
    "far ROUGE-L recall",
)
"""All scores that can enter utility."""


class Models(NamedTuple):
    """The readings of an audit."""

    after: Readings
    """The audited checkpoint."""
    base: Readings
    """The model before."""
    reference: Readings | None
    """The retrained model, if there is one that is used."""
    lacking: str
    """What to say where it is not there."""

    def retrained(self, *keys: str) -> Readings:
        """The reference, when it and the checkpoint hold some readings.

        Raises:
            BadInput: saying what is missing.
        """
        if self.reference is None:
            raise BadInput(self.lacking)
        require(self.after, "checkpoint", *keys)
        require(self.reference, "reference", *keys)
        return self.reference


def standard_numbers(
    after: Readings, base: Readings, reference: Readings | None, ignored: str = ""
) -> tuple[StandardNumber, ...]:
    """All of them, each with a value or the reason why there is none.

    Args:
        after: readings of the audited checkpoint.
        base: of the model before.
        reference: of the retrained model, if there is one.
        ignored: why a reference that was given is not used.
    """
    lacking = f"the reference that was given is not used: {ignored}" if ignored else NEEDS_REFERENCE
    models = Models(after, base, reference, lacking)
    return tuple(_told(head, how, models) for head, how in NUMBERS)


def any_value(numbers: tuple[StandardNumber, ...]) -> bool:
    """Whether there is anything to show."""
    return any(number.value is not None for number in numbers)


def _told(head: Mapping[str, Any], how: Callable[[Models], dict[str, Any]], models: Models) -> StandardNumber:
    """One number; what stands in its way is its reason and nobody else's."""
    try:
        return StandardNumber(**head, **how(models))
    except BadInput as error:
        return StandardNumber(**head, why_missing=str(error))
    except Exception as error:
        return StandardNumber(**head, why_missing=f"could not be computed: {type(error).__name__}: {error}")


def require(readings: Readings, role: str, *keys: str) -> None:
    """Refuse readings that lack one of these.

    Raises:
        BadInput: naming them.
    """
    if absent := [key for key in keys if key not in readings]:
        raise BadInput(f"not read of the {role}: {', '.join(absent)}; --suite full reads it")


# ---- forget quality


def _forget_quality(models: Models, published: bool) -> dict[str, Any]:
    reference = models.retrained(RATIOS)
    ours, theirs = (_ratios(r[RATIOS], published) for r in (models.after, reference))
    there = np.isfinite(ours) & np.isfinite(theirs)
    if not there.any():
        raise BadInput(_no_ratios(models.after[RATIOS], published))
    found = forget_quality(ours[there], theirs[there])
    wording = (
        "geometric mean of the wrong answers, end-of-text token counted"
        if published
        else "arithmetic mean of the wrong answers, answer tokens only"
    )
    return {
        "value": found.p_value,
        "base": _base_quality(models.base, theirs, there, published),
        "entered": f"truth ratios of {int(there.sum())} of {len(ours)} forget facts, {wording}; as many fully told "
        f"apart would give {found.floor:.1g}",
    }


def _base_quality(
    base: Readings, theirs: Float[np.ndarray, " fact"], there: Bool[np.ndarray, " fact"], published: bool
) -> float | None:
    """What the base, which knows, gives on the same facts."""
    if RATIOS not in base:
        return None
    before = _ratios(base[RATIOS], published)
    return forget_quality(before[there], theirs[there]).p_value if np.isfinite(before[there]).all() else None


def _no_ratios(trace: Trace, published: bool) -> str:
    if published and np.isfinite(_ratios(trace, published=False)).any():
        return "the tokenizer has no end-of-text token, which the published code counts"
    return "no forget fact has wrong answers, so there is no truth ratio; add some under 'distractors'"


def _ratios(trace: Trace, published: bool) -> Float[np.ndarray, " fact"]:
    read = Losses.of(trace, published)
    return truth_ratio(read.paraphrased, read.wrong, published)


# ---- utility


@dataclass(frozen=True)
class Losses:
    """A stored `tofu_losses` reading in one variant; losses are means a token in nats, NaN where there is none."""

    answer: Float[np.ndarray, " fact"]
    """Of the answer."""
    paraphrased: Float[np.ndarray, " fact"]
    """Of its rewording; of the answer itself where there is none."""
    wrong: Float[np.ndarray, "fact option"]
    """Of the wrong answers."""

    @classmethod
    def of(cls, trace: Trace, published: bool) -> "Losses":
        """With the end-of-text token when `published`."""
        values = trace.pick("end", "with" if published else "without").values
        answer, reworded, wrong = values[:, 0], values[:, 1], values[:, 2:]
        return cls(answer, np.where(np.isfinite(reworded), reworded, answer), wrong)

    def of_facts(self, chosen: Bool[np.ndarray, " fact"]) -> TofuSet:
        """Some of the facts; what was generated is a reading of its own."""
        unread = np.full(int(chosen.sum()), np.nan)
        return TofuSet(self.answer[chosen], self.paraphrased[chosen], self.wrong[chosen], unread)


@dataclass(frozen=True)
class Part:
    """One of the scores that enter utility."""

    score: float
    """Its mean over facts."""
    n: int
    """How many."""


def utility_parts(readings: Readings, published: bool) -> dict[str, Part]:
    """Scores that can be had of some readings: {near, far} x {probability, truth ratio, ROUGE-L recall}."""
    parts: dict[str, Part] = {}
    for name in ("near", "far"):
        losses, rouge = readings.get(f"tofu_losses.{name}"), readings.get(f"rouge_l.{name}")
        if losses is not None:
            parts |= _loss_parts(name, Losses.of(losses, published), published)
        if rouge is not None:
            parts[f"{name} ROUGE-L recall"] = Part(float(rouge.values.mean()), rouge.values.size)
    return parts


def _loss_parts(name: str, read: Losses, published: bool) -> dict[str, Part]:
    """Probability (of far facts among options, so only where there are wrong answers) and truth ratio."""
    among = name == "far"
    every = np.isfinite(read.answer)
    some = every & np.isfinite(read.wrong).any(axis=1)
    wanted = (
        (f"{name} probability among options", some, "probability")
        if among
        else (f"{name} probability", every, "probability"),
        (f"{name} truth ratio", some, "truth_ratio"),
    )
    return {
        words: Part(read.of_facts(chosen).scores(among, published=published)[which], int(chosen.sum()))
        for words, chosen, which in wanted
        if chosen.any()
    }


def _utility(models: Models, published: bool) -> dict[str, Any]:
    ours = utility_parts(models.after, published)
    if not ours:
        require(models.after, "checkpoint", *STANDARD_READINGS[1:5])
        raise BadInput(
            "no near or far fact could be read in this variant; the published code counts an end-of-text token"
        )
    absent = [name for name in UTILITY_PARTS if name not in ours]
    said = ", ".join(f"{name} {part.score:.2f} ({part.n})" for name, part in ours.items())
    return {
        "value": model_utility({name: part.score for name, part in ours.items()}),
        "base": _same_parts(ours, models.base, published),
        "reference": None if models.reference is None else _same_parts(ours, models.reference, published),
        "entered": f"{len(ours)} of {len(UTILITY_PARTS)} scores (facts): {said}"
        + (f"; not there: {', '.join(absent)}" if absent else ""),
    }


def _same_parts(ours: Mapping[str, Part], readings: Readings, published: bool) -> float | None:
    """Another model's utility of the same parts; None when it lacks one."""
    theirs = utility_parts(readings, published)
    return None if ours.keys() - theirs.keys() else model_utility({name: theirs[name].score for name in ours})


# ---- PrivLeak


def _privleak(models: Models) -> dict[str, Any]:
    reference = models.retrained(MEMBERS)
    if OTHERS not in models.after or OTHERS not in reference:
        raise BadInput(NEEDS_NEVER_TAUGHT)
    ours, theirs = (membership_of(r[MEMBERS], r[OTHERS]) for r in (models.after, reference))
    found = privleak_between(ours, theirs)
    before = (
        membership_of(models.base[MEMBERS], models.base[OTHERS]) if {MEMBERS, OTHERS} <= models.base.keys() else None
    )
    return {
        "value": found.mean,
        "base": None if before is None else privleak(before.auc.mean, theirs.auc.mean),
        "interval": (found.low, found.high),
        "entered": f"Min-K% AUC {ours.auc.mean:.2f}, of the reference {theirs.auc.mean:.2f}; "
        f"{models.after[MEMBERS].values.size} forget facts against {models.after[OTHERS].values.size} never taught",
    }


# ---- the reference attack


def _reference_attack(models: Models) -> dict[str, Any]:
    reference = models.retrained(LOSSES)
    if OTHER_LOSSES not in models.after or OTHER_LOSSES not in reference:
        raise BadInput(NEEDS_NEVER_TAUGHT)
    found = _excess(models.after, reference).auc
    there = {LOSSES, OTHER_LOSSES} <= models.base.keys()
    return {
        "value": found.mean,
        "base": _excess(models.base, reference).auc.mean if there else None,
        "interval": (found.low, found.high),
        "entered": f"loss less the reference's; {models.after[LOSSES].values.size} forget facts against "
        f"{models.after[OTHER_LOSSES].values.size} never taught",
    }


def _excess(readings: Readings, reference: Readings) -> Membership:
    """How well a model's loss, less the reference's, tells the forget facts."""
    members, others = (less_reference(readings[key], reference[key]) for key in (LOSSES, OTHER_LOSSES))
    return membership_of(members, others)


def _both(name: str, unit: str, how: Callable[..., dict[str, Any]]) -> Any:
    """TOFU's two variants of a number."""
    for published, variant in ((False, "paper"), (True, "published code")):
        yield {"name": f"{name} ({variant})", "unit": unit, "source": TOFU}, partial(how, published=published)


NUMBERS: tuple[tuple[Mapping[str, Any], Callable[[Models], dict[str, Any]]], ...] = (
    *_both("forget quality", "p-value; 1: cannot be told from retrained", _forget_quality),
    *_both("model utility, TOFU-style", "harmonic mean; 1: perfect", _utility),
    (
        {
            "name": "PrivLeak",
            "unit": "%; 0: as retrained, below: still a member, above: marked by unlearning",
            "source": MUSE,
        },
        _privleak,
    ),
    (
        {
            "name": "membership by the reference attack",
            "unit": "AUC; .5: cannot be told, 1: still a member, 0: marked by unlearning",
            "source": "Carlini et al., arXiv:2012.07805",
        },
        _reference_attack,
    ),
)
"""Name, unit and source of each, and how it is computed."""
