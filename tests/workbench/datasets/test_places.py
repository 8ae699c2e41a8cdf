"""Where a set is looked for: the spec's place, the data folder, the hub; and what is said when it is not there."""

import sys
from types import SimpleNamespace

import pytest

from workbench.datasets import SOURCES, load_concept
from workbench.datasets.places import Folder, Hub, NoTable, Table, place_of, rows_if_any
from workbench.datasets.spec import Draw, parse
from workbench.errors import BadInput

ROW = {"question": "Who is Ada Byrd?", "answer": "a pilot"}


def refused(*words, **more) -> str:
    with pytest.raises(BadInput) as error:
        load_concept(*words, **more)
    return str(error.value)


def test_a_spec_names_place_and_options():
    wanted = parse("conceptvectors:llama:Harry Potter@/data/x?limit=7&seed=2&frame=plain")
    assert (wanted.source, wanted.which, wanted.at) == ("conceptvectors", "llama:Harry Potter", "/data/x")
    assert wanted.draw == Draw(limit=7, seed=2, frame="plain")
    assert parse("rwku:Who?").which == "Who?", "a question mark without an option is part of the name"
    assert parse("tofu:forget10?limit=7", limit=9, seed=4).draw == Draw(limit=7, seed=4), "the spec is nearer"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("tofu:forget10?limits=3", "no option 'limits'"),
        ("tofu:forget10?limit=0", "Option 'limit'"),
        ("tofu:forget10?limit=many", "Option 'limit'"),
        ("tofu:forget10?frame=loose", "Option 'frame'"),
        ("tofu:forget10?limit=1&limit=2", "given twice"),
        ("tofu:forget11", "Did you mean 'forget"),
        ("tofu:../../etc/passwd", "no split"),
        ("muse:../news", "no corpus"),
        ("wmdp:physics", "no subject"),
        ("lume:task4", "no part"),
        ("pistol:sample3:A_B", "no graph"),
        ("conceptvectors:gemma:Poland", "names no model"),
        ("conceptvectors:Poland", "names no model"),
        ("tofu:forget10@/nowhere/at/all", "no folder or file '/nowhere/at/all'"),
        ("text:/nowhere", "no file or folder '/nowhere'"),
        ("text:", "no file or folder"),
    ],
)
def test_a_wrong_spec_says_what_there_is(spec, words):
    assert words in refused(spec, offline=True)


@pytest.mark.parametrize("source", sorted(set(SOURCES) - {"demo", "text", "lume", "known_1000", "pistol"}))
def test_offline_without_files_says_where_to_put_them(source, tmp_path):
    which = {
        "tofu": "forget10",
        "muse": "news",
        "wmdp": "bio",
        "conceptvectors": "llama:Poland",
        "mmlu": "virology",
    }.get(source, "x")
    message = refused(f"{source}:{which}", data=tmp_path, offline=True)
    assert f"{source}:{which}@FOLDER" in message and "--data DIR" in message and "WORKBENCH_DATA" in message
    assert "the network is off" in message or "no table" in message


@pytest.mark.parametrize("spec", ["lume:task1", "known_1000:all", "pistol:sample1:A_B"])
def test_what_is_not_on_the_hub_needs_a_folder(spec):
    assert "not on the hub" in refused(spec) and f"{spec}@FOLDER" in refused(spec)


def test_the_place_is_the_specs_then_the_data_folder_then_the_hub(write, monkeypatch, tmp_path):
    root, other = write(tofu__forget01=[ROW]), write("other", forget01=[ROW, {**ROW, "answer": "a cook"}])
    assert len(load_concept("tofu:forget01", data=root).forget) == 1
    assert len(load_concept(f"tofu:forget01@{other}", data=root).forget) == 2
    monkeypatch.setenv("WORKBENCH_DATA", str(root))
    assert load_concept("tofu:forget01").forget.source == str(root / "tofu")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "gone"))
    assert "$WORKBENCH_DATA names" in refused("tofu:forget01")
    hub = place_of(parse("muse:news", root), "muse-bench/MUSE-News", "muse/news")
    assert isinstance(hub, Hub) and hub.said == "https://huggingface.co/datasets/muse-bench/MUSE-News"
    assert place_of(parse("tofu:full@v1", root), "a/b") == Hub("a/b", "v1", False, hub_advice("tofu:full", "tofu"))
    mirror = place_of(parse("tofu:full@org/name@v2", root), "a/b")
    assert isinstance(mirror, Hub) and (mirror.repo, mirror.revision) == ("org/name", "v2")


