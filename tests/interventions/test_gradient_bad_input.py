"""What cannot be trained on is said in words, and the model is as it was."""

import pytest
import torch

from interventions.gradient.dpo import Dpo
from interventions.gradient.grad_ascent import GradAscent
from interventions.gradient.grad_diff import GradDiff
from interventions.gradient.idk_nll import IdkNll
from interventions.gradient.l1_sparse import L1Sparse
from interventions.gradient.npo import Npo
from interventions.gradient.pdu import Pdu
from interventions.gradient.random_label import RandomLabel
from interventions.gradient.retain_finetune import RetainFinetune
from interventions.gradient.simnpo import SimNpo
from interventions.gradient.undial import Undial
from workbench.concepts import FactSet
from workbench.demo.planted import plant
from workbench.errors import BadInput, RunError
from workbench.model import HookedModel
from workbench.sites import Site

EMPTY = FactSet(name="none")


@pytest.fixture(scope="module")
def planted():
    found = plant("llama", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found.concept


@pytest.fixture(autouse=True)
def as_before(planted):
    model, _ = planted
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    yield
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())


def longer(concept, part: str, which: list[int], words: int):
    facts = [
        fact.model_copy(update={"answer": " ".join([fact.answer] * words)}) if i in which else fact
        for i, fact in enumerate(getattr(concept, part).facts)
    ]
    return concept.model_copy(update={part: getattr(concept, part).model_copy(update={"facts": tuple(facts)})})


@pytest.mark.parametrize(("part", "name"), [("forget", "forget"), ("near", "retain")])
def test_answers_beyond_the_context_are_counted_and_named(planted, part: str, name: str) -> None:
    model, concept = planted
    limit = model.hf.config.max_position_embeddings
    with pytest.raises(BadInput, match=rf"2 of \d+ {name} texts are longer .* context of {limit} .*number 1 with"):
        Npo(steps=1).fit(model, longer(concept, part, [1, 4], limit + 1))


def test_refusals_beyond_the_context_are_too(planted) -> None:
    model, concept = planted
    endless = " ".join(["no"] * model.hf.config.max_position_embeddings)
    with pytest.raises(BadInput, match=r"of 10 other texts are longer"):
        IdkNll(steps=1, refusals=(endless,)).fit(model, concept)


@pytest.mark.parametrize("method", [GradAscent, SimNpo, Undial])
def test_a_loss_that_is_no_number_names_its_step(planted, method) -> None:
    model, concept = planted
    with pytest.raises(RunError, match=r"The loss became (nan|-?inf) at step \d of 9"):
        method(steps=9, lr=1e30).fit(model, concept)


@pytest.mark.parametrize("method", [GradAscent, Npo, Undial, Dpo, RandomLabel, Pdu])
def test_nothing_to_forget_is_refused(planted, method) -> None:
    model, concept = planted
    with pytest.raises(BadInput, match="empty"):
        method(steps=1).fit(model, concept.model_copy(update={"forget": EMPTY}))


@pytest.mark.parametrize(
    "method",
    [
        SimNpo(steps=1),
        GradDiff(steps=1, retain="kl"),
        Pdu(steps=1),
        L1Sparse(steps=1),
        RetainFinetune(steps=1),
        IdkNll(steps=1, pooled=True, retain_weight=0),
        GradAscent(steps=1, mask="wagle"),
    ],
    ids=lambda m: type(m).__name__,
)
def test_nothing_to_retain_is_refused_where_it_is_needed(planted, method) -> None:
    model, concept = planted
    bare = concept.model_copy(update={"near": EMPTY, "far": EMPTY, "retain": EMPTY})
    with pytest.raises(BadInput, match="nothing to retain"):
        method.fit(model, bare)


def test_it_is_not_where_it_is_not(planted) -> None:
    model, concept = planted
    bare = concept.model_copy(update={"near": EMPTY, "far": EMPTY, "retain": EMPTY})
    for method in (SimNpo(steps=1, retain="none"), GradAscent(steps=1, mask="salun"), IdkNll(steps=1, retain_weight=0)):
        assert method.fit(model, bare).changes


@pytest.mark.parametrize("mask", ["wagle", "salun", "sure", "fisher"])
def test_a_mask_that_selects_nothing_is_refused(planted, mask: str) -> None:
    model, concept = planted
    with pytest.raises(BadInput, match="selects nothing.*raise mask_share"):
        GradDiff(steps=1, mask=mask, mask_share=1e-9).fit(model, concept)


def test_a_mask_where_nothing_has_a_gradient_is_refused(planted) -> None:
    model, concept = planted
    weight = model.parameter("model.layers.1.mlp.up_proj.weight")
    gate = model.parameter("model.layers.1.mlp.gate_proj.weight")
    kept = [p.detach().clone() for p in (weight, gate)]
    with torch.no_grad():
        weight[5], gate[5] = 0, 0  # a neuron that never fires
    try:
        with pytest.raises(BadInput, match="no gradient there"):
            GradDiff(steps=1, mask="salun").fit(model, concept, [Site(1, "mlp_act", 5)])
    finally:
        with torch.no_grad():
            weight.copy_(kept[0])
            gate.copy_(kept[1])


def test_facts_without_wrong_answers_are_counted(planted) -> None:
    model, concept = planted
    facts = tuple(
        f.model_copy(update={"distractors": ()}) if i in (2, 5) else f for i, f in enumerate(concept.forget.facts)
    )
    bare = concept.model_copy(update={"forget": FactSet(name="forget", facts=facts)})
    with pytest.raises(BadInput, match=r"2 of 10 forget facts have no distractors.*number 2"):
        Dpo(steps=1, answers="distractors").fit(model, bare)


@pytest.mark.parametrize("refusals", [(), ("",), ("no", "  ")], ids=str)
def test_refusals_that_say_nothing_are_refused(planted, refusals) -> None:
    model, concept = planted
    with pytest.raises(BadInput, match="give at least one refusal"):
        Dpo(steps=1, refusals=refusals).fit(model, concept)


@pytest.mark.parametrize(("last", "where"), [(4, None), (1, [Site(1, "mlp_out")])], ids=str)
def test_last_blocks_that_are_not_there_or_named_twice_are_refused(planted, last: int, where) -> None:
    model, concept = planted
    with pytest.raises(BadInput, match=f"last={last} trains the last blocks of the 3"):
        RetainFinetune(steps=1, last=last).fit(model, concept, where)


def test_a_damaged_file_of_a_stopped_training_is_an_error(planted, tmp_path, monkeypatch) -> None:
    from interventions.gradient import descend

    model, concept = planted
    monkeypatch.setattr(descend, "KEEP_EVERY", 1)

    def stop(step: int, _: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pdu(steps=3).fit(model, concept, progress=stop, keep=tmp_path)
    (tmp_path / "told.json").write_text("[1.0, ")
    with pytest.raises(BadInput, match=r"told\.json.* is damaged"):
        Pdu(steps=3).fit(model, concept, keep=tmp_path)
    (tmp_path / "told.json").unlink()
    with pytest.raises(BadInput, match=r"told\.json"):
        Pdu(steps=3).fit(model, concept, keep=tmp_path)
