"""The maps of one chunk, and the images kept for the report, as one HDF5 file (`schema.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fvit_ray import schema
from fvit_ray.atomic import replacing

Array = np.ndarray

# an actor waits for this: smooth float16 maps of 224 pixels take 1.2 ms each and 0.60 of their size,
# at level 4 without `shuffle` 2.7 ms and 0.77, at level 4 with it 1.5 ms and 0.57
PACKED: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


def write_maps(
    path: Path,
    keys: Sequence[str],
    label: Array,
    saliency: Mapping[str, Mapping[str, Array]],
    target: Mapping[str, Array],
    examples: Mapping[str, Array],
    notes: Mapping[str, str],
    images: Mapping[str, Array] | None = None,
) -> None:
    """Write one chunk's maps.

    saliency: condition_id -> explainer -> (n, H, W) in [0, 1]; target: condition_id -> (n,)
    examples: "clean/<model>" and so on -> (k, ..., H, W, 3) uint8 of the first k keys
    images: "<model>/<eps>" -> (n, 3, H, W) in [0, 1]
    """
    text = h5py.string_dtype("utf-8")
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({"schema_version": schema.VERSION, **notes})
        file.create_dataset("keys", data=[_printable(key) for key in keys], dtype=text)
        file.create_dataset("label", data=np.asarray(label, dtype=np.int32))
        for condition, maps in saliency.items():
            file.create_dataset(f"target/{condition}", data=target[condition].astype(np.int32))
            for explainer, values in maps.items():
                data = np.asarray(values, dtype=schema.MAPS_DTYPE)
                file.create_dataset(
                    f"saliency/{condition}/{explainer}",
                    data=data,
                    chunks=(1, *data.shape[1:]),
                    **PACKED,
                )
        for name, pixels in (images or {}).items():
            file.create_dataset(
                f"images/{name}",
                data=np.asarray(pixels, dtype=np.float32),
                chunks=(1, *pixels.shape[1:]),
                **PACKED,
            )
        if examples:
            count = len(next(iter(examples.values())))
            kept = [_printable(key) for key in keys[:count]]
            file.create_dataset("examples/keys", data=kept, dtype=text)
            for name, shown in examples.items():
                file.create_dataset(f"examples/{name}", data=shown, compression="gzip")


def _printable(key: str) -> str:
    """Keys of members with broken names hold surrogates, which UTF-8 cannot store."""
    return key.encode("utf-8", "backslashreplace").decode()
