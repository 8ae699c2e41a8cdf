"""The runs page: pins by keyboard, the link, the folders, and what the table says first."""

from urllib.parse import parse_qs, urlsplit

import pytest

from tests.app.conftest import said
from workbench.store import RunFolder


def codes(at) -> list[str]:
    return [code.value for code in at.code]


def test_any_run_is_pinned_by_its_box_and_a_button(app, full):
    at = app(full, "runs", run="one", mark="more/two")
    at.button(key="pin b").click().run()
    assert at.selectbox(key="run").value == "one" and at.selectbox(key="cmp").value == "more/two"
    assert at.button(key="pin b").disabled and not at.button(key="pin a").disabled
    at.button(key="pin a").click().run()  # they change places
    assert at.selectbox(key="run").value == "more/two" and at.selectbox(key="cmp").value == "one"
    assert at.button(key="pin a").disabled and "The marked run is Run A." in said(at)
    assert dict(zip(at.dataframe[0].value["folder"], at.dataframe[0].value["shown"], strict=True)) == {
        "one": "B",
        "more/two": "A",
    }


def test_the_link_and_the_folders_are_there_to_copy(app, full):
    alone = codes(app(full, "runs", run="one"))
    assert str(full / "one") in alone and str(full / "more" / "two") not in alone
    at = app(full, "runs", run="one", cmp="more/two")
    assert {str(full / "one"), str(full / "more" / "two")} <= set(codes(at))
    link = next(code for code in codes(at) if "run=" in code)
    asked = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
    again = app(full, "overview", **asked)
    assert not again.error and again.selectbox(key="cmp").value == "more/two"


@pytest.mark.parametrize(
    ("url", "home"),
    [
        ("http://127.0.0.1:8501/runs", "http://127.0.0.1:8501/"),
        ("https://there.org/app/runs/", "https://there.org/app/"),
        ("http://127.0.0.1:8501/", "http://127.0.0.1:8501/"),
        (None, "/"),
    ],
)
def test_the_link_leads_to_where_the_browser_is(url, home):
    from workbench.pages.runs import link_to

    assert link_to(url, "a b/c", "none") == f"{home}?run=a+b%2Fc&cmp=none"


def test_what_made_an_audited_checkpoint_stands_in_the_table_and_in_the_difference(app, full, ablated_folder):
    assert set(app(full, "runs").dataframe[0].value["method"]) == {"–"}
    with RunFolder.claim(
        full / "made", {"verb": "unlearn", "method": {"method": "a.b:Npo", "lr": 0.1}}
    ).running() as run:
        (run.path / "checkpoint").mkdir()
        for file in ablated_folder.iterdir():
            if file.is_file():
                (run.path / "checkpoint" / file.name).write_bytes(file.read_bytes())
    table = app(full, "runs").dataframe[0].value.set_index("folder")
    assert table["method"].to_dict() == {"one": "Npo", "more/two": "Npo", "made": "Npo"}
    assert table.loc["one", "suite"] == "standard" and table.loc["made", "suite"] == "–"
    assert list(table.columns)[:4] == ["shown", "model", "verdict", "knowledge"]
