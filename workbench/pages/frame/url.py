"""One choice, one parameter of the URL: a link restores exactly what was looked at.

A value in the URL that is not among the options stops the page with an error that names it, because showing something
else instead would be taken for what was asked. Options may change under a choice (another run has other facts): then
the choice is dropped, and a line says so.
"""

import json
from collections.abc import Callable, Sequence

import streamlit as st

from workbench.errors import did_you_mean
from workbench.pages.frame.escaped import safe

TOP = "top of the page"
"""Where errors stand, if the frame has made a place for them: the sidebar is too narrow to read them in."""

SHOWN = 8
"""Options an error lists."""


def choose(
    label: str, name: str, options: Sequence[str], shown: Callable[[str], str] = str, tip: str = "", default: str = ""
) -> str:
    """A select box bound to the URL parameter `name`; its value is one of the options.

    Args:
        label: above the box.
        name: parameter in the URL, and key of the widget: a click may set `st.session_state[name]` in a callback.
        options: what may be chosen, at least one; the first is the default.
        shown: option -> text in the box.
        tip: what it is for.
        default: chosen when nothing was said, if it is an option.
    """
    settle(name, options, default, label)
    value: str = st.selectbox(label, options, key=name, format_func=shown, help=tip or None)
    return keep(name, value)


def pick(label: str, name: str, options: Sequence[str], shown: Callable[[str], str] = str) -> str:
    """The same as a row of buttons, for few options that are words of ours (buttons read Markdown)."""
    settle(name, options, "", label)
    value = st.segmented_control(label, options, key=name, format_func=shown, required=True)
    return keep(name, value or options[0])


def type_in(label: str, name: str, tip: str = "") -> str:
    """A line of text bound to the URL; any text is allowed."""
    asked = st.query_params.get(name)
    if asked is not None and asked != _said().get(name):
        st.session_state[name] = asked
    elif name not in st.session_state:
        st.session_state[name] = _said().get(name, "")
    return keep(name, st.text_input(label, key=name, help=tip or None))


def several(
    label: str, name: str, options: Sequence[str], shown: Callable[[str], str] = str, tip: str = ""
) -> list[str]:
    """A box that takes several options, bound to the URL as `name=a&name=b`; none at first.

    Args:
        label: above the box.
        name: parameter in the URL, and key of the widget: a click may set `st.session_state[name]` in a callback.
        options: what may be chosen.
        shown: option -> text in the box.
        tip: what it is for.

    Returns:
        What is chosen, in the order of the options.
    """
    asked, before = st.query_params.get_all(name), _said().get(name)
    have = st.session_state.get(name, json.loads(before) if before else [])
    if asked and json.dumps(asked) != before:  # a link, or a URL changed by hand
        for one in asked:
            if one not in options:
                _refuse(label, name, one, options)
        have = asked
    if lost := [one for one in have if one not in options]:
        st.session_state.get(TOP, st).info(f"{safe(label)}: {safe(', '.join(lost), 120)} dropped, not there any more.")
    st.session_state[name] = [one for one in have if one in options]
    chosen = st.multiselect(label, options, key=name, format_func=shown, help=tip or None)
    value = [one for one in options if one in chosen]
    _said()[name] = json.dumps(value)
    if st.query_params.get_all(name) != value:
        st.query_params[name] = value
    return value


def settle(name: str, options: Sequence[str], default: str, label: str) -> None:
    """Bring the widget's value in line with the URL, before the widget is made."""
    asked, said = st.query_params.get(name), _said().get(name)
    if asked is not None and asked != said:  # a link, or a URL changed by hand
        if asked not in options:
            _refuse(label, name, asked, options)
        st.session_state[name] = asked
        return
    have = st.session_state.get(name, said)
    if have is not None and have not in options:
        st.session_state.get(TOP, st).info(
            f"{safe(label)} {safe(have, 60)} is not there with what is chosen now, so it was dropped."
        )
        have = None
    st.session_state[name] = have or (default if default in options else options[0])


def keep(name: str, value: str) -> str:
    """Write a choice into the URL; it is remembered while other pages are open."""
    _said()[name] = value
    if st.query_params.get(name) != value:
        st.query_params[name] = value
    return value


def named(name: str) -> tuple[str, ...]:
    """What the URL, a click or this session's memory names under a parameter, for options too many to list."""
    told = (st.query_params.get(name), st.session_state.get(name), _said().get(name))
    return tuple(dict.fromkeys(str(value) for value in told if value))


def _said() -> dict[str, str]:
    """What this session last wrote into the URL; a URL that says otherwise was changed from outside."""
    said: dict[str, str] = st.session_state.setdefault("said in the URL", {})
    return said


def _refuse(label: str, name: str, asked: str, options: Sequence[str]) -> None:
    known = did_you_mean(asked, options) if len(options) <= SHOWN else _nearest(asked, options)
    place = st.session_state.get(TOP) or st.container()
    place.error(
        f"The link asks for {safe(label)} {safe(repr(asked), 120)} ({safe(name)}=…), which is not there. {safe(known)}"
    )
    place.button(f"Go on with {safe(options[0], 60)}", on_click=_forget, args=(name,), key=f"forget {name}")
    st.stop()


def _nearest(asked: str, options: Sequence[str]) -> str:
    """The nearest option, and how many there are."""
    return did_you_mean(asked, options).partition("There are: ")[0] + f"There are {len(options)}."


def _forget(name: str) -> None:
    st.query_params.pop(name, None)
    st.session_state.pop(name, None)
    _said().pop(name, None)
