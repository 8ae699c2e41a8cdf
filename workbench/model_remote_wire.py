"""The passes themselves, written as nnsight traces. Imports nnsight; only `workbench.model_remote` imports this.

nnsight sends the *source* of a traced block with the values of the names in it, and unpickles what comes back. So the
blocks here use nothing but plain data, torch and nnsight, and what comes back is only allowed to be tensors and plain
containers. Also goes out, by nnsight's doing: the path of this file, and a time stamp.
"""

import copy
import io
import pickle
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import nnsight
import torch
import websocket
import zstandard
from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.modeling import huggingface
from nnsight.schema.response import ResponseModel
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from workbench.errors import BadInput, RunError
from workbench.model_remote_steps import Itinerary

SILENCE = 600.0
"""Seconds without a word from the deployment after which a pass is given up."""


class Wire:
    """One model on one deployment, or nnsight's rehearsal of a deployment in this process.

    Args:
        name: what the deployment knows the model by, `org/name` or a folder over there.
        revision: branch, tag or commit; None for the default.
        config: the model's config.
        tokenizer: its tokenizer; a copy is used.
        host: address of the deployment, or None to rehearse here.
        key: key of the deployment.
        loading: how weights are loaded when rehearsing.
    """

    def __init__(
        self,
        name: str,
        revision: str | None,
        config: PreTrainedConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        host: str | None,
        key: str | None,
        loading: Mapping[str, Any],
    ) -> None:
        config = copy.deepcopy(config)
        config._name_or_path = name  # else the path of the cached config on this machine goes out
        self.host, self.key, self.silence = host, key, SILENCE
        self.model = nnsight.TransformersModel(
            name,
            revision=revision,
            task="text-generation",
            tokenizer=copy.deepcopy(tokenizer),
            config=config,
            attn_implementation="eager",
            **loading,
        )
        if host is None:
            self.model.dispatch()
        else:
            self.model.kwargs = {}  # they are for loading weights here, and would be sent with every pass
            huggingface._ID_CACHE.setdefault(name, name)  # else nnsight asks the hub how the name is spelled

    def run(
        self, inputs: Mapping[str, Any], plan: Itinerary, shape: tuple[int, int], logits: bool
    ) -> tuple[list[Any], Tensor | None]:
        """One pass: what the plan reads, in its order, and the logits.

        Args:
            inputs: keyword arguments of the model's forward pass.
            plan: what is read and rewritten.
            shape: rows and positions.
            logits: whether logits are sent back.

        Raises:
            BadInput: when the deployment cannot be reached, or refuses the key or the model.
            RunError: when the pass fails there, or nothing is heard for `silence` seconds.
        """
        with self._sending() as backend:
            found = _pass(self.model, backend, dict(inputs), plan.steps, shape, logits)
        return (found[:-1], found[-1]) if logits else (found, None)

    def weights(self, inputs: Mapping[str, Any], names: Sequence[tuple[str, str]]) -> list[Tensor]:
        """Parameters by module path and name within the module; raises as `run` does."""
        with self._sending() as backend:
            return _weights(self.model, backend, dict(inputs), list(names))

    @contextmanager
    def _sending(self) -> Iterator[Any]:
        """What carries one pass; its errors in our words."""
        path = list(sys.path)
        backend = LocalSimulationBackend(self.model) if self.host is None else self._backend(self.host)
        try:
            with torch.no_grad(), _patience(self.silence):
                yield backend
        except Exception as error:
            if self.host is None:
                raise
            raise _in_words(error, self.host.partition("://")[2].rpartition("@")[2]) from None
        finally:
            sys.path[:] = path  # the rehearsal hides our modules and puts the paths back in another order

    def _backend(self, host: str) -> "Backend":
        backend = Backend(self.model.to_model_key(), host=host, env=self.model._remoteable_get_env())
        backend.api_key = self.key or ""  # never a key that nnsight was given for another host
        backend.verbose = False
        backend.display = Silence(self.silence)
        return backend


