"""The command line: a YAML file, any leaf of the tree overridden, and how to run it.

--config FILE.yaml --attack.eps 8/255 --defences.1.sigma 0.5 --limit 100 --out DIR
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fvit_ray.config import SAMPLE, Config, ConfigError
from fvit_ray.settings import Attack, Certify, Compute, Corruption, Defence, Explain, Scores

GROUPS = {
    "corruption": Corruption,
    "attack": Attack,
    "certify": Certify,
    "explain": Explain,
    "scores": Scores,
    "compute": Compute,
}
RUN_OPTIONS = {
    "config": "YAML file, or the bare name of one of the package's own",
    "out": "run folder or s3:// URL; default runs/<name>-<fingerprint>",
    "from": "finished run: score its stored maps, explain nothing again",
    "export": "HDF5 file (vis, image, target) of every condition and explainer's maps",
    "address": "Ray cluster to join; default RAY_ADDRESS, else a local one",
    "dry_run": "print the plan: passes, FLOPs, time and disk; run nothing",
    "gpu": "with --dry-run: the kind of GPU to estimate for, e.g. a100",
    "gpus": "with --dry-run --gpu: how many; default 1",
    "strict": "exit non-zero when any sample could not be evaluated",
    "help": "this text",
}


RUN_FLAGS = ("dry_run", "strict", "help")
# leaves that mean true where no value is given
FLAGS = (
    "random_weights",
    "maps",
    "images",
    "attack.random_start",
    "attack.checkpoint",
    "certify.early",
    "corruption.stored",
)


@dataclass(frozen=True)
class Command:
    """A parsed command line."""

    config: Config
    out: Path
    address: str | None = None
    export: Path | None = None
    dry_run: bool = False
    strict: bool = False
    place: str | None = None  # the run folder as a URL, where it is no path
    gpu: tuple[str, int] | None = None  # of --gpu and --gpus


def parse(argv: Sequence[str], default: str = SAMPLE) -> Command:
    """`argv` (without the program's name) -> Command; raises `ConfigError`, one line.

    Without --config, the package's own configuration `default` is run; with --data, nothing of it
    is kept, since models and defences of one data set say nothing about another.
    """
    run: dict[str, Any] = {}
    overrides: list[tuple[str, Any]] = []
    for name, values in options_of(argv):
        if name in RUN_OPTIONS:
            run[name] = run_option(name, values)
        else:
            overrides.append((name, leaf_value(name, values)))
    if run.get("help"):
        print(usage(default))
        raise SystemExit(0)
    other_data = any(name == "data" and value != SAMPLE for name, value in overrides)
    if "from" in run:
        tree = stored_tree(Path(str(run["from"])), read_yaml(str(run.get("config", default))))
        allowed = ("scores.", "name", "examples", "compute.actors", "compute.max_actors")
        for name, _ in overrides:
            if not name.startswith(allowed):
                raise ConfigError(f"--{name}: is the stored run's; --from lets scores.* be chosen")
    elif "config" in run:
        tree = read_yaml(str(run["config"]))
    else:
        tree = {} if other_data else read_yaml(default)
    if "export" in run:
        overrides.append(("images", True))
    config = build(tree, overrides)
    slug = "".join(c if c.isalnum() else "-" for c in config.name.lower()).strip("-")
    out = run.get("out") or f"runs/{slug}-{config.fingerprint()[:8]}"
    return Command(
        config,
        Path(str(out)),
        run.get("address"),
        Path(str(run["export"])) if "export" in run else None,
        bool(run.get("dry_run")),
        bool(run.get("strict")),
        place=str(out) if "://" in str(out) else None,
        gpu=_gpus(run),
    )


def _gpus(run: Mapping[str, Any]) -> tuple[str, int] | None:
    """What --gpu and --gpus ask an estimate for."""
    if "gpu" not in run and "gpus" not in run:
        return None
    if "gpu" not in run or not run.get("dry_run"):
        raise ConfigError("--gpu, --gpus: need --dry-run and --gpu: --dry-run --gpus 64 --gpu a100")
    count = str(run.get("gpus", 1))
    if not count.isdigit() or not int(count):
        raise ConfigError(f"--gpus: takes a number of GPUs, got {count}")
    return str(run["gpu"]), int(count)


def stored_tree(folder: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a finished run, with the scores and the name of `tree`."""
    try:
        document = json.loads((folder / "run.json").read_text())
        config, status = document["config"], document["status"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"--from {folder}: holds no readable run.json of a run") from None
    if status != "complete":
        raise ConfigError(f"--from {folder}: is not finished; run it to its end first")
    if not config.get("maps") or not config.get("explainers"):
        raise ConfigError(f"--from {folder}: stored no maps; run it with explainers and --maps")
    new = {"maps_from": str(folder.resolve()), "maps": False, "images": False}
    same = {key: tree[key] for key in ("name", "scores") if key in tree}
    return {**config, **same, **new}


def leaf_value(name: str, values: list[Any]) -> Any:
    """What a leaf is set to: one word, a list of them, or true for a flag that stands alone."""
    if not values and name not in FLAGS:
        raise ConfigError(f"--{name}: needs a value")
    return values if len(values) > 1 else values[0] if values else True


def run_option(name: str, values: list[Any]) -> Any:
    """The value of one of RUN_OPTIONS: one word, or for a flag none or true or false."""
    if name in RUN_FLAGS:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        word = str(values[0]).lower() if values else "true"
        if len(values) > 1 or word not in words:
            raise ConfigError(f"--{name}: takes true or false, got {values}")
        return words[word]
    if len(values) != 1:
        raise ConfigError(f"--{name}: takes one value, got {len(values)}")
    return values[0]


def options_of(argv: Sequence[str]) -> list[tuple[str, list[Any]]]:
    """["--a.b", "1", "2", "--c=3"] -> [("a.b", ["1", "2"]), ("c", ["3"])]."""
    found: list[tuple[str, list[Any]]] = []
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if any(name == before for before, _ in found):
                raise ConfigError(f"--{name}: is given twice; list several values after one")
            found.append((name, [_value(value)] if equals else []))
        elif word == "-h":
            found.append(("help", []))
        elif not found:
            raise ConfigError(f"{word!r}: options start with --; see --help")
        else:
            found[-1][1].append(_value(word))
    return found


def _value(word: str) -> Any:
    """A word as it is; {a: b} and [a, b] as YAML."""
    if word[:1] in "{[" and word[-1:] in "}]":
        try:
            return yaml.safe_load(word)
        except yaml.YAMLError:
            return word
    return word


def usage(default: str) -> str:
    """The help text: every option and every leaf."""
    return f"Without --config and --data: configuration {default!r}.\n" + describe_options(
        RUN_OPTIONS
    )


def describe_options(run_options: Mapping[str, str]) -> str:
    """A line for each of a job's options and for every leaf of the tree."""
    rows = [("--" + k.replace("_", "-"), v) for k, v in (*run_options.items(), *leaves().items())]
    wide = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{wide}}  {text}" for name, text in rows)


