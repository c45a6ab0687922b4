"""Stores: round trips within bounds, sealed against every flipped byte, readable by plain zarr."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from mskd.cache.encoding import encode_targets
from mskd.cache.projection import Moments
from mskd.cache.selection import expand, kept_boxes
from mskd.cache.settings import CacheSettings, cache_settings
from mskd.cache.store import TargetStore, stored_content, write_store
from mskd.cache.verification import Expected, check_store, check_stores, leftovers, remove_faulty
from mskd.config.cache import Cache
from mskd.errors import MissingArtefactError
from mskd.teachers.base import TeacherTargets

SHAPE = (40, 36, 28)
FLIPS = int(os.environ.get("MSKD_FLIPS", "150"))  # `make soak` flips more
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
BODY = np.zeros(SHAPE, bool)
BODY[4:36, 4:32, :] = True


def settings(**changes: Any) -> CacheSettings:
    small = {"taps": ["decoder1"], "chunk": 8, "feature_box": 8, "temperatures": (1.0, 2.0)}
    return cache_settings(Cache(**{**small, **changes}))


def targets() -> TeacherTargets:
    rng = np.random.default_rng(0)
    margins = np.full((1, *SHAPE), -12.0, np.float32)
    margins[:, 10:20, 10:20, 10:20] = 9.0
    margins += rng.normal(0, 0.5, margins.shape).astype(np.float32)
    features = rng.normal(0, 2, (6, 20, 18, 14)).astype(np.float32)
    return TeacherTargets(margins, {"decoder1": features}, {"decoder1": (2, 2, 2)})


def encode(chosen: CacheSettings, said: TeacherTargets, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "truth": None,
        "body": BODY,
        "spacing_mm": (2.0, 2.0, 2.0),
        "projections": {},
        "seed": "liver/a",
    }
    return encode_targets(said, chosen, **{**arguments, **changes})


def write(path: Path, chosen: CacheSettings, **changes: Any) -> str:
    arrays = encode(chosen, targets(), **changes)
    return write_store(path, arrays, key="k", level=chosen.level, affine=AFFINE, attributes={"case": "liver/a"})


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def test_lossless_gives_back_the_same_floats(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", settings(preset="lossless"))
    store = TargetStore(tmp_path / "a.zarr", "liver/a")
    np.testing.assert_array_equal(store.read("logits"), targets().margins)
    np.testing.assert_array_equal(store.read("decoder1"), targets().features["decoder1"])
    assert not store.kept("decoder1", (0, 17, 0), (1, 1, 1)).any()  # outside the body
    assert store.kept("decoder1", (4, 4, 4), (2, 2, 2)).all()


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("feature_bits", [16, 8, 4])
def test_codes_err_no_more_than_the_store_says(tmp_path: Path, bits: int, feature_bits: int) -> None:
    chosen = settings(margin_bits=bits, feature_bits=feature_bits, feature_channels=0, feature_boxes="all")
    write(tmp_path / "a.zarr", chosen)
    store = TargetStore(tmp_path / "a.zarr", "liver/a")
    stated = store.attributes["arrays"]
    for temperature in (1.0, 2.0):
        error = np.abs(sigmoid(store.read("logits") / temperature) - sigmoid(targets().margins / temperature)).max()
        assert error <= stated["logits"]["probability_bound"][str(temperature)]
    difference = np.abs(store.read("decoder1") - targets().features["decoder1"])
    if feature_bits == 16:
        assert difference.max() <= 2**-10 * np.abs(targets().features["decoder1"]).max()
    else:
        bounds = stated["features/decoder1"]["value_bound"]
        assert all(difference[c].max() <= bound for c, bound in enumerate(bounds))


def test_boxes_read_as_slices_of_the_whole(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", settings())
    store = TargetStore(tmp_path / "a.zarr", "liver/a")
    box = (slice(3, 21), slice(5, 9), slice(0, 28))
    np.testing.assert_array_equal(store.read("logits", box), store.read("logits")[:, 3:21, 5:9, :])


def test_features_are_kept_near_the_organ_and_in_a_sample_of_the_background(tmp_path: Path) -> None:
    chosen = settings(preset="balanced", dilation_mm=2.0, background_share=0.0, feature_bits=32, feature_channels=0)
    write(tmp_path / "a.zarr", chosen)
    store = TargetStore(tmp_path / "a.zarr", "liver/a")
    kept = store.kept("decoder1", (0, 0, 0), (20, 18, 14))
    # the organ, 10–20 at full resolution, one voxel more by dilation, is cells 4–10: boxes 1–2 of 4 cells
    expected = np.zeros((20, 18, 14), bool)
    expected[4:12, 4:12, 4:12] = True
    np.testing.assert_array_equal(kept, expected)
    read = store.read("decoder1")
    np.testing.assert_array_equal(read[:, expected], targets().features["decoder1"][:, expected])
    assert not read[:, ~expected].any()


def test_truth_counts_as_organ_region() -> None:
    truth = np.zeros(SHAPE, bool)
    truth[30:32, 30:32, 2:4] = True
    with_truth = encode(settings(background_share=0.0), targets(), truth=truth)["features/decoder1"].kept
    without = encode(settings(background_share=0.0), targets())["features/decoder1"].kept
    assert with_truth.sum() > without.sum()


def test_background_sample_is_the_same_for_all_teachers() -> None:
    region = np.zeros(SHAPE, bool)
    arguments: dict[str, Any] = {
        "stride": (2, 2, 2),
        "shape": (20, 18, 14),
        "box": (2, 2, 2),
        "dilation_voxels": (0, 0, 0),
        "background_share": 0.3,
    }
    first = kept_boxes(region, BODY, seed="liver/a/decoder1", **arguments)
    organ = region.copy()
    organ[10:14, 10:14, 10:14] = True
    second = kept_boxes(organ, BODY, seed="liver/a/decoder1", **arguments)
    other = kept_boxes(region, BODY, seed="liver/b/decoder1", **arguments)
    assert (first <= second).all()
    assert (first != other).any()
    inside = kept_boxes(region, BODY, seed="liver/a/decoder1", **{**arguments, "background_share": 1.0})
    assert 0.2 < first.sum() / inside.sum() < 0.4
    assert not first[0].any()  # nothing outside the body


def test_expand_outside_of_the_grid_is_not_kept() -> None:
    kept = np.ones((2, 2, 2), bool)
    box = expand(kept, (4, 4, 4), (-2, 6, 0), (4, 4, 2))
    assert box.shape == (4, 4, 2)
    np.testing.assert_array_equal(box[:, :, 0], np.outer([False, False, True, True], [True, True, False, False]))


def test_projection_keeps_what_varies() -> None:
    rng = np.random.default_rng(1)
    source = rng.normal(0, [[3], [1]], (2, 500))
    mixing = np.linalg.qr(rng.normal(0, 1, (5, 5)))[0][:, :2]
    features = (mixing @ source + 4).reshape(5, 10, 10, 5)
    moments = Moments(5)
    moments.add(features[:, :5], np.ones((5, 10, 5), bool))
    moments.add(features[:, 5:], np.ones((5, 10, 5), bool))
    projection = moments.fit(2)
    assert projection.explained == pytest.approx(1.0)
    reduced = projection.apply(features)
    assert reduced.shape == (2, 10, 10, 5)
    deviation = features.std((1, 2, 3))
    back = np.einsum("cd,cxyz->dxyz", projection.matrix * deviation**2, reduced)
    np.testing.assert_allclose(back + projection.mean[:, None, None, None], features, atol=1e-4)
    assert reduced[0].std() > 1.2 * reduced[1].std()
    # distances are those of standardised channels
    standardised = features.reshape(5, -1) / deviation[:, None]
    flat = reduced.reshape(2, -1)
    for i, j in ((0, 1), (3, 400), (77, 234)):
        expected = np.linalg.norm(standardised[:, i] - standardised[:, j])
        assert np.linalg.norm(flat[:, i] - flat[:, j]) == pytest.approx(expected, rel=1e-4)
    again = type(projection).from_json(projection.to_json())
    np.testing.assert_array_equal(again.matrix, projection.matrix)


def test_key_decides_whether_a_store_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    assert stored_content(path, "k") is None
    content = write(path, settings())
    assert stored_content(path, "k") == content
    assert stored_content(path, "another") is None
    with pytest.raises(MissingArtefactError, match="its manifest says"):
        TargetStore(path, "liver/a", content="something else")


def test_writing_twice_gives_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", settings())
    write(tmp_path / "b.zarr", settings())
    for file in (tmp_path / "a.zarr").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "b.zarr" / file.relative_to(tmp_path / "a.zarr")).read_bytes()


def test_plain_zarr_reads_it_with_what_the_attributes_say(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", settings(margin_bits=8, margin_spacing="margin"))
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    code = group.attrs["arrays"]["logits"]["code"]
    margins = (np.asarray(group["logits"][:]) / 255 - 0.5) * 2 * code["clip"]
    np.testing.assert_allclose(margins, np.clip(targets().margins, -8, 8), atol=16 / 255 / 2 + 1e-5)


def expected_of(path: Path, content: str) -> Expected:
    manifest = path.parent / "b00.json"
    manifest.write_text("{}")
    return Expected("liver", "fold0-seed0", "liver/a", str(path), manifest, "k", "k", content)


def test_every_flipped_byte_is_found_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    expected = expected_of(path, write(path, settings()))
    assert check_store(expected) is None
    whole = TargetStore(path, "liver/a")
    before = {name: whole.read(name) for name in ("logits", "decoder1")}
    rng = np.random.default_rng(5)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    found = 0
    for _ in range(FLIPS):
        file = files[int(rng.integers(len(files)))]
        intact = file.read_bytes()
        damaged = bytearray(intact)
        damaged[int(rng.integers(len(damaged)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        if check_store(expected) is not None:
            found += 1
        else:  # white space, say
            store = TargetStore(path, "liver/a")
            assert all((store.read(name) == value).all() for name, value in before.items())
            assert file == path / "zarr.json"
        file.write_bytes(intact)
    assert found > FLIPS * 2 // 3
    assert check_store(expected) is None


def test_a_reader_stops_at_a_damaged_chunk(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write(path, settings(preset="lossless"))
    shard = path / "logits" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(MissingArtefactError, match=r"liver/a(.|\n)*mskd cache verify"):
        TargetStore(path, "liver/a").read("logits", (slice(0, 1), slice(0, 1), slice(0, 1)))


def test_a_missing_shard_does_not_read_as_background(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write(path, settings())
    (path / "logits" / "c" / "0" / "0" / "0" / "0").unlink()
    with pytest.raises(MissingArtefactError, match="missing"):
        TargetStore(path, "liver/a")


def test_repair_removes_exactly_the_faulty(tmp_path: Path) -> None:
    stores = []
    for name in ("a", "b", "c", "d"):
        folder = tmp_path / name
        folder.mkdir()
        stores.append(expected_of(folder / "x.zarr", write(folder / "x.zarr", settings())))
    shutil.rmtree(stores[1].place)
    next(iter(Path(stores[2].place).rglob("0"))).parent.joinpath("extra").write_text("?")
    stale = Expected(**{**stores[3].__dict__, "key": "of today"})
    (tmp_path / "a" / "y.zarr.part-1-abc").mkdir()
    assert [path.name for path in leftovers(tmp_path)] == ["y.zarr.part-1-abc"]
    faults = check_stores([stores[0], stores[1], stores[2], stale])
    assert [fault.kind for fault in faults] == ["missing", "damaged", "stale"]
    removed = remove_faulty(faults)
    assert Path(stores[0].place).exists()
    assert stores[0].manifest.exists()
    assert {Path(path).parent.name for path in removed} == {"b", "c", "d"}
    assert not any(Path(store.place).exists() or store.manifest.exists() for store in stores[1:])
