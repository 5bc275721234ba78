"""Head transfer between anchor heads of different classes: box and objectness rows, and class rows by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from qreg_yolo.detect.anchor_head import BOX_ROWS, N_ANCHORS


@dataclass(frozen=True)
class HeadRows:
    """Map of class rows from the head of a source to that of a target."""

    names: tuple[str, ...]
    """Classes of the target."""
    n_source: int
    """Number of classes of the source."""
    rows: tuple[int | None, ...]
    """Source class of each target class; None: it stays untrained."""

    @classmethod
    def by_name(cls, names: Sequence[str], source_names: Sequence[str]) -> HeadRows:
        """Returns the map by name, ignoring case and spaces; by number if no name is equal and the counts are."""
        places = {_plain(name): place for place, name in reversed(list(enumerate(source_names)))}
        rows: list[int | None] = [None] * len(names)
        if not _are_numbers(names) and not _are_numbers(source_names):
            rows = [places.get(_plain(name)) for name in names]
        if len(names) == len(source_names) and all(row is None for row in rows):
            rows = list(range(len(names)))
        return cls(tuple(map(str, names)), len(source_names), tuple(rows))

    @property
    def is_identity(self) -> bool:
        """Whether every row keeps its place."""
        return self.rows == tuple(range(self.n_source))

    def transfer(self, source: Tensor, fresh: Tensor) -> Tensor:
        """Returns ``fresh`` with the rows of ``source``: weight or bias of an output convolution, `(3 * (5 + n), ...)`.

        Args:
            source: Tensor of the source.
            fresh: Tensor of the untrained target.
        """
        old, new = (tensor.view(N_ANCHORS, -1, *tensor.shape[1:]) for tensor in (source, fresh.clone()))
        new[:, :BOX_ROWS] = old[:, :BOX_ROWS]
        for here, there in enumerate(self.rows):
            if there is not None:
                new[:, BOX_ROWS + here] = old[:, BOX_ROWS + there]
        return new.flatten(0, 1)

    def transfer_all(self, source: Mapping[str, Tensor], fresh: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
        """Returns the `transfer` of all output convolutions of the head that both states have."""
        found = {}
        for name, tensor in fresh.items():
            other = source.get(name)
            if name.startswith(f"{head}.m.") and other is not None and other.shape[1:] == tensor.shape[1:]:
                found[name] = self.transfer(other.to(tensor), tensor)
        return found

    def summary(self) -> str:
        """Returns one line on the transferred rows."""
        left = [name for name, row in zip(self.names, self.rows, strict=True) if row is None]
        return (
            f"Anchor head of {self.n_source} classes: box and objectness rows taken, class rows of "
            f"{len(self.names) - len(left)} of {len(self.names)} classes by name"
            + (f"; untrained: {', '.join(left)}" if left else "")
        )


def _plain(name: object) -> str:
    return "".join(str(name).lower().split())


def _are_numbers(names: Sequence[str]) -> bool:
    """Returns whether the names are just the class numbers."""
    return all(str(name) == str(place) for place, name in enumerate(names))
