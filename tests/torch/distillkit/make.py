"""Write the captures beside this file by DistillKit's own code, and what its decoder reads.

    git clone https://github.com/arcee-ai/DistillKit && git -C DistillKit checkout a61c2e7
    PYTHONPATH=DistillKit python tests/torch/distillkit/make.py

Two texts of 7 and 5 tokens of a vocabulary of 1000; as from its vLLM script, the last token of a
text has no row.
"""

import json
from pathlib import Path

import numpy as np
import torch
from distillkit.compression import DistributionQuantizationConfig as Config
from distillkit.compression import LogprobCompressor
from distillkit.sample_common import StreamingParquetWriter, compressed_logit_schema

HERE, SIZES = Path(__file__).parent, {"k": 24, "exact_k": 4}
BINS = [
    {"scale_dtype": "float16", "element_bits": 5, "num_elements": 6},
    {"scale_dtype": "bfloat16", "element_bits": 1, "num_elements": 3},
]
EXACT = {"exact_dtype": "bfloat16", "delta_encoding": False}
RECOMMENDED = {**EXACT, "polynomial_terms": [0, 1, 2, 3, 4, "sqrt"], "residual_bins": []}
CONFIGS = {
    "recommended": Config(d=1000, **SIZES, **RECOMMENDED),
    "bins": Config(d=1000, **SIZES, **RECOMMENDED | {"residual_bins": BINS, "normalize_t": True}),
    "delta": Config(d=1000, **SIZES, **RECOMMENDED | {"delta_encoding": True}),
    "all": Config(d=1000, k=24, exact_k=24, residual_bins=[], **EXACT),
}

torch.manual_seed(0)
texts = [torch.randint(1000, (n,)).tolist() for n in (7, 5)]
logprobs = [(4 * torch.randn(1, len(ids) - 1, 1000)).log_softmax(-1) for ids in texts]
decoded, settings = {}, {}
for name, config in CONFIGS.items():
    made, schema = LogprobCompressor(config), compressed_logit_schema()
    settings[name] = config.model_dump(mode="json")
    with StreamingParquetWriter(str(HERE / name), schema, 2, queue_maxsize=0) as writer:
        for row, (ids, log_p) in enumerate(zip(texts, logprobs, strict=True)):
            values, order = log_p.topk(24)
            packed = made.compress_from_sparse(order, values)
            found = made.decompress_to_sparse(packed)
            for part, x in zip(("ids", "values"), found, strict=True):
                decoded[f"{name}_{part}_{row}"] = x[0].float().numpy()
            writer.write({"input_ids": ids} | {k: v[0].tolist() for k, v in packed.items()})
    (HERE / name / "data_0.parquet").rename(HERE / f"{name}.parquet")
    (HERE / name).rmdir()
np.savez_compressed(HERE / "decoded.npz", **decoded)
(HERE / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