def read_yaml(name: str) -> dict[str, Any]:
    """A YAML file, or one of the package's own configurations by its bare name."""
    path = Path(name)
    if not path.suffix:
        path = Path(str(resources.files("fvit_ray") / "configs" / f"{name}.yaml"))
    try:
        # through JSON, so that only plain values are left: YAML reads 2024-05-01 as a date
        tree = json.loads(json.dumps(yaml.safe_load(path.read_text("utf-8")), default=str))
    except OSError as error:
        raise ConfigError(f"--config {name}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"--config {name}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"--config {name}: must be a mapping of fields")
    return tree


EMPTY = {"defences": ["none"]}  # a group of fields that is a list, before anything is named


def override(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one leaf of a plain tree; list entries are named by their index."""
    *parents, leaf = dotted.split(".")
    node: Any = tree
    for at, name in enumerate(parents):
        if isinstance(node, list):
            if not name.isdigit() or int(name) >= len(node):
                here = ".".join(parents[:at])
                raise ConfigError(f"{dotted}: {here} has {len(node)} entries, counted from 0")
            if isinstance(node[int(name)], str):
                node[int(name)] = {"denoiser": node[int(name)]}
            node = node[int(name)]
        elif not isinstance(node, dict):
            raise ConfigError(f"{dotted}: {'.'.join(parents[:at])} has no fields")
        else:
            if not isinstance(
                node.setdefault(name, list(EMPTY[name]) if name in EMPTY else {}), dict | list
            ):
                raise ConfigError(f"{dotted}: {name} is a value, not a group of fields")
            node = node[name]
    if not isinstance(node, dict):
        raise ConfigError(f"{dotted}: cannot be set; name a field that --help lists")
    node[leaf] = value


def build(tree: dict[str, Any], overrides: Sequence[tuple[str, Any]] = ()) -> Config:
    """Validate a plain tree with overrides; raises `ConfigError`, one line."""
    tree = json.loads(json.dumps(tree))
    for dotted, value in overrides:
        override(tree, dotted, value)
    try:
        return _fitted(Config.model_validate(tree))
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


def _fitted(config: Config) -> Config:
    """A run shorter than two default blocks gets smaller ones, so that little is padded and two
    actors have work."""
    compute = config.compute
    if config.limit is None or compute.model_fields_set & {"micro_batch", "chunk"}:
        return config
    size = min(compute.micro_batch, -(-config.limit // 2))
    if size == compute.micro_batch:
        return config
    trials = max(defence.trials for defence in config.defences)
    sizes = {"micro_batch": size, "chunk": size, "denoise_batch": size * trials}
    sizes["explain_batch"] = size
    for name in ("denoise_batch", "explain_batch"):
        given = name in compute.model_fields_set
        sizes[name] = getattr(compute, name) if given else min(getattr(compute, name), sizes[name])
    return config.model_copy(update={"compute": compute.model_copy(update=sizes)})


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        leaf = str(first["loc"][-1])
        names = {part for path in leaves() for part in path.split(".")}
        near = difflib.get_close_matches(leaf, names, n=1)
        message = "no such field" + (f"; did you mean {near[0]!r}?" if near else "; see --help")
    elif first["type"] != "value_error":
        message = f"{message[0].lower()}{message[1:]}, got {first['input']!r}"
    return f"{where}: {message}" if where else message


def leaves(model: Any = Config, prefix: str = "") -> dict[str, str]:
    """Dotted path of every leaf -> its description; list entries as `N`."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if model is Config and name in GROUPS:
            found |= leaves(GROUPS[name], f"{name}.")
            continue
        found[prefix + name] = field.description or ""
        if model is Config and name == "defences":
            found |= leaves(Defence, "defences.N.")
    return found
