from types import SimpleNamespace

import torch

from graphopt.frontend.ties import all_equal, tied_groups


def model(**tied):
    return SimpleNamespace(all_tied_weights_keys=tied)


def parameters(*names):
    return {name: torch.zeros(1) for name in names}


def test_declared_ties_put_their_source_first():
    assert tied_groups(model(a="b", c="b"), parameters("a", "b", "c", "d")) == (("b", "a", "c"),)


def test_chains_of_ties_are_one_group():
    assert tied_groups(model(a="b", b="c"), parameters("a", "b", "c")) == (("c", "a", "b"),)


def test_one_object_under_two_names_is_tied_without_a_declaration():
    values = parameters("a", "b", "c")
    values["c"] = values["a"]
    assert tied_groups(SimpleNamespace(), values) == (("a", "c"),)


def test_objects_join_declared_groups():
    values = parameters("a", "b", "c")
    values["c"] = values["a"]
    assert tied_groups(model(a="b"), values) == (("b", "a", "c"),)


def test_names_that_the_model_lacks_are_passed_over():
    assert tied_groups(model(a="x", y="b"), parameters("a", "b")) == ()


def test_equality_is_bit_for_bit():
    nan = torch.tensor([float("nan"), 0.0])
    values = {
        "nan": nan,
        "same": nan.clone(),
        "zero": torch.tensor([float("nan"), -0.0]),
        "short": nan[:1],
        "bf16": nan.bfloat16(),
        "scalar": torch.tensor(1.0),
        "scalar too": torch.tensor(1.0),
        "strided": torch.arange(6.0).reshape(2, 3).t(),
        "packed": torch.arange(6.0).reshape(2, 3).t().contiguous(),
    }
    equal = [("nan", "same"), ("scalar", "scalar too"), ("strided", "packed")]
    for pair in equal:
        assert all_equal(pair, values.__getitem__)
    for other in ("zero", "short", "bf16"):
        assert not all_equal(("nan", "same", other), values.__getitem__)


def test_equality_looks_past_the_first_piece(monkeypatch):
    monkeypatch.setattr("graphopt.frontend.ties._CHUNK", 4)
    left = torch.arange(10.0)
    for index in range(10):
        right = left.clone()
        right[index] = -1
        assert not all_equal(("l", "r"), {"l": left, "r": right}.__getitem__)
    assert all_equal(("l", "r"), {"l": left, "r": left.clone()}.__getitem__)
