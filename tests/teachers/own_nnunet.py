"""Run in nnU-Net's environment: what its own predictor says of a scan, on the scan's grid. MODEL SCAN OUT"""

import sys

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

model, scan, out = sys.argv[1:]
predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
predictor.initialize_from_trained_model_folder(model, (0,), "checkpoint_best.pth")
plans, configuration, dataset = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
data, properties = plans.image_reader_writer_class().read_images([scan])
data, _, properties = configuration.preprocessor_class(verbose=False).run_case_npy(
    data, None, properties, plans, configuration, dataset
)
logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(np.asarray(data)))
classes, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
    logits, plans, configuration, predictor.label_manager, properties, return_probabilities=True
)
# its arrays are (z, y, x)
np.savez(out, classes=np.transpose(classes), probabilities=np.transpose(probabilities, (0, 3, 2, 1)))
