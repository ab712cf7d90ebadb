"""An archive through DICOMweb: search (QIDO-RS), retrieve (WADO-RS), store (STOW-RS).

The protocol is dicomweb-client's. What is added: paging that ends whatever the server does, files instead of
datasets, a STOW answer that is read to the end, and errors without identifiers.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import requests
from pydicom.errors import InvalidDicomError

from blosam.errors import BlosamError

from .access import Access
from .errors import ArchiveError, StoreRefused
from .session import ArchiveSession

PAGE = 200  # answers asked for at a time; a server may give fewer
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
SOP_CLASS, MODALITY, INSTANCES_IN_STUDY = "00080016", "00080060", "00201208"
# What is never segmented, whatever the modality filter says: results, ours and others'.
RESULT_MODALITIES = ("SEG", "SR", "PR", "KO", "REG", "RTSTRUCT")
KEPT = (0x0111,)  # failures that only say that the instance is there
FAILURE_REASONS = {
    0x0110: "processing failure",
    0x0111: "it knows that instance",
    0x0117: "invalid instance",
    0x0122: "it does not take this kind of object",
    0x0124: "not authorised",
}


@dataclass(frozen=True)
class Study:
    """A study as the archive lists it; ``instances`` is how many it holds, or None where the archive does not say."""

    uid: str
    instances: int | None = None


@dataclass(frozen=True)
class Instance:
    """One stored object's place: study, series, instance."""

    study: str
    series: str
    uid: str


