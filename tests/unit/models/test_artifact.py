import hashlib
import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import array_files, artifact
from models.array_files import pack, unpack
from models.errors import ArtefactError, UnknownSurrogateError
from models.features import NUM_FEATURES
from models.surrogate import TARGETS
from models.teacher import Ensemble, Teacher
from models.tree import join
from tests.support.feature_cases import a_calibration
from tests.support.tree_cases import random_tree, small_surrogate

CALIBRATION = a_calibration()
PROVENANCE = artifact.Provenance(
    calibration_sha256="0" * 64,
    twin_version="1",
    dataset_sha256="1" * 64,
    dataset_rows=8,
    dataset_seed=0,
    metrics={"tree": {"throughput_smape_half_pct": 1.5, "starvation_auc": None}},
)


def a_teacher():
    ensembles = {}
    for number, target in enumerate(TARGETS):
        nodes, roots = join([random_tree(10 * number + k) for k in range(3)])
        ensembles[target] = Ensemble(nodes=nodes, roots=roots, baseline=0.25)
    return Teacher(**ensembles)


@pytest.fixture
def published(tmp_path):
    artifact.save(small_surrogate(CALIBRATION), tmp_path, PROVENANCE, a_teacher())
    return tmp_path


def trees_file(directory):
    return directory / artifact.read_manifest(directory).trees.name


def republish(directory, kind, arrays):
    """Replace an array file by one with these arrays and a manifest whose hash agrees."""
    republish_bytes(directory, kind, pack(arrays))


def republish_bytes(directory, kind, content):
    digest = hashlib.sha256(content).hexdigest()
    name = f"{kind}-{digest[:12]}.npz"
    (directory / name).write_bytes(content)
    path = directory / artifact.MANIFEST
    document = json.loads(path.read_text())
    document[kind] = {"name": name, "sha256": digest}
    path.write_text(json.dumps(document))


def arrays_in(path):
    return {name: array.copy() for name, array in unpack(path.read_bytes(), path.name).items()}


def test_what_is_loaded_is_what_was_saved(published):
    saved, loaded = small_surrogate(CALIBRATION), artifact.load(published)
    assert loaded.version == saved.version
    assert loaded.calibration_id == saved.calibration_id
    for target in TARGETS:
        for one, other in zip(getattr(loaded, target), getattr(saved, target), strict=True):
            np.testing.assert_array_equal(one, other)
    assert artifact.read_manifest(published).metrics == PROVENANCE.metrics


def test_the_teacher_is_loaded_as_it_was_saved(published):
    rows = np.random.default_rng(0).normal(size=(5, NUM_FEATURES)).astype(np.float32)
    saved, loaded = a_teacher().factors(rows), artifact.load_teacher(published).factors(rows)
    for target in TARGETS:
        np.testing.assert_array_equal(loaded[target], saved[target])


def test_a_surrogate_may_be_published_without_its_teacher(tmp_path):
    artifact.save(small_surrogate(CALIBRATION), tmp_path, PROVENANCE)
    assert artifact.load_teacher(tmp_path) is None


def test_equal_surrogates_have_equal_bytes(tmp_path):
    for name in ("one", "two"):
        artifact.save(small_surrogate(CALIBRATION), tmp_path / name, PROVENANCE, a_teacher())
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)


def test_no_clock_enters_an_array_file(published):
    with zipfile.ZipFile(trees_file(published)) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_publishing_again_replaces_the_old_surrogate_and_leaves_nothing_behind(published):
    artifact.save(small_surrogate(CALIBRATION, seed=5), published, PROVENANCE)
    assert artifact.load(published).version == small_surrogate(CALIBRATION, seed=5).version
    assert sorted(path.name for path in published.iterdir()) == [
        artifact.MANIFEST,
        trees_file(published).name,
    ]


def test_a_writer_that_dies_before_the_manifest_leaves_the_old_surrogate(published, monkeypatch):
    before = artifact.load(published).version
    write = artifact.write_atomically

    def die_at_the_manifest(path, content):
        if path.name == artifact.MANIFEST:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(artifact, "write_atomically", die_at_the_manifest)
    with pytest.raises(OSError, match="No space"):
        artifact.save(small_surrogate(CALIBRATION, seed=5), published, PROVENANCE)
    assert artifact.load(published).version == before


def test_a_reader_that_is_overtaken_by_a_publication_reads_again(published, monkeypatch):
    old = artifact.read_manifest(published)
    artifact.save(small_surrogate(CALIBRATION, seed=5), published, PROVENANCE)
    read = artifact.read_manifest
    answers = iter([old])
    monkeypatch.setattr(artifact, "read_manifest", lambda path: next(answers, None) or read(path))
    assert artifact.load(published).version == small_surrogate(CALIBRATION, seed=5).version


def test_nothing_published_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match=r"manifest\.json: cannot be read"):
        artifact.load(tmp_path)


def test_a_missing_array_file_is_refused(published):
    trees_file(published).unlink()
    with pytest.raises(ArtefactError, match="is missing"):
        artifact.load(published)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.data())
def test_a_flipped_byte_is_refused(published, data):
    path = trees_file(published)
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    mask = data.draw(st.integers(1, 255))
    path.write_bytes(content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :])
    try:
        with pytest.raises(ArtefactError, match="sha256"):
            artifact.load(published)
    finally:
        path.write_bytes(content)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.data())
def test_damage_under_a_right_hash_is_refused_or_harmless(published, data):
    manifest = (published / artifact.MANIFEST).read_bytes()
    content = bytearray(trees_file(published).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    try:
        republish_bytes(published, "trees", bytes(content))
        surrogate = artifact.load(published)
    except ArtefactError:
        return
    finally:
        (published / artifact.MANIFEST).write_bytes(manifest)
    assert surrogate.version == small_surrogate(CALIBRATION).version


def test_a_truncated_file_is_refused(published):
    path = trees_file(published)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtefactError, match="sha256"):
        artifact.load(published)


