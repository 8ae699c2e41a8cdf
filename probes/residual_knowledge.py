"""Residual knowledge: how much of what a probe read in the base it still reads in the unlearned model.

Source: the ratio of Zhang, Choshen & Andreas 2024 (https://arxiv.org/abs/2409.02228) with the floor measured, not
assumed. Variant: (accuracy of the unlearned - floor) / (accuracy of the base - floor), layer by layer, over the facts
read in both; the floor is the base's in both differences. Intervals resample subjects, the same in both models, and
never-taught subjects on their own; a control's floor is resampled too where the trace kept it fact by fact
(`keep="all"`), else it is taken as known.
Read it as: 1 is as much as the base, 0 no more than the floor, below 0 less than knowing nothing (a trace too).
NaN with a reason where the base itself reads less than `smallest` (0.1, one fact in ten) above the floor, or where the
interval of that difference reaches 0: there is nothing to divide by.
Does not show: how much the model can say; only what a linear reader finds. It takes no time beyond the two readings.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from probes.probe_controls import CONTROLS
from workbench.errors import BadInput, did_you_mean
from workbench.stats import Draws, bootstrap
from workbench.trace import Trace

NEVER = "never_taught"
"""The floor that the facts from `n_facts` on give, where a trace holds such facts."""

SAME = ("options", "facts_digest", "train_digest", "n_facts")
"""What two traces must agree in."""


@dataclass(frozen=True)
class _Cell:
    """One layer (and role) of both models: an accuracy a fact, NaN where it was not read."""

    base: Float[np.ndarray, " fact"]
    after: Float[np.ndarray, " fact"]
    floor: Float[np.ndarray, " item"]
    """What knowing nothing reads: one number, or one an item."""
    subjects: tuple[str, ...]
    floor_subjects: tuple[str, ...]
    """Empty when the floor is one number."""


def residual_knowledge(
    base: Trace, after: Trace, floor: str = "shuffled", smallest: float = 0.1, seed: int = 0
) -> Trace:
    """The share of the base's excess over the floor that is still there, a layer, with 95% intervals in the notes.

    Args:
        base: `linear_probes` of the base.
        after: the same of the unlearned model.
        floor: a control of the base's reading (`shuffled`, `erased`, `majority`, `chance`), or `never_taught`.
        smallest: excess of the base over the floor that can be divided by.
        seed: of the resampling.

    Raises:
        BadInput: when the two were not read in the same way of the same facts, or the floor was not read.
    """
    _require_alike(base, after)
    cells = _cells(base, after, floor)
    found = [_ratio(cell, smallest, seed) for cell in cells]
    axes = tuple(axis for axis in base.axes if axis in ("role", "layer"))
    labels = {axis: base.labels[axis] for axis in axes}
    values = np.array([one["value"] for one in found], dtype=float).reshape([len(labels[axis]) for axis in axes])
    notes: dict[str, Any] = {
        name: [one[name] for one in found] for name in ("low", "high", "n", "clusters", "excess", "why_missing")
    }
    about = {"base": base.notes.get("model"), "model": after.notes.get("model"), "facts": base.notes.get("facts")}
    resampled = bool(cells[0].floor_subjects)
    notes |= about | {"floor": floor, "floor_resampled": resampled, "smallest": smallest, "seed": seed}
    return Trace("residual_knowledge", values, axes, "share of the base's excess over the floor", labels, notes)


def _ratio(cell: _Cell, smallest: float, seed: int) -> dict[str, Any]:
    """Value and interval of one cell, or why there is none."""
    read = ~np.isnan(cell.base) & ~np.isnan(cell.after)
    known = ~np.isnan(cell.floor)
    nothing: dict[str, Any] = {
        "value": None,
        "low": None,
        "high": None,
        "n": int(read.sum()),
        "clusters": 0,
        "excess": None,
    }
    if not read.any() or not known.any():
        return nothing | {"why_missing": "no fact, or no floor, was read in both; train on facts with the same answers"}
    subjects = [name for name, there in zip(cell.subjects, read, strict=True) if there]
    top, bottom = bootstrap(cell.after[read], subjects, seed), bootstrap(cell.base[read], subjects, seed)
    level, levels = _floor(cell, known, read, seed)
    excess, excesses = bottom.mean - level, bottom.draws - levels
    nothing |= {"clusters": bottom.clusters, "excess": excess}
    low = float(np.percentile(excesses, 2.5))
    if excess < smallest or low <= 0:
        return nothing | {
            "why_missing": f"the base reads {excess:+.2f} above the floor (from {low:+.2f}), too little to divide by: "
            f"it takes {smallest:g}, and an interval above 0. Give more training facts, or look at another layer"
        }
    ends = _ends(top.draws - levels, excesses)
    return nothing | {"value": (top.mean - level) / excess, "low": ends[0], "high": ends[1], "why_missing": None}


def _floor(cell: _Cell, known: np.ndarray, read: np.ndarray, seed: int) -> tuple[float, np.ndarray | float]:
    """The floor, and its resamples."""
    if not cell.floor_subjects:
        return float(cell.floor[0]), float(cell.floor[0])
    paired = cell.floor_subjects == cell.subjects
    known = known & read if paired else known
    names = [name for name, there in zip(cell.floor_subjects, known, strict=True) if there]
    found: Draws = bootstrap(cell.floor[known], names, seed if paired else seed + 1)
    return found.mean, found.draws


def _ends(top: np.ndarray, bottom: np.ndarray) -> tuple[float | None, float | None]:
    """2.5% and 97.5% of the ratio; a resample in which nothing can be divided by counts as both infinities."""
    sound = bottom > 0
    ratio = np.divide(top, bottom, out=np.zeros_like(top), where=sound)
    low, high = (
        float(np.percentile(np.where(sound, ratio, end), at, method="lower" if at < 50 else "higher"))
        for end, at in ((-np.inf, 2.5), (np.inf, 97.5))
    )
    return (low if np.isfinite(low) else None), (high if np.isfinite(high) else None)


def _cells(base: Trace, after: Trace, floor: str) -> list[_Cell]:
    known = base.notes.get("n_facts", len(base.labels["fact"]))
    names = tuple(base.notes["subjects"])
    before, now = _by_place(base, "task"), _by_place(after, "task")
    if floor == NEVER:
        if known >= len(names):
            raise BadInput(
                "The reading holds no never-taught facts (its notes have no `n_facts`); read them behind the others, "
                f"as the audit does, or take another floor: {', '.join(_floors(base))}"
            )
        floors, floor_names = before[:, known:], names[known:]
    elif "reading" in base.axes and floor in base.labels["reading"]:
        floors, floor_names = _by_place(base, floor)[:, :known], names[:known]
    else:
        floors, floor_names = _from_notes(base, floor, len(before)), ()
    return [
        _Cell(b[:known], a[:known], f, names[:known], floor_names) for b, a, f in zip(before, now, floors, strict=True)
    ]


def _by_place(trace: Trace, reading: str) -> Float[np.ndarray, "place fact"]:
    """Accuracy of every fact at every layer (and role), the mean over seeds."""
    picked = trace.pick("reading", reading) if "reading" in trace.axes else trace
    values = picked.mean("seed").values
    return values.reshape(-1, values.shape[-1])


def _from_notes(trace: Trace, floor: str, places: int) -> Float[np.ndarray, "place 1"]:
    controls = trace.notes.get("controls", {})
    if floor not in controls:
        wanted = "Read it with erase=True. " if floor == "erased" else ""
        raise BadInput(f"The reading has no floor {floor!r}. {wanted}{did_you_mean(floor, _floors(trace))}")
    values = np.array([np.nan if value is None else value for value in controls[floor]], dtype=float)
    return np.broadcast_to(values, (places,)).reshape(-1, 1) if len(values) in (1, places) else _broken(floor)


def _broken(floor: str) -> Float[np.ndarray, "place 1"]:
    raise BadInput(f"The floor {floor!r} does not have a value for each layer; read the trace again")


def _floors(trace: Trace) -> list[str]:
    there = [name for name in trace.notes.get("controls", {}) if name in CONTROLS and name != "selectivity"]
    return [*there, *([NEVER] if "n_facts" in trace.notes else [])]


def _require_alike(base: Trace, after: Trace) -> None:
    for trace in (base, after):
        if trace.name != "linear_probes":
            raise BadInput(f"Residual knowledge is a ratio of two `linear_probes` traces, here is {trace.name!r}")
    different = [name for name in SAME if base.notes.get(name) != after.notes.get(name)]
    if dict(base.labels) != dict(after.labels):
        different.append("labels")
    if different:
        raise BadInput(
            f"The two readings differ in {', '.join(different)}; "
            "read both models with the same options on the same facts"
        )
