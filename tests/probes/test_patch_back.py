"""Planted truth: what stands but is no longer looked up comes back with coefficients, what was cut out with weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from interventions.concept_ablation import ConceptAblation
from probes.patch_back import Coefficients, PatchBack, reachable
from workbench.checkpoint import Checkpoint
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.model import HookedModel, weights_digest
from workbench.recovery import Heard, recovery_of
from workbench.scoring import score
from workbench.trace import Trace

# ---- while the model runs


def neurons(known) -> dict[str, list[tuple[Any, ...]]]:
    """Parameter -> rows through which the planted forget neurons are looked up."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for site in known.planted.sites_of(known.concept.forget.facts):
        prefix = f"model.layers.{site.layer}.mlp"
        if site.expert is None:
            for part in ("gate", "up"):
                found.setdefault(f"{prefix}.{part}_proj.weight", []).append((site.index,))
        else:
            fused = f"{prefix}.experts.gate_up_proj"
            width = known.model.parameter(fused).shape[1] // 2
            found.setdefault(fused, []).extend([(site.expert, site.index), (site.expert, width + site.index)])
    return found


def silenced(known) -> WeightEdit:
    """The planted neurons no longer fire: their rows of gate and up are zero, their value vectors untouched."""
    rows = neurons(known)

    def change() -> None:
        with torch.no_grad():
            for name, places in rows.items():
                for place in places:
                    known.model.parameter(name)[place] = 0

    return fit_weights(known.model, sorted(rows), change, {"method": "test"})


def cut_out(known) -> WeightEdit:
    where = known.planted.sites_of(known.concept.forget.facts)
    return ConceptAblation(mode="zero").fit(known.model, known.concept, where)


def back(known, edit: WeightEdit, **options: Any) -> tuple[float, Trace]:
    facts, probe = known.concept.forget, PatchBack(**options)
    donor = probe.donor_reading().look(known.model, facts)
    with edit.on(known.model):
        return float(score(known.model, facts.facts).greedy.double().mean()), probe.look(known.model, facts, donor)


def test_its_own_coefficients_change_nothing(known) -> None:
    facts = known.concept.forget
    donor = Coefficients().look(known.model, facts)
    found = PatchBack().look(known.model, facts, donor)
    assert (found.values == score(known.model, facts.facts).greedy.double().numpy()).all()
    assert found.notes["recovery"] == {"all": None} and found.notes["no_recovery"] == len(facts)
    assert "nothing to recover" in found.notes["why_no_recovery"]
    nothing = PatchBack(outcome="recovery").look(known.model, facts, donor)
    assert np.isnan(nothing.values).all()


@pytest.mark.parametrize("everywhere", [False, True])
def test_what_is_stored_but_not_looked_up_comes_back(known, everywhere: bool) -> None:
    plain, patched = back(known, silenced(known), everywhere=everywhere)
    assert plain < 0.2
    assert patched.values.mean() > 0.8
    assert patched.notes["recovery"]["all"] > 0.95
    assert patched.notes["unpatched"]["exact"] == pytest.approx(plain)


def test_what_was_cut_out_does_not_come_back(known) -> None:
    plain, patched = back(known, cut_out(known))
    assert plain < 0.2
    assert patched.values.mean() < 0.2
    assert patched.notes["recovery"]["all"] < 0.3


def test_the_layer_whose_coefficients_bring_them_back_is_the_planted_one(known) -> None:
    _, each = back(known, silenced(known), layers="each")
    assert each.axes == ("layer", "fact") and each.labels["layer"] == ("L0", "L1", "L2")
    assert each.values.mean(axis=1)[1] > 0.8
    assert each.values.mean(axis=1)[[0, 2]].max() < 0.2
    assert each.top("layer", 1) == ["L1"]
    recovery = each.notes["recovery"]
    assert recovery["L1"] > 0.9 > 0.5 > max(recovery["L0"], recovery["L2"])
    assert each.plot().data


def test_windows_of_five_reach_two_layers_either_way(dense) -> None:
    assert PatchBack(layers="windows")._windows(6) == {
        "L0": [0, 1, 2],
        "L1": [0, 1, 2, 3],
        "L2": [0, 1, 2, 3, 4],
        "L3": [1, 2, 3, 4, 5],
        "L4": [2, 3, 4, 5],
        "L5": [3, 4, 5],
    }
    _, windows = back(dense, silenced(dense), layers="windows")
    assert (windows.values.mean(axis=1) > 0.8).all()  # of three layers, layer 1 is in each


