"""Export of model folders to ONNX, with all that another program needs to run them as mskd does."""
