"""Model names -> folders: pocket models, local folders, hub names. Without torch."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any

from rerankfleet.shared.errors import UnknownModel

#: Package data: small demonstration models, by name.
POCKET_MODELS = Path(__file__).parent.parent / "models"
#: Number and size of the samples of a weights file that its identity is computed from.
_SAMPLES, _SAMPLE_BYTES = 1024, 1 << 15


def resolve_model(name: str, revision: str | None = None, *, download: bool = True) -> Path:
    """The folder of a model: a pocket model's name, a folder, or a hub name (downloaded once).

    Without `download` only this machine is searched. Raises UnknownModel with a hint.
    """
    pocket = POCKET_MODELS / name
    if name.startswith("pocket-"):
        if (pocket / "config.json").is_file():
            return pocket
        known = ", ".join(sorted(p.name for p in POCKET_MODELS.glob("pocket-*"))) or "none"
        raise UnknownModel(f"there is no pocket model {name!r}", hint=f"available: {known}")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if any((folder / config).is_file() for config in ("config.json", "adapter_config.json")):
            return folder.resolve()
        raise UnknownModel(
            f"the folder {name} has no config.json", hint="name the folder that holds the model"
        )
    if folder.exists():
        raise UnknownModel(
            f"{name} is a file", hint="name the folder that holds config.json and *.safetensors"
        )
    if not _could_be_hub_name(name):
        raise UnknownModel(
            f"{name} is not a folder",
            hint="name a model folder, or a hub name such as Qwen/Qwen3-Reranker-0.6B",
        )
    return _from_hub(name, revision, download=download)


def _could_be_hub_name(name: str) -> bool:
    owner, slash, repository = name.partition("/")
    return bool(slash and owner and repository) and "/" not in repository and owner[0] not in "./~"


def _from_hub(name: str, revision: str | None, *, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt"]
    offline: dict[str, Any] = {} if download else {"local_files_only": True}
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, **offline))
    except LocalEntryNotFoundError as error:
        if download:  # the hub did not help either, for a reason of its own
            raise _not_downloaded(name, revision, error.__cause__ or error) from error
        raise UnknownModel(
            f"{name} is not on this machine yet",
            hint="a worker downloads it when it starts; then look again",
        ) from error
    except Exception as error:
        raise _not_downloaded(name, revision, error) from error


def _not_downloaded(name: str, revision: str | None, error: BaseException) -> UnknownModel:
    """Why the hub, or its mirror, gave nothing. No address is shown: it may hold a signature."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return UnknownModel(
            f"{name} has no revision {revision!r} on the hub",
            hint="name a commit, a branch or a tag in RERANK_REVISION",
        )
    if isinstance(error, errors.GatedRepoError):
        return UnknownModel(
            f"{name} is gated: its owner has not granted access to this token",
            hint="accept its terms on its page at the hub, and set HF_TOKEN",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return UnknownModel(
            f"{name} is neither a folder here nor a model on the hub (or it is private)",
            hint="check the spelling; for a private one set HF_TOKEN to a token that may read it",
        )
    if status in (401, 403):
        return UnknownModel(
            f"the hub refuses access to {name} ({status})",
            hint="set HF_TOKEN to a token that may read it",
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.ENOSPC, errno.EROFS):
        return UnknownModel(
            f"{name} cannot be stored in the hub's cache: {error.strerror}",
            hint="set HF_HOME to a folder that can be written and has room",
        )
    answered = f"it answers {status}" if status else type(error).__name__
    return UnknownModel(
        f"{name} is not a folder here and could not be downloaded from the hub ({answered})",
        hint="go online once, set HF_ENDPOINT to a mirror, or name a folder that holds the model",
    )


def weights_identity(folder: Path) -> str:
    """A hash over config, tokeniser and weights: all of small files, samples of large ones."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for at in _sampled(size):
                file.seek(at)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _sampled(size: int) -> range:
    """Where to read: everywhere, or at most `_SAMPLES` places at even distances."""
    return range(0, size, max(_SAMPLE_BYTES, size // _SAMPLES))


def revision_of(folder: Path, revision: str | None) -> str:
    """The revision of these weights: the hub's commit, otherwise the start of their hash."""
    if folder.parent.name == "snapshots":
        return folder.name
    return revision or f"sha256:{weights_identity(folder)[:12]}"
