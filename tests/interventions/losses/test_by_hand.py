"""Every loss against its formula worked out by hand on a vocabulary of three tokens, in float64."""

import math
from collections.abc import Callable
from math import exp, log, sqrt, tanh

import numpy as np
import pytest
import torch
from torch import Tensor

from interventions.gradient.losses.as_published import muse_kl, muse_npo, wagle_kl
from interventions.gradient.losses.ascent import ascent, weighted_ascent
from interventions.gradient.losses.ceu import ce_u
from interventions.gradient.losses.dpo import dpo
from interventions.gradient.losses.entropy import kl_from_uniform, kl_to_uniform
from interventions.gradient.losses.flat import _PAIRS, flat
from interventions.gradient.losses.graddiff import grad_diff, with_retain
from interventions.gradient.losses.idk import idk_nll
from interventions.gradient.losses.ihl import ihl
from interventions.gradient.losses.kl import forward_kl, reverse_kl
from interventions.gradient.losses.kl_stored import TopK, forward_kl_stored, grouped, reverse_kl_stored
from interventions.gradient.losses.l1 import l1_norm, l1_weight
from interventions.gradient.losses.npo import npo
from interventions.gradient.losses.pdu import dual_step, flatness, pdu
from interventions.gradient.losses.random_labels import other_tokens, random_label_nll
from interventions.gradient.losses.said import Said
from interventions.gradient.losses.satimp import satimp
from interventions.gradient.losses.simnpo import simnpo
from interventions.gradient.losses.ugradsl import smoothed_nll, ugradsl, ugradsl_plus
from interventions.gradient.losses.undial import undial
from interventions.gradient.losses.unlikely import unlikely
from interventions.gradient.losses.wga import wga
from interventions.gradient.losses.whp import generic_logits, generic_nll

UNIFORM = (1 / 3, 1 / 3, 1 / 3)


def logs(*probabilities: tuple[float, ...]) -> Tensor:
    """Logits with these softmaxes, shifted by a constant that must not matter."""
    return (torch.tensor(probabilities, dtype=torch.float64).log() + 7).requires_grad_(True)


def spoken(*tokens: tuple[tuple[float, ...], int, int], rows: int = 0) -> Said:
    """From (probabilities, labelled token, row)."""
    probabilities, token, row = zip(*tokens, strict=True)
    return Said(logs(*probabilities), torch.tensor(token), torch.tensor(row), rows or max(row) + 1)


def gradient(value: Tensor, of: Said) -> Tensor:
    return torch.autograd.grad(value, of.logits, retain_graph=True)[0]


def close(value: float) -> object:
    return pytest.approx(value, rel=1e-12, abs=1e-14)


TWO_ROWS = (((0.5, 0.3, 0.2), 0, 0), ((0.5, 0.3, 0.2), 2, 0), ((0.1, 0.8, 0.1), 1, 1))
"""Token losses log 2, log 5 in the first row and -log .8 in the second."""


def test_gradient_ascent_and_its_cap() -> None:
    forget = spoken(*TWO_ROWS)
    mean = (log(2) + log(5) - log(0.8)) / 3
    assert ascent(forget).item() == close(-mean)
    assert ascent(forget, cap=mean + 1).item() == close(-mean)
    assert torch.equal(gradient(ascent(forget, cap=mean + 1), forget), gradient(ascent(forget), forget))
    assert ascent(forget, cap=0.5).item() == -0.5
    assert not gradient(ascent(forget, cap=0.5), forget).any()
    # Of p = (.5, .3, .2) and label 0 the gradient of NLL is p less one-hot; a third of it, with the sign turned.
    assert gradient(ascent(forget), forget)[0].tolist() == pytest.approx([0.5 / 3, -0.1, -0.2 / 3])
    weight = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    assert weighted_ascent(forget, weight).item() == close(-(log(2) - 2 * log(0.8)) / 3)


def test_with_a_retain_loss() -> None:
    forget, retain = spoken(*TWO_ROWS), torch.tensor(5.0, dtype=torch.float64)
    assert grad_diff(forget, retain, gamma=0.5, alpha=3.0).item() == close(-0.5 * forget.mean.item() + 15)
    assert grad_diff(forget, retain).item() == close(-forget.mean.item() + 5)
    assert with_retain(retain, 2 * retain, 0.1, 0.2).item() == close(2.5)


