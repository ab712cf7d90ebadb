from __future__ import annotations

import hashlib
import sqlite3
import stat

import pytest

from blosam.errors import BlosamError
from blosam.pacs.journal import DONE, FAILED, PLANNED, Journal, StudyState

URL = "https://pacs.example.org/rs"


def hashed(text: str) -> str:
    return hashlib.sha256(b"secret" + text.encode()).hexdigest()


def open_journal(folder, url: str = URL, bundle: str = "b") -> Journal:
    return Journal(folder, url, bundle, hashed)


def test_remembers_after_reopening(tmp_path):
    with open_journal(tmp_path / "state") as journal:
        journal.plan(["1.2", "1.3"], "batch", 2)
        journal.finish({"1.3": DONE, "1.4": FAILED}, "other", 0)
        journal.note({"1": StudyState(7, 1, True, 2, 12.5)})
    with open_journal(tmp_path / "state", URL + "/") as journal:
        states = journal.sources(["1.2", "1.3", "1.4", "1.5"])
        assert {uid: state.state for uid, state in states.items()} == {"1.2": PLANNED, "1.3": DONE, "1.4": FAILED}
        assert (states["1.2"].batch, states["1.2"].generation) == ("batch", 2)
        assert journal.study("1") == StudyState(7, 1, True, 2, 12.5)
        assert journal.study("2") is None


def test_other_server_or_weights_know_nothing(tmp_path):
    with open_journal(tmp_path) as journal:
        journal.finish({"1.2": DONE}, "batch", 0)
    for url, bundle in ((URL + "2", "b"), (URL, "c")):
        with open_journal(tmp_path, url, bundle) as journal:
            assert journal.sources(["1.2"]) == {}


def test_files_are_private_and_hold_no_identifier(tmp_path):
    folder = tmp_path / "state"
    with open_journal(folder) as journal:
        journal.finish({"1.2.840.99": DONE}, "batch", 0)
        journal.note({"1.2.840.77": StudyState(7)})
        content = b"".join(path.read_bytes() for path in folder.iterdir())
        assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in [folder, *folder.iterdir()])
    for word in (b"1.2.840", b"example.org"):
        assert word not in content


def test_one_process_at_a_time(tmp_path):
    with open_journal(tmp_path):
        with pytest.raises(BlosamError, match="another blosam pacs"):
            open_journal(tmp_path)
    open_journal(tmp_path).close()


def test_a_transaction_that_fails_leaves_nothing(tmp_path):
    with open_journal(tmp_path) as journal:
        with pytest.raises(sqlite3.IntegrityError):
            journal.finish({"1.2": DONE, "1.3": None}, "batch", 0)
        assert journal.sources(["1.2", "1.3"]) == {}


def test_damaged_and_later_files(tmp_path):
    with open_journal(tmp_path):
        pass
    db = sqlite3.connect(tmp_path / "journal.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(BlosamError, match="later blosam"):
        open_journal(tmp_path)
    (tmp_path / "journal.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(BlosamError, match="not a readable journal"):
        open_journal(tmp_path)
