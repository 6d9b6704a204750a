"""One torch thread (two can be many times slower on small passes), no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

torch.set_num_threads(1)
