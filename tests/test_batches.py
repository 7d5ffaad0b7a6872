"""Packing, row order and the learning-rate schedule, by hand."""

import numpy as np
import pytest

from mlxrlhf.algorithms.schedule import cosine_with_warmup
from mlxrlhf.data.batches import Mixture, Packer, Stream, pick
from mlxrlhf.models.identity import content_digest


def test_packing_keeps_every_token_and_masks_first_tokens():
    examples = [([5, 6, 7], [0, 1, 1]), ([8, 9], [1, 1]), ([1] * 9, [1] * 9), ([4, 4, 4], [0, 0, 1])]
    packer = Packer(5, pad_id=0)
    assert [packer.add(ids, mask) for ids, mask in examples] == [True, True, False, True]
    packed = packer.rows()
    assert (len(packed), packed.length) == (2, 5)
    rows = packed.take(np.array([0, 1]))
    assert rows.tokens.tolist() == [[5, 6, 7, 8, 9], [4, 4, 4, 0, 0]]
    assert rows.segments.tolist() == [[1, 1, 1, 2, 2], [1, 1, 1, 0, 0]]
    assert rows.mask.tolist() == [[0, 1, 1, 0, 1], [0, 0, 1, 0, 0]]
    batch = rows.batch()
    assert batch["total"] == 4 and batch["mask"].shape == (2, 4)


def packed_again(length, open_rows, count):
    """The same examples in another packer."""
    packer, rng = Packer(length, pad_id=0), np.random.default_rng(0)
    packer.OPEN = open_rows
    for i in range(count):
        size = int(rng.integers(1, 9))
        packer.add([i + 1] * size, [1] * size)
    return packer.rows()


def test_packing_is_first_fit_among_the_open_rows_and_rows_come_back_in_any_order():
    packer, rng = Packer(10, pad_id=0), np.random.default_rng(0)
    packer.OPEN = 3
    shelves = []  # the same by hand: lists of examples, only the last three of them open
    for i in range(400):
        size = int(rng.integers(1, 9))
        packer.add([i + 1] * size, [1] * size)
        fits = [s for s in shelves[-3:] if sum(n for _, n in s) + size <= 10]
        if not fits:
            shelves.append([])
            fits = shelves[-1:]
        fits[0].append((i + 1, size))
    packed = packer.rows()
    assert len(packed) == len(shelves) > 100
    assert (
        content_digest(packed) == content_digest(packed_again(10, 3, 400)) != content_digest(packed_again(10, 3, 399))
    )
    order = rng.permutation(len(shelves))
    for row, number in zip(packed.take(order).tokens, order):
        expected = [i for i, size in shelves[number] for _ in range(size)]
        assert row.tolist() == expected + [0] * (10 - len(expected))


def test_a_stream_is_cut_into_rows_whose_documents_do_not_see_each_other():
    stream = Stream(np.array([5, 6, 7, 8, 9, 1, 4, 4, 3, 3, 1], np.uint16), 4, end_id=1)
    rows = stream.take(np.array([0, 1]))
    assert rows.tokens.tolist() == [[5, 6, 7, 8], [9, 1, 4, 4]]
    assert rows.segments.tolist() == [[1, 1, 1, 1], [1, 1, 2, 2]]
    assert rows.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 1]], "nothing before a document predicts its first token"
    assert "segments" not in stream.take(np.array([0])).batch()


def test_a_mixture_keeps_its_share():
    ones, twos = (Stream(np.full(400, value, np.uint16), 4, end_id=0) for value in (1, 2))
    drawn = np.concatenate([Mixture(ones, twos, 0.3).draw(4, 0, step).tokens for step in range(10)])
    assert (drawn == 1).mean() == 0.3


def test_each_row_once_a_pass_and_another_order_the_next():
    passes = np.concatenate([pick(10, 4, seed=0, step=s) for s in range(5)]).reshape(2, 10)
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(10))
    assert list(passes[0]) != list(passes[1])
    assert pick(10, 4, 0, 3).tolist() == pick(10, 4, 0, 3).tolist()


def test_cosine_with_warmup_by_hand():
    settings = dict(peak=1.0, warmup=2, total=12)
    assert cosine_with_warmup(0, **settings) == 0.5
    assert cosine_with_warmup(1, **settings) == 1.0
    assert cosine_with_warmup(7, **settings) == pytest.approx(0.5)  # half of the cosine
    assert cosine_with_warmup(12, **settings) == pytest.approx(0.0)
    assert cosine_with_warmup(12, **settings, floor=0.1) == pytest.approx(0.1)
