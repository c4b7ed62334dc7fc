"""Every check and conversion of arguments: what each public function does first.

`Checks` knows the function's name and looks at settings; `Arguments` knows the backend too and
looks at arrays. Each error says which argument, what came, and what to do. Values of arrays are
read only where that costs no wait for a device: eager, on the CPU (``ops.host_values``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mcld_core.backends import Backend, backend_for
from mcld_core.typing import Array, Bool, Float, Int, Reduction, Scalar

REDUCTIONS = ("mean", "sum", "none")


class Batch(NamedTuple):
    """The rows of a batch; the logits as they came, all else in the dtype computed in."""

    student: Float[Array, "batch classes"]
    teacher: Float[Array, "batch classes"]
    dtype: str
    """float64 for a float64 student, else float32."""
    labels: Int[Array, " batch"] | Float[Array, "batch classes"] | None
    """Int labels are -1 where they name no class; None where the loss needs none."""
    kept: Bool[Array, " batch"] | None
    """Which rows count; None where all do."""
    weight: Float[Array, " batch"] | None
    """``sample_weight`` times kept; None where every row weighs 1."""


class TeacherBatch(NamedTuple):
    """A teacher's rows where there is no student: for a bank, or for other replicas."""

    logits: Float[Array, "batch classes"]
    labels: Int[Array, " batch"] | Float[Array, "batch classes"] | None
    """int32 as they came, or soft in float32 or float64."""
    kept: Bool[Array, " batch"]
    weight: Float[Array, " batch"]
    """``sample_weight`` times kept, in float64 where an argument is, else float32."""


class Checks:
    """The settings of one call; its errors name the function."""

    def __init__(self, function: str) -> None:
        self.function = function

    def number(
        self,
        name: str,
        value: Any,
        *,
        minimum: float | None = None,
        above: float | None = None,
        maximum: float | None = None,
    ) -> None:
        """Raise for a number out of its range or not finite, and for what is not one number.

        An array without axes passes: it may be traced. `Arguments.scalar` reads it where it can.
        """
        value = plain_number(value)
        bound = _bound(minimum, above, maximum)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            low = value >= minimum if minimum is not None else above is None or value > above
            high = maximum is None or value <= maximum
            # math.isfinite would make a compiler trace each number anew
            if not (-math.inf < value < math.inf and low and high):
                raise ValueError(
                    f"{self.function}: {name} needs a finite number{bound}; got {value!r}"
                )
        elif not (hasattr(value, "shape") and hasattr(value, "dtype")):
            raise TypeError(f"{self.function}: {name} needs a finite number{bound}; got {value!r}")
        elif len(value.shape) > 0:
            raise ValueError(
                f"{self.function}: {name} needs one number; got shape {tuple(value.shape)}"
            )
        elif "complex" in str(value.dtype) or "bool" in str(value.dtype):
            raise TypeError(
                f"{self.function}: {name} needs a real number{bound}; got dtype {value.dtype}"
            )

    def choice(self, name: str, value: Any, choices: tuple[str, ...]) -> None:
        """Raise ValueError for a name that is none of the choices."""
        if not isinstance(value, str) or value not in choices:
            raise ValueError(
                f"{self.function}: {name} needs one of {', '.join(choices)}; got {value!r}"
            )

    def flag(self, name: str, value: Any) -> None:
        """Raise TypeError unless the value is a bool."""
        if not isinstance(value, bool):
            raise TypeError(f"{self.function}: {name} needs True or False; got {value!r}")

    def integer(self, name: str, value: Any, *, minimum: int | None = None) -> None:
        """Raise TypeError unless the value is an int, ValueError where it is too small."""
        bound = "" if minimum is None else f" ≥ {minimum}"
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{self.function}: {name} needs an int{bound}; got {value!r}")
        if minimum is not None and value < minimum:
            raise ValueError(f"{self.function}: {name} needs an int{bound}; got {value!r}")

    def reduction(self, reduction: Any) -> None:
        """Raise ValueError unless the reduction is one of the three."""
        if not isinstance(reduction, str) or reduction not in REDUCTIONS:
            raise ValueError(
                f"{self.function}: reduction needs one of 'mean', 'sum', 'none'; got {reduction!r}"
            )


