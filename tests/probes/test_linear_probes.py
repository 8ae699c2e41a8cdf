from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probes.linear_probes import LinearProbes, Rows, accuracy
from probes.probe_controls import Round, control_labels, interval, learning_curve
from probes.probe_rows import erased
from probes.probe_training import fit
from workbench.concepts import Concept, FactSet
from workbench.errors import BadInput


def people_of(concept: Concept) -> FactSet:
    """Everyone whose colours and fruits were planted: the more subjects, the more answers are seen in training."""
    return FactSet(name="people", facts=tuple(f for f in (*concept.forget, *concept.near) if f.relation != "friend"))


@pytest.fixture(scope="module")
def people(known) -> FactSet:
    return people_of(known.concept)


def made_rows(subjects: int, width: int, seed: int = 0, answers: int = 3, wordings: int = 4) -> Rows:
    """Two layers: in the first the state is the answer (and noise), in the second it only tells the subject."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(answers, (subjects,), generator=generator)
    fact = torch.arange(subjects).repeat_interleave(wordings)
    about = 5 * torch.randn(subjects, width, generator=generator)
    means = 3 * torch.randn(answers, width, generator=generator)
    noise = torch.randn(2, len(fact), width, generator=generator)
    states = torch.stack([means[label[fact]], about[fact]]) + noise
    return Rows(
        states,
        fact,
        torch.arange(len(fact)) % wordings == 0,
        torch.arange(subjects),
        torch.zeros(subjects, dtype=torch.long),
        label,
        torch.zeros(answers, dtype=torch.long),
    )


def test_probes_are_logistic_regressions_one_a_relation():
    generator = torch.Generator().manual_seed(0)
    relation = torch.arange(120) % 2
    label = relation * 4 + torch.randint(4, (120,), generator=generator)
    states = torch.randn(2, 120, 20, generator=generator)
    choices = (torch.arange(8) // 4)[None] == relation[:, None]
    weight, bias, _ = fit(states, label, choices, l2=0.5)
    for layer in range(2):
        for which in range(2):
            of, classes = relation == which, slice(4 * which, 4 * which + 4)
            x, y = states[layer, of], label[of]
            oracle = LogisticRegression(C=2.0, tol=1e-8, max_iter=2000).fit(x.numpy(), y.numpy())
            ours = torch.softmax((x @ weight[layer] + bias[layer])[:, classes], -1)
            assert np.abs(ours.numpy() - oracle.predict_proba(x.numpy())).max() < 1e-2
    looser, _, _ = fit(states, label, choices, l2=0.05)
    assert looser.norm() > 1.2 * weight.norm()


def test_reads_what_generalises_and_not_what_is_memorised():
    rows = made_rows(subjects=60, width=40)
    train, test = rows.fact < 45, (rows.fact >= 45) & rows.main
    disjoint = accuracy(rows, train, test, rows.label, rows.label, l2=1.0)
    assert disjoint[:, :45].isnan().all() and not disjoint[:, 45:].isnan().any()
    assert disjoint[0].nanmean() > 0.95 and disjoint[1].nanmean() < 0.65
    shared = accuracy(rows, ~rows.main, rows.main, rows.label, rows.label, l2=1.0)
    assert shared[1].mean() > 0.9  # who it is about tells the answer, once the subject was trained on


def test_a_control_task_can_be_memorised_only_where_subjects_are_shared():
    rows = made_rows(subjects=60, width=80)
    control = torch.randint(3, (60,), generator=torch.Generator().manual_seed(1))
    shared = accuracy(rows, ~rows.main, rows.main, control, control, l2=1.0)
    disjoint = accuracy(rows, rows.fact < 45, (rows.fact >= 45) & rows.main, control, control, l2=1.0)
    assert shared[1].mean() > 0.9 and shared[0].mean() < 0.75
    assert disjoint.nanmean() < 0.6


def test_answers_unseen_in_training_are_not_read():
    rows = made_rows(subjects=30, width=20)
    rare = rows.label == 2
    train, test = ~rare[rows.fact] & (rows.fact < 20), rows.main
    found = accuracy(rows, train, test, rows.label, rows.label, l2=1.0)
    assert found[:, rare].isnan().all() and not found[:, ~rare].isnan().any()
    one_answer = (rows.label == 0)[rows.fact]
    assert accuracy(rows, one_answer, test, rows.label, rows.label, l2=1.0).isnan().all()  # no choice is no reading


def test_other_tested_rows_do_not_enter():
    rows = made_rows(subjects=30, width=20)
    train, test = rows.fact < 20, (rows.fact >= 20) & rows.main
    states = rows.states.clone()
    states[:, rows.fact == 29] += 1e4
    changed = replace(rows, states=states)
    before, after = (accuracy(of, train, test, rows.label, rows.label, l2=1.0) for of in (rows, changed))
    assert torch.equal(before[:, 20:29], after[:, 20:29])


def test_scale_of_a_state_does_not_matter():
    rows = made_rows(subjects=30, width=20)
    train, test = rows.fact < 20, (rows.fact >= 20) & rows.main
    large = replace(rows, states=rows.states * 100 + 7)
    before, after = (accuracy(of, train, test, rows.label, rows.label, l2=1.0) for of in (rows, large))
    assert torch.equal(before[:, 20:], after[:, 20:])


def test_finds_the_answer_in_the_last_layer(known, people):
    trace = LinearProbes().look(known.model, people)
    by_layer = np.nanmean(trace.values, axis=(1, 2))
    assert trace.values.shape == (4, 3, len(people)) and by_layer[-1] == 1.0
    assert by_layer[:-1].max() < 0.6
    controls = trace.notes["controls"]
    assert controls["shuffled"][-1] < 0.6 and controls["majority"][0] < 0.3
    assert controls["selectivity"][-1] == pytest.approx(controls["shared_task"][-1] - controls["shared_control"][-1])


def test_reads_the_subject_only_where_the_answer_was_written(dense, people):
    trace = LinearProbes(role="last_subject", seeds=1).look(dense.model, people)
    by_layer = dict(zip(trace.labels["layer"], np.nanmean(trace.values, axis=(1, 2)), strict=True))
    assert by_layer["L1"] == 1.0 and by_layer["embed"] < 0.5


def test_trains_on_others_to_test_on_these(known):
    trace = LinearProbes().look(known.model, known.concept.forget, train=known.concept.near)
    readable = ~np.isnan(trace.values[0, 0])
    assert np.nanmean(trace.values[-1]) == 1.0
    assert trace.notes["n_test"] == readable.sum() and trace.notes["not_seen_in_training"] == (~readable).sum()
    assert trace.notes["n_train"] == 3 * len(known.concept.near) and trace.notes["train"] == known.concept.near.name
    seen = {(fact.relation, fact.answer) for fact in known.concept.near}
    assert [(fact.relation, fact.answer) in seen for fact in known.concept.forget] == readable.tolist()


def test_finds_nothing_that_was_never_taught(plant_and_open):
    never, taught = [], []
    for seed in range(4):  # of one model, too few answers are seen in training to tell chance from finding
        model, _, concept = plant_and_open("llama", seed)
        never.append(LinearProbes(seeds=1).look(model, concept.never_taught, train=people_of(concept)).values[-1, 0])
        taught.append(LinearProbes(seeds=1).look(model, concept.forget, train=concept.near).values[-1, 0])
    never, taught = np.concatenate(never), np.concatenate(taught)
    assert (~np.isnan(never)).sum() >= 20 and np.nanmean(never) < 0.4
    assert np.nanmean(taught) > 0.9


def test_without_paraphrases_the_shared_controls_are_missing_and_not_zero(dense, people):
    bare = FactSet(name="bare", facts=tuple(f.model_copy(update={"paraphrases": ()}) for f in people))
    controls = LinearProbes(seeds=1).look(dense.model, bare).notes["controls"]
    assert set(controls["shared_control"]) == {None} and set(controls["selectivity"]) == {None}
    assert None not in controls["shuffled"]


def test_seeds_fix_the_draws(dense, people):
    one, same = (LinearProbes(seeds=2).look(dense.model, people) for _ in range(2))
    assert np.array_equal(one.values, same.values, equal_nan=True) and one.notes == same.notes


def test_refuses_to_train_on_the_tested_subjects(dense):
    forget = dense.concept.forget
    with pytest.raises(BadInput, match="no other subject"):
        LinearProbes().look(dense.model, forget, train=forget)
    with pytest.raises(BadInput, match="one subject only"):
        LinearProbes().look(dense.model, forget.take([0, 1], "Vora"))
    with pytest.raises(BadInput, match="no other subject"):
        LinearProbes().look(dense.model, forget, train=dense.concept.far)
    with pytest.raises(BadInput, match="seeds"):
        LinearProbes(seeds=0)


def with_direction(rows: Rows, layer: int, size: float, seed: int = 0) -> Rows:
    """Noise in every layer, and in one of them the answer along directions of its own."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(4, *rows.states.shape[1:], generator=generator)
    states[layer] += size * torch.randn(3, states.shape[-1], generator=generator)[rows.label[rows.fact]]
    return replace(rows, states=states)


