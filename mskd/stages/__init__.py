"""Stages: each arrow of the way of the data; one module per rule of the workflow and per `mskd` command.

A stage reads the manifests before it, compares content keys, makes what does not stand yet, and writes its own
manifest.
"""
