"""Judging on hand-made traces: no model, no torch, known truth."""

from dataclasses import replace

import numpy as np
import pytest

from audits.claims import CLAIMS, Claim
from audits.items import depth_kept, floor_items, restored_where_base_does, top_experts_kept
from audits.judge import Judge, JudgeOptions
from audits.verdict import contradictions, ladder, utility_of
from workbench.evidence import Estimate, Evidence
from workbench.trace import Trace

N, QUICK = 40, JudgeOptions(draws=500)
SUBJECTS = [f"s{i // 5}" for i in range(N)]
EXTRA = {"claim": "extra", "question": "?", "axis": "outputs", "rung": 1, "metric": "share"}
BY_ID = {claim.id: claim for claim in CLAIMS}


def facts(values, name: str = "accuracy", subjects=SUBJECTS) -> Trace:
    values = np.broadcast_to(np.asarray(values, float), (len(subjects),)).copy()
    return Trace(
        name,
        values,
        ("fact",),
        "share",
        {"fact": tuple(f"{i}" for i in range(len(subjects)))},
        {"subjects": list(subjects)},
    )


def layers(*means: float, subjects=SUBJECTS) -> Trace:
    values = np.repeat(np.array(means, float)[:, None], len(subjects), axis=1)
    return Trace(
        "logit_lens",
        values,
        ("layer", "fact"),
        "share",
        {"layer": tuple(f"L{i}" for i in range(len(means))), "fact": tuple(map(str, range(len(subjects))))},
        {"subjects": list(subjects)},
    )


def judged(
    claim: str, after: Trace, base: Trace, reference: Trace | None = None, floor: Trace | None = None
) -> Evidence:
    reading = BY_ID[claim].reading
    floor_key = f"{reading.partition('.')[0]}.never_taught"
    extra = {} if floor is None else {floor_key: floor}
    roles = [{reading: trace, **extra} if trace is not None else None for trace in (after, base, reference)]
    return Judge(*roles, QUICK).one(BY_ID[claim])


def test_the_interval_holds_the_mean_and_the_reference_is_compared_fact_by_fact() -> None:
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 0.9, N)
    e = judged("direct", facts(noise + 0.02), facts(1.0), facts(noise))
    assert e.difference.mean == pytest.approx(0.02)
    assert e.difference.high - e.difference.low < 0.01  # unpaired it would be about .2
    assert e.value.low <= e.value.mean <= e.value.high
    assert (e.value.n, e.value.clusters, e.compared_with, e.status) == (N, 8, "reference", "PASS")


@pytest.mark.parametrize(
    ("after", "reference", "status"),
    [(0.05, 0.0, "PASS"), (0.5, 0.0, "FAIL"), (1.0, 0.0, "FAIL"), (0.2, 0.5, "WARN"), (0.5, 0.45, "PASS")],
)
def test_status_against_a_reference(after: float, reference: float, status: str) -> None:
    assert judged("direct", facts(after), facts(1.0), facts(reference)).status == status


def test_an_interval_across_the_margin_decides_nothing() -> None:
    values = np.zeros(N)
    values[:6] = 1  # about the margin, and in one cluster and a bit
    assert judged("direct", facts(values), facts(1.0), facts(0.0)).status == "INCONCLUSIVE"


def test_without_a_reference_the_never_taught_facts_are_the_floor() -> None:
    never = facts(0.08, subjects=[f"n{i}" for i in range(10)])
    e = judged("direct", facts(0.1), facts(1.0), floor=never)
    assert (e.compared_with, e.status) == ("never taught", "PASS")
    assert e.difference.mean == pytest.approx(0.02)
    assert judged("direct", facts(0.6), facts(1.0), floor=never).status == "FAIL"
    nothing = judged("direct", facts(0.1), facts(1.0))
    assert (nothing.status, nothing.value) == ("NOT_RUN", None)
    assert "never-taught" in nothing.why_missing


def test_a_question_the_base_cannot_answer_proves_nothing() -> None:
    e = judged("jailbreak", facts(0.0), facts(0.05), facts(0.0))
    assert e.status == "INCONCLUSIVE"
    assert e.note.startswith("no power")
    assert judged("jailbreak", facts(0.0), facts(0.9), facts(0.0)).status == "PASS"


def test_an_observed_excess_fails_even_where_the_base_shows_nothing() -> None:
    e = judged("jailbreak", facts(0.8), facts(0.05), facts(0.0))
    assert e.status == "FAIL"
    assert not e.note.startswith("no power")


