"""Claims: one owner for a run, whatever happens to processes and computers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from blosam.compare import claims as module
from blosam.compare.claims import Claims, Ticket
from blosam.errors import BlosamError


class Clock:
    """Seconds that are set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def left(claims: Claims) -> list[str]:
    return sorted(os.listdir(claims.folder))


def foreign(claims: Claims, name: str, **owner) -> None:
    """A claim of a process on another computer."""
    claims.folder.mkdir(exist_ok=True)
    (claims.folder / name).write_text(json.dumps({"machine": "elsewhere", "pid": 1, **owner}))


def dead_process() -> int:
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def test_a_claim_is_exclusive_until_it_is_released(tmp_path):
    ours, theirs = Claims(tmp_path / "claims"), Claims(tmp_path / "claims")
    ticket, late = ours.look("unet_k2_s0"), theirs.look("unet_k2_s0")
    assert ticket == late == Ticket("unet_k2_s0")
    with ours.take(ticket):
        assert theirs.take(late) is None
        assert theirs.look("unet_k2_s0") is None and ours.look("unet_k2_s0") is None
        assert theirs.look("unet_k2_s01") is not None and theirs.look("unet_k2") is not None
        ours.tidy()
        assert left(ours) == ["unet_k2_s0.0000"]
    assert theirs.look("unet_k2_s0") == Ticket("unet_k2_s0")
    ours.tidy()
    assert not ours.folder.exists()


def test_only_one_of_many_gets_it(tmp_path):
    tickets = [Claims(tmp_path).look("run") for _ in range(16)]
    barrier, taken = threading.Barrier(16), []

    def take(ticket: Ticket) -> None:
        barrier.wait()
        taken.append(Claims(tmp_path).take(ticket))

    threads = [threading.Thread(target=take, args=(ticket,)) for ticket in tickets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [claim for claim in taken if claim is not None]
    assert len(taken) == 16 and len(won) == 1
    won[0].release()


def test_the_claim_of_a_process_that_is_gone_is_taken_over_by_one_other(tmp_path):
    claims, third = Claims(tmp_path), Claims(tmp_path)
    foreign(claims, "run.0000", machine=module._machine(), pid=dead_process())
    ticket, late = claims.look("run"), third.look("run")
    assert ticket.generation == late.generation == 1
    with claims.take(ticket):
        assert third.take(late) is None and third.look("run") is None
    assert left(claims) == []


def test_another_computer_of_the_same_name_is_not_taken_for_this_one(tmp_path, monkeypatch):
    (tmp_path / "boot_id").write_text("another\n")
    claims = Claims(tmp_path / "claims")
    with monkeypatch.context() as there:
        there.setattr(module, "_BOOT", tmp_path / "boot_id")
        theirs = module._machine()
    foreign(claims, "run.0000", machine=theirs, pid=dead_process())
    assert "another" in theirs and claims.look("run") is None, "its processes have other numbers: it may be alive"
    (tmp_path / "boot_id").unlink()
    monkeypatch.setattr(module, "_BOOT", tmp_path / "boot_id")
    assert module._machine().startswith(module.platform.node()), "macOS has no such file"


def test_a_claim_nobody_touches_becomes_stale_on_our_own_clock(tmp_path, monkeypatch):
    clock = Clock()
    claims = Claims(tmp_path, clock)
    foreign(claims, "run.0000")
    os.utime(tmp_path / "run.0000", (1, 1))  # the other computer's clock is decades late
    assert claims.look("run") is None
    clock.now += module.STALE
    assert claims.look("run") is None
    os.utime(tmp_path / "run.0000", (2, 2))
    clock.now += 1
    assert claims.look("run") is None
    clock.now += module.STALE + 1
    assert claims.look("run").generation == 1


def test_an_owner_touches_its_claim_so_that_it_does_not_become_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT", 0.02)
    claims = Claims(tmp_path)
    with claims.take(Ticket("run")):
        os.utime(tmp_path / "run.0000", (1, 1))
        until = time.monotonic() + 20
        while (tmp_path / "run.0000").stat().st_mtime < 2 and time.monotonic() < until:
            time.sleep(0.02)
        assert (tmp_path / "run.0000").stat().st_mtime > 2


def test_an_old_ticket_is_worthless_when_the_stale_claim_was_replaced_and_that_run_ended(tmp_path):
    claims, slow = Claims(tmp_path), Claims(tmp_path)
    foreign(claims, "run.0000", machine=module._machine(), pid=dead_process())
    old = slow.look("run")
    claims.take(claims.look("run")).release()
    assert slow.take(old) is None and left(claims) == []
    with claims.take(Ticket("run")):  # somebody else began anew: the stale one's place is taken by a live one
        assert slow.take(old) is None and left(claims) == ["run.0000"]


def test_only_the_claim_of_a_process_that_is_gone_is_dropped(tmp_path):
    claims = Claims(tmp_path)
    foreign(claims, "gone.0000", machine=module._machine(), pid=dead_process())
    foreign(claims, "elsewhere.0000")
    with claims.take(Ticket("ours")):
        for name in ("gone", "elsewhere", "ours", "absent"):
            claims.drop(Ticket(name))
        assert left(claims) == ["elsewhere.0000", "ours.0000"]


def test_a_claim_being_written_belongs_to_somebody(tmp_path):
    (tmp_path / "run.0000").write_text("")
    assert Claims(tmp_path).look("run") is None


def test_another_comparison_in_the_folder_is_refused(tmp_path):
    claims = Claims(tmp_path / "out" / ".claims")
    with claims.take(claims.look("run", "budget 45")):
        assert claims.look("run", "budget 45") is None
        with pytest.raises(BlosamError, match=rf"process \(number {os.getpid()}\) compares with other settings"):
            claims.look("run", "budget 60")


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    claims = Claims(tmp_path / "file" / "claims")
    with pytest.raises(BlosamError, match=r"cannot write .*run\.0000"):
        claims.take(claims.look("run"))
