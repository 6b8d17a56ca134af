"""Start or join Ray, and find out what there is to compute on."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pool:
    """The actors of a run: how many, and what each holds."""

    device: str  # cpu or cuda
    actors: int
    num_cpus: float
    num_gpus: float


# On a CPU the reader and decoder need a sliver beside the actors, which compute all the time.
ACTOR_CPUS = 0.75
READER_CPUS = 0.25


def connect(address: str | None) -> None:
    """Join the cluster at `address` (or RAY_ADDRESS), or start a local one.

    A local Ray must not rebuild the environment for its workers, as Ray's `uv run` hook would:
    it ships the working directory and installs everything again (minutes).
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning
    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address == "local":
        options["include_dashboard"] = False
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        sys.exit(f"error: no Ray cluster at {address}: {first}; start one with `ray start --head`")


def disconnect() -> None:
    import ray

    ray.shutdown()


def pool(device: str, actors: int | None) -> Pool:
    """One actor per GPU where there are any (or as `device` asks), else one per CPU."""
    import ray

    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    if device == "cuda" and not gpus:
        sys.exit("error: compute.device: cuda was asked for, but the cluster has no GPU")
    if device != "cpu" and gpus:
        return Pool("cuda", min(actors or gpus, gpus), 1.0, 1.0)
    return Pool("cpu", actors or max(1, cpus), ACTOR_CPUS, 0.0)
