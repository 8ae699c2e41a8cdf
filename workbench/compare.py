"""`compare`: go through two checkpoints tensor by tensor and say what changed, without loading a model.

Two tensors are in memory at a time, one of each side (of experts that are stored fused, one expert of each), and, where
they differ, their difference. Unchanged tensors cost one reading; singular values are only taken of changed matrices.

Read the result as `workbench.comparison` says.
Does not show: anything about behaviour; nothing is run.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workbench.checkpoint import Checkpoint
from workbench.checkpoint_files import CONFIG, read_json
from workbench.comparison import CompareOptions, Comparison
from workbench.comparison_rows import NAMED, TensorRow
from workbench.errors import BadInput
from workbench.shards import Shards, open_shards
from workbench.subspaces import mean_overlap
from workbench.tensor_names import is_fused, natural_order, place_of

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.tensor_change import Change

__all__ = ["CompareOptions", "Comparison", "compare"]

Watch = Callable[[str, int, int, str], object]
"""Told what is done, how many tensors are done, of how many, and which comes next."""

PACKED = re.compile(r"[UI]\d+|BOOL")
"""Dtypes whose numbers are codes or counts."""

ARCHITECTURE = (
    "model_type",
    "hidden_size",
    "n_embd",
    "num_hidden_layers",
    "n_layer",
    "num_attention_heads",
    "n_head",
    "num_key_value_heads",
    "intermediate_size",
    "moe_intermediate_size",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "vocab_size",
)
"""Entries of config.json that must agree."""

INCIDENTAL = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures")
"""Entries of config.json that say nothing about what the model does."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


def compare(
    base: Checkpoint,
    other: Checkpoint,
    options: CompareOptions | None = None,
    device: str = "cpu",
    watch: Watch | None = None,
) -> Comparison:
    """Compare the stored tensors of two checkpoints.

    Args:
        base: the model before.
        other: the model after.
        options: how the difference is described.
        device: where singular values are computed.
        watch: told before each tensor.

    Raises:
        BadInput: when the architectures or the shapes of tensors differ, one side is a base with an adapter, or a
            weight file is missing or damaged.
    """
    options = options or CompareOptions()
    for side in (base, other):
        _require_stored(side)
    notes = [*_config_notes(base, other), *_tokenizer_notes(base, other)]
    with open_shards(base.folder) as before, open_shards(other.folder) as after:
        pairs = _pairs(before, after)
        _require_same_shapes(before, after, pairs)
        rows = list(_rows((before, after), pairs, options, device, watch))
    notes += _row_notes(rows)
    made_by = {"base": base.digest, "checkpoint": other.digest, **options.spec()}
    return Comparison.of_rows((base.name, other.name), rows, notes=tuple(notes), made_by=made_by)


# ---- what is held against what

Pair = tuple[str, str | None, str | None]
"""Name of a tensor, and the names under which the base and the checkpoint store it; None where one does not."""


def _pairs(before: Shards, after: Shards) -> list[Pair]:
    old, new = set(before.names), set(after.names)
    return [
        (
            name,
            name if name in old else _tied(name, before, after),
            name if name in new else _tied(name, after, before),
        )
        for name in sorted(old | new, key=natural_order)
    ]


def _tied(name: str, lacking: Shards, holding: Shards) -> str | None:
    """The embedding that stands for an unembedding which is not stored: transformers leaves out what is tied."""
    if place_of(name).module != "unembedding" or not name.endswith("weight"):
        return None
    shape = holding.shape(name)
    return next((n for n in lacking.names if place_of(n).module == "embedding" and lacking.shape(n) == shape), None)


def _rows(
    sides: tuple[Shards, Shards], pairs: Sequence[Pair], options: CompareOptions, device: str, watch: Watch | None
) -> Iterator[TensorRow]:
    """A row a tensor or expert; nothing read is kept."""
    for done, pair in enumerate(pairs):
        if watch:
            watch("comparing", done, len(pairs), pair[0])
        yield from _rows_of(sides, pair, options, device)
    if watch:
        watch("comparing", len(pairs), len(pairs), "")


