"""Steerling, the bundled model, the world it was trained on, and the demo."""

from steerlens.demo.model import load_model as load_model
