"""Other libraries' vectors, in and out.

- `from_gguf`, `to_gguf`: control vectors of llama.cpp and repeng, as files.
- `from_layers`, `to_layers`: a vector a layer in memory: plain dictionaries (as of CAA), NumPy
  arrays, steering-vectors' `SteeringVector`, repeng's `ControlVector`.

Features of sparse autoencoders are `Direction.from_sae` and `Basis.from_sae`; edited models are
exported as Hugging Face folders by `Edit.export`.
"""

from steerlens.formats.control_vectors import from_gguf as from_gguf
from steerlens.formats.control_vectors import to_gguf as to_gguf
from steerlens.formats.layers import from_layers as from_layers
from steerlens.formats.layers import to_layers as to_layers
