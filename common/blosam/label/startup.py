"""Run at every start of Python in MONAI Label's environment, through the file ``zz_blosam.pth``.

MONAI Label and its training processes import torchvision before anything of ours; on a CPU-only PyTorch that fails
unless two operators are declared first (see ``blosam.compat``). Importing PyTorch here would slow down every start,
so the declaration waits until somebody imports torchvision.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder


class _DeclareFirst(MetaPathFinder):
    """Finds nothing; declares the operators when torchvision is looked for."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)  # declaring imports torchvision, too
            from blosam.compat import declare_torchvision_ops

            declare_torchvision_ops()


sys.meta_path.insert(0, _DeclareFirst())
