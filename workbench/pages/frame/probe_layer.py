"""What probes of one kind say at one layer: learning curve, calibration, confusion, errors, tokens of the weights."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from workbench.errors import BadInput
from workbench.figures_click import CellAt
from workbench.figures_probes import confusion_figure, learning_figure, reliability_figure
from workbench.figures_style import number
from workbench.pages.frame.chosen import ALL, chosen
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import download, grid, picture
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent
from workbench.pages.frame.url import choose, pick
from workbench.probe_cuts import (
    KIND_WORDS,
    choices_frame,
    confusion_of,
    curve_of,
    most_read,
    relations_of,
    reliability_of,
    tokens_frame,
)
from workbench.report_pictures import chance_of
from workbench.trace import Trace
from workbench.trace_cuts import layers_of

RANK = {"rank of its own token": st.column_config.NumberColumn(format="%d")}
ERRORS, EVERY = "errors of the checkpoint", "every fact"


def at_layer(run: Opened, kinds: Mapping[str, Trace], probe: str) -> None:
    """Everything at the chosen layer, or at the one where the checkpoint's probes of this kind read most.

    Args:
        run: Run A.
        kinds: role -> `probe_kinds` trace.
        probe: the kind looked at.
    """
    lead = kinds.get("checkpoint") or next(iter(kinds.values()))
    layer = chosen().layer if chosen().layer != ALL else most_read(lead, probe)
    st.subheader(f"At layer {safe(layer)}", anchor=False)
    if chosen().layer == ALL:
        st.caption("No layer is chosen: this is where most is left in the checkpoint. Choose Layer at the left.")
    if layer not in layers_of(lead):
        absent(f"Probes at layer {layer}", "the probes were not trained there", run.again)
        return
    alike = {role: trace for role, trace in kinds.items() if _same_question(lead, trace)}
    for role in kinds.keys() - alike.keys():
        st.caption(f"{safe(role)} was asked other facts, so it is left out here.")
    _learning(alike, layer)
    _calibration(alike, probe, layer)
    _answers(alike, probe, layer)


def _same_question(one: Trace, other: Trace) -> bool:
    same = ("answers", "answer_relations", "truth", "curve", "training_subjects")
    return one.labels == other.labels and all(one.notes.get(name) == other.notes.get(name) for name in same)


def _learning(kinds: Mapping[str, Trace], layer: str) -> None:
    """The linear probe against the number of training subjects."""
    first = next(iter(kinds.values()))
    if not first.notes.get("curve"):
        absent("Learning curve", f"there are {first.notes.get('training_subjects')} training subjects only")
        return
    curves = {role: curve_of(trace, layer) for role, trace in kinds.items()}
    told = (
        "A linear probe on the states as they are, trained on fewer subjects. A curve that still climbs at its end "
        "says that more facts to train on would read more; where few are enough the answer lies in the open."
    )
    picture(learning_figure(curves, f"Learning curve at layer {layer}", chance_of(first)), "learning curve", told)


def _calibration(kinds: Mapping[str, Trace], probe: str, layer: str) -> None:
    """Confidence against accuracy."""
    found = {role: reliability_of(trace, probe, layer) for role, trace in kinds.items()}
    if not any(one.count.any() for one in found.values()):
        absent("Calibration", "no tested fact had a choice that held its answer")
        return
    title = f"Calibration of {KIND_WORDS[probe]} probes at layer {layer}"
    errors = ", ".join(f"{role} {number(one.error)}" for role, one in found.items())
    told = (
        f"Below the diagonal a probe is surer than it is right. Expected calibration error: {errors}. Larger marks "
        "hold more choices; bars are 95% over subjects and seeds."
    )
    picture(reliability_figure(found, title), "calibration", safe(told))


def _answers(kinds: Mapping[str, Trace], probe: str, layer: str) -> None:
    """What is mistaken for what, fact by fact, and what the weights listen to."""
    lead = kinds.get("checkpoint") or next(iter(kinds.values()))
    relations = relations_of(lead)
    relation = choose("Relation", "relation", relations) if len(relations) > 1 else relations[0]
    facts = choices_frame(kinds, probe, layer)
    facts = facts[facts["relation"] == relation].reset_index(drop=True)
    every = list(kinds.values())
    try:
        cuts = {role: confusion_of(trace, probe, layer, relation, every) for role, trace in kinds.items()}
    except BadInput as error:
        absent("Confusion", str(error))
        return
    if not cuts["checkpoint" if "checkpoint" in cuts else next(iter(cuts))].values.size:
        absent("Confusion", f"no answer to {relation} among the tested facts was seen in training")
        return
    _confusion(cuts, relation, facts)
    _weights(kinds, probe, layer, relation)


def _confusion(cuts: Mapping[str, Trace], relation: str, facts: pd.DataFrame) -> None:
    """The matrices, and the facts of the chosen cell."""
    first = next(iter(cuts.values()))
    left, right = st.columns(2)
    with left:
        answer = choose("Answer", "answer", [ALL, *first.labels["answer"]], _any)
    with right:
        said = choose("Chosen by the probe", "said", [ALL, *first.labels["predicted"]], _any)
    frame = CellAt(answer, said) if ALL not in (answer, said) else None
    told = (
        "Each row is a true answer and sums to 1 over what the probes chose; off the diagonal it is mistaken. Click a "
        "cell, or choose Answer and Chosen, for its facts."
    )
    grid(confusion_figure(cuts, f"What is taken for what: {relation}"), "confusion", frame, _choose, told)
    _facts(facts, tuple(cuts), answer, said)


def _any(name: str) -> str:
    return "any" if name == ALL else name


def _choose(at: CellAt) -> None:
    """What a click does: the same as the boxes; every fact of the cell is shown, mistaken or not."""
    st.session_state["answer"], st.session_state["said"] = at.row, at.column
    st.session_state["facts"] = EVERY


def _facts(facts: pd.DataFrame, roles: tuple[str, ...], answer: str, said: str) -> None:
    """The facts of the cell, or the errors of the checkpoint, the surest first."""
    which = pick("Facts", "facts", (ERRORS, EVERY))
    lead = "checkpoint" if "checkpoint" in roles else roles[0]
    unread = int(facts[f"{lead} right"].isna().sum())
    table = facts[facts[f"{lead} right"] < 1] if which == ERRORS else facts
    if answer != ALL:
        table = table[table["answer"] == answer]
    if said != ALL:
        table = table[(table[[f"{role} chose" for role in roles]] == said).any(axis=1)]
    st.caption(
        f"{len(table)} of {len(facts)} facts. Chose: the answer chosen most often over the seeds; sure: its mean "
        "probability; right: the share of seeds that chose the true answer."
        + (f" The answers of {unread} facts were not seen in training: nothing is counted of them." if unread else "")
    )
    st.dataframe(
        table.drop(columns="relation"),
        hide_index=True,
        column_config={
            f"{role} {name}": st.column_config.NumberColumn(format="%.2f")
            for role in roles
            for name in ("sure", "right")
        },
        alt=f"{len(table)} facts: what each model's probe chose.",
    )
    download(table, "choices", "what the probes chose")


def _weights(kinds: Mapping[str, Trace], probe: str, layer: str, relation: str) -> None:
    """The tokens that the linear probe's weights promote through the unembedding."""
    st.subheader("What the linear probe listens to", anchor=False)
    table = tokens_frame(kinds, layer, relation)
    if table.empty:
        absent("Tokens of the weights", "no answer of a tested fact was seen in training")
        return
    st.dataframe(
        table,
        hide_index=True,
        column_config=RANK,
        alt=f"Tokens promoted by the weights of each answer at layer {layer}.",
    )
    other = "" if probe == "linear" else f" The plain linear probe's, though {KIND_WORDS[probe]} is chosen above."
    st.caption(
        "Tokens that each answer's weights promote through the model's own unembedding. Rank 1: the probe listens to "
        "the very direction that would say the answer. Probes are trained on other subjects, whose answers every model "
        "may know, so the same tokens in the reference are no leftover; a token that is not there says nothing: "
        f"weights also cancel what disturbs. Of the first repetition.{other}"
    )
    download(table, "weights", f"tokens of the probe weights layer {layer}")
