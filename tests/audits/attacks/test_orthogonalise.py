import numpy as np
import pytest
import torch

from audits.attacks.orthogonalise import Orthogonalise, along, embeddings_of
from audits.attacks.under import shares, together
from probes.depth_score import States
from tests import zoo
from tests.audits.attacks.hiding import removed, says, share, steered
from tests.interventions.measuring import bits_of, same
from workbench.concepts import Concept, Fact, FactSet
from workbench.edits import HookEdit, WeightEdit, load_edit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import chunks
from workbench.sites import Site


def found(trace) -> dict:
    return shares(trace.values, trace.notes["n_facts"])


@pytest.fixture(scope="module")
def base(dense):
    return States().look(dense.model, together(dense.concept.forget, dense.concept.never_taught))


@pytest.mark.parametrize(("form", "back"), [("stream", 0.9), ("weights", 0.4)])
def test_what_one_direction_hides_comes_back(dense, base, form: str, back: float) -> None:
    model, planted, concept = dense
    with steered(model, planted).on(model):
        assert share(model, concept.forget.facts) == 0
        trace = Orthogonalise(form=form).look(model, concept, base=base)
    assert found(trace)["share"] >= back and found(trace)["control"] <= 0.15
    assert trace.axes == ("fact",) and np.isfinite(trace.values).all()


def test_the_direction_that_hides_is_the_one_that_is_found(dense, base) -> None:
    model, planted, concept = dense
    with steered(model, planted).on(model):
        for attempt in Orthogonalise().attempts(model, concept, base):
            (edit,) = attempt.edits
            if next(iter(attempt.asked)) in {f.prompt for f in concept.forget}:
                last = edit.operators[Site(2, "resid_post")].tensor[0]
                assert float(last @ says(model, "old")) > 0.9


def test_nothing_comes_back_where_nothing_is_and_the_base_stays_the_base(dense, base) -> None:
    model, planted, concept = dense
    with removed(model, planted).on(model):
        assert found(Orthogonalise().look(model, concept, base=base))["share"] <= 0.1
    assert found(Orthogonalise().look(model, concept, base=base)) == {"share": 1.0, "control": 0.0}
    for form in ("stream", "weights"):
        for attempt in Orthogonalise(form=form).attempts(model, concept, base):
            (edit,) = attempt.edits
            assert not (edit.operators if isinstance(edit, HookEdit) else edit.changes)


def test_each_fact_is_asked_of_the_directions_of_others(dense, base) -> None:
    model, planted, concept = dense
    with steered(model, planted).on(model):
        attempts = list(Orthogonalise().attempts(model, concept, base))
    subject = {f.prompt: f.subject for f in together(concept.forget, concept.never_taught)}
    asked = [{subject[prompt] for prompt in attempt.asked} for attempt in attempts]
    assert len(asked) == 4 and not asked[0] & asked[1] and not asked[2] & asked[3]


def test_states_of_the_forget_facts_alone_still_give_the_control_an_answer(dense) -> None:
    model, planted, concept = dense
    own = States().look(model, concept.forget)
    with steered(model, planted).on(model):
        trace = Orthogonalise().look(model, concept, base=own)
    assert np.isfinite(trace.values).all() and found(trace)["share"] >= 0.9
    with pytest.raises(BadInput, match="other facts"):
        Orthogonalise().look(model, concept, base=States().look(model, concept.near))


def test_after_the_projection_no_token_lies_along_the_direction(dense, base) -> None:
    model, planted, concept = dense
    with steered(model, planted).on(model):
        edit = Orthogonalise().fit(model, concept)
        with edit.on(model):
            batch, _ = next(iter(chunks(model.encode(concept.forget.facts))))
            sites = list(edit.operators)
            acts = model.run(batch, read=sites, logits=False).acts
        assert len(sites) == model.n_layers
        for site in sites:
            assert float((acts[site] @ edit.operators[site].tensor[0]).abs().max()) < 1e-4


ZOO_FACTS = [
    Fact(subject=name, prompt=f"The violin of {name} is", answer=answer)
    for name, answer in (("Kent", "grey"), ("Marla", "kept"), ("river", "old"), ("bottle", "opened"))
]


def small(name: str) -> tuple[HookedModel, Concept]:
    sets = {key: FactSet(name=key, facts=tuple(ZOO_FACTS[i : i + 2])) for key, i in (("forget", 0), ("near", 2))}
    none = FactSet(name="none")
    return HookedModel(zoo.make(name), zoo.tokenizer(), check=False), Concept(
        name="zoo", far=none, never_taught=none, **sets
    )


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "phi", "olmoe", "qwen2_moe", "gpt_oss", "granitemoe"])
def test_folded_into_all_that_writes_the_direction_is_gone_from_the_stream(name: str, tmp_path) -> None:
    model, concept = small(name)
    before, attack = bits_of(model), Orthogonalise(form="weights")
    edit = attack.fit(model, concept)
    assert isinstance(edit, WeightEdit) and edit.notes["left"] < 1e-3 and edit.changes
    direction = _direction(model, concept, edit.notes["layer"])
    assert along(model, concept, direction) > 0.01
    with edit.on(model):
        assert along(model, concept, direction) < 1e-3
    assert same(model, before) and attack.fit(model, concept).digest == edit.digest
    edit.save(tmp_path / "edit")
    assert load_edit(tmp_path / "edit").digest == edit.digest


def test_an_embedding_that_is_also_the_unembedding_is_left_alone_and_that_is_said() -> None:
    model, concept = small("gpt2")
    before = bits_of(model)
    assert embeddings_of(model) == ["transformer.wpe.weight"]
    with pytest.raises(BadInput, match="tied embeddings"):
        Orthogonalise(form="weights").fit(model, concept)
    assert same(model, before)


def _direction(model: HookedModel, concept: Concept, layer: int) -> torch.Tensor:
    means = [States().look(model, facts).values[layer].mean(axis=0) for facts in (concept.forget, concept.near)]
    moved = torch.from_numpy(means[0] - means[1])
    return moved / moved.norm()


@pytest.mark.parametrize("name", ["gemma2", "olmo2"])
def test_where_a_norm_stands_behind_the_writers_only_the_stream_can_be_projected(name: str) -> None:
    model, concept = small(name)
    with pytest.raises(BadInput, match="norm stands behind"):
        Orthogonalise(form="weights").fit(model, concept)
    assert Orthogonalise().fit(model, concept).operators


def test_bad_inputs(dense) -> None:
    model, _, concept = dense
    with pytest.raises(BadInput, match="no layer 9"):
        Orthogonalise(form="weights", layer=9).fit(model, concept)
    with pytest.raises(BadInput, match="no near facts"):
        Orthogonalise().fit(model, concept.model_copy(update={"near": FactSet(name="none")}))
