"""The items of an audit as tables: one row a fact, one column a model and reading, for who wants to look one up.

Read it as: `items/forget.parquet`: which fact the checkpoint still answers, at which layer the lens already says it.
A reading that has no single number a fact (a curve, a trace over sites) is not here; it lies under `traces/`.
Does not show: anything that is not in the stored readings.
"""

import io
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from workbench.trace import Trace

ORDER = ("base", "checkpoint", "reference")


def item_tables(traces: Mapping[str, Mapping[str, Trace]]) -> dict[str, pd.DataFrame]:
    """Set of facts (`forget`, `near`, ...) -> a table; a value that was not read is missing."""
    columns: dict[str, dict[str, pd.Series]] = {}
    subjects: dict[str, dict[str, str]] = {}
    for role in sorted(traces, key=lambda r: ORDER.index(r) if r in ORDER else len(ORDER)):
        for key, trace in traces[role].items():
            for name, values in _of_facts(key, trace):
                which = key.split(".")[1]
                columns.setdefault(which, {})[f"{role} {name}"] = values
                named = zip(values.index, trace.notes.get("subjects") or (), strict=False)
                subjects.setdefault(which, {}).update(dict(named))
    return {which: _table(found, subjects[which]) for which, found in columns.items()}


def _of_facts(key: str, trace: Trace) -> Iterator[tuple[str, pd.Series]]:
    """The numbers of a reading that has one a fact, or one a layer and fact: then the best layer's."""
    instrument, _, on = key.partition(".")
    attack = on.partition(".")[2]
    name = f"{instrument} under {attack}" if attack else instrument
    if trace.axes == ("fact",):
        yield name, _series(trace, trace.values)
    elif trace.axes == ("layer", "fact"):
        with np.errstate(invalid="ignore"):
            there = np.where(np.isnan(trace.values), -np.inf, trace.values).max(axis=0)
        yield f"{name}, best layer", _series(trace, np.where(np.isinf(there), np.nan, there))


def _series(trace: Trace, values: np.ndarray) -> pd.Series:
    known = trace.notes.get("n_facts")  # behind these stand the control facts
    labels = trace.labels["fact"][:known]
    return pd.Series(values[:known], index=list(labels))


def _table(columns: Mapping[str, pd.Series], subjects: Mapping[str, str]) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    labels = [str(label) for label in table.index]
    table.insert(0, "subject", [subjects.get(label) for label in labels])
    table.insert(0, "prompt", [label.partition(": ")[2] for label in labels])
    return table.reset_index(drop=True)


def parquet_of(table: pd.DataFrame) -> bytes:
    """A table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