def test_attention_states_do_not_bring_back_what_an_mlp_lost_unless_they_already_carry_it(dense) -> None:
    _, each = back(dense, silenced(dense), what="attention_states", layers="each")
    # Layer 2's attention moves the answer to the last token, so its state holds it; layer 0's is before the facts.
    assert each.values.mean(axis=1)[2] > 0.8
    assert each.values.mean(axis=1)[:2].max() < 0.2
    _, both = back(dense, silenced(dense), what="both", layers="each")
    assert (both.values.mean(axis=1)[1:] > 0.8).all() and both.values[0].mean() < 0.2


def test_outcomes_are_three_views_of_the_same_logits(dense) -> None:
    edit = silenced(dense)
    exact, probability, recovery = (
        back(dense, edit, outcome=outcome)[1] for outcome in ("exact", "probability", "recovery")
    )
    facts = dense.concept.forget
    whole = score(dense.model, facts.facts)
    assert probability.values == pytest.approx(whole.per_token.double().numpy(), abs=0.05)
    assert recovery.values.mean() == pytest.approx(exact.notes["recovery"]["all"])
    assert {trace.units for trace in (exact, probability, recovery)} == {
        "share of facts",
        "probability",
        "share of the logit error",
    }


# ---- a mixture of experts


def test_experts_that_never_fire_are_left_out_and_nothing_is_missing(mixture) -> None:
    donor = Coefficients().look(mixture.model, mixture.concept.forget)
    assert donor.axes == ("site", "place", "neuron") and np.isfinite(donor.values).all()
    assert donor.labels["site"][-1] == "L2.resid_post"
    assert all(values.any() for values in donor.values)
    few = Coefficients().look(mixture.model, mixture.concept.forget.take([0], "one"))
    assert len(few.labels["site"]) < len(donor.labels["site"]) or len(donor.labels["site"]) < 13


def test_an_expert_that_is_no_longer_asked_stays_silent_and_is_counted(mixture) -> None:
    """The router is turned away from the forget facts' expert: their coefficients find no token to act on."""
    (expert,) = {site.expert for site in mixture.planted.sites_of(mixture.concept.forget.facts)}
    name = "model.layers.1.mlp.gate.weight"

    def change() -> None:
        with torch.no_grad():
            mixture.model.parameter(name)[expert] *= -1

    plain, patched = back(mixture, fit_weights(mixture.model, [name], change, {"method": "test"}))
    assert plain < 0.3
    assert patched.values.mean() < 0.3
    assert 0 < patched.notes["not_routed"] < 1
    facts = mixture.concept.forget
    assert PatchBack().look(mixture.model, facts, Coefficients().look(mixture.model, facts)).notes["not_routed"] == 0


# ---- weights


class Stored(NamedTuple):
    base: Checkpoint
    folder: Path
    unlearned: HookedModel


