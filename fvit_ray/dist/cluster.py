"""Start or join Ray, and find out what there is to compute on."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fvit_ray.config import ConfigError
from fvit_ray.sinks.manifest import processor


@dataclass(frozen=True)
class Pool:
    """The actors of a run: how many, and what each holds."""

    device: str  # cpu or cuda
    actors: int
    num_cpus: float
    num_gpus: float
    name: str  # of the device, in words


# On a CPU the reader and decoder need a sliver beside the actors, which compute all the time.
ACTOR_CPUS = 0.75
READER_CPUS = 0.25


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Join the cluster at `address` (or RAY_ADDRESS), or start a local one for as long as needed.

    A Ray that the caller has started already is used and left running. A local Ray must not rebuild
    the environment for its workers, as Ray's `uv run` hook would: it ships the working directory
    and installs everything again (minutes).
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        # Ray's core writes warnings of its own to stderr, which no Python logger can hold back
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    import ray.data

    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors come as exceptions
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options["include_dashboard"] = False
    try:
        with _quiet():
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"--address {address}: no Ray cluster there ({first}); start one with "
            "`ray start --head`, or leave the address out for a local one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Ray's core says of its own log level off stderr; errors come as exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def pool(device: str, actors: int | None) -> Pool:
    """One actor per GPU where there are any (or as `device` asks), else one per CPU."""
    import ray

    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    if device == "cuda" and not gpus:
        raise ConfigError("compute.device: cuda was asked for, but the cluster has no GPU")
    if device != "cpu" and gpus:
        kinds = [key.split(":", 1)[1] for key in resources if key.startswith("accelerator_type:")]
        # half a core each, so that a machine with as many GPUs as cores can still read
        return Pool("cuda", min(actors or gpus, gpus), 0.5, 1.0, ", ".join(kinds) or "GPU")
    return Pool("cpu", max(1, min(actors or cpus, cpus)), ACTOR_CPUS, 0.0, processor())
