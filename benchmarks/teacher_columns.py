"""What a stored teacher takes: bytes a token on the disk, tokens a CPU second written and read.

    python benchmarks/teacher_columns.py    # pip install datasets

Logits over 32,000 ids, a Zipf distribution times a normal deviate of 2 nats; 64 texts of 128
tokens; Parquet with page checksums, read memory-mapped by `TeacherCollator`; one thread, the least
of 3. Beside it a folder of 100,000 files of one text each (names of two files), listed and
streamed. Writes ``results/teacher_columns.json``.
"""

import importlib.metadata
import json
import os
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset

sys.path.insert(0, str(Path(__file__).parent.parent))
from mcld_core.extensions.nlp import TeacherCollator, TopKLogits, sample_teacher, teacher_columns

TEXTS, LENGTH, FILES = 64, 128, 100_000


def rate(call: Callable[[], Any]) -> int:
    """Return tokens a CPU second, the most of three calls."""
    return round(TEXTS * LENGTH / min(timeit.repeat(call, time.process_time, number=1, repeat=3)))


torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
prior = -torch.arange(1.0, 32_001).log()[torch.randperm(32_000, generator=draw)]
logits = prior + 2 * torch.randn(TEXTS, LENGTH, 32_000, generator=draw)
ids, mask = logits.argmax(-1), torch.ones(TEXTS, LENGTH, dtype=torch.int64)
collate = TeacherCollator(lambda rows: {"input_ids": ids, "attention_mask": mask})
found: dict[str, Any] = {x: importlib.metadata.version(x) for x in ("torch", "datasets", "pyarrow")}
for name, ask in {
    "k = 50": lambda: TopKLogits.from_logits(logits, 50),
    "12 draws": lambda: TopKLogits.from_samples(*sample_teacher(logits, 12, draw)),
}.items():
    with tempfile.TemporaryDirectory() as folder:
        table, file = Dataset.from_dict(teacher_columns(ask(), mask)), f"{folder}/0.parquet"
        row = {"selected": rate(ask)}
        row["written"] = rate(lambda t=table, f=file: t.to_parquet(f, write_page_checksum=True))
        data = load_dataset("parquet", data_files=file, split="train", cache_dir=folder)
        data = data.add_column("input_ids", ids.tolist())
        row["read"] = rate(lambda d=data: collate([d[i] for i in range(TEXTS)]))
        row["bytes a token"] = round(os.path.getsize(file) / (TEXTS * LENGTH), 1)
        found[name] = row
with tempfile.TemporaryDirectory() as folder:
    one = Dataset.from_dict({"input_ids": [[1, 2]]})
    for i in range(FILES):  # a file has 65,000 names at most
        if i % 50_000 == 0:
            one.to_parquet(first := f"{folder}/{i}.parquet")
        else:
            os.link(first, f"{folder}/{i}.parquet")
    start, pattern = time.process_time(), f"{folder}/*.parquet"
    many = load_dataset("parquet", data_files=pattern, split="train", streaming=True)
    found["files"] = {"listed": many.num_shards, "CPU s": round(time.process_time() - start, 1)}
    start = time.process_time()
    assert sum(1 for _ in many.take(1000)) == 1000
    found["files"]["CPU s for the rows of 1,000"] = round(time.process_time() - start, 1)
path = Path(__file__).parent / "results" / "teacher_columns.json"
path.write_text(json.dumps(found, indent=1) + "\n")
print(path.read_text())
