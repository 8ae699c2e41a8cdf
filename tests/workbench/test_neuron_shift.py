"""Neuron Adjust's mathematics: the published numbers, values worked out by hand, draws that depend on nothing else."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from workbench.errors import BadInput
from workbench.moments import Moments
from workbench.neuron_shift import draws, neuron_adjust, pick, salts, shifted, shifted_published, top_share
from workbench.operators import Operator

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDS = {
    record["id"].removeprefix("interv.neuron_adjust."): record
    for record in json.loads((GOLDEN / "neuron_adjust.json").read_text())["records"]
}
GIVEN = load_file(GOLDEN / "neuron_adjust.safetensors")
CLOSE = {"rtol": 1e-7, "atol": 1e-9}


def moments(name: str, sizes: tuple[int, ...] = (7, 1, 20)) -> Moments:
    """Of the stored activations, in uneven batches."""
    found, rows = Moments(11), GIVEN[name]
    for part in rows.split([*sizes, len(rows) - sum(sizes)]):
        found.add(part)
    return found


def statistics() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kept, gone = moments("na.retain_acts"), moments("na.forget_acts")
    return kept.mean, kept.std, gone.mean, gone.std


def stored(record: dict[str, Any], key: str = "output") -> Tensor:
    return torch.tensor(record["value"][key], dtype=torch.float64)


def test_the_statistics_are_the_published_ones_however_the_tokens_come() -> None:
    value = RECORDS["statistics"]["published"]["value"]
    for ours, name in zip(statistics(), ("mu_retain", "std_retain", "mu_forget", "std_forget"), strict=True):
        torch.testing.assert_close(ours, torch.tensor(value[name], dtype=torch.float64), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("share", [10.0, 30.0])
def test_the_neurons_chosen_are_the_published_ones(share: float) -> None:
    keep_mean, _, forget_mean, _ = statistics()
    chosen, threshold = top_share(forget_mean - keep_mean, share)
    value = RECORDS[f"selection_{share:.0f}pct"]["published"]["value"]
    assert chosen.nonzero()[:, 0].tolist() == value["neurons"]
    assert threshold == pytest.approx(value["threshold"], rel=1e-9)


@pytest.mark.parametrize(("draw", "stored_as"), [("na.u_code", None), ("na.u_elem", "element_wise_draw")])
def test_the_shift_is_the_published_one_for_any_draws(draw: str, stored_as: str | None) -> None:
    record = RECORDS["shift"]["variants"][stored_as] if stored_as else RECORDS["shift"]["published"]
    ours = shifted(GIVEN["na.x"], *statistics(), GIVEN[draw])
    torch.testing.assert_close(ours, stored(record), **CLOSE)
    assert torch.equal(ours != GIVEN["na.x"], stored(record, "changed").bool())


def test_the_released_code_is_reproduced_with_its_overwritten_spread() -> None:
    keep_mean, keep_std, forget_mean, forget_std = statistics()
    record = RECORDS["hook_as_published"]
    wrong = shifted_published(GIVEN["na.x"], keep_mean, keep_std, forget_mean, forget_mean, GIVEN["na.u_code"])
    torch.testing.assert_close(wrong, stored(record["published"]), **CLOSE)
    right = shifted_published(GIVEN["na.x"], keep_mean, keep_std, forget_mean, forget_std, GIVEN["na.u_code"])
    torch.testing.assert_close(right, stored(record["variants"]["sigma2_correct"]), **CLOSE)
    assert not torch.allclose(wrong, right)


def one(x: float, u: float, stats: tuple[float, float, float, float] = (0.0, 1.0, 4.0, 1.0), published: bool = False):
    given = [torch.tensor([number]) for number in (x, *stats, u)]
    return float((shifted_published if published else shifted)(*given))


def test_values_worked_out_by_hand() -> None:
    left = 1 / (1 + math.exp(8))
    assert one(4.0, left * 0.99) == 4.0  # left alone with probability 0.000335
    assert one(4.0, left * 1.01) == 0.0
    assert one(5.0, 0.5) == -1.0  # one spread above the forget mean: one below the kept
    assert one(1.9, 0.9999) == one(1.9, 1e-7) == pytest.approx(1.9)  # the kept texts explain it better
    assert one(2.1, 0.9999) == pytest.approx(1.9)  # the others do, barely
    assert one(2.1, 0.3) == pytest.approx(2.1)


def test_far_from_both_the_nearer_one_still_decides() -> None:
    """The densities themselves are 0 there, in float32 from 14 spreads on."""
    assert one(200.0, 0.5, (0.0, 1.0, 210.0, 1.0)) == 10.0
    assert one(-200.0, 0.5, (0.0, 1.0, 210.0, 1.0)) == -200.0


@pytest.mark.parametrize(
    ("stats", "x", "became"),
    [
        ((0.0, 1.0, 4.0, 0.0), 4.0, 0.0),  # the one value the forget texts had
        ((0.0, 1.0, 4.0, 0.0), 4.1, 4.1),  # any other is none of theirs
        ((0.0, 0.0, 4.0, 1.0), 0.0, 0.0),
        ((0.0, 0.0, 4.0, 1.0), 5.0, 0.0),  # the one value the kept texts had
        ((1.0, 0.0, 1.0, 0.0), 1.0, 1.0),
        ((0.0, 0.0, 4.0, 0.0), 4.0, 0.0),
    ],
)
def test_a_neuron_that_never_moved_gives_a_number(stats, x: float, became: float) -> None:
    assert one(x, 0.9, stats) == pytest.approx(became, abs=1e-4)
    assert math.isfinite(one(x, 0.9, stats, published=True))


def stirred(state: int) -> int:
    """The same mix in Python's own integers."""
    state = ((state ^ state >> 16) * 0x7FEB352D) % 2**32
    state = ((state ^ state >> 15) * 0x846CA68B) % 2**32
    return state ^ state >> 16


