"""The process of a command: no network unless asked for, safe loading, the user's own code, progress bars."""

from __future__ import annotations

import ipaddress
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from qreg_yolo.errors import NetworkError

_WITH_ADDRESS = ("socket.connect", "socket.sendto", "socket.sendmsg")
_WITH_NAME = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_state = {"hooked": False, "refuse": False}


def prepare_ultralytics(*, online: bool, checkpoints: bool = True) -> None:
    """Prepares the settings of Ultralytics: no downloads, package installation or telemetry unless ``online``.

    With ``checkpoints``, Ultralytics also loads checkpoints through torch's restricted unpickler, which runs nothing.
    Some look-ups (a font, for example) ignore the settings; an audit hook refuses those too. Addresses of this
    machine stay reachable. Call it before ultralytics is imported.
    """
    if checkpoints:
        os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
    _state["refuse"] = not online
    if online:
        return
    os.environ.setdefault("YOLO_OFFLINE", "1")
    os.environ.setdefault("YOLO_AUTOINSTALL", "0")
    if not _state["hooked"]:  # a hook cannot be removed
        sys.addaudithook(_refuse_network)
        _state["hooked"] = True


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if not _state or not _state["refuse"]:  # None while the interpreter exits
        return
    if event not in _WITH_ADDRESS + _WITH_NAME:
        return
    target = arguments[1] if event in _WITH_ADDRESS else arguments[0]
    host = target[0] if isinstance(target, tuple) else target if event in _WITH_NAME else None
    if isinstance(host, (str, bytes)) and not _is_local(host):
        raise NetworkError(f"No network without --online (asked for: {host!r}).")


def _is_local(host: str | bytes) -> bool:
    name = host.decode(errors="replace") if isinstance(host, bytes) else host
    if name in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback or name == "0.0.0.0"
    except ValueError:
        return False


def datasets_dir() -> Path:
    """Returns Ultralytics' folder of datasets."""
    prepare_ultralytics(online=False)
    from qreg_yolo.detect import data_check

    return data_check.datasets_dir()


def find_own_code(model: str) -> None:
    """Lets ``package.module:factory`` be found from the working folder, as ``python -m`` does."""
    if ":" in model and (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)


@contextmanager
def bar(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """Yields the function that moves a progress bar on stderr."""
    steps = max(1, total // 100)
    with typer.progressbar(length=total, label=f"{label:12}", file=sys.stderr, update_min_steps=steps) as shown:
        yield shown.update
        shown.finish()
        shown.render_progress()  # 100%, after the last steps too


@contextmanager
def rate_bar(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """Yields the function that moves a progress bar on stderr, with the images per second and the time left."""
    start, seen = time.monotonic(), 0

    def advance(count: int) -> None:
        nonlocal seen
        seen += count
        if sys.stderr.isatty():  # a new label would be a new line elsewhere
            shown.label = f"{label}, {seen / max(time.monotonic() - start, 1e-9):.1f} images/s"
        shown.update(count)

    with typer.progressbar(length=total, label=label, file=sys.stderr, show_pos=True) as shown:
        yield advance
