"""``qreg-yolo study``."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qreg_yolo.cli.classify import DataDir
from qreg_yolo.cli.process import datasets_dir
from qreg_yolo.io.resources import study_path
from qreg_yolo.io.strict_yaml import ConfigError

if TYPE_CHECKING:
    from qreg_yolo.study.run import Run

EXAMPLES = """\b
Examples:
  qreg-yolo study demo --jobs 2 --threads 1
  qreg-yolo study qreg_cifar10 --data-dir DIR --dry-run
  qreg-yolo study my_study.yaml --out runs/my_study --jobs 4
  qreg-yolo study my_study.yaml --only 'train/*-s0'"""
PROJECT = "runs/studies"


def study(
    file: Annotated[str, typer.Argument(metavar="STUDY", help="YAML file, or the name of a shipped study.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the study. [default: runs/studies/NAME]")] = None,
    data_dir: DataDir = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Jobs at a time. [default: 1; with GPUs one each]")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each job. [default: cores / jobs]")] = None,
    only: Annotated[str | None, typer.Option(help="Only jobs whose names match, such as 'train/*-s0'.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the jobs and the estimated time, and stop.")] = False,
) -> None:
    """Run a study: a grid of trainings, their robustness, tables and figures; the same call resumes."""
    from qreg_yolo.study import plan
    from qreg_yolo.study.config import load
    from qreg_yolo.study.display import LiveDisplay, PlainDisplay
    from qreg_yolo.study.engines import LocalEngine
    from qreg_yolo.study.run import Run, execute

    try:
        path = study_path(file)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from None
    config = load(path, {} if data_dir is None else {"data_dir": data_dir})
    folder = (out or Path(PROJECT) / path.stem).absolute()
    planned = plan.jobs_of(config, folder)
    plan.check(config, planned, datasets_dir)
    gpus = _gpus()
    engine = LocalEngine(slots=jobs or max(len(gpus), 1), threads=threads, gpus=gpus)
    run = Run.of(planned, folder, engine, only)
    if dry_run:
        print("\n".join(f"{run.states[job.name]:9} {job.name}" for job in run.jobs))
    print(f"{path.stem}: {run.plan}\nFolder: {folder}", flush=True)
    if dry_run:
        return
    try:
        with LiveDisplay() if sys.stderr.isatty() else PlainDisplay() as display:
            good = execute(config, run, display)
    except (KeyboardInterrupt, SystemExit):
        print("Interrupted. The same command resumes the study.", file=sys.stderr)
        raise
    print(_results(run))
    if not good:
        raise typer.Exit(1)


def _results(run: Run) -> str:
    """Returns the table of the study, its files, and what failed."""
    from qreg_yolo.study.jobs import Analysis

    lines = []
    for job in run.jobs:
        if isinstance(job, Analysis) and job.is_done():
            lines += [job.output.read_text(encoding="utf-8")] if job.output.suffix == ".txt" else []
            lines.append(f"{job.name}: {job.output}")
    lines += [f"{run.states[job.name]}: {job.name} ({run.log(job)})" for job in run.in_state("failed", "blocked")]
    return "\n".join([*lines, f"Results: {run.folder}"])


def _gpus() -> list[str]:
    """Returns the GPUs that jobs may use, as in ``CUDA_VISIBLE_DEVICES``; asks the driver, without loading torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [one.strip() for one in visible.split(",") if one.strip()]
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=10, check=True)
        return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]
    return []
