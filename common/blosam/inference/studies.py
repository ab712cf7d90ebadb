"""One DICOM Structured Report for each study, made from the files of its images once they are all segmented.

Nothing is kept in memory meanwhile, so that a run over thousands of studies needs no more than one over a few.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom

from blosam.atomicio import atomic_path
from blosam.dicom.frames import open_frames
from blosam.errors import BlosamError
from blosam.inference.inputs import Item
from blosam.inference.privacy import DIGITS, Scrubber, listening
from blosam.inference.record import Record

if TYPE_CHECKING:
    from blosam.inference.run import Segmentation

_SUCCESS = ("done", "needs review")
WRITTEN_FOR = "study"  # stands where other files have the SHA-256 of their input


class Studies:
    """Writes the reports of the studies in one process's share.

    Args:
        run: the run.
        items: the share; it holds whole studies.
    """

    def __init__(self, run: Segmentation, items: Sequence[Item]) -> None:
        self.run = run
        self.records: list[Record] = []
        self._left = Counter(item.study for item in items if item.study)
        self._images: dict[str, list[tuple[Item, Record]]] = {}

    def finished(self, item: Item, record: Record) -> None:
        """Note a finished input, and write the report when it was the last of its study."""
        if not item.study:
            return
        self._left[item.study] -= 1
        if record["status"] in _SUCCESS:
            self._images.setdefault(item.study, []).append((item, record))
        if self._left[item.study] == 0 and item.study in self._images:
            images = sorted(self._images.pop(item.study), key=lambda pair: pair[0].position)
            self.records.append(self._report(item.study, images))

    def _report(self, study: str, images: list[tuple[Item, Record]]) -> Record:
        digest = hashlib.sha256("".join(sorted(record["sha256"] for _, record in images)).encode()).hexdigest()
        name = f"study_{images[0][0].position:04d}_{digest[:DIGITS]}.sr.dcm"
        positions = [item.position for item, _ in images]
        told: Record = {"study": self.run.uid(study), "images": positions, "name": name.removesuffix(".sr.dcm")}
        for earlier in self.run.earlier.studies:
            kept = earlier.get("outputs", {}).get("dicom-sr", [""])[0]
            same = kept.endswith(f"_{digest[:DIGITS]}.sr.dcm") and (self.run.folder.folder / kept).is_file()
            if same and all(record.get("repeated") for _, record in images):
                return {**earlier, "images": positions}
        scrubber = Scrubber(told["name"])
        with listening(scrubber):
            try:
                self._write(name, images)
            except BlosamError as error:
                return told | {"status": "failed", "reason": scrubber.clean(str(error)), "outputs": {}}
        return told | {"status": "done", "outputs": {"dicom-sr": [name]}}

    def _write(self, name: str, images: list[tuple[Item, Record]]) -> None:
        from blosam.dicom.sr import measurement_report, write_dicom

        target = self.run.folder.folder / name
        ours = self.run.options.force or (WRITTEN_FOR, name) in self.run.earlier.written
        if target.exists() and not ours:
            raise BlosamError(f"{name}: exists already. Give another --out, or --force to replace it.")
        self.run.folder.will_write(WRITTEN_FOR, [name])
        measured = [entry for item, record in images for entry in self._measured(item, record)]
        unsure = any(record["status"] == "needs review" for _, record in images)
        report = measurement_report(
            measured, self.run.codes, self.run.algorithm, description="needs review" if unsure else ""
        )
        with atomic_path(target) as temporary:
            write_dicom(report, temporary)

    def _measured(self, item: Item, record: Record) -> list[Any]:
        """What one image contributes; each frame of several by itself."""
        from blosam.dicom.sr import Measured, segment_reference

        header = open_frames(item.path).header
        stored = self._segmentation(record)
        classes = sorted(self.run.predictor.labels, key=self.run.predictor.labels.__getitem__)
        areas, found = record["areas"], []
        several = "pixels_by_frame" in areas[classes[0]]
        for index in range(record["geometry"]["frames"]):
            frame = index + 1 if several else None
            pixels = [areas[c]["pixels_by_frame"][index] if several else areas[c]["pixels"] for c in classes]
            found.append(
                Measured(
                    source=header,
                    pixels=tuple(pixels),
                    segmentation=None if stored is None else segment_reference(stored, header, frame),
                    confidence=record["confidence"],
                    needs_review=record["status"] == "needs review",
                    frame=frame,
                )
            )
        return found

    def _segmentation(self, record: Record) -> pydicom.Dataset | None:
        """The DICOM segmentation written for an image, if one was."""
        for kind in ("dicom-seg", "dicom-seg-fractional"):
            for name in record["outputs"].get(kind, ()):
                return pydicom.dcmread(Path(self.run.folder.folder) / name, stop_before_pixels=True)
        return None
