"""The data sets by name."""

from __future__ import annotations

from pathlib import Path

from qreg_yolo.classify.cifar import read_cifar
from qreg_yolo.classify.data import ImageSet
from qreg_yolo.classify.demo_set import demo_set
from qreg_yolo.classify.options import ClassifyOptions
from qreg_yolo.strict_yaml import ConfigError
from qreg_yolo.suggest import did_you_mean


def splits(data: str) -> tuple[str, str]:
    """Returns the names of a set's two splits: what is trained on, and what is validated on."""
    return ("train", "val") if data == "demo" else ("train", "test")


def load_split(data: str, split: str, data_dir: str | None, *, verify: bool) -> ImageSet:
    """Returns one split of a data set.

    Args:
        data: `demo`, `cifar10` or `cifar100`.
        split: One of `splits`.
        data_dir: Where CIFAR's folder is; of no use for `demo`.
        verify: Whether the files have to be the official ones.

    Raises:
        ConfigError: No such split, or CIFAR without a folder.
        FileNotFoundError: The folder or a file is missing.
        DataError: A file that cannot be used.
    """
    if split not in splits(data):
        hint = did_you_mean(split, splits(data))
        raise ConfigError(f"split={split!r} is not one of: {', '.join(splits(data))}.{hint}")
    if data == "demo":
        return demo_set(split)
    if data_dir is None:
        raise ConfigError(f"--data {data} needs --data-dir DIR, the folder that holds its official files.")
    return read_cifar(data, Path(data_dir), split, verify=verify)


def load_training(run: ClassifyOptions) -> tuple[ImageSet, ImageSet]:
    """Returns what a run is trained and validated on; errors as `load_split`."""
    train, held_out = splits(run.data)
    return (
        load_split(run.data, train, run.data_dir, verify=run.verify),
        load_split(run.data, held_out, run.data_dir, verify=run.verify),
    )
