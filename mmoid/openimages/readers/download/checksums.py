"""Digests of a file as its bytes come, and whether they are those that were expected."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import IO

BLOCK = 1 << 20


class Digests:
    """Size, MD5 and SHA-256 of bytes that come block by block."""

    def __init__(self) -> None:
        self.size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()

    @classmethod
    def of(cls, stream: IO[bytes]) -> Digests:
        """Of what ``stream`` holds from its position on; leaves it at the end."""
        digests = cls()
        while block := stream.read(BLOCK):
            digests.update(block)
        return digests

    def update(self, block: bytes) -> None:
        """Adds bytes at the end."""
        self.size += len(block)
        self._md5.update(block)
        self._sha256.update(block)

    @property
    def md5(self) -> str:
        """Hexadecimal."""
        return self._md5.hexdigest()

    @property
    def sha256(self) -> str:
        """Hexadecimal."""
        return self._sha256.hexdigest()


@dataclass(frozen=True)
class Expected:
    """What a whole file should be; None is not known.

    Attributes:
        size: Bytes.
        md5: Hexadecimal, lower case.
        sha256: Hexadecimal, lower case.
    """

    size: int | None = None
    md5: str | None = None
    sha256: str | None = None

    @property
    def has_checksum(self) -> bool:
        """Whether more than the size is known."""
        return bool(self.md5 or self.sha256)

    def complaint(self, size: int, md5: str, sha256: str) -> str | None:
        """What is wrong with a whole file, to follow its name and a colon; None where nothing is."""
        for name, value, expected in (('SHA-256', sha256, self.sha256), ('MD5', md5, self.md5)):
            if expected is not None and value != expected:
                return f'its {name} is {value}, expected {expected}'
        if self.size is not None and size != self.size:
            return f'it has {size:,} bytes, expected {self.size:,}'
        return None
