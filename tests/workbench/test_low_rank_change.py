"""A low-rank change adds what it says, once rounded, and goes through a file."""

from pathlib import Path

import pytest
import torch

from tests import zoo
from workbench.edits import WeightEdit, load_edit
from workbench.errors import BadInput
from workbench.low_rank_change import LowRank
from workbench.model import HookedModel

NAMES = ("model.layers.1.mlp.down_proj.weight", "model.layers.2.self_attn.q_proj.weight")


def drawn(shape: tuple[int, int], rank: int = 3, scale: float = 0.5, transposed: bool = False) -> LowRank:
    generator = torch.Generator().manual_seed(sum(shape) + rank)
    up, down = torch.randn(shape[0], rank, generator=generator), torch.randn(rank, shape[1], generator=generator)
    return LowRank(up, down, scale, transposed)


def by_hand(change: LowRank) -> torch.Tensor:
    product = (change.scale * change.up.double() @ change.down.double()).float()
    return product.T if change.transposed else product


@pytest.fixture
def model() -> HookedModel:
    return HookedModel(zoo.make("llama", dtype=torch.float32), zoo.tokenizer(), check=False)


@pytest.mark.parametrize("transposed", [False, True])
def test_it_adds_the_scaled_product(transposed: bool) -> None:
    change = drawn((4, 6), transposed=transposed)
    weight = torch.randn((6, 4) if transposed else (4, 6), generator=torch.Generator().manual_seed(0))
    expected = weight + by_hand(change)
    change.apply(weight)
    torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(BadInput, match=r"shape .* does not fit \(3, 3\)"):
        change.apply(torch.zeros(3, 3))


def test_a_half_precision_weight_is_rounded_once() -> None:
    change = drawn((16, 16), scale=1e-2)
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = (weight.float() + change.added()).bfloat16()
    twice = weight + change.added().bfloat16()
    change.apply(weight)
    assert weight.dtype == torch.bfloat16 and torch.equal(weight, expected)
    assert not torch.equal(expected, twice)


def test_less_is_a_difference_of_the_sum_of_ranks() -> None:
    one, other = drawn((5, 7), rank=2), drawn((5, 7), rank=3)
    rest = one.less(other)
    assert rest.up.shape == (5, 5) and rest.down.shape == (5, 7)
    torch.testing.assert_close(rest.added(), one.added() - other.added(), rtol=1e-5, atol=1e-6)


def edit_of(model: HookedModel) -> WeightEdit:
    changes = {name: drawn(tuple(model.parameter(name).shape)) for name in NAMES}
    return WeightEdit(model.identity, {"method": "by hand"}, changes=changes)


def test_it_goes_through_a_file_as_thin_matrices(model: HookedModel, tmp_path: Path) -> None:
    edit = edit_of(model)
    edit.save(tmp_path / "edit")
    back = load_edit(tmp_path / "edit")
    assert back.digest == edit.digest and isinstance(back, WeightEdit)
    assert set(back.low_rank) == set(NAMES) and back.low_rank[NAMES[0]].scale == 0.5
    whole = sum(model.parameter(name).numel() for name in NAMES)
    assert sum(tensor.numel() for tensor in back.tensors().values()) < 0.3 * whole
    before = {name: model.parameter(name).detach().clone() for name in NAMES}
    with back.on(model):
        for name in NAMES:
            torch.testing.assert_close(
                model.parameter(name).detach(), before[name] + by_hand(edit.low_rank[name]), rtol=1e-5, atol=1e-5
            )
    assert all(torch.equal(model.parameter(name), before[name]) for name in NAMES)


def test_the_digest_is_of_scale_and_orientation_too(model: HookedModel) -> None:
    digests = set()
    for scale, transposed in ((0.5, False), (0.25, False), (0.5, True)):
        change = drawn((32, 32), scale=scale, transposed=transposed)
        digests.add(WeightEdit(model.identity, {}, changes={NAMES[1]: change}).digest)
    assert len(digests) == 3


def test_the_written_checkpoint_differs_in_these_tensors_alone(model: HookedModel, tmp_path: Path) -> None:
    edit = edit_of(model)
    written = edit.write(model, tmp_path / "out")
    rows = {row["tensor"] for row in edit.receipt(model)}
    assert rows == set(NAMES)
    with written.open() as opened:
        for name in model.parameter_names():
            same = torch.equal(opened.parameter(name), model.parameter(name))
            assert same == (name not in NAMES)
            if name in NAMES:
                with edit.on(model):
                    assert torch.equal(opened.parameter(name), model.parameter(name))


def test_its_card_says_the_rank(model: HookedModel) -> None:
    assert "a product of rank 3" in edit_of(model)._repr_html_()