class Archive:
    """One DICOMweb server.

    Args:
        access: address and credentials.
        session: what sends the requests; tests give their own.

    Raises:
        BlosamError: when dicomweb-client is missing.
    """

    def __init__(self, access: Access, session: requests.Session | None = None) -> None:
        try:
            from dicomweb_client import DICOMwebClient
        except ImportError:
            raise BlosamError(
                "blosam pacs needs dicomweb-client. Install it with: pip install 'blosam[dicom]'"
            ) from None
        for library in ("dicomweb_client", "urllib3", "retrying"):
            # They log addresses and errors, which hold the identifiers of studies.
            logging.getLogger(library).setLevel(logging.CRITICAL)
        self.access = access
        self.session = ArchiveSession(access) if session is None else session
        # Larger bodies would be sent by a generator, which cannot be sent a second time.
        self.client = DICOMwebClient(access.url.rstrip("/"), session=self.session, chunk_size=2**40)
        self.client.set_http_retry_params(retry=False)

    def ask(self) -> None:
        """One small question, to tell a server that is down from one that cannot do a particular thing.

        Raises:
            Unreachable: when it does not answer.
        """
        self._call("search", self.client.search_for_studies, limit=1)

    def studies(self, filters: dict[str, str], modalities: Iterable[str] = ()) -> list[Study]:
        """Studies that match, each once, in the archive's order.

        Args:
            filters: QIDO attribute keywords and values.
            modalities: studies that hold one of these; empty for any. One query each, as servers differ on lists.
        """
        found: dict[str, Study] = {}
        for modality in list(modalities) or [None]:
            query = filters if modality is None else {**filters, "ModalitiesInStudy": modality}
            for item in self._pages(
                self.client.search_for_studies, STUDY, fields=["NumberOfStudyRelatedInstances"], search_filters=query
            ):
                count = _value(item, INSTANCES_IN_STUDY)
                study = Study(_uid(item, STUDY), int(count) if str(count).isdigit() else None)
                found.setdefault(study.uid, study)
        return list(found.values())

    def count(self, study: Study) -> int:
        """How many instances a study holds now."""
        if study.instances is not None:
            return study.instances
        return sum(1 for _ in self._pages(self.client.search_for_instances, INSTANCE, study.uid))

    def images(self, study: str, modalities: Iterable[str] = ()) -> list[Instance]:
        """Instances of the study's series that have one of the modalities (empty: any); never results.

        Sorted by series and instance UID, so that the order does not depend on the server's mood.
        """
        wanted = set(modalities)
        found = []
        for item in self._pages(self.client.search_for_series, SERIES, study, fields=["Modality"]):
            modality = str(_value(item, MODALITY) or "").upper()
            if modality in RESULT_MODALITIES or (wanted and modality not in wanted):
                continue
            series = _uid(item, SERIES)
            for entry in self._pages(self.client.search_for_instances, INSTANCE, study, series):
                found.append(Instance(study, series, _uid(entry, INSTANCE)))
        return sorted(set(found), key=lambda instance: (instance.series, instance.uid))

    def holds(self, instance: str, study: str) -> bool:
        """Whether the study in the archive has this SOP instance."""
        found = self._pages(
            self.client.search_for_instances, INSTANCE, study, search_filters={"SOPInstanceUID": instance}
        )
        return any(_value(item, INSTANCE) == instance for item in found)  # a server may ignore the filter

    def retrieve(self, instance: Instance, path: Path) -> None:
        """Write one instance to a file, in the transfer syntax it is stored in.

        Raises:
            ArchiveError: when what comes is not that instance, or no DICOM at all.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an answer without multipart; values out of the standard
            dataset = self._call(
                "retrieve", self.client.retrieve_instance, instance.study, instance.series, instance.uid
            )
            if dataset.get("SOPInstanceUID") != instance.uid:
                raise ArchiveError(f"{self.access.host}: an image came back under another identifier.")
            try:
                pydicom.dcmwrite(path, dataset, enforce_file_format=True)
            except (ValueError, TypeError, AttributeError):
                raise ArchiveError(f"{self.access.host}: an image cannot be written as a DICOM file.") from None
            except OSError as error:
                raise BlosamError(
                    f"{path.parent.parent}: {error.strerror}. Free some space, or use another --state."
                ) from None

    def store(self, dataset: pydicom.Dataset) -> None:
        """Store one object. Nothing is done when the archive says that it has it already.

        Raises:
            StoreRefused: when it does not take it; :meth:`holds` tells whether it is there all the same.
        """
        kind = str(dataset.get("Modality", "object"))
        uid, study = str(dataset.SOPInstanceUID), str(dataset.StudyInstanceUID)
        if not getattr(dataset, "preamble", None):  # without it, dicomweb-client would send no file header
            dataset.preamble = bytes(128)
        try:
            answer = self._call(f"storing the {kind}", self.client.store_instances, [dataset], study)
        except requests.exceptions.HTTPError as error:
            answer = _failed_store(error.response)
            if not answer.get("FailedSOPSequence") and not self.holds(uid, study):
                status = error.response.status_code
                raise StoreRefused(
                    f"{self.access.host}: the server did not store the {kind} (HTTP {status})."
                ) from None
        failed = list(answer.get("FailedSOPSequence") or [])
        if failed:
            code = int(failed[0].get("FailureReason") or 0)
            if code not in KEPT or not self.holds(uid, study):
                reason = FAILURE_REASONS.get(code, "see the server's log")
                raise StoreRefused(
                    f"{self.access.host}: the server did not store the {kind} (reason {code:04X}: {reason})."
                )
            return
        stored = [str(item.get("ReferencedSOPInstanceUID", "")) for item in answer.get("ReferencedSOPSequence") or []]
        # Some servers answer with an empty body; then only asking tells.
        if uid not in stored and not self.holds(uid, study):
            raise StoreRefused(f"{self.access.host}: the server accepted the {kind} but does not hold it.")

    def _pages(self, search: Callable[..., list[dict]], key: str, *where: str, **query: Any) -> Iterator[dict]:
        """All answers to a query, page by page.

        It ends with a page that brings nothing new: servers cap pages at different sizes, and some ignore the
        offset and would send the same page for ever.
        """
        seen: set[str] = set()
        received = 0
        while True:
            page = self._call("search", search, *where, limit=PAGE, offset=received, **query)
            received += len(page)
            new = {uid: item for item in page if (uid := _value(item, key)) not in seen}
            if not new:
                return
            seen.update(new)
            yield from new.values()

    def _call(self, what: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call dicomweb-client; what it raises becomes one line without identifiers.

        Raises:
            HTTPError: for a refused POST, whose answer may say why.
        """
        try:
            return function(*arguments, **options)
        except BlosamError:
            raise
        except requests.exceptions.HTTPError as error:
            if error.request is not None and error.request.method == "POST":
                raise
            status = error.response.status_code
            mend = " Is --url the DICOMweb root?" if status == 404 else ""
            raise ArchiveError(f"{self.access.host}: {what} failed with HTTP {status}.{mend}") from None
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, InvalidDicomError):
            # How requests, pydicom and dicomweb-client fail over answers of the wrong form.
            raise ArchiveError(f"{self.access.host}: {what}: the answer is not what DICOMweb asks for.") from None


def _failed_store(response: requests.Response) -> pydicom.Dataset:
    """The DICOM part of an answer to a refused STOW; empty where it is none."""
    try:
        return pydicom.Dataset.from_json(response.json())
    except (ValueError, KeyError, TypeError, AttributeError):
        return pydicom.Dataset()


def _value(item: dict, tag: str) -> Any:
    """First value of an attribute in DICOM JSON, or None."""
    try:
        return (item.get(tag, {}).get("Value") or [None])[0]
    except (AttributeError, TypeError, LookupError):
        raise ArchiveError("the server's answer is not DICOM JSON. Is --url the DICOMweb root?") from None


def _uid(item: dict, tag: str) -> str:
    uid = _value(item, tag)
    if not isinstance(uid, str) or len(uid) > 64 or not UID.fullmatch(uid):
        raise ArchiveError("the server lists an object without a valid identifier. Give --study for the ones you need.")
    return uid
