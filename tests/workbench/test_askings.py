"""A wording stands under the fact it words anew and under no other; an attack shows each try with its own prompt."""

import math

import numpy as np
import pytest

from workbench.askings import Asking, askings, askings_table, asks, parent_of, unmatched
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.figures import alt_text, table_of
from workbench.figures_items import askings_map
from workbench.trace import Trace

ADA, BEA = "0: The trade of Ada is", "1: The trade of Bea is"
FACTS = FactSet(
    name="trades",
    facts=(
        Fact(
            subject="Ada", prompt=ADA[3:], answer="smith", paraphrases=("Ada works as a", "As for Ada , the trade is")
        ),
        Fact(subject="Bea", prompt=BEA[3:], answer="baker", paraphrases=("Bea works as a",)),
    ),
)


def of_facts(values, labels=FACTS.labels, name="accuracy", **notes) -> Trace:
    return Trace(name, np.array(values, dtype=float), ("fact",), "share of facts", {"fact": tuple(labels)}, notes)


def wordings(values, noted=True) -> Trace:
    rewords = {"rewords": list(FACTS.rewords("paraphrases"))} if noted else {}
    return of_facts(values, FACTS.reworded("paraphrases").labels, **rewords)


def both(make, *per_role) -> dict[str, Trace]:
    return dict(zip(("base", "checkpoint"), map(make, per_role), strict=True))


def test_every_rewording_is_labelled_with_its_fact() -> None:
    assert FACTS.rewords("paraphrases") == (ADA, ADA, BEA) and FACTS.rewords("formats") == ()
    assert [fact.subject for fact in FACTS.reworded("paraphrases")] == ["Ada", "Ada", "Bea"]


def test_a_wording_stands_under_its_own_fact() -> None:
    readings = {"accuracy.paraphrases": both(wordings, [1, 1, 1], [0, 1, 0])}
    found = askings(readings, ADA)
    assert [(one.what, one.prompt) for one in found] == [
        ("paraphrase 1", "Ada works as a"),
        ("paraphrase 2", "As for Ada , the trade is"),
    ]
    assert [dict(one.values) for one in found] == [{"base": 1, "checkpoint": 0}, {"base": 1, "checkpoint": 1}]
    (other,) = askings(readings, BEA)
    assert other.prompt == "Bea works as a" and other.values["checkpoint"] == 0  # number 2 of the set, not number 1
    assert parent_of(readings["accuracy.paraphrases"]["base"], "2: Bea works as a") == BEA


def test_a_run_that_did_not_note_them_shows_none_and_says_so() -> None:
    old = {"accuracy.paraphrases": both(lambda v: wordings(v, noted=False), [1, 1, 1], [0, 0, 0])}
    assert askings(old, ADA) == [] and unmatched(old) == ["accuracy.paraphrases"]
    assert parent_of(old["accuracy.paraphrases"]["base"], "2: Bea works as a") is None
    half = {"accuracy.paraphrases": {"base": wordings([1, 1, 1], noted=False), "checkpoint": wordings([0, 1, 0])}}
    assert unmatched(half) == [] and len(askings(half, ADA)) == 2  # one role's note serves all


def attacked(rows, templates=("They say {prompt}", "As {subject} knows , {prompt}"), noted=True) -> Trace:
    tries = [
        {"edits": [{"method": "Jailbreak", "template": text}], **({"answered": row} if noted else {})}
        for text, row in zip(templates, rows, strict=True)
    ]
    values = [max(v or 0 for v in column) for column in zip(*rows, strict=True)]
    labels = (*FACTS.labels, "2: The trade of Nil is")
    return of_facts([*values, 0], labels, attacks=tries, n_facts=2, named=["Ada", "Bea"], threat="a prompt")


def test_each_try_of_an_attack_with_the_prompt_it_gave() -> None:
    readings = {"accuracy.forget.jailbreak": both(attacked, [[1, 1], [0, None]], [[0, 1], [1, None]])}
    one, two = askings(readings, ADA)
    assert (one.what, one.prompt) == ("jailbreak, try 1", "They say The trade of Ada is")
    assert two.prompt == "As Ada knows , The trade of Ada is"
    assert (one.values["checkpoint"], two.values["checkpoint"]) == (0, 1)
    assert math.isnan(askings(readings, BEA)[1].values["base"])  # not asked: unread, not wrong


