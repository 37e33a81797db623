"""What int8 costs through onnxruntime on this CPU, with weights of 8 and of 7 bits.

    AUTOPRUNE_SHARED_DATA=../shared/data python benchmarks/int8_range.py [--images 1000]

Top-1 of the dense ResNet-20 and ResNet-56 on the first images of `val`, as exported and converted
by `convert_onnx`, calibrated on 200 images.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from autoprune.export import convert_onnx, export_onnx, input_arrays

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BATCH = 50


def top1(onnx: bytes, pixels: Tensor, labels: Tensor) -> float:
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    right = sum(
        int((session.run(None, {name: x.numpy()})[0].argmax(1) == y.numpy()).sum())
        for x, y in zip(pixels.split(BATCH), labels.split(BATCH), strict=True)
    )
    return right / len(labels)


def main() -> None:
    from examples import cifar10, resnet_cifar

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help=f"a multiple of {BATCH}")
    args = parser.parse_args()
    pixels, labels = cifar10.images("val")
    pixels, labels = cifar10.normalise(pixels[: args.images]), labels[: args.images]
    batches = [b.numpy() for b in cifar10.calibration(count=200, batch=BATCH)]
    for name in ("resnet20", "resnet56"):
        model = getattr(resnet_cifar, name)(pretrained=True).eval()
        with torch.no_grad():
            data = export_onnx(model, (pixels[:BATCH],))
        inputs = input_arrays(data, (pixels[:BATCH],))
        print(f"{name}: 32 bits {top1(data, pixels, labels):.4f}", end="")
        for bits, reduced in ((8, False), (7, True)):
            made = convert_onnx(
                data, inputs, "int8", "onnxruntime", calibration=batches, reduce_range=reduced
            )
            print(f", int8 with weights of {bits} bits {top1(made, pixels, labels):.4f}", end="")
        print(flush=True)


if __name__ == "__main__":
    main()
