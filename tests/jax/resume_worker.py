"""Train with a bank, save each step by orbax, and die without warning where asked to.

Run by test_resume.py: ``python -m tests.jax.resume_worker FOLDER STEPS [KILL_AFTER]``.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

from mcld_core import TeacherBank, mcld_loss

optimizer = optax.adam(1e-2)


@partial(jax.jit, donate_argnums=0)
def step(state: dict, number: int) -> tuple[dict, jax.Array]:
    """Train on the batch of this number."""
    inputs = jax.random.normal(jax.random.key(number), (8, 6), "float32")
    teacher = inputs @ jax.random.normal(jax.random.key(99), (6, 4), "float32")
    labels = teacher.argmax(1)
    keys = state["bank"].keys(teacher, labels)

    def objective(params: jax.Array) -> jax.Array:
        return mcld_loss(inputs @ params, teacher, labels, keys=keys)

    loss, gradient = jax.value_and_grad(objective)(state["params"])
    updates, moments = optimizer.update(gradient, state["moments"])
    params = optax.apply_updates(state["params"], updates)
    bank = state["bank"].push(teacher, labels)
    return {"params": params, "moments": moments, "bank": bank}, loss


def train(folder: Path, steps: int, kill_after: int | None = None) -> list[str]:
    """Train on from the last checkpoint in the folder; return the losses, exactly."""
    params = jnp.zeros((6, 4), "float32")
    bank = TeacherBank.empty(capacity=20, classes=4, like=params.astype("bfloat16"))
    state = {"params": params, "moments": optimizer.init(params), "bank": bank}
    losses = []
    with ocp.StandardCheckpointer() as checkpointer:
        done = max((int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=0)
        if done:
            state = checkpointer.restore(folder / str(done), state)
        for number in range(done, steps):
            state, loss = step(state, number)
            losses.append(float(loss).hex())
            checkpointer.save(folder / str(number + 1), state)
            checkpointer.wait_until_finished()
            if number + 1 == kill_after:
                print(*losses, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
    return losses


if __name__ == "__main__":
    print(*train(Path(sys.argv[1]), *map(int, sys.argv[2:])))
