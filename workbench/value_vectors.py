"""`ValueVectors`: the down-projection of an MLP, or of all experts of a layer, however it is stored."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ValueVectors:
    """The vectors an MLP adds up: its down-projection, in the checkpoint's own orientation."""

    name: str
    """Parameter name in the Hugging Face model."""
    weight: Tensor
    """The parameter itself: (d_model, d_mlp), (expert, d_model, d_mlp), or (d_mlp, d_model) when `by_row`."""
    by_row: bool = False
    """Whether the checkpoint stores a value vector as a row (GPT-2's Conv1D) and not as a column."""

    @property
    def vectors(self) -> Tensor:
        """A view with one value vector a row: (d_mlp, d_model) or (expert, d_mlp, d_model)."""
        return self.as_rows(self.weight)

    def as_rows(self, like_weight: Tensor) -> Tensor:
        """A view, one value vector a row, of any tensor shaped like the parameter (its gradient, a copy of it)."""
        return like_weight if self.by_row else like_weight.transpose(-1, -2)

    @property
    def n_experts(self) -> int | None:
        """Number of experts, None in a dense MLP."""
        return self.weight.shape[0] if self.weight.ndim == 3 else None
