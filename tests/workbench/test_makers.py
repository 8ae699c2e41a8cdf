"""How a checkpoint was made is found by the digests of its files, and by nothing else."""

import json

import pytest

from workbench.checkpoint import file_digest
from workbench.figures_groups import BASE, NONE, UNKNOWN, groups_by, options_of
from workbench.figures_tradeoff import tradeoff
from workbench.makers import made_on, settings_of
from workbench.shelf import runs_on
from workbench.store import RunFolder

NPO = {"method": "interventions.gradient.npo:Npo", "lr": 0.0001, "seed": 3, "adapter": "none"}


def written(root, name: str, question: dict, files: dict[str, str]) -> None:
    with RunFolder.claim(root / name, question).running() as run:
        for file, text in files.items():
            path = run.path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def digests(root, folder: str, names: tuple[str, ...], prefix: str = "") -> dict[str, str]:
    return {prefix + name: file_digest(root / folder / name) for name in names}


@pytest.fixture
def shelf(tmp_path):
    weights = {"checkpoint/model.safetensors": "npo", "checkpoint/config.json": "{}"}
    written(tmp_path, "npo", {"verb": "unlearn", "method": NPO}, weights)
    guard = {"guarded/guard.json": "g", "guarded/edit.json": "e"}
    written(tmp_path, "guard", {"verb": "unlearn", "method": {"method": "interventions.guards.x:Guard"}}, guard)
    receipt = json.dumps({"made_by": {"method": "interventions.a:Ablation", "seed": 0, "count": 48}, "rows": []})
    demo = {"ablated/model.safetensors": "abl", "ablated/config.json": "{}", "ablated/edit_receipt.json": receipt}
    written(tmp_path, "demo", {"verb": "demo"}, demo)
    return tmp_path


WEIGHTS = ("model.safetensors", "config.json")


def test_the_run_that_wrote_the_same_files_made_it(shelf):
    made = made_on(runs_on(shelf))
    own = digests(shelf, "npo/checkpoint", WEIGHTS)
    assert settings_of(own, made) == {"method": "Npo", "lr": "0.0001", "seed": "3", "adapter": "none"}
    assert settings_of(digests(shelf, "demo/ablated", WEIGHTS), made)["count"] == "48"
    worn = digests(shelf, "npo/checkpoint", WEIGHTS) | digests(
        shelf, "guard/guarded", ("guard.json", "edit.json"), "guard/"
    )
    assert settings_of(worn, made)["method"] == "Guard"  # the guard, not the weights it is worn over


def test_other_weights_under_the_same_config_were_not_made_by_it(shelf):
    made = made_on(runs_on(shelf))
    own = digests(shelf, "npo/checkpoint", WEIGHTS)
    assert settings_of(own | {"model.safetensors": "0" * 64}, made) == {}
    assert settings_of({}, made) == {}
    assert settings_of(own, ()) == {}


def test_two_runs_that_made_the_same_bits_are_both_told(shelf):
    weights = {"checkpoint/model.safetensors": "npo", "checkpoint/config.json": "{}"}
    written(shelf, "again", {"verb": "unlearn", "method": NPO | {"seed": 4}}, weights)
    found = settings_of(digests(shelf, "npo/checkpoint", WEIGHTS), made_on(runs_on(shelf)))
    assert sorted(found["seed"].split(" or ")) == ["3", "4"] and found["lr"] == "0.0001"


def test_a_receipt_that_was_changed_and_a_run_that_is_not_finished_tell_nothing(shelf):
    own, npo = digests(shelf, "demo/ablated", WEIGHTS), digests(shelf, "npo/checkpoint", WEIGHTS)
    (shelf / "demo/ablated/edit_receipt.json").write_text('{"made_by": {"method": "x:Invented"}}')
    manifest = json.loads((shelf / "npo/manifest.json").read_text())
    (shelf / "npo/manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    made = made_on(runs_on(shelf))
    assert settings_of(own, made) == {} and settings_of(npo, made) == {}


SETTINGS = {
    "a": {"method": "Npo", "seed": "0", "lr": "0.001"},
    "b": {"method": "Npo", "seed": "0", "lr": "0.01"},
    "c": {"method": "Ablation", "seed": "0"},
    "d": {},
    "taught": {"itself": BASE},
}


def test_audits_fall_into_groups_and_what_is_not_known_says_so():
    groups = groups_by(SETTINGS, "lr")
    assert dict(groups.of) == {"a": "0.001", "b": "0.01", "c": NONE, "d": UNKNOWN, "taught": BASE}
    assert groups.values == ("0.001", "0.01", NONE, BASE, UNKNOWN)
    assert options_of(SETTINGS) == ("method", "seed", "lr")
    assert groups_by({str(n): {"lr": str(n)} for n in (10, 9, 100)}, "lr").values == ("9", "10", "100")


def test_no_two_groups_look_alike():
    groups = groups_by({str(n): {"seed": str(n)} for n in range(60)}, "seed")
    looks = [(groups.look(v).color, groups.look(v).marker) for v in groups.values]
    assert len(set(looks)) == 60


def test_every_group_is_a_series_of_its_own_and_run_a_is_ringed():
    from tests.workbench.test_figures_tradeoff import AUDITS
    from workbench.figures_style import alt_text, table_of

    groups = groups_by(dict(zip(AUDITS, ({"lr": "1"}, {"lr": "2"}, {"lr": "1"}, {}), strict=True)), "lr")
    figure = tradeoff(AUDITS, "direct", "near", "best", groups, ["gentle"])
    table = table_of(figure).dropna(subset="audit").set_index("audit")["series"]
    assert table.to_dict() == {"best": "lr 1", "beaten": "lr 1", "gentle": "lr 2", "broken": UNKNOWN}
    ring = {series.name: list(series.x) for series in figure.data if series.name in ("Run A", "in the table")}
    assert ring == {"Run A": [0.1], "in the table": [0.5]}
    assert "By lr: 1 (2), 2 (1), not recorded (1)" in alt_text(figure)
