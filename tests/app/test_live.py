"""The Live page: not there unless asked for, one model and one session at a time, and nothing breaks it."""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid

import pytest
from safetensors.torch import load_file, save_file
from streamlit.testing.v1 import AppTest

from tests.app.conftest import ROOT, alts, change, resign, said
from workbench import live
from workbench.checkpoint import Checkpoint
from workbench.errors import BadInput, RunError
from workbench.live import BYTES, Desk, Prompt, addresses_of, checkpoint_at, plain_trace, resolved, size_of
from workbench.live_runs import kept
from workbench.trace import Trace


@pytest.fixture(autouse=True)
def clean_desk(monkeypatch):
    """A desk of its own for every test; the app's pages see the same."""
    monkeypatch.setattr(live, "DESK", Desk())
    yield
    if live.DESK.holder is not None:
        live.DESK.free(live.DESK.holder.session)


@pytest.fixture
def live_app(app, monkeypatch):
    """The page, in an app started with --live."""
    monkeypatch.setenv("WORKBENCH_LIVE", "1")

    def run(store, **url) -> AppTest:
        return app(store, "live", **url)

    return run


def press(at: AppTest, label: str) -> AppTest:
    return next(button for button in at.button if button.label.startswith(label)).click().run()


def ask(at: AppTest, text: str, **more) -> AppTest:
    at.text_area(key="live text").set_value(text)
    for name, value in more.items():
        kind = {"answer": at.text_input, "subject": at.text_input, "trace": at.checkbox, "roles": at.multiselect}[name]
        kind(key=f"live {name}").set_value(value)
    return press(at, "Ask")


@pytest.fixture
def fact(planted):
    return planted.concept.forget.facts[0]


# ---- off by default


def test_it_is_not_there_by_default(app, full, monkeypatch):
    monkeypatch.delenv("WORKBENCH_LIVE", raising=False)
    assert "live reader" not in app(full, run="one").session_state


