"""What is looked at: the sidebar with folder, Run A, Run B, concept, item and layer, all of it in the URL."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import streamlit as st

from workbench.pages.frame.escaped import safe
from workbench.pages.frame.reading import Opened, root, shelf
from workbench.pages.frame.states import banner, no_runs
from workbench.pages.frame.url import TOP, choose
from workbench.shelf import Shelved, telling
from workbench.trace_cuts import fact_number, layers_of

ALL, NONE = "all", "none"
"""Choices that name no entry."""

WITH_ITEMS = ("accuracy.forget", "answer_probability.forget", "logit_lens.forget", "causal_trace.forget")
"""Readings that tell the facts of a run, the best first."""

WITH_LAYERS = (
    "logit_lens.forget",
    "linear_probes.forget",
    "causal_trace.forget",
    "depth_score.forget",
    "moved_vectors.forget",
)
"""Readings that tell its layers."""

FIRST = (
    "The run every page shows. It begins with the newest finished audit of a model that keeps silent (no claim about "
    "direct prompts fails) in which a claim found the knowledge all the same; without one, with the newest audit."
)
"""Help of the box, with the rule of `workbench.shelf.telling`."""

STATE_MARKS = {
    "finished": "",
    "running": "… running",
    "stopped": "■ stopped",
    "damaged": "✕ damaged",
    "newer": "↑ newer",
}
"""State of a run -> mark behind its name, in words too."""


@dataclass(frozen=True)
class Chosen:
    """The choice of this moment."""

    root: Path
    """The runs folder."""
    runs: tuple[Shelved, ...]
    """Runs below the chosen folder, of the chosen concept."""
    every: tuple[Shelved, ...]
    """All runs below the runs folder."""
    opened: Opened | None
    """Run A, with Run B in it; None on an empty shelf."""
    item: str
    """Number of the fact looked at, or `all`."""
    layer: str
    """The layer looked at, or `all`."""

    @property
    def run(self) -> Opened:
        """Run A with its banner; the page stops where nothing can be read."""
        if self.opened is None:
            no_runs(self.root)
            st.stop()
        banner(self.opened)
        return self.opened

    @property
    def fact(self) -> str | None:
        """Number of the chosen fact; None for all."""
        return None if self.item == ALL else self.item


def chosen() -> Chosen:
    """The choice made in the sidebar, for a page."""
    found: Chosen = st.session_state["chosen"]
    return found


def sidebar() -> None:
    """Draw the sidebar and keep what is chosen for the page."""
    st.session_state[TOP] = st.container()
    at = root()
    every = tuple(shelf(at)) if at.is_dir() else ()
    with st.sidebar:
        st.session_state["chosen"] = _choose(at, every) if every else Chosen(at, (), (), None, ALL, ALL)


def _choose(at: Path, every: tuple[Shelved, ...]) -> Chosen:
    first, below_it = st.container(), st.container()  # the runs stand first, what narrows their list below
    with below_it:
        folder = choose("Runs folder", "folder", _folders(every), lambda f: _folder_words(at, f), f"Below {safe(at)}")
    below = tuple(run for run in every if folder == "." or _is_below(run.name, folder))
    concepts = sorted({run.concept for run in below if run.concept})
    with below_it:
        concept = choose("Concept", "concept", [ALL, *concepts], lambda c: "all concepts" if c == ALL else c)
    runs = tuple(run for run in below if concept in (ALL, run.concept))
    with first:
        return _of_runs(at, runs, every)


def _of_runs(at: Path, runs: tuple[Shelved, ...], every: tuple[Shelved, ...]) -> Chosen:
    by_name = {run.name: run for run in runs}
    a = choose("Run A", "run", list(by_name), lambda name: label(by_name[name]), FIRST, telling(runs))
    rest = [name for name in by_name if name != a]
    b = choose(
        "Run B (compare)",
        "cmp",
        [NONE, *rest],
        lambda name: "none" if name == NONE else label(by_name[name]),
        "Its checkpoint joins the pictures of Run A as a role of its own.",
    )
    opened = Opened(by_name[a], Opened(by_name[b]) if b != NONE else None)
    facts = {fact_number(text): text for text in _facts(opened)}
    item = choose("Item", "item", [ALL, *facts], lambda n: "all facts" if n == ALL else facts[n], "One fact, or all.")
    layer = choose("Layer", "layer", [ALL, *_layers(opened)], lambda n: "all layers" if n == ALL else f"layer {n}")
    return Chosen(at, runs, every, opened, item, layer)


def label(run: Shelved) -> str:
    """A run in one line."""
    level = run.verdict.partition(":")[0] if run.level is not None else run.verb
    parts = [run.model or run.method or PurePosixPath(run.name).name, level, STATE_MARKS[run.state], f"({run.name})"]
    return " · ".join(part for part in parts if part)


def _folders(runs: tuple[Shelved, ...]) -> list[str]:
    """The runs folder and every folder below it that holds more than one run."""
    parents = [parent.as_posix() for run in runs for parent in PurePosixPath(run.name).parents]
    return [".", *sorted({p for p in parents if p != "." and parents.count(p) > 1})]


def _folder_words(at: Path, folder: str) -> str:
    return f"{at.name} (all)" if folder == "." else f"{at.name}/{folder}"


def _is_below(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}/")


def _facts(opened: Opened) -> tuple[str, ...]:
    for key in WITH_ITEMS:
        trace = opened.trace("checkpoint", key)
        if trace is not None and "fact" in trace.axes:
            return trace.labels["fact"]
    return ()


def _layers(opened: Opened) -> tuple[str, ...]:
    for key in WITH_LAYERS:
        trace = opened.trace("checkpoint", key)
        if trace is not None:
            return layers_of(trace)
    return ()
