"""From a study's file to its jobs, each with its needs; everything that can be refused is refused here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qreg_yolo.config import classification, detection
from qreg_yolo.config.distillation import NONE, WEIGHTS
from qreg_yolo.config.fine_tuning import RECIPES, TrainedSettings, classifier_sections, inherits
from qreg_yolo.corrupt.spec import NAMES
from qreg_yolo.datasets.cifar import cifar_in
from qreg_yolo.datasets.sources import find_data, read_source
from qreg_yolo.errors import DataError, MissingFileError, check_same_settings, did_you_mean
from qreg_yolo.io.resources import recipe_path
from qreg_yolo.io.results_csv import FILE as RESULTS
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.io.strict_yaml import load as load_yaml
from qreg_yolo.metrics.conditions import CLEAN
from qreg_yolo.quant.spec import BEFORE_INIT, FLOAT_BITS, QuantSpec
from qreg_yolo.study.config import BASELINE, METHOD_KEYS, Grid, StudyConfig, Variant
from qreg_yolo.study.jobs import Analysis, Curves, Job, Noise, Robustness, Training, is_said

TRAININGS = "trainings"
"""Folder of the runs in the study's."""
_CHECKPOINTS = ("weights", "teacher")
"""Options that may be the baseline's checkpoint."""
_UNSET = {"average": detection.UNSET, "teacher": NONE}
"""Option -> the word that unsets a recipe's; None in a study."""
_QUANT_OPTIONS = (*METHOD_KEYS, "weight_bits", "init", "offset", "stages")
"""Options of the quantization, in both tracks."""
_NAMED = ("per_channel", "first_last_bits", "signed")
"""Options of a method that are part of its runs' names."""
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
    trainings = _trainings(study.grid, folder / TRAININGS)
    robustness = _robustness(study, trainings, folder / "robustness")
    if study.analyses.table1 and {name for name, _ in study.protocol.conditions} != {CLEAN, *NAMES}:
        raise ConfigError("Table 1 averages over all 19 corruptions. Give corruptions: 19, or table1: false.")
    names, reference = [one.name for one in study.grid.variants], study.analyses.reference
    if reference is not None and not any(f"{reference} ".startswith(f"{name} ") for name in names):
        raise ConfigError(
            f"reference={reference!r} is not a variant.{did_you_mean(reference, names)} There are: "
            f"{', '.join(names) or 'none'}."
        )
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
    given = [
        (grid.weights, grid.overrides),
        *((None, {**grid.variant_options, **one.options}) for one in grid.variants),
    ]
    for checkpoint in (one for weights, others in given for one in (weights, *map(others.get, _CHECKPOINTS))):
        if checkpoint not in (None, BASELINE, WEIGHTS, NONE) and not Path(str(checkpoint)).is_file():
            raise MissingFileError(f"There is no checkpoint '{checkpoint}'. Give the path of one, or baseline.")
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
    known = {**stored, "quant": {**BEFORE_INIT, **stored.get("quant", {})}}
    read = classification.from_mapping if classify else detection.from_mapping
    return read(known, "config.yaml").to_dict()


