"""Methods: what their files state, and what each of them makes of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mskd.config.distillation import Distillation
from mskd.config.loading import parse_study
from mskd.config.model import Network
from mskd.config.training import Training
from mskd.errors import ConfigError
from mskd.losses.supervision import supervised_loss
from mskd.margins import margins
from mskd.methods import individual, registry, self_training
from mskd.methods import mskd as method
from mskd.methods.base import Built, MethodContext, deep_supervised
from mskd.methods.registry import KNOWN_NEEDS, NOT_METHODS, method_facts, method_kinds
from mskd.networks.unet import UNet
from mskd.stages.train_student import feature_note
from mskd.training.patches import Batch

FILES = Path(registry.__file__).parent
SUPERVISED = ["full_labels", "naive_union"]
TAPS = {"decoder0": (1, 1, 1), "encoder1": (2, 2, 2)}
CHANNELS = {"decoder0": 2, "encoder1": 3}
SEEN = {"kind": "labels", "path": "/seen", "classes": {1: "liver"}}


def context(distillation: dict[str, Any] | None = None, **changes: Any) -> MethodContext:
    """Two organs, a teacher for each."""
    made = MethodContext(
        organs=["liver", "spleen"],
        network=Network(features=[2, 3], convolutions_per_level=1),
        training=Training(),
        distillation=Distillation(**(distillation or {})),
        owned={"a": [0], "b": [1]},
        tap_channels={"a": CHANNELS, "b": CHANNELS},
        tap_strides=TAPS,
        organ_sets=[[0], [1]],
    )
    return replace(made, **changes)


def batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    size = (8, 8, 8)

    def random(*shape: int) -> Tensor:
        return torch.randn((2, *shape), generator=generator)

    labels = torch.zeros((2, *size), dtype=torch.uint8)
    labels[0, :4, :4], labels[1, 2:5, 3:], labels[:, -1] = 1, 2, 255
    features = {
        (teacher, tap): random(CHANNELS[tap], *(8 // s for s in stride))
        for teacher in ("a", "b")
        for tap, stride in TAPS.items()
    }
    labelled = torch.tensor([[True, False], [False, True]])
    return Batch(random(1, *size).clamp(-1, 1), labels, labelled, 3 * random(2, *size) - 1, features)


def build(kind: str, made: MethodContext, seed: int = 0) -> Built:
    torch.manual_seed(seed)
    built: Built = import_module(f"mskd.methods.{kind}").build(made)
    return built


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


class TestRegistry:
    @pytest.fixture(autouse=True)
    def fresh(self) -> Iterator[None]:
        """What is read of other folders is forgotten."""
        method_facts.cache_clear()
        yield
        method_facts.cache_clear()

    def folder(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        monkeypatch.setattr(registry, "__file__", str(folder / "registry.py"))

    def test_every_method_file_states_what_it_is(self) -> None:
        assert {"individual", "naive_union", "self_training", "full_labels", "mskd"} <= set(method_kinds())
        assert len({method_facts(kind).title for kind in method_kinds()}) == len(method_kinds())
        for kind in method_kinds():
            facts, module = method_facts(kind), import_module(f"mskd.methods.{kind}")
            assert (facts.kind, facts.module) == (kind, module.__name__)
            assert (facts.title, facts.trains, facts.needs) == (module.TITLE, module.TRAINS, frozenset(module.NEEDS))
            assert isinstance(module.TRAINS, bool)
            assert facts.needs <= KNOWN_NEEDS
            assert callable(module.build if facts.trains else module.assemble)
            assert (module.__doc__ or "").strip()

    def test_no_file_is_overlooked(self) -> None:
        assert set(method_kinds()) == {p.stem for p in FILES.iterdir() if p.suffix == ".py"} - NOT_METHODS

    def test_a_new_file_is_a_new_method(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for path in FILES.glob("*.py"):
            (tmp_path / path.name).write_text(path.read_text())
        text = 'import a_module_that_is_not_there\nTITLE: str = "new"\nTRAINS = True\nNEEDS: list[str] = ["targets"]\n'
        (tmp_path / "brand_new.py").write_text(text)
        before = method_kinds()
        self.folder(monkeypatch, tmp_path)
        assert method_kinds() == sorted([*before, "brand_new"])
        facts = method_facts("brand_new")  # read without importing
        assert (facts.title, facts.trains, facts.needs) == ("new", True, {"targets"})

    def test_an_unknown_method_names_the_allowed_ones(self) -> None:
        with pytest.raises(ConfigError, match="no method 'mskdd'") as caught:
            method_facts("mskdd")
        assert all(kind in str(caught.value) for kind in method_kinds())

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ('TITLE = "x"\nTRAINS = True\n', "new.py does not state NEEDS"),
            ("", "does not state TITLE, TRAINS, NEEDS"),
            ('TITLE = "x"\nTRAINS = True\nNEEDS = ["telepathy"]\n', "telepathy.*allowed.*targets"),
        ],
    )
    def test_a_file_that_states_too_little(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, match: str
    ) -> None:
        (tmp_path / "new.py").write_text(text)
        self.folder(monkeypatch, tmp_path)
        with pytest.raises(ConfigError, match=match):
            method_facts("new")

    def test_what_is_read_is_what_is_needed(self) -> None:
        """A method that states no targets gets none, so it may not ask patches for them."""
        for kind in method_kinds():
            facts = method_facts(kind)
            if facts.trains:
                needs = build(kind, context()).needs
                assert needs.logits == ("targets" in facts.needs)
                assert bool(needs.taps) == ("features" in facts.needs)
                assert (needs.labels == "withheld_labels") == ("withheld_labels" in facts.needs)


@pytest.mark.parametrize("kind", [kind for kind in method_kinds() if method_facts(kind).trains])
def test_every_method_learns(kind: str) -> None:
    built, sample = build(kind, context()), batch()
    loss = built.loss(sample, 0)
    assert all(term.shape == () for term in loss.values())
    total(loss).backward()
    for name, parameter in [*built.network.named_parameters(), *built.auxiliary.named_parameters()]:
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    assert any((p.grad != 0).any() for p in built.network.parameters() if p.grad is not None)
    assert built.network(sample.image).shape == (2, 3, 8, 8, 8)
    # the same seed gives the same start, whatever the method
    assert torch.equal(built.network.state_dict()["encoder.stages.0.0.convs.0.all_modules.0.weight"], start_weight())


def start_weight() -> Tensor:
    torch.manual_seed(0)
    return UNet(context().network, 3).state_dict()["encoder.stages.0.0.convs.0.all_modules.0.weight"]


class TestSupervision:
    def test_deep_levels_by_hand(self) -> None:
        """Weights 2/3 and 1/3; the coarse level sees every second label, from the second on."""
        sample = batch()
        scores = [torch.randn((2, 3, 8, 8, 8)), torch.randn((2, 3, 4, 4, 4))]
        found = deep_supervised(scores, sample.labels, sample.labelled, Training())
        fine = supervised_loss(scores[0], sample.labels, sample.labelled)
        coarse = supervised_loss(scores[1], sample.labels[:, 1::2, 1::2, 1::2], sample.labelled)
        assert found.item() == pytest.approx((2 * fine.item() + coarse.item()) / 3)
        alone = deep_supervised(scores[:1], sample.labels, sample.labelled, Training())
        assert alone.item() == pytest.approx(fine.item())

    @pytest.mark.parametrize("kind", SUPERVISED)
    def test_every_organ_counts_whether_labelled_or_not(self, kind: str) -> None:
        built, sample = build(kind, context()), batch()
        everything = torch.ones((2, 2), dtype=torch.bool)
        expected = supervised_loss(built.network(sample.image), sample.labels, everything)
        assert total(built.loss(sample, 0)).item() == pytest.approx(expected.item())

    def test_deep_supervision_reaches_every_level(self) -> None:
        deep = context(network=Network(features=[2, 3, 4], convolutions_per_level=1, deep_supervision=True))
        for kind in ("naive_union", "mskd"):
            made = replace(deep, distillation=Distillation(feature_weight=0.0))
            built = build(kind, made)
            total(built.loss(batch(), 0)).backward()
            assert all((p.grad != 0).any() for p in built.network.decoder.seg_layers.parameters())


class TestSelfTraining:
    def test_pseudo_labels_by_hand(self) -> None:
        # voxel: 0 nobody; 1 first; 2 both, second surer; 3 ground truth; 4 ignored; 5 only the labelled organ's teacher
        first, second = [-1.0, 2, 1, 5, 5, -1], [-2.0, -1, 3, 5, 5, 4]
        margin = torch.tensor([[first, second]])[..., None, None].expand(2, 2, 6, 1, 1)
        labels = torch.tensor([0, 0, 0, 2, 255, 0], dtype=torch.uint8)[None, :, None, None].expand(2, 6, 1, 1)
        sample = replace(batch(), labels=labels, margins=margin, labelled=torch.tensor([[False, False], [False, True]]))
        found, known = self_training.pseudo_labels(sample, [0, 1], 2)
        assert known.all()
        assert found.dtype == torch.uint8
        assert found[0].flatten().tolist() == [0, 1, 2, 2, 255, 2]
        # the second organ is labelled: its teacher is not asked
        assert found[1].flatten().tolist() == [0, 1, 1, 2, 255, 0]

    def test_is_supervision_by_them(self) -> None:
        built, sample = build("self_training", context()), batch()
        labels, _ = self_training.pseudo_labels(sample, [0, 1], 2)
        everything = torch.ones((2, 2), dtype=torch.bool)
        expected = supervised_loss(built.network(sample.image), labels, everything)
        assert total(built.loss(sample, 0)).item() == pytest.approx(expected.item())

    @pytest.mark.parametrize("kind", ["self_training", "co_training", "conditional_distillation", "mskd"])
    def test_an_organ_of_which_nobody_speaks_is_not_taught(self, kind: str) -> None:
        """Its teacher was not asked about the case: what its channel of the margins holds has no part in the loss."""
        spoken = torch.tensor([[True, False], [False, True]])  # each organ by its own dataset's case alone
        sample = replace(batch(), spoken=spoken)
        no_features = context({"feature_weight": 0.0})
        assert self_training.pseudo_labels(sample, [0, 1], 2)[1].tolist() == sample.labelled.tolist()
        assert sample.margins is not None
        other = sample.margins.clone()
        other[~spoken] = 5.0
        found = [total(build(kind, no_features).loss(replace(sample, margins=m), 0)) for m in (sample.margins, other)]
        assert found[0].item() == pytest.approx(found[1].item())

    @pytest.mark.parametrize(("kind", "term"), [("self_training", "supervised"), ("co_training", "supervised")])
    def test_it_is_supervised_on_the_others_alone(self, kind: str, term: str) -> None:
        built, sample = build(kind, context()), batch()
        sample = replace(sample, spoken=torch.zeros((2, 2), dtype=torch.bool))
        expected = supervised_loss(built.network(sample.image), sample.labels, sample.labelled)
        assert built.loss(sample, 0)[term].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("teachers", "changes", "said"),
    [
        ({"d": {}}, {}, ""),
        ({"d": {}, "seen": SEEN}, {}, "mskd: no features of seen: the feature term goes without"),
        ({"seen": SEEN}, {}, "mskd: no features of seen: so there is no feature term"),
        ({"seen": SEEN}, {"distillation": {"feature_weight": 0}}, ""),
        ({"seen": SEEN}, {"cache": {"taps": []}}, ""),
    ],
)
def test_the_log_says_who_gives_no_features(teachers: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    datasets = {"d": {"path": "/d", "label_map": {1: "liver"}}}
    rows = {"mskd": {}, "self_training": {}}
    study = parse_study({"datasets": datasets, "teachers": teachers, "methods": rows, **changes})
    assert feature_note(study, "mskd") == said
    assert feature_note(study, "self_training") == ""


def test_individual_merges_the_teachers() -> None:
    torch.manual_seed(0)
    teachers = {"b": UNet(context().network, 3), "a": UNet(context().network, 2)}
    made = context(organs=["x", "y", "z"], owned={"a": [1], "b": [2, 0]})
    merged, image = individual.assemble(made, teachers), batch().image
    found = merged(image)
    torch.testing.assert_close(found[:, 2:3], margins(teachers["a"](image)))
    torch.testing.assert_close(found[:, [3, 1]], margins(teachers["b"](image)))


class TestMskd:
    def perfect(self, built: Built, sample: Batch) -> Batch:
        """The batch that this very student would have cached."""
        scores, features = built.network.run(sample.image, list(TAPS))
        said = {key: features[key[1]].detach() for key in sample.features}
        return replace(sample, margins=margins(scores[0]).detach(), features=said)

    def identity(self, built: Built) -> None:
        for projection in built.auxiliary.values():
            nn.init.dirac_(projection.weight)
            nn.init.zeros_(projection.bias)

    @pytest.mark.parametrize("distance", ["l2", "cosine"])
    def test_a_student_that_equals_its_teachers_has_nothing_to_learn(self, distance: str) -> None:
        settings = {"supervised_weight": 0.0, "feature_distance": distance, "region_source": "teachers"}
        built = build("mskd", context(settings))
        self.identity(built)
        terms = built.loss(self.perfect(built, batch()), 0)
        assert set(terms) == {"logit_organ", "logit_background", "logit_dice", "feature_decoder0", "feature_encoder1"}
        assert all(term.item() == pytest.approx(0, abs=1e-6) for term in terms.values())
        total(terms).backward()
        slopes = [p.grad.abs().max().item() for p in built.network.parameters() if p.grad is not None]
        assert max(slopes) < 1e-4
        other = batch()
        other.margins, other.features = batch(1).margins, batch(1).features
        assert total(built.loss(other, 0)).item() > 0.1

    def test_terms_are_weighted(self) -> None:
        sample = batch()
        one = build("mskd", context()).loss(sample, 0)
        settings = {"supervised_weight": 3.0, "logit_weight": 5.0, "feature_weight": 0.7}
        two = build("mskd", context(settings)).loss(sample, 0)
        factors = {"supervised": 3.0, "logit": 5.0, "feature": 7.0}
        for name, term in one.items():
            assert two[name].item() == pytest.approx(factors[name.split("_")[0]] * term.item(), rel=1e-5)

    def test_the_ramp_grows_the_distillation_alone(self) -> None:
        sample, built = batch(), build("mskd", context({"ramp_steps": 4}))
        terms = {step: {k: v.item() for k, v in built.loss(sample, step).items()} for step in (0, 1, 3, 9)}
        assert terms[3] == terms[9]
        for step, factor in ((0, 0.25), (1, 0.5)):
            for name, value in terms[step].items():
                expected = 1 if name == "supervised" else factor
                assert value == pytest.approx(expected * terms[3][name], rel=1e-5)

    def test_supervision_is_on_the_labelled_organs(self) -> None:
        sample, built = batch(), build("mskd", context())
        expected = supervised_loss(built.network(sample.image), sample.labels, sample.labelled)
        assert built.loss(sample, 0)["supervised"].item() == pytest.approx(expected.item())

    def test_labelled_organs_need_not_be_distilled(self) -> None:
        """Without them, what their teachers say does not matter inside their own terms."""
        sample = batch()
        settings = {"distil_labelled": False, "feature_weight": 0.0, "supervised_weight": 0.0}
        built = build("mskd", context(settings))
        assert sample.margins is not None
        louder = sample.margins.clone()
        louder[0, 0] *= 1.5  # same signs, hence the same regions; organ 1 is labelled in sample 0
        changed = replace(sample, margins=louder)
        assert total(built.loss(changed, 0)).item() == pytest.approx(total(built.loss(sample, 0)).item())
        whole = build("mskd", context({**settings, "distil_labelled": True}))
        assert total(whole.loss(changed, 0)).item() != pytest.approx(total(whole.loss(sample, 0)).item())

    def test_switched_off_terms_are_gone(self) -> None:
        built = build("mskd", context({"logit_weight": 0.0, "feature_weight": 0.0}))
        assert set(built.loss(batch(), 0)) == {"supervised"}
        assert len(built.auxiliary) == 0
        assert not built.needs.taps

    def test_patches_start_on_the_grid_of_the_coarsest_tap(self) -> None:
        assert build("mskd", context()).needs.align == (2, 2, 2)
        assert build("mskd", context({"feature_weight": 0.0})).needs.align == (1, 1, 1)
        uneven = context(tap_strides={"decoder0": (1, 1, 1), "encoder1": (1, 4, 2)})
        assert build("mskd", uneven).needs.align == (1, 4, 2)

    def test_some_of_the_taps(self) -> None:
        built = build("mskd", context({"feature_taps": ["encoder1"]}))
        assert list(built.auxiliary) == ["a-encoder1", "b-encoder1"]
        assert {n for n in built.loss(batch(), 0) if n.startswith("feature")} == {"feature_encoder1"}

    def test_a_tap_that_the_cache_does_not_hold(self) -> None:
        with pytest.raises(ConfigError, match=r"feature_taps names encoder0.*\[decoder0, encoder1, encoder0\]"):
            method.build(context({"feature_taps": ["encoder0", "encoder1"]}))

    def test_any_teacher_name(self) -> None:
        names = {"site.a": [0], "site_a": [1]}
        built = build("mskd", context(owned=names, tap_channels=dict.fromkeys(names, CHANNELS)))
        assert len(built.auxiliary) == 4

    def test_the_projections_are_no_part_of_the_student(self) -> None:
        built = build("mskd", context())
        assert built.network.state_dict().keys() == UNet(context().network, 3).state_dict().keys()

    @pytest.mark.parametrize(
        "settings",
        [
            {"form": "raw"},
            {"form": "assembled"},
            {"hard_targets": True},
            {"normalisation": "per_region"},
            {"conflict": "max_margin"},
            {"combine": "most_confident"},
            {"logit_regions": "organ", "feature_regions": "background"},
            {"feature_distance": "cosine", "feature_normalisation": "none"},
        ],
    )
    def test_every_choice_of_the_ablation_changes_the_loss(self, settings: dict[str, Any]) -> None:
        several = {"owned": {"a": [0], "b": [1, 0]}, "tap_channels": {"a": CHANNELS, "b": CHANNELS}}
        sample = batch()
        assert sample.margins is not None
        third = functional.pad(sample.margins, (0, 0, 0, 0, 0, 0, 0, 1), value=1.0)
        third[:, 2] += batch(1).image[:, 0]
        sample = replace(sample, margins=third, labelled=sample.labelled & False)  # so that conflicts can arise
        one, two = (total(build("mskd", context(s, **several)).loss(sample, 0)) for s in ({}, settings))
        assert two.isfinite()
        assert one.item() != pytest.approx(two.item(), rel=1e-4)
