"""What a name stands for: a timm architecture, its configuration, and where its weights are."""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fvit_ray.models.weights import FILES, ModelError, folder_file, hub_file, remedy, shapes

SAMPLE = ("sample_vit", "sample_deit", "sample_swin")


@dataclass(frozen=True)
class Source:
    """A timm architecture, its pretrained_cfg and arguments, and where its weights are."""

    architecture: str
    cfg: dict[str, Any]
    args: dict[str, Any]
    file: Path | None = None  # None: on the hub
    repository: str = ""
    names: tuple[str, ...] = FILES  # of the weights in the repository

    def weights(self) -> Path:
        """The file on this machine, downloaded if need be; raises `ModelError`."""
        if self.file is not None:
            return self.file
        if not self.repository:
            raise ModelError(f"timm has no weights of it on the hub; {remedy(self.architecture)}")
        return hub_file(self.repository, self.names, remedy(self.architecture))


def find(name: str, random_weights: bool) -> Source:
    """`name` -> its source; reads no weights, save the shapes of a file of the user's own."""
    if name in SAMPLE:
        folder = resources.files("fvit_ray") / "sample" / "weights" / name.removeprefix("sample_")
        return _from_folder(Path(str(folder)))
    if name.startswith("local-dir:"):
        return _from_folder(Path(name.removeprefix("local-dir:")).expanduser())
    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
        config = hub_file(repository, ("config.json",), remedy("architecture"))
        return dataclasses.replace(_from_config(config), repository=repository)
    architecture, at, path = name.partition("@")
    source = _from_timm(architecture)
    if not at:
        return source
    file = Path(path).expanduser()
    if random_weights:
        return dataclasses.replace(source, file=file)
    return dataclasses.replace(source, file=file, cfg=source.cfg | _head(source.cfg, file))


def _from_folder(folder: Path) -> Source:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json there")
    return dataclasses.replace(_from_config(folder / "config.json"), file=folder_file(folder))


def _from_config(file: Path) -> Source:
    """timm's config.json: architecture, model_args, pretrained_cfg, label_names."""
    from timm.models import PretrainedCfg, is_model

    try:
        tree = json.loads(file.read_text())
        architecture, cfg = tree["architecture"], dict(tree.get("pretrained_cfg", tree))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: not a configuration of timm ({error!r})") from error
    if not is_model(architecture):
        raise ModelError(f"{file}: unknown architecture {architecture!r}{_near(architecture)}")
    for key in ("num_classes", "label_names"):
        if key in tree:
            cfg[key] = tree[key]
    known = {field.name for field in dataclasses.fields(PretrainedCfg)}
    cfg = {key: value for key, value in cfg.items() if key in known}
    full = PretrainedCfg(**cfg).to_dict(remove_source=True)
    return Source(architecture, full, dict(tree.get("model_args", {})))


def _from_timm(name: str) -> Source:
    from timm.models import get_pretrained_cfg, is_model, list_pretrained

    if not is_model(name) or "/" in name:
        raise ModelError(f"no model of timm{_near(name)}")
    architecture, _, tag = name.partition(".")
    try:
        found = get_pretrained_cfg(name)
    except RuntimeError:
        tags = [n.partition(".")[2] for n in list_pretrained(f"{architecture}.*")]
        raise ModelError(f"no tag {tag!r}; {architecture} has: {', '.join(tags)}") from None
    if found is None:
        raise ModelError("timm knows no input size or classes for it")
    cfg = found.to_dict(remove_source=True)
    names = (found.hf_hub_filename,) if found.hf_hub_filename else FILES
    return Source(architecture, cfg, {}, repository=found.hf_hub_id or "", names=names)


def _near(name: str) -> str:
    from timm.models import list_models

    known = [*SAMPLE, *list_models(), *list_models(pretrained=True)]
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return (
        "; known: sample_vit, timm names, hf-hub:, local-dir:, architecture@file, module:function"
    )


def _head(cfg: dict[str, Any], file: Path) -> dict[str, Any]:
    """The number of classes of a file of the user's own, from its last layer."""
    heads = cfg.get("classifier") or ()
    head = heads if isinstance(heads, str) else next(iter(heads), "")
    shape = shapes(file).get(f"{head}.weight")
    return {"num_classes": shape[0]} if shape else {}
