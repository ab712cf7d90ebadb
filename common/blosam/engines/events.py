"""Events of the bilevel trainer beyond ignite's own.

Ignite calls handlers in the order of the list they were given in, and MONAI Label inserts handlers of its own.
Anything that must happen before or after everybody else therefore gets an event instead of a place in the list.
"""

from __future__ import annotations

from ignite.engine import EventEnum


class BilevelEvents(EventEnum):
    """When they fire, in this order.

    ``RESTORE``: once per run, after every ``STARTED`` handler (so after every checkpoint loader).
    ``LOWER_COMPLETED``: theta has been updated on D1; ``engine.state.output["loss"]`` is set.
    ``UPPER_COMPLETED``: p has been updated on D2; ``engine.state.output["d2_loss"]`` is set. Not in joint mode.
    ``EPOCH_VALIDATED``: after every ``EPOCH_COMPLETED`` handler, so metrics of this epoch are known.
    ``EPOCH_CLOSED``: after ``EPOCH_VALIDATED``; the complete state of the epoch may be saved.
    ``INTERRUPTED``: the run was stopped by Ctrl-C; the exception is raised again afterwards.
    """

    RESTORE = "restore"
    LOWER_COMPLETED = "lower_completed"
    UPPER_COMPLETED = "upper_completed"
    EPOCH_VALIDATED = "epoch_validated"
    EPOCH_CLOSED = "epoch_closed"
    INTERRUPTED = "interrupted"
