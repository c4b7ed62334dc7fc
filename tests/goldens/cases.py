"""The cases of the goldens, as data, and how one is computed.

A case is a function and its arguments by name; ``"@x"`` stands for the array ``x`` of the file. A
gradient is taken by each array whose name begins with ``student``. A path that has moved is changed
in `HOMES` and in the imports alone. The file was made at the end of version 0.2 (4b88544) by
``tests/goldens/make.py`` of 27ccb8e: a case whose behaviour changes on purpose leaves the table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import mcld_core
from mcld_core import ClassMeans, TeacherBank, TeacherKeys, mcld_loss
from mcld_core import MCLDConfig as Config
from mcld_core.backends import backend_for
from mcld_core.extensions.multimodal import feature_mse
from mcld_core.extensions.teachers import TeacherQuality, quality_weights, reliability_weights
from tests.frameworks import Framework

FILE = Path(__file__).with_name("goldens.npz")
HOMES = {
    "mcld_core": "mcld_loss instance_wise sample_wise category_wise kd_loss dkd_loss nkd_loss "
    "rld_loss dist_loss ttm_loss adjust_logits select_classes",
    "mcld_core.extensions.nlp": "token_mcld_loss token_kd_loss linear_token_kd_loss",
    "mcld_core.extensions.timeseries": "window_mcld_loss forecast_bins forecast_to_logits "
    "bin_labels cut_windows",
    "mcld_core.extensions.multimodal": "multimodal_mcld_loss embedding_contrast feature_mse",
    "mcld_core.extensions.teachers": "adaptive_mcld_loss ensemble reliability_weights repair_rows "
    "outlier_weights bounded_loss",
    "mcld_core.torch": "MCLDLoss",
    __name__: "bank class_means quality exported resumed",
}
HOME = {name: home for home, names in HOMES.items() for name in names.split()}

PAIR = {"student_logits": "@student", "teacher_logits": "@teacher"}
ROWS = dict(PAIR, labels="@labels")
MASKS = {"sample_weight": "@weight", "where": "@where"}
KEYS = TeacherKeys("@keys", "@key_labels", "@key_where", own_start=2)
ALL = dict(ROWS, **MASKS, keys=KEYS, class_prior="@prior")
TOKENS = {"student_logits": "@student_tokens", "teacher_logits": "@teacher_tokens"}
LABELLED = dict(TOKENS, labels="@token_labels")
KD = {"student_logits": "@student_tokens", "teacher": "@teacher_tokens"}
KD_LABELLED = dict(KD, labels="@token_labels")
STEPS = dict(TOKENS, labels="@series_labels")
LAYER = {"hidden": "@student_tokens", "weight": "@student"}
LAYER |= {"teacher": ("@teacher_tokens", "@teacher")}
WINDOWS = dict(ROWS, starts="@starts", lengths=4, series="@series", return_terms=True)
EMBEDDED = {"student": "@student", "teacher": "@teacher"}
PARTS = {"student": {"a": "@student_tokens"}, "teacher": {"a": "@teacher_tokens"}}
STUDENTS = {"image": "@student", "text": "@student_text"}
TEACHERS = {"image": "@teacher", "text": "@teacher_text"}
TWO = {"student": STUDENTS, "teacher": dict(TEACHERS, text="@absent"), "labels": "@labels"}
JUDGED = {"teacher_logits": "@teacher", "labels": "@labels"}
SURE = dict(JUDGED, reliability="@reliability")
ADAPT = dict(ROWS, reliability="@reliability")
NONE, SUM, TERMS = {"reduction": "none"}, {"reduction": "sum"}, {"return_terms": True}

TABLE: dict[str, list[dict[str, Any]]] = {
    "mcld_loss": [
        dict(ROWS, **TERMS, labels=None), dict(ROWS, labels="@one_hot"),
        dict(ROWS, **SUM, labels="@ignored", progress=0.25),
        dict(ROWS, config=Config(ignore_index=1)),
        dict(ROWS, config=Config(weight_instance=0.5, weight_sample=2.0, weight_category=0.0)),
        dict(ROWS, **MASKS, **TERMS, config=Config(weight_ce=0.5)),
        dict(ROWS, config=Config(target_mask=False, sample_target_mask=False)),
        dict(ROWS, config=Config(target_mask=False), labels="@soft"),
        dict(ROWS, config=Config(sample_temperature=2.0, beta=3.0)),
        dict(ROWS, config=Config(category_warmup=0.0), progress=0.0),
        dict(ROWS, **TERMS, config=Config(category_warmup=0.5), progress=0.3),
        dict(ROWS, config=Config(key_temperature=2.0, temperature=0.5)),
        dict(ALL, config=Config(block_size=4)), dict(ALL, config=Config(block_size=None)),
        dict(ROWS, teacher_logits="@absent"), dict(ROWS, keys=KEYS._replace(labels=None)),
        dict(ROWS, keys=KEYS._replace(labels="@key_soft", where=None)),
        dict(ROWS, keys=KEYS._replace(logits=None, probabilities="@key_probabilities")),
        dict(ROWS, **MASKS, **TERMS, keys=KEYS._replace(normalizer="@normalizer")),
        dict(ROWS, keys=KEYS._replace(prototypes="@prototypes"),
             config=Config(category_contrast="prototypes")),
        dict(ROWS, **TERMS, where="@nothing"),
    ],
    "instance_wise": [dict(ROWS, **NONE), ALL, dict(ROWS, config=Config(target_mask=False))],
    "category_wise": [
        dict(ROWS, **NONE), ALL,
        dict(ROWS, **MASKS, **NONE, config=Config(category_contrast="columns")),
    ],
    "sample_wise": [dict(ROWS, **NONE), dict(ROWS, **MASKS, **SUM, labels="@soft")],
    "kd_loss": [
        PAIR, dict(PAIR, **MASKS, **NONE, temperature=2.0), dict(PAIR, standardize=True),
        dict(PAIR, **SUM, divergence="reverse"), dict(PAIR, **MASKS, divergence="jsd", mix=0.3),
        dict(PAIR, divergence="jsd", teacher_logits="@absent"),
    ],
    "dkd_loss": [
        ROWS, dict(ROWS, **MASKS, alpha=2.0, beta=0.5, temperature=3.0, ignore_index=1),
        dict(ROWS, **NONE, labels="@soft"),
    ],
    "nkd_loss": [dict(ROWS, **NONE), dict(ROWS, **MASKS, gamma=0.5, temperature=2.0)],
    "rld_loss": [
        dict(ROWS, **NONE), dict(ROWS, **MASKS, alpha=2.0, beta=0.5, alpha_temperature=3.0),
        dict(PAIR, temperature=2.0, teacher_logits="@absent"),
    ],
    "dist_loss": [dict(PAIR, **NONE), dict(PAIR, **MASKS, beta=2.0, gamma=0.5, temperature=2.0)],
    "ttm_loss": [dict(PAIR, **NONE), dict(PAIR, **MASKS, gamma=0.5, weighted=False)],
    "adjust_logits": [{"logits": "@student", "class_prior": "@prior"}],
    "select_classes": [{"logits": "@student", "mapping": [3, 0]}],
    "token_mcld_loss": [
        LABELLED, dict(TOKENS, **NONE, attention_mask="@token_mask"),
        dict(LABELLED, **TERMS, shift=True, attention_mask="@token_mask"),
        dict(LABELLED, **SUM, **TERMS, sequence_labels="@series_labels", token_contrast=None,
             sequence_contrast=0.5, class_prior="@prior", progress=0.5),
        dict(LABELLED, **TERMS, sequence_labels="@series_labels", token_contrast=0.5,
             sequence_contrast=1.0, category="sequence",
             config=Config(weight_ce=1.0, similarity="cosine")),
        dict(LABELLED, normalizer=7.0, config=Config(category_contrast="prototypes")),
        dict(LABELLED, labels="@token_soft", config=Config(category_contrast="columns")),
    ],
    "token_kd_loss": [
        KD, dict(KD_LABELLED, **NONE, attention_mask="@token_mask", temperature=2.0),
        dict(KD_LABELLED, shift=True, normalizer=5.0),
        dict(KD_LABELLED, **SUM, divergence="reverse", temperature=2.0),
        dict(KD_LABELLED, divergence="jsd", mix=0.3, ignore_index=1, labels="@token_plain"),
    ],
    "linear_token_kd_loss": [
        dict(LAYER, labels="@token_labels"),
        dict(LAYER, **NONE, bias="@weight", attention_mask="@token_mask", temperature=2.0),
    ],
    "window_mcld_loss": [
        dict(ROWS, **TERMS, mask="@where", class_prior="@prior"),
        dict(WINDOWS, starts="@starts_apart"), dict(WINDOWS, labels="@distinct"), WINDOWS,
        dict(STEPS, **TERMS, mask="@token_mask"),
        dict(STEPS, **TERMS, starts="@starts_of_3", lengths=4, step_contrast=0.5),
        dict(STEPS, **NONE, step_labels="@token_labels", category="step",
             config=Config(weight_ce=1.0)),
        dict(STEPS, normalizer=7.0, class_prior="@prior", progress=0.5),
    ],
    "cut_windows": [{"series": ["@weight", "@edges"], "length": 4, "stride": 3}],
    "forecast_bins": [{"targets": "@targets"}],
    "bin_labels": [{"targets": "@targets", "edges": "@edges", "ignore_index": -1}],
    "forecast_to_logits": [
        {"forecast": "@student_forecast", "edges": "@edges", "scale": x} for x in (None, "@spread")
    ],
    "multimodal_mcld_loss": [
        dict(TWO, **TERMS),
        dict(TWO, **TERMS, student_where={"text": "@where"}, teacher_where={"image": "@odd"},
             class_prior="@prior", sample_weight="@weight"),
        dict(TWO, **NONE, pairs={("image", "text"): 2.0, ("text", "text"): 0.5}, progress=0.5,
             other_losses={("image", "image"): (0.5, feature_mse)}),
        dict(TWO, kind="embeddings", logit_scale="@student_scale", teacher=TEACHERS),
        dict(PARTS, labels="@series_labels", weight_local=0.5),
        dict(PARTS, **SUM, kind="embeddings"),
    ],
    "embedding_contrast": [
        dict(EMBEDDED, temperature=0.5),
        dict(EMBEDDED, **MASKS, labels="@labels", logit_scale="@student_scale"),
        dict(EMBEDDED, **NONE, labels="@soft", progress=0.5, temperature=1.0),
    ],
    "feature_mse": [{"student_rows": "@student", "teacher_rows": "@teacher"}],
    "adaptive_mcld_loss": [
        ADAPT, dict(ADAPT, **NONE, config=Config(category_contrast="columns")),
        dict(ALL, reliability="@reliability", progress=0.5, config=Config(weight_ce=0.5)),
    ],
    "ensemble": [
        {"logits_list": ["@teacher", "@absent"]},
        {"logits_list": ["@teacher", "@teacher_text"], "space": "logits", "return_where": True,
         "weights": [2.0, "@weight"], "where": ["@where", None], "temperatures": [2.0, 1.0]},
    ],
    "reliability_weights": [JUDGED, dict(JUDGED, temperature=0.5, strength=0.5, where="@where")],
    "repair_rows": [SURE, dict(SURE, smoothing=0.3, labels="@soft", where="@where")],
    "outlier_weights": [dict(JUDGED, cutoff=0.9), dict(JUDGED, where="@where", ignore_index=1)],
    "bounded_loss": [dict(MASKS, **NONE, rows="@student_losses", q=q) for q in (0.5, 0.0)],
    "quality": [dict(JUDGED, others="@keys", other_labels="@key_labels", where="@key_where")],
    "class_means": [JUDGED, dict(JUDGED, labels="@soft", where="@where", window=2.0)],
    "bank": [
        dict(ROWS), dict(ROWS, ready=True),
        dict(ROWS, index="@ids", where="@where", labels="@soft"),
    ],
    "resumed": [ROWS],
    "exported": [{"inputs": "@keys", "weight": "@prototypes", "bias": "@prior"}],
}  # fmt: skip
for _similarity in ("probability", "pearson", "cosine", "dot"):  # plainly, and all options at once
    for _contrast in ("labels", "prototypes", "columns"):
        _settings = {"similarity": _similarity, "category_contrast": _contrast}
        _all = dict(
            ALL, **NONE, config=Config(**_settings, weight_ce=0.5), labels="@soft", progress=0.25
        )
        TABLE["mcld_loss"] += [dict(ROWS, **TERMS, config=Config(**_settings)), _all]
CASES = {f"{name}-{i}": (name, x) for name, given in TABLE.items() for i, x in enumerate(given)}
_SUMS = ("entropy", "bin_rows", "bin_confidence", "bin_correct")
GONE = {
    *(f"quality-0/value/sums/{x}" for x in _SUMS),
    "exported-0/value/1",
    "bank-1/value/3/3",
    *(f"quality-0/value/{x}" for x in ("confidence", "mean_entropy", "calibration_error")),
}
"""Values of 0.2 that nothing gives any more."""


def outcome(case: str, backend: Framework, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return all values of a case, and the gradients where the backend has them, by name."""
    name, given = CASES[case]
    function = getattr(import_module(HOME[name]), name)
    inputs = {x: backend.array(values) for x, values in arrays.items()}

    def loss(student: Any, by: str) -> Any:
        found = function(**_filled(given, inputs | {by: student}))
        return _total(found[0] if isinstance(found, tuple) else found)

    found = dict(_flat("value", function(**_filled(given, inputs)), backend))
    for by in inputs if backend.name != "numpy" else ():
        if by.startswith("student") and f"'@{by}'" in str(given):
            call = partial(loss, by=by)
            found[f"by {by}"] = backend.value_and_grad(call, arrays[by])[1]
    return found


