"""Items: which facts were lost, kept or gained, and everything that was read on one of them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import streamlit as st

from workbench.errors import BadInput
from workbench.figures import compare_means
from workbench.figures_click import CellAt
from workbench.figures_items import QUADRANTS, discordance, quadrants_of
from workbench.figures_tokens import Strip, strip_words, strips_html, strips_of, strips_table, visible_lines
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.picture import download, grid, head, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, missing
from workbench.pages.frame.url import choose
from workbench.report_pictures import Key, with_controls
from workbench.trace import Trace
from workbench.trace_cuts import fact_number, one_fact

FIRST = "accuracy.forget"
PROBABILITY = "answer_probability"
TOKENS = "answer_tokens.forget"


def page() -> None:
    """The four quadrants, the items in the chosen one, and the chosen item."""
    run = chosen().run
    head("Items", "Which facts did it lose, and what is left of each?", run)
    keys = sorted(run.keys("accuracy"), key=lambda key: (key != FIRST, key))
    if not keys:
        missing(run, FIRST)
        return
    key = choose("Slice", "slice", keys, run.words)
    traces = run.traces(key)
    if "base" in traces and "checkpoint" in traces:
        quad = _quadrants(run, key, traces)
    else:
        absent("Right and wrong before and after", "only one model was read", run.on.command)
        quad = None
    _table(run, key, traces, quad)
    if Key.parse(key).on == "forget":
        _item(run)


def _quadrants(run: Opened, key: str, traces: Mapping[str, Trace]) -> np.ndarray | None:
    """The clickable counts; returns which items are in the chosen quadrant."""
    try:
        found = quadrants_of(traces["base"], traces["checkpoint"])
    except BadInput as error:
        absent(run.words(key), str(error))
        return None
    quad = choose("Quadrant", "quad", [ALL, *QUADRANTS], lambda q: "all items" if q == ALL else _words(q))
    figure = discordance(traces["base"], traces["checkpoint"], run.words(key))
    grid(figure, "discordance", None, _choose, "Click a quadrant, or choose it above.")  # a frame would hide the count
    return np.full(found.shape, True) if quad == ALL else found == quad


def _words(quad: str) -> str:
    return f"{quad}: {QUADRANTS[quad][0]}, {QUADRANTS[quad][1]}"


def _choose(at: CellAt) -> None:
    st.session_state["quad"] = next(name for name, place in QUADRANTS.items() if place == (at.row, at.column))


def _table(run: Opened, key: str, traces: Mapping[str, Trace], quad: np.ndarray | None) -> None:
    """Every item of the quadrant, a row; a click chooses it."""
    first = next(iter(traces.values()))
    table = pd.DataFrame({"item": first.labels["fact"]})
    for role, trace in traces.items():
        table[f"{role}: right"] = _numbers(trace, first.labels["fact"])
    likely = key.replace("accuracy", PROBABILITY, 1)
    for role, trace in run.traces(likely).items():
        table[f"{role}: probability"] = _numbers(trace, first.labels["fact"])
    table = table if quad is None else table[quad]
    if table.empty:
        st.info("No item is in this quadrant.")
        return
    names = [fact_number(item) for item in table["item"]]

    def told() -> None:
        rows = ((st.session_state.get("items") or {}).get("selection") or {}).get("rows") or ()
        if rows and Key.parse(key).on == "forget":
            st.session_state["item"] = names[rows[0]]

    st.dataframe(
        table,
        hide_index=True,
        key="items",
        on_select=told,
        selection_mode="single-row",
        height=min(420, 38 + 35 * len(table)),
        column_config={c: st.column_config.NumberColumn(format="%.3f") for c in table.columns if "probability" in c},
        alt=f"{len(table)} items, right or wrong for each model.",
    )
    st.caption(f"{len(table)} items. Click a row, or choose Item at the left, for all that was read on it.")
    download(table, "items", f"items {key}")


def _numbers(trace: Trace, labels: Sequence[str]) -> list[float]:
    """One number an item, in the order of the labels; NaN where the trace has no such item."""
    trace = trace.mean("seed") if "seed" in trace.axes else trace
    known = dict(zip(trace.labels["fact"], map(float, trace.values), strict=True)) if trace.axes == ("fact",) else {}
    return [known.get(label, float("nan")) for label in labels]


def _item(run: Opened) -> None:
    """Everything that was read on the chosen fact, role by role."""
    number = chosen().fact
    st.subheader("One item", anchor=False)
    if number is None:
        st.caption("Choose an item in the table, or Item at the left.")
        return
    found = {key: _of_fact(run, key, number) for key in run.keys(*_instruments(run)) if Key.parse(key).on == "forget"}
    by_units: dict[str, dict[str, Mapping[str, Trace]]] = {}
    for key, traces in found.items():
        if traces:
            by_units.setdefault(next(iter(traces.values())).units, {})[run.words(key)] = traces
    label = next((t for t in _labels(run) if fact_number(t) == number), number)
    st.text(label)
    _steps(run, number)
    _strips(run, number)
    for units, readings in by_units.items():
        picture(
            compare_means(readings, f"Fact {number}: {units}", units),
            f"item {units}",
            "Largest over layers; last step.",
        )


def _strips(run: Opened, number: str) -> None:
    """Prompt, target, and what each model makes of them, token by token."""
    traces = run.traces(TOKENS)
    st.markdown("**Token by token**")
    if not traces:
        absent("Words and tokens of the answer", run.why_not_shown(TOKENS), run.again)
        return
    strips: dict[str, Mapping[str, Strip]] = {}
    for role, trace in traces.items():
        label = next((text for text in trace.labels["fact"] if fact_number(text) == number), None)
        if label is None:
            continue
        try:
            prompt, strips[role] = strips_of(trace, label)
        except (LookupError, TypeError, ValueError):
            absent(f"Tokens of {role}", "its notes do not fit its numbers; `workbench verify` checks the run")
            continue
        if role in ("checkpoint", next(iter(traces))):
            shown, target = prompt, str(trace.notes["answer"][trace.labels["fact"].index(label)])
    if not strips:
        absent("Words and tokens of the answer", "this fact was not read token by token", run.again)
        return
    st.caption("Prompt, as the model was shown it, and target")
    st.code(visible_lines(f"{shown}\n{target}"), language=None, wrap_lines=True)
    st.html(strips_html(strips))
    st.caption(
        "The answer is put in its mouth token by token (each is predicted from the prompt and those before); what it "
        "says is its own greedy text. One scale for all."
    )
    table = strips_table(strips)
    with st.expander(f"In words and numbers ({len(table)} tokens)", key="strips in numbers"):
        for role, row in strips.items():
            for name, strip in row.items():
                st.text(strip_words(f"{role}, {name}", strip))
        st.dataframe(table, hide_index=True, alt="Probability of every token, by model and text.")
    download(table, "strips", f"tokens of item {number}")


def _labels(run: Opened) -> Sequence[str]:
    trace = run.trace("checkpoint", FIRST)
    return trace.labels["fact"] if trace is not None else ()


def _steps(run: Opened, number: str) -> None:
    """Buttons to the facts before and after."""
    every = [fact_number(label) for label in _labels(run)]
    if number not in every:
        return
    at = every.index(number)
    with st.container(horizontal=True):
        for words, to in (("Previous", at - 1), ("Next", at + 1)):
            there = 0 <= to < len(every)
            st.button(words, key=words, disabled=not there, on_click=_go, args=(every[to] if there else number,))


def _go(number: str) -> None:
    st.session_state["item"] = number


def _instruments(run: Opened) -> list[str]:
    every = {Key.parse(key).instrument for keys in run.stored.values() for key in keys}
    return sorted(every - {"causal_trace", "answer_tokens", "lens_words", "probe_kinds"})


def _of_fact(run: Opened, key: str, number: str) -> dict[str, Trace]:
    """One number a role: means over seeds, the last step, the largest over layers; what has no facts is left out."""
    found = {}
    for role, trace in with_controls(key, run.traces(key)).items():
        if "fact" not in trace.axes or role in ("never taught", "shuffled answers"):
            continue
        try:
            one = one_fact(trace, number)
        except BadInput:
            continue
        one = one.mean("seed") if "seed" in one.axes else one
        one = one.pick("step", one.labels["step"][-1]) if "step" in one.axes else one
        values = one.values[np.isfinite(one.values)]
        found[role] = Trace(one.name, np.asarray(values.max() if values.size else np.nan), (), one.units, {})
    return found


if __name__ == "__main__":
    page()
