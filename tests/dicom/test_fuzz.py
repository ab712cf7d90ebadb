"""Damaged files end in a BlosamError or a picture, in bounded memory; never in another error or a crash."""

from __future__ import annotations

import multiprocessing
import random
import resource
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blosam.dicom import decoding, nifti
from blosam.dicom.frames import open_frames
from blosam.dicom.reader import as_image
from blosam.errors import BlosamError

from .mutations import DICOM_MUTATIONS, NIFTI_MUTATIONS, dicom_seeds, mutant, nifti_seeds

MAX_MEMORY = 256 << 20  # of the interpreter, for one file
# Where pixels are decoded: a damaged file that gets there has passed the checks of its header.
PIXELS = {
    "dcm": (decoding, "_finish", "_codestream", "_rle", "_native"),
    "nii": (nifti.NiftiVolume, "_array"),
}


def read_all(path: Path) -> None:
    """Open a file, and decode and scale its first frames."""
    frames = open_frames(path)
    for index in range(min(len(frames), 4)):
        picture = frames[index]
        if not picture.blank:
            as_image(path, picture)


def fuzz(folder: Path, kind: str, count: int, watch: bool) -> tuple[int, int, int]:
    """Read files that hypothesis damages; how many there were, how many reached the pixels, and how many gave pictures.

    Args:
        folder: for the files; a file that fails stays there.
        kind: ``dcm`` or ``nii``.
        count: files.
        watch: whether memory is measured, which takes about twice as long.
    """
    made, mutations = (dicom_seeds(), DICOM_MUTATIONS) if kind == "dcm" else (nifti_seeds(), NIFTI_MUTATIONS)
    where, *decoders = PIXELS[kind]
    tally = {"files": 0, "reached": set(), "done": 0}

    def counted(function):
        def wrapped(*args, **kwargs):
            tally["reached"].add(tally["files"])
            return function(*args, **kwargs)

        return wrapped

    # The random state is hypothesis's: a failure is repeated with the seed it prints.
    @settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(rng=st.randoms(use_true_random=True))
    def read_one(rng: random.Random) -> None:
        name, content = mutant(made, mutations, rng)
        tally["files"] += 1
        path = folder / f"{tally['files']}.{kind}"
        path.write_bytes(content)
        if watch:
            tracemalloc.reset_peak()
        try:
            read_all(path)
            tally["done"] += 1
        except BlosamError as error:
            assert str(path) in str(error) and "\n" not in str(error), name
        except BaseException:
            print(f"{path} made from {name!r}")
            raise
        if watch:
            assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY, f"{path} made from {name!r}"
        path.unlink()

    with pytest.MonkeyPatch.context() as patch:
        for name in decoders:
            patch.setattr(where, name, counted(getattr(where, name)))
        read_one()
    return tally["files"], len(tally["reached"]), tally["done"]


@pytest.mark.parametrize("kind", PIXELS)
def test_150_damaged_files_each(tmp_path, kind):
    tracemalloc.start()
    try:
        total, reached, done = fuzz(tmp_path, kind, 150, watch=True)
    finally:
        tracemalloc.stop()
    print(f"{kind}: {total} files, {reached} reached the pixels, {done} gave pictures")
    assert total >= 150 and reached >= 0.2 * total and done < total


@pytest.mark.parametrize("kind, seeds", [("dcm", dicom_seeds), ("nii", nifti_seeds)])
def test_the_files_that_are_damaged_are_valid(tmp_path, kind, seeds):
    for name, content in seeds().items():
        path = tmp_path / f"{name}.{kind}"
        path.write_bytes(content)
        read_all(path)


def _limited(folder: str, kind: str, count: int, results) -> None:
    """In a process of its own with limited address space: a crash of a decoder ends only this process."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), used + (2 << 30)))
    results.put(fuzz(Path(folder), kind, count, watch=False))


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", PIXELS)
def test_10_000_damaged_files_in_limited_memory(tmp_path, kind):
    """5,000 files of each kind."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_limited, args=(str(tmp_path), kind, 5000, results))
    process.start()
    process.join(580)
    left = sorted(tmp_path.iterdir())
    assert process.exitcode == 0, f"ended with {process.exitcode} at {[path.name for path in left]}"
    total, reached, done = results.get()
    print(f"{kind}: {total} files, {reached} reached the pixels, {done} gave pictures")
    assert total >= 5000 and reached >= 0.2 * total
