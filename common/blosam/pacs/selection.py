"""Which studies are asked for, as QIDO-RS filters."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from blosam.errors import BlosamError

from .client import UID, Archive, Study


@dataclass(frozen=True)
class Selection:
    """The studies a run is about.

    Args:
        studies: study UIDs; empty for all that the rest lets through.
        modalities: of the images; a study must hold one.
        date: ``YYYYMMDD``, or a range ``YYYYMMDD-YYYYMMDD`` whose ends may be left out.
        since: ``YYYYMMDD``, or ``7d`` for the last seven days, counted anew with each query.
        accession: accession number.
        everything: ask for all studies; without it, one of the others is needed.
        limit: at most so many studies; 0 for all.
    """

    studies: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    date: str | None = None
    since: str | None = None
    accession: str | None = None
    everything: bool = False
    limit: int = 0

    def check(self) -> None:
        """Refuse what no archive would understand.

        Raises:
            BlosamError: naming the option; the values of identifiers are not repeated.
        """
        if any(len(uid) > 64 or not UID.fullmatch(uid) for uid in self.studies):
            raise BlosamError("--study: not a study UID. It consists of digits and dots, at most 64 characters.")
        if self.date is not None and self.since is not None:
            raise BlosamError("--date and --since: give one of them. A range is --date 20260101-20260131.")
        if self.date is not None and not re.fullmatch(r"\d{8}(-(\d{8})?)?|-\d{8}", self.date):
            raise BlosamError(f"--date {self.date}: give YYYYMMDD or YYYYMMDD-YYYYMMDD.")
        if self.since is not None and not re.fullmatch(r"\d{8}|\d{1,5}d", self.since):
            raise BlosamError(f"--since {self.since}: give YYYYMMDD, or a number of days like 7d.")
        if self.accession is not None and not re.fullmatch(r"[^*?\\]{1,16}", self.accession):
            raise BlosamError("--accession: at most 16 characters, without * ? and \\.")
        if not (self.studies or self.date or self.since or self.accession or self.everything):
            raise BlosamError(
                "which studies? Give --study UID, --since 7d, --date YYYYMMDD or --accession NUMBER; --all takes the"
                " whole archive."
            )

    def filters(self, today: datetime.date | None = None) -> list[dict[str, str]]:
        """One set of QIDO filters per query to make."""
        common = {}
        if self.date is not None:
            common["StudyDate"] = self.date
        elif self.since is not None and self.since.endswith("d"):
            first = (today or datetime.date.today()) - datetime.timedelta(days=int(self.since[:-1]))
            common["StudyDate"] = f"{first:%Y%m%d}-"
        elif self.since is not None:
            common["StudyDate"] = f"{self.since}-"
        if self.accession is not None:
            common["AccessionNumber"] = self.accession
        return [{**common, "StudyInstanceUID": uid} for uid in self.studies] or [common]

    def find(self, archive: Archive) -> list[Study]:
        """Ask the archive; each study comes once."""
        found: dict[str, Study] = {}
        for filters in self.filters():
            # A named study needs no modality: its series are looked at anyway.
            for study in archive.studies(filters, () if self.studies else self.modalities):
                if not self.studies or study.uid in self.studies:
                    found.setdefault(study.uid, study)
        return list(found.values())[: self.limit or None]
