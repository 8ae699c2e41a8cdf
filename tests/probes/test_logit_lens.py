import numpy as np
import pytest
import torch

from probes.lens_readings import choice, entropy, entry, lens_scores, logprob_and_rank
from probes.logit_lens import LogitLens
from probes.tuned_lens import Translators
from tests.zoo import make, tokenizer
from workbench.concepts import Fact, FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import batch_of, score


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


def test_the_choice_keeps_the_rank_of_the_answer_and_reads_the_same_to_the_bit(known):
    facts = known.concept.forget
    lens = LogitLens(statistic="choice").look(known.model, facts)
    words = [fact.model_copy(update={"answer": word}) for fact in facts for word in fact.candidates]
    alone = lens_scores(known.model, known.model.encode(words), Translators()).logprob
    parts = alone.split([len(fact.candidates) for fact in facts], dim=1)
    np.testing.assert_array_equal(lens.values, torch.stack([choice(part) for part in parts], dim=1).numpy())
    ranks = LogitLens(statistic="rank").look(known.model, facts)
    kept = np.array(lens.notes["rank"])
    assert kept.shape == ranks.values.shape and (kept[-1] == 1).all()
    np.testing.assert_allclose(kept, ranks.values, rtol=0.02)  # ties of an even distribution hang on the last bit
    assert LogitLens().look(known.model, facts).notes["rank"] == ranks.values.astype(int).tolist()
    never = LogitLens(statistic="choice").look(known.model, known.concept.never_taught)
    assert (np.array(never.notes["rank"])[-1] > 1).all()


@pytest.mark.parametrize("options", [{"statistic": "rank"}, {"statistic": "entry"}, {"positions": "answer"}])
def test_ranks_are_kept_only_beside_another_reading_of_whole_answers(dense, options):
    assert "rank" not in LogitLens(**options).look(dense.model, dense.concept.forget).notes


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


def test_each_position_of_the_answer(known):
    facts = known.concept.forget  # answers of one and of two tokens
    lengths = [len(e.answer) for e in known.model.encode(facts.facts)]
    each = LogitLens(statistic="logprob", positions="answer").look(known.model, facts)
    assert each.axes == ("layer", "position", "fact") and each.labels["position"] == ("answer 1", "answer 2")
    read = np.isfinite(each.values).all(axis=0)
    assert (read.sum(axis=0) == lengths).all() and read[0].all()
    whole = LogitLens(statistic="logprob").look(known.model, facts)
    assert np.allclose(np.nansum(each.values, axis=1), whole.values, atol=1e-5)
    ranks = LogitLens(statistic="rank", positions="answer").look(known.model, facts).values
    assert np.array_equal(np.nanmax(ranks, axis=1), LogitLens(statistic="rank").look(known.model, facts).values)
    entropies = LogitLens(statistic="entropy", positions="answer").look(known.model, facts).values
    mean = LogitLens(statistic="entropy").look(known.model, facts).values
    assert np.allclose(np.nanmean(entropies, axis=1), mean, atol=1e-5)


def test_each_position_of_the_prompt(known):
    facts = known.concept.forget
    lens = LogitLens(positions="prompt").look(known.model, facts)
    first = LogitLens(answer="first_token").look(known.model, facts)
    assert np.allclose(lens.pick("position", "-1").values, first.values, atol=1e-6)
    longer = facts.facts[0].model_copy(update={"prompt": facts.facts[0].paraphrases[0]})
    mixed = FactSet(name="mixed", facts=(longer, facts.facts[1]))
    uneven = LogitLens(positions="prompt").look(known.model, mixed)
    start = [e.answer_start for e in known.model.encode(mixed.facts)]
    assert np.isfinite(uneven.values[0]).sum(axis=0).tolist() == start and start[0] > start[1]
    alone = LogitLens(positions="prompt").look(known.model, facts.take([1], "one"))
    assert np.allclose(uneven.pick("position", "-2").values[:, 1], alone.pick("position", "-2").values[:, 0], atol=1e-5)