def _settings(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the options of a configuration that decide its run's numbers."""
    found = {name: value for options in config.values() for name, value in options.items() if name not in _OWN}
    if found.get("weights") is not None:  # the baseline's, wherever the study's folder was moved to
        found["weights"] = "/".join(Path(found["weights"]).parts[-3:])
    if found.get("teacher") is not None:  # a run writes the absolute path
        teacher = Path(found["teacher"]).absolute()
        found["teacher"] = "/".join(teacher.parts[-3:]) if teacher.parts[-4:-3] == (TRAININGS,) else str(teacher)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


@dataclass(frozen=True, kw_only=True)
class _Request:
    """A training before it has a model, a width and a seed."""

    options: Mapping[str, Any]
    """Options of its quantization."""
    others: Mapping[str, Any]
    """Further options and ``key=value``."""
    recipe: str | None
    weights: str | None
    variant: Variant | None = None

    @classmethod
    def of_grid(cls, grid: Grid, method: Mapping[str, Any]) -> _Request:
        """Returns the request for a method, or for the baselines: by the grid's own recipe."""
        return cls(options=method, others=grid.overrides, recipe=grid.recipe, weights=grid.weights)

    @classmethod
    def of_variant(cls, grid: Grid, variant: Variant) -> _Request:
        """Returns the request for a variant."""
        given = {**grid.variant_options, **variant.options}
        recipe, weights = given.pop("hyp", None), given.pop("weights", BASELINE)
        options = {name: given.pop(name) for name in [*given] if name in _QUANT_OPTIONS}
        return cls(options=options, others=given, recipe=recipe, weights=weights, variant=variant)

    def label(self, spec: QuantSpec) -> str:
        """Returns the part of the run's name between model and seed."""
        if self.variant is None:
            more = {name: self.options[name] for name in _NAMED if name in self.options}
            return "-".join([spec.label, *(f"{name}-{value}".lower() for name, value in more.items())])
        width = "" if spec.is_float else f"-{spec.label.rpartition('-')[2]}"
        return f"{self.variant.label}{width}"


def _trainings(grid: Grid, folder: Path) -> list[Training]:
    plain = {
        (model, seed): _training(grid, folder, model, seed, FLOAT_BITS, _Request.of_grid(grid, {}), None)
        for seed in grid.seeds
        for model in grid.model
    }
    found = []
    for number, method in enumerate(grid.methods or ({},)):
        request, widths = _Request.of_grid(grid, method), grid.bits if grid.methods else ()
        for (model, seed), baseline in plain.items():
            quantized = [_training(grid, folder, model, seed, bits, request, baseline) for bits in widths]
            found += [*([baseline] if number == 0 else []), *quantized]
    for variant in grid.variants:
        request = _Request.of_variant(grid, variant)
        for (model, seed), baseline in plain.items():
            if variant.seeds is None or seed in variant.seeds:
                widths = grid.bits if variant.bits is None else tuple(variant.bits)
                found += [_training(grid, folder, model, seed, bits, request, baseline) for bits in widths]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"Two trainings are called '{name}'. Give methods, variants or models that differ in their names."
            )
    return found


def _training(
    grid: Grid, folder: Path, model: str, seed: int, bits: int, request: _Request, baseline: Training | None
) -> Training:
    """Returns one training; ``baseline`` is None for the fp32 baseline itself."""
    classify = grid.track == "classify"
    quant = {**request.options, "bits": bits}
    label = request.label(QuantSpec.from_options(quant))
    said = {name: _UNSET[name] if value is None and name in _UNSET else value for name, value in request.others.items()}
    others = {"weights": request.weights, **said}
    from_baseline = [name for name in _CHECKPOINTS if others.get(name) == BASELINE]
    others |= dict.fromkeys(from_baseline, None if baseline is None else str(baseline.checkpoint))
    others = {name: value for name, value in others.items() if value is not None or name not in _CHECKPOINTS}
    own = {name: value for name, value in others.items() if name not in _options_of(grid.track)}
    head = "-anchor" if grid.overrides.get("head") == "anchor" else ""
    name = f"{Path(model.rpartition(':')[2]).stem}{head}-{label}-s{seed}"
    options = {
        "model": model, "data": grid.data, **({"data_dir": grid.data_dir} if grid.data_dir is not None else {}),
        **quant, "seed": seed, **{key: value for key, value in others.items() if key not in own},
    }  # fmt: skip
    config, epochs = _resolved(grid, options, own, request, baseline)
    return Training(
        name=f"train/{name}", folder=folder / name, classify=classify, model=model, overrides=own,
        options=options | {"hyp": request.recipe}, config=config, epochs=epochs, label=label, seed=seed,
        variant=None if request.variant is None else request.variant.name,
        needs=(baseline,) if baseline is not None and from_baseline else (),
    )  # fmt: skip