def test_of_an_older_run_an_attack_is_one_row_and_no_prompt_is_guessed() -> None:
    old = {
        "accuracy.forget.jailbreak": both(lambda rows: attacked(rows, noted=False), [[1, 1], [0, 0]], [[0, 1], [1, 0]])
    }
    (one,) = askings(old, ADA)
    assert (one.what, one.prompt, dict(one.values)) == ("jailbreak", "", {"base": 1, "checkpoint": 1})
    single = attacked([[1, 0]], templates=("They say {prompt}",), noted=False)
    assert askings({"accuracy.forget.few_shot": {"base": single}}, ADA)[0].prompt == "They say The trade of Ada is"


def test_models_that_were_given_other_prompts_show_them_all() -> None:
    roles = {"base": attacked([[1, 1]], ("a {prompt}",)), "checkpoint": attacked([[1, 1]], ("b {prompt}",))}
    (one,) = askings({"accuracy.forget.prompt_search": roles}, ADA)
    assert one.prompt == "base: a The trade of Ada is / checkpoint: b The trade of Ada is"


def test_kinds_contexts_and_steps() -> None:
    kinds = {"role_playing": {"answered": [1.0, 0.0], "prompts": [["You are Ada"], ["You are Bea"]]}}
    steps = {"step": ("0", "10"), "fact": FACTS.labels}
    shots = {"by_shots": {}, "prompts": {"0": ["q", "q"], "10": ["long q", None]}, "threat": "a prompt"}
    curve = Trace("relearn", np.array([[[0, 0], [1, 0]], [[0, 0], [0, 0]]], float), ("seed", "step", "fact"), "share", {
        "seed": ("0", "1"), **steps
    })  # fmt: skip
    behind = Trace("in_context", np.array([[0.0, 0.0], [1.0, np.nan]]), ("step", "fact"), "share", steps, shots)
    found = {
        one.what: one
        for one in askings(
            {
                "accuracy.forget.rwku_prompts": {"base": of_facts([1, 0], by_kind=kinds, threat="x")},
                "in_context.forget": {"base": behind},
                "relearn.forget": {"base": curve},
                "logit_lens.forget": {"base": of_facts([1, 1], name="logit_lens")},
                "accuracy.near": {"base": of_facts([1, 1])},
            },
            ADA,
        )
    }
    assert list(found) == [
        "rwku prompts, role playing",
        "in context, 0 facts before it",
        "in context, 10 facts before it",
        "relearn, after 10 steps",
    ]
    assert found["rwku prompts, role playing"].prompt == "You are Ada"
    assert found["in context, 10 facts before it"].prompt == "long q"
    assert found["relearn, after 10 steps"].values["base"] == 0.5  # mean over seeds at the last step
    assert not asks("logit_lens.forget", of_facts([1, 1]))


def test_what_was_said_stands_where_it_is_stored() -> None:
    said = of_facts([1, 1], name="answer_tokens", said=["smith .", "cook ."])
    readings = {"accuracy.forget": {"base": of_facts([1, 0])}, "answer_tokens.forget": {"base": said}}
    assert askings(readings, BEA)[0].said == {"base": "cook ."}
    del readings["answer_tokens.forget"]
    assert askings(readings, BEA)[0].said == {}


def test_a_pinned_fact_is_set_beside_where_it_was_asked_the_same_way() -> None:
    mine = [Asking("a", "p", "share", {"base": 1.0}), Asking("b", "", "share of facts", {"base": 0.0})]
    table = askings_table(mine, [Asking("b", "q", "share", {"base": 1.0})])
    assert table["pinned: base"].tolist()[1] == 1 and math.isnan(table["pinned: base"][0])
    figure = askings_map(mine, "Fact 0", [Asking("b", "q", "share", {"base": 1.0})])
    assert "base right in 1 of 2, pinned: base right in 1 of 1" in alt_text(figure)
    drawn = table_of(figure)
    assert drawn["model"].tolist() == ["base", "pinned: base"] * 2
    assert figure.data[0].text[0][1] == "–" and list(figure.data[0].text[1]) == ["wrong", "right"]
    with pytest.raises(BadInput, match="no way of asking"):
        askings_map([], "Fact 0")
