"""Cards and banners for what is not there, not finished, not whole or not known yet."""

import datetime

import streamlit as st

from workbench.errors import BadInput
from workbench.evidence import AuditReport
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.reading import Opened
from workbench.shelf import Shelved, events, stamp_of

QUICK_START = "workbench demo"
SECONDS = 2
"""Between two looks at a run in progress."""

LISTED = 6
"""Damaged files that a banner names."""


def no_runs(root: object) -> None:
    """What to do where no run lies."""
    st.header("No runs here yet")
    st.text(f"There is no run below {root}.")
    st.write("This makes some, on a small model that is trained on the way (a few minutes, no download):")
    st.code(QUICK_START, language="bash")
    st.write("Or audit a checkpoint of your own:")
    st.code("workbench audit CHECKPOINT --base BASE --concept my_facts.json", language="bash")
    st.write("Then reload this page. Runs that lie elsewhere are shown by `workbench view FOLDER`.")


def banner(run: Opened) -> None:
    """Say what state a run is in; stops the page where nothing of it can be read."""
    on = run.on
    if on.state == "newer":
        st.warning(f"{safe(on.name)} cannot be shown: {safe(on.why)}.", icon=":material/upgrade:")
        st.code("git pull && make .venv/installed", language="bash")
        st.stop()
    if on.state == "damaged" or run.damaged:
        _damaged(run)
    elif on.state == "running":
        watch(on)
    elif on.state == "stopped":
        st.warning(f"This run was not finished: {safe(on.why, 400)}. The same command goes on with it:")
        _command(on)
    if run.other is not None and (run.other.on.state != "finished" or run.other.damaged):
        st.warning(f"Run B ({safe(run.other.on.name)}) is not a finished, whole run; take its numbers with care.")


def _damaged(run: Opened) -> None:
    """The red banner: the verdict is withheld."""
    told = [f"{name} {what}" for name, what in run.damaged.items()] or [run.on.why]
    more = f" (and {len(told) - LISTED} more files)" if len(told) > LISTED else ""
    st.error(
        f"**Damaged run, verdict withheld.** {safe('; '.join(told[:LISTED]))}{more}. Restore the files, or make the "
        "run again in another folder. Nothing is drawn from files that were changed.",
        icon=":material/gpp_bad:",
    )
    st.code(f"workbench verify {run.on.path}", language="bash")
    if run.on.manifest is None:
        st.stop()


@st.fragment(run_every=SECONDS)
def watch(on: Shelved) -> None:
    """How far a run in progress is, looked at again every few seconds; when it has ended the page is drawn anew."""
    key, now = f"stamp of {on.path}", stamp_of(on.path)
    before = st.session_state.get(key)
    st.session_state[key] = now
    if before is not None and before[0] != now[0]:
        st.rerun()
    said = events(on.path)
    last = said[-1] if said else {}
    what = " ".join(str(last.get(word, "")) for word in ("doing", "what", "key", "concept") if last.get(word))
    done, total = last.get("done"), last.get("total")
    st.info(
        f"**In progress.** {safe(what or 'started')}, {_ago(last.get('at') or on.written_at)}.", icon=":material/sync:"
    )
    if isinstance(done, int) and isinstance(total, int) and total > 0:
        st.progress(min(1.0, done / total), text=f"{done} of {total}")
    if on.command:
        st.caption("If its process has ended, the same command goes on where it stopped:")
        _command(on)


def _ago(at: str) -> str:
    try:
        then = datetime.datetime.strptime(at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    except ValueError:
        return "at an unknown time"
    seconds = max(0, int((datetime.datetime.now(datetime.UTC) - then).total_seconds()))
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{seconds // size} {word}{'s' if seconds >= 2 * size else ''} ago"
    return f"{seconds} seconds ago"


def missing(run: Opened, key: str, command: str = "") -> None:
    """The card that stands where a picture would be.

    Args:
        run: Run A.
        key: the reading that is not there.
        command: what would make it; the run's own command when empty.
    """
    absent(run.words(key), run.why_missing(key), command or run.on.command)


def absent(title: str, why: str, command: str = "") -> None:
    """A card that says what is not shown, why, and which command would make it."""
    with st.container(border=True):
        st.markdown(f":gray[**{safe(title)}: not measured**]")
        st.caption(safe(why[:1].upper() + why[1:], 600))
        if command:
            st.code(command, language="bash")


def knowledge_of(report: AuditReport) -> str:
    """Whether the knowledge was found, and by which claims; a report of an older version does not tell."""
    told = "knowledge" in report.model_fields_set
    return report.knowledge_words if told else "not told by this report, which an older version wrote"


def verdict_of(run: Opened) -> str:
    """The verdict in one line, or why there is none."""
    try:
        report = run.report
    except BadInput as error:
        return f"the report cannot be read: {error}"
    if report is not None:
        return f"{report.verdict} · knowledge {knowledge_of(report)} · other knowledge {report.utility}"
    if run.on.state == "damaged" or run.damaged:
        return "verdict withheld"
    return "no verdict yet" if run.on.is_audit else f"a run of `{run.on.verb}`, which gives no verdict"


def _command(on: Shelved) -> None:
    if on.command:
        st.code(on.command, language="bash")
