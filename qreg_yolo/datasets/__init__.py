"""Datasets: their images and labels, VOC, demo, CIFAR, and corrupted copies. Neither torch nor Ultralytics."""