def _pass(model: Any, backend: Any, inputs: Any, steps: Any, shape: tuple[int, int], logits: bool) -> list[Any]:
    """Take the steps of an `Itinerary`. The block must run where there is no workbench: it may call nothing of ours."""
    with model.trace(**inputs, backend=backend):
        found = nnsight.save([])
        for path, side, expert, scale, changes, wanted in steps:
            place, name = model.get(path), "input" if side == "in" else "output"
            if side == "routing":
                found.extend(given.detach() for given in [*place.inputs[0], *place.inputs[1].values()][1:3])
                continue
            if side == "sorting":
                expert_of, pairs = place.source.experts_forward_1.source.torch_sort_0.output
                token_of = pairs // (len(pairs) // (shape[0] * shape[1]))
                continue
            if side == "expert":
                place = place.source.experts_forward_1.source.self__apply_gate_0
            whole = getattr(place, name)
            value = whole[0] if isinstance(whole, (tuple, list)) else whole
            now = value if scale == 1 else value * scale
            if side == "expert":
                here = (expert_of == expert).nonzero()[:, 0]
                now = value.new_zeros(shape[0] * shape[1], value.shape[-1])
                now = now.index_copy(0, token_of[here], value[here])
            now = now.view(*shape, -1) if now.ndim == 2 else now
            for entries, rows, positions, values in changes:
                now = now.clone()
                if rows is None:
                    now[..., entries] = 0
                else:
                    now[..., entries][rows.to(now.device), positions.to(now.device)] = values.to(now.device, now.dtype)
            if wanted:
                found.append(now.detach())
            if changes and side == "expert":
                now = value.index_copy(0, here, now.reshape(-1, value.shape[-1])[token_of[here]])
            if changes:
                now = (now if scale == 1 else now / scale).reshape(value.shape)
                setattr(place, name, (now, *whole[1:]) if isinstance(whole, (tuple, list)) else now)
        if logits:
            found.append(model.output.logits.detach())
    return list(found)


def _weights(model: Any, backend: Any, inputs: Any, names: list[tuple[str, str]]) -> list[Tensor]:
    with model.trace(**inputs, backend=backend):
        found = nnsight.save([])
        for path, name in names:
            found.append(getattr(model.get(path), name).detach().clone())
    return list(found)


class Backend(RemoteBackend):
    """nnsight's own, but what comes back may only hold tensors and plain containers (nnsight unpickles anything)."""

    def finalize(self, content: bytes) -> Any:
        """The values that were saved."""
        if self.compress:
            content = zstandard.ZstdDecompressor().decompress(content)
        return _tensors_in(content)

    @staticmethod
    def parse(message: str | bytes) -> ResponseModel:
        """One message about a job."""
        if isinstance(message, str):
            return ResponseModel.model_validate_json(message)
        return ResponseModel(**_tensors_in(message))


class Careful(pickle.Unpickler):
    """Reads what torch writes of tensors, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of that name, if it is one of the few."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it sent {module}.{name}, which is not read")
        return super().find_class(module, name)


ALLOWED = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("nnsight.schema.response", "Status"),
}
"""What may be named in an answer; torch reads the types of storages itself."""


def _tensors_in(content: bytes) -> Any:
    reader = SimpleNamespace(Unpickler=Careful, __name__="careful")  # torch's own weights_only knows no protocol 4
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False, pickle_module=reader)


class Silence:
    """In place of nnsight's display, which would write to stdout: shows nothing, and gives up after a long silence."""

    enabled = False

    def __init__(self, seconds: float) -> None:
        self.seconds, self.heard = seconds, time.monotonic()

    def update(self, _: ResponseModel) -> None:
        """A word was heard."""
        self.heard = time.monotonic()

    def refresh(self) -> None:
        """Called whenever waiting for a word has timed out."""
        raise TimeoutError(f"nothing was heard for {self.seconds:g} seconds")


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Set a limit for new websockets, which nnsight does not."""
    before = websocket.getdefaulttimeout()
    websocket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        websocket.setdefaulttimeout(before)


def _in_words(error: Exception, host: str) -> Exception:
    """One sentence on what went wrong between here and the deployment."""
    status = getattr(error, "status_code", None) or getattr(
        getattr(error.__cause__, "response", None), "status_code", None
    )
    said = (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
    if status in (401, 403):
        return BadInput(f"The deployment {host} rejected the key ({status}). Set WORKBENCH_REMOTE_KEY to a valid one")
    if status is not None and 400 <= status < 500:
        return BadInput(f"The deployment {host} does not take this model or request ({status}): {said}")
    if isinstance(error, (BadInput, RunError)):
        return error
    if isinstance(error, TimeoutError) or "timed out" in said.lower() or "Timeout" in type(error).__name__:
        return RunError(f"The deployment {host} did not answer in time: {said}. Run the same command again")
    if isinstance(error, (ConnectionResetError, BrokenPipeError, websocket.WebSocketConnectionClosedException)):
        return RunError(f"The deployment {host} broke off the connection ({said}). Run the same command again")
    if isinstance(error, OSError) or type(error).__module__.startswith(("websocket", "httpx", "httpcore")):
        return BadInput(f"The deployment {host} cannot be reached ({said}). Check WORKBENCH_REMOTE_URL")
    return RunError(f"The deployment {host} could not finish the pass: {said}")
