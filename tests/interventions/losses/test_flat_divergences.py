"""FLAT's pairs derived anew: each divergence from its f alone, its conjugate by maximising, and which way a step goes.

f-GAN (Nowozin et al. 2016, https://arxiv.org/abs/1606.00709) bounds D_f(P || Q) >= E_P[a(v)] - E_Q[f*(a(v))], where
f*(t) = sup over u > 0 of u t - f(u), and a is an increasing map into the domain of f*. FLAT puts probabilities for v
and makes the bound larger, so the loss is f*(a(forget)) - a(good).
"""

from collections.abc import Callable
from math import exp, log, sqrt

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import lambertw

from interventions.gradient.losses.flat import _PAIRS

DIVERGENCES: dict[str, Callable[[float], float]] = {
    "total-variation": lambda u: abs(u - 1) / 2,
    "kl": lambda u: u * log(u),
    "reverse-kl": lambda u: -log(u),
    "pearson": lambda u: (u - 1) ** 2,
    "neyman": lambda u: (1 - u) ** 2 / u,
    "jensen-shannon": lambda u: u * log(u) - (u + 1) * log((1 + u) / 2),
    "jeffrey": lambda u: (u - 1) * log(u),
    "squared-hellinger": lambda u: (sqrt(u) - 1) ** 2,
}
TURNED = ("reverse-kl", "neyman", "squared-hellinger")
"""Divergences of which the authors' code turns the sign of v."""
PROBABILITIES = (1e-4, 0.05, 0.3, 0.6, 0.95, 1.0)


def of(pair: str, which: int, probability: float) -> float:
    return float(_PAIRS[pair][which](torch.tensor(probability, dtype=torch.float64)))


def conjugate(f: Callable[[float], float], t: float) -> float:
    """The supremum over u > 0 of u t - f(u), which is concave in u: a search along log u."""
    grid = np.linspace(-12, 12, 2401)
    best = grid[np.argmax([exp(x) * t - f(exp(x)) for x in grid])]
    near = (best - 0.02, best + 0.02)
    found = minimize_scalar(lambda x: f(exp(x)) - exp(x) * t, bounds=near, method="bounded", options={"xatol": 1e-12})
    return -float(found.fun)


def test_every_corrected_divergence_is_here() -> None:
    assert set(_PAIRS) == {*DIVERGENCES, *(f"{name}-published" for name in TURNED)}
    assert all(f(1.0) == pytest.approx(0) for f in DIVERGENCES.values())


@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "jeffrey"])
@pytest.mark.parametrize("probability", PROBABILITIES)
def test_the_second_is_the_conjugate_of_the_first(name: str, probability: float) -> None:
    expected = conjugate(DIVERGENCES[name], of(name, 0, probability))
    assert of(name, 1, probability) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("t", [-0.3, 0.05, 0.2, 0.6, 1.0])
def test_jeffreys_is_its_conjugate_to_third_order(t: float) -> None:
    """f* is W + 1/W + t - 2 with W Lambert's function of e^(1-t), for which the code has t + t^2/4 + t^3/16."""
    w = float(lambertw(exp(1 - t)).real)
    exact = conjugate(DIVERGENCES["jeffrey"], t)
    assert exact == pytest.approx(w + 1 / w + t - 2, abs=1e-9)
    error = abs(of("jeffrey", 1, t) - exact)
    assert 0 < error < 0.02 * t**4  # the next term is t^4 / 64
    assert of("jeffrey", 0, t) == t


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_step_down_raises_the_good_answer_and_lowers_the_forget_answer(name: str) -> None:
    """Both maps rise with the probability, as f-GAN asks of a; the authors' three turned ones do not."""
    good, forget = ([of(name, which, p) for p in PROBABILITIES] for which in (0, 1))
    assert np.all(np.diff(good) > 0) and np.all(np.diff(forget) > 0)


@pytest.mark.parametrize("name", TURNED)
def test_the_authors_maps_fall_where_the_good_answer_rises(name: str) -> None:
    published, below = f"{name}-published", [p for p in PROBABILITIES if p < 1]
    assert np.all(np.diff([of(published, 0, p) for p in below]) < 0)
    turned = [of(name, 0, -p) for p in below]  # with v = -p it is the corrected map
    assert [of(published, 0, p) for p in below] == pytest.approx(turned)
    if name == "neyman":  # the conjugate of P itself, and not of a(P): this one rises
        expected = [conjugate(DIVERGENCES[name], p) for p in below]
        assert np.all(np.diff(expected) > 0)
    else:
        expected = [conjugate(DIVERGENCES[name], t) for t in turned]
        assert np.all(np.diff(expected) < 0)
    assert [of(published, 1, p) for p in below] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_bound_is_met_by_the_right_map_and_never_passed(name: str) -> None:
    """Over two outcomes: E_P[t] - E_Q[f*(t)] is at most D_f = sum of q f(p / q), and equal at t = f'(p / q)."""
    p, q = np.array([0.7, 0.3]), np.array([0.4, 0.6])
    f = DIVERGENCES[name]
    divergence = sum(b * f(a / b) for a, b in zip(p, q, strict=True))
    slope = [(f(a / b + 1e-6) - f(a / b - 1e-6)) / 2e-6 for a, b in zip(p, q, strict=True)]
    reached = sum(a * t - b * conjugate(f, t) for a, b, t in zip(p, q, slope, strict=True))
    assert reached == pytest.approx(divergence, abs=1e-5)
    for v in ((0.2, 0.1), (0.9, 0.3), (0.5, 0.5)):
        bound = sum(a * of(name, 0, x) - b * of(name, 1, x) for a, b, x in zip(p, q, v, strict=True))
        assert bound <= divergence + 1e-9
