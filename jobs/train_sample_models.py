"""Reproduce the embedded sample's models from Fashion-MNIST's four IDX files.

uv run jobs/train_sample_models.py --idx /usr/share/datasets/fashion-mnist --out weights
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fvit_ray.sample.cards import PARTS, train_and_save, write_choices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idx", type=Path, required=True, help="folder of the four IDX files")
    parser.add_argument("--out", type=Path, required=True, help="where the weights are written")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the recipe's epochs")
    parser.add_argument(
        "--choose", action="store_true", help="evaluate the packaged defences on held-out images"
    )
    args = parser.parse_args()

    def log(line: str) -> None:
        print(line, flush=True)

    if args.choose:
        write_choices(args.idx, args.out, log)
    else:
        train_and_save(args.idx, args.out, args.only, args.scale, log)


if __name__ == "__main__":
    main()
