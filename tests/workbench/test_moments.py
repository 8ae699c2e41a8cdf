"""Moments: what is counted is what a reading shows, and only one batch is ever held."""

import weakref
from collections.abc import Iterator

import pytest
import torch

from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.moments import Moments, _Counting, moments_of
from workbench.sites import Site
from workbench.tokens import Batch, pad

ROWS = [[0, 5, 9, 17, 33], [0, 8, 3, 41], [0, 2], [0, 7, 7, 6, 5, 4, 3], [0, 11, 12, 13], [0, 30, 31, 9]]


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def model(request: pytest.FixtureRequest) -> HookedModel:
    found = plant(request.param, 0)
    return HookedModel(found.model, found.tokenizer, check=False)


def batches(size: int) -> Iterator[tuple[Batch, torch.Tensor]]:
    for start in range(0, len(ROWS), size):
        batch = pad(ROWS[start : start + size])
        yield batch, batch.mask & (torch.arange(batch.mask.shape[1]) > 0)


def test_mean_and_spread_are_those_of_all_values_at_once() -> None:
    values = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 0.0]) + 1e3
    found = Moments(3)
    for part in values.split([1, 0, 399, 600]):
        found.add(part)
    assert found.count == 1000
    torch.testing.assert_close(found.mean, values.double().mean(dim=0), rtol=1e-14, atol=0)
    torch.testing.assert_close(found.std, values.double().std(dim=0), rtol=1e-9, atol=1e-12)


def test_one_value_has_no_spread_and_none_has_no_mean() -> None:
    found = Moments(2)
    found.add(torch.ones(1, 2))
    assert found.mean.tolist() == [1.0, 1.0] and found.std.isnan().all() and Moments(2).count == 0


@pytest.mark.parametrize("size", [1, 4, 6])
def test_what_is_counted_is_what_a_reading_shows(model: HookedModel, size: int) -> None:
    sites = model.gate_sites()
    found = moments_of(model, sites, batches(size))
    whole, counted = next(batches(len(ROWS)))
    acts = model.run(whole, read=sites, logits=False).acts
    routing = model.routing(whole) if model.mixture_layers else {}
    unsent = 0
    for site in sites:
        here = counted
        if site.expert is not None:
            here = counted & (routing[site.layer].chosen == site.expert).any(dim=-1)
            unsent += int((counted & ~here).sum())
        values = acts[site][here].double()
        assert found[site].count == len(values)
        if len(values) > 1:
            torch.testing.assert_close(found[site].mean, values.mean(dim=0), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(found[site].std, values.std(dim=0), rtol=1e-4, atol=1e-6)
    assert (unsent > 0) == bool(model.mixture_layers)
    assert sum(found[site].count for site in sites) == int(counted.sum()) * (6 if model.mixture_layers else 3)


def test_no_more_than_one_batch_is_ever_held(model: HookedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    values: list[weakref.ref[torch.Tensor]] = []
    seen: list[int] = []
    add = Moments.add

    def noting(self: Moments, some: torch.Tensor) -> None:
        seen.append(sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(some))
        add(self, some)

    class Noting(_Counting):
        def __call__(self, value: torch.Tensor) -> torch.Tensor:
            values.append(weakref.ref(value))
            return super().__call__(value)

    def watched() -> Iterator[tuple[Batch, torch.Tensor]]:
        for pair in batches(2):
            assert not any(ref() is not None for ref in [*alive, *values])  # nothing of the batches before
            yield pair

    monkeypatch.setattr(Moments, "add", noting)
    monkeypatch.setattr("workbench.moments._Counting", Noting)
    ticks: list[int] = []
    moments_of(model, model.gate_sites(), watched(), lambda: ticks.append(len(alive)))
    assert len(values) == len(alive) == 3 * len(model.gate_sites()) and max(seen) <= 1  # of a batch, one site at a time
    assert ticks == [len(model.gate_sites()) * n for n in (1, 2, 3)]


def test_counting_changes_no_bit(model: HookedModel) -> None:
    batch = pad(ROWS)
    before = model.run(batch).logits
    moments_of(model, model.gate_sites(), batches(3))
    assert torch.equal(model.run(batch).logits, before)


def test_a_site_that_is_not_there_is_refused(model: HookedModel) -> None:
    with pytest.raises(BadInput, match="no site L9.mlp_pre"):
        moments_of(model, [Site(9, "mlp_pre")], batches(2))
