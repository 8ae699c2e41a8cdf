"""Neuron Adjust: it takes away a skill with tokens of its own, but not facts that share a format with others."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from interventions.neuron_adjust import NeuronAdjust
from tests import zoo
from workbench.concepts import Concept, Fact, FactSet
from workbench.demo.planted import Planted, plant
from workbench.edits import HookEdit, load_edit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.scoring import score
from workbench.sites import Site
from workbench.tokens import pad

NUMBERS = 10


def concept_of(forget: list[Fact], retain: list[Fact]) -> Concept:
    sets = {"forget": forget, "retain": retain, "near": [], "far": [], "never_taught": []}
    return Concept(name="toy", **{name: FactSet(name=name, facts=tuple(facts)) for name, facts in sets.items()})


def trained(facts: list[Fact], layers: int, steps: int, every_token: bool) -> HookedModel:
    """A small Llama from scratch, one token a word, until it knows the facts."""
    words = sorted({word for fact in facts for word in f"{fact.prompt} {fact.answer}".split()})
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<bos>", "<eos>", *words])}, unk_token="<eos>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token="<eos>")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=16,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = LlamaForCausalLM(config)
    ids = torch.tensor([tokenizer(f"{fact.prompt} {fact.answer}")["input_ids"] for fact in facts])
    optimizer, said = torch.optim.AdamW(hf.parameters(), lr=3e-3, weight_decay=0), 0 if every_token else -1
    for step in range(6 * steps):  # at least `steps`; how many more it takes depends on the processor's rounding
        logits = hf(ids[:, :-1]).logits
        if step >= steps and bool((logits[:, -1].argmax(-1) == ids[:, -1]).all()):
            break
        asked = logits[:, said:]
        loss = torch.nn.functional.cross_entropy(asked.flatten(0, 1), ids[:, 1:][:, said:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return HookedModel(hf.eval().requires_grad_(False), tokenizer, name="toy", check=False)


def skill(name: str, letter: str, rule: Callable[[int, int], int]) -> list[Fact]:
    """Every pair of numbers, written with letters of the skill's own, in a random order."""
    order = torch.randperm(NUMBERS**2, generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [divmod(i, NUMBERS) for i in order]
    return [
        Fact(subject=name, prompt=f"{name} {letter}{a} {letter}{b}", answer=f"{letter}{rule(a, b)}") for a, b in pairs
    ]


def known(model: HookedModel, facts: list[Fact], edit: HookEdit | None = None) -> float:
    if edit is None:
        return float(score(model, facts).greedy.float().mean())
    with edit.on(model):
        return known(model, facts)


@pytest.fixture(scope="module")
def skills() -> tuple[HookedModel, list[Fact], list[Fact]]:
    add = skill("add", "p", lambda a, b: (a + b) % NUMBERS)
    largest = skill("max", "q", max)
    return trained([*add, *largest], 3, 200, every_token=True), add, largest


@pytest.fixture(scope="module", params=["llama", "olmoe"])
def planted(request: pytest.FixtureRequest) -> tuple[HookedModel, Planted]:
    found = plant(request.param, 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


@pytest.fixture(scope="module")
def dense() -> tuple[HookedModel, Planted]:
    found = plant("llama", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found


def test_a_skill_with_tokens_of_its_own_goes_and_the_other_stays(skills) -> None:
    """Statistics on 60 items of each skill, answers on the other 40."""
    model, add, largest = skills
    assert known(model, add) == known(model, largest) == 1.0
    concept = concept_of(add[:60], largest[:60])
    method = NeuronAdjust(share=3.0)
    edit = method.fit(model, concept)
    assert edit.notes["candidates"] == 768 and edit.notes["chosen"] == 24
    assert known(model, add[60:], edit) <= 0.5
    assert known(model, largest[60:], edit) >= 0.95
    random, where = method.controls(model, None, seed=1)["random neurons"]
    assert known(model, add[60:], random.fit(model, concept, where)) >= 0.9
    assert known(model, add) == 1.0


def test_facts_that_share_a_format_with_the_others_stay() -> None:
    """The opposite: neurons fire alike for both, so however many are adjusted nothing goes."""
    draw = torch.randint(16, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    facts = [
        Fact(subject=f"s{i // 2}", prompt=f"say s{i // 2} r{i % 2}", answer=f"o{i % 2}.{drawn}")
        for i, drawn in enumerate(draw)
    ]
    model = trained(facts, 2, 150, every_token=False)
    assert known(model, facts) == 1.0
    for share in (3.0, 30.0):
        edit = NeuronAdjust(share=share).fit(model, concept_of(facts[:8], facts[8:]))
        assert edit.notes["chosen"] >= share / 100 * 512
        assert known(model, facts[:8], edit) == known(model, facts[8:], edit) == 1.0


def test_planted_neurons_are_found_and_moved_and_random_ones_are_not(planted) -> None:
    model, found = planted
    concept, method = found.concept, NeuronAdjust(share=10.0)
    edit = method.fit(model, concept)
    for site in found.sites_of(concept.forget.facts):
        assert site.index in edit.operators[Site(site.layer, "mlp_pre", None, site.expert)].index.tolist()
    assert known(model, list(concept.forget), edit) <= 0.1
    assert known(model, list(concept.near), edit) >= 0.9 and known(model, list(concept.far), edit) >= 0.9
    assert "near and far facts themselves" in edit.notes["retain"]
    control = method.controls(model, None)["random neurons"][0].fit(model, concept)
    assert control.notes["chosen"] == edit.notes["chosen"] and control.notes["threshold"] is None
    assert known(model, list(concept.forget), control) >= 0.9
    every = method.controls(model, None)["all neurons"][0].fit(model, concept)
    assert every.notes["chosen"] == every.notes["candidates"] == edit.notes["candidates"]


def test_the_statistics_are_of_prompts_and_answers_without_the_first_token(planted) -> None:
    model, found = planted
    edit = NeuronAdjust(share=10.0).fit(model, found.concept)
    encoded = model.encode([*found.concept.near, *found.concept.far])
    batch = pad([e.ids for e in encoded])
    assert set(batch.ids[:, 0].tolist()) == {model.tokenizer.bos_token_id}
    counted = batch.mask & (torch.arange(batch.mask.shape[1]) > 0)
    for site, operator in edit.operators.items():
        value = model.run(batch, read=[site], logits=False).acts[site]
        here = counted if site.expert is None else counted & (value != 0).any(dim=-1)
        chosen = value[here][:, operator.index]
        torch.testing.assert_close(operator.tensors["keep_mean"], chosen.mean(dim=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(operator.tensors["keep_std"], chosen.std(dim=0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "positions"),
    [
        ({}, lambda e: range(1, len(e.ids))),
        ({"text": "prompt"}, lambda e: range(1, e.answer_start)),
        ({"tokens": "last_token"}, lambda e: [len(e.ids) - 1]),
        ({"tokens": "last_token", "text": "prompt"}, lambda e: [e.answer_start - 1]),
    ],
)
def test_which_tokens_count(dense, options, positions) -> None:
    model, found = dense
    facts = list(found.concept.forget)
    encoded = model.encode(facts)
    seen = [pair for pair in NeuronAdjust(batch_size=4, **options).batches(model, facts)]
    assert [len(batch.ids) for batch, _ in seen] == [4] * (len(facts) // 4) + [len(facts) % 4] * (len(facts) % 4 > 0)
    rows = [row.nonzero()[:, 0].tolist() for _, counted in seen for row in counted]
    assert rows == [list(positions(e)) for e in encoded]


def test_saved_and_loaded_it_does_the_same_and_the_same_seed_is_the_same_bytes(planted, tmp_path: Path) -> None:
    model, found = planted
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    torch.manual_seed(5)
    edits = [NeuronAdjust(share=10.0, seed=seed).fit(model, found.concept) for seed in (0, 0, 1)]
    assert edits[0].digest == edits[1].digest != edits[2].digest
    files = [edit.save(tmp_path / str(i)) for i, edit in enumerate(edits[:2])]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))
    loaded = load_edit(tmp_path / "0")
    assert isinstance(loaded, HookEdit) and loaded.made_by == NeuronAdjust(share=10.0).spec()
    batch = pad([e.ids for e in model.encode(list(found.concept.forget))])
    said = []
    for edit in (edits[0], loaded, edits[2]):
        with edit.on(model):
            said.append(model.run(batch).logits)
    assert torch.equal(said[0], said[1]) and not torch.equal(said[0], said[2])
    assert not torch.equal(said[0], model.run(batch).logits)
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    assert not model.guards


def test_what_a_prompt_gets_does_not_depend_on_its_batch_or_on_random_state(planted) -> None:
    model, found = planted
    rows = [e.ids for e in model.encode([*found.concept.forget, *found.concept.far])]
    rows = [row + (5,) * (i % 4) for i, row in enumerate(rows)]
    edit = NeuronAdjust(share=30.0).fit(model, found.concept)
    with edit.on(model):
        torch.manual_seed(0)
        together, plain = model.run(pad(rows)).logits, torch.random.get_rng_state()
        turned = model.run(pad(rows[::-1])).logits
        assert torch.equal(torch.random.get_rng_state(), plain)
        for i, row in enumerate(rows):
            alone = model.run(pad([row])).logits[0]
            torch.testing.assert_close(together[i, : len(row)], alone, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(turned[len(rows) - 1 - i, : len(row)], alone, atol=1e-4, rtol=1e-4)


def test_the_released_code_s_spreads_and_single_draw_come_on_request(planted) -> None:
    model, found = planted
    paper, code = (NeuronAdjust(share=10.0, published=p).fit(model, found.concept) for p in (False, True))
    assert list(paper.operators) == list(code.operators)
    for site, mine in paper.operators.items():
        theirs = code.operators[site]
        assert torch.equal(mine.index, theirs.index)
        torch.testing.assert_close(theirs.tensors["keep_std"], mine.tensors["keep_std"].square())
        assert torch.equal(theirs.tensors["forget_std"], mine.tensors["forget_mean"])
        assert len(set(theirs.tensors["salt"].tolist())) == 1 and len(set(mine.tensors["salt"].tolist())) == len(
            mine.index
        )
        assert dict(theirs.options) == {"published": True} and not mine.options
    with code.on(model):
        assert score(model, found.concept.far.facts).logprob.isfinite().all()


def test_an_expert_that_too_few_tokens_reach_is_left_out_and_named() -> None:
    found = plant("olmoe", 0)
    model = HookedModel(found.model, found.tokenizer, check=False)
    few = NeuronAdjust(share=10.0, least=40).fit(model, found.concept)
    left = few.notes["left_out"]
    assert left and all(int(words.split()[0]) < 40 for words in left.values())
    assert not set(left) & {str(site) for site in few.operators}
    assert few.notes["candidates"] == (len(model.gate_sites()) - len(left)) * 48
    assert len({site.expert for site in few.operators}) > 1
    with pytest.raises(BadInput, match="fewer than least=100000"):
        NeuronAdjust(least=100_000).fit(model, found.concept)


def test_only_the_layers_and_experts_that_are_named_are_candidates(planted) -> None:
    model, found = planted
    for part in ("mlp_pre", "mlp_act", "mlp_out"):
        edit = NeuronAdjust(share=10.0).fit(model, found.concept, [Site(1, part)])
        assert {site.layer for site in edit.operators} == {1}
    if model.mixture_layers:
        for site in (Site(1, "expert", 2), Site(1, "mlp_pre", None, 2)):
            edit = NeuronAdjust(share=10.0).fit(model, found.concept, [site])
            assert list(edit.operators) == [Site(1, "mlp_pre", None, 2)]
            assert edit.notes["asked"] == [str(site)]


@pytest.mark.parametrize("arch", ["gpt2", "phi3", "gemma2", "qwen2_moe", "gpt_oss", "deepseek_v3"])
def test_it_works_on_plain_gated_fused_and_mixed_mlps(arch: str) -> None:
    model = HookedModel(zoo.make(arch), zoo.tokenizer(), name=arch, check=False)
    forget, retain = (
        [Fact(subject=w, prompt=f"{text} {w}", answer="violin") for w in ("Kent", "river", "label", "harbour")]
        for text in ("The chemist reads", "On the seventh day nobody saw")
    )
    edit = NeuronAdjust(share=20.0, least=2).fit(model, concept_of(forget, retain))
    dense = {site.layer for site in edit.operators if site.expert is None}
    routed = {site.layer for site in edit.operators if site.expert is not None}
    assert dense == (set() if arch == "gpt_oss" else {0, 1, 2})
    assert routed == ({1, 2} if arch == "deepseek_v3" else {0, 1, 2} if arch in zoo.MOE_CONFIGS else set())
    batch = pad([e.ids for e in model.encode(forget)])
    plain = model.run(batch).logits
    with edit.on(model):
        changed = model.run(batch).logits
    assert changed.isfinite().all() and (changed - plain)[batch.mask].abs().max() > 1e-3


def test_batches_are_told_of_as_they_pass(dense) -> None:
    model, found = dense
    told: list[tuple[int, float]] = []
    NeuronAdjust(share=10.0, batch_size=7).fit(model, found.concept, progress=lambda *pair: told.append(pair))
    sets = (len(found.concept.forget), len(found.concept.near) + len(found.concept.far))
    total = sum(-(-n // 7) for n in sets)
    assert [step for step, _ in told] == list(range(1, total + 1)) and told[-1][1] == 1.0


def test_what_cannot_be_done_is_refused_and_the_model_stays(dense) -> None:
    model, found = dense
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    facts = list(found.concept.forget)
    wrong = [
        (NeuronAdjust(), concept_of([], facts), None, "empty: there is nothing"),
        (NeuronAdjust(), concept_of(facts, []), None, "no retain, near or far facts to compare"),
        (NeuronAdjust(share=1e-15), found.concept, None, "not one neuron: give a larger share"),
        (NeuronAdjust(), found.concept, [], "got no site at all"),
        (NeuronAdjust(), found.concept, [Site(1, "head", 0)], r"got L1\.head\[0\]"),
        (NeuronAdjust(), found.concept, [Site(1, "mlp_pre"), Site(1, "resid_post")], r"got L1\.resid_post"),
        (NeuronAdjust(), found.concept, [Site(1, "mlp_pre", 3)], r"got L1\.mlp_pre\[3\]"),
        (NeuronAdjust(), found.concept, [Site(None, "embed")], "got embed"),
        (NeuronAdjust(), found.concept, [Site(1, "expert")], r"got L1\.expert"),
        (NeuronAdjust(), found.concept, [Site(7, "mlp_out")], r"at L7\.mlp_out; it has L0\.mlp_pre, L1\.mlp_pre"),
        (NeuronAdjust(), found.concept, [Site(1, "mlp_pre"), Site(1, "expert", 0)], r"at L1\.expert\[0\]; it has"),
    ]
    for method, concept, where, words in wrong:
        with pytest.raises(BadInput, match=words):
            method.fit(model, concept, where)
    for options in ({"share": 0}, {"share": 101}, {"least": 1}, {"choose": "best"}, {"shares": 3}):
        with pytest.raises(BadInput, match=next(iter(options))):
            NeuronAdjust(**options)
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    assert not model.guards and not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())
