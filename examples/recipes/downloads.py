"""Fetch the official files with pooch and the checksums their publishers give."""

from __future__ import annotations

from pathlib import Path

from .readers import DataError

_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CIFAR = "https://www.cs.toronto.edu/~kriz/"

#: data set → file name → (address of its folder, MD5 as published beside the file)
OFFICIAL: dict[str, dict[str, tuple[str, str]]] = {
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": (_FASHION, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        "train-labels-idx1-ubyte.gz": (_FASHION, "25c81989df183df01b3e8a0aad5dffbe"),
        "t10k-images-idx3-ubyte.gz": (_FASHION, "bef4ecab320f06d8554ea6380940ec79"),
        "t10k-labels-idx1-ubyte.gz": (_FASHION, "bb300cfdad3c16e7a12a480ee83cd310"),
    },
    "cifar10": {"cifar-10-binary.tar.gz": (_CIFAR, "c32a1d4ab5d03f1284b67883e8d87530")},
    "stl10": {
        "stl10_binary.tar.gz": (
            "http://ai.stanford.edu/~acoates/stl10/",
            "91f7769df0f17e558f3565bffb0c7dfb",
        )
    },
    "cifar100": {"cifar-100-binary.tar.gz": (_CIFAR, "03b5dce01913d631647c71ecec9e9cb8")},
}


def fetch(dataset: str, folder: Path) -> None:
    """Download the files of ``dataset`` that ``folder`` lacks; pooch checks each and renames last.

    Raises:
        DataError: no connection, or a checksum that differs (the file is then not kept).
    """
    import pooch

    for name, (base, md5) in OFFICIAL[dataset].items():
        try:
            pooch.retrieve(base + name, f"md5:{md5}", fname=name, path=folder, progressbar=True)
        except (OSError, ValueError) as error:
            raise DataError(
                f"could not fetch {base + name}: {error}. Fetch it by other means, put it into "
                f"{folder} and leave --download out"
            ) from error
