"""Mutates recipes, data and model YAMLs, labels, images and checkpoints, and runs the command line on them.

    python -m tests.cli.fuzz --count 200 --seed 0

Whatever it is given, the program ends with 0, 1 or 2 and a message, shows no traceback, and changes no file that it did
not make. Every case can be repeated: its number and the seed decide it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qreg_yolo.io.files import sha256

VALUES = (
    "nan", "inf", "-1", "1e309", "0", "99999999999999999999", "''", "~", "true", "[1, [2]]", "{a: b}", "yes", "0x10",
    "!!python/name:os", "&a [*a]", "\x00", "\ufeff", "é" * 50, "../../etc/passwd", "1_000", "- x", "2001-01-01", "%",
    "@", "\t",
)  # fmt: skip
"""What a line's value becomes."""


@dataclass(frozen=True)
class Kit:
    """Sound files to start from."""

    data: Path
    """Data YAML; its folder has the images and labels."""
    hyp: Path
    """Recipe of one tiny epoch."""
    finished: Path
    """best.pt of a finished run."""
    stopped: Path
    """The folder of a run that was stopped after its first epoch."""


@dataclass(frozen=True)
class Case:
    """What was tried and what happened."""

    number: int
    kind: str
    code: int
    fault: str | None
    """What must not happen and did."""


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Returns ``content`` cut, or with bytes flipped, taken out, repeated or put in."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 20))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + rng.choice((1, 8, 200))]
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.choice((1, 8, 200)))
        elif kind == 3:
            data[at:at] = data[at : at + 64]
        else:
            del data[max(at, 1) :]
    return bytes(data)


