"""Records numpy's least-squares weights for vectors like those of a jump: the weights that a calibrated plan should have.

    python crates/cache/tests/make_least_squares.py > crates/cache/tests/least_squares.json

Needs numpy only. Ridge least squares is plain least squares with one more row for each weight: sqrt(ridge) times the weight
should be 0. numpy.linalg.lstsq gets the vectors themselves; the program under test gets only their scalar products.
"""

import json

import numpy as np

RIDGE = 1e-6
RUNS, LENGTH = 3, 16


def problem(rng, velocities, spread):
    """Velocities of neighbouring steps, `spread` apart, latents, and a target displacement near their span."""
    terms = velocities + 1
    first = rng.standard_normal((RUNS, 1, LENGTH))
    near = first + spread * rng.standard_normal((RUNS, velocities, LENGTH)).cumsum(axis=1)
    vectors = np.concatenate([near, 0.5 * first + rng.standard_normal((RUNS, 1, LENGTH))], axis=1)
    mix = rng.standard_normal(terms)
    way = np.einsum("t,rtl->rl", mix, vectors) + 0.1 * rng.standard_normal((RUNS, LENGTH))
    columns = vectors.transpose(1, 0, 2).reshape(terms, -1).T
    ridge = RIDGE * (columns**2).sum() / terms
    system = np.concatenate([columns, np.sqrt(ridge) * np.eye(terms)])
    weights = np.linalg.lstsq(system, np.concatenate([way.reshape(-1), np.zeros(terms)]), rcond=None)[0]
    every = np.concatenate([vectors, way[:, None]], axis=1)
    return {"products": np.einsum("ril,rjl->rij", every, every).tolist(), "weights": weights.tolist()}


rng = np.random.default_rng(16)
cases = [problem(rng, velocities, spread) for velocities in (1, 2, 3) for spread in (1.0, 0.1, 0.01, 0.001)]
print(json.dumps(cases))
