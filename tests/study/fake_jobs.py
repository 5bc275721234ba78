"""Jobs that write a file each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qreg_yolo.study.engines import InProcessEngine
from qreg_yolo.study.jobs import Job


@dataclass(frozen=True, kw_only=True)
class FileJob(Job):
    """Done when its file exists."""

    path: Path
    kind = "file"

    def is_done(self) -> bool:
        return self.path.is_file()

    def command(self) -> list[str]:
        return ["write", str(self.path)]


def jobs_in(folder: Path, needs: dict[str, str], after: dict[str, str] | None = None) -> list[FileJob]:
    """Returns jobs by name, each with the names of those that it needs, and of those that it comes after."""
    made: dict[str, FileJob] = {}
    for name, words in needs.items():
        later = (after or {}).get(name, "").split()
        made[name] = FileJob(
            name=name,
            path=folder / name,
            needs=tuple(made[one] for one in words.split()),
            after=tuple(made[one] for one in later),
        )
    return list(made.values())


def writer(bad: Sequence[str] = (), seen: list[str] | None = None) -> InProcessEngine:
    """Returns an engine whose jobs write their file; those named in ``bad`` fail."""

    def run(arguments: Sequence[str]) -> int:
        path = Path(arguments[1])
        if seen is not None:
            seen.append(path.name)
        if path.name in bad:
            print("first line\nerror: it is broken")
            return 3
        path.write_text("x")
        return 0

    return InProcessEngine(run)


class Events:
    """A display that keeps what it was told."""

    def __init__(self, on_update: Callable[[], None] = lambda: None) -> None:
        self.texts: list[str] = []
        self._on_update = on_update

    def update(self, run: object) -> None:
        self._on_update()

    def event(self, run: object, text: str, *, routine: bool = False) -> None:
        self.texts.append(text)
