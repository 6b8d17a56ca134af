"""A class as a person names it -> its index."""

from __future__ import annotations

import difflib
import re

from fvit_ray.models.load import ModelInfo
from fvit_ray.models.weights import ModelError


def class_index(word: str, info: ModelInfo) -> int:
    """An index, a class name or one of its comma-separated synonyms (in any case) -> the index.

    raises `ModelError`, one line: out of range, unknown (with the nearest), or several classes
    """
    if re.fullmatch(r"[+-]?\d+", word):
        if not 0 <= int(word) < info.num_classes:
            raise ModelError(
                f"class {word} is out of range; {info.name} has classes 0 to {info.num_classes - 1}"
            )
        return int(word)
    if info.class_names is None:
        raise ModelError(
            f"class {word!r}: {info.name} does not name its classes; "
            f"give an index from 0 to {info.num_classes - 1}"
        )
    known: dict[str, set[int]] = {}
    for index, name in enumerate(info.class_names):
        for synonym in {name, *name.split(",")}:
            known.setdefault(synonym.strip().casefold(), set()).add(index)
    found = known.get(word.strip().casefold())
    if found is None:
        near = difflib.get_close_matches(word.strip().casefold(), known, n=1)
        hint = f"; did you mean {short_name(info, min(known[near[0]]))!r}?" if near else ""
        raise ModelError(f"class {word!r}: {info.name} has no such class{hint or _all(info)}")
    if len(found) > 1:
        each = ", ".join(f"{i} ({info.class_names[i]})" for i in sorted(found))
        raise ModelError(f"class {word!r} is several of {info.name}: {each}; give the index")
    return found.pop()


def short_name(info: ModelInfo, index: int) -> str:
    """The class's first synonym; "class 7" where the model does not name its classes."""
    return info.class_names[index].split(",")[0] if info.class_names else f"class {index}"


def _all(info: ModelInfo) -> str:
    names = info.class_names or ()
    if len(names) > 20:
        return f"; it has {len(names)}, e.g. {short_name(info, 0)!r}"
    return f"; it has: {', '.join(names)}"
