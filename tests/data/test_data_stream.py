"""The training stream is a function of (seed, sample number), and its digest sees every pixel."""

import hashlib
import pickle
import time
from collections import Counter

import numpy as np
import pytest
import torch
from prepared_samples import augmentation, blobs, no_augmentation, plan_of, prepared_cases, slice_plan, write_case

from se_med.data.cache import prepare_cases
from se_med.data.padding import pad_to
from se_med.data.stream import PatchStream, StepSampler, batch_digest, make_loader

BATCHES, BATCH = 6, 4


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return prepared_cases(tmp_path_factory.mktemp("stream"), plan_of())


def stream_of(cases, plan=None, config=None, foreground=0.5, seed=3):
    return PatchStream(cases, plan or plan_of(), config or augmentation(), foreground, seed)


def digest_of(loader, previous=""):
    for batch in loader:
        previous = batch_digest(previous, batch)
    return previous


def run_digest(cases, first=0, previous="", workers=0, **changes):
    sampler = StepSampler(BATCHES, BATCH, first=first)
    return digest_of(make_loader(stream_of(cases, **changes), sampler, workers), previous)


def test_a_batch_has_the_promised_shapes_and_types(cases):
    batch = next(iter(make_loader(stream_of(cases), StepSampler(BATCHES, BATCH))))
    assert batch["image"].shape == (BATCH, 1, 12, 16, 8)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].shape == (BATCH, 1, 12, 16, 8)
    assert batch["label"].dtype == torch.uint8
    assert set(batch["label"].unique().tolist()) <= {0, 1, 2}
    assert batch["case"] == [stream_of(cases)[index]["case"] for index in range(BATCH)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_digests_are_equal_for_0_1_and_3_workers(cases):
    assert len({run_digest(cases, workers=workers) for workers in (0, 1, 3)}) == 1


def test_a_stream_that_was_sent_to_another_process_is_the_same(cases):
    sent = pickle.loads(pickle.dumps(stream_of(cases)))  # noqa: S301 - made here
    assert torch.equal(sent[9]["image"], stream_of(cases)[9]["image"])


@pytest.mark.slow
def test_a_spawned_worker_gives_the_same_batches(cases):
    loader = make_loader(stream_of(cases), StepSampler(2, BATCH), workers=1)
    loader.multiprocessing_context = "spawn"
    assert digest_of(loader) == digest_of(make_loader(stream_of(cases), StepSampler(2, BATCH)))


def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(cases):
    sampler = StepSampler(BATCHES, BATCH)
    whole = list(make_loader(stream_of(cases), sampler))
    previous = ""
    for batch in whole[:2]:
        previous = batch_digest(previous, batch)
    assert run_digest(cases, first=2, previous=previous) == run_digest(cases)
    sampler.first = 5
    assert len(sampler) == 1
    (last,) = make_loader(stream_of(cases), sampler)
    assert torch.equal(last["image"], whole[5]["image"])


def test_what_was_read_before_does_not_matter(cases):
    one, other = stream_of(cases), stream_of(cases)
    for index in (40, 3, 17):
        other[index]
    np.random.seed(1)  # noqa: NPY002 - the global generator is what must not matter
    torch.manual_seed(1)
    assert torch.equal(one[7]["image"], other[7]["image"])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"plan": plan_of(patch=(12, 16, 12))},
        {"config": augmentation(noise={"probability": 0.9})},
        {"config": augmentation(flip={"axes": (0, 1)})},
        {"config": augmentation(affine={"rotation": 16.0})},
        {"foreground": 1.0},
    ],
)
def test_another_seed_patch_or_transform_is_another_digest(cases, change):
    assert run_digest(cases, **change) != run_digest(cases)


def test_every_case_appears_once_per_epoch_in_another_order(cases):
    stream = stream_of(cases)
    epochs = [[stream[epoch * len(cases) + position]["case"] for position in range(len(cases))] for epoch in range(6)]
    for names in epochs:
        assert sorted(names) == sorted(case.case.name for case in cases)
    assert len({tuple(names) for names in epochs}) > 1
    assert stream[10**7]["image"].shape == (1, 12, 16, 8)


def test_the_shards_of_two_ranks_are_the_stream_of_one_process(cases):
    whole = list(StepSampler(BATCHES, BATCH))
    shards = [list(StepSampler(BATCHES, BATCH, rank=rank, world=2)) for rank in (0, 1)]
    assert [sorted(first + second) for first, second in zip(*shards, strict=True)] == whole
    assert whole == [list(range(batch * BATCH, (batch + 1) * BATCH)) for batch in range(BATCHES)]
    stream = stream_of(cases)
    single = next(iter(make_loader(stream, StepSampler(1, BATCH))))["image"]
    ranks = [next(iter(make_loader(stream, StepSampler(1, BATCH, rank=rank, world=2))))["image"] for rank in (0, 1)]
    assert torch.equal(torch.stack(ranks, dim=1).flatten(0, 1), single)


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ValueError, match="batch size 4 cannot be divided among 3"):
        StepSampler(1, 4, world=3)
    with pytest.raises(ValueError, match="rank 2"):
        StepSampler(1, 4, rank=2, world=2)


def test_a_patch_is_a_crop_of_its_case_and_a_small_volume_is_padded_as_at_inference(cases):
    stream = stream_of(cases, config=no_augmentation())
    by_name = {case.case.name: case for case in cases}
    for index in range(15):
        sample = stream[index]
        case = by_name[sample["case"]]
        padded, _ = pad_to(case.image, (12, 16, 8))
        label, _ = pad_to(case.label[None], (12, 16, 8))  # every case has background, so its minimum is that
        windows = np.lib.stride_tricks.sliding_window_view(padded[0], (12, 16, 8))
        matches = np.argwhere((windows == sample["image"][0].numpy()).all(axis=(3, 4, 5)))
        assert len(matches) == 1
        start = tuple(slice(low, low + size) for low, size in zip(matches[0], (12, 16, 8), strict=True))
        assert np.array_equal(label[0][start], sample["label"][0])


