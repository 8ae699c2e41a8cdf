import numpy as np
import pytest

from interventions.concept_ablation import ConceptAblation
from probes.depth_score import DepthScore, States
from workbench.errors import BadInput


def test_its_own_states_change_nothing(known) -> None:
    facts = known.concept.forget
    drops = DepthScore().look(known.model, facts, States().look(known.model, facts)).values
    assert np.abs(drops).max() < 1e-4


def test_states_of_a_model_that_lost_the_facts_lose_them_from_the_planted_layer_on(known) -> None:
    facts, where = known.concept.forget, known.planted.sites_of(known.concept.forget.facts)
    with ConceptAblation(mode="zero").fit(known.model, known.concept, where).on(known.model):
        donor = States().look(known.model, facts)
    drops = DepthScore().look(known.model, facts, donor).values.mean(axis=1)
    # At the answer's position the fact arrives with the last layer's attention; before it nothing can be lost there.
    assert drops[-1] > 1
    assert drops[-1] > 5 * np.abs(drops[0])


def test_states_of_other_facts_or_another_model_are_refused(known) -> None:
    donor = States().look(known.model, known.concept.near)
    with pytest.raises(BadInput, match="same architecture, tokenizer and facts"):
        DepthScore().look(known.model, known.concept.forget, donor)
