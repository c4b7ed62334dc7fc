"""A teacher stored as columns of a `datasets` dataset: written, read, padded, checked."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pytest
import torch
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from pyarrow import parquet
from torch.utils.data import DataLoader

from mcld_core.extensions.nlp import TopKLogits, sample_teacher, token_kd_loss
from mcld_core.extensions.nlp.columns import TeacherCollator, pad_teacher, teacher_columns
from tests.torch.tiny_language_model import VOCABULARY, Padding, make_data, make_teacher

KINDS = {
    "all": lambda z: TopKLogits.from_logits(z, VOCABULARY),
    "top": lambda z: TopKLogits.from_logits(z, 4),
    "draws": lambda z: TopKLogits.from_samples(
        *sample_teacher(z, 5, torch.Generator().manual_seed(0))
    ),
}


def asked(rows: dict[str, list[Any]], kind: str) -> tuple[TopKLogits, torch.Tensor]:
    """Return what the teacher says of a batch of columns, with the mask."""
    cut = [{k: rows[k][i] for k in ("input_ids", "labels")} for i in range(len(rows["labels"]))]
    batch = Padding("left")(cut)
    with torch.no_grad():
        logits = make_teacher()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return KINDS[kind](logits), batch["attention_mask"]


def written(kind: str, mark: str = "a teacher") -> Dataset:
    def columns(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return teacher_columns(*asked(rows, kind), fingerprint=mark)

    rows = [{k: row[k] for k in ("input_ids", "labels")} for row in make_data(7)]
    return Dataset.from_list(rows).map(columns, batched=True, batch_size=3)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_written_streamed_and_padded_the_loss_is_that_of_the_teacher(
    tmp_path: Path, kind: str, side: str
) -> None:
    stored = written(kind)
    stored.to_parquet(str(tmp_path / "0.parquet"))
    read = partial(load_dataset, "parquet", data_files=str(tmp_path / "0.parquet"), split="train")
    mapped, streamed = read(cache_dir=str(tmp_path / "cache")), read(streaming=True)
    collate = TeacherCollator(Padding(side), "a teacher")
    batches = [
        next(iter(DataLoader(data, batch_size=7, collate_fn=collate, num_workers=workers)))
        for data, workers in ((stored, 0), (mapped, 2), (streamed, 1))
    ]
    batch = batches[0]
    for other in batches[1:]:
        for x, y in zip(batch["teacher"], other["teacher"], strict=True):
            assert torch.equal(torch.as_tensor(x), torch.as_tensor(y))
    student = torch.randn(*batch["labels"].shape, VOCABULARY, requires_grad=True)
    options: Any = {"attention_mask": batch["attention_mask"], "shift": True}
    found = token_kd_loss(student, batch["teacher"], batch["labels"], **options)
    (slope,) = torch.autograd.grad(found, student)
    expected, count = torch.zeros(()), 0
    for b, row in enumerate(make_data(7)):
        own = student[b][batch["attention_mask"][b] == 1]
        with torch.no_grad():
            logits = make_teacher()(torch.tensor([row["input_ids"]])).logits
        teacher = KINDS["all" if kind == "all" else "top"](logits)
        if kind == "draws":  # the rows themselves are random: those that were stored
            at = np.asarray(stored[b]["teacher_offsets"])
        for i, label in enumerate(row["labels"][1:]):
            count += label != -100
            if label == -100:
                continue
            log_q = own[i].log_softmax(0)
            if kind == "draws":
                ids = stored[b]["teacher_ids"][at[i] : at[i + 1]]
                log_p = torch.tensor(stored[b]["teacher_logprobs"][at[i] : at[i + 1]])
                assert log_p.exp().sum() == pytest.approx(1.0, abs=1e-3)
                expected = expected + (log_p.exp() * (log_p - log_q[ids])).sum()
                continue
            log_p, ids = torch.as_tensor(teacher.values[0, i]), teacher.indices[0, i].tolist()
            expected = expected + (log_p.exp() * (log_p - log_q[ids])).sum()
            if kind == "top":
                rest = torch.tensor(float(teacher.tail[0, i]))
                others = [j for j in range(VOCABULARY) if j not in ids]
                log_others = log_q[others].logsumexp(0)
                expected = expected + rest.exp() * (rest - log_others)
    torch.testing.assert_close(found, expected / count, rtol=2e-3, atol=1e-3)
    (by_hand,) = torch.autograd.grad(expected / count, student)
    torch.testing.assert_close(slope, by_hand, rtol=1e-2, atol=1e-4)


def test_ragged_rows() -> None:
    """Offsets may stand beside a tail, as another program writes them."""
    row = {
        "teacher_ids": [5, 2, 7, 1],
        "teacher_logprobs": [-0.5, -1.0, -2.0, -0.25],
        "teacher_tail": [-1.0, -2.0, -3.0],
        "teacher_offsets": [0, 1, 1, 4],
    }
    found = pad_teacher([row], np.array([[False, True, True, True]]))
    low = -np.inf
    assert found.indices[0].tolist() == [[0, 0, 0], [5, 0, 0], [0, 0, 0], [2, 7, 1]]
    expected = [[low, low, low], [-0.5, low, low], [low, low, low], [-1.0, -2.0, -0.25]]
    assert found.values[0].tolist() == expected
    assert found.tail[0].tolist() == [low, -1.0, -2.0, -3.0]


def test_errors() -> None:
    rows = [written("top")[i] for i in range(2)]
    other = {**rows[1], "teacher_fingerprint": "another"}
    with pytest.raises(ValueError, match=r"needs to be 'mine'; got \['a teacher'"):
        TeacherCollator(Padding("left"), "mine")(rows)
    with pytest.raises(
        ValueError, match=r"needs to be 'one for all'; got \['a teacher', 'another'"
    ):
        TeacherCollator(Padding("left"))([rows[0], other])
    cut = {**rows[1], "input_ids": rows[1]["input_ids"][:2], "labels": rows[1]["labels"][:2]}
    with pytest.raises(ValueError, match="sample 1 needs teacher columns of its 2 tokens"):
        TeacherCollator(Padding("left"))([rows[0], cut])
    with pytest.raises(ValueError, match="needs to return an attention_mask of one row a sample"):
        TeacherCollator(lambda rows: {"input_ids": torch.zeros(1, 13)})(rows)
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        TeacherCollator(Padding("left"))(make_data(2))
    with pytest.raises(ValueError, match="teacher needs a tail and values"):
        teacher_columns(TopKLogits(np.zeros((1, 2, 3)), np.zeros((1, 2, 3), int)), np.ones((1, 2)))


CHECKED = pyarrow.dataset.ParquetFragmentScanOptions(page_checksum_verification=True)


def numbers(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Answer from the ids alone: what processes of their own can do."""
    longest = max(map(len, rows["input_ids"]))
    ids = np.asarray([x + [0] * (longest - len(x)) for x in rows["input_ids"]])
    teacher = TopKLogits.from_logits(np.sin(ids[..., None] * np.arange(1.0, 9.0)), 4)
    return teacher_columns(teacher, ids != 0, fingerprint="numbers")


