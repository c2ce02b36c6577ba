import pyarrow as pa
import pytest

from mmoid.openimages.image_ids import match_images, number_images


@pytest.mark.parametrize(
    ('given', 'ids', 'image', 'longest'),
    [
        (['b', 'b', 'a', 'b'], ['b', 'a'], [0, 0, 1, 0], ['b', 'a']),
        (['a.jpg', 'a', 'train/a.jpg', 'b'], ['a', 'b'], [0, 0, 0, 1], ['train/a.jpg', 'b']),
        (['x/a.jpg', r'y\a.jpg', 'b.jpg'], ['x/a', 'y/a', 'b'], [0, 1, 2], ['x/a.jpg', r'y\a.jpg', 'b.jpg']),
        (['x/a.jpg', 'x/a.png', 'b'], ['x/a.jpg', 'x/a.png', 'b'], [0, 1, 2], ['x/a.jpg', 'x/a.png', 'b']),
        (['a.JPG', ' a', 'a.jpg'], ['a'], [0, 0, 0], ['a.jpg']),
        (['.jpg', 'a.b', 'x/'], ['.jpg', 'a.b', 'x/'], [0, 1, 2], ['.jpg', 'a.b', 'x/']),
        ([], [], [], []),
    ],
)
def test_spellings_of_one_image_get_one_number(given, ids, image, longest):
    found = number_images(pa.chunked_array([pa.array(given, pa.string())]))
    assert (found[0].to_pylist(), found[1].tolist(), found[2].to_pylist()) == (ids, image, longest)


def test_ids_match_in_any_spelling_and_never_two_images():
    known = pa.array(['x/a', 'y/a', 'b.jpg', 'c'])
    ids = pa.array([r'y\a.jpg', 'a', 'b', 'z/c.png', 'd', 'b.jpg'])
    assert match_images(ids, known).tolist() == [1, -1, 2, 3, -1, 2]
    assert match_images(ids, known[:0]).tolist() == [-1] * 6
    ids = pa.array(['x/a.jpg', 'y/a', 'b.png', 'b.jpg', 'c', 'c.jpg'])
    assert match_images(ids, known.take([0, 2, 3])).tolist() == [0, -1, -1, 1, 2, 2]
