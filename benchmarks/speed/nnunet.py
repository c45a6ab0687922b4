"""Plans for nnU-Net v2, written as its planner would: axes (z, y, x), our spacing and clip range, our network."""

from __future__ import annotations

from typing import Any

from benchmarks.speed.data import HU_CLIP, VALUES
from benchmarks.speed.networks import architecture
from benchmarks.speed.options import Options

CONFIGURATION = "3d_fullres"


def dataset_json(cases: int = 1) -> dict[str, Any]:
    """Return the description of the dataset."""
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **VALUES},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }


def plans(options: Options, spacing_zyx_mm: list[float], shape_zyx: list[int]) -> dict[str, Any]:
    """Return the plans; its defaults of resampling, its CT normalisation with our range."""
    kwargs = {name: value for name, value in architecture(options).items() if name != "deep_supervision"}
    kwargs |= {"conv_op": "torch.nn.modules.conv.Conv3d", "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d"}
    kwargs |= {"nonlin": "torch.nn.LeakyReLU", "dropout_op": None, "dropout_op_kwargs": None}
    low, high = HU_CLIP
    resampling: dict[str, Any] = {}
    for name, is_seg, order in (("data", False, 3), ("seg", True, 1), ("probabilities", False, 1)):
        own = {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}
        resampling |= {f"resampling_fn_{name}": "resample_data_or_seg_to_shape", f"resampling_fn_{name}_kwargs": own}
    return {
        "dataset_name": "Dataset001_Speed",
        "plans_name": "nnUNetPlans",
        "continue_training": False,
        "original_median_spacing_after_transp": spacing_zyx_mm,
        "original_median_shape_after_transp": shape_zyx,
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "percentile_00_5": low,
                "percentile_99_5": high,
                "mean": (low + high) / 2,
                "std": (high - low) / 2,
                "min": low,
                "max": high,
                "median": (low + high) / 2,
            }
        },
        "configurations": {
            CONFIGURATION: {
                "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [options.window] * 3,
                "median_image_size_in_voxels": shape_zyx,
                "spacing": spacing_zyx_mm,
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "batch_dice": False,
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "arch_kwargs": kwargs,
                    "_kw_requires_import": ["conv_op", "norm_op", "nonlin", "dropout_op"],
                },
                **resampling,
            }
        },
    }


def managers(options: Options, spacing_mm: tuple[float, ...], shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return nnU-Net's plans and configuration managers for a grid of ours (x, y, z)."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    written = plans(options, [float(s) for s in spacing_mm[::-1]], [int(n) for n in shape[::-1]])
    manager = PlansManager(written)
    return manager, manager.get_configuration(CONFIGURATION)