def _filled(given: Any, inputs: dict[str, Any]) -> Any:
    """Return the arguments with arrays in place of their names."""
    if isinstance(given, str) and given.startswith("@"):
        return inputs[given[1:]]
    if isinstance(given, dict):
        return {name: _filled(x, inputs) for name, x in given.items()}
    if isinstance(given, (list, tuple)):
        return getattr(given, "_make", type(given))([_filled(x, inputs) for x in given])
    return given


def _flat(name: str, found: Any, backend: Framework) -> Iterator[tuple[str, np.ndarray]]:
    found = found._asdict() if hasattr(found, "_asdict") else found
    if isinstance(found, (dict, list, tuple)):
        for part, x in found.items() if isinstance(found, dict) else enumerate(found):
            yield from _flat(f"{name}/{part}", x, backend)
    elif found is not None:
        is_plain = isinstance(found, (np.ndarray, np.generic, int, float))
        values = np.asarray(found) if is_plain else backend.to_numpy(found)
        yield name, np.where(np.isfinite(values), values, -777.0)


def _total(x: Any) -> Any:
    """Return the sum with the weights 1, 2, … along each axis, of an array of any framework."""
    return sum((i + 1) * _total(x[i]) for i in range(x.shape[0])) if len(x.shape) else x


def quality(others: Any, other_labels: Any, where: Any, **judged: Any) -> dict[str, Any]:
    """Count two teachers, merge, forget; return the sums and what is made of them."""
    one = TeacherQuality.from_logits(**judged)
    two = TeacherQuality.empty(4, like=others).update(others, other_labels, where=where)
    two = TeacherQuality(*(x + y for x, y in zip(two, one, strict=True)))
    two = two.update(**judged, decay=0.5)
    found = {x: getattr(two, x) for x, y in vars(TeacherQuality).items() if isinstance(y, property)}
    trust = reliability_weights(**judged, quality=two)
    return found | {"sums": two, "weights": quality_weights([one, two], power=2.0), "trust": trust}


