"""`token_mcld_loss` on the cases of sequences, and what it should give."""

from __future__ import annotations

from typing import Any

from mcld_core.extensions.nlp import token_mcld_loss
from tests.extensions import oracles
from tests.extensions.cases import SequenceCase, call
from tests.frameworks import Framework

EVERY_CONTRAST: dict[str, Any] = {"token_contrast": None, "sequence_contrast": 1.0}
SCALE = 10.0  # no |S| of these cases is larger


def bind(
    backend: Framework,
    case: SequenceCase,
    dtype: str = "float64",
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Return student → loss, with all arrays of the case and every contrast."""
    given_arrays = {"labels": case.labels, "attention_mask": case.mask}
    given_arrays |= {"sequence_labels": case.groups, **EVERY_CONTRAST}
    return call(backend, token_mcld_loss, case, dtype, settings, **(given_arrays | options))


def expected(case: SequenceCase, settings: dict[str, Any], **options: Any) -> dict[str, float]:
    """Return the loss and its terms by the oracle in loops."""
    given = {"labels": case.labels, "sequence_labels": case.groups, **EVERY_CONTRAST}
    options = given | options
    part = options.pop("sequence_contrast")
    settings = settings | {"weight_instance": settings.get("weight_instance", 1.0) * part}
    by_sequence = options.pop("category", "token") == "sequence"
    return oracles.token_terms(
        case.student, case.teacher, mask=case.mask, by_sequence=by_sequence, **options, **settings
    )
