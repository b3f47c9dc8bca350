"""Embeddings as bytes: the same bits come back, and nothing that is torn, altered or another's."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from model.checkpoints.embedding_bytes import BrokenEmbedding, from_bytes, to_bytes
from model.runner import Sam2Runner
from model.types import Embedding, Prompt
from tests.golden.recipe import image
from tests.model.test_runner import TINY, make_runner

NOTE = {"fingerprint": "f" * 64, "content": "c" * 64}


def tensors(embedding: Embedding) -> list[torch.Tensor]:
    """All that it holds."""
    maps = [embedding.image_rows, embedding.feat_s1_rows, embedding.feat_s0_rows]
    return [*maps, *embedding.first_projections]


def small() -> Embedding:
    """A few numbers of every kind, infinities and a negative zero among them."""
    rows = torch.tensor([[1.5, float("inf")], [-0.0, 3e-45]])
    return Embedding(rows, torch.ones(2, 4, 1), torch.zeros(2, 4, 4, 1), (rows + 1,), height=40, width=60)


@pytest.fixture(scope="module")
def runner() -> Sam2Runner:
    return make_runner(replace(TINY, image_size=256))


@pytest.fixture(scope="module")
def embedding(runner: Sam2Runner) -> Embedding:
    return runner.encode([image("first", 320, 200)])[0]


def logits(runner: Sam2Runner, embedding: Embedding) -> np.ndarray:
    """Of a click."""
    return runner.decode([(embedding, Prompt(points=((30.0, 40.0),), labels=(1,)))])[0].logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_bit_is_the_same_after_a_round_trip(dtype: torch.dtype, embedding: Embedding) -> None:
    before = Embedding(*(each.to(dtype) for each in tensors(embedding)[:3]), (), height=200, width=320)
    after = from_bytes(to_bytes(before.to_host(), NOTE), NOTE)
    assert (after.height, after.width) == (200, 320)
    for one, other in zip(tensors(before), tensors(after), strict=True):
        assert one.dtype == other.dtype == dtype
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
        assert other.data_ptr() % 64 == 0  # as torch aligns its own: products may round otherwise where not


def test_every_mask_is_the_same_after_a_round_trip(runner: Sam2Runner, embedding: Embedding) -> None:
    again = from_bytes(to_bytes(embedding.to_host(), NOTE), NOTE)
    assert (logits(runner, runner.adopt(again)) == logits(runner, embedding)).all()


def test_a_gpus_embedding_decodes_the_same_on_a_cpu(runner: Sam2Runner, embedding: Embedding) -> None:
    """What a CPU's decoder wants beside the maps is not in the files of a GPU."""
    adopted = runner.adopt(replace(embedding, first_projections=()))
    assert (logits(runner, adopted) == logits(runner, embedding)).all()


def test_a_file_of_an_older_version_still_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its projections lay cell by cell in half precision; they are not mistaken for today's."""
    runner = make_runner(replace(TINY, image_size=256), dtype=torch.bfloat16)
    (embedding,) = runner.encode([image("first", 320, 200)])
    keys, values, queries = embedding.first_projections
    monkeypatch.setattr("model.checkpoints.embedding_bytes._PROJECTION", "decoder_projections.")
    by_cell = (keys.T.contiguous(), values.T.contiguous(), queries)
    data = to_bytes(replace(embedding, first_projections=by_cell), NOTE)
    monkeypatch.undo()
    again = runner.adopt(from_bytes(data, NOTE))
    assert (logits(runner, again) == logits(runner, embedding)).all()


def test_any_byte_that_is_missing_or_altered_is_noticed() -> None:
    data = to_bytes(small(), NOTE)
    assert from_bytes(data, NOTE).height == 40
    for end in range(len(data)):
        with pytest.raises(BrokenEmbedding):
            from_bytes(data[:end], NOTE)
    for i in range(len(data)):
        altered = data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]
        try:
            again = from_bytes(altered, NOTE)
        except BrokenEmbedding:
            continue
        assert to_bytes(again, NOTE) == data, i  # white space in the header


@pytest.mark.parametrize(
    ("note", "words"),
    [
        ({**NOTE, "fingerprint": "0" * 64}, "another fingerprint"),
        ({**NOTE, "content": "0" * 64}, "another content"),
    ],
)
def test_what_belongs_to_another_is_refused(note: dict[str, str], words: str) -> None:
    with pytest.raises(BrokenEmbedding, match=words):
        from_bytes(to_bytes(small(), NOTE), note)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG",
        bytes(100),
        safetensors.torch.save({"x": torch.ones(2)}),
        safetensors.torch.save({}, NOTE),
    ],
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(BrokenEmbedding):
        from_bytes(data, NOTE)