def test_shows_where_in_the_prompt_the_answer_was_written(known):
    """By hand it was put at the subject, the prompt's last token but one: in layer 1, of near facts in layer 0."""
    for facts, layer in ((known.concept.forget, 1), (known.concept.near, 0)):
        lens = LogitLens(positions="prompt").look(known.model, facts).mean("fact")
        subject = lens.pick("position", "-2").values
        assert subject[layer + 1] > 0.9 and subject[: layer + 1].max() < 0.1
        elsewhere = [lens.pick("position", p).values for p in lens.labels["position"] if p not in ("-1", "-2")]
        assert np.max(elsewhere) < 0.2
    never = LogitLens(positions="prompt").look(known.model, known.concept.never_taught)
    assert np.nanmax(never.values) < 0.3


def test_the_first_layer_at_which_the_answer_enters(known):
    first = LogitLens(statistic="entry").look(known.model, known.concept.forget)
    assert first.axes == ("fact",) and set(first.values) <= {2, 3}  # of three blocks; it arrives in the last
    assert np.median(first.values) == 3
    ranks = LogitLens(statistic="rank").look(known.model, known.concept.forget).values
    assert all(ranks[int(at), i] == 1 and (ranks[: int(at), i] > 1).all() for i, at in enumerate(first.values))
    never = LogitLens(statistic="entry").look(known.model, known.concept.never_taught)
    assert np.isnan(never.values).mean() > 0.8  # a random model says one of 186 words first now and then
    every = LogitLens(statistic="entry", top_k=10_000).look(known.model, known.concept.never_taught)
    assert (every.values == 0).all()
    by_position = LogitLens(statistic="entry", positions="answer").look(known.model, known.concept.forget)
    assert by_position.axes == ("position", "fact")
    with np.errstate(all="ignore"):
        assert np.nanmax(by_position.values, axis=0) == pytest.approx(first.values)


def test_entry_by_hand():
    rank = torch.tensor([[9.0, 1.0, 9.0], [2.0, 9.0, 9.0], [1.0, 1.0, 9.0]])
    assert entry(rank, 1).tolist()[:2] == [2, 0] and entry(rank, 1)[2].isnan()
    assert entry(rank, 2).tolist()[:2] == [1, 0]


def test_entropy_of_a_distribution():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -torch.inf, -torch.inf, -torch.inf], [0.0, 0.0, -200.0, -200.0]])
    assert torch.allclose(entropy(logits), torch.tensor([4.0, 1.0, 2.0]).log(), atol=1e-6)


@pytest.mark.parametrize("name", ["gemma2", "granitemoe", "gpt2"])
def test_reads_through_caps_scales_and_other_norms(name):
    model = HookedModel(make(name), tokenizer(), name=name, check=False)
    facts = FactSet(name="one", facts=(Fact(subject="violin", prompt="The violin is", answer="kept in a house"),))
    batch, targets = batch_of(model.encode(facts.facts))
    with torch.no_grad():
        own = model.run(batch).logits[targets.row, targets.position].log_softmax(-1)
    probability = torch.special.entr(own.exp()).sum(-1)
    lens = LogitLens(statistic="entropy", positions="answer").look(model, facts)
    assert np.allclose(lens.values[-1, :, 0], probability, atol=1e-4)
    lens = LogitLens(statistic="logprob", positions="answer").look(model, facts)
    assert np.allclose(lens.values[-1, :, 0], own.gather(-1, targets.token[:, None])[:, 0], atol=1e-4)


def test_batches_of_any_size_give_the_same(dense, monkeypatch):
    facts = dense.concept.forget
    methods = [LogitLens(statistic=s) for s in ("logprob", "entropy")]
    methods += [LogitLens(positions="prompt"), LogitLens(positions="answer")]
    whole = [method.look(dense.model, facts).values for method in methods]
    monkeypatch.setattr("probes.lens_readings.CHUNK", 3)
    for method, expected in zip(methods, whole, strict=True):
        assert np.allclose(method.look(dense.model, facts).values, expected, atol=1e-5, equal_nan=True)


def test_every_reading_has_a_picture(dense):
    for method in (LogitLens(positions="prompt"), LogitLens(statistic="entry"), LogitLens(statistic="rank")):
        assert method.look(dense.model, dense.concept.forget).plot().data


def test_refuses_what_it_cannot_do(dense):
    with pytest.raises(BadInput, match="statistic"):
        LogitLens(statistic="surprise")
    with pytest.raises(BadInput, match="positions='together'"):
        LogitLens(statistic="choice", positions="answer")
    with pytest.raises(BadInput, match="empty"):
        LogitLens().look(dense.model, FactSet(name="none"))
