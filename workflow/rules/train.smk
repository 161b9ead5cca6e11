# The two ways to train, from the same base, on the same problems, for the same number of epochs.


rule sft:
    input:
        data="results/data/{dataset}/train.jsonl",
        base="results/base/{model}/base.json",
        preflight="results/preflight/{model}/{dataset}/preflight.json",
    output:
        run="results/sft/{model}/{dataset}/{method}/seed{seed}/run.json",
        updates="results/sft/{model}/{dataset}/{method}/seed{seed}/updates.jsonl",
        provenance="results/sft/{model}/{dataset}/{method}/seed{seed}/provenance.json",
        weights=trained_weights("sft"),
    log:
        "logs/sft/{model}/{dataset}/{method}/seed{seed}.log",
    benchmark:
        "logs/benchmarks/sft/{model}/{dataset}/{method}/seed{seed}.tsv"
    conda:
        "../../envs/study.yaml"
    threads: study.compute.threads * study.resources.sft.processes
    resources:
        **asked("sft"),
    params:
        run=lambda w: study.sft_run(
            w.model, w.dataset, w.method, int(w.seed)
        ).canonical_json(),
        code=results_digest("stages.sft.train"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.launch --nodes {resources.nodes}"
        " --processes {resources.processes} --gpus {resources.gpu} stages.sft.train {output.run}"
        " --sharded {resources.sharded} --save-every {resources.save_every}"
        " --activation-checkpointing {resources.activation_checkpointing}"
        " --feature-memory-mb {resources.feature_memory_mb} --feature-disk-mb {resources.feature_disk_mb}"
        " > {log} 2>&1"


rule rl:
    input:
        data="results/data/{dataset}/train.jsonl",
        base="results/base/{model}/base.json",
        preflight="results/preflight/{model}/{dataset}/preflight.json",
    output:
        run="results/rl/{model}/{dataset}/{method}/seed{seed}/run.json",
        responses="results/rl/{model}/{dataset}/{method}/seed{seed}/responses.jsonl",
        updates="results/rl/{model}/{dataset}/{method}/seed{seed}/updates.jsonl",
        provenance="results/rl/{model}/{dataset}/{method}/seed{seed}/provenance.json",
        weights=trained_weights("rl"),
    log:
        "logs/rl/{model}/{dataset}/{method}/seed{seed}.log",
    benchmark:
        "logs/benchmarks/rl/{model}/{dataset}/{method}/seed{seed}.tsv"
    conda:
        "../../envs/study.yaml"
    threads: study.compute.threads * study.resources.rl.processes
    resources:
        **asked("rl"),
    params:
        run=lambda w: study.rl_run(
            w.model, w.dataset, w.method, int(w.seed)
        ).canonical_json(),
        # A corrected judge trains nothing again; who wants the new reward too forces it (--forcerun rl).
        code=results_digest("stages.rl.train"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.launch --nodes {resources.nodes}"
        " --processes {resources.processes} --gpus {resources.gpu} stages.rl.train {output.run}"
        " --sharded {resources.sharded} --save-every {resources.save_every}"
        " --activation-checkpointing {resources.activation_checkpointing}"
        " --offload-reference {resources.offload_reference} --kv-cache-mb {resources.kv_cache_mb}"
        " --largest-gap {resources.largest_gap}"
        " --feature-memory-mb {resources.feature_memory_mb} --feature-disk-mb {resources.feature_disk_mb}"
        " > {log} 2>&1"
