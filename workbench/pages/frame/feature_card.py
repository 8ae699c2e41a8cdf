"""One feature of a sparse autoencoder in full: its numbers, how strongly it fires, where, and what it writes."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from workbench.figures_feature_changes import activation_histogram, change_table
from workbench.figures_features import before_of
from workbench.figures_sequences import Example, example_words, examples_html, examples_of, examples_table
from workbench.figures_style import number
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import download, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent
from workbench.trace import Trace

BLANKS = ("▁", "Ġ")
"""How SentencePiece and byte-level tokenizers write the blank before a word."""

OLDER = (
    "this older run keeps tokens only of the features it found; made again it has a histogram and texts too, and of "
    "those that changed most"
)

NOT_KEPT = "the run keeps tokens and texts only of the features it found and of those that changed most"


def feature_card(trace: Trace, feature: str, source: Opened) -> None:
    """All that the run holds on one feature.

    Args:
        trace: the reading.
        feature: its number.
        source: the run it is in.
    """
    st.subheader(f"Feature {safe(feature)}", anchor=False)
    _elsewhere(trace, feature)
    _tiles(trace, feature)
    kept = (trace.notes.get("features") or {}).get(feature)
    cards = trace.notes.get("cards")
    if not isinstance(kept, Mapping) and feature not in (cards or {}):
        again = "" if isinstance(cards, Mapping) else source.again
        absent(f"Feature {feature}, in texts and tokens", NOT_KEPT if not again else OLDER, again)
        return
    if isinstance(cards, Mapping):
        _fires(trace, feature)
    else:
        absent(f"Histogram and texts of feature {feature}", "this run was made before readings kept them", source.again)
    _writes(feature, kept)


def _elsewhere(trace: Trace, feature: str) -> None:
    """Where a published SAE's feature is described, as text to copy: nothing is fetched."""
    known = (trace.notes.get("sae") or {}).get("made_for") or {}
    if known.get("neuronpedia_id"):
        st.code(f"neuronpedia.org/{known['neuronpedia_id']}/{feature}", language=None)
        st.caption("Its page on Neuronpedia, as text: the app fetches nothing.")


def _tiles(trace: Trace, feature: str) -> None:
    """Density, mean, and the change with its interval and false-discovery rate."""
    sure = ""
    if before_of(trace) is None:
        told = {
            "share of forget tokens": number(float(trace.pick("feature", feature).pick("measure", "forget").values))
        }
        if "forget_mean" in trace.labels["measure"]:
            mean = float(trace.pick("feature", feature).pick("measure", "forget_mean").values)
            told["mean activation"] = number(mean)
    else:
        table = change_table(trace)
        row: Any = table[table["feature"] == feature].iloc[0]
        told = {"share of forget tokens": f"{number(row['before'])} → {number(row['after'])}"}
        if "mean before" in table:
            told["mean activation"] = f"{number(row['mean before'])} → {number(row['mean after'])}"
        told["change of the share"] = f"{row['change']:+.3g}"
        sure = _sure(row, "change" in trace.notes)
    for column, (name, value) in zip(st.columns(len(told)), told.items(), strict=True):
        column.metric(name, value)
        if name == "change of the share" and sure:
            column.caption(sure)


def _sure(row: Any, tested: bool) -> str:
    """How sure the change is, in words."""
    said = [f"95% interval {row['low']:+.3g} to {row['high']:+.3g}"] if pd.notna(row["low"]) else []
    if tested:
        said.append(f"q {number(row['q'])}, p {number(row['p'])}" if pd.notna(row["q"]) else "fires in neither model")
    return "; ".join(said)


def _fires(trace: Trace, feature: str) -> None:
    """How strongly, and in which texts."""
    figure = activation_histogram(trace, feature)
    if figure is not None:
        picture(figure, "activations", "Tokens of the facts to forget; those at which it does not fire are left out.")
    st.markdown("**Where it fires most**")
    try:
        examples = examples_of(trace, feature)
    except (LookupError, TypeError, ValueError) as error:
        absent("Texts", f"{error}; `workbench verify` checks the run")
        return
    if not examples:
        absent("Texts", "it fires on no token of the facts to forget, or the run was made with examples=0")
        return
    _texts(examples, feature)


def _texts(examples: tuple[Example, ...], feature: str) -> None:
    st.html(examples_html(examples))
    st.caption(
        "The facts to forget (prompt and answer, the answer underlined) in which it fires most strongly, in either "
        "model where two were read; each pair of rows is one text read by both, on one scale."
    )
    table = examples_table(examples)
    with st.expander(f"In words and numbers ({len(table)} tokens)", key="texts in numbers"):
        for place, one in enumerate(examples, 1):
            st.text(example_words(place, one))
        st.dataframe(table, hide_index=True, alt=f"Activations of feature {feature} at every token of its texts.")
    download(table, "texts", f"texts of feature {feature}")


def _writes(feature: str, kept: object) -> None:
    """The tokens whose logits its decoder row raises and lowers most."""
    lists = {}
    if isinstance(kept, Mapping):
        lists = {
            name: pd.Series([_shown(str(token)) for token in value], dtype=str)
            for name, value in kept.items()
            if isinstance(value, list)
        }
    st.markdown("**What it writes**")
    if not lists:
        absent(f"Tokens of feature {feature}", "this autoencoder does not write into the residual stream")
        return
    st.dataframe(pd.DataFrame(lists), hide_index=True, alt=f"What feature {feature} promotes and suppresses.")
    st.caption("Tokens with the largest and the smallest logits of its decoder row, read through the unembedding.")


def _shown(token: str) -> str:
    """A tokenizer's piece with the blank before a word as the dot that other texts have."""
    return f"·{token[1:]}" if token[:1] in BLANKS else token
