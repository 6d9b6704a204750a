"""Writes the fingerprint of the world to its file; every earlier figure is void after that."""

from __future__ import annotations

from steerlens.demo.world.freeze import FROZEN, fingerprint

if __name__ == "__main__":
    FROZEN.write_text(fingerprint() + "\n", encoding="utf-8")
