"""What can go wrong with an archive, told apart by what it means for the run.

No message names a study: the text of HTTP libraries holds whole addresses, identifiers included, so none of it is used.
"""

from __future__ import annotations

from blosam.errors import BlosamError


class ArchiveError(BlosamError):
    """The archive answered, but not with what was asked for. It concerns one request, hence one study."""


class Unreachable(ArchiveError):
    """No answer, or none that could be read to its end, after all retries."""


class AccessRefused(ArchiveError):
    """401 or 403: asking again with the same credentials is pointless, whatever the study."""


class StoreRefused(ArchiveError):
    """The archive did not take an object (FailedSOPSequence, or an error for the whole request)."""
