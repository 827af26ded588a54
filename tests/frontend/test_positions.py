import torch
from torch import nn

from graphopt.frontend.positions import first_position, table_limit


def model(rows: int, padding: int | None) -> nn.Module:
    inner = nn.Module()
    inner.position_embeddings = nn.Embedding(rows, 4, padding_idx=padding)
    outer = nn.Module()
    outer.embeddings = inner
    return outer


def test_positions_begin_behind_the_place_of_padding() -> None:
    assert first_position(model(514, 1)) == 2
    limit = table_limit(model(514, 1))
    assert limit is not None
    assert limit.tokens == 512
    assert "from 2 on" in limit.reason


def test_other_models_count_from_zero() -> None:
    assert first_position(model(512, None)) == 0
    assert table_limit(model(512, None)) is None
    assert first_position(nn.Linear(2, 2)) == 0
    assert table_limit(nn.Sequential(nn.Embedding(9, 2, padding_idx=1))) is None


def test_the_offset_is_what_transformers_counts() -> None:
    from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

    tokens = torch.tensor([[5, 6, 7, 9]])
    theirs = RobertaEmbeddings.create_position_ids_from_input_ids(tokens, 1)
    assert (theirs == torch.arange(4) + first_position(model(514, 1))).all()
