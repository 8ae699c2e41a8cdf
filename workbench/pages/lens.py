"""Lens: from which layer on does the model's own vocabulary spell the answer?"""

import shlex
from collections.abc import Mapping

import streamlit as st

from workbench.pages.frame.by_fact import facts_by_layer
from workbench.pages.frame.chosen import chosen
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import head, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, missing
from workbench.pages.frame.url import choose
from workbench.report_pictures import picture_of
from workbench.trace import Trace
from workbench.trace_cuts import named_layers, one_fact

KEY = "logit_lens"
STATISTICS = {
    "choice": "whether the answer is the likeliest of the fact's candidates",
    "probability": "probability of the answer",
    "logprob": "log-probability of the answer",
    "rank": "rank of the answer in the vocabulary, 1 is first",
    "entropy": "entropy of what the lens says",
    "entry": "blocks run before the answer is among the first",
}
"""What the lens read, in words."""


def page() -> None:
    """The curve of all facts, the facts at a layer, and one fact."""
    run = chosen().run
    head("Lens", "Is the answer readable from the states between the layers, whatever the model says?", run)
    keys = run.keys(KEY)
    if not keys:
        missing(run, f"{KEY}.forget")
        return
    key = choose("Reading", "reading", keys, run.words) if len(keys) > 1 else keys[0]
    traces = {role: named_layers(trace) for role, trace in run.traces(key, control=True).items()}
    if not traces:
        missing(run, key)
        return
    first = next(iter(traces.values()))
    options = first.notes.get("options", {})
    statistic = str(options.get("statistic", "choice"))
    st.caption(f"Read: {safe(STATISTICS.get(statistic, statistic))}, by the {safe(options.get('lens', 'logit'))} lens.")
    if "position" in first.axes:
        _map(key, traces)
        return
    drawn = picture_of(key, traces)
    if drawn.figure is None:
        absent(drawn.title, drawn.why)
    else:
        caption = (
            "The last layer is what the model says. A curve above the reference before it is knowledge kept quiet."
        )
        picture(drawn.figure, key, caption)
    if "layer" in first.axes:
        facts_by_layer(key, traces, first.units, "low" if statistic in ("rank", "entropy") else "high")
    _tokens(run)


def _map(key: str, traces: Mapping[str, Trace]) -> None:
    """Layer by position, of all facts or the chosen one."""
    fact = chosen().fact
    cut = {role: trace if fact is None else one_fact(trace, fact) for role, trace in traces.items()}
    drawn = picture_of(key, cut)
    if drawn.figure is None:
        absent(drawn.title, drawn.why)
    else:
        picture(drawn.figure, key, "Layer by position of the prompt; -1 is its last token, which predicts the answer.")


def _tokens(run: Opened) -> None:
    """Runs keep numbers about the answer, not which word stands first."""
    where = run.on.manifest or {}
    about = (where.get("checkpoints") or {}).get("checkpoint") or where.get("checkpoint") or {}
    model = str(about.get("address") or "CHECKPOINT")
    absent(
        "Layer by token, with the word that stands first in each cell",
        "an audit reads the answer where it is predicted, and no run keeps words; the answer's rank at every token of "
        "the prompt (a map on this page) is read by",
        f"workbench look logit_lens {shlex.quote(model)} --concept CONCEPT --set positions=prompt --set statistic=rank",
    )


if __name__ == "__main__":
    page()
