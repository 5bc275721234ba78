"""Training options of both tracks."""

from __future__ import annotations

from typing import Annotated

import typer

Bits = Annotated[int | None, typer.Option(help="Width of weights and activations: 1..8, 32 = off. [default: 4]")]
WeightBits = Annotated[int | None, typer.Option(help="Width of the weights alone.")]
ActBits = Annotated[int | None, typer.Option(help="Width of the activations alone.")]
Method = Annotated[str | None, typer.Option(help="lsq | lsq+ | pact | dorefa. [default: lsq]")]
WeightOnly = Annotated[bool | None, typer.Option("--weight-only", help="Quantize weights only.")]
PerChannel = Annotated[bool | None, typer.Option("--per-channel", help="One weight step per output channel.")]
FirstLastBits = Annotated[
    str | None,
    typer.Option(
        "--first-last-bits", "--edge-bits", help="First and last layers: 8 | 32 | same. [default: lsq, lsq+ 8; else 32]"
    ),
]
Signed = Annotated[str | None, typer.Option(help="LSQ inputs: auto | signed | unsigned. [default: auto]")]
LogNoise = Annotated[
    bool | None, typer.Option("--log-noise", help="Log each layer's weight noise per epoch in results.csv.")
]
ValEvery = Annotated[int | None, typer.Option(help="Epochs from one validation to the next. [default: 1]")]
Amp = Annotated[str | None, typer.Option(help="Mixed precision: off | bf16 | auto. [default: off]")]


def first_last(text: str | None) -> int | str | None:
    """Returns ``--first-last-bits`` as `QuantSpec` takes it: a width, or the word."""
    return int(text) if text in ("8", "32") else text
