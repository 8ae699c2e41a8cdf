"""The trade-off table: a row for every method, cells that are computed once, numbers that are means over seeds."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench import tradeoff
from bench.tradeoff import DOCS, Task, fill, gathered, main
from bench.tradeoff_measure import Measures, answered, benign, checkpoint_of, measured, method_of, place_of, question
from bench.tradeoff_picture import drawn, front, kind_of, named
from bench.tradeoff_settings import BARE, BOTH_WAYS, RATES, ROWS, rows
from bench.tradeoff_table import COLUMNS, MEASURED, PROBE, Row, cells, document, markdown, shown, spread
from bench.unlearning_settings import Setting, options
from interventions import INTERVENTIONS
from interventions.gradient.descend import GradientMethod
from interventions.guards.guard_decoding import GuardDecoding
from workbench.checkpoint import Checkpoint
from workbench.cli.console import Screen
from workbench.demo.pair import Pair
from workbench.figures_style import table_of

QUICK = Measures(benign_steps=2, relearn={"steps": (1,)})
"""Attacks that cost nothing."""

ACTING = [(kind, one) for kind, one in ROWS if one.method not in BARE]


def label(row: tuple[str, Setting]) -> str:
    return f"{row[0]}-{row[1].slug}"


# ---- the rows


def test_every_method_has_a_row_and_every_loss_the_same_budget() -> None:
    assert {one.method for _, one in ACTING} == set(INTERVENTIONS)
    losses = {name for name in INTERVENTIONS if issubclass(INTERVENTIONS.load(name), GradientMethod)}
    assert losses == set(RATES)
    assert {method_of(one, 0).steps for _, one in ACTING if one.method in losses} == {160}


def test_no_two_rows_share_a_cell_and_the_bare_models_head_each_table() -> None:
    assert len({label(row) for row in ROWS}) == len(ROWS)
    for kind in ("dense", "moe"):
        assert [one.method for of, one in ROWS if of == kind][:2] == list(BARE)


def test_losses_are_shown_with_and_without_a_retain_loss() -> None:
    for name in BOTH_WAYS:
        made = [method_of(one, 0) for _, one in ACTING if one.method == name]
        assert [one.retain_weight for one in made] == [0, 1] and len({one.lr for one in made}) == 1


@pytest.mark.parametrize("row", ACTING, ids=label)
def test_a_rows_settings_are_ones_the_method_takes(row: tuple[str, Setting]) -> None:
    made = method_of(row[1], 7)
    assert getattr(made, "seed", 7) == 7
    place_of(row[1], 7).check(row[1].slug, made)


def test_naming_methods_leaves_their_rows_and_the_bare_models_of_their_kind() -> None:
    assert [label(row) for row in rows(["npo"])] == [
        "dense-taught",
        "dense-reference",
        "dense-npo-no retain loss",
        "dense-npo-retain loss",
    ]
    assert {kind for kind, _ in rows(["single_expert"])} == {"moe"}
    assert rows([]) == list(ROWS)


# ---- one cell


@pytest.fixture
def setting() -> Setting:
    return Setting("concept_ablation", ("--where", "L1.mlp_act[0]", *options(mode="zero")), "one neuron")


@pytest.fixture
def task(tmp_path: Path, planted: Any, planted_folder: Path, setting: Setting) -> Task:
    asked = question(setting, 0, planted_folder, planted.concept, QUICK)
    return Task("dense", setting, 0, planted_folder, asked, tmp_path)


def test_a_question_tells_seeds_settings_models_and_measures_apart(
    planted: Any, planted_folder: Path, ablated_folder: Path, setting: Setting
) -> None:
    def asked(one: Setting = setting, seed: int = 0, folder: Path = planted_folder, measures: Measures = QUICK) -> str:
        return json.dumps(question(one, seed, folder, planted.concept, measures), sort_keys=True)

    other = Setting("concept_ablation", ("--where", "L1.mlp_act[1]", *options(mode="zero")), "one neuron")
    asks = [asked(), asked(other), asked(seed=1), asked(folder=ablated_folder), asked(measures=Measures())]
    asks += [asked(Setting("taught"), seed=seed) for seed in (0, 1)]  # no method, but attacks draw too
    assert len(set(asks)) == 7 and asked() == asked()


def test_the_reference_row_is_about_the_reference_and_all_others_start_from_the_taught_model() -> None:
    pair = Pair(Path("taught"), Path("reference"))
    found = {checkpoint_of(Setting(name), pair).name for name in ("taught", "npo", "dsg")}
    assert found == {"taught"} and checkpoint_of(Setting("reference"), pair).name == "reference"


@pytest.mark.slow
def test_what_is_measured_is_of_the_edited_model_and_leaves_it_as_it_was(
    planted: Any, planted_folder: Path, ablated_folder: Path
) -> None:
    concept = planted.concept
    with Checkpoint(planted_folder).open() as model:
        before = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
        knows = measured(model, concept, 0, QUICK)
        assert all(tensor.equal(before[name]) for name, tensor in model.hf.state_dict().items())
        assert knows == measured(model, concept, 0, QUICK)
    with Checkpoint(ablated_folder).open() as model:
        lost = measured(model, concept, 0, QUICK)
    assert knows["forget"] > 0.9 and knows["near"] > 0.9
    assert lost["forget"] < 0.3 and lost["near"] > 0.9
    assert set(knows) == {*MEASURED, "probe"} and all(map(math.isfinite, (knows["relearnt"], knows["benign"])))


def test_a_guard_is_attacked_without_the_guard(planted: Any, planted_folder: Path) -> None:
    with Checkpoint(planted_folder).open() as model:
        bare = measured(model, planted.concept, 0, QUICK)
        with GuardDecoding().fit(model, planted.concept).on(model):
            worn = measured(model, planted.concept, 0, QUICK)
    assert worn["forget"] < 0.3 < bare["forget"]
    assert (worn["relearnt"], worn["benign"]) == (bare["relearnt"], bare["benign"])


def test_benign_training_trains_on_what_it_is_given_and_puts_the_weights_back(
    planted: Any, ablated_folder: Path
) -> None:
    facts = planted.concept.forget.facts
    strong = Measures(benign_steps=60, benign_lr=1e-2, benign_batch=8)
    with Checkpoint(ablated_folder).open() as model:
        before = answered(model, facts)
        assert benign(model, facts, facts, 0, strong) > before + 0.3  # told the forget facts themselves, they come back
        assert answered(model, facts) == before


# ---- resume


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, task: Task) -> list[Task]:
    """Cells that were computed; each says it measured .5 of everything."""
    made: list[Task] = []

    def compute(one: Task, *_: object) -> None:
        made.append(one)
        if one.seed == 13:
            raise ValueError("no luck")
        tradeoff.write_json(one.file, {"question": dict(one.question), "measured": {"forget": 0.5}})

    class Here:
        """A pool that works at once, in this process."""

        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *_: object) -> None: ...

        def submit(self, call: Any, *given: Any) -> Any:
            future: Any = tradeoff.Future()
            try:
                future.set_result(call(*given))
            except ValueError as error:
                future.set_exception(error)
            return future

    monkeypatch.setattr(tradeoff, "compute", compute)
    monkeypatch.setattr(tradeoff, "_workers", lambda _: Here())
    monkeypatch.setattr(tradeoff, "load_concept", lambda _: None)
    return made


def test_a_stored_cell_is_not_computed_again(counted: list[Task], task: Task) -> None:
    assert task.stored is None
    assert fill([task], QUICK, 1, Screen(quiet=True)) == {} and len(counted) == 1
    assert task.stored == {"forget": 0.5}
    fill([task], QUICK, 1, Screen(quiet=True))
    assert len(counted) == 1


def test_a_damaged_cell_or_one_of_another_question_is_computed_again(counted: list[Task], task: Task) -> None:
    for wrong in ("{", "[]", json.dumps({"question": {"seed": 5}, "measured": {"forget": 0.1}})):
        task.file.write_text(wrong)
        assert task.stored is None
        fill([task], QUICK, 1, Screen(quiet=True))
        assert task.stored == {"forget": 0.5}
    assert len(counted) == 3


def test_a_cell_that_fails_is_told_and_the_others_are_kept(
    counted: list[Task], task: Task, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Task(task.model, task.setting, 13, task.checkpoint, {**task.question, "seed": 13}, task.folder)
    failed = fill([bad, task], QUICK, 1, Screen(quiet=True))
    assert list(failed.values()) == ["ValueError: no luck"] and "no luck" in capsys.readouterr().err
    assert task.stored and bad.stored is None
    assert [len(row.seeds) for row in gathered([bad, task])] == [1]


# ---- the table


def row(name: str, *forgets: float, near: float = 1.0, model: str = "dense", kind: str | None = "weights") -> Row:
    probe = {"embed": 0.9, "L0": 0.2, "L1": 0.1} if name == "reference" else {"embed": 0.9, "L0": 0.5, "L1": 0.6}
    seeds = [
        dict.fromkeys(MEASURED, 0.25) | {"forget": one, "near": near, "probe": probe, "seconds": 1.0, "kind": kind}
        for one in forgets
    ]
    return Row(model, name, "somewhere", seeds)


def test_a_number_is_the_mean_with_its_spread() -> None:
    assert shown([0.1, 0.2, 0.3]) == "0.20 ±0.10" and shown([0.5, 0.5]) == "0.50" and shown([0.5]) == "0.50"
    assert shown([0.5, math.nan]) == "—"
    assert spread([1.0]) is None and spread([1.0, 3.0]) == pytest.approx(2**0.5)


def test_a_layer_is_readable_where_the_probe_is_clearly_above_the_reference() -> None:
    found = [row("reference", 0.0), row("npo", 0.1, 0.3)]
    assert found[1].deepest(found) == ["L1", "L1"] and found[0].deepest(found) == ["none"]
    assert found[1].deepest(found[1:]) == []
    other = row("npo", 0.1, model="moe")
    assert other.deepest([*found, other]) == []  # the dense reference says nothing of a mixture
    assert row("npo", 0.1).values(PROBE) == [pytest.approx(0.55)]  # what enters the first block is left out


def test_a_range_of_layers_is_shown_where_seeds_differ() -> None:
    one = row("npo", 0.1, 0.3)
    one.seeds[1]["probe"] = {"embed": 0.0, "L0": 0.2, "L1": 0.1}
    assert cells(one, [row("reference", 0.0), one])[-1] == "L1–none"
    assert cells(row("npo", 0.1), [])[-1] == "—"


def test_the_document_says_what_was_measured_on_what(planted: Any) -> None:
    found = [row("taught", 1.0), row("reference", 0.0), row("npo", 0.1, 0.3), row("single_expert", 0.2, model="moe")]
    text = document(found, planted.concept, Measures().spec(), (0, 1, 2), picture=True)
    for part in ("0, 1, 2", "bench.tradeoff --docs", "tradeoff.png", f"{len(planted.concept.forget)} forget facts"):
        assert part in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 * 2 + 4 and all(line.count("|") == len(COLUMNS) + 1 for line in lines)
    assert "| npo | 0.20 ±0.14 |" in text
    assert "tradeoff.png" not in document(found, planted.concept, Measures().spec(), (0,), picture=False)


def test_the_summary_holds_every_seed() -> None:
    (found,) = [row("npo", 0.1, 0.3)]
    told = json.loads(json.dumps(found.summary([found]), allow_nan=False))
    assert told["forget"] == {"mean": pytest.approx(0.2), "sd": pytest.approx(0.1414, abs=1e-3), "seeds": [0.1, 0.3]}
    assert not told["guard"] and row("dsg", 0.1, kind="hooks").summary([])["guard"]


# ---- the picture


def test_the_front_holds_what_nothing_else_beats() -> None:
    best = [row("a", 0.0, near=0.5), row("b", 0.2, near=0.9)]
    assert front([*best, row("c", 0.3, near=0.9), row("d", 0.1, near=0.4)], "forget") == best
    assert front([best[1], best[0]], "forget") == best


def test_names_that_would_lie_on_each_other_are_left_out_those_of_the_front_last() -> None:
    rows = [row("a", 0.5), row("b", 0.51), row("c", 0.9), row("d", 0.5, near=0.8)]
    assert [one.label for one in named(rows, "forget", [])] == ["a", "c", "d"]
    assert [one.label for one in named(rows, "forget", [rows[1]])] == ["b", "c", "d"]


def test_the_picture_shows_every_dense_row_in_both_panels() -> None:
    found = [row("taught", 1.0, kind=None), row("npo", 0.1), row("dsg", 0.5, kind="hooks"), row("x", 0.2, model="moe")]
    table = table_of(drawn(found))
    assert len(table) == 2 * 3 and set(table["series"]) == {"taught", "weights", "guard"}
    assert sorted(table["method"]) == sorted(["taught", "npo", "dsg"] * 2)
    assert [kind_of(one) for one in found] == ["taught", "weights", "guard", "weights"]


# ---- the command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "npoo"], "npo"),
        (["--docs", "--methods", "npo"], "--methods"),
        (["--docs", "--seeds", "0"], "--seeds"),
        (["--seeds", "0", "0"], "once"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_bad_words_are_refused(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_documentation_shows_every_row() -> None:
    text = (DOCS / "tradeoff.md").read_text()
    shown_rows = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")]
    expected = [["method", *(one.label for of, one in ROWS if of == kind)] for kind in ("dense", "moe")]
    assert shown_rows == [name for part in expected for name in part]
    assert all(line.startswith("## ") or line for line in markdown([]).splitlines())
