"""Every stored metric of published code, and every variant it names, in every precision it was run in."""

from typing import Any

import numpy as np
import pytest

from tests.audits.metrics.published import RECORDS, compute

NOT_OFFERED = {"rouge1_f1", "rouge1"}
"""Entries of a record that no function here gives."""


def versions(record: dict[str, Any]) -> dict[str, Any]:
    """Precision -> the stored output."""
    if "value_by_formula" in record:
        return {"float64": record["value_by_formula"]}
    given = record["published"]
    return {"float64": given["value"]} if set(given) == {"value"} else given


CASES = [pytest.param(name, dtype, id=f"{name}-{dtype}") for name, r in RECORDS.items() for dtype in versions(r)]
VARIANTS = [
    pytest.param(name, variant, id=f"{name}-{variant}")
    for name, r in RECORDS.items()
    for variant in r.get("variants", {})
]


def require_same(ours: Any, stored: Any, tolerance: dict[str, float], path: str = "") -> None:
    """The same structure, and numbers within rtol and atol."""
    if isinstance(stored, dict):
        assert set(ours) == set(stored), path
        for key in set(stored) - NOT_OFFERED:
            require_same(ours[key], stored[key], tolerance, f"{path}.{key}")
    elif isinstance(stored, list):
        assert len(ours) == len(stored), path
        for i, (a, b) in enumerate(zip(ours, stored, strict=True)):
            require_same(a, b, tolerance, f"{path}[{i}]")
    elif isinstance(stored, str) or stored is None:
        assert ours == stored, path
    else:
        assert abs(ours - stored) <= tolerance["atol"] + tolerance["rtol"] * abs(stored), (path, ours, stored)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_it_gives_the_published_numbers(name: str, dtype: str) -> None:
    record = RECORDS[name]
    require_same(compute(name, dtype), versions(record)[dtype], record["tolerance"][dtype])


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_it_gives_the_variants_that_follow_the_paper(name: str, variant: str) -> None:
    record = RECORDS[name]
    tolerance = record["tolerance"]["float64"]
    if variant == "arithmetic_mean_of_wrong":  # the stored variant keeps the code's 1e-10 in the denominators
        tolerance = {"rtol": 1e-8, "atol": tolerance["atol"]}
    require_same(compute(name, "float64", variant), record["variants"][variant]["value"], tolerance)


def test_all_records_are_there() -> None:
    assert len(RECORDS) == 61
    assert sum(name.startswith("mia.") for name in RECORDS) == 8


def test_a_wrong_number_would_be_noticed() -> None:
    stored = {"a": [1.0, None], "b": "x"}
    require_same({"a": [1.0, None], "b": "x"}, stored, {"rtol": 1e-9, "atol": 0})
    for wrong in ({"a": [1.1, None], "b": "x"}, {"a": [1.0, 0.0], "b": "x"}, {"a": [np.nan, None], "b": "x"}):
        with pytest.raises(AssertionError):
            require_same(wrong, stored, {"rtol": 1e-9, "atol": 0})
