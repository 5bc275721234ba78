"""Time of the paired bootstrap of a whole grid: 1000 resamples x 20 cells x 4 models, on one core.

    OMP_NUM_THREADS=1 python benchmarks/bootstrap.py                # 300 images
    OMP_NUM_THREADS=1 python benchmarks/bootstrap.py --images 672

Simulated detections of 20 classes with 2.5 objects and up to 300 detections per image, as validation at a confidence of
0.001 leaves them. Times the resampled mAP alone; reading the files is not included.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from qreg_yolo.metrics.average_precision import mean_average_precision
from qreg_yolo.metrics.bootstrap import interval, resample_weights
from qreg_yolo.metrics.image_statistics import ImageStatistics, from_detections


def simulated(rng: np.random.Generator, n_images: int, n_classes: int, per_image: int) -> ImageStatistics:
    """Returns the statistics of one model on one cell: three in four objects found, the rest noise."""
    targets = rng.poisson(2.5 / n_classes, (n_images, n_classes))
    objects = np.repeat(np.arange(targets.size), targets.ravel())
    objects = objects[rng.random(len(objects)) < 0.75]
    n_false = n_images * per_image - len(objects)
    hits = np.arange(10) < rng.integers(1, 11, len(objects))[:, None]
    return from_detections(
        np.concatenate([rng.beta(2, 2, len(objects)), rng.beta(0.5, 20, n_false)]),
        np.concatenate([objects % n_classes, rng.integers(n_classes, size=n_false)]),
        np.concatenate([objects // n_classes, rng.integers(n_images, size=n_false)]),
        np.concatenate([hits, np.zeros((n_false, 10), bool)]),
        targets,
        np.arange(n_images).astype(str),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--detections", type=int, default=300, help="per image")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--models", type=int, default=4)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    weights = resample_weights(options.images, options.resamples)
    spent = 0.0
    for cell in range(options.cells):
        values = []
        for _ in range(options.models):
            statistics = simulated(rng, options.images, options.classes, options.detections)
            start = time.process_time()
            values.append(mean_average_precision(statistics, weights))
            spent += time.process_time() - start
        if cell == 0:
            print("first cell, model 2 - model 1:", interval(values[1] - values[0]))
    print(
        f"{options.resamples} resamples x {options.cells} cells x {options.models} models, {options.images} images, "
        f"{options.detections} detections each: {spent:.1f} s of CPU time"
    )


if __name__ == "__main__":
    main()
