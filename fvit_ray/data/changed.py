"""Images that are changed (corrupted) between decoding and the classifiers' preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fvit_ray.data.preprocess import Mask, Pixels, Preprocess, apply, apply_mask

SIZE = 224
CROP = Preprocess("paper", (SIZE, SIZE))  # ImageNet-C's: Resize 256, CenterCrop 224, bilinear

Change = Callable[[Pixels], Pixels]  # (H, W, 3) uint8 -> the same size


def after(spec: Preprocess) -> Preprocess:
    """What is left to do once the image is ImageNet-C's crop: nothing at 224 x 224."""
    return replace(spec, mode="center_crop")


def is_small(spec: Preprocess) -> bool:
    """Whether the classifier looks at less than ImageNet-C's crop, as the sample's do."""
    return min(spec.size) < SIZE


def apply_changed(image: Pixels, spec: Preprocess, change: Change) -> Pixels:
    """(H, W, 3) uint8 -> (*spec.size, 3) uint8, changed where ImageNet-C is.

    The centre crop of 224 pixels is changed, and used as it is, as the released files are: the
    spec's own resizing has no place any more. A classifier of smaller images gets its own
    preprocessing first; `change` scales such an image up and down again by itself.
    """
    if is_small(spec):
        return change(apply(image, spec))
    return apply(change(apply(image, CROP)), after(spec))


def apply_mask_changed(mask: Mask, spec: Preprocess) -> Mask:
    """(H, W) bool -> spec.size bool, with the geometry of `apply_changed`."""
    if is_small(spec):
        return apply_mask(mask, spec)
    return apply_mask(apply_mask(mask, CROP), after(spec))
