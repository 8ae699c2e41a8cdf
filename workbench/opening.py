"""`Opening`: how a checkpoint is opened: where its weights go, in what precision, and what of it is trusted.

One set of options for every verb (`workbench.cli.options.opens_models`), for the app and for Python. What is not
said is strict: nothing of a checkpoint is executed, and what does not fit is refused.
"""

import re
from typing import Any, Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from workbench.registry import Method

Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
"""`auto` is what the checkpoint says of itself."""

SIZE = re.compile(r"\d+(\.\d+)?\s?[KMG]i?B", re.IGNORECASE)
"""A number of bytes as accelerate reads it."""


class Opening(Method):
    """How a checkpoint is opened."""

    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1, mps."""
    dtype: Dtype = "auto"
    """Precision of the weights; auto keeps the checkpoint's own."""
    device_map: Literal["auto"] | dict[str, str | int] | None = None
    """Spread the weights over several devices: auto, or a mapping of module names to devices."""
    max_memory: dict[str, str | int] | None = None
    """With device_map=auto, how much each device may hold, like {"0": "20GiB", "cpu": "60GiB"}."""
    offline: bool = False
    """Use only hub files that are in the local cache."""
    allow_pickle: bool = False
    """Read pickled weights (*.bin) where there are no safetensors; only tensors are unpickled."""
    trust_remote_code: bool = False
    """Execute the Python code that a checkpoint brings along."""
    allow_unused_tensors: bool = False
    """Open a checkpoint although its files hold tensors that its config has no place for."""

    @field_validator("device_map", mode="before")
    @classmethod
    def _reachable(cls, given: Any, info: Any) -> Any:
        if given is None:
            return None
        if given != "auto" and not (isinstance(given, dict) and given):
            raise PydanticCustomError("device_map", "must be auto, or a mapping of module names to devices")
        if given != "auto" and {"disk", "meta"} & {str(place) for place in given.values()}:
            raise PydanticCustomError(
                "device_map", "weights left on disk cannot be looked into; name a device for every module"
            )
        if info.data.get("device", "cpu") != "cpu":
            raise PydanticCustomError("device_map", "already says where the weights go; leave out device")
        return given

    @field_validator("max_memory", mode="before")
    @classmethod
    def _sizes(cls, given: Any, info: Any) -> Any:
        if given is None:
            return None
        sized = isinstance(given, dict) and all(isinstance(s, int) or SIZE.fullmatch(str(s)) for s in given.values())
        if not sized:
            raise PydanticCustomError(
                "max_memory", 'must be a mapping of devices to sizes, like {"0": "20GiB", "cpu": "60GiB"}'
            )
        if info.data.get("device_map") != "auto":
            raise PydanticCustomError("max_memory", "bounds device_map=auto; give that too")
        return given

    @property
    def memory(self) -> dict[int | str, str | int] | None:
        """`max_memory` with GPUs by number, as accelerate wants them."""
        if self.max_memory is None:
            return None
        names = {name: name.removeprefix("cuda:") for name in self.max_memory}
        return {int(n) if n.isdecimal() else n: self.max_memory[name] for name, n in names.items()}
