"""Names by hash, UIDs hashed with a private salt, texts without what may name a patient."""

from __future__ import annotations

import logging
import os
import stat
import sys
import threading
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from blosam.errors import BlosamError
from blosam.inference import privacy
from blosam.inference.privacy import (
    Scrubber,
    UidHasher,
    discreet,
    identifying_tags,
    installation_salt,
    listening,
    refuse_identified,
)

UID = "1.2.826.0.1.3680043.8.498.11.22.33"


def _header() -> Dataset:
    """Identifiers in ordinary, nested and private elements."""
    header = Dataset()
    header.PatientName = "Zebra^Quentin"
    header.PatientID = "MRN-778812"
    header.PatientBirthDate = "19530704"
    header.StudyInstanceUID = UID
    header.Modality = "DX"
    item = Dataset()
    item.PatientID = "NESTED-4411"
    header.OtherPatientIDsSequence = [item]
    block = header.private_block(0x0011, "ACME", create=True)
    block.add_new(0x01, "LO", "private-Zebra-88")
    block.add_new(0x02, "UN", b"unknown-5521")
    return header


PLANTED = ("Zebra", "Quentin", "MRN-778812", "19530704", UID, "NESTED-4411", "private-Zebra-88", "unknown-5521")


def test_salt_is_private_made_once_and_the_same_for_all_threads(tmp_path, monkeypatch):
    monkeypatch.setenv("BLOSAM_CONFIG_DIR", str(tmp_path / "config"))
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(installation_salt())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1 and len(found[0]) == 32
    (path,) = (tmp_path / "config").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(BlosamError, match="chmod 600"):
        installation_salt()
    path.chmod(0o600)
    path.write_text("no salt")
    with pytest.raises(BlosamError, match="no salt"):
        installation_salt()


def test_hashed_uids_depend_on_the_salt_and_nothing_else(tmp_path):
    first = UidHasher(installation_salt(tmp_path / "a"))
    again, other = UidHasher(installation_salt(tmp_path / "a")), UidHasher(installation_salt(tmp_path / "b"))
    assert first(UID) == again(UID) != other(UID) and first(UID) != first(UID + "4")
    assert first(UID).startswith("uid-") and first("") == ""
    assert UidHasher(None)(UID) == UID


def test_scrubber_removes_paths_and_every_value(tmp_path):
    path = tmp_path / "Zebra_Quentin" / "IMG 4711.dcm"
    scrubber = Scrubber("image_0001_00000000", path, _header())
    text = f"{path}: odd ({', '.join(PLANTED)}); also IMG 4711.dcm, C:\\data\\x.dcm, {path.parent}, 1.2.840.10008.1.2.1"
    cleaned = scrubber.clean(text)
    for value in (*PLANTED, "4711", "data", str(tmp_path)):
        assert value not in cleaned, value
    assert "image_0001_00000000" in cleaned and "odd" in cleaned
    assert "1.2.840.10008.1.2.1" in cleaned  # a transfer syntax, not an object


def test_short_values_do_not_cut_words_to_pieces():
    header = Dataset()
    header.PatientName = "Li^Max"
    assert Scrubber("image", None, header).clean("The maximum of Max is fatal") == "The maximum of [removed] is fatal"


def test_what_libraries_say_is_withheld_and_our_own_cleaned(caplog, tmp_path):
    path = tmp_path / "Zebra.dcm"
    with caplog.at_level(logging.INFO), discreet(), listening(Scrubber("image_0001_00000000", path)) as heard:
        logging.getLogger("pydicom").warning("value %s", "Quentin")
        logging.getLogger("blosam.dicom").warning("%s: the window shows no contrast.", path)
        warnings.warn("Invalid value Quentin", UserWarning, stacklevel=1)
    assert heard == ["the window shows no contrast."]
    assert "Zebra" not in caplog.text and "Quentin" not in caplog.text
    assert privacy.WITHHELD in caplog.text and "no contrast" in caplog.text


def test_unexpected_exceptions_lose_their_message_and_keep_their_place(capsys):
    hook = sys.excepthook
    try:
        with pytest.raises(RuntimeError), discreet():
            raise RuntimeError("Quentin")
        try:
            raise RuntimeError("Quentin")
        except RuntimeError as error:
            sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.excepthook = hook
    shown = capsys.readouterr().err
    assert "Quentin" not in shown and "RuntimeError" in shown and "test_privacy" in shown


def test_expected_errors_restore_everything():
    before = sys.excepthook, logging.getLogRecordFactory(), warnings.showwarning
    with pytest.raises(BlosamError), discreet():
        raise BlosamError("x")
    assert (sys.excepthook, logging.getLogRecordFactory(), warnings.showwarning) == before


def test_identifiers_are_named_but_not_repeated():
    found = identifying_tags(_header())
    assert {"PatientIdentityRemoved is not YES", "PatientName", "PatientID", "PatientBirthDate"} <= set(found)
    assert "OtherPatientIDsSequence" in found and any("private element" in entry for entry in found)
    with pytest.raises(BlosamError) as caught:
        refuse_identified(_header(), "image_0001")
    assert "PatientName" in str(caught.value) and not any(value in str(caught.value) for value in PLANTED)


def test_deidentified_files_pass_and_burned_in_text_does_not():
    header = pydicom.Dataset()
    header.PatientIdentityRemoved, header.PatientName, header.PatientID = "YES", "", "ANONYMOUS"
    header.BurnedInAnnotation = "NO"
    refuse_identified(header, "image_0001")
    header.BurnedInAnnotation = "YES"
    with pytest.raises(BlosamError, match="BurnedInAnnotation"):
        refuse_identified(header, "image_0001")
    nested = Dataset()
    nested.OperatorsName = "Zebra"
    header.BurnedInAnnotation = "NO"
    header.SourceImageSequence = [nested]
    with pytest.raises(BlosamError, match="OperatorsName"):
        refuse_identified(header, "image_0001")


def test_config_folder_follows_the_environment(monkeypatch):
    monkeypatch.delenv("BLOSAM_CONFIG_DIR", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", os.path.join("x", "y"))
    assert privacy.config_folder() == Path("x", "y", "blosam")
