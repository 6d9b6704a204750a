"""What SAELens's autoencoders do, and what our reader takes of them; see test_peers.

Ours runs beside it here: SAELens brings TransformerLens, and its objects cross no process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import steerlens as sl

FEATURE, RISE = 5, 1.5
D_MODEL, N_HEADS, D_SAE = 32, 4, 64
STREAM, MLP_IN, MLP_OUT = "hook_resid_post", "ln2.hook_normalized", "hook_mlp_out"


def made(kind: str, **cfg: Any) -> Any:
    """One of random weights, by the name of its architecture in SAELens's registry."""
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    names = {"hook_name": f"blocks.1.{STREAM}", "model_name": "gpt2"} | cfg.pop("names", {})
    cls, config = get_sae_class(kind)
    sae = cls(config(d_in=D_MODEL, d_sae=D_SAE, metadata=SAEMetadata(**names), **cfg))
    generator = torch.Generator().manual_seed(0)
    for each in sae.parameters():
        each.data = 0.3 * torch.randn(each.shape, generator=generator)
    return sae


def every() -> dict[str, Any]:
    transcoder = {
        "names": {"hook_name": f"blocks.1.{MLP_IN}", "hook_name_out": f"blocks.1.{MLP_OUT}"},
        "apply_b_dec_to_input": False,
        "d_out": D_MODEL,
    }
    z = {"names": {"hook_name": "blocks.1.attn.hook_z"}, "reshape_activations": "hook_z"}
    return {
        "standard": made("standard"),
        "standard, b_dec not subtracted": made("standard", apply_b_dec_to_input=False),
        "jumprelu": made("jumprelu"),
        "gated": made("gated"),
        "topk": made("topk", k=8),
        "transcoder": made("transcoder", **transcoder),
        "jumprelu_transcoder": made("jumprelu_transcoder", **transcoder),
        "standard at hook_z": made("standard", **z),
    }


@torch.no_grad()
def main(folder: Path) -> None:
    import sae_lens

    told: dict[str, Any] = {}
    out: dict[str, torch.Tensor] = {}
    for name, sae in every().items():
        shape = (2, 7, N_HEADS, D_MODEL // N_HEADS) if "hook_z" in name else (2, 7, D_MODEL)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        acts = sae.encode(x)
        more = acts.clone()
        more[..., FEATURE] += RISE
        ours = sl.Direction.from_sae(sae, FEATURE)
        basis = sl.Basis.from_sae(sae, [1, FEATURE])
        told[name] = {"hook_name": ours.hook_name, "basis": basis.hook_name} | ours.provenance
        out[f"{name}: x"], out[f"{name}: acts"] = x, acts[..., FEATURE].contiguous()
        out[f"{name}: rise"] = sae.decode(more) - sae.decode(acts)
        out[f"{name}: ours"] = ours.vector
        out[f"{name}: basis"] = basis.only()[1].contiguous()
        out |= {f"{name}: {key}": each.data.contiguous() for key, each in sae.named_parameters()}
        sae.save_model(folder / "saved" / name)
    save_file(out, folder / "sae_lens.safetensors")
    (folder / "told.json").write_text(json.dumps([sae_lens.__version__, told]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
