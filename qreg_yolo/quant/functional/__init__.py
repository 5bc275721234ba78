"""Pure functions, one per equation: float in, float on the quantization grid out, with the paper's gradient.

All functions compute in float32 (float64 for float64 inputs), whatever autocast says, and return the dtype of their
input. They neither branch on data nor wait for the device, so ``torch.compile(fullgraph=True)`` and ``torch.func``
transforms work through them.
"""

from qreg_yolo.quant.functional.common import MIN_STEP, compute_dtype, positive, round_ste
from qreg_yolo.quant.functional.dorefa import (
    dorefa_activation_codes,
    dorefa_ideal_weight,
    dorefa_quantize_activation,
    dorefa_quantize_weight,
    dorefa_weight_codes,
    dorefa_weight_step,
)
from qreg_yolo.quant.functional.lsq import (
    grid_bounds,
    lsq_clipped,
    lsq_codes,
    lsq_fake_quantize,
    lsq_grad_scale,
    lsq_initial_step,
    lsq_local_gradient,
)
from qreg_yolo.quant.functional.lsq_plus import (
    lsq_plus_clipped,
    lsq_plus_codes,
    lsq_plus_fake_quantize,
    lsq_plus_initial_range,
    lsq_plus_initial_step,
    lsq_plus_local_gradients,
    zero_point,
)
from qreg_yolo.quant.functional.pact import pact_codes, pact_fake_quantize

__all__ = [
    "MIN_STEP",
    "compute_dtype",
    "dorefa_activation_codes",
    "dorefa_ideal_weight",
    "dorefa_quantize_activation",
    "dorefa_quantize_weight",
    "dorefa_weight_codes",
    "dorefa_weight_step",
    "grid_bounds",
    "lsq_clipped",
    "lsq_codes",
    "lsq_fake_quantize",
    "lsq_grad_scale",
    "lsq_initial_step",
    "lsq_local_gradient",
    "lsq_plus_clipped",
    "lsq_plus_codes",
    "lsq_plus_fake_quantize",
    "lsq_plus_initial_range",
    "lsq_plus_initial_step",
    "lsq_plus_local_gradients",
    "pact_codes",
    "pact_fake_quantize",
    "positive",
    "round_ste",
    "zero_point",
]