def test_kl_in_both_directions() -> None:
    current, reference = logs(UNIFORM), logs((0.8, 0.1, 0.1))
    assert forward_kl(current, reference).item() == close(log(3) + 0.8 * log(0.8) + 0.2 * log(0.1))
    assert reverse_kl(current, reference).item() == close(-log(3) - (log(0.8) + 2 * log(0.1)) / 3)
    assert forward_kl(reference, reference + 3).item() == close(0)
    two = torch.cat([current, reference])
    assert forward_kl(two, torch.cat([reference, reference])).item() == close(forward_kl(current, reference).item() / 2)


def test_kl_from_stored_tokens_is_a_lower_bound_that_is_exact_when_tails_agree() -> None:
    current, reference = logs(UNIFORM), logs((0.8, 0.1, 0.1))
    kept = TopK.of(reference, 1)
    assert kept.token.tolist() == [[0]] and kept.log_prob.exp().flatten().tolist() == pytest.approx([0.8, 0.2])
    assert forward_kl_stored(current, kept).item() == close(0.8 * log(2.4) + 0.2 * log(0.3))
    assert forward_kl_stored(current, kept).item() == close(forward_kl(current, reference).item())
    assert reverse_kl_stored(current, kept).item() == close(reverse_kl(current, reference).item())
    other_tail = logs((0.8, 0.15, 0.05))
    assert forward_kl_stored(current, TopK.of(other_tail, 1)).item() < forward_kl(current, other_tail).item() - 0.01
    whole = TopK.of(other_tail, 10)
    assert whole.log_prob.shape == (1, 3)
    assert forward_kl_stored(current, whole).item() == close(forward_kl(current, other_tail).item())
    assert reverse_kl_stored(current, whole).item() == close(reverse_kl(current, other_tail).item())
    assert grouped(current, kept.token).exp().sum().item() == close(1)


