"""Live: ask the models of Run A something new. Only there when the app was started with --live."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
import streamlit as st

from workbench.errors import BadInput, RunError
from workbench.figures_tokens import visible_lines
from workbench.live import (
    DESK,
    Holder,
    Prompt,
    Reader,
    Readings,
    addresses_of,
    checkpoint_at,
    memory_free,
    plain_trace,
    size_of,
)
from workbench.live_runs import FOLDER, VERB, keep, kept
from workbench.pages.frame.chosen import chosen
from workbench.pages.frame.escaped import safe
from workbench.pages.frame.picture import head
from workbench.pages.frame.prompt_results import show
from workbench.pages.frame.reading import Opened, root
from workbench.pages.frame.states import absent

READER = "live reader"
"""Where `app.py` leaves what reads a prompt; it does so only when the app was started with --live."""

SESSION, RESULT = "live session", "live result"
IN_URL = {"prompt": "live text", "answer": "live answer", "subject": "live subject"}
"""Parameter of the URL -> the box it fills."""

SECONDS = 3
"""Between two looks at a desk that another session has."""


def page() -> None:
    """What could be loaded, the lock, the prompt, and what each model makes of it."""
    reader: Reader | None = st.session_state.get(READER)
    if reader is None:
        st.info("Models are opened only where the app was started for it: `workbench view RUNS --live`.")
        st.stop()
    run = chosen().run
    head("Live", "What do its models make of a prompt of your own? Nothing here enters a report.", run)
    if run.on.verb == VERB:
        _stored(run)
    roles = addresses_of(run.on.path, run.on.manifest)
    if not roles:
        absent("Models", "this run does not record where its models lie")
        return
    sizes = _table(roles)
    me = st.session_state.setdefault(SESSION, uuid.uuid4().hex)
    other = DESK.other(me)
    if other is not None:
        _wait()
        return
    _desk(me, roles, sizes)
    told = st.empty()
    if DESK.loaded:
        _ask(me, run, roles, reader)
    if DESK.loaded:  # said last: asking may have put another model in its place
        told.success(f"In memory: {safe(_role_of(roles, DESK.loaded))} ({safe(DESK.loaded)})")
    _results(roles)


# ---- what could be loaded


def _table(roles: Mapping[str, str]) -> dict[str, int]:
    """Every model with its size, before anything of it is loaded; returns the sizes of those that can be."""
    rows, sizes = [], {}
    for role, address in roles.items():
        size, why = _size(address)
        if size:
            sizes[role] = size
        rows.append({"role": role, "address": address, "weights": _gigabytes(size) if size else "–", "note": why})
    st.dataframe(pd.DataFrame(rows), hide_index=True, alt="Where each model lies and how large it is.")
    free = memory_free()
    st.caption(
        "Sizes are read from the headers of the weight files. One model is in memory at a time"
        + (f"; this machine has {_gigabytes(free)} free." if free else ".")
    )
    return sizes


@st.cache_data(ttl=60, max_entries=64, show_spinner="Reading headers …")
def _size(address: str) -> tuple[int, str]:
    """Bytes, or 0 and why it cannot be opened."""
    try:
        return size_of(checkpoint_at(address)), ""
    except (BadInput, RunError, OSError, ValueError) as error:
        return 0, visible_lines(str(error))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


# ---- the lock


@st.fragment(run_every=SECONDS)
def _wait() -> None:
    """Who has the desk; the page is drawn anew when it is free."""
    me = st.session_state[SESSION]
    other = DESK.other(me)
    if other is None:
        st.rerun()
    st.warning(_who(other), icon=":material/lock:")


def _who(other: Holder) -> str:
    what = f"is {other.doing}" if other.doing else f"has {DESK.loaded or 'no model'} in memory"
    return (
        f"Another browser session ({safe(other.name)}) {safe(what)}, since {_minutes(other.since)}. There is "
        "room for one at a time: this page goes on by itself when that session presses Free memory, is closed, or "
        "idles for a quarter of an hour."
    )


def _minutes(since: float) -> str:
    return pd.Timestamp(since, unit="s", tz="UTC").strftime("%H:%M UTC")


def _desk(me: str, roles: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    """Load and free."""
    if not sizes:
        absent("Loading", "none of these checkpoints can be opened; the table says why")
        if not DESK.loaded:
            return
    free = memory_free()
    left, middle, right = st.columns([2, 1, 1], vertical_alignment="bottom")
    with left:
        role = st.selectbox("Model to load", list(sizes) or ["–"], key="live role")
    size = sizes.get(role, 0)
    with middle:
        load = st.button(f"Load {_gigabytes(size)}", key="live load", disabled=not size, type="primary")
    with right:
        give_back = st.button("Free memory", key="live free", disabled=not DESK.loaded)
    if size and free is not None and size * 1.2 > free:
        st.warning(
            f"{_gigabytes(size)} of weights do not fit well into {_gigabytes(free)}: the machine may come to a halt."
        )
    if give_back:
        DESK.free(me)
        st.session_state.pop(RESULT, None)
        st.rerun()
    if load and _load(me, role, roles[role]):
        st.rerun()  # the buttons above know of the model only then


def _load(me: str, role: str, address: str) -> bool:
    """Load one model, with progress; what goes wrong stands on the page."""
    with st.status(f"Loading {safe(role)} …") as status:
        try:
            DESK.take(me, _alive())
            DESK.load(me, checkpoint_at(address), address)
        except (BadInput, RunError) as error:
            if not DESK.loaded:
                DESK.free(me)  # nothing is on it, so nobody need wait
            status.update(label=f"{safe(role)} cannot be loaded", state="error")
            st.error(safe(error))
            return False
        status.update(label=f"{safe(role)} is loaded", state="complete")
    return True


def _alive() -> "_Connected":
    from streamlit.runtime.scriptrunner import get_script_run_ctx

    context = get_script_run_ctx()
    return _Connected(context.session_id if context is not None else "")


class _Connected:
    """Whether a browser session is still there."""

    def __init__(self, session: str) -> None:
        self.session = session

    def __call__(self) -> bool:
        from streamlit import runtime

        return not runtime.exists() or runtime.get_instance().is_active_session(self.session)


def _role_of(roles: Mapping[str, str], address: str) -> str:
    return next((role for role, there in roles.items() if there == address), "a model of another run")


# ---- asking


def _ask(me: str, run: Opened, roles: Mapping[str, str], reader: Reader) -> None:
    """The prompt and what is to be read; every chosen model is loaded after another."""
    mine = _role_of(roles, DESK.loaded)
    for name, of in IN_URL.items():  # a link brings the words along; they are asked only when Ask is pressed
        st.session_state.setdefault(of, st.query_params.get(name, ""))
    with st.form("live prompt"):
        text = st.text_area("Prompt", key="live text", height=80, help="Ends right before the answer, without a blank.")
        left, right = st.columns(2)
        answer = left.text_input("Answer the lens looks for", key="live answer", help="Empty: the first word said.")
        subject = right.text_input("Subject", key="live subject", help="For the trace: words of the prompt.")
        asked = st.multiselect(
            "Models", list(roles), default=[r for r in roles if r in (mine, "base", "checkpoint")], key="live roles"
        )
        left, middle, right = st.columns(3)
        tokens = left.number_input("Tokens said", 1, 256, 16, key="live tokens")
        lens = middle.checkbox("Lens, layer by token", value=True, key="live lens")
        trace = right.checkbox("Causal trace (slower)", key="live trace")
        sent = st.form_submit_button("Ask", type="primary")
    if not sent:
        return
    for name, of in IN_URL.items():
        st.query_params[name] = st.session_state[of]
    try:
        prompt = Prompt(text, answer, subject, int(tokens), lens, trace).check()
        if not asked:
            raise BadInput("No model is chosen; choose at least one")
    except BadInput as error:
        st.error(safe(error))
        return
    order = sorted(asked, key=lambda role: roles[role] != DESK.loaded)  # what is in memory first
    found = _read(me, {role: roles[role] for role in order}, reader, prompt)
    if found:
        st.session_state[RESULT] = (prompt, {role: found[role] for role in roles if role in found}, run.on.name)


def _read(me: str, roles: Mapping[str, str], reader: Reader, prompt: Prompt) -> dict[str, Readings]:
    """Each model's readings; those taken before something breaks are kept."""
    found: dict[str, Readings] = {}
    with st.status(f"Asking {len(roles)} models …") as status:
        for done, (role, address) in enumerate(roles.items(), start=1):
            try:
                if DESK.loaded != address:
                    status.update(label=f"Loading {safe(role)} ({done} of {len(roles)}) …")
                    DESK.load(me, checkpoint_at(address), address)
                status.update(label=f"Reading {safe(role)} ({done} of {len(roles)}) …")
                found[role] = DESK.ask(me, reader, prompt)
            except (BadInput, RunError) as error:
                status.update(label=f"{safe(role)} could not be asked", state="error")
                st.error(safe(error))
                return found
            if not prompt.answer:  # the others are asked for the same word
                prompt = replace(prompt, answer=str(found[role]["answer_tokens"].notes["answer"][0]))
        status.update(label=f"Asked {', '.join(safe(role) for role in roles)}", state="complete")
    return found


