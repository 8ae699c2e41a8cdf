"""Greedy generation: the same in batches as one by one, on every architecture, ended, guarded, and as published."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import zoo
from workbench.checkpoint import Checkpoint
from workbench.edits import HookEdit
from workbench.errors import BadInput
from workbench.generation import Continuation, end_tokens, greedy
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.sites import Site
from workbench.speech import Speech
from workbench.triggers import Trigger

GOLDEN = Path(__file__).parents[1] / "golden"
PROMPTS = ([0, 5, 7, 9, 11, 30, 41], [0, 8], [0, 99, 120, 7, 7, 18], [0, 200, 3, 44], [9])


@pytest.fixture(scope="module")
def model(planted) -> HookedModel:
    return HookedModel(planted.model, planted.tokenizer, check=False)


@pytest.fixture(scope="module")
def published() -> HookedModel:
    return Checkpoint(GOLDEN / "models" / "llama_unlearned").open()


def by_hand(model: HookedModel, prompt: list[int], count: int) -> list[int]:
    """One row, no padding, no memory."""
    row = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            row.append(int(model.hf(torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
    return row[len(prompt) :]


def until_end(ids: list[int], ends: frozenset[int]) -> Continuation:
    stop = next((i for i, token in enumerate(ids) if token in ends), None)
    return Continuation(tuple(ids[:stop]), stop is not None)


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_a_batch_says_what_its_rows_say_alone(name: str) -> None:
    model = HookedModel(zoo.make(name), zoo.tokenizer(), check=False)
    alone = [until_end(by_hand(model, list(p), 8), end_tokens(model)) for p in PROMPTS]
    assert greedy(model, PROMPTS, 8) == alone
    assert len({c.ids for c in alone}) > 1


def test_in_double_precision_too(model) -> None:
    double = HookedModel(zoo.make("llama", dtype=torch.float64), zoo.tokenizer(), check=False)
    assert greedy(double, PROMPTS, 8) == [until_end(by_hand(double, list(p), 8), end_tokens(double)) for p in PROMPTS]


def test_the_size_of_the_batch_makes_no_difference(published) -> None:
    prompts = [row[row != 0].tolist() for row in load_file(GOLDEN / "batches.safetensors")["retain_gen.input_ids"]]
    once = greedy(published, prompts, 16)
    assert greedy(published, prompts, 16, rows=1) == once == greedy(published, prompts, 16, rows=5)


@pytest.mark.parametrize("part", ["forget", "retain"])
def test_it_says_what_the_published_code_generated(published, part: str) -> None:
    records = {r["id"]: r for r in json.loads((GOLDEN / "metrics.json").read_text())["records"]}
    stored = records[f"metric.rouge.generation.{part}"]["published"]["value"]["per_example"]
    batches = load_file(GOLDEN / "batches.safetensors")
    rows = [
        row[mask.bool()].tolist()
        for row, mask in zip(batches[f"{part}_gen.input_ids"], batches[f"{part}_gen.attention_mask"], strict=True)
    ]
    said = [c.text(published.tokenizer).replace(" .", ".") for c in greedy(published, rows, 16)]  # they tidy up blanks
    assert said == [row["generation"] for row in stored]


def test_a_text_ends_at_the_first_end_token_and_says_so(published) -> None:
    row = load_file(GOLDEN / "batches.safetensors")["forget_gen.input_ids"][1].tolist()
    whole, cut = greedy(published, [row], 16)[0], greedy(published, [row], 3)[0]
    assert whole.ended and not cut.ended
    assert cut.ids == whole.ids[:3]
    assert not set(whole.ids) & end_tokens(published)


def test_rows_that_end_early_do_not_disturb_the_others(published) -> None:
    batches = load_file(GOLDEN / "batches.safetensors")
    rows = [r[r != 0].tolist() for r in batches["forget_gen.input_ids"]]
    lengths = {len(c.ids) for c in greedy(published, rows, 24)}
    assert len(lengths) > 1
    assert greedy(published, rows, 24) == [greedy(published, [row], 24)[0] for row in rows]


def test_greedy_accuracy_is_what_generating_gives(model, planted) -> None:
    facts = planted.concept.forget.facts + planted.concept.never_taught.facts
    encoded = model.encode(facts)
    said = greedy(model, [e.ids[: e.answer_start] for e in encoded], max(len(e.answer) for e in encoded))
    whole = [c.ids[: len(e.answer)] == e.answer for c, e in zip(said, encoded, strict=True)]
    scored = score(model, facts).greedy.tolist()
    assert whole == scored
    assert 0 < sum(scored) < len(scored)


def abstaining(model: HookedModel, bias: float) -> HookEdit:
    """A guard that always (bias 1) or never (bias -1) abstains."""
    width = model.d_model
    trigger = Trigger(Site(1, "resid_post"), "linear", {"weight": torch.zeros(width), "bias": torch.tensor(bias)})
    text = torch.tensor(model.tokenizer("sorry", add_special_tokens=False)["input_ids"])
    return HookEdit(model.identity, {}, trigger=trigger, speech=Speech("abstain", {"text": text}))


def test_a_guard_that_is_worn_acts(model, planted) -> None:
    rows = [e.ids[: e.answer_start] for e in model.encode(planted.concept.forget.facts[:4])]
    bare = greedy(model, rows, 4)
    with abstaining(model, 1.0).on(model):
        guarded = greedy(model, rows, 4)
    text = tuple(model.tokenizer("sorry", add_special_tokens=False)["input_ids"])
    assert all(c.ids[: len(text)] == text[:4] for c in guarded)
    assert guarded != bare
    assert greedy(model, rows, 4) == bare


def test_a_guard_that_never_acts_changes_nothing(model, planted) -> None:
    facts = (*planted.concept.forget.facts[:3], *planted.concept.far.facts[:3])
    rows = [e.ids[: e.answer_start - i % 3] for i, e in enumerate(model.encode(facts))]
    assert len({len(row) for row in rows}) > 1
    with abstaining(model, -1.0).on(model):
        assert greedy(model, rows, 5) == greedy_bare(model, rows)


def greedy_bare(model: HookedModel, rows: list[tuple[int, ...]]) -> list[Continuation]:
    with model.bare():
        return greedy(model, rows, 5)


def test_the_checkpoints_own_settings_do_not_matter(published) -> None:
    row = load_file(GOLDEN / "batches.safetensors")["forget_gen.input_ids"][1].tolist()
    before = greedy(published, [row], 8)
    own = published.hf.generation_config
    own.do_sample, own.temperature, own.repetition_penalty = True, 9.0, 5.0
    try:
        assert greedy(published, [row], 8) == before
    finally:
        own.do_sample, own.temperature, own.repetition_penalty = False, 1.0, 1.0


def test_what_cannot_be_generated_is_refused(model) -> None:
    with pytest.raises(BadInput, match="at least one of each"):
        greedy(model, [[1], []], 4)
    with pytest.raises(BadInput, match="at least one of each"):
        greedy(model, [[1]], 0)
    with pytest.raises(BadInput, match="do not fit"):
        greedy(model, [[1]], 10**7)
    assert greedy(model, [], 4) == []
