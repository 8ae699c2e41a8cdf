"""Every choice is in the URL; what the URL asks for is shown or refused by name, never replaced in silence."""

import pytest

from tests.app.conftest import alts, said

CHOICES = {"run": "more/two", "cmp": "one", "item": "2", "layer": "1", "folder": ".", "concept": "all"}


def url(at) -> dict[str, str]:
    """The parameters after a run: a name has one value."""
    return {name: value[0] if isinstance(value, list) else value for name, value in at.query_params.items()}


def test_a_link_restores_every_choice(app, full):
    at = app(full, "trace", **CHOICES, kind="attn_out", tok="last subject")
    assert not at.exception and not at.error
    for name, value in CHOICES.items():
        assert at.selectbox(key=name).value == value
        assert url(at)[name] == value
    assert url(at)["kind"] == "attn_out" and url(at)["tok"] == "last subject"


def test_defaults_are_in_the_url_too_so_that_a_link_stays_what_it_was(app, full):
    assert set(url(app(full, "trace"))) == {"folder", "concept", "run", "cmp", "item", "layer", "kind", "tok"}


@pytest.mark.parametrize("name", ["run", "cmp", "item", "layer", "folder", "concept", "kind", "tok"])
def test_an_invalid_value_is_an_error_that_names_it(app, full, name):
    at = app(full, "trace", **{name: "no such thing"})
    assert not at.exception
    assert "'no such thing'" in said(at) and f"({name}=…)" in said(at)
    assert len(at.error) == 1 and alts(at) == []


def test_the_nearest_value_is_named_and_one_click_goes_on(app, full):
    at = app(full, "trace", run="more/tow")
    assert "Did you mean 'more/two'?" in said(at)
    at.button[0].click().run()
    assert not at.error and alts(at)


def test_a_box_changes_the_url(app, full):
    at = app(full, "trace", run="one")
    at.selectbox(key="layer").select("1").run()
    assert url(at)["layer"] == "1"
    at.selectbox(key="run").select("more/two").run()
    assert url(at)["run"] == "more/two" and url(at)["layer"] == "1"


def test_a_choice_that_another_run_lacks_is_dropped_aloud(app, full):
    from tests.app.conftest import change, resign

    for path in (full / "one" / "traces").glob("*/accuracy.forget.json"):
        change(path.parents[2], path.relative_to(path.parents[2]).as_posix(), _rename_last)
    resign(full / "one")
    at = app(full, "trace", run="one", item="x9")
    assert not at.error
    at.selectbox(key="run").select("more/two").run()
    assert "Item x9 is not there with what is chosen now" in said(at)
    assert at.selectbox(key="item").value == "all"


def _rename_last(words: dict) -> None:
    words["labels"]["fact"][-1] = "x9"