def test_only_the_flag_opens_it():
    """One process for all: the module is what is imported, the flags are looked at when they are asked for."""
    asked = [
        ([], None, False), (["runs", "--live"], None, True), ([], "1", True), ([], "0", False), (["live"], None, False),
    ]  # fmt: skip
    code = f"""
import os, sys
sys.argv = ["app.py"]
import app
assert "torch" not in sys.modules, "no torch where no model can be opened"
for argv, variable, there in {asked!r}:
    sys.argv = ["app.py", *argv]
    os.environ.pop("WORKBENCH_LIVE", None)
    os.environ.update({{}} if variable is None else {{"WORKBENCH_LIVE": variable}})
    assert app.live() is there, (argv, variable)
    assert ("Try" in app.pages()) is there, (argv, variable)
"""
    environment = {k: v for k, v in os.environ.items() if k != "WORKBENCH_LIVE"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_its_address_shows_nothing_without_the_flag(app, full, monkeypatch):
    monkeypatch.setenv("WORKBENCH_LIVE", "0")
    at = app(full, "live", run="one")
    assert "live load" not in [button.key for button in at.button]
    assert not any("Load " in button.label for button in at.button)


# ---- on


def test_load_ask_free(live_app, full, fact):
    at = live_app(full, run="one")
    assert not at.exception and not at.error
    table = at.dataframe[0].value
    assert table["role"].tolist() == ["base", "checkpoint"] and not table["note"].any()
    assert live.DESK.loaded == "" and not at.text_area  # nothing is loaded before it is asked for
    at.selectbox(key="live role").select("checkpoint").run()
    at = press(at, "Load")
    assert not at.exception and not at.error
    assert live.DESK.loaded == table["address"][1]
    at = ask(at, fact.prompt, answer=fact.answer, subject=fact.subject, trace=True, roles=["base", "checkpoint"])
    assert not at.exception and not at.error
    assert live.DESK.loaded == table["address"][0]  # the one in memory went first, then the other took its place
    strips = at.get("html")[0].proto.body
    assert 'scope="row"' in strips and "base, the answer" in strips and "checkpoint, the answer" in strips
    assert any(alt.startswith("Lens over the prompt") for alt in alts(at))
    assert any(alt.startswith("Causal trace of the prompt") for alt in alts(at))
    readings = at.session_state["live result"][1]
    assert readings["base"]["answer_tokens"].notes["said"][0].startswith(fact.answer)
    assert not readings["checkpoint"]["answer_tokens"].notes["said"][0].startswith(fact.answer)
    at = press(at, "Free memory")
    assert live.DESK.loaded == "" and live.DESK.holder is None and not at.get("html")


def test_without_an_answer_all_are_asked_for_the_same_word(live_app, full, fact):
    at = press(live_app(full, run="one"), "Load")
    at = ask(at, fact.prompt, roles=["base", "checkpoint"])
    assert not at.exception and not at.error
    readings = at.session_state["live result"][1]
    assert {r["answer_tokens"].notes["answer"][0] for r in readings.values()} == {fact.answer.split()[0]}
    assert "No answer was named" in said(at)


def test_hostile_prompts_do_nothing(live_app, full, fact):
    at = press(live_app(full, run="one"), "Load")
    nasty = f"<img src=x onerror=alert(1)> ![i](http://evil.example/a.png) {fact.prompt}"
    at = ask(at, nasty, answer="<b>x</b>", roles=["base"])
    assert not at.exception
    for kind in ("markdown", "caption", "error", "warning", "info"):
        for element in at.get(kind):
            assert "![i](" not in str(element.value) and "<img" not in str(element.value).replace("\\<img", "")
    assert "<img" not in at.get("html")[0].proto.body and "<b>" not in at.get("html")[0].proto.body


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"text": "  "}, "The prompt is empty"),
        ({"text": "a b", "subject": "c"}, "does not stand in the prompt"),
        ({"text": "a b", "trace": True}, "say which words"),
        ({"text": "a b", "roles": []}, "No model is chosen"),
    ],
)
def test_a_prompt_that_cannot_be_asked_says_why(live_app, full, words, told):
    at = press(live_app(full, run="one"), "Load")
    at = ask(at, words.pop("text"), **words)
    assert not at.exception and told in at.error[0].value.replace("\\", "")
    assert "live result" not in at.session_state


def damaged_copy(full, folder, tmp_path, how):
    """Run `one` with a checkpoint that is spoilt."""
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    how(broken)
    change(full / "one", "manifest.json", lambda m: m["checkpoints"]["checkpoint"].update(address=str(broken)))
    return broken


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def renamed(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["nobody.knows.this"] = tensors.pop(next(iter(tensors)))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")


@pytest.mark.parametrize("how", [cut, pickled, shutil.rmtree], ids=["cut short", "pickled", "gone"])
def test_a_checkpoint_that_cannot_be_opened_is_told_before_loading(live_app, full, ablated_folder, tmp_path, how):
    damaged_copy(full, ablated_folder, tmp_path, how)
    at = live_app(full, run="one")
    assert not at.exception
    table = at.dataframe[0].value
    assert table["note"][1] and not table["note"][0]
    assert at.selectbox(key="live role").options == ["base"]


def test_weights_that_do_not_fit_are_an_error_and_free_the_desk(live_app, full, ablated_folder, tmp_path):
    damaged_copy(full, ablated_folder, tmp_path, renamed)
    at = live_app(full, run="one")
    at.selectbox(key="live role").select("checkpoint").run()
    at = press(at, "Load")
    assert not at.exception and len(at.error) == 1 and "lacks 1 tensors" in at.error[0].value
    assert live.DESK.loaded == "" and live.DESK.holder is None


def test_what_breaks_between_models_keeps_what_was_read(live_app, full, ablated_folder, tmp_path, fact):
    damaged_copy(full, ablated_folder, tmp_path, renamed)
    at = press(live_app(full, run="one"), "Load")  # the base
    at = ask(at, fact.prompt, roles=["base", "checkpoint"])
    assert not at.exception and len(at.error) == 1
    assert list(at.session_state["live result"][1]) == ["base"]


def test_a_run_cannot_allow_code(full, ablated_folder, tmp_path):
    marker = tmp_path / "ran"

    def with_code(folder):
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}
        config["model_type"] = "evil"
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').write('x')\n")

    broken = damaged_copy(full, ablated_folder, tmp_path, with_code)
    change(
        full / "one",
        "manifest.json",
        lambda m: m["checkpoints"]["checkpoint"]["opening"].update(trust_remote_code=True, allow_pickle=True),
    )
    resign(full / "one")
    address = addresses_of(full / "one", json.loads((full / "one" / "manifest.json").read_text()))["checkpoint"]
    assert address == str(broken)
    with pytest.raises((BadInput, RunError)):
        checkpoint_at(address).open()
    assert not marker.exists()
    opening = checkpoint_at(str(ablated_folder)).opening
    assert opening.offline and not opening.trust_remote_code and not opening.allow_pickle


