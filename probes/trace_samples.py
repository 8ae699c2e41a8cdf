"""What every corrupted copy of a fact gave, beside the mean over the copies that a trace holds.

Read it as: `instead` says what stood in for the subject (another subject, or a draw of noise), `sample_corrupted` what
each copy scored, `sample_effects` what restoring each state added to it. With one copy the trace itself is that copy.
Does not show: more than four digits, so that the notes of a large trace stay small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Traced:
    """One traced fact."""

    instead: tuple[str, ...]
    """What stood in for the subject, one a copy."""
    clean: float
    """Score of the text as it is."""
    corrupted: Float[np.ndarray, " sample"]
    """Score of each copy."""
    effects: Float[np.ndarray, "sample site role"]
    """What restoring each state added to each copy; NaN for a role the fact has not."""


def sample_notes(traced: Mapping[int, Traced], n_facts: int, n_sites: int, ceiling: float = 1.0) -> dict[str, Any]:
    """The copies as notes, a row a fact; empty rows for facts that were not traced.

    Args:
        traced: number of the fact -> what was read.
        n_facts: how many facts there are.
        n_sites: how many of the restored states are rows of the trace; what was restored beside them is left out.
        ceiling: what the trace's effects were divided by.
    """
    every = [traced.get(f) for f in range(n_facts)]
    notes: dict[str, Any] = {"instead": [[] if one is None else list(one.instead) for one in every]}
    if any(len(one.instead) > 1 for one in traced.values()):
        notes["sample_corrupted"] = [[] if one is None else _short(one.corrupted) for one in every]
        notes["sample_effects"] = [[] if one is None else _short(one.effects[:, :n_sites] / ceiling) for one in every]
    return notes


def _short(values: np.ndarray) -> Sequence[Any]:
    """Nested lists of four digits; None where nothing was read, because JSON has no NaN."""
    if values.ndim > 1:
        return [_short(row) for row in values]
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]
