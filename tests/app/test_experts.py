"""The Experts page over an audit of a mixture: every picture draws what is stored, and what is not there is a card."""

import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from audits.read import ReadingOptions, asked_keys, read
from audits.reading_ways import Asked
from audits.readings import shown_in
from probes.expert_shift import jensen_shannon
from tests.app.conftest import alts, change, figures, resign, said
from tests.app.test_pages import drawn
from tests.workbench.test_figures_tokens import HOSTILE
from workbench.comparison import Comparison, TensorRow
from workbench.demo.planted import plant
from workbench.model import HookedModel
from workbench.shelf import load_trace
from workbench.store import RunFolder

ROUTER = "model.layers.{}.mlp.gate.weight"
MOVED = {"checkpoint": 2, "reference": 1}
"""Role -> the layer whose router is another than the base's."""

QUESTION = {"base": "b" * 64, "checkpoint": "c" * 64}
ALSO = ("accuracy.forget", "logit_lens.forget", "expert_attribution.forget")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """One run with the readings of an audit of a mixture of which one router was changed, and a comparison of it."""
    at = tmp_path_factory.mktemp("experts")
    run = RunFolder.claim(at / "moe", {"verb": "look", **QUESTION})
    with run.running(checkpoints={role: {"address": f"/{role}"} for role in ("base", "checkpoint")}):
        base = None
        for role in ("base", "reference", "checkpoint"):
            planted = plant("olmoe", 0)
            with torch.no_grad():
                if role in MOVED:
                    router = planted.model.get_parameter(ROUTER.format(MOVED[role]))
                    router.copy_(torch.randn(router.shape, generator=torch.Generator().manual_seed(3)))
            model = HookedModel(planted.model, planted.tokenizer, name=role, check=False)
            options = ReadingOptions(trace_facts=3, shift_facts=6)
            keys = asked_keys((*ALSO, *shown_in("standard")), role)
            found = read(Asked(model, planted.concept, options, base), keys, run.path / "traces" / role)
            assert set(found.troubles) == ({"moved_vectors.forget"} if base else set())  # no files to hold them against
            base = base or found.traces
    about = {"module": "mlp", "matrix": "down_proj", "shape": "2x2", "entries": 4, "base_norm": 1.0}
    rows = [
        TensorRow(
            f"model.layers.2.mlp.experts.{e}.down_proj.weight",
            layer=2,
            expert=e,
            status="changed" if e else "identical",
            entries_changed=4 if e else 0,
            change_norm=size,
            relative_change=size,
            **about,
        )
        for e, size in enumerate((0.0, 0.1, 0.3, 0.2))
    ]
    own = RunFolder.claim(at / "weights", {"verb": "compare", **QUESTION})
    with own.running():
        Comparison.of_rows(("b", "c"), rows).save(own.path)
    return at


SEEN: dict[tuple[tuple[str, str], ...], AppTest] = {}
"""What the page of the shelf, which no test changes, showed before."""


@pytest.fixture
def page(app, shelf):
    def seen(**url: str) -> AppTest:
        key = tuple(sorted(url.items()))
        if key not in SEEN:
            SEEN[key] = app(shelf, "experts", run="moe", **url)
            assert not SEEN[key].exception
        return SEEN[key]

    return seen


@pytest.fixture
def copy(shelf, tmp_path) -> Path:
    return Path(shutil.copytree(shelf, tmp_path / "store"))


def stored(shelf: Path, role: str, key: str):
    return load_trace(shelf / "moe", role, key)


def maps(at, number: int) -> dict[str, np.ndarray]:
    """Panel -> the numbers of its cells."""
    found = [s for s in figures(at)[number]["data"] if s["type"] == "heatmap" and isinstance(s.get("meta"), dict)]
    return {s["meta"]["panel"]: _first(s["customdata"]) for s in found}


def _first(data) -> np.ndarray:
    """The first number of every cell."""
    held = drawn(data) if isinstance(data, dict) else np.array(data, dtype=object)
    return held[..., 0].astype(float)


def test_the_load_of_the_forget_facts_and_the_split(page, shelf):
    def share(role: str, name: str) -> np.ndarray:
        return stored(shelf, role, f"expert_load.{name}").mean("fact").values.reshape(3, 4) * 2

    at = page()
    assert not at.error and "cells lie inside the noise floor and are grey" in alts(at)[0]
    panels, split = maps(at, 0), maps(page(set="forget-near"), 0)
    for panel, role in (("before", "base"), ("after", "checkpoint"), ("reference", "reference")):
        np.testing.assert_allclose(panels[f"expert {panel}"], share(role, "forget"), atol=1e-5)
        apart = share(role, "forget") - share(role, "near")
        np.testing.assert_allclose(split[f"expert {panel}"], apart, atol=1e-5)
    assert panels["expert after − before"][:2] == pytest.approx(0)  # their routers are the base's
    assert np.abs(panels["expert after − before"][2]).max() > 0.2
    assert len(page(set="retain").error) == 1


