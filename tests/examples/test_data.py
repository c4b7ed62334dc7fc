"""Pictures of every source, their sizes and their splits; memory; errors in one line."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import data
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import processes
from tests.examples.conftest import EXAMPLES
from tests.examples.picture_data import CLASSES, write_folders, write_parquet, write_shards

pytestmark = pytest.mark.filterwarnings("ignore")  # of datasets


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares goes with the test, and nothing is fetched."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def load(*words: object) -> data.Data:
    parser = argparse.ArgumentParser()
    data.add_options(parser)
    parser.add_argument("--seed", type=int, default=0)
    return data.load(parser.parse_args([*map(str, words)]))


def brightest(image: np.ndarray) -> int:
    """Return the class of a picture of `picture_data`: its brightest quarter."""
    height, width, channels = image.shape
    return int(image.reshape(2, height // 2, 2, width // 2, channels).mean((1, 3, 4)).argmax())


def test_digits_are_built_in() -> None:
    found = load("--train-size", 100, "--validation-size", 200)
    assert (found.shape, len(found.classes)) == ((8, 8, 1), 10)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [100, 200, 449]
    assert not set(found.train.rows) & set(found.validation.rows)
    pixels = np.stack([image for image, _ in found.train]) / 255
    np.testing.assert_allclose(pixels.mean(), found.mean[0], atol=1e-6)
    np.testing.assert_allclose(pixels.std(), found.std[0], atol=1e-6)


def test_parquet_with_the_hub_s_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path)
    found = load("--dataset", "cifar100", "--data-dir", tmp_path)
    assert (tuple(found.classes), found.shape, len(found.train)) == (CLASSES, (32, 32, 3), 40)
    assert all(brightest(image) == label for image, label in found.train)
    coarse = load("--dataset", "x", "--data-dir", tmp_path, "--label-column", "coarse_label")
    assert coarse.classes == ["thing", "animal"]
    streamed = load("--dataset", "cifar100", "--data-dir", tmp_path, "--stream")
    orders = []
    for epoch in (0, 0, 1):
        streamed.train.rows.set_epoch(epoch)
        rows = list(streamed.train)
        assert all(brightest(image) == label for image, label in rows)
        orders.append([label for _, label in rows])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(found.train.labels)


@pytest.mark.parametrize("more", [[], ["--stream", "--train-size", 40]])
def test_a_split_without_labels_is_left_out(more: list[object], tmp_path: Path) -> None:
    """As the hub's test of ImageNet is, whose labels are -1."""
    write_parquet(tmp_path)
    test = tmp_path / "test-00000-of-00001.parquet"
    rows = pq.read_table(test)
    pq.write_table(rows, tmp_path / "validation-00000-of-00001.parquet")
    place, schema = rows.schema.get_field_index("fine_label"), rows.schema
    columns = [pa.array([-1] * len(rows)) if i == place else x for i, x in enumerate(rows.columns)]
    pq.write_table(pa.table(columns, schema=schema), test)
    words = "--dataset", "cifar100", "--data-dir", tmp_path, *more
    found = load(*words)
    assert found.validation is None
    if more:
        with pytest.raises(data.InputError, match="takes no pictures from a stream"):
            load(*words, "--validation-size", 4)
    assert [label for _, label in found.test] == [row % 4 for row in range(40)]
    (tmp_path / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(data.InputError, match=r"with labels; of these it has train$"):
        load(*words)


@pytest.mark.parametrize("held_out", [["test"], ["val"], ["validation", "test"]])
def test_class_folders(held_out: list[str], tmp_path: Path) -> None:
    write_folders(tmp_path, ("train", *held_out))
    found = load("--dataset", "folder", "--data-dir", tmp_path)
    assert (tuple(found.classes), found.shape) == (CLASSES, (32, 32, 3))
    assert (found.validation is None) == (len(held_out) == 1)
    assert len(found.test) == 16
    assert all(brightest(image) == label for image, label in found.test)
    assert found.train.cells[0]["path"].endswith(".png")


def test_pictures_of_several_sizes_need_an_image_size(tmp_path: Path) -> None:
    write_folders(tmp_path, ("train", "test"))
    write_folders(tmp_path, ("train",), rows=4, side=48)
    with pytest.raises(data.InputError, match=r"2 sizes, from .* choose one side by --image-size"):
        load("--dataset", "folder", "--data-dir", tmp_path)
    found = load("--dataset", "folder", "--data-dir", tmp_path, "--image-size", 16)
    assert all(image.shape == (16, 16, 3) == found.shape for image, _ in found.train)
    assert all(brightest(image) == label for image, label in found.train)


def test_shards_are_streamed(tmp_path: Path) -> None:
    write_shards(tmp_path)
    words = ["--dataset", "webdataset", "--data-dir", tmp_path, "--train-size", 32]
    found = load(*words, "--classes", 4)
    rows = list(found.train)
    assert len(rows) == len(found.train) == 32
    assert all(brightest(image) == label for image, label in rows)
    with pytest.raises(data.InputError, match="pass --classes N"):
        load(*words)
    with pytest.raises(data.InputError, match="pass --train-size N"):
        load(*words[:4], "--classes", 4)


def test_transparency_lies_on_white_and_a_broken_picture_is_named(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "clear.png"
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(path)
    cell = {"bytes": None, "path": str(path)}
    assert (data.decode(cell, (8, 8, 3)) == 255).all()
    assert data.decode(cell, (4, 4, 1)).shape == (4, 4, 1)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(data.InputError, match=r"clear\.png"):
        data.decode(cell, (8, 8, 3))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "folder"], "reads the folder --data-dir; None is not one"),
        (["--dataset", "no/such"], "no/such cannot be read"),
        (["--validation-size", 2000], "is all 1348 training pictures"),
    ],
)
def test_what_cannot_be_read(words: list[Any], said: str) -> None:
    with pytest.raises(data.InputError, match=said):
        load(*words)


READ = f"""
import resource, sys
sys.path[:0] = [{str(EXAMPLES)!r}]
from tests.examples.test_data import load
found = load("--dataset", "webdataset", "--data-dir", sys.argv[1], "--train-size", sys.argv[2],
             "--classes", 4)
assert sum(1 for _ in found.train) == int(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(folder: Path, rows: int, side: int) -> int:
    """Return the greatest memory, in KiB, of a process that streams so many JPEGs once."""
    write_shards(folder, rows, 2, side)
    command = [sys.executable, "-c", READ, str(folder), str(rows)]
    done = subprocess.run(command, cwd=processes.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    """Run with ``PYTHONPATH=examples``, this file's end does so with 20,000 of 256 pixels."""
    few, many = peak(tmp_path / "few", 1200, 64), peak(tmp_path / "many", 4800, 64)
    assert many < few + 10_000  # of them 40 MB would be pixels


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for count in (2000, 20000):
        print(f"{count} JPEGs of 256 pixels: {peak(root / str(count), count, 256) / 1024:.0f} MiB")
