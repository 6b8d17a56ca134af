"""Turn a data set into shards, with index.json and classes.txt; the same command again resumes.

uv run jobs/make_shards.py imagenet /data/imagenet /data/shards --per-shard 1000
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from fvit_ray.data.folder import read_folder
from fvit_ray.data.imagenet import read_imagenet
from fvit_ray.data.write import make_shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=("folder", "imagenet", "fashion_mnist"))
    parser.add_argument("src", type=Path, help="folder of the data set")
    parser.add_argument("out", type=Path, help="folder of the shards")
    parser.add_argument("--per-shard", type=int, default=1000, help="samples; default 1000")
    parser.add_argument("--prefix", help="shards are named PREFIX-000000.tar")
    args = parser.parse_args()
    say = functools.partial(print, flush=True)
    try:
        if args.dataset == "fashion_mnist":  # the embedded sample, always in its own five shards
            from fvit_ray.sample.shards import write_sample

            write_sample(args.src, args.out, say)
        else:
            read = read_folder if args.dataset == "folder" else read_imagenet
            make_shards(read, args.src, args.out, args.prefix or args.dataset, args.per_shard, say)
    except (ValueError, OSError) as error:
        sys.exit(f"make_shards: {error}")


if __name__ == "__main__":
    main()