def test_kl_from_stored_tokens_grows_to_the_exact_value_with_their_number() -> None:
    generator = torch.Generator().manual_seed(0)
    current, reference = (torch.randn(6, 40, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    values = [forward_kl_stored(current, TopK.of(reference, k)).item() for k in (1, 5, 20, 40)]
    assert values == sorted(values) and values[0] < 0.9 * values[-1]
    assert values[-1] == close(forward_kl(current, reference).item())


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_npo_at_the_start_model_is_two_over_beta_log_two_with_ascents_gradient(beta: float) -> None:
    forget = spoken(*TWO_ROWS)
    loss = npo(forget, -forget.total.detach(), beta)
    assert loss.item() == close(2 / beta * log(2))
    torch.testing.assert_close(gradient(loss, forget), gradient(-forget.total.mean(), forget))


def test_npo_away_from_the_start_model() -> None:
    forget, original = spoken(*TWO_ROWS), torch.tensor([-1.0, -2.0], dtype=torch.float64)
    sunk = (log(10) - 1, -log(0.8) - 2)
    expected = sum(-2 / 0.5 * log(1 / (1 + exp(-0.5 * x))) for x in sunk) / 2
    assert npo(forget, original, 0.5).item() == close(expected)
    by_token = sum(-2 / 0.5 * log(1 / (1 + exp(-0.5 * x))) for x in (sunk[0] / 2, sunk[1])) / 2
    assert npo(forget, original, 0.5, per_token=True).item() == close(by_token)
    almost = gradient(npo(forget, original, 1e-9), forget)
    torch.testing.assert_close(almost, gradient(-forget.total.mean(), forget))


def test_simnpo_and_its_derivative_by_the_mean_loss() -> None:
    forget, beta, delta = spoken(*TWO_ROWS[:2]), 2.5, 0.3
    mean = log(10) / 2
    loss = simnpo(forget, beta, delta)
    assert loss.item() == close(2 / beta * log(1 + exp(-beta * (mean - delta))))
    slope = -2 / (1 + exp(beta * (mean - delta)))
    torch.testing.assert_close(gradient(loss, forget), slope * gradient(forget.mean, forget))
    both = spoken(*TWO_ROWS)
    second = spoken(((0.1, 0.8, 0.1), 1, 0))
    assert simnpo(both).item() == close((simnpo(forget).item() + simnpo(second).item()) / 2)


def test_refusals_alone_and_pooled_with_retain_facts() -> None:
    refusal, retain = spoken(*TWO_ROWS), spoken(((0.5, 0.25, 0.25), 1, 0))
    assert idk_nll(refusal).item() == close(refusal.mean.item())
    assert idk_nll(refusal, pooled=retain).item() == close((log(10) - log(0.8) + log(4)) / 4)


def test_dpo_standard_and_with_the_factor_of_published_code() -> None:
    chosen, forget = spoken(((0.5, 0.25, 0.25), 1, 0), (UNIFORM, 0, 1)), spoken(*TWO_ROWS)
    start = dpo(chosen, forget, -chosen.total.detach(), -forget.total.detach(), 0.3)
    assert start.item() == close(log(2))
    torch.testing.assert_close(
        gradient(start, forget), 0.15 * gradient(-forget.total.mean(), forget), msg="half of beta times ascent's"
    )
    torch.testing.assert_close(gradient(start, chosen), 0.15 * gradient(chosen.total.mean(), chosen))
    before = torch.tensor([-1.0, -1.5], dtype=torch.float64)
    margins = (-log(4) + 1 + log(10) - 2, -log(3) + 1.5 - log(0.8) - 2)
    expected = sum(log(1 + exp(-0.3 * x)) for x in margins) / 2
    two = torch.tensor([-2.0, -2.0], dtype=torch.float64)
    assert dpo(chosen, forget, before, two, 0.3).item() == close(expected)
    assert dpo(chosen, forget, before, two, 0.3, published=True).item() == close(expected * 2 / 0.3)


def test_undial_distils_the_reference_with_the_token_held_down() -> None:
    forget = spoken(((0.25, 0.25, 0.5), 0, 0))
    reference = logs((0.5, 0.3, 0.2)).detach()
    expected = -(log(0.25) / 6 + log(0.25) / 2 + log(0.5) / 3)
    assert undial(forget, reference, log(5)).item() == close(expected)
    assert undial(forget, reference.log_softmax(-1), log(5)).item() == close(expected)
    target = torch.tensor([1 / 6, 1 / 2, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close(
        gradient(undial(forget, reference, log(5)), forget)[0], forget.log_prob[0].exp() - target
    )


def test_ce_u_pulls_to_ones_own_other_tokens() -> None:
    forget = spoken(((0.5, 0.3, 0.2), 0, 0))
    loss = ce_u(forget, skip=0)
    assert loss.item() == close(-0.6 * log(0.3) - 0.4 * log(0.2))
    assert gradient(loss, forget)[0].tolist() == pytest.approx([0.5, -0.3, -0.2])
    both = spoken(*TWO_ROWS)
    assert ce_u(both).item() == close(-0.625 * log(0.5) - 0.375 * log(0.3))
    assert gradient(ce_u(both), both)[[0, 2]].abs().sum() == 0


def test_weights_of_wga_and_satimp_are_constants() -> None:
    forget = spoken(((0.5, 0.3, 0.2), 0, 0))
    of_loss = gradient(forget.mean, forget)
    assert wga(forget, 3.0).item() == close(-(0.5**3) * log(2))
    torch.testing.assert_close(gradient(wga(forget, 3.0), forget), -(0.5**3) * of_loss)
    assert wga(forget).item() == close(-0.5 * log(2))
    assert satimp(forget).item() == close(-(0.5**6) * log(2))
    other = spoken(((0.5, 0.3, 0.2), 2, 0))
    assert satimp(other, 2.0, 0.5).item() == close(-(0.2**2) * sqrt(0.8) * log(5))
    torch.testing.assert_close(
        gradient(satimp(other, 2.0, 0.5), other), -(0.2**2) * sqrt(0.8) * gradient(other.mean, other)
    )


def test_primal_and_dual_of_pdu() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0], [5.0, 5.0, 5.0]], dtype=torch.float64)
    assert flatness(logits).item() == close(2.0)
    assert pdu(torch.tensor(2.0), torch.tensor(0.7), multiplier=10.0, bound=0.5, gamma=3.0).item() == pytest.approx(8.0)
    assert dual_step(10.0, 0.7, bound=0.5, rate=5.0) == pytest.approx(11.0)
    assert dual_step(0.5, 0.1, bound=0.5, rate=5.0) == 0.0


@pytest.mark.parametrize(
    ("divergence", "expected", "right"),
    [
        ("total-variation", -tanh(0.5) / 2 + tanh(0.2) / 2, (True, True)),
        ("kl", -0.5 + exp(0.2 - 1), (True, True)),
        ("reverse-kl", exp(-0.5) + 0.2 - 1, (True, True)),
        ("pearson", -0.5 + 0.04 / 4 + 0.2, (True, True)),
        ("neyman", -(1 - exp(-0.5)) + 2 - 2 * exp(-0.1), (True, True)),
        ("jensen-shannon", -(log(2) - log(1 + exp(-0.5))) + log(1 + exp(0.2)) - log(2), (True, True)),
        ("jeffrey", -0.5 + 0.2 + 0.04 / 4 + 0.008 / 16, (True, True)),
        ("squared-hellinger", -(1 - exp(-0.5)) + exp(0.2) - 1, (True, True)),
        ("reverse-kl-published", exp(0.5) - 1 - 0.2, (False, False)),
        ("neyman-published", -(1 - exp(0.5)) + 2 - 2 * sqrt(0.8), (False, True)),
        ("squared-hellinger-published", -(1 - exp(0.5)) + (1 - exp(0.2)) / exp(0.2), (False, False)),
    ],
)
def test_the_divergences_of_flat(divergence: str, expected: float, right: tuple[bool, bool]) -> None:
    forget, good = spoken(((0.5, 0.3, 0.2), 2, 0)), spoken(((0.5, 0.3, 0.2), 0, 0))
    loss = flat(forget, good, divergence)
    assert loss.item() == close(expected)
    # A step down makes the good answer likelier and the forget answer less likely.
    assert (bool(gradient(loss, good)[0, 0] < 0), bool(gradient(loss, forget)[0, 2] > 0)) == right


@pytest.mark.parametrize(
    ("divergence", "f"),
    [
        ("kl", lambda u: u * np.log(u)),
        ("reverse-kl", lambda u: -np.log(u)),
        ("pearson", lambda u: (u - 1) ** 2),
        ("neyman", lambda u: (1 - u) ** 2 / u),
        ("jensen-shannon", lambda u: u * np.log(u) - (u + 1) * np.log((1 + u) / 2)),
        ("squared-hellinger", lambda u: (np.sqrt(u) - 1) ** 2),
    ],
)
def test_the_pairs_of_flat_are_conjugate(divergence: str, f: Callable[[np.ndarray], np.ndarray]) -> None:
    """What is made of the forget answer is the conjugate f*(t) = max_u (t u - f(u)) of what is made of the good one."""
    of_good, of_forget = _PAIRS[divergence]
    ratio = np.geomspace(1e-3, 1e3, 200_001)
    for probability in (0.05, 0.4, 0.9):
        x = torch.tensor(probability, dtype=torch.float64)
        conjugate = (float(of_good(x)) * ratio - f(ratio)).max()
        assert float(of_forget(x)) == pytest.approx(conjugate, abs=1e-6)


def test_flat_of_equal_probabilities_and_over_all_positions() -> None:
    forget, good = spoken(((0.5, 0.3, 0.2), 0, 0)), spoken(((0.25, 0.25, 0.5), 2, 0))
    assert flat(forget, good).item() == close(0)
    assert flat(forget, good, "kl", positions=(5, 2)).item() == close(-0.25 + exp(0.1 - 1))
    assert flat(spoken(*TWO_ROWS), good, "kl").item() == close(-0.5 + exp(0.5 - 1))


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [(UNIFORM, 1.0), ((1.0, 0.0, 0.0), 2.0), ((0.0, 1.0, 0.0), 0.0), ((0.5, 0.3, 0.2), 1.2)],
)
def test_the_inverted_hinge(probabilities: tuple[float, ...], expected: float) -> None:
    assert ihl(spoken((probabilities, 0, 0))).item() == close(expected)


