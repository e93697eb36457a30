"""The Python of docs/prediction.md runs as it stands there."""

import re
from pathlib import Path

import numpy as np
from inference.tiny_model import make_config, make_network, make_plan, write_image

from se_med.inference.model import save_model

PAGE = Path(__file__).parents[2] / "docs" / "prediction.md"


def test_examples_run(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "liver").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    plan = make_plan()
    config = make_config(plan)
    save_model(tmp_path / "runs" / "liver", make_network(config, plan).state_dict(), config, plan)
    array = np.random.default_rng(0).normal(size=(1, 16, 18, 20)).astype(np.float32)
    write_image(tmp_path / "subject.nii.gz", array[0])
    write_image(tmp_path / "images" / "a.nii.gz", array[0])
    names = {"array": array, "affine": np.eye(4)}
    exec("\n".join(blocks), names)  # noqa: S102  (the page's own code)
    segmentation = names["segmentation"]
    assert segmentation.labels.shape == (16, 18, 20)
    assert segmentation.probabilities.shape == (3, 16, 18, 20)
    assert segmentation.entropy.shape == (16, 18, 20)
    assert capsys.readouterr().out.strip() == "a done"
    assert (tmp_path / "out" / "a.nii.gz").exists()
