"""ClassHierarchy: the directed acyclic graph of classes.

Open Images publishes it as a nested JSON of ``LabelName``, ``Subcategory`` and ``Part``. Only ``Subcategory`` edges
make ancestors ("a Wheel is part of a Car" does not make a wheel a car). A class may hang below several parents; it
then occurs several times in the file. The root is virtual: it is never a class.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, identity

from mmoid.openimages.classes import ClassNames, require_unique
from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.ragged import gather_rows


class ClassHierarchy:
    """Ancestors and descendants of classes, by class index.

    Args:
        tree: The nested hierarchy, ``{'LabelName': ..., 'Subcategory': [...], 'Part': [...]}``.
        label_names: C MIDs by class index. Ancestry through a node that is not a class is kept.
        source: File of the tree, for error messages.

    Attributes:
        label_names (tuple[str, ...]): C names, position is class index.
        sparse_ancestors (csr_array): (C, C) bool; ``[i, j]`` is True where j is an ancestor of i. No class is its own.
        depth (np.ndarray): (C,) int; edges on the longest path from the root, 1 for classes right below it.

    Raises:
        AnnotationError: A class that the tree lacks or that occurs twice, a malformed or cyclic tree.
    """

    def __init__(self, tree: dict, label_names: Sequence[str], source: str = 'hierarchy') -> None:
        self.label_names = tuple(label_names)
        parents = _parents(tree, source)
        require_unique(self.label_names, 'classes')
        unknown = sorted(set(self.label_names) - set(parents))
        if unknown and (root := tree['LabelName']) in unknown:
            raise AnnotationError(
                f'{source}: {root!r} is the root of the hierarchy, and the root is never a class; put it below another '
                f'root, {{"LabelName": "root", "Subcategory": [...]}}, or leave it out of the classes'
            )
        if unknown:
            count = f'{len(unknown)} of the {self.num_classes} classes'
            raise AnnotationError(f'{source}: lacks {count}, first {unknown[0]!r}; give the file of these classes')
        try:
            parents_first = list(TopologicalSorter(parents).static_order())
        except CycleError as error:
            name = error.args[1][0]
            raise AnnotationError(f'{source}: {name!r} is its own ancestor, a cycle') from error
        ancestors: dict[str, set[str]] = {}
        depth: dict[str, int] = {}
        for name in parents_first:
            ancestors[name] = parents[name].union(*(ancestors[parent] for parent in parents[name]))
            depth[name] = 1 + max((depth[parent] for parent in parents[name]), default=0)
        index = {name: i for i, name in enumerate(self.label_names)}
        pairs = [(i, index[above]) for name, i in index.items() for above in ancestors[name] if above in index]
        rows_and_columns = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
        self.sparse_ancestors = csr_array((np.ones(len(pairs), dtype=bool), rows_and_columns), (len(index), len(index)))
        self.depth = np.array([depth[name] for name in self.label_names], dtype=np.int64)

    @classmethod
    def from_json(cls, path: str | Path, label_names: Sequence[str]) -> ClassHierarchy:
        """Reads the official JSON file such as ``bbox_labels_600_hierarchy.json``."""
        return cls(load_tree(path), label_names, source=str(path))

    @cached_property
    def ancestor_matrix(self) -> np.ndarray:
        """``sparse_ancestors`` as a dense (C, C) array."""
        matrix: np.ndarray = self.sparse_ancestors.toarray()
        return matrix

    @property
    def self_and_ancestors(self) -> csr_array:
        """(C, C) bool; ``[i, j]`` is True where j is i or an ancestor of i."""
        return csr_array(self.sparse_ancestors + identity(self.num_classes, bool))

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.label_names)

    @property
    def is_leaf(self) -> np.ndarray:
        """(C,) bool: classes without descendants among the classes."""
        return np.logical_not(self.ancestor_matrix.any(axis=0))

    def ancestors(self, label: int) -> np.ndarray:
        """Class indices of all ancestors of one class, ascending, each once."""
        return np.flatnonzero(self.ancestor_matrix[label])

    def descendants(self, label: int) -> np.ndarray:
        """Class indices of all descendants of one class, ascending, each once."""
        return np.flatnonzero(self.ancestor_matrix[:, label])

    def expand_up(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Puts the ancestors of every label right after it, duplicates included.

        Args:
            labels: (N,) class indices.

        Returns:
            ``rows`` and ``labels``, both (M,): entry ``labels[k]`` comes from input row ``rows[k]``, ascending.
        """
        return _expand(labels, self.ancestor_matrix)

    def expand_down(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Puts the descendants of every label right after it; see :meth:`expand_up`."""
        return _expand(labels, self.ancestor_matrix.T)

    def expand_labels(self, labels: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expands image-level labels: those with (N,) ``confidence`` above 0 up, those of confidence 0 down.

        Returns ``rows`` and ``labels`` as :meth:`expand_up`, but rows do not ascend.
        """
        present, absent = np.flatnonzero(confidence > 0), np.flatnonzero(confidence == 0)
        up, up_labels = self.expand_up(labels[present])
        down, down_labels = self.expand_down(labels[absent])
        return np.concatenate([present[up], absent[down]]), np.concatenate([up_labels, down_labels])

    def verified_classes(self, present: np.ndarray, absent: np.ndarray) -> np.ndarray:
        """Class indices that are verified in an image, ascending: what is present expands up, what is absent down.

        Args:
            present: (P,) classes of its boxes and of its positive image-level labels.
            absent: (A,) classes of its negative image-level labels.
        """
        verified: np.ndarray = np.zeros(self.num_classes, dtype=bool)
        verified[present] = verified[absent] = True
        verified |= self.ancestor_matrix[present].any(axis=0) | self.ancestor_matrix[:, absent].any(axis=1)
        return np.flatnonzero(verified)


def flat_tree(label_names: Sequence[str]) -> dict:
    """A hierarchy in which no class has ancestors."""
    root = 'root' if 'root' not in label_names else 'root of all classes'
    return {'LabelName': root, 'Subcategory': [{'LabelName': name} for name in label_names]}


def tree_of_ancestors(ancestor_matrix: np.ndarray, label_names: Sequence[str]) -> dict:
    """The hierarchy of (C, C) ancestors: every class hangs below the root and below all of its ancestors."""
    tree = flat_tree(label_names)
    for label, node in enumerate(tree['Subcategory']):
        below = np.flatnonzero(ancestor_matrix[:, label])
        node['Subcategory'] = [{'LabelName': label_names[i]} for i in below]
    return tree


def load_tree(path: str | Path) -> dict:
    """Reads a hierarchy JSON."""
    try:
        tree: dict = json.loads(Path(path).read_bytes())  # UTF-8 or UTF-16, with a BOM or without
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no text, or no JSON
        raise AnnotationError(f'{path}: cannot be read as a hierarchy JSON ({error})') from error
    return tree


def tree_over(classes: ClassNames, path: str | Path | None) -> dict:
    """The tree of a hierarchy JSON over the classes; without a file, no class has ancestors.

    Raises:
        AnnotationError: As of :class:`ClassHierarchy`.
    """
    tree = flat_tree(classes.label_names) if path is None else load_tree(path)
    ClassHierarchy(tree, classes.label_names, str(path or classes.source))
    return tree


def names_with_ancestors(tree: dict, label_names: Sequence[str], source: str = 'hierarchy') -> tuple[str, ...]:
    """Some classes, followed by those of their ancestors in the tree that are not among them."""
    parents = _parents(tree, source)
    names = dict.fromkeys(label_names)
    todo = list(names)
    while todo:
        new = [above for above in sorted(parents.get(todo.pop(), ())) if above not in names]
        names.update(dict.fromkeys(new))
        todo += new
    return tuple(names)


def _parents(tree: dict, source: str) -> dict[str, set[str]]:
    """Parents of everything below the root; the root is not a class and not a parent."""
    parents: dict[str, set[str]] = {}
    stack = [(tree, _label_name(tree, f"{source}: expected an object with 'LabelName' at the top level"))]
    while stack:
        node, name = stack.pop()
        for key, value in node.items():
            if key not in ('Subcategory', 'Part') and isinstance(value, (dict, list)) and value:
                fault = "children must be in 'Subcategory' or 'Part'"
                raise AnnotationError(f'{source}: {name!r} has a key {key!r} that is not understood; {fault}')
        for kind in ('Subcategory', 'Part'):
            children = node.get(kind) or ()  # null is none
            if not isinstance(children, (list, tuple)):  # one child may come without a list
                children = [children]
            for child in children:
                fault = f"{source}: {kind} of {name!r} must hold objects with a text 'LabelName'"
                below = _label_name(child, fault)
                above = parents.setdefault(below, set())
                if kind == 'Subcategory' and node is not tree:
                    above.add(name)
                stack.append((child, below))
    return parents


def _label_name(node: object, fault: str) -> str:
    if not isinstance(node, dict) or not isinstance(name := node.get('LabelName'), str):
        shown = json.dumps(node)
        raise AnnotationError(f'{fault}, got {shown if len(shown) < 80 else shown[:80] + "..."}')
    return name


def _expand(labels: np.ndarray, related: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    members = [np.append(label, np.flatnonzero(row)) for label, row in enumerate(related)]
    counts, chosen = gather_rows(np.cumsum([len(part) for part in members]), labels)
    return np.repeat(np.arange(len(labels)), counts), np.concatenate(members)[chosen]
