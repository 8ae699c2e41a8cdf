"""How many weights still round to the base's integer: constructed, so that the share is known."""

from pathlib import Path

import pytest
import torch

from audits.attacks.quantise import Quantise, codes, codes_kept, round_to_nearest
from audits.claim_notes import codes_of
from audits.reading_options import ReadingOptions
from audits.reading_ways import Asked, quantised
from tests.interventions.measuring import bits_of, same
from workbench.checkpoint import Checkpoint
from workbench.demo.planted import plant
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.model import HookedModel

BITS = 4


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def rounded(request, tmp_path_factory) -> tuple[HookedModel, Checkpoint, object]:
    """A model whose weights are the middles of their steps, stored and open; its experts are stored one by one."""
    found = plant(request.param, 0)
    model = HookedModel(found.model, found.tokenizer, check=False)
    with torch.no_grad():
        for name in model.block_matrices():
            model.parameter(name).copy_(round_to_nearest(model.parameter(name), BITS))
    return model, Checkpoint(found.save(tmp_path_factory.mktemp("rounded") / request.param)), found.concept


def nudged(model: HookedModel, steps: float, every: int = 1) -> WeightEdit:
    """Every n-th weight moved by some steps towards zero, but for those that set the step."""

    def change() -> None:
        with torch.no_grad():
            for name in model.block_matrices():
                weight = model.parameter(name)
                largest = weight.abs().amax(dim=-1, keepdim=True)
                chosen = (torch.arange(weight.numel()) % every == 0).view(weight.shape) & (weight.abs() < largest)
                weight.sub_(torch.where(chosen, steps * largest / 7, 0.0) * torch.where(weight < 0, -1.0, 1.0))

    return fit_weights(model, model.block_matrices(), change, {})


def moved(model: HookedModel, every: int) -> float:
    """Share of the weights that `nudged` moves."""
    chosen = total = 0
    for name in model.block_matrices():
        weight = model.parameter(name).detach()
        inner = weight.abs() < weight.abs().amax(dim=-1, keepdim=True)
        chosen += int(((torch.arange(weight.numel()) % every == 0).view(weight.shape) & inner).sum())
        total += weight.numel()
    return chosen / total


def test_below_half_a_step_all_codes_are_the_bases_above_it_those_that_were_not_moved(rounded) -> None:
    model, base, _ = rounded
    assert codes_kept(model, base, BITS) == 1.0
    with nudged(model, 0.4).on(model):
        assert codes_kept(model, base, BITS) == 1.0
    for every in (1, 3):
        expected = 1 - moved(model, every)
        with nudged(model, 0.6, every).on(model):
            assert codes_kept(model, base, BITS) == pytest.approx(expected, abs=1e-12)
    assert 1 - moved(model, 1) < 0.2 < 0.6 < 1 - moved(model, 3)  # so the shares told apart were far apart
    with nudged(model, 0.4).on(model):
        assert codes_kept(model, base, 8) < 0.2  # a step of eight bits is much smaller


def test_the_reading_tells_and_the_claim_says_so(rounded) -> None:
    model, base, concept = rounded
    before = bits_of(model)
    asked = Asked(model, concept, ReadingOptions(quantise=Quantise(bits=BITS)), {}, base_files=base)
    with nudged(model, 0.6, 3).on(model):
        share = codes_kept(model, base, BITS)
        trace = quantised(asked)
    assert same(model, before)
    assert trace.notes["codes_kept"] == share < 1
    assert f"{share:.4g} of the weights" in codes_of(trace)
    assert quantised(asked).notes["codes_kept"] == 1.0
    alone = quantised(Asked(model, concept, ReadingOptions()))
    assert "codes_kept" not in alone.notes and codes_of(alone) == ""
    assert alone.values.tolist() == quantised(asked).values.tolist()


def test_a_base_that_is_stored_otherwise_costs_the_share_and_not_the_reading(rounded, tmp_path: Path) -> None:
    model, _, concept = rounded
    other = plant("olmoe" if "llama" in type(model.hf).__name__.lower() else "llama", 0)
    wrong = Checkpoint(other.save(tmp_path / "other"))
    with pytest.raises(BadInput):
        codes_kept(model, wrong, BITS)
    trace = quantised(Asked(model, concept, ReadingOptions(), {}, base_files=wrong))
    assert "codes_kept" not in trace.notes and len(trace.notes["codes_not_compared"]) > 20
    assert codes_of(trace).startswith("not compared with the base's integers")


def test_codes_of_the_middles_are_what_was_rounded(rounded) -> None:
    model, _, _ = rounded
    name = model.block_matrices()[0]
    weight = model.parameter(name).detach()
    torch.testing.assert_close(codes(weight, BITS) * weight.abs().amax(-1, keepdim=True) / 7, weight)
