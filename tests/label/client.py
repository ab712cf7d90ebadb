"""MONAI Label's own client, driven by lines of JSON: run by the tests with the Python of .venv-label."""

from __future__ import annotations

import json
import sys

answers = sys.stdout
sys.stdout = sys.stderr  # imports print

from monailabel.client import MONAILabelClient  # noqa: E402
from monailabel.client.client import MONAILabelClientException  # noqa: E402

client = MONAILabelClient(sys.argv[1], tmpdir=sys.argv[2])
for line in sys.stdin:
    method, arguments = json.loads(line)
    try:
        answer = {"result": getattr(client, method)(*arguments)}
    except MONAILabelClientException as error:
        answer = {"error": error.msg}
    print(json.dumps(answer), file=answers, flush=True)
