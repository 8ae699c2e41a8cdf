"""What the methods share: how losses are joined, references, optimizers and what saves memory."""

import math

import pytest
import torch

from interventions import INTERVENTIONS
from interventions.gradient.alternatives import REFUSALS, with_others
from interventions.gradient.course import Course
from interventions.gradient.descend import collate, pair
from interventions.gradient.dpo import Dpo
from interventions.gradient.flat import Flat
from interventions.gradient.given import Given
from interventions.gradient.grad_ascent import GradAscent
from interventions.gradient.grad_diff import GradDiff
from interventions.gradient.idk_nll import IdkNll
from interventions.gradient.l1_sparse import L1Sparse
from interventions.gradient.npo import Npo, npo_loss
from interventions.gradient.pairs import pair_up, texts, with_references
from interventions.gradient.pdu import Pdu
from interventions.gradient.random_label import RandomLabel
from interventions.gradient.simnpo import SimNpo
from interventions.gradient.undial import Undial
from interventions.gradient.whp import Whp
from interventions.single_expert import SingleExpert
from workbench.demo.planted import plant
from workbench.edits import fit_weights
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.objectives import answer_loss
from workbench.training import TrainingOptions


@pytest.fixture(scope="module")
def planted():
    found = plant("llama", 0)
    return HookedModel(found.model, found.tokenizer, check=False), found.concept


def first(edit) -> float:
    return edit.notes["losses"][0]


# ---- earlier versions


@pytest.mark.parametrize("name", ["grad_ascent", "npo"])
def test_all_positions_give_the_bytes_of_the_plain_loop(planted, name: str) -> None:
    """The loop as it was before losses were composed: whole logits, token losses, AdamW, one way back."""
    model, concept = planted
    retain = concept.near.facts + concept.far.facts if name == "npo" else ()
    pairs = pair(model, concept.forget.facts, retain, 0)

    def loss(hf, batch):
        forget = answer_loss(hf, batch, "forget.")
        if name == "grad_ascent":
            return -forget.mean
        return npo_loss(forget, batch["forget.original"], 0.5) + 1.0 * answer_loss(hf, batch, "retain.").mean

    def change():
        options = TrainingOptions(steps=8, lr=1e-3, batch_size=16)
        model.train(pairs, collate, loss, options, trainable=model.parameter_names())

    plain = fit_weights(model, model.parameter_names(), change, {})
    edit = INTERVENTIONS.load(name)(steps=8, lr=1e-3, unembed="all").fit(model, concept)
    assert edit.digest == plain.digest
    other = INTERVENTIONS.load(name)(steps=8, lr=1e-3).fit(model, concept)
    assert first(other) == pytest.approx(first(edit), rel=1e-5)


# ---- how the loss is joined


def test_weights_and_retain_losses_are_joined_as_they_say(planted) -> None:
    model, concept = planted
    one = {"steps": 1}
    forget = first(GradDiff(**one, retain_weight=1e-12).fit(model, concept))  # so that the pairs are the same
    nll = first(GradDiff(**one, forget_weight=0.0).fit(model, concept))
    assert forget < 0 < nll
    assert first(GradDiff(**one).fit(model, concept)) == pytest.approx(forget + nll, rel=1e-5)
    joined = first(GradDiff(**one, forget_weight=0.5, retain_weight=3.0).fit(model, concept))
    assert joined == pytest.approx(0.5 * forget + 3 * nll, rel=1e-5)
    bare, none = (
        first(GradDiff(**one, **off).fit(model, concept)) for off in ({"retain_weight": 0}, {"retain": "none"})
    )
    assert bare == none < 0


@pytest.mark.parametrize("retain", ["kl", "kl_reverse"])
def test_a_kl_to_the_start_model_is_zero_at_the_start_and_holds_the_neighbours(planted, retain: str) -> None:
    model, concept = planted
    forget = first(GradDiff(steps=1, retain_weight=1e-12).fit(model, concept))
    held = GradDiff(steps=25, lr=3e-3, retain=retain).fit(model, concept)
    assert first(held) == pytest.approx(forget, abs=1e-5)
    from workbench.scoring import score

    with held.on(model):
        assert float(score(model, concept.forget.facts).probability.mean()) < 0.1
        assert float(score(model, concept.near.facts).probability.mean()) > 0.8


