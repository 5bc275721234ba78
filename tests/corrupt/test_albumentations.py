from __future__ import annotations

import numpy as np
import pytest

from tests.corrupt.synthetic_images import blocks, texture

A = pytest.importorskip("albumentations")

from qreg_yolo.corrupt import NAMES, CommonCorruption, FrostOverlays, corrupt, frost  # noqa: E402


@pytest.mark.parametrize("name", NAMES)
def test_every_corruption_works_in_a_pipeline(name):
    image = texture()
    result = A.Compose([CommonCorruption(name, 3)], seed=4)(image=image)["image"]
    assert (result.shape, result.dtype) == (image.shape, np.uint8)
    assert not np.array_equal(result, image)
    again = A.Compose([CommonCorruption(name, 3)], seed=4)(image=image)["image"]
    assert np.array_equal(result, again)


def test_boxes_stay_and_images_of_one_pipeline_differ():
    boxes = [[0.5, 0.5, 0.2, 0.2]]
    both = [CommonCorruption("motion_blur", 5), A.HorizontalFlip(p=0.0)]  # boxes alone would be warned about
    pipeline = A.Compose(both, bbox_params=A.BboxParams(format="yolo", label_fields=["labels"]), seed=1)
    first, second = (pipeline(image=texture(), bboxes=boxes, labels=[3]) for _ in range(2))
    assert np.allclose(first["bboxes"], boxes)
    assert not np.array_equal(first["image"], second["image"])


def test_bgr_images_are_corrupted_as_rgb():
    image = blocks()
    result = CommonCorruption("saturate", 5, bgr=True)(image=image[..., ::-1])["image"]
    assert np.array_equal(result[..., ::-1], corrupt(image, "saturate", 5))


@pytest.mark.parametrize("shape", [(40, 40), (40, 40, 1)])
def test_grey_images_keep_their_shape(shape):
    image = np.full(shape, 90, np.uint8)
    assert CommonCorruption("gaussian_noise", 1)(image=image)["image"].shape == shape


def test_the_arguments_survive_serialization(tmp_path):
    before = CommonCorruption("fog", 2, preset="tiny64", bgr=True, p=0.5)
    after = A.from_dict(A.to_dict(before))
    for name in ("corruption", "severity", "preset", "frost_folder", "bgr", "p"):
        assert getattr(after, name) == getattr(before, name)


def test_a_wrong_argument_is_refused_when_the_pipeline_is_built():
    with pytest.raises(ValueError, match="Did you mean 'fog'"):
        CommonCorruption("fogg", 1)
    with pytest.raises(ValueError, match="Severity is 6"):
        CommonCorruption("fog", 6)


def test_a_frost_folder_is_used(tmp_path):
    import cv2

    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", blocks())[1].tobytes())
    result = CommonCorruption("frost", 2, frost_folder=str(tmp_path))(image=texture())["image"]
    assert isinstance(frost.load_overlays(tmp_path), FrostOverlays)
    assert not np.array_equal(result, texture())


def test_ultralytics_takes_it_as_an_augmentation():
    augment = pytest.importorskip("ultralytics.data.augment")
    stored = A.to_dict(CommonCorruption("contrast", 4, bgr=True))  # as the trainer keeps `augmentations=`
    result = augment.Albumentations(p=1.0, transforms=[stored])({"img": texture(), "cls": np.zeros((0, 1))})
    assert np.array_equal(result["img"][..., ::-1], corrupt(texture()[..., ::-1], "contrast", 4))
