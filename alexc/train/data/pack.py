"""From class folders to shards of photographs that are scaled already: `alexc data pack`.

Scaling and cutting is done once here and not in every epoch. Shards are made in parallel, each
written aside and renamed, so that a run that was stopped makes those that are missing.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from alexc.diagnostics import fault, usage_fault
from alexc.files import resolved
from alexc.train.data.folder import Listing, listed
from alexc.train.data.order import chance
from alexc.train.data.photo import UnreadablePhotoError, from_file
from alexc.train.data.shards import CLASSES

RECORD, DAMAGED_LIST = "pack.json", "damaged.txt"


@dataclass(frozen=True, slots=True)
class PackOptions:
    """`size` is the side of a stored photo in pixels, `quality` that of JPEG."""

    size: int = 256
    quality: int = 95
    images_per_shard: int = 2048
    seed: int = 0
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Packed:
    """What there is now."""

    images: int
    shards: int
    made: int
    damaged: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Shard:
    path: Path
    first: int
    files: tuple[Path, ...]
    labels: tuple[int, ...]


def pack(
    source: Path, out: Path, options: PackOptions, progress: Callable[[int, int], None]
) -> Packed:
    """Pack the class folders at `source` into `out`; `progress` gets shards done, of how many.

    Raises UsageError if `out` holds something else, or can't be written, and AlexcError if it was
    packed from other files or with other options.
    """
    parts = {split: _shuffled(listed(source, split), options.seed) for split in ("train", "test")}
    classes = parts["train"].classes
    if parts["test"].classes != classes:
        raise fault("pack/classes", f"{source} has other classes to test with than to learn from")
    shards = [shard for split, part in parts.items() for shard in _cut(out, split, part, options)]
    _begin(out, source, options, classes, sum(len(shard.files) for shard in shards))
    missing = [shard for shard in shards if not shard.path.exists()]
    progress(len(shards) - len(missing), len(shards))
    work = partial(_make, size=options.size, quality=options.quality)
    # Threads of the parent must not be copied into a child half way through something.
    with ProcessPoolExecutor(options.processes, mp_context=get_context("forkserver")) as pool:
        jobs = [pool.submit(work, shard) for shard in missing]
        try:
            for done, job in enumerate(as_completed(jobs), len(shards) - len(missing) + 1):
                job.result()
                progress(done, len(shards))
        except OSError as error:
            pool.shutdown(cancel_futures=True)
            raise usage_fault("file/unwritable", f"{out}: {error.strerror}") from None
    damaged = [
        line
        for shard in shards
        for line in _damaged_of(shard.path).read_text(encoding="utf-8").splitlines()
    ]
    (out / DAMAGED_LIST).write_text("".join(f"{line}\n" for line in damaged), encoding="utf-8")
    images = sum(len(shard.files) for shard in shards) - len(damaged)
    return Packed(images, len(shards), len(missing), tuple(damaged))


def _shuffled(listing: Listing, seed: int) -> Listing:
    """In an order of chance, so that every shard holds some of every class."""
    order = np.random.default_rng(chance(seed, "pack")).permutation(len(listing.files)).tolist()
    return Listing(
        listing.classes,
        tuple(listing.files[place] for place in order),
        tuple(listing.numbers[place] for place in order),
    )


def _cut(out: Path, split: str, part: Listing, options: PackOptions) -> list[_Shard]:
    step = options.images_per_shard
    return [
        _Shard(
            out / f"{split}-{first // step:05}.tar",
            first,
            part.files[first : first + step],
            part.numbers[first : first + step],
        )
        for first in range(0, len(part.files), step)
    ]


def _begin(
    out: Path, source: Path, options: PackOptions, classes: tuple[str, ...], images: int
) -> None:
    """Make the folder, or see that what is in it was begun with the same options and files."""
    said = {key: value for key, value in asdict(options).items() if key != "processes"}
    record = {"source": str(resolved(source)), "images": images, **said}
    path = out / RECORD
    try:
        out.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if json.loads(path.read_text(encoding="utf-8")) != record:
                raise fault(
                    "pack/other",
                    f"{out} was packed from other files, or with other options",
                    help="pack into another folder",
                )
            return
        if any(out.iterdir()):
            raise usage_fault("pack/not-empty", f"{out} holds something else than shards")
        (out / CLASSES).write_text(json.dumps(classes, ensure_ascii=False), encoding="utf-8")
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise usage_fault("file/unwritable", f"{out}: {error.strerror}") from None


def _damaged_of(shard: Path) -> Path:
    return shard.with_suffix(".damaged")


def _make(shard: _Shard, *, size: int, quality: int) -> None:
    """Write one shard, whole. Damaged photographs are listed beside it."""
    from PIL import Image

    aside = shard.path.with_name(f".{shard.path.name}.partial")
    damaged = []
    with tarfile.open(aside, "w") as tar:
        for number, (file, label) in enumerate(
            zip(shard.files, shard.labels, strict=True), shard.first
        ):
            try:
                pixels = from_file(file, (size, size), 3)
            except UnreadablePhotoError as error:
                damaged.append(" ".join(str(error).split()))
                continue
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
            _add(tar, f"{number:09}.jpg", buffer.getvalue())
            _add(tar, f"{number:09}.cls", str(label).encode())
    _damaged_of(shard.path).write_text("".join(f"{x}\n" for x in damaged), encoding="utf-8")
    os.replace(aside, shard.path)  # noqa: PTH105  (its error names both files)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
