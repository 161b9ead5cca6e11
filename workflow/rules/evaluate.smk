# Every kept epoch of every run answers the validation and the test problems; then all answers are judged and counted.


rule evaluate:
    input:
        data=expand(
            "results/data/{{dataset}}/{split}.jsonl", split=study.evaluate.splits
        ),
        base="results/base/{model}/base.json",
        preflight="results/preflight/{model}/{dataset}/preflight.json",
        weights=weights_to_evaluate,
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
        **asked("evaluate"),
    params:
        run=lambda w: study.evaluate_run(
            w.model, w.dataset, w.method, int(w.seed)
        ).canonical_json(),
        code=results_digest("stages.evaluation.evaluate"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.launch --gpus {resources.gpu}"
        " stages.evaluation.evaluate {output.run} --kv-cache-mb {resources.kv_cache_mb}"
        " --feature-memory-mb {resources.feature_memory_mb} --feature-disk-mb {resources.feature_disk_mb}"
        " > {log} 2>&1"


rule judge:
    input:
        "results/{stage}/{model}/{dataset}/{method}/seed{seed}/responses.jsonl",
    output:
        run="results/judge/{stage}/{model}/{dataset}/{method}/seed{seed}/run.json",
        verdicts="results/judge/{stage}/{model}/{dataset}/{method}/seed{seed}/verdicts.jsonl",
        provenance="results/judge/{stage}/{model}/{dataset}/{method}/seed{seed}/provenance.json",
    log:
        "logs/judge/{stage}/{model}/{dataset}/{method}/seed{seed}.log",
    benchmark:
        "logs/benchmarks/judge/{stage}/{model}/{dataset}/{method}/seed{seed}.tsv"
    conda:
        "../../envs/study.yaml"
    threads: study.compute.threads
    resources:
        **asked("other"),
    params:
        run=lambda w: study.judge_run(
            w.stage, w.model, w.dataset, w.method, int(w.seed)
        ).canonical_json(),
        code=results_digest("stages.evaluation.judge"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.evaluation.judge {output.run} > {log} 2>&1"


if study.keeps_some:

    localrules:
        weights,

    rule weights:
        input:
            trained=study.trained("{stage}", CELL),
            best=[
                f"results/evaluate/{CELL}/responses.jsonl",
                f"results/judge/evaluate/{CELL}/verdicts.jsonl",
            ],
        output:
            run="results/weights/{stage}/{model}/{dataset}/{method}/seed{seed}/run.json",
            kept="results/weights/{stage}/{model}/{dataset}/{method}/seed{seed}/kept.json",
            weights=directory(
                "results/weights/{stage}/{model}/{dataset}/{method}/seed{seed}/epochs"
            ),
        log:
            "logs/weights/{stage}/{model}/{dataset}/{method}/seed{seed}.log",
        benchmark:
            "logs/benchmarks/weights/{stage}/{model}/{dataset}/{method}/seed{seed}.tsv"
        conda:
            "../../envs/study.yaml"
        resources:
            **asked("other"),
        params:
            run=lambda w: study.weights_run(
                w.stage, w.model, w.dataset, w.method, int(w.seed)
            ).canonical_json(),
            code=results_digest("stages.evaluation.weights"),
        shell:
            "echo {params.run:q} > {output.run}; exec python -m stages.evaluation.weights {output.run} > {log} 2>&1"


SCORE_TABLES = [
    "accuracy.csv",
    "aggregates.csv",
    "changes.csv",
    "comparisons.csv",
    "curves.csv",
    "detectable.csv",
    "findings.json",
    "findings.md",
    "gallery.jsonl",
    "health.csv",
    "methods.json",
    "pass_at_k.csv",
    "problems.parquet",
    "provenance.json",
    "reflection.csv",
    "responses.csv",
    "runs.jsonl",
    "samples.jsonl",
    "scheme.json",
    "training.csv",
    "types.csv",
    "updates.csv",
    "words.csv",
]


rule scores:
    input:
        data=expand(
            "results/data/{dataset}/{split}.jsonl",
            dataset=grid.datasets,
            split=["train", "validation", "test"],
        ),
        trained=expand(
            "results/rl/{cell}/{rows}.jsonl",
            cell=study.cells(["rl"]),
            rows=["responses", "updates"],
        ),
        tuned=expand("results/sft/{cell}/updates.jsonl", cell=study.cells(["sft"])),
        evaluated=expand("results/evaluate/{cell}/responses.jsonl", cell=study.cells()),
        verdicts=expand(
            "results/judge/rl/{cell}/verdicts.jsonl", cell=study.cells(["rl"])
        )
        + expand("results/judge/evaluate/{cell}/verdicts.jsonl", cell=study.cells()),
        jobs=[
            f"{run.out}/{file}.json"
            for run in study.model_runs()
            for file in ("run", "provenance")
        ],
    output:
        run="results/scores/run.json",
        tables=expand("results/scores/{table}", table=SCORE_TABLES),
        pictures=directory("results/scores/pictures"),
    log:
        "logs/scores.log",
    benchmark:
        "logs/benchmarks/scores.tsv"
    conda:
        "../../envs/study.yaml"
    resources:
        **asked("other"),
    params:
        run=study.scores_run().canonical_json(),
        code=results_digest("stages.evaluation.score"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.evaluation.score {output.run} > {log} 2>&1"
