"""Kustomize's resources read, as far as our kustomizations use it: lists of files and folders."""

from pathlib import Path

import yaml

DOCKER = Path(__file__).parents[2] / "docker"
KUBERNETES = "1.34"
"""The version whose schemas our resources keep to."""


def resources(folder):
    """Return every resource of a kustomization, with the namespace that it sets."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found = []
    for name in kustomization["resources"]:
        place = (folder / name).resolve()
        if place.is_dir():
            found += resources(place)
            continue
        for document in yaml.safe_load_all(place.read_text()):
            document["metadata"].setdefault("namespace", kustomization.get("namespace"))
            found.append(document)
    return found
