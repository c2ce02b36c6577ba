"""Folders of memory-mapped Arrow tables with a ``metadata.json``: writing, replacing and opening them.

Uncompressed Arrow IPC files of one record batch each, so that a column is one array in the mapped file.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmoid.openimages.errors import AnnotationError
from mmoid.utils.atomic import UNCREATABLE, existing_parent, locked, naming_path, remove_abandoned

METADATA = 'metadata.json'


def write_tables(
    folder: Path, tables: Mapping[str, pa.Table], format_name: str, version: int, metadata: Mapping[str, Any]
) -> None:
    """Writes the tables and ``metadata.json`` into an existing folder."""
    for name, table in tables.items():
        table = table.combine_chunks()
        with pa.OSFile(str(folder / f'{name}.arrow'), 'wb') as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=max(1, len(table)))
    text = json.dumps({'format': format_name, 'version': version, **metadata}, indent=1)
    (folder / METADATA).write_text(text)


@contextmanager
def write_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Gives an empty folder and renames it to ``path`` when the block succeeds. ``overwrite`` replaces one of mmoid.

    Folders that killed processes left of ``path`` are removed.

    Raises:
        OSError: The path may not be replaced or cannot be written.
    """
    path = Path(path)
    require_replaceable(path, overwrite)
    temporary = path.with_name(f'.{path.name}.writing-{os.getpid()}')
    with naming_path(path, UNCREATABLE):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, f'.{glob.escape(path.name)}.writing-*')
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process of the same id
        temporary.mkdir()
    try:
        with locked(temporary), naming_path(path):
            yield temporary
            require_replaceable(path, overwrite)  # another process may have written it meanwhile
            old = temporary.with_name(f'{temporary.name}.old')  # removed later if this process is killed now
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_replaceable(path: str | Path, overwrite: bool) -> None:
    """Raises OSError unless ``path`` is free, empty, or one of our folders and ``overwrite`` is set."""
    path = Path(path)
    home = existing_parent(path)
    if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
        raise PermissionError(f'{path}: {home} is not a writable directory; give another --out')
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / METADATA).is_file():
        raise FileExistsError(f'{path}: exists and was not written by mmoid; give another --out')
    if not overwrite:
        raise FileExistsError(f'{path}: exists already; give --overwrite to replace it')


def read_metadata(path: Path, format_name: str, version: int, made_by: str) -> dict[str, Any]:
    """Reads ``metadata.json``. Raises an AnnotationError unless it is of this format and version."""
    if not path.is_dir():
        raise AnnotationError(f'{path}: no such folder; {made_by} makes it')
    try:
        metadata = json.loads((path / METADATA).read_text(encoding='utf-8'))
        if not isinstance(metadata, dict):
            raise ValueError(f'{METADATA} holds no object')
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no text, or no JSON
        raise AnnotationError(f'{path}: was not written by {made_by}, or not to the end ({error})') from error
    if metadata.get('format') != format_name:
        raise AnnotationError(f'{path / METADATA}: format is {metadata.get("format")!r}, expected {format_name!r}')
    if metadata.get('version') != version:
        raise AnnotationError(
            f'{path / METADATA}: format version is {metadata.get("version")}, this mmoid reads {version}; '
            f'make it again with {made_by}'
        )
    return metadata


def map_tables(path: Path, schemas: Mapping[str, pa.Schema]) -> dict[str, pa.Table]:
    """Maps the tables of a folder. Only texts are read, to be sure that they are whole."""
    tables = {}
    for name, schema in schemas.items():
        file = path / f'{name}.arrow'
        try:
            table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
            table.validate(full=True)
            if table.num_rows and any(column.num_chunks != 1 or column.null_count for column in table.columns):
                raise ValueError('it has several record batches, or null values')
            if table.schema != schema:
                raise ValueError(f'it has the columns {", ".join(table.column_names)}')
        except (OSError, ValueError, NotImplementedError) as error:  # pa.ArrowInvalid is a ValueError
            raise AnnotationError(f'{file}: is missing or damaged ({error}); make {path} again') from error
        tables[name] = table
    return tables


def column(table: pa.Table, name: str) -> np.ndarray:
    """A column as an array in the mapped file; (rows, k) for lists of fixed size k."""
    values = table[name].chunk(0) if table.num_rows else pa.nulls(0, table[name].type)
    if pa.types.is_fixed_size_list(values.type):
        return _view(values.flatten()).reshape(-1, values.type.list_size)
    return _view(values)


def _view(values: pa.Array) -> np.ndarray:
    # Array.to_numpy would import pandas where that is installed: half a second and 25 MB in every process that trains.
    # Type.to_pandas_dtype does so before pyarrow 26, and fails where it is not.
    dtype = np.dtype(f'{"f" if pa.types.is_floating(values.type) else "i"}{values.type.bit_width // 8}')
    start = values.offset * dtype.itemsize
    return np.frombuffer(values.buffers()[1], dtype, count=len(values), offset=start)
