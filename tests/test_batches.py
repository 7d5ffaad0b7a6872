"""Packing, row order and the learning-rate schedule, by hand."""

import numpy as np
import pytest

from mlxrlhf.data.batches import packed_rows, pick, stream_rows
from mlxrlhf.stages.training import cosine_with_warmup


def test_packing_keeps_every_token_and_masks_first_tokens():
    examples = [([5, 6, 7], [0, 1, 1]), ([8, 9], [1, 1]), ([1] * 9, [1] * 9), ([4, 4, 4], [0, 0, 1])]
    rows, left_out = packed_rows(examples, 5, pad_id=0)
    assert left_out == 1
    assert rows.tokens.tolist() == [[5, 6, 7, 8, 9], [4, 4, 4, 0, 0]]
    assert rows.segments.tolist() == [[1, 1, 1, 2, 2], [1, 1, 1, 0, 0]]
    assert rows.mask.tolist() == [[0, 1, 1, 0, 1], [0, 0, 1, 0, 0]]
    batch = rows.batch(np.array([0, 1]))
    assert batch["total"] == 4 and batch["mask"].shape == (2, 4)


def test_a_stream_is_cut_into_rows_of_one_segment():
    rows = stream_rows(np.arange(11, dtype=np.uint16), 4)
    assert rows.tokens.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert "segments" not in rows.batch(np.array([1]))


def test_each_row_once_a_pass_and_another_order_the_next():
    passes = np.concatenate([pick(10, 4, seed=0, step=s) for s in range(5)]).reshape(2, 10)
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(10))
    assert list(passes[0]) != list(passes[1])
    assert pick(10, 4, 0, 3).tolist() == pick(10, 4, 0, 3).tolist()


def test_cosine_with_warmup_by_hand():
    settings = dict(peak=1.0, warmup=2, total=12)
    assert cosine_with_warmup(0, **settings) == 0.5
    assert cosine_with_warmup(1, **settings) == 1.0
    assert cosine_with_warmup(7, **settings) == pytest.approx(0.55)  # half of the cosine: (1 + 0.1) / 2
    assert cosine_with_warmup(12, **settings) == pytest.approx(0.1)
