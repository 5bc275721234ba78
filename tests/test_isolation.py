"""The guards of conftest.py can fail."""

from __future__ import annotations

import os
import socket
import urllib.request
from contextlib import closing

import pytest


def test_connections_that_leave_the_machine_are_refused_and_listed(network_attempts: list[str]) -> None:
    with pytest.raises(OSError, match="offline"):
        urllib.request.urlopen("http://example.com", timeout=5)
    with pytest.raises(OSError, match="offline"):
        socket.create_connection(("192.0.2.1", 80), timeout=5)
    with closing(socket.socket()) as plain, pytest.raises(OSError, match="offline"):
        plain.connect(("192.0.2.2", 80))
    assert network_attempts == ["example.com", "192.0.2.1", "192.0.2.2"]


def test_connections_to_this_machine_work(network_attempts: list[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    assert network_attempts == []


def test_ultralytics_is_offline_and_writes_to_a_temporary_folder(network_attempts: list[str]) -> None:
    from ultralytics import YOLO
    from ultralytics.utils import AUTOINSTALL, ONLINE, USER_CONFIG_DIR

    assert not ONLINE
    assert not AUTOINSTALL
    assert USER_CONFIG_DIR.is_relative_to(os.environ["YOLO_CONFIG_DIR"])
    YOLO("yolov5n.yaml")
    assert network_attempts == []
