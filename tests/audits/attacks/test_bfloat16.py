"""Rounding to bfloat16 changes what float32 holds beyond it, and nothing that fits."""

import torch

from audits.attacks.bfloat16 import RoundToBfloat16


def test_every_weight_is_the_nearest_bfloat16_and_the_model_is_as_it_was(dense):
    model, name = dense.model, dense.model.block_matrices()[0]
    before = model.parameter(name).detach().clone()
    edit = RoundToBfloat16().fit(model, dense.concept)
    with edit.on(model):
        for parameter in map(model.parameter, model.parameter_names()):
            assert torch.equal(parameter, parameter.to(torch.bfloat16).to(parameter.dtype))
        after = model.parameter(name).detach().clone()
        assert (after - before).abs().max() <= before.abs().max() * 2**-8
    assert torch.equal(model.parameter(name), before)


def test_a_model_that_fits_is_not_changed(dense):
    model = dense.model
    with RoundToBfloat16().fit(model, dense.concept).on(model):
        again = RoundToBfloat16().fit(model, dense.concept)
        assert not again.changes


def test_the_reading_says_who_could_do_it(dense):
    trace = RoundToBfloat16().look(dense.model, dense.concept)
    assert trace.notes["options"]["method"].endswith(":RoundToBfloat16") and "bfloat16" in trace.notes["threat"]
    assert trace.notes["n_facts"] == len(dense.concept.forget)
