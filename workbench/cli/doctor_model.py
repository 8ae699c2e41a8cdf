"""What `workbench doctor CHECKPOINT` says of the model: its sites, what it lacks, and every self-check."""

import math
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from workbench.cli.console import table

if TYPE_CHECKING:
    from workbench.opening import Opening

_LAYER = re.compile(r"^(layer \d+|L\d+\.e\d+\.mlp_act): ")


def examine(checkpoint: str, opening: "Opening") -> dict[str, Any]:
    """Open a checkpoint without refusing it for a failed check, and look at everything.

    Raises:
        BadInput: when it cannot be opened at all.
    """
    from workbench.cli.subjects import checkpoint_at
    from workbench.model_check import withhold
    from workbench.model_table import lacking, site_table, stores

    with checkpoint_at(checkpoint, opening).open(check=False) as model:
        checks = model.check(full=True)
        for failed in (c for c in checks if not c.passed):
            withhold(model, failed)
        return {
            "checkpoint": checkpoint,
            "architecture": type(model.hf).__name__,
            "dtype": str(model.hf.dtype).removeprefix("torch."),
            "parameters": sum(p.numel() for p in model.hf.parameters()),
            "layers": model.n_layers,
            "experts_per_token": model.experts_per_token if model.mixture_layers else None,
            "read_only": model.read_only or None,
            "sites": [asdict(row) for row in site_table(model)],
            "value_vectors": [asdict(store) for store in stores(model)],
            "unembedding": {"module": model.anatomy.unembed, "shape": list(model.unembedding.shape)},
            "lacking": lacking(model),
            "checks": [
                {"name": c.name, "deviation": c.deviation if math.isfinite(c.deviation) else None, "passed": c.passed}
                for c in checks
            ],
        }


def problems(found: dict[str, Any]) -> list[str]:
    """Every check that failed, in a sentence."""
    failed = [row for row in found["checks"] if not row["passed"]]
    return [f"{row['name']}: deviation {amount(row['deviation'])}" for row in failed]


def amount(deviation: float | None) -> str:
    """A deviation in a sentence."""
    return "not a number" if deviation is None else f"{deviation:.2g}"


def tables(found: dict[str, Any]) -> list[Any]:
    """For people: the sites, what is lacking, the checks with those of all layers together."""
    from workbench.model_table import spans

    mixture = "" if found["experts_per_token"] is None else f", {found['experts_per_token']} experts a token"
    title = (
        f"{found['checkpoint']}: {found['architecture']}, {found['parameters']:,} parameters, "
        f"{found['layers']} layers{mixture}, {found['dtype']}"
    )
    sites = [
        (row["part"], spans(row["layers"]), row["place"], f"(row, pos, {row['width']})", _use(row["writable"]))
        for row in found["sites"]
    ]
    kept = [
        (store["parameter"], spans(store["layers"]), " × ".join(map(str, store["shape"])), _orientation(store))
        for store in found["value_vectors"]
    ]
    shown = [table(("site", "layers", "module", "shape", "use"), sites, title)]
    if kept:
        shown.append(table(("value vectors in", "layers", "shape", "each is"), kept))
    if found["lacking"]:
        shown.append(table(("not here", "why"), list(found["lacking"].items())))
    return [*shown, table(("self-check", "worst deviation", "state"), _grouped(found["checks"]))]


def _use(writable: bool) -> str:
    return "read, rewrite" if writable else "read"


def _orientation(store: dict[str, Any]) -> str:
    behind = f", then {store['through']}" if store["through"] else ""
    return f"a {'row' if store['by_row'] else 'column'}{behind}"


def _grouped(checks: list[dict[str, Any]]) -> list[tuple[str, float | None, str]]:
    """Checks of the same kind over all layers as one row; one that failed stands alone with its layer."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for check in checks:
        name = _LAYER.sub("", check["name"]) if check["passed"] else check["name"]
        groups.setdefault(name, []).append(check)
    rows = []
    for name, members in groups.items():
        lowest = "changes the logits" in name  # there the smallest change is what counts
        numbers = [member["deviation"] for member in members if member["deviation"] is not None]
        worst = (min if lowest else max)(numbers, default=None)
        many = f" ({len(members)} times)" if len(members) > 1 else ""
        rows.append((name + many, worst, "ok" if members[0]["passed"] else "PROBLEM"))
    return rows
