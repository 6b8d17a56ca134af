"""run.json, the run's document: what it is, how far it came, and whether a folder is its own."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from fvit_ray import schema
from fvit_ray.atomic import replacing
from fvit_ray.config import Config, ConfigError, difference

PACKAGES = ("fvit-ray", "torch", "timm", "diffusers", "ray", "numpy", "pyarrow", "h5py")


def read_run(folder: Path) -> dict[str, Any] | None:
    """The run document of a folder, or None where there is none yet."""
    path = folder / "run.json"
    if not path.exists():
        return None
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"--out {folder}: run.json is damaged ({error}); move it away") from error
    return document


def check_same(folder: Path, document: dict[str, Any], config: Config) -> None:
    """Refuse a folder that holds another run, naming the difference."""
    version = document.get("schema_version")
    if version != schema.VERSION:
        raise ConfigError(
            f"--out {folder}: written by schema version {version}, this is {schema.VERSION}; "
            "name another folder"
        )
    if document["fingerprint"] == config.fingerprint():
        before = document["config"]["compute"]["chunk"]
        if before != config.compute.chunk:
            raise ConfigError(
                f"--out {folder}: holds chunks of {before} samples, not {config.compute.chunk}; "
                f"give --compute.chunk {before} or another folder"
            )
        return
    old = Config.model_validate(document["config"]).canonical()
    lines = difference(old, config.canonical())
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    raise ConfigError(f"--out {folder}: holds another run: {lines[0]}{more}; name another folder")


def new_run(config: Config, shards: Sequence[str], **facts: Any) -> dict[str, Any]:
    """The document of a run that starts now."""
    document: dict[str, Any] = dict.fromkeys(schema.RUN_KEYS)
    document |= {
        "schema_version": schema.VERSION,
        "status": "running",
        "name": config.name,
        "started": now(),
        "config": config.model_dump(mode="json"),
        "fingerprint": config.fingerprint(),
        "shards": list(shards),
        "random_weights": config.random_weights,
        "seed": config.seed,
        "versions": versions(),
        "git_revision": git_revision(),
        "warnings": [],
    }
    return document | facts


def write_run(folder: Path, document: dict[str, Any]) -> None:
    """Write run.json whole."""
    with replacing(folder / "run.json") as temporary:
        temporary.write_text(json.dumps(document, indent=2, sort_keys=False) + "\n")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """The checkout's revision, "+changes" if it has uncommitted ones; None outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        options: dict[str, Any] = {"cwd": folder, "capture_output": True, "text": True}
        revision = subprocess.run(["git", "rev-parse", "HEAD"], timeout=5, **options)
        changes = subprocess.run(["git", "status", "--porcelain"], timeout=5, **options)
    except (OSError, subprocess.SubprocessError):
        return None
    if revision.returncode:
        return None
    return f"{revision.stdout.strip()}{'+changes' if changes.stdout.strip() else ''}"
