"""Regions: organ regions, agreed background, conflicts and uncertain voxels, on hand-made rows of voxels."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mskd.regions import Regions, combine_teachers, find_regions


def row(values: list[Any]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def find(
    margins: list[list[float]], owned: list[int], labels: list[int], labelled: list[bool], **options: Any
) -> Regions:
    """Regions of one row of voxels; margins per (teacher, organ) channel."""
    return find_regions(
        torch.stack([row(m) for m in margins])[None].float(),
        owned,
        row(labels)[None].to(torch.uint8),
        torch.tensor([labelled]),
        n_organs=len(labelled),
        **options,
    )


def where(mask: Tensor) -> list[int]:
    """Voxels of a row that are True."""
    return [int(i) for i in mask.flatten().nonzero()]


class TestGroundTruthAndTeachers:
    # voxel:      0   1   2   3   4   5   6   7
    FIRST: ClassVar = [5.0, -5, 5, -5, -5, 5, -5, 5]
    SECOND: ClassVar = [-5.0, -5, -5, 5, -5, 5, 5, -5]
    LABELS: ClassVar = [1, 1, 0, 0, 0, 0, 1, 255]

    def regions(self, **options: Any) -> Regions:
        return find([self.FIRST, self.SECOND], [0, 1], self.LABELS, [True, False], **options)

    def test_ground_truth_where_there_is_one_else_the_teacher(self) -> None:
        found = self.regions()
        # organ 1 is labelled: its truth, whatever its teacher says; voxel 6 although the second teacher claims it
        assert where(found.organ[0, 0]) == [0, 1, 6]
        # organ 2 is not: its teacher's positive voxels, less what ground truth claims (6)
        assert where(found.organ[0, 1]) == [3, 5]

    def test_the_background_is_what_all_agree_on(self) -> None:
        # 2 and 5: the first teacher says organ although ground truth does not; 7 is ignored
        assert where(self.regions().background) == [4]

    def test_from_teachers_alone(self) -> None:
        found = self.regions(source="teachers")
        assert where(found.organ[0, 0]) == [0, 2]  # 5 is a conflict, 7 ignored
        assert where(found.organ[0, 1]) == [3, 6]
        assert where(found.background) == [1, 4]

    def test_ground_truth_ends_conflicts(self) -> None:
        # voxel 5: both teachers claim it, but organ 1 is labelled and is not there
        assert 5 in where(self.regions().organ[0, 1])

    def test_margins_and_taught_are_passed_on(self) -> None:
        found = self.regions()
        assert found.margin[0, 0].flatten().tolist() == self.FIRST
        assert found.margin[0, 1].flatten().tolist() == self.SECOND
        assert found.taught.tolist() == [[True, True]]


class TestConflicts:
    # voxel:  0 both, second surer; 1 both, first surer; 2 first only; 3 nobody
    MARGINS: ClassVar = [[1.0, 4, 1, -1], [3.0, 2, -1, -1]]

    def test_are_in_no_region(self) -> None:
        found = find(self.MARGINS, [0, 1], [0, 0, 0, 0], [False, False])
        assert where(found.organ[0, 0]) == [2]
        assert where(found.organ[0, 1]) == []
        assert where(found.background) == [3]

    def test_or_go_to_the_largest_margin(self) -> None:
        found = find(self.MARGINS, [0, 1], [0, 0, 0, 0], [False, False], conflict="max_margin")
        assert where(found.organ[0, 0]) == [1, 2]
        assert where(found.organ[0, 1]) == [0]
        assert where(found.background) == [3]

    def test_ground_truth_wins_over_any_margin(self) -> None:
        found = find(self.MARGINS, [0, 1], [2, 2, 0, 0], [False, True], conflict="max_margin")
        assert where(found.organ[0, 1]) == [0, 1]
        assert where(found.organ[0, 0]) == [2]


class TestSeveralTeachersOfOneOrgan:
    # organ 1 has two teachers, organ 2 one
    # voxel:     0 agree yes; 1 disagree; 2 agree no; 3 disagree, organ 2 claims; 4 agree no, organ 2 claims
    FIRST: ClassVar = [2.0, 1, -2, 3, -1]
    SECOND: ClassVar = [4.0, -5, -4, -1, -9]
    OTHER: ClassVar = [-1.0, -1, -1, 6, 6]

    def regions(self, labels: list[int], labelled: list[bool], **options: Any) -> Regions:
        return find([self.FIRST, self.OTHER, self.SECOND], [0, 1, 0], labels, labelled, **options)

    def test_the_mean_margin(self) -> None:
        found = self.regions([0] * 5, [False, False])
        assert found.margin[0, 0].flatten().tolist() == [3, -2, -3, 1, -5]
        assert found.margin[0, 1].flatten().tolist() == self.OTHER

    def test_the_most_confident(self) -> None:
        found = self.regions([0] * 5, [False, False], combine="most_confident")
        assert found.margin[0, 0].flatten().tolist() == [4, -5, -4, 3, -9]

    @pytest.mark.parametrize("combine", ["mean", "most_confident"])
    def test_voxels_on_which_they_disagree_are_in_no_region(self, combine: str) -> None:
        found = self.regions([0] * 5, [False, False], combine=combine)
        assert where(found.organ[0, 0]) == [0]
        assert where(found.organ[0, 1]) == [4]
        assert where(found.background) == [2]

    def test_unless_ground_truth_claims_them(self) -> None:
        found = self.regions([0, 1, 0, 1, 0], [True, False])
        assert where(found.organ[0, 0]) == [1, 3]

    def test_every_organ_with_one_teacher_is_the_identity(self) -> None:
        margins = torch.randn((2, 3, 2, 2, 2))
        margin, taught, uncertain = combine_teachers(margins, [0, 1, 2], 3, "mean")
        assert torch.equal(margin, margins)
        assert taught.all()
        assert not uncertain.any()
        swapped, *_ = combine_teachers(margins[:, [2, 0, 1]], [2, 0, 1], 3, "mean")
        assert torch.equal(swapped, margins)


class TestAnOrganWithoutTeacher:
    def test_is_not_taught_and_has_no_margin(self) -> None:
        found = find([[5.0, -5, -5]], [0], [0, 0, 0], [False, False])
        assert found.taught.tolist() == [[True, False]]
        assert found.margin[0, 1].flatten().tolist() == [0, 0, 0]
        assert where(found.organ[0, 1]) == []
        assert where(found.background) == [1, 2]

    def test_its_ground_truth_is_nobodys_background(self) -> None:
        found = find([[-5.0, -5, 5]], [0], [2, 0, 2], [False, True])
        assert where(found.background) == [1]
        assert where(found.organ[0, 0]) == []  # voxel 2: ground truth says organ 2


def test_each_sample_has_its_own_labelled_organs() -> None:
    margins = torch.tensor([-1.0, 1.0]).view(1, 1, 2, 1, 1).expand(2, 1, 2, 1, 1)
    labels = torch.tensor([1, 0], dtype=torch.uint8).view(1, 2, 1, 1).expand(2, 2, 1, 1)
    found = find_regions(margins, [0], labels, torch.tensor([[True], [False]]), n_organs=1)
    assert where(found.organ[0]) == [0]
    assert where(found.organ[1]) == [1]
    assert where(found.background[0]) == []
    assert where(found.background[1]) == [0]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31 - 1),
    owned=st.lists(st.integers(0, 2), min_size=1, max_size=5),
    labelled=st.lists(st.booleans(), min_size=3, max_size=3),
    source=st.sampled_from(["ground_truth_first", "teachers"]),
    conflict=st.sampled_from(["drop", "max_margin"]),
)
def test_what_always_holds(seed: int, owned: list[int], labelled: list[bool], source: Any, conflict: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    margins = torch.randn((2, len(owned), 3, 3, 2), generator=generator)
    labels = torch.tensor([0, 1, 2, 3, 255], dtype=torch.uint8)[torch.randint(0, 5, (2, 3, 3, 2), generator=generator)]
    known = torch.tensor([labelled, labelled[::-1]])
    options: dict[str, Any] = {"n_organs": 3, "source": source, "conflict": conflict}
    found = find_regions(margins, owned, labels, known, **options)
    # one voxel belongs to one organ, or to the background, or to nobody
    assert (found.organ.sum(1, keepdim=True) + found.background.int() <= 1).all()
    judged_by_nobody = (labels == 255)[:, None]
    assert not (found.organ & judged_by_nobody).any()
    assert not (found.background & judged_by_nobody).any()
    # every teacher says background in B
    assert (margins[found.background.expand_as(margins)] <= 0).all()
    # the order of teachers does not matter
    again = find_regions(margins.flip(1), owned[::-1], labels, known, **options)
    assert torch.equal(again.organ, found.organ)
    assert torch.equal(again.background, found.background)


class TestSeveralVoices:
    """Teachers of one organ that differ in quality, or that were not asked about every case."""

    # two teachers of organ 0, one of organ 1; voxels 0 … 3
    margins = torch.tensor([[4.0, -4.0, 3.0, 1.0], [2.0, -2.0, -1.0, -3.0], [-5.0, -5.0, -5.0, 5.0]])

    def combined(self, how: Any, **options: Any) -> tuple[list[list[float]], list[list[bool]], list[int]]:
        margins = self.margins[None, :, :, None, None]
        margin, taught, uncertain = combine_teachers(margins, [0, 0, 1], 2, how, **options)
        return margin[0, :, :, 0, 0].tolist(), taught.tolist(), where(uncertain)

    def test_by_validation_dice(self) -> None:
        margin, taught, uncertain = self.combined("validation_dice", weights=[0.9, 0.3, 0.5])
        assert margin[0] == pytest.approx([0.75 * 4 + 0.25 * 2, -3.5, 0.75 * 3 - 0.25, 0.75 - 0.75], abs=1e-6)
        assert margin[1] == self.margins[2].tolist()
        assert taught == [[True, True]]
        assert uncertain == [2, 3]

    def test_equal_dice_is_the_mean_and_so_is_none(self) -> None:
        mean = self.combined("mean")
        assert self.combined("validation_dice", weights=[0.4, 0.4, 0.1])[0][0] == pytest.approx(mean[0][0])
        assert self.combined("validation_dice", weights=[0.0, 0.0, 0.1])[0][0] == pytest.approx(mean[0][0])

    @pytest.mark.parametrize("how", ["mean", "most_confident", "validation_dice"])
    def test_who_was_not_asked_has_no_part(self, how: Any) -> None:
        spoken = torch.tensor([[False, True, False]])
        margin, taught, uncertain = self.combined(how, spoken=spoken, weights=[0.9, 0.3, 0.5])
        assert margin[0] == pytest.approx(self.margins[1].tolist())
        assert taught == [[True, False]]  # nobody was asked about organ 1
        assert uncertain == []

    @pytest.mark.parametrize(
        ("how", "options", "organ", "background"),
        [
            ("mean", {}, [0], [1]),
            ("mean", {"disagreement": "combined"}, [0, 2], [1]),  # voxel 3: organ 1 claims it
            ("most_confident", {}, [0], [1]),
            ("most_confident", {"disagreement": "combined"}, [0, 2], [1]),
            ("validation_dice", {"weights": [0.9, 0.3, 0.5]}, [0], [1]),
            ("validation_dice", {"weights": [0.9, 0.3, 0.5], "veto_share": 0.5}, [0, 2], [1]),
            ("validation_dice", {"weights": [0.9, 0.3, 0.5], "veto_share": 0.3}, [0], [1]),
            ("validation_dice", {"weights": [0.0, 0.9, 0.5], "veto_share": 0.5}, [0], [1, 2]),
        ],
    )
    def test_who_settles_a_disagreement(
        self, how: Any, options: dict[str, Any], organ: list[int], background: list[int]
    ) -> None:
        labels, known = torch.zeros((1, 4, 1, 1), dtype=torch.uint8), torch.zeros((1, 2), dtype=torch.bool)
        margins = self.margins[None, :, :, None, None]
        found = find_regions(margins, [0, 0, 1], labels, known, n_organs=2, combine=how, **options)
        assert where(found.organ[0, 0]) == organ
        assert where(found.background) == background

    def test_who_has_the_veto_is_not_outvoted_by_who_has_none(self) -> None:
        """Weights 0.9 and 0.3: the mean is positive, since the worse teacher is the louder one."""
        margins = torch.tensor([-1.0, 8.0]).view(1, 2, 1, 1, 1)
        margin, _, uncertain = combine_teachers(
            margins, [0, 0], 1, "validation_dice", weights=[0.9, 0.3], veto_share=0.8
        )
        assert margin.item() > 0
        assert uncertain.all()

    def test_weights_are_needed(self) -> None:
        with pytest.raises(ValueError, match="weight of every channel"):
            self.combined("validation_dice")
