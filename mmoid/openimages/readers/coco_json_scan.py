"""Where the arrays and objects of a JSON text begin and end, without parsing it.

Brackets count unless they stand in a string, a string ends at a quote that no backslash escapes, and all of this can
be told for millions of bytes at once: the parity of the quotes so far says what is in a string, a running sum over the
brackets says how deep a place lies.
"""

from __future__ import annotations

import numpy as np

QUOTE, BACKSLASH = ord('"'), ord('\\')

_STEP: np.ndarray = np.zeros(256, dtype=np.int8)
_STEP[[ord('['), ord('{')]] = 1
_STEP[[ord(']'), ord('}')]] = -1
_IS_SPECIAL: np.ndarray = _STEP != 0
_IS_SPECIAL[[QUOTE, BACKSLASH]] = True


class BracketScanner:
    """Reads a JSON text piece by piece; the pieces may end anywhere.

    Attributes:
        depth (int): Brackets that are open after the pieces read so far.
        in_string (bool): Whether the last piece ended within a string.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self._escaping = False  # the last piece ended with a backslash that escapes what follows

    def brackets(self, text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The brackets of the next piece that stand outside strings.

        Args:
            text: (n,) uint8.

        Returns:
            (k,) positions in ``text``, ascending; (k,) int8, 1 where ``[`` or ``{`` opens and -1 where one closes; (k,)
            depth after each.
        """
        place = np.flatnonzero(_IS_SPECIAL[text])
        code = text[place]
        if self._escaping or (code == BACKSLASH).any():
            kept = ~self._escaped(place[code == BACKSLASH], len(text))[place]
            place, code = place[kept], code[kept]
        # A quote that opens a string counts as within it. That is never asked: only brackets are.
        within = (np.cumsum(code == QUOTE) + self.in_string) & 1
        step = _STEP[code]
        step[within == 1] = 0
        if len(within):
            self.in_string = bool(within[-1])
        outside = step != 0
        depth = self.depth + np.cumsum(step[outside], dtype=np.int64)
        if len(depth):
            self.depth = int(depth[-1])
        return place[outside], step[outside], depth

    def _escaped(self, backslashes: np.ndarray, length: int) -> np.ndarray:
        """(length,) bool: characters that a backslash escapes, other backslashes among them."""
        if self._escaping:
            backslashes = np.concatenate([[-1], backslashes])  # the one at the end of the last piece
        # In a run of backslashes the first escapes the second, the third the fourth.
        starts = np.flatnonzero(np.diff(backslashes, prepend=-3) != 1)
        within_run = np.arange(len(backslashes)) - np.repeat(starts, np.diff(starts, append=len(backslashes)))
        escaped = np.zeros(length + 1, dtype=bool)
        escaped[backslashes[within_run % 2 == 0] + 1] = True
        self._escaping = bool(escaped[length])
        return escaped[:length]
