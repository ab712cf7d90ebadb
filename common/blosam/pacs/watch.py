"""Going through studies, once or again and again.

A watch remembers in the journal how many instances each study held. A study is taken when that number has stayed the
same for some polls (a transfer may still be going on), and looked at again only when the number changes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from blosam.errors import BlosamError

from .client import Study
from .errors import AccessRefused, Unreachable
from .journal import StudyState
from .pipeline import Pipeline, Report
from .selection import Selection

logger = logging.getLogger(__name__)

MAX_DELAY = 3600.0  # seconds between two attempts at a study that fails


@dataclass(frozen=True)
class Outcome:
    """What came of one study: a report, or why there is none."""

    study: Study
    report: Report | None = None
    error: BlosamError | None = None

    @property
    def failed(self) -> bool:
        """Whether something of the study is left undone that should have been done."""
        return self.error is not None or bool(self.report and self.report.failed)

    def text(self) -> str:
        """One line for people, without identifiers."""
        if self.report is None:
            return str(self.error)
        r = self.report
        if r.images == 0:
            return "no image of this kind"
        parts = [f"{r.images - r.known} of {count(r.images, 'image')} new"]
        for number, word in ((r.stored, "stored"), (r.present, "there already")):
            parts += [f"{count(number, 'result')} {word}"] if number else []
        for number, word in ((r.refused, "not suitable"), (r.failed, "failed")):
            parts += [f"{count(number, 'image')} {word}"] if number else []
        reasons = sorted(set(r.reasons))
        return ", ".join(parts) + (f" ({'; '.join(reasons)})" if reasons else "")


def count(number: int, word: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {word if number == 1 else {'study': 'studies'}.get(word, word + 's')}"


def attempt(pipeline: Pipeline, study: Study) -> Outcome:
    """Process a study; what goes wrong with it alone becomes part of the outcome.

    Raises:
        AccessRefused, Unreachable: when the trouble is not this study's, so that others would meet it, too.
    """
    try:
        return Outcome(study, pipeline.process(study))
    except AccessRefused:
        raise
    except Unreachable as error:
        pipeline.archive.ask()
        return Outcome(study, error=error)
    except BlosamError as error:
        return Outcome(study, error=error)


def once(pipeline: Pipeline, studies: list[Study]) -> Iterator[Outcome]:
    """Process studies one after the other."""
    for study in studies:
        yield attempt(pipeline, study)


class Watch:
    """Polls an archive for studies to process.

    Args:
        pipeline: what to do with a study.
        selection: which studies to ask for.
        interval: seconds between two polls.
        stable_polls: for how many polls the number of instances must not have changed.
        attempts: how often a study may fail before it is left alone until it changes.
        name: how a study is called in the log.
        sleep: how to wait; tests replace it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        selection: Selection,
        interval: float,
        stable_polls: int = 2,
        attempts: int = 3,
        name: Callable[[str], str] = str,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.pipeline, self.selection = pipeline, selection
        self.interval, self.stable_polls, self.attempts = interval, stable_polls, attempts
        self.name, self.sleep = name, sleep
        self._trouble: str | None = None

    def run(self, polls: int | None = None) -> None:
        """Poll until interrupted, or a number of times.

        Raises:
            AccessRefused: when the first poll is refused. Later refusals are logged: a token may be renewed.
        """
        number = 0
        while polls is None or number < polls:
            if number:
                self.sleep(self.interval)
            try:
                self.poll()
            except (AccessRefused, Unreachable) as error:
                if number == 0 and isinstance(error, AccessRefused):
                    raise
                self._report_trouble(str(error))
            except BlosamError as error:
                self._report_trouble(str(error))
            else:
                self._report_trouble(None)
            number += 1

    def poll(self) -> list[Outcome]:
        """Ask once, and process the studies that are ready."""
        outcomes = []
        for study, state in self._ready():
            outcomes.append(self._take(study, state))
        return outcomes

    def _ready(self) -> list[tuple[Study, StudyState]]:
        """Note what the archive holds now; the studies that wait no longer."""
        journal, now = self.pipeline.journal, time.time()
        notes: dict[str, StudyState] = {}
        ready = []
        for study in self.selection.find(self.pipeline.archive):
            number = self.pipeline.archive.count(study)
            state = journal.study(study.uid)
            if state is None or state.instances != number:
                state = notes[study.uid] = StudyState(number)
            elif not state.settled and state.unchanged < self.stable_polls:
                state = notes[study.uid] = replace(state, unchanged=state.unchanged + 1)
            if not state.settled and state.unchanged >= self.stable_polls and state.not_before <= now:
                ready.append((study, state))
        if notes:
            journal.note(notes)
        return ready

    def _take(self, study: Study, state: StudyState) -> Outcome:
        journal = self.pipeline.journal
        tried = state.attempts + 1
        delay = min(MAX_DELAY, self.interval * 2**tried)
        # Counted before it begins: a study that brings the whole process down is left alone after a few restarts.
        begun = replace(state, attempts=tried, not_before=time.time() + delay, settled=tried >= self.attempts)
        journal.note({study.uid: begun})
        try:
            outcome = attempt(self.pipeline, study)
        except (AccessRefused, Unreachable, KeyboardInterrupt):
            journal.note({study.uid: state})  # not the study's doing
            raise
        stored = outcome.report.stored if outcome.report else 0
        after = replace(begun, instances=state.instances + stored)
        if not outcome.failed:
            after = replace(after, settled=True)
        journal.note({study.uid: after})
        self._log(outcome, after)
        return outcome

    def _log(self, outcome: Outcome, state: StudyState) -> None:
        text = f"study {self.name(outcome.study.uid)}: {outcome.text()}"
        if not outcome.failed:
            logger.info("%s", text)
        elif state.settled:
            logger.error("%s; given up after %s, until the study changes", text, count(state.attempts, "attempt"))
        else:
            logger.warning("%s; attempt %d of %d, tried again later", text, state.attempts, self.attempts)

    def _report_trouble(self, text: str | None) -> None:
        """Say it when trouble begins, changes or ends, not at every poll."""
        if text is not None and text != self._trouble:
            logger.error("%s Going on polling every %g s.", text, self.interval)
        elif text is None and self._trouble is not None:
            logger.info("the archive answers again")
        self._trouble = text
