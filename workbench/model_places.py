"""What an open model (`HookedModel`) says of its sites: where each is, how wide, and whether it can be rewritten."""

from workbench.errors import BadInput
from workbench.hooks import READ_ONLY
from workbench.model_sites import Tap
from workbench.sites import NEURON_PARTS, Site
from workbench.value_vectors import Neurons


class Places(Neurons):
    """Sites of an open model."""

    taps: dict[Site, Tap]
    read_only: str

    def tap(self, site: Site) -> Tap:
        """The module boundary a site is.

        Raises:
            BadInput: when this architecture has no such place.
        """
        if site.expert is not None and site.layer is not None:
            mixture = self.anatomy.mixtures.get(site.layer)
            if mixture and mixture.fused and site.expert < mixture.n_experts:
                if site.part == "mlp_act":
                    return Tap(mixture.experts, "expert", expert=site.expert)
                if not self.why_no_gates(site.layer):
                    return Tap(mixture.experts, "gate", expert=site.expert)
        tap = self.taps.get(site.whole)
        if tap is None:
            raise BadInput(f"{self.name} ({type(self.hf).__name__}) has no site {site}: {self._instead_of(site)}")
        return tap

    def _instead_of(self, site: Site) -> str:
        """Why a site is not there, or what is there in its place."""
        if str(site.whole) in self.withheld:
            return self.withheld[str(site.whole)]
        mixture = None if site.layer is None else self.anatomy.mixtures.get(site.layer)
        if site.layer is not None and mixture and site.part in NEURON_PARTS and mixture.fused:
            if site.part == "mlp_pre" and (why := self.why_no_gates(site.layer)):
                return why
            last = f"L{site.layer}.e{mixture.n_experts - 1}.{site.part}"
            return f"layer {site.layer} is a mixture of experts, its neurons are L{site.layer}.e0.{site.part} to {last}"
        parts = sorted({s.part for s in self.taps if s.layer == site.layer})
        return f"layer {site.layer} has {', '.join(parts)}" if parts else f"there are layers 0 to {self.n_layers - 1}"

    def gate_sites(self) -> list[Site]:
        """What enters the activations, whole, in reading order: of MLPs, of shared experts, of each routed expert."""
        found = [site for site in self.taps if site.part == "mlp_pre"]
        for layer, mixture in self.anatomy.mixtures.items():
            if mixture.fused and not self.why_no_gates(layer):
                found += [Site(layer, "mlp_pre", None, expert) for expert in range(mixture.n_experts)]
        return sorted(found, key=_reading_order)

    def why_no_gates(self, layer: int) -> str:
        """Why what enters the activation of a layer's routed experts cannot be told; empty when it can."""
        if not self.anatomy.mixtures[layer].layout:
            return "the experts do not say which half of what enters their activation the gates are"
        return self.withheld.get(f"L{layer}.e*.mlp_pre", "")

    def span(self, site: Site) -> tuple[int, int] | None:
        """The entries of the last axis that an indexed site is: one for a neuron, d_head for a head; None for all.

        Raises:
            BadInput: when the index is beyond the width of the site.
        """
        if site.index is None:
            return None
        wide = self._d_head(site.layer) if site.part == "head" and site.layer is not None else 1
        width = self.width(site)
        if (site.index + 1) * wide > width:
            raise BadInput(f"{site} does not exist in {self.name}: {site.whole} has indices 0 to {width // wide - 1}")
        return site.index * wide, (site.index + 1) * wide

    def _d_head(self, layer: int) -> int:
        return self.width(Site(layer, "head")) // int(self.hf.config.num_attention_heads)

    def width(self, site: Site) -> int:
        """Size of the last axis of a site."""
        tap = self.tap(site.whole)
        if site.part == "mlp_act":
            return next(rows.shape[0] for mlp, rows in self.mlps() if mlp == site.whole)
        if site.part == "mlp_pre":
            return self._gates_at(tap)
        if site.part == "router" and site.layer is not None:
            return self.anatomy.mixtures[site.layer].n_experts
        if site.part == "head":
            out = self.hf.get_submodule(tap.path)
            return int(out.weight.shape[0 if type(out).__name__ == "Conv1D" else 1])
        return self.d_model

    def _gates_at(self, tap: Tap) -> int:
        """How many neurons have what enters their activation function at a place."""
        module = self.hf.get_submodule(tap.path)
        if tap.side == "gate":
            return int(module.down_proj.shape[-2 if module.is_transposed else -1])
        if tap.entries is not None:
            return tap.entries[1] - tap.entries[0]
        return int(module.weight.shape[1 if type(module).__name__ == "Conv1D" else 0])

    def require_writable(self, site: Site) -> None:
        """Refuse a rewrite that would not do what it says.

        Raises:
            BadInput: with the reason.
        """
        if self.read_only:
            raise BadInput(f"{self.name} ({type(self.hf).__name__}) can only be read: {self.read_only}")
        if site.part in READ_ONLY:
            raise BadInput(f"{site} can be read but not rewritten: {READ_ONLY[site.part]}")


def _reading_order(site: Site) -> tuple[int, int]:
    return site.layer or 0, -1 if site.expert is None else site.expert
