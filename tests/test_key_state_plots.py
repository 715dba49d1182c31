from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flashmi_reg.errors import InputError
from flashmi_reg.integrations.maniskill import KeyStateExtractor, load_demonstrations
from flashmi_reg.integrations.maniskill.commands import main
from flashmi_reg.integrations.maniskill.frames import draw_frames
from flashmi_reg.integrations.maniskill.plots import draw_timeline, timeline

SAMPLE = Path(__file__).parent / "data" / "pick_cube.npz"


def test_timeline_and_its_picture(tmp_path):
    demos = load_demonstrations(SAMPLE)
    extractor = KeyStateExtractor(2, readings=1).fit(demos)
    found = timeline(extractor, demos, points=3)
    assert found.places.shape == found.information.shape == (3,)
    assert found.key_places.shape == (60, 2)
    assert (found.key_places[:, -1] == 1).all()
    # Neighbouring states of a motion tell much of each other.
    assert (found.information > 0.5).all()
    events = {"grasp": torch.full((60,), 0.5)}
    path = draw_timeline(found, tmp_path / "figures" / "keys.png", events=events)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="holds 20"):
        timeline(extractor, demos[:20])


def test_the_command_writes_extractor_and_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("flashmi_reg.integrations.maniskill.commands.POINTS", 2)
    assert main(["keys", str(SAMPLE), "--count", "2", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "pick_cube.keys.png").is_file()
    extractor = KeyStateExtractor.load(tmp_path / "pick_cube.keys.safetensors")
    assert extractor.settings.count == 2
    assert "key state 1: at" in capsys.readouterr().out


def test_frames_need_the_seed_and_times_of_the_demonstration(tmp_path):
    demo = load_demonstrations(SAMPLE)[0]
    path = tmp_path / "frames.png"
    with pytest.raises(InputError, match="must lie in 0 to"):
        draw_frames("PickCube-v1", demo, torch.tensor([len(demo)]), path)
    with pytest.raises(InputError, match="no seed"):
        draw_frames("PickCube-v1", replace(demo, seed=-1), torch.tensor([1]), path)
    with pytest.raises(InputError, match="`--frames` needs demonstrations"):
        main(["keys", "PickCube-v1", "--frames", "PickCube-v1"])
