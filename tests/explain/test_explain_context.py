"""Windows that overlap: what depends on them is found, what does not is not."""

import numpy as np
import pytest
import torch
from own_cases import strong_predictor, write_cases

from se_med.errors import UsageError
from se_med.explain.context import compare_context
from se_med.explain.gates import watching
from se_med.explain.passing import pass_through
from se_med.inference.tiling import tile
from se_med.io.images import read_image
from se_med.networks.layers import InstanceNorm

LOCAL = {"kernels": ((1, 1, 1), (1, 1, 1))}


def without_norms(network):
    """With kernels of one voxel: a network that sees each voxel by itself, but for what its gates squeeze."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, InstanceNorm):
                setattr(module, name, torch.nn.Identity())


def test_labels_and_spread_of_a_voxel_over_its_windows(tmp_path):
    predictor = strong_predictor("cse")
    (case,) = write_cases(tmp_path, predictor, 1, (20, 16, 16))
    prepared = predictor.preparation.forward(read_image(case.images[0]))
    tiling = tile((20, 16, 16), (16, 16, 16), (0, 0, 0), 0.5, 1)
    assert tiling.starts[0] == (0, 4)
    seen = pass_through(predictor, prepared, tiling)
    image = torch.from_numpy(np.array(prepared.array))[None]
    factors = []
    with torch.no_grad(), watching(predictor.network, lambda gate, factor: factors.append((gate.name, factor.flatten()))):
        first, second = (predictor.network.eval()(image[:, :, start : start + 16])[0] for start in (0, 4))
    assert seen.covered[:4].max() == seen.covered[16:].max() == 1
    assert seen.covered[4:16].min() == 2
    classes = [one.argmax(0).numpy() for one in (first[:, 4:], second[:, :12])]
    assert np.array_equal(seen.disagree[4:16], classes[0] != classes[1])
    assert np.array_equal(seen.foreground[4:16], (classes[0] > 0) | (classes[1] > 0))
    chances = np.stack([1 - one.softmax(0)[0].numpy() for one in (first[:, 4:], second[:, :12])])
    assert np.allclose(seen.spread[4:16], chances.std(0), atol=1e-5)
    assert not seen.spread[:4].any()
    for name, found in seen.factors.items():
        wanted = torch.stack([factor for gate, factor in factors if gate == name]).numpy()
        assert np.allclose(found, wanted, atol=1e-5)


def test_what_depends_on_the_window_is_found_and_nothing_else(tmp_path):
    """Two networks that see single voxels: the plain one says the same in all windows, the other looks at a squeeze of them."""
    attended = strong_predictor({"encoder": "cse", "decoder": "static"}, **LOCAL)
    plain = strong_predictor({"encoder": "static"}, **LOCAL)
    for predictor in (attended, plain):
        without_norms(predictor.network)
    cases = write_cases(tmp_path, attended, 3, (24, 24, 24))
    context = compare_context(attended, cases, plain)
    assert [row.run for row in context.cases] == ["tiny (explained)", "tiny (against)"] * 3
    gates = {(row.run, row.gate): row for row in context.gates}
    working, static = gates["tiny (explained)", "encoder 0"], gates["tiny (explained)", "decoder 0"]
    assert working.between_windows > 1e-3
    assert working.to_whole > 1e-3
    assert working.between_cases > 0
    assert static.between_windows == static.to_whole == static.between_cases == 0
    for row in context.cases:
        assert row.shared > 0.5
        if "against" in row.run:
            assert row.labels < 1e-3
            assert row.probability < 1e-6
            assert row.whole_labels < 1e-3
        else:
            assert row.labels > 0.01
            assert row.probability > 5e-5
            assert row.whole_labels > 0.005
    assert "encoder 0 (cse) differs most" in context.sentence
    assert "compared with tiny (against)" in context.sentence
    assert "not over training runs" in context.sentence


@pytest.mark.parametrize("dims", [2, 3])
def test_a_volume_within_one_window_says_so(dims, tmp_path):
    predictor = strong_predictor("scse", dims)
    cases = write_cases(tmp_path, predictor, 1, (14, 12, 5))
    context = compare_context(predictor, cases)
    (row,) = context.cases
    assert row.labels is None
    assert row.shared == 0
    assert "nothing can be said" in context.sentence
    assert any("smaller window" in note for note in context.notes)
    window = (8, 8, 4 if dims == 3 else 1)
    smaller = compare_context(predictor, cases, window=window)
    assert smaller.cases[0].shared > 0
    assert smaller.cases[0].labels is not None
    assert smaller.gates[0].between_windows > 0


def test_too_large_in_one_piece_is_left_out(tmp_path):
    predictor = strong_predictor("cse", inference={"max_memory": 1e-4})
    cases = write_cases(tmp_path, strong_predictor("cse"), 2, (20, 16, 16))
    context = compare_context(predictor, cases, limit=1)
    (row,) = context.cases
    assert row.whole_labels is None
    assert row.labels is not None
    assert any("max_memory" in note for note in context.notes)
    assert all(gate.to_whole is None for gate in context.gates)


def test_windows_must_fit_the_network(tmp_path):
    with pytest.raises(UsageError, match="multiple of"):
        compare_context(strong_predictor("cse"), [], window=(9, 8, 8))
