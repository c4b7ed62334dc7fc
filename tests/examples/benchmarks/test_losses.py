"""The losses that tables name: each is the sum that its text says."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks.losses import loss_of, settings_of
from mcld_core import category_wise, dkd_loss, instance_wise, kd_loss, nkd_loss, sample_wise

ROWS = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
S, T, Y = ROWS[0], ROWS[1], torch.tensor([0, 0, 0, 1, 1, 2])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kd:temperature=2,weight=0.3,weight_ce=0", "0.3 * kd"),
        ("dkd:weight=2,beta=3,warmup=0.6", "ce + dkd"),  # half of the ramp
        ("nkd:weight=0.5", "ce + nkd / 2"),
        ("sample:weight_sample=0.5", "ce + sample / 2"),
        ("mcld:weight_sample=0.5", "instance + 0.3 * category + sample / 2"),
        ("mcld-ce:weight_instance=2,category_warmup=0", "ce + 2 * instance + category + sample/4"),
    ],
)
def test_a_text_is_the_loss_that_it_names(text: str, expected: str) -> None:
    parts = {
        "ce": cross_entropy(S, Y),
        "kd": kd_loss(S, T, temperature=2.0),
        "dkd": dkd_loss(S, T, Y, alpha=1.0, beta=3.0, temperature=4.0),
        "nkd": nkd_loss(S, T, Y),
        "instance": instance_wise(S, T, Y),
        "category": category_wise(S, T, Y),
        "sample": sample_wise(S, T, Y),
    }
    torch.testing.assert_close(loss_of(text)(S, T, Y, 0.3), eval(expected, parts))


@pytest.mark.parametrize("text", ["kdd", "kd:beta=1", "ce:weight=1", "mcld:weight_samples=1"])
def test_an_unknown_word_is_named_with_those_that_are_known(text: str) -> None:
    with pytest.raises(ValueError, match=r"known: ce|has the settings"):
        settings_of(text)
