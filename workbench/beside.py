"""Numbers that others measured, read from their own files so that they can stand beside an audit's.

    OpenUnlearning   `*_EVAL.json` (metric -> agg_value, value_by_index) and `*_SUMMARY.json` (metric -> value)
    lm-eval          `results_*.json` (results -> task -> "acc,none", "acc_stderr,none")
    Inspect          `.json` logs and the header of `.eval` logs (results -> scores -> metrics)

Read it as: what the file says, with the file's hash; nothing is measured again and no verdict rests on it.
Does not show: whether the file belongs to the checkpoint that is audited; none of the three formats can say so.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from workbench.errors import BadInput
from workbench.evidence import OtherNumber

LARGEST = 512 * 2**20
"""Bytes of a file that are read at most."""

KNOWN = "OpenUnlearning's *_EVAL.json or *_SUMMARY.json, lm-eval's results_*.json, or an Inspect log (.json, .eval)"


def read_beside(path: Path) -> tuple[OtherNumber, ...]:
    """All summary numbers of one file.

    Raises:
        BadInput: when it cannot be read, is too large, or is of none of the known forms.
    """
    content, digest = _content(path)
    rows = list(_rows(path, content))
    if not rows:
        raise BadInput(f"{str(path)!r} holds no numbers in a known form; give {KNOWN}")
    return tuple(OtherNumber(file=path.name, sha256=digest, **row) for row in rows)


def _content(path: Path) -> tuple[Any, str]:
    try:
        if path.stat().st_size > LARGEST:
            raise BadInput(f"{str(path)!r} is larger than {LARGEST // 2**20} MiB; give the summary file instead")
        raw = path.read_bytes()
        text = _header_of_zip(path) if zipfile.is_zipfile(path) else raw
        return json.loads(text), hashlib.sha256(raw).hexdigest()
    except FileNotFoundError:
        raise BadInput(f"There is no file {str(path)!r}; give {KNOWN}") from None
    except (OSError, ValueError, zipfile.BadZipFile, RecursionError) as error:
        raise BadInput(f"{str(path)!r} cannot be read as JSON: {error}. Give {KNOWN}") from None


def _header_of_zip(path: Path) -> bytes:
    """The header of an Inspect `.eval` log."""
    with zipfile.ZipFile(path) as archive:
        if "header.json" not in archive.namelist():
            raise BadInput(f"{str(path)!r} is a zip file without header.json, so no finished Inspect log; give {KNOWN}")
        if archive.getinfo("header.json").file_size > LARGEST:
            raise BadInput(f"The header of {str(path)!r} is larger than {LARGEST // 2**20} MiB")
        return archive.read("header.json")


def _rows(path: Path, found: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(found, Mapping):
        return
    results = found.get("results")
    if isinstance(results, Mapping) and isinstance(found.get("eval"), Mapping):
        yield from _inspect(found)
    elif isinstance(results, Mapping):
        yield from _lm_eval(found)
    else:
        yield from _open_unlearning(path, found)


def _open_unlearning(path: Path, found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    task = path.stem.removesuffix("_EVAL").removesuffix("_SUMMARY")
    for metric, said in found.items():
        value = said.get("agg_value") if isinstance(said, Mapping) else said
        if _is_number(value):
            items = said.get("value_by_index") if isinstance(said, Mapping) else None
            n = len(items) if isinstance(items, Mapping) else None
            yield {"source": "OpenUnlearning", "task": task, "metric": str(metric), "value": float(value), "n": n}


def _lm_eval(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    sizes = found.get("n-samples") or {}
    for task, metrics in found["results"].items():
        if not isinstance(metrics, Mapping):
            continue
        for name, value in metrics.items():
            metric, _, kind = str(name).partition(",")
            if metric.endswith("_stderr") or not _is_number(value):
                continue
            error = metrics.get(f"{metric}_stderr,{kind}")
            size = sizes.get(task) if isinstance(sizes, Mapping) else None
            yield {
                "source": "lm-eval",
                "task": str(task),
                "metric": metric if kind in ("", "none") else f"{metric} ({kind})",
                "value": float(value),
                "stderr": float(error) if _is_number(error) else None,
                "n": _count(size.get("effective")) if isinstance(size, Mapping) else None,
            }


def _inspect(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    task, results = str(found["eval"].get("task", "")), found["results"]
    scores = results.get("scores")
    for score in scores if isinstance(scores, list) else []:
        metrics = score.get("metrics") if isinstance(score, Mapping) else None
        if not isinstance(metrics, Mapping):
            continue
        values = {name: said.get("value") for name, said in metrics.items() if isinstance(said, Mapping)}
        error = values.pop("stderr", None)
        for name, value in values.items():
            if _is_number(value):
                yield {
                    "source": "Inspect",
                    "task": task,
                    "metric": f"{score.get('name', '')} {name}".strip(),
                    "value": float(value),
                    "stderr": float(error) if _is_number(error) else None,
                    "n": _count(results.get("completed_samples") or results.get("total_samples")),
                }


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
