"""Lens: from which layer on does the model's own vocabulary spell the answer?"""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from workbench.errors import BadInput
from workbench.figures_click import CellAt
from workbench.figures_lens import Statistic, WordGrid, grids_figure, word_grid
from workbench.figures_ranks import TOP_K, among, entry_scatter, rank_curves, ranks_of
from workbench.figures_tokens import visible_lines
from workbench.pages.frame.by_fact import facts_by_layer
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.fact_read import fact_read
from workbench.pages.frame.one_reading import one_reading
from workbench.pages.frame.picture import download, grid, head, marks, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent, missing
from workbench.pages.frame.url import choose, pick
from workbench.report_pictures import picture_of
from workbench.trace import Trace
from workbench.trace_cuts import has_fact, named_layers, one_fact

KEY = "logit_lens"
WORDS = "lens_words.forget"
NUMBERS = {
    name: st.column_config.NumberColumn(format="%.3g")
    for name in ("probability", "rank", "its probability", "entropy", "KL from the base")
}
COLOURS: dict[Statistic, str] = {
    "probability": "probability",
    "rank": "rank",
    "entropy": "entropy",
    "kl": "KL from the base",
}
"""What the cells may be coloured by, in words."""

OF_ANSWER = "The colour is of the answer's first token; at tokens of the answer, of the one behind."
TOLD: dict[Statistic, str] = {
    "probability": OF_ANSWER,
    "rank": OF_ANSWER,
    "entropy": "The colour is of all words: 0 where one word is certain.",
    "kl": "The colour is how far all words are from the base's in that cell, so the base has no panel: KL divergence "
    "over the base's ten likeliest words with all others as one, which is a lower bound.",
}
"""What the colour says."""
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
    key = one_reading(run, KEY)
    if key is None:
        return
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
    _ranks(run, key, traces)
    if "layer" in first.axes:
        facts_by_layer(key, traces, first.units, "low" if statistic in ("rank", "entropy") else "high")
    _words(run)


def _map(key: str, traces: Mapping[str, Trace]) -> None:
    """Layer by position, of all facts or the chosen one."""
    fact = chosen().fact
    cut = {role: trace if fact is None else one_fact(trace, fact) for role, trace in traces.items()}
    drawn = picture_of(key, cut)
    if drawn.figure is None:
        absent(drawn.title, drawn.why)
    else:
        picture(drawn.figure, key, "Layer by position of the prompt; -1 is its last token, which predicts the answer.")


def _ranks(run: Opened, key: str, traces: Mapping[str, Trace]) -> None:
    """The rank of the answer by layer, and where it enters the first few, before against after."""
    st.subheader("Rank of the answer", anchor=False)
    try:
        ranks = {role: found for role, trace in traces.items() if (found := ranks_of(trace)) is not None}
    except BadInput as error:
        absent("Rank of the answer by layer", str(error), run.again)
        return
    if not ranks:
        absent(
            "Rank of the answer by layer",
            "this run's lens kept no ranks beside what it read: it was made before lenses did, or reads the layer of "
            "entry alone",
            run.again,
        )
        return
    k = int(pick("Counts as entered", "topk", [str(k) for k in TOP_K], lambda k: among(int(k))))
    fact = chosen().fact
    same = {role: t for role, t in ranks.items() if role != "never taught"}  # whose facts are others
    of_one = {role: one_fact(t, fact) for role, t in same.items() if fact and has_fact(t, fact)}
    what = "The answer's worst token among all words, 1 is first. "
    picture(
        rank_curves(of_one or ranks, f"Rank of the answer by layer{f', fact {fact}' if of_one else ''}", k),
        f"rank {key}",
        what
        + (
            "One fact."
            if of_one
            else "Median of the facts; the band holds the middle half of them and is no interval of the median."
        ),
    )
    _entries(run, ranks, k)


def _entries(run: Opened, ranks: Mapping[str, Trace], k: int) -> None:
    """Where each fact's answer enters, before against after."""
    title = f"First layer with the answer {among(k)}, before against after"
    compared = {role: trace for role, trace in ranks.items() if role != "never taught"}
    if "base" not in compared or len(compared) < 2:
        lost = "base" if "base" not in compared else "other"
        absent(title, f"it sets the base against another model, and this run read no {lost} model here", run.on.command)
        return
    base = compared["base"]
    alike = {"base": base} | {r: t for r, t in compared.items() if t.labels["layer"] == base.labels["layer"]}
    if len(alike) < 2:
        absent(title, "the other models have other layers than the base")
        return
    marks(
        entry_scatter(alike, k, title, chosen().fact or ""),
        "entry",
        _choose_fact,
        "A mark a fact. Above the line the answer enters later than in the base; on top it never does. Click a mark, "
        "or choose Item at the left.",
    )


def _choose_fact(number: str) -> None:
    """What a click on a mark does: the same as the box at the left."""
    st.session_state["item"] = number


