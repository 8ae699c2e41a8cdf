"""The published step is ours where formulas are the same; what saves memory changes no bit; bad input is refused."""

import json
import weakref

import pytest
import torch

import bench.gradient as bench
from bench.gradient_published import STEPS
from bench.gradient_sides import Asked, Ours, Published, Timed, pairs_of
from bench.gradient_subject import MATCHES, SHAPES, Match, our_pairs
from interventions.gradient import descend
from interventions.gradient.course import Course
from interventions.gradient.given import Given
from interventions.gradient.grad_diff import GradDiff
from interventions.gradient.npo import Npo
from workbench.demo.planted import plant
from workbench.errors import BadInput, RunError
from workbench.model import HookedModel
from workbench.training import TrainingOptions, train

pytestmark = pytest.mark.slow  # a benchmark; what it measures has tests of its own

TINY, ASKED = SHAPES["tiny"], Asked("tiny", steps=2, batch=3)
SAME = [name for name, match in MATCHES.items() if match.same]


# ---- the published step


def after_one(name: str, published: str | None = None) -> tuple[Ours, Published, float, float]:
    """Both sides after one update, and their losses; `published` may be the step of another method."""
    asked = Asked("tiny", steps=1, batch=3)
    ours = Ours(name, asked, TINY)
    loss = ours.train().loss
    theirs = Published(published or name, asked, TINY, our_pairs(name, ours.model, ours.told, ours.method))
    return ours, theirs, loss, theirs.train().loss


def differing(ours: Ours, theirs: Published) -> float:
    """Share of the entries that either side moved which are apart by more than a fiftieth of an update (AdamW's first
    update is of the size of the rate everywhere)."""
    with ours.edit.on(ours.model):
        mine = {name: p.detach().clone() for name, p in ours.model.hf.named_parameters()}
    apart = moved = 0
    for name, now in theirs.model.named_parameters():
        start = ours.model.parameter(name)
        moving = (mine[name] != start) | (now != start)
        apart += int(((mine[name] - now).abs() > ASKED.lr / 50)[moving].sum())
        moved += int(moving.sum())
    return apart / moved


@pytest.mark.parametrize("name", SAME)
def test_both_sides_have_the_same_loss_and_the_same_weights_after_an_update(name: str) -> None:
    ours, theirs, mine, published = after_one(name)
    assert mine == pytest.approx(published, rel=1e-5, abs=1e-5)
    assert differing(ours, theirs) < 0.02


def test_other_methods_make_other_weights() -> None:
    ours, theirs, mine, published = after_one("grad_diff", "npo")
    assert mine != pytest.approx(published, rel=1e-3)
    assert differing(ours, theirs) > 0.02


@pytest.mark.parametrize("name", ["undial", "pdu"])  # a KL to the start model is 0 in the first update on both sides
def test_where_formulas_differ_that_is_said(name: str) -> None:
    ours, theirs, mine, published = after_one(name)
    assert not MATCHES[name].same
    assert mine != pytest.approx(published, rel=1e-5) or differing(ours, theirs) > 0.02


def test_every_method_has_a_published_step() -> None:
    assert set(STEPS) == {name.removesuffix("-top") for name in MATCHES}


def test_a_copy_of_the_start_model_is_held_by_those_that_compare_with_it_and_stays() -> None:
    side = Published("npo", ASKED, TINY)
    start = {name: value.clone() for name, value in side.model.state_dict().items()}
    side.train()
    assert not all(torch.equal(value, start[name]) for name, value in side.model.state_dict().items())


# ---- one graph at a time


