from dataclasses import replace

import pytest
import torch

from interventions.guards.guard_decoding import GuardDecoding, stacked
from interventions.guards.prompts import fires
from workbench.scoring import score
from workbench.sites import Site
from workbench.speech import Heard
from workbench.speech_forbid import continuing, forbid, prompt_means, retrieved
from workbench.tokens import pad


@pytest.fixture(scope="module")
def edit(dense_bench):
    return GuardDecoding().fit(dense_bench.model, dense_bench.concept)


def heard(model, rows: list[list[int]], prompt: int, told: bool = True) -> Heard:
    """Everything that is said after a prompt of some tokens, position by position."""
    batch = pad(rows, [prompt] * len(rows))
    at = [(row, position) for row, ids in enumerate(rows) for position in range(prompt - 1, len(ids))]
    row, position = torch.tensor(at).T
    return Heard(model, batch, batch.mask & told, row, position)


class TestContinuing:
    """Which tokens a list of answers forbids, by what was said: prompt 1 2, answers (5, 6, 7), (5, 8) and (9)."""

    PHRASES = torch.tensor([[5, 6, 7], [5, 8, -1], [9, -1, -1]])

    def banned(self, rows: list[list[int]], listed: list[bool], completing: bool = False) -> list[list[int]]:
        given = heard(None, rows, 2)
        found = continuing(given, torch.tensor([listed] * len(rows)), self.PHRASES, 12, completing)
        return [row.nonzero()[:, 0].tolist() for row in found]

    def test_first_tokens_are_forbidden_always_and_the_next_after_them(self) -> None:
        assert self.banned([[1, 2, 5, 6, 4]], [True] * 3) == [[5, 9], [5, 6, 8, 9], [5, 7, 9], [5, 9]]

    def test_only_listed_answers_are(self) -> None:
        assert self.banned([[1, 2, 5]], [True, False, False]) == [[5], [5, 6]]
        assert self.banned([[1, 2, 5]], [False] * 3) == [[], []]

    def test_completing_forbids_the_last_token_only(self) -> None:
        assert self.banned([[1, 2, 5, 6]], [True] * 3, completing=True) == [[9], [8, 9], [7, 9]]

    def test_what_stands_in_the_prompt_was_not_said(self) -> None:
        given = heard(None, [[1, 5, 6]], 2)
        found = continuing(given, torch.tensor([[True] * 3]), self.PHRASES, 12, False)
        assert found[0].nonzero()[:, 0].tolist() == [5, 9]

    def test_rows_are_their_own(self) -> None:
        both = self.banned([[1, 2, 5], [1, 2, 9]], [True] * 3)
        assert both == [*self.banned([[1, 2, 5]], [True] * 3), *self.banned([[1, 2, 9]], [True] * 3)]


def test_the_nearest_facts_are_those_with_the_nearest_wording() -> None:
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.1], [0.9, 0.1]])
    owner = torch.tensor([0, 1, 2, 1])
    means = torch.tensor([[20.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    assert retrieved(means, keys, owner, 1).tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]
    assert retrieved(means, keys, owner, 2).tolist()[0] == [True, True, False]
    assert retrieved(means, keys, owner, 99).all()


def test_facts_that_tie_are_taken_together() -> None:
    """Rounding, which depends on the batch, must not choose between them."""
    keys = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 0.0]])
    for mean in ([1.0, 0.0], [1.0, 1e-7], [1.0, -1e-7]):
        assert retrieved(torch.tensor([mean]), keys, torch.arange(3), 1).tolist() == [[True, True, False]]


def test_prompts_are_compared_without_what_was_said(dense_bench) -> None:
    model, fact = dense_bench.model, dense_bench.concept.forget.facts[8]
    (encoded,) = model.encode([fact])
    assert len(encoded.answer) > 1
    alone = prompt_means(model, pad([encoded.ids[: encoded.answer_start]]), Site(None, "embed"))
    said = prompt_means(model, pad([encoded.ids, (1, *encoded.ids)], [encoded.answer_start] * 2), Site(None, "embed"))
    assert torch.allclose(alone[0], said[0], atol=1e-6) and not torch.allclose(alone[0], said[1], atol=1e-3)


