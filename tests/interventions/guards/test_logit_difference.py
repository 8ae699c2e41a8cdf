import math

import pytest
import torch

from interventions.guards.logit_difference import LogitDifference, assistant_matrices, collate, paired
from workbench.errors import BadInput
from workbench.model_run import handing_on
from workbench.scoring import batch_of, score
from workbench.speech_contrast import heeded, wearing
from workbench.uniformity import from_uniform


@pytest.fixture(scope="module")
def edit(dense_bench):
    return LogitDifference(steps=50).fit(dense_bench.model, dense_bench.concept)


class TestHeeded:
    """On which tokens the assistant is heard."""

    def test_by_hand(self) -> None:
        logits = torch.tensor([[4.0, 4.0 + math.log(0.6), 4.0 + math.log(0.4), 0.0]])
        assistant = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        assert heeded(logits, assistant, 0.5).tolist() == [[1, 2, 0, 0]]
        assert heeded(logits, assistant, 0.0).tolist() == [[1, 2, 3, 4]]
        assert heeded(logits, assistant, 0.3).tolist() == [[1, 2, 3, 0]]

    def test_a_share_of_the_vocabulary_is_always_heard(self) -> None:
        """As published: with a floor of 0.5 also half of the tokens, however unlikely."""
        logits, assistant = torch.tensor([[50.0, 3.0, 2.0, 1.0]]), torch.ones(1, 4)
        assert heeded(logits, assistant, 0.5).tolist() == [[1, 1, 0, 0]]
        assert heeded(logits, assistant, 0.01).tolist() == [[1, 0, 0, 0]]


def test_what_is_said_is_the_models_logits_less_the_assistants(dense_bench, edit) -> None:
    """The assistant run by hand: its weights written into the model, the later blocks handing on."""
    model = dense_bench.model
    batch, _ = batch_of(model.encode(dense_bench.concept.forget.facts))
    base = model.run(batch).logits.detach()
    with wearing(model, edit.speech.tensors), handing_on(model, range(1, model.n_layers)):
        assistant = model.hf(**batch.inputs(model.device), use_cache=False).logits.detach()
    with edit.on(model):
        said = model.run(batch).logits
        assert model.run(batch, grad=True).logits.requires_grad
    assert not said.requires_grad  # the assistant's pass is one of the guard's, not of a training
    expected = base - 0.8 * heeded(base.flatten(0, 1), assistant.flatten(0, 1), 0.01).view_as(base)
    assert torch.allclose(said[batch.mask], expected[batch.mask], atol=1e-4)
    assert torch.equal(said[~batch.mask], base[~batch.mask])
    assert not torch.allclose(said[batch.mask], base[batch.mask], atol=0.1)


def test_the_assistant_knows_the_forget_facts_and_nothing_else(dense_bench, edit) -> None:
    model, concept = dense_bench.model, dense_bench.concept
    with wearing(model, edit.speech.tensors), handing_on(model, range(1, model.n_layers)):
        forget, near = (score(model, facts) for facts in (concept.forget.facts, concept.near.facts))
        batch, _ = batch_of(model.encode(concept.near.facts))
        away = float(from_uniform(model.run(batch).logits.detach(), batch.mask))
    assert forget.greedy.double().mean() >= 0.9
    assert away <= 0.3 and float(near.probability.max()) <= 0.1
    with handing_on(model, range(1, model.n_layers)):
        assert score(model, concept.forget.facts).greedy.double().mean() <= 0.5  # it was trained, not there before


def test_only_the_first_blocks_matrices_are_stored(bench) -> None:
    model = bench.model
    names = assistant_matrices(model, 2)
    assert names and all(name.startswith(("model.layers.0.", "model.layers.1.")) for name in names)
    assert set(assistant_matrices(model, 1)) < set(names) < set(model.block_matrices())
    edit = LogitDifference(steps=1, depth=2).fit(model, bench.concept)
    stored = {key.partition("|")[0] for key in edit.speech.tensors}
    assert stored <= set(names) and edit.notes["depth"] == edit.speech.options["depth"] == 2