def test_the_draws_are_those_of_the_hash_in_python_s_integers() -> None:
    state = 11
    for part in (0, 3, 5 + 1):
        state = stirred(stirred(state) ^ part)
    neurons, positions = [0, 7, 300_000], [0, 1, 4095]
    salt = [stirred(state ^ neuron) for neuron in neurons]
    assert salts(torch.tensor(neurons), seed=11, layer=3, expert=5).tolist() == salt
    expected = [[((stirred(s ^ stirred(p + 1)) >> 9) + 0.5) / 2**23 for s in salt] for p in positions]
    assert draws(torch.tensor(salt), torch.tensor(positions)).tolist() == expected


def test_the_draws_are_uniform_and_know_nothing_of_each_other() -> None:
    neurons, positions = torch.arange(400), torch.arange(300)
    drawn = {
        key: draws(salts(neurons, seed=key[0], layer=key[1], expert=key[2]), positions).double()
        for key in ((0, 0, None), (0, 0, 0), (0, 0, 1), (0, 1, None), (1, 0, None), (2**32, 0, None), (-1, 0, None))
    }
    first = drawn[0, 0, None]
    assert float(first.min()) > 0 and float(first.max()) < 1
    ranked = first.flatten().sort().values
    even = (torch.arange(len(ranked)) + 0.5) / len(ranked)
    assert float((ranked - even).abs().max()) < 1.63 / len(ranked) ** 0.5  # Kolmogorov and Smirnov, 1 %
    others = [other for key, other in drawn.items() if key != (0, 0, None)]
    for other in (*others, first.roll(1, 0), first.roll(1, 1)):
        together = torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]
        assert abs(float(together)) < 4 / first.numel() ** 0.5


def operator(n: int = 3, **more: Any) -> Operator:
    tensors = {"keep_mean": 0.0, "keep_std": 1.0, "forget_mean": 2.0, "forget_std": 1.0}
    return Operator(
        "neuron_adjust",
        index=torch.arange(n) * 2,
        tensors={name: torch.full((n,), value) for name, value in tensors.items()}
        | {"salt": salts(torch.arange(n), seed=0, layer=0)},
        **more,
    )


def test_a_row_is_changed_the_same_way_in_any_batch_and_by_no_random_state() -> None:
    value = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(0)) + 1
    torch.manual_seed(1)
    together = operator()(value)
    drawn_since = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn_since)
    assert torch.equal(torch.cat([operator()(row[None, :5]) for row in value]), together[:, :5])
    assert torch.equal(together[..., 1::2], value[..., 1::2])
    changed = (together != value)[..., ::2]
    assert 0.2 < float(changed.float().mean()) < 0.8
    assert not torch.equal(changed[:, 0], changed[:, 1])


def test_the_published_draw_is_one_for_all_positions() -> None:
    value = torch.full((1, 500, 6), 1.2)  # left with probability 0.40
    shares = [float((op(value) != value)[..., ::2].float().mean()) for op in (operator(), operator(options=AS_THEY))]
    assert 0.5 < shares[0] < 0.7
    per_neuron = (operator(options=AS_THEY)(value) != value)[0, :, ::2].float().mean(dim=0)
    assert set(per_neuron.tolist()) <= {0.0, 1.0}


AS_THEY = {"published": True}


def test_in_bfloat16_neurons_left_alone_keep_their_bits() -> None:
    value = (torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(0)) + 1).to(torch.bfloat16)
    after = operator()(value)
    wide = neuron_adjust(value[..., ::2].float(), **operator().tensors)
    assert after.dtype == torch.bfloat16
    assert torch.equal(after[..., ::2], wide.to(torch.bfloat16)) and not torch.equal(after, value)


def test_neurons_are_pooled_over_all_sites_and_random_ones_are_others() -> None:
    scores = [torch.tensor([0.1, -9.0, 0.5]), torch.tensor([0.4, 0.2, 0.3, 0.0, -1.0])]
    best, threshold = pick(scores, 25.0, "score", 0)
    assert [part.tolist() for part in best] == [[False, False, True], [True] + [False] * 4]
    assert threshold == pytest.approx(0.4)
    for seed in range(5):
        drawn, none = pick(scores, 25.0, "random", seed)
        assert sum(int(part.sum()) for part in drawn) == 2 and none is None
        assert not any((a & b).any() for a, b in zip(drawn, best, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(drawn, pick(scores, 25.0, "random", seed)[0], strict=True))
    assert len({str(pick(scores, 25.0, "random", seed)[0]) for seed in range(5)}) > 1
    assert all(part.all() for part in pick(scores, 25.0, "all", 0)[0])
    assert sum(int(part.sum()) for part in pick(scores, 75.0, "random", 0)[0]) == 6  # more than there are others


def test_a_share_of_less_than_one_neuron_is_refused() -> None:
    assert top_share(torch.arange(8.0), 1e-15)[1] == math.inf
    with pytest.raises(BadInput, match="1e-15 per cent of 8 neurons is not one neuron"):
        pick([torch.arange(8.0)], 1e-15, "score", 0)
    assert int(top_share(torch.arange(8.0), 0.5)[0].sum()) == 1  # as published: the best one at least
    assert int(top_share(torch.zeros(8), 10.0)[0].sum()) == 8  # and all that tie