def test_the_shift_is_that_of_the_routers_with_a_band_and_begins_where_it_was_planted(page, shelf):
    at = page()
    curve = {s["name"]: s for s in figures(at)[1]["data"] if isinstance(s.get("meta"), dict)}
    assert list(curve) == ["checkpoint", "reference"]  # the base is 0 by definition
    assert drawn(curve["checkpoint"]["y"])[:2] == pytest.approx(0) and drawn(curve["checkpoint"]["y"])[2] > 0.01
    assert drawn(curve["reference"]["y"])[0] == 0 and drawn(curve["reference"]["y"])[1] > 0.01
    ends = drawn(curve["checkpoint"]["customdata"])[2]
    assert ends[0] < drawn(curve["checkpoint"]["y"])[2] < ends[1]
    shift = stored(shelf, "checkpoint", "expert_shift.forget")
    assert len(shift.labels["fact"]) == 6 and shift.labels["fact"][-1].startswith("9:")  # spread, under their numbers
    one, other = (stored(shelf, role, "token_routing.forget").values[0, 0, 2] for role in ("base", "checkpoint"))
    read = np.isfinite(one[:, 0])
    by_hand = jensen_shannon(one[read].astype(float), other[read].astype(float)).mean()
    assert shift.pick("measure", "distribution").values[2, 0] == pytest.approx(by_hand, abs=1e-3)
    both = figures(page(set="forget-near"))[1]["data"]
    names = {s["name"] for s in both if isinstance(s.get("meta"), dict)}
    assert names == {f"{role}{part}" for role in MOVED for part in ("", ", near facts")}


def test_token_by_expert_of_the_chosen_item_and_layer(page, shelf):
    at = page(item="1", layer="2", expert="3")
    assert not at.error
    number = next(i for i, alt in enumerate(alts(at)) if alt.startswith("Routing of fact 1 at layer 2"))
    panels = maps(at, number)
    for panel, role in (("before", "base"), ("after", "checkpoint"), ("reference", "reference")):
        trace = stored(shelf, role, "token_routing.forget")
        length = len(trace.notes["tokens"][1])
        np.testing.assert_allclose(panels[panel], trace.values[0, 1, 2, :length], atol=1e-3)
    assert stored(shelf, "base", "token_routing.forget").notes["prompt"][1] in said(at)
    assert "layer 2, where most choices of this fact were given up" in said(page())
    assert any(alt.startswith("Routing of fact 0 at layer 2") for alt in alts(page()))
    beyond = page(item="3", layer="1", expert="1")
    assert "first 3 facts only" in said(beyond)
    assert any("reading.trace_facts=4" in code.value for code in beyond.code)
    assert "holds no tensor" in said(beyond)


def test_an_expert_shows_its_tokens_its_weights_and_its_facts(page, shelf):
    at = page(item="1", layer="2", expert="3")
    tokens, tensors, facts = (frame.value for frame in at.dataframe)
    trace = stored(shelf, "base", "token_routing.forget")
    sent = np.isfinite(trace.pick("measure", "weight").values[:, 2, :, 3]).sum()
    assert tokens["base: sent"].sum() == sent and set(facts.columns) >= {"fact", "base", "checkpoint"}
    assert list(tensors["tensor"]) == ["model.layers.2.mlp.experts.3.down_proj.weight"]
    told = {metric.label: metric.value for metric in at.metric}
    assert told["relative change"] == "0.2" and told["place among its layer's experts"] == "2 of 4"
    assert told["largest of its layer"] == "0.3"


def test_without_a_comparison_of_this_checkpoint_there_is_a_card_with_the_command(app, copy):
    shutil.rmtree(copy / "weights")
    at = app(copy, "experts", run="moe", layer="2", expert="3")
    assert "no comparison of this checkpoint" in said(at) and not at.metric
    assert any(code.value == "workbench compare /base /checkpoint" for code in at.code)


def test_what_a_click_on_a_token_chooses_is_in_the_box(page):
    figure = next(f for f in figures(page()) if "Routing of fact" in json.dumps(f["layout"]["title"]))
    marks = next(s for s in figure["data"] if isinstance(s.get("meta"), list) and s["meta"] == ["cell", "after"])
    options = page().selectbox(key="expert").options
    assert options == ["all experts", *(f"expert {n}" for n in sorted(set(marks["x"])))]


def test_a_run_of_before_has_cards_with_the_commands(app, copy):
    for name in ("token_routing", "expert_load", "expert_shift"):
        for path in copy.glob(f"moe/traces/*/{name}*"):
            path.unlink()
    resign(copy / "moe")
    at = app(copy, "experts", run="moe", layer="2", expert="3")
    assert not at.exception and not at.error
    assert "made before audits read them" in said(at) and "Token by expert: not measured" in said(at)
    assert "look expert_shift" in said(at) and "look token_routing" in said(at)
    assert len(at.get("plotly_chart")) == 1  # the effects are there


def test_a_dense_model_has_one_card(app, full):
    at = app(full, "experts", run="one")
    assert not at.exception and not at.error and not at.get("plotly_chart")
    assert said(at).count(": not measured") == 1 and "choose the run of a mixture" in said(at)


def test_text_of_models_does_nothing(app, copy):
    for role in ("base", "checkpoint", "reference"):
        change(copy / "moe", f"traces/{role}/token_routing.forget.json", _nasty)
    resign(copy / "moe")
    at = app(copy, "experts", run="moe", item="0", layer="2", expert="3")
    assert not at.exception and not at.error
    everything = said(at) + json.dumps(figures(at), ensure_ascii=False)
    for control in ("\x1b", "\x07", "\x00", "\u202e", "\u2028"):
        assert control not in everything
    assert "<script" not in json.dumps(figures(at)) and "<img" not in json.dumps(figures(at))
    assert html.escape("<script>", quote=False) in json.dumps(figures(at), ensure_ascii=False)
    change(copy / "moe", "traces/base/token_routing.forget.json", lambda w: w["notes"].update(tokens=[]))
    resign(copy / "moe")
    assert "do not fit its numbers" in said(app(copy, "experts", run="moe", item="0", layer="2"))


def _nasty(words: dict) -> None:
    words["notes"]["tokens"] = [[HOSTILE[i % 8] for i, _ in enumerate(row)] for row in words["notes"]["tokens"]]
    words["notes"].update(prompt=["".join(HOSTILE)] * 99, answer=["".join(HOSTILE)] * 99)
