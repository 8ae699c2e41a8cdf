import numpy as np
import pytest

from audits.attacks import ATTACKS
from audits.attacks.attack import Attack
from audits.attacks.halves import divisions, halves, prompts_of, spread
from audits.attacks.under import Attempt, best, under
from audits.behaviour.answers import Accuracy
from tests.audits.attacks.hiding import removed
from workbench.concepts import FactSet
from workbench.edits import PromptEdit
from workbench.errors import BadInput


def empty() -> Attempt:
    return Attempt(())


def test_without_an_edit_it_is_plain_accuracy_with_the_control_behind(dense) -> None:
    model, _, concept = dense
    trace = under(model, [empty()], concept.forget, concept.never_taught)
    plain = [Accuracy().look(model, facts).values for facts in (concept.forget, concept.never_taught)]
    np.testing.assert_array_equal(trace.values, np.concatenate(plain))
    assert trace.notes["n_facts"] == len(concept.forget)
    assert trace.notes["attacks"][0]["share"] == 1.0 and trace.notes["attacks"][0]["control"] == 0.0


def test_a_fact_counts_under_its_best_attempt_and_none_asks_what_it_may_not(dense) -> None:
    model, planted, concept = dense
    facts = concept.forget
    cut, some = removed(model, planted), frozenset(f.prompt for f in facts.facts[:3])
    for attempts in ([cut, Attempt((), some)], [Attempt((), some), cut]):
        trace = under(model, attempts, facts)
        assert trace.values.tolist() == [1.0] * 3 + [0.0] * (len(facts) - 3)
    unread = under(model, [Attempt((), some)], facts).values
    assert np.isnan(unread[3:]).all() and unread[:3].tolist() == [1.0] * 3


def test_edits_of_one_attempt_are_on_together(dense) -> None:
    model, planted, concept = dense
    template = PromptEdit("", {}, template="We all say {prompt}")
    with template.on(model):
        fitted = removed(model, planted)  # to the model with the template on
    assert under(model, [Attempt((template, fitted))], concept.forget).values.max() == 0
    with pytest.raises(BadInput, match="another model|fitted to model"):
        under(model, [Attempt((fitted,))], concept.forget)
    assert model.prompt_template == "{prompt}"


def test_no_attempt_is_an_error_and_no_facts_too(dense) -> None:
    model, _, concept = dense
    with pytest.raises(BadInput, match="no attempt"):
        under(model, [], concept.forget)
    with pytest.raises(BadInput, match="empty"):
        under(model, [empty()], FactSet(name="none"))


def test_best_keeps_what_nobody_read_unread() -> None:
    rows = [np.array([0.0, np.nan, np.nan]), np.array([1.0, 0.0, np.nan])]
    np.testing.assert_array_equal(best(rows), [1.0, 0.0, np.nan])


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_halves_part_subjects_and_are_each_others_reverse(dense, share: float) -> None:
    facts = dense.concept.forget
    one, two = halves(facts, share, 0)
    assert not set(one.held.subjects) & set(one.rest.subjects)
    assert set(one.held.facts) | set(one.rest.facts) == set(facts.facts)
    assert (two.held, two.rest) == (one.rest, one.held)
    assert len(one.held) and len(one.rest)
    assert halves(facts, share, 0) == (one, two)


def test_facts_about_one_subject_are_parted_by_fact_and_one_fact_cannot_be(dense) -> None:
    facts = dense.concept.forget
    own = facts.take([i for i, f in enumerate(facts) if f.subject == facts.facts[0].subject], "one")
    one, _ = halves(own, 0.5, 0)
    assert len(one.held) and len(one.rest) and not set(one.held.facts) & set(one.rest.facts)
    with pytest.raises(BadInput, match="needs two"):
        halves(facts.take([0], "single"), 0.5, 0)


def test_the_never_taught_facts_are_divided_too_and_one_way_halves_the_fits(dense) -> None:
    concept = dense.concept
    both = list(divisions(concept, 0.5, 0, True))
    assert [half.rest.name.split("/")[1] for half in both] == ["forget", "forget", "never_taught", "never_taught"]
    assert prompts_of(both[0].rest) | prompts_of(both[1].rest) == prompts_of(concept.forget)
    assert len(list(divisions(concept, 0.5, 0, False))) == 2
    bare = concept.model_copy(update={"never_taught": concept.never_taught.take([0], "one")})
    assert len(list(divisions(bare, 0.5, 0, True))) == 2


def test_a_spread_is_even_and_leaves_small_sets_alone(dense) -> None:
    facts = dense.concept.forget
    assert spread(facts, len(facts)) is facts
    assert [facts.facts.index(f) for f in spread(facts, 5)] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "relearn"])
def test_every_attack_says_who_could_do_it_and_with_what(name: str) -> None:
    attack = ATTACKS.load(name)
    assert issubclass(attack, Attack)
    assert attack.threat.startswith("Somebody ") and attack.threat.endswith(".")
    assert all(option in attack().budget() for option in attack.model_fields)