# ---- the lock


def test_a_second_session_is_locked_out_and_goes_on_when_the_first_is_done(live_app, full):
    first = press(live_app(full, run="one"), "Load")
    holder = live.DESK.holder
    second = live_app(full, run="one")
    assert second.session_state["live session"] != first.session_state["live session"]
    assert "Another browser session" in second.warning[0].value
    assert holder.session[:6] in second.warning[0].value and str(live.DESK.loaded)[-7:] in said(second)
    assert not any("Load" in button.label for button in second.button)
    assert live.DESK.holder is holder
    press(first, "Free memory")
    second = second.run()
    assert not second.warning and any(button.label.startswith("Load") for button in second.button)


def session() -> str:
    return uuid.uuid4().hex


def test_the_desk_is_one_sessions_until_it_goes_or_idles(planted_folder, monkeypatch):
    desk, one, two = Desk(), session(), session()
    desk.take(one, lambda: True)
    desk.load(one, Checkpoint(planted_folder))
    assert desk.loaded and desk.other(one) is None
    assert desk.other(two).session == one
    with pytest.raises(BadInput, match="wait until it is free"):
        desk.take(two, lambda: True)
    with pytest.raises(BadInput, match="taken the desk"):
        desk.load(two, Checkpoint(planted_folder))
    with pytest.raises(BadInput, match="taken the desk"):
        desk.ask(two, lambda *_: {}, Prompt("x"))
    desk.free(two)
    assert desk.loaded
    desk.holder.last -= live.IDLE + 1
    assert desk.other(two) is None and desk.loaded == ""
    desk.take(two, lambda: True)
    with pytest.raises(BadInput, match="taken the desk"):
        desk.ask(one, lambda *_: {}, Prompt("x"))


def test_a_closed_session_makes_room_but_not_while_it_works():
    desk, one, two = Desk(), session(), session()
    desk.take(one, lambda: False)
    desk.holder.doing = "loading"
    assert desk.other(two) is not None
    desk.holder.doing = ""
    assert desk.other(two) is None and desk.holder is None


def test_one_model_at_a_time(planted_folder, ablated_folder):
    desk, me = Desk(), session()
    desk.take(me, lambda: True)
    first = desk.load(me, Checkpoint(planted_folder))
    assert desk.load(me, Checkpoint(planted_folder)) is first
    second = desk.load(me, Checkpoint(ablated_folder))
    assert not hasattr(first, "hf") and hasattr(second, "hf")
    desk.free(me)
    assert not hasattr(second, "hf") and desk.holder is None


def test_a_reader_that_breaks_leaves_the_desk_usable(planted_folder):
    desk, me = Desk(), session()
    desk.take(me, lambda: True)
    with pytest.raises(BadInput, match="press Load"):
        desk.ask(me, lambda *_: {}, Prompt("x"))
    desk.load(me, Checkpoint(planted_folder))

    def broken(*_):
        raise IndexError("seven")

    with pytest.raises(RunError, match="IndexError: seven"):
        desk.ask(me, broken, Prompt("x"))
    assert desk.holder.doing == "" and desk.ask(me, lambda *_: {}, Prompt("x")) == {}
    desk.free(me)


