"""Damaged files end in a BlosamError or a picture, in bounded memory; never in another error or a crash."""

from __future__ import annotations

import multiprocessing
import resource
import tracemalloc
from pathlib import Path

import pytest

from blosam.dicom import decoding, nifti
from blosam.dicom.frames import open_frames
from blosam.dicom.reader import as_image
from blosam.errors import BlosamError

from .mutations import DICOM_MUTATIONS, NIFTI_MUTATIONS, dicom_seeds, mutants, nifti_seeds

MAX_MEMORY = 256 << 20  # of the interpreter, for one file
FUZZED = pytest.mark.parametrize(
    "kind, seeds, mutations", [("dcm", dicom_seeds, DICOM_MUTATIONS), ("nii", nifti_seeds, NIFTI_MUTATIONS)]
)


def read_all(path: Path) -> None:
    """Open a file, and decode and scale its first frames."""
    frames = open_frames(path)
    for index in range(min(len(frames), 4)):
        picture = frames[index]
        if not picture.blank:
            as_image(path, picture)


def fuzz(folder: Path, kind: str, files, watch: bool) -> tuple[int, int, int]:
    """Read all files; how many there were, how many reached the pixels, and how many gave pictures.

    Args:
        folder: for the files.
        kind: suffix.
        files: (name, content) pairs.
        watch: whether memory is measured, which takes about twice as long.
    """
    reached = [0]
    pixels = {"dcm": (decoding, "_finish", "_codestream", "_rle", "_native"), "nii": (nifti.NiftiVolume, "_array")}[
        kind
    ]
    counted = set()

    def count(function):
        def wrapped(*args, **kwargs):
            counted.add(reached[0])
            return function(*args, **kwargs)

        return wrapped

    patch = pytest.MonkeyPatch()
    for name in pixels[1:]:
        patch.setattr(pixels[0], name, count(getattr(pixels[0], name)))
    done = 0
    try:
        for number, (name, content) in enumerate(files):
            reached[0] = number
            path = folder / f"{number}.{kind}"
            path.write_bytes(content)
            if watch:
                tracemalloc.reset_peak()
            try:
                read_all(path)
                done += 1
            except BlosamError as error:
                assert str(path) in str(error) and "\n" not in str(error), name
            except BaseException:
                print(f"{path} made from {name!r}")
                raise
            if watch:
                assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY, f"{path} made from {name!r}"
            path.unlink()
    finally:
        patch.undo()
    return number + 1, len(counted), done


@FUZZED
def test_150_damaged_files_each(tmp_path, kind, seeds, mutations):
    tracemalloc.start()
    try:
        total, reached, done = fuzz(tmp_path, kind, mutants(seeds(), mutations, 150, seed=1), watch=True)
    finally:
        tracemalloc.stop()
    print(f"{kind}: {total} files, {reached} reached the pixels, {done} gave pictures")
    assert reached >= 0.2 * total and done < total


@FUZZED
def test_the_files_that_are_damaged_are_valid(tmp_path, kind, seeds, mutations):
    for name, content in seeds().items():
        path = tmp_path / f"{name}.{kind}"
        path.write_bytes(content)
        read_all(path)


def _limited(folder: str, kind: str, count: int, seed: int, results) -> None:
    """In a process of its own with limited address space: a crash of a decoder ends only this process."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), used + (2 << 30)))
    seeds, mutations = (dicom_seeds, DICOM_MUTATIONS) if kind == "dcm" else (nifti_seeds, NIFTI_MUTATIONS)
    results.put(fuzz(Path(folder), kind, mutants(seeds(), mutations, count, seed), watch=False))


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["dcm", "nii"])
@pytest.mark.parametrize("seed", [2, 3])
def test_10_000_damaged_files_in_limited_memory(tmp_path, kind, seed):
    """5,000 files of each kind, half per process."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_limited, args=(str(tmp_path), kind, 2500, seed, results))
    process.start()
    process.join(580)
    left = sorted(tmp_path.iterdir())
    assert process.exitcode == 0, f"ended with {process.exitcode} at {[path.name for path in left]}"
    total, reached, done = results.get()
    print(f"{kind}: {total} files, {reached} reached the pixels, {done} gave pictures")
    assert total == 2500 and reached >= 0.2 * total