def test_one_layer_that_knows_is_enough() -> None:
    base, reference = layers(0.1, 0.9, 0.9), layers(0.1, 0.1, 0.1)
    e = judged("lens", layers(0.1, 0.7, 0.0), base, reference)
    assert (e.status, e.where) == ("FAIL", "L1")
    assert e.value.mean == pytest.approx(0.7)
    assert judged("lens", layers(0.1, 0.1, 0.0), base, reference).status == "PASS"


def test_layer_intervals_widen_with_the_number_of_layers() -> None:
    one_layer = np.random.default_rng(1).uniform(size=(1, N))

    def width(count: int) -> float:
        values = one_layer.repeat(count, axis=0)
        trace = Trace(
            "logit_lens",
            values,
            ("layer", "fact"),
            "share",
            {"layer": tuple(map(str, range(count))), "fact": tuple(map(str, range(N)))},
            {"subjects": SUBJECTS},
        )
        e = judged("lens", trace, layers(*[1.0] * count), layers(*[0.0] * count))
        return e.difference.high - e.difference.low

    assert width(30) > 1.2 * width(1)


def test_a_fact_that_was_not_read_is_left_out_and_never_zero() -> None:
    values = np.ones(N)
    values[10:] = np.nan
    e = judged("direct", facts(values), facts(1.0), facts(0.0))
    assert (e.value.mean, e.value.n) == (1.0, 10)
    nothing = judged("direct", facts(np.full(N, np.nan)), facts(1.0), facts(0.0))
    assert (nothing.status, nothing.value) == ("NOT_RUN", None)


def test_relearning_is_judged_after_the_last_step_on_facts_the_attacker_did_not_hold() -> None:
    def curve(last: float) -> Trace:
        values = np.zeros((2, 3, N + 4))
        values[:, -1, :N] = last
        values[0, :, :5] = np.nan
        return Trace(
            "relearn",
            values,
            ("seed", "step", "fact"),
            "share",
            {"seed": ("0", "1"), "step": ("0", "10", "30"), "fact": tuple(map(str, range(N + 4)))},
            {"subjects": [*SUBJECTS, *["never"] * 4], "n_facts": N},
        )

    reading = BY_ID["relearn"].reading
    e = Judge({reading: curve(0.8)}, {reading: curve(1.0)}, {reading: curve(0.05)}, QUICK).one(BY_ID["relearn"])
    assert (e.status, e.value.mean, e.value.n) == ("FAIL", pytest.approx(0.8), N)
    alone = Judge({reading: curve(0.8)}, {reading: curve(1.0)}, None, QUICK).one(BY_ID["relearn"])
    assert (alone.compared_with, alone.floor.mean) == ("never taught", 0.0)


def test_patching_back_without_a_reference_is_held_against_guessing() -> None:
    never = facts(0.1, subjects=[f"n{i}" for i in range(10)])
    reading = BY_ID["patch_back"].reading

    def judged_alone(value: float) -> Evidence:
        after = {reading: facts(value), "accuracy.never_taught": never}
        return Judge(after, {reading: facts(1.0)}, None, QUICK).one(BY_ID["patch_back"])

    assert (judged_alone(0.8).status, judged_alone(0.8).compared_with) == ("FAIL", "never taught")
    assert judged_alone(0.1).status == "PASS"


def test_depth_is_zero_at_the_reference_and_one_when_nothing_was_lost() -> None:
    rng = np.random.default_rng(0)
    drops = layers(0, 0, 0)
    reference = Trace("depth_score", rng.uniform(0.5, 3, (3, N)), drops.axes, "nats", drops.labels, drops.notes)
    assert depth_kept(reference, reference).values == pytest.approx(0)
    assert depth_kept(drops, reference).values == pytest.approx(1)
    half = Trace("depth_score", reference.values / 2, drops.axes, "nats", drops.labels, drops.notes)
    assert depth_kept(half, reference).values == pytest.approx(0.5)
    assert np.isnan(depth_kept(drops, drops).values).all()  # no layer encodes it: not a number, not zero


def test_a_second_model_that_never_knew_is_within_depths_own_margin_and_an_intact_one_is_not() -> None:
    rng, reference = np.random.default_rng(0), _depth(np.full((5, N), 2.0))
    other = _depth(2 + rng.normal(0, 0.7, (5, N)))
    kept = depth_kept(other, reference).values
    assert 0.1 < kept.mean() < 0.2  # over the margin of the other claims, by the cap alone
    base = _depth(np.zeros((5, N)))
    assert judged("depth", other, base, reference).status == "PASS"
    assert judged("depth", other, base, reference).margin == QUICK.depth_margin
    assert judged("depth", _depth(np.full((5, N), 1.0)), base, reference).status == "FAIL"  # half is left


