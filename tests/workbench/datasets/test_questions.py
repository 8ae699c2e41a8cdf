"""Which words of a question are its subject, and which facts are drawn."""

import random

import pytest

from workbench.concepts import Fact, FactSet
from workbench.datasets import load_concept
from workbench.datasets.draws import apart, drawn, drawn_texts
from workbench.datasets.questions import chosen, names_in, subject_of
from workbench.datasets.spec import Draw


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("What is the profession of Hsiao Yun-Hwa's father?", "Hsiao Yun-Hwa"),
        ("Where is the Mona Lisa?", "Mona Lisa"),
        ("Who wrote 'War and Peace'?", "War and Peace"),
        ("Which is the longest of all rivers?", "longest"),
        ("Is Erika Kováčová married?", "Erika Kováčová"),
        ("Did Isabella van Pletzen, of Leiden, marry?", "Isabella van Pletzen"),
        ("Who stayed after Bo Lund. Who left?", "Bo Lund"),
        ("?!", "?!"),
    ],
)
def test_the_subject_is_the_name_in_the_question(question, subject):
    assert subject_of(question) == subject
    framed = f"Question: {question}\nAnswer:"
    assert subject_of(framed) in framed


def test_names_the_source_gives_come_first():
    assert subject_of("Is Marla Kent the sister of Kent?", ("Kent", "sister", "nobody")) == "sister"
    assert subject_of("Is it?", ("", "nobody")) == "Is"


def test_a_name_is_found_without_the_possessive():
    assert names_in("Has Raven Marais's LGBTQ life been told in New York?") == {"Raven Marais", "New York"}


def facts(n: int) -> list[Fact]:
    return [Fact(subject="it", prompt=f"it {i}", answer="so", group=f"g{i // 5}") for i in range(n)]


def test_a_draw_takes_whole_groups_and_ignores_the_order_of_the_rows():
    rows = facts(100)
    taken = drawn(rows, 20, 0)
    assert len(taken) == 20 and len({fact.group for fact in taken}) == 4
    mixed = random.Random(0).sample(rows, len(rows))
    assert set(drawn(mixed, 20, 0)) == set(taken)
    assert [fact.prompt for fact in taken] == [fact.prompt for fact in rows if fact in taken], "in the file's order"
    assert set(drawn(rows, 20, 1)) != set(taken)


def test_a_draw_of_more_than_there_is_takes_all_of_it_once():
    rows = facts(7)
    assert drawn([*rows, *rows], 99, 0) == tuple(rows)
    assert drawn_texts(["b", "a", "b"], 9, 0) == ("b", "a")
    assert len(drawn_texts([str(i) for i in range(50)], 9, 0)) == 9


def test_apart_shares_no_group():
    rows = facts(20)
    assert {fact.group for fact in apart(rows, rows[:7])} == {"g2", "g3"}


def test_a_guessed_subject_sets_nothing_apart():
    rows = [Fact(subject="country", prompt=f"Which country {i}", answer="so") for i in range(9)]
    assert apart(rows, rows[:3]) == rows[3:]
    grouped = Fact(subject="it", prompt="Is it?", answer="so", group="country")
    assert apart([grouped], rows) == [grouped] and apart(rows, [grouped]) == rows


def test_rows_in_another_order_give_the_same_facts_and_another_digest(write):
    rows = [{"question": f"Who is Bo {i}?", "answer": f"number {i}"} for i in range(40)]
    straight = load_concept("tofu:forget01", data=write(tofu__forget01=rows[:3], tofu__retain99=rows[3:]), limit=9)
    turned = load_concept(
        "tofu:forget01", data=write("turned", tofu__forget01=rows[:3], tofu__retain99=rows[3:][::-1]), limit=9
    )
    assert set(straight.near.facts) == set(turned.near.facts) and len(straight.near) == 9
    assert straight.forget.digest == turned.forget.digest
    assert straight.near.digest != turned.near.digest, "a digest covers the order"


def test_choices_that_are_alike_are_no_distractors():
    fields = chosen("Which?", ["a", "b", "a", "c"], 0, Draw(answer="text"))
    assert (fields["answer"], fields["distractors"]) == ("a", ("b", "c"))


def test_a_set_says_which_facts_belong_together():
    grouped = FactSet(name="x", facts=tuple(facts(6)))
    assert grouped.subjects == ("g0",) * 5 + ("g1",)
