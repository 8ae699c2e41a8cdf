"""The rows of `bench.tradeoff`: every method of the catalogue, on which embedded model, with which options.

Rows that are no gradient loss have the settings of `bench.unlearning_settings`. All gradient losses share a budget of
160 updates of 16 forget and, with a retain loss, 16 retain facts, and one rule for the learning rate: 1e-4 where that
leaves at most .1 of the forget facts with seed 0, else 5e-4; near and far facts had no say in it. It was applied to
each loss with its own default retain weight; its other variant has the same rate.
"""

from collections.abc import Sequence

from bench.unlearning_settings import DENSE, SETTINGS, Setting, options
from workbench.errors import BadInput, did_you_mean

STEPS = 160
"""Updates of every gradient loss."""

RATES: dict[str, float] = {
    "grad_ascent": 1e-4,
    "grad_diff": 1e-4,
    "npo": 1e-4,
    "simnpo": 5e-4,
    "dpo": 5e-4,
    "idk_nll": 1e-4,
    "undial": 1e-4,
    "ce_u": 1e-4,
    "satimp": 5e-4,
    "wga": 1e-4,
    "pdu": 1e-4,
    "flat": 1e-4,
    "ihl": 1e-4,
    "max_entropy": 1e-4,
    "unlikely": 1e-4,
    "whp": 5e-4,
    "random_label": 1e-4,
    "ugradsl": 1e-4,
    "l1_sparse": 5e-4,
    "retain_finetune": 5e-4,
}
"""Gradient loss -> learning rate, by the rule above."""

WITHOUT, WITH = "no retain loss", "retain loss"
"""Variants of the losses that are shown both ways."""

BOTH_WAYS = ("grad_ascent", "npo", "simnpo")
"""Losses shown without and with a retain loss."""


def _losses() -> list[Setting]:
    rows = []
    for name, lr in RATES.items():
        given = {"lr": lr, "steps": STEPS}
        if name in BOTH_WAYS:
            rows += [
                Setting(name, options(**given, retain_weight=weight), "all parameters", DENSE, variant)
                for weight, variant in ((0, WITHOUT), (1, WITH))
            ]
        else:
            rows.append(Setting(name, options(**given), "all parameters", DENSE))
    return rows


BARE = ("taught", "reference")
"""The models as they are; they head the table of each kind."""

ROWS: tuple[tuple[str, Setting], ...] = (
    *(("dense", Setting(name)) for name in BARE),
    *(("dense", one) for one in SETTINGS if "dense" in one.kinds and one.method not in RATES),
    *(("dense", one) for one in _losses()),
    *(("moe", Setting(name)) for name in BARE),
    *(("moe", one) for one in SETTINGS if one.method == "single_expert"),
)
"""Kind of model and row, in the order of the table; what needs experts is on the mixture."""


def rows(methods: Sequence[str]) -> list[tuple[str, Setting]]:
    """The rows of some methods (all when none is named), with the bare models of each kind that occurs.

    Raises:
        BadInput: for a method that has no row.
    """
    known = list(dict.fromkeys(one.method for _, one in ROWS))
    for name in methods:
        if name not in known:
            raise BadInput(f"The table has no method {name!r}. {did_you_mean(name, known)}")
    kinds = {kind for kind, one in ROWS if not methods or one.method in methods}
    return [
        (kind, one)
        for kind, one in ROWS
        if not methods or one.method in methods or (one.method in BARE and kind in kinds)
    ]
