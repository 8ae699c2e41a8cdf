"""Lens words: the same numbers as the logit lens, the first word of every cell, and nothing behind a text's end."""

import numpy as np
import pytest
import torch

from probes.lens_words import LIKELIEST, MEASURES, PLACES, LensWords, asked_of
from probes.logit_lens import LogitLens
from workbench.concepts import FactSet
from workbench.edits import HookEdit
from workbench.errors import BadInput
from workbench.operators import Operator
from workbench.sites import Site
from workbench.token_strings import strings_of
from workbench.tokens import Encoded, pad
from workbench.trace import Trace


def part(trace: Trace, measure: str) -> np.ndarray:
    return trace.pick("measure", measure).values


def test_at_the_prompt_it_is_the_logit_lens(known):
    facts = known.concept.forget
    words = LensWords(max_facts=len(facts)).look(known.model, facts)
    assert words.axes == ("measure", "fact", "layer", "token") and words.labels["measure"] == tuple(MEASURES)
    for measure in ("probability", "rank"):
        lens = LogitLens(statistic=measure, answer="first_token", positions="prompt").look(known.model, facts)
        assert words.labels["layer"] == lens.labels["layer"]
        for f, length in enumerate(words.notes["prompt_tokens"]):
            ours, theirs = part(words, measure)[f, :, :length], lens.values[:, -length:, f]
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_at_the_answer_it_asks_for_the_token_behind(dense):
    facts = dense.concept.forget
    words = LensWords(max_facts=len(facts)).look(dense.model, facts)
    lens = LogitLens(statistic="probability", positions="answer").look(dense.model, facts)
    long = [f for f, e in enumerate(dense.model.encode(facts.facts)) if len(e.answer) > 1]
    assert long
    for f in long:
        start = words.notes["prompt_tokens"][f]
        np.testing.assert_allclose(part(words, "probability")[f, :, start], lens.values[:, 1, f], atol=1e-5)
    assert asked_of(Encoded((5, 6, 7, 8, 9), 2, ())) == (7, 7, 8, 9)


def test_the_first_word_of_the_last_layer_is_what_the_model_says(known):
    facts = known.concept.forget
    words = LensWords(max_facts=3).look(known.model, facts)
    assert words.values.shape[1] == 3
    for f, encoded in enumerate(known.model.encode(facts.facts[:3])):
        logits = known.model.run(pad([encoded.ids])).logits[0, :-1]
        ids = part(words, "word")[f, -1, : len(logits)].astype(int)
        assert ids.tolist() == logits.argmax(-1).tolist()
        ten = np.stack([part(words, name)[f, -1, : len(logits)] for name in PLACES[1]], axis=-1)
        shares = np.stack([part(words, name)[f, -1, : len(logits)] for name in PLACES[0]], axis=-1)
        np.testing.assert_allclose(shares, logits.softmax(-1).topk(LIKELIEST).values, atol=1e-5)
        np.testing.assert_allclose(
            shares, logits.softmax(-1).numpy()[np.arange(len(ten))[:, None], ten.astype(int)], atol=1e-5
        )
        np.testing.assert_allclose(
            part(words, "likeliest")[f, -1, : len(logits)], logits.softmax(-1).amax(-1), atol=1e-5
        )
        assert words.notes["vocabulary"][str(ids[-1])] == strings_of(known.model.tokenizer, [int(ids[-1])])[0]


def test_the_answer_arrives_where_it_was_planted(known):
    words = LensWords(max_facts=4).look(known.model, known.concept.forget)
    layers = dict(zip(words.labels["layer"], range(9), strict=False))
    for f in range(4):
        at = words.notes["prompt_tokens"][f] - 1
        rank = part(words, "rank")[f, :, at]
        assert rank[layers["L2"]] == 1 and rank[layers["L0"]] > 1
    never = LensWords(max_facts=4).look(known.model, known.concept.never_taught)
    for f in range(4):
        assert part(never, "rank")[f, -1, never.notes["prompt_tokens"][f] - 1] > 1


def test_nothing_stands_behind_the_end_of_a_text(dense):
    words = LensWords().look(dense.model, dense.concept.forget)
    lengths = [len(tokens) for tokens in words.notes["tokens"]]
    assert min(lengths) < max(lengths) == words.values.shape[-1]
    for f, length in enumerate(lengths):
        assert len(words.notes["asked"][f]) == length
        read = [name for name in MEASURES if name != "kl"]
        assert all(np.isfinite(part(words, name)[f, :, :length]).all() for name in read)
        assert np.isnan(words.values[:, f, :, length:]).all() and np.isnan(part(words, "kl")).all()
    ids = np.stack([part(words, name) for name in PLACES[1]])
    assert {str(int(i)) for i in ids[np.isfinite(ids)]} == set(words.notes["vocabulary"])


