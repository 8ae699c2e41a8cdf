"""Report: the report of Run A as it was written, and its files to take away."""

import html
import io
import json
import zipfile

import streamlit as st

from workbench.errors import BadInput
from workbench.pages.frame.chosen import chosen
from workbench.pages.frame.picture import head
from workbench.pages.frame.reading import Opened
from workbench.pages.frame.states import absent
from workbench.pages.frame.url import pick
from workbench.shelf import inside

FILES = {
    "report.html": "text/html",
    "report.json": "application/json",
    "report.md": "text/markdown",
    "evidence.parquet": "application/octet-stream",
}
"""File of a report -> its type."""

HEIGHT = 1100

POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"
"""What the frame of the report may do: run the script it holds, and load nothing."""


def page() -> None:
    """The report in a frame, as data, or as text."""
    run = chosen().run
    head("Report", "What the audit wrote, unchanged.", run)
    files = {} if run.report is None else _files(run)
    if not files:
        why = "its files were changed, so it is withheld" if run.damaged else "this run has no finished report"
        absent("Report", why, run.on.command)
        return
    _downloads(run, files)
    form = pick("Form", "form", ("report", "data", "text", "command"))
    if form == "report" and "report.html" in files:
        st.iframe(caged(files["report.html"].decode(errors="replace")), height=HEIGHT, alt="The report as one page")
    elif form == "data":
        st.json(json.loads(files["report.json"]), expanded=1)
    elif form == "text":
        st.code(files.get("report.md", b"").decode(), language=None, wrap_lines=True)
    else:
        st.write("The command that asks this question:")
        st.code(run.on.command, language="bash")
        st.write("The report, drawn anew from what is stored:")
        st.code(f"workbench report {run.on.path}", language="bash")


def caged(page: str) -> str:
    """A stored page in a frame of its own, without the app's origin and without any way out of this machine.

    The run may come from anybody. What Streamlit embeds has the app's rights; the inner frame has none of its own
    (`sandbox` without `allow-same-origin`) and inherits the policy of the outer one, which allows no request.
    """
    return (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        "<style>html,body,iframe{margin:0;border:0;width:100%;height:100%;display:block}</style>"
        f'<iframe sandbox="allow-scripts" title="report" srcdoc="{html.escape(page, quote=True)}"></iframe>'
    )


def _files(run: Opened) -> dict[str, bytes]:
    """The files that are there and lie in the run."""
    found = {}
    for name in FILES:
        try:
            path = inside(run.on.path, name)
        except BadInput:
            continue
        if path.is_file() and name not in run.damaged:
            found[name] = path.read_bytes()
    return found


def _downloads(run: Opened, files: dict[str, bytes]) -> None:
    with st.container(horizontal=True):
        for name, content in files.items():
            st.download_button(name, content, name, FILES[name], key=f"download {name}", on_click="ignore")
        st.download_button(
            "all as zip", _zip(files), f"report-{run.on.run_id}.zip", "application/zip", key="zip", on_click="ignore"
        )


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return buffer.getvalue()


if __name__ == "__main__":
    page()
