"""Files of rows: what each kind gives, and what is refused by file and line."""

import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench.datasets import table_files
from workbench.datasets.row import Row
from workbench.datasets.table_files import rows_of
from workbench.errors import BadInput

ROWS = [{"a": "one", "b": [1, 2]}, {"a": "two\u2028three", "b": []}, {"a": "[]{}\"', ", "b": [3]}]


def values(path, **more):
    return [dict(row.values) for row in rows_of([path], **more)]


def refused(path, **more) -> str:
    with pytest.raises(BadInput) as error:
        rows_of([path], **more)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=2, ensure_ascii=False)),
        ("a.json", "\ufeff\n " + json.dumps(ROWS) + " \n"),
        ("a.json", "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)),
        ("a.jsonl", "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"),
    ],
)
def test_json_comes_as_a_list_or_as_lines(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    assert values(tmp_path / name) == ROWS


def test_every_row_knows_its_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[\n{"a": 1},\n\n{"a":\n2}, {"a": 3}]')
    assert [row.where for row in rows_of([path])] == [f"{path} line {n}" for n in (2, 4, 5)]


def test_parquet_and_arrow_are_the_same_rows(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as stream:
        stream.write_table(table)
    assert values(tmp_path / "a.parquet") == values(tmp_path / "a.arrow") == ROWS


def test_csv_with_and_without_a_header(tmp_path):
    names = ("question", "answer")
    (tmp_path / "a.csv").write_text('question,answer\n"One, two\nor three?",3\n')
    (tmp_path / "b.csv").write_text('"One, two\nor three?",3\n')
    assert values(tmp_path / "a.csv") == values(tmp_path / "b.csv", columns=names)
    assert values(tmp_path / "a.csv", columns=names) == [{"question": "One, two\nor three?", "answer": "3"}]


def test_passages_of_plain_text_are_between_empty_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("One\nand more.\n\n \n\nTwo.\n")
    assert [(row.values["text"], row.where) for row in rows_of([path])] == [
        ("One\nand more.", f"{path} line 1"),
        ("Two.", f"{path} line 6"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '[{"a": 1},\n{"a": }]', ["line 2", "not valid JSON"]),
        ("a.json", '[{"a": 1},\n{"a": 1}', ["line 2", "not closed"]),
        ("a.json", '[{"a": 1}]\n[2]', ["not closed, or something stands after it"]),
        ("a.json", '[{"a": 1} {"a": 2}]', ["not closed, or something"]),
        ("a.json", '[{"a": 1},\n3]', ["line 2", "JSON object, not a int"]),
        ("a.json", '{"a": 1}\n{"a": 1', ["line 2", "not valid JSON"]),
        ("a.jsonl", '{"a": 1}\n\n{"a": 1} {"a": 2}', ["line 3", "more stands after"]),
        ("a.jsonl", '{"a": 1}\n' + "[" * 100_000, ["line 2", "nested too deeply"]),
        ("a.jsonl", '{"a": ' + "9" * 5_000 + "}", ["line 1", "not valid JSON"]),
        ("a.csv", "a,b\n1,2\n3\n", ["line 3", "1 cells; 2 belong there: a, b"]),
        ("a.csv", 'a,b\n1,"2\n', ["not valid CSV"]),
        ("a.csv", "a\n" + "x" * 200_000 + "\n", ["line 2", "not valid CSV", "field larger"]),
        ("a.parquet", "PAR1 but no", ["no readable parquet file"]),
        ("a.arrow", "no", ["no readable arrow file"]),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    message = refused(tmp_path / name)
    assert all(word in message for word in [str(tmp_path / name), *words]), message


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xff"}')
    assert "not UTF-8" in refused(tmp_path / "a.jsonl")


def test_size_and_number_of_rows_are_limited(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' * 5)
    monkeypatch.setattr(table_files, "MAX_ROWS", 4)
    assert "more than 4 rows" in refused(path)
    assert len(rows_of([path], head=2)) == 2
    monkeypatch.setattr(table_files, "MAX_BYTES", 20)
    assert "files of up to 0 MiB are read" in refused(path)


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    from workbench.datasets import load_concept

    for name in ("forget01.pkl", "forget01.pickle", "forget01.pt", "forget01.json", "forget01.parquet"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(BadInput):
            load_concept(f"tofu:forget01@{tmp_path}")
        (tmp_path / name).unlink()
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("row", "read", "words"),
    [
        ({"b": "x"}, lambda row: row.text("a"), "field 'a' is missing; the row has 'b'"),
        ({"a": None}, lambda row: row.text("a"), "field 'a' is missing"),
        ({"a": 3}, lambda row: row.text("a"), "text that is not empty, not 3"),
        ({"a": ["x"] * 99}, lambda row: row.text("a"), "not a list"),
        ({"a": "\ud800"}, lambda row: row.text("a"), "half of a surrogate pair"),
        ({"a": "abc"}, lambda row: row.texts("a"), "a list of texts, not 'abc'"),
        ({"a": "-1"}, lambda row: row.number("a"), "a whole number from 0, not '-1'"),
        ({"a": 1.5}, lambda row: row.number("a"), "a whole number"),
        ({"a": [1]}, lambda row: row.rows("a"), "a list of mappings, not 1"),
        ({"a": [1]}, lambda row: row.row("a"), "a mapping"),
    ],
)
def test_a_wrong_field_is_named(row, read, words):
    with pytest.raises(BadInput) as error:
        read(Row(row, "data.json line 7"))
    assert str(error.value).startswith("data.json line 7") and words in str(error.value)


def test_a_number_may_come_as_its_digits():
    assert Row({"a": "07"}, "x").number("a", 8) == 7
