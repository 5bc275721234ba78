"""The report of a benchmark run: what the numbers depend on, the table, and the limits."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from peers import PEERS

from qreg_yolo.io.records import provenance

MEMORY_LIMIT = 1.55
"""What a task's subject may take of memory, times fp32."""
ALLOCATOR_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_", "KMP_", "MKL_", "DNNL_", "ONEDNN_", "ATEN_")
MIB = 2**20


def is_installed(package: str | None) -> bool:
    with contextlib.suppress(PackageNotFoundError):
        return package is None or bool(version(package))
    return False


def settings(args: argparse.Namespace) -> dict[str, str]:
    """Returns what the numbers depend on."""
    packages = [c.package for c in PEERS.values() if c.package and is_installed(c.package)]
    environment = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(ALLOCATOR_VARIABLES)]
    origin = provenance()
    return {
        "machine": f"{cpu_model()}, {os.cpu_count()} logical cores, {args.threads} threads, {platform.platform()}",
        "load average at the start": load_average(),
        "allocator": f"{' '.join(platform.libc_ver())}; {' '.join(environment) or 'no variable set'}",
        "torch": f"{torch.__version__}, {'torch.compile' if args.compile else 'eager'}",
        "peers": ", ".join(f"{p} {version(p)}" for p in packages) or "none installed",
        "rounds": f"{args.rounds} after {args.warmup} to warm up",
        "commit": origin["commit"],
        "versions": origin["versions"],
        "time": origin["time"],
        "command": origin["command"],
    }


def cpu_model() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def load_average() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def time_ratio(rows: dict[str, Any], name: str) -> tuple[float, float, float] | None:
    """Returns the lower quartile, the median and the upper quartile of the per-round ratios to fp32."""
    if "fp32" not in rows:
        return None
    ratios = [own / base for own, base in zip(rows[name]["seconds"], rows["fp32"]["seconds"], strict=True)]
    if len(ratios) == 1:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return low, middle, high


def memory_ratio(rows: dict[str, Any], name: str, key: str) -> float | None:
    if "fp32" not in rows or key not in rows[name]:
        return None
    return float(rows[name][key] / rows["fp32"][key])


def exceeded(report: dict[str, Any]) -> list[str]:
    """Returns one line per limit that is exceeded (eager mode's limits)."""
    lines = []
    for model, result in report["models"].items():
        rows, subject = result["contenders"], result["subject"]
        lines += [
            f"{model}: {name} {result['missing'][name]}" for name in ("fp32", subject) if name in result["missing"]
        ]
        if not {"fp32", subject} <= set(rows):
            continue
        ratio, memory = time_ratio(rows, subject), memory_ratio(rows, subject, "peak_bytes")
        for what, value, limit in (("time", ratio and ratio[1], result["limit"]), ("memory", memory, MEMORY_LIMIT)):
            if value and value > limit:
                lines.append(f"{model}: {subject} takes {value:.2f}x the {what} of fp32, the limit is {limit:.2f}x")
    return lines


def markdown(report: dict[str, Any], passed_limits: list[str]) -> str:
    lines = ["# Time and memory of a training step", ""]
    lines += [f"- {key}: {value}" for key, value in report["settings"].items()]
    for result in report["models"].values():
        rows = result["contenders"]
        lines += ["", f"## {result['title']}", ""]
        lines += ["| peer | ms | x fp32 (quartiles) | peak MiB | x fp32 | saved MiB | x fp32 | loss |"]
        lines += ["|---|--:|--:|--:|--:|--:|--:|--:|"]
        lines += [table_row(rows, name) for name in rows]
        lines += [f"| {name} | {why} | | | | | | |" for name, why in result["missing"].items()]
        limits = f"time {result['limit']:.2f}x, peak memory {MEMORY_LIMIT:.2f}x fp32"
        lines += ["", f"Limits of {result['subject']}: {limits}."]
    names = {name: None for result in report["models"].values() for name in result["contenders"]}
    lines += ["", "What each does:", "", *(f"- {name}: {PEERS[name].note}." for name in names), ""]
    measured = all("peak_bytes" in r for m in report["models"].values() for r in m["contenders"].values())
    within = "Within the limits." if measured else "Within the limits of time; memory was not measured."
    if not all({"fp32", m["subject"]} <= set(m["contenders"]) for m in report["models"].values()):
        within = "The limits were not looked at: they compare with fp32."
    lines += [f"limit exceeded: {line}" for line in passed_limits] or [within]
    return "\n".join(lines)


def table_row(rows: dict[str, Any], name: str) -> str:
    row = rows[name]
    cells = [name, f"{statistics.median(row['seconds']) * 1e3:.1f}"]
    ratio = time_ratio(rows, name)
    cells.append(f"**{ratio[1]:.2f}** ({ratio[0]:.2f}-{ratio[2]:.2f})" if ratio else "")
    for key in ("peak_bytes", "saved_bytes"):
        share = memory_ratio(rows, name, key)
        cells += [f"{row[key] / MIB:.0f}" if key in row else "", f"{share:.2f}" if share else ""]
    cells.append(f"{row['loss']:.4f}")
    return f"| {' | '.join(cells)} |"