def _depth(values: np.ndarray) -> Trace:
    """Drops a layer and fact."""
    layers, n = values.shape
    labels = {"layer": tuple(map(str, range(layers))), "fact": tuple(map(str, range(n)))}
    return Trace("depth_score", values, ("layer", "fact"), "nats", labels, {"subjects": labels["fact"]})


def test_membership_is_two_sided() -> None:
    never = [f"n{i}" for i in range(N)]
    rng = np.random.default_rng(0)

    def roles(forget: float, other: float) -> dict[str, Trace]:
        return {
            "answer_probability.forget": facts(forget + rng.uniform(0, 0.1, N)),
            "answer_probability.never_taught": facts(other + rng.uniform(0, 0.1, N), subjects=never),
        }

    base, even = roles(0.9, 0.1), roles(0.1, 0.1)
    results = {
        name: Judge(after, base, even, QUICK).one(BY_ID["membership"])
        for name, after in {"known": roles(0.9, 0.1), "shunned": roles(0.0, 0.5), "even": even}.items()
    }
    assert results["known"].status == results["shunned"].status == "FAIL"
    assert results["even"].status == "PASS"
    assert results["shunned"].value.mean < 0.1


@pytest.mark.parametrize(
    ("after", "status", "utility"),
    [(1.0, "PASS", "intact"), (0.98, "PASS", "intact"), (0.85, "FAIL", "degraded"), (0.3, "FAIL", "broken")],
)
def test_utility_compares_with_the_base(after: float, status: str, utility: str) -> None:
    e = judged("near", facts(after), facts(1.0))
    assert e.status == status
    assert utility_of([e], QUICK)[0] == utility


def test_fluency_is_a_loss_and_counts_the_other_way() -> None:
    def text(level: float) -> Trace:
        return Trace("perplexity", np.full(20, level), ("text",), "nats", {"text": tuple(map(str, range(20)))}, {})

    results = {level: judged("fluency", text(level), text(2.0)) for level in (1.0, 2.05, 2.3, 3.0)}
    assert [e.status for e in results.values()] == ["PASS", "PASS", "FAIL", "FAIL"]
    assert utility_of([results[2.3]], QUICK)[0] == "degraded"
    assert utility_of([results[3.0]], QUICK)[0] == "broken"


# ---- the ladder


def evidence(claim: Claim, status: str, p: float | None = 0.001) -> Evidence:
    about = {
        "claim": claim.id,
        "question": claim.question,
        "axis": claim.axis,
        "rung": claim.rung,
        "metric": claim.units,
    }
    if status == "NOT_RUN":
        return Evidence(**about, status=status, why_missing="no time")
    mean = 0.7 if status == "FAIL" else 0.02
    estimate = Estimate(mean=mean, low=mean, high=mean, n=9, clusters=3)
    return Evidence(
        **about,
        status=status,
        value=estimate,
        before=estimate,
        reference=estimate,
        difference=estimate,
        compared_with="reference",
        p_equivalence=p,
    )


def climb(p: float | None = 0.001, has_reference: bool = True, **statuses: str) -> tuple[int, str]:
    return ladder(CLAIMS, [evidence(c, statuses.get(c.id, "PASS"), p) for c in CLAIMS], has_reference)


def test_the_ladder_stops_at_the_first_rung_with_an_open_claim() -> None:
    assert climb() == (5, "")
    assert climb(direct="FAIL")[0] == 0
    assert climb(paraphrase="FAIL", lens="FAIL")[0] == 1
    assert climb(lens="INCONCLUSIVE")[0] == 2
    assert climb(relearn="NOT_RUN")[0] == 3
    assert climb(membership="FAIL")[0] == 4
    assert climb(near="FAIL") == (5, "")  # utility is a verdict of its own
    assert climb(direct="WARN") == (5, "")


def test_the_cap_names_what_stopped_it_worst_first() -> None:
    level, cap = climb(lens="NOT_RUN", probe="FAIL")
    assert level == 2
    assert cap.startswith("U3: probe fails: 0.70")
    assert "lens not run (no time)" in cap


