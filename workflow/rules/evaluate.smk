# Every kept epoch of every run answers the validation and the test problems; then the answers are counted.


rule evaluate:
    input:
        data=expand(
            "results/data/{{dataset}}/{split}.jsonl", split=study.evaluate.splits
        ),
        base="results/base/{model}/base.json",
        preflight="results/preflight/{model}/{dataset}/preflight.json",
        weights=trained_weights,
    output:
        run="results/evaluate/{model}/{dataset}/{method}/seed{seed}/run.json",
        responses="results/evaluate/{model}/{dataset}/{method}/seed{seed}/responses.jsonl",
        provenance="results/evaluate/{model}/{dataset}/{method}/seed{seed}/provenance.json",
    log:
        "logs/evaluate/{model}/{dataset}/{method}/seed{seed}.log",
    benchmark:
        "logs/benchmarks/evaluate/{model}/{dataset}/{method}/seed{seed}.tsv"
    conda:
        "../../envs/study.yaml"
    threads: study.compute.threads
    resources:
        mem_mb=study.resources.memory_mb,
    params:
        run=lambda w: study.evaluate_run(
            w.model, w.dataset, w.method, int(w.seed)
        ).canonical_json(),
        code=code_digest("stages.evaluation.evaluate"),
    shell:
        "echo {params.run:q} > {output.run}; python -m stages.evaluation.evaluate {output.run} > {log} 2>&1"


rule judge:
    input:
        "results/evaluate/{model}/{dataset}/{method}/seed{seed}/responses.jsonl",
    output:
        run="results/judge/{model}/{dataset}/{method}/seed{seed}/run.json",
        verdicts="results/judge/{model}/{dataset}/{method}/seed{seed}/verdicts.jsonl",
    log:
        "logs/judge/{model}/{dataset}/{method}/seed{seed}.log",
    benchmark:
        "logs/benchmarks/judge/{model}/{dataset}/{method}/seed{seed}.tsv"
    conda:
        "../../envs/study.yaml"
    threads: study.compute.threads
    resources:
        mem_mb=study.resources.memory_mb,
    params:
        run=lambda w: study.judge_run(
            w.model, w.dataset, w.method, int(w.seed)
        ).canonical_json(),
        code=code_digest("stages.evaluation.judge"),
    shell:
        "echo {params.run:q} > {output.run}; python -m stages.evaluation.judge {output.run} > {log} 2>&1"


rule scores:
    input:
        trained=expand("results/rl/{cell}/responses.jsonl", cell=study.cells(["rl"])),
        updates=expand("results/rl/{cell}/updates.jsonl", cell=study.cells(["rl"])),
        evaluated=expand(
            "results/evaluate/{cell}/responses.jsonl",
            cell=study.cells(["vanilla", "sft", "rl"]),
        ),
        verdicts=expand(
            "results/judge/{cell}/verdicts.jsonl",
            cell=study.cells(["vanilla", "sft", "rl"]),
        ),
    output:
        run="results/scores/run.json",
        tables=expand(
            "results/scores/{table}.csv",
            table=["accuracy", "training", "steps", "words", "updates"],
        ),
    log:
        "logs/scores.log",
    benchmark:
        "logs/benchmarks/scores.tsv"
    conda:
        "../../envs/study.yaml"
    params:
        run=study.scores_run().canonical_json(),
        code=code_digest("stages.evaluation.score"),
    shell:
        "echo {params.run:q} > {output.run}; python -m stages.evaluation.score {output.run} > {log} 2>&1"
