import pytest
import torch

from audits.attacks.lens_extraction import LensExtraction, top
from audits.attacks.under import shares
from tests import zoo
from tests.audits.attacks.hiding import least, muttered, removed, share
from workbench.concepts import Concept, FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.model_check import probe_batch
from workbench.scoring import chunks
from workbench.sites import Site


def _concept() -> Concept:
    none = FactSet(name="none")
    return Concept(name="none", forget=none, near=none, far=none, never_taught=none)


def found(trace) -> dict:
    return shares(trace.values, trace.notes["n_facts"])


@pytest.mark.parametrize("attack", [LensExtraction(), LensExtraction(candidates="probability_delta")], ids=str)
def test_an_answer_that_another_word_shouts_down_is_still_on_the_list(dense, attack) -> None:
    model, planted, concept = dense
    facts = concept.forget.facts
    hide = lambda strength: muttered(model, strength)  # noqa: E731
    with hide(1.02 * least(model, facts, hide, 100.0)).on(model):
        assert share(model, facts) == 0
        there = found(attack.look(model, concept))
    with removed(model, planted).on(model):
        gone = found(attack.look(model, concept))
    assert there["share"] >= there["control"] + 0.5
    assert gone["share"] <= gone["control"] + 0.3


def test_the_lists_are_what_they_say(known) -> None:
    model, _, concept = known
    batch, targets = next(iter(chunks(model.encode(concept.forget.facts))))
    sites = [Site(0, "resid_pre"), *(Site(i, "resid_post") for i in range(model.n_layers))]
    acts = model.run(batch, read=sites, logits=False).acts
    with torch.no_grad():
        said = [model.decode(acts[s][targets.row, targets.position]).softmax(dim=-1) for s in sites]
        lists = LensExtraction(k=2, bottom=True).lists(model, batch, targets, [0, 2])
        delta = LensExtraction(k=2, candidates="probability_delta").lists(model, batch, targets, [1])
    for row in range(len(targets.row)):
        expected = {
            i
            for layer in (1, 3)
            for i in (*said[layer][row].topk(2).indices.tolist(), *(-said[layer][row]).topk(2).indices.tolist())
        }
        assert set(lists[row].nonzero()[:, 0].tolist()) == expected
        rise = (said[2] - said[1])[row]
        assert set(delta[row].nonzero()[:, 0].tolist()) == {
            *rise.topk(2).indices.tolist(),
            *(-rise).topk(2).indices.tolist(),
        }


def test_a_list_too_long_to_try_does_not_count(dense) -> None:
    model, _, concept = dense
    free = LensExtraction(k=4).look(model, concept)
    assert found(free)["share"] == 1.0 and 4 <= free.notes["list length"] <= 12
    assert found(LensExtraction(k=4, budget_size=12).look(model, concept))["share"] == 1.0
    assert found(LensExtraction(k=4, budget_size=3).look(model, concept))["share"] == 0.0
    everything = LensExtraction(k=10_000).look(model, concept)
    assert found(everything) == {"share": 1.0, "control": 1.0}  # so the control must be looked at


def test_a_word_counts_only_when_all_its_tokens_are_listed(dense) -> None:
    model, _, concept = dense
    two = concept.forget.take([i for i, f in enumerate(concept.forget) if " " in f.answer], "two words")
    assert len(two)
    wrong = two.model_copy(
        update={"facts": tuple(f.model_copy(update={"answer": f"{f.answer.split()[0]} red"}) for f in two)}
    )
    given = concept.model_copy(update={"forget": two})
    assert found(LensExtraction(k=1, layers=(2,)).look(model, given))["share"] == 1.0
    assert (
        found(LensExtraction(k=1, layers=(2,)).look(model, given.model_copy(update={"forget": wrong})))["share"] == 0.0
    )


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "olmo2", "mixtral", "qwen2_moe", "granitemoe"])
def test_an_early_exit_says_what_the_lens_says(name: str) -> None:
    model = HookedModel(zoo.make(name), zoo.tokenizer(), check=False)
    batch = probe_batch(model)
    for layer, edit in enumerate(LensExtraction().fit(model, _concept())):
        state = model.run(batch, read=[Site(layer, "resid_post")], logits=False).acts[Site(layer, "resid_post")]
        with edit.on(model), torch.no_grad():
            torch.testing.assert_close(
                model.run(batch).logits[batch.mask], model.decode(state)[batch.mask], atol=1e-4, rtol=1e-4
            )


def test_top_and_bad_layers(dense) -> None:
    assert top(torch.tensor([[1.0, 3.0, 2.0]]), 2).tolist() == [[False, True, True]]
    for layers in ((), (9,), (-1,)):
        with pytest.raises(BadInput, match="Layers"):
            LensExtraction(layers=layers).look(dense.model, dense.concept)
