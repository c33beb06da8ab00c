"""alexc_runtime opens a bundle made by alexc and runs it. numpy is all that it imports.

    import alexc_runtime

    with alexc_runtime.open("build/alexnet") as session:
        print(session.engine, "-", session.why)
        batch = alexc_runtime.load_photos(["photo.jpg"], session.manifest.preprocess)
        outputs = session.run(batch)            # name → float32 (images, *shape)
        for prediction in alexc_runtime.top(outputs, session.manifest)[0]:
            print(f"{prediction.probability:6.1%}  {prediction.index}  {prediction.label}")

`open` reads every byte of the bundle once and refuses one that was altered since the build. It
then takes the best engine at hand: a TensorRT plan where there are an NVIDIA GPU and the library,
otherwise ONNX Runtime, otherwise OpenVINO. An engine asked for by name,

    alexc_runtime.open("build/alexnet", engine="openvino", threads=2)

serves or raises EngineUnavailableError; nothing takes its place.

`run` takes arrays of numpy, and of torch, CuPy and others where they lie, on the CPU or the GPU.

Many threads may share a session. A `Batcher` in front of it runs together what they ask for at the
same time, which takes an engine less time than one request after the other.

Every fault is a RuntimeFaultError with a stable `code`; `alexc_runtime.errors` shows the tree.
"""

from alexc_runtime.arrays import DeviceArray
from alexc_runtime.batching import Batcher, Counts
from alexc_runtime.classify import Prediction, top
from alexc_runtime.errors import (
    BatchError,
    BundleError,
    BundleMissingError,
    BusyError,
    EngineError,
    EngineUnavailableError,
    PhotoError,
    PhotoMissingError,
    RuntimeFaultError,
)
from alexc_runtime.manifest import Bundle, Manifest, Preprocess, open_bundle
from alexc_runtime.opening import ENGINES, open
from alexc_runtime.preprocess import load_photo, load_photos
from alexc_runtime.session import Session

__all__ = [
    "ENGINES",
    "BatchError",
    "Batcher",
    "Bundle",
    "BundleError",
    "BundleMissingError",
    "BusyError",
    "Counts",
    "DeviceArray",
    "EngineError",
    "EngineUnavailableError",
    "Manifest",
    "PhotoError",
    "PhotoMissingError",
    "Prediction",
    "Preprocess",
    "RuntimeFaultError",
    "Session",
    "load_photo",
    "load_photos",
    "open",
    "open_bundle",
    "top",
]
