"""The one exception users are meant to read."""

from __future__ import annotations


class BlosamError(ValueError):
    """A problem the user can mend: one line naming the file, the value and the mend.

    The command line prints it as ``error: MESSAGE`` and exits with 1; everything else is a defect of ours
    and keeps its traceback.
    """
