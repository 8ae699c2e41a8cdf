"""Where a remote model is: the deployment that the environment names, and what is found of the model here.

`WORKBENCH_REMOTE_URL` and `WORKBENCH_REMOTE_KEY` name the deployment, or what nnsight is configured with
(`NDIF_API_KEY`, `NDIF_HOST`). `WORKBENCH_REMOTE_URL=local` rehearses: nnsight serialises every pass, takes it apart
with our modules hidden, and runs it on weights loaded here. The key is sent to the deployment and written nowhere.
"""

import hashlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from workbench.checkpoint import Checkpoint, file_digest, quiet_transformers
from workbench.checkpoint_files import BESIDE, HUB_ID, Place, is_folder, locate
from workbench.checkpoint_hub import fetch
from workbench.checkpoint_load import read_config, read_tokenizer
from workbench.errors import BadInput
from workbench.opening import Opening

if TYPE_CHECKING:
    from workbench.model_remote import RemoteModel

URL, KEY = "WORKBENCH_REMOTE_URL", "WORKBENCH_REMOTE_KEY"
"""Environment variables that name the deployment."""

REHEARSAL = "local"
"""The URL that means: here, in this process."""


@dataclass(frozen=True)
class Deployment:
    """Where models are run."""

    url: str
    """`https://...`, or `local` to rehearse here."""
    key: str | None = field(default=None, repr=False)
    """What it lets us in with."""

    @classmethod
    def configured(cls) -> "Deployment":
        """The deployment that the environment names, or that nnsight is configured with.

        Raises:
            BadInput: when there is none, or its address is none.
        """
        url, key = os.environ.get(URL, "").strip().rstrip("/"), os.environ.get(KEY)
        if not url and (api := nnsight_quietly().CONFIG.API).APIKEY:
            url, key = api.HOST, key or api.APIKEY
        if not url:
            raise BadInput(
                f"--remote needs a deployment: set {URL} to its address (https://...) and {KEY} to your key for it, or "
                f"NDIF_API_KEY for NDIF; {URL}={REHEARSAL} tries everything here"
            )
        parts = urlsplit(url)
        if url != REHEARSAL and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise BadInput(f"{URL} must be an address like https://api.ndif.us, or {REHEARSAL}; it is neither")
        if parts.username or parts.password:
            raise BadInput(f"{URL} must not hold a user or password; put the key into {KEY}")
        return cls(url, key)

    @property
    def host(self) -> str:
        """Its name in records, which never hold the key."""
        return REHEARSAL if self.url == REHEARSAL else urlsplit(self.url).netloc


def nnsight_quietly() -> Any:
    """Import nnsight without its `.save` on every Python object; it still replaces `torch.Tensor.backward`.

    Raises:
        BadInput: when it is not installed.
    """
    first, before = "nnsight" not in sys.modules, os.environ.get("NNSIGHT_CONFIG")
    with tempfile.TemporaryDirectory() as folder:
        calm = Path(folder) / "nnsight.yaml"
        calm.write_text("APP: {PYMOUNT: false}\n")
        os.environ["NNSIGHT_CONFIG"] = str(calm)
        try:
            import nnsight
            import websocket  # noqa: F401  (nnsight would find out in the middle of a pass)
            import zstandard  # noqa: F401
        except ImportError as error:
            raise BadInput(
                f"Reading a remote model needs nnsight ({error}). "
                "Install it with: pip install 'unlearning-workbench[inside]'"
            ) from None
        finally:
            os.environ.pop("NNSIGHT_CONFIG")
            os.environ.update({} if before is None else {"NNSIGHT_CONFIG": before})
    if first:
        nnsight.CONFIG.API = type(nnsight.CONFIG).load().API  # the user's own file, which ours stood in place of
    return nnsight


@dataclass(frozen=True)
class RemoteCheckpoint:
    """A model on a deployment: its config and tokenizer are found when this is made, passes begin after `open`.

    Raises:
        BadInput: when it is not found, or the opening asks for what a deployment decides.
    """

    text: str
    """A hub id `org/name[@revision]` or a folder; what the deployment knows the model by."""
    opening: Opening = field(default_factory=Opening)
    """How files are fetched."""
    deployment: Deployment = field(default_factory=Deployment.configured)
    """Where its weights are."""

    def __post_init__(self) -> None:
        decided = ("device", "dtype", "device_map", "max_memory")
        asked = [name for name in decided if getattr(self.opening, name) != Opening.model_fields[name].default]
        if asked:
            raise BadInput(f"{asked[0]} cannot be chosen for a remote model: the deployment decides. Leave it out")
        self.place  # noqa: B018  (a model that is not there is found out now)

    @cached_property
    def place(self) -> Place:
        """Where config and tokenizer are; the weights too when this is a rehearsal."""
        repo, _, revision = self.text.partition("@")
        if self.deployment.url == REHEARSAL:
            return locate(Checkpoint(self.text, opening=self.opening).folder, self.opening)[0]
        if is_folder(self.text):
            return locate(self.text, self.opening)[0]
        if not HUB_ID.fullmatch(repo):
            raise BadInput(
                f"{self.text!r} is not a model a deployment could have: give a hub id org/name[@revision], or a folder"
            )
        folder, commit = fetch(repo, revision or None, self.opening, BESIDE)
        return Place(folder, repo.split("/")[1], repo, commit)

    @property
    def name(self) -> str:
        """What to call it in results."""
        return self.place.name

    @property
    def record(self) -> dict[str, Any]:
        """Where it came from, for a run's record; without the key."""
        return {"address": self.place.address, "commit": self.place.commit, "remote": self.deployment.host}

    @cached_property
    def digest(self) -> str:
        """sha256 over config, tokenizer and deployment; the weights are elsewhere and cannot be digested."""
        files = {file for pattern in BESIDE for file in self.place.folder.glob(pattern) if file.is_file()}
        known = [self.deployment.host, self.place.repo, sorted((file.name, file_digest(file)) for file in files)]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def open(self) -> "RemoteModel":
        """Build the skeleton; nothing is sent yet.

        Raises:
            BadInput: when config or tokenizer cannot be read, or TransformerLens does not know the architecture.
        """
        nnsight_quietly()
        from workbench.model_remote import RemoteModel
        from workbench.model_remote_wire import Wire

        config, tokenizer = read_config(self.place, self.opening), read_tokenizer(self.place, self.opening)
        here = self.deployment.url == REHEARSAL
        given = self.text.partition("@")
        name, revision = (self.place.repo, given[2] or None) if self.place.repo else (str(self.place.folder), None)
        loading = {"use_safetensors": not self.opening.allow_pickle} if here else {}
        with quiet_transformers():
            wire = Wire(
                name,
                revision,
                config,
                tokenizer,
                host=None if here else self.deployment.url,
                key=self.deployment.key,
                loading=loading | {"trust_remote_code": self.opening.trust_remote_code},
            )
            return RemoteModel(config, tokenizer, wire, self)
