"""Transfer between anchor heads of different classes: box and objectness rows, and class rows of equal names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from qreg_yolo.detect.anchor_head import BOX_ROWS, N_ANCHORS


@dataclass(frozen=True)
class HeadRows:
    """Which class rows of a source go where."""

    names: tuple[str, ...]
    """The classes here."""
    n_source: int
    """The number of classes there."""
    rows: tuple[int | None, ...]
    """For each class here, the class there; None: it stays untrained."""

    @classmethod
    def by_name(cls, names: Sequence[str], source_names: Sequence[str]) -> HeadRows:
        """Returns the rows of equal names, upper case and spaces aside.

        Where no name is equal and both have as many classes, all rows keep their places.
        """
        places = {_plain(name): place for place, name in reversed(list(enumerate(source_names)))}
        rows: list[int | None] = [None] * len(names)
        if not _are_numbers(names) and not _are_numbers(source_names):
            rows = [places.get(_plain(name)) for name in names]
        if len(names) == len(source_names) and all(row is None for row in rows):
            rows = list(range(len(names)))
        return cls(tuple(map(str, names)), len(source_names), tuple(rows))

    @property
    def is_identity(self) -> bool:
        """Whether everything stays where it is."""
        return self.rows == tuple(range(self.n_source))

    def take(self, source: Tensor, fresh: Tensor) -> Tensor:
        """Returns the rows of ``source``, those of ``fresh`` where it has none.

        Args:
            source: Weight or bias of an output convolution, `(3 * (5 + n_source), ...)`.
            fresh: The same of the untrained head here.
        """
        old, new = (tensor.view(N_ANCHORS, -1, *tensor.shape[1:]) for tensor in (source, fresh.clone()))
        new[:, :BOX_ROWS] = old[:, :BOX_ROWS]
        for here, there in enumerate(self.rows):
            if there is not None:
                new[:, BOX_ROWS + here] = old[:, BOX_ROWS + there]
        return new.flatten(0, 1)

    def take_all(self, source: Mapping[str, Tensor], fresh: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Returns the output convolutions of the head under ``prefix`` that both have, with `take`."""
        found = {}
        for name, tensor in fresh.items():
            other = source.get(name)
            if name.startswith(f"{prefix}.m.") and other is not None and other.shape[1:] == tensor.shape[1:]:
                found[name] = self.take(other.to(tensor), tensor)
        return found

    def summary(self) -> str:
        """Returns one line on what was taken."""
        left = [name for name, row in zip(self.names, self.rows, strict=True) if row is None]
        return (
            f"Anchor head of {self.n_source} classes: box and objectness rows taken, class rows of "
            f"{len(self.names) - len(left)} of {len(self.names)} classes by name"
            + (f"; untrained: {', '.join(left)}" if left else "")
        )


def _plain(name: object) -> str:
    return "".join(str(name).lower().split())


def _are_numbers(names: Sequence[str]) -> bool:
    """Returns whether these are the numbers that stand in for names."""
    return all(str(name) == str(place) for place, name in enumerate(names))
