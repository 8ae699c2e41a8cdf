"""Planted truth: value vectors that stand but are no longer looked up come back; vectors that were cut out do not."""

import pytest
import torch

from interventions.concept_ablation import ConceptAblation
from probes.patch_back import Coefficients, PatchBack
from workbench.edits import WeightEdit, fit_weights
from workbench.errors import BadInput
from workbench.scoring import score


def silenced(dense) -> WeightEdit:
    """The planted neurons no longer fire: their rows of gate and up are zero, their value vectors untouched."""
    sites = dense.planted.sites_of(dense.concept.forget.facts)
    names = [f"model.layers.{s.layer}.mlp.{part}_proj.weight" for s in sites for part in ("gate", "up")]

    def change() -> None:
        with torch.no_grad():
            for site in sites:
                for part in ("gate", "up"):
                    dense.model.parameter(f"model.layers.{site.layer}.mlp.{part}_proj.weight")[site.index] = 0

    return fit_weights(dense.model, sorted(set(names)), change, {"method": "test"})


def back(dense, edit: WeightEdit) -> tuple[float, float]:
    facts = dense.concept.forget
    donor = Coefficients().look(dense.model, facts)
    with edit.on(dense.model):
        plain = float(score(dense.model, facts.facts).greedy.double().mean())
        return plain, float(PatchBack().look(dense.model, facts, donor).values.mean())


def test_its_own_coefficients_change_nothing(dense) -> None:
    facts = dense.concept.forget
    donor = Coefficients().look(dense.model, facts)
    found = PatchBack().look(dense.model, facts, donor).values
    assert (found == score(dense.model, facts.facts).greedy.double().numpy()).all()


def test_what_is_stored_but_not_looked_up_comes_back(dense) -> None:
    plain, patched = back(dense, silenced(dense))
    assert plain < 0.2
    assert patched > 0.8


def test_what_was_cut_out_does_not_come_back(dense) -> None:
    where = dense.planted.sites_of(dense.concept.forget.facts)
    plain, patched = back(dense, ConceptAblation(mode="zero").fit(dense.model, dense.concept, where))
    assert plain < 0.2
    assert patched < 0.2


def test_a_mixture_and_coefficients_of_other_facts_are_refused(dense, mixture) -> None:
    with pytest.raises(BadInput, match="mixture of experts"):
        Coefficients().look(mixture.model, mixture.concept.forget)
    donor = Coefficients().look(dense.model, dense.concept.near)
    with pytest.raises(BadInput, match="same architecture, tokenizer and facts"):
        PatchBack().look(dense.model, dense.concept.forget, donor)
