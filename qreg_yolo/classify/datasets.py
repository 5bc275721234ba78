"""Datasets by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qreg_yolo.classify.checkpoint import Description
from qreg_yolo.classify.data import ImageSet
from qreg_yolo.config.classification import DATA, ClassifyOptions
from qreg_yolo.datasets.cifar import OFFICIAL, read_cifar
from qreg_yolo.datasets.classes import ClassesError, rows_by_name
from qreg_yolo.datasets.demo.patterns import demo_set
from qreg_yolo.errors import FileAccessError, did_you_mean
from qreg_yolo.io.strict_yaml import ConfigError


def splits(data: str) -> tuple[str, str]:
    """Returns the names of the training and the validation split of a dataset."""
    return ("train", "val") if data == "demo" else ("train", "test")


def load_split(data: str, split: str, data_dir: str | None, *, verify: bool, count: int | None = None) -> ImageSet:
    """Returns one split of a dataset.

    Args:
        data: `demo`, `cifar10` or `cifar100`.
        split: One of `splits`.
        data_dir: Where CIFAR's folder is; of no use for `demo`.
        verify: Whether the files have to be the official ones.
        count: Images of a class-balanced subset; None: all.

    Raises:
        ConfigError: An unknown dataset or split, or CIFAR without a folder.
        FileNotFoundError: The folder or a file is missing.
        DataError: A file that cannot be used.
    """
    for name, value, known in (("data", data, DATA), ("split", split, splits(data))):
        if value not in known:
            raise ConfigError(f"{name}={value!r} is not one of: {', '.join(known)}.{did_you_mean(value, known)}")
    if data == "demo":
        found = demo_set(split)
    elif data_dir is None:
        raise ConfigError(f"--data {data} needs --data-dir DIR, the folder that holds its official files.")
    else:
        found = read_cifar(data, Path(data_dir), split, verify=verify)
    return ImageSet.of(found if count is None else found.balanced(count))


def load_training(run: ClassifyOptions) -> tuple[ImageSet, ImageSet]:
    """Loads the training and validation sets of a run; errors as `load_split`."""
    train, held_out = splits(run.data)
    return (
        load_split(run.data, train, run.data_dir, verify=run.verify, count=run.train_images),
        load_split(run.data, held_out, run.data_dir, verify=run.verify),
    )


def load_measured(
    trained: Mapping[str, Any], data: str | None, data_dir: str | None, *, verify: bool, split: str | None = None
) -> ImageSet:
    """Loads the evaluation set; unset options default to those of the training run.

    Args:
        trained: Section ``run`` of its training.
        data: The dataset asked for.
        data_dir: The folder asked for.
        verify: Whether the files have to be the official ones; those of the training only if they had to be there.
        split: The split asked for; None: the one that it was validated on.

    Raises:
        ConfigError, FileNotFoundError, DataError: As `load_split`.
    """
    name = data or str(trained["data"])
    verify = verify and (data is not None or bool(trained["verify"]))
    return load_split(name, split or splits(name)[1], data_dir or trained["data_dir"], verify=verify)


def class_rows(weights: Path, description: Description, images: ImageSet) -> tuple[int, ...] | None:
    """Returns the checkpoint's class of each class of a dataset, by name; None where the order agrees too.

    Raises:
        ConfigError: They are not the same names.
    """
    try:
        return rows_by_name(images.classes, description.classes)
    except ClassesError as error:
        raise ConfigError(
            f"'{weights}' tells the {len(description.classes)} classes of {description.config['run']['data']} apart, "
            f"{images.name} has {len(images.classes)}, and {error}. Give its own dataset."
        ) from error


def download_cifar(name: str, data_dir: Path) -> None:
    """Fetches and unpacks the official archive where it is missing (torchvision; over the network).

    Raises:
        OSError: The server or the folder cannot be reached, or it holds another archive.
    """
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    files, source = OFFICIAL[name], CIFAR10 if name == "cifar10" else CIFAR100
    folder = data_dir / files.folder
    sums = [*files.train.items(), *files.test.items(), files.meta]
    if all(check_integrity(str(folder / file), md5) for file, md5 in sums):
        return
    try:  # not by the dataset's own class, which would unpickle what it has fetched
        download_and_extract_archive(source.url, str(data_dir), filename=source.filename, md5=source.tgz_md5)
    except RuntimeError as error:  # torchvision's word for a file that is not the official one
        raise FileAccessError(f"The archive of {name} could not be fetched: {error}") from error
