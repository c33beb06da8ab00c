"""What is measured: a way to run a net, in words that travel to the process that runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from alexc_runtime.session import Session

Images = NDArray[np.float32]
Outputs = dict[str, NDArray[Any]]

Family = Literal["ours", "peer"]


class Missing(Exception):  # noqa: N818  (it becomes the status of a row)
    """A contestant can't run here, for a reason in words: no package, no GPU, no plan."""


@dataclass(frozen=True)
class Contestant:
    """One way to run the net. `opener` names a function `module:name` that makes its Runner.

    `settings` is what that function is told, of JSON's types. `gpu` says that times are a GPU's,
    to which the processor's limits don't apply. `note` says what a reader should know of it.
    """

    engine: str
    family: Family
    precision: str
    opener: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    gpu: bool = False
    note: str = ""

    @property
    def label(self) -> str:
        return f"{self.engine} {self.precision}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """The net that all contestants run, as files.

    `spec` is the resolved spec as JSON, `weights` the safetensors file, `images` a `.npy` file
    (images, channels, height, width) of which batches are taken from the front (see
    `Runner.taken`), `exported` what
    the peers' exporter makes of the net, `scratch` a folder for what a runner has to write.
    `photographs` is another, of what the net will see, for peers that measure ranges; None if there
    are none. `threads` bounds the threads of every engine; None leaves it to each.
    """

    spec: Path
    weights: Path
    images: Path
    exported: Path
    scratch: Path
    photographs: Path | None = None
    threads: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Subject:
        paths = {name: value and Path(value) for name, value in data.items() if name != "threads"}
        return Subject(**paths, threads=data["threads"])


class Runner(ABC):
    """A contestant that is loaded, in its own process."""

    def taken(self, images: NDArray[Any]) -> NDArray[Any]:
        """The images as this contestant takes them.

        They are given as the net was trained on them, normalised; or, where all contestants take
        pixels, as those.
        """
        return images

    @abstractmethod
    def run(self, images: Images) -> Outputs:
        """The graph's outputs by name."""

    def prepare(self, images: Images) -> None:  # noqa: B027  (most have nothing to do)
        """Whatever the first batch of a size takes, once, before any is timed."""

    def bare(self, images: Images) -> Callable[[], object] | None:  # noqa: ARG002
        """The engine's own call for these images, without what lies around it; None if it is all.

        It runs on the very engine that `run` runs on.
        """
        return None

    def profile(self, images: Images, runs: int) -> dict[str, float] | None:  # noqa: ARG002
        """Milliseconds of each node by its name, medians of `runs`; None if it doesn't say."""
        return None

    def session(self) -> Session | None:
        """The runtime's session that threads may share; None if the runner is something else."""
        return None


# What `Contestant.opener` names. Raises Missing.
Opener = Callable[[Subject, Mapping[str, Any]], Runner]
