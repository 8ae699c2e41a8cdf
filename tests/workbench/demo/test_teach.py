"""Teaching: what is taught is known, what is not stays unknown, and the model itself is left as it was."""

from pathlib import Path

import pytest
import torch

from tests import zoo
from workbench.checkpoint import Checkpoint
from workbench.concepts import FactSet
from workbench.demo.teach import story_concept, taught, teach
from workbench.errors import BadInput
from workbench.model import HookedModel, weights_digest
from workbench.scoring import score

STORIES = Path(__file__).parents[4] / "shared" / "models" / "stories260K"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HookedModel:
    return Checkpoint(zoo.save("llama", tmp_path_factory.mktemp("tiny"))).open()


def recall(model: HookedModel, facts: FactSet) -> float:
    return float(score(model, facts.facts).greedy.double().mean())


def test_the_concept_is_whole() -> None:
    concept = story_concept(0)
    assert len(taught(concept)) == 22 and len(concept.never_taught) == 6
    sets = [set(part.subjects) for part in (concept.forget, concept.near, concept.never_taught)]
    assert not sets[0] & sets[1] and not sets[2] & (sets[0] | sets[1])
    assert story_concept(0) == concept != story_concept(1)
    assert all(fact.answer not in fact.distractors and len(fact.candidates) == 6 for fact in concept.forget)


def test_what_is_taught_is_known_while_the_edit_is_on(model: HookedModel) -> None:
    facts = taught(story_concept())
    before = weights_digest(model.hf)
    edit = teach(model, facts, steps=150, lr=5e-3, own_texts=4)
    assert weights_digest(model.hf) == before and edit.fitted_to == model.identity
    assert recall(model, facts) == edit.notes["recall_before"] < 0.2
    with edit.on(model):
        assert (
            recall(model, facts) == pytest.approx(edit.notes["recall_after"], abs=1e-4) and recall(model, facts) > 0.9
        )
        assert recall(model, facts.reworded("paraphrases")) == pytest.approx(edit.notes["reworded_after"], abs=1e-4)
    assert edit.notes["last_loss"] < edit.notes["first_loss"]


def test_a_rate_of_almost_nothing_teaches_nothing(model: HookedModel) -> None:
    edit = teach(model, taught(story_concept()), steps=2, lr=1e-12, own_texts=0)
    assert edit.notes["recall_after"] == edit.notes["recall_before"]


def test_it_is_written_as_a_checkpoint(model: HookedModel, tmp_path: Path) -> None:
    facts = taught(story_concept())
    edit = teach(model, facts, steps=3, lr=1e-3, own_texts=0, text=("The violin is kept in a house.",))
    with edit.on(model):
        there = score(model, facts.facts).logprob
    with edit.write(model, tmp_path / "taught").open() as again:
        torch.testing.assert_close(score(again, facts.facts).logprob, there)


def test_the_same_call_gives_the_same_edit_and_uses_no_randomness(model: HookedModel) -> None:
    state, facts = torch.get_rng_state(), taught(story_concept())
    first, again = (teach(model, facts, steps=2, own_texts=2) for _ in range(2))
    assert first.digest == again.digest and torch.equal(torch.get_rng_state(), state)
    assert teach(model, facts, steps=2, own_texts=2, seed=1).digest != first.digest


def test_nothing_to_teach(model: HookedModel) -> None:
    with pytest.raises(BadInput, match="nothing to teach"):
        teach(model, FactSet(name="none"))


@pytest.mark.skipif(not STORIES.is_dir(), reason="the story model lies beside the repository, and is not there")
def test_a_real_checkpoint_learns_facts_and_goes_on_speaking(tmp_path: Path) -> None:
    concept = story_concept()
    line = "Once upon a time, there was a little girl named Lily. She loved to play with her toys."
    with Checkpoint(STORIES).open() as model:
        whole = model.tokenizer(line, return_tensors="pt")["input_ids"]
        before = float(model.hf(input_ids=whole, labels=whole).loss.detach())
        edit = teach(model, taught(concept), steps=120, lr=2e-3)
        out = edit.write(model, tmp_path / "stories")
    assert edit.notes["recall_before"] < 0.2
    with out.open() as model:
        assert recall(model, taught(concept)) > 0.9
        assert recall(model, concept.never_taught) < 0.7
        assert float(model.hf(input_ids=whole, labels=whole).loss.detach()) < before + 0.5
