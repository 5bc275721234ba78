"""Ultralytics' trainer with quantized layers, calibration, optimizer groups, and resuming bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.cfg import DEFAULT_CFG, cfg2dict
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import unwrap_model

from qreg_yolo.config.oscillation import KEY as OSCILLATION
from qreg_yolo.config.oscillation import OscillationOptions
from qreg_yolo.detect import epoch_zero, resume
from qreg_yolo.detect.auto_anchor import update_anchors
from qreg_yolo.detect.averaging import AveragedModel
from qreg_yolo.detect.calibration import calibrate_detector, enter_stage
from qreg_yolo.detect.checkpoint import Start, load_start, load_weights
from qreg_yolo.detect.compat import as_taken, check_ultralytics, refuse_unsupported, restore_threads
from qreg_yolo.detect.data_check import Label
from qreg_yolo.detect.dataset import DetectionDataset, build_dataset
from qreg_yolo.detect.distillation import Distiller, make_distiller, without_teacher
from qreg_yolo.detect.epoch_zero import comes_from
from qreg_yolo.detect.model import QuantDetectionModel
from qreg_yolo.detect.outputs import defined
from qreg_yolo.detect.policy import clipping_warning
from qreg_yolo.detect.precision import precision_of
from qreg_yolo.detect.quantization_config import AVERAGE, EPOCH0, KEY, LOG_NOISE, VAL_EVERY, QuantizationConfig
from qreg_yolo.detect.teacher import Teacher
from qreg_yolo.detect.validator import QuantDetectionValidator
from qreg_yolo.errors import InvalidValueError
from qreg_yolo.io.files import what_is_kept
from qreg_yolo.quant.optim import StepSizeRule, quantizer_parameter_groups, split_quantizer_parameters
from qreg_yolo.quant.weight_noise import noise_columns
from qreg_yolo.training.environment import keep_freed_memory
from qreg_yolo.training.epoch_zero import EpochZero
from qreg_yolo.training.extensions import Extensions
from qreg_yolo.training.finite import NonFiniteError, all_finite, diagnosis, norm_is_finite
from qreg_yolo.training.oscillation import oscillation_extensions
from qreg_yolo.training.staging import Staging
from qreg_yolo.training.tensor_file import SUFFIX


class QuantDetectionTrainer(DetectionTrainer):
    """`DetectionTrainer` with one more argument, ``qreg``: `QuantSpec`'s options, ``activation`` and ``head``.

    Args:
        cfg: As in Ultralytics.
        overrides: Ultralytics' arguments, and ``qreg``.
        _callbacks: As in Ultralytics.
        start: The start of the training, if ``pretrained`` was read already.
        resumed: Model and dictionary of the resumed checkpoint, if it was read already.
        scanned: Image path -> label, for images that were read already.
        teacher: The teacher, if it was read already.

    >>> trainer = QuantDetectionTrainer(overrides=dict(model="yolov5n.yaml", qreg=dict(bits=4)))  # doctest: +SKIP
    """

    model: Any
    args: Any
    last: Path
    best: Path
    distiller: Distiller | None = None
    """The criterion of the training model, in a run with a teacher."""
    _teacher: Teacher | None = None

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: dict[str, Any] | None = None,
        *,
        start: Start | None = None,
        resumed: tuple[Any, dict[str, Any]] | None = None,
        scanned: Mapping[str, Label] | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        check_ultralytics()
        overrides = overrides or {}
        refuse_unsupported(overrides)
        if overrides.get(KEY) is not None:
            QuantizationConfig.from_request(overrides[KEY])  # raises before a folder is made
        self._accumulate = 1
        self._batch: dict[str, Any] = {}
        self._batches_since_step = self._batches_of_epoch = 0
        self._first_step_offset = 0
        self.extensions = Extensions()
        self._resumed: dict[str, Any] | None = None
        self._overflowed = False
        self._links = ExitStack()
        self._start, self._read, self._scanned, self._teacher = start, resumed, scanned, teacher
        self.zero: EpochZero | None = None
        """Accuracy before training; None: it was not measured."""
        self._measures_zero = False
        self._staging: Staging | None = None
        super().__init__({KEY: None, **cfg2dict(cfg)}, overrides, _callbacks)
        restore_threads()
        self.precision = precision_of(self.args.amp, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
            self.args.amp = False  # Ultralytics refuses bf16 there; the model itself applies it
        if overrides.get("workers") is not None:
            self.args.workers = overrides["workers"]  # Ultralytics always sets 0 on the CPU

    def train(self) -> None:
        """Trains as Ultralytics does; its loader opens `best` or `last`, which may be links until `restore_paths`."""
        super().train()
        self.best, self.last = (self._links.enter_context(as_taken(path)) for path in (self.best, self.last))

    def restore_paths(self) -> None:
        """Resets `best` and `last` to the checkpoints themselves, after `train`."""
        self._links.close()
        self.best, self.last = self.wdir / "best.pt", self.wdir / "last.pt"

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Resumes as Ultralytics does; raises `InvalidValueError` for another quantization than the checkpoint's."""
        wanted = overrides.get(KEY)
        last = self.args.resume
        if isinstance(last, (str, Path)) and Path(last).is_file():
            self._read = self._read or load_weights(Path(last))
            resume.restore_arguments(self, self._read[1]["train_args"], overrides)
        else:
            super().check_resume(overrides)
        trained = getattr(self.args, KEY, None)
        asked = QuantizationConfig.from_request
        if self.resume and wanted is not None and (trained is None or asked(wanted) != asked(trained)):
            raise InvalidValueError(
                f"The checkpoint was trained with qreg={trained}, this run asks for qreg={wanted}. Resume without "
                "quantization options, or start a new run with --weights."
            )

    def setup_model(self) -> dict[str, Any] | None:
        """Sets the model up as Ultralytics does, reading files once and without executing anything in them."""
        if isinstance(self.model, nn.Module):
            return super().setup_model()  # type: ignore[no-any-return]
        verbose, start = RANK in (-1, 0), self.args.pretrained
        if self.resume and self._read is not None:
            model, checkpoint = self._read
            self.model = self.get_model(model.yaml, model, verbose)
            return checkpoint
        weights = self._start
        if weights is None and isinstance(start, (str, Path)) and Path(start).is_file():
            weights, _ = load_start(Path(start))
        if Path(str(self.model)).suffix in (".pt", SUFFIX):
            model = load_weights(Path(self.model))[0]
            self.model = self.get_model(model.yaml, weights or (None if start is False else model), verbose)
        elif weights is not None:
            self.model = self.get_model(self.model, weights, verbose)
        else:
            return super().setup_model()  # type: ignore[no-any-return]
        self._start = None
        return None

    def get_model(
        self, cfg: str | dict[str, Any] | None = None, weights: Start | None = None, verbose: bool = True
    ) -> QuantDetectionModel:
        """Returns the quantized model of ``args.qreg``, or of ``cfg["qreg"]``."""
        model_yaml = deepcopy(cfg) if isinstance(cfg, dict) else yaml_model_load(cfg)
        request = None if self.resume else getattr(self.args, KEY, None)
        if request is not None:
            head = QuantizationConfig.read(model_yaml).head.kind
            config = QuantizationConfig.from_request({"head": head, **request}, pretrained=weights is not None)
            replace(config, precision=self.precision).write(model_yaml)
        model = self.set_model_names_for_load(
            QuantDetectionModel(
                model_yaml, nc=self.data["nc"], ch=self.data["channels"], verbose=verbose and RANK == -1
            )
        )
        if weights is not None:
            model.load(weights)
            self._measures_zero = not self.resume and comes_from(model, weights)
        assert isinstance(model, QuantDetectionModel)
        if request is not None and (warning := clipping_warning(model, config.spec, config.activation)) is not None:
            LOGGER.warning(warning)
        return model

    def set_model_attributes(self) -> None:
        """Sets Ultralytics' attributes, then calibrates, before the model is compiled, wrapped and copied."""
        super().set_model_attributes()
        model = unwrap_model(self.model)
        if self._channels_last():
            model.to(memory_format=torch.channels_last)
        if not isinstance(model, QuantDetectionModel):
            return
        calibrated = calibrate_detector(self, model)
        self._measures_zero = self._measures_zero and calibrated > 0 and self._asked(EPOCH0, True)

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """Returns Ultralytics' loader; raises `InvalidValueError` if BatchNorm would get one value per channel."""
        loader: Any = super().get_dataloader(dataset_path, batch_size, rank, mode)
        smallest = int(self.args.imgsz * (1 - self.args.multi_scale))
        alone = mode == "train" and not loader.drop_last and len(loader.sampler) % loader.batch_size == 1
        if alone and smallest < 2 * self.stride:  # training would raise too, but later
            raise InvalidValueError(
                f"A batch of one image at imgsz={smallest} gives BatchNorm a single value per channel. Give another "
                f"batch, so that none of one image is left, or imgsz={2 * self.stride} or more."
            )
        return loader

    def set_class_weights(self) -> None:
        """Sets class weights and anchors from the labels, before the EMA copy."""
        super().set_class_weights()
        update_anchors(unwrap_model(self.model), self.train_loader.dataset.labels, self.args.imgsz, self.resume)

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Returns Ultralytics' optimizer with the quantizers' parameters in groups of their own."""
        optimizer: torch.optim.Optimizer = super().build_optimizer(model, *args, **kwargs)
        plain = unwrap_model(model)
        decay = kwargs["decay"] if "decay" in kwargs else args[3] if len(args) > 3 else 1e-5
        norm_groups = [group for group in optimizer.param_groups if group.get("param_group") == "bn"]
        common = {
            key: norm_groups[-1][key] for key in ("lr", "momentum", "betas", "nesterov") if key in norm_groups[-1]
        }
        for group in optimizer.param_groups:
            group["params"] = split_quantizer_parameters(plain, group["params"])
        spec = QuantizationConfig.of(plain).spec
        own: dict[str, Any] = {"clip_decay": spec.clip_decay, "lr_factor": spec.range_lr}
        for group in quantizer_parameter_groups(plain, weight_decay=decay, **own, **common):
            optimizer.add_param_group(group)
            count, decay_of = len(group["params"]), group["weight_decay"]
            LOGGER.info(f"Of these, {count} are in a group of their own: {group['param_group']}(decay={decay_of})")
        self.distiller = make_distiller(self, plain, self._teacher)
        for group in self.distiller.optimizer_groups(**common) if self.distiller else ():
            optimizer.add_param_group(group)
        StepSizeRule(plain, relative=spec.relative_steps).attach(optimizer)
        options = OscillationOptions(**self._asked(OSCILLATION, {}))
        self.extensions = oscillation_extensions(plain, options, log=self._asked(LOG_NOISE, False))
        self.extensions.attach(optimizer)
        return optimizer

    @property
    def accumulate(self) -> int:
        """Batches per optimizer step; an offset corrects the first of a resumed run, where Ultralytics counts anew."""
        return self._accumulate + self._first_step_offset

    @accumulate.setter
    def accumulate(self, value: int) -> None:
        self._accumulate = value

    def run_callbacks(self, event: str) -> None:
        """Runs the callbacks of an event, after our own at the start of an epoch and of a batch, and at the end."""
        if event == "on_pretrain_routine_end" and self.distiller is not None:
            self.distiller.attach()
        elif event == "on_train_start" and self._measures_zero:
            self.zero = epoch_zero.measure(self, Path(str(self.args.pretrained)))
        elif event == "on_train_epoch_start":
            resume.begin_epoch(self)
            self._staging = enter_stage(self, self._staging)
            self._batches_of_epoch = 0
            self._resume_gradients()
        elif event == "on_train_batch_start":
            self._batches_since_step += 1
            self._batches_of_epoch += 1
        elif event == "on_train_end":
            resume.conclude(self.last, self.best)
        super().run_callbacks(event)

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns Ultralytics' preprocessed batch; keeps it for the diagnosis of a loss that is not finite."""
        batch = super().preprocess_batch(batch)
        if self._channels_last():
            batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        self._batch = batch
        return batch

    def _channels_last(self) -> bool:
        """Returns whether to train with channels last on the CPU, where Ultralytics uses them in inference only."""
        return self.device.type == "cpu" and self.args.channels_last is not False

    def optimizer_step(self) -> None:
        """Steps as Ultralytics does; raises `NonFiniteError` instead if the loss or a gradient is not finite."""
        model, losses = unwrap_model(self.model), list(self.tloss.values())
        scaled = self.scaler.is_enabled()  # the scaler of half precision skips infinite gradients
        if not (all_finite(losses) if scaled else norm_is_finite(model, losses)):
            if (what := diagnosis(model, losses, self._batch["img"])) is not None:
                raise NonFiniteError(
                    f"Training stopped in epoch {self.epoch + 1}: {what}. Lower lr0 (now {self.args.lr0:g}) or use "
                    f"more bits. {what_is_kept(self.last)}"
                )
            if not self._overflowed:  # warn once
                LOGGER.warning(
                    f"Epoch {self.epoch + 1}: every gradient is finite, but their norm overflows float32. Clipped to "
                    "norm 10 they are 0 in this step, as in Ultralytics. If this lasts, lower lr0 or check the images."
                )
            self._overflowed = True
        images = self.batch_size * self._batches_since_step  # Ultralytics' loss sums over those of all processes
        progress = (self.epoch + self._batches_of_epoch / len(self.train_loader)) / self.epochs
        self.extensions.before_step(progress, scale=images * self.scaler.get_scale())
        if self.distiller is not None:
            self.distiller.average_gradients()
        super().optimizer_step()
        self.extensions.after_step(self.ema.ema)
        if isinstance(self.ema, AveragedModel):
            self.ema.observe(self._batch["img"])
        self._batches_since_step = self._first_step_offset = 0

    def _do_train(self) -> None:
        """Trains as Ultralytics does; where a run was stopped after its last epoch, only its end is left."""
        if self.resume and self._read is not None and resume.is_trained(self._read[1], self.epochs):
            self._setup_train()
            self.epoch = self.epochs - 1
            self.final_eval()
            self.run_callbacks("on_train_end")
        else:
            super()._do_train()

    def resume_training(self, ckpt: dict[str, Any] | None) -> None:
        """Resumes as Ultralytics does, then restores the exact state from the sidecar."""
        if (share := self._asked(AVERAGE, None)) is not None:
            self.ema = AveragedModel.of(self, share)
        if ckpt is None or not self.resume or resume.is_trained(ckpt, self.epochs):
            return
        resume.rewrite_results(self.csv, ckpt.get("train_results") or {})
        super().resume_training(ckpt)
        self._resumed = resume.read(Path(str(self.args.resume)))
        if self._resumed is None:
            LOGGER.warning(
                f"'{self.args.resume}' has no matching '{resume.NAME}' in its folder: the run continues from the "
                "averaged weights and a rounded optimizer, not bit for bit."
            )
        else:
            resume.restore(self, self._resumed)
            if (zero := self._resumed.get("epoch_zero")) is not None:
                self.zero = EpochZero(**zero)

    def _resume_gradients(self) -> None:
        if self._resumed is not None:
            resume.restore_gradients(self, self._resumed)
            self._batches_since_step = self._resumed["batches_since_step"]
            self._first_step_offset = len(self.train_loader) * self.epoch - self._batches_since_step
            self._resumed = None

    def validate(self) -> tuple[dict[str, float] | None, float | None]:
        """Validates every ``val_every`` epochs and at the end; otherwise the metrics are nan, without a fitness."""
        late = self.args.time and time.time() - self.train_time_start > 3600 * self.args.time
        if (self.epoch + 1) % self._asked(VAL_EVERY, 1) and self.epoch + 1 < self.epochs and not (self.stop or late):
            return dict.fromkeys(self.metrics, math.nan), None
        return super().validate()  # type: ignore[no-any-return]

    def _asked(self, key: str, default: Any) -> Any:
        """Returns an option of the request that is not part of the quantization."""
        return (getattr(self.args, KEY, None) or {}).get(key, default)

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """Writes an epoch's row of ``results.csv``, with the weight noise of each layer if requested."""
        metrics = defined(metrics, self.validator.n_objects)
        if self._asked(LOG_NOISE, False):
            metrics = {**metrics, **noise_columns(unwrap_model(self.model), everything=True)}
        metrics = {**metrics, **self.extensions.columns()}
        if self.zero is not None and not self.csv.exists():
            epoch_zero.add_row(self.csv, ["epoch", "time", *metrics], self.zero)
        super().save_metrics(metrics)

    def label_loss_items(self, loss_items: dict[str, Any] | None = None, prefix: str = "train") -> Any:
        """Returns Ultralytics' labelled losses, or their labels; validation has no teacher and no loss of it."""
        return without_teacher(super().label_loss_items(loss_items, prefix))

    def save_model(self) -> bool:
        """Saves the checkpoints and the sidecar with `resume.save_checkpoints`."""
        return resume.save_checkpoints(self, super().save_model, self._batches_since_step)

    def final_eval(self) -> None:
        """Measures the best checkpoint as Ultralytics does, before the two are stripped: a killed run still resumes."""
        if not self.best.exists():
            return
        LOGGER.info(f"\nValidating {self.best}...")
        self.validator.args.plots = self.args.plots
        self.validator.args.compile = False
        with as_taken(self.best) as path:
            self.metrics = self.validator(model=path)
        self.metrics.pop("fitness", None)
        self.epoch += 1  # callbacks log the best epoch's numbers as one more epoch
        self.run_callbacks("on_fit_epoch_end")
        self.epoch -= 1

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> DetectionDataset:
        """Returns Ultralytics' dataset as a `DetectionDataset`."""
        stride = max(int(unwrap_model(self.model).stride.max()), 32)
        return build_dataset(
            self.args, img_path, batch, self.data, mode=mode, rect=mode == "val", stride=stride, scanned=self._scanned
        )

    def get_validator(self) -> QuantDetectionValidator:
        args = copy(self.args)
        delattr(args, KEY)  # the validator accepts Ultralytics' arguments only
        return QuantDetectionValidator(self.test_loader, save_dir=self.save_dir, args=args, _callbacks=self.callbacks)
