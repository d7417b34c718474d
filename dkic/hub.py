"""Weights files by name: shipped, in local folders, and in repositories of the Hugging Face Hub.

Importing this module does not import huggingface_hub (extra `[hub]`), and only `download` and `push` need it.
"""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkic.errors import DkicError, install
from dkic.models.weights_file import Weights
from dkic.output_file import reason, write_atomically
from dkic.shipped_weights import file_hash, newest_files, shipped_models

if TYPE_CHECKING:
    from types import ModuleType

_PATTERN = "*.safetensors"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_weights(model: str | Path) -> list[Path]:
    """Resolves a model to its local weights files. All functions and commands with a `model` argument use it.

    Args:
        model: a weights file, a folder of weights files, the name of a shipped model such as "small", or a repository
            "owner/name", which is downloaded if there is no local path of that name.

    Returns:
        Paths of the weights files, at least one.

    Raises:
        DkicError: there is no such model; or see `download`.
    """
    path = download(str(model)) if is_repository(model) else Path(model)
    if path.is_file():
        return [path]
    files = sorted(path.glob(_PATTERN)) or newest_files(str(model))
    if not files:
        shipped = ", ".join(shipped_models()) or "none"
        raise DkicError(
            f"model {model}: does not exist; give the path of a weights file, one of the shipped names ({shipped}), "
            "or a repository owner/name"
        )
    return files


def is_repository(model: str | Path) -> bool:
    """Whether `model` is a repository name "owner/name" and not an existing local path. A `Path` is always local."""
    if not isinstance(model, str) or model.endswith(".safetensors"):
        return False
    return bool(_REPOSITORY.fullmatch(model)) and not Path(model).exists()


def download(
    repository: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Downloads the weights files of a repository; cached files are reused.

    Args:
        repository: name of the repository, "owner/name".
        revision, cache_dir, token, force_download, local_files_only: see `huggingface_hub.snapshot_download`.

    Returns:
        The local folder of the files.

    Raises:
        DkicError: huggingface_hub is not installed, the repository can't be read, or it has no weights files.
    """
    hub = _huggingface_hub(repository, "there is no such file or folder, and downloading it")
    try:
        folder = Path(
            hub.snapshot_download(
                repository,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                force_download=force_download,
                local_files_only=local_files_only,
                allow_patterns=[_PATTERN],
                library_name="dkic",
            )
        )
    except (OSError, ValueError) as error:  # errors of huggingface_hub and of the connection
        raise DkicError(
            f"{repository}: there is no such file or folder, and the hub's repository can't be read ({_first_line(error)}); "
            "check the name, the connection and the token"
        ) from error
    if not any(folder.glob(_PATTERN)):
        raise DkicError(f"{repository}: the hub's repository has no {_PATTERN}; give one that Codec.push_to_hub wrote")
    return folder


def save(weights: Iterable[Weights], folder: str | Path) -> None:
    """Copies weights files into a folder, unmodified, and adds a README.md if there is none.

    Args:
        weights: loaded weights.
        folder: destination, created if necessary.

    Raises:
        DkicError: the folder contains other weights files, a weights file has changed since it was loaded, or the folder can't be
            written.
    """
    folder = Path(folder)
    files = {one.path.name: one for one in weights}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted(path.name for path in folder.glob(_PATTERN) if path.name not in files)
        if others:
            raise DkicError(
                f"{folder}: has other weights files ({', '.join(others)}), which would be loaded too; give an empty folder"
            )
        for name, one in files.items():
            if file_hash(one.path) != one.hash:
                raise DkicError(f"{one.path}: has changed since it was loaded; load it again")
            target = folder / name
            if not (target.exists() and file_hash(target) == one.hash):
                write_atomically(target, one.path.read_bytes(), force=True)
        if not (folder / "README.md").exists():
            write_atomically(folder / "README.md", _card(files).encode())
    except OSError as error:
        raise DkicError(f"{folder}: can't be written ({reason(error)})") from error


def push(
    weights: Iterable[Weights],
    repository: str,
    *,
    commit_message: str = "Weights of a dkic codec",
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    allow_patterns: list[str] | str | None = None,
    ignore_patterns: list[str] | str | None = None,
    delete_patterns: list[str] | str | None = None,
) -> str:
    """Uploads the files of `save` to a repository, which is created if necessary. An existing README.md is kept.

    Args:
        weights: loaded weights.
        repository: name of the repository, "owner/name".
        commit_message, private, token, branch, create_pr: see
            `huggingface_hub.ModelHubMixin.push_to_hub`.

    Returns:
        URL of the commit.

    Raises:
        DkicError: huggingface_hub is not installed, or the repository can't be written.
    """
    also_deleted = [delete_patterns] if isinstance(delete_patterns, str) else delete_patterns or []
    hub = _huggingface_hub(repository, "uploading")
    with tempfile.TemporaryDirectory() as folder:
        save(weights, folder)
        try:
            api = hub.HfApi(token=token, library_name="dkic")
            repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
            if api.file_exists(repository, "README.md", revision=branch):
                (Path(folder) / "README.md").unlink()
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=commit_message,
                revision=branch,
                create_pr=create_pr,
                allow_patterns=allow_patterns,
                ignore_patterns=ignore_patterns,
                delete_patterns=[_PATTERN, *also_deleted],  # all weights files of a repository are loaded
            )
        except (OSError, ValueError) as error:
            raise DkicError(
                f"{repository}: the hub's repository can't be written ({_first_line(error)}); "
                "check the name, the connection and the token"
            ) from error
    return str(commit.commit_url)


def check_arguments(method: str, function: Callable, given: dict[str, Any], **unsupported: object) -> None:
    """Checks the arguments of a method of `Codec` that has those of `huggingface_hub.ModelHubMixin`.

    Args:
        method: name of the method, for the message.
        function: `download` or `push`, whose keyword arguments the method takes.
        given: keyword arguments of the call.
        unsupported: arguments of the mixin that must be None.

    Raises:
        TypeError: the function has no such argument.
        ValueError: an unsupported argument is given.
    """
    known = [name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
    if unknown := [name for name in given if name not in known]:
        raise TypeError(f"{method}/{unknown[0]}: there is no such argument; give one of {', '.join(known)}")
    for name, value in unsupported.items():
        if value is not None:
            raise ValueError(f"{method}/{name}: must be None, because weights files contain their configuration; leave it out")


def _huggingface_hub(repository: str, purpose: str) -> ModuleType:
    """Imports huggingface_hub; raises DkicError, which names the repository and the purpose, if it is not installed."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise DkicError(f"{repository}: {purpose} needs huggingface_hub, which is not installed; {install('hub')}") from error
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _card(files: dict[str, Weights]) -> str:
    rows = "\n".join(f"| {name} | {_qualities(one)} | {one.hash.hex()} |" for name, one in sorted(files.items()))
    return f"""---
library_name: dkic
tags:
- image-compression
---
Weights of a dkic codec. `dkic.load` takes the repository's name, or a folder with its files.

| file | qualities | hash |
| --- | --- | --- |
{rows}
"""


def _qualities(weights: Weights) -> str:
    first, last = weights.qualities[0], weights.qualities[-1]
    return str(first) if first == last else f"{first} to {last}"
