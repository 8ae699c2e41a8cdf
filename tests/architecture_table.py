"""The table of architectures in the README, made from what `doctor` finds on the tiny checkpoints of `tests.zoo`.

python -m tests.architecture_table      writes the table into README.md
"""

import re
import tempfile
from pathlib import Path
from typing import Any

from tests import zoo

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- architectures: made by `make architectures` -->", "<!-- end of architectures -->"
COLUMNS = ("architecture", "neurons", "experts", "not here", "value vectors", "checks", "twin equals HF")


def row_of(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table, in the order of `COLUMNS`."""
    parts = {row["part"] for row in found["sites"]}
    passed = sum(check["passed"] for check in found["checks"])
    twin = next(c["deviation"] for c in found["checks"] if c["name"].startswith("TransformerLens twin"))
    experts = "—"
    if "router" in parts:
        shared = any("shared" in store["parameter"] for store in found["value_vectors"])
        first = min(row["layers"][0] for row in found["sites"] if row["part"] == "router")
        experts = "routed" + (" + shared" if shared else "") + (f", from layer {first}" if first else "")
    neurons = " and ".join(part for part in ("mlp_act", "e*.mlp_act") if part in parts)
    absent = [part for part in found["lacking"] if part not in ("router", "expert")]
    if "mlp_act" in absent and "e*.mlp_pre" in parts:
        absent.remove("mlp_pre")  # where the neurons are, there is what enters their activation
    store = found["value_vectors"][0]
    stored = ("rows" if store["by_row"] else "columns") + (", norm behind" if store["through"] else "")
    exact = "bit for bit" if twin == 0 else "within 2e-6"
    checks = f"{passed} of {len(found['checks'])}"
    title = f"{found['architecture'].removesuffix('ForCausalLM').removesuffix('LMHeadModel')} (`{name}`)"
    return (title, neurons, experts, ", ".join(absent) or "—", stored, checks, exact)


def table_in_readme() -> dict[str, dict[str, str]]:
    """The table as it stands: architecture -> column -> cell."""
    text = README.read_text(encoding="utf-8")
    between = text.partition(START)[2].partition(END)[0]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in between.strip().splitlines()[2:]]
    return {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows}


def main() -> None:
    """Open every architecture and write the table."""
    from workbench.cli.doctor_model import examine
    from workbench.opening import Opening

    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    with tempfile.TemporaryDirectory() as folder:
        for name in zoo.ARCHITECTURES:
            found = examine(str(zoo.save(name, Path(folder) / name)), Opening())
            lines.append("| " + " | ".join(row_of(name, found)) + " |")
    table = "\n".join([START, *lines, END])
    text = README.read_text(encoding="utf-8")
    README.write_text(re.sub(f"{START}.*?{END}", lambda _: table, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
