"""The app: pages over the runs on disk. `workbench view [RUNS]`, or `streamlit run app.py -- RUNS`.

Navigation and layout only; every page is a file under `workbench/pages/`. It reads runs, computes nothing and needs no
torch. Settings (no telemetry, 127.0.0.1 only, no file watcher) are in `.streamlit/config.toml`.
"""

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

HOME = Path(__file__).parent / "workbench" / "pages"


def pages() -> dict[str, list[st.Page]]:
    """Every page whose file is there."""
    return {
        section: [
            st.Page(HOME / f"{name}.py", title=title, url_path=name, default=name == "overview")
            for name, title in entries.items()
            if (HOME / f"{name}.py").is_file()
        ]
        for section, entries in PAGES.items()
    }


st.set_page_config(page_title="Unlearning workbench", layout="wide")
page = st.navigation({section: found for section, found in pages().items() if found}, expanded=True)
sidebar()
page.run()