def _options_of(track: str) -> list[str]:
    """Returns the names of a training's options that are not ``key=value``, apart from its quantization's."""
    if track == "classify":
        return ["weights"]
    flat = [key for section in ("run", "oscillation") for key in detection.LAYOUT[section].keys]
    return [*flat, *detection.HEAD_OPTIONS, *detection.DISTILL_OPTIONS]


def _resolved(
    grid: Grid, options: Mapping[str, Any], own: Mapping[str, Any], request: _Request, baseline: Training | None
) -> tuple[dict[str, Any], int]:
    """Returns the whole configuration of a training, as its command resolves it, and its epochs."""
    said = {name: value for name, value in options.items() if is_said(name, value)}
    inherited = _inherited(grid.track, said, own, request, baseline)
    default = RECIPES[grid.track] if inherited else _default_recipe(grid, fine_tuned="weights" in said)
    recipe = request.recipe or default
    path = None if recipe is None else recipe_path(recipe)
    if grid.track == "classify":
        classifier = classification.resolve(path, said, own, inherited)[0]
        config, epochs = classifier.to_dict(), classifier.train.epochs
    else:
        detector = detection.resolve(path, said, own, inherited)
        config, epochs = detector.to_dict(), int(detector.train.get("epochs", 100))  # Ultralytics' default
    flat = {name: value for section in config.values() for name, value in section.items()}
    for name, value in options.items():
        if isinstance(value, (list, Mapping)):
            raise ConfigError(f"{name}={value!r}: write it as on the command line, as a text.")
        if name not in said and flat.get(name, value) != value:
            raise ConfigError(
                f"{name}: the recipe says {flat[name]}, and no option of the command says {value}. Use another recipe."
            )
    return config, epochs


def _default_recipe(grid: Grid, *, fine_tuned: bool) -> str | None:
    if grid.track == "classify":
        return classification.default_recipe(grid.data)
    return detection.default_recipe(grid.data, fine_tuned=fine_tuned)


def _inherited(
    track: str, options: Mapping[str, Any], own: Mapping[str, Any], request: _Request, baseline: Training | None
) -> dict[str, dict[str, Any]] | None:
    """Returns the settings that a training takes from its baseline, which need not be trained yet; None: none."""
    if baseline is None or request.weights != BASELINE:
        return None
    if track == "classify":
        is_float = classification.resolve(None, options, own)[0].quant.is_float
        takes = inherits(track, request.recipe, is_float=is_float)
        return classifier_sections(baseline.config, options, own) if takes else None
    is_float = detection.resolve(None, options, own).quant.is_float
    trained = TrainedSettings.of(detection.from_mapping(baseline.config, baseline.name))
    if not inherits(track, request.recipe, is_float=is_float) or not trained.fit(options, own):
        return None
    if (batch := trained.arguments["batch"]) < 1:
        raise ConfigError(
            f"batch={batch} is chosen by the machine, so no training can be planned on it. Give a number."
        )
    return trained.sections()


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
    quantized = [one for one in trainings if not one.is_float]
    bits = dict.fromkeys([*study.grid.bits, *(one.config["quant"]["weight_bits"] for one in quantized)])
    methods = tuple(dict.fromkeys(one.config["quant"]["method"] for one in quantized))
    for one in trainings:
        baseline = baselines.get((one.model, one.seed))
        widths, own = (*bits, FLOAT_BITS), methods  # the others are compared with the float weights
        if baseline is not None and one.is_float:
            continue
        if baseline is not None:
            widths, own = (one.config["quant"]["weight_bits"],), (one.config["quant"]["method"],)
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
    if study.analyses.accuracy:
        reference = study.analyses.reference
        words = [] if reference is None else ["--reference", reference]
        measured("accuracy", "accuracy.txt", "table", table, "--kind", "accuracy", *words)
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