def _rows_of(sides: tuple[Shards, Shards], pair: Pair, options: CompareOptions, device: str) -> Iterator[TensorRow]:
    name, *stored = pair
    where = [(side, known) for side, known in zip(sides, stored, strict=True) if known is not None]
    shape = where[0][0].shape(where[0][1])
    dtypes = [side.dtype(known) if known is not None else None for side, known in zip(sides, stored, strict=True)]
    place = place_of(name)
    fused = is_fused(name, shape)
    shape = shape[1:] if fused else shape
    blank = TensorRow(
        tensor=name,
        layer=place.layer,
        module=place.module,
        matrix=place.matrix,
        expert=place.expert,
        shape=" × ".join(map(str, shape)) or "1",
        entries=_entries(shape),
        status="only in base" if stored[1] is None else "only in checkpoint",
        dtype_before=dtypes[0],
        dtype_after=dtypes[1],
        note=_note(pair, dtypes),
    )
    for expert in range(where[0][0].shape(where[0][1])[0]) if fused else [None]:
        row = blank if expert is None else replace(blank, expert=expert)
        if len(where) < 2:
            yield row
        else:
            # Not bound to names, which would keep one expert in memory while the next is read.
            yield row_of(row, (_read(*where[0], expert), _read(*where[1], expert)), options, device)


def _read(shards: Shards, name: str, expert: int | None) -> "Tensor":
    return shards.tensor(name) if expert is None else shards.slice(name)[expert]


def row_of(row: TensorRow, pair: "tuple[Tensor, Tensor]", options: CompareOptions, device: str = "cpu") -> TensorRow:
    """A row with all that is known of a tensor of both sides."""
    from workbench.tensor_change import change_of, digest_of

    before, after = pair
    change = change_of(before, after, options, device)
    known = change.base_norm > 0 or change.change_norm == 0
    relative = change.change_norm / (change.base_norm or 1.0) if known else None
    return replace(
        row,
        status=change.status,
        entries_changed=change.entries_changed,
        share_changed=change.entries_changed / row.entries if row.entries else 0.0,
        base_norm=change.base_norm,
        change_norm=change.change_norm,
        relative_change=relative,
        largest_change=change.largest_change,
        rows_changed=len(change.rows),
        columns_changed=len(change.columns) if before.ndim > 1 else None,
        rows=_named(change.rows),
        columns=_named(change.columns) if before.ndim > 1 else None,
        sha256_before=digest_of(before),
        sha256_after=None if change.status == "identical" else digest_of(after),
        not_finite_before=change.not_finite[0],
        not_finite_after=change.not_finite[1],
        note="; ".join(filter(None, (row.note, change.why_no_overlap))),
        **_spectrum(change),
        **_beside_base(change),
    )


def _spectrum(change: "Change") -> dict[str, Any]:
    found = change.spectrum
    if found is None:
        return {}
    top, total = found.values[0] ** 2, change.change_norm**2
    return {
        "rank": found.rank,
        "rank_is_at_least": found.estimated,
        "rank_threshold": found.threshold,
        "stable_rank": total / top if top else None,
        "top_share": min(1.0, top / total) if total else None,
        "singular_values": list(found.values),
    }


def _beside_base(change: "Change") -> dict[str, Any]:
    """What the base's own directions and entries say about the size and place of the change."""
    entries, overlap = change.entries, change.overlap
    counts = {
        "base_std": entries and entries.std,
        "change_counts": entries and list(entries.change),
        "base_counts": entries and list(entries.base),
    }
    if overlap is None:
        return counts
    return counts | {
        "base_singular_values": overlap.base_values.tolist(),
        "left_cosines": overlap.left.ravel().tolist(),
        "right_cosines": overlap.right.ravel().tolist(),
        "left_overlap": mean_overlap(overlap.left),
        "right_overlap": mean_overlap(overlap.right),
    }


def _named(places: Sequence[int]) -> list[int] | None:
    return list(places) if len(places) <= NAMED else None


