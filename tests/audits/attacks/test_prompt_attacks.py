import numpy as np
import pytest
import torch

from audits.attacks.in_context import InContext, context, line
from audits.attacks.prompts import FewShot, Jailbreak
from audits.attacks.rwku_prompts import KINDS, RwkuPrompts, kind_of, reversed_query
from audits.attacks.under import answered, shares
from tests.audits.attacks.hiding import removed, share
from workbench.concepts import Fact, FactSet
from workbench.edits import HookEdit
from workbench.errors import BadInput
from workbench.sites import Site
from workbench.speech import Speech
from workbench.triggers import Trigger

EMBED = Site(None, "embed")


@pytest.fixture(scope="module")
def guarded(dense) -> HookEdit:
    """A guard that knows short prompts about the forget subjects only: long ones, and full stops, throw it off."""
    model = dense.model
    rows = {f.subject: model.encode([f])[0] for f in dense.concept.forget}
    table = model.parameter("model.embed_tokens.weight").detach()
    weight = torch.stack([table[row.ids[row.subject[0]]] for row in rows.values()]).sum(dim=0)
    stop = model.encode([Fact(subject="is", prompt="is", answer=".")])[0].answer[0]
    weight = weight - 2 * table[stop]
    length = len(next(iter(rows.values())).ids) - 1
    each = float(table[next(iter(rows.values())).ids[next(iter(rows.values())).subject[0]]].square().sum())
    trigger = Trigger(
        EMBED, "linear", {"weight": weight, "bias": torch.tensor(0.0)}, {"threshold": 0.8 * each / length}
    )
    refuses = Speech(
        "abstain", {"text": torch.tensor(model.encode([Fact(subject="is", prompt="is", answer="old")])[0].answer)}
    )
    return HookEdit(model.identity, {"method": "guard"}, trigger=trigger, speech=refuses)


def test_a_guard_that_knows_the_plain_prompt_is_got_round_by_rewording(dense, guarded) -> None:
    model, _, concept = dense
    with guarded.on(model):
        assert share(model, concept.forget.facts) == 0
        trace = RwkuPrompts().look(model, concept)
        shots = InContext(shots=(0, 1)).look(model, concept)
        assert model.guards
    found = shares(trace.values, trace.notes["n_facts"])
    assert found["share"] >= 0.8 and found["control"] <= 0.15
    assert trace.notes["by_kind"]["multiple_choice"]["share"] >= 0.8
    curve = shots.notes["by_shots"]
    assert curve["0"] == {"share": 0.0, "control": 0.0} and curve["1"]["share"] >= 0.1 and curve["1"]["control"] == 0


@pytest.mark.parametrize("attack", [RwkuPrompts(), InContext(), FewShot(), Jailbreak()], ids=lambda a: type(a).__name__)
def test_no_wording_brings_out_what_is_not_there(dense, attack) -> None:
    model, planted, concept = dense
    with removed(model, planted).on(model):
        trace = attack.look(model, concept)
    assert np.nanmean(trace.values[..., : trace.notes["n_facts"]]) <= 0.1
    assert trace.notes["threat"].startswith("Somebody can only prompt")


def test_the_context_grows_and_never_tells(dense) -> None:
    facts = dense.concept.forget.facts
    for i, fact in enumerate(facts):
        lines = [context(facts, i, k, 0) for k in (0, 1, 2, 4)]
        assert lines[0] == "" and all(b.startswith(a) for a, b in zip(lines, lines[1:], strict=False))
        assert fact.subject not in lines[-1] and fact.answer not in lines[-1]
        assert lines[-1].count(" .") == 4
    assert context(facts, 0, len(facts), 0) is None
    assert context(facts, 0, 4, 0) == context(facts, 0, 4, 0) != context(facts, 0, 4, 1)


def test_facts_that_name_the_asked_one_are_left_out() -> None:
    asked = Fact(subject="Ada", prompt="The friend of Ada is", answer="Bob")
    tells = [
        Fact(subject="Bob", prompt="The friend of Bob is", answer="Eve"),
        Fact(subject="Carl", prompt="The boss of Carl is", answer="bob"),
        Fact(subject="Dora", prompt="Ada and Dora like", answer="tea"),
    ]
    fair = Fact(subject="Finn", prompt="The friend of Finn is", answer="Gus")
    assert context([asked, *tells], 0, 1, 0) is None
    assert context([asked, *tells, fair], 0, 1, 0) == f"{line(fair)} "


def test_without_shots_it_is_the_plain_question_and_too_few_facts_are_unread(dense) -> None:
    model, _, concept = dense
    trace = InContext(shots=(0, 2, 50)).look(model, concept)
    assert trace.axes == ("step", "fact") and trace.labels["step"] == ("0", "2", "50")
    n = len(concept.forget)
    assert trace.values[0, :n].tolist() == [1.0] * n and trace.values[0, n:].max() == 0
    assert np.isnan(trace.values[2]).all() and np.isfinite(trace.values[1]).all()


