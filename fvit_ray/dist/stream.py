"""Ray Data's stream: shards -> chunks -> decode (CPU tasks) -> evaluate (actors) -> commits.

A chunk, a fixed run of samples of one shard, is the unit of work and of commit: every block holds
exactly one, so shapes are static and nothing is cut or merged by block sizes.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata

from fvit_ray.config import Config
from fvit_ray.corruptions import corrupt
from fvit_ray.data.decode import LABEL, MASK, OTHER, decode_sample
from fvit_ray.data.preprocess import Pixels, Preprocess
from fvit_ray.data.shards import RawSample, read_chunks
from fvit_ray.dist.actor import EvaluateChunk
from fvit_ray.dist.cluster import READER_CPUS, Pool
from fvit_ray.settings import Corruption

# members of a sample that a metric cannot do without
NEEDS = {
    "segmentation": (MASK,),
    "class_specificity": (MASK, OTHER + MASK, OTHER + LABEL),
}


@dataclass(frozen=True)
class ShardTask:
    """One shard to read: its chunks but for those in `skip`, its first `limit` samples."""

    url: str
    shard: str
    limit: int | None
    skip: frozenset[int]


def _blocks(task: ShardTask, chunk: int) -> Iterator[pa.Table]:
    """One one-row table per chunk; looks one chunk ahead, so that the last one knows it is."""
    number = -1
    samples: list[RawSample] = []
    chunks = read_chunks(task.url, chunk, limit=task.limit, name=task.shard)
    for next_number, next_samples in chunks:
        if number >= 0 and number not in task.skip:
            yield _table(task.shard, number, samples, last=False)
        number, samples = next_number, next_samples
    if number < 0:  # read_samples tells of an empty shard by a sample; a limit may cut it off
        number, samples = (
            0,
            [RawSample(f"{task.shard}#empty", 0, {}, "no samples within the limit")],
        )
    if number not in task.skip:
        yield _table(task.shard, number, samples, last=True)


def _table(shard: str, number: int, samples: list[RawSample], *, last: bool) -> pa.Table:
    payload = pa.array([pickle.dumps(samples)], pa.large_binary())
    return pa.table({"shard": [shard], "chunk": [number], "last": [last], "payload": payload})


class ShardSource(Datasource):
    """One read task per shard, streaming chunks."""

    def __init__(self, tasks: list[ShardTask], chunk: int) -> None:
        self.tasks, self.chunk = tasks, chunk

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **options: Any) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        chunk = self.chunk

        def reader(task: ShardTask) -> ReadTask:
            return ReadTask(lambda: _blocks(task, chunk), unknown)

        return [reader(task) for task in self.tasks]


@dataclass(frozen=True)
class Corrupt:
    """A `decode.Change`: the configured corruption, its noise keyed by the sample."""

    corruption: Corruption
    seed: int

    def __call__(self, image: Pixels, key: str) -> Pixels:
        chosen = self.corruption
        assert chosen.name is not None
        frost = None if chosen.frost is None else Path(chosen.frost)
        options: dict[str, Any] = {"seed": self.seed, "key": key, "frost": frost, "stored": chosen.stored}
        return corrupt(image, chosen.name, chosen.severity, **options)


class DecodeChunk:
    """Raw bytes -> uint8 images in every preprocessing that the classifiers need."""

    def __init__(self, config: Config, specs: Iterable[Preprocess], num_classes: int) -> None:
        needs = {member for metric in config.scores.metrics for member in NEEDS.get(metric, ())}
        change = Corrupt(config.corruption, config.seed) if config.corruption.name else None
        self.options = (tuple(specs), num_classes, sorted(needs), not config.needs_labels, change)

    def __call__(self, table: pa.Table) -> pa.Table:
        row = table.to_pylist()[0]
        samples: list[RawSample] = pickle.loads(row["payload"])
        decoded = [decode_sample(raw, *self.options) for raw in samples]
        payload = pa.array([pickle.dumps(decoded, protocol=5)], pa.large_binary())
        return table.set_column(3, "payload", payload)


def stream(
    config: Config,
    out: Path,
    tasks: list[ShardTask],
    specs: tuple[Preprocess, ...],
    num_classes: int,
    pool: Pool,
    first_shard: str,
) -> Iterator[dict[str, Any]]:
    """Evaluate the shards; yields one small row (samples, errors, seconds) per committed chunk.

    first_shard: the one whose first samples' images are kept for the report
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # every row is a block of its own
    context.execution_options.preserve_order = False
    decode = DecodeChunk(config, specs, num_classes)
    reader_cpus = READER_CPUS if pool.device == "cpu" else 0.5
    dataset: Dataset = ray.data.read_datasource(
        ShardSource(tasks, config.compute.chunk),
        override_num_blocks=len(tasks),
        num_cpus=reader_cpus,
    )
    dataset = dataset.map_batches(
        decode,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=reader_cpus,
    )
    dataset = dataset.map_batches(
        EvaluateChunk,
        batch_size=1,
        batch_format="pyarrow",
        # a second chunk waits at a GPU, so that it never idles; on CPUs, where a chunk takes many
        # seconds, one actor would hold two chunks while another has none
        compute=ActorPoolStrategy(
            size=pool.actors, max_tasks_in_flight_per_actor=1 if pool.device == "cpu" else 2
        ),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
        fn_constructor_kwargs={
            "config": config.model_dump_json(),
            "out": str(out.resolve()),
            "device": pool.device,
            "first_shard": first_shard,
        },
    )
    yield from dataset.iter_rows()
