"""What can be told of an architecture that TransformerLens does not know: the residual stream, and how it is decoded.

The blocks are the longest list of modules as long as the config has layers; a block's input and output are the
residual stream; the final norm stands beside the blocks. All of it is a guess until the checks have passed, and such
a model is read only (`HookedModel.read_only`).
"""

from torch import nn
from transformers import PreTrainedModel

from workbench.errors import BadInput
from workbench.model_sites import Anatomy, Tap
from workbench.sites import Site


def outline(hf: PreTrainedModel) -> Anatomy:
    """The residual stream of a decoder of any make.

    Raises:
        BadInput: when the model has no list of blocks, or no unembedding.
    """
    layers = int(getattr(hf.config, "num_hidden_layers", 0))
    lists = [name for name, m in hf.named_modules() if isinstance(m, nn.ModuleList) and len(m) == layers]
    embed, unembed = hf.get_input_embeddings(), hf.get_output_embeddings()
    if not lists or embed is None or unembed is None:
        raise BadInput(
            f"The architecture {type(hf).__name__} is unknown to TransformerLens and has no list of "
            f"{layers} blocks between an embedding and an unembedding; there is nothing here that can be read"
        )
    paths = {id(module): name for name, module in hf.named_modules()}
    blocks = min(lists, key=lambda name: name.count("."))  # the outermost: blocks may hold lists of as many parts
    taps = {Site(None, "embed"): Tap(paths[id(embed)], "out")}
    for layer in range(layers):
        taps[Site(layer, "resid_pre")] = Tap(f"{blocks}.{layer}", "in")
        taps[Site(layer, "resid_post")] = Tap(f"{blocks}.{layer}", "out")
    return Anatomy(taps, {}, {}, _norm_beside(hf, blocks), paths[id(unembed)])


def _norm_beside(hf: PreTrainedModel, blocks: str) -> str | None:
    """The last module called a norm that stands beside the blocks."""
    parent, _, own = blocks.rpartition(".")
    names = [name for name, child in hf.get_submodule(parent).named_children() if name != own and _is_norm(child)]
    return f"{parent}.{names[-1]}".lstrip(".") if names else None


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()
