"""Many methods and seeds, tuned alike, from one teacher: tables, pictures and a report.

    python -m benchmarks.comparison --dataset digits
    python -m benchmarks.comparison --dataset cifar100 --data-dir DIR --seeds 0 1 2 --trials 8
    python -m benchmarks.comparison --script jax_cifar100 --methods ce kd kd:temperature=1 mcld
    python -m benchmarks.comparison --dataset digits --preset ablation --seeds 0 1 2

It calls the training function of one of the scripts in examples/, whose options it takes too. The
parts: `trainings` (what is trained, and in which folder), `tables`, `pictures`, `report`,
`transfer` (a linear probe of the students on another data set).
"""
