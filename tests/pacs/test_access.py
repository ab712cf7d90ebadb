from __future__ import annotations

import os
import time

import pytest
import requests

from blosam.errors import BlosamError
from blosam.pacs.access import TOKEN_VARIABLE, Access, Token, parse_headers, token_from

SECRET = "s3cr3t-token"


def sent(token: Token) -> str | None:
    request = requests.Request("GET", "https://pacs.example.org/").prepare()
    return token(request).headers.get("Authorization")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{SECRET}\n", f"Bearer {SECRET}"),
        (f"Bearer {SECRET}", f"Bearer {SECRET}"),
        ("Basic reader:pass:word", "Basic cmVhZGVyOnBhc3M6d29yZA=="),
        ("Basic cmVhZGVyOnBhc3M=", "Basic cmVhZGVyOnBhc3M="),
    ],
)
def test_token_file(tmp_path, text, expected):
    (tmp_path / "token").write_text(text)
    assert sent(Token(tmp_path / "token")) == expected


@pytest.mark.parametrize("content", [b"", b" \n", b"two\nlines", b"\xff\xfe", "schlüssel".encode()])
def test_unusable_token_file_names_the_file_and_not_its_content(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(BlosamError, match=str(path)) as caught:
        Token(path)
    assert "lines" not in str(caught.value)
    assert "schl" not in str(caught.value)


def test_missing_token_file(tmp_path):
    with pytest.raises(BlosamError, match="No such file"):
        Token(tmp_path / "none")


def test_renewed_token_is_read_again(tmp_path):
    path = tmp_path / "token"
    path.write_text("old")
    token = Token(path)
    path.write_text("new")
    os.utime(path, (time.time() + 5, time.time() + 5))
    assert sent(token) == "Bearer new"


def test_environment_is_used_where_no_file_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, SECRET)
    (tmp_path / "token").write_text("of-the-file")
    assert sent(token_from(None)) == f"Bearer {SECRET}"
    assert sent(token_from(tmp_path / "token")) == "Bearer of-the-file"
    monkeypatch.delenv(TOKEN_VARIABLE)
    assert not token_from(None)
    assert sent(token_from(None)) is None


def test_token_does_not_show_itself():
    access = Access("https://pacs.example.org", Token(text=SECRET), {"X-Key": SECRET})
    assert SECRET not in repr(access)


def test_headers(tmp_path):
    (tmp_path / "headers").write_text("Authorization: Digest x\n\nX-Api-Key: 7\n")
    assert parse_headers(["X-Site: north: 2"]) == {"X-Site": "north: 2"}
    assert parse_headers([f"@{tmp_path / 'headers'}"]) == {"Authorization": "Digest x", "X-Api-Key": "7"}


@pytest.mark.parametrize("entry", ["Authorization: Bearer x", "cookie: a=b", "PROXY-AUTHORIZATION: x"])
def test_credentials_are_refused_on_the_command_line(entry):
    with pytest.raises(BlosamError, match="--token-file"):
        parse_headers([entry])


@pytest.mark.parametrize("entry", [f"X-Key {SECRET}", f"X Key: {SECRET}", f"X: {SECRET}\r\nY: 1", "X:", "@/no/such"])
def test_bad_headers_are_refused_without_repeating_their_value(entry):
    with pytest.raises(BlosamError) as caught:
        parse_headers([entry])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["pacs.example.org", "ftp://x/", "http://", "https://a:b@x/", "https://x/?q=1", "http://[::1", "http://x:0/"]
)
def test_bad_addresses(url):
    with pytest.raises(BlosamError, match="--url"):
        Access(url).check()


def test_token_needs_tls_loopback_or_insecure():
    token = Token(text=SECRET)
    with pytest.raises(BlosamError, match="plain http") as caught:
        Access("http://pacs.example.org/rs", token).check()
    assert SECRET not in str(caught.value)
    with pytest.raises(BlosamError, match="plain http"):
        Access("http://127.0.0.1.example.org/rs", headers={"X-Key": "1"}).check()
    for url in ("http://127.0.0.1:8042/rs", "http://localhost/rs", "http://[::1]:80/rs", "https://pacs.example.org/rs"):
        assert Access(url, token).check() == []
    assert "unencrypted" in Access("http://pacs.example.org/rs", token, insecure=True).check()[0]
    assert "unencrypted" in Access("http://pacs.example.org/rs").check()[0]
    assert "not verified" in Access("https://pacs.example.org/rs", token, insecure=True).check()[0]


def test_warns_of_a_token_that_others_can_read(tmp_path):
    path = tmp_path / "token"
    path.write_text(SECRET)
    path.chmod(0o644)
    assert "chmod 600" in Access("https://pacs.example.org", Token(path)).check()[0]
    path.chmod(0o600)
    assert Access("https://pacs.example.org", Token(path)).check() == []


def test_missing_ca_bundle(tmp_path):
    with pytest.raises(BlosamError, match="--ca-bundle"):
        Access("https://pacs.example.org", ca_bundle=tmp_path / "none.pem").check()