def test_whos_harry_potter() -> None:
    base, reinforced = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 4.0, 0.0]])
    assert generic_logits(base, reinforced, alpha=2.0).tolist() == [[1.0, -2.0, 3.0]]
    forget = spoken(((0.5, 0.3, 0.2), 0, 0))
    assert generic_nll(forget, generic_logits(base, reinforced)).item() == close(log(5))
    # The formula is of logits: a constant added to one model moves the target.
    assert generic_logits(base, reinforced + 5).log_softmax(-1).tolist() != pytest.approx(
        generic_logits(base, reinforced).log_softmax(-1).tolist()[0]
    )


def test_random_labels_are_never_the_true_ones_and_even_over_the_others() -> None:
    token = torch.full((6000,), 1)
    drawn = other_tokens(token, 4, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=4)
    assert counts[1] == 0 and counts.sum() == 6000
    # Six standard deviations of a binomial with p = 1/3.
    assert ((counts[[0, 2, 3]] - 2000).abs() < 6 * sqrt(6000 * 2 / 9)).all()
    assert torch.equal(drawn, other_tokens(token, 4, torch.Generator().manual_seed(0)))
    assert not torch.equal(drawn, other_tokens(token, 4, torch.Generator().manual_seed(1)))
    assert other_tokens(torch.arange(3), 3, torch.Generator().manual_seed(3)).ne(torch.arange(3)).all()
    forget = spoken(*TWO_ROWS)
    assert random_label_nll(forget, torch.tensor([1, 0, 0])).item() == close(-(log(0.3) + log(0.5) + log(0.1)) / 3)