def test_swapped_files_are_refused(published):
    manifest = artifact.read_manifest(published)
    trees, teacher = published / manifest.trees.name, published / manifest.teacher.name
    swapped = trees.read_bytes(), teacher.read_bytes()
    trees.write_bytes(swapped[1])
    teacher.write_bytes(swapped[0])
    with pytest.raises(ArtefactError, match="sha256"):
        artifact.load(published)
    with pytest.raises(ArtefactError, match="sha256"):
        artifact.load_teacher(published)


def test_another_surrogates_trees_under_this_manifest_are_refused(published, tmp_path):
    other = tmp_path / "other"
    artifact.save(small_surrogate(CALIBRATION, seed=9), other, PROVENANCE)
    republish(published, "trees", arrays_in(trees_file(other)))
    with pytest.raises(ArtefactError, match="another surrogate"):
        artifact.load(published)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("throughput.children", lambda a: np.where(a == 1, 9999, a).astype(a.dtype), "children"),
        ("starvation.children", np.zeros_like, "children"),
        ("itl.feature", lambda a: a + np.int32(1000), "feature"),
        ("ttft.value", lambda a: a + np.nan, "value: must be finite"),
        ("ttft.value", lambda a: a.astype(np.float32), "value: must be float64"),
        ("ttft.value", lambda a: a.astype("U8"), "value: must be float64"),
        ("ttft.feature", lambda a: a[0], "ttft"),
        ("starvation.value", lambda a: a + 0.5, "starvation.value: must be probabilities"),
        ("starvation.value", np.negative, "starvation.value: must be probabilities"),
        ("throughput.value", lambda a: a - 1.0, "throughput.value: must be factors above 0"),
        ("ranges", lambda a: a[:-1], "ranges"),
        ("ranges", lambda a: np.ascontiguousarray(a[:, ::-1]), "ranges: the least"),
        ("calibration", lambda a: a + np.inf, "calibration: must be finite"),
    ],
)
def test_arrays_that_break_a_rule_are_refused_under_a_right_hash(published, name, change, reason):
    arrays = arrays_in(trees_file(published))
    arrays[name] = change(arrays[name])
    republish(published, "trees", arrays)
    with pytest.raises(ArtefactError, match=reason):
        artifact.load(published)


def test_a_missing_array_is_refused(published):
    arrays = arrays_in(trees_file(published))
    del arrays["itl.value"]
    republish(published, "trees", arrays)
    with pytest.raises(ArtefactError, match=r"itl\.value: is missing"):
        artifact.load(published)


def test_a_teacher_whose_roots_leave_its_nodes_is_refused(published):
    path = published / artifact.read_manifest(published).teacher.name
    arrays = arrays_in(path)
    arrays["itl.roots"] = arrays["itl.roots"] + np.int32(10_000)
    republish(published, "teacher", arrays)
    with pytest.raises(ArtefactError, match=r"itl\.roots"):
        artifact.load_teacher(published)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("itl.feature", lambda a: a[0], "itl"),
        ("itl.children", lambda a: a.astype("U8"), "children: must be int32"),
        ("itl.value", lambda a: np.append(a, 0.0), "value: must have shape"),
    ],
)
def test_a_teachers_arrays_that_break_a_rule_are_refused_under_a_right_hash(published, name, change, reason):
    path = published / artifact.read_manifest(published).teacher.name
    arrays = arrays_in(path)
    arrays[name] = change(arrays[name])
    republish(published, "teacher", arrays)
    with pytest.raises(ArtefactError, match=reason):
        artifact.load_teacher(published)


def test_an_array_of_objects_is_refused_and_never_unpickled(published):
    path = trees_file(published)
    with zipfile.ZipFile(path, "w") as archive:
        np.lib.format.write_array(archive.open("x.npy", "w"), np.array([{}], dtype=object), allow_pickle=True)
    republish_bytes(published, "trees", path.read_bytes())
    with pytest.raises(ArtefactError, match="no file of arrays"):
        artifact.load(published)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("schema_version", 2, "schema_version"),
        ("kind", "something", "kind"),
        ("features", [["rho", "1"]], "features"),
        ("trees", {"name": "../../etc/passwd", "sha256": "0" * 64}, r"trees\.name"),
        ("unheard_of", 1, "unheard_of"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused(published, field, value, reason):
    path = published / artifact.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ArtefactError, match=reason):
        artifact.load(published)


def test_a_manifest_that_is_no_json_is_refused(published):
    (published / artifact.MANIFEST).write_text("{")
    with pytest.raises(ArtefactError, match=r"manifest\.json"):
        artifact.load(published)


def test_a_file_of_absurd_length_is_refused_before_it_is_read(published, monkeypatch):
    monkeypatch.setattr(array_files, "MAX_FILE_BYTES", 100)
    with pytest.raises(ArtefactError, match="larger than"):
        artifact.load(published)


def test_an_unknown_calibration_has_no_shipped_surrogate():
    with pytest.raises(UnknownSurrogateError, match="nothing/at/all"):
        artifact.load_shipped("nothing/at/all")


@pytest.mark.parametrize("calibration_id", artifact.shipped_surrogate_ids())
def test_a_shipped_surrogate_loads_with_its_teacher(calibration_id):
    assert artifact.load_shipped(calibration_id).calibration_id == calibration_id
    assert artifact.load_teacher(artifact.shipped_directory(calibration_id)) is not None
