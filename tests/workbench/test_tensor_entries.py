"""Entries are counted in the right bin, all of them, and nothing is counted twice."""

import math

import numpy as np
import pytest
import torch

import workbench.tensor_entries
from workbench.entry_bins import COUNTED, EDGES, SIZES, ZERO, bin_words
from workbench.tensor_entries import entries_of


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def place(size: float) -> int:
    """The bin of a number, the slow way."""
    if size == 0:
        return ZERO
    steps = sum(abs(size) > edge for edge in EDGES)
    return ZERO + 1 + steps if size > 0 else ZERO - 1 - steps


def test_every_entry_is_in_its_bin() -> None:
    before = normal(30, 40)
    change = normal(30, 40, seed=1) * 10.0 ** (8 * torch.rand(30, 40, dtype=torch.float64) - 6)
    change[::3] = 0
    found = entries_of(before, before + change)
    assert found is not None and found.std == pytest.approx(float(before.numpy().std()), rel=1e-9)
    truth, own = np.zeros(COUNTED, int), np.zeros(COUNTED, int)
    for old, new in zip(before.flatten().tolist(), (before + change).flatten().tolist(), strict=True):
        truth[place((new - old) / found.std)] += 1
        own[place(old / found.std)] += 1
    assert found.change == tuple(truth) and found.base == tuple(own)
    assert sum(found.change) == sum(found.base) == 1200 and found.change[ZERO] == 400


def test_the_ends_are_open_and_the_signs_alike() -> None:
    before = torch.tensor([1.0, -1.0] * 8)  # of standard deviation 1
    change = torch.zeros(16)
    change[:4] = torch.tensor([1e6, 1e-7, -1e6, -1e-7])
    found = entries_of(before.double(), (before.double() + change.double()))
    assert found is not None
    assert [i for i, n in enumerate(found.change) if n] == [0, ZERO - 1, ZERO, ZERO + 1, COUNTED - 1]
    turned = entries_of(before.double(), before.double() - change.double())
    assert turned is not None and turned.change == found.change[::-1]


def test_words_are_those_of_the_bins() -> None:
    words = bin_words()
    assert len(words) == COUNTED and words[ZERO] == "0" and len(EDGES) + 1 == SIZES
    assert words[0] == "under -100" and words[-1] == "over 100" and words[ZERO + 1] == "0 to 1e-05"
    assert words[place(0.5)] == "0.316 to 0.562" and words[place(-0.5)] == "-0.316 to -0.562"


def test_a_spread_that_is_small_beside_the_mean_is_the_unit() -> None:
    before = 1000 + 1e-4 * normal(5000)
    found = entries_of(before, before + 1e-4)
    assert found is not None and found.std == pytest.approx(1e-4, rel=0.05)
    assert sum(found.change[place(0.9) : place(1.1) + 1]) == 5000


def test_there_is_no_unit_where_all_entries_are_alike() -> None:
    assert entries_of(torch.ones(8), torch.arange(8.0)) is None
    assert entries_of(torch.zeros(2, 3), torch.ones(2, 3)) is None
    assert entries_of(torch.tensor([math.nan, 1.0]), torch.ones(2)) is None


def test_what_is_not_finite_is_left_out() -> None:
    before, after = normal(100), normal(100)
    before[:2], after[5] = math.inf, math.nan
    found = entries_of(before, after)
    assert found is not None and sum(found.change) == sum(found.base) == 97 and found.change[ZERO] == 97


def test_blocks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = normal(7, 11).bfloat16(), normal(7, 11, seed=1).bfloat16()
    whole = entries_of(before, after)
    monkeypatch.setattr(workbench.tensor_entries, "BLOCK", 10)
    cut = entries_of(before, after)
    assert whole is not None and cut is not None
    assert cut.change == whole.change and cut.base == whole.base and cut.std == pytest.approx(whole.std)
