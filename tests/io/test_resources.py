from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qreg_yolo.config import classification, detection
from qreg_yolo.config.detection import HeadConfig
from qreg_yolo.io import resources
from tests import ROOT


def test_every_recipe_and_data_file_of_the_source_tree_is_found_by_name() -> None:
    assert resources.recipe_names() == sorted(p.stem for p in (ROOT / "hyp").glob("*.yaml"))
    assert resources.data_names() == sorted(p.stem for p in (ROOT / "data").glob("*.yaml"))
    assert {"voc_scratch", "voc_finetune"} <= set(resources.recipe_names())
    assert resources.recipe_path("voc_scratch").read_text() == (ROOT / "hyp" / "voc_scratch.yaml").read_text()
    assert resources.data_path("voc").read_text() == (ROOT / "data" / "voc.yaml").read_text()


@pytest.mark.parametrize("name", ["x.yaml", "x.yml"])
def test_a_path_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).touch()
    assert resources.recipe_path(str(tmp_path / name)) == tmp_path / name
    monkeypatch.chdir(tmp_path)
    assert resources.recipe_path(name) == Path(name)


def test_a_folder_named_like_a_recipe_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "voc_scratch").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resources.recipe_path("voc_scratch").is_file()


@pytest.mark.parametrize("name", ["voc_scrach", "nowhere/voc_scrach.yaml"])
def test_a_wrong_name_gets_the_nearest_and_all_names(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="Did you mean 'voc_scratch'") as error:
        resources.recipe_path(name)
    assert name in str(error.value)
    assert all(known in str(error.value) for known in resources.recipe_names())


@pytest.mark.parametrize("name", resources.recipe_names())
@pytest.mark.ultralytics
def test_every_recipe_is_valid_and_every_value_is_explained(name: str) -> None:
    path = resources.recipe_path(name)
    (classification if name.startswith("cifar") else detection).load(path)
    bare = [line for line in path.read_text().splitlines() if line.startswith(" ") and "#" not in line]
    assert not bare, "values without a comment that gives the unit"


@pytest.mark.ultralytics
def test_the_voc_recipes_hold_the_values_they_promise() -> None:
    scratch = detection.load(resources.recipe_path("voc_scratch"))
    expected = {"optimizer": "SGD", "lr0": 0.01, "epochs": 200, "weight_decay": 1e-4, "imgsz": 640, "batch": 16}
    assert expected.items() <= scratch.train.items()
    finetune = detection.load(resources.recipe_path("voc_finetune"))
    expected = {"optimizer": "SGD", "lr0": 0.00334, "lrf": 0.15135, "momentum": 0.74832, "epochs": 50, "imgsz": 512}
    assert expected.items() <= finetune.train.items()
    for recipe in (scratch, finetune):
        assert recipe.run.data == "voc"
        assert recipe.run.weights is None
        assert not {"box", "cls", "cls_pw", "dfl"} & recipe.train.keys()
        assert recipe.head.kind == "anchor_free"
    assert scratch.head == HeadConfig()
    assert finetune.head == HeadConfig(box=0.02, cls=0.21638, cls_pw=0.5, obj=0.51728, obj_pw=0.67198, anchor_t=3.3744)


@pytest.mark.ultralytics
def test_the_voc_description_is_ultralytics_own_without_its_download() -> None:
    from importlib.util import find_spec

    spec = find_spec("ultralytics")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    theirs = Path(spec.submodule_search_locations[0]) / "cfg" / "datasets" / "VOC.yaml"
    expected = yaml.safe_load(theirs.read_text(encoding="utf-8"))
    del expected["download"]
    assert yaml.safe_load(resources.data_path("voc").read_text()) == {**expected, "val": ["images/test2007"]}