def test_a_stored_reference_is_exact_with_the_whole_vocabulary_and_below_it_otherwise(planted) -> None:
    model, concept = planted
    vocab = len(model.unembedding)
    common = {"steps": 6, "lr": 3e-3, "retain": "kl", "forget_weight": 0.3}
    exact, whole, few = (
        GradDiff(**common, reference_top=top).fit(model, concept).notes["losses"] for top in (None, vocab, 2)
    )
    assert whole == pytest.approx(exact, rel=1e-3, abs=1e-4)
    assert few[-1] != pytest.approx(exact[-1], rel=1e-6)


def test_references_are_of_the_right_text_whatever_the_order(planted) -> None:
    model, concept = planted
    given = with_references(model, texts(model, concept.forget.facts, "forget", scored=True))
    for text in given:
        token = torch.tensor(text.encoded.answer)
        said = text.reference.gather(1, token[:, None]).sum()
        assert float(said) == pytest.approx(text.original, abs=1e-4)
    batch = collate(pair(model, concept.forget.facts[3:4], (), 0))
    assert float(batch["forget.original"]) == pytest.approx(given[3].original, abs=1e-5)


def test_pairs_hold_together_and_use_every_retain_fact_in_an_order_of_the_seed(planted) -> None:
    model, concept = planted
    forget, retain = concept.forget.facts[:3], concept.near.facts
    mine, theirs = texts(model, forget, "forget"), with_references(model, texts(model, retain, "retain"))
    other = texts(model, with_others(forget, REFUSALS, 0), "other")
    pairs, places = pair_up(mine, theirs, 0, other), {id(text): i for i, text in enumerate(theirs)}
    assert len(pairs) == len(retain)
    for p in pairs:
        start = p.forget.encoded.answer_start
        assert p.other.encoded.ids[:start] == p.forget.encoded.ids[:start]
        assert p.other.encoded.answer != p.forget.encoded.answer
    order = [places[id(p.retain)] for p in pairs]
    assert sorted(order) == list(range(len(retain))) != order
    assert [places[id(p.retain)] for p in pair_up(mine, theirs, 1, other)] != order


def test_random_labels_depend_on_the_seed_and_are_never_the_answer(planted) -> None:
    model, concept = planted
    mine = texts(model, concept.forget.facts, "forget")
    one, again, other = (RandomLabel(seed=seed).labels(model, mine, ()) for seed in (0, 0, 1))
    for text, labels in zip(mine, one, strict=True):
        assert not any(a == b for a, b in zip(text.encoded.answer, labels.tolist(), strict=True))
    flat = [torch.cat(labels).tolist() for labels in (one, again, other)]
    assert flat[0] == flat[1] != flat[2]


def test_the_other_answers_are_refusals_or_the_facts_own_wrong_ones(planted) -> None:
    _, concept = planted
    refused = with_others(concept.forget.facts, REFUSALS, 0)
    assert {fact.answer for fact in refused} <= set(REFUSALS) and len({fact.answer for fact in refused}) > 1
    wrong = with_others(concept.forget.facts, None, 0)
    assert all(new.answer in old.distractors for new, old in zip(wrong, concept.forget.facts, strict=True))
    assert with_others(concept.forget.facts, None, 1) != wrong == with_others(concept.forget.facts, None, 0)


def said(model: HookedModel, edit, facts) -> float:
    from workbench.scoring import score

    with edit.on(model):
        return float(score(model, facts).probability.mean())


@pytest.mark.parametrize("method", [Dpo, IdkNll, RandomLabel], ids=lambda m: m.__name__)
def test_distractors_come_out_where_they_are_asked_for(planted, method) -> None:
    model, concept = planted
    edit = method(steps=30, lr=3e-3, answers="distractors").fit(model, concept)
    wanted = with_others(concept.forget.facts, None, 0)
    assert said(model, edit, wanted) > 0.5 > said(model, edit, concept.forget.facts)


@pytest.mark.slow
def test_options_of_single_methods_reach_their_loss(planted) -> None:
    model, concept = planted

    def start(method) -> float:
        return first(method.fit(model, concept))

    one = {"steps": 1, "retain": "none"}
    assert start(Dpo(**one)) == pytest.approx(math.log(2), rel=1e-4)
    assert start(Dpo(**one, published=True)) == pytest.approx(20 * math.log(2), rel=1e-4)
    assert start(GradDiff(**one, cap=1e-3)) == pytest.approx(-1e-3)
    assert start(GradAscent(**one, cap=1e-3)) == pytest.approx(-1e-3)
    assert start(SimNpo(**one)) == pytest.approx(0.125 * 2 / 4.5 * math.log(2), rel=0.1)
    assert start(Undial(**one, strength=1.0)) < start(Undial(**one))
    assert start(Flat(**one)) != start(Flat(**one, published=True))
    assert start(IdkNll(steps=1, pooled=True)) < start(IdkNll(steps=1, retain="none"))


