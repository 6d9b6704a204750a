"""What is built holds what it needs: the wheel Steerling, the sdist what its checks need."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent
PACKAGE = {
    str(path.relative_to(ROOT))
    for path in (ROOT / "steerlens").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}


def test_the_wheel_is_the_package_and_nothing_else(tmp_path: Path) -> None:
    [built] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = {name for name in zipfile.ZipFile(built).namelist() if ".dist-info/" not in name}
    assert names == PACKAGE
    assert "steerlens/demo/steerling/model.safetensors" in names


def test_the_sdist_can_be_checked(tmp_path: Path) -> None:
    [built] = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(built) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert names >= PACKAGE
    wanted = ("Makefile", "conftest.py", ".ci/run", "requirements/tl3.txt", "tests/models.py")
    papers = ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff")
    assert names >= {*wanted, *papers, "docs/start.md", "notebooks/1_first_steering.ipynb"}
