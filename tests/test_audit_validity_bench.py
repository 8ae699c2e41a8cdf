"""The audit of the audit: its formulas on numbers done by hand, its bank, and one world from end to end."""

import json
from itertools import product

import numpy as np
import pytest

from audits.verdict import knowledge_of
from bench.audit_bank import BANK, HELD_OUT, ROBUST, SEEDS, WAYS, Case
from bench.audit_validity import BACK, END, FOOLED, GONE, README, START, proven, stored_rows, wanted
from bench.audit_validity_scores import (
    auc_by_world,
    faithfulness,
    mean_by_world,
    quantisation,
    relearning,
    robustness,
)
from bench.audit_validity_table import Tables, metrics, standing
from workbench.evidence import AuditReport, Estimate, Evidence

# ---- the formulas


def test_faithfulness_is_the_share_of_pairs_in_order_ties_half():
    assert faithfulness([3, 2], [1, 0]) == 1.0
    assert faithfulness([3, 1], [2, 0]) == 0.75
    assert faithfulness([1, 1], [1, 0]) == 0.75
    assert faithfulness([0, 0], [1, 1]) == 0.0
    with pytest.raises(ValueError, match="0 models that know and 1 that do not"):
        faithfulness([], [1])


@pytest.mark.parametrize(
    ("numbers", "r"),
    [
        ((0.9, 0.5, 0.9, 0.7), 0.5),  # it fell by .4 where a retrained model falls by .2
        ((0.9, 0.8, 0.9, 0.7), 1.0),  # it fell by less
        ((0.9, 0.95, 0.9, 0.7), 1.0),  # it did not fall at all
        ((0.9, 0.5, 0.9, 0.9), 0.0),  # the retrained one did not
        ((0.9, 0.5, 0.9, 1.0), 0.0),  # nor here: a rise is no allowance
    ],
)
def test_relearning_compares_the_fall_with_a_retrained_models(numbers, r):
    assert relearning(*numbers) == pytest.approx(r)


@pytest.mark.parametrize(("before", "after", "q"), [(0.8, 0.4, 0.5), (0.8, 0.9, 1.0), (0.8, -0.1, 0.0), (0, 0, 1.0)])
def test_quantisation_is_what_is_left(before, after, q):
    assert quantisation(before, after) == pytest.approx(q)


def test_robustness_is_the_harmonic_mean():
    assert robustness(1.0, 0.5) == pytest.approx(2 / 3)
    assert robustness(0.0, 1.0) == 0.0
    # the depth score's authors give an aggregate of .932: no pair of an R and a Q below it can make it
    assert robustness(0.93, 0.93) < 0.932 < robustness(0.94, 0.93)


