"""MONAI Label: an annotation server for 3D Slicer and OHIF that segments with our bundles and trains them.

MONAI Label needs older packages than we do, so its server runs in an environment of its own (``make label``).
``environment``, ``folder`` and ``launch`` run in ours, ``startup``, ``app``, ``tasks``, ``datastore`` and ``server`` in
that one.
"""
