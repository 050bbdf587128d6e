"""The model registry: every epoch and every release as a version, and the aliases that search follows.

The only room that imports MLflow (beside `enclip.pyfunc`, the code that MLflow itself loads).
"""

from enclip.registry.names import CHALLENGER, CHAMPION, EPOCH_MODEL, EXPERIMENT, PREVIOUS, RELEASE_MODEL
from enclip.registry.packages import LINKED
from enclip.registry.pruning import StoredVersion
from enclip.registry.registry import Registry
from enclip.registry.releases import ReleaseVersion

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "EPOCH_MODEL",
    "EXPERIMENT",
    "LINKED",
    "PREVIOUS",
    "RELEASE_MODEL",
    "Registry",
    "ReleaseVersion",
    "StoredVersion",
]
