"""Times one quantization-aware training step, forward and backward, against fp32 and other libraries.

python benchmarks/qat_step.py --check
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from models import TASKS, Task, step
from peers import PEERS
from report import exceeded, is_installed, load_average, markdown, settings
from torch import Tensor, nn

MEMORY_STEPS = 5
"""Steps whose peaks are taken the median of, after two to warm up."""


def main() -> int:
    args = parse_args()
    if args.memory_of:
        set_threads(args)
        print(json.dumps(measure_memory(TASKS[args.model[0]], args.memory_of, args.compile)))
        return 0
    report: dict[str, Any] = {"settings": settings(args), "models": {}}
    for name in args.model:
        report["models"][name] = run_model(name, args)
    report["settings"]["load average at the end"] = load_average()
    passed_limits = exceeded(report)
    print(markdown(report, passed_limits))
    if args.json:
        args.json.write_text(json.dumps({**report, "limit_exceeded": passed_limits}, indent=1) + "\n")
    return 1 if args.check and passed_limits else 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--contenders", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=21, help="timed rounds, every peer once in each")
    parser.add_argument("--warmup", type=int, default=3, help="rounds before them")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--compile", action="store_true", help="torch.compile every peer (minutes each)")
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write everything, each round's times included")
    parser.add_argument("--check", action="store_true", help="exit 1 where ours exceeds a limit")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # what a subprocess measures
    args = parser.parse_args()
    for name in args.model if args.check else ():
        if not {"fp32", TASKS[name].subject} <= set(args.contenders):
            parser.error(f"--check compares '{TASKS[name].subject}' with 'fp32': both must be among --contenders.")
    if args.rounds < 1 or args.warmup < 1 or args.threads < 1:
        parser.error("--rounds, --warmup and --threads take 1 or more.")
    return args


def set_threads(args: argparse.Namespace) -> None:
    """Sets the number of threads, after Ultralytics has set OMP_NUM_THREADS=1 at its import."""
    if {"yolov5n", "heads"} & set(args.model):
        import ultralytics  # noqa: F401
    torch.set_num_threads(args.threads)


# ---------------------------------------------------------------------------------------------- building


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what libraries print out of the report."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def build(task: Task, name: str, compiled: bool) -> nn.Module:
    """Returns the peer's network, calibrated, after its first step."""
    with quiet():
        model = PEERS[name].build(task)
        if compiled:
            model.compile()
        step(task, model, task.batch())
    return model


# ---------------------------------------------------------------------------------------------- time


def run_model(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Returns times and memory of every peer that is installed and works, and why the others are missing."""
    task = TASKS[name]
    set_threads(args)
    models: dict[str, nn.Module] = {}
    missing: dict[str, str] = {}
    for peer in peers_of(task, args.contenders):
        package = PEERS[peer].package
        if not is_installed(package):
            missing[peer] = f"{package} is not installed"
            continue
        progress(f"{name}: building {peer}")
        try:
            models[peer] = build(task, peer, args.compile)
        except Exception as error:  # a rival that this torch or this network breaks is a result, not a crash
            missing[peer] = f"failed with {type(error).__name__}: {str(error).splitlines()[0][:200]}"
    set_threads(args)  # a library's import may have changed it
    seconds, losses = interleave(task, models, args)
    rows = {c: {"seconds": seconds[c], "loss": losses[c]} for c in models}
    models.clear()
    if not args.no_memory:
        for peer, row in rows.items():
            progress(f"{name}: memory of {peer}")
            row.update(memory_in_subprocess(name, peer, args))
    about = {"title": task.title, "limit": task.limit, "subject": task.subject}
    return {**about, "contenders": rows, "missing": missing}


def peers_of(task: Task, asked: list[str]) -> list[str]:
    """Returns those that go with a task, in the order asked for."""
    special = {name for other in TASKS.values() for name in other.only} - {"fp32", "fp32 again"}
    return [name for name in asked if (name in task.only if task.only else name not in special)]


def interleave(
    task: Task, models: dict[str, nn.Module], args: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Returns each peer's seconds by round, and its loss; in every round the order moves on by one."""
    batch = task.batch()
    names = list(models)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, float] = {}
    for number in range(args.warmup + args.rounds):
        progress(f"round {number + 1} of {args.warmup + args.rounds}")
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:
            took, loss = timed_step(task, models[name], batch)
            losses[name] = float(loss)
            if number >= args.warmup:
                seconds[name].append(took)
    return seconds, losses


def timed_step(task: Task, model: nn.Module, batch: Tensor) -> tuple[float, Tensor]:
    model.zero_grad(set_to_none=True)
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        loss = step(task, model, batch)
        return time.perf_counter() - start, loss
    finally:
        gc.enable()


# ---------------------------------------------------------------------------------------------- memory


def memory_in_subprocess(model: str, peer: str, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--model", model, "--memory-of", peer, "--threads", str(args.threads)]
    if args.compile:
        command.append("--compile")
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return measured


def measure_memory(task: Task, name: str, compiled: bool) -> dict[str, float]:
    """Returns the peak of a step above what the process holds before it, and the bytes kept for the backward."""
    model, batch = build(task, name, compiled), task.batch()
    peaks = []
    for _ in range(2 + MEMORY_STEPS):
        model.zero_grad(set_to_none=True)
        peaks.append(peak_above(lambda: step(task, model, batch)))
    model.zero_grad(set_to_none=True)
    return {"peak_bytes": statistics.median(peaks[2:]), "saved_bytes": saved_bytes(task, model, batch)}


def peak_above(run: Callable[[], object]) -> float:
    """Returns how far the resident set rises above its present size during ``run``."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = status_bytes("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    except OSError:
        run()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    run()
    return status_bytes("VmHWM") - before


def status_bytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def saved_bytes(task: Task, model: nn.Module, batch: Tensor) -> float:
    """Returns the size of the storages autograd keeps, each once, without parameters, buffers and the input."""
    present = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), batch)}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        task.loss(model, batch)
    return float(sum(size for pointer, size in sizes.items() if pointer not in present))


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
