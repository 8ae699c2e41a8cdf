import numpy as np
import pytest
import torch

from probes.logit_lens import LogitLens, choice, logprob_and_rank
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.scoring import score


def test_last_layer_is_the_models_own_output(known):
    for facts in (known.concept.forget, known.concept.never_taught):
        lens = LogitLens(statistic="logprob").look(known.model, facts)
        assert np.allclose(lens.values[-1], score(known.model, facts.facts).logprob, atol=1e-5)
        assert not np.allclose(lens.values[-2], lens.values[-1], atol=0.5)


def test_only_answers_of_many_tokens_have_more_than_their_first(dense):
    long = np.array([len(encoded.answer) > 1 for encoded in dense.model.encode(dense.concept.forget.facts)])
    whole, first = (
        LogitLens(statistic="logprob", answer=which).look(dense.model, dense.concept.forget).values
        for which in ("whole", "first_token")
    )
    assert np.allclose(whole[:, ~long], first[:, ~long], atol=1e-5)
    assert (whole[:, long] < first[:, long]).all()


def test_finds_the_layer_where_the_answer_arrives(known):
    lens = LogitLens(statistic="choice").look(known.model, known.concept.forget)
    by_layer = dict(zip(lens.labels["layer"], lens.values.mean(axis=1), strict=True))
    assert list(by_layer) == ["embed", "L0", "L1", "L2"]
    assert by_layer["L2"] == 1.0
    assert max(by_layer["embed"], by_layer["L0"], by_layer["L1"]) < 0.5
    assert lens.notes["chance"] == pytest.approx(np.mean([1 / len(f.candidates) for f in known.concept.forget]))


def test_finds_nothing_that_was_never_taught(known):
    choices = LogitLens(statistic="choice").look(known.model, known.concept.never_taught)
    assert choices.values.mean(axis=1).max() <= 0.4
    assert LogitLens().look(known.model, known.concept.never_taught).values.max() < 0.1


def test_rank_is_first_where_greedy_decoding_gives_the_answer(known):
    taught, not_taught = (
        LogitLens(statistic="rank").look(known.model, facts)
        for facts in (known.concept.forget, known.concept.never_taught)
    )
    assert (taught.values[-1] == 1).all()
    assert (not_taught.values[-1] > 1).all()


def test_rank_and_logprob_of_a_token():
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0]])
    logprob, rank = logprob_and_rank(logits, torch.tensor([2, 0]))
    assert rank.tolist() == [2, 3]
    assert torch.allclose(logprob, torch.log_softmax(logits, -1)[[0, 1], [2, 0]])


def test_ties_share_the_credit():
    logprob = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.1, 0.8, 0.1]]))
    assert choice(logprob).tolist() == [1.0, 0.5, 0.0]
    assert choice(logprob[:, :1]).isnan().all()


def test_a_fact_without_candidates_is_not_read(dense):
    fact = dense.concept.forget.facts[0]
    facts = FactSet(name="mixed", facts=(fact, fact.model_copy(update={"distractors": ()})))
    lens = LogitLens(statistic="choice").look(dense.model, facts)
    assert np.isnan(lens.values[:, 1]).all() and not np.isnan(lens.values[:, 0]).any()
    assert lens.notes["without_candidates"] == 1


def test_refuses_what_it_cannot_do(dense):
    with pytest.raises(BadInput, match="statistic"):
        LogitLens(statistic="entropy")
    with pytest.raises(BadInput, match="empty"):
        LogitLens().look(dense.model, FactSet(name="none"))
