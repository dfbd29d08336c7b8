import os
import pathlib

import pytest
from tiny_folder import make_tiny_folder

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def programs():
    """The folder of the built programs; scripts/test sets FG_BUILD."""
    folder = pathlib.Path(os.environ.get("FG_BUILD", ROOT / "build")) / "tools"
    assert (folder / "fgchat").exists(), f"no fgchat in {folder}: run scripts/test, or set FG_BUILD"
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return make_tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def smollm2():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = pathlib.Path(os.environ.get("FG_MODEL") or cache / "fastgen" / "SmolLM2-135M-Instruct")
    if not (folder / "config.json").exists():
        pytest.skip("lacks SmolLM2 (scripts/get-model)")
    return folder