def hub_advice(spec: str, folder: str) -> str:
    return (
        f"Put its files into a folder and name it: {spec}@FOLDER, or set --data DIR (or $WORKBENCH_DATA) to a folder "
        f"that has them in {folder}/"
    )


def test_a_table_is_found_under_the_names_the_hub_gives_it(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("a/train-00000-of-00002.parquet", "a/train-00001-of-00002.parquet", "b-00000-of-00001.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist([{"name": name}]), tmp_path / name)
    place = Folder(tmp_path)
    assert [row.values["name"].partition("-")[2][:5] for row in place.rows(Table(("a",)))] == ["00000", "00001"]
    assert len(place.rows(Table(("nothing", "b")))) == 1
    assert rows_if_any(place, Table(("nothing",))) == []
    with pytest.raises(NoTable, match="no table nothing"):
        place.rows(Table(("nothing",)))


def test_one_file_holds_one_table(write):
    path = write(counterfact=[]) / "counterfact.json"
    with pytest.raises(NoTable, match="is not forget01; name a folder"):
        load_concept(f"tofu:forget01@{path}")
    (path.parent / "facts.bin").write_bytes(b"")
    assert "ends in none of" in refused(f"counterfact:all@{path.parent / 'facts.bin'}")


class StandIn:
    """The library `datasets`, as far as it is used."""

    def __init__(self, tables: dict[str | None, list[dict[str, object]]]) -> None:
        self.tables, self.asked = tables, []
        self.config = SimpleNamespace(HF_HUB_OFFLINE=False)

    def disable_progress_bars(self) -> None:
        pass

    def load_dataset(self, repo, name, **more):
        self.asked.append((repo, name, more))
        if name not in self.tables:
            raise ValueError(f"BuilderConfig {name!r} not found. Available: {list(self.tables)}")
        return self.tables[name]


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def of(**tables):
        library = StandIn(tables)
        monkeypatch.setitem(sys.modules, "datasets", library)
        return library

    return of


def test_the_hub_is_asked_for_the_table_by_name_split_and_revision(hub):
    library = hub(forget01=[ROW], retain99=[{**ROW, "question": "Who is Bo?"}])
    concept = load_concept("tofu:forget01@v1.0")
    assert (len(concept.forget), len(concept.near)) == (1, 1)
    assert library.asked[0] == (
        "locuslab/TOFU",
        "forget01",
        {"split": "train", "revision": "v1.0", "streaming": False},
    )
    assert concept.forget.source == "https://huggingface.co/datasets/locuslab/TOFU at v1.0"
    assert not any("trust_remote_code" in more for _, _, more in library.asked)


def test_a_folder_and_the_hub_give_the_same_digest(hub, write):
    rows = [ROW, {**ROW, "question": "Who is Bo?"}]
    hub(forget01=rows)
    assert load_concept("tofu:forget01").digest == load_concept("tofu:forget01", data=write(tofu__forget01=rows)).digest


def test_a_malformed_row_of_the_hub_is_named(hub):
    hub(forget01=[ROW, {"question": "Who?"}])
    assert "locuslab/TOFU forget01 train row 2: field 'answer' is missing" in refused("tofu:forget01")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refused("tofu:forget01")
    assert "unlearning-workbench[data]" in message and "tofu:forget01@FOLDER" in message


def test_a_hub_that_does_not_answer_is_one_sentence(hub):
    library = hub()

    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the hub\nTraceback: long")

    library.load_dataset = broken
    message = refused("tofu:forget01")
    assert "Couldn't reach the hub" in message and "Traceback" not in message
