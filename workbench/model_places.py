"""What an open model (`HookedModel`) says of its sites: where each is, how wide, and whether it can be rewritten."""

from workbench.errors import BadInput
from workbench.hooks import READ_ONLY
from workbench.model_sites import Tap
from workbench.sites import Site
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
                return Tap(mixture.experts, "expert", expert=site.expert)
        tap = self.taps.get(site.whole)
        if tap is None:
            raise BadInput(f"{self.name} ({type(self.hf).__name__}) has no site {site}: {self._instead_of(site)}")
        return tap

    def _instead_of(self, site: Site) -> str:
        """Why a site is not there, or what is there in its place."""
        if str(site.whole) in self.withheld:
            return self.withheld[str(site.whole)]
        mixture = None if site.layer is None else self.anatomy.mixtures.get(site.layer)
        if mixture and site.part == "mlp_act" and mixture.fused:
            last = f"L{site.layer}.e{mixture.n_experts - 1}.mlp_act"
            return f"layer {site.layer} is a mixture of experts, its neurons are L{site.layer}.e0.mlp_act to {last}"
        parts = sorted({s.part for s in self.taps if s.layer == site.layer})
        return f"layer {site.layer} has {', '.join(parts)}" if parts else f"there are layers 0 to {self.n_layers - 1}"

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
        if site.part == "router" and site.layer is not None:
            return self.anatomy.mixtures[site.layer].n_experts
        if site.part == "head":
            out = self.hf.get_submodule(tap.path)
            return int(out.weight.shape[0 if type(out).__name__ == "Conv1D" else 1])
        return self.d_model

    def require_writable(self, site: Site) -> None:
        """Refuse a rewrite that would not do what it says.

        Raises:
            BadInput: with the reason.
        """
        if self.read_only:
            raise BadInput(f"{self.name} ({type(self.hf).__name__}) can only be read: {self.read_only}")
        if site.part in READ_ONLY:
            raise BadInput(f"{site} can be read but not rewritten: {READ_ONLY[site.part]}")
