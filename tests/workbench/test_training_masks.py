"""Only the entries that a mask selects move, whatever the optimizer does; the rest keeps its bits."""

from typing import Any

import pytest
import torch

from workbench.demo.planted import Planted, plant
from workbench.errors import BadInput
from workbench.experts import slice_name
from workbench.objectives import answer_nll, labelled
from workbench.tokens import encode
from workbench.training import StopRule, TrainingOptions, train

DOWN, NORM, FUSED = "model.layers.1.mlp.down_proj.weight", "model.norm.weight", "model.layers.1.mlp.experts.down_proj"
STEEP = TrainingOptions(steps=4, lr=1e-2, batch_size=4, weight_decay=0.3)
WAYS = {
    "adamw": STEEP,
    "sophia": STEEP.model_copy(update={"optimizer": "sophia", "sophia_every": 2}),
    "sophia published": STEEP.model_copy(update={"optimizer": "sophia", "sophia_published": True}),
    "accumulated": STEEP.model_copy(update={"accumulate": 2}),
}


def random_mask(shape: torch.Size, share: float = 0.3) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) < share


def trained(planted: Planted, options: TrainingOptions = STEEP, **more: Any) -> dict[str, torch.Tensor]:
    """Parameter -> which of its entries moved."""
    before = {name: p.detach().clone() for name, p in planted.model.named_parameters()}
    items = [encode(planted.tokenizer, fact) for fact in planted.concept.forget.facts]
    train(planted.model, items, labelled, answer_nll, options, **more)
    return {name: p.detach() != before[name] for name, p in planted.model.named_parameters()}


@pytest.mark.parametrize("way", WAYS)
def test_exactly_the_selected_entries_move(way: str) -> None:
    planted = plant()
    masks = {name: random_mask(planted.model.get_parameter(name).shape) for name in (DOWN, NORM)}
    moved = trained(planted, WAYS[way], masks=masks)
    assert {name for name, entries in moved.items() if entries.any()} == {DOWN, NORM}
    for name, mask in masks.items():
        assert not (moved[name] & ~mask).any()
        assert moved[name][mask].float().mean() > 0.95  # weight decay moves all but the zeros


def test_the_selected_entries_move_as_a_hand_computed_step_says() -> None:
    """One step of AdamW on the gradient inside the mask, clipped by the norm of that alone."""
    planted = plant()
    parameter = planted.model.get_parameter(DOWN)
    items = [encode(planted.tokenizer, fact) for fact in planted.concept.forget.facts]
    (gradient,) = torch.autograd.grad(answer_nll(planted.model, labelled(items)), [parameter])
    mask = random_mask(parameter.shape)
    inside = gradient[mask].double()
    inside = inside * min(1.0, 1e-3 / float(inside.norm() + 1e-6))
    before = parameter.detach()[mask].double()
    expected = before * (1 - 1e-2 * 0.3) - 1e-2 * inside / (inside.abs() + 1e-8)
    options = TrainingOptions(steps=1, lr=1e-2, batch_size=len(items), weight_decay=0.3, max_grad_norm=1e-3)
    trained(planted, options, masks={DOWN: mask})
    clear = inside.abs() > 1e-7  # below it AdamW's epsilon and rounding decide
    assert clear.float().mean() > 0.5
    torch.testing.assert_close(parameter.detach()[mask].double()[clear], expected[clear], rtol=1e-4, atol=1e-5)


def test_a_mask_of_everything_is_no_mask() -> None:
    one, other = plant(), plant()
    trained(one, trainable=[DOWN])
    trained(other, masks={DOWN: torch.ones_like(other.model.get_parameter(DOWN), dtype=torch.bool)})
    assert torch.equal(one.model.get_parameter(DOWN), other.model.get_parameter(DOWN))


def test_other_trainable_parameters_move_whole() -> None:
    planted = plant()
    mask = random_mask(planted.model.get_parameter(DOWN).shape)
    moved = trained(planted, trainable=[DOWN, NORM], masks={DOWN: mask})
    assert moved[NORM].all() and not (moved[DOWN] & ~mask).any() and moved[DOWN].any()
    assert {name for name, entries in moved.items() if entries.any()} == {DOWN, NORM}


def test_a_mask_may_select_a_neuron_of_an_expert() -> None:
    planted = plant("olmoe")
    mask = torch.zeros_like(planted.model.get_parameter(FUSED), dtype=torch.bool)
    mask[2, :, 7] = True
    moved = trained(
        planted, STEEP, trainable=[FUSED, slice_name("model.layers.0.mlp.experts.down_proj", 1)], masks={FUSED: mask}
    )
    assert moved[FUSED].any() and not (moved[FUSED] & ~mask).any()
    other = moved["model.layers.0.mlp.experts.down_proj"]
    assert other[1].any() and not other[[0, 2, 3]].any()


def test_gradients_that_are_no_numbers_outside_the_mask_do_no_harm() -> None:
    planted = plant()
    parameter = planted.model.get_parameter(DOWN)
    mask = random_mask(parameter.shape)
    poison = torch.where(mask, 0.0, float("nan"))
    handle = parameter.register_hook(lambda gradient: gradient + poison)
    moved = trained(planted, masks={DOWN: mask})
    handle.remove()
    assert parameter.isfinite().all() and not (moved[DOWN] & ~mask).any() and moved[DOWN].any()


def test_the_best_parameters_come_back_with_masks() -> None:
    planted = plant()
    mask = random_mask(planted.model.get_parameter(DOWN).shape)
    kept: dict[int, torch.Tensor] = {}

    def evaluate(step: int) -> float:
        kept[step] = planted.model.get_parameter(DOWN).detach().clone()
        return abs(step - 2)

    trained(planted, masks={DOWN: mask}, evaluate_at=range(5), evaluate=evaluate, stop=StopRule(best=True))
    assert torch.equal(planted.model.get_parameter(DOWN), kept[2]) and not torch.equal(kept[2], kept[4])


def test_bad_masks_are_named() -> None:
    planted = plant("olmoe")
    good = torch.ones_like(planted.model.get_parameter(FUSED), dtype=torch.bool)
    for masks, more, message in (
        ({FUSED: good & False}, {}, "selects nothing"),
        ({FUSED: good.float()}, {}, "must be torch.bool"),
        ({FUSED: good[0]}, {}, "of the parameter's shape"),
        ({"lm_head.wieght": good}, {}, "Did you mean 'lm_head.weight'"),
        ({FUSED: good}, {"trainable": [NORM]}, "add it to `trainable`"),
        ({FUSED: good}, {"trainable": [slice_name(FUSED, 1)]}, "single experts"),
        ({FUSED: good}, {"options": STEEP.model_copy(update={"optimizer": "muon"})}, "Muon turns whole matrices"),
    ):
        with pytest.raises(BadInput, match=message):
            trained(planted, masks=masks, **more)
    assert all(p.requires_grad and not p._backward_hooks for p in planted.model.parameters())