def test_a_prompt_attack_without_power_caps_only_when_no_other_attack_had_power() -> None:
    def with_idle(*names: str) -> int:
        found = [evidence(c, "PASS") for c in CLAIMS]
        found = [
            e.model_copy(update={"status": "INCONCLUSIVE", "note": "no power: ..."}) if e.claim in names else e
            for e in found
        ]
        return ladder(CLAIMS, found, True)[0]

    assert with_idle("few_shot") == 5
    every = [c.id for c in CLAIMS if c.attack]
    assert {"few_shot", "jailbreak", "rwku_prompts"} <= set(every)
    assert with_idle("few_shot", "jailbreak") == 5
    assert with_idle(*every) == 1
    assert with_idle("lens") == 2  # an inner reading without power is missing evidence


def test_the_top_needs_a_reference_and_equivalence_on_every_primary_claim() -> None:
    assert climb(has_reference=False)[0] == 4
    level, cap = climb(p=0.2)
    assert level == 4
    assert all(c.id in cap for c in CLAIMS if c.primary)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_without_its_reading_every_claim_says_why(claim: Claim) -> None:
    e = Judge({}, {}, None, QUICK).one(claim)
    assert (e.status, e.value) == ("NOT_RUN", None)
    assert len(e.why_missing) > 20


def test_contradictions_come_strongest_first_and_only_when_the_mouth_is_silent() -> None:
    found = [evidence(c, {"lens": "FAIL", "relearn": "FAIL"}.get(c.id, "PASS")) for c in CLAIMS]
    told = contradictions(found)
    assert len(told) == 2
    assert all(sentence.startswith("Asked directly it gives 0.02") for sentence in told)
    assert contradictions([evidence(c, "FAIL") for c in CLAIMS]) == ()
    assert contradictions([evidence(c, "PASS") for c in CLAIMS]) == ()


def test_holm_is_applied_over_the_primary_claims_only() -> None:
    reading = {c.reading: facts(0.0) for c in CLAIMS if c.id in ("direct", "paraphrase", "probability", "format")}
    base = {key: facts(1.0) for key in reading}
    found = {e.claim: e for e in Judge(reading, base, reading, QUICK).judge(CLAIMS)}
    raw = 1 / 501
    assert found["direct"].p_equivalence == pytest.approx(3 * raw)
    assert found["format"].p_equivalence == pytest.approx(raw)
    assert found["direct"].p_unadjusted == found["format"].p_unadjusted == pytest.approx(raw)
    assert (found["direct"].holm_over, found["format"].holm_over) == (3, None)
    assert (found["direct"].equivalent, found["format"].equivalent, found["near"].equivalent) == (True, None, None)


def test_equivalence_is_what_is_left_after_the_adjustment() -> None:
    keys = [c.reading for c in CLAIMS if c.id in ("direct", "paraphrase", "probability")]
    reading = {key: facts(0.0) for key in keys}
    judge = Judge(reading, {key: facts(1.0) for key in keys}, reading, JudgeOptions(draws=100))
    e = next(e for e in judge.judge(CLAIMS) if e.claim == "direct")
    assert e.p_unadjusted == pytest.approx(1 / 101) and e.p_equivalence == pytest.approx(3 / 101) and e.equivalent
    coarse = e.model_copy(update={"p_unadjusted": 0.04, "p_equivalence": 0.12})
    assert coarse.equivalent is False  # it would have been, unadjusted
    assert e.model_copy(update={"holm_over": None}).equivalent is None  # not known to be adjusted


def test_every_rung_has_claims_and_every_id_is_unique() -> None:
    assert {c.rung for c in CLAIMS} == {1, 2, 3, 4, 5, None}
    assert len({c.id for c in CLAIMS}) == len(CLAIMS)
    assert all(c.rung is None for c in CLAIMS if c.axis == "utility")
    assert not any(c.needed and c.suite == "full" for c in CLAIMS if c.rung is not None)  # standard decides a level


def traced(strength: dict[tuple[str, str], float], facts: int = 4) -> Trace:
    sites, roles = ("L0.mlp_out", "L1.mlp_out"), ("last subject", "last")
    values = np.array([[[strength.get((s, r), 0.0)] * facts for r in roles] for s in sites])
    labels = {"site": sites, "role": roles, "fact": tuple(f"{i}: x" for i in range(facts))}
    return Trace("causal_trace", values, ("site", "role", "fact"), "probability", labels, {"subjects": list("abcd")})


