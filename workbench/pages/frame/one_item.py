"""One fact and everything that was read on it: its tokens, every way it was asked, and what lies inside.

A pinned fact stays beside the chosen one: its strips, and its numbers in the same picture and table.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import streamlit as st

from workbench.askings import Asking, askings, askings_table, asks, unmatched
from workbench.errors import BadInput
from workbench.figures import compare_means
from workbench.figures_items import askings_map
from workbench.figures_tokens import Strip, strip_words, strips_html, strips_of, strips_table, visible_lines
from workbench.pages.frame.chosen import NONE, chosen
from workbench.pages.frame.picture import download, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent
from workbench.pages.frame.url import choose
from workbench.report_pictures import Key, with_controls
from workbench.trace import Trace
from workbench.trace_cuts import fact_number, one_fact

FIRST, TOKENS = "accuracy.forget", "answer_tokens.forget"

NO_ASKING = {
    "causal_trace",
    "lens_words",
    "token_routing",
    "expert_load",
    "expert_shift",
    "probe_kinds",
    "moved_vectors",
}
"""Readings that ask nobody and have pages of their own; they are large, so they are not even opened here."""

CONTROLS = ("never taught", "shuffled answers")
"""Roles that hold other facts."""


def one_item(run: Opened, among: Sequence[str]) -> None:
    """The chosen fact, the pinned one beside it.

    Args:
        run: Run A.
        among: numbers of the facts that Previous and Next step through.
    """
    item = chosen().fact
    st.subheader("One item", anchor=False)
    if item is None:
        st.caption("Choose an item in the table, or Item at the left.")
        return
    labels = {fact_number(label): label for label in _labels(run)}
    pinned = _steps(item, [one for one in among if one in labels] or list(labels), labels)
    if pinned is None:
        st.text(labels.get(item, item))
        _strips(run, item, "strips")
    else:
        left, right = st.columns(2, border=True)
        for column, name, one in ((left, "Chosen", item), (right, "Pinned", pinned)):
            with column:
                st.caption(name)
                st.text(labels.get(one, one))
                _strips(run, one, f"strips {name}")
    found = _readings(run)
    _asked(run, found, labels.get(item, item), labels[pinned] if pinned is not None else None)
    _inside(run, {key: traces for key, traces in found.items() if not _is_asking(key, traces)}, item, pinned)


def _labels(run: Opened) -> Sequence[str]:
    trace = run.trace("checkpoint", FIRST)
    return trace.labels["fact"] if trace is not None else ()


def _steps(item: str, among: Sequence[str], labels: Mapping[str, str]) -> str | None:
    """Buttons to the facts before and after and to pin this one; returns the pinned one."""
    at = among.index(item) if item in among else -1
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for words, to in (("Previous", at - 1), ("Next", at + 1)):
            there = 0 <= to < len(among)
            st.button(words, key=words, disabled=not there, on_click=_go, args=("item", among[to] if there else item))
        st.button(
            "Pin as reference", disabled=item not in labels, on_click=_go, args=("pin", item), key="pin this", width=150
        )
        with st.container(width=420):
            pinned = choose(
                "Pinned item", "pin", [NONE, *labels], lambda n: labels.get(n, n), "Stays beside the chosen one."
            )
    return None if pinned == NONE else pinned


def _go(name: str, value: str) -> None:
    st.session_state[name] = value


def _readings(run: Opened) -> dict[str, dict[str, Trace]]:
    """Everything read on the forget facts and their rewordings."""
    instruments = {Key.parse(key).instrument for keys in run.stored.values() for key in keys}
    keys = run.keys(*sorted(instruments - NO_ASKING))
    return {key: run.traces(key) for key in keys if Key.parse(key).on in ("forget", "paraphrases", "formats")}


def _is_asking(key: str, traces: Mapping[str, Trace]) -> bool:
    return any(asks(key, trace) for trace in traces.values())


def _asked(run: Opened, readings: Mapping[str, Mapping[str, Trace]], fact: str, pinned: str | None) -> None:
    """Every wording and attack of the fact, as a picture and a table."""
    st.markdown("**Asked as taught, in other words, and under attack**")
    found: list[Asking] = askings(readings, fact)
    other = askings(readings, pinned) if pinned is not None else []
    if not found:
        absent("Answers to this fact", run.why_missing(FIRST), run.on.command)
        return
    number = fact_number(fact)
    title = f"Fact {number}" + (f", and fact {fact_number(pinned)} pinned" if pinned is not None else "")
    picture(askings_map(found, title, other), "asked", "Light is the answer. A dash: not asked so, or not read.")
    lost = unmatched(readings)
    if lost:
        absent(
            f"Wordings of this fact ({', '.join(run.words(key) for key in lost)})",
            "this run was made before readings noted which fact each wording words anew",
            run.again,
        )
    table = askings_table(found, other)
    st.dataframe(
        table,
        hide_index=True,
        height=min(460, 38 + 35 * len(table)),
        column_config={"prompt": st.column_config.TextColumn(width="large")}
        | {str(name): st.column_config.NumberColumn(format="%.3g") for name in table if table[name].dtype == float},
        alt=f"{len(table)} ways in which fact {number} was asked.",
    )
    st.caption(
        "1 is right, 0 wrong; a share is a mean over seeds. An empty prompt was not stored. What a model said is kept "
        "for the fact as taught, and for other forms where the suite reads it."
    )
    download(table, "ways asked", f"ways of asking item {number}")


def _inside(run: Opened, readings: Mapping[str, Mapping[str, Trace]], item: str, pinned: str | None) -> None:
    """What else was read on the fact, a picture a unit."""
    by_units: dict[str, dict[str, Mapping[str, Trace]]] = {}
    for key, traces in readings.items():
        if Key.parse(key).on != "forget" or Key.parse(key).instrument == "answer_tokens":
            continue
        for number, words in ((item, run.words(key)), (pinned, f"{run.words(key)}, pinned")):
            of_fact = {} if number is None else _of_fact(key, traces, number)
            if of_fact:
                by_units.setdefault(next(iter(of_fact.values())).units, {})[words] = of_fact
    for units, found in by_units.items():
        picture(compare_means(found, f"Fact {item}: {units}", units), f"item {units}", "Largest over layers.")


def _of_fact(key: str, traces: Mapping[str, Trace], number: str) -> dict[str, Trace]:
    """One number a role: means over seeds, the last step, the largest over layers; what has no facts is left out."""
    found = {}
    for role, trace in with_controls(key, traces).items():
        if "fact" not in trace.axes or role in CONTROLS:
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


def _strips(run: Opened, number: str, key: str) -> None:
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
    _in_numbers(strips, key, number)


def _in_numbers(strips: Mapping[str, Mapping[str, Strip]], key: str, number: str) -> None:
    table = strips_table(strips)
    with st.expander(f"In words and numbers ({len(table)} tokens)", key=f"{key} in numbers"):
        for role, row in strips.items():
            for name, strip in row.items():
                st.text(strip_words(f"{role}, {name}", strip))
        st.dataframe(table, hide_index=True, alt="Probability of every token, by model and text.")
    download(table, key, f"tokens of item {number}")
