"""Probes of several kinds: each finds what was planted for it and not what was planted for another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from probes.linear_probes import LinearProbes
from probes.probe_kinds import KINDS, Bench, ProbeKinds
from probes.probe_mlp import fit_mlp
from probes.probe_rows import Rows, logits_of, right
from probes.probe_surface import SHARED, Surface, residualised, surface_of
from tests.probes.test_linear_probes import made_rows
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.trace import Trace

TRAIN, TESTED = 45, 15
"""Subjects of the made rows, in this order."""


def accuracy_of(rows: Rows, mlp: bool, shuffled: bool = False) -> list[float]:
    """Accuracy in each layer of the later subjects, by a reader trained on the earlier ones."""
    bench = Bench(rows, bare(rows), len(rows.label), ProbeKinds())
    generator = torch.Generator().manual_seed(3)
    train, test = rows.fact < TRAIN, (rows.fact >= TRAIN) & rows.main
    learn = rows.label[torch.randperm(len(rows.label), generator=generator)] if shuffled else rows.label
    how = bench._mlp(generator) if mlp else bench.linear
    return right(rows, test, logits_of(rows, train, test, learn, how), rows.label).nanmean(dim=1).tolist()


def bare(rows: Rows) -> Surface:
    """One wording, one length."""
    return Surface(torch.zeros(len(rows.fact), dtype=torch.long), torch.ones(len(rows.fact), 2))


def bent_rows(seed: int = 0) -> Rows:
    """The first layer tells the answer by whether two numbers have the same sign; the second tells nothing."""
    rows = made_rows(TRAIN + TESTED, 8, seed, answers=2)
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randint(2, rows.label.shape, generator=generator) for _ in range(2))
    states = 0.3 * torch.randn(2, len(rows.fact), 8, generator=generator)
    states[0, :, 0] += (2 * one - 1)[rows.fact]
    states[0, :, 1] += (2 * other - 1)[rows.fact]
    return replace(rows, states=states, label=(one == other).long())


def test_an_mlp_reads_what_bends_and_a_linear_probe_does_not():
    bent, straight = bent_rows(), made_rows(TRAIN + TESTED, 8)
    assert accuracy_of(bent, mlp=True)[0] > 0.9 and accuracy_of(bent, mlp=False)[0] < 0.75
    assert accuracy_of(straight, mlp=True)[0] > 0.9 and accuracy_of(straight, mlp=False)[0] > 0.9
    assert accuracy_of(bent, mlp=True)[1] < 0.75
    assert accuracy_of(bent, mlp=True, shuffled=True)[0] < 0.75


def test_an_mlp_can_memorise_where_subjects_are_shared():
    rows = made_rows(40, 20)
    control = torch.randint(3, (40,), generator=torch.Generator().manual_seed(1))
    how = Bench(rows, bare(rows), 40, ProbeKinds())._mlp(torch.Generator().manual_seed(0))
    said = logits_of(rows, ~rows.main, rows.main, control, how)
    assert right(rows, rows.main, said, control)[1].mean() > 0.9  # the layer that tells subjects, not answers


def test_an_mlp_keeps_to_the_choices_of_each_relation_and_to_its_seed():
    generator = torch.Generator().manual_seed(0)
    relation = torch.arange(60) % 2
    label = relation * 3 + torch.randint(3, (60,), generator=generator)
    choices = (torch.arange(7) // 3)[None] == relation[:, None]  # class 6 belongs to nobody
    states = torch.randn(2, 60, 5, generator=generator)

    def said(seed: int) -> torch.Tensor:
        return fit_mlp(states, label, choices, 0.1, 16, 80, torch.Generator().manual_seed(seed))(states)

    assert torch.equal(said(0), said(0)) and not torch.equal(said(0), said(1))
    logits = said(0)
    assert (logits.masked_fill(~choices, -torch.inf).argmax(-1) == label).float().mean() > 0.9
    assert (logits[..., 6] == 0).all()
    tight = fit_mlp(states, label, choices, 30.0, 16, 30, torch.Generator().manual_seed(0))(states)
    assert tight.abs().mean() < 0.3 * logits.abs().mean()


def worded_rows(answers_by_wording: bool) -> tuple[Rows, Surface]:
    """States that only tell which wording it is; in half of the worlds the wording tells the answer."""
    rows = made_rows(TRAIN + TESTED, 6, answers=2, wordings=1)
    generator = torch.Generator().manual_seed(2)
    wording = rows.label if answers_by_wording else torch.randint(2, rows.label.shape, generator=generator)
    states = 0.1 * torch.randn(2, len(rows.fact), 6, generator=generator)
    states[0, :, 0] += wording.float()
    states[1] = rows.states[0]  # here the answer itself
    return replace(rows, states=states), Surface(wording, torch.ones(len(rows.fact), 2))


def test_what_the_wording_explains_is_taken_out_and_nothing_else():
    rows, surface = worded_rows(answers_by_wording=True)
    train = rows.fact < TRAIN
    clean = residualised(rows, train, surface)
    assert accuracy_of(rows, mlp=False)[0] > 0.95 and accuracy_of(clean, mlp=False)[0] < 0.75
    rows, surface = worded_rows(answers_by_wording=False)
    clean = residualised(rows, train, surface)
    assert accuracy_of(clean, mlp=False)[1] > 0.9
    for group in (0, 1):  # means of the training rows of each wording are gone, those of test rows need not be
        own = train & (surface.wording == group)
        assert clean.states[:, own].mean(dim=1).abs().max() < 1e-4


def test_lengths_are_taken_out_too_and_test_rows_do_not_enter_the_regression():
    rows = made_rows(TRAIN + TESTED, 4)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 9, (len(rows.fact), 2), generator=generator).float()
    slope = torch.randn(2, 4, generator=generator)
    flat = replace(rows, states=(lengths @ slope).expand(2, -1, -1) + 1.0)
    surface = Surface(torch.zeros(len(rows.fact), dtype=torch.long), lengths)
    train = rows.fact < TRAIN
    assert residualised(flat, train, surface).states.abs().max() < 1e-4
    changed = flat.states.clone()
    changed[:, ~train] += 50.0
    again = residualised(replace(flat, states=changed), train, surface)
    assert again.states[:, train].abs().max() < 1e-4 and (again.states[:, ~train] - 50).abs().max() < 1e-3


def test_a_wording_of_few_subjects_is_not_taken_out_by_itself():
    rows, _ = worded_rows(answers_by_wording=True)
    own = Surface(torch.arange(len(rows.fact)), torch.ones(len(rows.fact), 2))  # every prompt its own wording
    train = rows.fact < TRAIN
    assert accuracy_of(residualised(rows, train, own), mlp=False)[0] > 0.95
    few = Surface((torch.arange(len(rows.fact)) < SHARED - 1).long(), own.lengths)
    means = residualised(rows, train, few).states[:, : SHARED - 1].mean(dim=1)
    assert means.abs().max() > 1e-3


def test_the_surface_is_the_prompt_without_its_subject(dense):
    facts = [fact for fact in dense.concept.near if fact.relation == dense.concept.near.facts[0].relation][:4]
    surface = surface_of(dense.model, facts)
    rows = sum(1 + len(fact.paraphrases) for fact in facts)
    assert len(surface.wording) == rows and surface.lengths.shape == (rows, 2)
    first = [fact.prompt.replace(fact.subject, "_") for fact in facts]
    at = [sum(1 + len(f.paraphrases) for f in facts[:i]) for i in range(4)]
    same = [[int(surface.wording[a]) == int(surface.wording[b]) for b in at] for a in at]
    assert same == [[a == b for b in first] for a in first]


@pytest.fixture(scope="module")
def told(dense) -> Trace:
    """The kinds as an audit reads them of the planted model."""
    return ProbeKinds(seeds=1, tolerance=1e-5).look(dense.model, dense.concept.forget, train=dense.concept.near)


def test_the_linear_kind_is_the_linear_probes(dense, told):
    linear = LinearProbes(seeds=1).look(dense.model, dense.concept.forget, train=dense.concept.near)
    there = [linear.labels["fact"].index(fact) for fact in told.labels["fact"]]
    np.testing.assert_array_equal(told.pick("reading", "linear").values, linear.values[..., there])
    lost = np.isfinite(linear.values).any(axis=(0, 1)).sum() - np.isfinite(linear.values[..., there]).any((0, 1)).sum()
    assert lost == 0  # facts left out could not be read
    assert told.notes["chance"] == pytest.approx(linear.notes["controls"]["chance"][0], abs=1e-6)


def test_every_kind_reads_what_was_planted_but_the_erased(told):
    last = {kind: np.nanmean(told.pick("reading", kind).values[-1]) for kind in KINDS}
    assert min(last["linear"], last["residualised"], last["mlp"]) > 0.9 and last["erased"] < 0.6
    for kind in ("linear", "residualised", "mlp"):
        assert np.nanmean(told.pick("reading", f"{kind} shuffled").values[-1]) < 0.6
    assert "erased shuffled" not in told.labels["reading"]


def test_a_choice_is_right_when_it_is_the_truth_and_sure_between_chance_and_one(told):
    truth = np.array(told.notes["truth"])
    for kind in KINDS:
        chosen, sure, hit = (told.pick("reading", kind + end).values for end in (" chosen", " sure", ""))
        known = np.isfinite(hit)
        np.testing.assert_array_equal((chosen == truth)[known], hit[known] == 1)
        assert (sure[known] > 0.05).all() and (sure[known] <= 1).all()
    answers = list(zip(told.notes["answer_relations"], told.notes["answers"], strict=True))
    assert len(set(answers)) == len(answers)


def test_answers_belong_to_the_facts(dense, told):
    by_label = dict(zip(dense.concept.forget.labels, dense.concept.forget, strict=True))
    for label, subject, answer in zip(told.labels["fact"], told.notes["subjects"], told.notes["truth"], strict=True):
        fact = by_label[label]
        assert (told.notes["answers"][answer], told.notes["answer_relations"][answer]) == (fact.answer, fact.relation)
        assert subject == fact.cluster


def test_weights_promote_the_answer_where_it_stands_and_not_before(dense, told):
    spelt, ranks = told.notes["vocabulary"], told.notes["own_rank"]
    assert ranks["L2"] and set(ranks["L2"].values()) == {1}
    assert ranks["embed"] == told.notes["promoted"]["embed"] == {}  # the last token is the same in all: no weights
    for answer, ids in told.notes["promoted"]["L2"].items():
        words = " " + told.notes["answers"][int(answer)]
        assert ids[0] == dense.model.tokenizer(words, add_special_tokens=False)["input_ids"][0]
        assert len(ids) == 10 and all(str(token) in spelt for token in ids)


def test_the_learning_curve_climbs_to_all_subjects():
    rows = made_rows(TRAIN + TESTED, 20, answers=6, wordings=2)
    order = torch.arange(TRAIN + TESTED).roll(TESTED)  # tested facts come first
    rows = replace(rows, label=rows.label[order], states=rows.states.reshape(2, -1, 2, 20)[:, order].flatten(1, 2))
    found = Bench(rows, bare(rows), TESTED, ProbeKinds(curve=(2, 12, 999))).round(0)
    few, more, all_of_them = (found[name][0] for name in ("2 subjects", "12 subjects", "linear"))
    assert few.nanmean() < 0.5 < more.nanmean() <= all_of_them.nanmean() == 1
    assert (few.isnan() == all_of_them.isnan()).all()  # an answer that too few show is a miss
    assert found["999 subjects"].isnan().all()


def test_the_curve_begins_at_five_and_ends_at_half():
    rows = made_rows(90, 2)
    train = rows.fact < 72
    assert Bench(rows, bare(rows), 18, ProbeKinds()).curve([(train, ~train)]) == (5, 10, 20)
    few = rows.fact < 8
    assert Bench(rows, bare(rows), 18, ProbeKinds()).curve([(few, ~few)]) == ()
    assert Bench(rows, bare(rows), 18, ProbeKinds(curve=(3,))).curve([(train, ~train)]) == (3,)


def test_what_cannot_be_read_is_refused(dense):
    with pytest.raises(BadInput, match="curve"):
        ProbeKinds(curve=(0,)).look(dense.model, dense.concept.forget)
    with pytest.raises(BadInput, match="empty"):
        ProbeKinds().look(dense.model, FactSet(name="none", facts=()))
