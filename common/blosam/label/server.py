"""MONAI Label's web application, with errors that reach the client (runs in MONAI Label's environment).

MONAI Label answers "Internal Server Error" and keeps the reason in its log; annotators do not see that.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.config import settings
from monailabel.endpoints.train import run_model
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance

from blosam.errors import BlosamError

__all__ = ["app"]

router = APIRouter()

# MONAI Label lets pages of every origin in: any web page that the annotator opens could then read the images from this
# computer. 3D Slicer is no browser, and OHIF comes from this server itself.
app.user_middleware = [entry for entry in app.user_middleware if entry.cls is not CORSMiddleware]


@app.exception_handler(BlosamError)
async def _refused(request: Request, error: BlosamError) -> JSONResponse:
    """What a user can mend."""
    return JSONResponse({"detail": str(error)}, status_code=400)


@app.exception_handler(MONAILabelException)
async def _label_error(request: Request, error: MONAILabelException) -> JSONResponse:
    """MONAI Label's own errors."""
    return JSONResponse({"detail": error.msg}, status_code=400)


@router.post("/train/{model}")
async def _train(
    model: str,
    params: dict[str, Any] | None = None,
    run_sync: bool | None = False,
    enqueue: bool | None = False,
    user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN)),  # noqa: B008
) -> Any:
    """MONAI Label's own start of a training, after the checks that its child process would fail."""
    app_instance().check_training(model)
    return run_model(model, params, run_sync, enqueue)


# Before MONAI Label's own route of the same path: the first that fits is taken.
for route in reversed(router.routes):
    app.router.routes.insert(0, route)
