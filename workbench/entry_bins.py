"""The fixed bins in which the entries of a change are counted: by size, in standard deviations of the base's entries.

Each bin spans a quarter of a decade, from 1e-5 to 100 standard deviations, once for either sign; what is smaller falls
into the innermost bin of its sign, what is larger into the outermost, and exact zeros are counted apart. So the counts
of a tensor always add up to its finite entries, and counts of several tensors may be added.

Read it as: counts run from the most negative to the most positive, zeros in the middle.
Does not show: where in the tensor an entry lies.
"""

import numpy as np
from jaxtyping import Float

EDGES: Float[np.ndarray, " edge"] = 10.0 ** (np.arange(-20, 9) / 4)
"""Sizes between two bins, in standard deviations of the base."""

SIZES = len(EDGES) + 1
"""Bins of one sign."""

ZERO = SIZES
"""Place of the zeros among the counts."""

COUNTED = 2 * SIZES + 1
"""Length of a list of counts."""


def bin_words() -> list[str]:
    """What each count holds, in the order of the counts: `-0.1 to -0.056`, `0`, `over 100`."""
    told = [f"{edge:.3g}" for edge in EDGES]
    up = [f"0 to {told[0]}", *(f"{low} to {high}" for low, high in zip(told, told[1:], strict=False))]
    down = [f"0 to -{told[0]}", *(f"-{low} to -{high}" for low, high in zip(told, told[1:], strict=False))]
    return [*reversed([*down, f"under -{told[-1]}"]), "0", *up, f"over {told[-1]}"]
