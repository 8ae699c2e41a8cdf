"""Names for single experts of a mixture: slices of fused tensors.

Transformers keeps all experts of a layer in one tensor, (expert, out, in). `...experts.down_proj[5]` names the slice of
expert 5; `workbench.parameters` makes such names of sites, `workbench.training` trains by them (what the optimizer then
holds is in `workbench.training_leaves`).
"""

import re
from collections.abc import Collection

_SLICE = re.compile(r"^(?P<name>.+)\[(?P<expert>\d+)\]$")


def slice_name(parameter: str, expert: int) -> str:
    """Name of one expert's part of a fused parameter."""
    return f"{parameter}[{expert}]"


def split_name(name: str) -> tuple[str, int | None]:
    """The parameter and the expert that a name means; None for the whole parameter."""
    found = _SLICE.match(name)
    return (found["name"], int(found["expert"])) if found else (name, None)


def whole_names(names: Collection[str]) -> list[str]:
    """The parameters that some names lie in, each once, in order."""
    return list(dict.fromkeys(split_name(name)[0] for name in names))


def slices_of(names: Collection[str]) -> dict[str, list[int]]:
    """Parameter -> experts, for the parameters of which only slices are named, ascending."""
    whole = {name for name in names if split_name(name)[1] is None}
    found: dict[str, set[int]] = {}
    for name in names:
        parameter, expert = split_name(name)
        if expert is not None and parameter not in whole:
            found.setdefault(parameter, set()).add(expert)
    return {name: sorted(experts) for name, experts in found.items()}
