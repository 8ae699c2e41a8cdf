"""Single copies add up to the trace; what stood in is named; without many copies no list is kept."""

import numpy as np
import pytest

from probes.causal_trace import CausalTrace
from probes.trace_samples import Traced, sample_notes


@pytest.mark.parametrize("corruption", ["noise", "replace"])
def test_copies_average_to_the_trace_and_are_named(dense, corruption) -> None:
    facts = dense.concept.forget
    probe = CausalTrace(corruption=corruption, samples=2, max_facts=8, parts=("resid_post",), unanswered="trace")
    trace = probe.look(dense.model, facts)
    notes = trace.notes
    read = [i for i, names in enumerate(notes["instead"]) if names]
    assert read and max(len(notes["instead"][i]) for i in read) == 2
    for i in read:
        names = notes["instead"][i]
        effects = np.array(notes["sample_effects"][i], dtype=float)
        assert effects.shape[1:] == trace.values.shape[:2] and len(effects) == len(names)
        np.testing.assert_allclose(effects.mean(axis=0), trace.values[:, :, i], atol=2e-3)
        assert np.mean(notes["sample_corrupted"][i]) == pytest.approx(notes["corrupted"][i], abs=2e-3)
        if corruption == "noise":
            assert names == ["noise 1", "noise 2"]
        else:
            assert facts.facts[i].subject not in names and set(names) <= {fact.subject for fact in facts}
    assert (notes["noise"] is None) == (corruption == "replace")
    if corruption == "noise":
        twice = probe.model_copy(update={"noise_scale": 2 * probe.noise_scale}).look(dense.model, facts)
        assert twice.notes["noise"] == pytest.approx(2 * notes["noise"])


def test_one_copy_keeps_no_second_list_and_what_was_restored_beside_is_left_out() -> None:
    effects = np.array([[[0.12345, np.nan]], [[0.5, 0.25]]])[:1]
    single = {1: Traced(("Ada",), 0.9, np.array([0.1]), effects)}
    assert sample_notes(single, 2, 1) == {"instead": [[], ["Ada"]]}
    pair = {
        0: Traced(("Ada", "Bea"), 0.9, np.array([0.1, 0.2]), np.array([[[0.12345, np.nan], [9, 9]], [[1, 2], [9, 9]]]))
    }
    notes = sample_notes(pair, 1, 1, 0.5)
    assert notes["sample_effects"] == [[[[0.2469, None]], [[2.0, 4.0]]]]
    assert notes["sample_corrupted"] == [[0.1, 0.2]]