# ---- results


def _results(addresses: Mapping[str, str]) -> None:
    """What each model made of the last prompt."""
    last = st.session_state.get(RESULT)
    if last is None:
        return
    prompt, found, name = last
    st.subheader("What they make of it", anchor=False)
    show(prompt, found)
    made = {
        "run": name,
        "prompt": prompt.__dict__,
        "readings": {role: {key: plain_trace(t) for key, t in r.items()} for role, r in found.items()},
    }
    with st.container(horizontal=True):
        keep_it = st.button("Keep as a run", key="live keep", help=f"Writes a folder into {root() / FOLDER}.")
        st.download_button(
            "Download JSON",
            json.dumps(made, indent=1, allow_nan=False),
            file_name="live.json",
            mime="application/json",
            key="live json",
            on_click="ignore",
        )
    if keep_it:
        try:
            st.success(f"Kept as the run {safe(keep(root(), name, prompt, found, addresses))}: choose it as Run A.")
        except BadInput as error:
            st.error(safe(error))


def _stored(run: Opened) -> None:
    """What a run of this page holds; its models can be asked again below."""
    try:
        if run.damaged:
            raise BadInput("its files were changed, so nothing is drawn from them")
        prompt, found, of = kept(run.on.path, run.on.manifest or {})
    except BadInput as error:
        absent("What was kept", str(error))
        return
    st.subheader("What was kept", anchor=False)
    st.caption(f"Models of the run {safe(of)}, asked on {safe(run.on.written_at)}.")
    show(prompt, found)


if __name__ == "__main__":
    page()