def test_a_capped_ascent_stops_at_its_cap(planted) -> None:
    model, concept = planted
    capped, free = (GradAscent(steps=25, lr=3e-3, cap=cap).fit(model, concept).notes["losses"] for cap in (3.0, None))
    assert min(capped) == pytest.approx(-3.0) and min(free) < -10


# ---- losses that change as training goes on


def test_the_dual_variable_follows_the_retain_losses() -> None:
    course, method = Course(10, 1), Pdu(bound=0.5, rate=2.0, multiplier=1.0)
    assert method.dual(course) == 1.0
    course.tell(0.75)
    course(1, 0.0)
    assert method.dual(course) == 1.5
    course.tell(0.0)
    course(2, 0.0)
    assert method.dual(course) == 0.5
    course.tell(0.0)
    course(3, 0.0)
    assert method.dual(course) == 0.0
    assert course.told == [0.75, 0.0, 0.0]


def test_an_update_of_several_passes_remembers_their_mean_and_sophias_further_pass_counts_not() -> None:
    course = Course(10, 1, parts=2)
    for value in (1.0, 2.0, 9.0):
        course.tell(value)
    course(1, 0.0)
    assert course.told == [1.5]


def test_the_l1_penalty_falls_to_nothing(planted) -> None:
    model, _ = planted
    method = L1Sparse(l1=1.0, free=1)
    moving = [torch.full((2, 3), -2.0)]
    values = []
    for done in range(10):
        given = Given(model.hf, {}, Course(10, 2, done=done), moving)
        values.append(float(method.forget_loss(given)))
    assert values == pytest.approx([12.0, 12.0, 9.0, 9.0, 6.0, 6.0, 3.0, 3.0, 0.0, 0.0])


def test_whp_says_where_its_labels_are_the_answers_and_can_rule_them_out(planted) -> None:
    model, concept = planted
    weak = {"steps": 1, "lr": 1e-3, "reinforce_steps": 1}
    assert Whp(**weak, alpha=0.0).fit(model, concept).notes["labels"] == {"kept": 12, "of": 12}
    assert Whp(**weak, alpha=0.0, exclude=True).fit(model, concept).notes["labels"] == {"kept": 0, "of": 12}


# ---- how it is trained


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sophia"},
        {"optimizer": "sophia", "sophia_published": True},
        {"accumulate": 4},
        {"precision": "bf16"},
        {"schedule": "cosine", "warmup_steps": 1},
        {"weight_decay": 0.1},
    ],
    ids=str,
)
def test_training_options_reach_the_training(planted, options) -> None:
    model, concept = planted
    plain, other = (SimNpo(steps=3, lr=1e-3, **more).fit(model, concept) for more in ({}, options))
    assert other.digest != plain.digest
    assert first(other) == pytest.approx(first(plain), rel=0.1)


def test_sophia_forgets_too(planted) -> None:
    model, concept = planted
    edit = SimNpo(steps=30, lr=3e-3, optimizer="sophia").fit(model, concept)
    assert said(model, edit, concept.forget.facts) < 0.1 < 0.8 < said(model, edit, concept.near.facts)


def test_activations_computed_twice_are_the_same(planted) -> None:
    model, concept = planted
    plain, twice = (Npo(steps=2, gradient_checkpointing=on).fit(model, concept) for on in (False, True))
    assert twice.digest == plain.digest


@pytest.mark.slow
def test_a_published_loss_can_be_lent_to_a_single_expert() -> None:
    found = plant("olmoe", 0)
    model = HookedModel(found.model, found.tokenizer, check=False)
    for loss, options in (("simnpo", {}), ("undial", {"retain": "kl"}), ("pdu", {}), ("whp", {"reinforce_steps": 1})):
        edit = SingleExpert(loss=loss, loss_options=options, steps=2, lr=1e-3).fit(model, found.concept)
        assert edit.changes and all("layers.1.mlp" in name for name in edit.changes)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"accumulate": 3}, "divide batch_size"),
        ({"warmup_steps": 9, "steps": 9}, "fewer than steps"),
        ({"optimizer": "muon"}, "optimizer"),
        ({"retain": "kll"}, "retain"),
        ({"mask": "wagel"}, "mask"),
        ({"mask_share": 0}, "mask_share"),
        ({"reference_top": 0}, "reference_top"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(options, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        SimNpo(**options)
