"""Rows to vectors: beside torch by the definitions of sentence-transformers, and to the bit."""

import numpy as np
import pytest
import torch

from graphopt.embedding import ACTIVATIONS, POOLINGS, Dense, Embedding
from graphopt.errors import ArtifactError, RequestError
from graphopt.runtime.pooling import Pooling, normalized, shortened


def rows_of(count, size, seed=0):
    generator = np.random.default_rng(seed)
    spread = np.exp(generator.standard_normal((count, size)) * 3)
    return (generator.standard_normal((count, size)) * spread).astype(np.float32)


def by_torch(rows, pooling):
    """As sentence_transformers.models.Pooling computes it, for one text without padding."""
    x = torch.from_numpy(rows).double()
    if pooling == "cls":
        return x[0]
    if pooling == "last":
        return x[-1]
    if pooling == "max":
        return x.max(0).values
    if pooling == "weighted_mean":
        weights = torch.arange(1, len(x) + 1).double()[:, None]
        return (x * weights).sum(0) / weights.sum()
    total = x.sum(0)
    return total / (len(x) if pooling == "mean" else torch.tensor(float(len(x))).double().sqrt())


def pooled(pooling, *chunks):
    pool = pooling.begin()
    for rows in chunks:
        pool.add(rows)
    return pool.finish()


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize(("count", "size"), [(1, 5), (2, 1), (7, 3), (64, 16), (131, 33)])
def test_each_pooling_is_what_it_is_elsewhere(name, count, size):
    rows = rows_of(count, size)
    found = pooled(Pooling(Embedding(size, name, False, True)), rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_torch(rows, name).numpy(), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_chunks_do_not_show_in_a_single_bit(name, size):
    rows = rows_of(300, size, seed=1)
    pooling = Pooling(Embedding(size, name, True, False))
    whole = pooled(pooling, rows)
    generator = np.random.default_rng(2)
    for _ in range(10):
        cuts = np.sort(generator.integers(0, 301, generator.integers(1, 9)))
        assert pooled(pooling, *np.split(rows, cuts)).tobytes() == whole.tobytes()
    assert pooled(pooling, *rows[:, None]).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", POOLINGS)
def test_rows_are_not_held_on_to(name):
    rows = rows_of(5, 4)
    pooling = Pooling(Embedding(4, name, False, True))
    pool = pooling.begin()
    pool.add(rows)
    expected = pooled(pooling, rows.copy())
    rows[:] = np.nan
    np.testing.assert_array_equal(pool.finish(), expected)


@pytest.mark.parametrize("name", ["cls", "last"])
def test_rows_that_are_not_wanted_may_be_left_out(name):
    rows = rows_of(9, 4)
    pooling = Pooling(Embedding(4, name, False, False))
    one = rows[:1] if name == "cls" else rows[-1:]
    np.testing.assert_array_equal(pooled(pooling, one, rows[:0]), pooled(pooling, rows))


def test_a_long_text_loses_no_precision():
    rows = np.full((50_000, 2), 0.1, np.float32)
    found = pooled(Pooling(Embedding(2, "mean", False, True)), rows)
    np.testing.assert_array_equal(found, rows[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense_layers_follow_pooling(activation):
    generator = np.random.default_rng(3)
    arrays = {
        "a": generator.standard_normal((7, 5)),
        "b": generator.standard_normal(7),
        "c": generator.standard_normal((3, 7)),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    dense = (Dense("a", "b", 5, 7, activation), Dense("c", "", 7, 3, "identity"))
    embedding = Embedding(5, "mean", True, True, dense)
    assert embedding.dimensions == 3
    rows = generator.standard_normal((4, 5)).astype(np.float32)
    a, b, c = (torch.from_numpy(arrays[name]) for name in "abc")
    functions = {"identity": lambda x: x, "gelu": torch.nn.functional.gelu}
    function = functions.get(activation) or getattr(torch, activation)
    mean = torch.from_numpy(rows).mean(0)
    expected = torch.nn.functional.normalize(c @ function(a @ mean + b), dim=0)
    found = pooled(Pooling(embedding, arrays.__getitem__), rows)
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-6, atol=1e-6)


def test_extreme_entries_of_a_dense_layer():
    dense = (Dense("w", "", 1, 2, "sigmoid"),)
    weights = np.array([[1e38], [-1e38]], np.float32)
    pooling = Pooling(Embedding(1, "mean", False, True, dense), lambda name: weights)
    np.testing.assert_array_equal(pooled(pooling, np.full((1, 1), 100, np.float32)), [1.0, 0.0])


def test_zeros_have_no_direction_and_stay_zeros():
    pooling = Pooling(Embedding(4, "mean", True, True))
    np.testing.assert_array_equal(pooled(pooling, np.zeros((3, 4), np.float32)), np.zeros(4))
    np.testing.assert_array_equal(pooled(pooling), np.zeros(4))


def test_length_is_one_even_where_squares_overflow_or_vanish():
    for scale in (1e-10, 1e30):
        found = normalized(np.array([3, 4], np.float32) * np.float32(scale))
        np.testing.assert_allclose(found, [0.6, 0.8], rtol=1e-6)


def test_fewer_dimensions():
    vector = normalized(rows_of(1, 8)[0])
    cut = shortened(vector, 3, normalize=True)
    assert cut.shape == (3,)
    assert np.linalg.norm(cut) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(cut, vector[:3] / np.linalg.norm(vector[:3]), rtol=1e-6)
    np.testing.assert_array_equal(shortened(vector, 3, normalize=False), vector[:3])
    np.testing.assert_array_equal(shortened(vector, 8, normalize=True), vector)
    np.testing.assert_array_equal(shortened(vector, None, normalize=True), vector)


@pytest.mark.parametrize("dimensions", [0, -1, 9, 2.0, "2", True])
def test_dimensions_that_there_are_not(dimensions):
    with pytest.raises(RequestError, match="dimensions") as caught:
        shortened(rows_of(1, 8)[0], dimensions, normalize=True)
    assert "1 to 8" in caught.value.expected


def test_weights_that_do_not_fit_are_refused():
    embedding = Embedding(5, "mean", True, True, (Dense("w", "", 5, 2, "tanh"),))
    with pytest.raises(ArtifactError, match="missing"):
        Pooling(embedding)
    with pytest.raises(ArtifactError, match="another shape"):
        Pooling(embedding, lambda name: np.zeros((5, 2), np.float32))
