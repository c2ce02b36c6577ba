import numpy as np
import pytest

from mmoid.openimages.errors import AnnotationError
from mmoid.openimages.readers.voc import import_voc
from mmoid.openimages.store.annotation_store import AnnotationStore
from tests.official_files import save_image

# As labelImg and the official files write it.
XML = """<annotation>
    <folder>VOC2007</folder><filename>000005.jpg</filename>
    <size><width>500</width><height>375</height><depth>3</depth></size>
    <segmented>0</segmented>
    <object>
        <name>chair</name><pose>Rear</pose><truncated>0</truncated><difficult>0</difficult>
        <bndbox><xmin>263</xmin><ymin>211</ymin><xmax>324</xmax><ymax>339</ymax></bndbox>
    </object>
    <object>
        <name>bottle</name><pose>Unspecified</pose><truncated>1</truncated><difficult>1</difficult>
        <occluded>1</occluded>
        <bndbox><ymin>1</ymin><xmin>1</xmin><xmax>500.0</xmax><ymax>375</ymax></bndbox>
        <part><name>cap</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>
    </object>
</annotation>
"""


@pytest.fixture()
def folder(tmp_path):
    (tmp_path / 'Annotations').mkdir()
    (tmp_path / 'Annotations' / '000005.xml').write_text(XML)
    empty = '<annotation><size><width>8</width><height>9</height></size></annotation>'
    (tmp_path / 'Annotations' / 'empty.xml').write_text('\ufeff' + empty, encoding='utf-8')
    (tmp_path / 'Annotations' / 'notes.txt').write_text('not XML')
    (tmp_path / 'Annotations' / 'settings.xml').write_text('<settings/>')
    (tmp_path / 'Annotations' / '._000005.xml').write_text('a file of macOS')
    save_image(tmp_path / 'images' / '000005.jpg', (375, 500), turned=True)
    save_image(tmp_path / 'images' / 'empty.jpg', (8, 9))
    return tmp_path


def imported(folder, **options):
    options = {'annotations': folder / 'Annotations', 'images': folder / 'images', **options}
    summary = import_voc(folder / 'store', overwrite=True, **options)
    return AnnotationStore(folder / 'store'), summary


def test_a_folder_of_xml_files_becomes_a_store(folder):
    store, summary = imported(folder)
    assert store.image_ids() == ['000005', 'empty'] and store.file_name(1) == 'empty.jpg'
    assert np.array([store.width, store.height]).T.tolist() == [[500, 375], [8, 9]] and store.upright
    assert store.class_names == ('bottle', 'chair')
    assert store.box_label.tolist() == [1, 0] and store.box_stop.tolist() == [2, 2]
    np.testing.assert_allclose(store.box, [[262 / 500, 210 / 375, 324 / 500, 339 / 375], [0, 0, 1, 1]], atol=1e-12)
    assert store.flag('IsTruncated').tolist() == [0, 1] and store.flag('IsOccluded').tolist() == [-1, 1]
    assert summary.lines() == [
        f'dropped: 1 XML files that are no annotations, first {folder}/Annotations/settings.xml',
        f'changed: 1 objects marked difficult, taken like others, first {folder}/Annotations/000005.xml: object 2',
    ]
    assert store.image_folder.samefile(folder / 'images')


def test_images_without_a_file_are_dropped_and_the_folder_is_optional(folder):
    (folder / 'images' / 'empty.jpg').unlink()
    assert imported(folder, missing_images='drop')[0].image_ids() == ['000005']
    assert imported(folder, images=None)[0].image_folder is None


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('<xmin>263</xmin>', '', r'000005\.xml: object 1: has no bndbox/xmin'),
        ('>263<', '>left<', r"000005\.xml: object 1: bndbox/xmin = 'left' must be a number"),
        ('>263<', '>inf<', r"000005\.xml: object 1: bndbox/xmin = 'inf' must be a number"),
        ('<name>bottle</name>', '<name> </name>', r'000005\.xml: object 2: has no name'),
        ('<width>500', '<width>0', r"000005\.xml: size/width = '0' must be a whole number"),
        ('</annotation>', '', r'(?s)Annotations: 1 XML files cannot be read; .*000005\.xml \('),
        ('000005.jpg', 'empty.jpg', r"Annotations: 'empty\.jpg' and 'empty\.jpg' are the same image"),
    ],
)
def test_an_error_names_the_file_and_the_element(folder, old, new, message):
    (folder / 'Annotations' / '000005.xml').write_text(XML.replace(old, new))
    with pytest.raises(AnnotationError, match=message):
        imported(folder, images=None)
    (folder / 'Annotations' / 'p.xml').write_text(XML.replace('>263<', '><'))
    (folder / 'Annotations' / 'q.xml').write_text(XML.replace('>211<', '><'))
    both = r'(?s)[23] XML files are wrong:\n.*p\.xml: object 1: has no bndbox/xmin\n.*q\.xml: object 1: has no'
    with pytest.raises(AnnotationError, match=both):
        imported(folder, images=None)


def test_files_of_one_name_are_told_apart_by_their_sub_folders(folder):
    for x in ('x', 'y'):
        (folder / 'drawn' / x).mkdir(parents=True)
        (folder / 'drawn' / x / '1.xml').write_text(XML.replace('000005', 'C:\\data\\000005').replace('chair', x))
        save_image(folder / 'images' / x / '000005.jpg', (500, 375))
    store, _ = imported(folder, annotations=folder / 'drawn')
    assert [store.file_name(i) for i in range(2)] == ['x/000005.jpg', 'y/000005.jpg']
    assert [store.class_names[label] for label in store.box_label] == ['x', 'bottle', 'y', 'bottle']


def test_a_folder_without_xml_files_or_objects_is_an_error(folder):
    with pytest.raises(AnnotationError, match=r'images: has no XML files'):
        imported(folder, annotations=folder / 'images')
    (folder / 'Annotations' / '000005.xml').unlink()
    with pytest.raises(AnnotationError, match=r'Annotations: has no classes'):
        imported(folder)


def test_sizes_are_compared_with_the_image_files(folder):
    xml = folder / 'Annotations' / '000005.xml'
    for old, new, width, counted in (
        ('<width>500</width><height>375</height>', '', 500, {}),
        ('>500<', '>0<', 500, {}),
        ('<width>500</width><height>375', '<width>375</width><height>500', 500, {'width and height are swapped': 1}),
        ('<width>500', '<width>1000', 1000, {'another size than annotated': 1}),
    ):
        xml.write_text(XML.replace(old, new, 1))
        store, summary = imported(folder)
        assert store.width[0] == width
        assert store.box[0, 0] == 262 / width
        found = {reason: count for reason, count in summary.changed.items() if reason.startswith('images')}
        assert list(found.values()) == list(counted.values()), found
        assert all(part in reason for part, reason in zip(counted, found))


def test_all_unreadable_xml_files_are_listed_or_dropped(folder):
    for name in ('p', 'q'):
        (folder / 'Annotations' / f'{name}.xml').write_text('<annotation>')
    with pytest.raises(AnnotationError, match=r'(?s)2 XML files cannot be read; .*p\.xml \(.*q\.xml \('):
        imported(folder)
    _, summary = imported(folder, missing_images='drop')
    assert summary.dropped['XML files that cannot be read'] == 2
    with pytest.raises(AnnotationError, match=r'no XML file is a Pascal VOC annotation; dropped: 1 XML files that'):
        (folder / 'other').mkdir()
        (folder / 'other' / 'a.xml').write_text('<annotation xmlns="http://other"/>')
        imported(folder, annotations=folder / 'other')