def _words(run: Opened) -> None:
    """Layer by token over one fact, with the word that stands first in each cell."""
    st.subheader("Words inside, layer by token", anchor=False)
    traces = run.traces(WORDS)
    if not traces:
        absent("Layer by token, with the word that stands first in each cell", run.why_not_shown(WORDS), run.again)
        return
    first = next(iter(traces.values()))
    read = fact_read(run, first, "Words inside")
    if read is None:
        return
    number, fact = read
    try:
        grids = {role: word_grid(t, fact) for role, t in traces.items() if fact in t.labels["fact"]}
    except BadInput as error:
        absent("Words inside", str(error))
        return
    at = first.labels["fact"].index(fact)
    left, right = st.columns(2)
    tokens = next(iter(grids.values())).tokens
    places = [str(i) for i in range(len(tokens))]
    with left:
        place = choose("Token", "word", [ALL, *places], lambda i: "none" if i == ALL else tokens[int(i)])
    with right:
        statistic = pick("Colour", "colour", tuple(COLOURS), lambda s: COLOURS[_colour(s)])
    if chosen().fact is None:
        st.caption("No item is chosen: this is the first that was read. Choose Item at the left for another.")
    st.text(visible_lines(f"{first.notes['prompt'][at]} → {first.notes['answer'][at]}"))
    token = None if place == ALL else tokens[int(place)]
    _words_map(run, grids, _colour(statistic), (number, token))
    _cell(grids, chosen().layer, token, number)


def _colour(name: str) -> Statistic:
    return next(statistic for statistic in COLOURS if statistic == name)


def _words_map(
    run: Opened, grids: Mapping[str, WordGrid], statistic: Statistic, chosen_: tuple[str, str | None]
) -> None:
    """The clickable grids, coloured by one statistic."""
    number, token = chosen_
    layer = chosen().layer
    frame = CellAt(layer, token) if layer != ALL and token is not None else None
    title = f"Lens over fact {number}"
    lacking = [role for role, cells in grids.items() if cells.shown(statistic) is None]
    if len(lacking) == len(grids):
        why = "this run was made before the lens read it"
        if set(grids) == {"base"}:
            why = "it is told against the base, and words were read of the base alone"
        absent(f"{title}, coloured by {COLOURS[statistic]}", why, run.again)
        return
    told = (
        "Each cell holds the word that stands first if that layer were the last; pointing at it shows the first ten. "
        f"{TOLD[statistic]} Click a cell, or choose Layer (at the left) and Token."
    )
    lost = [role for role in lacking if not (statistic == "kl" and role == "base")]
    if lost:
        told += f" Not read of {', '.join(lost)}."
    grid(grids_figure(grids, title, statistic), "lens words", frame, _choose, safe(told))


def _choose(at: CellAt) -> None:
    """What a click does: the same as the two boxes. The label of a token begins with its place."""
    st.session_state["layer"], st.session_state["word"] = at.row, at.column.partition(" ")[0]


def _cell(grids: Mapping[str, WordGrid], layer: str, token: str | None, number: str) -> None:
    """What each model has in the chosen cell, and in the layers above and below it."""
    if layer == ALL or token is None:
        return
    table = pd.concat([cells.frame(role) for role, cells in grids.items()], ignore_index=True)
    column = table[table["token"] == token]
    here = column[column["layer"] == layer].drop(columns=["layer", "token"])
    st.subheader(f"Layer {safe(layer)}, token {safe(token)}", anchor=False)
    if here.empty:
        absent(f"Layer {layer}", "the lens was not read there")
        return
    st.dataframe(here, hide_index=True, column_config=NUMBERS, alt=f"First word of each model at layer {layer}.")
    download(here, "lens cell", f"lens fact {number} layer {layer} {token}")
    _likeliest(grids, layer, token)
    st.caption("The same token at every layer:")
    st.dataframe(
        column.drop(columns="token"), hide_index=True, height=260, column_config=NUMBERS, alt=f"Every layer at {token}."
    )
    download(column, "lens column", f"lens fact {number} {token}")


def _likeliest(grids: Mapping[str, WordGrid], layer: str, token: str) -> None:
    """The words that stand first in the chosen cell, a row a place."""
    found = {role: places for role, cells in grids.items() if (places := cells.places(layer, token))}
    if not found:
        st.caption("This run kept the first word of each cell alone; made again, it keeps ten.")
        return
    longest = max(len(places) for places in found.values())
    table = pd.DataFrame({"place": range(1, longest + 1)})
    for role, places in found.items():
        table[f"{role}: word"] = pd.Series([word for word, _ in places], dtype=str)
        table[f"{role}: probability"] = pd.Series([share for _, share in places], dtype=float)
    numbers = {f"{role}: probability": st.column_config.NumberColumn(format="%.3g") for role in found}
    st.caption("The likeliest words there:")
    st.dataframe(table, hide_index=True, column_config=numbers, alt=f"Likeliest words at layer {layer}, {token}.")
    download(table, "lens places", f"lens likeliest words layer {layer} {token}")


if __name__ == "__main__":
    page()
