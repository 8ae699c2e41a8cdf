"""SAE features: which features of a sparse autoencoder fire on the facts to forget, and how well does it fit here?"""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import streamlit as st

from workbench.errors import BadInput
from workbench.figures_click import CellAt
from workbench.figures_feature_changes import change_table, fates_map, feature_changes, tested_words
from workbench.figures_features import before_of, fates, feature_scatter, firing_histogram
from workbench.figures_style import number, plain
from workbench.pages.frame.chosen import chosen, label
from workbench.pages.frame.elsewhere import holders, holding
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.feature_card import feature_card
from workbench.pages.frame.picture import download, grid, head, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, banner
from workbench.pages.frame.url import choose
from workbench.shelf import Shelved
from workbench.sites import Site
from workbench.trace import Trace

KEY = "sae_features"
COMMAND = "workbench look sae_features CHECKPOINT --against BASE --concept CONCEPT"

FATES = {
    "killed": "Fired before, and on no token of the facts to forget any more.",
    "silenced": "Fires at most half as often as before.",
    "new": "Did not fire on the facts to forget before.",
}
"""What the counts count."""

GROWN = 1.5
"""How many times the error of the model before it takes to be spoken of where the run has no warning."""

FOUND = "found first"
"""The order of the run."""

WORDS = {
    "forget": "share of forget tokens",
    "retain": "share of retain tokens",
    "attribution": "attribution (logits a fact)",
    "forget_mean": "mean activation on forget",
    "forget_change": "change of the share, forget",
    "retain_change": "change of the share, retain",
    "forget_mean_change": "change of the mean activation",
    "q": "q of the change (smallest first)",
}
"""What the columns of the table are called."""


def page() -> None:
    """The fit, what changed layer by layer and feature by feature, and one feature in full."""
    run = chosen().run
    head("SAE features", "Which features of a sparse autoencoder fire on the facts to forget?", run)
    source = holding(run, [KEY], "sae", _told)
    traces = {} if source is None else _traces(source)
    if source is None or not traces:
        absent("SAE features", "an audit does not read them, and no other run on the shelf did", COMMAND)
        return
    if source is not run:
        banner(source)
    role = choose("Model", "model", list(traces)) if len(traces) > 1 else next(iter(traces))
    trace = traces[role]
    _caution(trace)
    _fit(trace)
    _changes(run, trace, source)
    st.subheader("All features that fire", anchor=False)
    picture(feature_scatter(trace), KEY, "Lower right: fires on the facts to forget and hardly on those to keep.")
    picture(firing_histogram(trace), "firing", "The number axis is logarithmic: most features never fire on few facts.")
    _features(trace, source)


def _traces(source: Opened) -> dict[str, Trace]:
    keys = source.keys(KEY)
    return source.traces(keys[0], other=False) if keys else {}


def _told(one: Shelved) -> str:
    """A run in one line, its autoencoder's place first."""
    trace = next(iter(_traces(Opened(one)).values()), None)
    return label(one) if trace is None else f"{trace.notes.get('site', 'site not noted')} · {label(one)}"


def _caution(trace: Trace) -> None:
    """Before anything else: whether the autoencoder still describes the model."""
    warned = [str(warning) for warning in trace.notes.get("warnings", ())]
    if warned:
        st.warning(
            "**Caution: the autoencoder describes this model worse than the model before.** A feature that falls "
            "silent or is new below may be the autoencoder's failure, not the model's change. "
            f"{safe('; '.join(warned), 900)}. A reading through an autoencoder trained on this model itself (the same "
            "command without a model to compare with) tells what fires here, though not what changed.",
            icon=":material/warning:",
        )
        return
    errors, before = trace.notes.get("reconstruction_error"), (trace.notes.get("before") or {})
    grown = {
        name: now / old
        for name, now in (errors or {}).items()
        if now is not None and (old := (before.get("reconstruction_error") or {}).get(name)) and now > GROWN * old
    }
    if grown:
        st.info(
            "The autoencoder's squared error is larger than on the model before: "
            + ", ".join(f"{number(times)} times on {safe(name)}" for name, times in grown.items())
            + ". That is within the limit this run was given for a caution (its option `degrade`), but some of the "
            "changes below may be the autoencoder's failure.",
            icon=":material/info:",
        )


def _fit(trace: Trace) -> None:
    """How much of the states the autoencoder explains, a set of facts a column."""
    explained = trace.notes.get("explained_variance", {})
    if not isinstance(explained, Mapping) or not explained:
        return
    st.subheader("How well the autoencoder fits", anchor=False)
    before = trace.notes.get("before") or {}
    for column, name in zip(st.columns(len(explained)), explained, strict=True):
        column.metric(f"variance explained: {safe(name)}", _both(before, trace.notes, "explained_variance", name))
        column.caption(f"squared error a token: {_both(before, trace.notes, 'reconstruction_error', name)}")
        column.caption(f"features active a token: {_both(before, trace.notes, 'l0', name)}")
    if before:
        st.caption(safe(f"Left of the arrow: in {before.get('model', 'the model before')}."))
    st.caption("Where it explains little, its features say little about this model, above all after an edit.")


def _both(before: Mapping[str, object], now: Mapping[str, object], what: str, name: str) -> str:
    """A number of both models, or of this one where the other was not read."""
    old, new = (side.get(what) for side in (before, now))
    told = number(new.get(name)) if isinstance(new, Mapping) else number(None)
    return f"{number(old[name])} → {told}" if isinstance(old, Mapping) and old.get(name) is not None else told


# ---- before and after


