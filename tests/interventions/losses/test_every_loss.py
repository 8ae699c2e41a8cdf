"""What must hold of every loss: only labelled tokens matter, constants in logits do not, gradients are right."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from interventions.gradient.losses.as_published import muse_kl, muse_npo, wagle_kl
from interventions.gradient.losses.ascent import ascent
from interventions.gradient.losses.ceu import ce_u
from interventions.gradient.losses.dpo import dpo
from interventions.gradient.losses.entropy import kl_from_uniform, kl_to_uniform
from interventions.gradient.losses.flat import _PAIRS, flat
from interventions.gradient.losses.graddiff import grad_diff
from interventions.gradient.losses.idk import idk_nll
from interventions.gradient.losses.ihl import ihl
from interventions.gradient.losses.kl import forward_kl, reverse_kl
from interventions.gradient.losses.kl_stored import TopK, forward_kl_stored, reverse_kl_stored
from interventions.gradient.losses.npo import npo
from interventions.gradient.losses.pdu import flatness
from interventions.gradient.losses.random_labels import other_tokens, random_label_nll
from interventions.gradient.losses.said import Said
from interventions.gradient.losses.satimp import satimp
from interventions.gradient.losses.simnpo import simnpo
from interventions.gradient.losses.ugradsl import ugradsl, ugradsl_plus
from interventions.gradient.losses.undial import undial
from interventions.gradient.losses.unlikely import unlikely
from interventions.gradient.losses.wga import wga
from interventions.gradient.losses.whp import generic_logits, generic_nll

LABELS = torch.tensor([[-100, 3, 1, 4, -100], [-100, -100, 0, 2, 2], [-100, -100, -100, 1, 0]])


@dataclass(frozen=True)
class World:
    """Logits in training, those of a reference and of other answers, and labels of forget and other answers."""

    logits: Tensor
    reference: Tensor
    other: Tensor
    labels: Tensor
    other_labels: Tensor

    @classmethod
    def random(cls, seed: int = 0, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> "World":
        generator = torch.Generator().manual_seed(seed)
        made = [(torch.randn(3, 5, 7, generator=generator, dtype=torch.float64) * scale).to(dtype) for _ in range(3)]
        return cls(*made, LABELS, LABELS.roll(1, 0))

    @property
    def forget(self) -> Said:
        return Said.of(self.logits, self.labels)

    @property
    def before(self) -> Said:
        return Said.of(self.reference, self.labels)

    @property
    def chosen(self) -> Said:
        return Said.of(self.other, self.other_labels)

    @property
    def original(self) -> Tensor:
        return -self.before.total

    def padded(self) -> "World":
        """Two more positions and one more row without labels, with logits that would show."""
        logits = [
            torch.nn.functional.pad(x, (0, 0, 0, 2, 0, 1), value=torch.nan)
            for x in (self.logits, self.reference, self.other)
        ]
        labels = [torch.nn.functional.pad(x, (0, 2, 0, 1), value=-100) for x in (self.labels, self.other_labels)]
        return World(*logits, *labels)

    def shifted(self) -> "World":
        """Another constant added to the logits of each position."""
        by = [
            torch.linspace(-3, 5, 15, dtype=x.dtype).reshape(3, 5, 1) for x in (self.logits, self.reference, self.other)
        ]
        return replace(
            self, logits=self.logits + by[0], reference=self.reference - by[1], other=self.other + by[2].flip(0)
        )


def _dpo(w: World) -> Tensor:
    return dpo(w.chosen, w.forget, torch.full((len(w.labels),), -3.0), w.original)


def _random_labels(w: World) -> Tensor:
    said = w.forget
    return random_label_nll(said, other_tokens(said.token, 7, torch.Generator().manual_seed(0)))


LOSSES: dict[str, Callable[[World], Tensor]] = {
    "ascent": lambda w: ascent(w.forget),
    "ascent capped": lambda w: ascent(w.forget, cap=1e9),
    "graddiff": lambda w: grad_diff(w.forget, w.chosen.mean, 0.5, 2.0),
    "graddiff kl": lambda w: grad_diff(w.forget, forward_kl(w.chosen.logits, w.chosen.logits.flip(1))),
    "forward kl": lambda w: forward_kl(w.forget.logits, w.before.logits),
    "reverse kl": lambda w: reverse_kl(w.forget.logits, w.before.logits),
    "forward kl stored": lambda w: forward_kl_stored(w.forget.logits, TopK.of(w.before.logits, 3)),
    "reverse kl stored": lambda w: reverse_kl_stored(w.forget.logits, TopK.of(w.before.logits, 3)),
    "npo": lambda w: npo(w.forget, w.original),
    "npo per token": lambda w: npo(w.forget, w.original, per_token=True),
    "simnpo": lambda w: simnpo(w.forget, beta=0.5),
    "idk": lambda w: idk_nll(w.forget),
    "idk pooled": lambda w: idk_nll(w.forget, w.chosen),
    "dpo": _dpo,
    "undial": lambda w: undial(w.forget, w.before.logits),
    "ce-u": lambda w: ce_u(w.forget),
    "wga": lambda w: wga(w.forget),
    "satimp": lambda w: satimp(w.forget),
    "pdu": lambda w: flatness(w.forget.logits),
    "ihl": lambda w: ihl(w.forget),
    "whp": lambda w: generic_nll(w.forget, generic_logits(w.before.log_prob, w.before.log_prob.flip(1))),
    "random labels": _random_labels,
    "ugradsl": lambda w: ugradsl(w.forget),
    "ugradsl+": lambda w: ugradsl_plus(w.forget, w.chosen.mean, 0.7),
    "entropy": lambda w: kl_to_uniform(w.forget.logits),
    "uniform": lambda w: kl_from_uniform(w.forget.logits),
    "unlikely": lambda w: unlikely(w.forget),
    "unlikely with a floor": lambda w: unlikely(w.forget, floor=-3.0),
    **{f"flat {name}": lambda w, name=name: flat(w.forget, w.chosen, name) for name in _PAIRS},
}
DETACHED = ("ce-u", "wga", "satimp")
"""Losses with a weight or target that is a constant of the step, so their gradient is not that of their value."""

every = pytest.mark.parametrize("name", LOSSES)


def slope(name: str, world: World) -> Tensor:
    logits = world.logits.detach().clone().requires_grad_(True)
    return torch.autograd.grad(LOSSES[name](replace(world, logits=logits)), logits)[0]


@every
def test_padding_positions_and_rows_change_nothing(name: str) -> None:
    world = World.random()
    value = LOSSES[name](world)
    torch.testing.assert_close(LOSSES[name](world.padded()), value, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(slope(name, world.padded())[:3, :5], slope(name, world), rtol=1e-12, atol=1e-14)
    assert not slope(name, world.padded())[:, 5:].any() and not slope(name, world.padded())[3:].any()


@every
def test_a_constant_added_to_the_logits_changes_nothing(name: str) -> None:
    world = World.random()
    torch.testing.assert_close(LOSSES[name](world.shifted()), LOSSES[name](world), rtol=1e-12, atol=1e-12)


@every
def test_only_positions_that_predict_an_answer_have_a_gradient(name: str) -> None:
    gradient = slope(name, World.random())
    predicts = torch.cat([LABELS[:, 1:] != -100, torch.zeros(3, 1, dtype=torch.bool)], dim=1)
    assert gradient[predicts].any() and not gradient[~predicts].any()


@every
def test_the_gradient_is_that_of_finite_differences_unless_a_part_is_held_constant(name: str) -> None:
    world = World.random(seed=1)
    logits = world.logits.clone().requires_grad_(True)
    right = torch.autograd.gradcheck(
        lambda x: LOSSES[name](replace(world, logits=x)), logits, raise_exception=name not in DETACHED
    )
    assert right == (name not in DETACHED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pattern", ["sure and right", "sure and wrong", "either way"])
@every
def test_extreme_logits_give_finite_values_and_gradients(name: str, pattern: str, dtype: torch.dtype) -> None:
    world = World.random(dtype=torch.float32)
    true = torch.nn.functional.one_hot(LABELS.clamp_min(0), 7).roll(-1, 1).bool()
    signs = {"sure and right": true, "sure and wrong": ~true, "either way": world.logits > 0}[pattern]
    logits = torch.where(signs, 1e4, -1e4).to(dtype)
    for reference in (logits, -logits, torch.zeros_like(logits)):
        extreme = replace(world, logits=logits, reference=reference, other=-logits)
        assert LOSSES[name](extreme).isfinite() and slope(name, extreme).isfinite().all()


@every
def test_bfloat16_logits_are_computed_with_in_float32(name: str) -> None:
    low = World.random(dtype=torch.bfloat16)
    full = replace(low, logits=low.logits.float(), reference=low.reference.float(), other=low.other.float())
    value = LOSSES[name](low)
    assert value.dtype == torch.float32 and torch.equal(value, LOSSES[name](full))
    assert slope(name, low).dtype == torch.bfloat16
    exact = replace(low, logits=low.logits.double(), reference=low.reference.double(), other=low.other.double())
    torch.testing.assert_close(value.double(), LOSSES[name](exact).double(), rtol=1e-5, atol=1e-5)


def test_the_sum_over_all_positions_of_flats_code_depends_on_padding() -> None:
    world = World.random()
    by_code = [
        flat(w.forget, w.chosen, positions=(w.labels.numel() - len(w.labels),) * 2) for w in (world, world.padded())
    ]
    assert by_code[0] != pytest.approx(float(by_code[1]), rel=0.1)


@pytest.mark.parametrize("name", ["npo", "kl", "wagle"])
def test_muses_losses_depend_on_constants_that_softmax_ignores(name: str) -> None:
    losses = {
        "npo": lambda w: muse_npo(w.forget.logits, w.before.logits),
        "kl": lambda w: muse_kl(w.forget.logits, w.before.logits, 3),
        "wagle": lambda w: wagle_kl(w.forget.logits, w.before.logits),
    }
    world = World.random()
    same = float(losses[name](world.shifted())) == pytest.approx(float(losses[name](world)), rel=1e-9)
    assert same == (name == "wagle")
