"""How value vectors moved, from two stored snapshots: shared top tokens, cosine, length, and each token's rank.

Read it as: Jaccard 1 and cosine 1 is an untouched vector. The vectors are the ones that spell the answers in the base.
Does not show: what else in the model writes the answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.figures_tokens import visible
from workbench.trace import Trace


def ids_at(trace: Trace, site: str) -> Sequence[int]:
    """Ids of the top tokens of one vector, best first; none where the snapshot does not hold it."""
    ids: Any = trace.notes.get("top_ids", {})
    if isinstance(ids, Mapping):
        return list(ids.get(site, ()))
    sites = list(trace.labels["site"])
    return list(ids[sites.index(site)]) if site in sites and len(ids) == len(sites) else []


def moves(before: Trace, after: Trace, k: int) -> pd.DataFrame:
    """A row a vector of both snapshots, most changed first.

    Args:
        before: the base's snapshot, axes (site, d_model).
        after: another model's.
        k: top tokens to compare.
    """
    rows = []
    for i, site in enumerate(before.labels["site"]):
        if site not in after.labels["site"]:
            continue
        old, new = before.values[i].astype(float), after.values[after.labels["site"].index(site)].astype(float)
        one, other = set(ids_at(before, site)[:k]), set(ids_at(after, site)[:k])
        lengths = float(np.linalg.norm(old)), float(np.linalg.norm(new))
        rows.append(
            {
                "vector": site,
                "Jaccard": len(one & other) / len(one | other) if one | other else np.nan,
                "cosine": float(old @ new) / (lengths[0] * lengths[1]) if all(lengths) else np.nan,
                "length after / before": lengths[1] / lengths[0] if lengths[0] else np.nan,
            }
        )
    names = ["vector", "Jaccard", "cosine", "length after / before"]
    return pd.DataFrame(rows, columns=names).sort_values("Jaccard", kind="stable").reset_index(drop=True)


def ranks(before: Trace, after: Trace, site: str, k: int) -> pd.DataFrame:
    """The k top tokens of one vector before and after, with how many ranks each one after has moved up or down.

    `new` was not among those kept before.

    Their words stand beside the ids where both snapshots spell them; older ones do not.
    """
    old, new = ids_at(before, site), ids_at(after, site)
    count = min(k, max(len(old), len(new)))
    spelled = {
        f"token {when}": [_word(trace, ids, i) for i in range(count)]
        for when, trace, ids in (("before", before, old), ("after", after, new))
        if spells(before) and spells(after)
    }
    return pd.DataFrame(
        {
            "rank": range(1, count + 1),
            **spelled,
            "moved": [_moved(old, new, i) for i in range(count)],
            "token id before": pd.array([_entry(old, i) for i in range(count)], dtype="Int64"),
            "token id after": pd.array([_entry(new, i) for i in range(count)], dtype="Int64"),
        }
    )


def spells(trace: Trace) -> bool:
    """Whether a snapshot holds the words of its tokens."""
    return isinstance(trace.notes.get("vocabulary"), Mapping)


def _word(trace: Trace, ids: Sequence[int], i: int) -> str:
    return visible(str(trace.notes["vocabulary"].get(str(ids[i]), "?"))) if i < len(ids) else ""


def _entry(ids: Sequence[int], i: int) -> int | None:
    return ids[i] if i < len(ids) else None


def _moved(old: Sequence[int], new: Sequence[int], i: int) -> str:
    if i >= len(new):
        return ""
    if new[i] not in old:
        return "new"
    by = list(old).index(new[i]) - i
    return "=" if not by else f"▲ +{by}" if by > 0 else f"▼ −{-by}"


def lost(before: Trace, after: Trace, site: str, k: int) -> int:
    """How many of the k top tokens before are not among the k after."""
    return len(set(ids_at(before, site)[:k]) - set(ids_at(after, site)[:k]))
