"""From a study's file to its jobs, each with its needs; everything that can be refused is refused here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qreg_yolo.config import classification, detection
from qreg_yolo.config.sections import build, check_sections
from qreg_yolo.corrupt.spec import NAMES
from qreg_yolo.datasets.cifar import cifar_in
from qreg_yolo.datasets.sources import find_data, read_source
from qreg_yolo.errors import DataError, MissingFileError, check_same_settings
from qreg_yolo.io.resources import recipe_path
from qreg_yolo.io.results_csv import FILE as RESULTS
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.io.strict_yaml import load as load_yaml
from qreg_yolo.metrics.conditions import CLEAN
from qreg_yolo.quant.spec import BEFORE_INIT, FLOAT_BITS, QuantSpec
from qreg_yolo.study.config import BASELINE, Grid, StudyConfig
from qreg_yolo.study.jobs import Analysis, Curves, Job, Noise, Robustness, Training

_OWN = ("project", "name", "threads", "device", "data_dir", "verify", "recipe", "sha256")
"""Options that do not decide the numbers of a run."""


def jobs_of(study: StudyConfig, folder: Path) -> list[Job]:
    """Returns the jobs of a study in the order in which they start.

    Args:
        study: The study.
        folder: Its output folder; absolute.

    Raises:
        ConfigError: Options of a training that its command would refuse.
        FileNotFoundError: The recipe does not exist.
    """
    trainings = _trainings(study.grid, folder / "trainings")
    robustness = _robustness(study, trainings, folder / "robustness")
    if study.analyses.table1 and {name for name, _ in study.protocol.conditions} != {CLEAN, *NAMES}:
        raise ConfigError("Table 1 averages over all 19 corruptions. Give corruptions: 19, or table1: false.")
    jobs: list[Job] = [*trainings]
    if study.analyses.noise:
        jobs += _noise(study, trainings, folder / "noise")
    jobs.append(robustness)
    return [*jobs, *_analyses(study, trainings, robustness, folder / "analyses")]


def check(study: StudyConfig, jobs: Sequence[Job], datasets_dir: Callable[[], Path]) -> None:
    """Raises unless the data exist and the folder was begun with the same settings.

    Args:
        study: The study.
        jobs: Its jobs.
        datasets_dir: As `read_source`.

    Raises:
        FileNotFoundError: The data or the weights do not exist.
        DataError: They exist and cannot be used.
        ConfigError: The folder holds trainings with other settings.
    """
    grid = study.grid
    if grid.weights not in (None, BASELINE) and not Path(str(grid.weights)).is_file():
        raise MissingFileError(f"There is no checkpoint '{grid.weights}'. Give the path of one, or baseline.")
    if grid.track == "classify" and grid.data != "demo":
        _check_cifar(grid)
    elif grid.track == "detect":
        yaml = find_data(grid.data)
        for split in {"train", "val", study.protocol.split or "val"}:
            read_source(yaml, split, datasets_dir=datasets_dir)
    for job in jobs:
        if isinstance(job, Training) and (path := job.folder / "config.yaml").is_file():
            before, now = (_settings(one) for one in (_completed(load_yaml(path), job.classify), job.config))
            remedy = "Give another folder with --out, or the same settings."
            check_same_settings(job.folder, before, now, remedy, ConfigError)


def _check_cifar(grid: Grid) -> None:
    remedy = "Give the folder with the official files, as data_dir in the study or with --data-dir."
    if grid.data_dir is None:
        raise ConfigError(f"data={grid.data} needs its folder. {remedy}")
    if not Path(grid.data_dir).is_dir():
        raise MissingFileError(f"There is no folder '{grid.data_dir}'. {remedy}")
    name = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}.get(grid.data, "")
    if cifar_in(Path(grid.data_dir) / name) is None:
        raise DataError(f"'{grid.data_dir}' does not hold '{name}'. {remedy}")


def _completed(stored: Mapping[str, Any], classify: bool) -> dict[str, Any]:
    """Returns a configuration that a run wrote, with the options that its version did not have at their old meaning."""
    layout = classification.LAYOUT if classify else detection.LAYOUT
    known = {**stored, "quant": {**BEFORE_INIT, **stored.get("quant", {})}}
    values = build(check_sections(known, "config.yaml", layout), "config.yaml", layout)
    config = classification.ClassifyConfig(**values) if classify else detection.RunConfig(**values)
    return config.to_dict()


def _settings(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the options of a configuration that decide its run's numbers."""
    found = {name: value for options in config.values() for name, value in options.items() if name not in _OWN}
    if found.get("weights") is not None:  # the baseline's, wherever the study's folder was moved to
        found["weights"] = "/".join(Path(found["weights"]).parts[-3:])
    if found.get("teacher") is not None:  # a run writes the absolute path
        found["teacher"] = str(Path(found["teacher"]).absolute())
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _trainings(grid: Grid, folder: Path) -> list[Training]:
    found = []
    for number, method in enumerate(grid.methods or ({},)):
        for seed in grid.seeds:
            for model in grid.model:
                baseline = _training(grid, folder, model, {"bits": FLOAT_BITS}, seed, None)
                widths = grid.bits if grid.methods else ()
                quantized = [_training(grid, folder, model, {**method, "bits": b}, seed, baseline) for b in widths]
                found += [*([baseline] if number == 0 else []), *quantized]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Two trainings are called '{name}'. Give methods or models that differ in their names.")
    return found