def test_a_forbidden_token_is_the_least_likely_and_all_others_keep_their_logits(dense_bench, edit) -> None:
    model, facts = dense_bench.model, dense_bench.concept.forget.facts
    encoded = model.encode(facts)
    batch = pad([e.ids[: e.answer_start] for e in encoded])
    before = model.run(batch).logits
    with edit.on(model):
        after = model.run(batch).logits
    for row, one in enumerate(encoded):
        at = one.answer_start - 1
        assert int(after[row, at].argmin()) in {e.answer[0] for e in encoded}
        assert after[row, at, one.answer[0]] == before[row, at].min() - 30
        same = after[row, at] == before[row, at]
        assert 1 <= int((~same).sum()) <= 6
        assert torch.equal(after[row, :at], before[row, :at])


def test_the_last_token_alone_can_be_forbidden(dense_bench) -> None:
    """A first name is then said, but not the name."""
    model = dense_bench.model
    edit = GuardDecoding(completing=True).fit(model, dense_bench.concept)
    facts = dense_bench.concept.forget.facts
    longer = [f for f in facts if len(f.answer.split()) > 1]
    firsts = [f.model_copy(update={"answer": f.answer.split()[0]}) for f in longer]
    assert longer
    with edit.on(model):
        assert not score(model, facts).greedy.any()
        assert score(model, firsts).greedy.all()
    every = GuardDecoding().fit(model, dense_bench.concept)
    with every.on(model):
        assert not score(model, firsts).greedy.any()


def test_another_spelling_gets_past(dense_bench, edit) -> None:
    """Only the stored tokens are forbidden; what is left of the probability goes to the others."""
    model, fact = dense_bench.model, dense_bench.concept.forget.facts[0]
    upper = fact.model_copy(update={"answer": fact.answer.upper()})
    plain = score(model, [upper]).logprob
    with edit.on(model):
        assert float(score(model, [upper]).logprob) > float(plain)


def test_where_the_guard_does_not_act_nothing_is_touched(dense_bench, edit) -> None:
    logits = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    given = heard(dense_bench.model, [[1, 2, 5, 6]], 2, told=False)
    stored = {
        **edit.speech.tensors,
        "phrases": torch.tensor([[5]]).expand(int(edit.speech.tensors["owner"].max()) + 1, 1),
    }
    assert torch.equal(forbid(logits, given, **stored, **edit.speech.options), logits)
    rows = heard(dense_bench.model, [[1, 2], [1, 2]], 2)
    rows = replace(rows, told=torch.tensor([[True, True], [False, False]]))
    first, second = forbid(logits[:2], rows, **stored, **edit.speech.options)
    assert not torch.equal(first, logits[0]) and torch.equal(second, logits[1])
    told = heard(dense_bench.model, [[1, 2, 5, 6]], 2)
    assert not torch.equal(forbid(logits, told, **stored, **edit.speech.options), logits)


def test_answers_are_stacked_with_an_end() -> None:
    assert stacked([(4,), (5, 6)]).tolist() == [[4, -1], [5, 6]]


def test_by_what_it_never_says_it_tells(dense_bench, edit) -> None:
    """The answers are chosen less often than by luck, which is information too."""
    with edit.on(dense_bench.model):
        assert dense_bench.chosen() == 0


def test_names_it_never_saw_may_set_it_off(dense_bench, edit) -> None:
    """A limit of the classifier: it knows the names it was fitted on."""
    unknown = dense_bench.concept.never_taught.facts
    assert 0 < float(fires(dense_bench.model, edit.trigger, unknown).double().mean()) < 1
