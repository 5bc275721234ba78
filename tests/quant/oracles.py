"""Independent references: one value at a time, in Python floats (float64), from the papers' formulas."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def lsq_bounds(bits: int, signed: bool) -> tuple[int, int]:
    """Returns (-Q_N, Q_P); one signed bit has the codes -1 and +1."""
    if not signed:
        return 0, 2**bits - 1
    return (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def lsq_value(v: float, step: float, low: int, high: int, binary: bool = False) -> tuple[int, float, float]:
    """Returns the code, dv and ds of one value: clip first, round after, the interval closed."""
    ratio = v / step
    if ratio < low:
        return low, 0.0, float(low)
    if ratio > high:
        return high, 0.0, float(high)
    code = (1 if ratio >= 0 else -1) if binary else round(ratio)  # Python rounds half to even
    return code, 1.0, code - ratio


def lsq(v: Tensor, step: Tensor, low: int, high: int, grad: Tensor, binary: bool = False) -> dict[str, Tensor]:
    """Returns value, codes, dv and ds (without g) of a tensor; ``step`` is 0-D or one per row of ``v``."""
    rows = v.reshape(v.shape[0], -1).double() if step.ndim else v.reshape(1, -1).double()
    grads = grad.reshape(rows.shape).double()
    steps = step.reshape(-1).double().tolist()
    codes, values, dv, ds = [], [], [], []
    for row, row_grad, s in zip(rows.tolist(), grads.tolist(), steps, strict=True):
        parts = [lsq_value(x, s, low, high, binary) for x in row]
        codes.append([p[0] for p in parts])
        values.append([p[0] * s for p in parts])
        dv.append([p[1] * g for p, g in zip(parts, row_grad, strict=True)])
        ds.append(math.fsum(p[2] * g for p, g in zip(parts, row_grad, strict=True)))
    return {
        "codes": torch.tensor(codes).reshape(v.shape),
        "value": torch.tensor(values, dtype=torch.float64).reshape(v.shape),
        "dv": torch.tensor(dv, dtype=torch.float64).reshape(v.shape),
        "ds": torch.tensor(ds, dtype=torch.float64).reshape(step.shape),
    }


def pact(x: list[float], clip: float, bits: int, grad: list[float]) -> dict[str, list[float] | float]:
    """Returns value, codes, dx (open interval) and da (sum of the gradients at x >= a)."""
    levels = 2**bits - 1
    codes = [round(min(max(v, 0.0), clip) * levels / clip) for v in x]
    return {
        "codes": codes,
        "value": [c * clip / levels for c in codes],
        "dx": [g if 0 < v < clip else 0.0 for v, g in zip(x, grad, strict=True)],
        "da": math.fsum(g for v, g in zip(x, grad, strict=True) if v >= clip),
    }


def dorefa_weight(w: list[float], bits: int) -> tuple[list[int], list[float]]:
    """Returns codes and values of DoReFa's weights (2 bits and more)."""
    levels = 2**bits - 1
    largest = max(abs(math.tanh(v)) for v in w)
    codes = [round((math.tanh(v) / (2 * largest) + 0.5) * levels) for v in w]
    return codes, [2 * c / levels - 1 for c in codes]


def dorefa_weight_grad(w: list[float], grad: list[float], through_max: bool) -> list[float]:
    """Returns the straight-through gradient of DoReFa's weights, with or without the path through max|tanh|."""
    t = [math.tanh(v) for v in w]
    largest = max(abs(v) for v in t)
    result = [g * (1 - v * v) / largest for g, v in zip(grad, t, strict=True)]
    if through_max:
        k = max(range(len(t)), key=lambda i: abs(t[i]))
        total = math.fsum(g * v for g, v in zip(grad, t, strict=True))
        result[k] -= total / largest**2 * math.copysign(1.0, t[k]) * (1 - t[k] ** 2)
    return result


def lsq_plus(x: Tensor, step: float, offset: float, high: int, grad: Tensor) -> dict[str, Tensor]:
    """Returns value, codes, dx, ds and db (without g) of LSQ+ on the codes 0 to ``high``: clip first, round after."""
    codes, dx, ds, db = [], [], [], []
    for value, g in zip(x.double().flatten().tolist(), grad.double().flatten().tolist(), strict=True):
        ratio = (value - offset) / step
        inside = 0 <= ratio <= high
        code = round(ratio) if inside else (0 if ratio < 0 else high)
        codes.append(code)
        dx.append(g if inside else 0.0)
        ds.append((code - ratio if inside else code) * g)
        db.append(0.0 if inside else g)
    return {
        "codes": torch.tensor(codes).reshape(x.shape),
        "value": torch.tensor([c * step + offset for c in codes], dtype=torch.float64).reshape(x.shape),
        "dx": torch.tensor(dx, dtype=torch.float64).reshape(x.shape),
        "ds": torch.tensor(math.fsum(ds), dtype=torch.float64),
        "db": torch.tensor(math.fsum(db), dtype=torch.float64),
    }


def lsq_plus_error(x: Tensor, step: float, offset: float, high: int) -> float:
    """Returns the mean squared error of LSQ+ on the codes 0 to ``high``."""
    values = x.double().flatten().tolist()
    codes = [min(max(round((v - offset) / step), 0), high) for v in values]
    return math.fsum((c * step + offset - v) ** 2 for c, v in zip(codes, values, strict=True)) / len(values)
