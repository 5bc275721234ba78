"""The plans of the shipped studies, which finished folders were made by: names, folders, commands and settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from qreg_yolo.config import classification, detection
from qreg_yolo.io.resources import study_path
from qreg_yolo.study.config import load
from qreg_yolo.study.jobs import Training
from qreg_yolo.study.plan import jobs_of

GOLDEN = Path(__file__).with_name("shipped.json")
STUDIES = ("demo", "qreg_cifar10", "qreg_cifar100", "qreg_voc", "small_data")
FOLDER = Path("/study")


def settings(config: Mapping[str, Mapping[str, Any]], *, classify: bool) -> dict[str, Any]:
    """Returns what a configuration sets; new options with a default do not change it."""
    defaults = (classification.ClassifyConfig() if classify else detection.RunConfig()).to_dict()
    flat = {f"{section}.{key}": value for section, values in config.items() for key, value in values.items()}
    nothing = object()
    return {
        name: value
        for name, value in flat.items()
        if defaults.get(name.partition(".")[0], {}).get(name.partition(".")[2], nothing) != value
    }


def planned(name: str) -> dict[str, Any]:
    """Returns the names of a study's jobs, and a digest of all that is planned."""
    config = load(study_path(name), {"data_dir": "DIR"} if "voc" not in name and name != "demo" else None)
    jobs = jobs_of(config, FOLDER)
    rows = [
        {
            "name": job.name, "group": job.group, "command": job.command(), "folder": str(job.folder),
            "needs": [one.name for one in job.needs], "settings": settings(job.config, classify=job.classify),
        }
        for job in jobs if isinstance(job, Training)
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    return {"digest": digest, "jobs": [job.name for job in jobs]}


@pytest.mark.parametrize("name", STUDIES)
def test_the_plan_is_unchanged(name: str) -> None:
    assert planned(name) == json.loads(GOLDEN.read_text())[name]


def test_another_setting_changes_the_digest() -> None:
    (job, *_) = [job for job in jobs_of(load(study_path("demo")), FOLDER) if isinstance(job, Training)]
    changed = {**job.config, "train": {**job.config["train"], "lr0": 0.5}}
    new = {**job.config, "run": {**job.config["run"], "val_every": 1}}
    before = settings(job.config, classify=False)
    assert settings(changed, classify=False) == {**before, "train.lr0": 0.5}
    assert settings(new, classify=False) == before