@pytest.fixture(scope="module")
def planted():
    found = plant("llama", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found.concept


@pytest.mark.parametrize("options", [{}, {"retain": "kl", "forget_weight": 0.3, "retain_weight": 2.0}], ids=str)
def test_terms_taken_back_one_by_one_give_the_same_bits(planted, options) -> None:
    model, concept = planted
    apart, together = (
        GradDiff(steps=4, lr=1e-3, passes=passes, **options).fit(model, concept) for passes in ("apart", "together")
    )
    assert apart.digest == together.digest
    assert apart.notes["losses"] == together.notes["losses"]


def test_what_was_said_of_the_forget_facts_is_let_go_before_the_retain_facts_pass(planted) -> None:
    model, concept = planted
    batch = descend.collate(descend.pair(model, concept.forget.facts[:2], concept.near.facts[:2], 0))
    given = Given(model.hf, batch, Course(1, 1), [])
    terms = Npo().terms(given)
    next(terms)
    assert "forget" in vars(given)
    next(terms)
    assert "forget" not in vars(given) and "forget_loss" not in vars(given) and "retain" in vars(given)


def test_with_tied_embeddings_only_the_last_bits_differ() -> None:
    torch.manual_seed(0)
    found = plant("llama", 0)
    found.model.config.tie_word_embeddings = True
    found.model.lm_head.weight = found.model.model.embed_tokens.weight
    model = HookedModel(found.model, found.tokenizer, check=False)
    losses = [
        Npo(steps=3, lr=1e-3, passes=passes).fit(model, found.concept).notes["losses"]
        for passes in ("apart", "together")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_parts_of_an_update_are_averaged_apart_as_together(planted) -> None:
    model, concept = planted
    apart, together = (
        GradDiff(steps=1, lr=1e-3, accumulate=4, passes=passes).fit(model, concept) for passes in ("apart", "together")
    )
    assert apart.notes["losses"] == together.notes["losses"]
    for name, change in together.changes.items():
        start, other = model.parameter(name), apart.changes[name]
        if change.index is None and other.index is None:
            off = (change.values - other.values).abs() > 2e-5  # a fiftieth of an update
            assert float(off.float().mean()) < 0.02 and not torch.equal(change.values, start)


def test_gradients_are_as_large_as_those_of_the_whole(planted) -> None:
    """Adam forgets the size of a gradient; the norm to which it is clipped does not, so read it before that."""
    model, concept = planted
    norms: list[float] = []
    for options in ({}, {"accumulate": 2}):
        seen: list[torch.Tensor] = []
        weight = model.parameter("model.norm.weight")
        handle = weight.register_post_accumulate_grad_hook(lambda p, seen=seen: seen.append(p.grad.clone()))
        try:
            GradDiff(steps=1, batch_size=8, **options).fit(model, concept)
        finally:
            handle.remove()
        norms.append(float(seen[-1].norm()))
    assert norms[0] == pytest.approx(norms[1], rel=0.3)  # answers differ in length, so means of parts are others


def test_sophia_sees_all_terms(planted) -> None:
    model, concept = planted
    apart, together = (
        Npo(steps=2, lr=1e-3, optimizer="sophia", passes=passes).fit(model, concept) for passes in ("apart", "together")
    )
    assert apart.digest == together.digest


def test_a_term_is_gone_before_the_next_is_computed(planted) -> None:
    model, _ = planted
    weight = model.parameter("model.norm.weight")
    seen: list[bool] = []

    def terms(hf, batch):
        first = (weight * batch["x"]).sum()
        graph = weakref.ref(first)
        yield first
        del first
        seen.extend([graph() is None, weight.grad is not None])
        yield torch.tensor(2.0)  # moves nothing
        yield (weight * weight).sum()

    def collate(items):
        return {"x": torch.tensor(items, dtype=weight.dtype)}

    before = weight.detach().clone()
    try:
        options = TrainingOptions(steps=1, batch_size=1)
        log = train(model.hf, [3.0], collate, terms, options, trainable=["model.norm.weight"])
        assert seen == [True, True]
        assert log.losses[0] == pytest.approx(float(3 * before.sum() + 2 + (before * before).sum()))
        assert not torch.equal(weight, before)
    finally:
        with torch.no_grad():
            weight.copy_(before)


@pytest.mark.parametrize("bad", [0, 1])
def test_a_term_that_is_no_number_stops_before_any_weight_moves(planted, bad: int) -> None:
    model, _ = planted
    weight = model.parameter("model.norm.weight")
    before = weight.detach().clone()

    def terms(hf, batch):
        for i in range(2):
            yield (weight * (torch.nan if i == bad else 1.0)).sum()

    with pytest.raises(RunError, match="nan at step 1"):
        train(model.hf, [1], _ones, terms, TrainingOptions(steps=1, batch_size=1), trainable=["model.norm.weight"])
    assert torch.equal(weight, before) and weight.grad is None


def _ones(items):
    return {"x": torch.ones(len(items))}


def test_what_the_start_model_says_is_computed_only_for_those_that_ask(planted) -> None:
    model, concept = planted
    forget, retain = concept.forget.facts[:2], concept.near.facts[:2]
    for method, scored in ((Npo(), True), (GradDiff(), False)):
        pairs = descend._pairs(model, forget, retain, method, ())
        assert all((p.forget.original is not None) == scored for p in pairs)
        assert all(p.retain.original is None for p in pairs)


# ---- the measuring


def test_updates_are_compared_pair_by_pair_and_what_is_made_before_is_spread(monkeypatch) -> None:
    ours = [Timed(3.0, (1.0, 2.0), -1.0)] * 2
    published = [Timed(9.0, (2.0, 3.0), -1.0)] * 2
    monkeypatch.setattr(bench, "speed", lambda *_: (ours, published, [5, 30, 60]))
    monkeypatch.setattr(bench, "peak_of", lambda _, side, *__: {"ours": 30.0, "published": 40.0}[side])
    row = bench.row_of("npo", ASKED, {})
    assert (row.faster, row.least, row.most) == (1.75, 1.5, 2.0)
    assert (row.ours, row.published) == (30.0, 18.0)
    assert row.before == pytest.approx((3.0 - 1.5) / 20 / 1.5)
    assert row.all_told == pytest.approx(1.75 / 1.05)
    assert "0.75x" in bench.shown(row) and "same loss to 0e+00" in bench.shown(row)


def test_a_loss_that_should_be_the_same_and_is_not_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(bench, "peak_of", lambda *_: 1.0)
    monkeypatch.setitem(bench.MATCHES, "pdu", Match("pdu"))
    with pytest.raises(RuntimeError, match="pdu: the first loss is .* as published"):
        bench.row_of("pdu", Asked("tiny", steps=2, batch=2, rounds=1), {})


def test_tokens_are_counted_without_padding() -> None:
    pairs = pairs_of("dpo", ASKED, TINY)
    counted = bench.text_tokens(pairs, 3)
    assert len(counted) == 2 and all(part for p in pairs for part in (p.forget, p.retain, p.other))
    assert sum(counted) == sum(len(t.encoded.ids) for p in pairs for t in (p.forget, p.retain, p.other))
    assert sum(bench.text_tokens(pairs_of("grad_diff", ASKED, TINY), 3)) < sum(counted)


def test_json_is_clean_and_says_what_was_asked(monkeypatch, capsys) -> None:
    monkeypatch.setattr(bench, "peak_of", lambda *_: 2.0)
    small = ["--shape", "tiny", "--steps", "2", "--batch", "2", "--rounds", "1"]
    assert bench.main(["--methods", "simnpo", *small, "--json", "--set", "unembed=all"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["asked"]["shape"] == "tiny" and found["set"] == {"unembed": "all"}
    assert found["rows"][0]["method"] == "simnpo" and found["rows"][0]["faster"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--steps 1", "at least 2"),
        ("--rounds 0", "at least 1"),
        ("--set unembed", "OPTION=VALUE"),
        ("--methods npo --set unembd=all", "unembed"),
    ],
)
def test_bad_input_is_refused_in_words(words: str, said: str, capsys) -> None:
    assert bench.main(words.split()) == 2
    assert said in capsys.readouterr().err


def test_unknown_methods_and_shapes_end_with_two() -> None:
    for words in (["--methods", "nop"], ["--shape", "huge"]):
        with pytest.raises(SystemExit) as ended:
            bench.main(words)
        assert ended.value.code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_bad_input(capsys) -> None:
    with pytest.raises(BadInput, match="no GPU"):
        bench.checked(bench.parser().parse_args(["--device", "cuda"]))
