"""Tables of single facts, from stored readings."""

import numpy as np
import pandas as pd

from workbench.report_items import item_tables
from workbench.trace import Trace


def trace(values: object, axes: tuple[str, ...] = ("fact",), facts: int = 2, **notes: object) -> Trace:
    array = np.asarray(values, float)
    labels = {axis: tuple(f"{i}: prompt {i}" for i in range(n)) for axis, n in zip(axes, array.shape, strict=True)}
    return Trace("x", array, axes, "share", labels, {"subjects": [f"s{i}" for i in range(facts)], **notes})


def test_one_row_a_fact_one_column_a_model_and_reading() -> None:
    found = item_tables(
        {
            "checkpoint": {
                "accuracy.forget": trace([0, 1]),
                "logit_lens.forget": trace([[0.1, 0.2], [0.5, np.nan]], ("layer", "fact")),
                "accuracy.forget.quantise": trace([1, 0, 1], facts=3, n_facts=2),
                "accuracy.near": trace([1, 1]),
                "relearn.forget": trace(np.zeros((2, 2, 2)), ("seed", "step", "fact")),
            },
            "base": {"accuracy.forget": trace([1, 1])},
        }
    )
    assert set(found) == {"forget", "near"}
    table = found["forget"]
    assert list(table.columns) == [
        "prompt",
        "subject",
        "base accuracy",
        "checkpoint accuracy",
        "checkpoint logit_lens, best layer",
        "checkpoint accuracy under quantise",
    ]
    assert list(table["prompt"]) == ["prompt 0", "prompt 1"] and list(table["subject"]) == ["s0", "s1"]
    assert list(table["checkpoint accuracy under quantise"]) == [1, 0]  # the control facts behind are not here
    assert list(table["checkpoint logit_lens, best layer"]) == [0.5, 0.2]


def test_what_was_not_read_is_missing_not_zero() -> None:
    table = item_tables({"base": {"accuracy.forget": trace([np.nan, 1])}})["forget"]
    assert pd.isna(table["base accuracy"][0]) and table["base accuracy"][1] == 1
    assert item_tables({}) == {}
