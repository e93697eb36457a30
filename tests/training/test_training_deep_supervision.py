"""Heads of deep supervision: in checkpoints, not in finished runs, and said so when a run starts from one."""

import logging

from safetensors.torch import load_file

from se_med.training.checkpoint import load_checkpoint

DEEP = (
    "network.features=[4,8,8]",
    "network.strides=[[2,2,2],[2,2,2]]",
    "network.deep_supervision=[1,0.5]",
    "training.steps=2",
    "training.epoch_steps=1",
)


def test_run_with_auxiliary_heads_is_stored_without_and_started_from(train, caplog):
    made = train("deep", *DEEP)
    assert not [name for name in load_file(made.folder / "model.safetensors") if name.startswith("heads.1")]
    kept = load_checkpoint(made.folder / "checkpoints" / "last.ckpt")
    assert [name for name in kept.network if name.startswith("heads.1.")]
    logging.getLogger("se_med").propagate = True
    with caplog.at_level(logging.INFO, logger="se_med"):
        train("next", *DEEP, f"training.init_from={made.folder}")
    said = [record.message for record in caplog.records if record.message.startswith("start: ")]
    assert any("auxiliary heads (deep supervision) not loaded" in line and "heads.1.weight" in line for line in said)
    assert not any("started anew" in line for line in said)