def test_ascent_with_smoothed_labels() -> None:
    forget = spoken(((0.5, 0.3, 0.2), 0, 0))
    even = -(log(0.5) + log(0.3) + log(0.2)) / 3
    assert smoothed_nll(forget, 0.3).item() == close(0.7 * log(2) + 0.3 * even)
    assert ugradsl(forget).item() == close(-1.4 * log(2) + 0.4 * even)
    assert ugradsl(forget, rate=0.0).item() == close(ascent(forget).item())
    retain = torch.tensor(3.0, dtype=torch.float64)
    assert ugradsl_plus(forget, retain, share=0.8).item() == close(0.8 * 3 + 0.2 * ugradsl(forget).item())


def test_the_l1_penalty_and_its_schedule() -> None:
    assert l1_norm([torch.tensor([[1.0, -2.0]]), torch.tensor([3.0, 0.0])]).item() == 6.0
    many = torch.full((10_000,), 0.01, dtype=torch.bfloat16)
    assert l1_norm([many]).item() == pytest.approx(10_000 * many[0].item(), rel=1e-5)
    assert [l1_weight(0.2, epoch, epochs=5, free=1) for epoch in range(5)] == pytest.approx([0.2, 0.15, 0.1, 0.05, 0.0])
    assert l1_weight(0.2, 9, epochs=10) == pytest.approx(0.02)
    assert l1_weight(0.2, 0, epochs=2, free=2) == 0.0


def test_entropy() -> None:
    assert kl_to_uniform(logs(UNIFORM)).item() == close(0) and kl_from_uniform(logs(UNIFORM)).item() == close(0)
    some = logs((0.8, 0.1, 0.1))
    assert kl_to_uniform(some).item() == close(log(3) + 0.8 * log(0.8) + 0.2 * log(0.1))
    assert kl_from_uniform(some).item() == close(-log(3) - (log(0.8) + 2 * log(0.1)) / 3)
    assert kl_to_uniform(torch.tensor([[100.0, 0.0, 0.0]])).item() == pytest.approx(log(3))


def test_one_less_the_probability() -> None:
    forget = spoken(((0.9, 0.06, 0.04), 0, 0), ((0.9, 0.06, 0.04), 1, 0))
    assert unlikely(forget).item() == close(-(log(0.1) + log(0.94)) / 2)
    assert unlikely(forget, floor=log(0.05)).item() == close(-(log(0.1) + log(0.94)) / 2)
    assert unlikely(forget, floor=log(0.1)).item() == close(-log(0.1) / 2)
    sure = Said(torch.tensor([[60.0, 0.0, 0.0]]), torch.tensor([0]), torch.tensor([0]), 1)
    assert unlikely(sure).item() == pytest.approx(60 - log(2))


def test_losses_that_are_not_what_they_are_called() -> None:
    logits, reference = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    expected = 2 / 0.5 * (log(1 + exp(0.5)) + log(2)) / 2
    assert muse_npo(logits, reference, beta=0.5).item() == pytest.approx(expected)
    assert muse_kl(logits, reference, rows=4).item() == pytest.approx(-1 / 4)
    share = math.exp(1) / (1 + math.exp(1))
    tilted = torch.tensor([[0.9, 0.1]]).log()
    assert wagle_kl(logits, tilted).item() == pytest.approx(-share * log(0.9) - (1 - share) * log(0.1))
