# What the rules share.


CELL = "{model}/{dataset}/{method}/seed{seed}"


def trained_weights(kind):
    """The folder of a run's trained weights; if not all are kept, it is removed once it is evaluated."""
    weights = directory(study.trained(kind, CELL))
    return weights if study.keeps_all else temp(weights)


def weights_to_evaluate(wildcards):
    """A trained run's; the base model as it is has none."""
    kind = study.kind(wildcards.method)
    return [] if kind == "vanilla" else study.trained(kind, CELL)


def asked(stage):
    """What a job asks of a scheduler (the study's `resources`), under Snakemake's names; never a reason to run again."""
    job = getattr(study.resources, stage)
    on_gpu = study.compute.device == "cuda" and stage != "other"
    found = {"mem_mb": job.memory_mb, "runtime": job.minutes, "gpu": int(on_gpu)}
    # Slurm starts one task on each node, and that one starts its processes (stages/launch.py).
    found["tasks_per_gpu"] = 0
    if stage != "other":
        memory = study.resources.memory.model_dump(exclude={"gpu_mb"})
        found |= {name: int(value) for name, value in memory.items()}
    if stage == "rl":
        found["largest_gap"] = str(study.collector.largest_gap)
    if stage not in ("sft", "rl"):
        return found
    on_a_node = job.processes // job.nodes
    found |= {
        "nodes": job.nodes,
        "processes": job.processes,
        "sharded": int(job.sharded),
        "save_every": job.save_every,
        "gpu": job.processes if on_gpu else 0,
        "cpus_per_task": study.compute.threads * on_a_node,
    }
    if job.nodes > 1:
        # `mpi`: the rule calls srun itself. A number of GPUs is of all nodes together, so `gres` divides them evenly.
        found |= {"mpi": "srun", "tasks": job.nodes}
        found |= {"gres": f"gpu:{on_a_node}"} if on_gpu else {}
    return found
