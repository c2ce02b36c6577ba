"""Arrays of a JSON file as tables: as `json.load` reads them, wherever the pieces that are looked at end."""

import json
import string

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers import coco_json_file as json_file
from mmoid.openimages.readers import coco_json_rows as json_rows
from mmoid.openimages.readers.coco_json_file import JsonFile

SCHEMA = pa.schema({'id': pa.int64(), 'name': pa.string(), 'box': pa.list_(pa.float64())})
OPTIONAL = ('id', 'name', 'box')

# Strings of the characters that a reader may trip over, more often than chance would have it.
strings = st.text('"\\[]{},:\n\té🍎 ab' + string.ascii_letters)
scalars = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | strings
nested = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3))
rows = st.fixed_dictionaries(
    {},
    optional={
        'id': st.none() | st.integers(-(2**62), 2**62),
        'name': st.none() | strings,
        'box': st.none() | st.lists(st.integers(0, 9) | st.floats(allow_nan=False, allow_infinity=False)),
        'segmentation': nested,
        'a "quoted\\ key': nested,
    },
)
documents = st.dictionaries(strings, nested, max_size=3).flatmap(
    lambda others: st.lists(rows, max_size=6).flatmap(
        lambda array: st.permutations([*others.items(), ('rows', array)]).map(dict)
    )
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    document=documents,
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    scan_bytes=st.integers(1, 12),
    batch_bytes=st.integers(1, 200),
)
def test_any_document_is_read_as_json_reads_it(tmp_path, document, indent, ascii_only, scan_bytes, batch_bytes):
    path = tmp_path / 'document.json'
    path.write_bytes(json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode())
    expected = json.loads(path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_file, 'SCAN_BYTES', scan_bytes)
        patch.setattr(json_rows, 'BATCH_BYTES', batch_bytes)
        file = JsonFile(path)
        table = file.rows('rows').read(SCHEMA, OPTIONAL)
    assert table.to_pylist() == [{name: row.get(name) for name in SCHEMA.names} for row in expected['rows']]
    assert [file.rows('rows')[i] for i in range(len(table))] == expected['rows']
    assert {key: file.value(key) for key in expected} == expected
    assert all(key in file for key in expected) and 'no such key' not in file


@pytest.mark.parametrize('cut', range(1, 90))
def test_a_file_that_is_cut_off_is_never_read_as_a_whole_one(tmp_path, cut):
    text = '{"a": "[\\"", "rows": [{"id": 1, "name": "x\\\\"}, {"id": 2, "box": [1, 2]}], "z": {"rows": [{}]}, "y": 1}'
    (tmp_path / 'cut.json').write_text(text[:cut])
    with pytest.raises(AnnotationError, match=r'cut\.json: (ends within|must hold|is not JSON)'):
        JsonFile(tmp_path / 'cut.json')


@pytest.mark.parametrize('between', ['\n', '\r\n', '\t', '\r'])
def test_line_ends_of_any_kind_may_stand_anywhere_outside_strings(tmp_path, between):
    text = between.join(
        ['{', '"rows"', ':', '[', '{', '"id"', ':', '1', '}', ',', '{', '"id"', ':', '2', '}', ']', '}']
    )
    (tmp_path / 'rows.json').write_bytes(text.encode())
    assert JsonFile(tmp_path / 'rows.json').rows('rows').read(SCHEMA, OPTIONAL)['id'].to_pylist() == [1, 2]


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / 'rows.json').write_bytes(b'\xef\xbb\xbf{"rows": [{"id": 1}]}')
    assert len(JsonFile(tmp_path / 'rows.json').rows('rows')) == 1


