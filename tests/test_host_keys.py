from __future__ import annotations

from typing import Any

import pytest

from qreg_yolo import host_keys
from qreg_yolo.config import ConfigError, RunConfig


def test_the_hosts_own_defaults_are_legal_and_read_right() -> None:
    import ultralytics.cfg

    assert dict(host_keys.host_defaults()) == ultralytics.cfg.DEFAULT_CFG_DICT
    host_keys.check_train({key: host_keys.host_defaults()[key] for key in host_keys.legal_keys()}, "test")


def test_types_agree_with_the_hosts_tables() -> None:
    """Whatever the host's check refuses by type we refuse too, for every key whose default tells the type."""
    from ultralytics.cfg import DEFAULT_CFG_DICT, check_cfg

    disagreements = []
    for key in host_keys.legal_keys():
        if DEFAULT_CFG_DICT[key] is None:
            continue
        for value in (1, 0.5, True, "x", None, [0.1, 0.2]):
            try:
                check_cfg({key: value})
            except TypeError:
                try:
                    host_keys.check_train({key: value}, "test")
                except ConfigError:
                    continue
                disagreements.append((key, value))
            except ValueError:
                continue
    assert not disagreements


@pytest.mark.parametrize(("key", "value"), [
    ("batch", 0.7), ("imgsz", [640, 480]), ("cache", "ram"), ("amp", "bf16"), ("compile", "default"),
    ("fraction", [0.5, 1.0]), ("scale", [0.5, 2.0]), ("lr0", 1), ("auto_augment", None),
    ("device", "0,1"), ("time", 0.5),
])  # fmt: skip
def test_values_of_more_than_the_defaults_type(key: str, value: Any) -> None:
    from ultralytics.cfg import check_cfg

    check_cfg({key: value})
    assert RunConfig(train={key: value}).train == {key: value}
