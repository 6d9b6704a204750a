"""One saved file of every kind, and ways to spoil them: seeded, byte by byte and part by part.

    python tests/fuzzing.py 20000

spoils so many, without the type checks of test runs, which would catch what a user's run would not.
"""

from __future__ import annotations

import json
import random
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import steerlens as sl
from steerlens.attribution.value import Scores
from steerlens.directions import Quality
from steerlens.editing.factors import Factors
from steerlens.errors import SteerLensError
from steerlens.formats import from_gguf, to_gguf
from steerlens.methods.adaptation import Adaptation, Trial
from steerlens.methods.masks import Mask
from steerlens.storage import signed

HOOK = "blocks.1.hook_resid_post"


def values() -> dict[str, Any]:
    """Something of every kind that can be saved."""
    import pandas

    about = {"model": "gpt2", "weights": "as trained", "data": "ab"}
    quality = Quality(0.9, (0.8, 1.0), 2.0, 0.7, (0.3, 0.7), (0.2, 0.8), 1, 50)
    up = sl.Direction(HOOK, torch.tensor([3.0, 4.0]), "up", quality, 2.5, "8 pairs", about)
    basis = sl.Basis({HOOK: torch.eye(2)}, ["x", "y"])
    gate = (sl.signals.Cosine(up) > 0.2) & sl.signals.Latch(sl.signals.Probe(up))
    steering = sl.add(up, [1.0, 2.0], positions=sl.positions.last(2)).when(gate) >> sl.ablate(basis)
    steering += sl.add(up, positions=sl.positions.matching("a", 5))
    scores = Scores(*[torch.ones(2, 3) * i for i in range(6)])
    trials = Trial((0.0, 0.0), 0.0, 0.0, 0.0, 0.0), Trial((1.0, -0.5), 0.7, 0.8, 0.1, 0.0)
    one = torch.ones(1)
    factors = Factors(
        (1, "mlp"), 4, torch.tensor([2]), one, one[:, None], torch.ones(2), torch.ones(2)
    )
    mask = torch.tensor([[True, False, True]])
    return {
        "direction": up,
        "directions": sl.directions.Directions({HOOK: up}),
        "basis": basis,
        "contrast": sl.Contrast([("a", " b"), [1, 2]], [("a", " c"), [3]]),
        "signal": gate,
        "steering": steering,
        "attribution": sl.Attribution(scores, scores, "up", "8 pairs", "last", about),
        "mask": Mask("head", mask, mask.float(), (3, 4)),
        "adaptation": Adaptation(basis, trials, 1, "tpe", "budget", 4, 8),
        "table": pandas.DataFrame({"layer": [1, 2], "note": ["a", None], "kl": [0.5, 1.5]}),
        "edit": sl.Edit((factors,), importance={(1, "mlp"): torch.ones(4)}, provenance=about),
    }


def write_all(folder: Path) -> dict[str, Path]:
    """Every value in a file of its own, and a control vector."""
    made = values()
    for kind, value in made.items():
        sl.save(value, folder / kind)
    to_gguf(made["direction"], folder / "gguf")
    return {kind: folder / kind for kind in (*made, "gguf")}


def look(path: Path, kind: str) -> None:
    """Load a file, and look at what comes as a user would."""
    value = from_gguf(path) if kind == "gguf" else sl.load(path)
    repr(value)
    if hasattr(value, "_repr_html_"):
        value._repr_html_()


# Byte by byte


def _ints(rng: random.Random) -> bytes:
    value = rng.choice([0, 1, 2, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1])
    return struct.pack("<Q", value)[: rng.choice([1, 4, 8])]


Change = Callable[[bytes, int, int, int, random.Random], bytes]
"""Of bytes, at a place, up to one nearby or any further one."""
CHANGES: list[Change] = [
    lambda raw, at, near, end, rng: raw[:at],
    lambda raw, at, near, end, rng: raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :],
    lambda raw, at, near, end, rng: raw[:at] + bytes([1 << rng.randrange(8)]) + raw[at + 1 :],
    lambda raw, at, near, end, rng: raw[:at] + _ints(rng) + raw[at + 8 :],
    lambda raw, at, near, end, rng: raw[:at] + _ints(rng) + raw[at:],
    lambda raw, at, near, end, rng: raw[:at] + raw[near:],
    lambda raw, at, near, end, rng: raw[:at] + raw[at:near] * 3 + raw[near:],
    lambda raw, at, near, end, rng: raw[:at] + raw[end:] + raw[at:end],
    lambda raw, at, near, end, rng: raw[:at] + rng.randbytes(8) + raw[at + 8 :],
]


def spoilt(raw: bytes, rng: random.Random) -> bytes:
    """Bytes with one to four changes."""
    for _ in range(rng.randint(1, 4)):
        at, end = sorted(rng.choices(range(len(raw) + 1), k=2))
        raw = rng.choice(CHANGES)(raw, at, at + rng.randint(0, 12), end, rng)
    return raw


# Part by part, with right hashes


