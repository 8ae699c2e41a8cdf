"""`Trace`: numbers read from one model, every axis named, apart from the model and apart from any picture.

A trace holds numpy arrays and words only, so it can be kept for years, compared with another model's and judged
without either model. An entry that could not be read is NaN in memory and null in JSON, never zero.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import BadInput, did_you_mean
from workbench.sites import Site

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

ITEM_AXES = ("fact", "seed")
"""Axes over which a score is a mean; along any other axis it is the largest value."""


@dataclass(frozen=True)
class Trace:
    """Readings with named axes.

    Raises:
        BadInput: when labels and values disagree in shape.
    """

    name: str
    """What was read, as in the catalogue."""
    values: np.ndarray
    """The numbers; one dimension an axis."""
    axes: tuple[str, ...]
    """Name of every dimension, in order."""
    units: str
    """Unit of the numbers: `probability`, `nats`, `share of facts`, ..."""
    labels: Mapping[str, tuple[str, ...]]
    """Axis -> a label for every entry along it. Labels of `site` axes are the text form of sites."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Whatever a reader needs to interpret the numbers: model, facts, options, controls."""

    def __post_init__(self) -> None:
        shape = tuple(len(self.labels.get(axis, ())) for axis in self.axes)
        if shape != self.values.shape or len(self.labels) != len(self.axes):
            raise BadInput(
                f"Trace {self.name!r}: labels say {dict(zip(self.axes, shape, strict=False))}, "
                f"the values have shape {self.values.shape}"
            )

    def axis(self, name: str) -> int:
        """Dimension of an axis."""
        if name not in self.axes:
            raise BadInput(f"Trace {self.name!r} has no axis {name!r}. {did_you_mean(name, self.axes)}")
        return self.axes.index(name)

    def mean(self, axis: str) -> "Trace":
        """The mean along one axis, which disappears; entries that were not read do not enter."""
        number = self.axis(axis)
        return self._less(number, np.asarray(_quietly(np.nanmean, self.values, number)))

    def pick(self, axis: str, label: str) -> "Trace":
        """The slice at one label; the axis disappears."""
        number = self.axis(axis)
        if label not in self.labels[axis]:
            raise BadInput(f"Axis {axis!r} of {self.name!r} has no {label!r}. {did_you_mean(label, self.labels[axis])}")
        return self._less(number, np.asarray(np.take(self.values, self.labels[axis].index(label), axis=number)))

    def _less(self, number: int, values: np.ndarray) -> "Trace":
        gone = self.axes[number]
        return Trace(
            self.name,
            np.asarray(values),
            tuple(a for a in self.axes if a != gone),
            self.units,
            {a: self.labels[a] for a in self.axes if a != gone},
            self.notes,
        )

    def scores(self, axis: str) -> np.ndarray:
        """One number per entry along an axis: the mean over facts and seeds, then the largest along the rest."""
        trace = self
        for item_axis in ITEM_AXES:
            if item_axis in trace.axes and item_axis != axis:
                trace = trace.mean(item_axis)
        rest = tuple(i for i, name in enumerate(trace.axes) if name != axis)
        trace.axis(axis)
        return _quietly(np.nanmax, trace.values, rest) if rest else trace.values

    def top(self, axis: str, k: int) -> list[Any]:
        """The k labels with the highest score along an axis, best first; on a `site` axis they are `Site`s.

        Raises:
            BadInput: when k is not positive or the axis does not exist.
        """
        if k < 1:
            raise BadInput(f"top({axis!r}, {k}): ask for at least one")
        scores = self.scores(axis)
        order = [i for i in np.argsort(-scores, kind="stable") if np.isfinite(scores[i])][:k]
        chosen = [self.labels[axis][i] for i in order]
        return [Site.parse(label) for label in chosen] if axis == "site" else chosen

    # ---- for people

    def to_frame(self) -> "pandas.DataFrame":
        """One row a number, one column an axis, and `value`."""
        import pandas as pd

        grid = pd.MultiIndex.from_product([self.labels[a] for a in self.axes], names=self.axes)
        return pd.DataFrame({"value": self.values.reshape(-1)}, index=grid).reset_index()

    def plot(self) -> "plotly.graph_objects.Figure":
        """The picture of this kind of trace."""
        from workbench.figures import figure_of

        return figure_of(self)

    def _repr_html_(self) -> str:
        from workbench.figures import trace_card

        return trace_card(self)

    # ---- on disk

    def save(self, path: Path) -> list[Path]:
        """Write `<path>.safetensors` with the numbers and `<path>.json` with the axes."""
        from safetensors.numpy import save

        from workbench.store import write_atomically, write_json

        numbers, words = beside(path, ".safetensors"), beside(path, ".json")
        write_atomically(numbers, save({"values": np.ascontiguousarray(self.values)}))
        write_json(
            words,
            {
                "name": self.name,
                "axes": self.axes,
                "units": self.units,
                "labels": dict(self.labels),
                "notes": dict(self.notes),
            },
        )
        return [numbers, words]

    @classmethod
    def load(cls, path: Path) -> "Trace":
        """Read what `save` wrote.

        Raises:
            BadInput: when a file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            values = load_file(beside(path, ".safetensors"))["values"]
            words = json.loads(beside(path, ".json").read_text())
            labels = {axis: tuple(names) for axis, names in words["labels"].items()}
            return cls(words["name"], values, tuple(words["axes"]), words["units"], labels, words["notes"])
        except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
            raise BadInput(f"Cannot read the trace {path}: {error}. Run `workbench verify` on the run") from None


def beside(path: Path, suffix: str) -> Path:
    """The file of that name with a suffix appended; dots in the name stay (`Path.with_suffix` would cut there)."""
    return path.with_name(path.name + suffix)


def _quietly(reduce: Any, values: np.ndarray, axis: Any) -> np.ndarray:
    """A nan-aware reduction without numpy's warning for all-NaN slices, which stay NaN."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(reduce(values, axis=axis))