def _entries(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


# ---- what else to know


def _note(pair: Pair, dtypes: Sequence[str | None]) -> str:
    name, *stored = pair
    parts = [
        f"not stored in the {side}, taken as tied to {known}"
        for side, known in zip(("base", "checkpoint"), stored, strict=True)
        if known not in (None, name)
    ]
    if None not in dtypes and dtypes[0] != dtypes[1]:
        parts.append(f"{dtypes[0]} against {dtypes[1]}: compared as numbers")
    if any(dtype and PACKED.fullmatch(dtype) for dtype in dtypes):
        parts.append("integers, perhaps packed: compared as stored, not as the weights they stand for")
    return "; ".join(parts)


def _row_notes(rows: Sequence[TensorRow]) -> Iterator[str]:
    """One sentence for every kind of thing that is not a plain change."""
    for status in ("only in base", "only in checkpoint"):
        names = list(dict.fromkeys(row.tensor for row in rows if row.status == status))
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield f"Tensors {status}: {', '.join(names[:3])}{more}"
    yield from dict.fromkeys(f"{row.tensor}: {row.note}" for row in rows if "tied" in row.note)
    kinds = {(row.dtype_before, row.dtype_after) for row in rows if row.dtype_before and row.dtype_after}
    for old, new in sorted(kind for kind in kinds if kind[0] != kind[1]):
        yield f"Stored as {old} in the base and as {new} in the checkpoint: compared as numbers"
    broken = [row for row in rows if row.not_finite_before or row.not_finite_after]
    if broken:
        before, after = (sum(getattr(row, f"not_finite_{side}") for row in broken) for side in ("before", "after"))
        yield (
            f"Not finite (NaN or infinite): {before} entries of the base, {after} of the checkpoint, first in "
            f"{broken[0].tensor}; norms and spectra leave them out"
        )


def _config_notes(base: Checkpoint, other: Checkpoint) -> list[str]:
    """Refuse other architectures; name other differences, which can change behaviour with no tensor changed."""
    old, new = (read_json(side.folder / CONFIG) for side in (base, other))
    differs = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    apart = [key for key in ARCHITECTURE if key in differs and key in old and key in new]
    if apart:
        what = ", ".join(f"{key} {old[key]} against {new[key]}" for key in apart)
        raise BadInput(
            f"{base.name!r} and {other.name!r} are not the same architecture: {what}. Compare a checkpoint with the "
            "base it was made from"
        )
    rest = [key for key in differs if key not in INCIDENTAL]
    said = [f"{key} ({_short(old.get(key))} against {_short(new.get(key))})" for key in rest[:5]]
    more = f" and {len(rest) - 5} more" if len(rest) > 5 else ""
    return [f"config.json differs too: {', '.join(said)}{more}"] if rest else []


def _short(value: object) -> str:
    text = "not set" if value is None else json.dumps(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _tokenizer_notes(base: Checkpoint, other: Checkpoint) -> list[str]:
    """A warning when text becomes other tokens; the vocabularies are only read when the files differ."""
    old, new = ({name: side.shards.get(name) for name in TOKENIZER_FILES} for side in (base, other))
    if old == new:
        return []
    try:
        same = base.tokenizer_digest == other.tokenizer_digest
    except (BadInput, OSError, ValueError, TypeError, KeyError):
        return ["The tokenizer files differ, and one of them cannot be read"]
    if same:
        return []
    return ["The tokenizers differ: the same text becomes other tokens, so equal tensors need not behave alike"]


def _require_stored(checkpoint: Checkpoint) -> None:
    """An adapter's change is in no tensor of the model's files, so it would look like no change at all."""
    if any(name.startswith("adapter/") for name in checkpoint.shards):
        raise BadInput(
            f"{checkpoint.name!r} is a base with an adapter, and only stored tensors are compared. Merge the adapter "
            "(PEFT's `merge_and_unload`, then `save_pretrained`) and give the merged folder"
        )


def _require_same_shapes(before: Shards, after: Shards, pairs: Sequence[Pair]) -> None:
    apart = [
        f"{name} {old} against {new}"
        for name, first, second in pairs
        if first is not None and second is not None
        if (old := before.shape(first)) != (new := after.shape(second))
    ]
    if apart:
        raise BadInput(
            f"{len(apart)} tensors do not have the same shape in both checkpoints: {'; '.join(apart[:5])}. Compare a "
            "checkpoint with the base it was made from"
        )
