"""Audits in groups: by method, seed or an option, each group with its own colour and mark.

Read it as: audits that share a mark were made with the same value. `not recorded`: no run on the shelf says how that
checkpoint was made; `has none`: its method has no such option.
Does not show: that the value is what makes the difference; other options may differ with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from workbench.figures_style import MUTED, Look

UNKNOWN, NONE = "not recorded", "has none"
"""Groups without a value."""

BASE, REFERENCE = "the base itself", "the reference itself"
"""What an audit of these was made with: nothing."""

LAST = (NONE, BASE, REFERENCE, UNKNOWN)
"""Groups that come after all values."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe-Ito without yellow, which is too light for a mark."""

MARKERS = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "x",
    "pentagon",
    "triangle-down",
    "hourglass",
    "hexagon",
)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


@dataclass(frozen=True)
class Groups:
    """Which audit belongs to which group."""

    by: str
    """What they are grouped by: `method`, `seed` or an option."""
    of: Mapping[str, str]
    """Audit -> its value, or one of `LAST`."""

    @property
    def values(self) -> tuple[str, ...]:
        """Every group: numbers by size, then words, then those without a value."""
        return tuple(sorted(set(self.of.values()), key=_order))

    def look(self, value: str) -> Look:
        """Colour, dash and mark of a group; no two of the first 70 share both colour and mark."""
        if value in LAST:
            return Look(MUTED, "dot", ("circle-open", "star-open", "star-open", "circle-x-open")[LAST.index(value)])
        i = self.values.index(value)
        return Look(COLORS[i % len(COLORS)], DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)])

    def words(self, value: str) -> str:
        """The group for a legend."""
        return value if value in LAST or self.by == "method" else f"{self.by} {value}"

    def __str__(self) -> str:
        told = {value: sum(one == value for one in self.of.values()) for value in self.values}
        return f"By {self.by}: " + ", ".join(f"{value} ({count})" for value, count in told.items())


def _order(value: str) -> tuple[int, float, str]:
    if value in LAST:
        return 2, float(LAST.index(value)), ""
    try:
        return 0, float(value), ""
    except ValueError:
        return 1, 0.0, value


def groups_by(settings: Mapping[str, Mapping[str, str]], by: str) -> Groups:
    """Groups by one setting.

    Args:
        settings: audit -> its settings; empty where they are not known, and only `itself` for base and reference.
        by: name of the setting.
    """
    found = {}
    for name, known in settings.items():
        found[name] = known.get("itself") or known.get(by) or (NONE if known else UNKNOWN)
    return Groups(by, found)


def options_of(settings: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """What audits can be grouped by: method, seed, then each option that has more than one value among them."""
    values: dict[str, set[str]] = {}
    for known in settings.values():
        for name, value in known.items():
            values.setdefault(name, set()).add(value)
    further = sorted(
        name for name, found in values.items() if len(found) > 1 and name not in ("method", "seed", "itself")
    )
    return ("method", "seed", *further)
