"""Numbers of other tools, on files written in their forms."""

import json
import zipfile
from pathlib import Path

import pytest

from workbench.beside import read_beside
from workbench.errors import BadInput


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_open_unlearning(tmp_path: Path) -> None:
    found = {
        "forget_Q_A_Prob": {"agg_value": 0.25, "value_by_index": {"0": {"prob": 0.5}, "1": {"prob": 0.0}}},
        "forget_quality": {"agg_value": 1e-3},
        "forget_truth_ratio": {"agg_value": None},
    }
    first, second = read_beside(written(tmp_path / "TOFU_EVAL.json", found))
    assert (first.source, first.task, first.metric, first.value, first.n) == (
        "OpenUnlearning",
        "TOFU",
        "forget_Q_A_Prob",
        0.25,
        2,
    )
    assert (second.value, second.n) == (1e-3, None)
    (summary,) = read_beside(written(tmp_path / "MUSE_SUMMARY.json", {"privleak": -3.5}))
    assert (summary.task, summary.value) == ("MUSE", -3.5)


def test_lm_eval(tmp_path: Path) -> None:
    found = {
        "results": {"mmlu": {"alias": "mmlu", "acc,none": 0.4, "acc_stderr,none": 0.01, "em,strict": 0.1}},
        "n-samples": {"mmlu": {"original": 100, "effective": 50}},
    }
    acc, em = read_beside(written(tmp_path / "results_1.json", found))
    assert (acc.metric, acc.value, acc.stderr, acc.n) == ("acc", 0.4, 0.01, 50)
    assert (em.metric, em.stderr) == ("em (strict)", None)


@pytest.mark.parametrize("packed", [False, True])
def test_inspect(tmp_path: Path, packed: bool) -> None:
    found = {
        "version": 2,
        "eval": {"task": "wmdp_bio", "model": "hf/x"},
        "results": {
            "total_samples": 40,
            "scores": [
                {
                    "name": "choice",
                    "metrics": {
                        "accuracy": {"name": "accuracy", "value": 0.3},
                        "stderr": {"name": "stderr", "value": 0.07},
                    },
                }
            ],
        },
    }
    path = tmp_path / ("log.eval" if packed else "log.json")
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("header.json", json.dumps(found))
    else:
        written(path, found)
    (one,) = read_beside(path)
    assert (one.source, one.task, one.metric, one.value, one.stderr, one.n) == (
        "Inspect",
        "wmdp_bio",
        "choice accuracy",
        0.3,
        0.07,
        40,
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[1, 2]", "no numbers in a known form"),
        ('{"a": {"agg_value": NaN}}', "no numbers"),
        ('{"a": true}', "no numbers"),
        ('{"results": {"mmlu": 3}}', "no numbers"),
        ('{"eval": {}, "results": {"scores": 7}}', "no numbers"),
    ],
)
def test_what_is_none_of_them_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "x_EVAL.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=words):
        read_beside(path)


def test_a_file_that_is_not_there_and_a_zip_without_header(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no file"):
        read_beside(tmp_path / "absent.json")
    with zipfile.ZipFile(tmp_path / "x.eval", "w") as archive:
        archive.writestr("other", "1")
    with pytest.raises(BadInput, match=r"without header\.json"):
        read_beside(tmp_path / "x.eval")