def _changes(run: Opened, trace: Trace, source: Opened) -> None:
    """What became of features: layer by layer, and those that changed most one by one."""
    st.subheader("Before and after", anchor=False)
    counts = fates(trace)
    if not counts:
        absent("Features before and after", "this run read one model only", f"{source.on.command} --against BASE")
        return
    for column, (fate, count) in zip(st.columns(len(counts)), counts.items(), strict=True):
        column.metric(f"{fate} on forget", count, help=FATES[fate])
    _layers(run, trace, source)
    told = tested_words(trace)
    picture(
        feature_changes(trace),
        "changes",
        f"{safe(told)}. Intervals are not corrected for having picked those that changed most; q is."
        if told
        else "Those that changed most, with no interval: see below.",
    )
    if not told:
        why = (trace.notes.get("why_not") or {}).get("intervals")
        why = why or "this run was made before readings kept firing fact by fact"
        absent("Intervals and false-discovery rates of the changes", str(why), source.again)


def _layers(run: Opened, trace: Trace, source: Opened) -> None:
    """The same counts of every run of the same models and facts; a click opens that run."""
    rows = _alike(run, trace, source)
    at = next((row for row, (name, _) in rows.items() if name == source.on.name), "")

    def told(cell: CellAt) -> None:
        names = {plain(row, 48): name for row, (name, _) in rows.items()}
        if cell.row in names:
            st.session_state["sae"] = names[cell.row]

    figure = fates_map({row: one for row, (_, one) in rows.items()}, at)
    words = "Killed and silenced are shares of the features that fired before, new of those that fire now."
    if len(rows) > 1:
        grid(figure, "fates", None, told, f"{words} Click a row, or choose the run above, to look into it.")
        return
    picture(figure, "fates", f"{words} One run reads one autoencoder at one place; more runs on the shelf add rows:")
    st.code(_elsewhere(source, trace), language="bash", wrap_lines=True)


def _alike(run: Opened, trace: Trace, source: Opened) -> dict[str, tuple[str, Trace]]:
    """Row -> run and reading of the same two models on the same facts, the lowest layer first."""
    found: list[tuple[str, Trace]] = [(source.on.name, trace)]
    for name, one in holders(run, [KEY]).items():
        found += [
            (name, other) for other in _traces(Opened(one)).values() if name != source.on.name and _same(trace, other)
        ]
    found.sort(key=lambda pair: (_layer(pair[1]), pair[0]))
    rows: dict[str, tuple[str, Trace]] = {}
    for name, reading in found:
        site = str(reading.notes.get("site", "site not noted"))
        again = sum(one.notes.get("site") == reading.notes.get("site") for _, one in rows.values())
        rows[f"{site} ({again + 1})" if again else site] = (name, reading)
    return rows


def _same(one: Trace, other: Trace) -> bool:
    """Whether two readings compare the same two models on the same facts."""
    asked = [
        (t.notes.get("identity"), t.notes.get("facts_digest"), (t.notes.get("before") or {}).get("identity"))
        for t in (one, other)
    ]
    return before_of(other) is not None and asked[0] == asked[1] and None not in asked[0]


def _layer(trace: Trace) -> int:
    try:
        return Site.parse(str(trace.notes.get("site"))).layer or 0
    except BadInput:
        return -1


def _elsewhere(source: Opened, trace: Trace) -> str:
    """The run's own command at the next layer."""
    there = f"L{_layer(trace) + 1}.resid_post"
    command = re.sub(r" --set[ =]site=\S+", "", source.again)
    return f"{command} --set site={there}"


# ---- every feature


def _features(trace: Trace, source: Opened) -> None:
    """Every feature that fires or did, in the chosen order; a click chooses one."""
    table = _table(trace)
    if table.empty:
        st.info("No feature fires on these tokens.")
        return
    columns = [FOUND, *(name for name in WORDS if name in table.columns)]
    sort = choose("Sort by", "sort", columns, lambda name: WORDS.get(name, name), default="forget_change")
    if sort != FOUND:
        key = table[sort].fillna(np.inf) if sort == "q" else -table[sort].abs().fillna(0.0)
        table = table.iloc[np.argsort(key.to_numpy(), kind="stable")].reset_index(drop=True)

    def told() -> None:
        rows = ((st.session_state.get("features") or {}).get("selection") or {}).get("rows") or ()
        if rows:
            st.session_state["feature"] = str(table["feature"].iloc[rows[0]])

    st.dataframe(
        table,
        hide_index=True,
        height=300,
        key="features",
        on_select=told,
        selection_mode="single-row",
        column_config={
            name: st.column_config.NumberColumn(WORDS[name].partition(" (")[0], format="%.3g")
            for name in table.columns
            if name in WORDS
        },
        alt=f"{len(table)} features that fire.",
    )
    said = trace.notes.get("axes", {}).get("measure", "")
    st.caption(safe(said) + ". Click a row, or choose a feature below.")
    download(table, "features", "sae features")
    feature_card(trace, choose("Feature", "feature", list(table["feature"])), source)


def _table(trace: Trace) -> pd.DataFrame:
    """A row a feature that fires in either model or was found."""
    table = pd.DataFrame({"feature": trace.labels["feature"]})
    for measure in trace.labels["measure"]:
        table[measure] = trace.pick("measure", measure).values.astype(float)
    found = [str(feature) for feature in trace.notes.get("found", ())]
    table.insert(1, "found", table["feature"].isin(found))
    there = (table["forget"] > 0) | (table["retain"] > 0) | table["found"]
    for side in ("forget", "retain"):
        before = before_of(trace, side)
        there |= False if before is None else np.nan_to_num(before) > 0
    if "change" in trace.notes:
        table["q"] = table["feature"].map(change_table(trace).set_index("feature")["q"])
    return table[there].reset_index(drop=True)


if __name__ == "__main__":
    page()
