"""ClassNames: which class a name means, and the error for an unknown one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmoid.openimages.errors import AnnotationError


@dataclass(frozen=True)
class ClassNames:
    """The classes of a data set, in the order of class indices. A class is identified by its MID.

    Args:
        label_names: (C,) MIDs such as ``/m/01g317``.
        display_names: (C,) names such as ``Person``; the MIDs if empty. A name that occurs twice gets its MID appended.
        source: File or config key that the classes come from, for error messages.

    Raises:
        AnnotationError: A MID that occurs twice.

    Examples:
        >>> classes = ClassNames(('/m/01g317', '/m/0k4j'), ('Person', 'Car'), 'classes.csv')
        >>> classes.indices(['Car', '/m/01g317'], 'metainfo.classes')
        array([1, 0])
        >>> classes.find(pa.array(['/m/0k4j', '/m/0jbk']))
        array([ 1, -1], dtype=int32)
    """

    label_names: tuple[str, ...]
    display_names: tuple[str, ...] = ()
    source: str = 'classes'

    def __post_init__(self) -> None:
        mids = tuple(self.label_names)
        names = tuple(self.display_names) or mids
        count = Counter(names)
        unique = (f'{name} ({mid})' if count[name] > 1 else name for mid, name in zip(mids, names))
        object.__setattr__(self, 'label_names', mids)
        object.__setattr__(self, 'display_names', tuple(unique) if len(count) < len(names) else names)
        require_unique(mids, self.source)

    def __len__(self) -> int:
        return len(self.label_names)

    def indices(self, names: Iterable[str], where: str) -> np.ndarray:
        """(K,) int64 indices of K MIDs or display names. A MID wins over an equal display name.

        Raises:
            AnnotationError: A name that is not a class. The message begins with ``where``, a file or config key.
        """
        names = list(names)
        for name in names:
            if name not in self._index:
                raise self.unknown(name, where)
        return np.array([self._index[name] for name in names], dtype=np.int64)

    def find(self, mids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """(R,) int32 indices of a column of MIDs or display names, as :meth:`indices`; -1 if not a class.

        Strings or a dictionary of strings; spaces around them do not count.
        """
        column = mids.combine_chunks() if isinstance(mids, pa.ChunkedArray) else mids
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        given, known = column.dictionary.cast(pa.string()), pa.array(list(self._index), pa.string())
        found = pc.coalesce(pc.index_in(given, known), pc.index_in(pc.utf8_trim_whitespace(given), known), -1)
        labels = np.array([*self._index.values(), -1], dtype=np.int32)
        return labels[found.to_numpy()][column.indices.to_numpy()]

    def unknown(self, name: str, where: str, remedy: str = '') -> AnnotationError:
        """The error for a name that is not a class. ``where`` names the file and line, or the config key."""
        if name in self._index:
            remedy = f'it is the display name of {self.label_names[self._index[name]]!r}; give MIDs'
        return AnnotationError(f'{where}: {name!r} is not a class of {self.source}' + (f'; {remedy}' if remedy else ''))

    def subset(self, indices: Sequence[int] | np.ndarray) -> ClassNames:
        """The classes at (K,) indices, in that order."""
        return ClassNames(
            tuple(self.label_names[i] for i in indices), tuple(self.display_names[i] for i in indices), self.source
        )

    @cached_property
    def _index(self) -> dict[str, int]:
        by_name = {name: i for i, name in enumerate(self.display_names)}
        return by_name | {mid: i for i, mid in enumerate(self.label_names)}


def require_unique(label_names: Sequence[str], where: str | Callable[[int], str]) -> None:
    """Raises an AnnotationError for the first MID that occurs twice.

    ``where`` is the file or config key, or a function from the position of a MID to its file and line.
    """
    seen: set[str] = set()
    for i, name in enumerate(label_names):
        if name in seen:
            place = where if isinstance(where, str) else where(i)
            raise AnnotationError(f'{place}: class {name!r} occurs twice; a class is identified by its MID')
        seen.add(name)