def test_many_facts_and_small_pieces_read_the_same(dense, monkeypatch):
    facts = dense.concept.forget
    whole = LensWords().look(dense.model, facts)
    monkeypatch.setattr("probes.lens_words.ROWS", 2)
    monkeypatch.setattr("probes.lens_words.DECODED", 3)
    cut = LensWords().look(dense.model, facts)
    for measure in ("probability", "likeliest"):  # ranks of an even distribution hang on the last bit
        np.testing.assert_allclose(part(cut, measure), part(whole, measure), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(part(cut, "word")[:, -1], part(whole, "word")[:, -1])


def changed(known, strength: float):
    """The model with a state of the middle made smaller."""
    site = Site(1, "resid_post")
    operator = Operator("scale", torch.full((known.model.d_model,), strength))
    return HookEdit(known.model.identity, {}, operators={site: operator}).on(known.model)


def test_entropy_is_that_of_the_lens_and_kl_is_from_the_base(dense):
    facts = dense.concept.forget.take([0, 1], "two")
    base = LensWords().look(dense.model, facts)
    lens = LogitLens(statistic="entropy", answer="first_token", positions="prompt").look(dense.model, facts)
    for f, length in enumerate(base.notes["prompt_tokens"]):
        np.testing.assert_allclose(part(base, "entropy")[f, :, :length], lens.values[:, -length:, f], rtol=1e-4)
    own = part(LensWords().look(dense.model, facts, base=base), "kl")
    assert np.nanmax(own) < 1e-4
    with changed(dense, 0.3):
        moved = LensWords().look(dense.model, facts, base=base)
        after = [dense.model.run(pad([e.ids])).logits[0].log_softmax(-1) for e in dense.model.encode(facts.facts)]
    kl = part(moved, "kl")
    layers = moved.labels["layer"]
    assert np.nanmax(kl[:, layers.index("L0")]) < 1e-4 < np.nanmean(kl[:, -1])
    for f, encoded in enumerate(dense.model.encode(facts.facts)):
        before = dense.model.run(pad([encoded.ids])).logits[0].log_softmax(-1)
        for i in range(len(encoded.ids) - 1):
            p, q = before[i].double(), after[f][i].double()
            top = p.topk(LIKELIEST).indices
            rest = torch.ones_like(p, dtype=torch.bool).scatter(0, top, False)
            pooled = (p[top].exp() * (p - q)[top]).sum()
            pooled += p[rest].exp().sum() * (p[rest].logsumexp(0) - q[rest].logsumexp(0))
            assert kl[f, -1, i] == pytest.approx(float(pooled), rel=1e-3, abs=1e-5)
            assert kl[f, -1, i] <= float((p.exp() * (p - q)).sum()) + 1e-5


def test_a_base_read_over_other_texts_is_refused(dense):
    facts = dense.concept.forget
    other = LensWords(max_facts=1).look(dense.model, facts)
    with pytest.raises(BadInput, match="same facts, layers and tokens"):
        LensWords(max_facts=2).look(dense.model, facts, base=other)


def test_it_is_stored_and_drawn(dense, tmp_path):
    words = LensWords(max_facts=2).look(dense.model, dense.concept.forget)
    words.save(tmp_path / "w")
    again = Trace.load(tmp_path / "w")
    np.testing.assert_array_equal(again.values, words.values)
    assert len(again.plot().data) >= 1


def test_a_rewritten_state_is_seen_and_the_model_is_left_alone(dense):
    facts = dense.concept.forget.take([0], "one")
    before = LensWords().look(dense.model, facts)
    site = Site(1, "resid_post")
    silent = Operator("scale", torch.zeros(dense.model.d_model))
    with HookEdit(dense.model.identity, {}, operators={site: silent}).on(dense.model):
        during = LensWords().look(dense.model, facts)
    assert not np.allclose(during.values[0, 0, -1], before.values[0, 0, -1])
    np.testing.assert_array_equal(LensWords().look(dense.model, facts).values, before.values)  # NaN is NaN here


def test_no_facts_are_refused(dense):
    with pytest.raises(BadInput, match="empty"):
        LensWords().look(dense.model, FactSet(name="none", facts=()))
