"""Isolation: nothing here touches the user's folders or the network."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests import process_helpers

# Before anything imports ultralytics: it reads these once, at import.
_FOLDER = Path(tempfile.mkdtemp(prefix="qreg-yolo-tests-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
for _name in ("config", "cache"):
    (_FOLDER / _name).mkdir()
os.environ["YOLO_CONFIG_DIR"] = str(_FOLDER / "config")
os.environ["QREG_YOLO_CACHE"] = str(_FOLDER / "cache")
os.environ["YOLO_OFFLINE"] = "1"
os.environ["YOLO_AUTOINSTALL"] = "0"
os.environ["MPLBACKEND"] = "Agg"
if "WITHOUT_ULTRALYTICS" in os.environ:  # `make test-fast`: an import that its selection overlooks fails
    sys.modules["ultralytics"] = None  # type: ignore[assignment]
    collect_ignore = ["cli", "detect", "documented", "config/test_detection.py", "config/test_ultralytics_keys.py"]
    collect_ignore_glob = ["test_*.py"]  # of this folder: on the whole package
    # Killed runs, several processes, traced networks: a fifth of the time for 2 % of the tests. `make test` has them.
    collect_ignore += ["classify/test_processes.py", "classify/test_resume.py", "quant/test_transforms.py"]

process_helpers.preload("qreg_yolo.cli", "qreg_yolo.classify.runs")

_LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


@pytest.fixture(autouse=True)
def network_attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuses every connection and name look-up that leaves this machine, and lists them: assert it is empty."""
    attempts: list[str] = []

    def guarded(original: Any, host_of: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            host = host_of(args)
            if isinstance(host, str) and not host.startswith(_LOOPBACK):
                attempts.append(host)
                raise ConnectionRefusedError(f"The tests run offline: a connection to {host} was refused.")
            return original(*args, **kwargs)

        return call

    def of_address(args: tuple[Any, ...]) -> Any:
        address = args[1]  # (self, address); a path for Unix sockets
        return address[0] if isinstance(address, tuple) else None

    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect, of_address))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex, of_address))
    monkeypatch.setattr(socket, "getaddrinfo", guarded(socket.getaddrinfo, lambda args: args[0] if args else None))
    return attempts
