"""Patches: pure functions of seed and index, in which image, labels and targets stay together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from made_cases import HU_CLIP, make_case
from torch import Tensor
from torch.nn import functional

from mskd.config.training import Augmentation, Training
from mskd.teachers.base import TeacherTargets
from mskd.training.cases import TrainingCase
from mskd.training.patches import Batch, PatchDataset, PatchNeeds, collate

OFF: dict[str, Any] = {
    "affine_probability": 0.0,
    "elastic_probability": 0.0,
    "noise_probability": 0.0,
    "blur_probability": 0.0,
    "contrast_probability": 0.0,
    "gamma_probability": 0.0,
}
INTENSITY = dict.fromkeys(("noise_probability", "blur_probability", "contrast_probability", "gamma_probability"), 1.0)
TAPS = {"decoder1": (2, 2, 2), "decoder2": (4, 4, 4)}
NEEDS = PatchNeeds(logits=True, taps=TAPS, align=(4, 4, 4))
SHAPE = (24, 20, 16)


def pointwise_teacher(image: Tensor, sign: float) -> TeacherTargets:
    """A teacher whose every answer is a function of the image at that place: two margins, and pooled features."""
    margin = torch.cat((sign * image / 4, 2 * image - sign))
    features = {tap: functional.avg_pool3d(torch.cat((image, -sign * image)), s) for tap, s in TAPS.items()}
    return TeacherTargets(margin.numpy(), {tap: f.numpy() for tap, f in features.items()}, TAPS)


def taught_case(folder: Path, image_hu: np.ndarray[Any, Any], **options: Any) -> TrainingCase:
    """A case whose label is 1 above 20 HU, with the pointwise teachers a and b."""
    image = torch.from_numpy(image_hu.astype(np.float32))[None]
    targets = {"a": pointwise_teacher(image, 1.0), "b": pointwise_teacher(image, -1.0)}
    labels = (image_hu > 20).astype(np.uint8)
    return make_case(folder, image_hu, labels, labelled=[1], targets=targets, **options)


def noise_hu(shape: tuple[int, int, int] = SHAPE) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(-100, 101, shape).astype(np.int16)


def dataset(cases: list[TrainingCase], needs: PatchNeeds = NEEDS, seed: int = 0, **training: Any) -> PatchDataset:
    augmentation = Augmentation(**{**OFF, **training.pop("augmentation", {})})
    settings = Training(**{"steps": 50, "patch_size": (8, 8, 8), **training}, augmentation=augmentation)
    return PatchDataset(
        cases, settings, n_organs=3, spacing_mm=(1.0, 1.0, 1.0), hu_clip=HU_CLIP, seed=seed, needs=needs
    )


def assert_equal(one: Batch, two: Batch) -> None:
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(one.labelled, two.labelled)
    assert one.margins is not None
    assert two.margins is not None
    assert torch.equal(one.margins, two.margins)
    assert one.features.keys() == two.features.keys()
    assert all(torch.equal(one.features[key], two.features[key]) for key in one.features)


class TestPureFunctions:
    AUGMENTED: ClassVar[dict[str, Any]] = {
        "augmentation": {
            **INTENSITY,
            "affine_probability": 0.5,
            "elastic_probability": 0.5,
            "flip_axes": ["x"],
            "quarter_turns": True,
        }
    }

    def test_of_seed_and_index(self, tmp_path: Path) -> None:
        case = taught_case(tmp_path, noise_hu())
        one, two = dataset([case], **self.AUGMENTED), dataset([case], **self.AUGMENTED)
        kept = {i: one[i] for i in (0, 1, 2, 3)}
        for i in (3, 1, 0, 2):  # in whatever order
            assert_equal(two[i], kept[i])
        assert not torch.equal(kept[0].image, kept[1].image)
        assert not torch.equal(dataset([case], seed=1, **self.AUGMENTED)[0].image, kept[0].image)

    def test_not_of_the_memory_that_is_allowed(self, tmp_path: Path) -> None:
        case = taught_case(tmp_path, noise_hu())
        for budget in (10_000, 10**9):  # room for the labels alone, and for everything
            kept = TrainingCase(case.case, case.dataset, case.prepared_path, [1], case.targets)
            kept.budget.left_bytes = budget
            one, two = dataset([case], **self.AUGMENTED), dataset([kept], **self.AUGMENTED)
            for i in range(4):
                assert_equal(one[i], two[i])
            assert 0 <= kept.budget.left_bytes < budget

    def test_the_length_is_the_whole_run(self, tmp_path: Path) -> None:
        assert len(dataset([taught_case(tmp_path, noise_hu())], steps=7, batch_size=3)) == 21


class TestOneChangeForAll:
    def test_flips_and_quarter_turns_move_all_exactly_alike(self, tmp_path: Path) -> None:
        """A pointwise teacher of the moved image says exactly what the moved targets of that teacher say."""
        case = taught_case(tmp_path, noise_hu())
        turned = {"flip_axes": ["x", "y", "z"], "quarter_turns": True}
        samples = dataset([case], augmentation=turned)
        plain = dataset([case])
        changed = 0
        for i in range(24):
            sample = samples[i]
            hu = (sample.image[0] * 100).round()
            changed += not torch.equal(sample.image, plain[i].image)
            assert torch.equal(sample.labels[0], (hu[0] > 20).to(torch.uint8))
            assert sample.margins is not None
            said = [pointwise_teacher(hu, sign) for sign in (1.0, -1.0)]
            np.testing.assert_array_equal(sample.margins[0], np.concatenate([t.margins for t in said]))
            for teacher, target in zip("ab", said, strict=True):
                for tap in TAPS:
                    np.testing.assert_array_equal(sample.features[teacher, tap][0], target.features[tap])
        assert changed > 15

    def test_resampling_moves_all_alike(self, tmp_path: Path) -> None:
        """The image is linear in space, so that interpolation keeps what a pointwise teacher says of it."""
        x, y, z = np.meshgrid(*(np.arange(n) for n in (40, 40, 40)), indexing="ij")
        image = (2 * x + y - z - 40).astype(np.int16)
        case = taught_case(tmp_path, image)
        strong = {"affine_probability": 1.0, "elastic_probability": 1.0, "elastic_mm": 1.0, "elastic_grid_mm": 8.0}
        samples = dataset([case], foreground_share=0.0, augmentation={**strong, "flip_axes": ["x"]})
        inside = 0
        for i in range(30):
            sample = samples[i]
            assert sample.margins is not None
            hu = sample.image[0] * 100
            if (sample.labels == 255).any() or (hu.abs() >= 99).any():
                continue  # leaves the volume or the range of intensities
            inside += 1
            said = pointwise_teacher(hu, 1.0)
            np.testing.assert_allclose(sample.margins[0, :2], said.margins, atol=0.02)
            for tap in TAPS:
                np.testing.assert_allclose(sample.features["a", tap][0], said.features[tap], atol=0.02)
            # labels: right wherever the value is further from the threshold than half a voxel's diagonal
            sure = (hu[0] - 20.5).abs() > 2.1
            assert torch.equal(sample.labels[0][sure], (hu[0] > 20)[sure].to(torch.uint8))
        assert inside >= 5

    def test_intensity_changes_the_image_alone(self, tmp_path: Path) -> None:
        case = taught_case(tmp_path, noise_hu())
        spatial = {"affine_probability": 0.5, "elastic_probability": 0.5, "flip_axes": ["x", "z"]}
        one = dataset([case], augmentation=spatial)
        two = dataset([case], augmentation={**spatial, **INTENSITY})
        for i in range(6):
            plain, changed = one[i], two[i]
            assert not torch.equal(plain.image, changed.image)
            changed.image = plain.image
            assert_equal(plain, changed)


class TestPlaces:
    def starts(self, samples: PatchDataset, count: int) -> np.ndarray[Any, Any]:
        """Where patches begin: the image tells, voxel (x, y, z) has 100 in x and so on, coded in its margins."""
        firsts = []
        for i in range(count):
            margins = samples[i].margins
            assert margins is not None
            inside = (samples[i].labels[0] != 255).nonzero()[0]
            firsts.append(margins[0, :, *inside].numpy() - inside.numpy())
        return np.asarray(firsts)

    def coded_case(self, folder: Path, shape: tuple[int, int, int]) -> TrainingCase:
        """Its teacher's three margins are the coordinates."""
        margins = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")).astype(np.float32)
        zeros = np.zeros(shape)
        return make_case(
            folder,
            zeros.astype(np.int16),
            zeros.astype(np.uint8),
            labelled=[1],
            targets={"a": TeacherTargets(margins, {}, {})},
        )

    @pytest.mark.parametrize("align", [1, 4])
    def test_are_multiples_that_reach_every_voxel(self, tmp_path: Path, align: int) -> None:
        shape = (19, 8, 5)  # no multiple of the patch, the patch itself, smaller than the patch
        needs = PatchNeeds(logits=True, align=(align, align, align))
        starts = self.starts(dataset([self.coded_case(tmp_path, shape)], needs), 150)
        assert (starts % align == 0).all()
        assert set(starts[:, 0]) == (set(range(12)) if align == 1 else {0, 4, 8, 12})
        assert set(starts[:, 1]) == {0}
        assert set(starts[:, 2]) == ({-3, -2, -1, 0} if align == 1 else {0})

    def test_outside_the_volume(self, tmp_path: Path) -> None:
        case = taught_case(tmp_path, noise_hu((4, 8, 8)), name="small")
        sample = dataset([case], PatchNeeds(logits=True, taps=TAPS, align=(8, 8, 8)))[0]
        assert sample.image.shape == (1, 1, 8, 8, 8)
        assert (sample.image[0, 0, 4:] == -1).all()
        assert (sample.labels[0, 4:] == 255).all()
        assert (sample.labels[0, :4] != 255).all()
        assert sample.margins is not None
        assert (sample.margins[0, :, 4:] == 0).all()
        assert (sample.features["a", "decoder1"][0, :, 2:] == 0).all()

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_the_share_of_patches_around_organs(self, tmp_path: Path, share: float) -> None:
        image = np.full((32, 32, 32), -50, np.int16)
        image[3, 4, 30] = 50
        samples = dataset([taught_case(tmp_path, image)], foreground_share=share)
        found = [bool((samples[i].labels == 1).any()) for i in range(12)]
        assert all(found) if share else not any(found)

    def test_datasets_are_drawn_evenly_then_cases(self, tmp_path: Path) -> None:
        cases = []
        for name, count in (("large", 3), ("small", 1)):
            for i in range(count):
                image = np.full((8, 8, 8), 10 * len(cases), np.int16)
                zeros = np.zeros((8, 8, 8), np.uint8)
                cases.append(make_case(tmp_path, image, zeros, labelled=[1], name=str(i), dataset=name))
        samples = dataset(cases, PatchNeeds(), steps=200)
        found = [int((samples[i].image[0, 0, 0, 0, 0] * 10).round()) for i in range(400)]
        assert found.count(3) == pytest.approx(200, abs=40)  # four deviations
        assert all(found.count(i) == pytest.approx(400 / 6, abs=32) for i in range(3))


