"""Where a backbone's folder is: on this machine, or a snapshot of a Hugging Face repository."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvit_ray.denoisers.base import DenoiserError

PROBE_SECONDS = 5.0
# one precision of each network, whole or in shards; configurations are small
_WEIGHTS = (
    "{}.safetensors",
    "{}.safetensors.index.json",
    "{}-?????-of-?????.safetensors",
)


def is_repository(weights: str) -> bool:
    """Whether `weights` reads as owner/name[@revision] and nothing of that name is here."""
    looks = re.fullmatch(r"(hf-hub:)?[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?", weights)
    return looks is not None and not Path(weights).expanduser().exists()


def snapshot(weights: str, parts: Sequence[str], hint: str) -> Path:
    """The folder of a repository "owner/name[@revision]", cached or downloaded.

    parts: its subfolders that are wanted ("." for its root)
    One quick request decides whether the hub can be reached, for its client would retry for a
    minute; raises `DenoiserError` in one line that says where was looked, and `hint`.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
    )

    repository, _, tag = weights.removeprefix("hf-hub:").partition("@")
    places = ["" if part == "." else f"{part}/" for part in parts]
    names = ["*.json", "*.txt", *(w.format("diffusion_pytorch_model") for w in _WEIGHTS)]
    names += [w.format("model") for w in _WEIGHTS]
    options: dict[str, Any] = {
        "revision": tag or None,
        "allow_patterns": ["model_index.json", *(p + name for p in places for name in names)],
    }
    where = f"{constants.ENDPOINT}/{repository}"
    problem = ""
    try:
        answer = get_session().head(where, headers=build_hf_headers(), timeout=PROBE_SECONDS)
        if answer.status_code < 400:
            return Path(snapshot_download(repository, **options))
        problem = f"answers {answer.status_code}"
    except Exception as error:  # whatever the hub's client and its transport raise
        problem = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    try:
        return Path(snapshot_download(repository, local_files_only=True, **options))
    except (LocalEntryNotFoundError, ValueError, OSError):
        raise DenoiserError(
            f"{weights}: is no folder here, nor in {constants.HF_HUB_CACHE}, and {where} cannot be "
            f"had ({problem}); give {hint}"
        ) from None