def class_means(teacher_logits: Any, labels: Any, **given: Any) -> Any:
    """Update class means twice."""
    means = ClassMeans.empty(4, like=teacher_logits).update(teacher_logits, labels, **given)
    return means, means.update(teacher_logits[:3], labels[:3]).prototypes


def bank(ready: bool = False, index: Any = None, where: Any = None, **rows: Any) -> Any:
    """Take four steps with a bank of five rows: the losses, the keys, and what the bank holds.

    A bank that is ``ready`` holds probabilities.
    """
    like, is_soft = rows["teacher_logits"], len(rows["labels"].shape) == 2
    stored = TeacherBank.empty(5, 4, like=like, soft_labels=is_soft)
    rows |= {"index": index, "where": where}
    losses = []
    for i in (0, 2, 3, 1):
        part = {name: None if x is None else x[i : i + 3] for name, x in rows.items()}
        student, ids = part.pop("student_logits"), part.pop("index")
        held = part
        if ready:
            ops = backend_for("bank", like)
            held = part | {"teacher_logits": ops.softmax(part["teacher_logits"], 1)}
        keys = stored.keys(**held, index=ids)
        keys = keys._replace(logits=None, probabilities=keys.logits) if ready else keys
        losses.append(mcld_loss(student, **part, keys=keys))
        stored = stored.push(**held, index=ids)
    held = [stored.where, stored.ids, stored.cursor] + [stored.class_means()] * (not ready)
    return sum(losses), losses, keys, held


def resumed(student_logits: Any, teacher_logits: Any, labels: Any) -> list[Any]:
    """Return the losses of four steps of torch's module; a new one goes on after two."""
    kind = import_module(HOME["MCLDLoss"]).MCLDLoss
    modules, losses = [kind(total_steps=8, bank_size=5, classes=4) for _ in range(2)], []
    for i, module in ((0, 0), (2, 0), (3, 1), (1, 1)):
        if i == 3:
            modules[1].load_state_dict(modules[0].state_dict())
        rows = (x[i : i + 3] for x in (student_logits, teacher_logits, labels))
        losses.append(modules[module](*rows))
        modules[module].step()
    return losses[0] + losses[3], losses


def exported(inputs: Any, weight: Any, bias: Any) -> list[Any]:
    """Return what onnxruntime computes of a linear student's file."""
    import onnxruntime
    import torch

    student, found = torch.nn.Linear(4, 4), []
    student.load_state_dict({"weight": weight.T, "bias": bias})
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/student.onnx"
        mcld_core.export_onnx(student, path, input_shape=(4,))
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found += session.run(["logits"], {"input": inputs.numpy().astype("float32")})
    return found
