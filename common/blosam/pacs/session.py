"""An HTTP session that repeats what may succeed later, and hands on only answers that arrived whole.

dicomweb-client does the DICOMweb part on top of it. Its own repetition is switched off: it would repeat after every
exception, wait without jitter, ignore Retry-After, and report a last 503 as an error of its own.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from typing import Any

import requests
import urllib3

from .access import Access
from .errors import AccessRefused, ArchiveError, Unreachable

REPEATED = (429, 502, 503, 504)
MAX_WAIT = 60.0  # seconds between two attempts, unless the server asks for more
MAX_RETRY_AFTER = 300.0
# A SEG or an endoscopy video may be large; an answer beyond this is a fault, and memory is finite.
MAX_ANSWER = 1024**3
CHUNK = 256 * 1024


class _CutOff(Exception):
    """An answer that ends too early, or never does."""


class ArchiveSession(requests.Session):
    """A ``requests.Session`` for one archive.

    Args:
        access: address, credentials, timeouts.
        sleep: how to wait; tests replace it.
    """

    def __init__(self, access: Access, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__()
        self.access = access
        self.sleep = sleep
        self.auth = access.token
        self.headers.update(access.headers)
        # A proxy from the environment must not get what is meant for this machine only.
        self.trust_env = not access.loopback

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        """Send a request, repeating it as :class:`Access` allows; the whole answer has been read on return.

        A repeated POST is safe here: what we store has fixed UIDs, so an archive that has it already keeps one.

        Raises:
            Unreachable: when no attempt brought an answer that could be read to its end.
            AccessRefused: for 401 and 403.
            ArchiveError: for redirections.
        """
        options = self._adapted(method, options)
        for attempt in range(self.access.retries + 1):
            last = attempt == self.access.retries
            asked_for = None
            try:
                response = super().request(method, url, **options)
                _read_whole(response, self.access.read_timeout)
            except requests.exceptions.SSLError:
                raise Unreachable(
                    f"{self.access.host}: the TLS certificate is not trusted, or TLS fails. Give your authority's root"
                    " with --ca-bundle FILE."
                ) from None  # the cause's text holds the whole address, identifiers included; likewise below
            except (requests.exceptions.ConnectionError, requests.exceptions.Timeout, _CutOff) as error:
                reason = _reason(error)
            except requests.exceptions.RequestException as error:
                raise ArchiveError(f"{self.access.host}: no usable answer ({type(error).__name__}).") from None
            else:
                if response.status_code not in REPEATED:
                    return self._checked(response)
                reason = f"it answers {response.status_code}"
                asked_for = retry_after(response.headers.get("Retry-After"))
            if not last:
                self.sleep(waiting_time(attempt, self.access.backoff, asked_for))
        raise Unreachable(
            f"{self.access.host}: {reason}, also after {self.access.retries} retries. Check the server and --url."
        )

    def _adapted(self, method: str, options: dict[str, Any]) -> dict[str, Any]:
        headers = dict(options.get("headers") or {})
        # dicomweb-client gives the name without the port here, which some reverse proxies do not know.
        headers.pop("Host", None)
        if method.upper() == "POST":
            headers["Accept"] = "application/dicom+json"
        return {
            **options,
            "headers": headers,
            "stream": True,
            "allow_redirects": False,  # custom headers would follow to another host
            "timeout": (self.access.connect_timeout, self.access.read_timeout),
            # Said with each request, because the environment (REQUESTS_CA_BUNDLE) outranks the session's own.
            "verify": False if self.access.insecure else str(self.access.ca_bundle or "") or True,
        }

    def _checked(self, response: requests.Response) -> requests.Response:
        status = response.status_code
        if status in (401, 403):
            mend = "Check --token-file" if self.access.token else "Give credentials with --token-file FILE"
            what = "asks who you are" if status == 401 else "does not allow this"
            raise AccessRefused(f"{self.access.host}: the server {what} (HTTP {status}). {mend}.")
        if 300 <= status < 400:
            raise ArchiveError(f"{self.access.host}: the server redirects (HTTP {status}). Give the final address.")
        # dicomweb-client compares the whole header, so that "; charset=utf-8" would hide a failed STOW from us.
        kind = response.headers.get("Content-Type", "")
        if kind.partition(";")[0].strip().lower() in ("application/dicom+json", "application/json"):
            response.headers["Content-Type"] = "application/dicom+json"
        return response


def waiting_time(attempt: int, backoff: float, asked_for: float | None = None) -> float:
    """Seconds to wait after attempt 0, 1, ...: doubling, with jitter so that many clients do not return together."""
    wait = min(MAX_WAIT, backoff * 2**attempt) * random.uniform(0.5, 1.5)
    return wait if asked_for is None else max(wait, min(asked_for, MAX_RETRY_AFTER))


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for (a number or an HTTP date); None when it says nothing usable."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _read_whole(response: requests.Response, patience: float) -> None:
    """Read the body into ``response.content``, bounded in size and time, and check that it is complete.

    A server that sends a byte now and then never runs into the read timeout, hence the limit on the whole.
    """
    deadline = time.monotonic() + 20 * patience
    chunks, size = [], 0
    with response:
        try:
            # read1 gives what is there; iter_content would wait for a whole chunk, however slowly it comes.
            while chunk := response.raw.read1(CHUNK, decode_content=True):
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_ANSWER:
                    raise ArchiveError(f"an answer of more than {MAX_ANSWER} bytes. Retrieve such images by hand.")
                if time.monotonic() > deadline:
                    raise _CutOff("the answer takes too long")
        except urllib3.exceptions.ReadTimeoutError:
            raise _CutOff("no answer in time") from None
        except urllib3.exceptions.HTTPError:
            raise _CutOff("the answer broke off") from None
        response._content_consumed = True  # so that the connection is kept for the next request
    response._content = b"".join(chunks)  # what requests itself does; there is no public way to set it
    end = _closing_delimiter(response.headers.get("Content-Type", ""))
    if response.ok and end is not None and not response.content.rstrip().endswith(end):
        raise _CutOff("the answer broke off")


def _closing_delimiter(content_type: str) -> bytes | None:
    """What a multipart body must end with; None when it is no multipart body (or has no stated boundary)."""
    kind, *parameters = (part.strip() for part in content_type.split(";"))
    if kind.lower() != "multipart/related":
        return None
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "boundary":
            return b"--" + value.strip().strip('"').encode() + b"--"
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, _CutOff):
        return str(error)
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    text = str(error)
    if "Name or service not known" in text or "NameResolution" in text:
        return "no such host"
    return "connection refused" if "refused" in text else "the connection fails"
