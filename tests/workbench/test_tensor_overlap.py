"""A change along the base's own directions is found to be one, a change across them is not, and chance is chance."""

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from workbench.comparison import CompareOptions
from workbench.subspaces import by_chance, mean_overlap, principal_by_chance, principal_cosines, share_inside
from workbench.tensor_change import change_of
from workbench.tensor_overlap import Overlap, leading, overlap_of

ROWS, COLUMNS = 20, 30


def orthonormal(size: int, k: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, k))).Q


LEFT, RIGHT = orthonormal(ROWS, ROWS, 0), orthonormal(COLUMNS, ROWS, 1)
BASE = (LEFT * 0.8 ** np.arange(ROWS)) @ RIGHT.T


def held(change: np.ndarray, rank: int = 8, base: np.ndarray = BASE, **options: Any) -> Overlap | None:
    places = range(change.shape[0]), range(change.shape[1])
    return overlap_of(base, change, places, rank, CompareOptions(base_directions=4, **options))


def test_a_change_along_one_direction_of_the_base_is_found_there() -> None:
    found = held(0.3 * np.outer(LEFT[:, 1], RIGHT[:, 2]), rank=1)
    assert found is not None and found.left.shape == found.right.shape == (4, 1)
    np.testing.assert_allclose(np.abs(found.left[:, 0]), [0, 1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(np.abs(found.right[:, 0]), [0, 0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(found.base_values, 0.8 ** np.arange(4), rtol=1e-9)
    assert mean_overlap(found.left) == pytest.approx(1) and mean_overlap(found.right) == pytest.approx(1)


def test_a_change_across_them_lies_nowhere_in_them() -> None:
    found = held(0.3 * np.outer(LEFT[:, 4], RIGHT[:, 9]), rank=1)  # the first that is not among the leading four
    assert found is not None
    assert mean_overlap(found.left) < 1e-12 and mean_overlap(found.right) < 1e-12


def test_a_mixture_lies_there_by_its_squared_share() -> None:
    half = (LEFT[:, 0] + LEFT[:, 3] + LEFT[:, 10] + LEFT[:, 15]) / 2
    found = held(np.outer(half, RIGHT[:, 0]), rank=1)
    assert found is not None and share_inside(found.left)[0] == pytest.approx(0.5)


def test_directions_come_in_the_order_of_their_size() -> None:
    change = 0.1 * np.outer(LEFT[:, 0], RIGHT[:, 3]) + 2 * np.outer(LEFT[:, 12], RIGHT[:, 0])
    found = held(change, rank=2)
    assert found is not None
    np.testing.assert_allclose(share_inside(found.left), [0, 1], atol=1e-9)
    np.testing.assert_allclose(np.abs(found.right[[0, 3], [0, 1]]), [1, 1], atol=1e-9)
    assert mean_overlap(found.left) == pytest.approx(0.5)


def test_principal_angles_are_those_of_scipy() -> None:
    change = orthonormal(ROWS, 3, 5) @ orthonormal(COLUMNS, 3, 6).T * np.array([3.0])
    found = held(change, rank=3)
    assert found is not None
    wanted = np.cos(scipy.linalg.subspace_angles(LEFT[:, :4], change @ np.linalg.pinv(change) @ change))[::-1]
    np.testing.assert_allclose(principal_cosines(found.left), np.sort(wanted)[::-1][:3], atol=1e-7)


def test_only_the_changed_rows_and_columns_are_needed() -> None:
    change, rows, columns = np.zeros((ROWS, COLUMNS)), [2, 5, 11], [0, 7, 8, 29]
    change[np.ix_(rows, columns)] = np.random.default_rng(3).standard_normal((3, 4))
    whole = held(change, rank=3)
    cut = overlap_of(BASE, change[np.ix_(rows, columns)], (rows, columns), 3, CompareOptions(base_directions=4))
    assert whole is not None and cut is not None
    np.testing.assert_allclose(np.abs(cut.left), np.abs(whole.left), atol=1e-9)
    np.testing.assert_allclose(np.abs(cut.right), np.abs(whole.right), atol=1e-9)


@pytest.mark.parametrize("matrix", [BASE, BASE.T, 1e-30 * BASE])
def test_the_iteration_agrees_with_the_gram_matrix(matrix: np.ndarray) -> None:
    exact, iterated = (leading(matrix, 4, CompareOptions(exact_below=below)) for below in (1024, 4))
    np.testing.assert_allclose(iterated.values, exact.values, rtol=1e-5)
    for one, other in ((iterated.left, exact.left), (iterated.right, exact.right)):
        np.testing.assert_allclose(np.abs(np.diag(one.T @ other)), 1, atol=1e-4)


def test_without_directions_there_is_none() -> None:
    change = np.outer(LEFT[:, 0], RIGHT[:, 0])
    assert held(change, rank=0) is None
    assert held(change, rank=1, base=np.zeros_like(BASE)) is None
    low = held(change, rank=1, base=np.outer(LEFT[:, 0], RIGHT[:, 0]))  # of a base of rank 1 one direction is kept
    assert low is not None and len(low.base_values) == 1 and mean_overlap(low.left) == pytest.approx(1)


@pytest.mark.parametrize(("base", "change", "size"), [(8, 8, 96), (4, 1, 10), (2, 6, 7), (8, 3, 8)])
def test_chance_is_what_random_directions_give(base: int, change: int, size: int) -> None:
    drawn = np.linalg.qr(np.random.default_rng(0).standard_normal((4000, size, change))).Q[:, :base]
    overlaps = np.square(drawn).sum(axis=(1, 2)) / change
    mean, spread = by_chance(base, change, size)
    assert overlaps.mean() == pytest.approx(mean, rel=0.03)
    assert overlaps.std() == pytest.approx(spread, rel=0.05, abs=1e-9)
    angles = principal_by_chance(base, change, size)
    assert angles.shape == (2, min(base, change)) and (angles[0] <= angles[1] + 1e-12).all()
    wanted = np.linalg.svd(drawn, compute_uv=False).mean(axis=0)
    np.testing.assert_allclose(angles[0], wanted, atol=0.06)


def test_what_is_left_out_says_why() -> None:
    before = torch.tensor(BASE, dtype=torch.float32)
    after = before + torch.tensor(np.outer(LEFT[:, 0], RIGHT[:, 0]), dtype=torch.float32)
    found = change_of(before, after, CompareOptions())
    assert found.overlap is not None and not found.why_no_overlap
    assert found.overlap.left.shape == (8, 1)  # the rank, not the number asked for
    off = change_of(before, after, CompareOptions(base_directions=0))
    assert off.overlap is None and "base_directions=0" in off.why_no_overlap
    large = change_of(before, after, CompareOptions(overlap_below=19))
    assert large.overlap is None and "20 by 30 is larger than overlap_below=19" in large.why_no_overlap
    assert change_of(before, after, CompareOptions(overlap_below=20)).overlap is not None
    same, vector = change_of(before, before, CompareOptions()), change_of(before[0], after[0], CompareOptions())
    assert same.overlap is vector.overlap is None and same.why_no_overlap == vector.why_no_overlap == ""


def test_entries_of_the_base_that_are_not_finite_count_as_zero() -> None:
    before = torch.tensor(BASE, dtype=torch.float32)
    after = before + torch.tensor(np.outer(LEFT[:, 0], RIGHT[:, 0]), dtype=torch.float32)
    before[3, 4] = float("nan")
    found = change_of(before, after, CompareOptions()).overlap
    assert found is not None and np.isfinite(found.left).all() and share_inside(found.left)[0] > 0.8