def _training(
    grid: Grid, folder: Path, model: str, variant: Mapping[str, Any], seed: int, baseline: Training | None
) -> Training:
    """Returns one training; ``baseline`` is None for the fp32 baseline itself."""
    spec = QuantSpec.from_options(variant)
    more = {name: variant[name] for name in ("per_channel", "first_last_bits", "signed") if name in variant}
    label = "-".join([spec.label, *(f"{name}-{value}".lower() for name, value in more.items())])
    classify = grid.track == "classify"
    own = {name: value for name, value in grid.overrides.items() if classify or name not in _detector_options()}
    stem = Path(model.rpartition(":")[2]).stem
    head = "-anchor" if grid.overrides.get("head") == "anchor" else ""
    name = f"{stem}{head}-{label}-s{seed}"
    weights = grid.weights
    if weights == BASELINE:
        weights = None if baseline is None else str(baseline.checkpoint)
    options = {
        "model": model, "data": grid.data, **({"data_dir": grid.data_dir} if grid.data_dir is not None else {}),
        **variant, "seed": seed, **({} if weights is None else {"weights": weights}),
        **{name: value for name, value in grid.overrides.items() if name not in own},
    }  # fmt: skip
    config, epochs = _resolved(grid, options, own)
    return Training(
        name=f"train/{name}", folder=folder / name, classify=classify, model=model, overrides=own,
        options=options | {"hyp": grid.recipe}, config=config, epochs=epochs, label=label, seed=seed,
        needs=(baseline,) if baseline is not None and grid.weights == BASELINE else (),
    )  # fmt: skip


def _detector_options() -> list[str]:
    """Returns the names of a detector's options that are not Ultralytics' arguments."""
    sections = ("run", "oscillation")
    return [*(key for name in sections for key in detection.LAYOUT[name].keys), *detection.HEAD_OPTIONS]


def _resolved(grid: Grid, options: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Returns the whole configuration of a training, as its command resolves it, and its epochs."""
    fine_tuned = "weights" in options
    if grid.track == "classify":
        path = recipe_path(grid.recipe or classification.default_recipe(grid.data))
        config = classification.resolve(path, options, own)[0]
        return config.to_dict(), config.train.epochs
    name = grid.recipe or detection.default_recipe(grid.data, fine_tuned=fine_tuned)
    run = detection.resolve(None if name is None else recipe_path(name), options, own)
    return run.to_dict(), int(run.train.get("epochs", 100))  # Ultralytics' default


def _robustness(study: StudyConfig, trainings: Sequence[Training], folder: Path) -> Robustness:
    protocol, grid = asdict(study.protocol), study.grid
    classify = grid.track == "classify"
    names = ("corruptions", "severities", "preset", "limit", "batch", *(() if classify else ("split",)))
    if classify and study.protocol.split is not None:
        raise ConfigError("protocol: classifiers are measured on their test images. Remove split.")
    options = {"data": grid.data, **({"data_dir": grid.data_dir} if classify else {})}
    options |= {name: protocol[name] for name in names}
    return Robustness(
        name="robustness", folder=folder, trainings=trainings, conditions=study.protocol.conditions, options=options,
        classify=classify, after=tuple(trainings),
    )  # fmt: skip


def _noise(study: StudyConfig, trainings: Sequence[Training], folder: Path) -> list[Noise]:
    """Returns the noise of each baseline at all widths, and each quantized network's gradients against it."""
    found: list[Noise] = []
    baselines: dict[tuple[str, int], Noise] = {}
    methods = tuple(dict.fromkeys(method["method"] for method in study.grid.methods))
    for one in trainings:
        baseline = baselines.get((one.model, one.seed))
        widths, own = (*study.grid.bits, FLOAT_BITS), methods  # the others are compared with the float weights
        if baseline is not None:
            widths, own = (one.options["bits"],), (one.options["method"],)
        found.append(
            Noise(
                name=f"noise/{one.folder.name}", folder=folder / one.folder.name, training=one, against=baseline,
                bits=widths, methods=own, needs=(one,) if baseline is None else (one, baseline),
            )
        )  # fmt: skip
        baselines.setdefault((one.model, one.seed), found[-1])
    return found


def _analyses(
    study: StudyConfig, trainings: Sequence[Training], robustness: Robustness, folder: Path
) -> list[Analysis]:
    found: list[Analysis] = []

    def measured(name: str, file: str, *arguments: str) -> None:
        found.append(
            Analysis(
                name=name, needs=(robustness,), inputs=[robustness.records], output=folder / file, arguments=arguments
            )
        )

    table = str(robustness.records)
    if study.analyses.table1:
        measured("table1", "table1.txt", "table", table, "--kind", "table1")
    if study.analyses.heatmaps:
        found.append(Analysis(name="legend", inputs=[], output=folder / "legend.svg", arguments=["plot", "legend"]))
    for model in dict.fromkeys(one.model for one in trainings):
        mine = [one for one in trainings if one.model == model]
        stem = mine[0].folder.name.removesuffix(f"-{mine[0].label}-s{mine[0].seed}")
        if study.analyses.heatmaps:
            measured(f"heatmap/{stem}", f"heatmap-{stem}.svg", "plot", "heatmap", table, "--runs", f"{stem}-*")
        for column in _columns(study):
            name = f"{stem}-{column.partition('/')[2]}"
            found.append(
                Curves(
                    name=f"curves/{name}", after=tuple(mine), trainings=mine, output=folder / f"curves-{name}.svg",
                    inputs=[one.folder / RESULTS for one in mine], arguments=["plot", "curves", "--column", column],
                )
            )  # fmt: skip
    return found


def _columns(study: StudyConfig) -> list[str]:
    """Returns the columns of ``results.csv`` that are drawn."""
    if not study.analyses.curves:
        return []
    return ["val/loss", *(["val/obj_loss"] if study.grid.overrides.get("head") == "anchor" else [])]
