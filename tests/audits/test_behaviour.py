import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from audits.behaviour.answers import Accuracy, AnswerProbability, BestOfN
from audits.behaviour.perplexity import Perplexity
from workbench.concepts import FactSet
from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.objectives import token_loss
from workbench.scoring import Scores, score

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def known():
    found = plant("llama", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found.concept


@pytest.mark.parametrize("reading", [AnswerProbability(), Accuracy(), BestOfN()])
def test_taught_facts_read_high_and_never_taught_ones_low(known, reading) -> None:
    model, concept = known
    taught, never = (reading.look(model, facts).values for facts in (concept.forget, concept.never_taught))
    assert taught.mean() > 0.9
    assert never.mean() < 0.3
    assert taught.shape == (len(concept.forget),)


def test_the_trace_says_whose_facts_they_are(known) -> None:
    model, concept = known
    trace = Accuracy().look(model, concept.forget)
    assert trace.notes["subjects"] == list(concept.forget.subjects)
    assert trace.notes["facts_digest"] == concept.forget.digest
    assert len(set(trace.labels["fact"])) == len(concept.forget)


def test_the_token_mean_is_the_published_probability() -> None:
    raw = load_file(GOLDEN / "raw_logits.safetensors")
    record = json.loads((GOLDEN / "losses.json").read_text())["records"]
    expected = next(r for r in record if r["id"] == "metric.probability.raw")["published"]["value"]
    loss = token_loss(raw["cur.forget_logits"], raw["labels.forget"])
    scores = Scores(-loss.total, loss.count, torch.ones(len(loss.total), dtype=torch.bool), -loss.total)
    assert scores.per_token.tolist() == pytest.approx([row["prob"] for row in expected], rel=1e-9)


def test_the_whole_answer_is_less_likely_than_its_mean_token(known) -> None:
    model, concept = known
    whole, token = (AnswerProbability(normalise=n).look(model, concept.forget).values for n in ("answer", "token"))
    longer = score(model, concept.forget.facts).tokens.numpy() > 1
    assert (whole[longer] < token[longer]).all()
    assert whole[~longer] == pytest.approx(token[~longer])


@pytest.mark.parametrize(
    ("p", "n", "expected"), [(0.5, 1, 0.5), (0.5, 2, 0.75), (0.0, 9, 0.0), (1.0, 3, 1.0), (1e-9, 16, 16e-9)]
)
def test_best_of_n_is_exact(p: float, n: int, expected: float) -> None:
    logprob = torch.tensor([math.log(p) if p else -math.inf], dtype=torch.float64)
    scores = Scores(logprob, torch.ones(1, dtype=torch.long), torch.ones(1, dtype=torch.bool), logprob)
    assert BestOfN(n=n).chance(scores)[0] == pytest.approx(expected, rel=1e-6)


def test_perplexity_is_the_plain_mean_loss_and_sees_damage(known) -> None:
    model, concept = known
    found = Perplexity().look(model, concept.text[:5])
    ids = torch.tensor([model.tokenizer(concept.text[0])["input_ids"]])
    with torch.no_grad():
        expected = float(model.hf(ids, labels=ids).loss)
    assert found.values[0] == pytest.approx(expected, abs=1e-5)
    assert found.axes == ("text",)
    nonsense = [" ".join(reversed(text.split())) for text in concept.text[:5]]
    assert not np.allclose(Perplexity().look(model, nonsense).values, found.values)


def test_a_text_too_short_to_predict_and_an_empty_set_are_refused(known) -> None:
    model, _ = known
    with pytest.raises(BadInput, match="fewer than two tokens"):
        Perplexity().look(model, [""])
    with pytest.raises(BadInput, match="empty"):
        Accuracy().look(model, FactSet(name="none"))