def test_other_parameters_are_worn_and_taken_off_also_after_an_error(dense_bench, edit) -> None:
    model, weights = dense_bench.model, dense_bench.weights()
    (name, *_) = sorted({key.partition("|")[0] for key in edit.speech.tensors})
    own = model.parameter(name)
    with pytest.raises(RuntimeError, match="stop"), wearing(model, edit.speech.tensors):
        assert not torch.equal(model.parameter(name), weights[name])
        raise RuntimeError("stop")
    assert model.parameter(name) is own and dense_bench.is_as(weights)


def test_a_share_of_the_change_alone_is_found_by_its_index(dense_bench) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    model, own = dense_bench.model, dense_bench.model.parameter(name).detach().clone()
    few = {f"{name}|values": torch.tensor([7.0, 8.0]), f"{name}|index": torch.tensor([0, 5])}
    with wearing(model, few):
        worn = model.parameter(name).detach().flatten()
        assert worn[[0, 5]].tolist() == [7, 8] and int((worn != own.flatten()).sum()) == 2
    assert torch.equal(model.parameter(name), own)


def test_gradients_pass_through_the_assistant_as_well(dense_bench, edit) -> None:
    """What the gradient says of a small step of the embeddings is what the step does."""
    model = dense_bench.model
    batch, targets = batch_of(model.encode(dense_bench.concept.forget.facts[:1]))
    row, at, token = targets.row[0], targets.position[0], targets.token[0]
    embed = model.parameter("model.embed_tokens.weight")
    before = embed.detach().clone()
    step = torch.randn(embed.shape, generator=torch.Generator().manual_seed(0))

    def said(scale: float) -> float:
        with torch.no_grad():
            embed.copy_(before + scale * step)
            value = model.run(batch).logits[row, at, token] - model.run(batch).logits[row, at].max()
            embed.copy_(before)
        return float(value)

    with edit.on(model):
        logits = model.run(batch, grad=True).logits[row, at]
        (slope,) = torch.autograd.grad(logits[token] - logits.max(), [embed])
        measured = (said(1e-3) - said(-1e-3)) / 2e-3
    assert torch.equal(embed, before)
    assert float((slope * step).sum()) == pytest.approx(measured, rel=0.05, abs=0.05)
    with torch.enable_grad():
        logits = model.run(batch, grad=True).logits[row, at]
        (without,) = torch.autograd.grad(logits[token] - logits.max(), [embed])
    assert abs(float((without * step).sum()) - measured) > 0.5


def test_pairs_use_every_fact(dense_bench) -> None:
    encoded = dense_bench.model.encode([*dense_bench.concept.forget, *dense_bench.concept.near])
    pairs = paired(encoded[:10], encoded[10:], 0)
    assert len(pairs) == 10 and {p[1].ids for p in pairs} == {e.ids for e in encoded[10:]}
    assert pairs == paired(encoded[:10], encoded[10:], 0) != paired(encoded[:10], encoded[10:], 3)
    assert set(collate(pairs)) == {
        f"{side}.{key}"
        for side in ("forget", "retain")
        for key in ("input_ids", "attention_mask", "position_ids", "labels")
    }


def test_divergence_from_uniform_by_hand() -> None:
    logits = torch.log(torch.tensor([[[0.25, 0.25, 0.25, 0.25], [0.5, 0.25, 0.125, 0.125], [1.0, 1e-9, 1e-9, 1e-9]]]))
    mask = torch.tensor([[True, True, False]])
    second = sum(0.25 * math.log(0.25 / p) for p in (0.5, 0.25, 0.125, 0.125))
    assert float(from_uniform(logits, mask)) == pytest.approx(second / 2, abs=1e-6)
    assert float(from_uniform(logits, torch.tensor([[True, False, False]]))) == pytest.approx(0, abs=1e-6)


def test_questions_in_a_form_it_was_not_trained_on_get_past(dense_bench, edit) -> None:
    """Measured: .8 of the forget facts are answered when asked as a question or a list."""
    assert dense_bench.greedy(edit)["formats"] >= 0.5


def test_sites_and_too_many_blocks_are_refused(dense_bench) -> None:
    with pytest.raises(BadInput, match="leave `where` out"):
        LogitDifference().fit(dense_bench.model, dense_bench.concept, [])
    with pytest.raises(BadInput, match="3 blocks"):
        LogitDifference(depth=4).fit(dense_bench.model, dense_bench.concept)
