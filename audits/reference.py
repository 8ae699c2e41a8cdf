"""Is the question sound: does the base know the facts, and does the reference not?

A reference that was trained on the forget facts after all would make every claim pass.

Read it as: a sentence when the reference answers more of the forget facts than of facts nobody was taught, beyond the
margin, or (without such facts) about as many as the base. The audit then goes on as if no reference had been given.
Does not show: that the reference was trained without the facts; one that knows them in a form not asked is not seen.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from audits.items import items_of, units
from workbench.stats import Draws, bootstrap
from workbench.trace import Trace

if TYPE_CHECKING:
    from audits.judge import JudgeOptions

DIRECT, FLOOR = "accuracy.forget", "accuracy.never_taught"


def reference_knows(reference: Mapping[str, Trace], base: Mapping[str, Trace], options: "JudgeOptions") -> str:
    """A warning, or nothing."""
    if DIRECT not in reference or DIRECT not in base:
        return ""
    own, before = _draws(reference[DIRECT], options, 0), _draws(base[DIRECT], options, 0)
    if FLOOR in reference:
        floor = _draws(reference[FLOOR], options, 1)
        excess = Draws(own.mean - floor.mean, own.draws - floor.draws, own.n, own.clusters).estimate().low
        knows, against = excess > options.margin, f"never-taught facts {floor.mean:.2f}"
    else:
        knows = before.mean > options.margin and own.mean > before.mean - options.margin
        against = f"base {before.mean:.2f}"
    if not knows:
        return ""
    return (
        f"The reference answers {own.mean:.2f} of the forget facts ({against}): it was trained on them or on "
        "their like. It is not used; every claim is judged as if no reference had been given"
    )


def base_ignorant(base: Mapping[str, Trace], options: "JudgeOptions") -> str:
    """A warning when the base does not answer the forget facts itself, or nothing."""
    if DIRECT not in base:
        return ""
    own = _draws(base[DIRECT], options, 0).mean
    floor = _draws(base[FLOOR], options, 1).mean if FLOOR in base else 0.0
    if own - floor > options.margin:
        return ""
    return (
        f"The base answers only {own:.2f} of the forget facts ({floor:.2f} of facts nobody was taught): "
        "what it does not know cannot be seen to be gone. Is it the model the checkpoint was made from, and are the "
        "facts asked in the form it was taught?"
    )


def _draws(trace: Trace, options: "JudgeOptions", shift: int) -> Draws:
    items = items_of(trace)
    return bootstrap(
        items.values[0].astype(float), units(items.clusters, options.minimum), options.seed + shift, options.draws
    )
