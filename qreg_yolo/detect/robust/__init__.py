"""Many models on clean and corrupted images in one pass: the parts that `qreg_yolo.detect.robustness` puts together."""