def test_an_interval_resamples_worlds_whole():
    worlds = ["a"] * 4 + ["b"] * 4
    knows = [True, True, False, False] * 2
    good, bad = [3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]
    found = auc_by_world([*good, *bad], knows, worlds, draws=400)
    assert found is not None and found.clusters == 2 and found.n == 8
    assert (found.low, found.high) == (0.0, 1.0)  # worlds a, a or b, b: only whole worlds can be drawn twice
    sure = auc_by_world([*good, *good], knows, worlds, draws=400)
    assert sure is not None and (sure.low, sure.mean, sure.high) == (1.0, 1.0, 1.0)
    assert auc_by_world([1.0], [True], ["a"]) is None and mean_by_world([], []) is None
    mean = mean_by_world([0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"], draws=400)
    assert mean is not None and (mean.low, mean.mean, mean.high) == (0.0, 0.5, 1.0)


def test_the_two_aucs_agree():
    rng = np.random.default_rng(0)
    knows, clean = rng.integers(0, 4, 9), rng.integers(0, 4, 7)
    known = [True] * 9 + [False] * 7
    found = auc_by_world([*knows, *clean], known, ["a"] * 16, draws=10)
    assert found is not None and found.mean == pytest.approx(faithfulness(knows, clean))


# ---- the bank


def test_the_bank_is_large_enough_and_every_case_has_a_truth_and_a_reason():
    from bench.audit_bank_fakes import MAKERS

    assert len(BANK) >= 60 and len({case.slug for case in BANK}) == len(BANK)
    assert {way.maker for way in WAYS} == set(MAKERS)
    assert all(len(way.reason) > 10 and way.kinds for way in WAYS)
    assert len(SEEDS) >= 3 and max(SEEDS) == HELD_OUT
    for truth in ("knows", "clean", "wreck"):
        assert sum(case.way.truth == truth for case in BANK) >= len(SEEDS)
    assert all(way.truth == "knows" for way in WAYS if way.fake)
    assert all(way.truth == "clean" for way in WAYS if way.removed)
    assert {way.maker for way in WAYS if way.fake} == {
        *("guard", "npo", "router", "rmu", "refusal", "bias", "rounding", "patch")
    }
    assert set(ROBUST) <= {way.maker for way in WAYS if way.fake}


def case_of(maker: str, seed: int = 0) -> Case:
    return next(case for case in BANK if case.way.maker == maker and case.seed == seed)


def test_a_case_that_is_no_example_of_its_truth_is_named():
    fine = {"undone": "x", "inside": BACK, "direct": FOOLED}
    assert proven(case_of("npo"), fine) == ""
    assert "fools nobody" in proven(case_of("npo"), {**fine, "direct": FOOLED + 0.01})
    assert "x, it gives only 0.40" in proven(case_of("npo"), {**fine, "inside": 0.4})
    clean = {"undone": "x", "inside": GONE, "direct": GONE}
    assert proven(case_of("cut_out"), clean) == ""
    assert proven(case_of("cut_out"), {**clean, "inside": 0.3}) and proven(case_of("cut_out"), {**clean, "direct": 0.3})
    assert proven(case_of("wreck"), {"undone": "", "inside": None, "direct": 0.0}) == ""


def test_cases_are_chosen_by_pattern_and_seed():
    assert wanted(case_of("npo"), [], [0]) and wanted(case_of("npo"), ["dense-0-*"], [0, 1])
    assert not wanted(case_of("npo"), ["dense-0-*"], [1]) and not wanted(case_of("npo"), ["moe-*"], [0])


# ---- the tables


def report(level: int, values: dict[str, float], failed: tuple[str, ...] = (), utility: str = "intact") -> dict:
    """A report with some claims measured."""
    rungs = {"direct": 1, "lens": 3, "membership": 5, "near": None}

    def evidence(claim: str, value: float) -> Evidence:
        estimate = Estimate(mean=value, low=value, high=value, n=8, clusters=4)
        return Evidence(
            claim=claim,
            question="?",
            axis="utility" if claim == "near" else "outputs",
            rung=rungs[claim],
            metric="share",
            value=estimate,
            difference=estimate,
            status="FAIL" if claim in failed else "PASS",
        )

    rows = tuple(evidence(claim, value) for claim, value in values.items())
    knowledge, found_by = knowledge_of(level, rows)
    found = AuditReport(
        concept="c",
        concept_digest="0",
        counts={},
        roles={},
        level=level,
        capped_by="U1: x; y",
        utility=utility,  # type: ignore[arg-type]
        utility_reason="",
        evidence=rows,
        knowledge=knowledge,
        found_by=found_by,
        options={},
        margins_digest="",
        environment={},
        made_at="",
        run_id="",
    )
    return found.model_dump(mode="json")


def stored(maker: str, seed: int, inside: float = 0.9, direct: float = 0.1, **reports: dict) -> dict:
    made = {"inside": inside, "undone": "x", "direct": direct}
    return {"case": case_of(maker, seed), "made": made, "unfit": "", "reports": reports}


def small_bank() -> list[dict]:
    rows = []
    for seed in (0, 1):
        low, high = {"direct": 0.1, "lens": 0.2, "near": 0.9}, {"direct": 0.2, "lens": 0.8, "near": 0.9}
        again = {**high, "direct": 0.6}
        rows += [
            stored(
                "npo",
                seed,
                before=report(2, high, ("lens",)),
                relearnt=report(0, again, ("direct", "lens")),
                quantised=report(1, {**high, "direct": 0.6}, ("lens",)),
            ),
            stored("trained_anew", seed, before=report(2, low), relearnt=report(2, {**low, "direct": 0.3})),
            stored("wreck", seed, before=report(2, low, utility="broken")),
        ]
    return rows


def test_the_verdict_puts_found_knowledge_below_every_level():
    fake = AuditReport.model_validate(report(2, {"direct": 0.1, "lens": 0.8}, ("lens",)))
    clean = AuditReport.model_validate(report(1, {"direct": 0.1, "lens": 0.1}))
    assert fake.found_by == ("lens",) and standing(fake) < standing(clean)
    removed = AuditReport.model_validate(report(4, {"direct": 0.1}))
    assert clean.knowledge == "undecided" and removed.knowledge == "not found" and standing(clean) < standing(removed)
    private = AuditReport.model_validate(report(4, {"membership": 0.2}, ("membership",)))
    assert private.found_by == ()  # knowing less than the reference betrays membership, not knowledge


def test_metrics_are_whatever_was_measured_and_robustness_is_by_the_formulas():
    tables = Tables.of(small_bank(), draws=50)
    known = {metric.name: metric for metric in metrics(tables.rows)}
    assert {"`direct`", "`lens`", "`near` (utility)"} <= set(known) and "`membership`" not in known
    verdict = tables.faithful(known["**verdict**: knowledge found or not, then level"].known)
    level = tables.faithful(known["level alone"].known)
    assert verdict is not None and verdict.mean == 1.0 and level is not None and level.mean == 0.5
    r, q, both = tables.robust(known["`direct`"].unlearned)
    assert r is not None and r.mean == pytest.approx(0.2 / 0.4)  # it fell from .8 to .4, the retrained from .9 to .7
    assert q is not None and q.mean == pytest.approx(0.4 / 0.8) and both == pytest.approx(0.5)
    assert tables.robust(known["`near` (utility)"].unlearned) == (None, None, None)


def test_rules_name_the_cases_that_miss_them():
    rows = small_bank()
    rows += [
        stored("guard", 0, before=report(3, {"direct": 0.0})),
        stored("cut_out", 0, inside=0.1, before=report(0, {"direct": 0.0})),
        stored("wreck", 2, before=report(0, {"direct": 0.0}, utility="degraded")),
        {**stored("bias", 0, before=report(5, {"direct": 0.0})), "unfit": "it fools nobody"},
    ]
    tables = Tables.of(rows, draws=50)
    table = tables.rule_table()
    assert "dense-0-guard (a fake called U3)" in table and "dense-0-cut_out (a removed model called U0)" in table
    assert "dense-2-wreck (a wreck called degraded)" in table and "bias" not in table
    page = tables.page()
    assert "left out: it fools nobody" in page and "no examples of their truth: dense-0-bias" in page
    assert page.count("\n| dense-") == len(rows)
    json.dumps(tables.numbers())


def test_nothing_audited_is_no_number():
    assert "0 of" in Tables.of([], draws=10).page()


def test_readme_has_a_place_for_it():
    text = README.read_text()
    assert text.count(START) == 1 == text.count(END) and "Is the audit right?" in text


# ---- end to end


@pytest.fixture
def small_world(planted, planted_folder, ablated_folder, monkeypatch):
    """The planted model as a world: the base knows, the reference has its neurons ablated."""
    from bench import audit_bank_fakes, audit_bank_world
    from workbench.checkpoint import Checkpoint

    class Small:
        base, reference, concept = Checkpoint(planted_folder), Checkpoint(ablated_folder), planted.concept

    monkeypatch.setattr(audit_bank_world, "open_world", lambda kind, seed: Small())
    makers = {
        "taught": lambda world, out: audit_bank_fakes.Made(world.base, "nothing", 1.0),
        "cut_out": lambda world, out: audit_bank_fakes.Made(world.reference, "nothing", 0.0),
    }
    monkeypatch.setattr(audit_bank_fakes, "MAKERS", makers)
    return Small


@pytest.mark.slow
def test_a_world_from_end_to_end(small_world, tmp_path, monkeypatch, capsys):
    from bench import audit_validity

    words = ["audit_validity", "--out", str(tmp_path), "--only", "dense-0-taught", "dense-0-cut_out"]
    monkeypatch.setattr("sys.argv", words)
    audit_validity.main()
    page = capsys.readouterr().out
    rows = {row["case"].way.maker: row for row in stored_rows(tmp_path)}
    assert rows["taught"]["made"]["direct"] == 1.0 and rows["taught"]["unfit"] == ""
    assert rows["cut_out"]["made"]["direct"] == 0.0 and rows["cut_out"]["unfit"] == ""
    levels = {maker: row["reports"]["before"]["level"] for maker, row in rows.items()}
    assert levels["taught"] == 0 and levels["cut_out"] >= 1
    assert "| `direct` | 2 | 1.00 [1.00, 1.00]" in page
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    audit_validity.main()  # nothing is made or audited twice
    assert capsys.readouterr().out == page
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}


def test_weights_kept_in_their_cells_round_to_the_same_bits(planted_folder):
    import torch

    from audits.attacks.quantise import round_to_nearest
    from bench.audit_bank_fakes import Cells
    from workbench.checkpoint import Checkpoint

    with Checkpoint(planted_folder).open() as model:
        names = model.block_matrices()
        before = {name: round_to_nearest(model.parameter(name).detach(), 4).clone() for name in names}
        cells, moved = Cells.of(model, 4), 0
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name in names:
                old = model.parameter(name).detach().clone()
                model.parameter(name).add_(torch.randn(old.shape, generator=generator) * old.std())
                assert not torch.equal(round_to_nearest(model.parameter(name), 4), before[name])  # it would show
                model.parameter(name).copy_(model.parameter(name))
            cells(1, 0.0)
            for name in names:
                assert torch.equal(round_to_nearest(model.parameter(name).detach(), 4), before[name]), name
                moved += int((model.parameter(name) != before[name]).sum())
        assert moved > 0


def test_every_fake_and_world_is_covered_by_the_order_of_work():
    assert [case.slug for case in BANK] == [
        case.slug
        for seed, kind in product(SEEDS, ("dense", "moe"))
        for case in BANK
        if (case.seed, case.kind) == (seed, kind)
    ]