class Arguments(Checks):
    """The arrays of one call, checked and converted.

    Args:
        function: the name that errors give.
        values: what decides the backend: the tensors among them; None counts for nothing.
    """

    def __init__(self, function: str, *values: Any) -> None:
        super().__init__(function)
        self.ops: Backend = backend_for(function, *values)
        self.like: Array | None = next(
            (x for x in values if x is not None and self.ops.is_tensor(x)), None
        )
        """The first tensor of the values: a plain array becomes a tensor on its device."""

    def array(self, name: str, value: Any, like: Array | None = None) -> Array:
        """Return an array of real numbers or bools, converted.

        Raises:
            ValueError, TypeError: None, a text, a dict and whatever else is not such an array.
        """
        needs = f"{self.function}: {name} needs an array of numbers"
        is_text = isinstance(value, (str, bytes))
        if is_text or not (hasattr(value, "shape") or isinstance(value, (Sequence, int, float))):
            came = repr(value) if value is None or is_text else type(value).__name__
            raise TypeError(f"{needs}; got {came}")
        try:
            found = self.ops.asarray(value, like)
        except ValueError as error:
            raise ValueError(f"{needs}: {error}") from error
        except TypeError as error:
            raise TypeError(f"{needs}: {error}") from error
        dtype = self.ops.dtype(found)
        if not dtype.startswith(("float", "bfloat", "int", "uint", "bool")):
            raise TypeError(f"{needs}, real ones; got dtype {dtype}")
        return found

    # one number

    def scalar(
        self,
        name: str,
        value: Scalar,
        like: Array,
        dtype: str,
        *,
        above: float | None = None,
        maximum: float | None = None,
    ) -> Float[Array, ""]:
        """Return one number ≥ 0 (or above ``above``) as ``dtype`` on ``like``'s device.

        Raises where it is not in its range; an array that cannot be read is not checked.
        """
        minimum = 0.0 if above is None else None
        self.number(name, value, minimum=minimum, above=above, maximum=maximum)
        array = self.ops.asarray(plain_number(value), like)
        if not isinstance(value, (int, float)):
            values = self.ops.host_values(array)
            if values is not None:
                self.number(name, float(values), minimum=minimum, above=above, maximum=maximum)
        return self.ops.astype(array, dtype)

    # logits

    def logits(self, name: str, x: Array) -> None:
        """Raise unless ``x`` has two axes and a float dtype."""
        if len(x.shape) != 2:
            raise ValueError(
                f"{self.function}: {name} needs two axes (batch, classes); got shape "
                f"{tuple(x.shape)}. Flatten positions into rows first"
            )
        if "float" not in self.ops.dtype(x):
            raise TypeError(
                f"{self.function}: {name} needs a float dtype; got {self.ops.dtype(x)}. "
                "Pass logits, not labels or token ids"
            )

    def tensors(self, student_logits: Any, teacher_logits: Any) -> tuple[Array, Array]:
        """Convert both logits, each beside the other where only that one is a tensor."""
        ops = self.ops
        like = teacher_logits if ops.is_tensor(teacher_logits) else None
        student = self.array("student_logits", student_logits, like)
        return student, self.array("teacher_logits", teacher_logits, student)

    def pair(self, student_logits: Any, teacher_logits: Any) -> tuple[Array, Array]:
        """Return both logits, converted; raise unless they are float rows of the same classes."""
        student, teacher = self.tensors(student_logits, teacher_logits)
        self.logits("student_logits", student)
        self.logits("teacher_logits", teacher)
        ours, theirs = tuple(student.shape), tuple(teacher.shape)
        if ours[1] is None or differ(ours[1], theirs[1]):
            raise ValueError(
                f"{self.function}: student_logits and teacher_logits need the same number of "
                f"classes, known when traced; got {ours} and {theirs}. Map the teacher's classes "
                "first: mcld_core.select_classes"
            )
        if ours[1] == 0:
            raise ValueError(
                f"{self.function}: student_logits needs at least one class; got shape {ours}"
            )
        if differ(ours[0], theirs[0]):
            raise ValueError(
                f"{self.function}: student_logits and teacher_logits need the same batch size; "
                f"got {ours} and {theirs}. More teacher rows to contrast with go into keys="
            )
        self.device("teacher_logits", teacher, student)
        return student, teacher

    def batch(
        self,
        student_logits: Any,
        teacher_logits: Any,
        labels: Any,
        *,
        sample_weight: Any,
        where: Any,
        ignore_index: int | None,
    ) -> Batch:
        """Return the arguments that all losses share, checked and converted.

        With ``ignore_index=None`` the loss needs no labels, and has none.
        """
        ops = self.ops
        student, teacher = self.pair(student_logits, teacher_logits)
        kept = None if where is None else self.mask("where", where, student.shape[0], student)
        dtype = wide_dtype(ops.dtype(student))
        teacher = ops.stop_gradient(teacher)
        if ignore_index is None:
            labels = None
        elif labels is None:
            labels = ops.argmax(teacher, 1)
        else:
            labels, counts = self.labels("labels", labels, student, dtype, kept, ignore_index)
            if labels.ndim == 2:
                labels = keep_rows(ops, labels, kept)
            else:
                kept = self.unless_all(counts if kept is None else kept & counts)
        weight = None if kept is None else ops.astype(kept, dtype)
        if sample_weight is not None:
            weight = self.weight(sample_weight, kept, student, dtype)
        return Batch(student, teacher, dtype, labels, kept, weight)

    def teacher_batch(
        self,
        name: str,
        logits: Float[Array, "batch classes"],
        labels: Any,
        *,
        sample_weight: Any,
        where: Any,
        ignore_index: int,
    ) -> TeacherBatch:
        """Return a teacher's rows with what comes beside them; ``name`` is that of the logits."""
        ops = self.ops
        self.logits(name, logits)
        rows, classes = logits.shape
        kept = ops.arange(ops.size(logits, 0), logits) >= 0
        if where is not None:
            kept = self.mask("where", where, rows, logits, name)
        dtype = wide_dtype(ops.dtype(logits))
        if labels is not None:
            labels = self.array("labels", labels, logits)
            kind = self.label_kind("labels", labels, rows, classes)
            self.device("labels", labels, logits, name)
            self.label_values("labels", labels, kept, classes, ignore_index)
            if kind == "soft":
                labels = ops.astype(labels, wide_dtype(dtype, ops.dtype(labels)))
                labels = ops.stop_gradient(labels)
            else:
                labels = signed(ops, labels)
                kept = kept & (labels != ignore_index)
                limits = np.iinfo("int32")
                labels = ops.minimum(ops.maximum(labels, limits.min), limits.max)
                labels = ops.astype(labels, "int32")
        if sample_weight is None:
            weight = ops.astype(kept, wide_dtype(dtype))
        else:
            weight = self.array("sample_weight", sample_weight, logits)
            dtype = wide_dtype(dtype, ops.dtype(weight))
            weight = self.weight(weight, kept, logits, dtype, name)
        return TeacherBatch(ops.stop_gradient(logits), labels, kept, weight)

    # what comes beside the logits

    def vector(self, name: str, x: Array, rows: Any) -> None:
        """Raise ValueError unless ``x`` has one axis with one entry a row."""
        shape = tuple(x.shape)
        if len(shape) != 1 or differ(shape[0], rows):
            raise ValueError(
                f"{self.function}: {name} needs shape ({rows},), one entry a row of the logits; "
                f"got {shape}"
            )

    def device(self, name: str, x: Array, other: Array, other_name: str = "student_logits") -> None:
        """Raise ValueError where two tensors lie on different devices."""
        here, there = self.ops.device(other), self.ops.device(x)
        if here != there:
            raise ValueError(
                f"{self.function}: {name} is on {there} and {other_name} on {here}; "
                "move one of them (no tensor is moved for you)"
            )

    def mask(
        self, name: str, where: Any, rows: Any, like: Array, like_name: str = "student_logits"
    ) -> Bool[Array, " rows"]:
        """Return a mask of rows, converted; raise for another shape, dtype or device."""
        kept = self.array(name, where, like)
        self.vector(name, kept, rows)
        if self.ops.dtype(kept) != "bool":
            raise TypeError(
                f"{self.function}: {name} needs dtype bool (True = keep); got "
                f"{self.ops.dtype(kept)}"
            )
        self.device(name, kept, like, like_name)
        return kept

    def weight(
        self,
        sample_weight: Any,
        kept: Array | None,
        like: Array,
        dtype: str,
        like_name: str = "student_logits",
    ) -> Float[Array, " rows"]:
        """Return ``sample_weight`` times kept; raise where shape, device or values do not fit."""
        ops = self.ops
        weight = self.array("sample_weight", sample_weight, like)
        self.vector("sample_weight", weight, like.shape[0])
        self.device("sample_weight", weight, like, like_name)
        self.finite("sample_weight", weight, kept, minimum=0.0)
        weight = ops.stop_gradient(ops.astype(weight, dtype))
        return weight if kept is None else ops.where(kept, weight, 0.0)

    def finite(
        self,
        name: str,
        x: Float[Array, " rows"],
        kept: Bool[Array, " rows"] | None,
        *,
        minimum: float | None = None,
    ) -> None:
        """Raise for a kept row's number that is not finite or too small, where it can be read."""
        values = self.ops.host_values(x)
        mask = None if kept is None else self.ops.host_values(kept)
        if values is None or (kept is not None and mask is None):
            return
        bad = ~np.isfinite(values)
        bad = bad if minimum is None else bad | (values < minimum)
        bad = bad if mask is None else bad & mask
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{self.function}: {name} needs finite numbers{_bound(minimum, None, None)}; got "
                f"{values[row]} in row {row}"
            )

    def ids(self, name: str, ids: Any, logits: Array, single: bool = False) -> Int[Array, " batch"]:
        """Return ids or places, one a row, signed: int64 where they come so, else int32.

        They are only compared. ``single``: one number for all rows will do.

        Raises:
            ValueError, TypeError: another shape, dtype or device, or numbers beyond 32 bits where
                the framework has no more.
        """
        ops = self.ops
        found = self.array(name, ids, logits)
        if not single or len(found.shape):
            self.vector(name, found, logits.shape[0])
        self.device(name, found, logits)
        dtype = ops.dtype(found)
        if not dtype.startswith(("int", "uint")):
            raise TypeError(f"{self.function}: {name} needs an integer dtype; got {dtype}")
        values = ops.host_values(found) if ops.is_tensor(ids) else np.asarray(ids)
        found = ops.astype(found, "int64" if dtype in ("int64", "uint32", "uint64") else "int32")
        if values is not None and values.size:
            limits, lowest, highest = np.iinfo(ops.dtype(found)), values.min(), values.max()
            if lowest < limits.min or highest > limits.max:
                raise ValueError(
                    f"{self.function}: {name} needs numbers of {limits.bits} bits here; got "
                    f"{lowest} … {highest}. Number them anew, or have JAX use 64 bits "
                    "(jax_enable_x64)"
                )
        return found

    def log_prior(
        self, class_prior: Any, classes: int, like: Array, dtype: str
    ) -> Float[Array, " classes"]:
        """Return ``log π`` of counts or probabilities; a class without any counts half the least.

        Raises:
            ValueError: another length; negative, infinite or NaN; all zero (where values can be
                read).
        """
        ops = self.ops
        prior = ops.stop_gradient(ops.astype(self.array("class_prior", class_prior, like), dtype))
        if tuple(prior.shape) != (classes,):
            raise ValueError(
                f"{self.function}: class_prior needs shape ({classes},), one count or probability "
                f"a class; got {tuple(prior.shape)}"
            )
        self.device("class_prior", prior, like)
        values = ops.host_values(prior)
        if values is not None:
            bad = ~((values >= 0) & np.isfinite(values))
            if bad.any():
                c = int(np.argmax(bad))
                raise ValueError(
                    f"{self.function}: class_prior needs finite numbers ≥ 0; got {values[c]} for "
                    f"class {c}"
                )
            if not (values > 0).any():
                raise ValueError(
                    f"{self.function}: class_prior needs a positive entry; got zeros alone. Pass "
                    "the counts of the training labels"
                )
        present = prior > 0
        least = -ops.max(ops.where(present, -prior, -float(np.finfo(dtype).max)), 0)
        counts = ops.where(present, prior, 0.5 * least)
        return ops.log(counts) - ops.log(ops.sum(counts, None))

    # labels

    def label_kind(self, name: str, labels: Array, rows: Any, classes: int) -> str:
        """Return ``"int"`` or ``"soft"``; raise where shape and dtype are neither."""
        shape, dtype = tuple(labels.shape), self.ops.dtype(labels)
        is_integer = dtype.startswith(("int", "uint"))
        if len(shape) == 1:
            if not is_integer:
                raise TypeError(
                    f"{self.function}: {name} of shape {shape} need an integer dtype; got "
                    f"{dtype}. Soft labels have shape (rows, classes) = ({rows}, {classes})"
                )
            self.vector(name, labels, rows)
            return "int"
        if len(shape) != 2 or differ(shape[0], rows) or differ(shape[1], classes):
            raise ValueError(
                f"{self.function}: {name} need shape ({rows},) for int labels or "
                f"({rows}, {classes}) for soft labels; got {shape}"
            )
        return "soft"

    def labels(
        self,
        name: str,
        labels: Any,
        logits: Array,
        dtype: str,
        kept: Array | None,
        ignore_index: int,
    ) -> tuple[Array, Array | None]:
        """Return the labels of logits, and for int labels which rows are not ``ignore_index``.

        Int labels become int32, -1 where they name no class; soft labels take ``dtype``.
        """
        ops = self.ops
        rows, classes = logits.shape
        labels = self.array(name, labels, logits)
        kind = self.label_kind(name, labels, rows, classes)
        self.device(name, labels, logits)
        self.label_values(name, labels, kept, classes, ignore_index)
        if kind == "soft":
            return ops.stop_gradient(ops.astype(labels, dtype)), None
        return class_labels(ops, labels, classes, ignore_index)

    def label_values(
        self, name: str, labels: Array, kept: Array | None, classes: int, ignore_index: int
    ) -> None:
        """Raise ValueError for labels that name no class, where their values can be read."""
        values = self.ops.host_values(labels)
        mask = None if kept is None else self.ops.host_values(kept)
        if values is None or values.size == 0 or (kept is not None and mask is None):
            return
        if values.ndim == 1:
            if mask is None and values.min() >= 0 and values.max() < classes:
                return
            bad = ((values < 0) | (values >= classes)) & (values != ignore_index)
            wrong = f"needs labels in 0 … {classes - 1} or ignore_index {ignore_index}"
        else:
            values = np.asarray(values, "float64")
            total = values.sum(1)
            bad = ~((values >= 0).all(1) & (np.abs(total - 1.0) <= 1e-2))
            wrong = "needs soft labels that are ≥ 0 and sum to 1 in each row"
        if mask is not None:
            bad = bad & mask
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(f"{self.function}: {name} {wrong}; got {values[row]} in row {row}")

    def unless_all(self, kept: Bool[Array, " rows"]) -> Bool[Array, " rows"] | None:
        """Return None where all rows are seen to be kept, which saves masking them."""
        values = self.ops.host_values(kept)
        return None if values is not None and values.all() else kept


