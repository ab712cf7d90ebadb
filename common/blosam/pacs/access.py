"""Who we are to the archive and whether the line can be trusted: credentials, TLS, plain http."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from blosam.errors import BlosamError

TOKEN_VARIABLE = "BLOSAM_PACS_TOKEN"
# Other users of the machine can read the arguments of a process, so these may only come from a file.
SECRET_HEADERS = ("authorization", "proxy-authorization", "cookie")


class Token(AuthBase):
    """Puts the token on each request; a file is read again when it changes, as access tokens live an hour or so.

    Being an ``auth`` object also keeps requests from taking a password for this host out of ``~/.netrc`` and
    sending that instead.

    Args:
        path: file with the token, or None.
        text: the token itself, where there is no file; None sends none.

    Raises:
        BlosamError: when the file cannot be read or holds no token.
    """

    def __init__(self, path: Path | None = None, text: str | None = None) -> None:
        self.path = path
        self._read_at: tuple[int, int] | None = None
        self._value = _authorization(text, TOKEN_VARIABLE) if text is not None else None
        self.refresh()

    def __bool__(self) -> bool:
        return self._value is not None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        self.refresh()
        if self._value is not None:
            request.headers["Authorization"] = self._value
        return request

    def __repr__(self) -> str:
        return "Token(...)"

    def refresh(self) -> None:
        """Read the file again if it is not the one read last."""
        if self.path is None:
            return
        try:
            status = self.path.stat()
            mark = (status.st_mtime_ns, status.st_ino)
            if mark == self._read_at:
                return
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise BlosamError(f"--token-file {self.path}: {reason}. Give a readable file with the token.") from None
        self._value = _authorization(text, f"--token-file {self.path}")
        self._read_at = mark

    def readable_by_others(self) -> bool:
        """Whether the token's file grants anything to users other than its owner."""
        return self.path is not None and bool(self.path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _authorization(text: str, source: str) -> str:
    """The Authorization header: a bare word is a bearer token, ``Basic user:password`` is encoded."""
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable():
        raise BlosamError(f"{source}: holds no token. Put the token alone into it, in one line of ASCII.")
    scheme, _, rest = text.partition(" ")
    if not rest:
        return f"Bearer {text}"
    if scheme.lower() == "basic" and ":" in rest:  # base64 has no colon, so this is not encoded yet
        return "Basic " + base64.b64encode(rest.strip().encode()).decode()
    return text


def parse_headers(entries: list[str]) -> dict[str, str]:
    """``Name: value`` entries, and ``@FILE`` entries with one such line each, as a dictionary.

    Raises:
        BlosamError: for another layout, an unreadable file, or a credential written on the command line.
    """
    headers: dict[str, str] = {}
    for entry in entries:
        lines, source = [entry], "--header"
        if from_file := entry.startswith("@"):
            source = f"--header {entry}"
            try:
                lines = [line for line in Path(entry[1:]).read_text(encoding="utf-8").splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError):
                raise BlosamError(f"{source}: the file cannot be read. Put lines like 'Name: value' there.") from None
        for line in lines:
            name, colon, value = (part.strip() for part in line.partition(":"))
            if not colon or not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name) or not value.isprintable() or not value:
                # The value is left out: it may be a secret.
                raise BlosamError(f"{source}: not of the form 'Name: value'. Example: --header 'X-Site: 7'")
            if name.lower() in SECRET_HEADERS and not from_file:
                raise BlosamError(
                    f"--header {name}: other users can read command lines. Put it into a file and use --token-file FILE"
                    " or --header @FILE."
                )
            headers[name] = value
    return headers


@dataclass(frozen=True)
class Access:
    """Where the archive is and how to speak to it.

    Args:
        url: DICOMweb root, e.g. ``https://pacs.example.org/dicom-web``.
        token: credentials; an empty one sends none.
        headers: extra headers of every request.
        ca_bundle: certificates to trust instead of the usual ones.
        insecure: do not verify TLS certificates, and allow credentials over plain http.
        connect_timeout: seconds.
        read_timeout: seconds without a byte.
        retries: how often a request is repeated after a failure that may pass.
        backoff: seconds before the first repetition; doubles each time.
    """

    url: str
    token: Token = field(default_factory=Token)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    ca_bundle: Path | None = None
    insecure: bool = False
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    retries: int = 4
    backoff: float = 1.0

    @property
    def host(self) -> str:
        """Host and port, which is all of the address that messages show."""
        parts = urlsplit(self.url)
        return parts.netloc

    @property
    def loopback(self) -> bool:
        """Whether the address is this machine's own."""
        name = urlsplit(self.url).hostname or ""
        if name == "localhost":
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def check(self) -> list[str]:
        """Refuse what would give secrets away; what is merely unwise comes back as warnings.

        Raises:
            BlosamError: for an address that is none, or credentials that anybody on the way could read.
        """
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise BlosamError("--url: not an address. Give the DICOMweb root, e.g. https://pacs.example.org/dicom-web")
        if parts.username is not None or parts.query or parts.fragment:
            raise BlosamError(
                "--url: may hold neither a password nor '?' or '#'. Put 'Basic USER:PASSWORD' into a --token-file."
            )
        if self.ca_bundle is not None and not self.ca_bundle.is_file():
            raise BlosamError(
                f"--ca-bundle {self.ca_bundle}: no such file. Give a PEM file with your authority's root."
            )
        warnings = []
        plain = parts.scheme == "http" and not self.loopback
        if plain and (self.token or self.headers) and not self.insecure:
            raise BlosamError(
                f"{self.host}: a token or header would travel over plain http, readable on the way. Use https://, or"
                " --insecure on a network you trust."
            )
        if plain:
            warnings.append("http:// sends images and results unencrypted; use https:// outside a trusted network")
        if self.insecure and parts.scheme == "https":
            warnings.append("--insecure: the server's certificate is not verified, anybody on the way can read along")
        if self.token.readable_by_others():
            warnings.append(f"{self.token.path}: other users can read the token; mend it with chmod 600")
        return warnings


def token_from(path: Path | None) -> Token:
    """The token of ``--token-file``, else of the environment, else none."""
    return Token(path, None if path is not None else os.environ.get(TOKEN_VARIABLE))
