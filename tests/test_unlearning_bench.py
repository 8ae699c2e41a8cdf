"""The table of removals: every method has a row, every row's settings are ones the method takes, README shows them."""

import pytest

from bench.unlearning import COLUMNS, END, README, START, cells, markdown
from bench.unlearning_settings import SETTINGS, Setting
from interventions import INTERVENTIONS
from interventions.gradient.descend import GradientMethod
from workbench.cli.places import Place
from workbench.cli.settings import parse_settings, with_options


def words_of(setting: Setting, flag: str) -> list[str]:
    return [value for word, value in zip(setting.words, setting.words[1:], strict=False) if word == flag]


def test_every_method_but_some_losses_has_a_row():
    rows = {setting.method for setting in SETTINGS}
    missing = {name for name in set(INTERVENTIONS) - rows if not issubclass(INTERVENTIONS.load(name), GradientMethod)}
    assert not missing and rows <= set(INTERVENTIONS)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s.slug}-{s.kinds}")
def test_a_rows_settings_are_ones_the_method_takes(setting):
    method = with_options(INTERVENTIONS.load(setting.method), parse_settings(words_of(setting, "--set")))
    top = words_of(setting, "--top")
    localiser = (words_of(setting, "--localise") or [None])[0]
    Place(tuple(words_of(setting, "--where")), localiser, int(top[0]) if top else None, 0).check(setting.slug, method)


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_no_two_rows_share_a_folder(kind):
    slugs = [setting.slug for setting in SETTINGS if kind in setting.kinds]
    assert len(slugs) == len(set(slugs))


def test_readme_shows_a_line_for_every_row():
    table = README.read_text().partition(START)[2].partition(END)[0]
    for kind, part in zip(("dense", "moe"), table.split("**Mixture of experts**"), strict=True):
        shown = [line.split(" | ")[0].removeprefix("| ") for line in part.splitlines() if line.startswith("| ")]
        assert shown == ["method", "taught", "reference", *(s.label for s in SETTINGS if kind in s.kinds)]


def test_what_was_not_measured_is_a_dash_and_a_guard_is_named():
    row = {"method": "m", "where": "x", "forget": None, "near": 1.0, "far": 0.5, "level": "U0", "utility": "intact"}
    guard = cells({**row, "seconds": 1.26, "tensors changed": None})
    assert guard == ["m", "x", "—", "1.00", "0.50", "U0", "intact", "1.3", "0 (guard)"]
    assert cells({**row, "where": "", "seconds": None, "tensors changed": None})[-2:] == ["—", ""]
    assert cells({**row, "seconds": 0.2, "tensors changed": 3})[-1] == "3"
    text = markdown({"dense": [{**row, "seconds": 1.0, "tensors changed": 3}]})
    assert text.splitlines()[0] == "**Dense**" and text.count("|") == 3 * (len(COLUMNS) + 1)
