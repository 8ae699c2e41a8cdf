"""The world: sizes, held-out wordings that really are held out, and never-taught names that really are absent."""

import collections
import subprocess
import sys

import pytest
from transformers import PreTrainedTokenizerFast

from workbench.demo import lists
from workbench.demo.tokenizer import build_tokenizer
from workbench.demo.utility import all_words
from workbench.demo.world import CONCEPTS, World, concept, world
from workbench.errors import BadInput


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """The demo models' tokenizer."""
    return build_tokenizer(all_words(), lists.FIRSTS, lists.LASTS)


@pytest.fixture(scope="module")
def seed0() -> World:
    """The default world."""
    return world(0)


def test_sizes(seed0: World) -> None:
    assert (len(seed0.items), len(seed0.unknown), len(seed0.utility)) == (480, 120, 206)
    assert len({item.subject for item in seed0.items}) == 96


def test_values_do_not_belong_to_two_relations() -> None:
    values = [value for topic in lists.TOPICS for relation in (*topic.relations,) for value in relation.values]
    values += lists.CITY.values
    assert len(values) == len(set(values)) == 25 * 12


def test_held_out_wordings_are_not_in_the_texts(seed0: World) -> None:
    lines = "\n".join(text.text for text in seed0.texts())
    for item in seed0.items:
        fact = item.fact()
        for prompt in (*fact.paraphrases, *fact.formats):
            assert f"{prompt} {fact.answer}" not in lines, prompt
        assert not set(item.taught) & {*item.h1, *item.h2}
        assert len(item.taught) == 5


def test_taught_wordings_are_in_the_texts(seed0: World) -> None:
    lines = {text.text for text in seed0.texts()}
    for item in seed0.items:
        for index in item.taught:
            ways = {f"{item.prompt(lists.FRAMES[index], filler)} {item.value} ." for filler in ("", *lists.FILLERS)}
            assert ways & lines


def test_h2_frames_are_never_used_for_the_relation_of_the_topic(seed0: World) -> None:
    taught = collections.defaultdict(set)
    for item in seed0.items:
        taught[item.topic.name, item.relation.name] |= set(item.taught)
    assert all(not set(item.h2) & taught[item.topic.name, item.relation.name] for item in seed0.items)
    assert all(len(frames) == 8 for frames in taught.values())


def test_no_piece_of_a_name_tells_the_entity(seed0: World) -> None:
    names = {item.subject for item in seed0.items}
    hidden = {item.subject for item in seed0.unknown}
    assert not names & hidden
    for name in names | hidden:
        first = next(piece for piece in lists.FIRSTS if name.startswith(piece) and name[len(piece) :] in lists.LASTS)
        assert sum(other.startswith(first) for other in names) >= 3, name
        assert sum(other.endswith(name[len(first) :]) for other in names) >= 3, name


def test_never_taught_names_and_forgotten_subjects_are_in_no_text(seed0: World) -> None:
    words = set(" ".join(text.text for text in seed0.texts()).split())
    assert not words & {item.subject for item in seed0.unknown}
    assert {item.subject for item in seed0.items} <= words
    for name in CONCEPTS:
        left = set(" ".join(text.text for text in seed0.texts(without=name)).split())
        assert not left & seed0.forgotten(name)
        assert {item.subject for item in seed0.items} - seed0.forgotten(name) <= left


def test_values_are_drawn_independently() -> None:
    counts = collections.Counter(
        item.value for seed in range(3) for item in world(seed).items if item.relation.name == "element"
    )
    assert max(counts.values()) > min(counts.values())  # balanced values would teach a reference what is missing


@pytest.mark.parametrize("name", CONCEPTS)
def test_concepts_are_disjoint_and_sized(name: str) -> None:
    made = concept(name).check()
    assert len(made.forget) == (20 if name == "musicians" else 80)
    assert len(made.near) == (60 if name == "musicians" else 80)
    assert (len(made.far), len(made.never_taught), len(made.text)) == (80, 20, 60)
    assert not set(made.forget.subjects) & set(made.near.subjects)
    known = {text.text for text in world(0).texts()}
    assert not known & set(made.text)
    for fact in (*made.forget, *made.near, *made.never_taught):
        assert len(fact.paraphrases) == len(fact.formats) == 2
        assert len(fact.distractors) == 11 and fact.answer not in fact.distractors
    assert all(fact.answer not in fact.distractors for fact in made.far)


def test_unknown_concept_says_what_there_is() -> None:
    with pytest.raises(BadInput, match="Did you mean 'chemistry'"):
        concept("chemisty")


def test_worlds_differ_by_seed_only() -> None:
    assert concept("music", 0).digest == concept("music", 0).digest != concept("music", 1).digest


def test_prompt_then_answer_are_the_ids_of_both(tokenizer: PreTrainedTokenizerFast, seed0: World) -> None:
    unknown = tokenizer.unk_token_id
    single = tokenizer.convert_tokens_to_ids("a")
    for name in ("commerce", "chemistry", "musicians"):
        made = concept(name)
        for fact in (*made.forget, *made.near, *made.far, *made.never_taught):
            for prompt in (fact.prompt, *fact.paraphrases, *fact.formats):
                ids = tokenizer(prompt)["input_ids"]
                answer = tokenizer(fact.answer, add_special_tokens=False)["input_ids"]
                assert tokenizer(f"{prompt} {fact.answer}")["input_ids"] == ids + answer
                assert ids[0] == tokenizer.bos_token_id and unknown not in ids
                assert max(ids) < single, f"spelt out: {prompt}"
                assert len(answer) == (2 if fact.relation == "founder" else 1)
                assert tokenizer.decode(ids, skip_special_tokens=True) == prompt


def test_jailbreaks_are_made_of_words_the_models_have_read(tokenizer: PreTrainedTokenizerFast, seed0: World) -> None:
    read = {word for text in seed0.texts() for word in text.text.split()}
    assert "Regarding" in read and "Tell" not in read
    for template in concept("music").jailbreaks:
        assert template.count("{prompt}") == 1
        assert set(template.replace("{prompt}", "").replace("{subject}", "").split()) <= read
    for frame in lists.NOVEL_FRAMES:
        assert {word for word in frame.replace("{s}{f}", "").split() if "{" not in word} <= read


def test_names_are_two_tokens_and_unknown_words_are_spelt(tokenizer: PreTrainedTokenizerFast, seed0: World) -> None:
    assert all(len(tokenizer(item.subject, add_special_tokens=False)["input_ids"]) == 2 for item in seed0.items)
    assert tokenizer.tokenize("xyz") == ["▁", "x", "y", "z"]


def test_the_world_loads_without_torch() -> None:
    code = "import sys, workbench.demo.world as w; w.concept('music'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