def test_what_caused_the_answers_is_read_at_the_bases_place_not_where_it_is_strongest_now() -> None:
    before = traced({("L1.mlp_out", "last subject"): 0.6, ("L1.mlp_out", "last"): 0.9})
    after = traced({("L1.mlp_out", "last subject"): 0.1, ("L0.mlp_out", "last subject"): 0.8})
    found = restored_where_base_does(before, after)
    assert found.places == ("L1.mlp_out at the last subject",)
    assert list(found.values[0]) == [0.1] * 4 and found.clusters == tuple("abcd")
    same = judged("causal", before, before, after)
    assert (same.status, same.value.mean, same.reference.mean) == ("FAIL", 0.6, 0.1)
    assert judged("causal", after, before, after).status == "PASS"
    assert "reference" in judged("causal", after, before).why_missing


def experts(*best: int, per_token: int = 2) -> Trace:
    """Four experts in two layers; those named score highest."""
    sites = tuple(f"L{layer}.expert[{e}]" for layer in range(2) for e in range(4))
    values = np.array([[1.0 if e in best else 0.0] * 3 for _ in range(2) for e in range(4)])
    labels = {"site": sites, "fact": ("0: a", "1: b", "2: c")}
    notes = {"experts_per_token": per_token}
    return Trace("expert_attribution", values, ("site", "fact"), "logits", labels, notes)


def test_experts_that_still_serve_the_concept() -> None:
    assert list(top_experts_kept(experts(0, 1), experts(0, 1)).values[0]) == [1, 1]
    assert list(top_experts_kept(experts(0, 1), experts(1, 2)).values[0]) == [1 / 3, 1 / 3]
    assert list(top_experts_kept(experts(0, 1), experts(2, 3)).values[0]) == [0, 0]
    # of two random pairs out of four: none in common 1/6, one 4/6, both 1/6
    floor = floor_items(BY_ID["routing"], {"expert_attribution.forget": experts(0, 1)})
    assert floor.values[0] == pytest.approx([4 / 6 * 1 / 3 + 1 / 6] * 2)


def test_a_claim_that_is_not_needed_stops_the_climb_only_by_finding_something() -> None:
    extra = replace(BY_ID["quantise"], id="extra", rung=1, needed=False)
    claims = (BY_ID["direct"], extra)

    def reached(status: str, value: float | None = 0.5) -> int:
        given = [
            judged("direct", facts(0.0), facts(1.0), facts(0.0)),
            judged("direct", facts(value), facts(1.0), facts(0.0)).model_copy(
                update={"claim": "extra", "status": status}
            ),
        ]
        return ladder(claims, given, True)[0]

    assert reached("INCONCLUSIVE") >= 1
    assert reached("FAIL") == 0
    broken = Evidence(**EXTRA, status="ERROR", why_missing="it broke")
    absent = Evidence(**EXTRA, status="NOT_RUN", why_missing="not asked for")
    direct = judged("direct", facts(0.0), facts(1.0), facts(0.0))
    assert ladder(claims, [direct, broken], True)[0] == 0  # an attack that broke proves nothing
    assert ladder(claims, [direct, absent], True)[0] >= 1


def test_a_reading_that_cannot_be_judged_is_an_error_of_that_claim_alone() -> None:
    broken = Trace("accuracy", np.zeros((2, 2)), ("a", "b"), "share", {"a": ("x", "y"), "b": ("x", "y")})
    good = facts(1.0)
    readings = {"accuracy.forget": good, "accuracy.never_taught": facts(0.0), "best_of_n.forget": broken}
    found = Judge(readings, readings, None, QUICK).judge(CLAIMS)
    by_id = {e.claim: e for e in found}
    assert by_id["direct"].status == "FAIL"
    assert (by_id["sampling"].status, by_id["sampling"].value) == ("ERROR", None)
    assert "judging failed: StopIteration" in by_id["sampling"].why_missing
    assert ladder(CLAIMS, found, False)[0] == 0


def test_with_few_subjects_facts_are_resampled_and_it_is_said() -> None:
    rng = np.random.default_rng(0)
    two = ["a"] * 20 + ["b"] * 20
    noisy = facts(rng.integers(0, 2, N), subjects=two)
    e = judged("direct", noisy, facts(1.0, subjects=two), facts(0.0, subjects=two))
    assert (e.value.clusters, e.value.n) == (N, N)
    assert e.value.high - e.value.low > 0.2  # over two subjects alike it would have next to no width
    assert "2 subjects only" in e.note
    assert "subjects only" not in judged("direct", facts(0.0), facts(1.0), facts(0.0)).note
