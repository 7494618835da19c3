"""The lines of `sources`."""

from __future__ import annotations

import pytest

from goose import sources
from goose.sources import Source, SourcesError

SHA512, MD5 = "0a" * 64, "1b" * 16


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("\n  \n", []),
        (f"SHA512 (a-1.tar.gz) = {SHA512}\n", [Source("a-1.tar.gz", "sha512", SHA512)]),
        (f"{MD5}  a-1.tar.gz", [Source("a-1.tar.gz", "md5", MD5)]),
        (f"MD5 (a) = {MD5}\r\nSHA512 (b) = {SHA512}\n", [Source("a", "md5", MD5), Source("b", "sha512", SHA512)]),
        (f"SHA512 (a b (1).zip) = {SHA512}", [Source("a b (1).zip", "sha512", SHA512)]),
        (f"SHA512 (ä.zip) = {SHA512}", [Source("ä.zip", "sha512", SHA512)]),
        (f"SHA512 (a) = {SHA512}\nSHA512 (a) = {SHA512}\n", [Source("a", "sha512", SHA512)]),
    ],
)
def test_parse(text: str, found: list[Source]) -> None:
    assert sources.parse(text) == found


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense", "is neither"),
        (f"{MD5} a.tar.gz", "is neither"),
        (f"CRC32 (a) = {MD5}", "hash type crc32"),
        (f"SHA512 (a) = {MD5}", "not 128 lower-case hexadecimal digits"),
        (f"SHA512 (a) = {SHA512.upper()}", "not 128 lower-case"),
        (f"SHA512 (../a) = {SHA512}", "is a path"),
        (f"{MD5}  ..", "is a path"),
        (f"SHA512 (a\tb) = {SHA512}", "control characters"),
        (f"SHA512 ({'a' * 256}) = {SHA512}", "256 bytes long"),
    ],
)
def test_bad_lines(line: str, says: str) -> None:
    """A name becomes a file in the packager's directory: what it must not be is refused where it is read."""
    with pytest.raises(SourcesError, match=says) as raised:
        sources.parse(f"SHA512 (good) = {SHA512}\n{line}\n")
    assert str(raised.value).startswith("Line 2 of sources ")


def test_format_line() -> None:
    source = Source("a-1.tar.gz", "sha512", SHA512)
    assert sources.format_line(source) == f"SHA512 (a-1.tar.gz) = {SHA512}\n"
    assert sources.parse(sources.format_line(source)) == [source]