def split(rows: Rows, subjects: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(rows.fact < subjects, (rows.fact >= subjects) & rows.main)]


def round_of(rows: Rows, **changes) -> Round:
    generator = torch.Generator().manual_seed(0)
    one = Round(rows, len(rows.label), split(rows, 2 * len(rows.label) // 3), generator, 1.0, "multinomial", [])
    return replace(one, **changes)


def test_a_planted_direction_is_found_in_its_layer_only():
    rows = with_direction(made_rows(subjects=90, width=30), layer=2, size=2.0)
    for reader in ("multinomial", "binary"):
        right = round_of(rows, reader=reader).readings(erase=False, curve=())["task"].nanmean(dim=1)
        assert right[2] > 0.95 and right[[0, 1, 3]].max() < 0.6


def test_permuted_answers_and_erased_states_fall_to_the_floor():
    rows = with_direction(made_rows(subjects=90, width=30), layer=2, size=2.0)
    rows = replace(rows, label=torch.where(torch.arange(90) % 5 == 0, 2, rows.label))  # one answer is the commonest
    rows = with_direction(rows, layer=2, size=2.0)
    found = round_of(rows).readings(erase=True, curve=())
    assert found["task"][2].nanmean() > 0.95 and found["shuffled"][2].nanmean() < 0.6
    assert torch.equal(found["erased"].isnan(), found["task"].isnan())
    for layer in range(4):
        assert torch.equal(found["erased"][layer].nan_to_num(-1), found["majority"][0].nan_to_num(-1))


def test_erasing_spares_what_is_no_answer():
    rows = with_direction(made_rows(subjects=60, width=20), layer=1, size=2.0)
    other = torch.arange(60) % 2  # another label, told by the last dimension alone
    rows.states[..., -1] = 5.0 * other[rows.fact]
    gone = erased(rows, rows.fact < 60, rows.label)
    alike = replace(rows, label=other, class_relation=torch.zeros(2, dtype=torch.long))
    for of in (rows.states, gone.states):
        right = accuracy(replace(alike, states=of), rows.fact < 40, (rows.fact >= 40) & rows.main, other, other, 1.0)
        assert right[1].nanmean() > 0.95


def test_more_subjects_teach_more_and_too_many_are_missing():
    rows = with_direction(made_rows(subjects=90, width=30), layer=2, size=0.5)
    found = round_of(rows).readings(erase=False, curve=(6, 60, 61))
    few, all_of_them = found["6 subjects"][2].nanmean(), found["60 subjects"][2].nanmean()
    assert few < all_of_them == found["task"][2].nanmean()
    curve = learning_curve({name: values[:, None] for name, values in found.items()}, (6, 60, 61))
    assert curve["accuracy"][2] == [None] * 4 and curve["facts_read"] == [30, 30, 0]


def test_control_answers_occur_as_often_as_the_answers():
    rows = made_rows(subjects=600, width=2, wordings=1)
    rows = replace(rows, label=(torch.arange(600) % 10 == 0).long())
    rows = replace(rows, subject=torch.arange(600) // 2)
    control = control_labels(rows, torch.Generator().manual_seed(0))
    assert 0.05 < control.float().mean() < 0.16 and torch.equal(control[::2], control[1::2])
    assert (control != rows.label).any()


def test_interval_resamples_subjects():
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2, (1, 3, 40)).astype(float)
    apart, together = (
        interval(values, names) for names in ([str(i) for i in range(40)], [str(i // 10) for i in range(40)])
    )
    mean = values.mean()
    assert apart["mean"][0] == pytest.approx(mean) and apart["low"][0] < mean < apart["high"][0]
    assert apart["over_seeds"][0] == pytest.approx(values.mean(axis=-1).std(ddof=1))
    assert together["low"] != apart["low"]
    values[..., 20:] = np.nan
    assert interval(values, ["a"] * 40)["low"] == [None]  # one subject says nothing of others
    assert interval(values * np.nan, ["a"] * 40)["mean"] == [None]


def test_both_tokens_in_one_reading_are_the_two_readings(dense, people):
    both = LinearProbes(role="both", seeds=1).look(dense.model, people)
    assert both.axes == ("role", "layer", "seed", "fact")
    for role in ("last", "last_subject"):
        alone = LinearProbes(role=role, seeds=1).look(dense.model, people)
        assert np.array_equal(both.pick("role", role).values, alone.values, equal_nan=True)
    assert len(both.notes["controls"]["shuffled"]) == 8


def test_options_add_readings_and_change_none(dense, people):
    usual = LinearProbes(seeds=1).look(dense.model, people)
    rich = LinearProbes(seeds=1, erase=True, curve=(3,), keep="all").look(dense.model, people)
    assert np.array_equal(rich.pick("reading", "task").values, usual.values, equal_nan=True)
    controls = rich.notes["controls"]
    assert {name: controls[name] for name in usual.notes["controls"]} == usual.notes["controls"]
    assert controls["erased"][-1] <= 0.5 < np.nanmean(usual.values[-1]) and "erased" not in usual.notes["controls"]
    assert rich.notes["learning_curve"]["subjects"] == [3] and "3 subjects" in rich.labels["reading"]
    ends = usual.notes["intervals"]["task"]
    assert ends["mean"] == pytest.approx(np.nanmean(usual.values, axis=(1, 2)).tolist())
    assert usual.notes["trainings_not_at_rest"] == 0 == usual.notes["wordings_without_subject"]


def test_wordings_that_do_not_name_the_subject_are_counted(dense, people):
    nameless = tuple(f.model_copy(update={"paraphrases": (*f.paraphrases, "The colour is")}) for f in people)
    trace = LinearProbes(seeds=1).look(dense.model, FactSet(name="nameless", facts=nameless))
    assert trace.notes["wordings_without_subject"] == len(people)


def test_refuses_a_curve_of_nobody(dense, people):
    with pytest.raises(BadInput, match="curve"):
        LinearProbes(curve=(0,)).look(dense.model, people)