def corner_case(tmp_path, plan, shape=(40, 40, 24)):
    """A large case with one small structure in a corner and a tiny one in the middle."""
    image, label = blobs(shape, 0)[0], np.zeros(shape, np.uint8)
    label[1:3, 36:38, 20:22] = 1
    label[20, 20, 12] = 4
    return prepare_cases([write_case(tmp_path, "corner", image, label)], plan, tmp_path / "cache")


def test_foreground_patches_hold_a_structure_drawn_at_random_and_others_lie_anywhere(tmp_path):
    cases = corner_case(tmp_path, plan_of())
    always = stream_of(cases, config=no_augmentation(), foreground=1.0)
    held = Counter()
    for index in range(120):
        present = tuple(always[index]["label"].unique().tolist())
        assert len(present) > 1
        held[present] += 1
    assert 35 < held[(0, 1)] < 85  # each class half of the time, however few voxels it has
    never = stream_of(cases, config=no_augmentation(), foreground=0.0)
    assert sum(bool(never[index]["label"].any()) for index in range(120)) < 60


def test_foreground_voxels_are_not_always_in_the_middle(tmp_path):
    stream = stream_of(corner_case(tmp_path, plan_of()), config=no_augmentation(), foreground=1.0)
    places = {
        tuple(np.argwhere(label == 2)[0]) for label in (stream[i]["label"][0].numpy() for i in range(60)) if (label == 2).any()
    }
    assert len(places) > 15
    places = np.array(list(places))
    assert (places >= np.array([12, 16, 8]) // 4 - 1).all()
    assert (places <= 3 * np.array([12, 16, 8]) // 4 + 1).all()


def test_random_patches_reach_every_corner(cases):
    large = [case for case in cases if case.case.name == "case2"]  # 20 x 17 x 14
    stream = stream_of(large, config=no_augmentation(), foreground=0.0)
    windows = np.lib.stride_tricks.sliding_window_view(large[0].image[0], (12, 16, 8))
    starts = {tuple(np.argwhere((windows == stream[i]["image"][0].numpy()).all(axis=(3, 4, 5)))[0]) for i in range(200)}
    found = np.array(list(starts))
    assert found.min(axis=0).tolist() == [0, 0, 0]
    assert found.max(axis=0).tolist() == [8, 1, 6]


@pytest.mark.parametrize(("axis", "patch"), [(0, (16, 8)), (1, (12, 8)), (2, (12, 16))])
def test_a_2d_stream_gives_slices_across_its_axis(cases, axis, patch):
    plan = slice_plan(slice_axis=axis, patch=patch)
    stream = stream_of(cases, plan=plan, config=no_augmentation(), foreground=1.0)
    by_name = {case.case.name: case for case in cases}
    for index in range(10):
        sample = stream[index]
        assert sample["image"].shape == (1, *patch)
        assert sample["label"].shape == (1, *patch)
        slices = np.moveaxis(np.asarray(by_name[sample["case"]].image[0]), axis, 0)
        padded, _ = pad_to(slices, patch)
        values = sample["image"][0].numpy()
        # Padding takes the minimum of the volume, so compare where the slice is inside.
        hits = [np.isin(values[values > slices.min()], plane).all() for plane in padded]
        assert sum(hits) == 1
    assert digest_of(make_loader(stream_of(cases, plan=plan), StepSampler(2, 4))) == digest_of(
        make_loader(stream_of(cases, plan=plan), StepSampler(2, 4))
    )


def test_the_digest_sees_every_part_of_a_batch():
    batch = {"image": torch.zeros(2, 1, 4, 4, 4), "label": torch.zeros(2, 1, 4, 4, 4, dtype=torch.uint8), "case": ["a", "b"]}
    digests = {batch_digest("", batch), batch_digest("x", batch)}
    image, label = batch["image"].clone(), batch["label"].clone()
    image[1, 0, 3, 3, 3] = 1e-30
    label[0, 0, 0, 0, 0] = 1
    digests.add(batch_digest("", batch | {"image": image}))
    digests.add(batch_digest("", batch | {"label": label}))
    digests.add(batch_digest("", batch | {"image": batch["image"].reshape(2, 1, 2, 8, 4)}))
    digests.add(batch_digest("", batch | {"case": ["b", "a"]}))
    assert len(digests) == 6
    assert len(batch_digest("", batch)) == len(hashlib.sha256().hexdigest())
    strided = batch["image"].transpose(2, 4).contiguous().transpose(2, 4)
    assert batch_digest("", batch | {"image": strided}) == batch_digest("", batch)


def test_the_digest_is_cheap():
    batch = {"image": torch.randn(4, 1, 40, 56, 40), "label": torch.zeros(4, 1, 40, 56, 40, dtype=torch.uint8), "case": ["a"] * 4}
    times = []
    for _ in range(30):
        start = time.process_time()
        batch_digest("", batch)
        times.append(time.process_time() - start)
    assert min(times) < 1e-3


def test_iterating_leaves_the_global_generator_alone(cases):
    before = torch.get_rng_state()
    digest_of(make_loader(stream_of(cases), StepSampler(2, BATCH)))
    assert torch.equal(before, torch.get_rng_state())


def test_a_stream_without_cases_is_refused():
    with pytest.raises(ValueError, match="at least one case"):
        stream_of([])
