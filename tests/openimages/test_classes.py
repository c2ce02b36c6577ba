import pyarrow as pa
import pytest

from mmoid.openimages.classes import ClassNames
from mmoid.openimages.errors import AnnotationError

CLASSES = ClassNames(('/m/a', '/m/b', '/m/c'), ('Apple', 'Bench', 'Bench'), 'classes.csv')


def test_classes_are_found_by_mid_and_by_unique_display_name():
    assert CLASSES.display_names == ('Apple', 'Bench (/m/b)', 'Bench (/m/c)')
    assert CLASSES.indices(['Bench (/m/c)', '/m/a'], 'metainfo.classes').tolist() == [2, 0]
    with pytest.raises(AnnotationError, match=r"metainfo\.classes: 'Bench' is not a class of classes\.csv"):
        CLASSES.indices(['Apple', 'Bench'], 'metainfo.classes')


def test_a_column_of_mids_becomes_indices_and_unknown_ones_minus_one():
    mids = pa.array(['/m/c', '/m/x', '/m/a', '/m/c'])
    for column in (mids, mids.dictionary_encode(), pa.chunked_array([mids[:1], mids[1:]])):
        assert CLASSES.find(column).tolist() == [2, -1, 0, 2]
    assert CLASSES.find(pa.chunked_array([], pa.string())).tolist() == []


def test_a_subset_keeps_order_and_names():
    part = CLASSES.subset([2, 0])
    assert (part.label_names, part.display_names) == (('/m/c', '/m/a'), ('Bench (/m/c)', 'Apple'))
    with pytest.raises(AnnotationError, match=r"classes\.csv: class '/m/a' occurs twice"):
        CLASSES.subset([0, 0])


def test_a_display_name_in_a_column_of_mids_is_an_error_with_its_mid():
    classes = ClassNames(('/m/1', '/m/2'), ('Apple', 'Pear'), 'classes.csv')
    error = classes.unknown('Pear', 'boxes.csv:2', 'something else')
    assert str(error).endswith("'Pear' is not a class of classes.csv; it is the display name of '/m/2'; give MIDs")