class TestContents:
    def test_labelled_organs(self, tmp_path: Path) -> None:
        zeros = np.zeros((8, 8, 8), np.uint8)
        case = make_case(tmp_path, zeros.astype(np.int16), zeros, labelled=[1, 3])
        sample = dataset([case], PatchNeeds())[0]
        assert sample.labelled.tolist() == [[True, False, True]]
        assert sample.margins is None
        assert sample.features == {}

    def test_withheld_labels_where_a_method_asks(self, tmp_path: Path) -> None:
        zeros = np.zeros((8, 8, 8), np.uint8)
        withheld = np.full((8, 8, 8), 2, np.uint8)
        case = make_case(tmp_path, zeros.astype(np.int16), zeros, labelled=[1], withheld=withheld)
        assert (dataset([case], PatchNeeds())[0].labels == 0).all()
        assert (dataset([case], PatchNeeds(labels="withheld_labels"))[0].labels == 2).all()

    def test_a_batch_joins_samples(self, tmp_path: Path) -> None:
        samples = dataset([taught_case(tmp_path, noise_hu())])
        batch = collate([samples[0], samples[1]]).to(torch.device("cpu"))
        assert batch.image.shape == (2, 1, 8, 8, 8)
        assert batch.margins is not None
        assert batch.margins.shape == (2, 4, 8, 8, 8)
        assert batch.features["b", "decoder2"].shape == (2, 2, 2, 2, 2)
        assert torch.equal(batch.labels[1:], samples[1].labels)
        assert torch.equal(batch.features["b", "decoder2"][:1], samples[0].features["b", "decoder2"])
