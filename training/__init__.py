"""How the embedded emoji model and its two judges were trained; see README.md in this folder."""

from qsched_edge import torchvision_schema

torchvision_schema.declare()  # before diffusers and transformers are imported