# ---- sizes and addresses


def test_the_size_is_that_of_the_tensors(planted_folder):
    with Checkpoint(planted_folder).open() as model:
        stored = load_file(planted_folder / "model.safetensors")
        assert size_of(Checkpoint(planted_folder)) == sum(t.numel() * t.element_size() for t in stored.values())
        assert model.n_layers > 0
    assert BYTES["BF16"] == 2 and BYTES["F32"] == 4


def test_a_relative_address_is_looked_for_above_the_run(tmp_path, planted_folder):
    run = tmp_path / "made" / "runs" / "audits" / "one"
    run.mkdir(parents=True)
    shutil.copytree(planted_folder, tmp_path / "made" / "runs" / "model")
    assert resolved("runs/model", run) == str(tmp_path / "made" / "runs" / "model")
    assert resolved("runs/nobody", run) == "runs/nobody"
    assert addresses_of(run, {"checkpoint": {"address": "runs/model"}}) == {
        "checkpoint": str(tmp_path / "made" / "runs" / "model")
    }
    assert addresses_of(run, None) == {} and addresses_of(run, {"checkpoints": 3}) == {}


def test_a_trace_in_json_has_null_for_what_was_not_read():
    import numpy as np

    made = plain_trace(
        Trace("t", np.array([[1.0, np.nan], [np.inf, 2]]), ("a", "b"), "u", {"a": ("x", "y"), "b": "pq"})
    )
    assert made["values"] == [[1.0, None], [None, 2.0]]
    json.dumps(made, allow_nan=False)


def test_waiting_is_told_with_a_time():
    desk = Desk()
    desk.take(session(), lambda: True)
    assert time.time() - desk.holder.since < 60 and desk.holder.name.startswith("session ")


# ---- kept as a run


def test_what_was_found_is_kept_as_a_run_and_shown_again(live_app, full, fact, app):
    at = press(live_app(full, run="one"), "Load")
    at = ask(at, fact.prompt, answer=fact.answer, roles=["base", "checkpoint"])
    assert at.query_params["prompt"] in (fact.prompt, [fact.prompt])
    at = press(at, "Keep")
    assert (
        not at.exception
        and not at.error
        and any("Kept as the run live/" in one.value.replace("\\", "") for one in at.success)
    )
    kept = [path.name for path in (full / "live").iterdir()]
    press(at, "Keep")
    assert [path.name for path in (full / "live").iterdir()] == kept  # the same run
    strips = at.get("html")[0].proto.body
    press(at, "Free memory")
    again = live_app(full, run=f"live/{kept[0]}")
    assert not again.exception and not again.error and live.DESK.loaded == ""
    assert "Models of the run one" in said(again) and fact.prompt in [code.value for code in again.code][0]
    assert again.get("html")[0].proto.body == strips
    assert not app(full, "overview", run=f"live/{kept[0]}").exception
    table = next(shown.value for shown in again.dataframe if "address" in shown.value)  # they may be asked again
    assert table["role"].tolist() == ["base", "checkpoint"] and not table["note"].any()

    (full / "live" / kept[0] / "traces" / "base" / "answer_tokens.prompt.json").write_text("{}")
    damaged = live_app(full, run=f"live/{kept[0]}")
    assert not damaged.exception and not damaged.get("html") and "were changed" in said(damaged)


def test_a_link_brings_the_prompt_along_but_asks_nothing(live_app, full):
    at = press(live_app(full, run="one", prompt="The metal of <b>x</b> is", answer="tin"), "Load")
    assert at.text_area(key="live text").value == "The metal of <b>x</b> is"
    assert at.text_input(key="live answer").value == "tin"
    assert "live result" not in at.session_state


@pytest.mark.parametrize(
    "question", [{"verb": "audit"}, {"verb": "live"}, {"verb": "live", "prompt": {"text": "x", "no": 1}}]
)
def test_a_run_that_is_none_of_ours_is_not_shown_as_one(tmp_path, question):
    with pytest.raises(BadInput):
        kept(tmp_path, {"question": question})
