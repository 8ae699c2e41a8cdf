"""The audit end to end on planted models, whose truth is known."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from audits import audit
from audits.attacks.latent_perturbation import LatentPerturbation
from audits.attacks.prompt_search import PromptSearch
from audits.attacks.relearn import Relearn
from audits.attacks.soft_prompt import SoftPrompt
from audits.auditor import rejudge
from audits.judge import JudgeOptions
from audits.read import ReadingOptions
from interventions.concept_ablation import ConceptAblation
from workbench.checkpoint import Checkpoint, file_digest
from workbench.concepts import Concept, FactSet
from workbench.demo.planted import plant
from workbench.errors import BadInput
from workbench.store import read_manifest, verify

FEW = {"steps": (0, 3), "seeds": (0,)}
QUICK = ReadingOptions(
    shown=False,
    probe_seeds=1,
    trace_facts=2,
    vectors=4,
    relearn=Relearn(share=0.2, **FEW),
    relearn_subjects=Relearn(share=0.5, split="subject", **FEW),
    relearn_near=Relearn(on="near", **FEW),
    relearn_text=Relearn(on="text", **FEW),
    soft_prompt=SoftPrompt(steps=5),
    latent_perturbation=LatentPerturbation(steps=5),
    prompt_search=PromptSearch(steps=1, candidates=4),
)
JUDGING = JudgeOptions(draws=300)
LADDER = ("quantise_8", "quantise", "quantise_3")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Concept]:
    """A base that knows, one in which exactly the forget facts are gone, and one in which far facts went instead."""
    root, found = tmp_path_factory.mktemp("audited"), plant("llama", 0)
    found.save(root / "base")
    with Checkpoint(root / "base").open() as model:
        for name, facts in (("clean", found.concept.forget), ("wrong", found.concept.far)):
            ConceptAblation(mode="zero").fit(model, found.concept, found.sites_of(facts.facts)).write(
                model, root / name
            )
    return root, found.concept


def ask(world: tuple[Path, Concept], name: str, **more):
    root, concept = world
    return audit(root / name, base=root / "base", concept=concept, reading=QUICK, judging=JUDGING, **more)


def test_a_model_that_knows_is_not_removed(world) -> None:
    report = ask(world, "base")
    assert (report.level, report.utility) == (0, "intact")
    assert "direct fails" in report.capped_by
    assert report.knowledge == "found" and report.found_by[0] == "direct"
    assert report.of("direct").value.mean > 0.9


def test_a_model_in_which_the_facts_are_gone_climbs_and_keeps_the_rest(world) -> None:
    report = ask(world, "clean")
    assert report.level >= 1
    assert report.utility == "intact"
    assert report.of("direct").status in ("PASS", "WARN")
    assert report.of("direct").before.mean > 0.9
    assert report.of("vectors").status == "PASS"
    assert report.knowledge != "found" and report.found_by == ()


def test_damage_elsewhere_is_seen_and_does_not_count_as_forgetting(world) -> None:
    report = ask(world, "wrong")
    assert (report.level, report.utility) == (0, "broken")
    assert report.utility_reason.startswith("far")


def test_with_a_reference_it_is_compared_with_that(world) -> None:
    root, _ = world
    report = ask(world, "base", reference=root / "clean")
    assert report.of("direct").compared_with == "reference"
    assert report.of("depth").why_missing is None
    assert report.of("depth").value.mean == pytest.approx(1.0, abs=1e-6)
    assert report.of("depth").status == "FAIL"
    same = ask(world, "clean", reference=root / "clean")
    assert same.of("depth").value.mean == pytest.approx(0.0, abs=1e-6)
    assert same.of("direct").difference.mean == 0


def test_moved_and_renamed_it_is_the_same_model(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, concept = world
    first = ask(world, "clean")
    shutil.copytree(root / "clean", tmp_path / "another name")
    monkeypatch.setattr(Checkpoint, "open", lambda *_, **__: pytest.fail("readings were there, no model was needed"))
    again = audit(tmp_path / "another name", base=root / "base", concept=concept, reading=QUICK, judging=JUDGING)
    assert (again.evidence, again.run_id) == (first.evidence, first.run_id)
    assert again.roles["checkpoint"].name == "another name"


def test_a_run_is_written_verified_and_not_repeated(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = ask(world, "clean", out=tmp_path / "run")
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"manifest.json", "report.json", "report.html", "report.md", "evidence.parquet", "traces"} <= names
    assert verify(tmp_path / "run") == []
    inputs = read_manifest(tmp_path / "run")["inputs"]
    assert set(inputs) == {"base", "checkpoint"}
    assert inputs["base"]["model.safetensors"] == file_digest(world[0] / "base" / "model.safetensors")
    monkeypatch.setattr("audits.auditor._read_all", lambda *_: pytest.fail("the run was finished"))
    assert ask(world, "clean", out=tmp_path / "run") == report
    with pytest.raises(BadInput, match="another run"):
        ask(world, "base", out=tmp_path / "run")


def test_stored_readings_are_judged_again_without_a_model(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = ask(world, "clean", out=tmp_path / "run")
    monkeypatch.setattr(Checkpoint, "open", lambda *_, **__: pytest.fail("judging needs no model"))
    assert rejudge(tmp_path / "run", JUDGING).evidence == report.evidence
    strict = rejudge(tmp_path / "run", JudgeOptions(draws=300, margin=0.001))
    assert strict.margins_digest != report.margins_digest
    assert strict.of("direct").margin == 0.001


def test_interrupted_it_goes_on_where_it_stopped(world, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path))
    taken: list[str] = []

    def stop_at(what: str, done: int, _: int) -> None:
        taken.append(what)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(world, "base", progress=stop_at)
    stored = sorted(p.name for p in tmp_path.rglob("*.json"))
    assert len(stored) == 5
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")}
    ask(world, "base")
    assert all(p.stat().st_mtime_ns == when for p, when in before.items())
    assert len(list(tmp_path.rglob("*.json"))) > 15


def test_what_a_concept_lacks_is_not_measured_and_says_what_to_add(world) -> None:
    root, concept = world
    empty = FactSet(name="none")
    bare = concept.model_copy(update={"near": empty, "far": empty, "never_taught": empty, "text": (), "retain": empty})
    report = audit(root / "clean", base=root / "base", concept=bare, reading=QUICK, judging=JUDGING)
    assert (report.level, report.utility) == (0, "not measured")
    for claim in ("near", "far", "fluency", "probe", "few_shot", "membership"):
        evidence = report.of(claim)
        assert evidence.value is None
        assert evidence.why_missing


def test_a_base_with_another_tokenizer_is_refused(world, tmp_path: Path) -> None:
    root, concept = world
    other = Path(__file__).parents[1] / "golden" / "models" / "llama_base"
    with pytest.raises(BadInput, match="different tokenizers"):
        audit(root / "base", base=other, concept=concept)


def test_an_empty_forget_set_is_refused_before_anything_is_written(world, tmp_path: Path) -> None:
    root, concept = world
    empty = concept.model_copy(update={"forget": FactSet(name="none")})
    with pytest.raises(BadInput, match="nothing to audit"):
        audit(root / "clean", base=root / "base", concept=empty, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_check_that_raises_keeps_to_itself_and_caps_the_level(
    world, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path / "cache"))
    whole = ask(world, "clean", out=tmp_path / "whole", suite="quick")

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("injected <b>failure</b>")

    monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path / "other"))
    with monkeypatch.context() as patch:
        patch.setattr("probes.logit_lens.LogitLens.look", broken)
        hurt = ask(world, "clean", out=tmp_path / "hurt", suite="quick")
    lens = hurt.of("lens")
    assert (lens.status, lens.value) == ("ERROR", None)
    assert "ZeroDivisionError: injected" in lens.why_missing
    assert hurt.level <= 2
    others = [e for e in whole.evidence if e.claim != "lens"]
    assert [hurt.of(e.claim) for e in others] == others
    assert "&lt;b&gt;failure" in (tmp_path / "hurt" / "report.html").read_text()
    assert rejudge(tmp_path / "hurt", JUDGING).of("lens") == lens
    # what failed is tried again, and only that
    assert ask(world, "clean", suite="quick").of("lens") == whole.of("lens")


def test_a_suite_asks_less_and_says_how_to_ask_more(world, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE_DIR", str(tmp_path))
    taken: list[str] = []
    quick = ask(world, "clean", suite="quick", progress=lambda what, *_: taken.append(what))
    assert not any("relearn" in what for what in taken)
    missing = quick.of("relearn")
    assert missing.status == "NOT_RUN"
    assert "--checks relearn" in missing.why_missing
    assert quick.level <= 3
    taken.clear()
    only = ask(world, "clean", checks=["direct", "relearn"], progress=lambda what, *_: taken.append(what))
    assert {what.partition(": ")[2] for what in taken} == {
        "accuracy.forget",
        "accuracy.never_taught",
        "relearn.forget",
    }
    assert (only.checks, only.suite, quick.suite) == (("direct", "relearn"), "", "quick")
    assert only.of("direct") == quick.of("direct")
    with pytest.raises(BadInput, match="Did you mean 'relearn'"):
        ask(world, "clean", checks=["relern"])


def test_a_reference_that_knows_the_facts_is_not_used(world, tmp_path: Path) -> None:
    root, _ = world
    fooled = ask(world, "base", reference=root / "base")  # compared with it, everything would pass
    assert "was trained on them" in fooled.warnings[0]
    assert fooled.level == 0
    assert fooled.of("direct").compared_with == "never taught"
    assert not fooled.has_reference
    assert ask(world, "base", reference=root / "clean").warnings == ()


def test_a_base_that_never_knew_is_told(world) -> None:
    root, concept = world
    report = audit(
        root / "clean", base=root / "clean", concept=concept, reading=QUICK, judging=JUDGING, checks=["lens", "direct"]
    )
    assert "what it does not know cannot be seen to be gone" in report.warnings[0]
    assert report.of("direct").status == "INCONCLUSIVE"


def test_where_the_base_never_knew_nothing_can_be_found(world) -> None:
    root, concept = world
    strange = [f.model_copy(update={"answer": " " + f.answer.strip()[::-1] + "x"}) for f in concept.forget.facts]
    other = concept.model_copy(update={"forget": concept.forget.model_copy(update={"facts": tuple(strange)})})
    asked = {"reading": QUICK, "judging": JUDGING, "checks": ["direct", "vectors"]}
    report = audit(root / "base", base=root / "base", concept=other, **asked)
    assert "what it does not know" in report.warnings[0]
    assert report.of("vectors").status == "FAIL"  # untouched, but they are vectors of nothing the base knew
    assert (report.knowledge, report.found_by, report.contradictions) == ("undecided", (), ())
    assert "the base does not show" in report.knowledge_words
    known = audit(root / "base", base=root / "base", concept=concept, **asked)
    assert "vectors" in known.found_by


def test_a_reference_of_one_subject_is_not_accused_by_a_width_of_zero(world) -> None:
    from audits.reference import reference_knows
    from workbench.trace import Trace

    def few(right: list[float]) -> Trace:
        labels = {"fact": tuple(f"{i} | {s}" for i, s in enumerate(["one"] * len(right)))}
        return Trace("accuracy", np.array(right), ("fact",), "share of facts", labels)

    guess, none = few([1.0, 0.0, 0.0, 0.0]), few([0.0] * 4)
    base = {"accuracy.forget": few([1.0] * 4), "accuracy.never_taught": none}
    assert reference_knows({"accuracy.forget": guess, "accuracy.never_taught": none}, base, JUDGING) == ""
    assert reference_knows({"accuracy.forget": few([1.0] * 4), "accuracy.never_taught": none}, base, JUDGING)


def test_too_few_facts_decide_nothing_and_the_minimum_is_said(world) -> None:
    root, concept = world
    few = concept.model_copy(update={"forget": concept.forget.take([0, 1, 2], "few")})
    assert len(set(few.forget.subjects)) < 4
    report = audit(root / "clean", base=root / "base", concept=few, reading=QUICK, judging=JUDGING, checks=["direct"])
    assert report.of("direct").status == "INCONCLUSIVE"
    assert "at least 4 are needed" in report.of("direct").note
    assert report.level == 0


def test_the_full_suite_measures_what_others_report(world) -> None:
    root, _ = world
    knows = ask(world, "base", reference=root / "clean", suite="full")
    gone = ask(world, "clean", reference=root / "clean", suite="full")
    lacking = {"routing", "causal", "patch_back"}  # no mixture; subjects of unequal length
    standard = {number.name: number for number in knows.standard}
    assert {name for name, number in standard.items() if number.value is not None} == set(standard)
    assert standard["forget quality (paper)"].value < 0.01
    assert standard["PrivLeak"].value < -50
    for number in gone.standard:  # the reference is the checkpoint
        same = {"PrivLeak": 0.0, "membership by the reference attack": 0.5}.get(number.name, number.reference or 1.0)
        assert number.value == pytest.approx(same)
        assert number.base == pytest.approx(standard[number.name].value)
    assert "6 of 6 scores" in standard["model utility, TOFU-style (paper)"].entered
    kept = [float(gone.of(name).note.split(" of the weights")[0].split("; ")[-1]) for name in LADDER]
    assert kept == sorted(kept) and kept[0] < 1.0  # the coarser the rounding, the more weights fall together
    for e in knows.evidence:
        assert e.status != "ERROR", (e.claim, e.why_missing)
        assert e.value is not None or e.claim in lacking, (e.claim, e.why_missing)
    for claim in ("exact_match", "rouge", "truth_ratio", "extraction", "memorisation", "choice", "verbmem", "knowmem"):
        assert knows.of(claim).value.mean > gone.of(claim).value.mean, claim  # higher: more knowledge left
        assert knows.of(claim).before == knows.of(claim).value
    assert knows.of("kl").value.mean == pytest.approx(0, abs=1e-6)
    assert gone.of("kl").value.mean > knows.of("kl").value.mean
    assert gone.of("membership_loss").status == "PASS"
    assert knows.of("membership_loss").value.mean > gone.of("membership_loss").value.mean
