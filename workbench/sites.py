"""`Site`: one place inside a language model, with a text form that round-trips.

    L5.mlp_act[412]       neuron 412 of layer 5's MLP (its value vector is column 412 of the down-projection)
    L2.e5.mlp_act[7]      neuron 7 inside expert 5 of layer 2
    L5.mlp_pre[412]       what enters the activation function of neuron 412 (of a gated MLP, its gate)
    L2.expert[5]          expert 5 of layer 2 as a whole
    L3.resid_post         the residual stream after block 3
    embed                 the token embeddings as they enter the first block

The text form is the key in JSON, URLs and tables. Layers count from 0.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workbench.errors import BadInput, did_you_mean

LAYER_PARTS = {
    "resid_pre": "residual stream entering the block",
    "resid_mid": "residual stream between attention and MLP",
    "resid_post": "residual stream leaving the block",
    "attn_out": "what attention adds to the residual stream",
    "mlp_out": "what the MLP (or the experts together) adds to the residual stream",
    "mlp_pre": "MLP neurons before the activation function (of a gated MLP, the gate)",
    "mlp_act": "MLP neurons: the coefficients of the value vectors",
    "head": "attention heads before the output projection",
    "router": "router logits of a mixture-of-experts block",
    "expert": "one routed expert of a mixture-of-experts block",
}
"""Every part a layer can have, in words."""

NEURON_PARTS = ("mlp_act", "mlp_pre")
"""Parts with one entry a neuron; these alone lie inside single experts too."""

GLOBAL_PARTS = {"embed": "token embeddings entering the first block"}
"""Parts that belong to no layer."""

_PATTERN = re.compile(r"^L(?P<layer>\d+)(?:\.e(?P<expert>\d+))?\.(?P<part>\w+)(?:\[(?P<index>\d+)\])?$")


@dataclass(frozen=True, order=True)
class Site:
    """One place inside a model.

    Raises:
        BadInput: for a part that does not exist, or a layer where none belongs (or the reverse).
    """

    layer: int | None
    """Block number from 0; None for a part outside the blocks."""
    part: str
    """A key of `LAYER_PARTS` or `GLOBAL_PARTS`."""
    index: int | None = None
    """Neuron, head or expert number within the part; None for the whole part."""
    expert: int | None = None
    """The expert a neuron lies in; None in a dense MLP."""

    def __post_init__(self) -> None:
        known = GLOBAL_PARTS if self.layer is None else LAYER_PARTS
        if self.part not in known:
            raise BadInput(f"No site part called {self.part!r}. {did_you_mean(self.part, known)}")
        if self.expert is not None and self.part not in NEURON_PARTS:
            raise BadInput(
                f"Only neurons (mlp_act, mlp_pre) lie inside an expert, not {self.part!r}; the expert itself is "
                f"L{self.layer}.expert[{self.expert}]"
            )

    def __str__(self) -> str:
        if self.layer is None:
            return self.part
        inside = "" if self.expert is None else f".e{self.expert}"
        tail = "" if self.index is None else f"[{self.index}]"
        return f"L{self.layer}{inside}.{self.part}{tail}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Read the text form back.

        Raises:
            BadInput: when the text is not of a site.
        """
        if text in GLOBAL_PARTS:
            return cls(None, text)
        match = _PATTERN.match(text)
        if not match:
            raise BadInput(f"{text!r} is not a site. A site reads like L5.mlp_act[412], L2.expert[5] or L3.resid_post")
        layer, expert, part, index = match.group("layer", "expert", "part", "index")
        return cls(int(layer), part, None if index is None else int(index), None if expert is None else int(expert))

    @property
    def whole(self) -> "Site":
        """The part this site lies in, without the index; of a neuron in an expert, all neurons of that expert."""
        return Site(self.layer, self.part, None, self.expert)


def parse_sites(texts: Iterable[str]) -> tuple[Site, ...]:
    """Read many text forms."""
    return tuple(Site.parse(text) for text in texts)


def layers_of(sites: Sequence[Site]) -> tuple[int, ...]:
    """The layers some sites lie in, ascending and without repeats."""
    return tuple(sorted({site.layer for site in sites if site.layer is not None}))
