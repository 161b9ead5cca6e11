# Every kept epoch of every run answers the validation and the test problems; then all answers are judged and counted.


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
        **asked("evaluate"),
    params:
        run=lambda w: study.evaluate_run(
            w.model, w.dataset, w.method, int(w.seed)
        ).canonical_json(),
        code=code_digest("stages.evaluation.evaluate"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.launch --gpus {resources.gpu}"
        " stages.evaluation.evaluate {output.run} > {log} 2>&1"


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
        code=code_digest("stages.evaluation.judge"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.evaluation.judge {output.run} > {log} 2>&1"


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
    output:
        run="results/scores/run.json",
        tables=expand("results/scores/{table}", table=SCORE_TABLES),
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
        code=code_digest("stages.evaluation.score"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.evaluation.score {output.run} > {log} 2>&1"