def _bound(minimum: float | None, above: float | None, maximum: float | None) -> str:
    """Return the range of a number, as its errors say it."""
    if maximum is not None and minimum is not None:
        return f" in {minimum:g} … {maximum:g}"
    bound = "" if above is None else f" > {above:g}"
    bound = bound if minimum is None else f" ≥ {minimum:g}"
    return bound if maximum is None else f"{bound} and ≤ {maximum:g}"


def plain_number(value: Any) -> Any:
    """Return a number of NumPy, or an array of one without axes, as Python's; all else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def is_number(value: Any) -> bool:
    """Whether a value is a number of Python (or NumPy's float64, which is one)."""
    return isinstance(value, (int, float))


def differ(ours: Any, theirs: Any) -> bool:
    """Whether two sizes differ; an unknown size (None) differs from nothing."""
    return ours is not None and theirs is not None and ours != theirs


def fits(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Whether two shapes may be one; a size that TensorFlow does not know fits any."""
    return len(ours) == len(theirs) and not any(map(differ, ours, theirs))


def wide_dtype(*dtypes: str) -> str:
    """Return float64 if one of the dtypes is float64, else float32."""
    return "float64" if "float64" in dtypes else "float32"


def signed(ops: Backend, labels: Array) -> Array:
    """Return int labels in a signed dtype that holds them: a uint8 156 is -100 to some."""
    dtype = ops.dtype(labels)
    if dtype in ("int32", "int64"):
        return labels
    return ops.astype(labels, "int64" if dtype == "uint64" else "int32")


def class_labels(
    ops: Backend, labels: Int[Array, " rows"], classes: int, ignore_index: int
) -> tuple[Int[Array, " rows"], Bool[Array, " rows"]]:
    """Return int labels as int32, -1 where they name no class, and which are not ignored.

    The classes are told apart before the cast, in which 2**32 + 1 would become 1.
    """
    labels = signed(ops, labels)
    named = ops.where((labels >= 0) & (labels < classes), labels, -1)
    return ops.astype(named, "int32"), labels != ignore_index


def keep_rows(ops: Backend, x: Array, kept: Bool[Array, " rows"] | None = None) -> Array:
    """Return ``x`` with zeros in the rows that do not count, so that their content cannot."""
    return x if kept is None else ops.where(kept[:, None], x, 0.0)


def reduce_rows(
    ops: Backend,
    values: Float[Array, " batch"],
    batch: Batch,
    reduction: Reduction,
    normalizer: Array | None = None,
) -> Array:
    """Reduce one value a row: v L ("none"), Σ v L ("sum"), Σ v L / Σ v ("mean"; 0 if none)."""
    weight = batch.weight
    if weight is not None:
        values = values * weight
    if reduction == "none":
        return values
    total = ops.sum(values, None)
    if reduction == "sum":
        return total
    if normalizer is None:
        normalizer = ops.size(values, 0) if weight is None else ops.sum(weight, None)
        if isinstance(normalizer, int):
            return total / max(normalizer, 1)
    normalizer = ops.astype(ops.asarray(normalizer, values), batch.dtype)
    positive = normalizer > 0
    return ops.where(positive, total / ops.where(positive, normalizer, 1.0), 0.0)