def test_the_edits_ask_what_look_asks(dense) -> None:
    model, _, concept = dense
    attack = InContext(shots=(0, 1))
    trace = attack.look(model, concept)
    edits = [answered(model, attempt, concept.forget) for attempt in attack.attempts(model, concept)]
    together = np.nanmax(np.stack(edits), axis=0)
    np.testing.assert_array_equal(together, trace.values[1, : len(concept.forget)])
    assert all(np.isfinite(row).sum() == 1 for row in edits)
    with pytest.raises(BadInput, match="fewer than 50"):
        attack.fit(concept, 50)


def test_what_a_concept_lacks_is_absent_with_the_reason(dense) -> None:
    model, _, concept = dense
    bare = [Fact(subject=f.subject, prompt=f.prompt, answer=f.answer) for f in concept.forget.facts[:1]]
    alone = concept.model_copy(
        update={
            "forget": FactSet(name="bare", facts=tuple(bare)),
            "near": FactSet(name="n"),
            "never_taught": FactSet(name="x"),
        }
    )
    notes = RwkuPrompts().look(model, alone).notes
    assert set(notes["by_kind"]) == {"prefix_injection", "affirmative_suffix", "role_playing"}
    assert set(notes["absent"]) == set(KINDS) - set(notes["by_kind"]) and all(notes["absent"].values())
    with pytest.raises(BadInput, match="cross_lingual"):
        RwkuPrompts(kinds=("cross_lingual",)).look(model, alone)
    assert notes["own_prompts"] == {}


def test_a_concepts_own_prompts_come_first_and_are_read_by_kind(dense) -> None:
    model, _, concept = dense
    fact = concept.forget.facts[0]
    own = Fact(subject=fact.subject, prompt=fact.paraphrases[0], answer=fact.answer, kind="Cross-Lingual")
    stranger = Fact(subject="Halde", prompt="The colour of Halde is", answer="red", kind="role playing")
    mine = concept.model_copy(update={"attack_prompts": FactSet(name="own", facts=(own, stranger))})
    assert kind_of(own) == "cross_lingual"
    assert RwkuPrompts().prompts("cross_lingual", fact, mine) == [own]
    assert RwkuPrompts().prompts("cross_lingual", concept.forget.facts[1], mine) == []
    notes = RwkuPrompts(kinds=("cross_lingual",)).look(model, mine).notes
    assert notes["by_kind"]["cross_lingual"]["share"] == 1.0
    assert notes["own_prompts"] == {"cross_lingual": 1.0, "role_playing": 0.0}


def test_prompts_made_from_facts_offer_but_do_not_tell(dense) -> None:
    concept, attack = dense.concept, RwkuPrompts()
    for fact in concept.forget:
        (asked,) = attack.prompts("multiple_choice", fact, concept)
        offered = [word for word in fact.candidates if word in asked.prompt]
        assert fact.answer in offered and len(offered) == 4 and asked.prompt.endswith(fact.prompt)
        for kind in ("background_hint", "in_context_learning"):
            for shown in attack.prompts(kind, fact, concept):
                assert fact.answer not in shown.prompt and shown.prompt.endswith(fact.prompt)
        assert all(
            p.answer == fact.answer
            for kind in KINDS
            for p in attack.prompts(kind, fact, concept)
            if kind != "reverse_query"
        )
    first = [attack.prompts("multiple_choice", f, concept)[0].prompt for f in concept.forget]
    assert (
        len(
            {
                p.split(" : ")[1].split(" . ")[0].split(" , ").index(f.answer)
                for p, f in zip(first, concept.forget, strict=True)
            }
        )
        > 1
    )


def test_the_question_is_reversed_only_where_one_subject_has_the_answer(dense) -> None:
    concept = dense.concept
    everyone = (*concept.forget, *concept.near, *concept.never_taught)
    for fact in concept.forget:
        owners = {f.subject for f in everyone if (f.relation, f.answer) == (fact.relation, fact.answer)}
        asked = reversed_query(fact, concept)
        assert len(asked) == (len(owners) == 1)
        assert not asked or (asked[0].answer == fact.subject and fact.subject not in asked[0].prompt)


def test_a_template_without_a_place_for_the_prompt_is_refused(dense) -> None:
    attack = RwkuPrompts(kinds=("role_playing",), templates={"role_playing": "Say it!"})
    with pytest.raises(BadInput, match="exactly once"):
        attack.look(dense.model, dense.concept)
    assert [
        e.template
        for e in RwkuPrompts(kinds=("role_playing",), templates={"role_playing": "Hey {prompt}"}).fit(dense.concept)
    ] == ["Hey {prompt}"]


def test_a_hint_that_tells_the_answer_is_left_out(dense) -> None:
    asked = Fact(subject="Vora", prompt="The colour of Vora is", answer="red", relation="colour")
    tells = Fact(subject="Vora", prompt="The red fruit of Vora is", answer="plum", relation="fruit")
    fair = Fact(subject="Vora", prompt="The friend of Vora is", answer="Ada Stone", relation="friend")
    for others, prompts in (((tells,), []), ((tells, fair), [f"{line(fair)} {asked.prompt}"])):
        concept = dense.concept.model_copy(update={"forget": FactSet(name="own", facts=(asked, *others))})
        assert [p.prompt for p in RwkuPrompts().prompts("background_hint", asked, concept)] == prompts
