"""Where a classifier's weights are: a file, timm's local folder, or the Hugging Face hub.

Files are read as tensors only (safetensors, or `torch.load(weights_only=True)`).
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

FILES = ("model.safetensors", "pytorch_model.bin", "model.pth")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
PROBE_SECONDS = 5.0


class ModelError(ValueError):
    """A classifier that cannot be had; the message is one line with the remedy."""


def remedy(architecture: str) -> str:
    """How to go on without the hub."""
    return f"give a local file as `{architecture}@/path/model.safetensors`, or --random-weights"


def folder_file(folder: Path) -> Path:
    """The weights file of a folder in timm's `local-dir:` layout."""
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"{folder}: has none of {', '.join(FILES)}")


def hub_file(repository: str, names: tuple[str, ...], hint: str) -> Path:
    """The first of `names` in a hub repository "owner/name[@revision]", cached or downloaded.

    One quick request decides whether the hub can be reached, for its client would retry for a
    minute; raises `ModelError` that says where was looked, and `hint`.
    """
    from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
    )

    repo_id, _, tag = repository.partition("@")
    revision = tag or None
    for name in names:
        cached = try_to_load_from_cache(repo_id, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    looked = f"looked in {constants.HF_HUB_CACHE} and at {constants.ENDPOINT}/{repo_id}"
    try:
        url = hf_hub_url(repo_id, names[0], revision=revision)
        answer = get_session().head(url, headers=build_hf_headers(), timeout=PROBE_SECONDS)
        if answer.status_code in (401, 403):
            raise ModelError(f"{looked}: no such public repository; {hint}")
        for name in names:
            try:
                return Path(hf_hub_download(repo_id, name, revision=revision))
            except EntryNotFoundError:
                continue
    except ModelError:
        raise
    except OfflineModeIsEnabled:
        raise ModelError(f"{looked}, which offline mode forbids; {hint}") from None
    except Exception as error:  # whatever the hub's client and its transport raise
        raise ModelError(f"{looked}: {_first_line(error)}; {hint}") from error
    raise ModelError(f"{looked}: has none of {', '.join(names)}; {hint}")


def shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The tensors of a weights file, by name; raises `ModelError` if it is not one."""
    if not file.is_file():
        raise ModelError(f"{file}: no such file")
    if file.suffix not in SUFFIXES:
        raise ModelError(f"{file}: not a weights file; known endings: {', '.join(SUFFIXES)}")
    try:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(file, framework="pt") as tensors:
                return {k: tuple(tensors.get_slice(k).get_shape()) for k in tensors.keys()}  # noqa: SIM118
        tree = torch.load(file, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file}: holds more than tensors, which is not loaded ({_first_line(error)}); "
            "save its state dict as .safetensors"
        ) from error
    except Exception as error:
        raise ModelError(f"{file}: cannot be read as weights ({_first_line(error)})") from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):  # in timm's order
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
            break
    if not isinstance(tree, dict):
        raise ModelError(f"{file}: holds a {type(tree).__name__}, not a state dict")
    found = {k: tuple(v.shape) for k, v in tree.items() if isinstance(v, torch.Tensor)}
    return {k.removeprefix("module.").removeprefix("_orig_mod."): s for k, s in found.items()}


def difference(net: nn.Module, file: Path, limit: int = 3) -> str:
    """Which keys and shapes of a file do not fit `net`, in one line; "" if all fit."""
    own = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    given = shapes(file)
    parts = []
    for word, names in (("lacks", own.keys() - given.keys()), ("has", given.keys() - own.keys())):
        if names:
            parts.append(_some(f"{word} {len(names)} keys", sorted(names), limit))
    odd = [f"{k} {given[k]} for {own[k]}" for k in own if k in given and own[k] != given[k]]
    if odd:
        parts.append(_some(f"{len(odd)} shapes differ", odd, limit))
    return "; ".join(parts)


def _some(what: str, names: list[str], limit: int) -> str:
    more = ", ..." if len(names) > limit else ""
    return f"{what} ({', '.join(names[:limit])}{more})"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
