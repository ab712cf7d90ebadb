"""``blosam pacs`` as users type it, without a server: what it refuses before it asks one."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from blosam.cli import _register, app
from blosam.errors import BlosamError

_register()
URL = ("--url", "https://pacs.example.org/rs")


def refused(*options: str) -> str:
    result = CliRunner().invoke(app, ["pacs", "--bundle", "none", *options])
    assert result.exit_code == 1
    assert isinstance(result.exception, BlosamError)
    return str(result.exception)


def test_asks_which_studies():
    assert "--since 7d" in refused(*URL)


def test_token_is_not_sent_over_plain_http(tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cr3t")
    message = refused("--url", "http://pacs.example.org/rs", "--all", "--token-file", str(token))
    assert "plain http" in message
    assert "s3cr3t" not in message


def test_credentials_on_the_command_line():
    assert "--token-file" in refused(*URL, "--all", "--header", "Authorization: Bearer s3cr3t")


def test_server_that_is_not_there():
    assert "connection refused" in refused("--url", "http://127.0.0.1:9", "--all", "--retries", "0")


@pytest.mark.parametrize(
    ("options", "word"),
    [(("--store", "stl"), "seg-fractional"), (("--store", ""), "empty"), (("--watch", "5", "--again"), "--again")],
)
def test_wrong_usage_is_exit_code_2(options, word):
    result = CliRunner().invoke(app, ["pacs", "--bundle", "none", *URL, "--all", *options])
    assert result.exit_code == 2
    assert word in result.output