JUNK: list[Any] = [
    *(None, True, 0, -1, 2**70, 0.5, float("nan"), float("inf"), "", "x", "nan", [], {}, [[]]),
    *({"tensor": "0"}, {"tensor": "99"}, {"float": "nan"}, {"float": []}, {"tuple": [1]}),
    *({"list": 5}, {"mapping": [[1]]}, {"mapping": [[{"list": []}, 1]]}, {"pattern": ["(", 0]}),
    *({"signals.Decay": {}}, {"os.system": {"x": 1}}, {"pattern": ["a", 2**40]}, "../../x"),
    {"tuple": [{"tuple": []}] * 50},
]


def _spoil_tree(tree: Any, rng: random.Random) -> Any:
    """The tree with one node replaced, dropped, doubled or renamed."""
    nodes: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            nodes.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(tree)
    parent, key = rng.choice(nodes)
    other, another = rng.choice(nodes)
    what = rng.randrange(5)
    if what == 0:
        parent[key] = rng.choice(JUNK)
    elif what == 1:
        parent[key] = json.loads(json.dumps(other[another]))
    elif what == 2:
        del parent[key]
    elif what == 3 and isinstance(parent, dict):
        parent[rng.choice([key + "x", "x", "tensor", "tuple", "signals.Constant"])] = parent.pop(
            key
        )
    elif isinstance(parent, list):
        parent.append(rng.choice(JUNK))
    return tree


def _spoil_tensors(tensors: dict[str, Tensor], rng: random.Random) -> None:
    name = rng.choice(list(tensors) or ["0"])
    old = tensors.get(name, torch.ones(2))
    made = [
        *(
            old.double(),
            old.bool(),
            old.reshape(-1),
            old[None],
            old.reshape(-1)[:0],
            torch.ones(()),
        ),
        *(torch.full(old.shape, torch.nan), torch.full(old.shape, 1e38), torch.ones(5, 7)),
        *(old.float() * -1e30, torch.zeros(old.shape), old.to(torch.int64) + 2**40),
    ]
    tensors[rng.choice([name, name, "99", "../x"])] = rng.choice(made).contiguous().clone()


def forged(path: Path, source: Path, rng: random.Random) -> Path:
    """The file of a kind with parts of it changed, and hashes that fit."""
    with safe_open(source, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["steerlens"])
    del about["sha256 of the rest"]
    for _ in range(rng.randint(1, 2)):
        if rng.random() < 0.25:
            _spoil_tensors(tensors, rng)
        elif about:
            held = about.get("value")
            whole = not isinstance(held, dict | list) or not held or rng.random() < 0.05
            body = about if whole else held
            _spoil_tree(body, rng)
    about.setdefault("kind", "steering")
    save_file(tensors, path, signed(about, tensors))
    return path


# Many of them


def same_meaning(raw: bytes, whole: bytes) -> bool:
    """Whether two safetensors files say the same in their headers and hold the same bytes."""
    parts = []
    for each in (raw, whole):
        size = struct.unpack("<Q", each[:8])[0]
        header = json.loads(each[8 : 8 + size])
        about = json.loads(header["__metadata__"].pop("steerlens"))
        parts.append((header, about, each[8 + size :]))
    return parts[0] == parts[1]


def one(path: Path, kind: str, what: str) -> str:
    """ "told", "read", or what went wrong, with a spoilt file."""
    try:
        look(path, kind)
    except SteerLensError as error:
        message = str(error)
        clear = message.count("\n") == 0 and path.name in message and len(message) < 1000
        return "told" if clear else f"{what}: no clear error: {message!r}"
    except Exception as error:
        return f"{what}: {error!r}"
    return "read"


def run(kind: str, count: int, folder: Path, whole: Path) -> dict[str, int]:
    """Spoil a file so many times in each way; count how each ended."""
    found: dict[str, int] = {}
    raw = whole.read_bytes()
    for number in range(count):
        rng = random.Random(f"{kind} {number}")
        path = folder / "spoilt"
        changed = spoilt(raw, rng)
        path.write_bytes(changed)
        end = one(path, kind, f"{kind} {number}, bytes")
        if end == "read" and kind != "gguf" and not same_meaning(changed, raw):
            end = f"{kind} {number}, bytes: read, though its hashes are wrong"
        found[end] = found.get(end, 0) + 1
        if kind != "gguf":
            end = one(forged(path, whole, rng), kind, f"{kind} {number}, parts")
            found[end] = found.get(end, 0) + 1
    return found


def main(total: int) -> int:
    """Spoil `total` files, print how they ended, and return 1 where one was not told clearly."""
    wrong = 0
    with TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = write_all(Path(name))
        for kind, whole in files.items():
            look(whole, kind)
            found = run(kind, total // (2 * len(files) - 1) + 1, Path(name), whole)
            told, read = found.pop("told", 0), found.pop("read", 0)
            print(f"{kind}: {told} told, {read} read", *list(found)[:20], sep="\n  ", flush=True)
            wrong += len(found) + (told < read)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