def read(*paths: object) -> list[dict[str, Any]]:
    """Stream files with their checksums."""
    files = list(map(str, paths))
    options: Any = {"streaming": True, "fragment_scan_options": CHECKED}
    return list(load_dataset("parquet", data_files=files, split="train", **options))


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_written_by_processes_to_any_path(tmp_path: Path, scheme: str) -> None:
    texts = Dataset.from_list([{"input_ids": row["input_ids"]} for row in make_data()])
    expected = list(texts.map(numbers, batched=True, batch_size=2))
    files = [f"{scheme}://{tmp_path}/{i}.parquet" for i in range(3)]
    for i, file in enumerate(files):  # each machine of an array has such a part
        part = texts.shard(3, i, contiguous=True).map(numbers, batched=True, num_proc=2)
        part.to_parquet(file, write_page_checksum=True)
    assert read(*files) == expected


def test_what_a_stored_teacher_may_suffer(tmp_path: Path) -> None:
    """A flipped bit, a cut file, wrong lengths, an address: errors that cost no memory or time."""
    stored, path = written("top"), tmp_path / "whole.parquet"
    stored.to_parquet(str(path), write_page_checksum=True)
    whole, chunks = path.read_bytes(), parquet.read_metadata(path).row_group(0)
    for i in range(chunks.num_columns):
        chunk = chunks.column(i)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        broken = bytearray(whole)
        broken[start + chunk.total_compressed_size - 1] ^= 4
        path.with_name(f"{i}.parquet").write_bytes(broken)
        with pytest.raises((OSError, DatasetGenerationError), match="CRC"):
            read(path.with_name(f"{i}.parquet"))
    path.with_name("cut.parquet").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"[Pp]arquet"):
        read(path.with_name("cut.parquet"))
    row = stored[0] | {"teacher_offsets": [0] * len(stored[0]["input_ids"]) + [20_000_000]}
    with pytest.raises(ValueError, match="sample 0 needs teacher columns of its 9 tokens"):
        TeacherCollator(Padding("left"))([row])
    with pytest.raises(ImportError, match="s3fs"):
        stored.to_parquet("s3://bucket/x")
    assert not Path("s3:").exists()