def test_the_row_at_fault_is_found_among_many(tmp_path):
    rows = [{'id': i} for i in range(1000)]
    rows[617]['id'] = 'seven'
    (tmp_path / 'rows.json').write_text(json.dumps({'rows': rows}))
    with pytest.raises(AnnotationError, match=r'rows\.json: rows\[617\]\.id = "seven" is not a whole number'):
        JsonFile(tmp_path / 'rows.json').rows('rows').read(SCHEMA, OPTIONAL)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', r"must hold a JSON object, but begins with b''"),
        ('[{"id": 1}]', r"must hold a JSON object, but begins with b'\[\{"),
        ('\x1f\x00', r"must hold a JSON object, but begins with b'\\x1f"),
        ('{"rows": []', r'ends within an array or object; the file is cut off'),
        ('{"rows": [], "a": "b}', r'ends within a string; the file is cut off'),
        ('{"rows": []}}', r'is not JSON at its top level'),
        ('{"rows": []} {"rows": []}', r'is not JSON at its top level'),
        ('{"rows" []}', r'is not JSON at its top level'),
        ('{"rows": [{}}', r'is not JSON at its top level|ends within|must be an array'),
        ('{"row": []}', r"has no 'rows' at its top level, which holds 'row'"),
        ('{}', r"has no 'rows' at its top level, which holds nothing"),
        ('{"rows": {"a": {}}}', r'rows must be an array of objects'),
        ('{"rows": 5}', r'rows must be an array of objects'),
        ('{"rows": [5]}', r'rows must be an array of objects, separated by commas'),
        ('{"rows": [{},]}', r'rows must be an array of objects, separated by commas'),
        ('{"rows": [,{}]}', r'rows must be an array of objects, separated by commas'),
        (
            '{"rows": [{"id": 1}, {"id": 2} {"id": 3}]}',
            r'" " stands between rows\[1\] and the next object; it must be a',
        ),
        ('{"rows": [{"id": 1}{"id": 2}]}', r'"" stands between rows\[0\] and'),
        ('{"rows": [{"id": 1},, {"id": 2}]}', r'",, " stands between rows\[0\] and'),
        ('{"rows": [{"id": 1}, 5, {"id": 2}]}', r'", 5, " stands between rows\[0\] and'),
        ('{"rows": [{"id": 1}, [2]]}', r'rows\[1\] = \[2\] is not an object'),
        ('{"rows": [{"id": 1}, {"id": 2.5}]}', r'rows\[1\]\.id = 2\.5 is not a whole number'),
        ('{"rows": [{"id": 1, "name": 3}]}', r'rows\[0\]\.name = 3 is not a string'),
        ('{"rows": [{"id": 1, "box": 3}]}', r'rows\[0\]\.box = 3 is not a list of numbers'),
        ('{"rows": [{"id": 1, "box": [1, "2"]}]}', r'rows\[0\]\.box = \[1, "2"\] is not a list of numbers'),
        ('{"rows": [{"id": 1}, {"id": }]}', r'rows\[1\] is not JSON: Expecting value, near byte 28'),
        ('{"rows": [{"id": 1}, {"id": 2]}', r'ends within|is not JSON|must be'),
        ('{"rows": [{"id": 1}, {"id": 2, "id": 3}]}', r'rows\[1\] is not an object that can be read: \{"id": 2, "id'),
        ('{"rows": [{"id": 1}, {"name": "a"}]}', r"rows\[1\] has no 'id'"),
        ('{"rows": [{"id": 1}, {"id": null}]}', r"rows\[1\] has no 'id'"),
    ],
)
@pytest.mark.parametrize('batch_bytes', [1, 1000])
def test_what_is_wrong_is_told_by_file_and_row(tmp_path, monkeypatch, text, message, batch_bytes):
    monkeypatch.setattr(json_rows, 'BATCH_BYTES', batch_bytes)
    (tmp_path / 'rows.json').write_text(text)
    with pytest.raises(AnnotationError, match=rf'rows\.json: ({message})'):
        JsonFile(tmp_path / 'rows.json').rows('rows').read(SCHEMA, optional=('name', 'box'))


def test_text_that_is_not_utf_8_is_told(tmp_path):
    (tmp_path / 'rows.json').write_bytes(b'{"rows": [{"id": 1, "name": "a"}, {"id": 2, "name": "\xff"}]}')
    with pytest.raises(AnnotationError, match=r'rows\.json: rows\[1\] is not UTF-8'):
        JsonFile(tmp_path / 'rows.json').rows('rows').read(SCHEMA, OPTIONAL)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AnnotationError, match=r'nowhere\.json: cannot be read'):
        JsonFile(tmp_path / 'nowhere.json')
