"""What models made of one prompt: tokens, lens and trace side by side, freshly asked or from a kept run."""

from collections.abc import Mapping, Sequence

import streamlit as st

from workbench.figures_lens import grids_figure, word_grid
from workbench.figures_maps import compare_maps, map_figure
from workbench.figures_tokens import Strip, strip_words, strips_html, strips_of, strips_table, visible_lines
from workbench.live import Prompt, Readings
from workbench.pages.frame.picture import download, picture


def show(prompt: Prompt, found: Mapping[str, Readings]) -> None:
    """Prompt, answer, and every picture."""
    answer = next(iter(found.values()))["answer_tokens"].notes["answer"][0]
    st.code(visible_lines(f"{prompt.text}\n{answer}"), language=None, wrap_lines=True)
    if not prompt.answer:
        st.caption("No answer was named, so all were asked for the first word that the first of them said.")
    _strips(found)
    _lens(found)
    _trace(found)


def _strips(found: Mapping[str, Readings]) -> None:
    strips: dict[str, Mapping[str, Strip]] = {}
    for role, readings in found.items():
        trace = readings["answer_tokens"]
        _, strips[role] = strips_of(trace, trace.labels["fact"][0])
    st.html(strips_html(strips))
    table = strips_table(strips)
    with st.expander(f"In words and numbers ({len(table)} tokens)", key="live strips"):
        for role, row in strips.items():
            for name, strip in row.items():
                st.text(strip_words(f"{role}, {name}", strip))
        st.dataframe(table, hide_index=True, alt="Probability of every token, by model and text.")
    download(table, "live tokens", "live tokens")


def _lens(found: Mapping[str, Readings]) -> None:
    there = {role: readings["lens_words"] for role, readings in found.items() if "lens_words" in readings}
    if there:
        grids = {role: word_grid(trace, trace.labels["fact"][0]) for role, trace in there.items()}
        picture(
            grids_figure(grids, "Lens over the prompt"),
            "live lens",
            "The word that stands first if that layer were the last; colour is the probability of the answer's first "
            "token.",
        )


def _trace(found: Mapping[str, Readings]) -> None:
    there = {role: readings["causal_trace"] for role, readings in found.items() if "causal_trace" in readings}
    if "base" in there and "checkpoint" in there:
        sides: Sequence[str] = ("base", "checkpoint")
        before, after = (there[role] for role in sides)
        figure = compare_maps(before, after, there.get("reference"), "Causal trace of the prompt", greyed=False)
        picture(
            figure.update_xaxes(tickangle=-90), "live trace", "Noise on the subject; one prompt has no noise floor."
        )
        return
    for role, trace in there.items():
        picture(map_figure(trace, f"Causal trace of the prompt: {role}"), f"live trace {role}", "Noise on the subject.")
