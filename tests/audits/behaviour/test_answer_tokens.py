"""Answers token by token: the numbers are those of the whole answer, apart; guards and prompt edits are heard."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from audits.auditor import Question
from audits.behaviour.answer_tokens import AnswersByToken
from audits.behaviour.generations import Generations
from audits.claims import CLAIMS
from audits.judge import JudgeOptions
from audits.read import ReadingOptions, asked_keys
from audits.readings import BY_KEY, SHOWN, shown_in
from tests.audits.behaviour.test_readings import abstaining
from workbench.concepts import FactSet
from workbench.demo.planted import Planted, plant
from workbench.edits import PromptEdit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.token_strings import string_of, strings_of, vocabulary_of
from workbench.trace import Trace

SHORT = 4


@pytest.fixture(scope="module")
def found() -> Planted:
    return plant("llama", 0)


@pytest.fixture(scope="module")
def model(found: Planted) -> HookedModel:
    return HookedModel(found.model, found.tokenizer, check=False)


def look(model: HookedModel, facts: FactSet) -> Trace:
    return AnswersByToken(max_new_tokens=SHORT).look(model, facts)


def test_the_tokens_add_up_to_the_answer(model, found):
    trace, facts = look(model, found.concept.forget), found.concept.forget
    assert trace.axes == ("fact", "token") and trace.units == "nats"
    np.testing.assert_allclose(np.nansum(trace.values, axis=1), score(model, facts.facts).logprob, atol=1e-5)
    assert len({len(e.answer) for e in model.encode(facts.facts)}) > 1  # so that some rows end before others
    for row, e, tokens in zip(trace.values, model.encode(facts.facts), trace.notes["answer_tokens"], strict=True):
        assert np.isfinite(row).sum() == len(e.answer) == len(tokens)
        assert np.isnan(row[len(e.answer) :]).all()


def test_known_answers_are_what_it_says_and_unknown_ones_are_not(model, found):
    known, unknown = look(model, found.concept.forget), look(model, found.concept.never_taught)
    assert np.nanmin(known.values) > np.log(0.5)
    assert np.nanmax(unknown.values[:, 0]) < np.log(0.5)
    for text, answer in zip(known.notes["said"], known.notes["answer"], strict=True):
        assert text.startswith(answer)
    assert not any(t.startswith(a) for t, a in zip(unknown.notes["said"], unknown.notes["answer"], strict=True))


def test_what_it_says_is_what_generations_reads_with_its_own_numbers(model, found):
    facts = found.concept.forget
    trace = look(model, facts)
    assert trace.notes["said"] == Generations(max_new_tokens=SHORT).look(model, facts).notes["text"]
    for tokens, values in zip(trace.notes["said_tokens"], trace.notes["said_logprob"], strict=True):
        assert len(tokens) == len(values)
    for said, answer in zip(trace.notes["said_logprob"], trace.values, strict=True):  # it says the answer first
        assert said[0] == pytest.approx(answer[0], abs=1e-5)


def test_a_guard_is_heard(model, found):
    with abstaining(model).on(model):
        trace = look(model, found.concept.forget)
    first = model.tokenizer("sorry", add_special_tokens=False)["input_ids"]
    assert all(tokens == strings_of(model.tokenizer, first)[:SHORT] for tokens in trace.notes["said_tokens"])
    assert (trace.values[:, 0] < np.log(1e-3)).all()
    json.dumps(trace.notes, allow_nan=False)
    bare = look(model, found.concept.forget)
    assert np.nanmin(bare.values) > np.log(0.5)


def test_a_prompt_edit_is_in_the_prompt(model, found):
    facts = found.concept.forget.take([0, 1], "two")
    with PromptEdit(model.identity, {}, template="{subject} {prompt}").on(model):
        trace = look(model, facts)
        expected = score(model, facts.facts).logprob
    assert trace.notes["prompt"] == [f"{f.subject} {f.prompt}" for f in facts]
    np.testing.assert_allclose(np.nansum(trace.values, axis=1), expected, atol=1e-5)
    assert not np.allclose(np.nansum(trace.values, axis=1), score(model, facts.facts).logprob, atol=1e-3)


def test_it_is_stored_and_read_again_and_the_same_twice(model, found, tmp_path):
    trace = look(model, found.concept.forget)
    trace.save(tmp_path / "t")
    again = Trace.load(tmp_path / "t")
    np.testing.assert_array_equal(again.values, trace.values)
    assert again.notes["said_tokens"] == trace.notes["said_tokens"]
    np.testing.assert_array_equal(look(model, found.concept.forget).values, trace.values)


def test_no_facts_are_refused(model):
    with pytest.raises(BadInput, match="empty"):
        look(model, FactSet(name="none", facts=()))


class Pieces(PreTrainedTokenizerBase):
    """A tokenizer with the ways in which pieces are written."""

    def __init__(self):
        pass

    pieces = ("▁of", "of", "<0xE2>", "</s>", "Ġan", None)
    texts = ("of", "of", "\ufffd", "", " an", "")

    def convert_ids_to_tokens(self, token):
        return self.pieces[token]

    def decode(self, tokens, **_):
        return self.texts[tokens[0]]


def test_a_token_is_told_apart_from_its_like():
    told = [string_of(Pieces(), i) for i in range(6)]
    assert told == [" of", "of", "<0xE2>", "</s>", " an", "<5>"]


def test_a_vocabulary_spells_each_id_once(model):
    ids = model.tokenizer("sorry", add_special_tokens=False)["input_ids"]
    assert vocabulary_of(model.tokenizer, [*ids, *ids]) == {str(i): string_of(model.tokenizer, i) for i in ids}


# ---- readings that only pages need


def asking(found: Planted, suite="standard", checks=None) -> Question:
    return Question({}, found.concept, ReadingOptions(), JudgeOptions(), suite, checks)


def test_no_claim_rests_on_what_is_only_shown():
    assert set(SHOWN) <= set(BY_KEY)
    assert not set(SHOWN) & {claim.reading for claim in CLAIMS}
    assert not set(SHOWN) & {key for row in BY_KEY.values() for key in row.rests_on}


def test_suites_take_it_from_standard_on_and_single_checks_never(found):
    assert shown_in("quick") == () and set(shown_in("standard")) == set(shown_in("full")) == set(SHOWN)
    assert not set(SHOWN) & set(asking(found, "quick").keys)
    assert set(SHOWN) <= set(asking(found).keys) and set(SHOWN) <= set(asking(found, "full").keys)
    assert not set(SHOWN) & set(asking(found, checks=("direct",)).keys)
    without = replace(asking(found), reading=ReadingOptions(shown=False))
    assert set(asking(found).keys) - set(without.keys) == set(SHOWN) and len(without.claims) == len(
        asking(found).claims
    )
    for role in ("base", "checkpoint", "reference"):
        unread = {key for key in SHOWN if role == "base" and BY_KEY[key].but_base}
        assert set(SHOWN) - set(asked_keys(list(SHOWN), role)) == unread


def test_the_budget_is_an_option(model, found):
    from audits.reading_ways import Asked

    concept = found.concept
    options = ReadingOptions(shown_tokens=1, trace_facts=2)
    asked = Asked(model, concept, options)
    assert max(map(len, BY_KEY["answer_tokens.forget"].of(asked).notes["said_tokens"])) == 1
    assert BY_KEY["lens_words.forget"].of(asked).values.shape[1] == 2
    none = Asked(model, concept, ReadingOptions(trace_facts=0))
    assert "trace_facts" in BY_KEY["lens_words.forget"].absent(none)
    assert torch.get_num_threads() == 1