def mutate_text(text: str, rng: random.Random) -> bytes:
    """Returns ``text`` with lines dropped, repeated, swapped, indented or given other values, or mutated as bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(text.encode(), rng)
    lines = text.splitlines() or [""]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        kind = rng.randrange(6)
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(at, lines[at])
        elif kind == 2:
            lines[at] = " " * rng.choice((1, 2, 7)) + lines[at]
        elif kind == 3 and ":" in lines[at]:
            lines[at] = f"{lines[at].split(':')[0]}: {rng.choice(VALUES)}"
        else:
            words = lines[at].split(" ")
            words[rng.randrange(len(words))] = rng.choice(VALUES)
            lines[at] = " ".join(words)
    return "\n".join(lines).encode()


def _spoil(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    text = path.suffix in (".yaml", ".txt", ".csv")
    path.write_bytes(mutate_text(content.decode(), rng) if text else mutate_bytes(content, rng))


def _recipe(folder: Path, kit: Kit, rng: random.Random) -> list[object]:
    recipe = folder / "recipe.yaml"
    shutil.copy(kit.hyp, recipe)
    _spoil(recipe, rng)
    return ["train", "--hyp", recipe, "--data", kit.data, "epochs=1", "imgsz=32", "batch=4"]


def _own_data(folder: Path, kit: Kit) -> Path:
    copy = folder / "set"
    shutil.copytree(kit.data.parent, copy, ignore=shutil.ignore_patterns("*.cache"))
    yaml = copy / kit.data.name
    yaml.write_text(kit.data.read_text().replace(str(kit.data.parent), str(copy)))
    return yaml


def _in_data(pattern: str) -> Callable[[Path, Kit, random.Random], list[object]]:
    def make(folder: Path, kit: Kit, rng: random.Random) -> list[object]:
        yaml = _own_data(folder, kit)
        _spoil(rng.choice(sorted(yaml.parent.glob(pattern))), rng)
        return ["train", "--hyp", kit.hyp, "--data", yaml, "epochs=1", "imgsz=32", "batch=4"]

    return make


def _model(folder: Path, kit: Kit, rng: random.Random) -> list[object]:
    from ultralytics.utils import ROOT

    model = folder / "yolov5n.yaml"
    shutil.copy(ROOT / "cfg" / "models" / "v5" / "yolov5.yaml", model)
    _spoil(model, rng)
    return ["train", "--hyp", kit.hyp, "--data", kit.data, "--model", model, "epochs=1", "imgsz=32", "batch=4"]


def _checkpoint(folder: Path, kit: Kit, rng: random.Random) -> list[object]:
    weights = folder / "best.pt"
    shutil.copy(kit.finished, weights)
    _spoil(weights, rng)
    start = ["train", "--hyp", kit.hyp, "--data", kit.data, "--weights", weights]
    return rng.choice((["inspect", weights], ["val", weights, "--data", kit.data], start))


def _resumed(folder: Path, kit: Kit, rng: random.Random) -> list[object]:
    run = folder / "run"
    shutil.copytree(kit.stopped, run)
    _spoil(rng.choice((run / "weights" / "last.pt", run / "weights" / "last.resume.pt", run / "results.csv")), rng)
    return ["train", "--resume", run / "weights" / "last.pt"]


KINDS: dict[str, Callable[[Path, Kit, random.Random], list[object]]] = {
    "recipe": _recipe,
    "data YAML": _in_data("*.yaml"),
    "label": _in_data("labels/*/*.txt"),
    "image": _in_data("images/*/*.png"),
    "model YAML": _model,
    "checkpoint": _checkpoint,
    "resumed run": _resumed,
}


def _snapshot(*folders: Path) -> dict[Path, str]:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path: sha256(path) for path in files if path.suffix != ".cache"}


def run_case(number: int, seed: int, kit: Kit) -> Case:
    """Returns what happened in case ``number``."""
    from tests.cli.conftest import qreg_yolo

    rng = random.Random(f"{seed}-{number}")
    kind = list(KINDS)[number % len(KINDS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = KINDS[kind](folder, kit, rng)
        before = _snapshot(folder, kit.data.parent, kit.finished.parent, kit.stopped)
        more = ["--threads", 1] if command[0] != "inspect" else []
        project = [] if command[0] == "inspect" or "--resume" in command else [f"project={folder / 'out'}"]
        outcome = qreg_yolo(*command, *more, *project)
        own = {"results.csv", "last.pt", "best.pt", "last.resume.pt", "args.yaml"} if "--resume" in command else set()
        lost = [p for p, digest in before.items() if p.name not in own and (not p.exists() or sha256(p) != digest)]
    said = outcome.out + outcome.err
    fault = None
    if outcome.code not in (0, 1, 2):
        fault = f"exit code {outcome.code}"
    elif "Traceback" in said or "QREG_YOLO_DEBUG" in said:
        fault = said.strip().splitlines()[-2 if "QREG_YOLO_DEBUG" in said else -1][:300]
    elif outcome.code and "error: " not in outcome.err.lower():
        fault = "no message"
    elif lost:
        fault = f"changed or lost: {lost[0].name}"
    return Case(number, kind, outcome.code, fault)


def make_kit(folder: Path) -> Kit:
    """Returns sound files, made in ``folder`` in some seconds."""
    import yaml

    from qreg_yolo.datasets.demo.write import write_demo_data
    from qreg_yolo.detect import QuantYOLO
    from tests import TINY
    from tests.cli.conftest import RECIPE, qreg_yolo

    data = write_demo_data(folder / "set", n_train=8, n_val=4)
    hyp = folder / "tiny.yaml"
    hyp.write_text(yaml.safe_dump({"run": {"model": TINY}, "train": RECIPE}))
    outcome = qreg_yolo("train", "--hyp", hyp, "--data", data, "--threads", 1, f"project={folder}", "name=finished")
    assert outcome.code == 0, outcome
    model = QuantYOLO(TINY)

    def stop(trainer: object) -> None:
        raise KeyboardInterrupt

    model.add_callback("on_fit_epoch_end", stop)
    try:
        settings = {**RECIPE, "epochs": 2, "project": str(folder), "name": "stopped"}
        model.train(data=str(data), qreg={"bits": 4}, **settings)
    except KeyboardInterrupt:
        pass
    return Kit(data, hyp, folder / "finished" / "weights" / "best.pt", folder / "stopped")


def main() -> None:
    """Runs the cases and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one case, by its number")
    arguments = parser.parse_args()
    numbers = range(arguments.count) if arguments.only is None else [arguments.only]
    codes: dict[str, Counter[int]] = {kind: Counter() for kind in KINDS}
    faults = 0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        kit = make_kit(Path(name))
        for number in numbers:
            case = run_case(number, arguments.seed, kit)
            codes[case.kind][case.code] += 1
            if case.fault:
                faults += 1
                print(f"case {number} ({case.kind}): exit {case.code}: {case.fault}", flush=True)
    for kind, counts in codes.items():
        print(f"{kind}: " + ", ".join(f"exit {code}: {count}" for code, count in sorted(counts.items())))
    print(f"{len(numbers)} cases, {faults} faults, {time.perf_counter() - start:.0f} s, seed {arguments.seed}")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
