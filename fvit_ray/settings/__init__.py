"""The groups of a configuration's fields, one per file."""

from fvit_ray.settings.attack import Attack
from fvit_ray.settings.certify import Certify
from fvit_ray.settings.compute import Compute
from fvit_ray.settings.corruption import Corruption
from fvit_ray.settings.defence import Defence, Schedule
from fvit_ray.settings.explain import Explain
from fvit_ray.settings.scores import METRICS, Scores

__all__ = [
    "METRICS",
    "Attack",
    "Certify",
    "Compute",
    "Corruption",
    "Defence",
    "Explain",
    "Schedule",
    "Scores",
]
