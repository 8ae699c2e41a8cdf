"""The app: pages over the runs on disk. `workbench view [RUNS]`, or `streamlit run app.py -- RUNS`.

Navigation and layout only; every page is a file under `workbench/pages/`. It reads runs, computes nothing and needs no
torch, but for the page Live, which opens models and is there only with `--live` behind the runs. Settings (no
telemetry, 127.0.0.1 only, no file watcher) are in `.streamlit/config.toml`.
"""

import os
import sys
from pathlib import Path

import streamlit as st

from workbench.pages.frame.chosen import sidebar

PAGES = {
    "Verdict": {
        "overview": "Overview",
        "runs": "Runs",
        "tradeoff": "Trade-off",
        "items": "Items",
    },
    "Inside": {
        "trace": "Causal trace",
        "depth": "Patching depth",
        "lens": "Lens",
        "probes": "Probes",
        "concepts": "Concept vectors",
        "weights": "Weights",
        "sae": "SAE features",
        "experts": "Experts",
    },
    "Outcome": {
        "recovery": "Recovery",
        "report": "Report",
    },
}
"""Section -> file under `workbench/pages/`, which is the page's path too -> title.

Pages have no icon: the browser would fetch it, as the icon of its tab, from a server of Google's.
"""

LIVE = "WORKBENCH_LIVE"
"""Environment variable that `workbench view --live` sets to 1."""

HOME = Path(__file__).parent / "workbench" / "pages"


def live() -> bool:
    """Whether models may be opened: only when that was asked for."""
    return "--live" in sys.argv[1:] or os.environ.get(LIVE) == "1"


def pages() -> dict[str, list[st.Page]]:
    """Every page whose file is there."""
    return {
        section: [
            st.Page(HOME / f"{name}.py", title=title, url_path=name, default=name == "overview")
            for name, title in entries.items()
            if (HOME / f"{name}.py").is_file()
        ]
        for section, entries in (PAGES | ({"Try": {"live": "Live"}} if live() else {})).items()
    }


st.set_page_config(page_title="Unlearning workbench", layout="wide")
page = st.navigation({section: found for section, found in pages().items() if found}, expanded=True)
if live():  # the page itself may not know the probes: they stand above it
    from workbench.cli.live import read_prompt

    st.session_state["live reader"] = read_prompt
sidebar()
page.run()