@pytest.fixture(scope="module")
def stored(known, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    """The planted model, and a checkpoint written from it without the value vectors of the forget facts."""
    out = tmp_path_factory.mktemp("unlearned") / "model"
    made = cut_out(known).write(known.model, out)
    with made.open() as unlearned:
        yield Stored(Checkpoint(known.model.folder), out, unlearned)


def weights_back(known, stored: Stored, **options: Any) -> Trace:
    facts, probe = known.concept.forget, PatchBack(**options)
    donor = probe.donor_reading().look(known.model, facts)
    return probe.look(stored.unlearned, facts, donor, stored.base)


@pytest.mark.parametrize("what", ["value_vectors", "mlp", "layer"])
def test_the_planted_layers_weights_bring_exactly_its_facts_back(known, stored: Stored, what: str) -> None:
    found = weights_back(known, stored, what=what, layers="each")
    base = score(known.model, known.concept.forget.facts).greedy.double().numpy()
    layer = np.array([site.layer for site in known.planted.sites_of(known.concept.forget.facts)])
    for number in range(3):
        there = layer == number
        assert (found.values[number][there] == base[there]).all()
        assert found.values[number][~there].mean() < 0.2 if (~there).any() else True
    assert found.notes["recovery"]["L1"] == pytest.approx(1)
    assert found.notes["recovery"]["L0"] == pytest.approx(0, abs=1e-6)


def test_attention_weights_were_not_changed_and_bring_nothing_back(known, stored: Stored) -> None:
    found = weights_back(known, stored, what="attention", layers="each")
    assert (found.values.mean(axis=1) < 0.2).all()
    assert list(found.notes["recovery"].values()) == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_window_that_reaches_a_changed_layer_brings_it_back(known, stored: Stored) -> None:
    windows = weights_back(known, stored, what="value_vectors", layers="windows")
    assert windows.values.mean() == weights_back(known, stored, what="value_vectors").values.mean() > 0.8


def test_the_model_is_the_same_bits_afterwards_also_after_an_error(known, stored: Stored, monkeypatch) -> None:
    before = weights_digest(stored.unlearned.hf)
    weights_back(known, stored, what="layer", layers="each")
    assert weights_digest(stored.unlearned.hf) == before

    calls: list[int] = []

    def failing(*_: Any) -> Heard:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("no memory")
        return Heard(*np.zeros((4, len(known.concept.forget))))

    monkeypatch.setattr(PatchBack, "_heard", failing)
    with pytest.raises(RuntimeError, match="no memory"):
        weights_back(known, stored, what="layer")
    assert weights_digest(stored.unlearned.hf) == before


def test_the_bases_own_unembedding_is_read_from_its_files_where_it_was_changed(dense, stored_dense: Stored) -> None:
    facts, name = dense.concept.forget, "lm_head.weight"

    def change() -> None:
        with torch.no_grad():
            dense.model.parameter(name).mul_(0.5)

    donor = Coefficients().look(dense.model, facts)
    with fit_weights(dense.model, [name], change, {"method": "test"}).on(dense.model):
        alone = PatchBack().look(dense.model, facts, donor)
        informed = PatchBack().look(dense.model, facts, donor, stored_dense.base)
    assert alone.notes["recovery"] == {"all": None} and "unembedding" in alone.notes["why_no_recovery"]
    assert (alone.values == informed.values).all()
    assert informed.notes["recovery"]["all"] == pytest.approx(0, abs=1e-6)  # coefficients cannot mend an unembedding
    assert informed.notes["why_no_recovery"] is None


@pytest.fixture
def stored_dense(dense) -> Stored:
    return Stored(Checkpoint(dense.model.folder), dense.model.folder, dense.model)


# ---- the score


def heard(error: float, size: float = 1.0) -> Heard:
    one = np.ones(1)
    return Heard(one, one, one * error, one * size)


def test_recovery_is_the_share_of_the_error_that_went() -> None:
    assert recovery_of(heard(4.0), heard(1.0), 1e-7) == pytest.approx(0.75)
    assert recovery_of(heard(4.0), heard(6.0), 1e-7) == pytest.approx(-0.5)  # it has no lower bound
    assert np.isnan(recovery_of(heard(0.0), heard(0.0), 1e-7))
    assert np.isnan(recovery_of(heard(1e-16), heard(1e-18), 1e-7))  # rounding is nothing to recover from
    assert np.isnan(recovery_of(heard(np.nan), heard(np.nan), 1e-7))


# ---- what does not fit


def test_coefficients_of_other_facts_or_places_or_another_model_are_refused(dense, mixture) -> None:
    facts = dense.concept.forget
    with pytest.raises(BadInput, match="same architecture, tokenizer and facts"):
        PatchBack().look(dense.model, facts, Coefficients().look(dense.model, dense.concept.near))
    with pytest.raises(BadInput, match="everywhere=False"):
        PatchBack().look(dense.model, facts, Coefficients(everywhere=True).look(dense.model, facts))
    with pytest.raises(BadInput, match="same architecture"):
        PatchBack().look(dense.model, facts, Coefficients(parts=()).look(dense.model, facts))
    with pytest.raises(BadInput, match="same architecture"):
        PatchBack().look(dense.model, facts, Coefficients().look(mixture.model, facts))


def test_a_layer_whose_neurons_cannot_be_reached_is_named_a_reason(dense, monkeypatch) -> None:
    assert reachable(dense.model)
    monkeypatch.setattr(dense.model, "withheld", {"L1 value vectors": "they do not sum up"})
    assert not reachable(dense.model)
    with pytest.raises(BadInput, match="what='mlp'"):
        Coefficients().look(dense.model, dense.concept.forget)


def test_weights_without_the_bases_files_are_refused(dense) -> None:
    probe = PatchBack(what="mlp")
    donor = probe.donor_reading().look(dense.model, dense.concept.forget)
    with pytest.raises(BadInput, match="--against"):
        probe.look(dense.model, dense.concept.forget, donor)
