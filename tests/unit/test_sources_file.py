"""The file `sources`: both formats, and what no archive may be called."""

from __future__ import annotations

import pytest

from goose.sources import Source, SourcesError, format_line, parse

SHA512 = "ab" * 64
MD5 = "0f" * 16


def test_both_formats() -> None:
    text = f"SHA512 (a-1.0.tar.xz) = {SHA512}\n\n{MD5}  b_2+~rc1.tgz\n"
    assert parse(text) == [Source("a-1.0.tar.xz", "sha512", SHA512), Source("b_2+~rc1.tgz", "md5", MD5)]


def test_what_is_written_is_read() -> None:
    source = Source("a-1.0.tar.xz", "sha512", SHA512)
    assert format_line(source) == f"SHA512 (a-1.0.tar.xz) = {SHA512}\n"
    assert parse(format_line(source)) == [source]


def test_same_line_twice_is_one() -> None:
    assert len(parse(f"{MD5}  a\n{MD5}  a\n")) == 1


def test_case_of_a_hash_says_nothing() -> None:
    assert parse(f"SHA512 (a) = {SHA512.upper()}")[0].hash == SHA512


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("a-1.0.tar.xz", "is no line"),
        (f"SHA512 (a) = {SHA512[:-1]}", "127 digits, not 128"),
        (f"CRC32 (a) = {MD5}", "unknown type"),
        (f"SHA512 (..) = {SHA512}", "no name"),
        (f"SHA512 (../a) = {SHA512}", "not allowed"),
        (f"{MD5}  /etc/passwd", "not allowed"),
        (f"{MD5}  -rf", "no name"),
        (f"{MD5}  a\0b", "not allowed"),
        (f"{MD5}  a\x1b[31m", "not allowed"),
        (f"{MD5}  {'x' * 300}", "longer than 255"),
        (f"SHA512 (a) = {SHA512} # comment", "is no line"),
        (f"{MD5}  a\n{MD5[::-1]}  a", "twice"),
    ],
)
def test_refused(line: str, told: str) -> None:
    with pytest.raises(SourcesError, match=r"Line \d of `sources`: .*" + told):
        parse(line)
