"""The fused stage: one actor per GPU or CPU attacks, denoises, classifies, explains and commits."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fvit_ray import schema
from fvit_ray.batch import Batch
from fvit_ray.config import Config
from fvit_ray.data.decode import DecodedSample
from fvit_ray.dist.resume import chunk_name
from fvit_ray.evaluate import Evaluator
from fvit_ray.results import Results
from fvit_ray.sinks.hdf5 import write_maps
from fvit_ray.sinks.parquet import write_rows
from fvit_ray.stored import stored_outcomes


class EvaluateChunk:
    """Builds its networks from a small configuration; then commits one chunk per call.

    The maps are written first and the rows last: the Parquet file is the commit.
    """

    def __init__(self, config: str, out: str, device: str, first_shard: str) -> None:
        self.config = Config.model_validate_json(config)
        self.out, self.first_shard = Path(out), first_shard
        if device == "cpu":
            torch.set_num_threads(1)  # one actor per core; also fixes the order of sums
        self.evaluator = Evaluator(self.config, device)

    def __call__(self, table: pa.Table) -> pa.Table:
        row = table.to_pylist()[0]
        samples: list[DecodedSample] = pickle.loads(row["payload"])
        started = time.perf_counter()
        meter = self.evaluator.meter
        meter.clear()
        rows = self._evaluate(row["shard"], row["chunk"], row["last"], samples)
        errors = len({r["at"] for r in rows if r["error"] is not None})
        seconds = time.perf_counter() - started
        for r in rows:
            r |= {"shard": row["shard"], "position": samples[r["at"]].position}
            r["ms"] = seconds * 1e3 / len(samples)
        notes = self._notes(row["shard"], row["chunk"], row["last"])
        notes |= {"samples": str(len(samples)), "errors": str(errors), "rows": str(len(rows))}
        notes["meter"] = json.dumps({"forwards": meter.forwards, "seconds": meter.seconds})
        name = chunk_name(row["shard"], row["chunk"])
        write_rows(self.out / "metrics" / f"{name}.parquet", rows, notes)
        return pa.table({"samples": [len(samples)], "errors": [errors], "seconds": [seconds]})

    def _notes(self, shard: str, chunk: int, last: bool) -> dict[str, str]:
        return {
            "fingerprint": self.config.fingerprint(),
            "shard": shard,
            "chunk": str(chunk),
            "last": str(int(last)),
        }

    def _evaluate(
        self, shard: str, chunk: int, last: bool, samples: list[DecodedSample]
    ) -> list[dict[str, Any]]:
        """Evaluate the good samples and write their maps; -> rows of all, `at` their places."""
        rows: list[dict[str, Any]] = []
        good = [i for i, sample in enumerate(samples) if sample.error is None]
        if good:
            name, notes = chunk_name(shard, chunk), self._notes(shard, chunk, last)
            shows = shard == self.first_shard and chunk == 0
            stored = None
            if self.config.maps_from is not None:
                stored = stored_outcomes(Path(self.config.maps_from), name, samples)
            examples = self.config.examples if shows and self.config.maps else 0
            results = self.evaluator(self._batches(samples), examples, stored)
            rows = [r for r in results.rows() if samples[r["at"]].error is None]
            if self.config.maps:
                self._write_maps(name, results, good, notes)
            if self.config.scores.metrics:
                self._write_scores(name, results, samples, notes)
        for at, sample in enumerate(samples):
            if sample.error is not None:
                rows.append(
                    {"key": sample.key, "at": at, "label": sample.label, "error": sample.error}
                )
        return sorted(rows, key=lambda r: int(r["at"]))

    def _batches(self, samples: list[DecodedSample]) -> dict[Any, Batch]:
        """One batch per preprocessing. A bad sample keeps its place as a black image, so that its
        neighbours' places in a compute block, and so their last bits, do not depend on it."""
        keys = tuple(sample.key for sample in samples)
        label = torch.tensor([s.label if s.error is None else 0 for s in samples])
        batches = {}
        for at, spec in enumerate(dict.fromkeys(self.evaluator.specs.values())):
            blank = np.zeros((*spec.size, 3), dtype=np.uint8)
            images = np.stack([s.images[at] if s.error is None else blank for s in samples])
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
            batches[spec] = Batch(keys, pixels, label, **_objects(samples, at, spec.size))
        return batches

    def _write_scores(
        self, name: str, results: Results, samples: list[DecodedSample], notes: dict[str, str]
    ) -> None:
        rows = [r for r in results.score_rows() if samples[r["at"]].error is None]
        for r in rows:
            r |= {"shard": notes["shard"], "position": samples[r["at"]].position}
        write_rows(self.out / "scores" / f"{name}.parquet", rows, notes, schema.SCORE)

    def _write_maps(
        self, name: str, results: Results, good: list[int], notes: dict[str, str]
    ) -> None:
        explained = {n: o for n, o in results.outcomes.items() if o.target is not None}
        kept = len(next(iter(results.examples.values()), ()))
        shown = sum(i < kept for i in good)
        write_maps(
            self.out / "maps" / f"{name}.h5",
            [results.keys[i] for i in good],
            results.label.numpy()[good],
            {n: {e: m.numpy()[good] for e, m in o.saliency.items()} for n, o in explained.items()},
            {n: o.target.numpy()[good] for n, o in explained.items() if o.target is not None},
            {n: images.numpy()[good[:shown]] for n, images in results.examples.items()},
            notes,
            {n: images.numpy()[good] for n, images in results.images.items()},
        )


def _objects(samples: list[DecodedSample], at: int, size: tuple[int, int]) -> dict[str, Any]:
    """A batch's masks and second objects, where the good samples have them."""
    good = [s for s in samples if s.error is None]

    def masks(name: str) -> torch.Tensor | None:
        if any(getattr(s, name) is None for s in good):
            return None
        blank = np.zeros(size, dtype=bool)
        found = [blank if s.error is not None else getattr(s, name)[at] for s in samples]
        return torch.from_numpy(np.stack(found))

    others = None
    if all(s.other is not None for s in good):
        others = torch.tensor([s.other or 0 for s in samples])
    return {"mask": masks("masks"), "other": others, "other_mask": masks("other_masks")}
